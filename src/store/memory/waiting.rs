//! Ended tasks with completions to be delivered: how much room they use, and for which destinations and hosts.
//!
//! Such a task cannot be dropped, so receivers that do not answer could fill the store with them. They have a share of
//! the room: half of it for all that do not answer together, and an eighth for one host that clients name. The caller
//! passes which of them answer [with the search](crate::store::Due::Crowded) for tasks beyond these shares. The
//! [hint](crate::store::QueueHint::crowded) says whether a share would be exceeded if none of them answered.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, HashSet, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    store::{Answering, Answers, DueReason, Row, kit::Moment},
    task::{Destination, RequestId},
    time::Timestamp,
};

/// An index behind a lock of its own, which is taken last.
#[derive(Debug)]
pub(super) struct Waiting {
    index: Mutex<Index>,
    crowded: AtomicBool,
    /// The share of all destinations and hosts that do not answer.
    all: Load,
    /// The share of one host that clients name.
    host: Load,
}

#[derive(Debug, Default)]
struct Index {
    tasks: HashMap<RequestId, Waits>,
    receivers: HashMap<Receiver, Backlog>,
    all: Load,
    /// How many hosts use more than their share.
    beyond: usize,
}

/// The destinations and hosts that a task waits for.
#[derive(Debug)]
struct Waits {
    since: Timestamp,
    bytes: usize,
    receivers: Box<[Receiver]>,
}

/// Who gets a completion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Receiver {
    /// A destination that the application names.
    Destination(Destination),
    /// A host that clients name.
    Host(Arc<str>),
}

/// The tasks that wait for one destination or host, longest waiting first.
#[derive(Debug, Default)]
struct Backlog {
    load: Load,
    order: BTreeSet<Moment>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    tasks: usize,
    bytes: usize,
}

impl Load {
    /// A part of the load, with room for at least one task.
    fn part(self, of: usize) -> Self {
        Self {
            tasks: (self.tasks / of).max(1),
            bytes: self.bytes / of,
        }
    }

    const fn exceeds(self, share: Self) -> bool {
        self.tasks > share.tasks || self.bytes > share.bytes
    }

    const fn add(&mut self, bytes: usize) {
        self.tasks += 1;
        self.bytes += bytes;
    }

