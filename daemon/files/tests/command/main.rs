//! The subcommands as processes: streams, exit status, other users, mounts, and GNU tar as a reader.
//!
//! Without the usual harness: this binary is both the test and, called as the daemon would be, the
//! subcommand.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    env,
    fs::{self, File, Permissions},
    os::unix::{
        fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output, Stdio},
};

use tempfile::tempdir;

/// A user that owns nothing here.
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    match args.next().as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("files-archive") => return lifeboat_files::archive_main(args),
        Some("files-extract") => return lifeboat_files::extract_main(args),
        _ => {}
    }
    for (name, test) in [
        (
            "a tree goes through two processes",
            through_processes as fn(),
        ),
        ("errors are one line and a status", errors),
        (
            "another user keeps what may be kept and hears of the rest",
            another_user,
        ),
        (
            "a directory of everybody's, as /dev/shm is, stays as it is",
            everybodys,
        ),
        ("mounts are left out and left alone", mounts),
        ("GNU tar reads the archive", gnu_tar),
    ] {
        test();
        eprintln!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// This binary as a subcommand.
fn this(subcommand: &str, paths: &[&Path]) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.arg(subcommand).args(paths);
    command
}

fn run(mut command: Command, input: &Path) -> Output {
    command.stdin(File::open(input).unwrap()).output().unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8(output.stderr.clone())
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn through_processes() {
    let place = tempdir().unwrap();
    let root = place.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), vec![3; 3 << 20]).unwrap();
    let mut archiver = this("files-archive", &[&root])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stored = place.path().join("stored");
    std::io::copy(
        archiver.stdout.as_mut().unwrap(),
        &mut File::create(&stored).unwrap(),
    )
    .unwrap();
    assert!(archiver.wait().unwrap().success());
    fs::write(root.join("file"), b"changed").unwrap();
    let output = run(this("files-extract", &[&root]), &stored);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(lines(&output), Vec::<String>::new());
    assert_eq!(fs::read(root.join("file")).unwrap(), vec![3; 3 << 20]);
}

fn errors() {
    let null = Path::new("/dev/null");
    let output = run(this("files-archive", &[]), null);
    assert_eq!(output.status.code(), Some(64));
    let output = run(this("files-extract", &[Path::new("/srv/x\ny")]), null);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(lines(&output).len(), 1, "{output:?}");
    let output = run(this("files-archive", &[Path::new("/srv/../x")]), null);
    assert_eq!(
        lines(&output),
        [
            "error: check the preserved paths: preserved path \"/srv/../x\" is not an absolute path \
          without `..`"
        ]
    );
    let place = tempdir().unwrap();
    symlink("/etc", place.path().join("l\nk")).unwrap();
    let output = run(this("files-archive", &[&place.path().join("l\nk")]), null);
    assert_eq!(lines(&output).len(), 1, "{output:?}");
    assert!(lines(&output)[0].contains("symbolic link"), "{output:?}");
    assert_eq!(output.status.code(), Some(1));
}

