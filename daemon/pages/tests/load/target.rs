//! The program whose memory is loaded, and what it must find there.

use std::{
    io::{Read, Write},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::OnceLock,
    time::{Duration, Instant},
};

use lifeboat_pages::{Run, Space};
use lifeboat_proto::units::{PAGE_BYTES, PageIndex, PageRun};
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
};

/// PID that the target says it has.
pub(crate) const PID: u32 = 1001;

/// Where the target's memory begins, in pages.
pub(crate) const BASE: u64 = 0x10_0000_0000 / 4096;

/// Pages of a frame in these tests.
const FRAME_PAGES: usize = 64;

/// From this seed on, no page was zeros.
pub(crate) const LARGE: u64 = 1 << 32;

/// Longest that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What a target does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    pub(crate) seed: u64,
    pub(crate) pages: u64,
    pub(crate) threads: u32,
    pub(crate) steps: u32,
}

/// A started target that has handed over its userfaultfd.
#[derive(Debug)]
pub(crate) struct Target {
    child: Option<Child>,
    pid: u32,
    pub(crate) socket: UnixStream,
    _directory: tempfile::TempDir,
}

fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Program {
    fn was_zero(self, page: u64) -> bool {
        self.seed < LARGE && mix(page ^ (self.seed << 20)).is_multiple_of(4)
    }

    fn page(self, page: u64, content: &mut Vec<u8>) {
        let first = mix(self.seed.wrapping_mul(0x10001).wrapping_add(page));
        for word in 0..PAGE_BYTES as u64 / 8 {
            let word = first.wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            content.extend_from_slice(&word.to_ne_bytes());
        }
    }

    /// The memory as it was captured: the space, and the contents of its frames.
    pub(crate) fn memory(self) -> (Space, Vec<Vec<u8>>) {
        let (mut runs, mut frames) = (Vec::<Run>::new(), vec![Vec::new()]);
        for page in (BASE..BASE + self.pages).filter(|page| !self.was_zero(*page)) {
            if frames.last().unwrap().len() == FRAME_PAGES * PAGE_BYTES {
                frames.push(Vec::new());
            }
            let frame = u32::try_from(frames.len() - 1).unwrap();
            let content = frames.last_mut().unwrap();
            let frame_page = u32::try_from(content.len() / PAGE_BYTES).unwrap();
            self.page(page, content);
            match runs.last_mut() {
                Some(run) if run.frame == frame && run.pages().end().0 == page => run.pages += 1,
                _ => runs.push(Run {
                    start: PageIndex(page),
                    pages: 1,
                    frame,
                    frame_page,
                }),
            }
        }
        let lazy = vec![PageRun::new(PageIndex(BASE), self.pages)];
        (
            Space {
                pid: PID,
                runs,
                lazy,
                ..Space::default()
            },
            frames,
        )
    }

    /// Starts the target.
    pub(crate) fn start(self) -> Target {
        self.start_as(PID)
    }

    /// Starts the target with another PID.
    pub(crate) fn start_as(self, pid: u32) -> Target {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lazy-pages.socket");
        let listener = UnixListener::bind(&path).unwrap();
        let child = Command::new(program())
            .arg(&path)
            .args([
                pid.to_string(),
                self.seed.to_string(),
                self.pages.to_string(),
            ])
            .args([self.threads.to_string(), self.steps.to_string()])
            .arg((BASE * PAGE_BYTES as u64).to_string())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Target {
            child: Some(child),
            pid,
            socket,
            _directory: directory,
        }
    }
}

impl Target {
    /// Takes the descriptor as the daemon takes CRIU's.
    pub(crate) fn descriptor(&mut self) -> OwnedFd {
        let mut pid = [0; 4];
        self.socket.read_exact(&mut pid).unwrap();
        assert_eq!(i32::from_ne_bytes(pid), i32::try_from(self.pid).unwrap());
        let deadline = Instant::now() + PATIENCE;
        let mut received =
            lifeboat_sys::fdpass::receive_exact(&self.socket, &mut [0], 1, deadline).unwrap();
        assert!(!received.fds_lost);
        received.fds.pop().unwrap()
    }

    /// Waits for the end of the hand-over.
    pub(crate) fn restored(&mut self) {
        let mut end = [0; 4];
        self.socket.read_exact(&mut end).unwrap();
        assert_eq!(u32::from_le_bytes(end), 0x5253_5446);
    }

    /// Lets the target do what its seed says.
    pub(crate) fn go(&mut self) {
        self.socket.write_all(&[1]).unwrap();
    }

    /// Whether the target is there, whatever it waits for.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Kills the target.
    pub(crate) async fn kill(mut self) {
        self.child.take().unwrap().kill().await.unwrap();
    }

    /// Waits for the target's end, and for what it says if it found anything wrong. Cancelling it
    /// kills the target.
    pub(crate) async fn verdict(mut self) -> Result<(), String> {
        let mut child = self.child.take().expect("a target is judged once");
        let mut said = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .await
            .unwrap();
        let status = child.wait().await.unwrap();
        if status.success() {
            Ok(())
        } else {
            Err(format!("{status}: {said}"))
        }
    }
}

/// The compiled target.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/load/target.c");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pages-target");
        let fresh = program.with_extension(std::process::id().to_string());
        let status = std::process::Command::new("cc")
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
            .arg(&fresh)
            .arg(&source)
            .status()
            .unwrap();
        assert!(status.success(), "compiling {}", source.display());
        std::fs::rename(&fresh, &program).unwrap();
        program
    })
}
