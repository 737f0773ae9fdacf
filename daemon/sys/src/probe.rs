//! What this kernel, with the privileges of this process, allows. Looked at once, at start.
//!
//! Nothing is guessed from version numbers: each finding is the outcome of trying it on this
//! process, without any effect on others.

use std::{fmt, fs, io, os::fd::AsRawFd};

use lifeboat_proto::units::{PageIndex, PageRun, RemoteAddr};
use rustix::process::getpid;

use crate::{
    pagemap::{Entry, Pagemap, Query},
    pidfd::Pidfd,
    uffd::{Features, Uffd},
    vm::RemoteMemory,
};

/// A capability (capabilities(7)) that something here needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Capability {
    /// Change owners of files.
    Chown = 0,
    /// Configure networks; CRIU locks established connections with it.
    NetAdmin = 12,
    /// Trace, read and write other processes.
    SysPtrace = 19,
    /// Enter namespaces, mount, suspend seccomp filters.
    SysAdmin = 21,
    /// Raise limits.
    SysResource = 24,
    /// Choose process numbers (kernel 5.9).
    CheckpointRestore = 40,
}

/// Whether something works, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It does.
    Works,
    /// It does not.
    Missing {
        /// What the kernel said, as one line.
        why: String,
    },
}

/// What is there.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Release, as of uname(2).
    pub release: String,
    /// Architecture, in Rust's words (`x86_64`).
    pub architecture: &'static str,
    /// Size of a page, in bytes.
    pub page_size: u64,
    /// What the processor can do, in the words of `/proc/cpuinfo`.
    pub cpu_features: Vec<String>,
    /// Effective capabilities, as a bit mask.
    pub capabilities: u64,
    /// `PAGEMAP_SCAN` (kernel 6.7).
    pub pagemap_scan: Finding,
    /// userfaultfd(2) for faults of user mode.
    pub userfaultfd: Finding,
    /// What a userfaultfd can do here; empty without one.
    pub userfaultfd_features: Features,
    /// pidfd_open(2) and pidfd_getfd(2) (kernel 5.6).
    pub pidfd_getfd: Finding,
    /// process_vm_readv(2) and `/proc/PID/mem`.
    pub process_memory: Finding,
    /// Soft-dirty bits (`CONFIG_MEM_SOFT_DIRTY`).
    pub soft_dirty: Finding,
    /// clone3(2), which can choose process numbers.
    pub clone3: Finding,
    /// Time namespaces (kernel 5.6).
    pub time_namespaces: Finding,
    /// `/proc/PID/task/TID/children`.
    pub children_lists: Finding,
    /// `vm.overcommit_memory`: 0 heuristic, 1 always, 2 never.
    pub overcommit_memory: Option<u8>,
    /// `kernel.yama.ptrace_scope`; `None`: no such restriction.
    pub yama_ptrace_scope: Option<u8>,
}

impl Finding {
    /// Whether it works.
    #[must_use]
    pub const fn works(&self) -> bool {
        matches!(self, Self::Works)
    }

    fn of<T, E: std::error::Error>(result: Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Works,
            Err(error) => Self::Missing {
                why: one_line(&error),
            },
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works => f.write_str("works"),
            Self::Missing { why } => f.write_str(why),
        }
    }
}

impl Kernel {
    /// Looks.
    #[must_use]
    pub fn probe() -> Self {
        let (userfaultfd, userfaultfd_features) = userfaultfd();
        Self {
            release: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            architecture: std::env::consts::ARCH,
            page_size: page_size(),
            cpu_features: cpu_features(&read("/proc/cpuinfo")),
            capabilities: effective_capabilities(&read("/proc/thread-self/status")),
            pagemap_scan: pagemap_scan(),
            userfaultfd,
            userfaultfd_features,
            pidfd_getfd: pidfd_getfd(),
            process_memory: process_memory(),
            soft_dirty: soft_dirty(),
            clone3: clone3(),
            time_namespaces: Finding::of(fs::metadata("/proc/thread-self/ns/time")),
            children_lists: Finding::of(fs::metadata("/proc/thread-self/children")),
            overcommit_memory: number("/proc/sys/vm/overcommit_memory"),
            yama_ptrace_scope: number("/proc/sys/kernel/yama/ptrace_scope"),
        }
    }

