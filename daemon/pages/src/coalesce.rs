//! Which frames to read with one request.

use lifeboat_format::frame::FrameRef;

/// Most bytes of one ranged read (one frame may be larger). Object stores reach their best rate at
/// 8–16 MiB; a fault behind it on the same connection waits for at most this much.
pub const GET_BYTES_MAX: u64 = 8 << 20;

/// Most bytes between two frames that are read and thrown away rather than asked for around: what a
/// link of 1 Gbit/s carries in half a millisecond, less than any store's answering time.
pub const GAP_BYTES_MAX: u64 = 64 << 10;

/// One ranged read, and the frames in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    /// Index of the pack.
    pub(crate) pack: u32,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    /// Positions of the frames in what was asked for.
    pub(crate) wanted: Vec<usize>,
}

/// The reads for `frames`: neighbours together.
pub(crate) fn reads(frames: &[FrameRef]) -> Vec<Read> {
    let mut order: Vec<usize> = (0..frames.len()).collect();
    order.sort_by_key(|at| (frames[*at].pack, frames[*at].offset));
    let mut reads: Vec<Read> = Vec::new();
    for at in order {
        let frame = &frames[at];
        let range = frame.range();
        if let Some(read) = reads.last_mut() {
            let end = read.offset + read.bytes;
            let joined = range.end.max(end).saturating_sub(read.offset);
            let near = range.start <= end.saturating_add(GAP_BYTES_MAX);
            if read.pack == frame.pack && near && joined <= GET_BYTES_MAX {
                read.bytes = joined;
                read.wanted.push(at);
                continue;
            }
        }
        let bytes = u64::from(frame.stored_bytes);
        reads.push(Read {
            pack: frame.pack,
            offset: range.start,
            bytes,
            wanted: vec![at],
        });
    }
    reads
}

#[cfg(test)]
mod tests {
    use lifeboat_format::Codec;
    use proptest::prelude::*;

    use super::*;

    fn frame(pack: u32, offset: u64, stored_bytes: u32) -> FrameRef {
        FrameRef {
            pack,
            offset,
            stored_bytes,
            raw_bytes: stored_bytes,
            codec: Codec::Raw,
            digest: [0; 32],
        }
    }

    #[test]
    fn neighbours_are_read_together_and_others_are_not() {
        let frames = [
            frame(0, 200, 100),
            frame(1, 300, 100),
            frame(0, 100, 100),
            frame(0, 300 + GAP_BYTES_MAX, 100),
            frame(0, 401 + 2 * GAP_BYTES_MAX, 100),
        ];
        let reads = reads(&frames);
        let wanted: Vec<&[usize]> = reads.iter().map(|read| read.wanted.as_slice()).collect();
        assert_eq!(wanted, [&[2, 0, 3][..], &[4], &[1]]);
        assert_eq!(
            (reads[0].offset, reads[0].bytes),
            (100, 300 + GAP_BYTES_MAX)
        );
    }

    proptest! {
        #[test]
        fn every_frame_is_in_exactly_one_read(
            frames in proptest::collection::vec((0_u32..3, 0_u64..1 << 24, 1_u32..1 << 20), 0..40),
        ) {
            let frames: Vec<FrameRef> = frames.into_iter().map(|(p, o, b)| frame(p, o, b)).collect();
            let reads = reads(&frames);
            let mut seen = vec![0; frames.len()];
            for read in &reads {
                prop_assert!(read.bytes <= GET_BYTES_MAX || read.wanted.len() == 1);
                for at in &read.wanted {
                    seen[*at] += 1;
                    let range = frames[*at].range();
                    prop_assert_eq!(read.pack, frames[*at].pack);
                    prop_assert!(range.start >= read.offset && range.end <= read.offset + read.bytes);
                }
            }
            prop_assert!(seen.into_iter().all(|count| count == 1));
        }
    }
}
