//! Pages that say what they must contain.

use std::io;

use lifeboat_format::{Effort, codec::Encoder, frame::FRAME_PAGES_MAX};
use lifeboat_sys::shared::SharedMemory;

use super::locality::{Locality, mixed};

/// Bytes of a page.
pub(super) const PAGE_BYTES: usize = 4096;

/// Words of a page.
const PAGE_WORDS: usize = PAGE_BYTES / 8;

/// A part of the memory, changed by one thread. The first word of a page counts its changes; the
/// others follow from this count and the page's place.
#[derive(Debug)]
pub(super) struct Part {
    words: Words,
    changes: Vec<u32>,
    content: Content,
    random: u64,
}

/// What the pages of a part are filled with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    /// Distinguishes the part from all others.
    pub seed: u64,
    /// Percent of a page that do not compress.
    pub entropy: u8,
    /// Whether a change is one of the first word only.
    pub touch: bool,
}

/// Where the pages are.
#[derive(Debug)]
enum Words {
    /// The allocator gives any address; what comes before the first page is not used.
    Private {
        words: Vec<u64>,
        skipped: usize,
    },
    Shared(SharedMemory),
}

impl Words {
    fn new(count: usize, is_shared: bool) -> io::Result<Self> {
        if is_shared && count > 0 {
            return SharedMemory::new(count).map(Self::Shared);
        }
        let words = vec![0_u64; count + PAGE_WORDS];
        let after = words.as_ptr().addr() % PAGE_BYTES;
        let skipped = (PAGE_BYTES - after) % PAGE_BYTES / size_of::<u64>();
        Ok(Self::Private { words, skipped })
    }

    fn get(&self) -> &[u64] {
        match self {
            Self::Private { words, skipped } => &words[*skipped..],
            Self::Shared(memory) => memory.words(),
        }
    }

    fn get_mut(&mut self) -> &mut [u64] {
        match self {
            Self::Private { words, skipped } => &mut words[*skipped..],
            Self::Shared(memory) => memory.words_mut(),
        }
    }
}

impl Content {
    /// What a page must contain after so many changes.
    fn of(self, page: usize, changes: u32) -> impl Iterator<Item = u64> + use<> {
        let count = u64::from(changes);
        let place = (self.seed << 40) + page as u64;
        let of_change = if self.touch { 0 } else { count << 48 };
        let mut state = place ^ of_change;
        let noisy = 1 + (PAGE_WORDS - 1) * usize::from(self.entropy) / 100;
        (0..PAGE_WORDS).map(move |word| match word {
            0 => count,
            _ if word < noisy => mixed(&mut state),
            _ => place,
        })
    }
}

impl Part {
    /// Memory of `size` bytes.
    pub(super) fn fill(content: Content, size: u64, is_shared: bool) -> io::Result<Self> {
        let pages = usize::try_from(size).unwrap_or(usize::MAX) / PAGE_BYTES;
        let words = pages * PAGE_WORDS;
        let mut part = Self {
            words: Words::new(words, is_shared)?,
            changes: vec![0; pages],
            content,
            random: content.seed,
        };
        for page in 0..pages {
            part.write(page);
        }
        Ok(part)
    }

    pub(super) fn pages(&self) -> usize {
        self.changes.len()
    }

    fn write(&mut self, page: usize) {
        let content = self.content.of(page, self.changes[page]);
        let words = &mut self.words.get_mut()[page * PAGE_WORDS..(page + 1) * PAGE_WORDS];
        for (word, value) in words.iter_mut().zip(content) {
            *word = value;
        }
    }

    fn check(&self, page: usize) -> Result<(), String> {
        let words = &self.words.get()[page * PAGE_WORDS..(page + 1) * PAGE_WORDS];
        let content = self.content.of(page, self.changes[page]);
        match words
            .iter()
            .copied()
            .zip(content)
            .position(|(is, must)| is != must)
        {
            None => Ok(()),
            Some(word) => Err(format!(
                "page {page} of part {}: word {word} differs",
                self.content.seed
            )),
        }
    }

    fn change(&mut self, page: usize) {
        self.changes[page] = self.changes[page].wrapping_add(1);
        if self.content.touch {
            self.words.get_mut()[page * PAGE_WORDS] = u64::from(self.changes[page]);
        } else {
            self.write(page);
        }
    }

    /// Changes one of the first `hot` pages, after a look whether it is right.
    pub(super) fn change_one(&mut self, hot: usize, locality: Locality) -> Result<(), String> {
        let page = locality.choose(&mut self.random, hot);
        if !self.content.touch {
            self.check(page)?;
        }
        self.change(page);
        Ok(())
    }

