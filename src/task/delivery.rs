//! A [`Delivery`] and its steps: claimed, tried, settled. As in [`lifecycle`](crate::task::lifecycle), every change is
//! made here, for every store.

use std::{sync::Arc, time::Duration};

use crate::{
    task::{
        Condition, Destination, FenceToken, HistoryEvent, RequestId, Subscriptions, TaskRecord, TaskState,
        lifecycle::Fenced, shorten::shorten,
    },
    time::Timestamp,
};

/// The completion for one destination, with its state. It is written together with the end that caused it.
///
/// # Examples
///
/// A task ends, and its completion is delivered at the first try:
///
/// ```
/// use std::time::Duration;
///
/// use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     RequestId, TaskRecord,
///     task::{
///         CapturedRequest, Conditions, DeliveryStatus, DeliveryTry, Destination, NewTask, Subscription,
///         delivery::DeliveryOutcome, lifecycle::Stop,
///     },
///     time::Timestamp,
/// };
///
/// let (uri, now) = (Uri::from_static("/mail"), Timestamp::from_millis(1_000));
/// let request = CapturedRequest::new(Method::POST, uri, HeaderMap::new(), "hello".into());
/// let mut task = NewTask::new(RequestId::from_bytes([7; 16]), request.into());
/// let (destination, on) = (Destination::new("billing"), Conditions::ALL);
/// task.subscriptions = [Subscription { destination, on }].into();
/// let mut record = TaskRecord::accepted(&task, now);
/// assert_eq!(record.stop(now), Stop::Stopped);
///
/// let mut delivery = record.deliveries[0].clone();
/// let claim = delivery.claim(Duration::from_secs(30), now).ok_or("it is not due")?;
/// let status = delivery.settle(claim.token, &DeliveryOutcome::Delivered, DeliveryTry::new(now), now)?;
/// assert_eq!(status, DeliveryStatus::Delivered);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// The task.
    pub id: RequestId,
    /// The generation that ended.
    pub generation: u32,
    /// The destination.
    pub destination: Destination,
    /// The kind of end.
    pub condition: Condition,
    /// The state in which the generation ended. The task may have been run again since.
    pub ended_as: TaskState,
    /// When the generation ended.
    pub ended_at: Timestamp,
    /// The number of the attempt in which it ended.
    pub attempt: u32,
    /// The error, if there was one; its beginning once the task was run again.
    pub error: Option<Arc<str>>,
    /// The state of the delivery.
    pub status: DeliveryStatus,
    /// When it is due, while it is pending; when it was given up, if it failed or is blocked.
    pub due_at: Timestamp,
    /// The token of its latest claim. Deliveries have tokens of their own, apart from the task's.
    pub token: FenceToken,
    /// Whether that claim is not settled. If its process died, the delivery is due when the lease runs out.
    pub is_claimed: bool,
    /// The tries so far; of very many, the latest.
    pub tries: Vec<DeliveryTry>,
    /// How many tries there were since the delivery was created or last redelivered.
    pub tried: u32,
    /// Whether the task was run again since. If so, only the latest try is kept.
    pub(crate) is_of_before: bool,
}

impl Delivery {
    /// How many tries are kept; only the latest once the task is run again. A schedule has ten tries, and the last few
    /// show why they fail.
    pub const TRIES_KEPT: usize = 5;

    /// How much of the error is kept once the task is run again, in bytes: as much as of a detail of its history.
    pub const ERROR_BYTES: usize = HistoryEvent::DETAIL_BYTES;

    /// The id that every try of this delivery has: `msg_{request id}_{generation}_{destination}`.
    #[must_use]
    pub fn webhook_id(&self) -> String {
        format!("msg_{}_{}_{}", self.id, self.generation, self.destination)
    }
}

/// The state of a delivery, ordered: of several, views show the greatest.
///
/// See the example of [`Delivery`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DeliveryStatus {
    /// There is nothing to deliver.
    #[default]
    None,
    /// The destination took the completion.
    Delivered,
    /// It is not delivered yet.
    Pending,
    /// It was given up: there are no more tries.
    Failed,
    /// It was given up: the address is refused.
    Blocked,
}

