//! The init half of a hold: starts the workload or has it restored, and looks after it.
//!
//! Guarantees:
//! - every child is reaped;
//! - output is relayed completely before the hold ends, whatever ended the workload;
//! - when the workload's first process ends, the rest of its tree is ended, as in a container;
//! - a daemon that is absent, restarts or dies does not disturb a running workload, with one
//!   exception: while memory of a restored workload is still being loaded, the daemon's death ends
//!   it (its checkpoint is intact), since missing pages cannot be had any more;
//! - when the front half goes away, the workload gets SIGTERM, and SIGKILL after
//!   [`phase::FRONT_GONE_GRACE`].

mod answers;
mod control;
mod ending;
mod face;
mod guard;
mod phase;

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use lifeboat_proto::hold::{HoldSpec, Register, Started, to_daemon, to_init};
use prost::Message as _;
use rustix::rand::GetRandomFlags;

use self::{control::Control, face::Face, guard::Guard, phase::Phase};
use super::{
    EXIT_NOT_STARTED, EXIT_RESTORE_FAILED, FRONT_FD, SPEC_FD, children,
    children::EndedChild,
    command, inherited,
    link::Link,
    pump::{AtEnd, Pump, Sink, Source, Wait},
    ready::{WaitSet, earlier},
    signals::{self, Meaning, Signals},
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

/// Ended children that are remembered while the daemon has not said which one is the workload.
const EARLY_ENDS_MAX: usize = 256;

/// Who wants to know what is ready.
#[derive(Clone, Copy, Debug)]
enum Token {
    Signals,
    Daemon,
    DaemonRoom,
    Front,
    FrontRoom,
    Input,
    Output(usize),
    Control,
}

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

    fn run(mut self) -> io::Result<u8> {
        loop {
            self.advance()?;
            if let Some(code) = self.exit {
                self.face.ended(code);
                return Ok(code);
            }
            for token in self.wait()? {
                self.handle(token)?;
            }
        }
    }

    /// Waits for whatever can happen now.
    fn wait(&self) -> io::Result<Vec<Token>> {
        let mut waits = WaitSet::new();
        let mut deadline = earlier(self.phase.deadline(), self.kill_at);
        deadline = earlier(deadline, self.link.next_attempt());
        waits.readable(Token::Signals, self.signals.fd());
        if let Some(wire) = self.link.wire() {
            waits.readable(Token::Daemon, wire.socket());
            if wire.wants_write() {
                waits.writable(Token::DaemonRoom, wire.socket());
            }
        }
        if let Face::Front(wire) = &self.face {
            waits.readable(Token::Front, wire.socket());
            if wire.wants_write() {
                waits.writable(Token::FrontRoom, wire.socket());
            }
        }
        if matches!(self.phase, Phase::Running { .. })
            && add_pump(&mut waits, &self.input, Token::Input)
        {
            deadline = earlier(deadline, Some(Instant::now() + FOREGROUND_CHECK));
        }
        for (index, pump) in self.outputs.iter().enumerate() {
            add_pump(&mut waits, pump, Token::Output(index));
        }
        if let Some(control) = self.control.as_ref().and_then(Control::wants_room) {
            waits.writable(Token::Control, control);
        }
        waits.wait(deadline)
    }

    fn handle(&mut self, token: Token) -> io::Result<()> {
        match token {
            Token::Signals => {
                while let Some(meaning) = self.signals.next_signal()? {
                    self.signal(meaning)?;
                }
            }
            Token::Daemon => self.hear_daemon(),
            Token::DaemonRoom => {
                let lost = self
                    .link
                    .wire_mut()
                    .is_some_and(|wire| wire.flush().is_err());
                if lost {
                    self.lost_daemon();
                }
            }
            Token::Front => match self.face.hear() {
                Ok(heard) => heard.into_iter().for_each(|said| self.hear_front(said)),
                Err(_) => self.lost_front(),
            },
            Token::FrontRoom => {
                if let Face::Front(wire) = &mut self.face
                    && wire.flush().is_err()
                {
                    self.lost_front();
                }
            }
            Token::Input => relay(&mut self.input),
            Token::Output(index) => relay(&mut self.outputs[index]),
            Token::Control => {
                if let Some(control) = &mut self.control {
                    control.flush();
                }
            }
        }
        Ok(())
    }

    /// Does what time has made due.
    fn advance(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if self.exit.is_none() && self.link.attempt(now) {
            self.register();
        }
        if let Some(terminal) = self.face.terminal()
            && matches!(self.phase, Phase::Running { .. })
        {
            terminal.refresh();
        }
        if self.kill_at.is_some_and(|at| now >= at) {
            self.kill_at = None;
            self.forward(nix::sys::signal::Signal::SIGKILL as i32, false);
        }
        match &self.phase {
            Phase::Asking { until, .. } if now >= *until => self.stop_asking(),
            Phase::Restoring {
                until: Some(until),
                checkpoint,
            } if now >= *until => {
                let text = format!(
                    "restore of checkpoint {checkpoint} given up: the daemon at {} has been away \
                     for {:?}; the checkpoint is intact",
                    self.link.path().display(),
                    RESTORE_CONTACT_WAIT
                );
                self.fail(&text, EXIT_RESTORE_FAILED);
            }
            Phase::Ending(_) => self.advance_ending(now)?,
            _ => {}
        }
        Ok(())
    }

    fn signal(&mut self, meaning: Meaning) -> io::Result<()> {
        match meaning {
            Meaning::Child => self.reap()?,
            Meaning::Window => {
                if let (Some(window), Some(control)) = (self.face.window(), &mut self.control) {
                    control.send(window);
                }
            }
            Meaning::Stop { group } => {
                self.forward(nix::sys::signal::Signal::SIGTSTP as i32, group);
                if let Face::Here(terminal) = &mut self.face {
                    if let Some(terminal) = terminal {
                        terminal.restore();
                    }
                    signals::stop_self()?;
                }
            }
            Meaning::Forward { number, group } => self.deliver(number, group),
            Meaning::Nothing => {}
        }
        Ok(())
    }

    /// A signal that somebody sent to the hold.
    fn deliver(&mut self, number: i32, group: bool) {
        match self.phase {
            Phase::Running { .. } => self.forward(number, group),
            _ if signals::asks_to_end(number) => self.interrupted(number),
            _ => {}
        }
    }

    fn forward(&mut self, number: i32, group: bool) {
        let Some(root) = self.phase.root() else {
            return;
        };
        if let Err(error) = signals::send(root, number, group) {
            self.face.say(&format!(
                "signal {number} cannot be sent to the workload: {error}"
            ));
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        let (ended, left) = children::reap()?;
        for child in ended {
            match &self.phase {
                Phase::Running { root } if *root == child.pid => self.ended(child),
                Phase::Asking { .. } | Phase::Restoring { .. }
                    if self.early_ends.len() < EARLY_ENDS_MAX =>
                {
                    self.early_ends.push(child);
                }
                _ => {}
            }
        }
        self.note_left(left);
        Ok(())
    }

    fn hear_front(&mut self, said: to_init::Message) {
        match said {
            to_init::Message::Signal(signal) => self.deliver(signal.number, signal.group),
            to_init::Message::Window(window) => {
                self.spec.window = Some(window);
                if let Some(control) = &mut self.control {
                    control.send(window);
                }
            }
        }
    }

    fn lost_front(&mut self) {
        self.face = Face::Gone;
        if self.phase.root().is_some() {
            self.forward(nix::sys::signal::Signal::SIGTERM as i32, false);
            self.kill_at = Some(Instant::now() + FRONT_GONE_GRACE);
        } else if !matches!(self.phase, Phase::Ending(_)) {
            self.exit = Some(EXIT_NOT_STARTED);
        }
    }

    /// Presents the hold to a daemon that was just reached.
    fn register(&mut self) {
        let root = match &self.phase {
            Phase::Running { root } => *root,
            Phase::Ending(ending) => ending.root,
            _ => 0,
        };
        let streams = self.streams.describe();
        let descriptors = if root == 0 {
            self.streams.copies()
        } else {
            Ok(Vec::new())
        };
        let register = Register {
            spec: Some(self.spec.clone()),
            streams,
            root_pid: root.cast_unsigned(),
            can_restore: children::is_init(),
            instance: self.instance.to_vec().into(),
        };
        let said = match descriptors {
            Ok(descriptors) => self
                .link
                .say(to_daemon::Message::Register(register), descriptors)
                .is_ok(),
            Err(_) => false,
        };
        if said {
            self.reached_daemon()
        } else {
            self.lost_daemon()
        }
    }

    /// Starts the command.
    fn start(&mut self) {
        let Some(ends) = self.streams.give_away() else {
            return;
        };
        if let Some(window) = self.face.window() {
            self.spec.window = Some(window);
        }
        match command::start(&self.spec, ends) {
            Ok(root) => {
                self.phase = Phase::Running { root };
                self.early_ends.clear();
                self.face.running();
                let started = Started {
                    root_pid: root.cast_unsigned(),
                };
                if self
                    .link
                    .say(to_daemon::Message::Started(started), Vec::new())
                    .is_err()
                {
                    self.lost_daemon();
                }
            }
            Err(error) => {
                let text = format!("{}: {}", self.spec.workload, with_cause(&error));
                self.fail(&text, EXIT_NOT_STARTED);
            }
        }
    }

    /// Ends the hold with a line that tells why.
    fn fail(&mut self, text: &str, code: u8) {
        self.face.say(text);
        self.exit = Some(code);
    }
}

/// An identity that no other hold has.
fn identity() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    // So few bytes come whole or not at all (getrandom(2)).
    rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}

/// Adds a pump to a wait. `true`: it waits for something that does not tell.
fn add_pump<'fd>(waits: &mut WaitSet<'fd, Token>, pump: &'fd Pump, token: Token) -> bool {
    match pump.wait() {
        Wait::Source => {
            if let Some(source) = pump.source() {
                waits.readable(token, source);
            }
        }
        Wait::Sink => {
            if let Some(sink) = pump.sink() {
                waits.writable(token, sink);
            }
        }
        Wait::Foreground => return true,
        Wait::Done => {}
    }
    false
}

/// Moves what can be moved. A stream that fails ends; the others and the workload go on.
fn relay(pump: &mut Pump) {
    if pump.step().is_err() {
        pump.close();
    }
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
