//! A thread that is stopped inside a restartable sequence must not finish it.

use std::{
    arch::asm,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use lifeboat_sys::{pidfd::Pidfd, remote};
use rustix::mm::MapFlags;

use crate::support::{self, Memory, PATIENCE};

// glibc (2.35 and later) registers an area for each thread and tells where it is.
unsafe extern "C" {
    static __rseq_offset: isize;
    static __rseq_size: u32;
}

/// The signature glibc registers on x86-64; it must precede the abort handler.
const SIGNATURE: u32 = 0x5305_3053;

/// How a sequence ended, as the code below says it.
const ABORTED: u64 = 1;
const UNPROTECTED: u64 = 2;

/// What the spinning thread tells.
struct Counters<'a> {
    /// Set to end it.
    stop: &'a AtomicU64,
    /// Times a sequence was aborted.
    aborted: &'a AtomicU64,
    /// Times the kernel did not know any more that a thread was in one: a violation.
    unprotected: &'a AtomicU64,
}

/// The pointer to the current sequence in this thread's area.
fn current_sequence() -> *mut u64 {
    let thread: *mut u8;
    // SAFETY: the first word of the thread's control block is its own address (System V ABI).
    unsafe { asm!("mov {}, fs:0", out(reg) thread, options(nostack, preserves_flags)) };
    // SAFETY: a constant of the C library, set before main.
    let offset = unsafe { __rseq_offset };
    thread.wrapping_offset(offset).wrapping_add(8).cast()
}

/// Spins in a sequence until told to stop, again and again from the start when aborted.
fn spin(counters: &Counters<'_>) {
    let current = current_sequence();
    loop {
        let outcome: u64;
        // SAFETY: a sequence as rseq(2) wants it: the descriptor names its beginning, its length
        // and the abort handler, before which is the signature. It reads one word of memory.
        unsafe {
            asm!(
                ".pushsection __rseq_cs, \"aw\"",
                ".balign 32",
                "5:",
                ".long 0, 0",
                ".quad 2f, 3f - 2f, 4f",
                ".popsection",
                "lea {scratch}, [rip + 5b]",
                "xor {outcome:e}, {outcome:e}",
                "mov [{current}], {scratch}",
                "2:",
                // Inside of the sequence the kernel never forgets it.
                "cmp qword ptr [{current}], 0",
                "je 7f",
                "cmp qword ptr [{stop}], 0",
                "je 2b",
                "3:",
                "jmp 6f",
                "7:",
                "mov {outcome:e}, 2",
                "jmp 6f",
                // A trapping instruction whose operand is the signature.
                ".byte 0x0f, 0xb9, 0x3d",
                ".long {signature}",
                "4:",
                "mov {outcome:e}, 1",
                "6:",
                scratch = out(reg) _,
                outcome = out(reg) outcome,
                current = in(reg) current,
                stop = in(reg) counters.stop.as_ptr(),
                signature = const SIGNATURE,
                options(nostack),
            );
        }
        match outcome {
            ABORTED => {
                counters.aborted.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            UNPROTECTED => {
                counters.unprotected.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        // SAFETY: this thread's area; the sequence is over.
        unsafe { current.write_volatile(0) };
        return;
    }
}

#[test]
fn a_sequence_is_aborted_by_an_injection() {
    // SAFETY: a constant of the C library, set before main.
    let size = unsafe { __rseq_size };
    assert!(size > 0, "glibc registers no rseq area here");
    let shared = Memory::with_flags(1, MapFlags::SHARED);
    let words: *mut u64 = shared.pointer().cast();
    // SAFETY: words of memory shared with the child, zero at first.
    let word = |index: usize| unsafe { AtomicU64::from_ptr(words.wrapping_add(index)) };
    let (stop, aborted, unprotected) = (word(0), word(1), word(2));
    for _ in 0..30 {
        stop.store(0, Ordering::Relaxed);
        let mut child = support::fork_with(|parent| {
            parent.send(0);
            spin(&Counters {
                stop,
                aborted,
                unprotected,
            });
            parent.send(0);
        });
        child.receive();
        let process = Pidfd::open(child.pid).unwrap();
        remote::inject_userfaultfd(&process, Instant::now() + PATIENCE).unwrap();
        stop.store(1, Ordering::Relaxed);
        child.receive();
        child.assert_success();
    }
    assert!(aborted.load(Ordering::Relaxed) > 0);
    assert_eq!(unprotected.load(Ordering::Relaxed), 0);
}
