//! The mappings of a process with their flags, without the kernel looking at every page.
//!
//! The flags stand only in `/proc/PID/smaps`, which is slow to read (see
//! [`crate::DumpDelegate::smaps`]). So they are read before the freeze, and at the freeze only
//! `/proc/PID/maps` is: a mapping that is there now as it was then, or has grown or shrunk, has the
//! flags it had. If any mapping is new, there is no short cut and CRIU reads the slow file.
//!
//! What can be missed: madvise(2) on a whole mapping, or a mapping made anew at the same place with
//! the same size and protection but another advice, in the moments between the two. Advice tunes
//! (huge pages, read-ahead) or matters at fork and core dumps; contents never depend on it. Locking
//! (mlock(2)) is checked by its sum.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    ops::Range,
};

/// Longest file of `/proc` that is read, in bytes: 65 530 mappings of 1 KiB.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What was known of a process's mappings at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Smaps {
    /// By start.
    mappings: BTreeMap<u64, Known>,
    /// Starts, by end.
    by_end: BTreeMap<u64, u64>,
    locked: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    end: u64,
    kind: Kind,
    /// The line with the flags.
    flags: String,
}

/// What stands in a mapping's line after its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kind {
    protection: String,
    offset: u64,
    /// Device, inode and name.
    file: String,
}

impl Smaps {
    /// Reads the slow file of the process `pid`.
    ///
    /// # Errors
    /// The process is gone, or its files are not what proc(5) says.
    pub fn read(pid: u32) -> io::Result<Self> {
        let locked = locked(&read(&format!("/proc/{pid}/status"))?);
        Self::parse(&read(&format!("/proc/{pid}/smaps"))?, locked)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn parse(smaps: &str, locked: Option<String>) -> Option<Self> {
        let mut known = Self {
            locked,
            ..Self::default()
        };
        let mut mapping = None;
        for line in smaps.lines() {
            if is_mapping(line) {
                mapping = Some(parse_mapping(line)?);
            } else if line.starts_with("VmFlags:") {
                let (range, kind) = mapping.take()?;
                known.by_end.insert(range.end, range.start);
                let flags = line.to_owned();
                known.mappings.insert(
                    range.start,
                    Known {
                        end: range.end,
                        kind,
                        flags,
                    },
                );
            }
        }
        mapping.is_none().then_some(known)
    }

    /// What `smaps` of the process `pid` says now, in the lines that CRIU reads: mappings and their
    /// flags. `None`: it must be read itself, since there are mappings that were not known. Fast.
    ///
    /// # Errors
    /// As [`Smaps::read`].
    pub fn text_now(&self, pid: u32) -> io::Result<Option<Vec<u8>>> {
        if locked(&read(&format!("/proc/{pid}/status"))?) != self.locked {
            return Ok(None);
        }
        Ok(self.apply(&read(&format!("/proc/{pid}/maps"))?))
    }

    /// Whether all mappings that the process has now are known: then there is no need to read the
    /// slow file again.
    ///
    /// # Errors
    /// As [`Smaps::read`].
    pub fn is_current(&self, pid: u32) -> io::Result<bool> {
        self.text_now(pid).map(|text| text.is_some())
    }

    fn apply(&self, maps: &str) -> Option<Vec<u8>> {
        let mut text = Vec::with_capacity(maps.len() * 2);
        // The mapping before, and the start of the known one that it came from.
        let mut before: Option<(Range<u64>, u64)> = None;
        for line in maps.lines() {
            let (range, kind) = parse_mapping(line)?;
            let (start, known) = self.origin(&range, &kind)?;
            // Two parts of one mapping side by side are apart because their flags differ now.
            let split =
                before.is_some_and(|(before, origin)| origin == start && before.end == range.start);
            if split {
                return None;
            }
            before = Some((range, start));
            for part in [line, known.flags.as_str()] {
                text.extend_from_slice(part.as_bytes());
                text.push(b'\n');
            }
        }
        Some(text)
    }

    /// The known mapping that this one is, or has grown or shrunk from.
    fn origin(&self, range: &Range<u64>, kind: &Kind) -> Option<(u64, &Known)> {
        let same_start = self.mappings.get_key_value(&range.start);
        let same_end = self
            .by_end
            .get(&range.end)
            .and_then(|start| self.mappings.get_key_value(start));
        let fits = |start: u64, known: &Known| {
            let moved = range.start.wrapping_sub(start);
            let offset = known.kind.offset.wrapping_add(moved);
            // Private anonymous memory has no offset.
            let same_offset = kind.offset == offset || (kind.offset, known.kind.offset) == (0, 0);
            known.kind.protection == kind.protection && known.kind.file == kind.file && same_offset
        };
        [same_start, same_end]
            .into_iter()
            .flatten()
            .map(|(start, known)| (*start, known))
            .find(|(start, known)| fits(*start, known))
    }
}

fn read(path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length >= FILE_BYTES_MAX) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    // Names that are not UTF-8 cannot be given back as they were: no short cut for them.
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// How much memory is locked, as `/proc/PID/status` says it.
fn locked(status: &str) -> Option<String> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmLck:"))
        .map(|text| text.trim().to_owned())
}

