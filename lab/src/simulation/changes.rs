//! Checks the invariants against every change of a task.
//!
//! Below the faults, nothing names the step of a life that a change makes. The new record shows it.

use super::{
    known::{Gone, Settlement},
    witness::{Commit, Turn},
    world::{PATIENCE, World},
};
use tower_respond_async::{
    store::{Change, Guard, Row},
    task::{
        CapturedRequest, Delivery, DeliveryStatus, Destination, RequestId, TaskRecord, TaskState, lifecycle::DEFERRALS,
    },
    time::Timestamp,
};

impl World {
    pub(super) fn committed(&mut self, commit: &Commit) {
        let (id, change) = (commit.change.id, &commit.change);
        self.touched.insert(id);
        let Turn { before, after } = &commit.turn;
        let against = match before {
            Some(row) => what_speaks_against(change, row, self.store_time()),
            None => Some("it is not there"),
        };
        if !commit.is_made {
            self.report.stale_changes += 1;
            self.check(
                7,
                before == after,
                format_args!("a change that came too late changed {id}"),
            );
            let rightly = against.is_some();
            self.check(2, rightly, format_args!("a change of {id} was refused for no reason"));
            return;
        }
        let rightly = against.is_none();
        self.check(7, rightly, format_args!("{id} was changed although {against:?}"));
        match (before, after) {
            (Some(before), Some(after)) => self.changed(commit, before, after),
            (Some(before), None) => self.removed(commit, before),
            (None, _) => {}
        }
        self.orphans.remove(&id);
    }

    fn removed(&mut self, commit: &Commit, before: &Row) {
        let (id, now, retention) = (before.id, self.store_time(), self.retention);
        let columns = &before.columns;
        self.check(
            1,
            commit.change.to.is_none(),
            format_args!("{id} was changed and is gone"),
        );
        self.check(
            1,
            columns.state.is_terminal(),
            format_args!("{id} was removed as {}", columns.state),
        );
        let Some(known) = self.known.get_mut(&id) else { return };
        // Removed by its client (alone), or pruned with others because its retention was over.
        let (gone, rightly) = match commit.alone {
            true => (Gone::Deleted, known.asked.delete),
            false => {
                let kept = retention.of(columns.state);
                let past = columns.rests_at.is_some_and(|at| at.saturating_add(kept) <= now);
                (Gone::Pruned, past)
            }
        };
        known.gone = Some(gone);
        self.check(1, rightly, format_args!("{id} was stored and is {gone:?} at {now}"));
    }

    fn changed(&mut self, commit: &Commit, before: &Row, after: &Row) {
        let id = before.id;
        let raised = after.version == before.version + 1;
        self.check(
            7,
            raised,
            format_args!("{id} went from version {} to {}", before.version, after.version),
        );
        let (columns, of_before) = (&after.columns, &before.columns);
        if columns.is_held() {
            let leaves = columns.lease_until == of_before.lease_until && columns.progress == of_before.progress;
            self.check(
                3,
                leaves,
                format_args!("a change of {id} touched the lease of its holder"),
            );
        }
        let (was, is) = (before.clone().into_record(), after.clone().into_record());
        self.check(
            7,
            was.token == is.token,
            format_args!("{id} was changed under another claim"),
        );
        self.check_outbox(after);
        if columns.is_held()
            && let Some(known) = self.known.get_mut(&id)
        {
            known.held.insert(after.version, is.token.get());
        }
        match (was.state, is.state) {
            (from, TaskState::Enqueued) if from.is_terminal() => return self.ran_again(commit, &was, &is),
            (from, _) if from.is_terminal() => self.check_untouched(&was, &is),
            (from, to) if from == to => self.check_untouched(&was, &is),
            (from, _) if from.is_queued() => self.left_the_queue(before, &is),
            (_, TaskState::Stopping) => self.stopped(&is),
            (_, _) if is.crashes == was.crashes => self.rescued(&commit.change, before, &is),
            (_, _) => self.settled(&was, &is, after),
        }
        if !was.state.is_terminal() && is.state.is_terminal() {
            self.ended(&is);
        }
        self.check(
            4,
            was.generation == is.generation,
            format_args!("{id} is in another generation"),
        );
        self.check_deliveries(&was, &is);
    }

