//! Keys that have outlived their tasks: how much room they take, and which goes first.
//!
//! A key is remembered for its window, which is a day by default and longer than most tasks are kept. Charged to the room
//! of the tasks, keys would fill it in the end, and nothing could make room: so they have a bound of their own. A live task's
//! key is never among them: it is what keeps the task from running twice.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::names::weight_of_key;
use crate::{store::kit::ClientKey, task::Tenant};

/// The keys of tasks that have ended or are gone, in that order.
#[derive(Debug)]
pub(super) struct EndedKeys {
    bytes: usize,
    max_bytes: usize,
    order: BTreeMap<Place, Arc<ClientKey>>,
    shares: HashMap<Option<Tenant>, Share>,
    next: u64,
    /// How many were forgotten for want of room.
    pub(super) forgotten: u64,
}

/// Which of them it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

/// What one tenant has of them.
#[derive(Debug, Default)]
struct Share {
    bytes: usize,
    order: BTreeSet<Place>,
}

impl EndedKeys {
    /// Room for so many bytes of them, of which one tenant has at most half, so that its keys cannot push out those of all
    /// others. No tenant is one as well.
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

    pub(super) fn add(&mut self, key: Arc<ClientKey>) -> Place {
        let place = Place(self.next);
        self.next += 1;
        let weight = weight_of_key(&key);
        let share = self.shares.entry(key.tenant.clone()).or_default();
        share.bytes += weight;
        share.order.insert(place);
        self.bytes += weight;
        self.order.insert(place, key);
        place
    }

    /// Takes one out, and says how many bytes it took.
    pub(super) fn remove(&mut self, place: Place) -> usize {
        let Some(key) = self.order.remove(&place) else { return 0 };
        let weight = weight_of_key(&key);
        self.bytes -= weight;
        if let Some(share) = self.shares.get_mut(&key.tenant) {
            share.bytes -= weight;
            share.order.remove(&place);
            if share.order.is_empty() {
                self.shares.remove(&key.tenant);
            }
        }
        weight
    }

    pub(super) fn key_at(&self, place: Place) -> Option<Arc<ClientKey>> {
        self.order.get(&place).cloned()
    }

    /// Which is to be forgotten now that one of `tenant` has come: its own oldest if it has more than its share, else the
    /// oldest of all if there is more than room for.
    pub(super) fn beyond(&self, tenant: Option<&Tenant>) -> Option<Place> {
        let own = self.shares.get(&tenant.cloned());
        match own.filter(|own| own.bytes > self.max_bytes / 2) {
            Some(own) => own.order.first().copied(),
            None => self.oldest().filter(|_| self.bytes > self.max_bytes),
        }
    }

    pub(super) fn oldest(&self) -> Option<Place> {
        self.order.first_key_value().map(|(place, _)| *place)
    }
}
