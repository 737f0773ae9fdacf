//! What an image may ask for: no more than the hold that it is restored into has.
//!
//! CRIU restores as root whatever an image says: user ids, capabilities, security modules, open
//! files, namespaces. So an image that a workload's owner (or whoever can write to the store) could
//! have made up must be looked at before CRIU sees it.

use std::{collections::BTreeSet, fs, io};

use prost::Message;

use super::{FileKind, ImageSet, ImagesError, machine, tree};

/// What CRIU stores about the credentials of a thread.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Credentials {
    #[prost(uint32, required, tag = "1")]
    uid: u32,
    #[prost(uint32, required, tag = "2")]
    gid: u32,
    #[prost(uint32, required, tag = "3")]
    euid: u32,
    #[prost(uint32, required, tag = "4")]
    egid: u32,
    #[prost(uint32, required, tag = "5")]
    suid: u32,
    #[prost(uint32, required, tag = "6")]
    sgid: u32,
    #[prost(uint32, required, tag = "7")]
    fsuid: u32,
    #[prost(uint32, required, tag = "8")]
    fsgid: u32,
    #[prost(uint32, repeated, packed = "false", tag = "9")]
    inheritable: Vec<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "10")]
    permitted: Vec<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    effective: Vec<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "12")]
    bounding: Vec<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "14")]
    groups: Vec<u32>,
    #[prost(string, optional, tag = "15")]
    lsm_profile: Option<String>,
    #[prost(uint32, optional, tag = "18")]
    no_new_privs: Option<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "19")]
    ambient: Vec<u32>,
}

/// What the processes of an image may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedCredentials {
    /// User id. With 0 every user, group and supplementary group is allowed.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Capabilities that may be in the permitted, effective, inheritable and ambient sets, as a
    /// bit mask (capabilities(7)).
    pub capabilities: u64,
    /// Capabilities that may be in the bounding set: what set-user-id programs may yet give.
    pub bounding: u64,
    /// Every thread must have given up gaining privileges by exec (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privileges: bool,
    /// Every thread must be under a seccomp filter. (Which one cannot be told from the image.)
    pub seccomp: bool,
    /// Every thread must have this label of a security module (AppArmor, SELinux); `None`: none.
    pub security_label: Option<String>,
}

/// `CAP_NET_RAW` of capabilities(7).
const CAP_NET_RAW: u64 = 1 << 13;

/// `CAP_SYS_ADMIN` of capabilities(7).
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// `SECCOMP_MODE_FILTER` of seccomp(2).
const SECCOMP_FILTER: u32 = 2;

impl AllowedCredentials {
    /// What the process `pid` has: usually the hold that is restored into.
    ///
    /// # Errors
    /// `/proc/PID/status` cannot be read or is not what proc(5) says.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        // Without a security module the file is there but cannot be read.
        let label = fs::read_to_string(format!("/proc/{pid}/attr/current")).unwrap_or_default();
        Self::parse(&status, &label).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn parse(status: &str, label: &str) -> Option<Self> {
        let label = label.trim_matches(['\0', '\n', ' ']);
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        let first = |name| field(name)?.split_whitespace().next()?.parse().ok();
        let mask = |name| u64::from_str_radix(field(name)?.trim(), 16).ok();
        let groups = field("Groups")?
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>();
        Some(Self {
            uid: first("Uid")?,
            gid: first("Gid")?,
            groups: groups.ok()?,
            capabilities: mask("CapPrm")?,
            bounding: mask("CapBnd")?,
            no_new_privileges: first("NoNewPrivs")? != 0,
            seccomp: first("Seccomp")? == SECCOMP_FILTER,
            security_label: (!matches!(label, "" | "unconfined")).then(|| label.to_owned()),
        })
    }
}

/// Refuses images whose threads ask for more than `allowed`.
pub(super) fn check_credentials(
    images: &ImageSet,
    allowed: &AllowedCredentials,
) -> Result<(), ImagesError> {
    for task in tree::tasks(images)?.iter().filter(|task| !task.zombie) {
        let threads: BTreeSet<u32> = task.threads.iter().copied().chain([task.pid]).collect();
        for tid in threads {
            let refused = |what| ImagesError::NotAllowed { pid: tid, what };
            let core = tree::core(images, tid)?;
            let thread = core.thread.as_ref();
            let credentials = thread.and_then(|thread| thread.credentials.as_ref());
            // CRIU reads creds-TID.img then, which Lifeboat's dumps do not have.
            let credentials = credentials.ok_or_else(|| refused("unknown credentials".into()))?;
            check_ids(credentials, allowed).map_err(refused)?;
            check_capabilities(credentials, allowed).map_err(refused)?;
            let mode = thread.and_then(|thread| thread.seccomp_mode);
            let mode = mode.or(core.task.as_ref().and_then(|task| task.old_seccomp_mode));
            if allowed.seccomp && mode != Some(SECCOMP_FILTER) {
                return Err(refused("a life without its seccomp filter".into()));
            }
        }
    }
    Ok(())
}

