//! Metrics, traces and logs: a [`Probe`] receives each [`Event`] of the engine.
//!
//! - `Capture` (feature `capture`) keeps what a task logs with `tracing` as the task's own log
//! - `MetricsProbe` (feature `metrics`) counts with the `metrics` crate
//! - `TracingProbe` (feature `tracing`) writes spans and events with the `tracing` crate
//!
//! You can give the builder any number of probes. Events contain no body, header or secret. They contain ids and names
//! of users: do not use these as metric labels, since they take too many values. Without a probe, nothing is measured.
//!
//! # Examples
//!
//! A probe of your own that counts failed tasks:
//!
//! ```
//! use std::{
//!     sync::{
//!         Arc,
//!         atomic::{AtomicUsize, Ordering},
//!     },
//!     time::Duration,
//! };
//!
//! use axum::{Router, body::Body, http::{Request, StatusCode}, routing::post};
//! use tower::{Layer, ServiceExt};
//! use tower_respond_async::{
//!     MemoryStore, RespondAsyncLayer, TaskState,
//!     probe::{Event, Probe},
//! };
//!
//! #[derive(Clone, Debug, Default)]
//! struct Failures(Arc<AtomicUsize>);
//!
//! impl Probe for Failures {
//!     fn on_event(&self, event: &Event<'_>) {
//!         if let Event::Ended { state: TaskState::Failed, .. } = event {
//!             self.0.fetch_add(1, Ordering::Relaxed);
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let failures = Failures::default();
//! let layer = RespondAsyncLayer::builder(MemoryStore::new()).probe(failures.clone()).build()?;
//! let tasks = layer.tasks();
//! let app = layer.layer(Router::new().route("/refuse", post(async || StatusCode::BAD_REQUEST)));
//!
//! let request = Request::post("/refuse").header("Prefer", "respond-async").body(Body::empty())?;
//! let response = app.oneshot(request).await?;
//! assert_eq!(response.status(), StatusCode::ACCEPTED);
//! # let id = response.headers()["x-fc-request-id"].to_str()?.parse()?;
//! # tasks.wait(id, Duration::from_secs(10)).await?;
//!
//! tasks.shutdown(Duration::from_secs(10)).await;
//! assert_eq!(failures.0.load(Ordering::Relaxed), 1);
//! # Ok(()) }
//! ```

#[cfg(feature = "capture")]
mod capture;
mod log;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "tracing")]
mod tracing;

use std::{fmt, sync::OnceLock, time::Duration};

#[cfg(feature = "capture")]
pub use self::capture::Capture;
pub use self::log::AttemptLog;
#[cfg(feature = "metrics")]
pub use self::metrics::MetricsProbe;
#[cfg(feature = "tracing")]
pub use self::tracing::TracingProbe;
use crate::{
    error::BoxError,
    store::{Pruned, StoreError},
    task::{CapturedRequest, Counts, DeliveryStatus, Destination, FenceToken, RequestId, TaskState, lifecycle::Rescue},
};

/// Receives the events of the engine.
///
/// Its methods are called on hot paths and inside the engine. They must not block and must not panic.
///
/// See the [module](self#examples) for an example.
pub trait Probe: Send + Sync + fmt::Debug + 'static {
    /// Called for every event.
    fn on_event(&self, event: &Event<'_>);

    /// Called while a request is captured.
    ///
    /// Add data that an attempt needs later, such as a trace context, to `request.carried` or to the headers.
    fn on_capture(&self, request: &mut CapturedRequest) {
        let _ = request;
    }

    /// Called when an attempt begins. If a scope is returned, it wraps every poll of the attempt.
    fn attempt(&self, attempt: &AttemptInfo<'_>) -> Option<Box<dyn AttemptScope>> {
        let _ = attempt;
        None
    }
}

/// Wraps every poll of one attempt, to capture its log or enter a span.
///
/// The engine drops it when the attempt is over, outside of a poll.
///
/// # Examples
///
/// A probe that counts how often handlers are polled:
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicUsize, Ordering}};
///
/// use tower_respond_async::probe::{AttemptInfo, AttemptScope, Event, Probe};
///
/// #[derive(Clone, Debug, Default)]
/// struct Polls(Arc<AtomicUsize>);
///
/// impl Probe for Polls {
///     fn on_event(&self, _: &Event<'_>) {}
///
///     fn attempt(&self, _: &AttemptInfo<'_>) -> Option<Box<dyn AttemptScope>> {
///         Some(Box::new(self.clone()))
///     }
/// }
///
/// impl AttemptScope for Polls {
///     fn in_scope(&mut self, poll: &mut dyn FnMut()) {
///         self.0.fetch_add(1, Ordering::Relaxed);
///         poll();
///     }
/// }
/// ```
pub trait AttemptScope: Send {
    /// Runs `poll` inside the scope. It must call `poll` exactly once.
    fn in_scope(&mut self, poll: &mut dyn FnMut());
}

/// An attempt that is about to run. [`AttemptScope`] has an example.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AttemptInfo<'a> {
    /// The request id of the task.
    pub id: RequestId,
    /// The function under which the task is listed.
    pub function: &'a str,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The fence token of the claim.
    pub token: FenceToken,
    /// The request that is replayed.
    pub request: &'a CapturedRequest,
    log: &'a OnceLock<AttemptLog>,
}

impl<'a> AttemptInfo<'a> {
    pub(crate) const fn new(
        id: RequestId,
        function: &'a str,
        attempt: u32,
        token: FenceToken,
        request: &'a CapturedRequest,
        log: &'a OnceLock<AttemptLog>,
    ) -> Self {
        Self {
            id,
            function,
            attempt,
            token,
            request,
            log,
        }
    }

