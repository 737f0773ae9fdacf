//! For tests: a program that notices when its memory is not what it wrote.
//!
//! `counting MEBIBYTES MODE…`: fills that much memory with a pattern, then rewrites a part of it
//! and checks a part of it, round after round. Each good round prints its number. Modes:
//!
//! - `fork`: two children do the same, on copies of the parent's memory.
//! - `threads`: three threads check too.
//! - `aligned`: a thread waits with a stack pointer at a page's start.
//! - `zombie`: a child has ended, and nobody waits for it.
//! - `uring`: an io_uring is open.
//! - `echo`: lines from standard input are printed, as `echo LINE`.
//! - `shared`: it does the same with shared anonymous memory of the same size.
//! - `timer`: a thread reads a periodic timer, which has always expired, now and then, and prints
//!   `timer`.
//! - `tcp`: a thread sends numbers to itself over TCP and prints them, as `tcp NUMBER`; the
//!   connection's end is printed as `tcp closed`.
#![expect(clippy::print_stdout, reason = "its output is what tests read")]

use std::{
    env,
    io::{self, BufRead, Read, Write},
    net::{TcpListener, TcpStream},
    process::ExitCode,
    ptr::null_mut,
    sync::{
        Arc, RwLock,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

const WORDS: usize = 512;

struct Memory {
    pages: &'static mut [[u64; WORDS]],
    versions: Vec<u64>,
}

impl Memory {
    fn new(mebibytes: usize, shared: bool) -> Self {
        let count = mebibytes * 256;
        let pages = if shared {
            shared_pages(count)
        } else {
            vec![[0; WORDS]; count].leak()
        };
        let mut memory = Self {
            pages,
            versions: vec![0; count],
        };
        (0..count).for_each(|page| memory.write(page, 1));
        memory
    }

    fn write(&mut self, page: usize, version: u64) {
        for (word, value) in self.pages[page].iter_mut().enumerate() {
            *value = pattern(page, word, version);
        }
        self.versions[page] = version;
    }

    fn check(&self, page: usize) -> Result<(), String> {
        let version = self.versions[page];
        match (0..WORDS).find(|word| self.pages[page][*word] != pattern(page, *word, version)) {
            None => Ok(()),
            Some(word) => Err(format!(
                "page {page} word {word}: {:#x} instead of version {version}",
                self.pages[page][word]
            )),
        }
    }
}

fn pattern(page: usize, word: usize, version: u64) -> u64 {
    ((page as u64) << 32 | word as u64).wrapping_add(version.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let mebibytes = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .expect("MEBIBYTES");
    let modes: Vec<String> = arguments.collect();
    let has = |mode: &str| modes.iter().any(|given| given == mode);

    let memory = Arc::new(RwLock::new(Memory::new(mebibytes, has("shared"))));
    let mut name = "root";
    if has("fork") {
        name = fork_twice();
    }
    for number in 0..if has("threads") { 3 } else { 0 } {
        let memory = Arc::clone(&memory);
        thread::spawn(move || check_for_ever(&memory, number));
    }
    if has("aligned") {
        thread::spawn(wait_with_aligned_stack);
    }
    if has("zombie") {
        leave_a_zombie();
    }
    if has("uring") {
        open_io_uring();
    }
    if has("timer") {
        thread::spawn(read_a_timer);
    }
    if has("tcp") {
        thread::spawn(talk_to_itself);
    }
    let lines = has("echo").then(lines);
    match rounds(name, &memory, lines) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{name} BAD {error}");
            ExitCode::FAILURE
        }
    }
}

/// Only the first process prints anything good.
fn rounds(
    name: &str,
    memory: &RwLock<Memory>,
    lines: Option<mpsc::Receiver<String>>,
) -> Result<(), String> {
    let (_keep, nothing) = mpsc::channel();
    let lines = lines.unwrap_or(nothing);
    for round in 2_usize.. {
        {
            let mut memory = memory.write().map_err(|_| "poisoned")?;
            let count = memory.pages.len();
            for step in 0..count / 16 {
                memory.write((round * 7919 + step * 13) % count, round as u64);
            }
        }
        let memory = memory.read().map_err(|_| "poisoned")?;
        for page in 0..memory.pages.len() {
            memory
                .check(page)
                .map_err(|error| format!("round {round}: {error}"))?;
        }
        drop(memory);
        if name == "root" {
            println!("root {round}");
        }
        match lines.recv_timeout(Duration::from_millis(10)) {
            Ok(line) => println!("echo {line}"),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => thread::park_timeout(Duration::from_millis(10)),
        }
        io::stdout().flush().map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn check_for_ever(memory: &RwLock<Memory>, number: usize) {
    for round in number.. {
        let memory = memory.read().expect("not poisoned");
        let page = round * 31 % memory.pages.len();
        if let Err(error) = memory.check(page) {
            println!("thread BAD {error}");
        }
        drop(memory);
        if round % 64 == 0 {
            thread::park_timeout(Duration::from_millis(1));
        }
    }
}

fn lines() -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}

fn shared_pages(count: usize) -> &'static mut [[u64; WORDS]] {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let length = count * size_of::<[u64; WORDS]>();
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, at a place that the kernel chooses.
    let start = unsafe { mmap_anonymous(null_mut(), length, protection, MapFlags::SHARED) };
    let start = start.expect("memory").cast::<[u64; WORDS]>();
    // SAFETY: the mapping is this long, aligned to a page, never unmapped, and nobody else's.
    unsafe { std::slice::from_raw_parts_mut(start, count) }
}

fn talk_to_itself() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
    let (far, _) = listener.accept().expect("connected");
    for number in 0_u64.. {
        let sent = (&near).write_all(&number.to_ne_bytes());
        let mut received = [0; 8];
        let received = sent.and_then(|()| (&far).read_exact(&mut received));
        if received.is_err() {
            println!("tcp closed");
            return;
        }
        println!("tcp {number}");
        thread::park_timeout(Duration::from_millis(10));
    }
}

