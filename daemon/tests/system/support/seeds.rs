//! Seeds of tests that play with chance.

/// Seeds that every run has.
const FIXED: [u64; 2] = [1, 42];

/// The seeds of a test: fixed ones, and one that nobody has tried. `LIFEBOAT_TEST_SEED=N`: only that
/// one. Tests print the seed first, so that a failure can be had again.
pub(crate) fn seeds() -> Vec<u64> {
    if let Ok(text) = std::env::var("LIFEBOAT_TEST_SEED") {
        return vec![text.parse().expect("a seed is a number")];
    }
    let fresh = rand::random::<u32>();
    FIXED.into_iter().chain([fresh.into()]).collect()
}
