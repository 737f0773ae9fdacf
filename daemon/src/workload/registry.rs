//! All workloads of this node, by name.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lifeboat_proto::id::WorkloadName;

use super::{Phase, SharedWorkload, Workload};
use crate::service::identity::Caller;

/// Most workloads under one daemon's care.
pub(super) const WORKLOADS_MAX: usize = 1024;

/// Why a workload cannot be registered or found.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The name is in use on this node.
    #[error(
        "workload {name} already runs on this node (pid {pid}); choose another name, or end it first"
    )]
    Exists {
        /// The name.
        name: WorkloadName,
        /// Its first process.
        pid: u32,
    },
    /// There is no such workload, or the caller may not know of it.
    #[error("there is no workload {name} on this node; `lifeboat list` shows those that are")]
    Unknown {
        /// The name.
        name: WorkloadName,
    },
    /// Too many.
    #[error("there are {WORKLOADS_MAX} workloads on this node already")]
    Full,
}

/// All workloads of this node.
#[derive(Debug, Default)]
pub struct Registry {
    workloads: Mutex<BTreeMap<WorkloadName, SharedWorkload>>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkloadName, SharedWorkload>> {
        self.workloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a workload. One of the same name that has ended or left gives way; so does the same
    /// hold's own older registration.
    ///
    /// # Errors
    /// When the name is in use, or there are too many.
    pub fn insert(&self, workload: Workload) -> Result<SharedWorkload, RegistryError> {
        let mut workloads = self.lock();
        if let Some(present) = workloads.get(&workload.name) {
            let view = present.view();
            let over = matches!(view.phase, Phase::Evacuated | Phase::Ended);
            if !over && present.instance != workload.instance {
                return Err(RegistryError::Exists {
                    name: workload.name,
                    pid: view.pid,
                });
            }
        } else if workloads.len() >= WORKLOADS_MAX {
            return Err(RegistryError::Full);
        }
        let workload = Arc::new(workload);
        workloads.insert(workload.name.clone(), Arc::clone(&workload));
        Ok(workload)
    }

    /// The workload called `name`, if the caller may touch it.
    ///
    /// # Errors
    /// When there is none, or it is another user's (which is not told apart).
    pub fn find(
        &self,
        name: &WorkloadName,
        caller: &Caller,
    ) -> Result<SharedWorkload, RegistryError> {
        self.get(name)
            .filter(|workload| caller.may_touch(workload.owner.uid))
            .ok_or_else(|| RegistryError::Unknown { name: name.clone() })
    }

    /// The workload called `name`.
    #[must_use]
    pub fn get(&self, name: &WorkloadName) -> Option<SharedWorkload> {
        self.lock().get(name).cloned()
    }

    /// All workloads that the caller may touch, by name.
    #[must_use]
    pub fn visible(&self, caller: &Caller) -> Vec<SharedWorkload> {
        let workloads = self.lock();
        workloads
            .values()
            .filter(|one| caller.may_touch(one.owner.uid))
            .cloned()
            .collect()
    }

    /// Forgets a workload that has ended.
    pub fn remove(&self, workload: &SharedWorkload) {
        let mut workloads = self.lock();
        if workloads
            .get(&workload.name)
            .is_some_and(|present| Arc::ptr_eq(present, workload))
        {
            workloads.remove(&workload.name);
        }
    }
}
