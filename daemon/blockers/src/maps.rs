//! The named mappings of a process.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
};

use crate::{
    blocker::{Findings, Kind},
    proc::is_gone,
    process::Process,
};

/// Most bytes of /proc/PID/maps that are read: about 300 000 mappings.
const MAPS_BYTES_MAX: u64 = 32 << 20;

/// One name in the mappings of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// As the kernel shows it, line breaks restored.
    pub(crate) name: OsString,
    /// Whether some mapping of it is shared and writable.
    pub(crate) written: bool,
    /// Whether some mapping of it is private.
    pub(crate) private: bool,
    /// `START-END` of its first mapping, as /proc/PID/map_files names it.
    pub(crate) range: String,
}

/// The names in the mappings of all processes, each once for a process.
pub(crate) fn collect<'a>(
    tree: &'a [Process],
    findings: &mut Findings,
) -> Vec<(&'a Process, Vec<Mapped>)> {
    let mut all = Vec::new();
    for process in tree.iter().filter(|process| !process.status.is_zombie()) {
        let shown = || process.shown();
        match process.dir.read("maps", MAPS_BYTES_MAX) {
            Ok((bytes, whole)) => {
                all.push((process, parse(&bytes)));
                if !whole {
                    let detail = format!("not all mappings of {} were looked at", shown());
                    findings.note(Kind::Unknown, process.pid, detail);
                }
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                let detail = format!("the mappings of {} could not be read: {error}", shown());
                findings.note(Kind::Unknown, process.pid, detail);
            }
        }
    }
    all
}

fn parse(bytes: &[u8]) -> Vec<Mapped> {
    let mut found: Vec<Mapped> = Vec::new();
    let mut places = HashMap::new();
    for line in bytes.split(|&b| b == b'\n') {
        // address perms offset dev inode path, the last one after spaces
        let mut rest = line;
        let mut fields = [&b""[..]; 5];
        for field in &mut fields {
            let end = rest.iter().position(|&b| b == b' ').unwrap_or(rest.len());
            (*field, rest) = rest.split_at(end);
            rest = rest.strip_prefix(b" ").unwrap_or(rest);
        }
        let name = rest.trim_ascii_start();
        if name.is_empty() {
            continue;
        }
        let written = fields[1].contains(&b's') && fields[1].contains(&b'w');
        let place = *places.entry(name).or_insert_with(|| {
            let range = String::from_utf8_lossy(fields[0]).into_owned();
            found.push(Mapped {
                name: unescape(name),
                written: false,
                private: false,
                range,
            });
            found.len() - 1
        });
        found[place].written |= written;
        found[place].private |= fields[1].contains(&b'p');
    }
    found
}

/// The kernel writes a line break in a name as `\012`, and nothing else in that way.
fn unescape(name: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\\012") {
            out.push(b'\n');
            rest = after;
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    OsString::from_vec(out)
}

impl Mapped {
    pub(crate) fn is_named(&self, prefix: &str) -> bool {
        self.name.as_bytes().starts_with(prefix.as_bytes())
    }

    pub(crate) fn as_os_str(&self) -> &OsStr {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_once_with_their_strongest_access() {
        let found = parse(
            b"00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/a b\n\
              00651000-00652000 r--p 00051000 08:02 173521      /usr/bin/a b\n\
              00e03000-00e24000 rw-p 00000000 00:00 0           [heap]\n\
              7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n\
              7f0000002000-7f0000003000 r--s 00000000 00:05 7   /srv/x\\012y\n\
              7f0000004000-7f0000005000 rw-s 00000000 00:05 7   /srv/x\\012y\n\
              garbage\n",
        );
        let names: Vec<_> = found
            .iter()
            .map(|m| (m.name.to_str().unwrap(), m.written))
            .collect();
        assert_eq!(
            names,
            [
                ("/usr/bin/a b", false),
                ("[heap]", false),
                ("/srv/x\ny", true)
            ]
        );
        assert_eq!(found[2].range, "7f0000002000-7f0000003000");
        assert_eq!(
            found.iter().map(|m| m.private).collect::<Vec<_>>(),
            [true, true, false]
        );
    }
}
