//! Where the rows begin that an index has, behind those that are gone.
//!
//! What is taken from the front of an index leaves entries there until the server clears them away, which it cannot while
//! anybody's transaction is open that began before. Every look at the front then goes through all of them: after ten minutes
//! at thousands of tasks a second, through millions. A handle that finds this to be slow looks from where it last found
//! something on, and only now and then at everything.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::connection::lock;

/// A look that takes the server so many milliseconds is slow.
const SLOW: i64 = 10;

/// What comes later may be due earlier by so many milliseconds: a statement sets times as it begins, and is seen when it is
/// committed.
const LATE: i64 = 1000;

/// Looking at everything takes a twentieth of the time.
const SHARE: u32 = 20;

/// The longest time between two looks at everything: so late may what came [late](LATE) be found.
const LONGEST: Duration = Duration::from_secs(10);

/// The fronts of the parts of one index, as one handle has seen them.
pub(crate) struct Front<K>(Mutex<State<K>>);

struct State<K> {
    /// From when on something may be.
    since: HashMap<K, i64>,
    /// When everything is looked at again.
    all_at: Instant,
}

/// From where on a handle looks.
pub(crate) struct Since<K> {
    pub(crate) since: HashMap<K, i64>,
    /// Until everything is looked at again.
    pub(crate) left: Duration,
}

impl<K: Clone + Eq + std::hash::Hash> Front<K> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            since: HashMap::new(),
            all_at: Instant::now(),
        }))
    }

    /// From where on to look. `None`: at everything.
    pub(crate) fn since(&self) -> Option<Since<K>> {
        let state = lock(&self.0);
        let left = state.all_at.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| Since {
            since: state.since.clone(),
            left,
        })
    }

    /// Everything was looked at, which took so many milliseconds. These are the first of each part.
    pub(crate) fn saw_all(&self, took: i64, now: i64, firsts: impl IntoIterator<Item = (K, i64)>) {
        let mut state = lock(&self.0);
        state.all_at = Instant::now();
        if took >= SLOW {
            let took = Duration::from_millis(took.cast_unsigned());
            state.all_at += took.saturating_mul(SHARE).min(LONGEST);
            state.since = firsts
                .into_iter()
                .map(|(part, first)| (part, first.min(now) - LATE))
                .collect();
        }
    }

    /// These are the first of each part from where it was looked.
    pub(crate) fn saw(&self, now: i64, firsts: impl IntoIterator<Item = (K, i64)>) {
        let mut state = lock(&self.0);
        for (part, first) in firsts {
            let since = state.since.entry(part).or_insert(i64::MIN);
            *since = (*since).max(first.min(now) - LATE);
        }
    }
}
