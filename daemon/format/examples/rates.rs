//! Rates of encoding and decoding on one core, by content and effort.
//!
//! ```text
//! cargo run --release -p lifeboat-format --example rates [FILE]…
//! ```
//!
//! A FILE is a dump of memory; its zero pages are left out, as a capture does.
#![expect(clippy::print_stdout, reason = "a report is its purpose")]

use std::{
    env, fs,
    io::{Error, Result},
    time::Instant,
};

use lifeboat_format::{
    Codec, Decoder, Effort, Encoder, FRAME_PAGES_MAX, FrameOwner, FrameRef, Manifest, PackBuilder,
    PackOrigin, PageIndexMap, PageRunRef, Seal, StoredFrame, is_zero_page,
    manifest::{AddressSpace, PackRef, Platform, TcpPolicy, WorkloadSpec},
    pack::recycle,
};
use lifeboat_proto::{
    id::{CheckpointId, Epoch, PackId},
    units::{PAGE_BYTES, PageIndex, PageRun},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Size of the generated contents, in bytes.
const CONTENT_BYTES: usize = 64 << 20;

/// Runs of the measured tables.
const RUNS: u32 = 1 << 20;

/// Each figure is the best of so many.
const REPEATS: u32 = 3;

const FRAME_BYTES: usize = FRAME_PAGES_MAX * PAGE_BYTES;

fn main() -> Result<()> {
    println!("content          effort    MB/s in  stored  raw/lz4/zstd   MB/s out");
    let mut contents = vec![
        ("text".to_owned(), text()),
        ("floats".to_owned(), floats()),
        ("redis-like".to_owned(), redis_like()),
    ];
    for file in env::args().skip(1) {
        contents.push((file.clone(), fs::read(file)?));
    }
    for (name, content) in contents {
        let content = without_zero_pages(&content);
        for effort in [Effort::None, Effort::Fast, Effort::Balanced, Effort::Small] {
            measure(&name, &content, effort)?;
        }
    }
    zero_check();
    tables()
}

/// A manifest and an index of 16 GiB: one frame for 64 pages, in runs of 4.
fn tables() -> Result<()> {
    let seconds = |begin: Instant| begin.elapsed().as_secs_f64() * 1e3;
    let begin = Instant::now();
    let mut index = PageIndexMap::new();
    for frame in 0..RUNS / 16 {
        for at in 0..16 {
            // Neighbours come from far apart: worse than a first copy, like many later rounds.
            let place = u64::from((frame * 16 + at) % 512 * (RUNS / 512) + frame * 16 / 512);
            let run = PageRun::new(PageIndex(0x7f00_0000 + place * 4), 4);
            let run = PageRunRef {
                run,
                frame,
                frame_page: at * 4,
            };
            index.apply(run, |_| {}).map_err(Error::other)?;
        }
    }
    let (applied, bytes) = (seconds(begin), index.heap_bytes());
    println!(
        "index: {} runs applied in {applied:.0} ms, {bytes} bytes",
        index.len()
    );

    let (begin, mut found) = (Instant::now(), 0u64);
    for n in 0..u64::from(RUNS) {
        let page = PageIndex(0x7f00_0000 + n * 7919 % (u64::from(RUNS) * 4));
        found += u64::from(index.lookup(page).is_some());
    }
    println!(
        "index: {found} of {RUNS} random pages found in {:.0} ms",
        seconds(begin)
    );

    let manifest = manifest(&index)?;
    let begin = Instant::now();
    let (bytes, _) = manifest.encode(&Seal::plain()).map_err(Error::other)?;
    println!(
        "manifest: encoded in {:.0} ms, {} bytes",
        seconds(begin),
        bytes.len()
    );
    let begin = Instant::now();
    let (decoded, _) = Manifest::decode(&bytes, &Seal::plain()).map_err(Error::other)?;
    println!("manifest: decoded in {:.0} ms", seconds(begin));
    assert_eq!(decoded.frames.len(), manifest.frames.len());
    Ok(())
}

fn manifest(index: &PageIndexMap) -> Result<Manifest> {
    let runs = index.to_runs();
    let whole = PageRun::new(PageIndex(0x7f00_0000), u64::from(RUNS) * 4);
    let frame = |n: u32| FrameRef {
        pack: n / 256,
        offset: 16 + u64::from(n % 256) * 50_000,
        stored_bytes: 40_000 + n % 10_000,
        raw_bytes: 64 * 4096,
        codec: Codec::Zstd,
        digest: *blake3::hash(&n.to_le_bytes()).as_bytes(),
    };
    let pack = |n: u32| {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::hash(&n.to_be_bytes()).as_bytes()[..16]);
        PackRef {
            id: PackId(id),
            size_bytes: 16 << 20,
        }
    };
    Ok(Manifest {
        checkpoint: CheckpointId::new(),
        workload: "rates".parse().map_err(Error::other)?,
        epoch: Epoch(1),
        frozen_at_unix_ns: 0,
        platform: Platform {
            architecture: "x86_64".into(),
            criu_version: "4.2.1".into(),
            kernel_release: String::new(),
            page_size: 4096,
            cpu_features: vec![],
            node: String::new(),
        },
        spec: WorkloadSpec {
            argv: vec![],
            working_directory: String::new(),
            uid: 0,
            gid: 0,
            preserve: vec![],
            tcp: TcpPolicy::Close,
            terminal: false,
            streams: vec![],
        },
        packs: (0..RUNS / 16 / 256).map(pack).collect(),
        frames: (0..RUNS / 16).map(frame).collect(),
        address_spaces: vec![AddressSpace {
            pid: 1,
            runs,
            hot: vec![],
            captured: vec![whole],
        }],
        image_files: vec![],
        files: None,
        root_pid: 1,
        memory_bytes: 16 << 30,
        parent: None,
        shared_memory: vec![],
    })
}

