//! Tools to test a store, or an application that uses one (feature `testing`).
//!
//! - [`ManualClock`]: a clock that the test moves, so that a test of a lease of an hour takes no time
//! - [`FaultStore`]: wraps any store. Its calls fail on demand, or at random from a seed, and can be delayed and
//!   overtaken.
//! - [`conformance`]: one test for each promise of [`TaskStore`](crate::store::TaskStore), for your own store
//! - [`model`]: random operations on a store, compared with a plain list
//!
//! # Examples
//!
//! A store whose next insert fails:
//!
//! ```
//! use std::sync::Arc;
//!
//! use bytes::Bytes;
//! use http::{HeaderMap, Method, Uri};
//! use tower_respond_async::{
//!     store::{Insert, Ledger, MemoryStore, Operation, StoreErrorKind},
//!     task::{CapturedRequest, NewTask, RequestId},
//!     testing::FaultStore,
//!     time::Timestamp,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let store = FaultStore::new(MemoryStore::new());
//! store.faults().fail_next(Operation::Insert, 1);
//! let ledger = Ledger::new(Arc::new(store));
//!
//! let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
//! let task = NewTask::new(RequestId::from_parts(Timestamp::ZERO, [7; 10]), Arc::new(request));
//! let refused = ledger.insert(Insert::new(task.clone())).await.unwrap_err();
//! assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
//! assert!(ledger.insert(Insert::new(task)).await.is_ok());
//! # }
//! ```

pub mod conformance;
#[cfg(feature = "api")]
#[doc(hidden)]
pub mod fuzz;
pub mod model;

mod clock;
mod fault;

pub use self::{
    clock::ManualClock,
    fault::{Delayed, Fate, FaultStore, Faults, Odds},
};
#[doc(hidden)]
pub use crate::layer::difference::{DIFFERENCES, Difference};
