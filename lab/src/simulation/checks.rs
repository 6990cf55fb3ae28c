//! Checks the invariants against everything that was done in the store.

use std::time::Duration;

use super::{
    witness::{Found, FoundRequest, Seen, Turn},
    world::{CRASH_ALLOWANCE, MAX_ATTEMPTS, World},
};
use tower_respond_async::{
    store::{DueReason, InitialClaim, OutboxRow, Renewal, Row},
    task::{Destination, LeaseRef, Progress, RequestId, TaskState},
    time::Timestamp,
};

impl World {
    /// Checks everything that was done since the last call.
    pub(super) fn look_at_what_was_done(&mut self) {
        for seen in self.witness().seen() {
            self.look_at(seen);
        }
    }

    fn look_at(&mut self, seen: Seen) {
        match seen {
            Seen::Odd(id, what) => self.fail(7, format_args!("{id} {what}")),
            // It may have been done. `reconcile` decides when the store is opened again.
            Seen::Unsure(unsure) => self.unsure.push(unsure),
            Seen::Inserted {
                sent,
                claim,
                row,
                request,
            } => self.inserted(Some((&sent, claim.as_ref())), &row, &request),
            Seen::Claimed {
                by,
                before,
                row,
                request,
            } => {
                self.check_claim(&by, &before, &row);
                self.claimed(&row, &request);
            }
            Seen::Renewed { time, renewals, turn } => self.renewed(time, &renewals, &turn),
            Seen::Progressed {
                lease,
                progress,
                held,
                turn,
            } => self.progressed(lease, progress, held, &turn),
            Seen::Looked {
                found,
                is_full,
                overlooked,
            } => self.looked(&found, is_full, &overlooked),
            Seen::Committed(commit) => self.committed(&commit),
            Seen::DeliveriesClaimed { lease, claimed, turn } => self.deliveries_claimed(lease, &claimed, &turn),
        }
    }

    /// A task was claimed: it must have waited, and only its columns may have changed.
    fn check_claim(&self, by: &InitialClaim, before: &Found, row: &Row) {
        let (id, now) = (row.id, self.store_time());
        let Some(before) = before else {
            self.fail(9, format_args!("{id} was claimed, and was not there"));
            return;
        };
        let runnable = before.columns.is_queued() && before.columns.run_at <= now && now < before.columns.expires_at;
        self.check(
            5,
            runnable,
            format_args!("{id} was claimed as {}, or early, or late", before.columns.state),
        );
        let columns_only =
            row.version == before.version + 1 && row.record == before.record && row.outbox == before.outbox;
        self.check(
            7,
            columns_only,
            format_args!("a claim changed more of {id} than columns"),
        );
        self.check_lease(row, by);
    }

    /// This worker holds the task from now on.
    pub(super) fn check_lease(&self, row: &Row, by: &InitialClaim) {
        let (columns, now) = (&row.columns, self.store_time());
        let held = columns.state == TaskState::Running
            && columns.worker.as_ref() == Some(&by.worker)
            && columns.lease_until == Some(now.saturating_add(by.lease))
            && columns.started_at == Some(now)
            && columns.progress.is_none();
        self.check(3, held, format_args!("{} is not held as it was claimed", row.id));
    }

    /// A task was claimed.
    pub(super) fn claimed(&mut self, row: &Row, request: &FoundRequest) {
        let (id, record) = (row.id, row.clone().into_record());
        self.report.attempts += 1;
        self.touched.insert(id);
        let Some(known) = self.known.get_mut(&id) else {
            self.fail(9, format_args!("{id} was claimed, and nobody ordered it"));
            return;
        };
        known.charged += 1;
        known.held.insert(row.version, record.token.get());
        let (generation, attempt, token) = known.claimed;
        known.claimed = (record.generation, record.attempt, record.token.get());
        let grown = record.token.get() > token
            && (record.generation > generation || record.generation == generation && record.attempt >= attempt);
        let (charged, stopped) = (known.charged, known.stopped);
        let same = request.as_ref() == Some(&*known.request);
        self.check(5, grown, format_args!("{id} went back in its attempts"));
        self.check(
            5,
            record.attempt == charged,
            format_args!("{id} is in attempt {}, not {charged}", record.attempt),
        );
        let bounded = record.attempt <= MAX_ATTEMPTS + CRASH_ALLOWANCE;
        self.check(5, bounded, format_args!("{id} is in attempt {}", record.attempt));
        let stopped = stopped.is_some_and(|stopped| stopped >= record.generation);
        self.check(8, !stopped, format_args!("{id} ran after it was stopped"));
        self.check(9, same, format_args!("{id} has another request now"));
    }