fn measure(name: &str, content: &[u8], effort: Effort) -> Result<()> {
    let (mut fastest_in, mut fastest_out) = (f64::MAX, f64::MAX);
    let (mut stored, mut codecs) = (0u64, [0; 3]);
    let mut encoder = Encoder::new();
    let mut memory = Vec::new();
    for _ in 0..REPEATS {
        let mut seconds = (0.0, 0.0);
        (stored, codecs) = (0, [0; 3]);
        for part in content.chunks(4 << 20) {
            let begin = Instant::now();
            let (frames, pack) = encode(&mut encoder, part, effort, memory)?;
            seconds.0 += begin.elapsed().as_secs_f64();
            for frame in &frames {
                stored += u64::from(frame.stored_bytes);
                codecs[frame.codec as usize] += 1;
            }
            let begin = Instant::now();
            decode(&frames, &pack)?;
            seconds.1 += begin.elapsed().as_secs_f64();
            memory = recycle(pack).unwrap_or_default();
        }
        fastest_in = fastest_in.min(seconds.0);
        fastest_out = fastest_out.min(seconds.1);
    }
    let megabytes = content.len() as f64 / 1e6;
    println!(
        "{:16} {:9} {:7.0} {:6.1}% {:>6}/{}/{} {:>12.0}",
        name.rsplit('/').next().unwrap_or(name),
        format!("{effort:?}"),
        megabytes / fastest_in,
        stored as f64 * 100.0 / content.len() as f64,
        codecs[Codec::Raw as usize],
        codecs[Codec::Lz4 as usize],
        codecs[Codec::Zstd as usize],
        megabytes / fastest_out,
    );
    Ok(())
}

fn encode(
    encoder: &mut Encoder,
    content: &[u8],
    effort: Effort,
    memory: Vec<u8>,
) -> Result<(Vec<FrameRef>, bytes::Bytes)> {
    let workload = "rates".parse().map_err(Error::other)?;
    let origin = PackOrigin {
        workload,
        epoch: Epoch(1),
        sequence: 1,
    };
    let mut pack = PackBuilder::with_buffer(0, &origin, &Seal::plain(), 8 << 20, memory);
    let owner = FrameOwner::Files { offset: 0 };
    let frames = content
        .chunks(FRAME_BYTES)
        .map(|raw| {
            pack.encode(encoder, raw, effort, &owner)
                .map_err(Error::other)
        })
        .collect::<Result<_>>()?;
    Ok((frames, pack.finish().1))
}

