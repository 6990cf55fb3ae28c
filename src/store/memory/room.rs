//! How much the store holds, and how much it may.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::SHARDS;
use crate::store::kit::Shelf;

/// Counters that every insert and every settlement touch, so atomics and no lock.
#[derive(Debug)]
pub(super) struct Room {
    tasks: Padded<AtomicUsize>,
    bytes: Padded<AtomicUsize>,
    max_tasks: usize,
    max_bytes: usize,
    // For each shard, when the oldest task ended that may be dropped: finds the one to drop without 32 locks.
    oldest: [AtomicU64; SHARDS],
}

/// Two counters on one cache line would make two cores wait for each other twice.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

const NONE: u64 = u64::MAX;

impl Room {
    pub(super) fn new(max_tasks: usize, max_bytes: usize) -> Self {
        Self {
            tasks: Padded::default(),
            bytes: Padded::default(),
            max_tasks,
            max_bytes,
            oldest: std::array::from_fn(|_| AtomicU64::new(NONE)),
        }
    }

    /// Whether a task of this weight could be kept if there were no other.
    pub(super) const fn could_hold(&self, weight: usize) -> bool {
        self.max_tasks > 0 && weight <= self.max_bytes
    }

    /// Takes room for one task of this weight, if there is.
    pub(super) fn reserve(&self, weight: usize) -> bool {
        if !add_within(&self.tasks.0, 1, self.max_tasks) {
            return false;
        }
        let fits = add_within(&self.bytes.0, weight, self.max_bytes);
        if !fits {
            self.tasks.0.fetch_sub(1, Ordering::Relaxed);
        }
        fits
    }

    /// A task of this weight is gone.
    pub(super) fn release(&self, weight: usize) {
        self.tasks.0.fetch_sub(1, Ordering::Relaxed);
        self.shrink(weight);
    }

    /// What cannot be refused: a response, a log, an edited request.
    pub(super) fn grow(&self, weight: usize) {
        if weight > 0 {
            self.bytes.0.fetch_add(weight, Ordering::Relaxed);
        }
    }

    pub(super) fn shrink(&self, weight: usize) {
        if weight > 0 {
            self.bytes.0.fetch_sub(weight, Ordering::Relaxed);
        }
    }

    /// By how many bytes there is more than there may be, once so many have come.
    pub(super) fn excess(&self, more: usize) -> usize {
        self.bytes().saturating_add(more).saturating_sub(self.max_bytes)
    }

    /// Whether there are as many tasks as there may be.
    pub(super) fn has_all_tasks(&self) -> bool {
        self.tasks() >= self.max_tasks
    }

    pub(super) fn tasks(&self) -> usize {
        self.tasks.0.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.0.load(Ordering::Relaxed)
    }

    /// Notes which tasks `shard` could drop. Called under its lock.
    pub(super) fn note_oldest(&self, shard: usize, shelf: &Shelf) {
        let first = shelf.longest_at_rest().map_or(NONE, |(at, _)| at.as_millis());
        let published = &self.oldest[shard];
        // Mostly unchanged: a load leaves the line shared between the cores.
        if published.load(Ordering::Relaxed) != first {
            published.store(first, Ordering::Relaxed);
        }
    }

    /// The shard with the oldest task that may be dropped.
    pub(super) fn oldest(&self) -> Option<usize> {
        let ended = self.oldest.iter().map(|at| at.load(Ordering::Relaxed));
        let (shard, at) = ended.enumerate().min_by_key(|(_, at)| *at)?;
        (at != NONE).then_some(shard)
    }
}

fn add_within(counter: &AtomicUsize, more: usize, max: usize) -> bool {
    let add = |now: usize| now.checked_add(more).filter(|sum| *sum <= max);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
}
