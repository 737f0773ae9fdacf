//! Starts a hold in namespaces of its own, for a caller on a plain machine.

use std::{
    io,
    os::fd::{OwnedFd, RawFd},
    path::Path,
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use lifeboat_proto::hold::HoldSpec;
use lifeboat_sys::{pidfd::Pidfd, spawn::ChildSetup};
use prost::Message as _;
use rustix::{
    fs::{MemfdFlags, memfd_create},
    process::Pid,
};

use crate::service::identity::Caller;

/// Longest time that making namespaces may take.
const SPAWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Descriptor of the socket to the front half, in the init half.
const FRONT_FD: RawFd = 3;

/// Descriptor of the specification, in the init half.
const SPEC_FD: RawFd = 4;

/// Why a hold could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A system call of the daemon's failed.
    #[error("start a hold: {what}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Descriptors cannot be passed.
    #[error("pass descriptors to the hold")]
    Descriptors(#[source] lifeboat_sys::spawn::SpawnError),
    /// The step that makes the namespaces failed; it has said why on the hold's standard error.
    #[error("make the hold's namespaces: {status}; see standard error")]
    Step {
        /// How it ended.
        status: ExitStatus,
    },
    /// The step that makes the namespaces did not end.
    #[error("make the hold's namespaces: not done after {SPAWN_TIMEOUT:?}")]
    Timeout,
}

/// Descriptors that travel from a front half to its init half.
#[derive(Debug)]
pub struct HoldDescriptors {
    /// The caller's standard streams.
    pub stdio: [OwnedFd; 3],
    /// The init half's end of the socket between both halves.
    pub front: OwnedFd,
}

/// Starts the init half of a hold as the caller's user. Blocks until it runs; call it from a
/// blocking thread.
///
/// # Errors
/// When namespaces cannot be made or the program cannot be executed.
pub fn spawn(
    libexec: &Path,
    caller: &Caller,
    spec: &HoldSpec,
    descriptors: HoldDescriptors,
) -> Result<(), SpawnError> {
    let system = |what| move |source| SpawnError::System { what, source };
    let spec = spec_file(spec).map_err(system("write the specification"))?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("hold-spawn")
        .args(["--caller", &caller.pid.to_string()]);
    command.args([
        "--uid",
        &caller.uid.to_string(),
        "--gid",
        &caller.gid.to_string(),
    ]);
    if !caller.groups.is_empty() {
        let groups: Vec<String> = caller.groups.iter().map(u32::to_string).collect();
        command.args(["--groups", &groups.join(",")]);
    }
    command.arg("--program").arg(libexec.join("lifeboat"));
    command.env_clear().current_dir("/");
    let [stdin, stdout, stderr] = descriptors.stdio;
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    let mut setup = ChildSetup::new();
    setup.default_signals().session_leader().close_others();
    setup
        .pass_fd(descriptors.front, FRONT_FD)
        .map_err(SpawnError::Descriptors)?;
    setup
        .pass_fd(spec, SPEC_FD)
        .map_err(SpawnError::Descriptors)?;
    setup.apply(&mut command);
    let mut child = command.spawn().map_err(system("execute the first step"))?;
    drop(command);
    let status = wait(&mut child)?;
    if status.success() {
        Ok(())
    } else {
        Err(SpawnError::Step { status })
    }
}

fn wait(child: &mut Child) -> Result<ExitStatus, SpawnError> {
    let system = |source| SpawnError::System {
        what: "wait for the first step",
        source,
    };
    let pid = Pid::from_child(child);
    let process = Pidfd::open(pid).map_err(|error| system(io::Error::other(error)))?;
    let ended = process
        .wait_exit(Instant::now() + SPAWN_TIMEOUT)
        .map_err(|error| system(io::Error::other(error)))?;
    if !ended {
        child.kill().map_err(system)?;
        child.wait().map_err(system)?;
        return Err(SpawnError::Timeout);
    }
    child.wait().map_err(system)
}

/// The specification as a file in memory: it may be larger than a pipe holds.
fn spec_file(spec: &HoldSpec) -> io::Result<OwnedFd> {
    use std::io::{Seek as _, Write as _};
    let memory = memfd_create("lifeboat-hold-spec", MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(memory);
    file.write_all(&spec.encode_to_vec())?;
    file.rewind()?;
    Ok(file.into())
}
