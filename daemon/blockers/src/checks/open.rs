//! Descriptors that are neither files nor sockets nor pipes: kernel objects and devices.

use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::FileType;

use crate::{
    blocker::{Findings, Kind},
    descriptors::Descriptor,
    inspect::Scene,
};

/// Kernel objects that CRIU 4.2 describes, by the beginning of their names.
const DESCRIBED: [&str; 7] = [
    "[eventfd]",
    "[eventpoll]",
    "inotify",
    "[fanotify]",
    "[signalfd]",
    "[timerfd]",
    "[pidfd]",
];

/// Major number of memory devices: null, zero, full, random, kmsg.
const MEMORY_MAJOR: u32 = 1;

/// Major number of miscellaneous devices, and those of them that CRIU knows: tun and autofs.
const MISC_MAJOR: u32 = 10;
const MISC_DESCRIBED: [u32; 2] = [200, 235];

pub(crate) fn check(scene: &Scene<'_>, findings: &mut Findings) {
    for descriptor in scene.descriptors {
        if let Some(object) = descriptor.link.as_bytes().strip_prefix(b"anon_inode:") {
            let object = String::from_utf8_lossy(object).into_owned();
            kernel_object(scene, descriptor, &object, findings);
        } else if descriptor.is_link("pidfd:") {
            kernel_object(scene, descriptor, "[pidfd]", findings);
        } else if descriptor.is_link("/dmabuf:") {
            device(descriptor, "a DMA buffer of a device", findings);
        } else {
            match descriptor.file.kind {
                FileType::CharacterDevice if !is_described(descriptor.file.device) => {
                    let name = descriptor.link.to_string_lossy();
                    device(descriptor, &format!("the device {name}"), findings);
                }
                FileType::BlockDevice => {
                    let name = descriptor.link.to_string_lossy();
                    device(descriptor, &format!("the block device {name}"), findings);
                }
                _ => {}
            }
        }
    }
}

fn kernel_object(
    scene: &Scene<'_>,
    descriptor: &Descriptor<'_>,
    object: &str,
    findings: &mut Findings,
) {
    let pid = descriptor.process.pid;
    let shown = descriptor.shown();
    match object {
        "[io_uring]" => findings.fatal(
            Kind::IoUring,
            pid,
            format!(
                "{shown} is an io_uring, which cannot be checkpointed: run the program without \
                 it (node: UV_USE_IO_URING=0; PostgreSQL: io_method=worker)"
            ),
        ),
        "[userfaultfd]" => findings.fatal(
            Kind::Userfaultfd,
            pid,
            format!(
                "{shown} is a userfaultfd, which cannot be checkpointed: run the program \
                     without it"
            ),
        ),
        "[perf_event]" => findings.fatal(
            Kind::PerfEvent,
            pid,
            format!(
                "{shown} is a performance counter, which cannot be checkpointed: stop \
                     profiling"
            ),
        ),
        _ if object.starts_with("bpf") => findings.fatal(
            Kind::Bpf,
            pid,
            format!(
                "{shown} is a BPF object ({object}), which cannot be checkpointed: load it \
                     from outside of the workload"
            ),
        ),
        "[pidfd]" => pidfd(scene, descriptor, findings),
        _ if DESCRIBED.iter().any(|known| object.starts_with(known)) => {}
        _ => findings.fatal(
            Kind::Descriptor,
            pid,
            format!(
                "{shown} is {object}, which cannot be checkpointed: close it, or run the \
                     program without it"
            ),
        ),
    }
}

/// A pidfd is made again if its process is part of the workload, or has ended (PID -1).
fn pidfd(scene: &Scene<'_>, descriptor: &Descriptor<'_>, findings: &mut Findings) {
    let of = descriptor
        .info("Pid")
        .and_then(|pid| pid.parse::<i64>().ok())
        .unwrap_or(-1);
    if of != -1 && !u32::try_from(of).is_ok_and(|pid| scene.has_process(pid)) {
        let detail = format!(
            "{} refers to process {of}, which is outside of the workload: close it",
            descriptor.shown()
        );
        findings.fatal(Kind::Pidfd, descriptor.process.pid, detail);
    }
}

/// Whether CRIU describes a character device. Terminals have a check of their own.
fn is_described((major, minor): (u32, u32)) -> bool {
    match major {
        MEMORY_MAJOR => true,
        MISC_MAJOR => MISC_DESCRIBED.contains(&minor),
        _ => super::terminals::is_terminal(major),
    }
}

fn device(descriptor: &Descriptor<'_>, what: &str, findings: &mut Findings) {
    let detail = format!(
        "{} is {what}, whose state cannot be checkpointed: close it before, or run the program \
         without the device",
        descriptor.shown()
    );
    findings.fatal(Kind::Device, descriptor.process.pid, detail);
}
