//! Which calls get which faults, and which calls are held.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Semaphore;

use crate::{
    error::BoxFuture,
    store::{Operation, StoreError},
};

/// Orders the faults of a [`FaultStore`](crate::testing::FaultStore), and counts its calls. Clones are the same handle.
///
/// A call is counted, and its fault chosen, when the method is called. If several faults are ordered for one call, the
/// last one counts. An ordered fault takes precedence over one drawn [at random](Self::at_random).
///
/// # Calls that overtake each other
///
/// A call can be *held*: its caller waits, later calls go ahead, and after a number of them the held call is done. The
/// number counts calls, not time, so a test that makes the same calls always gets the same order. A held call is done
/// even if its caller has dropped the future, like a request that was sent already. It is done inside the later call
/// that it waited for, so without later calls it waits for ever.
///
/// # Examples
///
/// A report of progress without an answer, which arrives after a later call:
///
/// ```
/// use tower_respond_async::{
///     store::{MemoryStore, Operation, TaskStore},
///     task::{FenceToken, LeaseRef, Progress, RequestId},
///     testing::FaultStore,
///     time::Timestamp,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// let store = FaultStore::new(MemoryStore::new());
/// let faults = store.faults();
/// faults.hold_next(Operation::SetProgress, 1);
///
/// let lease = LeaseRef { id: RequestId::from_parts(Timestamp::ZERO, [7; 10]), token: FenceToken::NONE };
/// let reporting = store.set_progress(lease, Progress::new(0.5, "half"));
/// assert_eq!(faults.held(), 1);
/// drop(reporting);
///
/// store.prune_keys(10).await?;
/// assert_eq!(faults.held(), 0, "it has taken its turn");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Script>>);

impl Faults {
    /// Lets the `nth` call of `operation` from now on fail without effect; 1 is the next one.
    pub fn fail_nth(&self, operation: Operation, nth: u64) {
        self.order(operation, nth, Fault::Fail);
    }

    /// Lets the next `count` calls of `operation` fail without effect.
    pub fn fail_next(&self, operation: Operation, count: u64) {
        for nth in 1..=count {
            self.order(operation, nth, Fault::Fail);
        }
    }

    /// Lets the next call of `operation` fail without effect, with the error that `error` returns. If `error` panics,
    /// the store's method panics.
    pub fn fail_next_with(&self, operation: Operation, error: impl FnOnce() -> StoreError + Send + 'static) {
        self.order(operation, 1, Fault::FailWith(Make(Box::new(error))));
    }

    /// Lets the next `count` calls of `operation` take effect and answer with an error.
    pub fn lose_replies(&self, operation: Operation, count: u64) {
        for nth in 1..=count {
            self.order(operation, nth, Fault::LoseReply);
        }
    }

    /// Delays the next call of `operation` until it is released. If its caller drops the future before, the call has no
    /// effect.
    pub fn delay_next(&self, operation: Operation) -> Delayed {
        let gate = Arc::new(Gate {
            arrived: Semaphore::new(0),
            released: Semaphore::new(0),
        });
        self.order(operation, 1, Fault::Delay(gate.clone()));
        Delayed(gate)
    }

    /// Holds the next call of `operation`, until right after the `calls`th later call of any operation, at least one.
    /// It takes effect even if its caller has dropped the future.
    pub fn hold_next(&self, operation: Operation, calls: u64) {
        self.order(operation, 1, Fault::Hold(calls));
    }

    /// Lets the next call of `operation` take effect at once, and holds its answer until right after the `calls`th
    /// later call of any operation, at least one.
    pub fn hold_next_reply(&self, operation: Operation, calls: u64) {
        self.order(operation, 1, Fault::HoldReply(calls));
    }

    /// From now on draws a fault for every call from `seed`, at these odds. The same calls in the same order get the
    /// same faults.
    pub fn at_random(&self, seed: u64, odds: Odds) {
        self.script().random = Some((fastrand::Rng::with_seed(seed), odds));
    }

