//! Content that waits for an installer. Bounded by the budget: each item holds its permit.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, PoisonError},
};

use crate::{Arrived, budget::Permit, sync::lock};

/// A frame to be installed wherever it is missing.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) frame: u32,
    pub(crate) content: Arrived,
    /// Gives the memory back when the item is dropped.
    pub(crate) permit: Permit,
}

/// Two lanes: what a fault waits for goes first.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    lanes: Mutex<Lanes>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct Lanes {
    demand: VecDeque<Item>,
    bulk: VecDeque<Item>,
    closed: bool,
}

impl Ready {
    pub(crate) fn push(&self, item: Item, demand: bool) {
        let mut lanes = lock(&self.lanes);
        if lanes.closed {
            return;
        }
        if demand {
            lanes.demand.push_back(item)
        } else {
            lanes.bulk.push_back(item)
        }
        drop(lanes);
        self.came.notify_one();
    }

    /// A fault waits for a frame that may be here.
    pub(crate) fn promote(&self, frame: u32) {
        let mut lanes = lock(&self.lanes);
        if let Some(at) = lanes.bulk.iter().position(|item| item.frame == frame) {
            let item = lanes.bulk.remove(at);
            lanes.demand.extend(item);
        }
    }

    /// The next item; `None` after [`Ready::close`].
    pub(crate) fn pop(&self) -> Option<Item> {
        let mut lanes = lock(&self.lanes);
        loop {
            if lanes.closed {
                return None;
            }
            if let Some(item) = lanes.demand.pop_front() {
                return Some(item);
            }
            if let Some(item) = lanes.bulk.pop_front() {
                return Some(item);
            }
            lanes = self
                .came
                .wait(lanes)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the installers, and drops what they have not begun.
    pub(crate) fn close(&self) {
        let mut lanes = lock(&self.lanes);
        lanes.closed = true;
        let dropped = (
            std::mem::take(&mut lanes.demand),
            std::mem::take(&mut lanes.bulk),
        );
        drop(lanes);
        drop(dropped);
        self.came.notify_all();
    }
}
