//! Inserts that belong to a transaction of the application.

use super::{Insertion, NewRow, StoreResult};
use crate::error::BoxFuture;

/// A transaction of the application, in the database that a store keeps its tasks in. The store's crate makes one of the
/// connection that the transaction is open on; [`Tasks::submit_in`](crate::Tasks::submit_in) takes it.
///
/// Whoever began the transaction commits it or rolls it back: nothing of that is done here.
pub trait Enlisted: Send {
    /// Stores a task, or says which task is already known by its id, name or key. Others see it when the transaction is
    /// committed. It waits for another transaction that has the same name or key.
    ///
    /// Of a known task, only what the transaction itself knows is answered: its row may be `None`.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the statement failed. The transaction may then have to be rolled back, as the database says.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it answers, the task may be stored with the transaction or not: roll that back.
    fn insert(&mut self, task: NewRow) -> BoxFuture<'_, StoreResult<Insertion>>;
}
