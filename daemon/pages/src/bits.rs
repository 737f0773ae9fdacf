//! A set of page numbers, one bit each.

use std::ops::Range;

/// Bits of a word.
const WORD: u32 = u64::BITS;

/// A fixed number of bits.
#[derive(Clone, Debug)]
pub(crate) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// `len` bits, all set.
    pub(crate) fn ones(len: u32) -> Self {
        let mut words = vec![u64::MAX; len.div_ceil(WORD) as usize];
        if let Some(last) = words.last_mut()
            && !len.is_multiple_of(WORD)
        {
            *last = (1 << (len % WORD)) - 1;
        }
        Self { words }
    }

    pub(crate) fn get(&self, at: u32) -> bool {
        self.words
            .get((at / WORD) as usize)
            .is_some_and(|word| word >> (at % WORD) & 1 == 1)
    }

    /// How many are set in `range`.
    pub(crate) fn count(&self, range: Range<u32>) -> u32 {
        masks(range)
            .map(|(word, mask)| (self.words[word] & mask).count_ones())
            .sum()
    }

    /// Clears `range`; answers how many were set.
    pub(crate) fn clear(&mut self, range: Range<u32>) -> u32 {
        let mut cleared = 0;
        for (word, mask) in masks(range) {
            cleared += (self.words[word] & mask).count_ones();
            self.words[word] &= !mask;
        }
        cleared
    }

    /// The stretches of set bits in `range`, ascending.
    pub(crate) fn runs(&self, range: Range<u32>) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut from = range.start;
        std::iter::from_fn(move || {
            let start = self.next(from..range.end, true)?;
            let end = self.next(start..range.end, false).unwrap_or(range.end);
            from = end;
            Some(start..end)
        })
    }

    /// The first bit of `range` that has `value`.
    fn next(&self, range: Range<u32>, value: bool) -> Option<u32> {
        masks(range).find_map(|(word, mask)| {
            let bits = if value {
                self.words[word]
            } else {
                !self.words[word]
            } & mask;
            let base = u32::try_from(word).ok()? * WORD;
            (bits != 0).then(|| base + bits.trailing_zeros())
        })
    }
}

/// The words that `range` touches, each with the mask of its bits.
fn masks(range: Range<u32>) -> impl Iterator<Item = (usize, u64)> {
    let (mut at, end) = (range.start, range.end);
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (word, first) = (at / WORD, at % WORD);
        let bits = (WORD - first).min(end - at);
        at += bits;
        let ones = if bits == WORD {
            u64::MAX
        } else {
            (1 << bits) - 1
        };
        Some((word as usize, ones << first))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_are_a_set_of_numbers(
            len in 0_u32..300,
            cuts in proptest::collection::vec((0_u32..300, 0_u32..300), 0..12),
            ask in (0_u32..300, 0_u32..300),
        ) {
            let mut bits = Bits::ones(len);
            let mut model: BTreeSet<u32> = (0..len).collect();
            for (a, b) in cuts {
                let range = a.min(b).min(len)..b.max(a).min(len);
                let gone: Vec<u32> = model.range(range.clone()).copied().collect();
                prop_assert_eq!(bits.clear(range) as usize, gone.len());
                for bit in gone {
                    model.remove(&bit);
                }
            }
            let range = ask.0.min(ask.1).min(len)..ask.1.max(ask.0).min(len);
            let expected: Vec<u32> = model.range(range.clone()).copied().collect();
            prop_assert_eq!(bits.count(range.clone()) as usize, expected.len());
            let runs: Vec<_> = bits.runs(range).collect();
            prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert_eq!(runs.into_iter().flatten().collect::<Vec<_>>(), expected);
            prop_assert!((0..len + 70).all(|bit| bits.get(bit) == model.contains(&bit)));
        }
    }
}
