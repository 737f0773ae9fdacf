//! Frames and runs as columns, and back.
//!
//! A checkpoint has up to millions of both. As columns they parse several times faster than as
//! messages of their own, and compress better.

use lifeboat_proto::{
    image,
    units::{PageIndex, PageRun},
};

use super::wire::invalid;
use crate::{
    codec::Codec,
    error::{FormatError, Problem},
    frame::FrameRef,
    runs::{PageRunRef, PageRuns},
    seal::DIGEST_BYTES,
};

/// The table of frames.
pub(super) fn frames_message(frames: &[FrameRef]) -> image::FrameTable {
    let mut table = image::FrameTable::default();
    let mut digests = Vec::with_capacity(frames.len() * DIGEST_BYTES);
    let mut end = 0u64;
    for frame in frames {
        table.pack.push(frame.pack);
        table
            .offset_delta
            .push(frame.offset.wrapping_sub(end).cast_signed());
        table.stored_bytes.push(frame.stored_bytes);
        table.raw_bytes.push(frame.raw_bytes);
        table.codec.push(image::Codec::from(frame.codec).into());
        digests.extend_from_slice(&frame.digest);
        end = frame.range().end;
    }
    table.digests = digests.into();
    table
}

/// The frames of a table.
pub(super) fn frames(table: &image::FrameTable) -> Result<Vec<FrameRef>, FormatError> {
    let count = table.pack.len();
    for (column, found) in [
        ("offset_delta", table.offset_delta.len()),
        ("stored_bytes", table.stored_bytes.len()),
        ("raw_bytes", table.raw_bytes.len()),
        ("codec", table.codec.len()),
    ] {
        same_length(found, count).map_err(|p| invalid(format!("frames.{column}"), p))?;
    }
    let (digests, rest) = table.digests.as_chunks::<DIGEST_BYTES>();
    same_length(digests.len(), count).map_err(|p| invalid("frames.digests", p))?;
    same_length(rest.len(), 0).map_err(|p| invalid("frames.digests", p))?;

    let mut end = 0u64;
    let mut frames = Vec::with_capacity(count);
    for (n, digest) in digests.iter().enumerate() {
        let field = |name: &str| format!("frames[{n}].{name}");
        let offset = end
            .checked_add_signed(table.offset_delta[n])
            .ok_or_else(|| invalid(field("offset"), Problem::Outside))?;
        let codec = Codec::try_from(table.codec[n]).map_err(|p| invalid(field("codec"), p))?;
        let frame = FrameRef {
            pack: table.pack[n],
            offset,
            stored_bytes: table.stored_bytes[n],
            raw_bytes: table.raw_bytes[n],
            codec,
            digest: *digest,
        };
        end = frame.range().end;
        frames.push(frame);
    }
    Ok(frames)
}

/// The table of runs.
pub(super) fn runs_message(runs: &PageRuns) -> image::PageRuns {
    let mut columns = image::PageRuns::default();
    columns.start_delta.reserve_exact(runs.len());
    columns.pages.reserve_exact(runs.len());
    columns.frame_delta.reserve_exact(runs.len());
    columns.frame_page.reserve_exact(runs.len());
    let (mut end, mut frame) = (0, 0u32);
    for run in runs.iter() {
        columns.start_delta.push(run.run.start.0 - end);
        columns
            .pages
            .push(u32::try_from(run.run.pages).expect("runs are no longer than frames"));
        columns
            .frame_delta
            .push(run.frame.wrapping_sub(frame).cast_signed());
        columns.frame_page.push(run.frame_page);
        (end, frame) = (run.run.end().0, run.frame);
    }
    columns
}

/// The runs of a table. Fails with the run (or the column) that is wrong.
pub(super) fn runs(columns: &image::PageRuns) -> Result<PageRuns, (String, Problem)> {
    let count = columns.start_delta.len();
    for (column, found) in [
        ("pages", columns.pages.len()),
        ("frame_delta", columns.frame_delta.len()),
        ("frame_page", columns.frame_page.len()),
    ] {
        same_length(found, count).map_err(|p| (format!("runs.{column}"), p))?;
    }
    let mut runs = PageRuns::new();
    runs.reserve(count);
    let (mut end, mut frame) = (0u64, 0u32);
    for n in 0..count {
        let field = || format!("runs[{n}]");
        let start = end
            .checked_add(columns.start_delta[n])
            .ok_or_else(|| (field(), Problem::Outside))?;
        frame = frame.wrapping_add_signed(columns.frame_delta[n]);
        let run = PageRun::new(PageIndex(start), u64::from(columns.pages[n]));
        runs.push(PageRunRef {
            run,
            frame,
            frame_page: columns.frame_page[n],
        })
        .map_err(|problem| (field(), problem))?;
        end = run.end().0;
    }
    Ok(runs)
}

fn same_length(found: usize, expected: usize) -> Result<(), Problem> {
    if found == expected {
        return Ok(());
    }
    Err(Problem::Differs {
        found: found as u64,
        expected: expected as u64,
    })
}
