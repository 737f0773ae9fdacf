//! What was captured of the pages of an address space, as hashes: a page that hashes to the same
//! needs no capture.
//!
//! Takes 17 bytes for each page, and a little for each 256 KiB that any is known of.

use std::{collections::BTreeMap, sync::LazyLock};

use highway::{HighwayHash as _, HighwayHasher, Key};
use lifeboat_proto::units::{PAGE_BYTES, PageIndex, PageRun};

/// Pages whose hashes are kept together.
const BLOCK: u64 = 64;

/// As long as the process.
static KEY: LazyLock<Key> = LazyLock::new(|| Key(rand::random()));

/// The hashes of a block.
type Hashes = [Option<ContentHash>; 64];

/// A keyed hash of 128 bits (HighwayHash: Alakuijala and others, "Fast keyed hash/pseudo-random function
/// using SIMD multiply and permute", 2016). The key is the process's own and nobody sees a hash: not
/// even a program that tries to makes two contents that share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentHash([u8; 16]);

impl ContentHash {
    /// The hash of a page's content.
    #[must_use]
    pub fn of(content: &[u8; PAGE_BYTES]) -> Self {
        let [low, high] = HighwayHasher::new(*KEY).hash128(content);
        let mut hash = [0; 16];
        hash[..8].copy_from_slice(&low.to_ne_bytes());
        hash[8..].copy_from_slice(&high.to_ne_bytes());
        Self(hash)
    }
}

/// The hashes of what was captured.
#[derive(Debug, Default)]
pub struct Contents {
    blocks: BTreeMap<u64, Box<Hashes>>,
    pages: u64,
}

impl Contents {
    /// Nothing is known.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            blocks: BTreeMap::new(),
            pages: 0,
        }
    }

    /// A page was captured with this content.
    pub fn set(&mut self, page: PageIndex, hash: ContentHash) {
        let (block, at) = place(page.0);
        let hashes = self
            .blocks
            .entry(block)
            .or_insert_with(|| Box::new([None; 64]));
        self.pages += u64::from(hashes[at].is_none());
        hashes[at] = Some(hash);
    }

    /// What was captured of a page.
    #[must_use]
    pub fn get(&self, page: PageIndex) -> Option<ContentHash> {
        let (block, at) = place(page.0);
        self.blocks.get(&block)?[at]
    }

    /// Number of pages that are known.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// Forgets what was captured of the pages of a run.
    pub fn forget(&mut self, run: PageRun) {
        if run.is_empty() {
            return;
        }
        let inside = run.start.0 / BLOCK..=(run.end().0 - 1) / BLOCK;
        let mut empty = Vec::new();
        for (block, hashes) in self.blocks.range_mut(inside) {
            for (page, known) in (block * BLOCK..).zip(hashes.iter_mut()) {
                if run.contains(PageIndex(page)) && known.take().is_some() {
                    self.pages -= 1;
                }
            }
            if hashes.iter().all(Option::is_none) {
                empty.push(*block);
            }
        }
        for block in empty {
            self.blocks.remove(&block);
        }
    }
}

/// The block of a page, and its place there.
fn place(page: u64) -> (u64, usize) {
    let at = usize::try_from(page % BLOCK).expect("less than a block");
    (page / BLOCK, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(byte: u8) -> ContentHash {
        ContentHash::of(&[byte; PAGE_BYTES])
    }

    #[test]
    fn what_is_forgotten_is_not_known_and_takes_no_memory() {
        let mut contents = Contents::new();
        for page in 60..70 {
            contents.set(PageIndex(page), hash(1));
        }
        contents.set(PageIndex(61), hash(2));
        assert_eq!(contents.get(PageIndex(61)), Some(hash(2)));
        assert_eq!(contents.pages(), 10);
        contents.forget(PageRun::new(PageIndex(0), 64));
        assert_eq!(contents.get(PageIndex(61)), None);
        assert_eq!(contents.get(PageIndex(64)), Some(hash(1)));
        assert_eq!((contents.pages(), contents.blocks.len()), (6, 1));
        contents.forget(PageRun::new(PageIndex(0), 1 << 40));
        assert_eq!((contents.pages(), contents.blocks.len()), (0, 0));
    }

    #[test]
    fn different_contents_differ() {
        assert_ne!(hash(1), hash(2));
    }
}
