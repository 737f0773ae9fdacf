//! Rules for texts in stored objects.

use crate::error::Problem;

/// Characters of a refused text that a message repeats.
const SHOWN_CHARS: usize = 100;

/// Longest file name, in bytes (Linux: NAME_MAX).
const NAME_BYTES_MAX: usize = 255;

/// Longest path, in bytes (Linux: PATH_MAX, with its final zero).
const PATH_BYTES_MAX: usize = 4095;

/// The problem of a text that is not allowed where it is.
pub(crate) fn refused(text: &str) -> Problem {
    Problem::Text(text.chars().take(SHOWN_CHARS).collect())
}

/// Fails for texts that are too long.
pub(crate) fn check_length(text: &str, bytes_max: usize) -> Result<(), Problem> {
    if text.len() <= bytes_max {
        return Ok(());
    }
    Err(Problem::TooLarge {
        found: text.len() as u64,
        most: bytes_max as u64,
    })
}

/// Fails for what cannot be shown on one line: too long, or with control characters.
pub(crate) fn check_line(text: &str, bytes_max: usize) -> Result<(), Problem> {
    check_length(text, bytes_max)?;
    if text.chars().any(char::is_control) {
        Err(refused(text))
    } else {
        Ok(())
    }
}

/// Fails for what cannot be an argument of a program: too long, or with a zero byte.
pub(crate) fn check_argument(text: &str, bytes_max: usize) -> Result<(), Problem> {
    check_length(text, bytes_max)?;
    if text.contains('\0') {
        Err(refused(text))
    } else {
        Ok(())
    }
}

/// Fails unless the text is an absolute path without `..` and without zero bytes.
pub(crate) fn check_path(text: &str) -> Result<(), Problem> {
    check_argument(text, PATH_BYTES_MAX)?;
    let plain = text.starts_with('/') && text.split('/').all(|part| part != "..");
    if plain { Ok(()) } else { Err(refused(text)) }
}

/// Fails unless the text is a plain name of an image file: letters, digits, `.`, `_` and `-`.
pub(crate) fn check_file_name(text: &str) -> Result<(), Problem> {
    check_length(text, NAME_BYTES_MAX)?;
    let plain = !text.is_empty()
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c));
    if plain { Ok(()) } else { Err(refused(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_file_names_cannot_leave_their_folder() {
        for good in [
            "core-1001.img",
            "stats-dump",
            "tmpfs-dev-73.tar.gz.img",
            "a",
        ] {
            assert!(check_file_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".x",
            "a/b",
            "/a",
            "a\0",
            "a b",
            "ä",
            &"x".repeat(256),
        ] {
            assert!(check_file_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_absolute_and_do_not_climb() {
        for good in ["/", "/srv/data", "/a b/ä..b"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "./a", "/a/../b", "/..", "/a\0", &"/x".repeat(3000)] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }
}
