//! Memory from packs in a store, in good and in bad weather.

use std::{sync::Arc, time::Duration};

use lifeboat_format::{
    Effort, Encoder,
    frame::FrameRef,
    keys,
    manifest::PackRef,
    owner::FrameOwner,
    pack::{PackBuilder, PackOrigin},
    seal::Seal,
};
use lifeboat_pages::{GET_BYTES_MAX, LoadError, StoreSource};
use lifeboat_proto::{
    id::Epoch,
    units::{PAGE_BYTES, PageIndex, PageRun},
};
use lifeboat_store::{Call, Key, Operation, Store, faulty::Faulty, memory::Memory};

use crate::{
    support::{begin, judge},
    target::{LARGE, PATIENCE, PID, Program},
};

const PROGRAM: Program = Program {
    seed: LARGE + 17,
    pages: 4096,
    threads: 2,
    steps: 60,
};

/// Bytes of a pack here: several packs for a program.
const PACK_BYTES: usize = 2 << 20;

/// The frames of a program in packs in a store.
struct Stored {
    store: Memory,
    packs: Vec<PackRef>,
    frames: Vec<FrameRef>,
}

impl Stored {
    async fn new(contents: Vec<Vec<u8>>) -> Self {
        let seal = Seal::plain();
        let origin = PackOrigin {
            workload: "test".parse().unwrap(),
            epoch: Epoch(1),
            sequence: 1,
        };
        let mut stored = Self {
            store: Memory::new(),
            packs: Vec::new(),
            frames: Vec::new(),
        };
        let mut encoder = Encoder::new();
        let builder =
            |index| PackBuilder::with_buffer(index, &origin, &seal, PACK_BYTES, Vec::new());
        let mut pack = builder(0);
        for content in contents {
            let pages = (content.len() / PAGE_BYTES) as u64;
            let runs = vec![PageRun::new(PageIndex(0), pages)];
            let owner = FrameOwner::Memory { pid: PID, runs };
            let effort = [Effort::None, Effort::Fast, Effort::Balanced][stored.frames.len() % 3];
            stored
                .frames
                .push(pack.encode(&mut encoder, &content, effort, &owner).unwrap());
            if pack.is_full() {
                stored.put(pack).await;
                pack = builder(u32::try_from(stored.packs.len()).unwrap());
            }
        }
        stored.put(pack).await;
        stored
    }

    async fn put(&mut self, pack: PackBuilder) {
        if pack.is_empty() {
            return;
        }
        let (id, bytes) = pack.finish();
        self.packs.push(PackRef {
            id,
            size_bytes: bytes.len() as u64,
        });
        self.store
            .put(&self.key(self.packs.len() - 1), bytes, Call::default())
            .await
            .unwrap();
    }

    fn key(&self, pack: usize) -> Key {
        Key::new(keys::pack(self.packs[pack].id)).unwrap()
    }

    fn source(&self, plan: &str, give_up: Duration) -> Arc<StoreSource> {
        let faulty = Faulty::new(Arc::new(self.store.clone()), plan.parse().unwrap());
        let frames = self.frames.clone();
        let source = StoreSource::new(Arc::new(faulty), &self.packs, frames, Seal::plain());
        Arc::new(source.unwrap().giving_up_after(give_up))
    }
}

/// Loads the program through a faulty store; the error if its load fails.
async fn load(plan: &str) -> Result<(), String> {
    let (space, contents) = PROGRAM.memory();
    let stored = Stored::new(contents).await;
    let (server, mut target) = begin(PROGRAM, stored.source(plan, PATIENCE), space);
    server.all_added();
    target.go();
    judge(&server, target).await?;
    server.finish();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_weather_that_passes_is_survived() {
    for plan in [
        "",
        "range.delay:3ms",
        "range.fail:transient@t0ms-1500ms",
        "seed=7;range.fail:transient@p0.3",
        "range.corrupt@2-3",
        "range.truncate:1000@2",
        "seed=9;range.corrupt@p0.1;range.delay:2ms",
    ] {
        load(plan)
            .await
            .unwrap_or_else(|problem| panic!("{plan:?}: {problem}"));
    }
}

/// What the error of a load says through a store that never gets better.
async fn failure(stored: &Stored, plan: &str) -> String {
    let (space, _) = PROGRAM.memory();
    let source = stored.source(plan, Duration::from_millis(700));
    let (server, mut target) = begin(PROGRAM, source, space);
    server.all_added();
    target.go();
    let error = tokio::time::timeout(PATIENCE, server.loaded())
        .await
        .unwrap()
        .unwrap_err();
    assert!(target.is_alive());
    target.kill().await;
    server.abort().unwrap();
    match error {
        LoadError::Fetch(error) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_get_better_fails_the_load_and_says_where() {
    let (_, contents) = PROGRAM.memory();
    let stored = Stored::new(contents).await;
    // The first read is the one of the fault before the end of the restore: it must succeed.
    let corrupt = failure(&stored, "range.corrupt@2-100000").await;
    assert!(
        corrupt.contains(" of packs/") && corrupt.contains("read 3 times"),
        "{corrupt}"
    );
    let outage = failure(&stored, "range.fail:transient@2-100000").await;
    assert!(
        outage.contains("of packs/") && outage.contains("could not be read"),
        "{outage}"
    );
    let last = stored.key(stored.packs.len() - 1);
    stored.store.delete(&last, Call::default()).await.unwrap();
    let missing = failure(&stored, "").await;
    assert!(
        missing.contains(last.as_str()) && missing.contains("(1 attempts)"),
        "{missing}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_are_read_with_one_request() {
    let program = Program {
        pages: 16 << 10,
        steps: 0,
        ..PROGRAM
    };
    let (space, contents) = program.memory();
    let stored = Stored::new(contents).await;
    let bytes: u64 = stored.packs.iter().map(|pack| pack.size_bytes).sum();
    let faulty = Arc::new(Faulty::new(
        Arc::new(stored.store.clone()),
        "".parse().unwrap(),
    ));
    let frames = stored.frames.clone();
    let store: Arc<dyn Store> = Arc::<Faulty>::clone(&faulty);
    let source = StoreSource::new(store, &stored.packs, frames, Seal::plain()).unwrap();
    let (server, target) = begin(program, Arc::new(source), space);
    server.all_added();
    let report = tokio::time::timeout(PATIENCE, server.loaded())
        .await
        .unwrap()
        .unwrap();
    target.kill().await;
    assert_eq!(report.progress.frames_fetched, stored.frames.len() as u64);
    // One for the fault before the end of the restore, then at most two for each pack or request.
    let most = 1 + 2 * (stored.packs.len() as u64 + bytes.div_ceil(GET_BYTES_MAX));
    let reads = faulty.calls(Operation::GetRange) as u64;
    assert!(
        reads <= most,
        "{reads} requests for {} packs, {bytes} bytes",
        stored.packs.len()
    );
    server.finish();
}
