//! What the tests share: a hold in fresh namespaces, images in memory, capture of hidden pages, a
//! page server. All of it real processes and the real CRIU; root only.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    clippy::panic,
    reason = "for tests, of which each uses a part"
)]

pub mod hold;
pub mod memory;
pub mod server;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, OnceLock},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use hold::Hold;
use lifeboat_criu::{
    Bundle, Described, Dump, DumpRequest, ImageError, ImageReader, ImageSink, ImageSource,
    ImageWriter, Restore, RestoreRequest, TcpMode, WorkDir,
    images::shared::{self, Piece},
};
use lifeboat_proto::units::{PageIndex, PageRun};
use memory::{Hider, Pages};
use server::Server;

/// Where cargo puts programs.
pub fn target() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    test.ancestors()
        .nth(2)
        .expect("target/PROFILE/deps/TEST")
        .to_owned()
}

/// One of the programs for tests that need what only `lifeboat-sys` may do (`daemon/sys/examples`).
pub fn example(name: &str) -> PathBuf {
    build();
    target().join("examples").join(name)
}

/// Builds what a single test target does not bring with it.
fn build() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        for what in [
            ["lifeboat-preload", "--lib", "--bins"],
            ["lifeboat-sys", "--lib", "--examples"],
        ] {
            let built = Command::new(&cargo)
                .args(["build", "--quiet", "--package"])
                .args(what)
                .status()
                .expect("cargo runs");
            assert!(built.success(), "{what:?} builds");
        }
    });
}

/// The bundle, with the page filter and the hook of this tree.
pub fn bundle() -> Bundle {
    build();
    let dir =
        std::env::var_os("LIFEBOAT_CRIU_BUNDLE").unwrap_or_else(|| "/usr/lib/lifeboat/criu".into());
    let preload = target().join("liblifeboat_preload.so");
    Bundle::with_tools(Path::new(&dir), &preload, &target().join("lifeboat-hook"))
        .expect("the bundle is there: deploy/criu/bundle.sh makes it")
}

/// A private directory with a short path, gone at the end.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(
            tempfile::Builder::new()
                .prefix("lb")
                .tempdir_in("/tmp")
                .expect("a directory"),
        )
    }

    pub fn work_dir(&self) -> WorkDir {
        WorkDir::same(self.0.path())
    }
}

/// Image files in memory.
#[derive(Clone, Default)]
pub struct Images(Arc<Mutex<BTreeMap<String, Bytes>>>);

impl Images {
    pub fn total(&self) -> usize {
        self.0
            .lock()
            .expect("not poisoned")
            .values()
            .map(Bytes::len)
            .sum()
    }

    pub fn get(&self, name: &str) -> Option<Bytes> {
        self.0.lock().expect("not poisoned").get(name).cloned()
    }

    /// The same with pages of shared memory objects (by inode) put in.
    pub fn with_shared(&self, objects: &BTreeMap<u64, Pages>) -> Self {
        let mut files = self.0.lock().expect("not poisoned").clone();
        for (inode, pages) in objects {
            let name = format!("pagemap-shmem-{inode}.img");
            let ours: Vec<PageRun> = pages.keys().map(|page| PageRun::new(*page, 1)).collect();
            let merged = shared::merge(&name, &files[&name], &ours).expect("well-formed");
            let mut criu = files.remove(&merged.pages_name).unwrap_or_default();
            let mut all = BytesMut::new();
            for piece in merged.pieces {
                match piece {
                    Piece::Criu(run) => {
                        let bytes = usize::try_from(run.bytes()).expect("small");
                        all.extend_from_slice(&criu.split_to(bytes));
                    }
                    Piece::Ours(run) => {
                        for page in run.start.0..run.end().0 {
                            all.extend_from_slice(&pages[&PageIndex(page)]);
                        }
                    }
                }
            }
            files.insert(name, merged.pagemap);
            files.insert(merged.pages_name, all.freeze());
        }
        Self(Arc::new(Mutex::new(files)))
    }

    /// The same with one file cut to half, or missing.
    pub fn without(&self, name: &str, cut: bool) -> Self {
        let mut files = self.0.lock().expect("not poisoned").clone();
        let mut whole = files.remove(name).expect("it is there");
        if cut {
            files.insert(name.to_owned(), whole.split_to(whole.len() / 2));
        }
        Self(Arc::new(Mutex::new(files)))
    }