    /// A change of an ended task, or of one whose state it does not change, may change deliveries only.
    fn check_untouched(&self, was: &TaskRecord, is: &TaskRecord) {
        let mut expected = (**was).clone();
        expected.deliveries.clone_from(&is.deliveries);
        let untouched = expected == **is;
        self.check(
            4,
            untouched,
            format_args!("{} was {} and was changed", is.id, was.state),
        );
    }

    fn left_the_queue(&mut self, before: &Row, is: &TaskRecord) {
        let id = is.id;
        match is.state {
            TaskState::Stopped => self.stopped(is),
            TaskState::Expired => {
                let late = before.columns.expires_at <= self.store_time();
                self.check(5, late, format_args!("{id} expired before its time"));
                self.note_rescue(id);
            }
            state => self.fail(4, format_args!("{id} waited and is {state} unclaimed")),
        }
    }

    fn stopped(&mut self, is: &TaskRecord) {
        let id = is.id;
        let Some(known) = self.known.get_mut(&id) else { return };
        known.stopped = Some(is.generation);
        let asked = known.asked.stop;
        self.check(12, asked, format_args!("{id} was stopped, and not by its client"));
    }

    fn rescued(&mut self, change: &Change, before: &Row, is: &TaskRecord) {
        let (id, now) = (is.id, self.store_time());
        let lapsed = before.columns.lease_until.is_some_and(|until| until <= now);
        let is_orphan = self.orphans.contains(&id);
        self.check(7, lapsed || is_orphan, format_args!("{id} was taken from who holds it"));
        // A clock read before the change may go back before the change is made. The guard makes the store check the
        // lease.
        let guarded = is_orphan || matches!(change.guard, Guard::Lapsed(_));
        self.check(
            7,
            guarded,
            format_args!("{id} was rescued, whether its holder lives or not"),
        );
        self.check_stop(before.columns.state, is);
        self.note_rescue(id);
        self.note(format_args!("{id} was rescued and is {}", is.state));
    }

    fn note_rescue(&mut self, id: RequestId) {
        if let Some(known) = self.known.get_mut(&id) {
            known.rescued += 1;
        }
    }

    fn settled(&mut self, was: &TaskRecord, is: &TaskRecord, after: &Row) {
        let (id, token, state) = (is.id, was.token.get(), is.state);
        let Some(known) = self.known.get_mut(&id) else { return };
        let report = known.asked.settle.get(&token);
        let asked = report.map(|report| (report.released, report.deferred));
        let settlement = Settlement {
            state,
            record: after.record.clone(),
        };
        let is_first = known.settled.insert(token, settlement).is_none();
        let Some((released, deferred)) = asked else {
            self.fail(7, format_args!("{id} was settled, and not by its holder"));
            return;
        };
        self.check(7, is_first, format_args!("{id} was settled twice under one claim"));
        self.check_stop(was.state, is);
        let deferrals = is.deferrals.wrapping_sub(was.deferrals);
        self.check(
            5,
            deferrals <= u32::from(deferred && state.is_queued()) && is.deferrals <= DEFERRALS,
            format_args!("{id} was deferred {} times", is.deferrals),
        );
        self.check(
            5,
            was.crashes - is.crashes == 1,
            format_args!("{id} was charged with a crash"),
        );
        if !state.is_queued() {
            return;
        }
        let cost = (was.attempt - is.attempt, is.retries - was.retries);
        let (rightly, is_charged) = match cost {
            (0, 1) => (deferrals == 0, true),
            (1, 0) => (deferrals == 1 || released, false),
            _ => (false, true),
        };
        self.check(5, rightly, format_args!("{id} waits again, at the cost of {cost:?}"));
        if let Some(known) = self.known.get_mut(&id).filter(|_| !is_charged) {
            known.charged -= 1;
            // The next attempt gets the same number.
            known.claimed.1 -= 1;
        }
    }

    fn check_stop(&self, from: TaskState, is: &TaskRecord) {
        let stops = from != TaskState::Stopping || is.state == TaskState::Stopped;
        self.check(8, stops, format_args!("{} was to stop and is {}", is.id, is.state));
    }

    fn ended(&mut self, is: &TaskRecord) {
        let (id, generation) = (is.id, is.generation);
        let Some(known) = self.known.get_mut(&id) else { return };
        let is_first = known.ends.insert(generation, is.state).is_none();
        self.check(4, is_first, format_args!("{id} ended twice in generation {generation}"));
    }

