//! What a store is given of a task, and who is to be told how it ends.

use std::{ops::Deref, sync::Arc, time::Duration};

use crate::task::{
    Accepted, Caller, CapturedRequest, Conditions, Destination, IdempotencyKey, Labels, PoolName, RequestDigest,
    RequestId, TaskName, Tenant, TooLong,
};

/// A task about to be stored: everything the store must know to run it, find it again, and end it without the engine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewTask {
    /// The primary key.
    pub id: RequestId,
    /// The client's name for it, unique per tenant.
    pub name: Option<TaskName>,
    /// The client's key for it, unique per tenant and caller for [`key_window`](Self::key_window).
    pub key: Option<IdempotencyKey>,
    /// What tells whether another request under the same name or key is the same. Present if there is either.
    pub digest: Option<RequestDigest>,
    /// How long the key is remembered from now on, even after the task is gone.
    pub key_window: Duration,
    /// Whose slots it runs on.
    pub pool: PoolName,
    /// Whose it is.
    pub tenant: Option<Tenant>,
    /// Who asked for it, where the application knows.
    pub caller: Option<Caller>,
    /// What it is listed under, where that is not the first segment of the path.
    pub function: Option<Arc<str>>,
    /// Free words to find it by.
    pub labels: Labels,
    /// The request.
    pub request: Arc<CapturedRequest>,
    /// How long it must wait before it is run.
    pub delay: Duration,
    /// How long it may wait beyond that before it expires.
    pub max_age: Duration,
    /// How many runs it has at most, crashes not counted.
    pub max_attempts: u32,
    /// How many times it may take its process down before it ends as poison.
    pub crash_allowance: u32,
    /// Who is told how it ended.
    pub subscriptions: Subscriptions,
    /// The URL of [`Destination::CALLBACK`], where the request named one.
    pub callback: Option<Arc<str>>,
    /// The version of the application that accepts it, where that has one.
    pub version: Option<Arc<str>>,
}

impl NewTask {
    /// A task that runs `request` once, at once, within a day, and tells nobody.
    #[must_use]
    pub fn new(id: RequestId, request: Arc<CapturedRequest>) -> Self {
        Self {
            id,
            name: None,
            key: None,
            digest: None,
            key_window: Duration::from_secs(24 * 60 * 60),
            pool: PoolName::DEFAULT,
            tenant: None,
            caller: None,
            function: None,
            labels: Labels::default(),
            request,
            delay: Duration::ZERO,
            max_age: Duration::from_secs(24 * 60 * 60),
            max_attempts: 1,
            crash_allowance: 3,
            subscriptions: Subscriptions::default(),
            callback: None,
            version: None,
        }
    }

    /// Whether a record has room for all that is said of the task. The layer and [`Tasks::submit`](crate::Tasks::submit) have
    /// made sure of it.
    ///
    /// # Errors
    ///
    /// [`TooLong`] names what is too long: its labels, its tenant or its callback URL. What is cut instead, as its target, is
    /// not judged.
    pub fn check(&self) -> Result<(), TooLong> {
        self.labels.check()?;
        if let Some(tenant) = &self.tenant {
            tenant.check()?;
        }
        let callback = self.callback.as_ref().map_or(0, |url| url.len());
        TooLong::check("callback URL", callback, Accepted::CALLBACK_BYTES)
    }
}

/// A destination and the kinds of end it wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Where to.
    pub destination: Destination,
    /// When.
    pub on: Conditions,
}

/// Who is told how a task ends. Cheap to clone, and nothing at all where nobody is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscriptions(Option<Arc<[Subscription]>>);

impl Subscriptions {
    /// How many destinations one task can tell at most: hooks of the process, which are one together, a callback, and six
    /// more. Each is kept with its tries in the record of every task; who wants to tell more has one of them pass it on.
    /// The builder refuses more.
    pub const MOST: usize = 8;
}

impl Deref for Subscriptions {
    type Target = [Subscription];

    fn deref(&self) -> &[Subscription] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl FromIterator<Subscription> for Subscriptions {
    fn from_iter<I: IntoIterator<Item = Subscription>>(subscriptions: I) -> Self {
        let all: Arc<[_]> = subscriptions.into_iter().collect();
        Self((!all.is_empty()).then_some(all))
    }
}

impl<const N: usize> From<[Subscription; N]> for Subscriptions {
    fn from(subscriptions: [Subscription; N]) -> Self {
        subscriptions.into_iter().collect()
    }
}
