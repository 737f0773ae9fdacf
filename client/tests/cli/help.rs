//! The help that teaches.

use std::path::Path;

use insta::assert_snapshot;

use crate::lifeboat;

fn help(arguments: &[&str]) -> String {
    lifeboat(Path::new("/unused"), arguments)
        .printed()
        .to_owned()
}

#[test]
fn help_of_everything() {
    assert_snapshot!("help", help(&["--help"]));
}

#[test]
fn help_of_run() {
    assert_snapshot!("help-run", help(&["run", "--help"]));
}

#[test]
fn help_of_evacuate() {
    assert_snapshot!("help-evacuate", help(&["evacuate", "--help"]));
}

#[test]
fn help_of_notice() {
    assert_snapshot!("help-notice", help(&["notice", "--help"]));
}

#[test]
fn internal_commands_are_not_shown() {
    let text = help(&["--help"]);
    assert!(!text.contains("hold-init") && !text.contains("terminal-relay"));
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = help(&["completions", shell]);
        assert!(script.contains("evacuate"), "{shell}");
    }
}
