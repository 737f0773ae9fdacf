//! The test programs that can run here.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Collection {
    folder: PathBuf,
    programs: Vec<Program>,
}

/// One test program.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// `static/NAME` or `transition/NAME`.
    name: String,
    /// Folder that `name` is below.
    base: PathBuf,
    /// Words of its description.
    flags: Vec<String>,
    /// Options for CRIU that it asks for.
    options: Vec<String>,
}

/// Programs whose state belongs to the very files that they have: a copy elsewhere is another file.
const BOUND_TO_FILES: &[(&str, &str)] = &[
    ("static/console", "a device node"),
    ("static/vt", "a device node"),
    ("static/file_lease00", "a lease keeps others from reading"),
    ("static/file_lease02", "a lease keeps others from reading"),
    ("static/file_lease03", "a lease keeps others from reading"),
    ("static/file_lease04", "a lease keeps others from reading"),
    ("static/fanotify00", "compares inode numbers"),
    ("static/unlink_fstat03", "compares inode numbers"),
];

/// Programs with memory that is refused before the commit.
const PRIVATE_HUGE_PAGES: &[&str] = &["static/maps09", "static/maps10"];

/// The script that fetches, lists and runs the programs.
pub(crate) fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/criu/zdtm.sh")
}

/// Runs a command and returns its output.
#[track_caller]
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

impl Collection {
    /// The programs that `LIFEBOAT_TEST_ZDTM` names.
    ///
    /// # Panics
    /// When it is not set, or nothing is there.
    pub(crate) fn from_environment() -> Self {
        let folder = std::env::var_os("LIFEBOAT_TEST_ZDTM").expect(
            "LIFEBOAT_TEST_ZDTM names the folder of CRIU's test programs; \
             deploy/criu/zdtm.sh get FOLDER puts them there, deploy/test.sh does all of it",
        );
        let folder = PathBuf::from(folder);
        let list = output(
            Command::new(script())
                .arg("list")
                .arg(&folder)
                .arg("--long"),
        );
        let base = folder.join("zdtm");
        let programs = list.lines().map(|line| Program::parse(&base, line));
        Self {
            programs: programs.collect(),
            folder,
        }
    }

    /// The folder, as the script takes it.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// All programs.
    pub(crate) fn programs(&self) -> &[Program] {
        &self.programs
    }
}

impl Program {
    fn parse(base: &Path, line: &str) -> Self {
        let mut columns = line.split('\t');
        let name = columns.next().unwrap_or_default().to_owned();
        let mut words = || {
            let column = columns.next().unwrap_or_default();
            column.split_whitespace().map(str::to_owned).collect()
        };
        let flags = words();
        let mut options: Vec<String> = words();
        options.extend(words());
        Self {
            name,
            base: base.to_owned(),
            flags,
            options,
        }
    }

    /// `static/NAME` or `transition/NAME`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its file's name.
    pub(crate) fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or_default()
    }

    /// The program itself.
    pub(crate) fn path(&self) -> PathBuf {
        self.base.join(&self.name)
    }

    /// The name of its workload.
    pub(crate) fn workload(&self) -> String {
        self.name.replace(['/', '_'], "-").replace('+', "-plus")
    }

    /// Why it says nothing about Lifeboat, if so.
    pub(crate) fn not_applicable(&self) -> Option<&'static str> {
        if self.flags.iter().any(|flag| flag == "nolazy") {
            return Some("memory is no longer shared after a lazy restore, CRIU's own included");
        }
        if self.options.iter().any(|word| word == "--manage-cgroups") {
            return Some("control groups are the new hold's, not the old one's");
        }
        if PRIVATE_HUGE_PAGES.contains(&self.name()) {
            return Some(
                "private huge pages are refused before the commit, and named as a blocker",
            );
        }
        None
    }

    /// Whether its files travel with it: they are gone when it has left.
    pub(crate) fn takes_its_files(&self) -> bool {
        !BOUND_TO_FILES.iter().any(|(name, _)| *name == self.name)
    }

    /// Whether it listens somewhere.
    pub(crate) fn takes_ports(&self) -> bool {
        self.name.contains("sock") || self.name.contains("tcp")
    }

    /// Whether it changes all the time.
    pub(crate) fn is_in_transition(&self) -> bool {
        self.name.starts_with("transition/")
    }

    /// Whether it needs root.
    pub(crate) fn stays_root(&self) -> bool {
        self.flags.iter().any(|flag| flag == "suid")
    }

    /// `lifeboat run --tcp`.
    pub(crate) fn tcp(&self) -> &'static str {
        if self.options.iter().any(|word| word == "--tcp-established") {
            "keep"
        } else {
            "close"
        }
    }

    /// The command that starts it in a folder where it lies, as its makefile says.
    #[track_caller]
    pub(crate) fn command(&self) -> Vec<String> {
        let folder = self.path().parent().expect("it is in a folder").to_owned();
        let said = output(
            Command::new("make")
                .args(["-n", "-s", "--no-print-directory", "-C"])
                .arg(folder)
                // As if it was new, whatever a run that was broken off has left there.
                .args(["-W", self.file_name()])
                .arg(format!("{}.pid", self.file_name())),
        );
        let line = said.lines().rfind(|line| line.contains("--pidfile="));
        let line = line.unwrap_or_else(|| panic!("make starts {}: {said}", self.name));
        line.split_whitespace().map(str::to_owned).collect()
    }
}
