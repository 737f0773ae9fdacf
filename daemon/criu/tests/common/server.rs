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
        let empty = Pages::new();
        let pages = self.pages.get(&pid).unwrap_or(&empty);
        let mut buffer = EventBuffer::new();
        let mut rest = pages.keys();
        loop {
            let pause = if rest.len() > 0 {
                Duration::from_millis(1)
            } else {
                Duration::from_secs(1)
            };
            if wait::readable(&uffd, Instant::now() + pause).expect("poll") {
                let Ok(events) = uffd.read_events(&mut buffer) else {
                    return;
                };
                for event in events {
                    match event {
                        Event::PageFault { addr, .. } => {
                            self.served.fetch_add(1, Ordering::SeqCst);
                            if !install(&uffd, pages, addr.page()) {
                                return;
                            }
                        }
                        other => panic!("{pid}: unexpected {other:?}"),
                    }
                }
            } else if let Some(page) = rest.next()
                && !install(&uffd, pages, *page)
            {
                return;
            }
        }
    }
}

/// `false`: the process is gone.
fn install(uffd: &Uffd, pages: &Pages, page: PageIndex) -> bool {
    loop {
        let progress = match pages.get(&page) {
            Some(bytes) => uffd.copy(page.addr(), bytes, Install::default()),
            None => uffd.zero(PageRun::new(page, 1), Install::default()),
        };
        match progress.expect("whole pages").obstacle {
            Some(Obstacle::ProcessGone) => return false,
            // CRIU registers mappings after it has sent the descriptor.
            Some(Obstacle::Again | Obstacle::NotMapped) => thread::yield_now(),
            Some(Obstacle::Exists) => {
                uffd.wake(PageRun::new(page, 1)).expect("registered");
                return true;
            }
            Some(Obstacle::NoSpace) => panic!("no memory"),
            None => return true,
        }
    }
}