    /// The log of this attempt. Lines that you push while the attempt runs are stored with the task.
    ///
    /// The engine keeps a log for an attempt only if this was called.
    #[must_use]
    pub fn log(&self) -> AttemptLog {
        self.log.get_or_init(AttemptLog::new).clone()
    }
}

/// An event of the engine. Durations are measured only if there is a probe. The [module](self#examples) has an example.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A request was accepted as a task, or was a duplicate of one.
    Accepted {
        /// The task.
        id: RequestId,
        /// Whether the task was stored as already claimed, so that it runs at once.
        claimed: bool,
        /// Whether the request was a duplicate, so that nothing was stored.
        duplicate: bool,
        /// The time from the head of the request to the commit.
        took: Duration,
    },
    /// A request that asked for async was refused.
    Refused {
        /// The code of the problem document.
        code: &'static str,
        /// The time from the head of the request to the refusal.
        took: Duration,
    },
    /// A duplicate was answered with the request id only, since its sender is not known to be the sender of the first
    /// request.
    Withheld {
        /// The task.
        id: RequestId,
        /// The reason, in a few words.
        why: &'static str,
        /// Whether this is the first such answer of the layer.
        first: bool,
    },
    /// An attempt began.
    Started {
        /// The task.
        id: RequestId,
        /// The number of the attempt.
        attempt: u32,
        /// How long the task had been due.
        waited: Duration,
    },
    /// An attempt ended, and its settlement was accepted.
    Ended {
        /// The task.
        id: RequestId,
        /// The number of the attempt.
        attempt: u32,
        /// How the attempt ended.
        outcome: AttemptOutcome,
        /// The state of the task now.
        state: TaskState,
        /// How long the attempt took.
        took: Duration,
    },
    /// An attempt lost its claim before it ended, and was aborted.
    LeaseLost {
        /// The task.
        id: RequestId,
        /// The number of the attempt.
        attempt: u32,
    },
    /// The store refused a write because its claim no longer held.
    Fenced {
        /// The task.
        id: RequestId,
    },
    /// An attempt is overdue but cannot be dropped: it blocks its thread and keeps its slot.
    Stuck {
        /// The task.
        id: RequestId,
        /// The number of the attempt.
        attempt: u32,
    },
    /// A task was rescued: its lease or age ran out, or its process had died before the store was opened.
    Rescued {
        /// The task.
        id: RequestId,
        /// The result of the rescue.
        rescue: Rescue,
    },
    /// A task was stopped, re-run or deleted, or a completion was redelivered, through the task API.
    Changed {
        /// The task.
        id: RequestId,
        /// The kind of change.
        action: &'static str,
        /// The user, if the application named one to the task API.
        who: Option<&'a str>,
    },
    /// A delivery of a completion was tried.
    Delivered {
        /// The task.
        id: RequestId,
        /// The destination.
        destination: &'a Destination,
        /// The state of the delivery after this try. If the store did not record it, there is a
        /// [`Trouble`](Self::Trouble) as well, and the completion is delivered again.
        status: DeliveryStatus,
        /// The error of the try, if it failed.
        error: Option<&'a BoxError>,
        /// How long the try took.
        took: Duration,
    },
    /// A completion was given up without a last try.
    ///
    /// Either no process delivered it for [`callback_patience`](crate::RespondAsyncBuilder::callback_patience) after
    /// it was due; or its destination does not answer, and a bounded store has no room for all such completions.
    GivenUp {
        /// The task.
        id: RequestId,
        /// The destination.
        destination: &'a Destination,
    },
    /// Ended tasks were removed.
    Pruned(Pruned),
    /// A store operation was called.
    StoreCall {
        /// The name of the operation.
        operation: &'static str,
        /// How long it took.
        took: Duration,
        /// The error, if it failed.
        error: Option<&'a StoreError>,
    },
    /// An operation of the engine failed; the engine will repeat it.
    Trouble {
        /// The operation.
        doing: &'static str,
        /// The error.
        error: &'a StoreError,
        /// The time until it is repeated.
        retry_in: Duration,
    },
    /// The store found damaged values and set them aside.
    SetAside {
        /// The number of values.
        values: u64,
    },
    /// The store dropped keys of ended tasks before their window was over, for lack of room.
    ///
    /// A request that is sent again under such a key is a new request.
    KeysForgotten {
        /// The number of keys.
        keys: u64,
    },
    /// The current levels. Sent every few seconds while the engine runs.
    Levels {
        /// The number of tasks in each state, unless the store failed to count.
        counts: Option<&'a Counts>,
        /// Slots in use.
        slots_used: usize,
        /// All slots: the concurrency.
        slots_total: usize,
        /// Slots of attempts that are over but block their thread. They are part of `slots_used`.
        slots_stuck: usize,
        /// Bytes of request bodies that are being read.
        buffered_bytes: usize,
    },
}

/// How an attempt ended, in [`Event::Ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttemptOutcome {
    /// The response counts as success.
    Succeeded,
    /// The response does not count as success, or the handler returned an error.
    Failed,
    /// The handler panicked.
    Panicked,
    /// The attempt reached its time limit.
    TimedOut,
    /// The handler deferred the task: the attempt is not charged, and the task waits.
    Deferred,
    /// The task was handed on: this version of the application has no route for it, and another version accepted it.
    /// The attempt is not charged, and the task waits.
    HandedOn,
    /// The task was stopped.
    Stopped,
    /// The task was handed back, for example at a shutdown.
    Released,
}

impl AttemptOutcome {
    /// The name, as used in metric labels and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::TimedOut => "timed_out",
            Self::Deferred => "deferred",
            Self::HandedOn => "handed_on",
            Self::Stopped => "stopped",
            Self::Released => "released",
        }
    }
}
