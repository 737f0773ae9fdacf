//! What goes in comes out, whatever was there before.

use std::{
    fs::{self, File, Permissions},
    os::unix::{
        ffi::OsStringExt as _,
        fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use lifeboat_files::{ArchiveError, Limits, archive};
use proptest::prelude::*;
use rustix::fs::{CWD, Mode, mkfifoat};
use tempfile::tempdir;

use crate::trees::{
    acl, bytes, chain, is_root, pack, picture, set_mtime, set_xattr, unpack, xattrs,
};

fn make_fifo(path: &Path) {
    mkfifoat(CWD, path, Mode::RUSR).unwrap();
}

#[test]
fn everything_that_travels_comes_back_equal() {
    let place = tempdir().unwrap();
    let root = &place.path().join("root");
    fs::create_dir_all(root.join("dir/deep")).unwrap();
    fs::write(root.join("file"), b"hello").unwrap();
    fs::write(root.join(bytes(b"not \xff\xfe utf-8\n")), b"x").unwrap();
    let long = "n".repeat(255);
    fs::create_dir_all(root.join(&long).join(&long)).unwrap();
    fs::write(root.join(&long).join(&long).join(&long), b"deep").unwrap();
    fs::write(root.join("dir/two names"), b"same").unwrap();
    fs::hard_link(root.join("dir/two names"), root.join("dir/deep/other name")).unwrap();
    symlink("nowhere/at/all", root.join("link")).unwrap();
    fs::hard_link(root.join("link"), root.join("link too")).unwrap();
    symlink(bytes(&[b'y'; 3000]), root.join("long link")).unwrap();
    make_fifo(&root.join("fifo"));
    File::create(root.join("empty")).unwrap();
    File::create(root.join("all hole"))
        .unwrap()
        .set_len(123_457)
        .unwrap();
    fs::write(root.join("set-id"), b"#!").unwrap();
    fs::set_permissions(root.join("set-id"), Permissions::from_mode(0o6751)).unwrap();
    fs::set_permissions(root.join("fifo"), Permissions::from_mode(0o1620)).unwrap();
    set_xattr(&root.join("file"), "user.binary", b"a\nb\0c=d%");
    set_xattr(&root.join("file"), "user.strange=name%", b"");
    set_xattr(&root.join("file"), "system.posix_acl_access", &acl(1));
    set_xattr(&root.join("dir"), "system.posix_acl_default", &acl(2));
    set_xattr(&root.join("dir"), "user.of a directory", &[7; 3000]);
    for (n, path) in ["file", "link", "fifo", "dir/deep", "dir"]
        .iter()
        .enumerate()
    {
        set_mtime(
            &root.join(path),
            -100 + i64::try_from(n).unwrap() * 1_000_000_000,
            123_456_789,
        );
    }
    fs::set_permissions(root.join("dir"), Permissions::from_mode(0o750)).unwrap();
    set_mtime(root, 1_000, 1);

    let before = picture(root);
    let (archive, summary) = pack(&[root]);
    assert_eq!(
        pack(&[root]).0,
        archive,
        "the same tree gives the same stream"
    );
    assert_eq!(summary.entries(), before.len() as u64);
    assert_eq!(
        (summary.hard_links, summary.fifos, summary.sockets_skipped),
        (2, 1, 0)
    );

    fs::remove_dir_all(root).unwrap();
    let back = unpack(&archive, &[root]);
    assert_eq!(back.warnings, Vec::<String>::new());
    assert_eq!(picture(root), before);
    assert_eq!(unpack(&archive, &[root]).removed, 0);
    assert_eq!(picture(root), before, "extracting again changes nothing");
}

#[test]
fn a_root_becomes_a_mirror_of_its_archive() {
    let place = tempdir().unwrap();
    let root = &place.path().join("root");
    fs::create_dir_all(root.join("was dir/x")).unwrap();
    fs::write(root.join("was file"), b"1").unwrap();
    fs::write(root.join("kept"), b"old").unwrap();
    let before = picture(root);
    let (archive, _) = pack(&[root]);

    fs::remove_dir_all(root.join("was dir")).unwrap();
    fs::write(root.join("was dir"), b"now a file").unwrap();
    fs::remove_file(root.join("was file")).unwrap();
    fs::create_dir_all(root.join("was file/with/things")).unwrap();
    fs::write(root.join("was file/with/things/in it"), b"").unwrap();
    fs::set_permissions(root.join("was file/with"), Permissions::from_mode(0o500)).unwrap();
    fs::write(root.join("kept"), b"new and longer").unwrap();
    set_xattr(&root.join("kept"), "user.new", b"1");
    set_xattr(root, "user.new", b"1");
    fs::create_dir_all(root.join("new/tree")).unwrap();
    symlink("/etc", root.join("new/etc")).unwrap();
    symlink(place.path(), root.join("up")).unwrap();
    fs::write(place.path().join("neighbour"), b"not ours").unwrap();

    let summary = unpack(&archive, &[root]);
    assert_eq!(summary.warnings, Vec::<String>::new());
    assert_eq!(picture(root), before);
    assert_eq!(summary.removed, 2, "new/ and up");
    assert_eq!(
        fs::read(place.path().join("neighbour")).unwrap(),
        b"not ours"
    );
}

#[test]
fn roots_that_were_missing_stay_untouched_and_sockets_are_left_alone() {
    let place = tempdir().unwrap();
    let (a, b, c) = (
        &place.path().join("a"),
        &place.path().join("b"),
        &place.path().join("c/d/e"),
    );
    fs::create_dir(a).unwrap();
    let _listener = UnixListener::bind(a.join("socket")).unwrap();
    fs::create_dir_all(c.parent().unwrap()).unwrap();
    fs::write(c, b"a root may be one file").unwrap();
    let (archive, summary) = pack(&[a, b, c]);
    assert_eq!(&summary.missing[..], std::slice::from_ref(b));
    assert_eq!(summary.sockets_skipped, 1);

    fs::create_dir(b).unwrap();
    fs::write(b.join("mine"), b"keep").unwrap();
    fs::remove_dir_all(place.path().join("c")).unwrap();
    let summary = unpack(&archive, &[a, b, c]);
    assert_eq!(&summary.missing[..], std::slice::from_ref(b));
    assert_eq!(fs::read(b.join("mine")).unwrap(), b"keep");
    assert_eq!(fs::read(c).unwrap(), b"a root may be one file");
    assert!(fs::symlink_metadata(a.join("socket")).is_ok());
    let names: Vec<_> = fs::read_dir(c.parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 1, "no temporary file is left: {names:?}");
}

#[test]
fn hard_links_between_roots_stay_links() {
    let place = tempdir().unwrap();
    let (a, b) = (&place.path().join("a"), &place.path().join("b"));
    fs::create_dir(a).unwrap();
    fs::create_dir(b).unwrap();
    fs::write(a.join("x"), b"1").unwrap();
    fs::hard_link(a.join("x"), b.join("y")).unwrap();
    let (archive, _) = pack(&[a, b]);
    fs::remove_dir_all(a).unwrap();
    fs::remove_dir_all(b).unwrap();
    unpack(&archive, &[b, a]);
    let ino = |path: PathBuf| fs::metadata(path).unwrap().ino();
    assert_eq!(ino(a.join("x")), ino(b.join("y")));
}

#[test]
fn a_sparse_gibibyte_is_small_and_stays_sparse() {
    let place = tempdir().unwrap();
    let root = &place.path().join("root");
    fs::create_dir(root).unwrap();
    let file = File::create(root.join("sparse")).unwrap();
    file.set_len(1 << 30).unwrap();
    file.write_all_at(b"middle", 600_000_000).unwrap();
    file.write_all_at(b"end", (1 << 30) - 3).unwrap();
    let (archive, summary) = pack(&[root]);
    assert!(archive.len() < 64 << 10, "{}", archive.len());
    assert!(summary.bytes <= 16 << 10, "{}", summary.bytes);
    drop(file);
    fs::remove_file(root.join("sparse")).unwrap();
    unpack(&archive, &[root]);
    let back = File::open(root.join("sparse")).unwrap();
    let meta = back.metadata().unwrap();
    assert_eq!(meta.len(), 1 << 30);
    assert!(meta.blocks() * 512 < 64 << 10, "{} blocks", meta.blocks());
    let mut bytes = [1; 8];
    back.read_exact_at(&mut bytes, 600_000_000 - 1).unwrap();
    assert_eq!(&bytes, b"\0middle\0");
    back.read_exact_at(&mut bytes, (1 << 30) - 8).unwrap();
    assert_eq!(&bytes, b"\0\0\0\0\0end");
}

#[test]
fn what_cannot_travel_is_an_error_that_names_it() {
    let place = tempdir().unwrap();
    let root = place.path().join("root");
    fs::create_dir(&root).unwrap();
    symlink(&root, place.path().join("link")).unwrap();
    let fail = |roots: &[PathBuf], limits| {
        let error = archive(roots, std::io::sink(), limits).unwrap_err();
        chain(&error)
    };
    let text = fail(&[place.path().join("link")], Limits::default());
    assert!(
        text.contains("/link") && text.contains("symbolic link"),
        "{text}"
    );
    fs::write(root.join("big"), [0; 100]).unwrap();
    let text = fail(
        std::slice::from_ref(&root),
        Limits {
            bytes_max: 99,
            ..Limits::default()
        },
    );
    assert!(text.contains("99 bytes"), "{text}");
    let text = fail(
        std::slice::from_ref(&root),
        Limits {
            entries_max: 1,
            ..Limits::default()
        },
    );
    assert!(text.contains("more than 1 files"), "{text}");
    assert!(fail(&["/proc/self".into()], Limits::default()).contains("belongs to the machine"));
}

/// Swallows a stream and does something once, when enough of it has come.
struct Meddler<F: FnMut()> {
    left: usize,
    action: F,
}

impl<F: FnMut()> std::io::Write for Meddler<F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.left > 0 && self.left <= bytes.len() {
            (self.action)();
        }
        self.left = self.left.saturating_sub(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn files_that_vanish_shrink_or_change_meanwhile_are_named() {
    let place = tempdir().unwrap();
    let root = place.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("first"), vec![1; 4 << 20]).unwrap();
    fs::write(root.join("second"), b"").unwrap();
    let open = || {
        File::options()
            .write(true)
            .open(root.join("first"))
            .unwrap()
    };
    let roots = std::slice::from_ref(&root);
    let archive = |action: &dyn Fn()| {
        archive(
            roots,
            Meddler {
                left: 1 << 20,
                action,
            },
            Limits::default(),
        )
    };

    let summary = archive(&|| open().write_all_at(b"x", 0).unwrap()).unwrap();
    assert!(
        summary.warnings[0].contains("/first\" was changed"),
        "{summary:?}"
    );
    match archive(&|| fs::remove_file(root.join("second")).unwrap()).unwrap_err() {
        ArchiveError::Vanished { path } => assert_eq!(path, root.join("second")),
        other => panic!("{other:?}"),
    }
    match archive(&|| open().set_len(3 << 20).unwrap()).unwrap_err() {
        ArchiveError::Shrank {
            path,
            expected,
            found,
        } => {
            assert_eq!(
                (path, expected, found),
                (root.join("first"), 4 << 20, 3 << 20)
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_receiver_that_goes_away_is_an_error_with_the_place() {
    let place = tempdir().unwrap();
    let root = place.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("big"), vec![1; 4 << 20]).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let error = archive(&[root], writer, Limits::default()).unwrap_err();
    assert!(matches!(&error, ArchiveError::Write { .. }), "{error:?}");
    assert!(chain(&error).contains("Broken pipe"), "{}", chain(&error));
}

#[test]
fn owners_and_capabilities_come_back_for_root() {
    if !is_root() {
        // Nobody else may set them; that they are then reported is tested in `command`.
        let mine = tempfile::NamedTempFile::new().unwrap();
        assert!(std::os::unix::fs::chown(mine.path(), Some(0), None).is_err());
        return;
    }
    let place = tempdir().unwrap();
    let root = &place.path().join("root");
    fs::create_dir(root).unwrap();
    for name in ["file", "fifo", "link"] {
        match name {
            "file" => fs::write(root.join(name), b"").unwrap(),
            "fifo" => make_fifo(&root.join(name)),
            _ => symlink("x", root.join(name)).unwrap(),
        }
        std::os::unix::fs::lchown(root.join(name), Some(3_000_000), Some(4_000_000_000)).unwrap();
    }
    fs::set_permissions(root.join("file"), Permissions::from_mode(0o4755)).unwrap();
    // VFS_CAP_REVISION_2, effective; CAP_NET_BIND_SERVICE (10, a newline) permitted.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set_xattr(&root.join("file"), "security.capability", &capability);
    set_xattr(&root.join("link"), "trusted.of a link", b"1");
    let before = picture(root);
    let (archive, _) = pack(&[root]);
    fs::remove_dir_all(root).unwrap();
    assert_eq!(unpack(&archive, &[root]).warnings, Vec::<String>::new());
    assert_eq!(picture(root), before);
    assert_eq!(
        xattrs(&root.join("file")),
        [(b"security.capability".to_vec(), capability.to_vec())]
    );
}

/// One thing to make in a tree.
#[derive(Clone, Debug)]
struct Make {
    path: Vec<Vec<u8>>,
    kind: What,
    mode: u32,
    mtime: (i64, u32),
    xattr: Option<(String, Vec<u8>)>,
}

#[derive(Clone, Debug)]
enum What {
    Directory,
    File(Vec<(u32, Vec<u8>)>),
    Symlink(Vec<u8>),
    Fifo,
    HardLink(Vec<Vec<u8>>),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => "[abc]".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 1..20),
        1 => Just(vec![b'L'; 255]),
    ]
    .prop_filter("not a file name", |name| {
        !name.contains(&b'/') && !name.contains(&0) && name != b"." && name != b".."
    })
}

fn path() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(name(), 1..5)
}

fn make() -> impl Strategy<Value = Make> {
    let kind = prop_oneof![
        3 => Just(What::Directory),
        4 => prop::collection::vec((0u32..1 << 20, prop::collection::vec(any::<u8>(), 0..300)), 0..3)
            .prop_map(What::File),
        1 => prop::collection::vec(1u8.., 1..200).prop_map(What::Symlink),
        1 => Just(What::Fifo),
        2 => path().prop_map(What::HardLink),
    ];
    let xattr = prop::option::of((
        "user\\.[a-z=%]{1,9}",
        prop::collection::vec(any::<u8>(), 0..99),
    ));
    (
        path(),
        kind,
        0u32..0o10000,
        -1i64 << 31..1i64 << 33,
        0u32..1_000_000_000,
        xattr,
    )
        .prop_map(|(path, kind, mode, seconds, nanos, xattr)| Make {
            path,
            kind,
            mode,
            mtime: (seconds, nanos),
            xattr,
        })
}

/// Makes what can be made; a path that leads through a file is left out.
fn build(root: &Path, all: &[Make]) {
    fs::create_dir_all(root).unwrap();
    let join = |parts: &[Vec<u8>]| {
        parts.iter().fold(root.to_owned(), |path, part| {
            path.join(std::ffi::OsString::from_vec(part.clone()))
        })
    };
    let mut made = Vec::new();
    for make in all {
        let path = join(&make.path);
        let fits = !path.exists() && !path.is_symlink();
        if !fits || fs::create_dir_all(path.parent().unwrap()).is_err() {
            continue;
        }
        match &make.kind {
            What::Directory => fs::create_dir(&path).unwrap(),
            What::Fifo => make_fifo(&path),
            What::Symlink(target) => symlink(bytes(target), &path).unwrap(),
            What::File(parts) => {
                let file = File::create(&path).unwrap();
                for (offset, data) in parts {
                    file.write_all_at(data, (*offset).into()).unwrap();
                }
            }
            What::HardLink(target) => {
                if fs::hard_link(join(target), &path).is_err() {
                    continue;
                }
            }
        }
        made.push((path, make));
    }
    for (path, make) in made.iter().rev() {
        let meta = fs::symlink_metadata(path).unwrap();
        if let Some((name, value)) = &make.xattr
            && (meta.is_dir() || meta.is_file())
        {
            set_xattr(path, name, value);
        }
        if !meta.is_symlink() {
            let always = if is_root() { 0 } else { 0o700 };
            fs::set_permissions(path, Permissions::from_mode(make.mode | always)).unwrap();
        }
        set_mtime(path, make.mtime.0, make.mtime.1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever the tree, and whatever is there when it comes back.
    #[test]
    fn any_tree_comes_back_over_any_other(
        tree in prop::collection::vec(make(), 0..30),
        other in prop::collection::vec(make(), 0..30),
    ) {
        let place = tempdir().unwrap();
        let root = &place.path().join("root");
        build(root, &tree);
        let before = picture(root);
        let (archive, summary) = pack(&[root]);
        prop_assert_eq!(summary.entries(), before.len() as u64);
        fs::remove_dir_all(root).unwrap();
        build(root, &other);
        let summary = unpack(&archive, &[root]);
        prop_assert_eq!(summary.warnings, Vec::<String>::new());
        prop_assert_eq!(picture(root), before);
    }
}
