//! What a handle of a store hears of the others, and what it shares with them.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use bytes::Bytes;

use crate::task::{Progress, RequestId};

/// What a handle of a store has heard.
///
/// All of it is a hint: it may be late, wrong, told twice or not told at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct News {
    /// Something may have become runnable.
    pub work: bool,
    /// A completion may have become due.
    pub outbox: bool,
    /// A [named value](Control) may have changed.
    pub control: bool,
    /// Held tasks that another process asked to stop.
    pub stops: Vec<RequestId>,
    /// Tasks that another process changed. Only while the handle [attends](Attention::Changes).
    pub changed: Vec<RequestId>,
    /// There was more than could be told: anything may have changed, and been asked to stop.
    pub missed: bool,
}

impl News {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What of the others a handle needs to hear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attention {
    /// All that the engine acts on: everything in [`News`] but [`changed`](News::changed).
    #[default]
    Work,
    /// Also which tasks change, since somebody waits for one.
    Changes,
}

/// Where a task stands, as a number: it is another one after every change of the task, its progress and its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Glance {
    /// Means nothing but that it is equal to another.
    pub change: u64,
}

impl Glance {
    /// That of a task whose row has this version and progress, and whose log ends with the line of this number, 0 if it has
    /// none.
    #[must_use]
    pub fn of(version: u64, progress: Option<&Progress>, last_line: u64) -> Self {
        let mut hash = DefaultHasher::new();
        (version, last_line).hash(&mut hash);
        if let Some(progress) = progress {
            (progress.fraction.to_bits(), &progress.message).hash(&mut hash);
        }
        Self { change: hash.finish() }
    }
}

/// A small named value that all processes on a store share, such as which pools are paused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Control {
    /// Its name.
    pub name: Arc<str>,
    /// Which change made it so. No two changes of a store's values have the same version.
    pub version: u64,
    /// What it is.
    pub value: Bytes,
}

impl Control {
    /// A value as it is stored.
    #[must_use]
    pub const fn new(name: Arc<str>, version: u64, value: Bytes) -> Self {
        Self { name, version, value }
    }
}

/// A change of a [named value](Control), made only if that has not changed since it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ControlChange {
    /// The name.
    pub name: Arc<str>,
    /// The version of the value that it takes the place of, 0 if there is none of this name.
    pub was: u64,
    /// What it is from now on. `None` removes it.
    pub value: Option<Bytes>,
}

impl ControlChange {
    /// Puts `value` in the place of what has the version `was`.
    #[must_use]
    pub const fn new(name: Arc<str>, was: u64, value: Option<Bytes>) -> Self {
        Self { name, was, value }
    }
}

/// All named values of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Controls {
    /// The version of the latest change, 0 before the first.
    pub version: u64,
    /// The values, by name.
    pub values: Vec<Control>,
    /// Whether the change that was asked for was made: `false` if there was none, and if its value had changed before.
    pub changed: bool,
}

impl Controls {
    /// The value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Control> {
        self.values.iter().find(|control| &*control.name == name)
    }
}
