//! Events as `tracing` spans and events.

use std::error::Error;

use tracing::{Span, debug, error, field::display, info, info_span, trace, warn};

use crate::{
    probe::{AttemptInfo, AttemptOutcome, AttemptScope, Event, Probe},
    task::{CapturedRequest, DeliveryStatus, TaskState, lifecycle::Rescue},
};

/// Writes what happens with the `tracing` crate: a span around every attempt, and an event for all else.
///
/// **Accepting** happens inside the span of the host's request, if it has one, as `tower_http`'s `TraceLayer` outside this
/// layer gives it; the event `task accepted` is written there.
///
/// **An attempt** runs in a span of its own, `task.attempt`, at level INFO. It has no parent, since the request that asked
/// for it was answered long ago, but follows from the span that started it, where there is one in this process. If the
/// request had a `traceparent` header, the span has it as a field: an exporter makes a link of it. The header itself was
/// stored with the request, so a handler finds it where it would on a synchronous one. The fields:
///
/// | field | is |
/// |---|---|
/// | `otel.kind` | `consumer` |
/// | `messaging.system` | `tower-respond-async` |
/// | `messaging.operation.type` | `process` |
/// | `messaging.destination.name`, `faas.name` | what the task is listed under |
/// | `messaging.message.id`, `faas.invocation_id`, `task.id` | the request id |
/// | `messaging.message.body.size` | the length of the request body |
/// | `task.attempt`, `task.fence_token` | the number of the attempt, and its claim |
/// | `traceparent` | the trace that the request belongs to |
///
/// **Levels:** ERROR for a handler that blocks its thread, a poisoned task and a completion that is given up; WARN for a
/// store in trouble, keys that it forgets for want of room, the first duplicate whose answer is withheld, a lost lease, a
/// fenced write, a failed task and a completion that is tried again; INFO for a retry and for changes by people (who did
/// what); DEBUG for the common life; TRACE for calls of the store. Their targets begin with `tower_respond_async`. Bodies,
/// headers and paths are in none.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{MemoryStore, RespondAsyncLayer, probe::TracingProbe};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// tracing_subscriber::fmt().init();
/// let layer = RespondAsyncLayer::builder(MemoryStore::new())
///     .probe(TracingProbe::new())
///     .build()?;
/// # drop(layer);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct TracingProbe;

