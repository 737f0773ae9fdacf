//! Archives that nobody should have made: none of them changes anything outside of the roots.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{FileExt as _, symlink},
    path::{Path, PathBuf},
};

use lifeboat_files::{ExtractError, FormatError, extract};
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};
use tempfile::{TempDir, tempdir};

use crate::trees::{chain, pack, picture};

/// An archive made by hand.
struct Craft {
    out: Builder<Vec<u8>>,
    entries: u64,
}

impl Craft {
    fn new() -> Self {
        let mut craft = Self {
            out: Builder::new(Vec::new()),
            entries: 0,
        };
        craft.extended(EntryType::XGlobalHeader, &[("LIFEBOAT.version", b"1")]);
        craft
    }

    fn extended(&mut self, kind: EntryType, records: &[(&str, &[u8])]) {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest + 1..)
                .find(|n| n.to_string().len() + rest == *n)
                .unwrap();
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(body.len() as u64);
        header.set_cksum();
        self.out.append(&header, &body[..]).unwrap();
    }

    fn raw(&mut self, kind: EntryType, size: u64, body: &[u8]) {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o755);
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        header.set_cksum();
        self.out.append(&header, body).unwrap();
    }

    fn entry(mut self, name: impl AsRef<Path>, kind: EntryType, extra: &[(&str, &[u8])]) -> Self {
        let name = name.as_ref().to_str().unwrap();
        let name = name.strip_prefix('/').unwrap_or(name);
        let mut records = vec![("path", name.as_bytes()), ("mtime", b"1.5")];
        records.extend_from_slice(extra);
        self.extended(EntryType::XHeader, &records);
        let body: &[u8] = if kind == EntryType::Regular {
            b"contents"
        } else {
            b""
        };
        self.raw(kind, body.len() as u64, body);
        self.entries += 1;
        self
    }

    fn dir(self, name: impl AsRef<Path>) -> Self {
        self.entry(name, EntryType::Directory, &[])
    }

    fn file(self, name: impl AsRef<Path>) -> Self {
        self.entry(name, EntryType::Regular, &[])
    }

    fn link(self, name: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        let target = target.as_ref().to_str().unwrap();
        self.entry(name, EntryType::Symlink, &[("linkpath", target.as_bytes())])
    }

    fn hard_link(self, name: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        let target = target.as_ref().to_str().unwrap().trim_start_matches('/');
        self.entry(name, EntryType::Link, &[("linkpath", target.as_bytes())])
    }

    fn done(mut self) -> Vec<u8> {
        let count = self.entries.to_string();
        self.extended(
            EntryType::XGlobalHeader,
            &[("LIFEBOAT.entries", count.as_bytes())],
        );
        self.out.into_inner().unwrap()
    }
}

/// A root, and something outside of it that must not change.
struct Scene {
    place: TempDir,
    root: PathBuf,
    outside: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let place = tempdir().unwrap();
        let (root, outside) = (place.path().join("root"), place.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), b"secret").unwrap();
        fs::create_dir(&root).unwrap();
        fs::write(root.join("precious"), b"precious").unwrap();
        Self {
            place,
            root,
            outside,
        }
    }

    fn extract(&self, input: impl Read) -> Result<(), ExtractError> {
        let before = picture(&self.outside);
        let result = extract(input, std::slice::from_ref(&self.root)).map(drop);
        assert_eq!(picture(&self.outside), before, "something outside changed");
        result
    }

    /// The archive is refused, and what the root has is not mirrored away.
    fn refuses(&self, archive: &[u8]) -> ExtractError {
        let error = self.extract(archive).unwrap_err();
        let precious = fs::read(self.root.join("precious")).unwrap();
        assert_eq!(
            precious, b"precious",
            "removed although the archive was refused: {error:?}"
        );
        error
    }
}

#[test]
fn a_crafted_archive_is_like_a_real_one() {
    // Otherwise the refusals below could have any reason.
    let scene = Scene::new();
    let (root, r) = (&scene.root, |name: &str| scene.root.join(name));
    let archive = Craft::new()
        .dir(root)
        .file(r("a"))
        .link(r("l"), "/etc")
        .hard_link(r("b"), r("a"))
        .dir(r("d"))
        .file(r("d/x"))
        .done();
    scene.extract(&archive[..]).unwrap();
    assert_eq!(fs::read(r("d/x")).unwrap(), b"contents");
    assert!(!r("precious").exists());
}