impl DeliveryStatus {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Delivered => "Delivered",
            Self::Pending => "Pending",
            Self::Failed => "Failed",
            Self::Blocked => "Blocked",
        }
    }
}

/// One try of a delivery.
///
/// See the example of [`Delivery`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryTry {
    /// When it was made.
    pub at: Timestamp,
    /// The HTTP status of the answer, if there was one.
    pub status_code: Option<u16>,
    /// The error, or the beginning of the answer.
    pub text: Option<Arc<str>>,
}

impl DeliveryTry {
    /// The longest text that is kept of a try, in bytes: enough to tell a time-out from a refusal. Probes get the whole
    /// text.
    pub const TEXT_BYTES: usize = 64;

    /// A try at this time, without a result.
    #[must_use]
    pub const fn new(at: Timestamp) -> Self {
        Self {
            at,
            status_code: None,
            text: None,
        }
    }
}

/// A claim of a delivery.
///
/// See the example of [`Delivery`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeliveryRef {
    /// The task.
    pub id: RequestId,
    /// The generation that ended.
    pub generation: u32,
    /// The destination.
    pub destination: Destination,
    /// The token of the claim.
    pub token: FenceToken,
}

/// How a try of a delivery ended.
///
/// See the example of [`Delivery`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The destination took it.
    Delivered,
    /// The destination did not take it; try again after this long.
    Retry(Duration),
    /// The destination did not take it, and there are no more tries.
    Failed,
    /// The address is refused, for good.
    Blocked,
    /// It was not tried; any process may claim it at once.
    Released,
    /// It was not tried, and is due after this long.
    Postponed(Duration),
}

/// The result of a request to redeliver.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{
///     TaskRecord, Tasks,
///     store::StoreError,
///     task::{Destination, delivery::Redeliver},
/// };
///
/// async fn call_again(tasks: &Tasks, task: &TaskRecord) -> Result<bool, StoreError> {
///     let oncall = Destination::new("oncall"); // the name of a webhook
///     Ok(tasks.redeliver(task.id, task.generation, &oncall).await? == Redeliver::Due)
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Redeliver {
    /// The delivery is due now, under its old webhook id.
    Due,
    /// There is no such delivery.
    Unknown,
}

impl Delivery {
    /// Whether it is pending.
    #[must_use]
    pub const fn is_pending(&self) -> bool {
        matches!(self.status, DeliveryStatus::Pending)
    }

    /// Claims the delivery for one try, until `lease` runs out. `None` unless it is pending and due.
    pub fn claim(&mut self, lease: Duration, now: Timestamp) -> Option<DeliveryRef> {
        if self.status != DeliveryStatus::Pending || self.due_at > now {
            return None;
        }
        self.token = self.token.next();
        self.is_claimed = true;
        // Due again when the lease runs out, so a delivery whose process died needs no rescue.
        self.due_at = now.saturating_add(lease);
        Some(DeliveryRef {
            id: self.id,
            generation: self.generation,
            destination: self.destination.clone(),
            token: self.token,
        })
    }

    /// Records how the try ended, and returns the new status.
    ///
    /// # Errors
    ///
    /// [`Fenced`] if it was claimed again or redelivered since, or is not pending.
    pub fn settle(
        &mut self,
        token: FenceToken,
        outcome: &DeliveryOutcome,
        tried: DeliveryTry,
        now: Timestamp,
    ) -> Result<DeliveryStatus, Fenced> {
        if self.token != token || self.status != DeliveryStatus::Pending {
            return Err(Fenced);
        }
        self.is_claimed = false;
        self.status = match outcome {
            DeliveryOutcome::Delivered => DeliveryStatus::Delivered,
            DeliveryOutcome::Failed => self.over(DeliveryStatus::Failed, now),
            DeliveryOutcome::Blocked => self.over(DeliveryStatus::Blocked, now),
            DeliveryOutcome::Retry(after) => {
                self.due_at = now.saturating_add(*after);
                DeliveryStatus::Pending
            }
            DeliveryOutcome::Released => {
                self.due_at = now;
                return Ok(DeliveryStatus::Pending);
            }
            DeliveryOutcome::Postponed(after) => {
                self.due_at = now.saturating_add(*after);
                return Ok(DeliveryStatus::Pending);
            }
        };
        self.try_over(tried);
        Ok(self.status)
    }

