//! What processes are: traced, in whose session, in which namespaces, below whom.

use crate::{
    blocker::{Findings, Kind},
    inspect::Scene,
    proc::is_gone,
    process::{Process, Status},
};

/// Namespaces that CRIU refuses below the root process.
const REFUSED: [&str; 8] = [
    "pid",
    "pid_for_children",
    "uts",
    "ipc",
    "user",
    "cgroup",
    "time",
    "time_for_children",
];

/// Namespaces that it takes, but whose contents it then has to describe as well.
const DOUBTFUL: [&str; 2] = ["mnt", "net"];

pub(crate) fn state(scene: &Scene<'_>, findings: &mut Findings) {
    session(scene, findings);
    for process in scene.tree {
        tracing(process, findings);
        if process.status.is_zombie() && process.threads.len() > 1 {
            let detail = format!(
                "the first thread of {} has ended while others go on, which cannot be \
                 checkpointed: let it wait for them",
                process.shown()
            );
            findings.fatal(Kind::ProcessState, process.pid, detail);
        }
    }
    if scene.policy.held {
        orphans(scene, findings);
    }
}

fn tracing(process: &Process, findings: &mut Findings) {
    for thread in &process.threads {
        let Ok(text) = process.dir.text(&format!("task/{thread}/status")) else {
            continue;
        };
        let tracer = Status::parse(&text).tracer;
        // This process looks at memory by tracing for a moment.
        if tracer == 0 || tracer == std::process::id() {
            continue;
        }
        let by = Process::open(tracer).map_or_else(|_| format!("pid {tracer}"), |by| by.shown());
        let detail = format!(
            "{} is traced by {by}, and can have only one tracer: end the debugger or tracer",
            process.shown()
        );
        findings.fatal(Kind::Traced, process.pid, detail);
        return;
    }
}

fn session(scene: &Scene<'_>, findings: &mut Findings) {
    let root = scene.root();
    if root.status.inner_session != root.status.inner_pid {
        let detail = format!(
            "{} is in the session of another process: start the workload with `lifeboat run`, or \
             with `setsid`",
            root.shown()
        );
        findings.fatal(Kind::Session, root.pid, detail);
    }
    for process in scene
        .tree
        .iter()
        .skip(1)
        .filter(|process| process.status.inner_session == 0)
    {
        let detail = format!(
            "{} is in a session of a process outside of its PID namespace: start it with `setsid`",
            process.shown()
        );
        findings.fatal(Kind::Session, process.pid, detail);
    }
}

/// Processes that were handed to the hold when their parent ended.
fn orphans(scene: &Scene<'_>, findings: &mut Findings) {
    let Ok(hold) = Process::open(scene.root().status.parent) else {
        return;
    };
    for pid in hold.children().unwrap_or_default() {
        if scene.has_process(pid) {
            continue;
        }
        if let Ok(orphan) = Process::open(pid)
            && !orphan.status.is_zombie()
        {
            let detail = format!(
                "{} went into the background (its parent has ended) and is not part of \
                 checkpoints: run it in the foreground, or start it below a process that stays",
                orphan.shown()
            );
            findings.note(Kind::Orphan, pid, detail);
        }
    }
}

pub(crate) fn namespaces(scene: &Scene<'_>, findings: &mut Findings) {
    let root = scene.root();
    for process in scene.alive() {
        for kind in REFUSED.iter().chain(&DOUBTFUL) {
            // What new children get is compared with what the process itself has. Before there is
            // a first child in a new PID namespace, it cannot be read, and CRIU does not mind.
            let expected = match kind.strip_suffix("_for_children") {
                Some(own) => inode(process, own),
                None => inode(root, kind),
            };
            match (inode(process, kind), expected) {
                (Ok(found), Ok(expected)) if found != expected => {
                    report(process, kind, findings);
                }
                (Err(error), _) if !is_gone(&error) => {
                    let shown = process.shown();
                    let detail = format!("the namespaces of {shown} could not be read: {error}");
                    findings.note(Kind::Unknown, process.pid, detail);
                    break;
                }
                _ => {}
            }
        }
    }
}

fn inode(process: &Process, kind: &str) -> std::io::Result<u64> {
    Ok(process.dir.stat(&format!("ns/{kind}"))?.stx_ino)
}

fn report(process: &Process, kind: &str, findings: &mut Findings) {
    let shown = process.shown();
    let name = match kind {
        "mnt" => "mount",
        "net" => "network",
        "uts" => "host name (uts)",
        "pid_for_children" => "PID namespace for its children",
        "time_for_children" => "time namespace for its children",
        other => other,
    };
    let what = if name.contains("namespace") {
        format!("{shown} has another {name} than the workload's first process")
    } else {
        format!("{shown} is in another {name} namespace than the workload's first process")
    };
    if DOUBTFUL.contains(&kind) {
        let detail = format!("{what}: a checkpoint may fail; try one with `lifeboat checkpoint`");
        findings.note(Kind::Namespace, process.pid, detail);
    } else {
        let detail = format!(
            "{what}, which cannot be checkpointed: turn the sandbox off, or make the process that \
             is in it a workload of its own"
        );
        findings.fatal(Kind::Namespace, process.pid, detail);
    }
}
