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
    store::{Answering, Answers, Row, Why, kit::Moment},
    task::{Destination, RequestId},
    time::Timestamp,
};

/// An index behind a lock of its own, which is taken last.
#[derive(Debug)]
pub(super) struct Waiting {
    lines: Mutex<Lines>,
    crowded: AtomicBool,
    /// The share of all destinations and hosts that do not answer.
    all: Load,
    /// The share of one host that clients name.
    host: Load,
}

#[derive(Debug, Default)]
struct Lines {
    tasks: HashMap<RequestId, Waits>,
    lines: HashMap<Line, Held>,
    all: Load,
    /// How many hosts use more than their share.
    beyond: usize,
}

/// The destinations and hosts that a task waits for.
#[derive(Debug)]
struct Waits {
    since: Timestamp,
    bytes: usize,
    lines: Box<[Line]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Line {
    /// A destination that the application names.
    Of(Destination),
    /// A host that clients name.
    Host(Arc<str>),
}

/// The tasks that wait for one destination or host, longest waiting first.
#[derive(Debug, Default)]
struct Held {
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
            lines: Mutex::default(),
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
            lines: lines_of(row),
        });
        let mut lines = self.lock();
        lines.remove(id, self.host);
        if let Some(now) = now {
            lines.add(id, now, self.host);
        }
        let crowded = lines.beyond > 0 || lines.all.exceeds(self.all);
        if self.is_crowded() != crowded {
            self.crowded.store(crowded, Ordering::Relaxed);
        }
    }

    /// Up to `max` tasks whose completions are beyond the shares of destinations and hosts that do not answer, longest
    /// waiting first.
    pub(super) fn beyond(&self, answers: &Answers, max: usize) -> Vec<(RequestId, Why)> {
        if !self.is_crowded() {
            return Vec::new();
        }
        let lines = self.lock();
        let mut picked = Picked::of(&lines, max);
        let (mut silent, mut unknown) = (Vec::new(), Vec::new());
        for (line, held) in &lines.lines {
            match line.asked(answers) {
                Answering::Yes => continue,
                Answering::Unknown => unknown.push(held),
                Answering::No => {
                    if let Line::Host(_) = line {
                        picked.take(&[held], held.load, self.host, Why::CrowdedHost);
                    }
                    silent.push(held);
                }
            }
        }
        // First those that do not answer, as far as they exceed the share alone; then the unknown ones, for the rest
        // only.
        let load = picked.rest_of(silent.iter());
        picked.take(&silent, load, self.all, Why::Crowded);
        let load = picked.rest_of(silent.iter().chain(&unknown));
        picked.take(&unknown, load, self.all, Why::Crowded);
        picked.found
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn add(&mut self, id: RequestId, waits: Waits, share: Load) {
        for line in &waits.lines {
            let held = self.lines.entry(line.clone()).or_default();
            let was = held.load.exceeds(share);
            held.load.add(waits.bytes);
            held.order.insert((waits.since, id));
            if matches!(line, Line::Host(_)) && !was && held.load.exceeds(share) {
                self.beyond += 1;
            }
        }
        self.all.add(waits.bytes);
        self.tasks.insert(id, waits);
    }

    fn remove(&mut self, id: RequestId, share: Load) {
        let Some(waits) = self.tasks.remove(&id) else { return };
        for line in waits.lines {
            let is_host = matches!(line, Line::Host(_));
            let Entry::Occupied(mut held) = self.lines.entry(line) else {
                continue;
            };
            let was = held.get().load.exceeds(share);
            held.get_mut().load.remove(waits.bytes);
            held.get_mut().order.remove(&(waits.since, id));
            if is_host && was && !held.get().load.exceeds(share) {
                self.beyond -= 1;
            }
            if held.get().order.is_empty() {
                held.remove();
            }
        }
        self.all.remove(waits.bytes);
    }

    fn bytes_of(&self, id: RequestId) -> usize {
        self.tasks.get(&id).map_or(0, |waits| waits.bytes)
    }
}

/// The tasks picked that are beyond a share.
struct Picked<'a> {
    lines: &'a Lines,
    max: usize,
    found: Vec<(RequestId, Why)>,
    ids: HashSet<RequestId>,
    bytes: usize,
}

impl<'a> Picked<'a> {
    fn of(lines: &'a Lines, max: usize) -> Self {
        Self {
            lines,
            max,
            found: Vec::new(),
            ids: HashSet::new(),
            bytes: 0,
        }
    }

    /// Picks tasks of these lines, longest waiting first, until the rest of the load is within the share.
    fn take(&mut self, of: &[&Held], mut load: Load, share: Load, why: Why) {
        if !load.exceeds(share) {
            return;
        }
        for id in longest(of) {
            if !load.exceeds(share) || self.found.len() >= self.max {
                break;
            }
            if self.ids.insert(id) {
                let bytes = self.lines.bytes_of(id);
                load.remove(bytes);
                self.bytes += bytes;
                self.found.push((id, why));
            }
        }
    }

    /// The load that is left in these lines. Counts a task in several lines once, as far as that can be computed.
    fn rest_of<'b>(&self, of: impl Iterator<Item = &'b &'b Held>) -> Load {
        let (tasks, bytes) = of.fold((0, 0), |(tasks, bytes), held| {
            (tasks + held.load.tasks, bytes + held.load.bytes)
        });
        Load {
            tasks: tasks.min(self.lines.all.tasks).saturating_sub(self.found.len()),
            bytes: bytes.min(self.lines.all.bytes).saturating_sub(self.bytes),
        }
    }
}

impl Line {
    fn asked(&self, answers: &Answers) -> Answering {
        match self {
            Self::Of(destination) => answers.of(destination, None),
            Self::Host(host) => answers.of(&Destination::CALLBACK, Some(host)),
        }
    }
}

fn lines_of(row: &Row) -> Box<[Line]> {
    let mut lines = Vec::with_capacity(row.outbox.len());
    for of in &row.outbox {
        let line = match (of.destination == Destination::CALLBACK, row.record.callback_host()) {
            (true, Some(host)) => Line::Host(host.into()),
            _ => Line::Of(of.destination.clone()),
        };
        // Completions of several generations may have the same line.
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.into()
}

/// The tasks in these lines, longest waiting first. A task in several lines comes several times.
fn longest(lines: &[&Held]) -> impl Iterator<Item = RequestId> {
    let mut rest: Vec<_> = lines.iter().map(|held| held.order.iter().copied()).collect();
    let heads = rest.iter_mut().enumerate();
    let heads = heads.filter_map(|(line, rest)| Some(Reverse((rest.next()?, line))));
    let mut heads: BinaryHeap<_> = heads.collect();
    std::iter::from_fn(move || {
        let Reverse(((_, id), line)) = heads.pop()?;
        heads.extend(rest[line].next().map(|next| Reverse((next, line))));
        Some(id)
    })
}