/// Whether a line of `smaps` begins a mapping; all others begin with a capital letter.
fn is_mapping(line: &str) -> bool {
    line.starts_with(|first: char| first.is_ascii_digit() || ('a'..='f').contains(&first))
}

/// `START-END PROTECTION OFFSET DEVICE INODE NAME`.
fn parse_mapping(line: &str) -> Option<(Range<u64>, Kind)> {
    let mut parts = line.splitn(4, ' ');
    let (range, protection, offset) = (parts.next()?, parts.next()?, parts.next()?);
    let (start, end) = range.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let range = number(start)?..number(end)?;
    let protection = protection.to_owned();
    let kind = Kind {
        protection,
        offset: number(offset)?,
        file: parts.next()?.to_owned(),
    };
    (range.start < range.end).then_some((range, kind))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMAPS: &str = "\
1000-3000 rw-p 00000000 00:00 0                          [heap]
Size:                  8 kB
Rss:                   8 kB
VmFlags: rd wr mr mw me ac 
5000-9000 r--p 00002000 08:01 42                         /lib/a b.so
AnonHugePages:         0 kB
VmFlags: rd mr mw me dd 
9000-a000 rw-p 00000000 00:00 0 
VmFlags: rd wr mr mw me ac lo 
";

    fn known() -> Smaps {
        Smaps::parse(SMAPS, None).expect("as proc(5) says")
    }

    fn flags(maps: &str) -> Option<Vec<String>> {
        let text = String::from_utf8(known().apply(maps)?).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines.chunks(2).map(|pair| pair[0]).eq(maps.lines()),
            "the mappings as they are"
        );
        Some(
            lines
                .chunks(2)
                .map(|pair| pair[1]["VmFlags: ".len()..].trim().to_owned())
                .collect(),
        )
    }

    #[test]
    fn mappings_that_are_or_grow_or_shrink_keep_their_flags() {
        let maps = "1000-8000 rw-p 00000000 00:00 0                          [heap]\n\
            9000-a000 rw-p 00000000 00:00 0 \n";
        let wanted = ["rd wr mr mw me ac", "rd wr mr mw me ac lo"];
        assert_eq!(flags(maps).expect("known"), wanted);
        let maps = "6000-9000 r--p 00003000 08:01 42                         /lib/a b.so\n";
        assert_eq!(
            flags(maps).expect("cut at its beginning"),
            ["rd mr mw me dd"]
        );
        let maps = "5000-6000 r--p 00002000 08:01 42                         /lib/a b.so\n\
            8000-9000 r--p 00005000 08:01 42                         /lib/a b.so\n";
        assert_eq!(flags(maps).expect("a hole in it"), ["rd mr mw me dd"; 2]);
    }

    #[test]
    fn mappings_that_are_new_or_changed_have_no_short_cut() {
        for maps in [
            "20000-30000 rw-p 00000000 00:00 0 \n",
            "1000-3000 r--p 00000000 00:00 0                          [heap]\n",
            "1000-3000 rw-p 00000000 00:00 0 \n",
            "5000-9000 r--p 00003000 08:01 42                         /lib/a b.so\n",
            "6000-8000 r--p 00003000 08:01 42                         /lib/a b.so\n",
            "1000-2000 rw-p 00000000 00:00 0                          [heap]\n\
             2000-3000 rw-p 00000000 00:00 0                          [heap]\n",
        ] {
            assert_eq!(flags(maps), None, "{maps}");
        }
    }

    #[test]
    fn of_a_real_process_it_says_what_the_slow_file_says() {
        let own = std::process::id();
        let known = Smaps::read(own).expect("readable");
        // Other threads of the test program map memory now and then.
        let mut tries = 0..100;
        let text = loop {
            tries.next().expect("a quiet moment");
            let slow = read("/proc/self/smaps").expect("readable");
            let fast = Smaps::read(own)
                .expect("readable")
                .text_now(own)
                .expect("readable");
            if let Some(fast) = fast
                && slow == read("/proc/self/smaps").expect("readable")
            {
                let wanted = slow
                    .lines()
                    .filter(|l| is_mapping(l) || l.starts_with("VmFlags:"));
                let fast = String::from_utf8(fast).expect("text");
                assert!(wanted.eq(fast.lines()));
                break fast;
            }
        };
        assert!(text.contains("VmFlags:"));
        assert!(known.mappings.len() > 5);
    }

    proptest! {
        #[test]
        fn any_text_is_understood_or_not(smaps in "([0-9a-f]{1,5}-[0-9a-f]{1,5} rw-p 0 0:0 0 ?\n|VmFlags: rd\n|.{0,20}\n){0,8}", maps: String) {
            if let Some(known) = Smaps::parse(&smaps, None) {
                let _any = known.apply(&maps);
                let _any = known.apply(&smaps);
            }
        }
    }
}
