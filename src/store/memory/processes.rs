//! The presences of the engines that use the store. All of them are in this process.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    task::{Presence, Seen, WorkerId},
    time::Timestamp,
};

/// The latest presence of each engine.
#[derive(Debug, Default)]
pub(super) struct Processes(Mutex<HashMap<WorkerId, (Presence, Timestamp)>>);

impl Processes {
    pub(super) fn beat(&self, me: Presence, within: Duration, now: Timestamp) -> Vec<Seen> {
        let mut processes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        processes.insert(me.worker.clone(), (me, now));
        processes.retain(|_, (_, at)| now.since(*at) <= within);
        let seen = processes.values().map(|(presence, at)| Seen {
            presence: presence.clone(),
            ago: now.since(*at),
        });
        seen.collect()
    }
}
