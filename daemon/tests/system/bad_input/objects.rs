//! Objects in the store that are damaged, missing, or not for this machine.

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use lifeboat_format::{Head, Manifest, Seal};

use crate::support::{Hold, Node, TestStore, check_count, counter};

const SOON: Duration = Duration::from_secs(30);

/// A workload that was evacuated to a folder.
struct Stored {
    store: TestStore,
    node: Node,
    lines: Vec<String>,
}

impl Stored {
    fn new() -> Self {
        let store = TestStore::folder();
        let node = Node::start("a", &store);
        let mut hold = Hold::start(&node, "w", &[&counter()]);
        hold.wait_for_lines(3, SOON);
        node.evacuate("w");
        let (status, lines) = hold.wait_for_end(SOON);
        assert_eq!(status, 75, "{}", hold.said());
        Self { store, node, lines }
    }

    fn only(&self, prefix: &str) -> PathBuf {
        let files = self.store.files(prefix);
        assert_eq!(files.len(), 1, "{files:?}");
        files.into_iter().next().unwrap()
    }

    fn pack(&self) -> PathBuf {
        self.only("packs")
    }

    fn manifest(&self) -> PathBuf {
        self.only("workloads/w/checkpoints")
    }

    fn head(&self) -> PathBuf {
        self.store.path().join("workloads/w/head")
    }

    /// A restore fails with one of `statuses` and says one of `words`; no line is printed that does
    /// not go on from before.
    #[track_caller]
    fn is_refused(&self, what: &str, statuses: &[i32], words: &[&str]) {
        let mut hold = Hold::start(&self.node, "w", &[&counter()]);
        let (status, more) = hold.wait_for_end(SOON);
        let said = hold.said();
        assert!(statuses.contains(&status), "{what}: {status}: {said}");
        assert!(
            words.iter().any(|word| said.contains(word)),
            "{what}: {said}"
        );
        check_count(&[&*self.lines, &more].concat());
    }

    /// The workload goes on where it was.
    #[track_caller]
    fn goes_on(self) {
        let hold = Hold::start(&self.node, "w", &[&counter()]);
        let more = hold.wait_for_lines(3, SOON);
        check_count(&[self.lines, more].concat());
        self.node.wait_for_state("w", "running", SOON);
        self.node.evacuate("w");
    }

    fn verify(&self) -> Output {
        self.node.run(&["verify", "w"])
    }
}

/// Ways to damage a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Empty,
    Half,
    OneByteLess,
    /// A turned bit at so many hundredths of the file.
    Bit(usize),
    Garbage,
    Missing,
}

impl Damage {
    const ALL: [Self; 11] = [
        Self::Empty,
        Self::Half,
        Self::OneByteLess,
        Self::Bit(0),
        Self::Bit(10),
        Self::Bit(35),
        Self::Bit(60),
        Self::Bit(85),
        Self::Bit(99),
        Self::Garbage,
        Self::Missing,
    ];

    fn apply(self, file: &Path) {
        let mut bytes = std::fs::read(file).unwrap();
        match self {
            Self::Empty => bytes.clear(),
            Self::Half => bytes.truncate(bytes.len() / 2),
            Self::OneByteLess => bytes.truncate(bytes.len() - 1),
            Self::Bit(hundredths) => {
                let at = bytes.len() * hundredths / 100;
                bytes[at] ^= 0x10;
            }
            Self::Garbage => bytes
                .iter_mut()
                .for_each(|byte| *byte = byte.wrapping_mul(37)),
            Self::Missing => return std::fs::remove_file(file).unwrap(),
        }
        std::fs::write(file, bytes).unwrap();
    }
}

/// Damages `file` in every way; each time a restore is refused, and after the repair it succeeds.
fn damaged(stored: Stored, file: &Path, statuses: &[i32], words: &[&str]) {
    let whole = std::fs::read(file).unwrap();
    for damage in Damage::ALL {
        damage.apply(file);
        stored.is_refused(&format!("{damage:?}"), statuses, words);
        let verified = stored.verify();
        assert!(!verified.status.success(), "{damage:?}: {verified:?}");
        std::fs::write(file, &whole).unwrap();
    }
    assert!(stored.verify().status.success());
    stored.goes_on();
}

