//! The mappings of a process, as `/proc/PID/maps` tells them.

use std::{fs, io};

use lifeboat_proto::units::{PageRun, RemoteAddr};

/// A mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub run: PageRun,
    pub executable: bool,
    pub shared: bool,
    pub inode: u64,
    pub name: Vec<u8>,
}

/// The mappings of process `pid`, ascending.
pub(super) fn read(pid: u32) -> io::Result<Vec<Mapping>> {
    let text = fs::read(format!("/proc/{pid}/maps"))?;
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse(line).ok_or_else(|| {
                let line = String::from_utf8_lossy(line).into_owned();
                io::Error::new(io::ErrorKind::InvalidData, format!("not a mapping: {line}"))
            })
        })
        .collect()
}

/// Mappings that are locked in memory: known only from the slow listing, which is read only when the
/// process has locked anything.
pub(super) fn locked_runs(pid: u32) -> io::Result<Vec<PageRun>> {
    let status = fs::read(format!("/proc/{pid}/status"))?;
    let status = String::from_utf8_lossy(&status);
    let locked = status
        .lines()
        .find_map(|line| line.strip_prefix("VmLck:"))
        .unwrap_or_default();
    if locked
        .split_ascii_whitespace()
        .next()
        .is_none_or(|kib| kib == "0")
    {
        return Ok(Vec::new());
    }
    let text = fs::read(format!("/proc/{pid}/smaps"))?;
    let (mut runs, mut current) = (Vec::new(), None);
    for line in text.split(|byte| *byte == b'\n') {
        if let Some(flags) = line.strip_prefix(b"VmFlags:") {
            if flags.split(|byte| *byte == b' ').any(|flag| flag == b"lo") {
                runs.extend(current);
            }
        } else if let Some(mapping) = parse(line) {
            current = Some(mapping.run);
        }
    }
    Ok(runs)
}

/// `start-end perms offset major:minor inode   name`, see proc_pid_maps(5).
fn parse(line: &[u8]) -> Option<Mapping> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let mut field = || std::str::from_utf8(fields.next()?).ok();
    let (range, permissions) = (field()?, field()?.as_bytes());
    let (_offset, _device) = (field()?, field()?);
    let inode = field()?.parse().ok()?;
    let (start, end) = range.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    if permissions.len() != 4 || end <= start {
        return None;
    }
    let name = fields.next().unwrap_or_default().trim_ascii().to_vec();
    Some(Mapping {
        run: PageRun::covering(RemoteAddr(start), RemoteAddr(end)),
        executable: permissions[2] == b'x',
        shared: permissions[3] == b's',
        inode,
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_a_mapping_is() {
        let line = b"7f1000-7f3000 rw-p 00000000 00:00 0                  [anon:a b]";
        let mapping = parse(line).unwrap();
        assert_eq!(mapping.run.start.0, 0x7f1);
        assert_eq!(
            (mapping.run.pages, mapping.executable, mapping.shared),
            (2, false, false)
        );
        assert_eq!(
            (mapping.inode, mapping.name.as_slice()),
            (0, b"[anon:a b]".as_slice())
        );
        assert_eq!(parse(b"Size:   132 kB"), None);
        assert_eq!(parse(b"2-1 rw-p 0 0:0 0"), None);
    }

    #[test]
    fn this_process_has_a_stack() {
        let all = read(std::process::id()).unwrap();
        assert!(all.iter().any(|mapping| mapping.name == b"[stack]"));
    }
}
