//! Small forms of the scenarios, against the daemon that the tests run on.
//!
//! Needs root, the CRIU bundle, and an installation of this tree's build: `deploy/test.sh` makes one
//! and names it in `LIFEBOAT_TEST_PREFIX`. Without that variable, what `cargo build` left is taken.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed step fails the test"
)]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Folder of the daemon and the programs that go with it.
fn prefix() -> PathBuf {
    let bench = Path::new(env!("CARGO_BIN_EXE_lifeboat-bench"));
    let folder = match std::env::var_os("LIFEBOAT_TEST_PREFIX") {
        Some(folder) => PathBuf::from(folder).join("bin"),
        None => bench.parent().unwrap().to_owned(),
    };
    let daemon = folder.join("lifeboatd");
    assert!(
        daemon.exists(),
        "{} is not there: run deploy/test.sh",
        daemon.display()
    );
    folder
}

#[track_caller]
fn run(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_lifeboat-bench"))
        .arg("run")
        .args(arguments)
        .arg("--prefix")
        .arg(prefix())
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{arguments:?}: {}\n{out}\n{err}",
        output.status
    );
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"))
}

#[test]
fn the_daemon_stays_small_while_a_large_workload_moves() {
    let shape = [
        "--size",
        "1GiB",
        "--entropy",
        "30",
        "--threads",
        "2",
        "--processes",
        "2",
    ];
    let figures = run(&[&["daemon-memory"][..], &shape].concat());
    // The workload is several times as large as what the daemon may have.
    assert_eq!(figures["workload_bytes"], 1_u64 << 30);
    assert_eq!(figures["limit_bytes"], 256_u64 << 20);
    assert!(
        figures["evacuate_peak_bytes"].as_u64().unwrap() < 256 << 20,
        "{figures}"
    );
    assert!(
        figures["restore_peak_bytes"].as_u64().unwrap() < 256 << 20,
        "{figures}"
    );
    // And the daemon has really read it.
    let read = figures["evacuation"]["read_bytes"].as_u64().unwrap();
    assert!(read > 1_000_000_000, "{figures}");
}

#[test]
fn the_move_and_its_counterpart_can_both_be_measured() {
    let shape = ["--size", "64MiB", "--dirty-rate", "1MiB", "--rounds", "1"];
    for scenario in ["evacuate", "restore"] {
        let figures = run(&[&[scenario][..], &shape].concat());
        for contestant in ["lifeboat", "stock"] {
            let moved = &figures[contestant][0];
            for figure in [
                "freeze_ms",
                "safe_ms",
                "uploaded_bytes",
                "alive_ms",
                "verified_ms",
            ] {
                assert!(
                    moved[figure].as_u64().is_some_and(|one| one > 0),
                    "{figure}: {figures}"
                );
            }
        }
    }
}
