//! [`MetricsProbe`]: counts events with the `metrics` crate.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::{
    probe::{AttemptOutcome, Event, Probe},
    store::{StoreError, StoreErrorKind},
    task::{DeliveryStatus, TaskState, lifecycle::Rescue},
};

/// Counts events with the `metrics` crate, for any of its exporters.
///
/// All names begin with `respond_async_`. Labels take few values: they contain no ids, tenants or paths.
///
/// | metric | kind | labels | meaning |
/// |---|---|---|---|
/// | `accepted_total` | counter | `outcome`: `accepted`, `duplicate`, or the code of a refusal | requests that asked for async |
/// | `duplicates_withheld_total` | counter | | duplicates that were answered with the request id only, since the sender is not known to have sent the first request |
/// | `accept_duration_seconds` | histogram | | time from the head of a request to the commit of its task |
/// | `tasks` | gauge | `state` | tasks in the store |
/// | `oldest_queued_age_seconds` | gauge | | how long the oldest task in the queue has been due |
/// | `queue_wait_seconds` | histogram | | how long a task had been due when its attempt began |
/// | `attempts_total` | counter | `outcome`: see [`AttemptOutcome`] | attempts that ended |
/// | `attempt_duration_seconds` | histogram | `outcome` | how long attempts took |
/// | `retries_total` | counter | | failed attempts that are followed by a retry |
/// | `leases_lost_total` | counter | | attempts that were aborted because their claim was lost |
/// | `fenced_writes_total` | counter | | writes that the store refused because their claim was lost |
/// | `rescued_total` | counter | | tasks taken from a dead worker |
/// | `poisoned_total` | counter | | rescued tasks that were given up because their workers kept dying |
/// | `expired_total` | counter | | tasks that waited longer than their age allows |
/// | `pruned_total` | counter | | ended tasks that were removed |
/// | `slots` | gauge | `state`: `running`, `stuck`, `free` | slots of this process |
/// | `buffered_bytes` | gauge | | bytes of bodies that this process is reading |
/// | `callback_backlog` | gauge | | pending completions, including those that wait for a later try |
/// | `callback_deliveries_total` | counter | `outcome`: `delivered`, `retried`, `failed`, `blocked` | tries of completions |
/// | `callbacks_given_up_total` | counter | | completions given up without a last try: no process delivered them, or the store had no room |
/// | `store_op_duration_seconds` | histogram | `op`, `outcome`: `ok` or the kind of error | calls of the store |
/// | `store_keys_forgotten_total` | counter | | keys of ended tasks that the store dropped before their window was over, for lack of room |
/// | `store_corrupt_records_total` | counter | | stored values that cannot be read: those set aside, and those on which a call failed |
///
/// The gauges concern this process, except `tasks`, `oldest_queued_age_seconds` and `callback_backlog`: every process
/// on one store reports the same values for these, so take their maximum, not their sum.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{MemoryStore, RespondAsyncLayer, probe::MetricsProbe};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // The exporter first, such as `PrometheusBuilder::new().install()?`: descriptions go to the one that is there.
/// let layer = RespondAsyncLayer::builder(MemoryStore::new())
///     .probe(MetricsProbe::new())
///     .build()?;
/// # drop(layer);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MetricsProbe;

