//! What to fetch ahead of demand: the recorded hot set first, then what recent faults suggest
//! (neighbours, or the next steps of a stride), then the order of addresses. And how much at once: as much as does not make faults wait longer.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crate::layout::Layout;

/// Most bytes of one prefetch request. A larger request would gain nothing (an object store's
/// optimum is 8–16 MiB), and a fault that comes behind it on the same link would wait longer.
pub(crate) const BATCH_BYTES_MAX: u64 = 8 << 20;

/// Least bytes in flight for prefetch, however long faults wait: a busy program must come to its end
/// of loading too. On a link of 1 Gbit/s a fault waits 17 ms for it.
pub(crate) const WINDOW_BYTES_MIN: u64 = 2 << 20;

/// A fetch for a fault is slow, and prefetch is in its way, when it takes more than this many times
/// what such fetches take at best…
const SLOW_TIMES: u32 = 3;

/// … and this much longer.
const SLOW_BY: Duration = Duration::from_millis(5);

/// How long a fault waits for prefetch while it is not known how long fetches take.
const PATIENCE_UNKNOWN: Duration = Duration::from_millis(100);

/// What the best time of a fetch is taken for grows by this part with each that took longer, so that
/// a link that has become slower is noticed.
const BEST_GROWS_BY: u32 = 64;

/// Frames after a fault's that are fetched next.
const AHEAD_FRAMES: usize = 8;

/// Frames before a fault's that are fetched next.
const BEHIND_FRAMES: usize = 1;

/// Most frames noted as neighbours of recent faults; of more, the oldest are forgotten.
const NEAR_FRAMES_MAX: usize = 256;

/// Faults that are looked back at for a stride: of several threads, each with its own.
const STRIDE_FAULTS: usize = 16;

/// Steps of a stride that are fetched next.
const STRIDE_STEPS: usize = 8;

/// A frame that is in no order: its place.
const NOWHERE: u32 = u32::MAX;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Hot frames first, then all by address; each once.
    order: Vec<u32>,
    /// How many of `order` are hot.
    hot: usize,
    /// How many of `order` were taken.
    taken: usize,
    /// All frames by address.
    by_address: Vec<u32>,
    /// The place of each frame in `by_address`.
    places: Vec<u32>,
    near: VecDeque<u32>,
    /// Places of the latest faults, the last one first.
    faults: VecDeque<usize>,
    /// What did not fit into the last request.
    left_over: Option<u32>,
    window: u64,
    window_most: u64,
    /// What a fetch for a fault takes at best; none was seen yet.
    best: Option<Duration>,
}

impl Plan {
    /// A plan for all frames of `layouts`, of which the indices are below `frames`, with at most
    /// `window_most` bytes in flight.
    pub(crate) fn new(layouts: &[Arc<Layout>], frames: usize, window_most: u64) -> Self {
        let mut places = vec![NOWHERE; frames];
        let mut by_address = Vec::new();
        for run in layouts.iter().flat_map(|layout| layout.runs()) {
            let place = &mut places[run.frame as usize];
            if *place == NOWHERE {
                *place = u32::try_from(by_address.len()).unwrap_or(NOWHERE);
                by_address.push(run.frame);
            }
        }
        let mut seen = vec![false; frames];
        let mut order = Vec::with_capacity(by_address.len());
        let hot = layouts.iter().flat_map(|layout| {
            layout
                .hot
                .iter()
                .flat_map(|range| layout.within(*range))
                .map(|run| run.frame)
        });
        let mut first = |frame: &u32| !std::mem::replace(&mut seen[*frame as usize], true);
        order.extend(hot.filter(&mut first));
        let hot = order.len();
        order.extend(by_address.iter().copied().filter(&mut first));
        let window = window_most;
        Self {
            order,
            hot,
            taken: 0,
            by_address,
            places,
            near: VecDeque::new(),
            faults: VecDeque::new(),
            left_over: None,
            window,
            window_most,
            best: None,
        }
    }

    /// Bytes that prefetch may have in flight now.
    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    /// A thread waits for a frame: its neighbours are likely next.
    pub(crate) fn faulted(&mut self, frame: u32) {
        let Some(place) = self.places.get(frame as usize).map(|place| *place as usize) else {
            return;
        };
        if place >= self.by_address.len() {
            return;
        }
        let end = (place + 1 + AHEAD_FRAMES).min(self.by_address.len());
        let behind = place.saturating_sub(BEHIND_FRAMES)..place;
        let likely = self.by_address[place + 1..end]
            .iter()
            .chain(&self.by_address[behind]);
        for frame in likely.rev() {
            self.near.push_front(*frame);
        }
        for frame in self.next_of_stride(place).into_iter().rev() {
            self.near.push_front(frame);
        }
        self.near.truncate(NEAR_FRAMES_MAX);
        if self.faults.front() != Some(&place) {
            self.faults.push_front(place);
            self.faults.truncate(STRIDE_FAULTS);
        }
    }

    /// The frames that come next if the fault at `place` is the third step of a stride.
    fn next_of_stride(&self, place: usize) -> Vec<u32> {
        let step_from = |before: usize| place.cast_signed() - before.cast_signed();
        let is_third = |step: isize| {
            let first = place.checked_add_signed(step.saturating_mul(-2));
            first.is_some_and(|first| self.faults.contains(&first))
        };
        let steps = self.faults.iter().map(|before| step_from(*before));
        let neighbour = -1..=AHEAD_FRAMES.cast_signed();
        let mut strides = steps.filter(|step| !neighbour.contains(step) && is_third(*step));
        let Some(step) = strides.next() else {
            return Vec::new();
        };
        let next = |count: usize| {
            let by = step.saturating_mul(count.cast_signed());
            let place = place.checked_add_signed(by)?;
            self.by_address.get(place).copied()
        };
        (1..=STRIDE_STEPS).map_while(next).collect()
    }

