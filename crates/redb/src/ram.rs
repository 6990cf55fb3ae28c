//! What the store keeps in memory beside the file: indexes, and all that a process which ends may take with it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use tower_respond_async::{
    store::{
        Columns, Due, OutboxRow, Renewal, Row, Why,
        kit::{ControlValues, Orphans, Outbox, Queue, Shelf, Unsorted},
    },
    task::{LeaseRef, Progress, RequestId, WorkerId},
    time::{Clock, Timestamp},
};

/// Built from the rows when the file is opened, and changed with them by the writer. Everybody else only reads it, but for
/// what is [held](Held): renewing and reporting progress write nothing to the file and need not ask the writer.
///
/// It runs ahead of the file by at most the batch that is being committed; a reader that finds a task here and not yet
/// in the file passes it over.
#[derive(Debug, Default)]
pub(crate) struct Ram {
    pub(crate) queue: Queue,
    pub(crate) outbox: Outbox,
    /// How many values were found damaged since the file was opened.
    pub(crate) damaged: AtomicU64,
    shelf: Mutex<Shelf>,
    held: Mutex<Held>,
    orphans: Orphans,
    /// Tasks whose row cannot be read.
    set_aside: Mutex<HashSet<RequestId>>,
    controls: Mutex<ControlValues>,
}

/// The columns of the tasks that are held, and in them the leases as they were renewed and the progress as it was
/// reported: nobody outside of this process may hold a task, so that what is written of either need not be up to date.
type Held = BTreeMap<RequestId, Columns>;

impl Ram {
    /// Notes a row as it is found when the file is opened. If a process held it, or one of its completions, that one is
    /// gone: the row is an orphan then, and neither in the queue nor in the outbox, for nobody to take it before somebody
    /// has decided what becomes of it.
    pub(crate) fn find(&self, row: &Row, all: &mut Unsorted) {
        all.note(row);
        self.hold(row.id, Some(&row.columns));
        if !self.orphans.find(row) {
            self.queue.follow(None, Some(row));
            self.outbox.follow(row.id, &[], &row.outbox);
        }
    }

    /// All that was found, and the tasks whose row was set aside. Whatever is held has lapsed.
    pub(crate) fn found(&mut self, all: Unsorted, set_aside: HashSet<RequestId>, now: Timestamp) {
        self.shelf = Mutex::new(all.sort());
        self.set_aside = Mutex::new(set_aside);
        for columns in lock(&self.held).values_mut() {
            columns.lease_until = Some(now);
        }
    }

    /// The named values, which the writer alone changes.
    pub(crate) fn controls(&self) -> MutexGuard<'_, ControlValues> {
        lock(&self.controls)
    }

    pub(crate) fn shelf(&self) -> MutexGuard<'_, Shelf> {
        lock(&self.shelf)
    }

    /// Notes a row that comes, goes, or is another one now. Answers whether something may be runnable that was not.
    pub(crate) fn follow(&self, before: Option<&Row>, after: Option<&Row>) -> bool {
        let Some(id) = before.or(after).map(|row| row.id) else {
            return false;
        };
        self.shelf().follow(before, after);
        self.hold(id, after.map(|row| &row.columns));
        let was_orphan = self.orphans.settle(id);
        let before = before.filter(|_| !was_orphan);
        self.outbox.follow(id, outbox(before), outbox(after));
        self.queue.follow(before, after)
    }

    fn hold(&self, id: RequestId, columns: Option<&Columns>) {
        let mut held = lock(&self.held);
        let Some(columns) = columns.filter(|columns| columns.is_held()) else {
            held.remove(&id);
            return;
        };
        let mut columns = columns.clone();
        if let Some(known) = held.get(&id).filter(|known| known.token == columns.token) {
            // Renewed since the writer looked, maybe: neither is the writer's.
            columns.lease_until = known.lease_until;
            columns.progress.clone_from(&known.progress);
        }
        held.insert(id, columns);
    }

    /// Puts what only memory knows of a held task into its row.
    pub(crate) fn complete(&self, row: &mut Row) {
        if !row.columns.is_held() {
            return;
        }
        let held = lock(&self.held);
        if let Some(known) = held.get(&row.id).filter(|known| known.token == row.columns.token) {
            row.columns.lease_until = known.lease_until;
            row.columns.progress.clone_from(&known.progress);
        }
    }

    pub(crate) fn renew(&self, lease: LeaseRef, time: Duration, clock: &dyn Clock) -> Renewal {
        let mut held = lock(&self.held);
        // Read under the lock: who takes a task away has read the clock before it looked here, and what has lapsed for
        // that one has lapsed for this.
        let now = clock.now();
        let columns = held.get_mut(&lease.id);
        columns.map_or(Renewal::Lost, |columns| columns.renew(lease.token, time, now))
    }

    pub(crate) fn set_progress(&self, lease: LeaseRef, progress: Progress) -> bool {
        let mut held = lock(&self.held);
        let columns = held.get_mut(&lease.id).filter(|columns| columns.token == lease.token);
        columns.map(|columns| columns.progress = Some(progress)).is_some()
    }

    pub(crate) fn held_by(&self, worker: &WorkerId) -> Vec<RequestId> {
        let held = lock(&self.held);
        let own = held
            .iter()
            .filter(|(_, columns)| columns.worker.as_ref() == Some(worker));
        own.map(|(id, _)| *id).collect()
    }

    /// Up to `max` tasks that are due for this, and why.
    pub(crate) fn due(&self, what: &Due, max: usize, now: Timestamp) -> Vec<(RequestId, Why)> {
        let with = |ids: Vec<RequestId>, why| ids.into_iter().map(move |id| (id, why));
        match what {
            Due::Rescue { spared } => {
                let mut due: Vec<_> = with(self.orphans.first(max), Why::Orphaned).collect();
                due.extend(with(
                    self.queue.lock().over_age(spared, max - due.len(), now),
                    Why::OverAge,
                ));
                let held = lock(&self.held);
                let lapsed = held
                    .iter()
                    .filter(|(id, columns)| columns.has_lapsed(now) && !self.orphans.contains(**id));
                due.extend(lapsed.map(|(id, _)| (*id, Why::Lapsed)).take(max - due.len()));
                due
            }
            Due::Prune(retention) => with(self.shelf().past(*retention, max, now), Why::Retired).collect(),
            Due::GiveUp { spared, overdue } => {
                let until = now.saturating_sub(*overdue);
                with(self.outbox.overdue(spared, max, until), Why::Overdue).collect()
            }
            // There is no bound to keep room under, and nothing else that this build knows of.
            _ => Vec::new(),
        }
    }

    pub(crate) fn is_set_aside(&self, id: RequestId) -> bool {
        lock(&self.set_aside).contains(&id)
    }

    /// Takes a task whose row cannot be read out of all orders that somebody asks for. Its row would have said where it
    /// stands; it was well when the file was opened, so this is rare. Only its state is counted on.
    ///
    /// Answers whether that was not done before.
    pub(crate) fn set_aside(&self, id: RequestId) -> bool {
        if !lock(&self.set_aside).insert(id) {
            return false;
        }
        self.shelf().purge(id);
        lock(&self.held).remove(&id);
        self.orphans.settle(id);
        self.queue.lock().purge(id);
        self.outbox.purge(id);
        true
    }
}

fn outbox(row: Option<&Row>) -> &[OutboxRow] {
    row.map_or(&[], |row| &row.outbox)
}

/// What is behind a lock is changed in one step, so that a panic leaves it in order.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
