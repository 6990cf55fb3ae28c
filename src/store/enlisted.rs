//! Inserts that are part of a transaction of the application.

use super::{Insertion, NewRow, Reply};

/// A transaction of the application, in the database in which a store keeps its tasks.
///
/// The crate of the store makes one from the connection on which the transaction is open. Pass it to
/// [`Tasks::submit_in`](crate::Tasks::submit_in). The application commits the transaction or rolls it back; this trait
/// does neither.
///
/// See the example of [`Tasks::submit_in`](crate::Tasks::submit_in).
pub trait Enlisted: Send {
    /// Stores a task, or answers which task has its id, name or key already.
    ///
    /// Other transactions see the task once this transaction is committed. If another open transaction has the same
    /// name or key, the call waits for it.
    ///
    /// For a known task, the answer contains only what the transaction itself has read: its row may be `None`.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the statement failed. The database decides whether the transaction must be rolled back then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it answers, the transaction may contain the task or not. Roll it back.
    fn insert(&mut self, task: NewRow) -> Reply<'_, Insertion>;
}
