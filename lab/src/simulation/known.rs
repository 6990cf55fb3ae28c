//! What the simulation has recorded of each task: what was asked for, and what was done.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    handler::ORDER,
    witness::{Found, FoundRequest, Unsure, Witness},
    world::World,
};
use tower_respond_async::{
    store::{InitialClaim, Row},
    task::{CapturedRequest, Destination, RequestId, TaskRecord, TaskState, Tenant, lifecycle::Edits},
};

/// What is recorded of a task.
pub(super) struct Known {
    pub(super) tenant: Option<Tenant>,
    /// Whether a client has its 202.
    pub(super) accepted: bool,
    pub(super) request: Arc<CapturedRequest>,
    /// The number of its order.
    pub(super) order: Option<usize>,
    /// How many destinations each end has.
    pub(super) destinations: usize,
    /// The token of its holder, by the versions in which it was held.
    pub(super) held: BTreeMap<u64, u64>,
    /// The latest claim: generation, attempt, token.
    pub(super) claimed: (u32, u32, u64),
    /// Claims of the present generation, less those that were not charged.
    pub(super) charged: u32,
    pub(super) generation: u32,
    /// How each generation ended.
    pub(super) ends: BTreeMap<u32, TaskState>,
    /// The latest generation whose stop was asked for.
    pub(super) stopped: Option<u32>,
    /// How often the task was rescued, and how often a probe reported that.
    pub(super) rescued: u32,
    pub(super) rescued_told: u32,
    /// Why it is no longer there, if so.
    pub(super) gone: Option<Gone>,
    pub(super) asked: Asked,
    /// The settled claims, by token.
    pub(super) settled: BTreeMap<u64, Settlement>,
    /// The settled tries of deliveries.
    pub(super) delivered: BTreeSet<Try>,
    /// Deliveries that were given up, and how many of them a probe reported.
    pub(super) given_up: u32,
    pub(super) given_up_told: u32,
    /// The calls for each end, by generation and destination.
    pub(super) told: BTreeMap<(u32, Destination), Told>,
}

/// The calls of one destination for one end.
#[derive(Default)]
pub(super) struct Told {
    /// The webhook id of these calls.
    pub(super) id: Option<String>,
    /// How often the destination refused it.
    pub(super) refused: u32,
    /// Whether the destination accepted it, or it was given up.
    pub(super) taken: bool,
}

/// Why a task is no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// Its client deleted it.
    Deleted,
    /// Its retention was over.
    Pruned,
}

/// What was asked for, whether it was done or not.
#[derive(Default)]
pub(super) struct Asked {
    /// By the holder with each token: the end of its attempt.
    pub(super) settle: BTreeMap<u64, Report>,
    /// By the processes that deliver its completions.
    pub(super) deliver: BTreeSet<Try>,
    /// By its client.
    pub(super) stop: bool,
    pub(super) delete: bool,
    pub(super) redeliver: bool,
    pub(super) rerun: Vec<Edits>,
}

/// One try of a delivery: generation, destination, token.
pub(super) type Try = (u32, Destination, u64);

/// The end of an attempt as its holder may report it, judged by what the handler did.
pub(super) struct Report {
    /// It may be uncharged: the handler had not begun, or the process is shutting down.
    pub(super) released: bool,
    /// It may be a deferral: the handler answered "not now".
    pub(super) deferred: bool,
    /// The holder has no answer that it was accepted.
    pub(super) unanswered: bool,
}

/// A settlement that was made.
pub(super) struct Settlement {
    pub(super) state: TaskState,
    /// The record as it was written.
    pub(super) record: Arc<TaskRecord>,
}

impl Known {
    /// Records a task that was stored.
    fn new(tenant: Option<Tenant>, request: Arc<CapturedRequest>, order: usize, destinations: usize) -> Self {
        Self {
            tenant,
            accepted: false,
            request,
            order: Some(order),
            destinations,
            held: BTreeMap::new(),
            claimed: (1, 0, 0),
            charged: 0,
            generation: 1,
            ends: BTreeMap::new(),
            stopped: None,
            rescued: 0,
            rescued_told: 0,
            gone: None,
            asked: Asked::default(),
            settled: BTreeMap::new(),
            delivered: BTreeSet::new(),
            given_up: 0,
            given_up_told: 0,
            told: BTreeMap::new(),
        }
    }

    /// Records a new generation, with its request if that was edited. Answers whether a client asked for it.
    pub(super) fn run_again(&mut self, generation: u32, request: FoundRequest) -> bool {
        let request = request.map_or_else(|| self.request.clone(), Arc::new);
        let mut asked = self.asked.rerun.iter();
        let was_asked = asked.any(|edits| edits.clone().apply(&self.request) == *request);
        self.request = request;
        self.generation = generation;
        self.charged = 0;
        was_asked
    }
}

