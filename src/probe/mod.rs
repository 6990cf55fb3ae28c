//! Watching the engine at work: one [`Event`] for all that happens, and the [`Probe`]s that translate it.
//!
//! - `Capture` (feature `capture`) keeps what a task logs with `tracing` as the task's own log
//! - `MetricsProbe` (feature `metrics`) counts with the `metrics` crate
//! - `TracingProbe` (feature `tracing`) writes spans and events with the `tracing` crate
//!
//! Any number of probes can be given to the builder. An event holds no body, header or secret; ids and paths are in it,
//! so a probe that exports them should think before it makes labels of them. Without a probe, nothing is measured.
//!
//! # Examples
//!
//! A probe of one's own, which counts the tasks that failed:
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

/// Somebody who is told what happens.
///
/// Called on hot paths and inside the engine: it must not block and must not panic.
pub trait Probe: Send + Sync + fmt::Debug + 'static {
    /// Something happened.
    fn on_event(&self, event: &Event<'_>);

    /// A request is being captured: the moment to add what an attempt needs later, such as a trace context, to
    /// `request.carried` or its headers.
    fn on_capture(&self, request: &mut CapturedRequest) {
        let _ = request;
    }

    /// An attempt begins. The scope given back, if any, is entered around every poll of the attempt.
    fn attempt(&self, attempt: &AttemptInfo<'_>) -> Option<Box<dyn AttemptScope>> {
        let _ = attempt;
        None
    }
}

/// Wraps every poll of one attempt: how a log is captured, or a span entered.
///
/// Dropped when the attempt is over, inside no poll.
pub trait AttemptScope: Send {
    /// Calls `poll` exactly once.
    fn in_scope(&mut self, poll: &mut dyn FnMut());
}

/// An attempt that begins.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AttemptInfo<'a> {
    /// The task.
    pub id: RequestId,
    /// What it is listed under.
    pub function: &'a str,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The token of the claim.
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

    /// The log of this attempt, to write into while it runs: what is written is stored with the task. Asked for it, the
    /// engine looks after a log; not asked, it costs nothing.
    #[must_use]
    pub fn log(&self) -> AttemptLog {
        self.log.get_or_init(AttemptLog::new).clone()
    }
}

/// All that happens.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A request was answered 202.
    Accepted {
        /// The task.
        id: RequestId,
        /// Whether it started at once.
        born_claimed: bool,
        /// Whether it was known before, so that nothing was stored.
        duplicate: bool,
        /// How long it took from the head of the request to the commit.
        took: Duration,
    },
    /// A request that asked for async was refused.
    Refused {
        /// The code of the refusal.
        code: &'static str,
        /// How long it took from the head of the request on.
        took: Duration,
    },
    /// A request that was known before was answered with its id alone, since its sender is not known to be the first one.
    Withheld {
        /// The task.
        id: RequestId,
        /// Why, in a few words.
        why: &'static str,
        /// Whether it is the first of this layer.
        first: bool,
    },
    /// An attempt began.
    Started {
        /// The task.
        id: RequestId,
        /// The number of the attempt.
        attempt: u32,
        /// How long it had been due.
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
        /// The state the task is in now.
        state: TaskState,
        /// How long the attempt took.
        took: Duration,
    },
    /// An attempt's claim was lost before it ended; it was aborted.
    LeaseLost {
        /// The task.
        id: RequestId,
        /// The number of the attempt.
        attempt: u32,
    },
    /// A write was refused because its claim no longer held.
    Fenced {
        /// The task.
        id: RequestId,
    },
    /// An attempt did not end when it was dropped: it blocks its thread, and its slot is stuck.
    Stuck {
        /// The task.
        id: RequestId,
        /// The number of the attempt.
        attempt: u32,
    },
    /// A task whose lease or age ran out, or whose process had died before the store was opened, was dealt with.
    Rescued {
        /// The task.
        id: RequestId,
        /// What became of it.
        rescue: Rescue,
    },
    /// Somebody stopped, re-ran or deleted a task.
    Changed {
        /// The task.
        id: RequestId,
        /// What was done.
        action: &'static str,
        /// Who did it, where the application says.
        who: Option<&'a str>,
    },
    /// A completion was tried to be delivered.
    Delivered {
        /// The task.
        id: RequestId,
        /// Where to.
        destination: &'a Destination,
        /// How the delivery stands now.
        status: DeliveryStatus,
        /// What went wrong, if it did.
        error: Option<&'a BoxError>,
        /// How long the try took.
        took: Duration,
    },
    /// A completion was given up: it was due for [`callback_patience`](crate::RespondAsyncBuilder::callback_patience), and nobody
    /// took it; or who is to be told does not answer, and the store has no room for all that wait for that.
    GivenUp {
        /// The task.
        id: RequestId,
        /// Where to.
        destination: &'a Destination,
    },
    /// Ended tasks were removed.
    Pruned(Pruned),
    /// A store operation was called.
    StoreCall {
        /// Which.
        operation: &'static str,
        /// How long it took.
        took: Duration,
        /// What went wrong, if it did.
        error: Option<&'a StoreError>,
    },
    /// The engine could not do something, and will try again.
    Trouble {
        /// What it was doing.
        doing: &'static str,
        /// What went wrong.
        error: &'a StoreError,
        /// How long it waits.
        retry_in: Duration,
    },
    /// The store found stored values damaged, and set them aside.
    SetAside {
        /// How many.
        values: u64,
    },
    /// The store forgot keys of ended tasks before their window was over, for want of room: a request that is sent again
    /// under one of them is a new one.
    KeysForgotten {
        /// How many.
        keys: u64,
    },
    /// How things stand. Sent every few seconds while the engine lives.
    Levels {
        /// Tasks in each state, unless the store could not say.
        counts: Option<&'a Counts>,
        /// Handlers that run.
        slots_used: usize,
        /// Handlers that may run.
        slots_total: usize,
        /// Slots held by handlers that cannot be dropped.
        slots_stuck: usize,
        /// Bytes of request bodies that are being read.
        buffered_bytes: usize,
    },
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttemptOutcome {
    /// With a response that counts as success.
    Succeeded,
    /// With another one, or an error.
    Failed,
    /// By a panic.
    Panicked,
    /// By running out of time.
    TimedOut,
    /// With "not now": it is charged as no attempt, and the task waits.
    Deferred,
    /// Without its route, in another version of the application than accepted the task: it is charged as no attempt, and the
    /// task waits.
    HandedOn,
    /// By being stopped.
    Stopped,
    /// By being handed back.
    Released,
}

impl AttemptOutcome {
    /// A word for it, as a metric label or in a log.
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
