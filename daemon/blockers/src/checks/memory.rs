//! Mappings that cannot travel, and memory that makes the stand-still longer.

use std::io;

use crate::{
    blocker::{Findings, Kind},
    inspect::Scene,
    maps::Mapped,
    process::Process,
};

/// Locked and huge pages of a process up to this size are not worth a word: 512 MiB.
const PINNED_KIB_MAX: u64 = 512 << 10;

pub(crate) fn check(scene: &Scene<'_>, findings: &mut Findings) {
    for (process, mapped) in scene.mapped {
        for mapped in mapped {
            mapping(process, mapped, findings);
        }
        pinned(process, findings);
    }
}

fn mapping(process: &Process, mapped: &Mapped, findings: &mut Findings) {
    let name = mapped.as_os_str().to_string_lossy();
    let (pid, shown) = (process.pid, process.shown());
    if mapped.is_named("anon_inode:") {
        let kind = match name.as_ref() {
            "anon_inode:[io_uring]" => Kind::IoUring,
            "anon_inode:[perf_event]" => Kind::PerfEvent,
            "anon_inode:bpf-map" => Kind::Bpf,
            _ => Kind::Mapping,
        };
        let object = name.trim_start_matches("anon_inode:");
        let detail = format!(
            "{shown} has {object} mapped into its memory, which cannot be checkpointed: run the \
             program without it"
        );
        findings.fatal(kind, pid, detail);
    } else if is_device(&name) {
        let detail = format!(
            "{shown} has the device {name} mapped into its memory, whose state cannot be \
             checkpointed: run the program without the device"
        );
        findings.fatal(Kind::Device, pid, detail);
    } else if name == "[uprobes]" {
        let detail = format!("{shown} is traced with uprobes: remove the probes");
        findings.fatal(Kind::Mapping, pid, detail);
    } else if name.starts_with("/secretmem") {
        let detail = format!(
            "{shown} has secret memory (memfd_secret), which nobody may read: run the program \
             without it"
        );
        findings.fatal(Kind::Mapping, pid, detail);
    } else if mapped.private && mapped.is_named("/anon_hugepage") {
        let detail = format!(
            "{shown} has private huge pages (MAP_HUGETLB), which cannot be restored: let the \
             program use transparent huge pages, or shared ones"
        );
        findings.fatal(Kind::Mapping, pid, detail);
    } else if mapped.is_named("/SYSV") && shares_ipc_with_us(process).unwrap_or(false) {
        let detail = format!(
            "{shown} uses SysV shared memory ({name}) in the machine's own IPC namespace: start \
             the workload with `lifeboat run`, which gives it one of its own"
        );
        findings.fatal(Kind::SysvShm, pid, detail);
    }
}

/// Device files, and buffers of graphics drivers, which have no path.
fn is_device(name: &str) -> bool {
    let memory = ["/dev/zero", "/dev/shm/", "/dev/hugepages/"];
    let in_dev = name.starts_with("/dev/") && !memory.iter().any(|known| name.starts_with(known));
    in_dev || name.starts_with("/drm mm object") || name.starts_with("/i915")
}

fn shares_ipc_with_us(process: &Process) -> io::Result<bool> {
    let own = rustix::fs::stat("/proc/self/ns/ipc")?.st_ino;
    Ok(process.dir.stat("ns/ipc")?.stx_ino == own)
}

fn pinned(process: &Process, findings: &mut Findings) {
    let kib = process
        .status
        .locked_kib
        .saturating_add(process.status.huge_kib);
    if kib > PINNED_KIB_MAX {
        let detail = format!(
            "{} has {} MiB of locked or huge pages, which are read while it stands still and \
             loaded before it runs again: allow the time, or run it without mlock and hugetlbfs",
            process.shown(),
            kib / 1024
        );
        findings.note(Kind::PinnedMemory, process.pid, detail);
    }
}
