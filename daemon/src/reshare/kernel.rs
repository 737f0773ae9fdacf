//! The kernel's search for pages of the same content (`/sys/kernel/mm/ksm`,
//! Documentation/admin-guide/mm/ksm.rst).
//!
//! It is switched on for a while and put back as it was: what was merged stays merged. Where somebody
//! has it switched on already, it is left alone. If this daemon dies meanwhile, it stays switched on,
//! which costs a part of one processor and is found switched on by the next one.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

const FOLDER: &str = "/sys/kernel/mm/ksm";

/// Passes over all memory: a page is compared when it was found unchanged in the pass before.
const PASSES: u64 = 4;

/// Longest time for them.
const LONGEST: Duration = Duration::from_secs(120);

/// Time between looks how far it is.
const INTERVAL: Duration = Duration::from_millis(250);

/// Pages looked at in one go, and the rest after it in milliseconds: 1 GiB/s at most, a third of a
/// processor.
const PAGES_AT_ONCE: u64 = 5000;
const REST_MS: u64 = 20;

/// Why nothing is looked for.
#[derive(Debug, thiserror::Error)]
#[error("{what} {FOLDER}/{name}")]
pub(super) struct KernelError {
    what: &'static str,
    name: &'static str,
    #[source]
    source: io::Error,
}

fn read(name: &'static str) -> Result<u64, KernelError> {
    let what = "read";
    let text = fs::read_to_string(Path::new(FOLDER).join(name));
    let number = text.and_then(|text| text.trim().parse().map_err(io::Error::other));
    number.map_err(|source| KernelError { what, name, source })
}

fn write(name: &'static str, value: u64) -> Result<(), KernelError> {
    let what = "write";
    fs::write(Path::new(FOLDER).join(name), value.to_string()).map_err(|source| KernelError {
        what,
        name,
        source,
    })
}

/// Settings as they were; put back when dropped.
#[derive(Debug)]
struct Before(Vec<(&'static str, u64)>);

impl Before {
    fn change(&mut self, name: &'static str, value: u64) -> Result<(), KernelError> {
        self.0.push((name, read(name)?));
        write(name, value)
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        for (name, value) in self.0.drain(..).rev() {
            if let Err(error) = write(name, value) {
                tracing::warn!(name, %error, "a setting of the kernel is not put back");
            }
        }
    }
}

/// Looks over all memory that was advised; returns how many pages were saved by it on this machine.
pub(super) async fn look() -> Result<u64, KernelError> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut before = Before(Vec::new());
    if read("run")? != 1 {
        before.change("pages_to_scan", PAGES_AT_ONCE)?;
        before.change("sleep_millisecs", REST_MS)?;
        before.change("run", 1)?;
    }
    let (first, end) = (read("full_scans")?, Instant::now() + LONGEST);
    while read("full_scans")? < first + PASSES && Instant::now() < end {
        tokio::time::sleep(INTERVAL).await;
    }
    read("pages_sharing")
}
