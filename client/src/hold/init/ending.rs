//! From the end of the workload's first process to the end of the hold.
//!
//! In this order: tell the daemon; kill what is left of the tree; relay all output that is in the
//! pipes; learn from the daemon whether it was an evacuation.

use std::{io, time::Instant};

use lifeboat_proto::hold::{Exited, to_daemon};
use nix::sys::signal::Signal;

use super::{
    super::{
        EXIT_EVACUATED, EXIT_RESTORE_FAILED,
        children::{self, EndedChild},
        exit_code_of,
        pump::{Pump, Wait},
    },
    Init,
    phase::{Ending, KILL_WAIT, NOTE_WAIT, Phase},
};

/// Rounds of draining (1 MiB each) before a stream that does not end is cut off: all who could
/// write to it were killed, so what is in the pipe is all there is.
const DRAIN_ROUNDS_MAX: usize = 64;

impl Init {
    /// The workload's first process has ended.
    pub(super) fn ended(&mut self, child: EndedChild) {
        let now = Instant::now();
        // Without a connection only a kill needs an explanation: a daemon that is restarting may
        // have been the one who did it, after a commit.
        let killed = child.status & 0x7f == Signal::SIGKILL as i32;
        let explained = self.guard.is_broken() || self.evacuated.is_some();
        let matters =
            !explained && self.link.was_answered() && (self.link.wire().is_some() || killed);
        self.kill_at = None;
        self.phase = Phase::Ending(Ending {
            root: child.pid,
            status: child.status,
            killing_until: Some(now + KILL_WAIT),
            note_until: matters.then(|| now + NOTE_WAIT),
            hurry: false,
        });
        self.input.close();
        self.control = None;
        children::kill_all();
        self.tell_end();
    }

    /// Tells the daemon of the end.
    pub(super) fn tell_end(&mut self) {
        let Phase::Ending(ending) = &self.phase else {
            return;
        };
        let exited = Exited {
            wait_status: ending.status,
        };
        if self
            .link
            .say(to_daemon::Message::Exited(exited), Vec::new())
            .is_err()
        {
            self.lost_daemon();
        }
    }

    /// Children were reaped; the flag tells whether there are more.
    pub(super) fn note_left(&mut self, left: bool) {
        if let Phase::Ending(ending) = &mut self.phase
            && ending.killing_until.is_some()
        {
            if left {
                children::kill_all();
            } else {
                ending.killing_until = None;
            }
        }
    }

    pub(super) fn advance_ending(&mut self, now: Instant) -> io::Result<()> {
        let Phase::Ending(ending) = &mut self.phase else {
            return Ok(());
        };
        let passed = |until: Option<Instant>| until.is_some_and(|until| now >= until);
        if ending.hurry || passed(ending.killing_until) {
            ending.killing_until = None;
        }
        if ending.killing_until.is_some() {
            // A child may have come to this process without a signal of its own.
            let (_, left) = children::reap()?;
            self.note_left(left);
        }
        let Phase::Ending(ending) = &mut self.phase else {
            return Ok(());
        };
        if ending.killing_until.is_some() {
            return Ok(());
        }
        if ending.hurry || self.evacuated.is_some() || passed(ending.note_until) {
            ending.note_until = None;
        }
        let (status, hurry) = (ending.status, ending.hurry);
        let known = ending.note_until.is_none();
        for pump in &mut self.outputs {
            drain(pump);
        }
        let drained = self.outputs.iter().all(|pump| pump.wait() == Wait::Done);
        if hurry || (drained && known) {
            self.exit = Some(self.conclude(status));
        }
        Ok(())
    }

    /// The exit code, with a line where it is not the workload's own.
    fn conclude(&mut self, status: i32) -> u8 {
        if self.guard.is_broken() {
            return EXIT_RESTORE_FAILED;
        }
        let Some(checkpoint) = &self.evacuated else {
            return exit_code_of(status);
        };
        let name = &self.spec.workload;
        let text = format!(
            "{name}: evacuated, goes on from checkpoint {checkpoint}; run the same command on \
             another machine"
        );
        self.face.say(&text);
        EXIT_EVACUATED
    }
}

/// Relays what is in the pipe, as far as the sink has room.
fn drain(pump: &mut Pump) {
    for _ in 0..DRAIN_ROUNDS_MAX {
        if pump.wait() == Wait::Done {
            return;
        }
        if pump.drain().is_err() {
            return pump.close();
        }
        if pump.wait() == Wait::Sink {
            return;
        }
    }
    pump.close();
}