    fn renewed(&self, time: Duration, renewals: &[(LeaseRef, Renewal)], turn: &Turn) {
        let now = self.store_time();
        let mut expected = turn.before.clone();
        for (lease, renewal) in renewals {
            let id = lease.id;
            let until = turn.before.as_ref().and_then(|row| row.columns.lease_until);
            let holds = is_held(&turn.before, *lease) && until.is_some_and(|until| now < until);
            let renewed = *renewal != Renewal::Lost;
            self.check(3, !renewed || holds, format_args!("a lapsed claim of {id} was renewed"));
            self.check(3, renewed || !holds, format_args!("a claim of {id} was not renewed"));
            if let Some(row) = expected.as_mut().filter(|_| renewed) {
                row.columns.lease_until = Some(now.saturating_add(time));
                let stop = row.columns.state == TaskState::Stopping;
                let told = *renewal == Renewal::Renewed { stop };
                self.check(8, told, format_args!("the holder of {id} was not told of a stop"));
            }
        }
        let as_said = turn.after == expected;
        self.check(3, as_said, format_args!("a renewal made something else than was said"));
    }

    fn progressed(&self, lease: LeaseRef, progress: Progress, held: bool, turn: &Turn) {
        let id = lease.id;
        let holds = is_held(&turn.before, lease);
        self.check(7, held == holds, format_args!("progress of {id}: {held}"));
        let mut expected = turn.before.clone();
        if let Some(row) = expected.as_mut().filter(|_| held) {
            row.columns.progress = Some(progress);
        }
        let as_said = turn.after == expected;
        self.check(7, as_said, format_args!("progress made something else of {id}"));
    }

    /// A process searched for tasks to rescue. The search must find all that are due, and those of dead processes.
    fn looked(&self, found: &[(RequestId, DueReason)], is_full: bool, overlooked: &[RequestId]) {
        if is_full {
            return;
        }
        let overlooked = overlooked.first();
        self.check(
            2,
            overlooked.is_none(),
            format_args!("{overlooked:?} is due and was overlooked"),
        );
        for id in &self.orphans {
            let is_found = found.contains(&(*id, DueReason::Orphaned));
            self.check(
                2,
                is_found,
                format_args!("the holder of {id} is dead and it was overlooked"),
            );
        }
        let mut held = found.iter().filter(|(_, reason)| *reason == DueReason::Orphaned);
        let rightly = held.all(|(id, _)| self.orphans.contains(id));
        self.check(3, rightly, format_args!("the living were taken for dead"));
    }

    /// Completions were claimed: only their rows may have changed.
    fn deliveries_claimed(&mut self, lease: Duration, claimed: &[(u32, Destination)], turn: &Turn) {
        let now = self.store_time();
        let (Some(before), Some(after)) = (&turn.before, &turn.after) else {
            self.fail(6, format_args!("completions of a task were claimed that is not there"));
            return;
        };
        let id = before.id;
        self.touched.insert(id);
        let of = |row: &OutboxRow| {
            claimed
                .iter()
                .any(|(g, d)| (*g, d) == (row.generation, &row.destination))
        };
        let mut expected = before.clone();
        let mut due = 0;
        for row in expected.outbox.iter_mut().filter(|row| of(row)) {
            due += usize::from(row.due_at <= now);
            let token = row.token;
            claim(row, lease, now);
            // The store decides by how much the token grows.
            let given = after.outbox.iter().find(|given| {
                (given.generation, &given.destination) == (row.generation, &row.destination) && given.token > token
            });
            row.token = given.map_or(row.token, |given| given.token);
        }
        self.check(6, due == claimed.len(), format_args!("{id} was told too early"));
        let as_said = *after == expected;
        self.check(
            7,
            as_said,
            format_args!("a claim of completions made something else of {id}"),
        );
    }
}

/// Claims the completion as the contract of the store says.
fn claim(row: &mut OutboxRow, lease: Duration, now: Timestamp) {
    row.token = row.token.next();
    row.claimed = true;
    row.due_at = now.saturating_add(lease);
}

pub(super) fn is_held(row: &Found, lease: LeaseRef) -> bool {
    row.as_ref().is_some_and(|row| row.is_held_by(lease.token))
}
