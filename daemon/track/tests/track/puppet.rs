//! A program that does what a test tells it.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use lifeboat_proto::units::{PAGE_SIZE, PageIndex, PageRun};
use lifeboat_sys::pidfd::Pidfd;
use rustix::process::Pid;

use crate::program;

/// A program that waits for orders. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Puppet {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(crate) process: Pidfd,
}

impl Puppet {
    pub(crate) fn start() -> Self {
        let mut child = Command::new(program::build("puppet"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let process = Pidfd::open(Pid::from_child(&child)).unwrap();
        Self {
            child,
            orders,
            answers,
            process,
        }
    }

    /// Has it carry out one order, and returns the answer.
    pub(crate) fn order(&mut self, what: &str) -> i64 {
        self.tell(what);
        self.answer()
    }

    /// Gives an order without waiting for the answer.
    pub(crate) fn tell(&mut self, what: &str) {
        writeln!(self.orders, "{what}").unwrap();
    }

    pub(crate) fn answer(&mut self) -> i64 {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().parse().expect("the puppet ended")
    }

    /// New memory, `pages` of it.
    pub(crate) fn map(&mut self, pages: u64) -> PageRun {
        let at = self.order(&format!("m 0 {pages} 0"));
        PageRun::new(PageIndex(at.cast_unsigned() / PAGE_SIZE), pages)
    }

    /// New memory at a place, whatever was there.
    pub(crate) fn map_at(&mut self, run: PageRun) {
        let at = self.order(&format!(
            "m {} {} {}",
            address(run),
            run.pages,
            libc_flags::MAP_FIXED
        ));
        assert_eq!(at, address(run));
    }

    pub(crate) fn unmap(&mut self, run: PageRun) {
        assert_eq!(self.order(&format!("u {} {}", address(run), run.pages)), 0);
    }

    /// Moves memory to a place.
    pub(crate) fn move_to(&mut self, from: PageRun, to: PageIndex) {
        let (pages, flags) = (
            from.pages,
            libc_flags::MREMAP_MAYMOVE | libc_flags::MREMAP_FIXED,
        );
        let to = to.addr().0.cast_signed();
        let order = format!("v {} {pages} {pages} {flags} {to}", address(from));
        assert_eq!(self.order(&order), to);
    }

    /// Makes memory larger where it is.
    pub(crate) fn grow(&mut self, run: PageRun, pages: u64) {
        let order = format!("v {} {} {pages} 0 0", address(run), run.pages);
        assert_eq!(self.order(&order), address(run));
    }

    pub(crate) fn advise(&mut self, run: PageRun, advice: i32) {
        assert_eq!(
            self.order(&format!("a {} {} {advice}", address(run), run.pages)),
            0
        );
    }

    pub(crate) fn protect(&mut self, run: PageRun, protection: i32) {
        assert_eq!(
            self.order(&format!("p {} {} {protection}", address(run), run.pages)),
            0
        );
    }

    /// Writes to every page of a run.
    pub(crate) fn write(&mut self, run: PageRun) {
        self.write_each(run, 1);
    }

    /// Writes to every `step`th page of a run.
    pub(crate) fn write_each(&mut self, run: PageRun, step: u64) {
        let order = format!(
            "w {} {} {step} {}",
            address(run),
            run.pages,
            rand::random::<i32>()
        );
        assert_eq!(self.order(&order), 0);
    }

    pub(crate) fn read(&mut self, run: PageRun) {
        self.order(&format!("r {} {}", address(run), run.pages));
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Flags of mmap(2), mremap(2), mprotect(2) and madvise(2).
pub(crate) mod libc_flags {
    pub(crate) const MAP_FIXED: i32 = 0x10;
    pub(crate) const MREMAP_MAYMOVE: i32 = 1;
    pub(crate) const MREMAP_FIXED: i32 = 2;
    pub(crate) const PROT_READ: i32 = 1;
    pub(crate) const PROT_WRITE: i32 = 2;
    pub(crate) const PROT_EXEC: i32 = 4;
    pub(crate) const MADV_DONTNEED: i32 = 4;
    pub(crate) const MADV_HUGEPAGE: i32 = 14;
}

fn address(run: PageRun) -> i64 {
    run.start.addr().0.cast_signed()
}

/// A part of a run.
pub(crate) fn part(run: PageRun, first: u64, pages: u64) -> PageRun {
    PageRun::new(run.start + first, pages)
}
