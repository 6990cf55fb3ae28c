//! Where the live entries of an index begin.
//!
//! Rows that leave the front of an index leave dead entries there. The server cannot remove them while a transaction is
//! open that began earlier. Each look at the front then steps over all of them: over millions, after ten minutes at
//! thousands of tasks a second. Once such a look was slow, a handle begins its looks where it last found a row, and
//! looks at the whole index only now and then.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::connection::lock;

/// A look that takes the server this many milliseconds is slow.
const SLOW: i64 = 10;

/// A row that becomes visible later may be due earlier, by this many milliseconds: a statement sets times when it
/// begins, and its rows are visible when it commits.
const LATE: i64 = 1000;

/// Looks at the whole index take at most one part in this many of the time, unless [`LONGEST`] has passed.
const SHARE: u32 = 20;

/// The longest time between two looks at the whole index, so the longest time until a row from before the front is
/// found.
pub(crate) const LONGEST: Duration = Duration::from_secs(10);

/// The fronts of the parts of one index, as one handle has seen them.
pub(crate) struct Front<K>(Mutex<State<K>>);

struct State<K> {
    /// Where each part begins, since a look was slow.
    since: Option<HashMap<K, i64>>,
    /// When the whole index is looked at again.
    whole_at: Instant,
    /// A look at the whole index is under way, beside others.
    is_looking: bool,
}

/// Where a look begins.
pub(crate) struct Since<K> {
    pub(crate) since: HashMap<K, i64>,
    /// The time until the whole index is looked at again.
    pub(crate) left: Duration,
}

impl<K: Clone + Eq + std::hash::Hash> Front<K> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            since: None,
            whole_at: Instant::now(),
            is_looking: false,
        }))
    }

    /// Where to begin. `None`: look at the whole index.
    pub(crate) fn since(&self) -> Option<Since<K>> {
        self.since_beside().filter(|since| !since.left.is_zero())
    }

    /// Where to begin if another look [beside](Self::begin_whole) this one covers the whole index. `None`: no look was
    /// slow so far, so look at the whole index.
    pub(crate) fn since_beside(&self) -> Option<Since<K>> {
        let state = lock(&self.0);
        state.since.as_ref().map(|since| Since {
            since: since.clone(),
            left: state.whole_at.saturating_duration_since(Instant::now()),
        })
    }

    /// Whether a look at the whole index has to begin now, beside others. Its end is [`saw_whole`](Self::saw_whole) or
    /// [`missed`](Self::missed).
    pub(crate) fn begin_whole(&self) -> bool {
        let mut state = lock(&self.0);
        let begins = state.since.is_some() && !state.is_looking && state.whole_at <= Instant::now();
        state.is_looking |= begins;
        begins
    }

    /// A look at the whole index took this many milliseconds and found these first rows.
    pub(crate) fn saw_whole(&self, took: i64, now: i64, firsts: impl IntoIterator<Item = (K, i64)>) {
        let mut state = lock(&self.0);
        state.is_looking = false;
        state.whole_at = Instant::now();
        if took < SLOW {
            state.since = None;
            return;
        }
        let took = Duration::from_millis(took.cast_unsigned());
        state.whole_at += took.saturating_mul(SHARE).min(LONGEST);
        let firsts = firsts.into_iter();
        state.since = Some(firsts.map(|(part, first)| (part, first.min(now) - LATE)).collect());
    }

    /// A look at the whole index took too long to end; the next one may begin after `pause`. Parts without a front
    /// begin at these times.
    pub(crate) fn missed(&self, pause: Duration, parts: impl IntoIterator<Item = (K, i64)>) {
        let mut state = lock(&self.0);
        state.is_looking = false;
        state.whole_at = Instant::now() + pause;
        let since = state.since.get_or_insert_default();
        for (part, now) in parts {
            since.entry(part).or_insert(now - LATE);
        }
    }

    /// A look from the fronts found these first rows.
    pub(crate) fn saw(&self, now: i64, firsts: impl IntoIterator<Item = (K, i64)>) {
        let mut state = lock(&self.0);
        let Some(fronts) = &mut state.since else {
            return;
        };
        for (part, first) in firsts {
            let since = fronts.entry(part).or_insert(i64::MIN);
            *since = (*since).max(first.min(now) - LATE);
        }
    }
}
