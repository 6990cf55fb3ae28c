//! A [`Delivery`] and what becomes of it: claimed, tried, settled. As in [`lifecycle`](crate::task::lifecycle), all that
//! changes of it changes here, for every store.

use std::{sync::Arc, time::Duration};

use crate::{
    task::{
        Condition, Destination, FenceToken, HistoryEvent, RequestId, Subscriptions, TaskRecord, TaskState,
        lifecycle::Fenced, shorten::shorten,
    },
    time::Timestamp,
};

/// One completion on its way to one destination: the outbox entry, written together with the state that caused it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// The task.
    pub id: RequestId,
    /// Which run-through of it.
    pub generation: u32,
    /// Where to.
    pub destination: Destination,
    /// The kind of end.
    pub condition: Condition,
    /// The state it ended in: the task itself may have been run again since.
    pub ended_as: TaskState,
    /// When it ended.
    pub ended_at: Timestamp,
    /// In which attempt it ended.
    pub attempt: u32,
    /// What went wrong, if it did: the error of the record, and once that is another run's, the beginning of it.
    pub error: Option<Arc<str>>,
    /// How the delivery stands.
    pub status: DeliveryStatus,
    /// When it is due, while it is pending; when it was given up, if it failed or is blocked.
    pub due_at: Timestamp,
    /// Who claimed it last, as a token of its own.
    pub token: FenceToken,
    /// Whether that one has not said yet how it went. It may be dead: then the delivery is due when its lease runs out.
    pub is_claimed: bool,
    /// Every try so far; of very many, the latest.
    pub tries: Vec<DeliveryTry>,
    /// How many tries there were since it came to be, or since somebody asked for it to be made again.
    pub tried: u32,
    /// Whether the task was run again since: then no more than the latest try is kept.
    pub(crate) is_of_before: bool,
}

impl Delivery {
    /// How many tries are kept to be looked at: as long as the task is not run again, and then the latest. A schedule has ten;
    /// how the last few went tells why they do not succeed.
    pub const TRIES_KEPT: usize = 5;

    /// How much of the error is kept once the task is run again, in bytes: what a detail of its history takes.
    pub const ERROR_BYTES: usize = HistoryEvent::DETAIL_BYTES;

    /// The id that every try of this delivery shows: `msg_{request id}_{generation}_{destination}`.
    #[must_use]
    pub fn webhook_id(&self) -> String {
        format!("msg_{}_{}_{}", self.id, self.generation, self.destination)
    }
}

/// How a delivery stands. Ordered so that, of several, the one to show is the greatest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DeliveryStatus {
    /// Nobody is to be told.
    #[default]
    None,
    /// Told.
    Delivered,
    /// Still to be told.
    Pending,
    /// Not told, and no more tries.
    Failed,
    /// Not told, because its address is refused.
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
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryTry {
    /// When.
    pub at: Timestamp,
    /// The HTTP status of the answer, where there was one.
    pub status_code: Option<u16>,
    /// What went wrong, or the first of what was answered.
    pub text: Option<Arc<str>>,
}

impl DeliveryTry {
    /// The longest text that is kept of a try, in bytes: enough to tell a time-out from a refusal. The whole goes to the
    /// probes.
    pub const TEXT_BYTES: usize = 64;

    /// A try at this time, with nothing to say of it yet.
    #[must_use]
    pub const fn new(at: Timestamp) -> Self {
        Self {
            at,
            status_code: None,
            text: None,
        }
    }
}

/// Which delivery: a task's, in one generation, to one destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeliveryRef {
    /// The task.
    pub id: RequestId,
    /// Which run-through of it.
    pub generation: u32,
    /// Where to.
    pub destination: Destination,
    /// The claim of the delivery.
    pub token: FenceToken,
}

/// How a try of a delivery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// It was taken.
    Delivered,
    /// It was not; try again after this long.
    Retry(Duration),
    /// It was not, and there are no more tries.
    Failed,
    /// Its address is refused, for good.
    Blocked,
    /// It was not tried: somebody else may.
    Released,
    /// It was not tried: its turn comes after this long.
    Postponed(Duration),
}