/// What a restore does: verify, then decode.
fn decode(frames: &[FrameRef], pack: &bytes::Bytes) -> Result<()> {
    let (seal, mut decoder) = (Seal::plain(), Decoder::new());
    let mut memory = Vec::new();
    for frame in frames {
        let stored = StoredFrame::from_range(pack, 0, frame).map_err(Error::other)?;
        let sealed = stored.verify(frame, &seal).map_err(Error::other)?;
        // Content that is stored as it is stays where it is.
        let content = match frame.codec {
            Codec::Raw => sealed.decode(&mut decoder),
            Codec::Lz4 | Codec::Zstd => sealed.decode_into(&mut decoder, memory),
        };
        let content = content.map_err(Error::other)?;
        memory = match frame.codec {
            Codec::Raw => Vec::new(),
            Codec::Lz4 | Codec::Zstd => content.into_buffer(),
        };
    }
    Ok(())
}

fn zero_check() {
    let mut pages = vec![1u8; CONTENT_BYTES];
    pages.fill(0);
    let begin = Instant::now();
    let zero = pages
        .as_chunks()
        .0
        .iter()
        .filter(|page| is_zero_page(page))
        .count();
    let rate = pages.len() as f64 / 1e9 / begin.elapsed().as_secs_f64();
    println!("zero pages are recognised at {rate:.1} GB/s ({zero} pages)");
}

fn without_zero_pages(content: &[u8]) -> Vec<u8> {
    content
        .as_chunks::<PAGE_BYTES>()
        .0
        .iter()
        .filter(|page| !is_zero_page(page))
        .flatten()
        .copied()
        .collect()
}

/// Lines of a log.
fn text() -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(1);
    let words = [
        "request", "from", "10.0.3.7", "served", "cache", "miss", "user", "session", "ok",
    ];
    let mut out = Vec::with_capacity(CONTENT_BYTES);
    let mut time = 1_700_000_000_000_u64;
    while out.len() < CONTENT_BYTES {
        time += random.random_range(1..900);
        out.extend_from_slice(format!("{time} INFO ").as_bytes());
        for _ in 0..random.random_range(4..12) {
            out.extend_from_slice(words[random.random_range(0..words.len())].as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(format!("{} us\n", random.random_range(10..90_000)).as_bytes());
    }
    out
}

/// Uniform numbers in 0..1.
fn floats() -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(2);
    (0..CONTENT_BYTES / 8)
        .flat_map(|_| random.random::<f64>().to_le_bytes())
        .collect()
}

/// Hash table entries, string headers, keys and values, as an in-memory store lays them out.
fn redis_like() -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(3);
    let mut out = Vec::with_capacity(CONTENT_BYTES + 512);
    while out.len() < CONTENT_BYTES {
        for _ in 0..3 {
            let pointer = 0x7f3a_0000_0000u64 + random.random_range(0..1u64 << 30) / 16 * 16;
            out.extend_from_slice(&pointer.to_le_bytes());
        }
        let key = format!("key:{:012}", random.random_range(0..5_000_000));
        out.extend_from_slice(&[16, 24, 1]);
        out.extend_from_slice(key.as_bytes());
        let value: Vec<u8> = match random.random_range(0..3) {
            0 => (0..100).map(|_| random.random()).collect(),
            1 => format!(
                "{{\"id\":{},\"name\":\"user\",\"score\":{}}}",
                out.len(),
                random.random::<u16>()
            )
            .into_bytes(),
            _ => vec![b'x'; 64],
        };
        out.extend_from_slice(&value);
        out.resize(out.len().next_multiple_of(16), 0);
    }
    out
}
