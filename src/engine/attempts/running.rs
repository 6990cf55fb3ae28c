//! The attempts that run in this process, and what is known of each from outside its own task.

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
            answering::SoFar,
            attempt::{Attempt, Directive, Input},
        },
        slots::Stuck,
        told::Told,
    },
    probe::AttemptLog,
    store::Held,
    task::{CapturedRequest, LeaseRef, Progress, RequestId, TaskName, TaskRecord, lifecycle::DEFERRALS},
};

/// What is shared between an attempt's own task, its handler, the lease thread, and whoever stops it.
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
    /// How often it may say "not now" without being charged.
    pub(crate) deferrals_left: u32,
    /// The version of the application that it is handed on to if this one does not have its route.
    pub(crate) elsewhere: Option<Arc<str>>,
    pub(crate) started: Instant,
    pub(crate) times_out_at: Instant,
    machine: Mutex<Attempt>,
    /// Something changed that the attempt's own task should look at.
    changed: Notify,
    /// The handler was told to end.
    cancel: Told,
    /// What there is of its answer.
    pub(crate) so_far: SoFar,
    progress: Mutex<Option<Progress>>,
    /// Whether the latest progress is to be stored yet.
    unsaved: AtomicBool,
    /// What it logs, once a probe asked for it.
    pub(crate) log: OnceLock<AttemptLog>,
    /// Whose turn it is to store of that.
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
            // Who allows no retries may have a reason that a response does not know.
            deferrals_left: match record.max_attempts {
                0..=1 => 0,
                _ => DEFERRALS.saturating_sub(record.deferrals),
            },
            elsewhere: elsewhere.cloned(),
            started,
            times_out_at: machine.times_out_at(),
            machine: Mutex::new(machine),
            changed: Notify::new(),
            cancel: Told::new(),
            so_far: SoFar::default(),
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

    /// Feeds the machine from outside the attempt's own task, and has that look.
    pub(crate) fn feed(&self, input: Input, now: Instant) {
        self.tell(|machine| machine.handle(input, now));
    }

    /// The same, and asks the machine what is next.
    pub(crate) fn feed_and_ask(&self, input: Input, now: Instant) -> Directive {
        self.tell(|machine| {
            machine.handle(input, now);
            machine.directive(now)
        })
    }

    fn tell<T>(&self, tell: impl FnOnce(&mut Attempt) -> T) -> T {
        let mut machine = self.machine();
        let told = tell(&mut machine);
        let cancelled = machine.is_cancelled();
        drop(machine);
        if cancelled {
            self.cancel.tell();
        }
        self.changed.notify_one();
        told
    }

    pub(crate) fn changed(&self) -> &Notify {
        &self.changed
    }

    /// Waits for a change, until then at most. Answers with the time.
    pub(crate) async fn change_before(&self, until: Instant) -> Instant {
        Box::pin(timeout_at(until, self.changed.notified())).await.ok();
        Instant::now()
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.is_told()
    }

    /// Resolves when the handler is told to end.
    pub(crate) async fn cancelled(&self) {
        self.cancel.told().await;
    }

    /// Resolves when it logs something after a silence.
    pub(crate) async fn logged(&self) {
        match self.log.get() {
            Some(log) => log.pushed().await,
            None => std::future::pending().await,
        }
    }

    /// Notes how far the handler is.
    pub(crate) fn report(&self, progress: Progress) {
        *self.latest() = Some(progress);
        // After it is there, so that whoever takes the flag finds it.
        if !self.unsaved.swap(true, Ordering::SeqCst) {
            self.changed.notify_one();
        }
    }

    /// The latest report.
    pub(crate) fn progress(&self) -> Option<Progress> {
        self.latest().clone()
    }

    /// Whether there is a report that was not taken to be saved.
    pub(crate) fn has_unsaved(&self) -> bool {
        self.unsaved.load(Ordering::SeqCst)
    }

    /// Takes the latest report to save it.
    pub(crate) fn take_unsaved(&self) -> Option<Progress> {
        self.unsaved.swap(false, Ordering::SeqCst).then(|| self.progress())?
    }

    /// Marks the slot as stuck, once. Answers whether it was not before.
    pub(crate) fn mark_stuck(&self, mark: impl FnOnce() -> Stuck) -> bool {
        let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        let new = stuck.is_none();
        stuck.get_or_insert_with(mark);
        new
    }

    /// Whether the caller is the first to see that it is over: two may, where the watchdog wrote it down.
    pub(crate) fn is_first_to_report(&self) -> bool {
        !self.reported.swap(true, Ordering::SeqCst)
    }

    /// The slot is about to be freed.
    pub(crate) fn unstick(&self) {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn latest(&self) -> MutexGuard<'_, Option<Progress>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The attempts of this process, by claim. Sharded, since every attempt enters and leaves.
pub(crate) struct Running {
    shards: Box<[Mutex<Shard>]>,
    ended: AtomicUsize,
    handed_back: AtomicUsize,
}

/// How many attempts came to an end so far.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    /// By themselves, or by being stopped.
    pub(crate) ended: usize,
    /// By being handed back.
    pub(crate) handed_back: usize,
}

type Shard = HashMap<LeaseRef, Arc<Live>, BuildHasherDefault<ByRandomPart>>;

/// As many as make two threads meet rarely.
const SHARDS: usize = 16;

impl Running {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            ended: AtomicUsize::new(0),
            handed_back: AtomicUsize::new(0),
        }
    }

    /// An attempt is over, and written down.
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

    /// Every attempt, as it is now.
    pub(crate) fn all(&self) -> Vec<Arc<Live>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(shard.lock().unwrap_or_else(PoisonError::into_inner).values().cloned());
        }
        all
    }

    /// The attempts of one task: one, or two while an old one has not noticed yet that it lost its claim.
    pub(crate) fn of(&self, id: RequestId) -> Vec<Arc<Live>> {
        let shard = self.shard(id);
        shard.values().filter(|live| live.lease.id == id).cloned().collect()
    }

    fn shard(&self, id: RequestId) -> MutexGuard<'_, Shard> {
        let shard = usize::from(id.as_bytes()[15]) % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the random end of a request id for its hash: it is random already, and the layer made it.
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
