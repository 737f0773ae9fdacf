//! What the daemon says, and what the hold does about it.

use std::{io::IsTerminal as _, time::Instant};

use lifeboat_proto::hold::{Failed, Restored, Restoring, ToHold, to_hold};
use nix::sys::signal::Signal;

use super::{
    super::{EXIT_NOT_STARTED, EXIT_RESTORE_FAILED, children, exit_code_of, wire::Wire},
    Init,
    guard::Guard,
    phase::{ANSWER_WAIT, CONTACT_WAIT, Phase, RESTORE_CONTACT_WAIT},
};
use crate::error::explain_connect;

impl Init {
    pub(super) fn hear_daemon(&mut self) {
        let Some(wire) = self.link.wire_mut() else {
            return;
        };
        let received = wire.receive();
        loop {
            let Some(wire) = self.link.wire_mut() else {
                return;
            };
            match wire.next_message::<ToHold>() {
                Ok(Some(ToHold {
                    message: Some(message),
                })) => self.answer(message),
                Ok(Some(ToHold { message: None })) => {}
                Ok(None) => break,
                Err(_) => return self.lost_daemon(),
            }
        }
        if received.is_err() {
            self.lost_daemon();
        }
    }

    fn answer(&mut self, message: to_hold::Message) {
        let undecided = matches!(self.phase, Phase::Asking { .. } | Phase::Restoring { .. });
        if !matches!(message, to_hold::Message::Failed(_)) {
            self.link.settle();
            self.last_refusal = None;
        }
        match message {
            to_hold::Message::Start(start) if undecided => {
                if std::io::stderr().is_terminal() && !start.reason.is_empty() {
                    let text = format!("{}: {}", self.spec.workload, start.reason);
                    self.face.say(&text);
                }
                self.start();
            }
            to_hold::Message::Restoring(restoring) if undecided => self.restoring(restoring),
            to_hold::Message::Guarding(guarding) => {
                let wire = self.link.wire_mut();
                let descriptors = wire.map(Wire::take_descriptors).unwrap_or_default();
                self.guard.begin(guarding, descriptors);
            }
            // A daemon is about to take over what its predecessor left.
            to_hold::Message::Restoring(_) => self.guard.wait_on(Instant::now()),
            to_hold::Message::Adopted(_) => self.guard.taken_over(),
            to_hold::Message::Restored(restored) if undecided => self.restored(&restored),
            to_hold::Message::Evacuated(evacuated) => {
                self.evacuated = Some(evacuated.checkpoint);
            }
            to_hold::Message::Failed(failed) => self.failed(&failed, undecided),
            to_hold::Message::ExitNoted(noted) => {
                if noted.evacuated {
                    self.evacuated.get_or_insert(noted.checkpoint);
                }
                if let Phase::Ending(ending) = &mut self.phase {
                    ending.note_until = None;
                }
            }
            to_hold::Message::Loaded(_) => self.guard.end(),
            // The first two are for holds that have not decided yet, which this one has.
            to_hold::Message::Start(_)
            | to_hold::Message::Restored(_)
            | to_hold::Message::Spawned(_) => {}
        }
    }

    /// The daemon is busy with this workload. Without a checkpoint it only waits for something.
    fn restoring(&mut self, restoring: Restoring) {
        let name = &self.spec.workload;
        match &mut self.phase {
            Phase::Asking { until, .. } if restoring.checkpoint.is_empty() => {
                *until = Instant::now() + ANSWER_WAIT;
                let text = format!("{name}: {}", restoring.stage);
                self.face.say(&text);
                return;
            }
            Phase::Asking { .. } => {
                let text = format!("{name}: restoring from checkpoint {}", restoring.checkpoint);
                self.face.say(&text);
            }
            _ => {}
        }
        self.phase = Phase::Restoring {
            checkpoint: restoring.checkpoint,
            until: None,
        };
    }

    fn restored(&mut self, restored: &Restored) {
        let root = restored.root_pid.cast_signed();
        if !restored.loading {
            self.guard.end();
        }
        // The workload has its own copies of these ends now.
        drop(self.streams.give_away());
        self.input.send_first(&restored.pending_stdin);
        self.phase = Phase::Running { root };
        self.face.running();
        let text = format!(
            "{}: goes on from checkpoint {}",
            self.spec.workload, restored.checkpoint
        );
        self.face.say(&text);
        if let Some(control) = &mut self.control
            && let Some(window) = self.face.window().or(self.spec.window)
        {
            control.redraw(window);
        }
        let ended = self
            .early_ends
            .iter()
            .find(|child| child.pid == root)
            .copied();
        self.early_ends.clear();
        if let Some(child) = ended {
            self.ended(child);
        }
    }

