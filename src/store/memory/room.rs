//! How much the store holds, and how much it may hold.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::SHARDS;
use crate::store::kit::Shelf;

/// Every insert and every settlement changes these counters, so they are atomics without a lock.
#[derive(Debug)]
pub(super) struct Room {
    tasks: Padded<AtomicUsize>,
    bytes: Padded<AtomicUsize>,
    max_tasks: usize,
    max_bytes: usize,
    // For each shard, when its oldest task that may be dropped came to rest. Finds the shard without taking 32 locks.
    oldest: [AtomicU64; SHARDS],
}

/// With two counters on one cache line, two cores would wait for each other twice.
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

    /// Whether an empty store could keep a task of this weight.
    pub(super) const fn could_hold(&self, weight: usize) -> bool {
        self.max_tasks > 0 && weight <= self.max_bytes
    }

    /// Takes room for one task of this weight, if there is enough.
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

    /// Frees the room of a task of this weight.
    pub(super) fn release(&self, weight: usize) {
        self.tasks.0.fetch_sub(1, Ordering::Relaxed);
        self.shrink(weight);
    }

    /// Takes room for data that cannot be refused: a response, a log, an edited request.
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

    /// How many bytes beyond the bound the store would hold with `more` bytes.
    pub(super) fn excess(&self, more: usize) -> usize {
        self.bytes().saturating_add(more).saturating_sub(self.max_bytes)
    }

    /// Whether the bound on the number of tasks is reached.
    pub(super) fn has_all_tasks(&self) -> bool {
        self.tasks() >= self.max_tasks
    }

    pub(super) fn tasks(&self) -> usize {
        self.tasks.0.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.0.load(Ordering::Relaxed)
    }

    /// Updates the oldest task that may be dropped of `shard`. Called under the shard's lock.
    pub(super) fn note_oldest(&self, shard: usize, shelf: &Shelf) {
        let first = shelf.longest_at_rest().map_or(NONE, |(at, _)| at.as_millis());
        let published = &self.oldest[shard];
        // Usually it is the same. Reading it leaves the cache line shared between the cores.
        if published.load(Ordering::Relaxed) != first {
            published.store(first, Ordering::Relaxed);
        }
    }

    /// The shard with the task that came to rest first.
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
