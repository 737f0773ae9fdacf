//! Registers a tree that runs already and was not started under a hold.

use std::sync::Arc;

use lifeboat_proto::{
    hold::HoldSpec,
    id::WorkloadName,
    v1::{AttachRequest, TcpPolicy},
};
use lifeboat_sys::pidfd::Pidfd;
use rustix::process::Pid;
use tonic::Status;

use super::{identity::Caller, status::status};
use crate::{
    claim::Wish,
    daemon::Context,
    precopy,
    workload::{Phase, SharedWorkload, Tree, Workload},
};

/// Registers the tree of process `request.pid`, if the caller owns it.
///
/// # Errors
/// When there is no such process, it is another user's, or the workload cannot be claimed.
pub async fn attach(
    context: &Arc<Context>,
    caller: &Caller,
    request: AttachRequest,
) -> Result<SharedWorkload, Status> {
    let name: WorkloadName = request.name.parse().map_err(status)?;
    let pid = request.pid;
    let gone = || Status::not_found(format!("there is no process {pid}"));
    let number = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(gone)?;
    let root = Pidfd::open(number).map_err(|_| gone())?;
    let owner = owner_of(pid).ok_or_else(gone)?;
    if !caller.may_touch(owner.uid) {
        return Err(Status::permission_denied(format!(
            "process {pid} belongs to user {}; only this user and root can attach it",
            owner.uid
        )));
    }
    let inner_pid = crate::workload::tree::processes(pid)
        .ok()
        .and_then(|all| all.first().map(|process| process.inner_pid))
        .ok_or_else(gone)?;
    // What was read by number is this process's if it is still there.
    if !root.is_alive() {
        return Err(gone());
    }
    let spec = HoldSpec {
        workload: name.to_string(),
        argv: command_line(pid),
        preserve: request.preserve,
        tcp: if request.tcp == TcpPolicy::Keep as i32 {
            "keep"
        } else {
            "close"
        }
        .to_owned(),
        ..HoldSpec::default()
    };
    let instance = format!("attached-{:032x}", rand::random::<u128>());
    let workload = Workload::new(name, owner, spec, instance, false);
    let workload = context.registry.insert(workload).map_err(status)?;
    let wish = Wish {
        owner: workload.instance.clone(),
        uid: workload.owner.uid,
        fresh: true,
        take_over: false,
    };
    let claimed = context.heads.claim(&workload.name, &wish, |_| {}).await;
    let (right, _) = match claimed {
        Ok(claimed) => claimed,
        Err(error) => {
            context.registry.remove(&workload);
            return Err(status(error));
        }
    };
    workload.exclusive().await.tree = Some(Tree {
        root,
        pid,
        inner_pid,
    });
    workload.publish("attached", |view| {
        view.phase = Phase::Running;
        view.pid = pid;
        view.epoch = right.head.epoch;
    });
    *workload.right.lock().await = Some(right);
    tokio::spawn(precopy::follow(Arc::clone(context), Arc::clone(&workload)));
    super::hold::watch_attached(context, &workload, pid);
    Ok(workload)
}

/// Who owns a process. One that runs with other rights than its user's (a set-user-id program) is
/// root's: its memory is not its user's to keep.
fn owner_of(pid: u32) -> Option<Caller> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = |name: &str| -> Vec<u32> {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default();
        line.split_ascii_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect()
    };
    Some(Caller {
        uid: same(&numbers("Uid:"))?,
        gid: same(&numbers("Gid:"))?,
        groups: numbers("Groups:").into(),
        pid,
    })
}

/// The id, if real, effective, saved and file system id are the same; else root's.
fn same(ids: &[u32]) -> Option<u32> {
    let first = *ids.first()?;
    Some(if ids.iter().all(|id| *id == first) {
        first
    } else {
        0
    })
}

fn command_line(pid: u32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}