    /// Lets every call of every operation fail until [`heal`](Self::heal), as if the store could not be reached.
    pub fn fail_everything(&self) {
        self.share(Fate::Fail);
    }

    /// From now on the store has no news of other processes, and its abilities say so: the engine must look for
    /// changes. An engine reads the abilities once, when it is built.
    pub fn without_news(&self) {
        self.script().has_no_news = true;
    }

    pub(super) fn has_no_news(&self) -> bool {
        self.script().has_no_news
    }

    /// Gives all calls this fate until it is changed or [healed](Self::heal), as in a store that commits many calls
    /// together.
    pub fn share(&self, fate: Fate) {
        self.script().fate = fate;
    }

    /// Ends all faults, except for [`without_news`](Self::without_news). Held calls are done in the next call.
    pub fn heal(&self) {
        let mut script = self.script();
        script.fate = Fate::OfItsOwn;
        script.ordered.clear();
        script.random = None;
        script.held.iter_mut().for_each(|held| held.after = 0);
    }

    /// How often `operation` was called.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> u64 {
        self.script().calls.get(&operation).copied().unwrap_or(0)
    }

    /// How many calls and replies are held at the moment.
    #[must_use]
    pub fn held(&self) -> usize {
        self.script().held.len()
    }

    fn order(&self, operation: Operation, nth: u64, fault: Fault) {
        let mut script = self.script();
        let call = script.calls.get(&operation).copied().unwrap_or(0) + nth;
        script.ordered.insert((operation, call), fault);
    }

    /// Counts a call. Returns its fault, and the held calls that are done after it.
    pub(super) fn next(&self, operation: Operation) -> (Option<Fault>, Vec<BoxFuture<'static, ()>>) {
        let mut script = self.script();
        script.made += 1;
        let calls = script.calls.entry(operation).or_default();
        *calls += 1;
        let call = (operation, *calls);
        let ordered = script.ordered.remove(&call);
        let drawn = script.random.as_mut().and_then(|(random, odds)| odds.draw(random));
        let fault = match script.fate {
            Fate::Fail => Some(Fault::Fail),
            Fate::FailChanges if changes(operation) => Some(Fault::Fail),
            Fate::LoseChanges if changes(operation) => Some(Fault::LoseReply),
            _ => ordered.or(drawn),
        };
        let made = script.made;
        let (mut due, held): (Vec<_>, _) = std::mem::take(&mut script.held)
            .into_iter()
            .partition(|held| held.after <= made);
        script.held = held;
        due.sort_by_key(|held| held.after);
        (fault, due.into_iter().map(|held| held.turn).collect())
    }

    /// Holds `turn` until `calls` more calls have been made.
    pub(super) fn hold(&self, calls: u64, turn: BoxFuture<'static, ()>) {
        let mut script = self.script();
        let after = script.made.saturating_add(calls.max(1));
        script.held.push(Held { after, turn });
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The odds of faults, each as a probability between 0 and 1; the rest of the calls have no fault. Begin with
/// [`NONE`](Self::NONE).
///
/// # Examples
///
/// ```
/// use tower_respond_async::{
///     MemoryStore, TaskStore,
///     testing::{FaultStore, Odds},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = FaultStore::new(MemoryStore::new());
/// let mut odds = Odds::NONE;
/// odds.fail = 0.1;
/// store.faults().at_random(7, odds);
///
/// let mut failed = 0;
/// for _ in 0..1_000 {
///     failed += u32::from(store.prune_keys(10).await.is_err());
/// }
/// assert!((50..150).contains(&failed), "about one call in ten");
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Odds {
    /// The call fails without effect.
    pub fail: f64,
    /// The call takes effect, and answers with an error.
    pub lose_reply: f64,
    /// The call is [held](Faults::hold_next).
    pub hold: f64,
    /// The answer is [held](Faults::hold_next_reply).
    pub hold_reply: f64,
    /// The maximum number of later calls that a call or an answer is held for.
    pub longest: u64,
}

impl Odds {
    /// No faults.
    pub const NONE: Self = Self {
        fail: 0.0,
        lose_reply: 0.0,
        hold: 0.0,
        hold_reply: 0.0,
        longest: 1,
    };

    fn draw(&self, random: &mut fastrand::Rng) -> Option<Fault> {
        let mut drawn = random.f64();
        let calls = random.u64(1..=self.longest.max(1));
        let faults = [
            (self.fail, Fault::Fail),
            (self.lose_reply, Fault::LoseReply),
            (self.hold, Fault::Hold(calls)),
            (self.hold_reply, Fault::HoldReply(calls)),
        ];
        faults.into_iter().find_map(|(odds, fault)| {
            let met = drawn < odds;
            drawn -= odds;
            met.then_some(fault)
        })
    }
}

/// A call that is delayed, or will be. Dropping this releases the call, so that a failing test does not hang.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use tower_respond_async::{
///     MemoryStore, TaskStore,
///     store::Operation,
///     testing::FaultStore,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Arc::new(FaultStore::new(MemoryStore::new()));
/// let delayed = store.faults().delay_next(Operation::PruneKeys);
/// let pruning = tokio::spawn({
///     let store = store.clone();
///     async move { store.prune_keys(10).await }
/// });
/// delayed.arrived().await;
/// assert!(!pruning.is_finished());
/// delayed.release();
/// assert_eq!(pruning.await??, 0);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Delayed(Arc<Gate>);

impl Delayed {
    /// Resolves when the call was made and waits.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing; the call stays delayed.
    pub async fn arrived(&self) {
        if let Ok(permit) = self.0.arrived.acquire().await {
            drop(permit);
        }
    }

    /// Releases the call.
    pub fn release(self) {}
}

impl Drop for Delayed {
    fn drop(&mut self) {
        self.0.released.close();
    }
}

/// Whether the operation can change what is stored.
const fn changes(operation: Operation) -> bool {
    use Operation as Of;
    !matches!(
        operation,
        Of::Rows | Of::Due | Of::List | Of::Counts | Of::Payload | Of::Logs | Of::Glance
    )
}

/// What happens to all calls together.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{
///     MemoryStore, Scope, TaskStore,
///     testing::{Fate, FaultStore},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// let store = FaultStore::new(MemoryStore::new());
/// store.faults().share(Fate::FailChanges);
/// assert!(store.prune_keys(10).await.is_err());
/// store.counts(&Scope::All).await?;
///
/// store.faults().heal();
/// store.prune_keys(10).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// Each call has its own fault, or none.
    #[default]
    OfItsOwn,
    /// All calls fail without effect.
    Fail,
    /// Calls that change something fail without effect.
    FailChanges,
    /// Calls that change something take effect, and answer with an error.
    LoseChanges,
}

