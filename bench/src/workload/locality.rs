//! Which pages a program writes.

use clap::ValueEnum;

/// How writes are spread over the pages that change at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Locality {
    /// Each page as often as any other.
    #[default]
    Uniform,
    /// Self-similar: four of five writes go to the first fifth, and so on within it (Gray and others,
    /// "Quickly generating billion-record synthetic databases", 1994).
    Skewed,
    /// Nineteen of twenty writes go to the first twentieth, the others anywhere.
    HotSet,
}

/// One step of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
pub(crate) fn mixed(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Locality {
    /// One of `count` places; 0 if there is none.
    pub(crate) fn choose(self, random: &mut u64, count: usize) -> usize {
        let count = count.max(1);
        let place = usize::try_from(mixed(random) >> 1).unwrap_or(usize::MAX);
        match self {
            Self::Uniform => place % count,
            Self::Skewed => skewed(mixed(random), count),
            Self::HotSet if !mixed(random).is_multiple_of(20) => place % (count / 20).max(1),
            Self::HotSet => place % count,
        }
    }

    /// As it is typed.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Skewed => "skewed",
            Self::HotSet => "hot-set",
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place by chance, not below 0 and cut at the end"
)]
fn skewed(random: u64, count: usize) -> usize {
    let unit = (random >> 11) as f64 / (1_u64 << 53) as f64;
    let place = count as f64 * unit.powf(0.2_f64.ln() / 0.8_f64.ln());
    (place as usize).min(count - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a thousand choices among a hundred places, how many are below `end`.
    fn below(locality: Locality, end: usize) -> usize {
        let mut random = 1;
        let choose = |_| locality.choose(&mut random, 100);
        let all: Vec<usize> = (0..1000).map(choose).collect();
        assert!(all.iter().all(|place| *place < 100));
        all.iter().filter(|place| **place < end).count()
    }

    #[test]
    fn the_spread_is_what_it_is_called() {
        assert!((150..250).contains(&below(Locality::Uniform, 20)));
        assert!((760..840).contains(&below(Locality::Skewed, 20)));
        assert!((930..980).contains(&below(Locality::HotSet, 5)));
    }
}
