//! A folder store used by several processes, which are killed while they write.
//!
//! This test runs itself as the writers (`--write` and `--count`), so it has no harness.

#![expect(clippy::unwrap_used, reason = "a test without the harness's marks")]
#![expect(clippy::panic, reason = "as above")]
#![expect(
    clippy::print_stdout,
    reason = "writers report over their standard output"
)]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use lifeboat_store::{
    Call, ErrorKind, Key, Prefix, Store,
    file::{File, TEMP_AGE_MAX},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

const NOW: Call = Call { deadline: None };

/// Kills of a writer.
const KILLS: u64 = 40;

/// Increments by each of two counting processes.
const COUNTS: u64 = 150;

const PACK_BYTES: usize = 300_000;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "--write", dir, seed] => runtime.block_on(write(Path::new(dir), seed.parse().unwrap())),
        [_, "--count", dir] => runtime.block_on(count(Path::new(dir))),
        _ => {
            runtime.block_on(what_a_killed_writer_reported_is_there_and_nothing_is_torn());
            runtime.block_on(two_processes_count_without_losing_one());
            runtime.block_on(a_full_disk_is_told_and_leaves_nothing());
            println!("folder_processes: 3 passed");
        }
    }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// What is in pack `number`.
fn pack(number: u64) -> Bytes {
    let mut bytes = vec![0; PACK_BYTES];
    StdRng::seed_from_u64(number).fill(&mut bytes[..]);
    bytes.into()
}

async fn number(store: &File) -> u64 {
    let head = store.get(&key("workloads/w/head"), 99, NOW).await.unwrap();
    std::str::from_utf8(&head.bytes).unwrap().parse().unwrap()
}

/// Writes pack after pack, and a head that names the last one, and reports what was acknowledged.
async fn write(dir: &Path, first: u64) {
    let store = File::open(dir).unwrap();
    for number in first.. {
        let name = key(&format!("packs/{:02x}/{number}", number % 16));
        store.put(&name, pack(number), NOW).await.unwrap();
        println!("pack {number}");
        let head = store.head(&key("workloads/w/head"), NOW).await.unwrap();
        let body = Bytes::from(number.to_string());
        store
            .put_if_match(&key("workloads/w/head"), body, &head.version, NOW)
            .await
            .unwrap();
        println!("head {number}");
    }
}

