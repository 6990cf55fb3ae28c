//! Which completions are to be delivered, in the order they are due.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    task::{DeliveryStatus, Destination, RequestId, TaskRecord},
    time::Timestamp,
};

/// An index over the deliveries in the shards' records, not the truth.
#[derive(Debug, Default)]
pub(in crate::store) struct Outbox(Mutex<HashMap<Destination, BTreeSet<Due>>>);

/// When a delivery is due, of which task, in which generation.
pub(in crate::store) type Due = (Timestamp, RequestId, u32);

/// The deliveries of `record` that are pending.
pub(in crate::store) fn pending(record: &TaskRecord) -> Vec<(Destination, Due)> {
    let open = record.deliveries.iter();
    open.filter(|delivery| delivery.status == DeliveryStatus::Pending)
        .map(|delivery| {
            let due = (delivery.due_at, delivery.id, delivery.generation);
            (delivery.destination.clone(), due)
        })
        .collect()
}

impl Outbox {
    /// Forgets the deliveries `before` and notes those `after`.
    pub(in crate::store) fn replace(&self, before: &[(Destination, Due)], after: &[(Destination, Due)]) {
        if before == after {
            return;
        }
        let mut queues = self.lock();
        for (destination, due) in before {
            if let Some(queue) = queues.get_mut(destination) {
                queue.remove(due);
                if queue.is_empty() {
                    queues.remove(destination);
                }
            }
        }
        for (destination, due) in after {
            queues.entry(destination.clone()).or_default().insert(*due);
        }
    }

    /// Forgets all deliveries of a task that cannot say any more which it has, by looking at all of them.
    #[cfg_attr(not(feature = "redb"), expect(dead_code, reason = "what is in memory is not lost"))]
    pub(in crate::store) fn purge(&self, id: RequestId) {
        self.lock().retain(|_, queue| {
            queue.retain(|(_, other, _)| *other != id);
            !queue.is_empty()
        });
    }

    /// How many deliveries are pending.
    pub(in crate::store) fn len(&self) -> u64 {
        self.lock().values().map(|queue| queue.len() as u64).sum()
    }

    /// Takes up to `max` deliveries out that are due for one of `destinations`, the longest due first.
    pub(in crate::store) fn take(
        &self,
        destinations: &[Destination],
        max: usize,
        now: Timestamp,
    ) -> Vec<(Destination, Due)> {
        let mut queues = self.lock();
        let mut taken = Vec::new();
        while taken.len() < max {
            let heads = destinations.iter().filter_map(|destination| {
                let due = *queues.get(destination)?.first()?;
                (due.0 <= now).then_some((due, destination))
            });
            let Some((due, destination)) = heads.min() else { break };
            if let Some(queue) = queues.get_mut(destination) {
                queue.remove(&due);
            }
            taken.push((destination.clone(), due));
        }
        taken
    }

    /// Up to `max` deliveries that have been due since `until` or longer, for any destination that is not `spared`.
    pub(in crate::store) fn overdue(
        &self,
        spared: &[Destination],
        max: usize,
        until: Timestamp,
    ) -> Vec<(Destination, Due)> {
        let queues = self.lock();
        let others = queues.iter().filter(|(destination, _)| !spared.contains(destination));
        let overdue = others.flat_map(|(destination, queue)| {
            let overdue = queue.iter().take_while(|due| due.0 <= until);
            overdue.map(|due| (destination.clone(), *due))
        });
        overdue.take(max).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Destination, BTreeSet<Due>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