    fn try_over(&mut self, tried: DeliveryTry) {
        self.tried += 1;
        self.show(tried);
    }

    fn show(&mut self, mut tried: DeliveryTry) {
        if let Some(text) = &mut tried.text
            && text.len() > DeliveryTry::TEXT_BYTES
        {
            *text = shorten(text, DeliveryTry::TEXT_BYTES).into();
        }
        self.tries.push(tried);
        self.forget_tries();
    }

    fn forget_tries(&mut self) {
        let kept = if self.is_of_before { 1 } else { Self::TRIES_KEPT };
        self.tries.drain(..self.tries.len().saturating_sub(kept));
    }

    /// Shortens the delivery because the task is run again.
    pub(super) fn run_again(&mut self) {
        self.is_of_before = true;
        self.forget_tries();
        if let Some(error) = &mut self.error
            && error.len() > Self::ERROR_BYTES
        {
            *error = shorten(error, Self::ERROR_BYTES).into();
        }
    }

    const fn over(&mut self, status: DeliveryStatus, now: Timestamp) -> DeliveryStatus {
        self.due_at = now;
        status
    }

    /// Gives the delivery up if it was due for `overdue` and no process claimed it. It is `Failed` then. Its last entry
    /// says why, and does not count as a try.
    ///
    /// Returns whether anything changed.
    pub fn give_up(&mut self, overdue: Duration, now: Timestamp) -> bool {
        if self.status != DeliveryStatus::Pending || self.due_at.saturating_add(overdue) > now {
            return false;
        }
        let seconds = overdue.as_secs_f64();
        self.given_up(
            &format!("given up: it was due for {seconds} s, and no process delivered it"),
            now,
        );
        true
    }

    /// Gives the delivery up because the store has no room for all completions whose destinations do not answer. It is
    /// `Failed` then. Its last entry says why, and does not count as a try. Does nothing while the delivery is being
    /// tried.
    ///
    /// Returns whether anything changed.
    pub fn give_up_for_room(&mut self, now: Timestamp) -> bool {
        let is_tried = self.is_claimed && self.due_at > now;
        if self.status != DeliveryStatus::Pending || is_tried {
            return false;
        }
        self.given_up(NO_ROOM, now);
        true
    }

    fn given_up(&mut self, why: &str, now: Timestamp) {
        let mut shown = DeliveryTry::new(now);
        shown.text = Some(why.into());
        self.show(shown);
        self.status = self.over(DeliveryStatus::Failed, now);
        self.is_claimed = false;
    }

    /// Takes the delivery from a process that is known to be dead, if that had claimed it.
    ///
    /// The claim counts as a try, and the next try may follow at once. After several such claims, the next try waits
    /// for the lease instead, so that a hook that kills its process does not do so over and over without a pause.
    ///
    /// Returns whether anything changed.
    pub fn orphaned(&mut self, now: Timestamp) -> bool {
        if !self.is_claimed {
            return false;
        }
        self.is_claimed = false;
        if self.tried < Self::QUICK_TRIES {
            self.due_at = self.due_at.min(now);
        }
        let mut tried = DeliveryTry::new(now);
        tried.text = Some("the process ended before it could say how this went".into());
        self.try_over(tried);
        true
    }

    /// How many tries may follow a death at once. Fewer than the starts after which a supervisor gives up: five in ten
    /// seconds with systemd.
    const QUICK_TRIES: u32 = 3;

