//! Applies the table of [`state`](crate::task::state) to a record. State, counters, token, times, history and
//! deliveries change together, in one place, for every store.
//!
//! A store calls these methods inside its atomic write, and stores the record if they return `Ok`.

mod steps;

use std::{fmt, sync::Arc, time::Duration};

pub use self::steps::{Edits, Fenced, Outcome, Renewal, Rerun, Rescue, Stop};
use crate::{
    task::{
        Accepted, CapturedRequest, CapturedResponse, Delivery, DeliveryStatus, FenceToken, History, LeaseRef, Life,
        NewTask, Refused, RequestTarget, Step, Subscriptions, TaskRecord, TaskState, WorkerId, record_codec::Unknown,
        shorten::shorten,
    },
    time::Timestamp,
};

/// The longest error text that is kept, in bytes: room for a chain of causes, not for a dump.
pub const ERROR_BYTES: usize = 1024;

/// How many completions of earlier generations may be pending when a task is run again: as many as one generation can
/// have. With more, running it again is [refused](Rerun::Undelivered).
pub const UNDELIVERED: usize = Subscriptions::MOST;

/// How often a handler can answer "not now" in one generation without being charged an attempt. After that, such an
/// answer is a failure like others. So a task waits ten minutes for a rate limit that asks for one minute, and no task
/// goes on for ever.
pub const DEFERRALS: u32 = 10;

/// The shortest and the longest wait of a task that is [handed on](Outcome::HandedOn). In between, it waits for as long
/// as it has been handed on so far, so the waits double. The longest is short: if one process in ten has the task's
/// version, only one claim in ten reaches it.
pub const HANDED_ON_WAIT: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];

/// Details of history events of tasks that wait again. The console reads from them how an attempt ended.
pub(crate) const RELEASED: &str = "released by its worker, uncharged";
pub(crate) const RESCUED: &str = "rescued: its worker was gone";
/// Prefixes; the error follows.
pub(crate) const DEFERRED: &str = "deferred, uncharged: ";
pub(crate) const HANDED_ON: &str = "handed on, uncharged: ";
pub(crate) const RERUN: &str = "run again on request";

impl TaskRecord {
    /// The record of a task that is accepted now.
    #[must_use]
    pub fn accepted(task: &NewTask, now: Timestamp) -> Self {
        let run_at = now.saturating_add(task.delay);
        let life = Life {
            accepted: Arc::new(Accepted::of(task)),
            state: TaskState::Enqueued,
            generation: 1,
            attempt: 0,
            retries: 0,
            deferrals: 0,
            crashes: 0,
            token: FenceToken::NONE,
            worker: None,
            lease_until: None,
            created_at: now,
            handed_on_at: None,
            run_at,
            expires_at: run_at.saturating_add(task.max_age),
            started_at: None,
            ended_at: None,
            status_code: None,
            response: None,
            error: None,
            progress: None,
            history: History::default(),
            deliveries: Vec::new(),
            unknown: Unknown::default(),
        };
        let mut record = Self { life };
        record.note(now, None);
        record
    }

    /// Whether the task may be claimed now.
    #[must_use]
    pub fn is_runnable(&self, now: Timestamp) -> bool {
        self.state.is_queued() && self.run_at <= now && now < self.expires_at
    }

    /// Claims the task for `worker` until `lease` runs out, with a new token.
    ///
    /// The claim counts as a crash until it is settled: a process that dies cannot count it afterwards.
    ///
    /// # Errors
    ///
    /// [`Refused`] unless the task waits. The caller checks first that the task [is due](Self::is_runnable).
    pub fn claim(&mut self, worker: WorkerId, lease: Duration, now: Timestamp) -> Result<LeaseRef, Refused> {
        self.life.state = self.state.after(Step::Claim)?;
        self.life.token = self.token.next();
        self.life.attempt += 1;
        self.life.crashes += 1;
        self.note_worker_before();
        self.life.worker = Some(worker);
        self.life.lease_until = Some(now.saturating_add(lease));
        self.life.started_at = Some(now);
        self.life.progress = None;
        self.note(now, None);
        Ok(self.lease())
    }

    /// Whether the claim with `token` holds the task.
    #[must_use]
    pub fn is_held_by(&self, token: FenceToken) -> bool {
        self.state.is_held() && self.token == token
    }

    /// Extends the claim with `token` to `lease` from now, unless it is lost.
    pub fn renew(&mut self, token: FenceToken, lease: Duration, now: Timestamp) -> Renewal {
        if !self.is_held_by(token) || self.lease_until.is_none_or(|until| until <= now) {
            return Renewal::Lost;
        }
        self.life.lease_until = Some(now.saturating_add(lease));
        Renewal::Renewed {
            stop: self.state == TaskState::Stopping,
        }
    }

