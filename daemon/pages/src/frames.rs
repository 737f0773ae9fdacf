//! What is known of each frame: asked for, being fetched, being installed. Many faults on one frame
//! are one fetch, and a fault that comes while a frame is being installed is not lost.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Where a frame is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Nobody asked, or it was installed where it was missing.
    #[default]
    Idle,
    /// A fault waits, and nobody fetches it.
    Asked,
    /// Under way. `demand`: a fault waits. `twice`: two fetches are under way.
    Fetching { demand: bool, twice: bool },
    /// Fetched, being installed. `again`: asked for meanwhile, perhaps where installers had already
    /// been.
    Installing { again: bool },
}

/// All frames of a load. The queues are bounded by their number: each is in one of them once.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    stages: Vec<Stage>,
    asked: VecDeque<u32>,
    /// Frames that a fault waits for since then, and that were being fetched ahead of demand.
    late: VecDeque<(u32, Instant)>,
    /// Frames that were not what was written.
    damaged: VecDeque<u32>,
}

/// What asking for a frame means to the asker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It is to be fetched now: tell the fetcher.
    Queued,
    /// It is on its way; where it waits for an installer, it should come first.
    Coming,
}

impl Frames {
    /// Frames `0..len`.
    pub(crate) fn new(len: usize) -> Self {
        Self {
            stages: vec![Stage::Idle; len],
            asked: VecDeque::new(),
            late: VecDeque::new(),
            damaged: VecDeque::new(),
        }
    }

    /// A fault waits for a frame.
    pub(crate) fn ask(&mut self, frame: u32) -> Asked {
        let Some(stage) = self.stages.get_mut(frame as usize) else {
            return Asked::Coming;
        };
        match stage {
            Stage::Idle => {
                *stage = Stage::Asked;
                self.asked.push_back(frame);
                return Asked::Queued;
            }
            Stage::Asked => return Asked::Queued,
            Stage::Fetching { demand: true, .. } => {}
            Stage::Fetching { demand, .. } => {
                *demand = true;
                self.late.push_back((frame, Instant::now()));
            }
            Stage::Installing { again } => *again = true,
        }
        Asked::Coming
    }

    /// Whether a fault waits for a frame that nobody fetches.
    pub(crate) fn is_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The next frame that a fault waits for, to be fetched now.
    pub(crate) fn next_asked(&mut self) -> Option<u32> {
        let frame = self.asked.pop_front()?;
        *self.stages.get_mut(frame as usize)? = Stage::Fetching {
            demand: true,
            twice: false,
        };
        Some(frame)
    }

    /// Puts a frame back that there was no room for.
    pub(crate) fn ask_first(&mut self, frame: u32) {
        if let Some(stage) = self.stages.get_mut(frame as usize) {
            *stage = Stage::Asked;
            self.asked.push_front(frame);
        }
    }

    /// Whether nobody deals with a frame.
    pub(crate) fn is_idle(&self, frame: u32) -> bool {
        self.stages.get(frame as usize) == Some(&Stage::Idle)
    }

    /// A frame is fetched ahead of demand.
    pub(crate) fn prefetching(&mut self, frame: u32) {
        if let Some(stage) = self.stages.get_mut(frame as usize) {
            *stage = Stage::Fetching {
                demand: false,
                twice: false,
            };
        }
    }

    /// A frame that a fault waits for `longer` than this, to be fetched a second time: what was
    /// fetched ahead of demand is part of a large request, which may be slow.
    pub(crate) fn next_late(&mut self, longer: Duration) -> Option<u32> {
        while let Some((frame, since)) = self.late.pop_front() {
            let Some(stage) = self.stages.get_mut(frame as usize) else {
                continue;
            };
            if *stage
                != (Stage::Fetching {
                    demand: true,
                    twice: false,
                })
            {
                continue;
            }
            if since.elapsed() < longer {
                self.late.push_front((frame, since));
                return None;
            }
            *stage = Stage::Fetching {
                demand: true,
                twice: true,
            };
            return Some(frame);
        }
        None
    }

    /// Whether a fault may have to wait too long for what is being fetched ahead of demand.
    pub(crate) fn is_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// A frame has come. Whether a fault waits for it; `None`: it has come before.
    pub(crate) fn fetched(&mut self, frame: u32) -> Option<bool> {
        let stage = self.stages.get_mut(frame as usize)?;
        let Stage::Fetching { demand, .. } = *stage else {
            return None;
        };
        *stage = Stage::Installing { again: false };
        Some(demand)
    }

    /// A frame has come that is not what was written: it is to be fetched again, and verified.
    pub(crate) fn damaged(&mut self, frame: u32) {
        if let Some(stage) = self.stages.get_mut(frame as usize) {
            *stage = Stage::Fetching {
                demand: true,
                twice: true,
            };
            self.damaged.push_back(frame);
        }
    }

    /// The next frame that is to be fetched again.
    pub(crate) fn next_damaged(&mut self) -> Option<u32> {
        self.damaged.pop_front()
    }

    /// An installer has been everywhere. Whether it must go again.
    pub(crate) fn installed(&mut self, frame: u32) -> bool {
        let Some(stage) = self.stages.get_mut(frame as usize) else {
            return false;
        };
        let again = *stage == Stage::Installing { again: true };
        *stage = if again {
            Stage::Installing { again: false }
        } else {
            Stage::Idle
        };
        again
    }

    /// A fetch was given up: nobody deals with the frame any more.
    pub(crate) fn dropped(&mut self, frame: u32) {
        if let Some(stage) = self.stages.get_mut(frame as usize) {
            *stage = Stage::Idle;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_faults_on_one_frame_are_one_fetch() {
        let mut frames = Frames::new(4);
        assert_eq!(frames.ask(2), Asked::Queued);
        assert_eq!(frames.ask(2), Asked::Queued);
        assert_eq!(frames.next_asked(), Some(2));
        assert_eq!(frames.next_asked(), None);
        assert_eq!(frames.ask(2), Asked::Coming);
        assert_eq!(frames.fetched(2), Some(true));
        assert!(!frames.installed(2));
        assert!(frames.is_idle(2));
    }

    #[test]
    fn a_fault_during_the_installation_is_not_lost() {
        let mut frames = Frames::new(4);
        frames.prefetching(1);
        assert_eq!(frames.fetched(1), Some(false));
        assert_eq!(frames.ask(1), Asked::Coming);
        assert!(frames.installed(1));
        assert!(!frames.installed(1));
        assert!(frames.is_idle(1));
    }

    #[test]
    fn a_fault_does_not_wait_for_a_slow_prefetch_for_ever() {
        let mut frames = Frames::new(4);
        frames.prefetching(1);
        assert_eq!(frames.ask(1), Asked::Coming);
        assert_eq!(frames.next_late(Duration::from_secs(1000)), None);
        assert!(frames.is_late());
        assert_eq!(frames.next_late(Duration::ZERO), Some(1));
        assert_eq!(frames.next_late(Duration::ZERO), None);
        assert_eq!(frames.fetched(1), Some(true));
        assert_eq!(frames.fetched(1), None);
    }
}