#[test]
fn names_cannot_lead_out() {
    let scene = Scene::new();
    let root = scene.root.to_str().unwrap();
    for name in [
        "../outside/x",
        "/./x",
        "//x",
        "/a/../../outside/x",
        "/..",
        "/a\0b",
    ] {
        let archive = Craft::new().dir(root).file(format!("{root}/{name}")).done();
        let error = scene.refuses(&archive);
        assert!(
            matches!(&error, ExtractError::Format(FormatError::Name { .. })),
            "{name:?}: {error:?}"
        );
    }
    for name in [
        scene.outside.join("x"),
        "/etc/x".into(),
        format!("{root}2/x").into(),
    ] {
        let error = scene.refuses(&Craft::new().file(&name).done());
        assert!(
            matches!(&error, ExtractError::Outside { .. }),
            "{name:?}: {error:?}"
        );
    }
}

#[test]
fn links_of_the_archive_are_not_followed() {
    let scene = Scene::new();
    let (root, r) = (&scene.root, |name: &str| scene.root.join(name));
    let through = Craft::new()
        .dir(root)
        .link(r("l"), &scene.outside)
        .file(r("l/x"))
        .done();
    assert!(matches!(
        scene.refuses(&through),
        ExtractError::NoDirectory { .. }
    ));
    let twice = Craft::new()
        .dir(root)
        .link(r("l"), &scene.outside)
        .dir(r("l"))
        .done();
    assert!(matches!(scene.refuses(&twice), ExtractError::Twice { .. }));
    let as_root = Craft::new().link(root, &scene.outside).done();
    assert!(matches!(
        scene.refuses(&as_root),
        ExtractError::RootKind { .. }
    ));
    let orphan = Craft::new().dir(root).file(r("d/x")).done();
    assert!(matches!(
        scene.refuses(&orphan),
        ExtractError::NoDirectory { .. }
    ));
}

#[test]
fn links_that_are_there_are_replaced_not_followed() {
    let scene = Scene::new();
    let (root, r) = (&scene.root, |name: &str| scene.root.join(name));
    symlink(&scene.outside, r("d")).unwrap();
    symlink(scene.outside.join("secret"), r("f")).unwrap();
    symlink(&scene.outside, r("stale")).unwrap();
    let archive = Craft::new()
        .dir(root)
        .dir(r("d"))
        .file(r("d/secret"))
        .file(r("f"))
        .done();
    scene.extract(&archive[..]).unwrap();
    assert!(r("d").is_dir() && !r("d").is_symlink() && !r("f").is_symlink());
    assert!(!r("stale").is_symlink());
}

#[test]
fn a_root_that_is_a_link_or_of_another_kind_is_refused() {
    let scene = Scene::new();
    let archive = Craft::new().dir(&scene.root).done();
    let as_file = Craft::new().file(&scene.root).done();
    assert!(matches!(
        scene.refuses(&as_file),
        ExtractError::RootKind { .. }
    ));
    fs::remove_dir_all(&scene.root).unwrap();
    symlink(&scene.outside, &scene.root).unwrap();
    for archive in [archive, as_file] {
        let error = scene.extract(&archive[..]).unwrap_err();
        assert!(matches!(error, ExtractError::RootKind { .. }), "{error:?}");
    }
}

/// Gives the first part, then does something, then gives the rest.
struct Interrupted<'a, F: FnMut()> {
    parts: [&'a [u8]; 2],
    between: F,
}

impl<F: FnMut()> Read for Interrupted<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.parts[0].is_empty() && !self.parts[1].is_empty() {
            (self.between)();
            self.parts.swap(0, 1);
        }
        self.parts[0].read(buffer)
    }
}

