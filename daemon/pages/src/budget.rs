//! A bound on the memory of a load: content that is fetched, or waits for its installation.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::{Urgency, sync::lock};

/// Bytes that may be in memory, with a part that prefetch cannot take.
#[derive(Debug)]
pub(crate) struct Budget {
    most: u64,
    reserve: u64,
    used: Mutex<Used>,
    /// Told whenever something is given back.
    freed: Arc<Notify>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    demand: u64,
    prefetch: u64,
}

/// Bytes taken from a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Arc<Budget>,
    bytes: u64,
    urgency: Urgency,
}

impl Budget {
    pub(crate) fn new(most: u64, reserve: u64, freed: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            most,
            reserve: reserve.min(most),
            used: Mutex::default(),
            freed,
        })
    }

    /// Takes `bytes` if there is room. Somebody who has nothing may always take: a frame that is
    /// larger than the budget must be loaded too.
    pub(crate) fn take(self: &Arc<Self>, bytes: u64, urgency: Urgency) -> Option<Permit> {
        let used = lock(&self.used);
        let (mine, fits) = match urgency {
            Urgency::Demand => (
                used.demand,
                used.demand + used.prefetch + bytes <= self.most,
            ),
            Urgency::Prefetch => (
                used.prefetch,
                used.prefetch + bytes <= self.most - self.reserve,
            ),
        };
        if !fits && mine > 0 {
            return None;
        }
        drop(used);
        Some(self.take_always(bytes, urgency))
    }

    /// Takes `bytes`, room or not.
    pub(crate) fn take_always(self: &Arc<Self>, bytes: u64, urgency: Urgency) -> Permit {
        let mut used = lock(&self.used);
        match urgency {
            Urgency::Demand => used.demand += bytes,
            Urgency::Prefetch => used.prefetch += bytes,
        }
        drop(used);
        Permit {
            budget: Arc::clone(self),
            bytes,
            urgency,
        }
    }

    /// Bytes taken for prefetch.
    pub(crate) fn prefetch(&self) -> u64 {
        lock(&self.used).prefetch
    }

    /// All bytes taken.
    pub(crate) fn used(&self) -> u64 {
        let used = lock(&self.used);
        used.demand + used.prefetch
    }

    /// Most bytes that prefetch may take.
    pub(crate) fn prefetch_most(&self) -> u64 {
        self.most - self.reserve
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut used = lock(&self.budget.used);
        match self.urgency {
            Urgency::Demand => used.demand -= self.bytes,
            Urgency::Prefetch => used.prefetch -= self.bytes,
        }
        drop(used);
        self.budget.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefetch_never_takes_what_is_kept_for_faults() {
        let budget = Budget::new(10, 4, Arc::default());
        let first = budget.take(6, Urgency::Prefetch).unwrap();
        assert!(budget.take(1, Urgency::Prefetch).is_none());
        let fault = budget.take(4, Urgency::Demand).unwrap();
        assert!(budget.take(1, Urgency::Demand).is_none());
        drop(first);
        assert!(budget.take(6, Urgency::Demand).is_some());
        drop(fault);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_is_larger_than_the_budget_is_let_through_alone() {
        let budget = Budget::new(10, 4, Arc::default());
        let large = budget.take(100, Urgency::Prefetch).unwrap();
        assert!(budget.take(1, Urgency::Prefetch).is_none());
        assert!(budget.take(50, Urgency::Demand).is_some());
        drop(large);
    }
}
