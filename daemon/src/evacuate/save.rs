//! One save, from the call to the release.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use lifeboat_criu::{Committing, Described, Dump, DumpError, DumpRequest, WorkDir};
use lifeboat_format::pack::PackOrigin;
use lifeboat_proto::{
    hold::{self, to_hold::Message},
    id::{CheckpointId, PackId},
};
use lifeboat_store::{Call, StoreError};
use tokio_util::sync::CancellationToken;

use super::{
    audit::{self, AuditError, KernelsOwn},
    base::Loading,
    commit::{self, CommitError, Parts},
    describe::{Description, Found, StreamKind},
    files::FileAccess,
    memory::CaptureError,
    orders::Orders,
    proof::{self, ProofError},
    rehearse,
    report::SaveReport,
};
use crate::{
    claim::{ClaimError, Right},
    daemon::Context,
    journal::{Entry, JournalError, Recorded},
    observe::{chain, failpoint},
    pipeline::{Pipeline, PipelineError, PipelineOptions, Purpose},
    precopy::{self, BatchError, SharedAhead, Stock},
    workload::{
        Body, Drilled, Phase, Saved, Tree, Workload,
        namespaces::{NamespaceError, Namespaces},
    },
};

/// How long after the deadline the work that had it may take to say what it was waiting for.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How a workload is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It ends here and goes on elsewhere.
    Evacuate,
    /// It runs on.
    Checkpoint,
    /// It runs on, and nothing was committed: a rehearsal.
    Drill,
}