    fn ran_again(&mut self, commit: &Commit, was: &TaskRecord, is: &TaskRecord) {
        let (id, payload) = (is.id, commit.change.request.clone());
        let request = payload.and_then(|payload| CapturedRequest::from_payload(payload).ok());
        let Some(known) = self.known.get_mut(&id) else { return };
        let asked = known.run_again(is.generation, request);
        self.check(9, asked, format_args!("{id} runs again, and nobody asked for it"));
        self.check(
            4,
            is.generation == was.generation + 1,
            format_args!("{id} ran again as generation {}", is.generation),
        );
        // Pending deliveries of earlier ends stay pending.
        let pending = |record: &TaskRecord| -> Vec<_> {
            let pending = record.deliveries.iter().filter(|it| it.is_pending());
            pending
                .map(|it| (it.generation, it.destination.clone(), it.token, it.due_at))
                .collect()
        };
        self.check(
            6,
            pending(was) == pending(is),
            format_args!("{id} ran again, and its ends are told no more"),
        );
    }

    /// The outbox holds exactly the pending deliveries.
    fn check_outbox(&self, row: &Row) {
        let pending = || row.record.deliveries.iter().filter(|it| it.is_pending());
        let all = pending().all(|it| row.outbox_row(it.generation, &it.destination).is_some());
        self.check(
            6,
            all && pending().count() == row.outbox.len(),
            format_args!("the outbox of {} is not what is to be told of it", row.id),
        );
    }

    fn check_deliveries(&mut self, was: &TaskRecord, is: &TaskRecord) {
        let id = is.id;
        for old in &was.deliveries {
            match is.delivery(old.generation, &old.destination) {
                None => self.fail(6, format_args!("a delivery of {id} is gone")),
                Some(new) if new != old => self.delivery_changed(old, new),
                Some(_) => {}
            }
        }
        let ended_now = is.state.is_terminal() && !was.state.is_terminal();
        let new = is.deliveries.iter();
        let mut new = new.filter(|it| was.delivery(it.generation, &it.destination).is_none());
        let rightly = new.all(|it| ended_now && it.generation == is.generation);
        self.check(6, rightly, format_args!("an end of {id} is told that was none"));
    }

    fn delivery_changed(&mut self, old: &Delivery, new: &Delivery) {
        let (id, now) = (old.id, self.store_time());
        let is_orphan = self.orphans.contains(&id) && old.is_claimed;
        let of = (old.generation, old.destination.clone(), old.token.get());
        let Some(known) = self.known.get_mut(&id) else { return };
        if new.token != old.token {
            let asked = known.asked.redeliver && new.is_pending() && new.due_at == now;
            self.report.redelivered += 1;
            return self.check(7, asked, format_args!("a delivery of {id} was begun anew"));
        }
        let is_given_up = new.status == DeliveryStatus::Failed && new.tried == old.tried;
        if is_given_up {
            known.given_up += 1;
            self.report.given_up += 1;
            // Either no process has this destination, or its receiver has not answered for so long that its turn does
            // not come.
            let others = old.destination != Destination::LOCAL;
            known
                .told
                .entry((old.generation, old.destination.clone()))
                .or_default()
                .taken = true;
            let rightly = others && old.due_at.saturating_add(PATIENCE) <= now;
            return self.check(
                6,
                rightly,
                format_args!("telling {} of {id} was given up", old.destination),
            );
        }
        if known.asked.deliver.contains(&of) && old.is_claimed {
            let is_first = known.delivered.insert(of);
            return self.check(7, is_first, format_args!("a try to tell of {id} was settled twice"));
        }
        self.check(
            7,
            is_orphan && !new.is_claimed,
            format_args!("a delivery of {id} was settled, and not by who has it"),
        );
    }
}

/// Why a change may not be made of this row, or `None` if it may.
fn what_speaks_against(change: &Change, row: &Row, now: Timestamp) -> Option<&'static str> {
    let (Guard::Version(version) | Guard::Lapsed(version)) = change.guard;
    let holds = row.columns.is_held() && row.columns.lease_until.is_some_and(|until| now < until);
    let outbox = change.to.as_ref().map_or(&[][..], |next| &next.outbox);
    let mut outbox = outbox.iter();
    let is_other = outbox.any(|of| {
        let row = row.outbox_row(of.generation, &of.destination);
        row.map(|row| row.token) != of.was
    });
    match change.guard {
        _ if version != row.version => Some("it was changed since"),
        Guard::Lapsed(_) if holds => Some("its lease holds"),
        _ if is_other => Some("a completion was claimed since"),
        _ => None,
    }
}
