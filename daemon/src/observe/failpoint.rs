//! Places at which tests kill the daemon, to see what its successor makes of it.
//!
//! Without effect unless both `LIFEBOAT_ALLOW_FAULTS=1` and `LIFEBOAT_FAILPOINT=NAME` are in the
//! daemon's environment when it starts. `NAME:N` means the N-th time that the place is reached.

use std::sync::{
    LazyLock,
    atomic::{AtomicU32, Ordering},
};

struct Armed {
    name: String,
    left: AtomicU32,
}

static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
    if std::env::var("LIFEBOAT_ALLOW_FAULTS").ok()? != "1" {
        return None;
    }
    let text = std::env::var("LIFEBOAT_FAILPOINT").ok()?;
    let (name, times) = text.split_once(':').unwrap_or((&text, "1"));
    let left = AtomicU32::new(times.parse().unwrap_or(1));
    Some(Armed {
        name: name.to_owned(),
        left,
    })
});

/// The daemon has come to the place called `name`; it ends here if a test wants it to.
pub fn reach(name: &str) {
    let Some(armed) = ARMED.as_ref().filter(|armed| armed.name == name) else {
        return;
    };
    if armed.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        let own = rustix::process::getpid();
        // As the kernel's out-of-memory killer would: no drop, no flush, no goodbye.
        if let Err(error) = rustix::process::kill_process(own, rustix::process::Signal::KILL) {
            tracing::error!(%error, "cannot end here");
        }
    }
}
