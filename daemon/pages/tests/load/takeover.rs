//! A load whose server goes away is gone on with by another one.

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use lifeboat_pages::{
    FrameSource, Guard, Guarded, HistoryError, Journal, Options, PageServer, Space,
};

use crate::{
    source::MemorySource,
    support::judge,
    target::{LARGE, PATIENCE, PID, Program, Target},
};

/// Keeps descriptors as the hold does.
#[derive(Debug, Default)]
pub(crate) struct Kept(pub(crate) Mutex<Vec<(Guarded, OwnedFd)>>);

impl Guard for Kept {
    fn keep(&self, process: Guarded, uffd: OwnedFd) -> io::Result<()> {
        self.0.lock().unwrap().push((process, uffd));
        Ok(())
    }
}

impl Kept {
    fn copies(&self) -> Vec<(Guarded, OwnedFd)> {
        let kept = self.0.lock().unwrap();
        kept.iter()
            .map(|(process, uffd)| (*process, uffd.try_clone().unwrap()))
            .collect()
    }
}

fn options(guard: &Arc<Kept>, journal: Journal) -> Options {
    Options::new(tokio::runtime::Handle::current())
        .guarded_by(Arc::<Kept>::clone(guard))
        .journaled_in(Arc::new(journal))
}

/// The next server.
async fn resume(
    path: &Path,
    source: Arc<dyn FrameSource>,
    space: Space,
    guard: &Arc<Kept>,
) -> PageServer {
    let end = Instant::now() + PATIENCE;
    let (journal, history) = loop {
        match Journal::resume(path) {
            Ok(found) => break found,
            // Tasks of the one before, which lives in this process too, are about to end.
            Err(HistoryError::InUse { .. }) if Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(error) => panic!("{error}"),
        }
    };
    let options = options(guard, journal);
    PageServer::resume(source, vec![space], options, &history, guard.copies()).unwrap()
}

/// Loads one program, whose server goes away after each of `lives`.
async fn load(program: Program, delay_us: u64, lives: &[Duration]) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("load");
    let (space, frames) = program.memory();
    let weather = MemorySource::delayed(Duration::from_micros(delay_us));
    let source: Arc<dyn FrameSource> = Arc::new(MemorySource::new(frames, weather));
    let guard = Arc::new(Kept::default());
    let first = options(&guard, Journal::create(&path, b"").unwrap());
    let mut server = PageServer::start(Arc::clone(&source), vec![space.clone()], first).unwrap();
    let mut target: Target = program.start();
    server.add(PID, target.descriptor()).unwrap();
    target.restored();
    server.all_added();
    target.go();
    for life in lives {
        tokio::time::sleep(*life).await;
        drop(server);
        server = resume(&path, Arc::clone(&source), space.clone(), &guard).await;
    }
    judge(&server, target).await?;
    server.finish();
    Ok(())
}

/// Programs of a run; more with the environment's `LIFEBOAT_TEST_SEEDS`.
const SEEDS: u64 = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_programs_whose_server_goes_away_find_every_byte_as_it_was() {
    let seeds = std::env::var("LIFEBOAT_TEST_SEEDS")
        .ok()
        .map_or(SEEDS, |n| n.parse().unwrap());
    let first = std::env::var("LIFEBOAT_TEST_FIRST_SEED")
        .ok()
        .map_or(0, |n| n.parse().unwrap());
    for seed in first..first + seeds {
        let threads = 1 + seed % 4;
        let program = Program {
            seed,
            pages: (64 + seed % 7 * 200) * threads,
            threads: u32::try_from(threads).unwrap(),
            steps: 60 + (seed % 5) as u32 * 30,
        };
        let lives: Vec<Duration> = (0..1 + seed % 3)
            .map(|life| Duration::from_micros((seed * 7 + life * 13) % 31 * 400))
            .collect();
        if let Err(problem) = load(program, [300, 1000, 4000][(seed % 3) as usize], &lives).await {
            panic!("LIFEBOAT_TEST_FIRST_SEED={seed} LIFEBOAT_TEST_SEEDS=1: {problem}");
        }
    }
}

/// What is missing is not fetched twice, and what waits is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_fetches_what_is_missing_and_answers_who_waits() {
    const PROGRAM: Program = Program {
        seed: LARGE + 5,
        pages: 16 * 1024,
        threads: 2,
        steps: 0,
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("load");
    let (space, frames) = PROGRAM.memory();
    let total = frames.len() as u64;
    // From the half on, nothing comes: somebody waits when the server goes.
    let weather = Box::new(move |number, _| {
        let stuck = number > total / 2;
        (if stuck { PATIENCE } else { Duration::ZERO }, false)
    });
    let source = Arc::new(MemorySource::new(frames.clone(), weather));
    let guard = Arc::new(Kept::default());
    let first = options(&guard, Journal::create(&path, b"").unwrap());
    let server = PageServer::start(source, vec![space.clone()], first).unwrap();
    let mut target = PROGRAM.start();
    server.add(PID, target.descriptor()).unwrap();
    target.restored();
    server.all_added();
    target.go();
    let mut installed = 0;
    for _ in 0..1000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = server.progress().installed_bytes;
        if now > 0 && now == installed {
            break;
        }
        installed = now;
    }
    drop(server);
    let source = Arc::new(MemorySource::new(frames, MemorySource::calm()));
    let server = resume(&path, source, space, &guard).await;
    let before = server.progress().missing_bytes;
    assert!(
        before + installed <= total * 64 * 4096,
        "{before} of {total}"
    );
    let report = judge(&server, target).await.unwrap();
    assert!(report.progress.installed_bytes <= before);
    server.finish();
}

#[test]
fn a_journal_that_is_in_use_or_was_being_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("load");
    let journal = Journal::create(&path, b"").unwrap();
    let refused = Journal::resume(&path).unwrap_err();
    assert!(matches!(refused, HistoryError::InUse { .. }), "{refused}");
    drop(journal);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let mark = lifeboat_proto::LOAD_JOURNAL_HEADER.len() as u64;
    std::os::unix::fs::FileExt::write_all_at(&file, &[1], mark).unwrap();
    let refused = Journal::resume(&path).unwrap_err();
    assert!(matches!(refused, HistoryError::Unproved), "{refused}");
}
