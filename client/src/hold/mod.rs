//! The hold: the small supervisor that a workload runs under (`lifeboat run`).
//!
//! It has two halves. The *front* half is the process that the user started; it has the terminal
//! and the exit status. The *init* half is PID 1 of the workload's own namespaces, which the daemon
//! makes; it starts the command or waits for the daemon to restore it, reaps, and carries the
//! standard streams through pipes, so that a restored workload goes on in the new hold's streams.
//! In a container (the hold is its PID 1) and without a daemon both halves are one process.
//!
//! | Module | What it guarantees |
//! |---|---|
//! | [`wire`] | frames and descriptors over a socket, bounded both ways |
//! | [`link`] | the connection to the daemon: comes back by itself, for ever |
//! | [`pump`] | bytes of one stream: in order, exactly once, never read before there is room |
//! | [`ends`] | the ends of a stream, none of which ever blocks |
//! | [`streams`] | the pipes between hold and workload |
//! | [`signals`] | every signal as a descriptor, forwarded as a terminal or a runtime would |
//! | [`children`] | reaping, and ending what is left when the first process has ended |
//! | [`command`] | the workload's first process |
//! | [`terminal`] | raw mode that is always undone, window sizes |
//! | [`terminal_relay`] | the pseudo-terminal of a workload, inside the checkpointed tree |
//! | [`mod@init`] | the init half |
//! | [`front`] | the front half |
//!
//! Everything here is single-threaded, runs without privileges and waits in poll(2) only.

pub mod children;
pub mod command;
pub mod ends;
pub mod front;
pub mod inherited;
pub mod init;
pub mod link;
pub mod pump;
pub mod ready;
pub mod signals;
pub mod streams;
pub mod terminal;
pub mod terminal_relay;
pub mod wire;

/// Exit code after an evacuation (`EX_TEMPFAIL`): the workload goes on elsewhere; run the same
/// command there.
pub const EXIT_EVACUATED: u8 = 75;

/// Exit code when the command could not be started.
pub const EXIT_NOT_STARTED: u8 = 170;

/// Exit code when a restore failed. The checkpoint is intact.
pub const EXIT_RESTORE_FAILED: u8 = 171;

/// Name of the hidden subcommand that is the init half.
pub const INIT_COMMAND: &str = "hold-init";

/// Name of the hidden subcommand that is the pseudo-terminal of a workload.
pub const TERMINAL_RELAY_COMMAND: &str = "terminal-relay";

/// Descriptor on which the init half finds its socket to the front half.
pub const FRONT_FD: i32 = 3;

/// Descriptor on which the init half finds its encoded `HoldSpec`.
pub const SPEC_FD: i32 = 4;

/// The exit code that stands for a status of wait(2), as shells have it: the program's own code, or
/// 128 and the number of the signal that ended it.
#[must_use]
pub fn exit_code_of(wait_status: i32) -> u8 {
    let signal = wait_status & 0x7f;
    let code = if signal == 0 {
        (wait_status >> 8) & 0xff
    } else {
        128 + signal
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_shells() {
        assert_eq!(exit_code_of(0), 0);
        assert_eq!(exit_code_of(7 << 8), 7);
        assert_eq!(exit_code_of(255 << 8), 255);
        assert_eq!(exit_code_of(15), 143);
        assert_eq!(exit_code_of(9), 137);
        // With a core dump.
        assert_eq!(exit_code_of(11 | 0x80), 139);
    }
}
