//! A file: whoever can write below the state directory can give a notice (drills, other clouds).
//!
//! When the file `notice` appears, the machine will go. Its content may be a duration, for example
//! `25s`, or `early`; else the configured notice counts. The file is removed when it was taken in. An
//! empty one is taken at the second look only: a shell makes the file before it writes into it.
//! A file `notice-withdrawn` takes the notice back, and is removed too.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    feed::Feed,
    notice::{Kind, Sighting, Source},
};

/// Time between looks.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Largest content that is read, in bytes.
const CONTENT_BYTES_MAX: u64 = 64;

/// Longest time that a file may give.
const WITHIN_MAX: Duration = Duration::from_secs(24 * 3600);

/// The only event that this source knows.
const KEY: &str = "file";

/// Name of the file that gives notice.
const GIVEN: &str = "notice";

/// Name of the file that takes it back.
const WITHDRAWN: &str = "notice-withdrawn";

/// Watches `folder` until the task is aborted.
pub(crate) async fn run(folder: PathBuf, notice: Duration, feed: Feed) {
    let given = folder.join(GIVEN);
    let mut was_empty = false;
    loop {
        let is_empty = is_empty(&given);
        if !is_empty || was_empty {
            match take(&given) {
                Ok(Some(text)) => feed.seen(parse(&text, notice)).await,
                Ok(None) => feed.success(Source::File),
                Err(error) => feed.failure(Source::File, &error),
            }
        }
        was_empty = is_empty;
        if let Ok(Some(_)) = take(&folder.join(WITHDRAWN)) {
            feed.gone(Source::File, KEY).await;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Why a file that is there cannot be taken.
#[derive(Debug, thiserror::Error)]
#[error("take the notice file {path}")]
struct TakeError {
    path: PathBuf,
    source: std::io::Error,
}

/// Whether there is a file, and nothing in it yet.
fn is_empty(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|data| data.is_file() && data.len() == 0)
}

/// Reads and removes a file; one that is not there is `None`. What is not a plain file of a few bytes is
/// as good as an empty one.
fn take(path: &Path) -> Result<Option<String>, TakeError> {
    let failed = |source| TakeError {
        path: path.to_owned(),
        source,
    };
    let data = match std::fs::symlink_metadata(path) {
        Ok(data) => data,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let text = if data.is_file() && data.len() <= CONTENT_BYTES_MAX {
        std::fs::read_to_string(path).unwrap_or_default()
    } else {
        String::new()
    };
    std::fs::remove_file(path).map_err(failed)?;
    Ok(Some(text))
}

fn parse(text: &str, notice: Duration) -> Sighting {
    let text = text.trim();
    let within = humantime::parse_duration(text).unwrap_or(notice);
    let sighting = Sighting::new(Source::File, KEY).within(within.min(WITHIN_MAX));
    if text == "early" {
        sighting.kind(Kind::Early)
    } else {
        sighting
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_content_is_the_time_if_it_is_one() {
        let seconds = |text: &str| {
            let sighting = parse(text, Duration::from_secs(25));
            let left = sighting.deadline.unwrap() - Instant::now();
            (sighting.kind, left.as_millis().div_ceil(1000))
        };
        assert_eq!(seconds("7s\n"), (Kind::Preemption, 7));
        assert_eq!(seconds(""), (Kind::Preemption, 25));
        assert_eq!(seconds("\u{1F6DF}"), (Kind::Preemption, 25));
        assert_eq!(seconds("1000years"), (Kind::Preemption, 24 * 3600));
        assert_eq!(seconds("early"), (Kind::Early, 25));
    }

    #[test]
    fn a_file_is_taken_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(GIVEN);
        assert_eq!(take(&path).unwrap(), None);
        std::fs::write(&path, "9s").unwrap();
        assert_eq!(take(&path).unwrap().as_deref(), Some("9s"));
        assert_eq!(take(&path).unwrap(), None);
        std::fs::write(&path, "x".repeat(1000)).unwrap();
        assert_eq!(take(&path).unwrap().as_deref(), Some(""));
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(take(&path).unwrap().as_deref(), Some(""));
        std::fs::create_dir(&path).unwrap();
        assert!(take(&path).is_err());
    }
}
