//! Listing a folder tree in the byte order of keys.

use std::{fs, io, path::Path};

use super::is_absent;
use crate::{Entry, Key, LIST_PAGE_KEYS_MAX, Prefix};

/// One page of the keys under `prefix` after `after`, and one key more if there is one.
pub(super) fn page(root: &Path, prefix: &Prefix, after: Option<&Key>) -> io::Result<Vec<Entry>> {
    let mut walk = Walk {
        root,
        after: after.map_or("", Key::as_str),
        found: Vec::new(),
    };
    walk.folder(prefix.as_str())?;
    Ok(walk.found)
}

struct Walk<'a> {
    root: &'a Path,
    after: &'a str,
    found: Vec<Entry>,
}

impl Walk<'_> {
    fn is_full(&self) -> bool {
        self.found.len() > LIST_PAGE_KEYS_MAX
    }

    /// Walks the folder of the keys that begin with `prefix` (empty, or ending with `/`). Keys are
    /// short, so the depth is bounded.
    fn folder(&mut self, prefix: &str) -> io::Result<()> {
        for name in self.names(prefix)? {
            if self.is_full() {
                break;
            }
            let full = format!("{prefix}{name}");
            // All keys of a folder sort where its name with the slash does.
            if name.ends_with('/') {
                if full.as_str() > self.after || self.after.starts_with(&full) {
                    self.folder(&full)?;
                }
            } else if full.as_str() > self.after {
                self.file(&full)?;
            }
        }
        Ok(())
    }

    /// The names in a folder, sub-folders with a slash, sorted; other names than of keys left out.
    fn names(&self, prefix: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root.join(prefix)) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Ok(mut name) = entry.file_name().into_string() else {
                continue;
            };
            if Key::new(format!("{prefix}{name}")).is_err() {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                name.push('/');
            } else if !kind.is_file() {
                continue;
            }
            names.push(name);
        }
        names.sort_unstable();
        Ok(names)
    }

    fn file(&mut self, key: &str) -> io::Result<()> {
        let meta = match fs::metadata(self.root.join(key)) {
            Ok(meta) => meta,
            // Deleted since the folder was read.
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        if let Ok(key) = Key::new(key) {
            self.found.push(Entry {
                key,
                size: meta.len(),
                modified: meta.modified()?,
            });
        }
        Ok(())
    }
}
