//! Files that are open or mapped, and working directories: will they be there after a restore?

use std::{
    collections::BTreeMap,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{self, FileType};

use crate::{
    blocker::{Findings, Kind},
    descriptors::{Descriptor, FileFacts},
    inspect::Scene,
    paths::{self, Fate},
    process::Process,
};

/// Type of the file system of POSIX message queues (statfs(2)).
const MQUEUE_MAGIC: i64 = 0x1980_0202;

/// Files that live in memory and have no path; CRIU has its own ways for them.
const NAMELESS: [&str; 7] = [
    "/memfd:",
    "/dev/zero",
    "/SYSV",
    "/[aio]",
    "/anon_hugepage",
    "/secretmem",
    "/dmabuf:",
];

/// A path that is used.
#[derive(Clone, Copy, Debug)]
struct Use<'a> {
    process: &'a Process,
    written: bool,
    directory: bool,
}

type Uses<'a> = BTreeMap<PathBuf, Use<'a>>;

pub(crate) fn check(scene: &Scene<'_>, findings: &mut Findings) {
    let mut uses = Uses::new();
    for descriptor in scene.descriptors {
        open(scene, descriptor, &mut uses, findings);
    }
    for (process, mapped) in scene.mapped {
        for one in mapped {
            let path = Path::new(one.as_os_str());
            if !path.is_absolute() || is_nameless(one.as_os_str().as_bytes()) {
                continue;
            }
            match paths::deleted(one.as_os_str()) {
                None => add(
                    &mut uses,
                    path,
                    Use {
                        process,
                        written: one.written,
                        directory: false,
                    },
                ),
                Some(path) => {
                    if let Ok(stat) = process.dir.stat(&format!("map_files/{}", one.range)) {
                        unlinked(scene, process, path, stat.into(), findings);
                    }
                }
            }
        }
    }
    for process in scene.alive() {
        if let Ok(cwd) = process.dir.link("cwd") {
            add(
                &mut uses,
                Path::new(&cwd),
                Use {
                    process,
                    written: false,
                    directory: true,
                },
            );
        }
    }
    report(scene, uses, findings);
}

fn is_nameless(link: &[u8]) -> bool {
    NAMELESS
        .iter()
        .any(|name| link.starts_with(name.as_bytes()))
}

fn add<'a>(uses: &mut Uses<'a>, path: &Path, found: Use<'a>) {
    let known = uses.entry(path.to_owned()).or_insert(found);
    known.written |= found.written;
}

fn open<'a>(
    scene: &Scene<'a>,
    descriptor: &'a Descriptor<'a>,
    uses: &mut Uses<'a>,
    findings: &mut Findings,
) {
    let (process, link) = (descriptor.process, &descriptor.link);
    let directory = match descriptor.file.kind {
        FileType::Directory => true,
        FileType::RegularFile | FileType::Fifo => false,
        _ => return,
    };
    if !Path::new(link).is_absolute() || is_nameless(link.as_bytes()) {
        return;
    }
    if is_message_queue(descriptor) {
        let detail = format!(
            "{} is the POSIX message queue {}, which cannot be checkpointed: close it before",
            descriptor.shown(),
            link.to_string_lossy()
        );
        findings.fatal(Kind::Descriptor, process.pid, detail);
        return;
    }
    let written = !directory && descriptor.access().write;
    match paths::deleted(link) {
        Some(path) if descriptor.file.links == 0 => {
            unlinked(scene, process, path, descriptor.file, findings);
        }
        // It has other names: CRIU links it beside its old one for the time of the trip.
        Some(path) => add(
            uses,
            path,
            Use {
                process,
                written,
                directory,
            },
        ),
        None => add(
            uses,
            Path::new(link),
            Use {
                process,
                written,
                directory,
            },
        ),
    }
}

/// Queues are the only files of their own file system, whose root is shown as `/`.
fn is_message_queue(descriptor: &Descriptor<'_>) -> bool {
    let in_root = Path::new(&descriptor.link).parent() == Some(Path::new("/"));
    let path = descriptor
        .process
        .dir
        .path(&format!("fd/{}", descriptor.number));
    in_root
        && descriptor.file.kind == FileType::RegularFile
        && fs::statfs(path).is_ok_and(|stat| stat.f_type == MQUEUE_MAGIC)
}

fn unlinked(
    scene: &Scene<'_>,
    process: &Process,
    path: &Path,
    file: FileFacts,
    findings: &mut Findings,
) {
    let limit = scene.policy.ghost_bytes_max;
    if file.links == 0 && file.stored_bytes > limit {
        let detail = format!(
            "{} holds {path:?}, which has been deleted and has {} MiB; deleted files of up to {} \
             MiB travel: let the program close it, or keep it as a named file under a preserved \
             path",
            process.shown(),
            file.stored_bytes >> 20,
            limit >> 20
        );
        findings.fatal(Kind::UnlinkedFile, process.pid, detail);
    }
}

/// Paths that nobody brings, in one directory.
#[derive(Debug)]
struct Group<'a> {
    first: Use<'a>,
    example: PathBuf,
    /// The directory that all are in, or the path itself if it is the only one.
    common: PathBuf,
    number: usize,
}

fn report(scene: &Scene<'_>, uses: Uses<'_>, findings: &mut Findings) {
    let mut groups: BTreeMap<PathBuf, Group<'_>> = BTreeMap::new();
    for (path, used) in uses {
        match paths::fate(&path, scene.policy) {
            Fate::Preserved | Fate::Kernel => {}
            Fate::System if used.written => changed(&path, used, findings),
            Fate::System => {}
            Fate::Left if used.directory && paths::is_everywhere(&path) => {}
            Fate::Left => {
                let here = paths::suggestion(&path, used.directory).to_owned();
                let group = groups
                    .entry(paths::top(&path).to_owned())
                    .or_insert_with(|| Group {
                        first: used,
                        example: path.clone(),
                        common: here.clone(),
                        number: 0,
                    });
                group.number += 1;
                group.common = paths::common(&group.common, &here).to_owned();
                // What is written matters most.
                if used.written && !group.first.written {
                    (group.first, group.example) = (used, path);
                }
            }
        }
    }
    for group in groups.into_values() {
        left(&group, findings);
    }
}

fn changed(path: &Path, used: Use<'_>, findings: &mut Findings) {
    let detail = format!(
        "{} has {path:?} open for writing; what it wrote does not travel: add `--preserve {}` if \
         that matters",
        used.process.shown(),
        path.display()
    );
    findings.note(Kind::File, used.process.pid, detail);
}

fn left(group: &Group<'_>, findings: &mut Findings) {
    let Group {
        first,
        example,
        common,
        number,
    } = group;
    let does = match (first.directory, first.written) {
        (true, _) => "is in, or has open, the directory",
        (false, true) => "writes to",
        (false, false) => "uses",
    };
    let more = if *number > 1 {
        format!(" and {} more paths there", number - 1)
    } else {
        String::new()
    };
    let detail = format!(
        "{} {does} {example:?}{more}, which must exist where the workload is restored{}: add \
         `--preserve {}`, unless every machine has it",
        first.process.shown(),
        if first.directory {
            ""
        } else {
            ", with the same contents"
        },
        common.display()
    );
    findings.note(Kind::File, first.process.pid, detail);
}
