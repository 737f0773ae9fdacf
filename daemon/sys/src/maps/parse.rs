//! The text of `maps` and `smaps`. Never panics, whatever the text.

use lifeboat_proto::units::{PageRun, RemoteAddr};

use super::{Device, MAPPINGS_MAX, Mapping, MapsError, Permissions, VmFlags};

/// How `smaps` begins its line of flags.
const FLAGS_KEY: &[u8] = b"VmFlags:";

/// The kernel's codes.
const CODES: [(&[u8; 2], VmFlags); 33] = [
    (b"rd", VmFlags::READ),
    (b"wr", VmFlags::WRITE),
    (b"ex", VmFlags::EXECUTE),
    (b"sh", VmFlags::SHARED),
    (b"mr", VmFlags::MAY_READ),
    (b"mw", VmFlags::MAY_WRITE),
    (b"me", VmFlags::MAY_EXECUTE),
    (b"ms", VmFlags::MAY_SHARE),
    (b"gd", VmFlags::GROWS_DOWN),
    (b"lo", VmFlags::LOCKED),
    (b"ht", VmFlags::HUGETLB),
    (b"io", VmFlags::IO),
    (b"pf", VmFlags::PFNMAP),
    (b"nr", VmFlags::NO_RESERVE),
    (b"dd", VmFlags::DONT_DUMP),
    (b"dc", VmFlags::DONT_FORK),
    (b"de", VmFlags::DONT_EXPAND),
    (b"wf", VmFlags::WIPE_ON_FORK),
    (b"um", VmFlags::UFFD_MISSING),
    (b"uw", VmFlags::UFFD_WRITE_PROTECT),
    (b"ui", VmFlags::UFFD_MINOR),
    (b"sd", VmFlags::SOFT_DIRTY),
    (b"mg", VmFlags::MERGEABLE),
    (b"hg", VmFlags::HUGE_PAGE),
    (b"nh", VmFlags::NO_HUGE_PAGE),
    (b"sr", VmFlags::SEQUENTIAL),
    (b"rr", VmFlags::RANDOM),
    (b"ss", VmFlags::SHADOW_STACK),
    (b"dp", VmFlags::DROPPABLE),
    (b"sl", VmFlags::SEALED),
    (b"ac", VmFlags::ACCOUNTED),
    (b"mm", VmFlags::MIXED),
    (b"dw", VmFlags::DENY_WRITE),
];

pub(super) fn mappings(text: &[u8]) -> Result<Vec<Mapping>, MapsError> {
    let mut mappings: Vec<Mapping> = Vec::new();
    // Whether attributes that follow belong to the last mapping, or to one that was told twice.
    let mut last_counts = false;
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let malformed = |what| MapsError::Malformed {
            line: index + 1,
            what,
        };
        // Attributes begin with capitals, addresses with digits or small letters.
        match line.first() {
            None => {}
            Some(first) if first.is_ascii_uppercase() => {
                if let Some(flags) = line.strip_prefix(FLAGS_KEY)
                    && last_counts
                    && let Some(last) = mappings.last_mut()
                {
                    last.flags = Some(vm_flags(flags));
                }
            }
            Some(_) => {
                let mapping = header(line).map_err(malformed)?;
                let told = mappings.last().map(|last| last.run.end());
                let mapping = cut(mapping, told.map(|end| end.addr()));
                last_counts = mapping.is_some();
                mappings.extend(mapping);
                if mappings.len() > MAPPINGS_MAX {
                    return Err(malformed("there are too many"));
                }
            }
        }
    }
    Ok(mappings)
}

/// Leaves out what lies before `end`, which was told already.
fn cut(mut mapping: Mapping, end: Option<RemoteAddr>) -> Option<Mapping> {
    let Some(end) = end else { return Some(mapping) };
    let (start, until) = (mapping.run.start.addr(), mapping.run.end().addr());
    if start < end {
        mapping.offset = mapping.offset.saturating_add(end.0 - start.0);
        mapping.run = PageRun::covering(end, until);
    }
    (!mapping.run.is_empty()).then_some(mapping)
}

/// `start-end perms offset major:minor inode   name`.
fn header(line: &[u8]) -> Result<Mapping, &'static str> {
    let mut rest = line;
    let mut field = || -> &[u8] {
        let end = rest
            .iter()
            .position(|byte| *byte == b' ')
            .unwrap_or(rest.len());
        let (field, after) = rest.split_at(end);
        rest = after.strip_prefix(b" ").unwrap_or(after);
        field
    };
    let (start, end) = split(field(), b'-').ok_or("no range")?;
    let start = hexadecimal(start).ok_or("no start")?;
    let end = hexadecimal(end).ok_or("no end")?;
    if start >= end {
        return Err("an empty range");
    }
    let permissions = field();
    let offset = hexadecimal(field()).ok_or("no offset")?;
    let (major, minor) = split(field(), b':').ok_or("no device")?;
    let major = hexadecimal(major).and_then(|major| u32::try_from(major).ok());
    let minor = hexadecimal(minor).and_then(|minor| u32::try_from(minor).ok());
    let device = Device {
        major: major.ok_or("no major number")?,
        minor: minor.ok_or("no minor number")?,
    };
    let inode = decimal(field()).ok_or("no inode")?;
    let [read, write, execute, sharing] = permissions else {
        return Err("no permissions");
    };
    Ok(Mapping {
        run: PageRun::covering(RemoteAddr(start), RemoteAddr(end)),
        permissions: Permissions {
            read: *read == b'r',
            write: *write == b'w',
            execute: *execute == b'x',
        },
        shared: *sharing == b's',
        offset,
        device,
        inode,
        name: unescape(without_padding(rest)),
        flags: None,
    })
}

