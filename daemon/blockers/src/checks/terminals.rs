//! Terminals whose master side is not in the workload.

use std::collections::HashSet;

use rustix::fs::FileType;

use crate::{
    blocker::{Findings, Kind},
    descriptors::Descriptor,
    inspect::Scene,
};

/// Major numbers of Unix98 pseudo terminals' slaves (devices.txt), 256 each.
const SLAVES: std::ops::RangeInclusive<u32> = 136..=143;

/// /dev/ptmx: major and minor number.
const MASTER: (u32, u32) = (5, 2);

/// Major numbers of terminals that CRIU knows: virtual and serial ones, /dev/tty and /dev/console,
/// pseudo terminals' masters and slaves, USB and other serial lines.
const TERMINALS: [u32; 4] = [4, 5, 188, 204];

/// Whether a character device is a terminal to CRIU.
pub(crate) fn is_terminal(major: u32) -> bool {
    TERMINALS.contains(&major) || (128..=143).contains(&major)
}

pub(crate) fn check(scene: &Scene<'_>, findings: &mut Findings) {
    let terminals = || {
        scene
            .descriptors
            .iter()
            .filter(|one| one.file.kind == FileType::CharacterDevice)
    };
    let masters: HashSet<u32> = terminals()
        .filter(|one| one.file.device == MASTER)
        .filter_map(index_of_master)
        .collect();
    for descriptor in terminals() {
        let (major, minor) = descriptor.file.device;
        if !SLAVES.contains(&major) {
            continue;
        }
        let index = (major - SLAVES.start()) * 256 + minor;
        if !masters.contains(&index) {
            let detail = format!(
                "terminal {} of {} belongs to somebody outside of the workload: start the \
                 workload with `lifeboat run`, or with its input and output redirected",
                descriptor.link.to_string_lossy(),
                descriptor.process.shown()
            );
            findings.fatal(Kind::Terminal, descriptor.process.pid, detail);
        }
    }
}

fn index_of_master(descriptor: &Descriptor<'_>) -> Option<u32> {
    descriptor.info("tty-index")?.parse().ok()
}
