//! The C programs that are followed, built once for all tests.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Command,
    sync::{LazyLock, Mutex},
};

/// Compiles `NAME.c`.
pub(crate) fn build(name: &'static str) -> PathBuf {
    static BUILT: LazyLock<Mutex<BTreeMap<&str, PathBuf>>> = LazyLock::new(Mutex::default);
    let mut built = BUILT.lock().unwrap();
    let program = built.entry(name).or_insert_with(|| {
        let source = format!("{}/tests/track/{name}.c", env!("CARGO_MANIFEST_DIR"));
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let program = directory.join(format!("track-{name}-{}", std::process::id()));
        let compiler = Command::new("cc")
            .args(["-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
            .arg(&program)
            .arg(source)
            .status();
        assert!(compiler.expect("a C compiler is needed").success());
        program
    });
    program.clone()
}