    fn failed(&mut self, failed: &Failed, undecided: bool) {
        let text = format!("{}: {}", self.spec.workload, failed.reason);
        if self.guard.give_up() && self.phase.root().is_some() {
            self.face.say(&format!("{text}; the checkpoint is intact"));
            self.forward(Signal::SIGKILL as i32, false);
            children::kill_all();
        } else if !undecided {
            // The workload runs; the daemon will not look after it. It is asked again, slowly, and
            // the user hears of it once.
            self.link.refuse();
            if self.last_refusal.as_ref() != Some(&failed.reason) {
                self.face.say(&text);
                self.last_refusal = Some(failed.reason.clone());
            }
        } else if failed.may_start {
            self.link.settle();
            self.face.say(&text);
            self.start();
        } else if matches!(self.phase, Phase::Restoring { .. }) {
            self.fail(&text, EXIT_RESTORE_FAILED);
        } else {
            self.fail(&text, EXIT_NOT_STARTED);
        }
    }

    /// A connection is there, and the hold is registered on it.
    pub(super) fn reached_daemon(&mut self) {
        match &mut self.phase {
            Phase::Asking { until, reached } if !*reached => {
                *reached = true;
                *until = Instant::now() + ANSWER_WAIT;
            }
            Phase::Restoring { until, .. } => {
                *until = None;
                // These were of an attempt that is over.
                self.early_ends.clear();
            }
            Phase::Ending(_) => self.tell_end(),
            _ => {}
        }
    }

    pub(super) fn lost_daemon(&mut self) {
        let now = Instant::now();
        self.link.lose(now);
        match &mut self.phase {
            Phase::Asking { until, .. } => *until = (*until).min(now + CONTACT_WAIT),
            Phase::Restoring { until, .. } => {
                until.get_or_insert(now + RESTORE_CONTACT_WAIT);
                // The next daemon begins from the beginning. The order matters: whoever misses
                // memory is doomed before its descriptor is closed.
                children::kill_all();
                self.guard = Guard::default();
            }
            _ => {}
        }
        if !self.guard.is_loading() || self.phase.root().is_none() {
            return;
        }
        if self.guard.lost(now) {
            let text = format!(
                "{}: the daemon went away while memory was still being loaded; the workload waits \
                 for it, up to {:?}",
                self.spec.workload,
                self.guard.wait()
            );
            self.face.say(&text);
        } else {
            self.end_half_loaded();
        }
    }

    /// Nobody can give a workload the rest of its memory.
    pub(super) fn end_half_loaded(&mut self) {
        if self.guard.give_up() && self.phase.root().is_some() {
            // First of all: it may see zeros where nobody guards it.
            self.forward(Signal::SIGKILL as i32, false);
            children::kill_all();
            let text = format!(
                "{}: the daemon went away while memory was still being loaded, so the workload is \
                 ended; its checkpoint is intact, run the same command again",
                self.spec.workload
            );
            self.face.say(&text);
        }
    }

    /// Nobody told whether to start or to restore.
    pub(super) fn stop_asking(&mut self) {
        let name = &self.spec.workload;
        let socket = self.link.path();
        if self.link.wire().is_some() {
            let text = format!(
                "{name}: the daemon at {} has not decided within {ANSWER_WAIT:?}; not started",
                socket.display()
            );
            return self.fail(&text, EXIT_NOT_STARTED);
        }
        let why = self.link.last_error().map_or_else(
            || format!("the daemon at {} closes the connection", socket.display()),
            |error| explain_connect(socket, error).to_string(),
        );
        if self.spec.require_daemon {
            let text = format!("{name}: not started, since --require-daemon is given: {why}");
            return self.fail(&text, EXIT_NOT_STARTED);
        }
        let text = format!("{name}: started without protection: {why}");
        self.face.say(&text);
        self.start();
    }

    /// A signal asks a hold without a running workload to end.
    pub(super) fn interrupted(&mut self, number: i32) {
        if let Phase::Restoring { checkpoint, .. } = &self.phase {
            let text = format!("restore interrupted; checkpoint {checkpoint} is intact");
            self.face.say(&text);
        }
        match &mut self.phase {
            Phase::Ending(ending) => ending.hurry = true,
            _ => self.exit = Some(exit_code_of(number)),
        }
    }
}
