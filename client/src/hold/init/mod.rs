//! The init half of a hold: starts the workload or has it restored, and looks after it.
//!
//! Guarantees:
//! - every child is reaped;
//! - output is relayed completely before the hold ends, whatever ended the workload;
//! - when the workload's first process ends, the rest of its tree is ended, as in a container;
//! - a daemon that is absent, restarts or dies does not disturb a running workload, with one
//!   exception: while memory of a restored workload is still being loaded, a daemon that does not
//!   come back in time, or cannot know what is missing, ends it (its checkpoint is intact);
//! - when the front half goes away, the workload gets SIGTERM, and SIGKILL after
//!   [`phase::FRONT_GONE_GRACE`].

mod answers;
mod begin;
mod control;
mod ending;
mod events;
mod face;
mod guard;
mod phase;

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use lifeboat_proto::hold::HoldSpec;
use prost::Message as _;
use rustix::rand::GetRandomFlags;

use self::{control::Control, face::Face, guard::Guard, phase::Phase};
use super::{
    FRONT_FD, SPEC_FD,
    children::{self, EndedChild},
    ends::{Sink, Source},
    inherited,
    link::Link,
    pump::{AtEnd, Pump},
    ready::earlier,
    signals::Signals,
    streams::{self, Streams},
    terminal::UserTerminal,
    wire::Wire,
};

pub(crate) use self::face::print_note;
pub use self::{
    control::{WINDOW_BYTES, decode as decode_window},
    phase::{
        ANSWER_WAIT, CONTACT_WAIT, FRONT_GONE_GRACE, KILL_WAIT, NOTE_WAIT, RESTORE_CONTACT_WAIT,
    },
};

/// How often a hold in the background of its terminal looks whether it came to the foreground;
/// nothing tells.
pub(crate) const FOREGROUND_CHECK: Duration = Duration::from_millis(500);

/// The init half.
#[derive(Debug)]
struct Init {
    spec: HoldSpec,
    instance: [u8; 16],
    link: Link,
    face: Face,
    signals: Signals,
    streams: Streams,
    input: Pump,
    outputs: [Pump; 2],
    control: Option<Control>,
    phase: Phase,
    /// The checkpoint that the workload goes on from elsewhere.
    evacuated: Option<String>,
    guard: Guard,
    early_ends: Vec<EndedChild>,
    /// What the daemon said when it refused the running workload.
    last_refusal: Option<String>,
    /// When a workload without a front half is killed.
    kill_at: Option<Instant>,
    /// The end, when it is decided.
    exit: Option<u8>,
}

/// The hidden subcommand: runs the init half in namespaces that the daemon made, with the socket to
/// the front half and the specification as descriptors. Returns the exit code.
///
/// # Errors
/// When the descriptors are not those of a hold, or the kernel refuses what every hold needs.
pub fn run_in_namespaces() -> io::Result<u8> {
    let front = inherited::take(FRONT_FD)?;
    let spec = inherited::take(SPEC_FD)?;
    let encoded = read_all(spec)?;
    let spec = HoldSpec::decode(encoded.as_slice()).map_err(io::Error::other)?;
    let front = Wire::new(front).map_err(io::Error::other)?;
    Init::new(spec, Face::Front(front), CONTACT_WAIT)?.run()
}

/// Runs both halves in this process: as the first process of a container, or without a daemon.
/// `patience` is how long it looks for the daemon before it starts the command without.
///
/// # Errors
/// When the kernel refuses what every hold needs.
pub fn run_in_place(spec: HoldSpec, patience: Duration) -> io::Result<u8> {
    let terminal = spec
        .terminal
        .then(|| UserTerminal::new(io::stdin()).ok())
        .flatten();
    Init::new(spec, Face::Here(terminal), patience)?.run()
}

fn read_all(fd: OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = lifeboat_proto::HOLD_FRAME_BYTES_MAX as u64;
    io::Read::read_to_end(
        &mut io::Read::take(std::fs::File::from(fd), limit),
        &mut bytes,
    )?;
    Ok(bytes)
}

impl Init {
    fn new(spec: HoldSpec, face: Face, patience: Duration) -> io::Result<Self> {
        let signals = Signals::take_over()?;
        children::become_reaper()?;
        let (streams, ours) = streams::open(spec.terminal)?;
        let input = Pump::new(
            Source::shared(inherited::copy(io::stdin())?),
            Sink::owned(ours.stdin)?,
            AtEnd::Close,
        );
        let output = |from, to| -> io::Result<Pump> {
            Ok(Pump::new(
                Source::owned(from)?,
                Sink::shared(to),
                AtEnd::Close,
            ))
        };
        Ok(Self {
            instance: identity()?,
            link: Link::new(spec.socket.clone().into()),
            face,
            signals,
            streams,
            input: input.in_small_steps(),
            outputs: [
                output(ours.stdout, inherited::copy(io::stdout())?)?,
                output(ours.stderr, inherited::copy(io::stderr())?)?,
            ],
            control: ours.control.map(Control::new).transpose()?,
            phase: Phase::Asking {
                until: Instant::now() + patience,
                reached: false,
            },
            evacuated: None,
            guard: Guard::default(),
            early_ends: Vec::new(),
            last_refusal: None,
            kill_at: None,
            exit: None,
            spec,
        })
    }
}

/// An identity that no other hold has.
fn identity() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    // So few bytes come whole or not at all (getrandom(2)).
    rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}

/// An error and what caused it, in one line.
pub(crate) fn with_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
