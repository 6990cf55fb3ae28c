//! The state of the processes, as their calls to the store and the answers show it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tower_respond_async::task::{LeaseRef, RequestId};

use super::{
    known::Try,
    world::{ATTEMPT_TIMEOUT, HOLDS, STOP_GRACE, STORE_TIMEOUT, World},
};

/// Timers fire in whole milliseconds.
const TICK: Duration = Duration::from_millis(2);

/// A process, as seen from outside.
pub(super) struct Standing {
    pub(super) slots: usize,
    /// The time of its runtime's clock at its start, and the world's time at that moment.
    started: (Instant, Duration),
    /// Notified to halt the process: it is frozen or gone.
    pub(super) halt: Arc<Notify>,
    pub(super) frozen_until: Option<Duration>,
    /// Whether it is gone, even if it still runs to the end of its slice.
    pub(super) is_gone: bool,
    /// Whether it is shutting down.
    pub(super) is_closing: bool,
    /// Whether it has shut down.
    pub(super) is_closed: bool,
    /// The claims that it received.
    pub(super) claims: BTreeMap<(RequestId, u64), Held>,
    /// When it asked to insert tasks that are claimed from the start.
    pub(super) inserted: BTreeMap<RequestId, Duration>,
    /// The completions that it has claimed, as far as it was answered.
    pub(super) deliveries: BTreeMap<RequestId, BTreeSet<Try>>,
    /// Tasks whose log was refused, and whose refusal its probe has not reported yet.
    pub(super) refused_logs: Vec<RequestId>,
    /// Bytes of bodies whose insert was not answered.
    pub(super) buffered: usize,
}

/// A claim held by a process.
pub(super) struct Held {
    /// Until when the answers of the store allow a settlement, whatever the engine makes of them.
    pub(super) settle_until: Duration,
    /// Until when its handler may run. It ends earlier when the claim is known to be lost.
    pub(super) work_until: Duration,
    /// Until when its process must have begun it or handed it back.
    taken_by: Option<Duration>,
    pub(super) fate: Fate,
    /// A settlement was refused because the row had changed. The next try may follow at once, even past the deadline.
    pub(super) was_stale: bool,
    /// Its process found it by a search, and has not renewed it yet.
    pub(super) is_found: bool,
}

/// The state of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    NotBegun,
    /// It runs, or was dropped.
    Begun,
    Ended,
    /// It answered "not now".
    Deferred,
}

/// A handler: its process, its task, the token of its claim.
pub(super) type Work = (u32, RequestId, u64);

/// A running handler.
pub(super) struct Handler {
    pub(super) begun: Duration,
    /// Until when it must stop, if it has a stop signal.
    pub(super) stop_by: Option<Duration>,
}

impl Held {
    /// A claim that was asked for at this time.
    pub(super) const fn new(asked: Duration) -> Self {
        let until = asked.saturating_add(HOLDS);
        Self {
            settle_until: until,
            work_until: until,
            taken_by: None,
            fate: Fate::NotBegun,
            was_stale: false,
            is_found: false,
        }
    }

    /// Its process began it or handed it back.
    pub(super) fn take(&mut self) {
        self.taken_by = None;
    }
}

impl Standing {
    /// A process that starts, on a runtime whose clock shows this.
    pub(super) fn new(slots: usize, shown: Instant, now: Duration) -> Self {
        Self {
            slots,
            started: (shown, now),
            halt: Arc::default(),
            frozen_until: None,
            is_gone: false,
            is_closing: false,
            is_closed: false,
            claims: BTreeMap::new(),
            inserted: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            refused_logs: Vec::new(),
            buffered: 0,
        }
    }

    /// The world's time, by the clock of its runtime.
    pub(super) fn local(&self) -> Duration {
        self.started.1 + Instant::now().saturating_duration_since(self.started.0)
    }

    /// The time on the clock of its runtime at this moment of the world.
    pub(super) fn shown_at(&self, moment: Duration) -> Instant {
        self.started.0 + moment.saturating_sub(self.started.1)
    }

    pub(super) fn is_awake(&self) -> bool {
        self.frozen_until.is_none() && !self.is_gone
    }

    pub(super) fn is_serving(&self) -> bool {
        self.is_awake() && !self.is_closing
    }

