//! Restartable sequences (rseq(2), `linux/rseq.h`).
//!
//! A thread that is interrupted inside a sequence must leave it by its abort handler. The kernel
//! sees to that when it returns to the sequence, but not for a thread that is sent elsewhere and
//! comes back: then it takes the sequence for left. So the address to come back to must be that of
//! the abort handler.

use lifeboat_proto::units::RemoteAddr;

use crate::vm::RemoteMemory;

/// Offset of the pointer to the current `struct rseq_cs` in a `struct rseq`.
const CURRENT: u64 = 8;

/// Size of a `struct rseq_cs`, in bytes.
const SEQUENCE_BYTES: usize = 32;

/// Where a thread at address `at`, whose `struct rseq` is at `area`, must go on. `None`: where it
/// is.
pub(super) fn abort_address(memory: &RemoteMemory, area: u64, at: u64) -> Option<u64> {
    let mut pointer = [0; 8];
    memory
        .read(RemoteAddr(area.checked_add(CURRENT)?), &mut pointer)
        .ok()?;
    let sequence = u64::from_ne_bytes(pointer);
    if sequence == 0 {
        return None;
    }
    let mut bytes = [0; SEQUENCE_BYTES];
    memory.read(RemoteAddr(sequence), &mut bytes).ok()?;
    abort_in(&bytes, at)
}

/// `struct rseq_cs`: version and flags (32 bits each), first address, length, abort handler.
fn abort_in(sequence: &[u8; SEQUENCE_BYTES], at: u64) -> Option<u64> {
    let (words, _) = sequence.as_chunks::<8>();
    let [_, start, length, abort] = [0, 1, 2, 3].map(|index| u64::from_ne_bytes(words[index]));
    (at.wrapping_sub(start) < length).then_some(abort)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_inside_of_a_sequence_is_it_aborted() {
        let words = [0_u64, 1000, 16, 5000];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let sequence = bytes.as_slice().try_into().unwrap();
        assert_eq!(abort_in(sequence, 1000), Some(5000));
        assert_eq!(abort_in(sequence, 1015), Some(5000));
        assert_eq!(abort_in(sequence, 1016), None);
        assert_eq!(abort_in(sequence, 999), None);
    }
}
