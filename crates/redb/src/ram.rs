//! The memory of the store: indexes over the file, and state that may end with the process.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use tower_respond_async::{
    store::{
        Due, DueReason, OutboxRow, Renewal, Row,
        kit::{ControlValues, Orphans, Outbox, Queue, Shelf, Unsorted},
    },
    task::{LeaseRef, Progress, RequestId, WorkerId},
    time::{Clock, Timestamp},
};

/// Built from the rows when the file is opened, and updated by the writer. All other threads only read it, except for
/// [`Held`]: renewals and progress write nothing to the file, and do not use the writer.
///
/// It is ahead of the file by at most the batch that is being committed. A reader that finds a task here, but not in
/// the file yet, skips it.
#[derive(Debug, Default)]
pub(crate) struct Ram {
    pub(crate) queue: Queue,
    pub(crate) outbox: Outbox,
    /// How many damaged values have been found since the file was opened.
    pub(crate) damaged: AtomicU64,
    shelf: Mutex<Shelf>,
    held: Mutex<Held>,
    orphans: Orphans,
    /// Tasks with an unreadable row.
    set_aside: Mutex<HashSet<RequestId>>,
    controls: Mutex<ControlValues>,
}

/// The rows of held tasks, with the renewed leases and the reported progress. Only this process can hold tasks, so
/// leases and progress in the file need not be up to date. Otherwise each row is the one in the file, or in the batch
/// that is being committed.
///
/// Nearly every change of a held task is its end, which therefore does not read the row from the file.
type Held = BTreeMap<RequestId, Row>;

impl Ram {
    /// Adds a row when the file is opened. If the row or one of its completions was held, its holder is gone, and the
    /// row is an orphan. An orphan is neither in the queue nor in the outbox, so that it is not claimed before it has
    /// been rescued.
    pub(crate) fn find(&self, row: &Row, all: &mut Unsorted) {
        all.note(row);
        self.hold(row.id, Some(row));
        if !self.orphans.find(row) {
            self.queue.follow(None, Some(row));
            self.outbox.follow(row.id, &[], &row.outbox);
        }
    }

    /// Finishes opening with all rows, and the tasks whose row was set aside. All leases have lapsed.
    pub(crate) fn found(&mut self, all: Unsorted, set_aside: HashSet<RequestId>, now: Timestamp) {
        self.shelf = Mutex::new(all.sort());
        self.set_aside = Mutex::new(set_aside);
        for row in lock(&self.held).values_mut() {
            row.columns.lease_until = Some(now);
        }
    }

    /// The named values. Only the writer changes them.
    pub(crate) fn controls(&self) -> MutexGuard<'_, ControlValues> {
        lock(&self.controls)
    }

    pub(crate) fn shelf(&self) -> MutexGuard<'_, Shelf> {
        lock(&self.shelf)
    }

    /// Updates the indexes for a row that was added, removed or changed. Returns whether a task may have become
    /// runnable.
    pub(crate) fn follow(&self, before: Option<&Row>, after: Option<&Row>) -> bool {
        let Some(id) = before.or(after).map(|row| row.id) else {
            return false;
        };
        self.shelf().follow(before, after);
        self.hold(id, after);
        let was_orphan = self.orphans.settle(id);
        let before = before.filter(|_| !was_orphan);
        self.outbox.follow(id, outbox(before), outbox(after));
        self.queue.follow(before, after)
    }

    fn hold(&self, id: RequestId, row: Option<&Row>) {
        let mut held = lock(&self.held);
        let Some(row) = row.filter(|row| row.columns.is_held()) else {
            held.remove(&id);
            return;
        };
        let mut row = row.clone();
        // The lease may have been renewed since the writer read it, and the progress reported. The writer changes
        // neither.
        if let Some(known) = held.get(&id) {
            keep_up(&mut row, known);
        }
        held.insert(id, row);
    }

    /// The row of a held task.
    pub(crate) fn held(&self, id: RequestId) -> Option<Row> {
        lock(&self.held).get(&id).cloned()
    }

    /// Puts the lease and the progress of a held task into its row.
    pub(crate) fn complete(&self, row: &mut Row) {
        if !row.columns.is_held() {
            return;
        }
        if let Some(known) = lock(&self.held).get(&row.id) {
            keep_up(row, known);
        }
    }

    pub(crate) fn renew(&self, lease: LeaseRef, time: Duration, clock: &dyn Clock) -> Renewal {
        let mut held = lock(&self.held);
        // The clock is read under the lock. An operation that takes the task away reads the clock before it takes this
        // lock, so a lease that has lapsed for that operation has lapsed here too.
        let now = clock.now();
        let row = held.get_mut(&lease.id);
        row.map_or(Renewal::Lost, |row| row.columns.renew(lease.token, time, now))
    }

    pub(crate) fn set_progress(&self, lease: LeaseRef, progress: Progress) -> bool {
        let mut held = lock(&self.held);
        let row = held.get_mut(&lease.id).filter(|row| row.is_held_by(lease.token));
        row.map(|row| row.columns.progress = Some(progress)).is_some()
    }

    pub(crate) fn held_by(&self, worker: &WorkerId) -> Vec<RequestId> {
        let held = lock(&self.held);
        let own = held
            .iter()
            .filter(|(_, row)| row.columns.worker.as_ref() == Some(worker));
        own.map(|(id, _)| *id).collect()
    }

    /// Up to `max` tasks that are due, with the reason.
    pub(crate) fn due(&self, what: &Due, max: usize, now: Timestamp) -> Vec<(RequestId, DueReason)> {
        let with = |ids: Vec<RequestId>, reason| ids.into_iter().map(move |id| (id, reason));
        match what {
            Due::Rescue { spared } => {
                let mut due: Vec<_> = with(self.orphans.first(max), DueReason::Orphaned).collect();
                due.extend(with(
                    self.queue.lock().over_age(spared, max - due.len(), now),
                    DueReason::OverAge,
                ));
                let held = lock(&self.held);
                let lapsed = held
                    .iter()
                    .filter(|(id, row)| row.columns.has_lapsed(now) && !self.orphans.contains(**id));
                due.extend(lapsed.map(|(id, _)| (*id, DueReason::Lapsed)).take(max - due.len()));
                due
            }
            Due::Prune(retention) => with(self.shelf().past(*retention, max, now), DueReason::Retired).collect(),
            Due::GiveUp { spared, overdue } => {
                let until = now.saturating_sub(*overdue);
                with(self.outbox.overdue(spared, max, until), DueReason::Overdue).collect()
            }
            // The store has no bound for which to make room, and this build has no other kind of `Due`.
            _ => Vec::new(),
        }
    }

    pub(crate) fn is_set_aside(&self, id: RequestId) -> bool {
        lock(&self.set_aside).contains(&id)
    }

    /// Removes a task with an unreadable row from all indexes that operations use. The row itself cannot tell its
    /// places, so all indexes are searched; that is rare, since the row was readable when the file was opened. Its
    /// state is still counted.
    ///
    /// Returns `false` if it was done before.
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

/// Gives a row the lease and the progress of `known`, the row of the same task in memory, if both are of one claim.
fn keep_up(row: &mut Row, known: &Row) {
    if known.columns.token == row.columns.token {
        row.columns.lease_until = known.columns.lease_until;
        row.columns.progress.clone_from(&known.columns.progress);
    }
}

fn outbox(row: Option<&Row>) -> &[OutboxRow] {
    row.map_or(&[], |row| &row.outbox)
}

/// Each value behind a lock changes in one step, so it is consistent even after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