    /// Makes the delivery due now, whatever its status, with its whole schedule ahead. A try under way no longer
    /// counts.
    pub fn redeliver(&mut self, now: Timestamp) {
        self.status = DeliveryStatus::Pending;
        self.due_at = now;
        self.tried = 0;
        // Fences a try under way: its report is from before this request.
        self.token = self.token.next();
        self.is_claimed = false;
    }
}

impl TaskRecord {
    /// The delivery of this generation to this destination.
    #[must_use]
    pub fn delivery(&self, generation: u32, destination: &Destination) -> Option<&Delivery> {
        let mut deliveries = self.deliveries.iter();
        deliveries.find(|delivery| delivery.generation == generation && delivery.destination == *destination)
    }

    /// As [`delivery`](Self::delivery), mutable.
    #[must_use]
    pub(crate) fn delivery_mut(&mut self, generation: u32, destination: &Destination) -> Option<&mut Delivery> {
        let mut deliveries = self.life.deliveries.iter_mut();
        deliveries.find(|delivery| delivery.generation == generation && delivery.destination == *destination)
    }

    /// The number by which clients name the delivery: from 1, in the order of the subscriptions, and on through the
    /// generations. It is not the index among those kept, which changes when the task is run again.
    pub(crate) fn delivery_number(&self, delivery: &Delivery) -> u64 {
        let mut subscriptions = self.subscriptions.iter();
        let index = subscriptions.position(|subscription| subscription.destination == delivery.destination);
        let before = u64::from(delivery.generation.saturating_sub(1)) * Subscriptions::MOST as u64;
        before + index.unwrap_or_default() as u64 + 1
    }

    /// When the task came to rest: when it ended, or when its last failed delivery was given up. Retention counts from
    /// here, so there is time to see a failed delivery and to redeliver it.
    ///
    /// `None` while the task has not ended or has pending deliveries.
    #[must_use]
    pub fn rests_since(&self) -> Option<Timestamp> {
        let ended_at = self.ended_at.filter(|_| self.state.is_terminal())?;
        self.deliveries
            .iter()
            .try_fold(ended_at, |since, delivery| match delivery.status {
                DeliveryStatus::Pending => None,
                DeliveryStatus::Failed | DeliveryStatus::Blocked => Some(since.max(delivery.due_at)),
                DeliveryStatus::Delivered | DeliveryStatus::None => Some(since),
            })
    }
}

