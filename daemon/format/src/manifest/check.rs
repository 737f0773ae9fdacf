//! What a manifest must fulfil beyond its types.

use std::collections::HashSet;

use lifeboat_proto::units::{PAGE_SIZE, PageRun};

use super::{AddressSpace, Manifest, Platform, WorkloadSpec};
use crate::{
    error::{FormatError, Object, Problem},
    frame::{FRAME_PAGES_MAX, FrameRef},
    pack::{PACK_BYTES_MAX, check_raw, check_stored, payload_range},
    runs::{PAGE_INDEX_END, PageRuns},
    text,
};

/// Most packs of a checkpoint: 16 TiB.
pub const PACKS_MAX: usize = 1 << 20;
/// Most frames of a checkpoint.
pub const FRAMES_MAX: usize = 1 << 24;
/// Most address spaces of a checkpoint.
pub const ADDRESS_SPACES_MAX: usize = 1 << 16;
/// Most objects of shared memory of a checkpoint.
pub const SHARED_MEMORY_MAX: usize = 1 << 16;
/// Most image files of a checkpoint.
pub const IMAGE_FILES_MAX: usize = 1 << 18;
/// Most ranges (hot, captured) of one address space.
pub const RANGES_MAX: usize = 1 << 22;
/// Most arguments of a command, and most CPU features.
pub const TEXTS_MAX: usize = 1 << 16;
/// Most preserved paths.
pub const PATHS_MAX: usize = 1 << 12;
/// Longest argument, in bytes (Linux: MAX_ARG_STRLEN).
pub const TEXT_BYTES_MAX: usize = 128 << 10;

/// Longest fact about a machine, in bytes.
const FACT_BYTES_MAX: usize = 256;

/// Most streams of a hold.
const STREAMS_MAX: usize = 4;

/// Largest PID (Linux: PID_MAX_LIMIT on 64-bit machines).
const PID_MAX: u64 = 4 << 20;

type Checked = Result<(), FormatError>;

impl Manifest {
    /// Fails unless everything in the manifest fits together.
    pub(super) fn check(&self) -> Checked {
        self.check_counts()?;
        check_platform(&self.platform)?;
        check_spec(&self.spec)?;
        between(u64::from(self.root_pid), 1, PID_MAX).map_err(at("root_pid"))?;
        self.check_packs()?;
        for (n, frame) in self.frames.iter().enumerate() {
            self.check_frame(frame)
                .map_err(|(field, p)| invalid(frame_field(n, field), p))?;
        }
        self.check_memory()?;
        self.check_shared_memory()?;
        self.check_files()
    }

    fn check_counts(&self) -> Checked {
        for (field, found, most) in [
            ("packs", self.packs.len(), PACKS_MAX),
            ("frames", self.frames.len(), FRAMES_MAX),
            (
                "address_spaces",
                self.address_spaces.len(),
                ADDRESS_SPACES_MAX,
            ),
            ("shared_memory", self.shared_memory.len(), SHARED_MEMORY_MAX),
            ("image_files", self.image_files.len(), IMAGE_FILES_MAX),
        ] {
            at_most(found, most).map_err(at(field))?;
        }
        Ok(())
    }

    fn check_packs(&self) -> Checked {
        let mut seen = HashSet::with_capacity(self.packs.len());
        for (n, pack) in self.packs.iter().enumerate() {
            let field = || format!("packs[{n}]");
            between(pack.size_bytes, 1, PACK_BYTES_MAX as u64).map_err(|p| invalid(field(), p))?;
            if !seen.insert(pack.id) {
                return Err(invalid(field(), Problem::Duplicate));
            }
        }
        Ok(())
    }

    fn check_frame(&self, frame: &FrameRef) -> Result<(), (&'static str, Problem)> {
        let (stored, raw) = (u64::from(frame.stored_bytes), u64::from(frame.raw_bytes));
        let pack = self
            .packs
            .get(frame.pack as usize)
            .ok_or(("pack", Problem::Outside))?;
        check_raw(raw).map_err(|p| ("raw_bytes", p))?;
        check_stored(frame.codec, stored, raw).map_err(|p| ("stored_bytes", p))?;
        let (place, room) = (frame.range(), payload_range(pack.size_bytes));
        let inside = room.start <= place.start && place.end <= room.end;
        if inside {
            Ok(())
        } else {
            Err(("offset", Problem::Outside))
        }
    }