    const fn remove(&mut self, bytes: usize) {
        self.tasks = self.tasks.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Whether a task with this row is in the index.
pub(super) fn waits(row: &Row) -> bool {
    row.columns.state.is_terminal() && !row.outbox.is_empty()
}

impl Waiting {
    pub(super) fn new(max_tasks: usize, max_bytes: usize) -> Self {
        let room = Load {
            tasks: max_tasks,
            bytes: max_bytes,
        };
        Self {
            index: Mutex::default(),
            crowded: AtomicBool::new(false),
            all: room.part(2),
            host: room.part(8),
        }
    }

    /// Whether a share would be exceeded if no destination and no host answered.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    /// Updates the index for a task that waited before or waits now. `bytes` is how much it takes.
    pub(super) fn follow(&self, id: RequestId, row: Option<&Row>, bytes: usize) {
        let now = row.filter(|row| waits(row)).map(|row| Waits {
            since: row.columns.ended_at.unwrap_or(Timestamp::ZERO),
            bytes,
            receivers: receivers_of(row),
        });
        let mut index = self.lock();
        index.remove(id, self.host);
        if let Some(now) = now {
            index.add(id, now, self.host);
        }
        let crowded = index.beyond > 0 || index.all.exceeds(self.all);
        if self.is_crowded() != crowded {
            self.crowded.store(crowded, Ordering::Relaxed);
        }
    }

    /// Up to `max` tasks whose completions are beyond the shares of destinations and hosts that do not answer, longest
    /// waiting first.
    pub(super) fn beyond(&self, answers: &Answers, max: usize) -> Vec<(RequestId, DueReason)> {
        if !self.is_crowded() {
            return Vec::new();
        }
        let index = self.lock();
        let mut selection = Selection::of(&index, max);
        let (mut silent, mut unknown) = (Vec::new(), Vec::new());
        for (receiver, backlog) in &index.receivers {
            match receiver.answering(answers) {
                Answering::Yes => continue,
                Answering::Unknown => unknown.push(backlog),
                Answering::No => {
                    if let Receiver::Host(_) = receiver {
                        selection.take(&[backlog], backlog.load, self.host, DueReason::CrowdedHost);
                    }
                    silent.push(backlog);
                }
            }
        }
        // First those that do not answer, as far as they exceed the share alone; then the unknown ones, for the rest
        // only.
        let load = selection.rest_of(silent.iter());
        selection.take(&silent, load, self.all, DueReason::Crowded);
        let load = selection.rest_of(silent.iter().chain(&unknown));
        selection.take(&unknown, load, self.all, DueReason::Crowded);
        selection.found
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn add(&mut self, id: RequestId, waits: Waits, share: Load) {
        for receiver in &waits.receivers {
            let backlog = self.receivers.entry(receiver.clone()).or_default();
            let was = backlog.load.exceeds(share);
            backlog.load.add(waits.bytes);
            backlog.order.insert((waits.since, id));
            if matches!(receiver, Receiver::Host(_)) && !was && backlog.load.exceeds(share) {
                self.beyond += 1;
            }
        }
        self.all.add(waits.bytes);
        self.tasks.insert(id, waits);
    }

    fn remove(&mut self, id: RequestId, share: Load) {
        let Some(waits) = self.tasks.remove(&id) else { return };
        for receiver in waits.receivers {
            let is_host = matches!(receiver, Receiver::Host(_));
            let Entry::Occupied(mut backlog) = self.receivers.entry(receiver) else {
                continue;
            };
            let was = backlog.get().load.exceeds(share);
            backlog.get_mut().load.remove(waits.bytes);
            backlog.get_mut().order.remove(&(waits.since, id));
            if is_host && was && !backlog.get().load.exceeds(share) {
                self.beyond -= 1;
            }
            if backlog.get().order.is_empty() {
                backlog.remove();
            }
        }
        self.all.remove(waits.bytes);
    }

    fn bytes_of(&self, id: RequestId) -> usize {
        self.tasks.get(&id).map_or(0, |waits| waits.bytes)
    }
}

/// The selected tasks, which are beyond a share.
struct Selection<'a> {
    index: &'a Index,
    max: usize,
    found: Vec<(RequestId, DueReason)>,
    ids: HashSet<RequestId>,
    bytes: usize,
}

impl<'a> Selection<'a> {
    fn of(index: &'a Index, max: usize) -> Self {
        Self {
            index,
            max,
            found: Vec::new(),
            ids: HashSet::new(),
            bytes: 0,
        }
    }

    /// Selects tasks of these receivers, longest waiting first, until the rest of the load is within the share.
    fn take(&mut self, of: &[&Backlog], mut load: Load, share: Load, reason: DueReason) {
        if !load.exceeds(share) {
            return;
        }
        for id in longest(of) {
            if !load.exceeds(share) || self.found.len() >= self.max {
                break;
            }
            if self.ids.insert(id) {
                let bytes = self.index.bytes_of(id);
                load.remove(bytes);
                self.bytes += bytes;
                self.found.push((id, reason));
            }
        }
    }

    /// The load that is left for these receivers. Counts a task of several receivers once, as far as that can be
    /// computed.
    fn rest_of<'b>(&self, of: impl Iterator<Item = &'b &'b Backlog>) -> Load {
        let (tasks, bytes) = of.fold((0, 0), |(tasks, bytes), backlog| {
            (tasks + backlog.load.tasks, bytes + backlog.load.bytes)
        });
        Load {
            tasks: tasks.min(self.index.all.tasks).saturating_sub(self.found.len()),
            bytes: bytes.min(self.index.all.bytes).saturating_sub(self.bytes),
        }
    }
}

impl Receiver {
    fn answering(&self, answers: &Answers) -> Answering {
        match self {
            Self::Destination(destination) => answers.of(destination, None),
            Self::Host(host) => answers.of(&Destination::CALLBACK, Some(host)),
        }
    }
}

fn receivers_of(row: &Row) -> Box<[Receiver]> {
    let mut receivers = Vec::with_capacity(row.outbox.len());
    for of in &row.outbox {
        let receiver = match (of.destination == Destination::CALLBACK, row.record.callback_host()) {
            (true, Some(host)) => Receiver::Host(host.into()),
            _ => Receiver::Destination(of.destination.clone()),
        };
        // Completions of several generations may have the same receiver.
        if !receivers.contains(&receiver) {
            receivers.push(receiver);
        }
    }
    receivers.into()
}

/// The tasks of these backlogs, longest waiting first. A task in several of them comes several times.
fn longest(backlogs: &[&Backlog]) -> impl Iterator<Item = RequestId> {
    let mut rest: Vec<_> = backlogs.iter().map(|backlog| backlog.order.iter().copied()).collect();
    let heads = rest.iter_mut().enumerate();
    let heads = heads.filter_map(|(at, rest)| Some(Reverse((rest.next()?, at))));
    let mut heads: BinaryHeap<_> = heads.collect();
    std::iter::from_fn(move || {
        let Reverse(((_, id), at)) = heads.pop()?;
        heads.extend(rest[at].next().map(|next| Reverse((next, at))));
        Some(id)
    })
}