    /// Whether writes can be tracked by asynchronous write protection.
    #[must_use]
    pub const fn tracks_writes(&self) -> bool {
        self.pagemap_scan.works() && self.userfaultfd_features.contains(Features::TRACKING)
    }

    /// Whether this process has a capability.
    #[must_use]
    pub const fn has(&self, capability: Capability) -> bool {
        self.capabilities >> capability as u8 & 1 == 1
    }
}

fn page_size() -> u64 {
    // SAFETY: sysconf(3) takes a number and has no effects.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(0)
}

fn pagemap_scan() -> Finding {
    let nothing = PageRun::new(PageIndex(1), 1);
    Finding::of(Pagemap::open(getpid()).and_then(|own| own.scan(nothing, &Query::DUMPABLE, |_| {})))
}

fn userfaultfd() -> (Finding, Features) {
    // SAFETY: nothing is registered with it.
    let created = unsafe { Uffd::for_this_process() };
    match created.and_then(|uffd| uffd.handshake(Features::NONE)) {
        Ok(features) => (Finding::Works, features),
        Err(error) => (
            Finding::Missing {
                why: one_line(&error),
            },
            Features::NONE,
        ),
    }
}

fn pidfd_getfd() -> Finding {
    let own = match Pidfd::open(getpid()) {
        Ok(own) => own,
        Err(error) => {
            return Finding::Missing {
                why: one_line(&error),
            };
        }
    };
    Finding::of(own.get_fd(own.as_raw_fd()))
}

fn process_memory() -> Finding {
    let known = [0x5a_u8; 16];
    let mut read = [0; 16];
    let at = RemoteAddr(known.as_ptr().expose_provenance() as u64);
    Finding::of(RemoteMemory::open(getpid()).and_then(|own| own.read(at, &mut read)))
}

/// A page that was just written is soft-dirty wherever there is such a thing.
fn soft_dirty() -> Finding {
    let written = std::hint::black_box(Box::new([1_u8; 64]));
    let at = RemoteAddr(written.as_ptr().expose_provenance() as u64);
    let mut entry = [Entry::default()];
    let read = Pagemap::open(getpid()).and_then(|own| own.entries(at.page(), &mut entry));
    match read {
        Ok(()) if entry[0].is_soft_dirty() => Finding::Works,
        Ok(()) => Finding::Missing {
            why: "this kernel has no soft-dirty bits".to_owned(),
        },
        Err(error) => Finding::Missing {
            why: one_line(&error),
        },
    }
}

/// The kernel refuses a struct of no size, if it knows the call.
fn clone3() -> Finding {
    // SAFETY: without a struct nothing is read and nothing is created.
    let result = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0_usize) };
    let error = io::Error::last_os_error();
    if result < 0 && error.raw_os_error() == Some(libc::EINVAL) {
        Finding::Works
    } else {
        Finding::Missing {
            why: one_line(&error),
        }
    }
}

fn cpu_features(cpuinfo: &str) -> Vec<String> {
    // x86 says flags, arm64 says Features.
    let line = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        matches!(key.trim(), "flags" | "Features").then_some(value)
    });
    line.map_or_else(Vec::new, |line| {
        line.split_ascii_whitespace().map(str::to_owned).collect()
    })
}

fn effective_capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok())
        .unwrap_or(0)
}

/// What cannot be read says nothing.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn number(path: &str) -> Option<u8> {
    read(path).trim().parse().ok()
}

/// An error with its causes.
fn one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_found_on_both_architectures() {
        assert_eq!(
            cpu_features("model name\t: x\nflags\t\t: fpu vme\n"),
            ["fpu", "vme"]
        );
        assert_eq!(cpu_features("Features\t: fp asimd\n"), ["fp", "asimd"]);
        assert!(cpu_features("").is_empty());
    }

    #[test]
    fn capabilities_are_those_in_effect() {
        let status = "CapPrm:\tffffffffffffffff\nCapEff:\t0000000000080000\n";
        assert_eq!(effective_capabilities(status), 1 << 19);
        assert_eq!(effective_capabilities("CapEff: x"), 0);
    }
}
