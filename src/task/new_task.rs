//! A task before it is stored, and the destinations of its completion.

use std::{ops::Deref, sync::Arc, time::Duration};

use crate::task::{
    Accepted, Caller, CapturedRequest, Conditions, Destination, IdempotencyKey, Labels, PoolName, RequestDigest,
    RequestId, TaskName, Tenant, TooLong,
};

/// A task to be stored, with everything that the store needs to run it, to find it, and to end it without the engine.
///
/// # Examples
///
/// Tools and tests store a task through a [`Ledger`](crate::store::Ledger). Applications use
/// [`Tasks::submit`](crate::Tasks::submit) instead.
///
/// ```
/// use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     MemoryStore, RequestId, TaskName,
///     store::{Insert, Inserted, Ledger},
///     task::{CapturedRequest, NewTask},
/// };
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let uri = Uri::from_static("/mail");
/// let request = CapturedRequest::new(Method::POST, uri, HeaderMap::new(), "hello".into());
/// let mut task = NewTask::new(RequestId::from_bytes([7; 16]), request.into());
/// task.name = Some(TaskName::new("invoice-17")?);
/// task.digest = Some(task.request.digest());
/// task.max_attempts = 3;
/// task.check()?;
///
/// let ledger = Ledger::of(MemoryStore::new());
/// assert!(matches!(ledger.insert(Insert::new(task)).await?, Inserted::New(..)));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewTask {
    /// The primary key.
    pub id: RequestId,
    /// The client's name for it, unique per tenant.
    pub name: Option<TaskName>,
    /// The client's key for it, unique per tenant and caller for [`key_window`](Self::key_window).
    pub key: Option<IdempotencyKey>,
    /// The digest that identifies the request, for comparison with others under the same name or key. Set if there is
    /// either.
    pub digest: Option<RequestDigest>,
    /// How long the key is kept from now on, even if the task is removed before.
    pub key_window: Duration,
    /// The pool in which it runs.
    pub pool: PoolName,
    /// The owner of the task.
    pub tenant: Option<Tenant>,
    /// The user who sent the request, where the application names one.
    pub caller: Option<Caller>,
    /// The name to list it under, unless that is the first segment of the path.
    pub function: Option<Arc<str>>,
    /// Words to find it by.
    pub labels: Labels,
    /// The request.
    pub request: Arc<CapturedRequest>,
    /// How long it waits before it may run.
    pub delay: Duration,
    /// How long it may wait after that before it expires.
    pub max_age: Duration,
    /// The largest number of attempts; crashes do not count.
    pub max_attempts: u32,
    /// The number of crashes that ends it as poison.
    pub crash_allowance: u32,
    /// The destinations that receive a completion when the task ends.
    pub subscriptions: Subscriptions,
    /// The URL of [`Destination::CALLBACK`], where the request named one.
    pub callback: Option<Arc<str>>,
    /// The version of the application that accepts it, if the application has one.
    pub version: Option<Arc<str>>,
}

impl NewTask {
    /// A task that runs `request` once, as soon as possible, within a day, without a completion.
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

    /// Checks that a record has room for all parts of the task that are not cut. The layer and
    /// [`Tasks::submit`](crate::Tasks::submit) have made this check.
    ///
    /// # Errors
    ///
    /// [`TooLong`] names the part that is too long: the labels, the tenant or the callback URL.
    pub fn check(&self) -> Result<(), TooLong> {
        self.labels.check()?;
        if let Some(tenant) = &self.tenant {
            tenant.check()?;
        }
        let callback = self.callback.as_ref().map_or(0, |url| url.len());
        TooLong::check("callback URL", callback, Accepted::CALLBACK_BYTES)
    }
}

/// A destination, and the kinds of end for which it receives a completion.
///
/// See the example of [`Subscriptions`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The destination.
    pub destination: Destination,
    /// The kinds of end.
    pub on: Conditions,
}

/// The destinations that receive a completion when a task ends. Cheap to clone; without any, nothing is allocated.
///
/// # Examples
///
/// ```
/// use tower_respond_async::task::{Condition, Conditions, Destination, Subscription, Subscriptions};
///
/// let hooks = Subscription { destination: Destination::LOCAL, on: Conditions::ALL };
/// let on = Conditions::NONE.with(Condition::Success);
/// let billing = Subscription { destination: Destination::new("billing"), on };
/// let subscriptions = Subscriptions::from([hooks, billing]);
///
/// let receivers = |end| subscriptions.iter().filter(|each| each.on.contains(end)).count();
/// assert_eq!((receivers(Condition::Success), receivers(Condition::Stop)), (2, 1));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscriptions(Option<Arc<[Subscription]>>);

impl Subscriptions {
    /// The most destinations of one task: the hooks of the process, which are one together, a callback, and six more.
    /// The record of every task keeps each with its tries. To reach more receivers, let one of the destinations pass
    /// the completion on. The builder refuses more.
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