impl TracingProbe {
    /// A probe that reports to the subscriber that is there when something happens.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Probe for TracingProbe {
    fn on_event(&self, event: &Event<'_>) {
        match event {
            Event::Accepted {
                id,
                born_claimed,
                duplicate,
                took,
            } => debug!(task.id = %id, born_claimed, duplicate, ?took, "task accepted"),
            Event::Refused { code, took } => debug!(code, ?took, "request refused"),
            Event::Withheld { id, why, first: true } => warn!(
                task.id = %id,
                why,
                "duplicate answered with its id alone; RespondAsyncBuilder::caller and RespondAsyncBuilder::credentials set who gets more; later \
                 ones are told at DEBUG",
            ),
            Event::Withheld { id, why, first: false } => {
                debug!(task.id = %id, why, "duplicate answered with its id alone");
            }
            Event::Started { id, attempt, waited } => {
                debug!(task.id = %id, task.attempt = attempt, ?waited, "attempt started");
            }
            Event::Ended {
                id,
                attempt,
                outcome,
                state,
                took,
            } => {
                let deferred = matches!(outcome, AttemptOutcome::Deferred | AttemptOutcome::HandedOn);
                let outcome = outcome.as_str();
                match state {
                    TaskState::Retrying if deferred => {
                        info!(task.id = %id, task.attempt = attempt, outcome, ?took, "attempt deferred, to be made later");
                    }
                    TaskState::Failed => {
                        warn!(task.id = %id, task.attempt = attempt, outcome, ?took, "task failed");
                    }
                    TaskState::Retrying => {
                        info!(task.id = %id, task.attempt = attempt, outcome, ?took, "attempt failed, to be retried");
                    }
                    _ => {
                        debug!(task.id = %id, task.attempt = attempt, outcome, %state, ?took, "attempt ended");
                    }
                }
            }
            Event::LeaseLost { id, attempt } => {
                warn!(task.id = %id, task.attempt = attempt, "lease lost, attempt aborted");
            }
            Event::Fenced { id } => warn!(task.id = %id, "write refused, the claim no longer holds"),
            Event::Stuck { id, attempt } => {
                error!(task.id = %id, task.attempt = attempt, "handler blocks its thread, slot stuck");
            }
            Event::Rescued { id, rescue } => match rescue {
                Rescue::Requeued => warn!(task.id = %id, "task rescued, its worker was gone"),
                Rescue::Poisoned => error!(task.id = %id, "task poisoned, its workers kept dying"),
                Rescue::Stopped => info!(task.id = %id, "task stopped, its worker was gone"),
                Rescue::Expired => warn!(task.id = %id, "task expired, it waited too long"),
                Rescue::NotDue => {}
            },
            Event::Changed { id, action, who } => {
                info!(task.id = %id, action, who, "task changed on request");
            }
            Event::Delivered {
                id,
                destination,
                status,
                error,
                took,
            } => {
                let (destination, error) = (destination.as_str(), error.map(|error| &**error));
                match status {
                    DeliveryStatus::Failed | DeliveryStatus::Blocked => {
                        error!(task.id = %id, destination, error, ?took, "completion given up");
                    }
                    DeliveryStatus::Pending => {
                        warn!(task.id = %id, destination, error, ?took, "completion not delivered, to be tried again");
                    }
                    _ => debug!(task.id = %id, destination, ?took, "completion delivered"),
                }
            }
            Event::GivenUp { id, destination } => {
                let destination = destination.as_str();
                error!(task.id = %id, destination, "completion given up, nobody takes it");
            }
            Event::Pruned(pruned) => {
                debug!(tasks = pruned.tasks, keys = pruned.keys, "ended tasks pruned");
            }
            Event::StoreCall { operation, took, error } => {
                let error = error.map(|error| error as &(dyn Error + 'static));
                trace!(operation, ?took, error, "store called");
            }
            Event::Trouble { doing, error, retry_in } => {
                let error = *error as &(dyn Error + 'static);
                warn!(doing, error, ?retry_in, "trouble with the store");
            }
            Event::SetAside { values } => error!(values, "damaged values set aside by the store"),
            Event::KeysForgotten { keys } => {
                warn!(
                    keys,
                    "keys forgotten before their window was over, the store has no room for more"
                );
            }
            Event::Levels {
                slots_used,
                slots_total,
                slots_stuck,
                buffered_bytes,
                ..
            } => trace!(slots_used, slots_total, slots_stuck, buffered_bytes, "levels"),
        }
    }

    fn attempt(&self, attempt: &AttemptInfo<'_>) -> Option<Box<dyn AttemptScope>> {
        let id = display(attempt.id);
        let span = info_span!(
            parent: None,
            "task.attempt",
            otel.kind = "consumer",
            messaging.system = "tower-respond-async",
            messaging.operation.type = "process",
            messaging.destination.name = attempt.function,
            messaging.message.id = &id,
            messaging.message.body.size = attempt.request.body.len(),
            faas.name = attempt.function,
            faas.invocation_id = &id,
            task.id = &id,
            task.attempt = attempt.attempt,
            task.fence_token = attempt.token.get(),
            traceparent = trace_parent(attempt.request),
        );
        if span.is_disabled() {
            return None;
        }
        span.follows_from(Span::current());
        Some(Box::new(InSpan(span)))
    }
}

struct InSpan(Span);

impl AttemptScope for InSpan {
    fn in_scope(&mut self, poll: &mut dyn FnMut()) {
        self.0.in_scope(poll);
    }
}

/// The trace that a request belongs to, if its header says so in the form that W3C Trace Context prescribes. A client can
/// send anything, so what has another form is left out.
fn trace_parent(request: &CapturedRequest) -> Option<&str> {
    const LENGTH: usize = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".len();
    let text = request.headers.get("traceparent")?.to_str().ok()?;
    let fits = text.len() == LENGTH && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    fits.then_some(text)
}