    pub fn names(&self) -> Vec<String> {
        self.0
            .lock()
            .expect("not poisoned")
            .keys()
            .cloned()
            .collect()
    }
}

#[async_trait]
impl ImageSink for Images {
    async fn open(&self, name: &str) -> Result<Box<dyn ImageWriter>, ImageError> {
        Ok(Box::new(Writer {
            to: self.clone(),
            name: name.to_owned(),
            bytes: Vec::new(),
        }))
    }
}

struct Writer {
    to: Images,
    name: String,
    bytes: Vec<u8>,
}

#[async_trait]
impl ImageWriter for Writer {
    async fn write(&mut self, piece: Bytes) -> Result<(), ImageError> {
        assert!(!piece.is_empty(), "pieces are not empty");
        self.bytes.extend_from_slice(&piece);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), ImageError> {
        let known = self
            .to
            .0
            .lock()
            .expect("not poisoned")
            .insert(self.name.clone(), self.bytes.into());
        assert!(known.is_none(), "{} is written once", self.name);
        Ok(())
    }
}

#[async_trait]
impl ImageSource for Images {
    async fn open(&self, name: &str) -> Result<Option<Box<dyn ImageReader>>, ImageError> {
        Ok(self
            .get(name)
            .map(|bytes| Box::new(Reader(bytes)) as Box<dyn ImageReader>))
    }
}

struct Reader(Bytes);

#[async_trait]
impl ImageReader for Reader {
    async fn read(&mut self) -> Result<Option<Bytes>, ImageError> {
        let piece = self.0.split_to(self.0.len().min(100_000));
        Ok((!piece.is_empty()).then_some(piece))
    }
}

/// Starts the test's workload.
pub fn counting(arguments: &[&str]) -> Hold {
    let program = example("counting");
    let program = program.to_str().expect("text");
    Hold::run(&[&[program], arguments].concat())
}

/// A dump under way, and what it leaves.
pub struct Run {
    pub scratch: Scratch,
    pub images: Images,
    pub hider: Arc<Hider>,
}

impl Run {
    /// Of a tree with these processes.
    pub fn new(hold: &Hold, pids: &[u32]) -> Self {
        Self {
            scratch: Scratch::new(),
            images: Images::default(),
            hider: Arc::new(Hider::new(hold, pids)),
        }
    }

    pub fn request(&self, hold: &Hold) -> DumpRequest {
        DumpRequest::new(hold.root, hold.namespaces(), self.scratch.work_dir())
    }

    pub async fn start(&self, request: DumpRequest) -> Dump {
        let sink = Arc::new(self.images.clone());
        let hider = Arc::clone(&self.hider);
        Dump::start(&bundle(), request, hider, sink)
            .await
            .expect("criu starts")
    }

    pub async fn described(&self, request: DumpRequest) -> Described {
        self.start(request)
            .await
            .described()
            .await
            .expect("described")
    }
}

/// Restores into `new` what `run` has dumped of `old`, and checks that CRIU and the processes took
/// part as they should.
pub async fn restore(
    new: &Hold,
    old: [u64; 2],
    images: &Images,
    pages: BTreeMap<u32, Pages>,
) -> u32 {
    restore_with(new, old, images, pages, TcpMode::Close).await
}

/// As [`restore`], with a choice about connections.
pub async fn restore_with(
    new: &Hold,
    old: [u64; 2],
    images: &Images,
    pages: BTreeMap<u32, Pages>,
    tcp: TcpMode,
) -> u32 {
    let scratch = Scratch::new();
    let mut request = RestoreRequest::new(new.namespaces(), scratch.work_dir());
    request.inherit = new.instead_of(old);
    request.tcp = tcp;
    let mut pids: Vec<u32> = pages.keys().copied().collect();
    let restore = Restore::start(&bundle(), request, Arc::new(images.clone())).await;
    let (restore, events) = restore.expect("criu starts");
    let server = tokio::spawn(Server::new(pages).run(events));
    let rebuilt = restore.rebuilt().await.expect("rebuilt");
    let restored = rebuilt.resume().await.expect("resumed");
    let (finished, mut came) = server.await.expect("no panic");
    assert!(finished, "CRIU finished the lazy part");
    pids.sort_unstable();
    came.retain(|pid| pids.contains(pid));
    assert_eq!(
        came, pids,
        "each process with hidden pages has handed over a userfaultfd"
    );
    restored.root_pid
}

/// PID of a hold's command in its namespace.
pub const FIRST_PID: u32 = 1001;
