//! [`TracingProbe`]: reports events with the `tracing` crate.

use std::error::Error;

use tracing::{Span, debug, error, field::display, info, info_span, trace, warn};

use crate::{
    probe::{AttemptInfo, AttemptOutcome, AttemptScope, Event, Probe},
    task::{CapturedRequest, DeliveryStatus, TaskState, lifecycle::Rescue},
};

/// Reports events with the `tracing` crate: a span around every attempt, and a `tracing` event for everything else.
///
/// **Accepting** happens inside the span of the original request, if there is one, such as that of `tower_http`'s
/// `TraceLayer` outside of this layer. The event `task accepted` is written there.
///
/// **An attempt** runs in its own span, `task.attempt`, at level INFO. The span has no parent, since its request was
/// answered long ago. It follows from the span that is current when the attempt begins, if there is one. If the request
/// had a valid `traceparent` header, the span has it as a field, and an exporter can make a link of it. The header is
/// stored with the request, so the handler gets it as in a synchronous request. The fields:
///
/// | field | value |
/// |---|---|
/// | `otel.kind` | `consumer` |
/// | `messaging.system` | `tower-respond-async` |
/// | `messaging.operation.type` | `process` |
/// | `messaging.destination.name`, `faas.name` | the function under which the task is listed |
/// | `messaging.message.id`, `faas.invocation_id`, `task.id` | the request id |
/// | `messaging.message.body.size` | the length of the request body |
/// | `task.attempt`, `task.fence_token` | the number of the attempt, and the fence token of its claim |
/// | `traceparent` | the request's `traceparent` header, if it is valid |
///
/// **Levels:**
///
/// - ERROR: a handler that blocks its thread, a poisoned task, a completion that is given up, damaged values that were
///   set aside
/// - WARN: trouble with the store, keys that the store dropped for lack of room, the first duplicate that was answered
///   with the request id only, a lost lease, a fenced write, a rescued, expired or failed task, a completion that will
///   be tried again
/// - INFO: a retry, a deferral, a task that is handed on, a task that a rescue stopped, and changes through the task
///   API with their author
/// - DEBUG: normal operation
/// - TRACE: calls of the store, and the levels of the engine
///
/// Targets begin with `tower_respond_async`. Events contain no bodies, headers or paths.
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
    /// Returns a probe that reports to the subscriber that is current at each event.
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
                claimed,
                duplicate,
                took,
            } => debug!(task.id = %id, claimed, duplicate, ?took, "task accepted"),
            Event::Refused { code, took } => debug!(code, ?took, "request refused"),
            Event::Withheld { id, why, first: true } => warn!(
                task.id = %id,
                why,
                "duplicate answered with the request id only; RespondAsyncBuilder::caller and RespondAsyncBuilder::credentials set who gets more; later \
                 ones are told at DEBUG",
            ),
            Event::Withheld { id, why, first: false } => {
                debug!(task.id = %id, why, "duplicate answered with the request id only");
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
                Rescue::Requeued => warn!(task.id = %id, "task rescued, its worker is dead"),
                Rescue::Poisoned => error!(task.id = %id, "task poisoned, its workers kept dying"),
                Rescue::Stopped => info!(task.id = %id, "task stopped, its worker is dead"),
                Rescue::Expired => warn!(task.id = %id, "task expired, it waited too long"),
                Rescue::NotDue => {}
            },
            Event::Changed { id, action, who } => {
                info!(task.id = %id, action, who, "task changed through the task API");
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
                error!(task.id = %id, destination, "completion given up");
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

/// The `traceparent` header of a request, if it looks as W3C Trace Context prescribes.
///
/// Other values are left out, since a client can send anything.
fn trace_parent(request: &CapturedRequest) -> Option<&str> {
    const LENGTH: usize = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".len();
    let text = request.headers.get("traceparent")?.to_str().ok()?;
    let fits = text.len() == LENGTH && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    fits.then_some(text)
}
