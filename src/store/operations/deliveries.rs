//! Claiming completions.

use std::time::Duration;

use crate::{store::Row, task::Destination};

/// A process's request for completions to deliver.
///
/// # Examples
///
/// A task has ended, and its completion for `audit` is due:
///
/// ```
/// use std::time::Duration;
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{DeliveryClaim, DeliverySettlement, Ledger, MemoryStore},
///     task::{DeliveryStatus, DeliveryTry, Destination, delivery::DeliveryOutcome},
/// };
/// # use tower_respond_async::{
/// #     store::Insert,
/// #     task::{CapturedRequest, Conditions, NewTask, RequestId, Scope, Subscription},
/// # };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// let ledger = Ledger::of(MemoryStore::new());
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # let id = RequestId::from_bytes([7; 16]);
/// # let mut task = NewTask::new(id, request.into());
/// # let (destination, on) = (Destination::new("audit"), Conditions::ALL);
/// # task.subscriptions = [Subscription { destination, on }].into();
/// # let _ = ledger.insert(Insert::new(task)).await?;
/// # let _ = ledger.stop(&Scope::All, id).await?;
/// let claim = DeliveryClaim::new(vec![(Destination::new("audit"), 10)], Duration::from_secs(30));
/// for claimed in ledger.claim_deliveries(claim).await? {
///     // Deliver `claimed.delivery` of the task `claimed.record` here.
///     let tried = DeliveryTry::new(ledger.store().now());
///     let settlement = DeliverySettlement::new(claimed, DeliveryOutcome::Delivered, tried);
///     assert!(ledger.settle_delivery(settlement).await?);
/// }
/// assert_eq!(ledger.task(id).await?.destination_status(), DeliveryStatus::Delivered);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeliveryClaim {
    /// The destinations that it can deliver to, and the maximum number of completions for each.
    pub from: Vec<(Destination, usize)>,
    /// How long the claims hold.
    pub lease: Duration,
}

impl DeliveryClaim {
    /// At most this many completions for each destination, for `lease`.
    #[must_use]
    pub const fn new(from: Vec<(Destination, usize)>, lease: Duration) -> Self {
        Self { from, lease }
    }
}

/// A claimed completion.
///
/// See the example of [`DeliveryClaim`], in which [`Ledger::claim_deliveries`](crate::store::Ledger::claim_deliveries)
/// receives it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClaimedOutbox {
    /// The task, with its outbox as it is after the claim.
    pub row: Row,
    /// The generation of the task.
    pub generation: u32,
    /// The destination of the completion.
    pub destination: Destination,
}

impl ClaimedOutbox {
    /// The completion of this generation for this destination.
    #[must_use]
    pub const fn new(row: Row, generation: u32, destination: Destination) -> Self {
        Self {
            row,
            generation,
            destination,
        }
    }
}
