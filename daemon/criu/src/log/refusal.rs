//! What CRIU 4.2 is known to refuse, and the words of its log by which it is recognised.

/// What CRIU cannot do, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// A process uses io_uring.
    IoUring,
    /// A process handles page faults itself.
    Userfaultfd,
    /// A descriptor of a kind that CRIU does not know.
    UnsupportedFile,
    /// A process is traced by a debugger.
    Traced,
    /// A process below the first one is in namespaces of its own.
    NestedNamespace,
    /// Two processes share their memory (`CLONE_VM`), and are not threads of one.
    SharedAddressSpace,
    /// A process belongs to a session that began outside of the tree's PID namespace.
    OutsideSession,
    /// A zombie with threads, a dead thread, or a thread that is stopped on its own.
    OddThread,
    /// An established TCP connection, and no policy for it.
    TcpConnection,
    /// A socket of a protocol that CRIU does not know (MPTCP, for one).
    UnsupportedSocket,
    /// A file lock that is shared with a process outside of the tree.
    FileLock,
    /// A file that was opened in another mount namespace.
    OutsideMount,
    /// An unlinked file larger than the limit.
    UnlinkedFileTooBig,
    /// A file system monitor (inotify, fanotify) on a file that cannot be named.
    FileMonitor,
    /// System V shared memory of an IPC namespace that is not the tree's own.
    SysvSharedMemory,
    /// A pipe in packet mode.
    PacketPipe,
    /// A terminal that belongs to a session outside of the tree.
    OutsideTerminal,
    /// A Unix socket whose peer is outside of the tree.
    OutsideUnixSocket,
    /// The tree could not be frozen in time.
    FreezeTimeout,
    /// A file that the processes have open is not there.
    MissingFile,
    /// A file that the processes have open is not the one it was.
    ChangedFile,
    /// A process number is taken.
    PidTaken,
    /// This CPU lacks what the processes may use.
    Cpu,
    /// The mappings do not fit (`vm.overcommit_memory=1` helps).
    Memory,
    /// An address or port is taken, or is not this machine's.
    Address,
    /// This kernel or container does not allow userfaultfd.
    LazyPagesUnavailable,
    /// CRIU lacks a capability.
    Permission,
    /// The page filter did not understand CRIU, or lost the daemon.
    Filter,
    /// The daemon took the images or the verdict away: an abort.
    Aborted,
}

/// Words of a log line, and what they mean. The first match of the first line that matches counts;
/// special ones come before general ones.
const KNOWN: [(&str, Refusal); 47] = [
    ("anon_inode:[io_uring]", Refusal::IoUring),
    // The kernel (6.7) refuses to send these descriptors, and only these, over a socket.
    ("send_fds failed (-22)", Refusal::IoUring),
    ("anon_inode:[userfaultfd]", Refusal::Userfaultfd),
    ("Unseizable non-zombie", Refusal::Traced),
    ("Can't dump nested", Refusal::NestedNamespace),
    ("Can't make VM id", Refusal::SharedAddressSpace),
    ("is outside of its pid namespace", Refusal::OutsideSession),
    ("is not a session leader", Refusal::OutsideSession),
    ("Zombies with threads", Refusal::OddThread),
    ("Zombie thread not supported", Refusal::OddThread),
    ("Individually stopped threads", Refusal::OddThread),
    ("Connected TCP socket", Refusal::TcpConnection),
    ("In-flight connection", Refusal::TcpConnection),
    ("Failed to lock TCP connection", Refusal::TcpConnection),
    ("Unsupported proto", Refusal::UnsupportedSocket),
    ("inet socket", Refusal::Address),
    ("Some file locks are hold", Refusal::FileLock),
    ("Unresolved lock found", Refusal::FileLock),
    ("file lock failed", Refusal::FileLock),
    ("Can't lookup mount=", Refusal::OutsideMount),
    ("Can't dump ghost file", Refusal::UnlinkedFileTooBig),
    ("Can't dump that handle", Refusal::FileMonitor),
    ("doesn't live in IPC ns", Refusal::SysvSharedMemory),
    ("packetized mode for pipes", Refusal::PacketPipe),
    ("Found dangling tty", Refusal::OutsideTerminal),
    (
        "Don't have tty to inherit session",
        Refusal::OutsideTerminal,
    ),
    ("external socket", Refusal::OutsideUnixSocket),
    ("Can't dump half of stream unix", Refusal::OutsideUnixSocket),
    ("Timeout reached", Refusal::FreezeTimeout),
    ("has bad size", Refusal::ChangedFile),
    ("has bad mode", Refusal::ChangedFile),
    ("has bad build-ID", Refusal::ChangedFile),
    ("Can't open file", Refusal::MissingFile),
    ("Can't fork for", Refusal::PidTaken),
    ("do not match run time", Refusal::Cpu),
    ("FPU feature required by image", Refusal::Cpu),
    ("CPU x", Refusal::Cpu),
    ("Unable to map ANON_VMA", Refusal::Memory),
    ("Cannot allocate memory", Refusal::Memory),
    (
        "Unable to open an userfaultfd",
        Refusal::LazyPagesUnavailable,
    ),
    ("needs CAP_", Refusal::Permission),
    ("capability", Refusal::Permission),
    ("pagemap-cache: PAGEMAP_SCAN", Refusal::Filter),
    ("image streamer", Refusal::Aborted),
    ("Broken pipe", Refusal::Aborted),
    ("(lifeboat-hook)", Refusal::Aborted),
    ("Can't dump file", Refusal::UnsupportedFile),
];

