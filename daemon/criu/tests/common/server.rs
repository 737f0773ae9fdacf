//! The smallest page server: one thread for each userfaultfd, whole pages on demand, and all
//! others afterwards.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lifeboat_criu::LazyEvent;
use lifeboat_proto::units::{PageIndex, PageRun};
use lifeboat_sys::{
    uffd::{Event, EventBuffer, Install, Obstacle, Uffd},
    wait,
};

use super::memory::Pages;

/// Serves until every process is gone.
#[derive(Clone)]
pub struct Server {
    pages: Arc<BTreeMap<u32, Pages>>,
    served: Arc<AtomicUsize>,
}

impl Server {
    pub fn new(pages: BTreeMap<u32, Pages>) -> Self {
        Self {
            pages: Arc::new(pages),
            served: Arc::default(),
        }
    }

    /// Pages that were asked for by faults.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    /// Takes events until the channel ends; whether CRIU finished, and which processes came.
    pub async fn run(self, events: async_channel::Receiver<LazyEvent>) -> (bool, Vec<u32>) {
        let mut pids = Vec::new();
        while let Ok(event) = events.recv().await {
            match event {
                LazyEvent::Process { pid, uffd } => {
                    pids.push(pid);
                    let server = self.clone();
                    thread::spawn(move || server.serve(pid, uffd));
                }
                LazyEvent::Zombie { pid } => pids.push(pid),
                LazyEvent::Finished => {
                    pids.sort_unstable();
                    return (true, pids);
                }
            }
        }
        (false, pids)
    }

    fn serve(&self, pid: u32, uffd: OwnedFd) {
        let uffd = Uffd::from(uffd);
        let mut pages = self.pages.get(&pid).cloned().unwrap_or_default();
        let mut buffer = EventBuffer::new();
        // Taken from the end: faults go there.
        let mut queue: Vec<PageIndex> = pages.keys().rev().copied().collect();
        loop {
            let pause = Duration::from_millis(if queue.is_empty() { 1000 } else { 0 });
            if wait::readable(&uffd, Instant::now() + pause).expect("poll") {
                let Ok(events) = uffd.read_events(&mut buffer) else {
                    return;
                };
                for event in events {
                    match event {
                        Event::PageFault { addr, .. } => {
                            self.served.fetch_add(1, Ordering::SeqCst);
                            queue.push(addr.page());
                        }
                        // From now on they are zeros, or nothing.
                        Event::Remove { range } | Event::Unmap { range } => {
                            pages.retain(|page, _| !range.contains(*page));
                            queue.retain(|page| !range.contains(*page));
                        }
                        other => panic!("{pid}: unexpected {other:?}"),
                    }
                }
            } else if let Some(page) = queue.pop() {
                match install(&uffd, &pages, page) {
                    Some(Obstacle::ProcessGone) => return,
                    // An event is to be read first, or CRIU has not registered the mapping yet.
                    Some(Obstacle::Again | Obstacle::NotMapped) => queue.push(page),
                    Some(Obstacle::Exists) => uffd.wake(PageRun::new(page, 1)).expect("registered"),
                    Some(Obstacle::NoSpace) => panic!("no memory"),
                    None => {}
                }
            }
        }
    }
}

fn install(uffd: &Uffd, pages: &Pages, page: PageIndex) -> Option<Obstacle> {
    let progress = match pages.get(&page) {
        Some(bytes) => uffd.copy(page.addr(), bytes, Install::default()),
        None => uffd.zero(PageRun::new(page, 1), Install::default()),
    };
    progress.expect("whole pages").obstacle
}