fn read_a_timer() {
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::empty()).expect("a timer");
    let period = Timespec {
        tv_sec: 0,
        tv_nsec: 2_000_000,
    };
    let setting = Itimerspec {
        it_interval: period,
        it_value: period,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting).expect("a period");
    loop {
        thread::park_timeout(Duration::from_millis(50));
        // At least two in a row: one may be left from before.
        for _ in 0..2 {
            rustix::io::read(&timer, &mut [0; 8]).expect("expirations");
        }
        println!("timer");
    }
}

fn leave_a_zombie() {
    // SAFETY: the child only ends, which is safe after any fork.
    match unsafe { nix::unistd::fork() }.expect("forks") {
        // SAFETY: it ends this process and touches nothing.
        nix::unistd::ForkResult::Child => unsafe { libc::_exit(3) },
        nix::unistd::ForkResult::Parent { .. } => {}
    }
}

fn open_io_uring() {
    let mut parameters = [0_u8; 120];
    // SAFETY: 120 bytes are the size of struct io_uring_params.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) };
    assert!(ring >= 0, "io_uring_setup(2) is allowed");
}

/// Which of the three processes this is.
fn fork_twice() -> &'static str {
    for name in ["first", "second"] {
        // SAFETY: there are no threads yet.
        if let Ok(nix::unistd::ForkResult::Child) = unsafe { nix::unistd::fork() } {
            return name;
        }
    }
    "root"
}

/// Waits in a system call with a stack pointer at a page's start.
fn wait_with_aligned_stack() {
    // SAFETY: moves the stack pointer down, within this thread's stack of 2 MiB, makes the system
    // call pause(2), and moves it back.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            "mov {saved}, rsp",
            "sub rsp, 8192",
            "and rsp, -4096",
            "2:",
            "mov eax, 34",
            "syscall",
            "jmp 2b",
            "mov rsp, {saved}",
            saved = out(reg) _,
            out("rax") _,
            out("rcx") _,
            out("r11") _,
        );
    }
}