const NO_ROOM: &str = "given up: does not answer, and there is no room to go on waiting";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http::{HeaderMap, Method, Uri};

    use super::*;
    use crate::task::{CapturedRequest, Conditions, NewTask, Subscription, Subscriptions, lifecycle::Rescue};

    const LEASE: Duration = Duration::from_secs(30);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn record() -> TaskRecord {
        let request = CapturedRequest::new(Method::GET, Uri::from_static("/a/b"), HeaderMap::new(), Bytes::new());
        let mut task = NewTask::new(RequestId::from_parts(at(0), [0; 10]), Arc::new(request));
        task.subscriptions = Subscriptions::from([Subscription {
            destination: Destination::LOCAL,
            on: Conditions::ALL,
        }]);
        TaskRecord::accepted(&task, at(0))
    }

    #[test]
    fn a_delivery_is_held_by_one_until_its_lease_runs_out() {
        let mut task = record();
        task.invalidate(&"no such request", at(5));
        let delivery = &mut task.life.deliveries[0];
        let first = delivery.claim(LEASE, at(5)).unwrap();
        assert_eq!(delivery.claim(LEASE, at(6)), None);
        let second = delivery.claim(LEASE, at(30_005)).unwrap();
        let tried = DeliveryTry::new(at(30_006));
        let settled = delivery.settle(first.token, &DeliveryOutcome::Delivered, tried.clone(), at(30_006));
        assert_eq!(settled, Err(Fenced));
        let settled = delivery.settle(second.token, &DeliveryOutcome::Delivered, tried, at(30_006));
        assert_eq!(settled, Ok(DeliveryStatus::Delivered));
    }

    #[test]
    fn a_postponed_delivery_is_charged_no_try_and_waits() {
        let mut task = record();
        task.invalidate(&"no such request", at(5));
        let delivery = &mut task.life.deliveries[0];
        let claim = delivery.claim(LEASE, at(5)).unwrap();
        let postponed = DeliveryOutcome::Postponed(Duration::from_secs(9));
        let settled = delivery.settle(claim.token, &postponed, DeliveryTry::new(at(6)), at(6));
        assert_eq!(settled, Ok(DeliveryStatus::Pending));
        assert_eq!((delivery.tried, delivery.tries.len()), (0, 0));
        assert_eq!(delivery.claim(LEASE, at(9_005)), None);
        assert!(delivery.claim(LEASE, at(9_006)).is_some());
    }

    #[test]
    fn a_delivery_made_again_begins_its_schedule_anew_and_keeps_its_tries() {
        let mut task = record();
        task.invalidate(&"no such request", at(5));
        let delivery = &mut task.life.deliveries[0];
        let claim = delivery.claim(LEASE, at(5)).unwrap();
        let settled = delivery.settle(claim.token, &DeliveryOutcome::Failed, DeliveryTry::new(at(6)), at(6));
        assert_eq!(settled, Ok(DeliveryStatus::Failed));
        let id = delivery.webhook_id();
        delivery.redeliver(at(7));
        assert_eq!(
            (delivery.status, delivery.tried, delivery.tries.len()),
            (DeliveryStatus::Pending, 0, 1)
        );
        assert_eq!(delivery.webhook_id(), id);
        let claim = delivery.claim(LEASE, at(7)).unwrap();
        delivery.redeliver(at(8));
        let settled = delivery.settle(claim.token, &DeliveryOutcome::Failed, DeliveryTry::new(at(9)), at(9));
        assert_eq!(
            settled,
            Err(Fenced),
            "what was under way does not take the new order back"
        );
    }

    #[test]
    fn a_delivery_whose_deliverer_died_is_due_at_once_until_too_many_have() {
        let mut task = record();
        task.invalidate(&"no such request", at(5));
        assert!(!task.life.deliveries[0].orphaned(at(6)), "nobody had it");
        for death in 1..=5 {
            let now = at(death * 100_000);
            let delivery = &mut task.life.deliveries[0];
            delivery.claim(LEASE, now).unwrap();
            assert_eq!(task.orphaned(now), Rescue::NotDue, "it had ended");
            assert!(!task.life.deliveries[0].orphaned(now), "it is nobody's now");
            let delivery = &task.deliveries[0];
            assert_eq!(u64::from(delivery.tried), death);
            let due_at = if death <= 3 { now } else { now.saturating_add(LEASE) };
            assert_eq!((delivery.status, delivery.due_at), (DeliveryStatus::Pending, due_at));
        }
    }

    #[test]
    fn an_unclaimed_delivery_is_not_orphaned() {
        let again = DeliveryOutcome::Retry(LEASE);
        let postponed = DeliveryOutcome::Postponed(LEASE);
        for outcome in [again, postponed, DeliveryOutcome::Released] {
            let mut task = record();
            task.invalidate(&"no such request", at(5));
            let delivery = &mut task.life.deliveries[0];
            let claim = delivery.claim(LEASE, at(5)).unwrap();
            let settled = delivery.settle(claim.token, &outcome, DeliveryTry::new(at(5)), at(5));
            assert_eq!(settled, Ok(DeliveryStatus::Pending));
            let before = delivery.clone();
            let _ = task.orphaned(at(6));
            assert_eq!(task.deliveries[0], before, "{outcome:?}");
        }
        let mut task = record();
        task.invalidate(&"no such request", at(5));
        task.life.deliveries[0].redeliver(at(6));
        assert!(!task.life.deliveries[0].orphaned(at(7)));
    }
}
