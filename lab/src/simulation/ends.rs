//! Destinations for the ends of tasks, and a probe that observes a process.

use std::time::Duration;

use tokio::time::sleep;
use tower_respond_async::{
    BoxError, Completion, CompletionHook,
    error::BoxFuture,
    hook::{Application, Schedule, Target, Tried, TryOutcome},
    probe::{AttemptInfo, AttemptScope, Event, Probe},
    task::{DeliveryStatus, Destination, LogLine},
};

use super::world::{BUDGET, STORE_TIMEOUT, Shared, World};

/// A destination that every process has.
pub(super) const TOLD: &str = "told";
/// A destination that few processes have, as one of an earlier version of the application.
pub(super) const GONE: &str = "gone";

/// How long one try may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How often a destination refuses one end at most.
const REFUSALS: u32 = 2;

/// The hook of a process.
pub(super) struct Hook {
    pub(super) shared: Shared,
    pub(super) process: u32,
}

impl CompletionHook for Hook {
    fn deliver(&self, completion: Completion) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async move {
            match tell(&self.shared, self.process, &Destination::LOCAL, &completion).await {
                true => Ok(()),
                false => Err("refused".into()),
            }
        })
    }
}

/// A target with a name and a schedule.
pub(super) struct Receiver {
    shared: Shared,
    process: u32,
    name: Destination,
    schedule: Schedule,
}

impl Receiver {
    pub(super) fn new(shared: Shared, process: u32, name: &'static str) -> Self {
        let pauses = [1, 2, 3, 5, 8].into_iter().chain([9; 30]);
        Self {
            shared,
            process,
            name: Destination::new(name),
            schedule: Schedule::new(pauses.map(Duration::from_secs)),
        }
    }
}

impl Target for Receiver {
    fn name(&self) -> &Destination {
        &self.name
    }

    fn deliver<'a>(&'a self, completion: Completion, _: &'a dyn Application) -> BoxFuture<'a, Tried> {
        Box::pin(async move {
            match tell(&self.shared, self.process, &self.name, &completion).await {
                true => Tried::new(TryOutcome::Delivered),
                false => Tried::failed("refused"),
            }
        })
    }

    fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    fn concurrency(&self) -> usize {
        2
    }

    fn limit(&self) -> Duration {
        LIMIT
    }
}

/// Delivers an end. Answers whether the destination accepted it.
async fn tell(shared: &Shared, process: u32, to: &Destination, completion: &Completion) -> bool {
    let (long, taken) = shared.enter(process).told_end(to, completion);
    sleep(long).await;
    if taken {
        shared.enter(process).took_note(to, completion);
    }
    taken
}

/// The probe of a process.
pub(super) struct Listener {
    pub(super) shared: Shared,
    pub(super) process: u32,
    pub(super) slots: usize,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

impl Probe for Listener {
    /// Some attempts have a log, which is stored during and after the handler's run.
    fn attempt(&self, attempt: &AttemptInfo<'_>) -> Option<Box<dyn AttemptScope>> {
        let mut world = self.shared.enter(self.process);
        if world.random.u32(0..4) == 0 {
            let line = LogLine::new(world.store_time(), "INFO", "simulation", "begun");
            attempt.log().push(line);
        }
        None
    }

    fn on_event(&self, event: &Event<'_>) {
        let mut world = self.shared.enter(self.process);
        match *event {
            Event::Ended { id, state, .. } => world.told_settled(self.process, id, state),
            Event::Fenced { id } => world.told_fenced(self.process, id),
            Event::LeaseLost { id, .. } => {
                world.report.leases_lost += 1;
                world.note(format_args!("{id} is lost on process {}", self.process));
            }
            Event::Rescued { id, rescue } => world.told_rescued(id, rescue),
            Event::GivenUp { id, .. } => world.told_given_up(id),
            Event::Delivered {
                status: DeliveryStatus::Delivered,
                ..
            } => world.report.delivered += 1,
            Event::Levels {
                slots_used,
                slots_total,
                buffered_bytes,
                ..
            } => {
                let fits = slots_used <= slots_total && slots_total == self.slots;
                world.check(10, fits, format_args!("{slots_used} of {slots_total} slots are used"));
                world.check(
                    11,
                    buffered_bytes <= BUDGET,
                    format_args!("{buffered_bytes} bytes are buffered"),
                );
            }
            _ => {}
        }
    }
}

impl World {
    /// An end is being delivered. Answers how long that takes, and whether the destination accepts it.
    fn told_end(&mut self, to: &Destination, completion: &Completion) -> (Duration, bool) {
        let (id, generation) = (completion.task.id, completion.generation);
        let (faults_on, random) = (self.faults_on, &mut self.random);
        let long = match random.u32(0..10) {
            0 if faults_on => LIMIT + STORE_TIMEOUT,
            0..4 => Duration::from_millis(random.u64(1..9_000)),
            _ => Duration::ZERO,
        };
        let refused = faults_on && random.bool();
        let Some(known) = self.known.get_mut(&id) else {
            self.fail(6, format_args!("the end of a task was told that nobody ordered"));
            return (long, true);
        };
        let ended = known.ends.get(&generation) == Some(&completion.state);
        let told = known.told.entry((generation, to.clone())).or_default();
        let first = told.id.get_or_insert_with(|| completion.webhook_id.clone()) == &completion.webhook_id;
        let is_refused = refused && told.refused < REFUSALS;
        told.refused += u32::from(is_refused);
        self.check(6, ended, format_args!("an end of {id} was told that was none"));
        self.check(6, first, format_args!("{id} was told under two ids"));
        self.note(format_args!("the end of {id} is told to {to}, refused: {is_refused}"));
        (long, !is_refused)
    }

    fn took_note(&mut self, to: &Destination, completion: &Completion) {
        let known = self.known.get_mut(&completion.task.id);
        let told = known.and_then(|known| known.told.get_mut(&(completion.generation, to.clone())));
        if let Some(told) = told {
            told.taken = true;
        }
    }
}
