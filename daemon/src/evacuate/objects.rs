//! Shared memory of a frozen tree: what Lifeboat captures of it.
//!
//! CRIU looks at each object once, however many processes have it mapped or open, and asks what it
//! shall not see. An object that Lifeboat knows is hidden in whole pages: its pages are read here,
//! through a descriptor of the object, so that it does not matter which part of it is mapped, or
//! where. The rest is CRIU's: an odd end of less than a page, objects that only a message in flight
//! refers to, detached System V segments, and small objects, for which frames of their own would
//! cost more than they bring.

use std::{collections::BTreeMap, sync::Arc};

use lifeboat_proto::units::{PageIndex, PageRun};
use lifeboat_sys::shmem::{ObjectKey, Objects, SharedObject, ShmemError};
use lifeboat_track::SpaceId;

use super::memory::{self, CaptureError};
use crate::{
    observe::chain,
    pipeline::{Intake, Memory, Source, criu_id},
    precopy::{self, SharedAhead},
};

/// Objects with fewer pages than this are CRIU's.
const PAGES_MIN: u64 = 16;

/// Index of the first object in the pipeline: above those of all address spaces.
pub(super) const FIRST_INDEX: usize = 1 << 32;

/// The part of an object that Lifeboat captures.
#[derive(Clone, Debug)]
pub struct Object {
    /// CRIU's identifier: its image files are named after it.
    pub id: u64,
    /// Its index in the pipeline.
    pub index: usize,
    /// Its size in whole pages: CRIU sees none of them.
    pub pages: u64,
    /// Pages with content in them.
    pub present: Vec<PageRun>,
    /// Those of them that are read now.
    pub read: Vec<PageRun>,
    /// Its books, in which the rest is.
    pub books: Option<SpaceId>,
    /// The object.
    pub(super) object: Arc<SharedObject>,
}

impl Object {
    /// The pages that CRIU does not see.
    pub(super) const fn hidden(&self) -> PageRun {
        PageRun::new(PageIndex(0), self.pages)
    }
}

/// The objects of a frozen tree, by what tells them apart.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<ObjectKey, Arc<SharedObject>>);

impl Known {
    /// Looks what the processes have mapped or open. What cannot be looked at is CRIU's.
    pub(super) fn of(pids: impl Iterator<Item = u32>) -> Self {
        let look = || -> Result<Objects, CaptureError> {
            let mut objects = Objects::new().map_err(CaptureError::Shared)?;
            for pid in pids {
                let pid = memory::number(pid)?;
                objects.add_process(pid).map_err(CaptureError::Shared)?;
            }
            Ok(objects)
        };
        match look() {
            Ok(objects) => {
                let all = objects.into_objects();
                Self(all.map(|one| (one.key(), Arc::new(one))).collect())
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(error, "shared memory is left to CRIU");
                Self::default()
            }
        }
    }

    /// What is to be captured of an object. `None`: it is CRIU's.
    pub(super) fn find(
        &self,
        key: ObjectKey,
        number: usize,
        ahead: Option<&SharedAhead>,
    ) -> Result<Option<Object>, CaptureError> {
        let Some(object) = self.0.get(&key) else {
            return Ok(None);
        };
        let (pages, present) = look(object).map_err(CaptureError::Shared)?;
        if pages < PAGES_MIN {
            return Ok(None);
        }
        Ok(Some(Object {
            id: criu_id(key),
            index: FIRST_INDEX + number,
            pages,
            read: present.clone(),
            present,
            books: ahead.and_then(|ahead| precopy::lock(ahead).object(key)),
            object: Arc::clone(object),
        }))
    }
}

fn look(object: &SharedObject) -> Result<(u64, Vec<PageRun>), ShmemError> {
    Ok((object.whole_pages()?, object.present()?))
}

/// Hands what must be read of an object to the pipeline, a frame at a time.
pub(super) async fn feed(
    object: Object,
    ahead: Option<SharedAhead>,
    intake: Intake,
) -> Result<(), CaptureError> {
    let memory = Memory {
        space: object.index,
        source: &Source::of_object(&object.object),
        runs: &object.read,
        may_vanish: false,
    };
    // All of it, and only what differs is stored: nothing tells what was written.
    let books = ahead.as_ref().zip(object.books);
    let known = books.map(|(ahead, id)| move |page| precopy::lock(ahead).hash(id, page));
    memory
        .feed(&intake, known)
        .await
        .map_err(CaptureError::Pipeline)
}