impl MetricsProbe {
    /// Returns a probe that reports to the recorder that is current at each event.
    ///
    /// This describes every metric to the recorder that is installed now. It also adds zero to the counters without
    /// labels, so that an exporter shows them before their first event, and the first event appears as an increase.
    #[must_use]
    pub fn new() -> Self {
        for (name, says) in TOTALS {
            describe_counter!(name, Unit::Count, says);
            counter!(name).increment(0);
        }
        describe_counter!(ACCEPTED, Unit::Count, "requests that asked for async");
        describe_counter!(ATTEMPTS, Unit::Count, "attempts that ended");
        describe_counter!(DELIVERIES, Unit::Count, "delivery tries of completions");
        describe_histogram!(ACCEPT_DURATION, Unit::Seconds, "from a request's head to the commit");
        describe_histogram!(
            QUEUE_WAIT,
            Unit::Seconds,
            "how long a task had been due when it started"
        );
        describe_histogram!(ATTEMPT_DURATION, Unit::Seconds, "how long attempts took");
        describe_histogram!(STORE_OP_DURATION, Unit::Seconds, "how long calls of the store took");
        describe_gauge!(TASKS, Unit::Count, "tasks in the store");
        describe_gauge!(
            OLDEST_QUEUED,
            Unit::Seconds,
            "how long the first in the queue has been due"
        );
        describe_gauge!(BACKLOG, Unit::Count, "completions that are still to be delivered");
        describe_gauge!(SLOTS, Unit::Count, "slots of this process");
        describe_gauge!(
            BUFFERED_BYTES,
            Unit::Bytes,
            "bodies that are being read in this process"
        );
        Self
    }
}

impl Default for MetricsProbe {
    fn default() -> Self {
        Self::new()
    }
}

impl Probe for MetricsProbe {
    fn on_event(&self, event: &Event<'_>) {
        match event {
            Event::Accepted { duplicate, took, .. } => {
                let outcome = if *duplicate { "duplicate" } else { "accepted" };
                counter!(ACCEPTED, "outcome" => outcome).increment(1);
                histogram!(ACCEPT_DURATION).record(*took);
            }
            Event::Refused { code, .. } => counter!(ACCEPTED, "outcome" => *code).increment(1),
            Event::Withheld { .. } => counter!(WITHHELD).increment(1),
            Event::Started { waited, .. } => histogram!(QUEUE_WAIT).record(*waited),
            Event::Ended {
                outcome, state, took, ..
            } => {
                let deferred = matches!(outcome, AttemptOutcome::Deferred | AttemptOutcome::HandedOn);
                let retried = *state == TaskState::Retrying && !deferred;
                let outcome = AttemptOutcome::as_str(*outcome);
                counter!(ATTEMPTS, "outcome" => outcome).increment(1);
                histogram!(ATTEMPT_DURATION, "outcome" => outcome).record(*took);
                if retried {
                    counter!(RETRIES).increment(1);
                }
            }
            Event::LeaseLost { .. } => counter!(LEASES_LOST).increment(1),
            Event::Fenced { .. } => counter!(FENCED_WRITES).increment(1),
            Event::Rescued { rescue, .. } => match rescue {
                Rescue::Requeued | Rescue::Stopped => counter!(RESCUED).increment(1),
                Rescue::Poisoned => {
                    counter!(RESCUED).increment(1);
                    counter!(POISONED).increment(1);
                }
                Rescue::Expired => counter!(EXPIRED).increment(1),
                Rescue::NotDue => {}
            },
            Event::Delivered { status, .. } => {
                let outcome = match status {
                    DeliveryStatus::Delivered => "delivered",
                    DeliveryStatus::Pending => "retried",
                    DeliveryStatus::Failed => "failed",
                    DeliveryStatus::Blocked => "blocked",
                    DeliveryStatus::None => return,
                };
                counter!(DELIVERIES, "outcome" => outcome).increment(1);
            }
            Event::GivenUp { .. } => counter!(GIVEN_UP).increment(1),
            Event::Pruned(pruned) => counter!(PRUNED).increment(pruned.tasks as u64),
            Event::StoreCall { operation, took, error } => {
                let outcome = error.map_or("ok", name_of);
                histogram!(STORE_OP_DURATION, "op" => *operation, "outcome" => outcome).record(*took);
                if error.is_some_and(|error| error.kind() == StoreErrorKind::Corrupt) {
                    counter!(CORRUPT_RECORDS).increment(1);
                }
            }
            Event::Levels {
                counts,
                slots_used,
                slots_total,
                slots_stuck,
                buffered_bytes,
            } => {
                if let Some(counts) = counts {
                    for (state, count) in counts.iter() {
                        gauge!(TASKS, "state" => state.as_str()).set(count as f64);
                    }
                    gauge!(OLDEST_QUEUED).set(counts.oldest_queued.unwrap_or_default());
                    if let Some(pending) = counts.pending_deliveries {
                        gauge!(BACKLOG).set(pending as f64);
                    }
                }
                // The states are disjoint, so that they can be stacked.
                gauge!(SLOTS, "state" => "running").set(slots_used.saturating_sub(*slots_stuck) as f64);
                gauge!(SLOTS, "state" => "stuck").set(*slots_stuck as f64);
                gauge!(SLOTS, "state" => "free").set(slots_total.saturating_sub(*slots_used) as f64);
                gauge!(BUFFERED_BYTES).set(*buffered_bytes as f64);
            }
            Event::SetAside { values } => counter!(CORRUPT_RECORDS).increment(*values),
            Event::KeysForgotten { keys } => counter!(KEYS_FORGOTTEN).increment(*keys),
            // Stuck attempts show in the slots, trouble in the store calls, changes in the log.
            Event::Stuck { .. } | Event::Trouble { .. } | Event::Changed { .. } => {}
        }
    }
}

