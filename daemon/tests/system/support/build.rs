//! Test programs in C, built when they are first needed.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Builds `source`, which is `name`.c of the folder `programs`, and returns the program's path.
///
/// The path depends on the source: tests that run at the same time share the program, and none
/// replaces it below a running one.
///
/// # Panics
/// When gcc does not make it.
pub(crate) fn c_program(name: &str, source: &str, flags: &[&str]) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("system-programs");
    std::fs::create_dir_all(&folder).unwrap();
    let digest = blake3::hash(format!("{flags:?}{source}").as_bytes()).to_hex();
    let program = folder.join(format!("{name}-{}", &digest[..12]));
    if !program.exists() {
        build(source, flags, &program);
    }
    program.display().to_string()
}

fn build(source: &str, flags: &[&str], program: &Path) {
    let folder = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
    let code = folder.path().join("program.c");
    let made: PathBuf = folder.path().join("program");
    std::fs::write(&code, source).unwrap();
    let built = Command::new("gcc")
        .args(["-O1", "-g", "-Wall", "-Werror", "-o"])
        .arg(&made)
        .arg(&code)
        .args(flags)
        .output()
        .expect("gcc is installed by deploy/setup.sh --tests");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    std::fs::rename(made, program).unwrap();
}

/// A program that prints `count 0`, `count 1`, … every 50 ms, and checks 8 MiB of memory each time.
pub(crate) fn counter() -> String {
    c_program(
        "counter",
        include_str!("../programs/counter.c"),
        &["-static"],
    )
}

/// Checks that `lines` are those of [`counter`] from the beginning, with none missing or repeated.
#[track_caller]
pub(crate) fn check_count(lines: &[String]) {
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("count {number}"), "in {lines:#?}");
    }
}