fn vm_flags(text: &[u8]) -> VmFlags {
    let codes = text
        .split(|byte| *byte == b' ')
        .filter(|code| !code.is_empty());
    codes.fold(VmFlags::NONE, |flags, code| {
        let known = CODES.iter().find(|(known, _)| code == *known);
        flags | known.map_or(VmFlags::UNKNOWN, |(_, flag)| *flag)
    })
}

/// Names are aligned by spaces, and begin with a slash or a bracket.
fn without_padding(name: &[u8]) -> &[u8] {
    let start = name.iter().position(|byte| *byte != b' ');
    start.map_or(&[], |start| &name[start..])
}

/// The kernel escapes the one byte that would end the line.
fn unescape(name: &[u8]) -> Vec<u8> {
    const ESCAPED: &[u8] = b"\\012";
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(ESCAPED) {
            bytes.push(b'\n');
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    bytes
}

fn split(field: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = field.iter().position(|byte| *byte == separator)?;
    Some((&field[..at], &field[at + 1..]))
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(unsigned(digits)?, 16).ok()
}

fn decimal(digits: &[u8]) -> Option<u64> {
    unsigned(digits)?.parse().ok()
}

/// Rust's parsers accept a sign, the kernel writes none.
fn unsigned(digits: &[u8]) -> Option<&str> {
    let text = str::from_utf8(digits).ok()?;
    (!text.starts_with('+')).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMAPS: &[u8] = b"\
55d0c0000000-55d0c0021000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
Rss:                   4 kB
VmFlags: rd wr mr mw me ac sd zz 
7f0000000000-7f0000002000 r-xs 00003000 fe:1a 247030                     /a b\\012c (deleted)
VmFlags: rd ex mr mw me sh lo ht 
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    #[test]
    fn what_the_kernel_may_drop_is_not_loaded_lazily() {
        let text = b"7f0000000000-7f0000002000 rw-p 00000000 00:00 0 \n\
                     VmFlags: rd wr mr mw me nr wf dp dd \n";
        let [droppable] = mappings(text).unwrap().try_into().unwrap();
        assert!(droppable.is_private_anonymous());
        assert_eq!(droppable.can_be_lazy(), Some(false));
    }

    #[test]
    fn fields_are_what_the_kernel_documents() {
        let mappings = mappings(SMAPS).unwrap();
        let [heap, file, vsyscall] = mappings.as_slice() else {
            panic!("{mappings:?}")
        };
        assert_eq!(heap.run.bytes(), 0x21000);
        assert!(heap.is_private_anonymous());
        assert_eq!(heap.can_be_lazy(), Some(true));
        let flags = heap.flags.unwrap();
        assert!(flags.contains(VmFlags::READ | VmFlags::SOFT_DIRTY | VmFlags::UNKNOWN));
        assert_eq!(file.name, b"/a b\nc (deleted)");
        assert_eq!(
            file.device,
            Device {
                major: 0xfe,
                minor: 0x1a
            }
        );
        assert_eq!(
            (file.offset, file.inode, file.shared),
            (0x3000, 247_030, true)
        );
        assert!(
            file.flags
                .unwrap()
                .contains(VmFlags::LOCKED | VmFlags::HUGETLB)
        );
        assert!(vsyscall.is_provided_by_kernel() && !vsyscall.is_anonymous());
        assert_eq!(vsyscall.can_be_lazy(), None);
    }

    #[test]
    fn what_is_told_twice_is_cut() {
        let text = b"1000-3000 rw-p 00000000 00:00 0\n1000-5000 rw-p 00000000 00:00 0\n\
            2000-4000 rw-p 00000000 00:00 0\nVmFlags: lo\n";
        let mappings = mappings(text).unwrap();
        let runs: Vec<String> = mappings
            .iter()
            .map(|mapping| mapping.run.to_string())
            .collect();
        assert_eq!(runs, ["0x1000..0x3000", "0x3000..0x5000"]);
        assert_eq!(mappings[1].offset, 0x2000);
        assert_eq!(mappings[1].flags, None, "the flags were those of the third");
    }

    #[test]
    fn codes_have_bits_of_their_own() {
        let all = CODES.iter().fold(VmFlags::NONE, |all, (_, flag)| {
            assert!(!all.intersects(*flag), "{flag:?}");
            all | *flag
        });
        assert!(!all.intersects(VmFlags::UNKNOWN));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            mappings(&text).ok();
        }

        #[test]
        fn nearly_right_text_gives_ascending_runs(
            lines in proptest::collection::vec(
                "[0-9a-f]{1,16}-[0-9a-f]{1,17} [r-][w-][x-][ps] [0-9a-f]{1,9} [0-9a-f]{1,3}:[0-9]{1,3} [0-9]{1,5}( [ -~]{0,9})?|VmFlags:( [a-z]{2}){0,4} ",
                0..12,
            )
        ) {
            if let Ok(found) = mappings(lines.join("\n").as_bytes()) {
                prop_assert!(found.iter().all(|mapping| !mapping.run.is_empty()));
                prop_assert!(found.is_sorted_by(|a, b| a.run.end() <= b.run.start));
            }
        }

        #[test]
        fn names_come_back(name in "[/\\[][^\u{0}\\\\]{0,40}") {
            let escaped = name.replace('\n', "\\012");
            let line = format!("1000-2000 rw-p 00000000 01:02 3                  {escaped}\n");
            let found = mappings(line.as_bytes()).unwrap();
            prop_assert_eq!(found[0].name.as_slice(), name.as_bytes());
        }
    }
}
