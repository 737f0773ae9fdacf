//! What is reported.

use std::{collections::HashSet, fmt};

/// Most reports of one inspection. The last one says so if there would be more.
const BLOCKERS_MAX: usize = 200;

/// Longest text of one report, in characters. Paths in it may be very long.
const DETAIL_CHARS_MAX: usize = 1000;

/// What stands in the way. New ones are added at the end of their group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An io_uring instance.
    IoUring,
    /// A userfaultfd held by the workload itself.
    Userfaultfd,
    /// A performance counter.
    PerfEvent,
    /// A BPF program, map or link.
    Bpf,
    /// A device file, open or mapped.
    Device,
    /// Another descriptor that CRIU has no support for.
    Descriptor,
    /// A descriptor of a process outside of the workload.
    Pidfd,
    /// A process or thread that somebody traces.
    Traced,
    /// A namespace of its own below the root process.
    Namespace,
    /// The root process is in somebody else's session.
    Session,
    /// A terminal whose other side is outside of the workload.
    Terminal,
    /// A process in a state that CRIU cannot describe.
    ProcessState,
    /// A process that the workload started and that is not below its root process any more.
    Orphan,
    /// Established TCP connections.
    TcpConnection,
    /// A socket of a family or protocol that CRIU has no support for.
    Socket,
    /// A Unix socket connected to somebody outside of the workload.
    UnixSocket,
    /// A pipe whose other end is outside of the workload.
    Pipe,
    /// SysV shared memory in the machine's own IPC namespace.
    SysvShm,
    /// A mapping that CRIU has no support for.
    Mapping,
    /// Memory that is captured and restored while the workload stands still.
    PinnedMemory,
    /// A file or directory that may not exist where the workload is restored.
    File,
    /// A file without a name that is too large for the images.
    UnlinkedFile,
    /// A preserved path that cannot travel as it is.
    Preserve,
    /// Something that could not be looked at.
    Unknown,
}

impl Kind {
    /// The short name, as in the API: lower case, words joined by `-`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IoUring => "io-uring",
            Self::Userfaultfd => "userfaultfd",
            Self::PerfEvent => "perf-event",
            Self::Bpf => "bpf",
            Self::Device => "device",
            Self::Descriptor => "descriptor",
            Self::Pidfd => "pidfd",
            Self::Traced => "traced",
            Self::Namespace => "namespace",
            Self::Session => "session",
            Self::Terminal => "terminal",
            Self::ProcessState => "process-state",
            Self::Orphan => "orphan",
            Self::TcpConnection => "tcp-connection",
            Self::Socket => "socket",
            Self::UnixSocket => "unix-socket",
            Self::Pipe => "pipe",
            Self::SysvShm => "sysv-shm",
            Self::Mapping => "mapping",
            Self::PinnedMemory => "pinned-memory",
            Self::File => "file",
            Self::UnlinkedFile => "unlinked-file",
            Self::Preserve => "preserve",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// What it is.
    pub kind: Kind,
    /// The process concerned, as this process numbers it.
    pub pid: u32,
    /// What was found and what to do, in words.
    pub detail: String,
    /// Whether a checkpoint is bound to fail. Otherwise something is lost or changed by it.
    pub fatal: bool,
}

/// Collects reports, each once, up to the limit.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    found: Vec<Blocker>,
    seen: HashSet<(Kind, String)>,
    left_out: usize,
}

impl Findings {
    /// Something that a checkpoint fails on.
    pub(crate) fn fatal(&mut self, kind: Kind, pid: u32, detail: String) {
        self.add(Blocker {
            kind,
            pid,
            detail,
            fatal: true,
        });
    }

    /// Something that is lost or changed.
    pub(crate) fn note(&mut self, kind: Kind, pid: u32, detail: String) {
        self.add(Blocker {
            kind,
            pid,
            detail,
            fatal: false,
        });
    }

    fn add(&mut self, mut blocker: Blocker) {
        blocker.detail = printable(&blocker.detail);
        if !self.seen.insert((blocker.kind, blocker.detail.clone())) {
            return;
        }
        // A fatal one is never lost to a list full of notes.
        let notes = self.found.iter().rposition(|other| !other.fatal);
        match (self.found.len() < BLOCKERS_MAX, blocker.fatal, notes) {
            (true, _, _) => self.found.push(blocker),
            (false, true, Some(note)) => {
                self.found[note] = blocker;
                self.left_out += 1;
            }
            (false, _, _) => self.left_out += 1,
        }
        if self.seen.len() > BLOCKERS_MAX * 10 {
            self.seen.clear();
        }
    }

    /// All reports: fatal ones first, then by kind and process.
    pub(crate) fn done(mut self, root: u32) -> Vec<Blocker> {
        self.found
            .sort_by_key(|blocker| (!blocker.fatal, blocker.kind, blocker.pid));
        if self.left_out > 0 {
            self.found.push(Blocker {
                kind: Kind::Unknown,
                pid: root,
                detail: format!("{} more findings are not shown", self.left_out),
                fatal: false,
            });
        }
        self.found
    }
}

/// Names in a text are the workload's: they must not steer a terminal, nor fill a screen.
fn printable(text: &str) -> String {
    let shown = text.chars().map(|c| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    });
    let mut out: String = shown.take(DETAIL_CHARS_MAX).collect();
    if text.chars().nth(DETAIL_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_steer_a_terminal_or_fill_it() {
        let mut findings = Findings::default();
        findings.note(Kind::File, 1, format!("\x1b[2J\n{}", "é".repeat(5000)));
        let detail = findings.done(1).remove(0).detail;
        assert!(detail.starts_with("\u{fffd}[2J\u{fffd}é") && detail.ends_with("é…"));
        assert_eq!(detail.chars().count(), DETAIL_CHARS_MAX + 1);
    }

    #[test]
    fn fatal_findings_are_never_crowded_out() {
        let mut findings = Findings::default();
        for n in 0..BLOCKERS_MAX + 5 {
            findings.note(Kind::File, 1, n.to_string());
        }
        findings.note(Kind::File, 1, "0".to_owned());
        findings.fatal(Kind::IoUring, 2, "ring".to_owned());
        let done = findings.done(1);
        assert_eq!(done.len(), BLOCKERS_MAX + 1);
        assert!(done[0].fatal && done[0].kind == Kind::IoUring);
        assert!(
            done[BLOCKERS_MAX].detail.starts_with("6 more"),
            "{:?}",
            done[BLOCKERS_MAX]
        );
    }
}
