//! What can happen to a hold, and what is done about it.

use std::{io, time::Instant};

use lifeboat_proto::hold::to_init;
use nix::sys::signal::Signal;

use super::{
    super::{
        EXIT_NOT_STARTED, EXIT_RESTORE_FAILED, children,
        pump::{Pump, Wait},
        ready::{WaitSet, earlier},
        signals::{self, Meaning},
    },
    FOREGROUND_CHECK, Init,
    control::Control,
    face::Face,
    phase::{FRONT_GONE_GRACE, Phase, RESTORE_CONTACT_WAIT},
};

/// Ended children that are remembered while the daemon has not said which one is the workload.
const EARLY_ENDS_MAX: usize = 256;

/// Who wants to know what is ready.
#[derive(Clone, Copy, Debug)]
enum Token {
    Signals,
    Daemon,
    DaemonRoom,
    Guard,
    Front,
    FrontRoom,
    Input,
    Output(usize),
    Control,
}

impl Init {
    /// Runs to the end; the exit code.
    pub(super) fn run(mut self) -> io::Result<u8> {
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
        deadline = earlier(deadline, self.guard.until());
        waits.readable(Token::Signals, self.signals.fd());
        if let Some(wire) = self.link.wire() {
            waits.readable(Token::Daemon, wire.socket());
            if wire.wants_write() {
                waits.writable(Token::DaemonRoom, wire.socket());
            }
        }
        if let Some(socket) = self.guard.socket() {
            waits.readable(Token::Guard, socket);
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
            Token::Guard => self.guard.hear(),
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

    /// Whether there still is something of a restore that was broken off.
    fn is_clearing_up(&mut self) -> io::Result<bool> {
        let broken_off = matches!(self.phase, Phase::Restoring { until: Some(_), .. });
        Ok(broken_off && children::reap()?.1)
    }

    /// Does what time has made due.
    fn advance(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if self.exit.is_none() && !self.is_clearing_up()? && self.link.attempt(now) {
            self.register();
        }
        if let Some(terminal) = self.face.terminal()
            && matches!(self.phase, Phase::Running { .. })
        {
            terminal.refresh();
        }
        if self.kill_at.is_some_and(|at| now >= at) {
            self.kill_at = None;
            self.forward(Signal::SIGKILL as i32, false);
        }
        if self.guard.until().is_some_and(|until| now >= until) {
            self.end_half_loaded();
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
                self.forward(Signal::SIGTSTP as i32, group);
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

    /// Sends a signal to the workload, while it runs.
    pub(super) fn forward(&mut self, number: i32, group: bool) {
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
            self.forward(Signal::SIGTERM as i32, false);
            self.kill_at = Some(Instant::now() + FRONT_GONE_GRACE);
        } else if !matches!(self.phase, Phase::Ending(_)) {
            self.exit = Some(EXIT_NOT_STARTED);
        }
    }
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