    /// A fetch for a fault took so long: prefetch stands back if it was in its way.
    pub(crate) fn demand_took(&mut self, time: Duration) {
        let best = self
            .best
            .map_or(time, |best| (best + best / BEST_GROWS_BY).min(time));
        self.best = Some(best);
        if time > best * SLOW_TIMES + SLOW_BY {
            self.window = (self.window / 2)
                .max(WINDOW_BYTES_MIN)
                .min(self.window_most);
        } else {
            self.undisturbed(WINDOW_BYTES_MIN);
        }
    }

    /// How long a fault may wait for what is being fetched ahead of demand, before it is fetched on
    /// its own.
    pub(crate) fn patience(&self) -> Duration {
        self.best
            .map_or(PATIENCE_UNKNOWN, |best| best * 2 + SLOW_BY)
    }

    /// Bytes have come, and nobody had to wait for them: more may be under way.
    pub(crate) fn undisturbed(&mut self, bytes: u64) {
        self.window = self.window.saturating_add(bytes).min(self.window_most);
    }

    /// The next frames that are `wanted`, of `room` bytes at most (but one at least).
    pub(crate) fn next(
        &mut self,
        room: u64,
        bytes: impl Fn(u32) -> u64,
        mut wanted: impl FnMut(u32) -> bool,
    ) -> Vec<u32> {
        let mut batch = Vec::new();
        let mut total = 0;
        while let Some(frame) = self.next_frame() {
            if batch.contains(&frame) || !wanted(frame) {
                continue;
            }
            let size = bytes(frame);
            if total + size > room && !batch.is_empty() {
                self.left_over = Some(frame);
                break;
            }
            total += size;
            batch.push(frame);
        }
        batch
    }

    fn next_frame(&mut self) -> Option<u32> {
        if let Some(frame) = self.left_over.take() {
            return Some(frame);
        }
        if self.taken >= self.hot
            && let Some(frame) = self.near.pop_front()
        {
            return Some(frame);
        }
        let frame = *self.order.get(self.taken)?;
        self.taken += 1;
        Some(frame)
    }

    /// Begins from the start, for what is still missing after all was fetched once: what was forked
    /// or put off meanwhile.
    pub(crate) fn again(&mut self) {
        self.taken = 0;
    }

    /// Whether all was fetched once.
    pub(crate) fn is_through(&self) -> bool {
        self.near.is_empty() && self.left_over.is_none() && self.taken == self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_proto::units::{PageIndex, PageRun};

    use super::*;
    use crate::{Run, Space};

    fn plan() -> Plan {
        let run = |frame: u32| Run {
            start: PageIndex(u64::from(100 - frame) * 10),
            pages: 4,
            frame,
            frame_page: 0,
        };
        let space = Space {
            pid: 1,
            runs: (0..40).rev().map(run).collect(),
            hot: vec![
                PageRun::new(PageIndex(900), 20),
                PageRun::new(PageIndex(702), 1),
            ],
            ..Space::default()
        };
        Plan::new(&[Arc::new(Layout::new(space))], 40, 64 << 20)
    }

    #[test]
    fn hot_comes_first_then_the_order_of_addresses() {
        let mut plan = plan();
        let batch = plan.next(6 * 4096, |_| 4096, |_| true);
        assert_eq!(batch, [10, 9, 30, 39, 38, 37]);
        assert_eq!(plan.next(4096, |_| 4096, |frame| frame == 3), [3]);
    }

    #[test]
    fn neighbours_of_a_fault_come_before_the_rest() {
        let mut plan = plan();
        plan.next(2 * 4096, |_| 4096, |_| true);
        plan.faulted(20);
        // The last hot one, and what did not fit before.
        assert_eq!(plan.next(4 * 4096, |_| 4096, |_| true), [30, 19, 18, 17]);
    }

    #[test]
    fn the_next_steps_of_a_stride_come_first() {
        let mut plan = plan();
        plan.next(3 * 4096, |_| 4096, |_| true);
        // Places are 39 less the frame. Another thread goes its own way.
        for frame in [39, 4, 28, 6] {
            plan.faulted(frame);
        }
        plan.near.clear();
        plan.faulted(17);
        let next = plan.next(4 * 4096, |_| 4096, |frame| frame != 39);
        assert_eq!(next[..2], [6, 16], "{next:?}");
    }

    #[test]
    fn nothing_is_forgotten_when_a_batch_is_full() {
        let mut plan = plan();
        let mut all: Vec<u32> = Vec::new();
        while !plan.is_through() {
            all.extend(plan.next(5000, |_| 4096, |_| true));
        }
        all.sort_unstable();
        assert_eq!(all, (0..40).collect::<Vec<_>>());
    }

    #[test]
    fn prefetch_stands_back_while_it_makes_faults_wait_and_only_then() {
        let mut plan = plan();
        for _ in 0..100 {
            plan.demand_took(Duration::from_millis(30));
        }
        assert_eq!(plan.window(), 64 << 20);
        for _ in 0..5 {
            plan.demand_took(Duration::from_millis(200));
        }
        assert_eq!(plan.window(), WINDOW_BYTES_MIN);
        for _ in 0..31 {
            plan.demand_took(Duration::from_millis(40));
        }
        assert_eq!(plan.window(), 64 << 20);
    }
}