    /// Records how the attempt ended, and returns the state that this led to. It can differ from the one requested: a
    /// task with a stop requested ends as stopped.
    ///
    /// # Errors
    ///
    /// [`Fenced`] if `token` no longer holds the task.
    pub fn settle(&mut self, token: FenceToken, outcome: &Outcome, now: Timestamp) -> Result<TaskState, Fenced> {
        if !self.is_held_by(token) {
            return Err(Fenced);
        }
        let next = self.state.after(outcome.step()).map_err(|_| Fenced)?;
        self.life.crashes -= 1;
        match outcome {
            _ if next == TaskState::Stopped => self.end(next, now, Some("stopped on request".into())),
            Outcome::Succeeded { response } => {
                self.keep_response(Some(response));
                self.life.error = None;
                self.end(next, now, None);
            }
            Outcome::Failed { error, response } => {
                self.keep_response(response.as_deref());
                self.life.error = Some(bounded(error));
                self.end(next, now, self.error.clone());
            }
            Outcome::Retry { after, error } => {
                self.life.retries += 1;
                self.life.error = Some(bounded(error));
                self.wait(next, now.saturating_add(*after), now, self.error.clone());
            }
            Outcome::Deferred { after, error } => {
                self.life.attempt -= 1;
                self.life.deferrals += 1;
                self.life.error = Some(bounded(error));
                let detail = Arc::from(format!("{DEFERRED}{error}"));
                self.wait(next, now.saturating_add(*after), now, Some(detail));
            }
            Outcome::HandedOn { error } => {
                self.life.attempt -= 1;
                self.life.error = Some(bounded(error));
                let first = *self.life.handed_on_at.get_or_insert(now);
                let [shortest, longest] = HANDED_ON_WAIT;
                let after = now.since(first).clamp(shortest, longest);
                let detail = Arc::from(format!("{HANDED_ON}{error}"));
                self.wait(next, now.saturating_add(after), now, Some(detail));
            }
            Outcome::Stopped => self.end(next, now, None),
            Outcome::Released => {
                self.life.attempt -= 1;
                self.wait(next, now, now, Some(RELEASED.into()));
            }
        }
        Ok(next)
    }

    /// The version of the application for which a process of the version `here` leaves the task, if it lacks the task's
    /// route: it [hands the task on](Outcome::HandedOn).
    ///
    /// `None` if the task was accepted by the version `here` or by one without a name, or if it had been handed on for
    /// `patience` when it was claimed.
    #[must_use]
    pub fn version_to_wait_for(&self, here: Option<&str>, patience: Duration) -> Option<&Arc<str>> {
        let version = self.version.as_ref().filter(|version| here != Some(&***version))?;
        let times = self.started_at.zip(self.handed_on_at);
        let waited = times.map_or(Duration::ZERO, |(now, first)| now.since(first));
        (waited < patience).then_some(version)
    }

    /// Moves the expiry of a waiting task by the time for which its pool was paused, up to `now`. A task that had
    /// expired before the pause stays as it is.
    ///
    /// Returns whether anything changed.
    pub fn resume(&mut self, paused_at: Timestamp, now: Timestamp) -> bool {
        if !self.state.is_queued() || self.expires_at <= paused_at {
            return false;
        }
        let waited = now.since(paused_at.max(self.created_at));
        self.life.expires_at = self.expires_at.saturating_add(waited);
        !waited.is_zero()
    }

    /// Ends the task or puts it back in the queue, if its lease or its age ran out.
    pub fn rescue(&mut self, now: Timestamp) -> Rescue {
        if self.state.is_queued() && self.expires_at <= now {
            let waited = format!("waited longer than {} s", self.max_age.as_secs_f64());
            self.life.error = Some(waited.into());
            return match self.state.after(Step::Expire) {
                Ok(next) => {
                    self.end(next, now, self.error.clone());
                    Rescue::Expired
                }
                Err(_) => Rescue::NotDue,
            };
        }
        match self.lease_until {
            Some(until) if self.state.is_held() && until <= now => self.crashed(now),
            _ => Rescue::NotDue,
        }
    }

    /// Takes the task from a worker that is known to be dead, whatever its lease.
    pub fn crashed(&mut self, now: Timestamp) -> Rescue {
        let poisoned = self.crashes >= self.crash_allowance;
        let step = if poisoned { Step::Poison } else { Step::Rescue };
        match self.state.after(step) {
            Ok(next @ TaskState::Stopped) => {
                self.end(next, now, Some("stopped on request; its worker was gone".into()));
                Rescue::Stopped
            }
            Ok(next @ TaskState::Failed) => {
                let poison = format!("poison: its worker died {} times while it ran", self.crashes);
                self.life.error = Some(poison.into());
                self.end(next, now, self.error.clone());
                Rescue::Poisoned
            }
            Ok(next) => {
                self.wait(next, now, now, Some(RESCUED.into()));
                Rescue::Requeued
            }
            Err(_) => Rescue::NotDue,
        }
    }

