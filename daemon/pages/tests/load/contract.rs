//! What the daemon relies on: what happens when memory cannot be had (never zeros), to several
//! processes, and when a workload is saved again before it is loaded.

use std::{sync::Arc, time::Duration};

use lifeboat_pages::{LoadError, Options, PageServer, Space, Urgency};

use crate::{
    source::MemorySource,
    support::begin,
    takeover::Kept,
    target::{LARGE, PATIENCE, PID, Program, Target},
};

const PROGRAM: Program = Program {
    seed: LARGE + 3,
    pages: 2048,
    threads: 2,
    steps: 0,
};

/// How long a target that should block is watched for going on.
const WATCHED: Duration = Duration::from_millis(500);

/// Fails unless the target neither ends nor finds anything wrong.
async fn blocks(target: &mut Target) {
    tokio::time::sleep(WATCHED).await;
    assert!(target.is_alive(), "the target went on without its memory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_memory_cannot_be_had_the_load_fails_and_the_process_blocks() {
    let (space, frames) = PROGRAM.memory();
    let weather = |number, _| (Duration::from_millis(1), number > 0);
    let source = Arc::new(MemorySource::new(frames, Box::new(weather)));
    let (server, mut target) = begin(PROGRAM, source, space);
    server.all_added();
    target.go();
    let error = tokio::time::timeout(PATIENCE, server.loaded())
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, LoadError::Fetch(_)), "{error:?}");
    blocks(&mut target).await;
    let alive = server.abort().unwrap_err();
    assert!(
        alive.to_string().contains("process 1001 still lives"),
        "{alive}"
    );
    blocks(&mut target).await;
    target.kill().await;
    server.abort().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_whose_server_has_gone_blocks_while_it_is_guarded() {
    let (space, frames) = PROGRAM.memory();
    let weather = |_, urgency| match urgency {
        Urgency::Demand => (Duration::ZERO, false),
        Urgency::Prefetch => (PATIENCE, false),
    };
    let source = Arc::new(MemorySource::new(frames, Box::new(weather)));
    let guard = Arc::new(Kept::default());
    let options =
        Options::new(tokio::runtime::Handle::current()).guarded_by(Arc::<Kept>::clone(&guard));
    let server = PageServer::start(source, vec![space], options).unwrap();
    let mut target = PROGRAM.start();
    server.add(PID, target.descriptor()).unwrap();
    target.restored();
    assert_eq!(guard.0.lock().unwrap().len(), 1);
    drop(server);
    target.go();
    blocks(&mut target).await;
    target.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_exits_while_it_is_loaded_ends_its_load() {
    let (space, frames) = PROGRAM.memory();
    let source = Arc::new(MemorySource::new(
        frames,
        MemorySource::delayed(Duration::from_millis(5)),
    ));
    let (server, target) = begin(PROGRAM, source, space);
    target.kill().await;
    server.all_added();
    let report = tokio::time::timeout(PATIENCE, server.loaded())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(report.progress.missing_bytes, 0);
    server.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn captured_memory_without_a_mapping_fails_the_load() {
    let (mut space, frames) = PROGRAM.memory();
    let run = space.runs.last_mut().unwrap();
    run.start = run.start + 100_000;
    let source = Arc::new(MemorySource::new(frames, MemorySource::calm()));
    let (server, target) = begin(PROGRAM, source, space);
    server.all_added();
    let error = tokio::time::timeout(PATIENCE, server.loaded())
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, LoadError::Unmapped { .. }), "{error:?}");
    target.kill().await;
    server.abort().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_loaded_yet_can_be_told() {
    let (space, frames) = PROGRAM.memory();
    let captured: u64 = space.runs.iter().map(|run| u64::from(run.pages)).sum();
    let source = Arc::new(MemorySource::new(frames, MemorySource::calm()));
    let (server, target) = begin(PROGRAM, source, space.clone());
    let unloaded = server.unloaded(PID).unwrap();
    // What the target touched before the end of the restore was loaded with its frame.
    let missing: u64 = unloaded.iter().map(|run| u64::from(run.pages)).sum();
    assert!(
        missing < captured && missing > captured / 2,
        "{missing} of {captured}"
    );
    for run in &unloaded {
        assert!(space.runs.contains(run), "{run:?}");
    }
    let paused = server.pause().await;
    server.all_added();
    assert_eq!(server.unloaded(PID).unwrap(), unloaded);
    drop(paused);
    tokio::time::timeout(PATIENCE, server.loaded())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(server.unloaded(PID).unwrap(), []);
    target.kill().await;
    server.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_several_processes_have_is_fetched_once() {
    let (space, contents) = PROGRAM.memory();
    let frames = contents.len() as u64;
    let pids = [PID, PID + 1, PID + 2];
    let spaces = pids
        .map(|pid| Space {
            pid,
            ..space.clone()
        })
        .to_vec();
    let source = Arc::new(MemorySource::new(contents, MemorySource::calm()));
    let options = Options::new(tokio::runtime::Handle::current());
    let server = PageServer::start(source, spaces, options).unwrap();
    let mut targets = pids.map(|pid| PROGRAM.start_as(pid));
    for (target, pid) in targets.iter_mut().zip(pids) {
        server.add(pid, target.descriptor()).unwrap();
        target.restored();
    }
    server.all_added();
    let report = tokio::time::timeout(PATIENCE, server.loaded())
        .await
        .unwrap()
        .unwrap();
    // All looked at their first frame before the end of the restore, at different times.
    assert!(report.progress.frames_fetched < frames + 3, "{report:?}");
    assert_eq!(report.progress.installed_bytes, report.progress.total_bytes);
    server.finish();
    for mut target in targets {
        target.go();
        target.verdict().await.unwrap();
    }
}