fn check_ids(has: &Credentials, allowed: &AllowedCredentials) -> Result<(), String> {
    if allowed.uid == 0 {
        return Ok(());
    }
    let users = [has.uid, has.euid, has.suid, has.fsuid];
    if let Some(uid) = users.iter().find(|uid| **uid != allowed.uid) {
        return Err(format!("user {uid}"));
    }
    let groups = [has.gid, has.egid, has.sgid, has.fsgid];
    let known = |gid: &u32| *gid == allowed.gid || allowed.groups.contains(gid);
    match groups.iter().chain(&has.groups).find(|gid| !known(gid)) {
        Some(gid) => Err(format!("group {gid}")),
        None => Ok(()),
    }
}

fn check_capabilities(has: &Credentials, allowed: &AllowedCredentials) -> Result<(), String> {
    let sets = [
        &has.permitted,
        &has.effective,
        &has.inheritable,
        &has.ambient,
    ];
    for set in sets {
        let more = mask(set)? & !allowed.capabilities;
        if more != 0 {
            return Err(format!("capabilities {more:#x}"));
        }
    }
    let more = mask(&has.bounding)? & !allowed.bounding;
    if more != 0 {
        return Err(format!("capabilities {more:#x} in its bounding set"));
    }
    if allowed.no_new_privileges && has.no_new_privs.unwrap_or(0) == 0 {
        return Err("privileges of programs that it may start".into());
    }
    if has.lsm_profile != allowed.security_label {
        return Err(format!("the security label {:?}", has.lsm_profile));
    }
    Ok(())
}

/// A set of capabilities: two words, the lower one first.
fn mask(words: &[u32]) -> Result<u64, String> {
    match *words {
        [] => Ok(0),
        [low] => Ok(u64::from(low)),
        [low, high] => Ok(u64::from(high) << 32 | u64::from(low)),
        _ => Err("more capabilities than there are".into()),
    }
}

/// Refuses images that reach outside of the hold: into namespaces of their own (but for System V
/// IPC, which is part of a dump, and control groups, which only limit the view), or by kinds of open files that need capabilities which the
/// workload does not have.
pub(super) fn check_reach(
    images: &ImageSet,
    allowed: &AllowedCredentials,
) -> Result<(), ImagesError> {
    for name in images.names() {
        if !is_known(name) {
            let what = format!("the image file {name:?}, which Lifeboat's dumps do not have");
            return Err(ImagesError::NotAllowed { pid: 0, what });
        }
    }
    let outside = machine::inventory(images)?.root_ids;
    for task in tree::tasks(images)?.iter().filter(|task| !task.zombie) {
        let own = tree::core(images, task.pid)?.ids;
        for ids in [own, machine::ids(images, task.pid)?].into_iter().flatten() {
            let of = |ids: &machine::Ids| [ids.pid, ids.net, ids.uts, ids.mount, ids.user];
            if outside
                .as_ref()
                .is_none_or(|outside| of(outside) != of(&ids))
            {
                let what = "namespaces of its own".into();
                return Err(ImagesError::NotAllowed {
                    pid: task.pid,
                    what,
                });
            }
        }
    }
    let root = tree::tasks(images)?[0].pid;
    for file in super::files::open_files(images)? {
        let needed = match file.kind {
            FileKind::InetRaw | FileKind::Packet => CAP_NET_RAW,
            // fanotify_init(2) as CRIU calls it, and marks on whole mounts.
            FileKind::Fanotify => CAP_SYS_ADMIN,
            // CRIU opens only namespaces that a process of the image is in, which are the hold's.
            FileKind::Namespace => 0,
            // Not even a workload with all capabilities: whatever this is, nobody has thought of
            // what it could reach.
            FileKind::Other(_) => u64::MAX,
            _ => 0,
        };
        if needed & !allowed.capabilities != 0 {
            let what = format!("an open file of kind {:?}", file.kind);
            return Err(ImagesError::NotAllowed { pid: root, what });
        }
    }
    Ok(())
}

