//! The running attempts of this process, for other tasks and threads.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::{
    engine::{
        attempts::{
            answer_buffer::AnswerBuffer,
            attempt::{Attempt, Directive, Input},
        },
        latch::Latch,
        slots::Stuck,
    },
    probe::AttemptLog,
    store::Held,
    task::{CapturedRequest, LeaseRef, Progress, RequestId, TaskName, TaskRecord, lifecycle::DEFERRALS},
};

/// The state of an attempt that its own task, its handler, the lease thread and callers share.
pub(crate) struct Live {
    pub(crate) lease: LeaseRef,
    pub(crate) held: Held,
    pub(crate) name: Option<TaskName>,
    pub(crate) attempt: u32,
    pub(crate) depth: u8,
    /// How many extensions of the request are missing on the replay.
    pub(crate) left_out: usize,
    pub(crate) retries: u32,
    pub(crate) retries_left: u32,
    /// The number of deferrals that are left.
    pub(crate) deferrals_left: u32,
    /// The version of the application to hand the task on to if this version lacks its route.
    pub(crate) elsewhere: Option<Arc<str>>,
    pub(crate) started: Instant,
    pub(crate) times_out_at: Instant,
    machine: Mutex<Attempt>,
    /// Wakes the attempt's own task to look at the machine.
    changed: Notify,
    /// Set when the handler is asked to stop.
    cancel: Latch,
    /// The part of the answer that has arrived.
    pub(crate) answer: AnswerBuffer,
    progress: Mutex<Option<Progress>>,
    /// Whether the latest progress is still to be stored.
    unsaved: AtomicBool,
    /// The log, if a probe uses it.
    pub(crate) log: OnceLock<AttemptLog>,
    /// Locked while log lines are stored, so that batches stay in order.
    pub(crate) log_turn: tokio::sync::Mutex<()>,
    stuck: Mutex<Option<Stuck>>,
    reported: AtomicBool,
}

impl Live {
    pub(crate) fn new(
        record: &TaskRecord,
        held: Held,
        request: &CapturedRequest,
        started: Instant,
        machine: Attempt,
        elsewhere: Option<&Arc<str>>,
    ) -> Self {
        Self {
            lease: held.lease(),
            held,
            name: record.name.clone(),
            attempt: record.attempt,
            depth: request.depth,
            left_out: request.left_out(),
            retries: record.retries,
            retries_left: record.max_attempts.saturating_sub(record.retries + 1),
            // A task without retries runs once, so it is not deferred either.
            deferrals_left: match record.max_attempts {
                0..=1 => 0,
                _ => DEFERRALS.saturating_sub(record.deferrals),
            },
            elsewhere: elsewhere.cloned(),
            started,
            times_out_at: machine.times_out_at(),
            machine: Mutex::new(machine),
            changed: Notify::new(),
            cancel: Latch::new(),
            answer: AnswerBuffer::default(),
            progress: Mutex::default(),
            unsaved: AtomicBool::new(false),
            log: OnceLock::new(),
            log_turn: tokio::sync::Mutex::default(),
            stuck: Mutex::default(),
            reported: AtomicBool::new(false),
        }
    }

    pub(crate) fn machine(&self) -> MutexGuard<'_, Attempt> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an input to the machine, and wakes the attempt's own task.
    pub(crate) fn feed(&self, input: Input, now: Instant) {
        self.with_machine(|machine| machine.handle(input, now));
    }

    /// Gives an input to the machine, wakes the attempt's own task, and returns the next directive.
    pub(crate) fn feed_and_ask(&self, input: Input, now: Instant) -> Directive {
        self.with_machine(|machine| {
            machine.handle(input, now);
            machine.directive(now)
        })
    }

    /// Acts on the machine, and wakes the attempt's own task.
    fn with_machine<T>(&self, act: impl FnOnce(&mut Attempt) -> T) -> T {
        let mut machine = self.machine();
        let result = act(&mut machine);
        let cancelled = machine.is_cancelled();
        drop(machine);
        if cancelled {
            self.cancel.set();
        }
        self.changed.notify_one();
        result
    }

    pub(crate) fn changed(&self) -> &Notify {
        &self.changed
    }

    /// Waits for a change, until `until` at most. Returns the time.
    pub(crate) async fn change_before(&self, until: Instant) -> Instant {
        Box::pin(timeout_at(until, self.changed.notified())).await.ok();
        Instant::now()
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.is_set()
    }

