//! The two steps that put a hold into namespaces of its own, each a process of its own.
//!
//! The first step (`hold-spawn`, root) joins the caller's control groups, makes mount, PID and IPC
//! namespaces and starts the second step, which is PID 1 in them. The second step (`hold-stage`)
//! mounts what belongs to the namespaces, becomes the caller's user and executes the hold. Nothing
//! of the caller's choosing is opened or executed while there are privileges.
//!
//! On failure a step ends with a line on standard error and a status other than zero; the daemon
//! passes the line on, and no workload was started.

use std::{
    ffi::CString,
    fs,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};

use crate::cli::{AsUser, HoldSpawn, HoldStage};

/// First step: namespaces. Runs as root with descriptors 0 to 4 as the hold shall have them.
#[must_use]
pub fn spawn_main(args: &HoldSpawn) -> ExitCode {
    report(spawn_step(args))
}

/// Second step: mounts and user. Runs as PID 1 of the new namespace.
#[must_use]
pub fn stage_main(args: &HoldStage) -> ExitCode {
    report(stage_step(args))
}

/// Sets the last PID of the current PID namespace, so that the next process is numbered after it.
#[must_use]
pub fn set_last_pid_main(pid: u32) -> ExitCode {
    let file = "/proc/sys/kernel/ns_last_pid";
    report(fs::write(file, pid.to_string()).with_context(|| format!("write {pid} to {file}")))
}

/// Becomes another user for good.
///
/// # Errors
/// When the system refuses.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> anyhow::Result<()> {
    let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    setgroups(&groups).context("set supplementary groups")?;
    let gid = Gid::from_raw(gid);
    setresgid(gid, gid, gid).with_context(|| format!("become group {gid}"))?;
    let uid = Uid::from_raw(uid);
    setresuid(uid, uid, uid).with_context(|| format!("become user {uid}"))
}

/// Writes a workload's files to standard output, as its user.
#[must_use]
pub fn archive_main(user: &AsUser) -> ExitCode {
    as_user(user, || {
        lifeboat_files::archive_main(user.paths.iter().map(Into::into))
    })
}

/// Reads a workload's files from standard input, as its user.
#[must_use]
pub fn extract_main(user: &AsUser) -> ExitCode {
    as_user(user, || {
        lifeboat_files::extract_main(user.paths.iter().map(Into::into))
    })
}

fn as_user(user: &AsUser, work: impl FnOnce() -> ExitCode) -> ExitCode {
    match become_user(user.uid, user.gid, &user.groups) {
        Ok(()) => work(),
        failed => report(failed),
    }
}

fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is gone.
            drop(writeln!(io::stderr(), "{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn spawn_step(args: &HoldSpawn) -> anyhow::Result<()> {
    join_control_groups(args.caller);
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC)
        .context("make mount, PID and IPC namespaces")?;
    let none = None::<&Path>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .context("keep the namespace's mounts from the machine's")?;
    let stage = &args.stage;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("hold-stage")
        .arg("--program")
        .arg(&stage.program);
    command.args([
        "--uid",
        &stage.uid.to_string(),
        "--gid",
        &stage.gid.to_string(),
    ]);
    if !stage.groups.is_empty() {
        let groups: Vec<String> = stage.groups.iter().map(u32::to_string).collect();
        command.args(["--groups", &groups.join(",")]);
    }
    // Descriptors 3 and 4 were passed without close-on-exec and go on to the next step.
    let mut child = command
        .spawn()
        .context("start the first process of the PID namespace")?;
    // The stage replaces itself by the hold; were it to fail before, its line on standard error
    // tells. Waiting here would last as long as the workload.
    if let Some(status) = child.try_wait().context("look after the first process")? {
        bail!("the first process of the PID namespace ended at once: {status}");
    }
    Ok(())
}

/// Joins the control groups of the process `pid` as far as possible: the workload belongs to the
/// caller's unit or session, not to the daemon's, for accounting, limits and stopping.
fn join_control_groups(pid: u32) {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else {
        return;
    };
    let own = std::process::id().to_string();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let controllers = controllers.trim_start_matches("name=");
        let roots: &[&str] = if controllers.is_empty() {
            &["", "unified"]
        } else {
            &[controllers]
        };
        for root in roots {
            let procs = Path::new("/sys/fs/cgroup")
                .join(root)
                .join(path.trim_start_matches('/'))
                .join("cgroup.procs");
            if fs::write(&procs, &own).is_ok() {
                break;
            }
        }
    }
}

fn stage_step(args: &HoldStage) -> anyhow::Result<()> {
    if std::process::id() != 1 {
        bail!("hold-stage is the first process of a PID namespace; the daemon starts it");
    }
    mount_own(args.uid, args.gid)?;
    become_user(args.uid, args.gid, &args.groups)?;
    let program = CString::new(args.program.as_os_str().as_encoded_bytes())
        .context("path of the lifeboat program")?;
    let error = Command::new(&args.program)
        .arg0("lifeboat")
        .arg("hold-init")
        .exec();
    Err(error).with_context(|| format!("execute {}", program.to_string_lossy()))
}

/// Mounts what belongs to the namespaces: `/proc` of the PID namespace, terminals and shared memory
/// of their own, so that numbers and names cannot collide with those of other workloads.
fn mount_own(uid: u32, gid: u32) -> anyhow::Result<()> {
    let none = None::<&str>;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), quiet, none).context("mount /proc")?;
    mount(
        Some("devpts"),
        "/dev/pts",
        Some("devpts"),
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        Some("newinstance,ptmxmode=0666,mode=620"),
    )
    .context("mount /dev/pts")?;
    mount(
        Some("/dev/pts/ptmx"),
        "/dev/ptmx",
        none,
        MsFlags::MS_BIND,
        none,
    )
    .context("bind /dev/ptmx")?;
    // It is the user's own, so that a restore by the user can set its attributes.
    let owned = format!("mode=1777,uid={uid},gid={gid}");
    mount(
        Some("tmpfs"),
        "/dev/shm",
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(owned.as_str()),
    )
    .context("mount /dev/shm")
}
