//! Test programs in C, built when they are first needed.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

/// Builds `programs/NAME.c`, or all files of the folder `programs/NAME`, and returns the program's
/// path.
///
/// The path depends on the source: tests that run at the same time share the program, and none
/// replaces it below a running one.
///
/// # Panics
/// When gcc does not make it.
pub(crate) fn c_program(name: &str, flags: &[&str]) -> String {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let sources = sources(name);
    let mut digest = blake3::Hasher::new();
    digest.update(format!("{flags:?}").as_bytes());
    for source in &sources {
        digest.update(&std::fs::read(source).unwrap());
    }
    let digest = digest.finalize().to_hex();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("system-programs");
    std::fs::create_dir_all(&folder).unwrap();
    let program = folder.join(format!("{name}-{}", &digest[..12]));
    if !program.exists() {
        build(&sources, flags, &program);
    }
    program.display().to_string()
}

fn sources(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/programs");
    let single = folder.join(format!("{name}.c"));
    if single.exists() {
        return vec![single];
    }
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder.join(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    all.sort();
    all
}

fn build(sources: &[PathBuf], flags: &[&str], program: &Path) {
    let made = program.with_extension(std::process::id().to_string());
    let code = sources
        .iter()
        .filter(|source| source.extension().is_some_and(|kind| kind == "c"));
    let built = Command::new("gcc")
        .args(["-O1", "-g", "-Wall", "-Werror", "-o"])
        .arg(&made)
        .args(code)
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
    c_program("counter", &["-static"])
}

/// Checks that `lines` are those of [`counter`] from the beginning, with none missing or repeated.
#[track_caller]
pub(crate) fn check_count(lines: &[String]) {
    for (number, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("count {number}"), "in {lines:#?}");
    }
}