#[test]
fn a_directory_swapped_for_a_link_in_between_leads_nowhere() {
    let scene = Scene::new();
    let (root, r) = (&scene.root, |name: &str| scene.root.join(name));
    let whole = Craft::new()
        .dir(root)
        .dir(r("a"))
        .dir(r("a/b"))
        .file(r("a/b/secret"))
        .done();
    let mut refused = 0;
    // After each block: before and after the directory has been opened.
    for cut in (512..whole.len()).step_by(512) {
        let away = tempdir().unwrap();
        let swap = || {
            for name in ["a/b", "a"] {
                if fs::rename(r(name), away.path().join("was")).is_ok() {
                    symlink(&scene.outside, r(name)).unwrap();
                    return;
                }
            }
        };
        // Whether it fails depends on the moment; what it does outside does not.
        let parts = [&whole[..cut], &whole[cut..]];
        refused += usize::from(
            scene
                .extract(Interrupted {
                    parts,
                    between: swap,
                })
                .is_err(),
        );
        fs::remove_dir_all(root).unwrap();
        fs::create_dir(root).unwrap();
    }
    assert!(refused > 3, "the swaps came too late to matter");
}

#[test]
fn hard_links_lead_only_to_files_of_the_archive() {
    let scene = Scene::new();
    let (root, r) = (&scene.root, |name: &str| scene.root.join(name));
    for target in [
        scene.outside.join("secret"),
        r("precious"),
        root.clone(),
        r("x"),
    ] {
        let archive = Craft::new().dir(root).hard_link(r("x"), &target).done();
        let error = scene.refuses(&archive);
        assert!(
            matches!(&error, ExtractError::LinkTarget { .. }),
            "{target:?}: {error:?}"
        );
    }
}

#[test]
fn other_kinds_and_unknown_records_are_refused() {
    let scene = Scene::new();
    let (root, r) = (&scene.root, |name: &str| scene.root.join(name));
    for kind in [
        EntryType::Char,
        EntryType::Block,
        EntryType::Continuous,
        EntryType::GNUSparse,
    ] {
        let error = scene.refuses(&Craft::new().dir(root).entry(r("x"), kind, &[]).done());
        assert!(
            matches!(&error, ExtractError::Format(FormatError::Kind { .. })),
            "{error:?}"
        );
    }
    for record in [
        ("uid", &b"0"[..]),
        ("size", b"1"),
        ("GNU.sparse.major", b"0"),
        ("mtime", b"x"),
    ] {
        let error = scene.refuses(
            &Craft::new()
                .dir(root)
                .entry(r("x"), EntryType::Fifo, &[record])
                .done(),
        );
        assert!(
            matches!(&error, ExtractError::Format(FormatError::Extended { .. })),
            "{error:?}"
        );
    }
    let mut nested = Craft::new().dir(root);
    nested.raw(EntryType::Regular, 0, b"");
    assert!(matches!(
        scene.refuses(&nested.done()),
        ExtractError::Format(FormatError::Extended {
            why: "it is missing",
            ..
        })
    ));
}

#[test]
fn sizes_that_are_not_there_cost_nothing() {
    let scene = Scene::new();
    let (root, r) = (&scene.root, |name: &str| scene.root.join(name));
    let name = r("x").to_str().unwrap()[1..].to_owned();
    let path = ("path", name.as_bytes());
    // A file, and an extended header, of 2^60 bytes.
    let mut file = Craft::new().dir(root);
    file.extended(EntryType::XHeader, &[path, ("mtime", b"0")]);
    file.raw(EntryType::Regular, 1 << 60, b"short");
    scene.refuses(&file.done());
    let mut header = Craft::new().dir(root);
    header.raw(EntryType::XHeader, 1 << 60, b"short");
    scene.refuses(&header.done());
    // Sparse files: too long for the file system, with too many parts, parts past the end.
    for (size, map) in [
        ("18446744073709551615", "0\n"),
        ("100", "18446744073709551615\n"),
        ("100", "1\n90\n20\n"),
        ("100", "2\n50\n10\n20\n10\n"),
        ("100", "1\n0\n4096\n"),
    ] {
        let mut sparse = Craft::new().dir(root);
        let real = ("GNU.sparse.realsize", size.as_bytes());
        sparse.extended(EntryType::XHeader, &[path, ("mtime", b"0"), real]);
        let mut body = map.as_bytes().to_vec();
        body.resize(512, 0);
        sparse.raw(EntryType::Regular, 512, &body);
        sparse.entries += 1;
        scene.refuses(&sparse.done());
    }
    assert!(!r("x").exists());
    assert_eq!(
        fs::read_dir(root).unwrap().count(),
        1,
        "temporary files are left"
    );
}

