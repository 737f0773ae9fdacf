//! Pages that say what they must contain.

/// Bytes of a page.
pub(super) const PAGE_BYTES: usize = 4096;

/// Words of a page.
const PAGE_WORDS: usize = PAGE_BYTES / 8;

/// A part of the memory, changed by one thread. The first word of a page counts its changes; the
/// others follow from this count and the page's place.
#[derive(Debug)]
pub(super) struct Part {
    words: Vec<u64>,
    changes: Vec<u32>,
    seed: u64,
    noisy: usize,
    random: u64,
}

/// One step of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
fn mixed(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Part {
    /// Memory of `size` bytes, of which `entropy` percent do not compress.
    pub(super) fn fill(index: u64, size: u64, entropy: u8) -> Self {
        let pages = usize::try_from(size).unwrap_or(usize::MAX) / PAGE_BYTES;
        let noisy = 1 + (PAGE_WORDS - 1) * usize::from(entropy) / 100;
        let mut part = Self {
            words: vec![0; pages * PAGE_WORDS],
            changes: vec![0; pages],
            seed: index << 40,
            noisy,
            random: index,
        };
        for page in 0..pages {
            part.write(page);
        }
        part
    }

    pub(super) fn pages(&self) -> usize {
        self.changes.len()
    }

    /// What a page must contain.
    fn content(&self, page: usize) -> impl Iterator<Item = u64> + use<> {
        let count = u64::from(self.changes[page]);
        let place = self.seed + page as u64;
        let mut state = place ^ (count << 48);
        let noisy = self.noisy;
        (0..PAGE_WORDS).map(move |word| match word {
            0 => count,
            _ if word < noisy => mixed(&mut state),
            _ => place,
        })
    }

    fn write(&mut self, page: usize) {
        let content = self.content(page);
        let words = &mut self.words[page * PAGE_WORDS..(page + 1) * PAGE_WORDS];
        for (word, value) in words.iter_mut().zip(content) {
            *word = value;
        }
    }

    fn check(&self, page: usize) -> Result<(), String> {
        let words = &self.words[page * PAGE_WORDS..(page + 1) * PAGE_WORDS];
        match words
            .iter()
            .copied()
            .zip(self.content(page))
            .position(|(is, must)| is != must)
        {
            None => Ok(()),
            Some(word) => Err(format!(
                "page {page} of part {:#x}: word {word} differs",
                self.seed
            )),
        }
    }

    /// Changes one of the first `hot` pages, after a look whether it is right.
    pub(super) fn change_one(&mut self, hot: usize) -> Result<(), String> {
        let page = usize::try_from(mixed(&mut self.random)).unwrap_or(usize::MAX) % hot;
        self.check(page)?;
        self.changes[page] = self.changes[page].wrapping_add(1);
        self.write(page);
        Ok(())
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

    #[test]
    fn a_changed_bit_is_found_wherever_it_is() {
        for place in [0, 1, PAGE_WORDS - 1, PAGE_WORDS * 3 + 100] {
            let mut part = Part::fill(3, 4 * PAGE_BYTES as u64, 50);
            for _ in 0..100 {
                part.change_one(4).unwrap();
            }
            assert_eq!(part.verify(), Ok(4 * PAGE_BYTES as u64));
            part.words[place] ^= 1;
            assert!(part.verify().is_err());
        }
    }

    #[test]
    fn an_older_version_of_a_page_is_found() {
        let mut part = Part::fill(0, PAGE_BYTES as u64, 0);
        let old = part.words.clone();
        part.change_one(1).unwrap();
        part.words = old;
        assert!(part.verify().is_err());
    }
}
