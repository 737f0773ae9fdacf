//! The hold, run as users run it: the real program, with a daemon that is played by the test.
//!
//! What the daemon would do as root (namespaces, a restore) is done with unshare(1) and nsenter(1);
//! these tests run as root, like the daemon's.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed step fails the test"
)]

mod daemon;
mod in_place;
mod program;
mod registered;
mod restored;
mod spawned;
mod terminal;