/// Adds one to the head, again and again.
async fn count(dir: &Path) {
    let store = File::open(dir).unwrap();
    for _ in 0..COUNTS {
        loop {
            let head = store.get(&key("head"), 99, NOW).await.unwrap();
            let number: u64 = std::str::from_utf8(&head.bytes).unwrap().parse().unwrap();
            let body = Bytes::from((number + 1).to_string());
            match store
                .put_if_match(&key("head"), body, &head.version, NOW)
                .await
            {
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn spawn(arguments: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let reports = BufReader::new(child.stdout.take().unwrap());
    (child, reports)
}

/// What a writer reported before it was killed.
struct Reports {
    packs: Vec<u64>,
    head: Option<u64>,
}

/// Runs a writer, and kills it a random time after a random report: at any point of a write.
fn run_and_kill(dir: &Path, first: u64, random: &mut StdRng) -> Reports {
    let (mut child, mut lines) =
        spawn(&["--write", dir.to_str().unwrap(), first.to_string().as_str()]);
    let mut reports = Reports {
        packs: Vec::new(),
        head: None,
    };
    let (mut line, mut left) = (String::new(), random.random_range(0..6));
    while lines.read_line(&mut line).unwrap() > 0 {
        match line.trim_end().split_once(' ').unwrap() {
            ("pack", number) => reports.packs.push(number.parse().unwrap()),
            (_, number) => reports.head = Some(number.parse().unwrap()),
        }
        line.clear();
        if left == 0 {
            let until = Instant::now() + Duration::from_micros(random.random_range(0..3000));
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            child.kill().unwrap();
        }
        left -= 1;
    }
    child.wait().unwrap();
    reports
}

async fn what_a_killed_writer_reported_is_there_and_nothing_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let store = File::open(dir.path()).unwrap();
    store
        .put(&key("workloads/w/head"), Bytes::from_static(b"0"), NOW)
        .await
        .unwrap();
    let mut random = StdRng::seed_from_u64(1);
    let (mut next, mut head, mut unfinished) = (1, 0, 0);
    for _ in 0..KILLS {
        let reports = run_and_kill(dir.path(), next, &mut random);
        for number in &reports.packs {
            let name = key(&format!("packs/{:02x}/{number}", number % 16));
            let object = store.get(&name, PACK_BYTES as u64, NOW).await.unwrap();
            assert!(object.bytes == pack(*number), "pack {number} was reported");
        }
        let stored = number(&store).await;
        // What was reported, or the one write that was under way.
        let (reported, last) = (reports.head.unwrap_or(head), reports.packs.last().copied());
        assert!(
            stored == reported || Some(stored) == last,
            "{stored} {reported} {last:?}"
        );
        (next, head) = (last.unwrap_or(next).max(next) + 1, stored);
        unfinished += temps(dir.path()).len();
    }
    let packs = every_pack_is_whole(&store).await;
    assert!(
        packs >= KILLS && unfinished > 0,
        "{packs} packs, {unfinished} unfinished writes"
    );
    sweeping_takes_the_old_ones_only(dir.path());
}

/// Reported or not. Returns how many there are.
async fn every_pack_is_whole(store: &File) -> u64 {
    let (mut after, mut packs) = (None, 0);
    loop {
        let page = store
            .list(&Prefix::new("packs").unwrap(), after.as_ref(), NOW)
            .await
            .unwrap();
        for entry in &page.entries {
            let number = entry
                .key
                .as_str()
                .rsplit('/')
                .next()
                .unwrap()
                .parse()
                .unwrap();
            let object = store.get(&entry.key, PACK_BYTES as u64, NOW).await.unwrap();
            assert!(object.bytes == pack(number), "{}", entry.key);
            packs += 1;
        }
        after = page.next;
        if after.is_none() {
            return packs;
        }
    }
}

fn temps(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir.join(".lifeboat/tmp")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn sweeping_takes_the_old_ones_only(dir: &Path) {
    File::open(dir).unwrap();
    let before = temps(dir);
    let old = SystemTime::now() - TEMP_AGE_MAX - Duration::from_secs(1);
    let file = fs::File::options().write(true).open(&before[0]).unwrap();
    file.set_modified(old).unwrap();
    File::open(dir).unwrap();
    let after = temps(dir);
    assert_eq!(after.len(), before.len() - 1);
    assert!(!after.contains(&before[0]));
}

async fn two_processes_count_without_losing_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = File::open(dir.path()).unwrap();
    store
        .put(&key("head"), Bytes::from_static(b"0"), NOW)
        .await
        .unwrap();
    let path = dir.path().to_str().unwrap();
    let children = [spawn(&["--count", path]), spawn(&["--count", path])];
    for (mut child, _reports) in children {
        assert!(child.wait().unwrap().success());
    }
    let head = store.get(&key("head"), 99, NOW).await.unwrap();
    assert_eq!(head.bytes, (2 * COUNTS).to_string());
}

/// Needs the right to mount (CAP_SYS_ADMIN), as Lifeboat's daemon does.
async fn a_full_disk_is_told_and_leaves_nothing() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    let dir = tempfile::tempdir().unwrap();
    let size = c"size=1m".to_owned();
    mount(
        "tmpfs",
        dir.path(),
        "tmpfs",
        MountFlags::empty(),
        Some(size.as_c_str()),
    )
    .unwrap_or_else(|errno| panic!("this test mounts a small file system: {errno}"));
    let path = dir.path().to_owned();
    let outcome = async move {
        let store = File::open(&path).unwrap();
        let body = Bytes::from(vec![1; 700_000]);
        store.put(&key("a"), body.clone(), NOW).await.unwrap();
        let error = store.put(&key("b"), body.clone(), NOW).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        let error = store
            .put_if_absent(&key("b"), body.clone(), NOW)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        assert!(temps(&path).is_empty(), "what did not fit was removed");
        assert!(store.get(&key("a"), 700_000, NOW).await.unwrap().bytes == body);
        store.delete(&key("a"), NOW).await.unwrap();
        store.put(&key("b"), body, NOW).await.unwrap();
    };
    // In a task of its own, so that the mount goes away whatever happens.
    let outcome = tokio::spawn(outcome).await;
    unmount(dir.path(), UnmountFlags::DETACH).unwrap();
    outcome.unwrap();
}
