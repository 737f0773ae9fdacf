//! Files, shared memory, preserved paths.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use lifeboat_blockers::{Kind, Policy};
use tempfile::tempdir;

use crate::program::{PYTHON, Program, expect, unshare};

fn preserving(paths: &[PathBuf]) -> Policy {
    Policy {
        preserve: paths.to_vec(),
        ..Policy::default()
    }
}

#[test]
fn files_that_nobody_brings_are_told_with_what_to_preserve() {
    let place = tempdir().unwrap();
    let dir = place.path().join("data");
    fs::create_dir_all(dir.join("b/c")).unwrap();
    for name in ["a", "b/c/mapped"] {
        fs::write(dir.join(name), [0; 4096]).unwrap();
    }
    let program = Program::start(&format!(
        "
os.chdir({dir:?})
keep = open('a', 'r+b')
mapped = open('b/c/mapped', 'r+b')
memory = mmap.mmap(mapped.fileno(), 4096)
mapped.close()
keep = open('a', 'r+b')
"
    ));
    let preserve = format!("--preserve {}`", dir.display());
    program.proves(
        &Policy::default(),
        Kind::File,
        false,
        &["writes to", "/data/a\"", "2 more paths", &preserve],
    );
    assert_eq!(program.inspect(&preserving(&[dir])), []);
}

#[test]
fn a_container_s_image_is_everywhere_but_what_is_written_is_not() {
    let place = tempdir().unwrap();
    let (read, written) = (place.path().join("read"), place.path().join("written"));
    fs::write(&read, b"").unwrap();
    fs::write(&written, b"").unwrap();
    let program = Program::start(&format!("keep = open({read:?}), open({written:?}, 'a')"));
    let policy = Policy {
        everywhere: vec!["/".into()],
        ..Policy::default()
    };
    let path = format!("--preserve {}`", written.display());
    program.proves(&policy, Kind::File, false, &["open for writing", &path]);
}

#[test]
fn a_large_deleted_file_is_fatal() {
    let program = Program::start(
        "
unlinked = tempfile.NamedTemporaryFile(); unlinked.write(b'x' * (3 << 20)); unlinked.flush()
os.unlink(unlinked.name); said = unlinked.name
",
    );
    assert_eq!(program.inspect(&Policy::default()), []);
    let policy = Policy {
        ghost_bytes_max: 2 << 20,
        ..Policy::default()
    };
    program.proves(
        &policy,
        Kind::UnlinkedFile,
        true,
        &[&program.said, "3 MiB", "2 MiB"],
    );
}

#[test]
fn named_shared_memory_is_a_file_like_others() {
    let program = Program::start(
        "
from multiprocessing import shared_memory
memory = shared_memory.SharedMemory(create=True, size=4096)
said = memory.name
os.kill(memory_tracker := __import__('multiprocessing.resource_tracker').resource_tracker._resource_tracker._pid, 9)
os.waitpid(memory_tracker, 0)
os.close(__import__('multiprocessing.resource_tracker').resource_tracker._resource_tracker._fd)
",
    );
    let path = PathBuf::from("/dev/shm").join(&program.said);
    program.proves(
        &Policy::default(),
        Kind::File,
        false,
        &[path.to_str().unwrap()],
    );
    fs::remove_file(&path).unwrap();
}

const SYSV: &str = "
identifier = libc.shmget(0, 4096, 0o1600)
libc.shmat.restype = ctypes.c_void_p
assert libc.shmat(identifier, None, 0) != ctypes.c_void_p(-1).value
libc.shmctl(identifier, 0, None)
";

#[test]
fn sysv_shared_memory_needs_a_namespace_of_its_own() {
    let program = Program::start(SYSV);
    program.proves(
        &Policy::default(),
        Kind::SysvShm,
        true,
        &["SYSV", "lifeboat run"],
    );
    let command = &mut unshare(&["-i", "setsid", PYTHON]);
    assert_eq!(
        Program::start_by(command, SYSV).inspect(&Policy::default()),
        []
    );
}

#[test]
fn message_queues_are_fatal() {
    let program = Program::start(
        "
name = f'/lifeboat-{os.getpid()}'.encode()
assert libc.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, None) >= 0
said = name.decode()
assert libc.mq_unlink(name) == 0
",
    );
    program.proves(
        &Policy::default(),
        Kind::Descriptor,
        true,
        &["message queue", &program.said],
    );
}

#[test]
fn preserved_paths_that_cannot_travel_are_told() {
    let place = tempdir().unwrap();
    let (dir, link) = (place.path().join("dir"), place.path().join("link"));
    fs::create_dir_all(dir.join("mo unt")).unwrap();
    symlink(&dir, &link).unwrap();
    let program = Program::start("");
    let found = program.only(&preserving(std::slice::from_ref(&link)));
    expect(
        &found,
        Kind::Preserve,
        true,
        &["symbolic link", link.to_str().unwrap()],
    );
    assert_eq!(
        program.inspect(&preserving(&[dir.clone(), "/not/there".into()])),
        []
    );

    let command = &mut unshare(&["-m", "sh", "-euc"]);
    command
        .args(["mount -t tmpfs none \"$0/mo unt\"; exec setsid /usr/bin/python3 \"$@\""])
        .arg(&dir);
    let mounted = Program::start_by(command, "");
    let found = mounted.only(&preserving(std::slice::from_ref(&dir)));
    expect(&found, Kind::Preserve, false, &["mounted on", "mo unt\""]);
    assert_eq!(
        mounted.inspect(&preserving(&[dir.clone(), dir.join("mo unt")])),
        []
    );
}