    /// Halts it, wherever it is.
    pub(super) fn freeze(&mut self, until: Duration) {
        self.frozen_until = Some(until);
        self.halt.notify_one();
    }

    pub(super) fn kill(&mut self) {
        self.is_gone = true;
        self.halt.notify_one();
    }

    /// Thaws it. Its own clock is behind.
    pub(super) fn thaw(&mut self, now: Duration) {
        self.frozen_until = None;
        for held in self.claims.values_mut() {
            held.taken_by = held.taken_by.map(|by| by.max(now) + 2 * STORE_TIMEOUT);
        }
    }

    /// The claim, if it received it or asked for a task that is claimed from the start.
    pub(super) fn claim(&mut self, lease: (RequestId, u64)) -> Option<&mut Held> {
        if !self.claims.contains_key(&lease) {
            let asked = *self.inserted.get(&lease.0)?;
            self.claims.insert(lease, Held::new(asked));
        }
        self.claims.get_mut(&lease)
    }

    /// It found that it holds this claim, but not since when. It must renew it before it settles it.
    pub(super) fn found(&mut self, lease: LeaseRef) {
        let of = (lease.id, lease.token.get());
        if self.claim(of).is_none() {
            let found = Held {
                settle_until: Duration::ZERO,
                work_until: Duration::ZERO,
                is_found: true,
                ..Held::new(Duration::ZERO)
            };
            self.claims.insert(of, found);
        }
    }

    /// It received these claims, which it asked for at `asked`.
    pub(super) fn told_of(&mut self, leases: &[LeaseRef], asked: Duration, now: Duration) {
        // A call of full length may come before each claim is begun, and for each that is handed back.
        let mut by = now;
        for lease in leases {
            by += STORE_TIMEOUT + TICK;
            let held = self
                .claims
                .entry((lease.id, lease.token.get()))
                .or_insert_with(|| Held::new(asked));
            held.taken_by = (held.fate == Fate::NotBegun).then_some(by);
        }
    }
}

impl World {
    pub(super) fn is_awake(&self, process: u32) -> bool {
        self.processes.get(&process).is_some_and(Standing::is_awake)
    }

    /// Checks what holds of a process after every slice.
    pub(super) fn check_process(&mut self, process: u32) {
        let Some(standing) = self.processes.get(&process) else {
            return;
        };
        let (now, slots, closing) = (self.now, standing.slots, standing.is_closing);
        let mut forgotten = standing.claims.iter().filter(|(_, held)| {
            let by = held.taken_by.filter(|by| !closing && *by < held.settle_until);
            by.is_some_and(|by| by < now)
        });
        let forgotten = forgotten.next().map(|((id, _), _)| *id);
        let of_it =
            (process, RequestId::from_bytes([0; 16]), 0)..=(process, RequestId::from_bytes([255; 16]), u64::MAX);
        let (mut running, mut late) = (0, None);
        for ((_, id, token), handler) in self.handlers.range(of_it) {
            running += 1;
            let until = standing.claims.get(&(*id, *token)).map(|held| held.work_until);
            let until = until
                .unwrap_or_default()
                .min(handler.begun + ATTEMPT_TIMEOUT)
                .min(handler.stop_by.unwrap_or(Duration::MAX));
            if until + TICK < now {
                late = Some((*id, until));
            }
        }
        if let Some(id) = forgotten {
            self.fail(
                2,
                format_args!("{id} was claimed by process {process}, which made nothing of it"),
            );
        }
        if let Some((id, until)) = late {
            self.fail(3, format_args!("{id} is worked on past its deadline, {until:?}"));
        }
        self.check(
            10,
            running <= slots,
            format_args!("{running} handlers on {slots} slots"),
        );
    }

    /// A task was asked to stop, and this process has received that: its handlers have their grace.
    pub(super) fn told_to_stop(&mut self, process: u32, id: RequestId, token: Option<u64>) {
        let by = self.now + STOP_GRACE;
        for ((of, task, under), handler) in &mut self.handlers {
            if (*of, *task) == (process, id) && token.is_none_or(|token| token == *under) {
                handler.stop_by = Some(handler.stop_by.unwrap_or(by).min(by));
            }
        }
    }
}