#[derive(Default)]
struct Script {
    calls: HashMap<Operation, u64>,
    ordered: HashMap<(Operation, u64), Fault>,
    random: Option<(fastrand::Rng, Odds)>,
    fate: Fate,
    has_no_news: bool,
    /// How many calls were made, of all operations.
    made: u64,
    held: Vec<Held>,
}

/// A call or an answer that waits for later calls.
struct Held {
    /// The number of the call in which it is done.
    after: u64,
    turn: BoxFuture<'static, ()>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script")
            .field("calls", &self.calls)
            .field("ordered", &self.ordered)
            .field("random", &self.random.as_ref().map(|(_, odds)| odds))
            .field("fate", &self.fate)
            .field("held", &self.held.len())
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) enum Fault {
    Fail,
    FailWith(Make),
    LoseReply,
    Delay(Arc<Gate>),
    Hold(u64),
    HoldReply(u64),
}

/// Makes the error that a test has ordered.
pub(super) struct Make(pub(super) Box<dyn FnOnce() -> StoreError + Send>);

impl fmt::Debug for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Make")
    }
}

#[derive(Debug)]
pub(super) struct Gate {
    arrived: Semaphore,
    released: Semaphore,
}

impl Gate {
    pub(super) async fn pass(&self) {
        self.arrived.add_permits(1);
        // It is closed when the call is released.
        let _ = self.released.acquire().await;
    }
}