    /// `bytes` of pages, each once, ascending, chosen at random.
    fn some(&mut self, bytes: u64) -> Vec<usize> {
        let all = self.pages();
        let wanted = usize::try_from(bytes).unwrap_or(usize::MAX) / PAGE_BYTES;
        let wanted = wanted.min(all);
        let mut chosen = Vec::with_capacity(wanted);
        // Each page is taken with the probability that leaves the wanted number (Knuth's S).
        for page in 0..all {
            let left = (all - page) as u64;
            if mixed(&mut self.random) % left < (wanted - chosen.len()) as u64 {
                chosen.push(page);
            }
        }
        chosen
    }

    /// Changes `bytes` of random pages; with `same`, writes what is there already. Returns how many
    /// pages.
    pub(super) fn change_many(&mut self, bytes: u64, same: bool) -> u64 {
        let chosen = self.some(bytes);
        for page in &chosen {
            if same {
                self.write(*page);
            } else {
                self.change(*page);
            }
        }
        chosen.len() as u64
    }

    /// The size of `bytes` of random pages when they are compressed as the daemon does it by default.
    pub(super) fn compressed(&mut self, bytes: u64) -> u64 {
        let chosen = self.some(bytes);
        let mut encoder = Encoder::new();
        let (mut raw, mut payload) = (Vec::new(), Vec::new());
        let mut size = 0;
        for frame in chosen.chunks(FRAME_PAGES_MAX) {
            raw.clear();
            payload.clear();
            for page in frame {
                let words = &self.words.get()[page * PAGE_WORDS..(page + 1) * PAGE_WORDS];
                raw.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
            }
            encoder.encode(&raw, Effort::Balanced, &mut payload);
            size += payload.len() as u64;
        }
        size
    }

    /// Compares every page; returns how many bytes.
    pub(super) fn verify(&self) -> Result<u64, String> {
        (0..self.pages()).try_for_each(|page| self.check(page))?;
        Ok((self.pages() * PAGE_BYTES) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(size: u64, entropy: u8, touch: bool, is_shared: bool) -> Part {
        let content = Content {
            seed: 3,
            entropy,
            touch,
        };
        Part::fill(content, size, is_shared).unwrap()
    }

    #[test]
    fn a_changed_bit_is_found_wherever_it_is() {
        for (touch, is_shared) in [(false, false), (true, false), (false, true)] {
            for place in [0, 1, PAGE_WORDS - 1, PAGE_WORDS * 3 + 100] {
                let mut part = part(4 * PAGE_BYTES as u64, 50, touch, is_shared);
                for _ in 0..100 {
                    part.change_one(4, Locality::Uniform).unwrap();
                }
                assert_eq!(part.verify(), Ok(4 * PAGE_BYTES as u64));
                part.words.get_mut()[place] ^= 1;
                assert!(part.verify().is_err());
            }
        }
    }

    #[test]
    fn pages_are_those_of_the_machine() {
        for is_shared in [false, true] {
            let part = part(4 * PAGE_BYTES as u64, 50, false, is_shared);
            assert_eq!(part.words.get().as_ptr().addr() % PAGE_BYTES, 0);
        }
    }

    #[test]
    fn an_older_version_of_a_page_is_found() {
        let mut part = part(PAGE_BYTES as u64, 0, false, false);
        let old = part.words.get().to_vec();
        part.change_one(1, Locality::Uniform).unwrap();
        part.words.get_mut().copy_from_slice(&old);
        assert!(part.verify().is_err());
    }

    #[test]
    fn as_many_pages_change_as_were_asked_for() {
        let mut part = part(256 * PAGE_BYTES as u64, 100, false, false);
        let before = part.words.get().to_vec();
        let pages = part.change_many(100 * PAGE_BYTES as u64, false);
        let differ = |page: &usize| {
            let range = page * PAGE_WORDS..(page + 1) * PAGE_WORDS;
            part.words.get()[range.clone()] != before[range]
        };
        assert_eq!((pages, (0..256).filter(differ).count()), (100, 100));
        let compressed = part.compressed(100 * PAGE_BYTES as u64);
        assert!(
            compressed >= 100 * PAGE_BYTES as u64,
            "noise stays as it is"
        );
        part.verify().unwrap();
        let before = part.words.get().to_vec();
        assert_eq!(part.change_many(1 << 30, true), 256);
        assert_eq!(part.words.get(), before);
    }
}