/// The subcommand as a user without privileges: another one if this one has them.
fn as_user(subcommand: &str, paths: &[&Path], place: &Path) -> Command {
    // The build's folders may be closed to others.
    let copy = place.join("binary");
    if !copy.exists() {
        fs::copy(env::current_exe().unwrap(), &copy).unwrap();
        fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(copy);
    command.arg(subcommand).args(paths);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn another_user() {
    let place = tempdir().unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let root = place.path().join("root");
    fs::create_dir(&root).unwrap();
    for (name, mode) in [("theirs", 0o4755), ("mine", 0o2700), ("closed", 0o000)] {
        fs::write(root.join(name), name).unwrap();
        fs::set_permissions(root.join(name), Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(root.join("closed dir")).unwrap();
    fs::set_permissions(root.join("closed dir"), Permissions::from_mode(0o700)).unwrap();
    if is_root() {
        for path in [root.clone(), root.join("mine")] {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        fs::set_permissions(root.join("mine"), Permissions::from_mode(0o2700)).unwrap();
    }
    let stored = place.path().join("stored");
    let archive = as_user("files-archive", &[&root], place.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if !is_root() {
        // Its own file that it may not read: nothing is left out silently.
        assert!(!archive.status.success());
        assert!(lines(&archive)[0].contains("closed"), "{archive:?}");
        return;
    }
    assert!(archive.status.success(), "{archive:?}");
    assert_eq!(lines(&archive).len(), 2, "{archive:?}");
    assert!(
        lines(&archive)
            .iter()
            .all(|line| line.contains("belongs to somebody else"))
    );
    fs::write(&stored, &archive.stdout).unwrap();

    let output = run(as_user("files-extract", &[&root], place.path()), &stored);
    assert!(output.status.success(), "{output:?}");
    let warned = lines(&output).join("\n");
    let meta = |name: &str| fs::metadata(root.join(name)).unwrap();
    assert!(
        warned.contains("theirs\" lost its owner 0, group 0, mode 4755 without"),
        "{warned}"
    );
    assert_eq!(
        (meta("theirs").mode() & 0o7777, meta("theirs").uid()),
        (0o755, NOBODY)
    );
    assert_eq!(
        (meta("mine").mode() & 0o7777, meta("mine").uid()),
        (0o2700, NOBODY)
    );
    // Left out of the archive, so not in the mirror; the directory cannot be looked into.
    assert!(!root.join("closed").exists());
}

/// Somebody else's sticky directory, with files of the user in it and of others.
fn everybodys() {
    let place = tempdir().unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let root = place.path().join("shm");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, Permissions::from_mode(0o1777)).unwrap();
    fs::write(root.join("mine"), b"old").unwrap();
    if is_root() {
        chown(root.join("mine"), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let stored = place.path().join("stored");
    let archive = as_user("files-archive", &[&root], place.path())
        .output()
        .unwrap();
    assert!(archive.status.success(), "{archive:?}");
    fs::write(&stored, &archive.stdout).unwrap();
    fs::write(root.join("mine"), b"new").unwrap();
    fs::write(root.join("not mine"), b"other").unwrap();
    let output = run(as_user("files-extract", &[&root], place.path()), &stored);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read(root.join("mine")).unwrap(), b"old");
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o1777);
    let warned = lines(&output).join("\n");
    if is_root() {
        assert!(root.join("not mine").exists());
        assert!(
            warned.contains("/not mine\" is not in the archive but could not"),
            "{warned}"
        );
        assert_eq!(lines(&output).len(), 1, "{warned}");
    } else {
        assert!(
            !root.join("not mine").exists() && warned.is_empty(),
            "{warned}"
        );
    }
}

/// A shell in a mount namespace of its own, where it may mount.
fn in_mounts(script: &str, args: &[&Path]) -> Command {
    let mut command = Command::new("unshare");
    command.arg(if is_root() { "-m" } else { "-rm" });
    command
        .args(["sh", "-euc", script, "sh"])
        .arg(env::current_exe().unwrap())
        .args(args);
    command
}

fn mounts() {
    let place = tempdir().unwrap();
    let root = place.path().join("root");
    let stored = place.path().join("stored");
    for dir in ["plain", "mounted", "wanted"] {
        fs::create_dir_all(root.join(dir)).unwrap();
        fs::write(root.join(dir).join("below"), b"").unwrap();
    }
    let wanted = root.join("wanted");
    let script = "mount -t tmpfs none \"$2/mounted\"; mount -t tmpfs none \"$2/wanted\"
        echo 1 > \"$2/mounted/in it\"; echo 1 > \"$2/wanted/in it\"
        \"$1\" files-archive \"$2\" \"$2/wanted\" > \"$3\"
        echo 2 > \"$2/mounted/later\"; echo 2 > \"$2/wanted/later\"; echo 2 > \"$2/plain/later\"
        \"$1\" files-extract \"$2\" \"$2/wanted\" < \"$3\"
        find \"$2\" -type f -printf '%P\\n' | sort";
    let output = in_mounts(script, &[&root, &stored]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let warned = lines(&output);
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(
        warned[0].contains("mounted on") && warned[0].contains("/root/mounted"),
        "{warned:?}"
    );
    let found = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        found,
        "mounted/in it\nmounted/later\nplain/below\nwanted/in it\n"
    );
    // Where nothing is mounted, the same archive brings the wanted one as plain files.
    let output = run(this("files-extract", &[&root, &wanted]), &stored);
    assert!(output.status.success(), "{output:?}");
    assert!(wanted.join("in it").exists() && !wanted.join("below").exists());
    assert!(root.join("mounted").is_dir(), "the mount point is there");
}

fn gnu_tar() {
    let place = tempdir().unwrap();
    let root = place.path().join("root");
    fs::create_dir_all(root.join("d")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    sparse.write_all_at(b"data", 20 << 20).unwrap();
    fs::write(root.join("n".repeat(200)), b"long").unwrap();
    fs::hard_link(root.join("sparse"), root.join("d/again")).unwrap();
    symlink("sparse", root.join("link")).unwrap();
    rustix::fs::setxattr(
        root.join("d"),
        "user.a",
        b"b\nc",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let archive = run(this("files-archive", &[&root]), Path::new("/dev/null"));
    let stored = place.path().join("stored.tar");
    fs::write(&stored, &archive.stdout).unwrap();
    let out = place.path().join("out");
    fs::create_dir(&out).unwrap();
    let tar = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "-xpf"])
        .arg(&stored)
        .arg("-C")
        .arg(&out)
        .output()
        .unwrap();
    assert!(tar.status.success(), "{tar:?}");
    let back = out.join(root.strip_prefix("/").unwrap());
    let compare = Command::new("diff")
        .arg("-r")
        .arg(&root)
        .arg(&back)
        .output()
        .unwrap();
    assert!(compare.status.success(), "{compare:?}");
    let meta = |path: PathBuf| fs::metadata(path).unwrap();
    assert_eq!(
        meta(back.join("sparse")).ino(),
        meta(back.join("d/again")).ino()
    );
    assert!(
        meta(back.join("sparse")).blocks() < 1000,
        "the holes are gone"
    );
    assert_eq!(
        meta(back.join("sparse")).mtime_nsec(),
        meta(root.join("sparse")).mtime_nsec()
    );
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(back.join("d"), "user.a", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"b\nc");
}
