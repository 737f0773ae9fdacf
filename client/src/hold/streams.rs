//! The pipes between hold and workload.
//!
//! Each has an end that the hold keeps and one that becomes a descriptor of the workload. The hold
//! gives the latter away: to the command that it starts, or to the daemon, which puts it in place
//! of the pipe that the checkpointed tree had. Pipes have the kernel's default size.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use lifeboat_proto::hold::StreamPipe;

/// Name of the pipe for window sizes, in the hold protocol.
pub const TERMINAL_CONTROL: &str = "terminal-control";

/// One pipe.
#[derive(Debug)]
pub struct Pipe {
    name: &'static str,
    inode: u64,
    /// The workload's end, until it is given away.
    theirs: Option<OwnedFd>,
}

/// All pipes of a hold.
#[derive(Debug)]
pub struct Streams {
    pipes: Vec<Pipe>,
}

/// The hold's ends.
#[derive(Debug)]
pub struct OurEnds {
    /// To the workload's standard input.
    pub stdin: OwnedFd,
    /// From its standard output.
    pub stdout: OwnedFd,
    /// From its standard error.
    pub stderr: OwnedFd,
    /// Window sizes to the terminal relay, if there is one.
    pub control: Option<OwnedFd>,
}

/// The workload's ends.
#[derive(Debug)]
pub struct TheirEnds {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
    /// Window sizes, for the terminal relay.
    pub control: Option<OwnedFd>,
}

/// Makes the pipes; with one for window sizes if the workload gets a terminal.
///
/// # Errors
/// When the kernel has no pipes or descriptors left.
pub fn open(terminal: bool) -> io::Result<(Streams, OurEnds)> {
    let mut pipes = Vec::new();
    let stdin = to_workload(&mut pipes, "stdin")?;
    let stdout = from_workload(&mut pipes, "stdout")?;
    let stderr = from_workload(&mut pipes, "stderr")?;
    let control = terminal
        .then(|| to_workload(&mut pipes, TERMINAL_CONTROL))
        .transpose()?;
    Ok((
        Streams { pipes },
        OurEnds {
            stdin,
            stdout,
            stderr,
            control,
        },
    ))
}

fn to_workload(pipes: &mut Vec<Pipe>, name: &'static str) -> io::Result<OwnedFd> {
    let (theirs, ours) = io::pipe()?;
    pipes.push(pipe(name, theirs.into())?);
    Ok(ours.into())
}

fn from_workload(pipes: &mut Vec<Pipe>, name: &'static str) -> io::Result<OwnedFd> {
    let (ours, theirs) = io::pipe()?;
    pipes.push(pipe(name, theirs.into())?);
    Ok(ours.into())
}

fn pipe(name: &'static str, theirs: OwnedFd) -> io::Result<Pipe> {
    let inode = rustix::fs::fstat(theirs.as_fd())?.st_ino;
    Ok(Pipe {
        name,
        inode,
        theirs: Some(theirs),
    })
}

impl Streams {
    /// What the daemon is told about the pipes.
    #[must_use]
    pub fn describe(&self) -> Vec<StreamPipe> {
        let describe = |pipe: &Pipe| StreamPipe {
            stream: pipe.name.to_owned(),
            inode: pipe.inode,
        };
        self.pipes.iter().map(describe).collect()
    }

    /// Copies of the workload's ends, in the order of [`Streams::describe`]; none once they were
    /// given away.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn copies(&self) -> io::Result<Vec<OwnedFd>> {
        self.pipes
            .iter()
            .filter_map(|pipe| pipe.theirs.as_ref())
            .map(OwnedFd::try_clone)
            .collect()
    }

    /// Gives the workload's ends away; `None` if they were before.
    pub fn give_away(&mut self) -> Option<TheirEnds> {
        let mut ends = self.pipes.iter_mut().map(|pipe| pipe.theirs.take());
        Some(TheirEnds {
            stdin: ends.next()??,
            stdout: ends.next()??,
            stderr: ends.next()??,
            control: ends.next().flatten(),
        })
    }
}