    fn check_memory(&self) -> Checked {
        let mut seen = HashSet::new();
        for (n, space) in self.address_spaces.iter().enumerate() {
            let field = |name: &str| format!("address_spaces[{n}].{name}");
            between(u64::from(space.pid), 1, PID_MAX).map_err(|p| invalid(field("pid"), p))?;
            if !seen.insert(space.pid) {
                return Err(invalid(field("pid"), Problem::Duplicate));
            }
            check_ranges(space).map_err(|(name, p)| invalid(field(&name), p))?;
            self.check_runs(&space.runs)
                .map_err(|(at, p)| invalid(run_field(field, at), p))?;
            check_captured(space).map_err(|at| invalid(run_field(field, at), Problem::Outside))?;
        }
        Ok(())
    }

    fn check_shared_memory(&self) -> Checked {
        let mut seen = HashSet::new();
        for (n, object) in self.shared_memory.iter().enumerate() {
            let field = |name: &str| format!("shared_memory[{n}].{name}");
            if !seen.insert(object.id) {
                return Err(invalid(field("id"), Problem::Duplicate));
            }
            between(object.pages, 1, PAGE_INDEX_END).map_err(|p| invalid(field("pages"), p))?;
            self.check_runs(&object.runs)
                .map_err(|(at, p)| invalid(run_field(field, at), p))?;
            if object
                .runs
                .last()
                .is_some_and(|last| last.run.end().0 > object.pages)
            {
                return Err(invalid(field("runs"), Problem::Outside));
            }
        }
        Ok(())
    }

    /// Fails with the number of the run that does not fit into its frame.
    fn check_runs(&self, runs: &PageRuns) -> Result<(), (usize, Problem)> {
        for (at, run) in runs.iter().enumerate() {
            let frame = self
                .frames
                .get(run.frame as usize)
                .ok_or((at, Problem::Outside))?;
            let whole = u64::from(frame.raw_bytes) % PAGE_SIZE == 0;
            let end = u64::from(run.frame_page) + run.run.pages;
            let frame_pages = u64::from(frame.pages());
            if !whole || end > frame_pages || frame_pages > FRAME_PAGES_MAX as u64 {
                return Err((at, Problem::Outside));
            }
        }
        Ok(())
    }

    fn check_files(&self) -> Checked {
        let mut seen = HashSet::new();
        for (n, file) in self.image_files.iter().enumerate() {
            let field = |name: &str| format!("image_files[{n}].{name}");
            text::check_file_name(&file.name).map_err(|p| invalid(field("name"), p))?;
            if !seen.insert(&file.name) {
                return Err(invalid(field("name"), Problem::Duplicate));
            }
            self.check_stream(file.size_bytes, &file.frames)
                .map_err(|p| invalid(field("frames"), p))?;
        }
        if let Some(files) = &self.files {
            self.check_stream(files.size_bytes, &files.frames)
                .map_err(at("files.frames"))?;
        }
        Ok(())
    }

    /// Fails unless the contents of `frames` have `size_bytes` bytes together.
    fn check_stream(&self, size_bytes: u64, frames: &[u32]) -> Result<(), Problem> {
        at_most(frames.len(), FRAMES_MAX)?;
        let mut found = 0;
        for frame in frames {
            let frame = self.frames.get(*frame as usize).ok_or(Problem::Outside)?;
            found += u64::from(frame.raw_bytes);
        }
        if found == size_bytes {
            return Ok(());
        }
        Err(Problem::Differs {
            found,
            expected: size_bytes,
        })
    }
}

