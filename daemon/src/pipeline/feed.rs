//! Cuts memory into frames, and hands them to a pipeline.

use lifeboat_format::frame::FRAME_PAGES_MAX;
use lifeboat_proto::units::{PageIndex, PageRun};
use lifeboat_track::ContentHash;

use super::{Intake, Job, PipelineError, Source};

/// Memory of one process, or one object of shared memory, that is to be stored.
#[derive(Debug)]
pub struct Memory<'a> {
    /// Index of the address space in what the pipeline captures.
    pub space: usize,
    /// Where to read.
    pub source: &'a Source,
    /// The pages, ascending.
    pub runs: &'a [PageRun],
    /// Whether the process runs: what cannot be read is told, and is no failure.
    pub may_vanish: bool,
}

impl Memory<'_> {
    /// Hands all of it over, a frame at a time; `known` tells what is stored of a page already, if
    /// that is to be compared.
    ///
    /// # Errors
    /// When the pipeline was stopped.
    pub async fn feed<K>(&self, intake: &Intake, known: Option<K>) -> Result<(), PipelineError>
    where
        K: Fn(PageIndex) -> Option<ContentHash>,
    {
        intake.announce(self.runs.iter().map(|run| run.bytes()).sum());
        let mut frame: Vec<PageRun> = Vec::new();
        let mut pages = 0;
        for run in self.runs {
            let mut rest = *run;
            while !rest.is_empty() {
                let taken = rest.pages.min(FRAME_PAGES_MAX as u64 - pages);
                frame.push(PageRun::new(rest.start, taken));
                rest = PageRun::new(rest.start + taken, rest.pages - taken);
                pages += taken;
                if pages == FRAME_PAGES_MAX as u64 {
                    let full = std::mem::take(&mut frame);
                    self.push(full, intake, known.as_ref()).await?;
                    pages = 0;
                }
            }
        }
        if frame.is_empty() {
            return Ok(());
        }
        self.push(frame, intake, known.as_ref()).await
    }

    async fn push<K>(
        &self,
        runs: Vec<PageRun>,
        intake: &Intake,
        known: Option<&K>,
    ) -> Result<(), PipelineError>
    where
        K: Fn(PageIndex) -> Option<ContentHash>,
    {
        let known = known.map(|known| {
            let pages = runs.iter().flat_map(|run| run.start.0..run.end().0);
            pages.map(|page| known(PageIndex(page))).collect()
        });
        let job = Job::Memory {
            space: self.space,
            source: self.source.clone(),
            runs,
            known,
            may_vanish: self.may_vanish,
        };
        intake.push(job).await
    }
}