/// Whether a dump by this crate can have a file of this name.
fn is_known(name: &str) -> bool {
    const NAMES: [&str; 15] = [
        "inventory",
        "pstree",
        "files",
        "pipes-data",
        "fifo-data",
        "seccomp",
        "cpuinfo",
        "sk-queues",
        "tty-info",
        "tty-data",
        "memfd",
        "remap-fpath",
        "filelocks",
        "apparmor",
        // Of processes in other control groups than CRIU. It says where they were, and is not used.
        "cgroup",
    ];
    const NUMBERED: [&str; 15] = [
        "core-",
        "fdinfo-",
        "fs-",
        "ids-",
        "mm-",
        "pagemap-shmem-",
        "pagemap-",
        "pages-",
        "ipcns-var-",
        "ipcns-shm-",
        "ipcns-msg-",
        "ipcns-sem-",
        "tcp-stream-",
        "ghost-file-",
        "timens-",
    ];
    let Some(name) = name.strip_suffix(".img") else {
        return false;
    };
    let is_number = |rest: &str| !rest.is_empty() && rest.bytes().all(|c| c.is_ascii_hexdigit());
    NAMES.contains(&name)
        || NUMBERED
            .iter()
            .any(|prefix| name.strip_prefix(prefix).is_some_and(is_number))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nUid:\t1000\t1000\t1000\t1000\nGid:\t100\t100\t100\t100\n\
        Groups:\t4 24 \nCapInh:\t0000000000000000\nCapPrm:\t0000000000002000\n\
        CapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n\
        NoNewPrivs:\t1\nSeccomp:\t2\n";

    fn allowed() -> AllowedCredentials {
        AllowedCredentials::parse(STATUS, "unconfined\n").expect("as proc(5) says")
    }

    fn modest() -> Credentials {
        Credentials {
            uid: 1000,
            euid: 1000,
            suid: 1000,
            fsuid: 1000,
            gid: 100,
            egid: 100,
            sgid: 24,
            fsgid: 100,
            groups: vec![4],
            permitted: vec![0x2000, 0],
            bounding: vec![0xa804_25fb, 0],
            no_new_privs: Some(1),
            ..Credentials::default()
        }
    }

    fn check(credentials: &Credentials) -> Result<(), String> {
        check_ids(credentials, &allowed())?;
        check_capabilities(credentials, &allowed())
    }

    #[test]
    fn a_hold_s_own_credentials_are_what_is_allowed() {
        let allowed = allowed();
        assert_eq!((allowed.uid, allowed.gid), (1000, 100));
        assert_eq!(allowed.groups, [4, 24]);
        assert_eq!(
            (allowed.capabilities, allowed.bounding),
            (0x2000, 0xa804_25fb)
        );
        assert!(allowed.no_new_privileges && allowed.seccomp);
        assert_eq!(allowed.security_label, None);
        assert_eq!(AllowedCredentials::parse("Uid:\t0\n", ""), None);
    }

    #[test]
    fn whatever_goes_beyond_is_refused() {
        assert_eq!(check(&modest()), Ok(()));
        let more: [fn(&mut Credentials); 12] = [
            |c| c.uid = 0,
            |c| c.euid = 0,
            |c| c.suid = 0,
            |c| c.fsuid = 0,
            |c| c.fsgid = 0,
            |c| c.groups = vec![4, 0],
            |c| c.permitted = vec![0x2001, 0],
            |c| c.inheritable = vec![0, 1],
            |c| c.ambient = vec![1],
            |c| c.bounding = vec![u32::MAX, 0],
            |c| c.no_new_privs = None,
            |c| c.lsm_profile = Some("unconfined_t".into()),
        ];
        for (number, change) in more.iter().enumerate() {
            let mut credentials = modest();
            change(&mut credentials);
            assert!(check(&credentials).is_err(), "change {number}");
        }
    }

    #[test]
    fn names_that_no_dump_has_are_refused() {
        for good in [
            "core-1001.img",
            "pagemap-shmem-77.img",
            "ghost-file-a.img",
            "files.img",
            "cgroup.img",
        ] {
            assert!(is_known(good), "{good}");
        }
        for bad in [
            "mountpoints-12.img",
            "netns-9.img",
            "creds-1.img",
            "core-.img",
            "core-1",
            "",
        ] {
            assert!(!is_known(bad), "{bad}");
        }
    }
}
