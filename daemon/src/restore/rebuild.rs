//! CRIU rebuilds the processes; the page server takes over their missing memory.

use std::{
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use lifeboat_criu::{InheritedPipe, LazyEvent, Restore, RestoreRequest, images::ImagesError};
use lifeboat_format::{LatestManifest, Manifest, manifest::Stream};
use lifeboat_pages::{Journal, Options, PageServer, Run, Space};
use tokio::{runtime::Handle, sync::oneshot};

use super::{
    Destination, RestoreError, Running, handover, images::StoredImages, load::Load, open::Opened,
};
use crate::{
    daemon::Context,
    evacuate::base::Loading,
    hold::guard::HoldGuard,
    observe::{chain, failpoint},
    workload::{Saved, Workload},
};

/// The bit of `MADV_WIPEONFORK` (madvise(2)) in a mapping's advice.
const WIPED_ON_FORK: u64 = 1 << 18;

/// Rebuilds the tree and lets it run.
///
/// # Errors
/// Nothing of it runs.
pub(super) async fn rebuild(
    context: &Arc<Context>,
    workload: &Arc<Workload>,
    mut opened: Opened,
    checkpoint: LatestManifest,
    destination: Destination,
    began: Instant,
) -> Result<Running, RestoreError> {
    let pending_stdin = pending_stdin(&opened)?;
    let images = StoredImages::new(
        Arc::clone(&opened.manifest),
        Arc::clone(&opened.source),
        std::mem::take(&mut opened.fetched),
        &opened.images,
    );
    let images = Arc::new(images?);
    let (server, journal) = serve(context, workload, &opened, checkpoint).await?;
    let work_dir = context.work_dir().map_err(RestoreError::WorkDir)?;
    let namespaces = destination
        .namespaces
        .for_criu()
        .map_err(RestoreError::Namespaces)?;
    let mut request = RestoreRequest::new(namespaces, work_dir.clone());
    request.tcp = workload.tcp_mode();
    request.inherit = inherited(&opened, destination.pipes);
    let result = async {
        let (restore, events) = Restore::start(&context.criu, request, images)
            .await
            .map_err(RestoreError::Rebuild)?;
        let mut hand_off = hand_off(Arc::clone(&server), events);
        let rebuilt = tokio::select! {
            rebuilt = restore.rebuilt() => rebuilt.map_err(RestoreError::Rebuild)?,
            Ok(error) = &mut hand_off => return Err(error),
        };
        tracing::info!(
            workload = %workload.name,
            elapsed_ms = began.elapsed().as_millis(),
            "processes rebuilt"
        );
        failpoint::reach("restore-rebuilt");
        if workload.spec.eager {
            server.all_added();
            server.loaded().await.map_err(RestoreError::Load)?;
        }
        rebuilt.resume().await.map_err(RestoreError::Rebuild)
    }
    .await;
    context.put_away(&work_dir.here, &opened.manifest.checkpoint.to_string());
    match result {
        Ok(restored) => Ok(Running {
            restored,
            pending_stdin,
            saved: saved(&opened.manifest),
            complete: workload.spec.eager,
            load: Load {
                loading: Loading {
                    server,
                    manifest: opened.manifest,
                },
                journal,
                began,
            },
        }),
        Err(error) => {
            journal.remove();
            // CRIU has killed what it built; what it has not is blocked for good by the server.
            if let Err(alive) = server.abort() {
                tracing::error!(error = chain(&alive), "a process of a failed restore lives");
            }
            Err(error)
        }
    }
}

/// Starts the page server, with the hold as its guard.
async fn serve(
    context: &Context,
    workload: &Workload,
    opened: &Opened,
    checkpoint: LatestManifest,
) -> Result<(Arc<PageServer>, Arc<Journal>), RestoreError> {
    let spaces = spaces(opened)?;
    let journal = handover::create(workload, checkpoint).map_err(RestoreError::Guard)?;
    let journal = Arc::new(journal);
    let guard = HoldGuard::begin(workload, &journal, context.config.takeover_wait)
        .await
        .map_err(RestoreError::Guard)?;
    let options = Options::new(Handle::current())
        .guarded_by(guard)
        .journaled_in(Arc::clone(&journal));
    let server = PageServer::start(Arc::clone(&opened.source), spaces, options)
        .map_err(RestoreError::PageServer)?;
    Ok((Arc::new(server), journal))
}

/// The checkpoint in short.
pub(super) fn saved(manifest: &Manifest) -> Saved {
    Saved {
        id: manifest.checkpoint,
        frozen_at: SystemTime::UNIX_EPOCH + Duration::from_nanos(manifest.frozen_at_unix_ns),
        memory_bytes: manifest.memory_bytes,
        epoch: manifest.epoch,
    }
}

/// Takes processes over as they come. The receiver yields the first failure.
fn hand_off(
    server: Arc<PageServer>,
    events: async_channel::Receiver<LazyEvent>,
) -> oneshot::Receiver<RestoreError> {
    let (failed, failure) = oneshot::channel();
    tokio::spawn(async move {
        while let Ok(event) = events.recv().await {
            match event {
                LazyEvent::Process { pid, uffd } => {
                    if let Err(error) = server.add(pid, uffd) {
                        // Nobody listens any more when the restore has failed otherwise.
                        drop(failed.send(RestoreError::HandOff(error)));
                        return;
                    }
                }
                LazyEvent::Zombie { .. } => {}
                LazyEvent::Finished => server.all_added(),
            }
        }
    });
    failure
}

/// What the page server must know of each address space.
pub(super) fn spaces(opened: &Opened) -> Result<Vec<Space>, RestoreError> {
    let tasks = opened.images.tasks().map_err(RestoreError::Images)?;
    let mut spaces = Vec::with_capacity(tasks.len());
    for task in tasks.iter().filter(|task| !task.zombie) {
        let stored = opened
            .manifest
            .address_spaces
            .iter()
            .find(|space| space.pid == task.pid);
        let mappings = opened
            .images
            .mappings(task.pid)
            .map_err(RestoreError::Images)?;
        let lazy = mappings
            .iter()
            .filter(|one| one.lazy)
            .map(|one| one.run)
            .collect();
        let wiped = mappings
            .iter()
            .filter(|one| one.advice & WIPED_ON_FORK != 0)
            .map(|one| one.run);
        let runs = stored
            .iter()
            .flat_map(|space| space.runs.iter())
            .map(|one| Run {
                start: one.run.start,
                pages: u32::try_from(one.run.pages).unwrap_or(u32::MAX),
                frame: one.frame,
                frame_page: one.frame_page,
            });
        spaces.push(Space {
            pid: task.pid,
            runs: runs.collect(),
            hot: stored.map(|space| space.hot.clone()).unwrap_or_default(),
            lazy,
            wiped_on_fork: wiped.collect(),
        });
    }
    Ok(spaces)
}

/// Bytes that were written to standard input and not read: they are written to the new pipe.
fn pending_stdin(opened: &Opened) -> Result<Vec<u8>, RestoreError> {
    let streams = &opened.manifest.spec.streams;
    let Some(stdin) = streams.iter().find(|pipe| pipe.stream == Stream::Stdin) else {
        return Ok(Vec::new());
    };
    let data = opened.images.pipe_data().map_err(RestoreError::Images)?;
    // CRIU keeps the low half of an inode.
    let inode = u32::try_from(stdin.inode & u64::from(u32::MAX)).unwrap_or(0);
    Ok(data
        .get(&inode)
        .map(|bytes| bytes.to_vec())
        .unwrap_or_default())
}

/// The new hold's pipes in the place of the old one's.
fn inherited(opened: &Opened, pipes: Vec<(Stream, OwnedFd)>) -> Vec<InheritedPipe> {
    let old = &opened.manifest.spec.streams;
    pipes
        .into_iter()
        .filter_map(|(stream, fd)| {
            let inode = old.iter().find(|pipe| pipe.stream == stream)?.inode;
            Some(InheritedPipe { fd, inode })
        })
        .collect()
}

/// A missing image is an error of the images.
impl From<ImagesError> for RestoreError {
    fn from(error: ImagesError) -> Self {
        Self::Images(error)
    }
}
