//! Pipes that lead out of the workload.

use std::collections::{BTreeMap, HashSet};

use crate::{
    blocker::{Findings, Kind},
    descriptors::{Access, Descriptor},
    inspect::Scene,
};

/// Standard input, output and error.
const STANDARD_STREAMS: std::ops::RangeInclusive<u32> = 0..=2;

pub(crate) fn check(scene: &Scene<'_>, findings: &mut Findings) {
    let mut carried: HashSet<u64> = scene.policy.carried_pipes.iter().copied().collect();
    let mut ends: BTreeMap<u64, (Access, &Descriptor<'_>)> = BTreeMap::new();
    for descriptor in scene.descriptors.iter().filter(|one| one.is_link("pipe:[")) {
        let inode = descriptor.file.inode;
        if scene.policy.held
            && descriptor.process.pid == scene.root().pid
            && STANDARD_STREAMS.contains(&descriptor.number)
        {
            carried.insert(inode);
        }
        let access = descriptor.access();
        let (known, _) = ends.entry(inode).or_insert((access, descriptor));
        known.read |= access.read;
        known.write |= access.write;
    }
    for (inode, (access, descriptor)) in ends {
        if (access.read && access.write) || carried.contains(&inode) {
            continue;
        }
        let (end, effect) = if access.read {
            (
                "nobody in the workload writes to",
                "reading it will give end-of-file",
            )
        } else {
            (
                "nobody in the workload reads",
                "writing to it will fail (EPIPE)",
            )
        };
        let detail = format!(
            "{} is a pipe that {end}; after a restore its other end is closed and {effect}: \
             start both sides in the workload, or start it with `lifeboat run`, which carries the \
             standard streams",
            descriptor.shown()
        );
        findings.note(Kind::Pipe, descriptor.process.pid, detail);
    }
}