const fn name_of(error: &StoreError) -> &'static str {
    match error.kind() {
        StoreErrorKind::Conflict => "conflict",
        StoreErrorKind::NotFound => "not_found",
        StoreErrorKind::Unavailable => "unavailable",
        StoreErrorKind::Full => "full",
        StoreErrorKind::Corrupt => "corrupt",
        StoreErrorKind::Incompatible => "incompatible",
        StoreErrorKind::Unsupported => "unsupported",
    }
}

const ACCEPTED: &str = "respond_async_accepted_total";
const ACCEPT_DURATION: &str = "respond_async_accept_duration_seconds";
const TASKS: &str = "respond_async_tasks";
const BACKLOG: &str = "respond_async_callback_backlog";
const OLDEST_QUEUED: &str = "respond_async_oldest_queued_age_seconds";
const QUEUE_WAIT: &str = "respond_async_queue_wait_seconds";
const ATTEMPTS: &str = "respond_async_attempts_total";
const ATTEMPT_DURATION: &str = "respond_async_attempt_duration_seconds";
const WITHHELD: &str = "respond_async_duplicates_withheld_total";
const RETRIES: &str = "respond_async_retries_total";
const LEASES_LOST: &str = "respond_async_leases_lost_total";
const FENCED_WRITES: &str = "respond_async_fenced_writes_total";
const RESCUED: &str = "respond_async_rescued_total";
const POISONED: &str = "respond_async_poisoned_total";
const EXPIRED: &str = "respond_async_expired_total";
const PRUNED: &str = "respond_async_pruned_total";
const SLOTS: &str = "respond_async_slots";
const BUFFERED_BYTES: &str = "respond_async_buffered_bytes";
const DELIVERIES: &str = "respond_async_callback_deliveries_total";
const GIVEN_UP: &str = "respond_async_callbacks_given_up_total";
const STORE_OP_DURATION: &str = "respond_async_store_op_duration_seconds";
const KEYS_FORGOTTEN: &str = "respond_async_store_keys_forgotten_total";
const CORRUPT_RECORDS: &str = "respond_async_store_corrupt_records_total";

/// The counters without labels, with their descriptions.
const TOTALS: [(&str, &str); 11] = [
    (WITHHELD, "duplicates answered with their id only"),
    (RETRIES, "attempts that failed and are tried again"),
    (LEASES_LOST, "attempts aborted because their claim was lost"),
    (FENCED_WRITES, "writes refused because their claim was lost"),
    (RESCUED, "tasks taken from a dead worker"),
    (POISONED, "tasks given up because their workers kept dying"),
    (EXPIRED, "tasks that waited longer than their age allows"),
    (GIVEN_UP, "completions given up without a last try"),
    (PRUNED, "ended tasks that were removed"),
    (KEYS_FORGOTTEN, "keys forgotten before their window was over"),
    (CORRUPT_RECORDS, "stored values that cannot be read"),
];