    /// Resolves when the handler is asked to stop.
    pub(crate) async fn cancelled(&self) {
        self.cancel.wait().await;
    }

    /// Resolves when there is a new log line.
    pub(crate) async fn logged(&self) {
        match self.log.get() {
            Some(log) => log.pushed().await,
            None => std::future::pending().await,
        }
    }

    /// Records the progress of the handler.
    pub(crate) fn report(&self, progress: Progress) {
        *self.latest() = Some(progress);
        // Set after the progress, so that the reader of the flag finds the progress.
        if !self.unsaved.swap(true, Ordering::SeqCst) {
            self.changed.notify_one();
        }
    }

    /// The latest progress.
    pub(crate) fn progress(&self) -> Option<Progress> {
        self.latest().clone()
    }

    /// Whether there is progress that is not stored yet.
    pub(crate) fn has_unsaved(&self) -> bool {
        self.unsaved.load(Ordering::SeqCst)
    }

    /// Takes the latest progress to store it.
    pub(crate) fn take_unsaved(&self) -> Option<Progress> {
        self.unsaved.swap(false, Ordering::SeqCst).then(|| self.progress())?
    }

    /// Marks the slot as stuck. Returns whether it was not marked before.
    pub(crate) fn mark_stuck(&self, mark: impl FnOnce() -> Stuck) -> bool {
        let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        let new = stuck.is_none();
        stuck.get_or_insert_with(mark);
        new
    }

    /// Whether this is the first call. The watchdog and the attempt's own task may both come to report the end.
    pub(crate) fn is_first_to_report(&self) -> bool {
        !self.reported.swap(true, Ordering::SeqCst)
    }

    /// Marks the slot as no longer stuck. Call it before you free the slot.
    pub(crate) fn unstick(&self) {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn latest(&self) -> MutexGuard<'_, Option<Progress>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The attempts of this process, by claim. Sharded, since every attempt is added and removed.
pub(crate) struct Running {
    shards: Box<[Mutex<Shard>]>,
    ended: AtomicUsize,
    handed_back: AtomicUsize,
}

/// The numbers of attempts that have ended so far.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    /// Attempts that ended by themselves, by a stop, or by losing their claim.
    pub(crate) ended: usize,
    /// Attempts whose tasks were handed back.
    pub(crate) handed_back: usize,
}

type Shard = HashMap<LeaseRef, Arc<Live>, BuildHasherDefault<ByRandomPart>>;

/// Enough shards that two threads rarely wait for each other.
const SHARDS: usize = 16;

impl Running {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            ended: AtomicUsize::new(0),
            handed_back: AtomicUsize::new(0),
        }
    }

    /// Counts an attempt that has ended.
    pub(crate) fn note_end(&self, handed_back: bool) {
        let counter = if handed_back { &self.handed_back } else { &self.ended };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ends(&self) -> Ends {
        Ends {
            ended: self.ended.load(Ordering::Relaxed),
            handed_back: self.handed_back.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn enter(&self, live: Arc<Live>) {
        self.shard(live.lease.id).insert(live.lease, live);
    }

    pub(crate) fn leave(&self, lease: LeaseRef) {
        self.shard(lease.id).remove(&lease);
    }

    /// All attempts that run now.
    pub(crate) fn all(&self) -> Vec<Arc<Live>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(shard.lock().unwrap_or_else(PoisonError::into_inner).values().cloned());
        }
        all
    }

    /// The attempts of one task. There is more than one if an old attempt still runs after its claim was lost.
    pub(crate) fn of(&self, id: RequestId) -> Vec<Arc<Live>> {
        let shard = self.shard(id);
        shard.values().filter(|live| live.lease.id == id).cloned().collect()
    }

    fn shard(&self, id: RequestId) -> MutexGuard<'_, Shard> {
        let shard = usize::from(id.as_bytes()[15]) % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Uses the random part of a request id as its hash. The layer makes the id, so a client cannot choose the hash.
#[derive(Default)]
pub(crate) struct ByRandomPart(u64);

impl Hasher for ByRandomPart {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(end) = bytes.last_chunk() {
            self.0 ^= u64::from_ne_bytes(*end);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 ^= number.rotate_left(32);
    }

    fn write_usize(&mut self, _: usize) {}
}
