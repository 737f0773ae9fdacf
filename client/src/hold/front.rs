//! The front half of a hold: the process that the user started.
//!
//! It asks the daemon for namespaces with the init half in them, then relays signals, window sizes
//! and (from a terminal) input, prints what the init half has to say, and returns its exit code.
//! Without a daemon, and where the daemon cannot make namespaces, it is the init half as well.
//!
//! The terminal's modes are put back whatever happens, short of SIGKILL.

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use lifeboat_proto::{
    HOLD_FRAME_BYTES_MAX,
    hold::{
        HoldSpec, Spawn, ToDaemon, ToFront, ToHold, ToInit, WindowSize, to_daemon, to_front,
        to_hold, to_init,
    },
};
use lifeboat_sys::peer;
use nix::sys::signal::Signal;
use prost::Message as _;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::{
    EXIT_NOT_STARTED, children, exit_code_of, inherited,
    init::{self, CONTACT_WAIT, FOREGROUND_CHECK, print_note, with_cause},
    link,
    pump::{AtEnd, Pump, Sink, Source, Wait},
    ready::WaitSet,
    signals::{self, Meaning, Signals},
    terminal::UserTerminal,
    wire::{Wire, WireError},
};
use crate::error::explain_connect;

/// How long the daemon may take to make namespaces.
pub const SPAWN_WAIT: Duration = Duration::from_secs(30);

/// Environment variable that makes both halves one process (`1`), for containers whose first
/// process is another one.
pub const IN_PLACE_VARIABLE: &str = "LIFEBOAT_IN_PLACE";

/// Why a hold could not be run.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// The kernel refused what every hold needs.
    #[error("{what}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The specification is larger than the protocol allows.
    #[error(
        "command and environment take {bytes} bytes, more than the {HOLD_FRAME_BYTES_MAX} that a \
         hold can pass on; start with a smaller environment (`env -i …`)"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// What became of the attempt to have the daemon start the init half.
enum Spawned {
    /// It runs; this is the socket to it.
    Yes(Wire),
    /// It does not; run in place, and look for the daemon for so long.
    InPlace(Duration),
    /// It does not, and the hold ends with this code.
    End(u8),
}

/// Runs a workload and returns the exit code of the hold.
///
/// # Errors
/// When the kernel refuses what every hold needs. Everything else is told on standard error and by
/// the exit code.
pub fn run(spec: HoldSpec) -> Result<u8, FrontError> {
    // Room for what goes around the specification.
    let bytes = spec.encoded_len() + 4096;
    if bytes > HOLD_FRAME_BYTES_MAX {
        return Err(FrontError::TooLarge { bytes });
    }
    let patience = if spec.require_daemon {
        CONTACT_WAIT
    } else {
        Duration::ZERO
    };
    if children::is_init() || std::env::var_os(IN_PLACE_VARIABLE).is_some_and(|v| v == "1") {
        return in_place(spec, patience);
    }
    let mut daemon = match link::open(Path::new(&spec.socket)) {
        Ok(daemon) => daemon,
        // The init half says so, and goes on looking.
        Err(_) if !spec.require_daemon => return in_place(spec, Duration::ZERO),
        Err(error) => {
            let why = explain_connect(Path::new(&spec.socket), &error);
            let name = &spec.workload;
            print_note(
                &format!("{name}: not started, since --require-daemon is given: {why}"),
                false,
            );
            return Ok(EXIT_NOT_STARTED);
        }
    };
    let peer = peer::identify(daemon.socket());
    if peer.is_ok_and(|peer| peer.pid.is_none()) {
        // The daemon is outside of this container.
        return in_place(spec, patience);
    }
    let signals = Signals::take_over().map_err(system("read signals"))?;
    let (input, stdin) = input()?;
    match spawn(&spec, &mut daemon, stdin, &signals)? {
        Spawned::Yes(init) => {
            drop(daemon);
            Front::new(spec, init, signals, input)?.run()
        }
        Spawned::InPlace(patience) => in_place(spec, patience),
        Spawned::End(code) => Ok(code),
    }
}

fn in_place(spec: HoldSpec, patience: Duration) -> Result<u8, FrontError> {
    init::run_in_place(spec, patience).map_err(system("run the hold"))
}

fn system(what: &'static str) -> impl Fn(io::Error) -> FrontError {
    move |source| FrontError::System { what, source }
}

