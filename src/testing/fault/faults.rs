//! What should go wrong, in which call, and which calls are on their way meanwhile.

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

/// What should go wrong in a [`FaultStore`](crate::testing::FaultStore), and what was called. Clones are the same handle.
///
/// A call is counted, and its fault chosen, when the method is called. If several faults are ordered for one call, the
/// last one ordered holds; what is ordered goes before what is drawn [at random](Self::at_random).
///
/// # Calls that overtake each other
///
/// A call can be *held*: its caller waits, calls made later go ahead, and after a number of them it takes its turn. That is
/// counted in calls and not in time, so that a test which makes the same calls sees the same order, whatever the clock
/// says. A held call is on its way: it arrives even if its caller has given up, as a request does that was sent. It
/// takes its turn inside of the later call that it waited for, so it waits for ever if no later call is made.
///
/// # Examples
///
/// A report of progress whose caller hears nothing, and which arrives after a later call:
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
    /// The `nth` call of `operation` from now on fails, and nothing is done; 1 is the next one.
    pub fn fail_nth(&self, operation: Operation, nth: u64) {
        self.order(operation, nth, Fault::Fail);
    }

    /// The next `count` calls of `operation` fail, and nothing is done.
    pub fn fail_next(&self, operation: Operation, count: u64) {
        for nth in 1..=count {
            self.order(operation, nth, Fault::Fail);
        }
    }

    /// The next call of `operation` fails with what `error` makes, and nothing is done. If `error` panics, so does the store.
    pub fn fail_next_with(&self, operation: Operation, error: impl FnOnce() -> StoreError + Send + 'static) {
        self.order(operation, 1, Fault::FailWith(Make(Box::new(error))));
    }

    /// The next `count` calls of `operation` are done, but their callers are told that they failed.
    pub fn lose_replies(&self, operation: Operation, count: u64) {
        for nth in 1..=count {
            self.order(operation, nth, Fault::LoseReply);
        }
    }

    /// The next call of `operation` waits until it is released, and is done then, unless its caller has given up.
    pub fn delay_next(&self, operation: Operation) -> Delayed {
        let gate = Arc::new(Gate {
            arrived: Semaphore::new(0),
            released: Semaphore::new(0),
        });
        self.order(operation, 1, Fault::Delay(gate.clone()));
        Delayed(gate)
    }

    /// The next call of `operation` is held, and done right after the `calls`th call that is made later, of whatever
    /// operation: at least one. It is done even if its caller has given up.
    pub fn hold_next(&self, operation: Operation, calls: u64) {
        self.order(operation, 1, Fault::Hold(calls));
    }

    /// The next call of `operation` is done at once, and answered right after the `calls`th call that is made later, of
    /// whatever operation: at least one.
    pub fn hold_next_reply(&self, operation: Operation, calls: u64) {
        self.order(operation, 1, Fault::HoldReply(calls));
    }

    /// From now on every call meets what is drawn for it from `seed`, at these odds. The same calls in the same order
    /// meet the same.
    pub fn at_random(&self, seed: u64, odds: Odds) {
        self.script().random = Some((fastrand::Rng::with_seed(seed), odds));
    }

    /// Every call of every operation fails until [`heal`](Self::heal), as if the store could not be reached.
    pub fn fail_everything(&self) {
        self.share(Fate::Fail);
    }

    /// From now on the store tells nothing of what other processes do, and says so in its abilities: what they do has to be
    /// found by looking. An engine reads the abilities once, as it is built.
    pub fn tell_nothing(&self) {
        self.script().tells_nothing = true;
    }

    pub(super) fn tells_nothing(&self) -> bool {
        self.script().tells_nothing
    }

    /// From now on all calls meet this, until it is said otherwise or [healed](Self::heal): what a store does that commits
    /// many calls together.
    pub fn share(&self, fate: Fate) {
        self.script().fate = fate;
    }

    /// Nothing goes wrong any more. What is held takes its turn in the next call.
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

    /// A call is made: what it meets, and what takes its turn after it.
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

    /// Holds what `turn` does until so many calls have been made.
    pub(super) fn hold(&self, calls: u64, turn: BoxFuture<'static, ()>) {
        let mut script = self.script();
        let after = script.made.saturating_add(calls.max(1));
        script.held.push(Held { after, turn });
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often what goes wrong, each as a probability between 0 and 1; what is left over goes well. Begin with
/// [`NONE`](Self::NONE).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Odds {
    /// The call fails, and nothing is done.
    pub fail: f64,
    /// The call is done, and its caller told that it failed.
    pub lose_reply: f64,
    /// The call is [held](Faults::hold_next).
    pub hold: f64,
    /// The reply is [held](Faults::hold_next_reply).
    pub hold_reply: f64,
    /// How many later calls anything is held for at most.
    pub longest: u64,
}

impl Odds {
    /// Nothing goes wrong.
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

/// A call that waits, or will. Dropping this releases it, so that a failing test does not hang.
#[derive(Debug)]
pub struct Delayed(Arc<Gate>);

impl Delayed {
    /// Resolves when the call has come and waits.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing; the call stays delayed.
    pub async fn arrived(&self) {
        if let Ok(permit) = self.0.arrived.acquire().await {
            drop(permit);
        }
    }

    /// Lets the call go on.
    pub fn release(self) {}
}

impl Drop for Delayed {
    fn drop(&mut self) {
        self.0.released.close();
    }
}

/// Whether the store commits something for it.
const fn changes(operation: Operation) -> bool {
    use Operation as Of;
    !matches!(
        operation,
        Of::Rows | Of::Due | Of::List | Of::Counts | Of::Payload | Of::Logs | Of::Glance
    )
}

/// What calls meet together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// Nothing: each has a fate of its own.
    #[default]
    OfItsOwn,
    /// They fail, and nothing is done.
    Fail,
    /// Those that change something do.
    FailChanges,
    /// Those that change something are done, and their callers told that they failed.
    LoseChanges,
}

#[derive(Default)]
struct Script {
    calls: HashMap<Operation, u64>,
    ordered: HashMap<(Operation, u64), Fault>,
    random: Option<(fastrand::Rng, Odds)>,
    fate: Fate,
    tells_nothing: bool,
    /// Calls of all operations.
    made: u64,
    held: Vec<Held>,
}

/// Something that waits for later calls.
struct Held {
    /// Its turn is in the call of this number.
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

/// Makes an error of a test's own.
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
        // Closed when it is released.
        let _ = self.released.acquire().await;
    }
}