/// Why a workload was not saved. It runs on, unless another node has taken it over meanwhile.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// It does not run.
    #[error("workload {workload} cannot be saved now: it is {phase:?}")]
    NotRunning {
        /// Its name.
        workload: String,
        /// What it does.
        phase: Phase,
    },
    /// It was ended by itself meanwhile.
    #[error("the workload has ended by itself")]
    Ended,
    /// Its namespaces cannot be opened.
    #[error("open the workload's namespaces")]
    Namespaces(#[source] NamespaceError),
    /// The journal cannot be written.
    #[error("prepare the save")]
    Journal(#[source] JournalError),
    /// A work directory cannot be made.
    #[error("make a work directory below /run/lifeboat")]
    WorkDir(#[source] std::io::Error),
    /// CRIU refused.
    #[error("describe the process tree")]
    Describe(#[source] DumpError),
    /// What is still pending could not be stored, and the workload was not frozen for it.
    #[error("store memory before the freeze")]
    Ahead(#[source] BatchError),
    /// The store does not say whether it still has what was copied ahead of time.
    #[error("look for what was copied ahead of time")]
    Stock(#[source] StoreError),
    /// Somebody has deleted it.
    #[error("what was copied ahead of time is not in the store any more")]
    Gone,
    /// Memory or files could not be captured.
    #[error("capture memory and files")]
    Capture(#[source] CaptureError),
    /// The capture could not be stored.
    #[error("store what was captured")]
    Pipeline(#[source] PipelineError),
    /// The checkpoint is not whole.
    #[error("prove that the checkpoint is whole")]
    Proof(#[source] ProofError),
    /// The store does not have what the tree holds.
    #[error("compare the checkpoint with the frozen memory")]
    Audit(#[source] AuditError),
    /// The commit failed.
    #[error("commit the checkpoint")]
    Commit(#[source] CommitError),
    /// This node has no right to commit.
    #[error("claim the workload in the store, which was not possible before")]
    NoRight(#[source] ClaimError),
    /// The deadline passed.
    #[error("the deadline passed before the commit; nothing was committed")]
    Deadline,
    /// Somebody called it off.
    #[error("the save was called off; nothing was committed")]
    Cancelled,
}

impl SaveError {
    /// Whether the deadline was the reason.
    #[must_use]
    pub const fn is_deadline(&self) -> bool {
        matches!(self, Self::Deadline)
    }

    /// Whether the workload runs elsewhere now.
    #[must_use]
    pub const fn is_superseded(&self) -> bool {
        matches!(self, Self::Commit(error) if error.is_superseded())
    }

    /// Whether this only says that something else has failed before.
    const fn is_consequence(&self) -> bool {
        matches!(self, Self::Capture(_) | Self::Describe(_))
    }
}

/// One save.
#[derive(Debug)]
pub struct Save<'a> {
    /// The daemon's parts.
    pub context: &'a Arc<Context>,
    /// The workload.
    pub workload: &'a Arc<Workload>,
    /// How.
    pub mode: Mode,
    /// Until when it must be committed, and what else it must keep to.
    pub orders: Orders,
    /// Calls it off; without effect once the commit is being attempted.
    pub cancel: CancellationToken,
    /// What happens.
    pub report: &'a SaveReport,
}

/// What a save has in hand before the tree is touched.
struct Prepared {
    id: CheckpointId,
    right: Right,
    namespaces: Namespaces,
    work_dir: WorkDir,
    journal: Recorded,
    /// Whether what was copied ahead of time is still there.
    stock: Option<Stock>,
}

impl Save<'_> {
    /// Saves the workload; the report has the figures, also of a failure.
    ///
    /// # Errors
    /// When nothing was committed: the workload runs on. While it is not known whether the commit
    /// happened, the workload stays frozen and this does not return.
    pub async fn run(&self) -> Result<CheckpointId, SaveError> {
        let mut body = self.workload.exclusive().await;
        let phase = self.workload.view().phase;
        let saveable = matches!(phase, Phase::Running | Phase::Loading);
        let Some(tree) = body.tree.as_ref().filter(|_| saveable) else {
            let workload = self.workload.name.to_string();
            return Err(SaveError::NotRunning { workload, phase });
        };
        self.workload
            .publish("saving", |view| view.phase = Phase::Saving);
        let mut result = self.save(tree, &body).await;
        match (&result, &body.loading) {
            (Err(SaveError::Capture(CaptureError::Forked { .. })), Some(loading)) => {
                result = match self.wait_until_loaded(loading).await {
                    Ok(()) => self.save(tree, &body).await,
                    Err(error) => Err(error),
                };
            }
            (Err(error @ SaveError::Gone), _) => {
                let (workload, error) = (&self.workload.name, chain(error));
                tracing::error!(%workload, error, "all memory is read anew");
                result = self.save(tree, &body).await;
            }
            _ => {}
        }
        self.publish(&result, &mut body, phase).await;
        result
    }

    /// Waits until the memory of a restored workload is in.
    async fn wait_until_loaded(&self, loading: &Loading) -> Result<(), SaveError> {
        let loaded = self.guard(loading.server.loaded()).await?;
        loaded.map(drop).map_err(|_| SaveError::Ended)
    }

    async fn publish(
        &self,
        result: &Result<CheckpointId, SaveError>,
        body: &mut Body,
        before: Phase,
    ) {
        if self.mode == Mode::Drill {
            return self.publish_drill(result.as_ref().err(), before);
        }
        match result {
            Ok(id) => {
                let saved = self.saved(*id).await;
                self.workload
                    .publish(format!("committed checkpoint {id}"), |view| {
                        view.last_checkpoint = Some(saved);
                        view.last_error.clear();
                        view.phase = match self.mode {
                            Mode::Evacuate => Phase::Evacuated,
                            _ => before,
                        };
                    });
                if self.mode == Mode::Evacuate {
                    body.tree = None;
                    body.loading = None;
                }
            }
            Err(error) => {
                let is_gone = error.is_superseded() && self.mode == Mode::Evacuate;
                let error = chain(error);
                tracing::error!(workload = %self.workload.name, error, "save failed");
                self.workload.publish("save failed", |view| {
                    view.last_error = error;
                    view.phase = if is_gone { Phase::Evacuated } else { before };
                });
                if is_gone {
                    body.tree = None;
                    body.loading = None;
                }
            }
        }
    }

    /// A rehearsal that failed is news, and no failure of the workload's.
    fn publish_drill(&self, error: Option<&SaveError>, before: Phase) {
        let drill = Drilled {
            at: SystemTime::now(),
            total: self.report.elapsed(),
            margin_ms: self.orders.deadline().margin_ms(),
            error: error.map(|error| chain(error)),
        };
        let event = match &drill.error {
            None => "rehearsed: it would have been saved",
            Some(_) => "rehearsed: it would not have been saved",
        };
        self.workload.publish(event, |view| {
            view.phase = before;
            view.last_drill = Some(drill);
        });
    }

    async fn saved(&self, id: CheckpointId) -> Saved {
        let epoch = self
            .workload
            .right
            .lock()
            .await
            .as_ref()
            .map(|right| right.head.epoch);
        Saved {
            id,
            frozen_at: self.report.frozen_at(),
            memory_bytes: self.report.memory_bytes.load(Ordering::Relaxed),
            epoch: epoch.unwrap_or_default(),
        }
    }

    async fn save(&self, tree: &Tree, body: &Body) -> Result<CheckpointId, SaveError> {
        // What is being loaded stays where it is until the tree is frozen.
        let mut paused = None;
        let mut loading = body.loading.clone();
        if let Some(load) = &loading {
            if load.has_forked() {
                self.wait_until_loaded(load).await?;
                loading = None;
            } else {
                paused = Some(load.server.pause().await);
            }
        }
        // A batch that is on its way may take longer than there is time.
        let mut books = self.guard(self.workload.place.take()).await?;
        let ahead = books.ahead().filter(|_| loading.is_none()).cloned();
        let mut stock = None;
        if let Some(known) = &ahead {
            stock = Some(Stock::ask(self.context, known, self.call()));
            self.guard(self.get_ready(known, tree.pid)).await??;
        }
        let mut prepared = self.prepare(tree, stock).await?;
        failpoint::reach("journal");
        let options = self.options(&prepared.right, ahead.as_ref());
        let mut pipeline = Pipeline::start(Arc::clone(&self.context.store), &options)
            .map_err(SaveError::Pipeline)?;
        self.report.begin(pipeline.figures());
        let intake = pipeline.intake();
        let description = Description::new(tree.pid, loading.clone(), ahead.clone(), intake);
        description.learn().await;
        self.report.mark("learn");
        let described = match self.describe(tree, &prepared, &description).await {
            Ok(described) => described,
            Err(error) => {
                description.close();
                let error = explain(error, pipeline).await;
                self.put_away(prepared);
                return Err(match description.forked() {
                    Some(pid) => SaveError::Capture(CaptureError::Forked { pid }),
                    None => error,
                });
            }
        };
        self.report.mark("describe");
        let found = self
            .read(&prepared, &described, &description, &mut pipeline)
            .await;
        let outcome = match found {
            Ok(found) => {
                let ahead = ahead.as_ref();
                self.finish(&mut prepared, described, found, pipeline, body, ahead)
                    .await
            }
            Err(error) => {
                description.close();
                let error = explain(error, pipeline).await;
                self.let_go(described).await;
                Err(error)
            }
        };
        let id = prepared.id;
        self.put_away(prepared);
        drop(paused);
        if let Some(ahead) = &ahead {
            precopy::lock(ahead).thaw();
        }
        if is_about_books(&outcome) {
            books.forget();
        }
        outcome.map(|()| id)
    }

    /// Before the freeze: sends what is pending.
    async fn get_ready(&self, ahead: &SharedAhead, pid: u32) -> Result<(), SaveError> {
        if self.context.config.save.hurry {
            precopy::hurry(self.context, ahead, pid, &self.orders)
                .await
                .map_err(SaveError::Ahead)?;
        }
        self.report.mark("hurry");
        Ok(())
    }

    async fn prepare(&self, tree: &Tree, stock: Option<Stock>) -> Result<Prepared, SaveError> {
        let id = CheckpointId::new();
        let right = self.workload.obtain_right(&self.context.heads);
        let right = self.guard(right).await?.map_err(SaveError::NoRight)?;
        let namespaces = Namespaces::of(tree.pid, &tree.root).map_err(SaveError::Namespaces)?;
        let work_dir = self.context.work_dir().map_err(SaveError::WorkDir)?;
        let entry = Entry {
            workload: self.workload.name.to_string(),
            instance: self.workload.instance.clone(),
            checkpoint: id.to_string(),
            work_dir: work_dir.here.clone(),
            pid: tree.pid,
            evacuate: self.mode == Mode::Evacuate,
            committing: false,
        };
        let journal = self
            .context
            .journal
            .record(entry)
            .map_err(SaveError::Journal)?;
        Ok(Prepared {
            id,
            right,
            namespaces,
            work_dir,
            journal,
            stock,
        })
    }

    fn put_away(&self, prepared: Prepared) {
        self.context
            .put_away(&prepared.work_dir.here, &prepared.id.to_string());
        prepared.journal.done();
    }

    fn options(&self, right: &Right, ahead: Option<&SharedAhead>) -> PipelineOptions {
        let save = &self.context.config.save;
        let origin = ahead.map(|ahead| precopy::lock(ahead).origin());
        PipelineOptions {
            threads: save.threads,
            uploads: save.uploads,
            effort: save.effort.into(),
            purpose: Purpose::Frozen,
            rates: Arc::clone(&self.context.rates),
            // Without books there is more than fits.
            buffers: ahead.map(|_| self.context.buffers.clone()),
            seal: Arc::clone(&self.context.seal),
            origin: PackOrigin {
                workload: self.workload.name.clone(),
                epoch: right.head.epoch,
                sequence: origin.map_or(0, |origin| origin.sequence),
            },
            call: self.call(),
        }
    }

    async fn describe(
        &self,
        tree: &Tree,
        prepared: &Prepared,
        description: &Arc<Description>,
    ) -> Result<Described, SaveError> {
        let namespaces = prepared
            .namespaces
            .for_criu()
            .map_err(SaveError::Namespaces)?;
        let mut request = DumpRequest::new(tree.inner_pid, namespaces, prepared.work_dir.clone());
        request.leave_running = self.mode != Mode::Evacuate;
        request.tcp = self.workload.tcp_mode();
        request.describe_within = self.context.config.save.describe_timeout;
        let criu = &self.context.criu;
        let (delegate, sink) = (Arc::clone(description) as _, Arc::clone(description) as _);
        let dump = Dump::start(criu, request, delegate, sink).await;
        let dump = dump.map_err(SaveError::Describe)?;
        failpoint::reach("dump");
        self.guard(dump.described())
            .await?
            .map_err(SaveError::Describe)
    }

    /// Reads everything of the frozen tree, and proves that nothing is missing.
    async fn read(
        &self,
        prepared: &Prepared,
        described: &Described,
        description: &Arc<Description>,
        pipeline: &mut Pipeline,
    ) -> Result<Captured, SaveError> {
        let work = async {
            let found = async { description.finish().await.map_err(SaveError::Capture) };
            // The archive has a way into the pipeline of its own before the last one is closed.
            let archive = self.archive(prepared, description);
            let (files, found) = tokio::try_join!(archive, found)?;
            proof::check(described.images(), &found).map_err(SaveError::Proof)?;
            self.report.mark("prove");
            pipeline.finish_reading().await;
            Ok((found, files))
        };
        let (found, files) = self.guard(work).await??;
        self.report.read(&found, pipeline);
        self.report.mark("read");
        let tasks = described.images().tasks();
        let root = tasks.map_err(|source| SaveError::Proof(ProofError::Images(source)))?;
        let root_pid = root.first().map_or(0, |task| task.pid);
        let kernels_own = if self.context.config.save.audit {
            KernelsOwn::of(described.images()).map_err(SaveError::Audit)?
        } else {
            KernelsOwn::default()
        };
        Ok(Captured {
            kernels_own,
            found,
            files,
            root_pid,
        })
    }

    /// The workload's files as a stream of their own, if any are to travel.
    async fn archive(
        &self,
        prepared: &Prepared,
        description: &Arc<Description>,
    ) -> Result<Option<(usize, u64)>, SaveError> {
        let paths = self.workload.preserved();
        if paths.is_empty() {
            return Ok(None);
        }
        let mut stream = description
            .stream(StreamKind::Files)
            .map_err(SaveError::Capture)?;
        let access = FileAccess {
            owner: &self.workload.owner,
            namespaces: &prepared.namespaces,
            paths: &paths,
            program: &self.context.config.program,
        };
        access
            .archive(&mut stream)
            .await
            .map_err(SaveError::Capture)?;
        let size = stream.finish().await.map_err(SaveError::Capture)?;
        self.report.mark("files");
        Ok(Some((stream.index(), size)))
    }

    /// Uploads, commits and releases, in the order that the mode asks for.
    async fn finish(
        &self,
        prepared: &mut Prepared,
        described: Described,
        captured: Captured,
        pipeline: Pipeline,
        body: &Body,
        ahead: Option<&SharedAhead>,
    ) -> Result<(), SaveError> {
        let mut described = match self.mode {
            Mode::Evacuate => Some(described),
            Mode::Checkpoint | Mode::Drill => {
                let committing = described.committing().await.map_err(SaveError::Describe)?;
                committing.release().await.map_err(SaveError::Describe)?;
                self.report.mark("release");
                None
            }
        };
        let storing = self.store(prepared, &captured, pipeline, body, ahead);
        let stored = match described.as_mut() {
            None => storing.await,
            // A tree that is not held any more has gone on: what was read of it is the past.
            Some(described) => tokio::select! {
                stored = storing => stored,
                lost = described.lost() => Err(SaveError::Describe(lost)),
            },
        };
        let manifest = match stored {
            Ok(manifest) => manifest,
            Err(error) => {
                if let Some(described) = described {
                    self.let_go(described).await;
                }
                return Err(error);
            }
        };
        match (described, manifest) {
            (None, Some(manifest)) => self.commit_running(manifest).await,
            (Some(described), Some(manifest)) => {
                self.commit_and_kill(prepared, described, manifest).await
            }
            (_, None) => Ok(()),
        }
    }

    /// Waits for the uploads, then writes the manifest. Nothing points to it yet. `None`: it was only
    /// a rehearsal, and is gone.
    async fn store(
        &self,
        prepared: &mut Prepared,
        captured: &Captured,
        pipeline: Pipeline,
        body: &Body,
        ahead: Option<&SharedAhead>,
    ) -> Result<Option<commit::Written>, SaveError> {
        let work = async {
            let uploaded = pipeline.finish().await.map_err(SaveError::Pipeline)?;
            self.report.mark("upload");
            if let Some(stock) = &mut prepared.stock
                && !stock.is_there().await.map_err(SaveError::Stock)?
            {
                return Err(SaveError::Gone);
            }
            let parts = Parts {
                id: prepared.id,
                right: &prepared.right,
                workload: self.workload,
                context: self.context,
                loading: body.loading.as_ref(),
                ahead,
                streams: &body.streams,
                memory_bytes: self.report.memory_bytes.load(Ordering::Relaxed),
                frozen_at: self.report.frozen_at(),
            };
            // Without books nobody else has any use for them.
            let packs = uploaded.packs.iter().map(|pack| pack.id);
            let packs: Vec<PackId> = packs.filter(|_| ahead.is_none()).collect();
            let manifest = parts
                .manifest(uploaded, captured)
                .map_err(SaveError::Commit)?;
            if self.context.config.save.audit && self.mode == Mode::Evacuate {
                let (found, own) = (&captured.found, &captured.kernels_own);
                audit::check(self.context, &manifest, found, own, self.call())
                    .await
                    .map_err(SaveError::Audit)?;
                self.report.mark("audit");
            }
            if self.mode == Mode::Drill {
                let written = rehearse::write(self.context, &manifest, &packs, self.call());
                written.await.map_err(SaveError::Commit)?;
                return Ok(None);
            }
            if let Some(ahead) = ahead {
                precopy::lock(ahead).name(manifest.packs.iter().map(|pack| pack.id));
            }
            let written = commit::write(self.context, &manifest, self.call()).await;
            written.map(Some).map_err(SaveError::Commit)
        };
        let written = self.guard(work).await??;
        self.report.mark("manifest");
        Ok(written)
    }

    async fn commit_running(&self, written: commit::Written) -> Result<(), SaveError> {
        commit::checkpoint(self.context, self.workload, &written)
            .await
            .map_err(SaveError::Commit)?;
        self.report.mark("commit");
        Ok(())
    }

    async fn commit_and_kill(
        &self,
        prepared: &mut Prepared,
        described: Described,
        written: commit::Written,
    ) -> Result<(), SaveError> {
        if let Err(error) = self.check_time() {
            self.let_go(described).await;
            return Err(error);
        }
        if let Err(error) = prepared.journal.committing() {
            self.let_go(described).await;
            return Err(SaveError::Journal(error));
        }
        failpoint::reach("committing-journaled");
        let committing = described.committing().await.map_err(SaveError::Describe)?;
        failpoint::reach("committing");
        match commit::evacuated(self.context, self.workload, &written).await {
            Ok(()) => {
                self.report.mark("commit");
                self.kill(prepared, committing).await;
                Ok(())
            }
            // It runs elsewhere, and must not run twice.
            Err(error) if error.is_superseded() => {
                self.kill(prepared, committing).await;
                Err(SaveError::Commit(error))
            }
            Err(error) => {
                committing.abort().await.map_err(SaveError::Describe)?;
                Err(SaveError::Commit(error))
            }
        }
    }

    /// The workload is elsewhere: its hold is told, and the tree ends.
    async fn kill(&self, prepared: &Prepared, committing: Committing) {
        let evacuated = hold::Evacuated {
            checkpoint: prepared.id.to_string(),
        };
        self.workload
            .tell_hold(Message::Evacuated(evacuated), Vec::new())
            .await;
        failpoint::reach("told");
        if let Err(error) = committing.release().await {
            // The store's word stands; the tree is not allowed to go on.
            tracing::error!(error = chain(&error), "the tree is killed without CRIU");
            crate::workload::tree::kill(prepared.journal.entry().pid);
        }
        self.report.mark("release");
    }

    /// Lets the tree run on.
    async fn let_go(&self, described: Described) {
        if let Err(error) = described.abort().await {
            tracing::error!(
                workload = %self.workload.name,
                error = chain(&error),
                "CRIU did not confirm that the workload runs on"
            );
        }
    }

    fn call(&self) -> Call {
        let end = self.orders.deadline().instant();
        end.map_or_else(Call::default, Call::by)
    }

    fn check_time(&self) -> Result<(), SaveError> {
        if self.orders.deadline().has_passed() {
            Err(SaveError::Deadline)
        } else if self.cancel.is_cancelled() {
            Err(SaveError::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Runs `work` until the deadline passes or the save is called off.
    async fn guard<T>(&self, work: impl Future<Output = T>) -> Result<T, SaveError> {
        tokio::select! {
            biased;
            result = work => Ok(result),
            () = self.cancel.cancelled() => Err(SaveError::Cancelled),
            () = self.orders.passed(LAST_WORDS) => Err(SaveError::Deadline),
        }
    }
}

/// Whether a save failed since the books are wrong: the next one must not rely on them.
const fn is_about_books(outcome: &Result<(), SaveError>) -> bool {
    matches!(
        outcome,
        Err(SaveError::Audit(_)
            | SaveError::Gone
            | SaveError::Ahead(BatchError::Ahead(_))
            | SaveError::Commit(CommitError::Ahead(_) | CommitError::Uncaptured { .. }))
    )
}

/// What was read of a frozen tree.
#[derive(Debug)]
pub struct Captured {
    /// Memory and image files.
    pub found: Found,
    /// Stream and size of the workload's files.
    pub files: Option<(usize, u64)>,
    /// PID of the first process, inside.
    pub root_pid: u32,
    /// For the audit.
    pub kernels_own: KernelsOwn,
}

/// The failure itself, where `error` only says that the pipeline had stopped.
async fn explain(error: SaveError, pipeline: Pipeline) -> SaveError {
    if matches!(error, SaveError::Deadline | SaveError::Cancelled) {
        // Nobody waits for what is still on its way, least of all a frozen tree.
        return error;
    }
    match pipeline.finish().await {
        Err(first) if error.is_consequence() && !matches!(first, PipelineError::Stopped) => {
            SaveError::Pipeline(first)
        }
        _ => error,
    }
}