/// What the init half gets as standard input. A terminal is read by this half, which belongs to its
/// session: job control works, and a hold in the background does not steal the shell's input.
fn input() -> Result<(Option<Pump>, OwnedFd), FrontError> {
    let own = inherited::copy(io::stdin()).map_err(system("copy standard input"))?;
    if !rustix::termios::isatty(&own) {
        return Ok((None, own));
    }
    let (theirs, ours) = io::pipe().map_err(system("make a pipe"))?;
    let sink = Sink::owned(ours.into()).map_err(system("prepare a pipe"))?;
    let pump = Pump::new(Source::shared(own), sink, AtEnd::Close);
    Ok((Some(pump.in_small_steps()), theirs.into()))
}

/// Has the daemon start the init half.
fn spawn(
    spec: &HoldSpec,
    daemon: &mut Wire,
    stdin: OwnedFd,
    signals: &Signals,
) -> Result<Spawned, FrontError> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|errno| system("make a socket pair")(errno.into()))?;
    let init = Wire::new(ours)
        .map_err(|error| system("prepare a socket pair")(io::Error::other(error)))?;
    let stdout = inherited::copy(io::stdout()).map_err(system("copy standard output"))?;
    let stderr = inherited::copy(io::stderr()).map_err(system("copy standard error"))?;
    let message = to_daemon::Message::Spawn(Spawn {
        spec: Some(spec.clone()),
    });
    let message = ToDaemon {
        message: Some(message),
    };
    let sent = daemon.send(&message, vec![stdin, stdout, stderr, theirs]);
    let answer = match sent {
        Ok(()) => answer(daemon, signals)?,
        Err(error) => Answer::Lost(error),
    };
    let name = &spec.workload;
    let (why, may_start) = match answer {
        Answer::Spawned => return Ok(Spawned::Yes(init)),
        Answer::Interrupted(code) => return Ok(Spawned::End(code)),
        Answer::Failed(why, may_start) => (why, may_start),
        Answer::Lost(error) => {
            let why = with_cause(&error);
            let socket = &spec.socket;
            (
                format!("the daemon at {socket} went away while it started the hold: {why}"),
                false,
            )
        }
        Answer::Late => {
            let socket = &spec.socket;
            let why = format!("the daemon at {socket} has not started it within {SPAWN_WAIT:?}");
            (why, false)
        }
    };
    if may_start && !spec.require_daemon {
        print_note(&format!("{name}: {why}; started in place"), false);
        return Ok(Spawned::InPlace(Duration::ZERO));
    }
    print_note(&format!("{name}: not started: {why}"), false);
    Ok(Spawned::End(EXIT_NOT_STARTED))
}

/// What the daemon said to the wish for namespaces.
enum Answer {
    Spawned,
    Failed(String, bool),
    Lost(WireError),
    Late,
    Interrupted(u8),
}

fn answer(daemon: &mut Wire, signals: &Signals) -> Result<Answer, FrontError> {
    let deadline = Instant::now() + SPAWN_WAIT;
    while Instant::now() < deadline {
        let mut waits = WaitSet::new();
        waits.readable(Token::Signals, signals.fd());
        waits.readable(Token::Init, daemon.socket());
        if daemon.wants_write() {
            waits.writable(Token::InitRoom, daemon.socket());
        }
        for token in waits
            .wait(Some(deadline))
            .map_err(system("wait for the daemon"))?
        {
            let result = match token {
                Token::InitRoom => daemon.flush(),
                Token::Init => daemon.receive(),
                Token::Signals | Token::Input => Ok(()),
            };
            if let Err(error) = result {
                return Ok(Answer::Lost(error));
            }
        }
        while let Some(meaning) = signals.next_signal().map_err(system("read a signal"))? {
            if let Meaning::Forward { number, .. } = meaning
                && signals::asks_to_end(number)
            {
                return Ok(Answer::Interrupted(exit_code_of(number)));
            }
        }
        match daemon.next_message::<ToHold>() {
            Ok(None) => {}
            Ok(Some(ToHold {
                message: Some(to_hold::Message::Failed(failed)),
            })) => {
                return Ok(Answer::Failed(failed.reason, failed.may_start));
            }
            Ok(Some(_)) => return Ok(Answer::Spawned),
            Err(error) => return Ok(Answer::Lost(error)),
        }
    }
    Ok(Answer::Late)
}

#[derive(Clone, Copy, Debug)]
enum Token {
    Signals,
    Init,
    InitRoom,
    Input,
}

struct Front {
    workload: String,
    init: Wire,
    signals: Signals,
    /// Input from a terminal.
    input: Option<Pump>,
    terminal: Option<UserTerminal>,
    /// Whether terminal and input are the workload's.
    running: bool,
    /// The end, when it is known.
    exit: Option<u8>,
}