/// What a request to make a delivery again did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Redeliver {
    /// It is due now, under its old webhook id.
    Due,
    /// There is no such delivery.
    Unknown,
}

impl Delivery {
    /// Whether it is still to be delivered.
    #[must_use]
    pub const fn is_pending(&self) -> bool {
        matches!(self.status, DeliveryStatus::Pending)
    }

    /// Takes the delivery to try it, until `lease` runs out. `None` unless it is pending and due.
    pub fn claim(&mut self, lease: Duration, now: Timestamp) -> Option<DeliveryRef> {
        if self.status != DeliveryStatus::Pending || self.due_at > now {
            return None;
        }
        self.token = self.token.next();
        self.is_claimed = true;
        // Due again when the lease runs out: a deliverer that dies needs no rescue.
        self.due_at = now.saturating_add(lease);
        Some(DeliveryRef {
            id: self.id,
            generation: self.generation,
            destination: self.destination.clone(),
            token: self.token,
        })
    }

    /// Takes the deliverer's word for how the try ended.
    ///
    /// # Errors
    ///
    /// [`Fenced`] if somebody else has claimed it since, or it is settled.
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

    /// The task is run again: what it went through is of before.
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

    /// Gives the delivery up if nobody has taken it for `overdue` since it was due. It is `Failed` then, and its last
    /// entry says why; that was no try.
    ///
    /// Answers whether anything was changed.
    pub fn give_up(&mut self, overdue: Duration, now: Timestamp) -> bool {
        if self.status != DeliveryStatus::Pending || self.due_at.saturating_add(overdue) > now {
            return false;
        }
        let seconds = overdue.as_secs_f64();
        self.given_up(
            &format!("given up: it was due for {seconds} s, and nobody took it"),
            now,
        );
        true
    }

    /// Gives the delivery up because the store has no room for all that wait for somebody who does not answer. It is
    /// `Failed` then, and its last entry says why; that was no try. Not while it is being tried.
    ///
    /// Answers whether anything was changed.
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

    /// Takes the delivery from a deliverer that is known to be dead, if one has it: that was a try, and the next may come
    /// at once. Not if deliverers keep dying: then the next comes when the lease has run out, so that a hook which takes
    /// its process down does not do so over and over with nothing in between.
    ///
    /// Answers whether anything was changed.
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

    /// How many tries there may have been before a deliverer that died is waited for. Fewer than the starts after which a
    /// supervisor gives up: five in ten seconds with systemd.
    const QUICK_TRIES: u32 = 3;

    /// Makes it due now, however it stands, with its whole schedule before it. A try that is under way counts no more.
    pub fn redeliver(&mut self, now: Timestamp) {
        self.status = DeliveryStatus::Pending;
        self.due_at = now;
        self.tried = 0;
        // Who tries it at this moment does not know of this: what it reports is of before.
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

    /// The same, to be changed.
    #[must_use]
    pub(crate) fn delivery_mut(&mut self, generation: u32, destination: &Destination) -> Option<&mut Delivery> {
        let mut deliveries = self.life.deliveries.iter_mut();
        deliveries.find(|delivery| delivery.generation == generation && delivery.destination == *destination)
    }

    /// The number by which clients name the delivery: from 1, in the order of the subscriptions, and on through the generations.
    /// Not its place among those that are kept, which changes when the task is run again.
    pub(crate) fn delivery_number(&self, delivery: &Delivery) -> u64 {
        let mut subscriptions = self.subscriptions.iter();
        let place = subscriptions.position(|subscription| subscription.destination == delivery.destination);
        let before = u64::from(delivery.generation.saturating_sub(1)) * Subscriptions::MOST as u64;
        before + place.unwrap_or_default() as u64 + 1
    }

    /// Since when nothing is left to be done about it: since its end, or since the last delivery that came to nothing
    /// was given up, so that there is time to see that and to ask for it again. Retention counts from here. `None`
    /// while it has not ended, and while somebody is still to be told.
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
    fn a_delivery_that_nobody_has_is_nobodys_to_lose() {
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