    /// Takes the task and its claimed deliveries from a process that is known to be dead, whatever their leases. For a
    /// store that only one process can open, when it is opened.
    ///
    /// Returns what became of the task. With [`Rescue::NotDue`], its deliveries may still have changed.
    pub fn orphaned(&mut self, now: Timestamp) -> Rescue {
        for delivery in &mut self.life.deliveries {
            delivery.orphaned(now);
        }
        match self.state.is_held() {
            true => self.crashed(now),
            false => Rescue::NotDue,
        }
    }

    /// Requests a stop of the task.
    pub fn stop(&mut self, now: Timestamp) -> Stop {
        match self.state.after(Step::Stop) {
            Ok(TaskState::Stopping) => {
                if self.state != TaskState::Stopping {
                    self.life.state = TaskState::Stopping;
                    self.note(now, None);
                }
                Stop::Stopping
            }
            Ok(next) => {
                self.end(next, now, Some("stopped before it ran".into()));
                Stop::Stopped
            }
            Err(Refused { state, .. }) => Stop::AlreadyEnded(state),
        }
    }

    /// Ends a waiting task whose request cannot be read. Does nothing to a task that does not wait.
    pub fn invalidate(&mut self, reason: &dyn fmt::Display, now: Timestamp) {
        if let Ok(next) = self.state.after(Step::Invalidate) {
            self.life.error = Some(bounded(&reason.to_string()));
            self.end(next, now, self.error.clone());
        }
    }

    /// Starts the ended task anew, as a new generation under its old id. `request` is the request that it will run,
    /// edited or not. Only pending deliveries are kept.
    pub fn rerun(&mut self, request: &CapturedRequest, now: Timestamp) -> Rerun {
        let Ok(next) = self.state.after(Step::Rerun) else {
            return Rerun::NotEnded(self.state);
        };
        let pending = |delivery: &Delivery| delivery.status == DeliveryStatus::Pending;
        if self.deliveries.iter().filter(|delivery| pending(delivery)).count() > UNDELIVERED {
            return Rerun::Undelivered;
        }
        self.life.deliveries.retain(pending);
        self.life.deliveries.iter_mut().for_each(Delivery::run_again);
        let content = request.content();
        if !self.target.is_of(&request.uri) || self.request != content {
            let accepted = Arc::make_mut(&mut self.life.accepted);
            accepted.target = RequestTarget::of(&request.uri);
            accepted.request = content;
        }
        self.life.generation += 1;
        self.life.attempt = 0;
        self.life.retries = 0;
        self.life.deferrals = 0;
        self.life.crashes = 0;
        self.life.handed_on_at = None;
        self.life.started_at = None;
        self.life.ended_at = None;
        self.keep_response(None);
        self.life.error = None;
        self.life.progress = None;
        self.life.expires_at = now.saturating_add(self.max_age);
        self.wait(next, now, now, Some(RERUN.into()));
        Rerun::Enqueued {
            generation: self.generation,
        }
    }

    fn keep_response(&mut self, response: Option<&CapturedResponse>) {
        self.life.status_code = response.map(|response| response.status.as_u16());
        self.life.response = response.map(CapturedResponse::content);
    }

    /// Sets the worker of the previous attempt in its history event. The claim of that attempt does not do this: most
    /// tasks have one attempt, and the record has the worker of the latest.
    fn note_worker_before(&mut self) {
        let before = self
            .life
            .history
            .iter_mut()
            .rfind(|event| event.state == TaskState::Running);
        if let Some((event, worker)) = before.zip(self.life.worker.as_ref()) {
            event.detail = Some(worker.shared());
        }
    }

    fn wait(&mut self, state: TaskState, until: Timestamp, now: Timestamp, detail: Option<Arc<str>>) {
        self.life.state = state;
        self.life.run_at = until;
        self.life.lease_until = None;
        self.note(now, detail);
    }

    /// Ends a generation: sets the state, and adds a delivery for each destination that is subscribed to this end.
    fn end(&mut self, state: TaskState, now: Timestamp, detail: Option<Arc<str>>) {
        self.life.state = state;
        self.life.ended_at = Some(now);
        self.life.lease_until = None;
        self.note(now, detail);
        let Some(condition) = state.condition() else {
            return;
        };
        let Life {
            accepted,
            deliveries,
            error,
            generation,
            attempt,
            ..
        } = &mut self.life;
        for subscription in accepted.subscriptions.iter().filter(|s| s.on.contains(condition)) {
            deliveries.push(Delivery {
                id: accepted.id,
                generation: *generation,
                destination: subscription.destination.clone(),
                condition,
                ended_as: state,
                ended_at: now,
                attempt: *attempt,
                error: error.clone(),
                status: DeliveryStatus::Pending,
                due_at: now,
                token: FenceToken::NONE,
                is_claimed: false,
                tries: Vec::new(),
                tried: 0,
                is_of_before: false,
            });
        }
    }

    fn note(&mut self, at: Timestamp, detail: Option<Arc<str>>) {
        self.life.history.note(self.state, at, self.attempt, detail);
    }
}

fn bounded(text: &str) -> Arc<str> {
    shorten(text, ERROR_BYTES).into()
}

#[cfg(test)]
mod tests;