#[test]
fn a_damaged_manifest_is_refused() {
    let stored = Stored::new();
    let file = stored.manifest();
    damaged(stored, &file, &[171], &["manifest"]);
}

#[test]
fn a_damaged_pack_is_refused() {
    let stored = Stored::new();
    let file = stored.pack();
    // The directory at a pack's end is not needed for a restore.
    let whole = std::fs::read(&file).unwrap();
    for damage in Damage::ALL {
        damage.apply(&file);
        let verified = stored.verify();
        assert!(!verified.status.success(), "{damage:?}: {verified:?}");
        let text = String::from_utf8_lossy(&verified.stdout);
        assert!(text.contains("packs/"), "{damage:?}: {text}");
        std::fs::write(&file, &whole).unwrap();
    }
    for damage in [
        Damage::Empty,
        Damage::Half,
        Damage::Bit(10),
        Damage::Bit(50),
        Damage::Garbage,
    ] {
        damage.apply(&file);
        stored.is_refused(&format!("{damage:?}"), &[171], &["packs/"]);
        std::fs::write(&file, &whole).unwrap();
    }
    Damage::Missing.apply(&file);
    stored.is_refused("missing", &[171], &["not found"]);
    std::fs::write(&file, &whole).unwrap();
    stored.goes_on();
}

#[test]
fn a_damaged_head_is_refused() {
    let stored = Stored::new();
    let file = stored.head();
    let whole = std::fs::read(&file).unwrap();
    for damage in Damage::ALL {
        if matches!(damage, Damage::Missing) {
            // Without a head the workload is new; that is another test.
            continue;
        }
        damage.apply(&file);
        stored.is_refused(&format!("{damage:?}"), &[170], &["head of workload w"]);
        std::fs::write(&file, &whole).unwrap();
    }
    stored.goes_on();
}

/// The manifest and the head that names it, changed as only somebody with the key could do.
fn forged(change: impl Fn(&mut Manifest), words: &[&str]) {
    let stored = Stored::new();
    let (manifest_file, head_file) = (stored.manifest(), stored.head());
    let (old_manifest, old_head) = (
        std::fs::read(&manifest_file).unwrap(),
        std::fs::read(&head_file).unwrap(),
    );
    let seal = Seal::plain();
    let (mut manifest, _) = Manifest::decode(&old_manifest, &seal).unwrap();
    change(&mut manifest);
    let (bytes, digest) = manifest.encode(&seal).unwrap();
    std::fs::write(&manifest_file, bytes).unwrap();
    // The head still names the other one.
    stored.is_refused(
        "another manifest",
        &[171],
        &["not the one that was committed"],
    );
    let mut head = Head::decode(
        &std::fs::read(&head_file).unwrap(),
        &manifest.workload,
        &seal,
    )
    .unwrap();
    head.latest.as_mut().unwrap().digest = digest;
    std::fs::write(&head_file, head.encode(&seal).unwrap()).unwrap();
    let mut hold = Hold::start(&stored.node, "w", &[&counter()]);
    let (status, more) = hold.wait_for_end(SOON);
    assert_eq!((status, more), (171, Vec::new()), "{}", hold.said());
    for word in words {
        assert!(
            hold.said().contains(word),
            "{word:?} is not in {}",
            hold.said()
        );
    }
    std::fs::write(&manifest_file, old_manifest).unwrap();
    std::fs::write(&head_file, old_head).unwrap();
    stored.goes_on();
}

#[test]
fn a_checkpoint_of_another_architecture_is_refused() {
    forged(
        |manifest| manifest.platform.architecture = "aarch64".to_owned(),
        &["cannot run the checkpoint", "aarch64", "x86_64"],
    );
}

#[test]
fn a_checkpoint_that_needs_other_instructions_is_refused() {
    forged(
        |manifest| {
            manifest
                .platform
                .cpu_features
                .push("amx_quantum".to_owned());
            manifest.platform.cpu_features.sort();
        },
        &["cannot run the checkpoint", "amx_quantum"],
    );
}

#[test]
fn a_checkpoint_of_another_criu_is_refused() {
    forged(
        |manifest| manifest.platform.criu_version = "4.9.0".to_owned(),
        &["cannot run the checkpoint", "4.9"],
    );
}