#[test]
fn a_truncated_archive_is_refused_wherever_it_ends() {
    let scene = Scene::new();
    let source = scene.place.path().join("source");
    fs::create_dir_all(source.join("d")).unwrap();
    fs::write(source.join("d/file"), [7; 700]).unwrap();
    let sparse = File::create(source.join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    sparse.write_all_at(b"x", 1 << 19).unwrap();
    let (whole, _) = pack(&[&source]);
    // The last two blocks are zeros, which add nothing.
    let end = whole.len() - 1024;
    for length in (0..end).step_by(37).chain(end - 5..end) {
        fs::write(source.join("precious"), b"precious").unwrap();
        let error = extract(&whole[..length], std::slice::from_ref(&source)).unwrap_err();
        assert!(
            matches!(error, ExtractError::Format(_)),
            "{length}: {}",
            chain(&error)
        );
        assert!(source.join("precious").exists(), "{length}");
    }
    extract(&whole[..end], std::slice::from_ref(&source)).unwrap();
    assert!(!source.join("precious").exists());
}

#[test]
fn an_archive_that_counts_wrongly_or_goes_on_is_refused() {
    let scene = Scene::new();
    let mut more = Craft::new().dir(&scene.root);
    more.entries = 2;
    assert!(matches!(
        scene.refuses(&more.done()),
        ExtractError::Format(FormatError::Count {
            counted: 2,
            found: 1
        })
    ));
    let mut goes_on = Craft::new().dir(&scene.root);
    goes_on.extended(EntryType::XGlobalHeader, &[("LIFEBOAT.entries", b"1")]);
    let goes_on = goes_on.file(scene.root.join("x"));
    scene.refuses(&goes_on.done());
    let mut version = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(0);
    version.append_data(&mut header, "x", io::empty()).unwrap();
    let error = scene.refuses(&version.into_inner().unwrap());
    assert!(
        matches!(error, ExtractError::Format(FormatError::Version)),
        "{error:?}"
    );
}

#[test]
fn attributes_that_belong_to_the_machine_are_not_set() {
    let scene = Scene::new();
    let (root, r) = (&scene.root, |name: &str| scene.root.join(name));
    let label = ("SCHILY.xattr.security.selinux", &b"x"[..]);
    let nul = ("SCHILY.xattr.user.a\0b", &b"x"[..]);
    let archive = Craft::new()
        .dir(root)
        .entry(r("x"), EntryType::Regular, &[label, nul])
        .done();
    let summary = extract(&archive[..], std::slice::from_ref(root)).unwrap();
    assert_eq!(summary.warnings.len(), 1);
    assert!(
        summary.warnings[0].contains("security.selinux"),
        "{:?}",
        summary.warnings
    );
    assert_eq!(crate::trees::xattrs(&r("x")), []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Bytes changed anywhere, checksums of headers repaired: no panic, nothing outside.
    #[test]
    fn altered_archives_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let scene = Scene::new();
        let (root, r) = (&scene.root, |name: &str| scene.root.join(name));
        let mut archive = Craft::new()
            .dir(root)
            .file(r("a"))
            .link(r("l"), &scene.outside)
            .hard_link(r("b"), r("a"))
            .dir(r("d"))
            .file(r("d/x"))
            .done();
        for (at, byte) in changes {
            let at = at.index(archive.len());
            archive[at] = byte;
            let block = at / 512 * 512;
            if &archive[block + 257..block + 262] == b"ustar" {
                let header = &mut archive[block..block + 512];
                header[148..156].copy_from_slice(b"        ");
                let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
                header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        // Many alterations are harmless; that nothing outside changes is asserted in there.
        drop(scene.extract(&archive[..]));
    }
}