impl Front {
    fn new(
        spec: HoldSpec,
        init: Wire,
        signals: Signals,
        input: Option<Pump>,
    ) -> Result<Self, FrontError> {
        let interactive = spec.terminal && rustix::termios::isatty(io::stdin());
        let terminal = interactive
            .then(|| UserTerminal::new(io::stdin()))
            .transpose()
            .map_err(system("read the terminal's modes"))?;
        let workload = spec.workload;
        Ok(Self {
            workload,
            init,
            signals,
            input,
            terminal,
            running: false,
            exit: None,
        })
    }

    fn run(mut self) -> Result<u8, FrontError> {
        loop {
            if let Some(code) = self.exit {
                return Ok(code);
            }
            if self.running
                && let Some(terminal) = &mut self.terminal
            {
                terminal.refresh();
            }
            for token in self.wait().map_err(system("wait for the workload"))? {
                self.handle(token)?;
            }
        }
    }

    fn wait(&self) -> io::Result<Vec<Token>> {
        let mut waits = WaitSet::new();
        let mut deadline = None;
        waits.readable(Token::Signals, self.signals.fd());
        waits.readable(Token::Init, self.init.socket());
        if self.init.wants_write() {
            waits.writable(Token::InitRoom, self.init.socket());
        }
        if let Some(pump) = self.input.as_ref().filter(|_| self.running) {
            match (pump.wait(), pump.source(), pump.sink()) {
                (Wait::Source, Some(source), _) => waits.readable(Token::Input, source),
                (Wait::Sink, _, Some(sink)) => waits.writable(Token::Input, sink),
                (Wait::Foreground, ..) => deadline = Some(Instant::now() + FOREGROUND_CHECK),
                _ => {}
            }
        }
        waits.wait(deadline)
    }

    fn handle(&mut self, token: Token) -> Result<(), FrontError> {
        match token {
            Token::Signals => {
                while let Some(meaning) = self
                    .signals
                    .next_signal()
                    .map_err(system("read a signal"))?
                {
                    self.signal(meaning)?;
                }
            }
            Token::Init => {
                let received = self.init.receive();
                self.hear();
                if received.is_err() && self.exit.is_none() {
                    self.lost_init();
                }
            }
            Token::InitRoom => {
                if self.init.flush().is_err() {
                    self.lost_init();
                }
            }
            Token::Input => {
                if let Some(pump) = &mut self.input
                    && pump.step().is_err()
                {
                    pump.close();
                }
            }
        }
        Ok(())
    }

    fn signal(&mut self, meaning: Meaning) -> Result<(), FrontError> {
        match meaning {
            Meaning::Forward { number, group } => self.send_signal(number, group),
            Meaning::Window => {
                if let Some(window) = self.terminal.as_ref().and_then(UserTerminal::window) {
                    self.send_window(window);
                }
            }
            Meaning::Stop { group } => {
                self.send_signal(Signal::SIGTSTP as i32, group);
                if let Some(terminal) = &mut self.terminal {
                    terminal.restore();
                }
                signals::stop_self().map_err(system("stop"))?;
            }
            Meaning::Child | Meaning::Nothing => {}
        }
        Ok(())
    }

    fn send_signal(&mut self, number: i32, group: bool) {
        let signal = lifeboat_proto::hold::Signal { number, group };
        self.tell(to_init::Message::Signal(signal));
    }

    fn send_window(&mut self, window: WindowSize) {
        self.tell(to_init::Message::Window(window));
    }

    fn tell(&mut self, message: to_init::Message) {
        // That it has gone shows at the next read.
        drop(self.init.send(
            &ToInit {
                message: Some(message),
            },
            Vec::new(),
        ));
    }

    fn hear(&mut self) {
        loop {
            match self.init.next_message::<ToFront>() {
                Ok(Some(said)) => match said.message {
                    Some(to_front::Message::Note(note)) => {
                        let raw = self.terminal.as_ref().is_some_and(UserTerminal::is_raw);
                        print_note(&note.text, raw);
                    }
                    Some(to_front::Message::Running(_)) => self.running = true,
                    Some(to_front::Message::Ended(ended)) => {
                        let code = u8::try_from(ended.exit_code).unwrap_or(EXIT_NOT_STARTED);
                        self.exit = Some(code);
                    }
                    None => {}
                },
                Ok(None) => return,
                Err(_) => return self.lost_init(),
            }
        }
    }

    fn lost_init(&mut self) {
        self.terminal = None;
        let name = &self.workload;
        let (text, code) = if self.running {
            (
                "its hold was killed, and the workload with it",
                exit_code_of(Signal::SIGKILL as i32),
            )
        } else {
            ("its hold ended before the workload ran", EXIT_NOT_STARTED)
        };
        print_note(&format!("{name}: {text}; see the daemon's log"), false);
        self.exit = Some(code);
    }
}
