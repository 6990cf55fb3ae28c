//! The keys of ended tasks: how much room they take, and which is removed first.
//!
//! A key is kept for its window, which is a day by default and longer than most tasks are kept. If keys were counted in
//! the room of the tasks, they would fill it in the end, and nothing could be dropped to make room. So they have a
//! bound of their own. The key of a live task is never among them: it keeps the task from running twice.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::names::weight_of_key;
use crate::{store::kit::ClientKey, task::Tenant};

/// The keys of tasks that have ended or are gone, in this order.
#[derive(Debug)]
pub(super) struct EndedKeys {
    bytes: usize,
    max_bytes: usize,
    order: BTreeMap<KeyNumber, Arc<ClientKey>>,
    shares: HashMap<Option<Tenant>, Share>,
    next: u64,
    /// How many keys were removed to make room.
    pub(super) forgotten: u64,
}

/// The sequence number of a key: keys are numbered as they are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyNumber(u64);

/// The keys of one tenant.
#[derive(Debug, Default)]
struct Share {
    bytes: usize,
    order: BTreeSet<KeyNumber>,
}

impl EndedKeys {
    /// With `max_bytes` of room. One tenant may use at most half, so that its keys do not displace those of all others.
    /// Tasks without a tenant count as one tenant.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            bytes: 0,
            max_bytes,
            order: BTreeMap::new(),
            shares: HashMap::new(),
            next: 0,
            forgotten: 0,
        }
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn add(&mut self, key: Arc<ClientKey>) -> KeyNumber {
        let number = KeyNumber(self.next);
        self.next += 1;
        let weight = weight_of_key(&key);
        let share = self.shares.entry(key.tenant.clone()).or_default();
        share.bytes += weight;
        share.order.insert(number);
        self.bytes += weight;
        self.order.insert(number, key);
        number
    }

    /// Removes a key, and returns how many bytes it took.
    pub(super) fn remove(&mut self, number: KeyNumber) -> usize {
        let Some(key) = self.order.remove(&number) else {
            return 0;
        };
        let weight = weight_of_key(&key);
        self.bytes -= weight;
        if let Some(share) = self.shares.get_mut(&key.tenant) {
            share.bytes -= weight;
            share.order.remove(&number);
            if share.order.is_empty() {
                self.shares.remove(&key.tenant);
            }
        }
        weight
    }

    pub(super) fn key_at(&self, number: KeyNumber) -> Option<Arc<ClientKey>> {
        self.order.get(&number).cloned()
    }

    /// The key to remove after one of `tenant` was added: the tenant's oldest if it uses more than its share, or else
    /// the oldest of all if there are more than the bound allows.
    pub(super) fn beyond(&self, tenant: Option<&Tenant>) -> Option<KeyNumber> {
        let own = self.shares.get(&tenant.cloned());
        match own.filter(|own| own.bytes > self.max_bytes / 2) {
            Some(own) => own.order.first().copied(),
            None => self.oldest().filter(|_| self.bytes > self.max_bytes),
        }
    }

    pub(super) fn oldest(&self) -> Option<KeyNumber> {
        self.order.first_key_value().map(|(number, _)| *number)
    }
}