fn check_platform(platform: &Platform) -> Checked {
    for (field, fact) in [
        ("platform.architecture", &platform.architecture),
        ("platform.criu_version", &platform.criu_version),
    ] {
        if fact.is_empty() {
            return Err(invalid(field, Problem::Missing));
        }
        text::check_line(fact, FACT_BYTES_MAX).map_err(at(field))?;
    }
    text::check_line(&platform.kernel_release, FACT_BYTES_MAX)
        .map_err(at("platform.kernel_release"))?;
    text::check_line(&platform.node, FACT_BYTES_MAX).map_err(at("platform.node"))?;
    if u64::from(platform.page_size) != PAGE_SIZE {
        let problem = Problem::Differs {
            found: u64::from(platform.page_size),
            expected: PAGE_SIZE,
        };
        return Err(invalid("platform.page_size", problem));
    }
    at_most(platform.cpu_features.len(), TEXTS_MAX).map_err(at("platform.cpu_features"))?;
    for feature in &platform.cpu_features {
        text::check_line(feature, FACT_BYTES_MAX).map_err(at("platform.cpu_features"))?;
    }
    Ok(())
}

fn check_spec(spec: &WorkloadSpec) -> Checked {
    at_most(spec.argv.len(), TEXTS_MAX).map_err(at("spec.argv"))?;
    for argument in &spec.argv {
        text::check_argument(argument, TEXT_BYTES_MAX).map_err(at("spec.argv"))?;
    }
    if !spec.working_directory.is_empty() {
        text::check_path(&spec.working_directory).map_err(at("spec.working_directory"))?;
    }
    at_most(spec.preserve.len(), PATHS_MAX).map_err(at("spec.preserve"))?;
    for path in &spec.preserve {
        text::check_path(path).map_err(at("spec.preserve"))?;
    }
    at_most(spec.streams.len(), STREAMS_MAX).map_err(at("spec.streams"))?;
    let mut seen = HashSet::new();
    if spec.streams.iter().all(|pipe| seen.insert(pipe.stream)) {
        return Ok(());
    }
    Err(invalid("spec.streams", Problem::Duplicate))
}

/// Fails with the field that is wrong.
fn check_ranges(space: &AddressSpace) -> Result<(), (String, Problem)> {
    at_most(space.hot.len(), RANGES_MAX).map_err(|p| ("hot".to_owned(), p))?;
    at_most(space.captured.len(), RANGES_MAX).map_err(|p| ("captured".to_owned(), p))?;
    for (n, range) in space.hot.iter().enumerate() {
        check_range(*range).map_err(|p| (format!("hot[{n}]"), p))?;
    }
    let mut end = 0;
    for (n, range) in space.captured.iter().enumerate() {
        check_range(*range).map_err(|p| (format!("captured[{n}]"), p))?;
        if range.start.0 < end {
            return Err((format!("captured[{n}]"), Problem::NotAscending));
        }
        end = range.end().0;
    }
    Ok(())
}

fn check_range(range: PageRun) -> Result<(), Problem> {
    between(range.pages, 1, PAGE_INDEX_END)?;
    if range.end().0 > PAGE_INDEX_END {
        Err(Problem::Outside)
    } else {
        Ok(())
    }
}

/// Fails with the number of the run that is not inside the captured ranges. Both are ascending.
fn check_captured(space: &AddressSpace) -> Result<(), usize> {
    let mut captured = space.captured.iter().peekable();
    for (at, run) in space.runs.iter().enumerate() {
        let (mut next, end) = (run.run.start.0, run.run.end().0);
        while next < end {
            match captured.peek() {
                Some(range) if range.end().0 <= next => {
                    captured.next();
                }
                // A run may go on from one captured mapping into the adjacent one.
                Some(range) if range.start.0 <= next => next = range.end().0,
                _ => return Err(at),
            }
        }
    }
    Ok(())
}

fn at_most(found: usize, most: usize) -> Result<(), Problem> {
    between(found as u64, 0, most as u64)
}

fn between(found: u64, least: u64, most: u64) -> Result<(), Problem> {
    if found < least {
        Err(Problem::TooSmall { found, least })
    } else if found > most {
        Err(Problem::TooLarge { found, most })
    } else {
        Ok(())
    }
}

fn frame_field(n: usize, field: &str) -> String {
    format!("frames[{n}].{field}")
}

fn run_field(field: impl Fn(&str) -> String, at: usize) -> String {
    format!("{}[{at}]", field("runs"))
}

fn at(field: &'static str) -> impl FnOnce(Problem) -> FormatError {
    move |problem| invalid(field, problem)
}

fn invalid(field: impl Into<String>, problem: Problem) -> FormatError {
    FormatError::invalid(Object::Manifest, field, problem)
}