impl World {
    /// A task was stored. `sent` is what the process sent, if known.
    pub(super) fn inserted(
        &mut self,
        sent: Option<(&TaskRecord, Option<&InitialClaim>)>,
        row: &Row,
        request: &FoundRequest,
    ) {
        let id = row.id;
        self.touched.insert(id);
        let number = request
            .as_ref()
            .and_then(|request| request.headers.get(ORDER)?.to_str().ok()?.parse().ok());
        let order = number.and_then(|number: usize| self.orders.get_mut(number));
        let (Some(number), Some(order), Some(request)) = (number, order, request) else {
            self.fail(9, format_args!("{id} was stored, and nobody ordered it"));
            return;
        };
        let same = order.is_in(request);
        let first = order.task.replace(id);
        let twice = first.filter(|first| {
            let gone = self.known.get(first).is_some_and(|known| known.gone.is_some());
            order.is_known_for_ever() || !gone
        });
        let destinations = row.record.subscriptions.len();
        let known = Known::new(order.tenant.clone(), Arc::new(request.clone()), number, destinations);
        self.known.insert(id, known);
        if let Some(first) = twice {
            self.fail(
                13,
                format_args!("order {number} was stored twice, as {first} and as {id}"),
            );
        }
        self.check(9, same, format_args!("{id} was stored with another request"));
        let Some((sent, claim)) = sent else { return };
        let as_sent = row.version == 1 && *row.record == *sent && row.outbox.is_empty();
        self.check(1, as_sent, format_args!("{id} was stored as another one"));
        let held = row.columns.is_held() == claim.is_some();
        self.check(3, held, format_args!("{id} was stored as {}", row.columns.state));
        if let Some(claim) = claim {
            self.check_lease(row, claim);
            self.claimed(row, &Some(request.clone()));
        }
    }

    /// Accepts changes that a power cut interrupted and that were made. Everything else must be as it was last seen.
    pub(super) fn reconcile(&mut self, before: &Witness, found: &BTreeMap<RequestId, Row>) {
        let unsure = std::mem::take(&mut self.unsure);
        let sent = unsure.iter().filter_map(|what| match what {
            Unsure::Insert(id) => Some(*id),
            _ => None,
        });
        let ids: BTreeSet<_> = self.known.keys().copied().chain(sent).collect();
        for id in ids {
            let (before, now) = (before.last_seen(id), found.get(&id));
            let may_be_claimed = |row: &Row| row.columns.is_queued();
            let touches = |what: &&Unsure| match what {
                Unsure::Insert(of) => *of == id,
                Unsure::Commit { change, .. } => change.id == id,
                Unsure::Claim => before.as_ref().is_some_and(may_be_claimed),
                Unsure::ClaimDeliveries => false,
            };
            let done: Vec<_> = unsure.iter().filter(touches).collect();
            let is_same = match (&before, now) {
                (Some(before), Some(now)) => before.version == now.version && before.record == now.record,
                (before, now) => before.is_none() && now.is_none(),
            };
            self.check(
                1,
                is_same || !done.is_empty(),
                format_args!("{id} is not what it was before it was opened again"),
            );
            if !is_same {
                self.take_over(id, &before, now, &done);
            }
        }
    }

    fn take_over(&mut self, id: RequestId, before: &Found, now: Option<&Row>, done: &[&Unsure]) {
        let Some(now) = now else {
            let gone = done.iter().find_map(|what| match what {
                Unsure::Commit { change, alone } if change.to.is_none() => Some(match alone {
                    true => Gone::Deleted,
                    false => Gone::Pruned,
                }),
                _ => None,
            });
            self.check(1, gone.is_some(), format_args!("{id} was stored and is gone"));
            if let Some(known) = self.known.get_mut(&id) {
                known.gone = gone;
            }
            return;
        };
        if before.is_none() {
            let request = self.witness().request(id);
            self.inserted(None, now, &request);
        }
        let record = now.clone().into_record();
        let Some(known) = self.known.get_mut(&id) else { return };
        if record.generation > known.generation {
            let request = done.iter().find_map(|what| match what {
                Unsure::Commit { change, .. } => change.request.clone(),
                _ => None,
            });
            let request = request.and_then(|payload| CapturedRequest::from_payload(payload).ok());
            let asked = known.run_again(record.generation, request);
            self.check(9, asked, format_args!("{id} runs again, and nobody asked for it"));
        }
        let Some(known) = self.known.get_mut(&id) else { return };
        known.claimed = (record.generation, record.attempt, record.token.get());
        known.charged = record.attempt;
        if record.state.is_held() {
            known.held.insert(now.version, record.token.get());
        }
        if record.state.is_terminal() {
            known.ends.insert(record.generation, record.state);
        }
        if matches!(record.state, TaskState::Stopping | TaskState::Stopped) {
            known.stopped = Some(record.generation);
        }
    }
}
