//! Relaying between the user and the init half.

use std::{io, time::Instant};

use lifeboat_proto::hold::{HoldSpec, ToFront, ToInit, WindowSize, to_front, to_init};
use nix::sys::signal::Signal;

use super::{
    super::{
        EXIT_NOT_STARTED, exit_code_of,
        init::{FOREGROUND_CHECK, print_note},
        pump::{Pump, Wait},
        ready::WaitSet,
        signals::{self, Meaning, Signals},
        terminal::UserTerminal,
        wire::Wire,
    },
    FrontError, system,
};

#[derive(Clone, Copy, Debug)]
enum Token {
    Signals,
    Init,
    InitRoom,
    Input,
}

/// The front half while the init half runs.
pub(super) struct Front {
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
    pub(super) fn new(
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

    /// Relays until the end; the exit code.
    pub(super) fn run(mut self) -> Result<u8, FrontError> {
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
