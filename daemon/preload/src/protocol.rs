//! What the page filter, the hook and the daemon say to each other. Compiled into all three.
//!
//! **Filter** (a `SOCK_SEQPACKET` socket that CRIU inherits; numbers in the machine's byte order,
//! since both ends are on one machine): the filter sends `QUESTION_MAGIC, kind` (two u32), `a, b`
//! (two u64); the answer begins with one message `ANSWER_MAGIC, errno` (two u32), `count` (u64).
//! With `errno` not 0, `count` is 0 and CRIU's system call fails with it.
//!
//! | kind | `a`, `b` | what follows |
//! |---|---|---|
//! | [`ASK_PROCESS`] | PID, 0 | `count` hidden ranges of addresses |
//! | [`ASK_OBJECT`] | device, inode | `count` hidden ranges of offsets in a shared memory object |
//! | [`ASK_SMAPS`] | PID, 0 | nothing; `count` is 1 if the answer carries a descriptor of what to read as `/proc/PID/smaps`, 0 if the file itself is to be read |
//!
//! Ranges are `start, end` (two u64), ascending and disjoint, in messages of
//! [`RANGES_PER_MESSAGE`] (the last one shorter).
//!
//! **Hook** (a stream socket, `hook.sock` in the work directory): the hook sends one line: a state,
//! [`STATE_FIRST`] or [`STATE_AGAIN`], a space, the action's name. Then the daemon sends verdicts,
//! one byte each; the hook answers [`VERDICT_COMMITTING`] with [`ACK_COMMITTING`], and ends on the
//! others.

/// Environment: number of the inherited descriptor of the filter's socket.
pub(crate) const ENV_FILTER_FD: &str = "LIFEBOAT_FILTER_FD";
/// Environment: path of the hook's socket.
pub(crate) const ENV_HOOK_SOCKET: &str = "LIFEBOAT_HOOK_SOCKET";
/// Environment: set when the tree is resumed whatever becomes of the commit.
pub(crate) const ENV_LEAVE_RUNNING: &str = "LIFEBOAT_LEAVE_RUNNING";

/// First word of a question.
pub(crate) const QUESTION_MAGIC: u32 = 0x3251_424c;
/// First word of an answer.
pub(crate) const ANSWER_MAGIC: u32 = 0x3241_424c;
/// Kind of a question: hidden pages of a process.
pub(crate) const ASK_PROCESS: u32 = 1;
/// Kind of a question: hidden pages of a shared memory object.
pub(crate) const ASK_OBJECT: u32 = 2;
/// Kind of a question: the mappings of a process.
pub(crate) const ASK_SMAPS: u32 = 3;
/// Size of a question, in bytes.
pub(crate) const QUESTION_BYTES: usize = 24;
/// Size of an answer's first message, in bytes.
pub(crate) const ANSWER_BYTES: usize = 16;
/// Size of one range, in bytes.
pub(crate) const RANGE_BYTES: usize = 16;
/// Most ranges in one message.
pub(crate) const RANGES_PER_MESSAGE: usize = 1024;
/// Most ranges in one answer: 16 MiB.
pub(crate) const RANGES_MAX: usize = 1 << 20;

/// The hook's state: it has just been started.
pub(crate) const STATE_FIRST: &str = "first";
/// The hook's state: it lost its daemon after [`VERDICT_COMMITTING`].
pub(crate) const STATE_AGAIN: &str = "again";
/// Longest line of a hook, in bytes.
pub(crate) const HOOK_LINE_BYTES_MAX: usize = 64;

/// Verdict: a commit is being attempted.
pub(crate) const VERDICT_COMMITTING: u8 = b'C';
/// Verdict: go on (kill or resume, as CRIU was asked; in a restore: let the tree run).
pub(crate) const VERDICT_RELEASE: u8 = b'R';
/// Verdict: give up (the tree runs on; in a restore: it is killed).
pub(crate) const VERDICT_ABORT: u8 = b'A';
/// The hook's answer to [`VERDICT_COMMITTING`].
pub(crate) const ACK_COMMITTING: u8 = b'c';
