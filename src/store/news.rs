//! News of other handles of a store, and the values that all handles share.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use bytes::Bytes;

use crate::task::{Progress, RequestId};

/// News for one handle of a store.
///
/// All of it is a hint: it may be late, wrong, repeated or missing.
///
/// See the example of [`kit::NewsBoard`](crate::store::kit::NewsBoard).
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
    /// Tasks that another process changed. Empty unless the handle has set [`Attention::Changes`].
    pub changed: Vec<RequestId>,
    /// Some news was dropped: any task may have changed, or been asked to stop.
    pub missed: bool,
}

impl News {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Which news a handle needs.
///
/// See the example of [`kit::NewsBoard`](crate::store::kit::NewsBoard).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attention {
    /// Everything that the engine acts on: all of [`News`] but [`changed`](News::changed).
    #[default]
    Work,
    /// Also which tasks change, for clients that wait for one.
    Changes,
}

/// The state of a task, as a number. It differs after every change of the task, its progress or its log.
///
/// # Examples
///
/// The task `id` waits, and is then stopped:
///
/// ```
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{Ledger, MemoryStore, TaskStore},
///     task::Scope,
/// };
/// # use tower_respond_async::{store::Insert, task::{CapturedRequest, NewTask, RequestId}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// let store = MemoryStore::new();
/// let ledger = Ledger::of(store.clone());
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # let id = RequestId::from_bytes([7; 16]);
/// # let _ = ledger.insert(Insert::new(NewTask::new(id, request.into()))).await?;
/// let before = store.glance(vec![id]).await?;
/// assert_eq!(store.glance(vec![id]).await?, before);
/// let _ = ledger.stop(&Scope::All, id).await?;
/// assert_ne!(store.glance(vec![id]).await?, before);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Glance {
    /// A number to compare with an earlier one. Its value has no other meaning.
    pub change: u64,
}

impl Glance {
    /// The glance of a task whose row has this version and progress. `last_line` is the number of the last line of its
    /// log, 0 if there is none.
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

/// A small named value that all processes on a store share, such as the pools that are paused.
///
/// See the example of [`ControlChange`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Control {
    /// Its name.
    pub name: Arc<str>,
    /// The version of the change that set the value. No two changes of a store's values have the same version.
    pub version: u64,
    /// The value.
    pub value: Bytes,
}

impl Control {
    /// A value as a store has it.
    #[must_use]
    pub const fn new(name: Arc<str>, version: u64, value: Bytes) -> Self {
        Self { name, version, value }
    }
}

/// A change of a [named value](Control), made only if the value has not changed since it was read.
///
/// # Examples
///
/// ```
/// use tower_respond_async::store::{ControlChange, MemoryStore, TaskStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// let store = MemoryStore::new();
/// let name = "region/north";
/// let set = ControlChange::new(name.into(), 0, Some("closed".into()));
/// let controls = store.control(Some(set)).await?;
/// assert!(controls.changed);
///
/// let version = controls.get(name).map_or(0, |control| control.version);
/// let removal = ControlChange::new(name.into(), version, None);
/// assert!(store.control(Some(removal)).await?.values.is_empty());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ControlChange {
    /// The name.
    pub name: Arc<str>,
    /// The version of the value that it replaces, 0 if there is no value of this name.
    pub was: u64,
    /// The new value. `None` removes the value.
    pub value: Option<Bytes>,
}

impl ControlChange {
    /// Replaces the value of version `was` with `value`.
    #[must_use]
    pub const fn new(name: Arc<str>, was: u64, value: Option<Bytes>) -> Self {
        Self { name, was, value }
    }
}

/// All named values of a store.
///
/// See the example of [`ControlChange`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Controls {
    /// The version of the latest change, 0 before the first.
    pub version: u64,
    /// The values, by name.
    pub values: Vec<Control>,
    /// Whether the requested change was made. `false` if none was requested, or if the value had another version.
    pub changed: bool,
}

impl Controls {
    /// The value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Control> {
        self.values.iter().find(|control| &*control.name == name)
    }
}
