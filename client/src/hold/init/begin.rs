//! Presenting the hold, and starting the command.

use lifeboat_proto::hold::{Register, Started, to_daemon};

use super::{
    super::{EXIT_NOT_STARTED, children, command},
    Init,
    phase::Phase,
    with_cause,
};

impl Init {
    /// Presents the hold to a daemon that was just reached.
    pub(super) fn register(&mut self) {
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
            guarded: u32::try_from(if root == 0 { 0 } else { self.guard.count() })
                .unwrap_or(u32::MAX),
        };
        let guarded = register.guarded > 0;
        let said = match descriptors {
            Ok(descriptors) => self
                .link
                .say(to_daemon::Message::Register(register), descriptors)
                .is_ok(),
            Err(_) => false,
        };
        if said && (!guarded || self.hand_over()) {
            self.reached_daemon()
        } else {
            self.lost_daemon()
        }
    }

    /// Gives the descriptors that are guarded to a new daemon.
    fn hand_over(&mut self) -> bool {
        self.guard.copies().all(|frame| {
            let Ok((guarded, uffds)) = frame else {
                return false;
            };
            let message = to_daemon::Message::Guarded(guarded);
            self.link.say(message, uffds).is_ok()
        })
    }

    /// Starts the command.
    pub(super) fn start(&mut self) {
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
    pub(super) fn fail(&mut self, text: &str, code: u8) {
        self.face.say(text);
        self.exit = Some(code);
    }
}
