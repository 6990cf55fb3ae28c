//! x
#![cfg_attr(docsrs, feature(doc_cfg))]
#[cfg(feature = "api")]
pub mod api;
mod engine;
pub mod error;
pub mod hook;
mod layer;
pub mod probe;
pub mod store;
pub mod task;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;
mod wire;

#[cfg(feature = "api")]
pub use self::api::{Access, Authorizer, BearerToken, TaskApi, allow_everyone};
pub use self::{
    engine::{
        AttemptEnd, Backoff, Changes, DoNotRetry, RateStats, RetryPolicy, ShutdownReport, SlotStats, Stats, Submission,
        SubmitError, Submitted, TaskContext, Tasks, Verdict, WeakTasks,
    },
    error::{BoxError, ConfigError},
    hook::{Completion, CompletionHook},
    layer::{
        Builder, Dialect, HeaderPolicy, RequestBody, RespondAsync, RespondAsyncLayer, ResponseBody, ResponseFuture,
    },
    store::{MemoryStore, TaskStore},
    task::{RequestId, Scope, TaskName, TaskRecord, TaskState, Tenant},
};
