//! Conveniences over [`TaskStore`] for tools and tests.

use std::sync::Arc;

use crate::{
    store::{StoreError, StoreResult, TaskStore},
    task::{Filter, Page, RequestId, Scope, SortOrder, TaskRecord, TaskRef},
};

/// What users of a store call; every [`TaskStore`] has it.
///
/// All methods read only, and dropping their futures changes nothing.
pub trait TaskStoreExt: TaskStore {
    /// The task with this request id, whoever's it is.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is none, and whatever [`find`](TaskStore::find) answers.
    fn task(&self, id: RequestId) -> impl Future<Output = StoreResult<Arc<TaskRecord>>> + Send {
        async move {
            self.find(&Scope::All, &TaskRef::Id(id))
                .await?
                .ok_or_else(StoreError::not_found)
        }
    }

    /// Every task that matches, oldest first, gathered page by page.
    ///
    /// # Errors
    ///
    /// Whatever [`list`](TaskStore::list) answers.
    fn list_all<'a>(
        &'a self,
        scope: &'a Scope,
        filter: &'a Filter,
    ) -> impl Future<Output = StoreResult<Vec<Arc<TaskRecord>>>> + Send + 'a {
        async move {
            let mut all = Vec::new();
            let mut page = Page {
                order: SortOrder::Ascending,
                after: None,
                limit: 1000,
            };
            loop {
                let found = self.list(scope, filter, page.clone()).await?;
                all.extend(found.items);
                match found.next {
                    Some(next) => page.after = Some(next),
                    None => return Ok(all),
                }
            }
        }
    }
}

impl<S: TaskStore + ?Sized> TaskStoreExt for S {}