impl Refusal {
    /// Whether it may be gone when the same is tried again soon.
    #[must_use]
    pub fn may_pass(self) -> bool {
        matches!(
            self,
            Self::Traced
                | Self::OddThread
                | Self::FreezeTimeout
                | Self::PidTaken
                | Self::Memory
                | Self::Filter
                | Self::Aborted
        )
    }

    /// What a line of a log says, if it is known.
    pub(super) fn of(line: &str) -> Option<Self> {
        KNOWN
            .iter()
            .find(|(words, _)| line.contains(words))
            .map(|(_, refusal)| *refusal)
    }

    /// The sentence for people: what is the matter, and what to do.
    #[expect(clippy::too_many_lines, reason = "one sentence for each")]
    pub(super) fn sentence(self) -> &'static str {
        match self {
            Self::IoUring => "a process uses io_uring, which cannot be captured; turn it off there",
            Self::Userfaultfd => {
                "a process handles page faults itself (userfaultfd), which cannot be captured"
            }
            Self::UnsupportedFile => {
                "a process has a descriptor open of a kind that cannot be captured"
            }
            Self::Traced => "a process is traced by a debugger; detach it",
            Self::NestedNamespace => {
                "a process is in namespaces of its own below the workload's, which cannot be captured"
            }
            Self::SharedAddressSpace => {
                "two processes share their memory (CLONE_VM), which cannot be captured"
            }
            Self::OutsideSession => {
                "a process belongs to a session that began outside of the workload; start it with setsid"
            }
            Self::OddThread => {
                "a process has a dead or separately stopped thread; try again when it is gone"
            }
            Self::TcpConnection => {
                "an established TCP connection is in the way; choose to close or to keep connections"
            }
            Self::UnsupportedSocket => {
                "a process has a socket of a protocol that cannot be captured (for MPTCP in Go: GODEBUG=multipathtcp=0)"
            }
            Self::FileLock => "a file lock is shared with a process outside of the workload",
            Self::OutsideMount => {
                "a process has a file open from outside of its mount namespace; close it before the workload starts"
            }
            Self::UnlinkedFileTooBig => {
                "a process has an unlinked file open that is larger than the limit"
            }
            Self::FileMonitor => {
                "a process watches a file (inotify or fanotify) that cannot be named again"
            }
            Self::SysvSharedMemory => {
                "a process uses System V shared memory of an IPC namespace that is not the workload's own"
            }
            Self::PacketPipe => "a process has a pipe in packet mode, which cannot be captured",
            Self::OutsideTerminal => {
                "a process has a terminal that belongs to a session outside of the workload"
            }
            Self::OutsideUnixSocket => {
                "a process has a Unix socket whose peer is outside of the workload"
            }
            Self::FreezeTimeout => {
                "the workload could not be frozen in time; a process may be stuck in the kernel"
            }
            Self::MissingFile => {
                "a file that the workload has open is missing here; preserve it, or mount it"
            }
            Self::ChangedFile => {
                "a file that the workload has open is not the one it was at the checkpoint"
            }
            Self::PidTaken => {
                "a process number of the workload is taken here; restore into a fresh hold"
            }
            Self::Cpu => "this machine's CPU lacks features that the checkpoint's machine had",
            Self::Memory => {
                "the workload's mappings do not fit into this machine; vm.overcommit_memory=1 allows large reservations"
            }
            Self::Address => {
                "an address or port that the workload uses is taken here, or is not this machine's"
            }
            Self::LazyPagesUnavailable => {
                "userfaultfd is not allowed here; it needs CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1"
            }
            Self::Permission => "criu lacks a capability that it needs",
            Self::Filter => "the page filter could not answer criu",
            Self::Aborted => "criu was told to give up",
        }
    }
}
