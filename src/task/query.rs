//! Listing stored tasks: the scope, the filter, the order and the page.

use crate::{
    task::{PoolName, RequestId, StateSet, TaskRecord, Tenant},
    time::Timestamp,
};

/// The tasks that a caller may see. Stores apply it inside the query, so a task out of scope is not found.
///
/// # Examples
///
/// [`Tasks::scoped`](crate::Tasks::scoped) shows how it is used.
///
/// ```
/// use tower_respond_async::{Scope, Tenant};
///
/// let (anna, bert) = (Tenant::new("anna"), Tenant::new("bert"));
/// let annas = Scope::One(Some(anna.clone()));
/// assert!(annas.contains(Some(&anna)));
/// assert!(!annas.contains(Some(&bert)) && !annas.contains(None));
/// assert!(Scope::All.contains(Some(&bert)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The tasks of all tenants.
    All,
    /// The tasks of one tenant; `None` is the tasks without a tenant.
    One(Option<Tenant>),
}

impl Scope {
    /// Whether a task of `tenant` is in the scope.
    #[must_use]
    pub fn contains(&self, tenant: Option<&Tenant>) -> bool {
        match self {
            Self::All => true,
            Self::One(own) => own.as_ref() == tenant,
        }
    }
}

/// Which tasks to list. The default is all of them.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{TaskState, task::{Filter, StateSet}};
///
/// let failed = StateSet::from_iter([TaskState::Failed]);
/// let filter = Filter::default().states(failed).function("transcode").label("customer", "anna");
/// # assert_eq!(filter.labels.len(), 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Filter {
    /// Only tasks in these states.
    pub states: Option<StateSet>,
    /// Only tasks whose task id begins with this.
    pub prefix: Option<String>,
    /// Only tasks of this pool.
    pub pool: Option<PoolName>,
    /// Only tasks of this function.
    pub function: Option<String>,
    /// Only tasks that have all of these labels, each a name and its value.
    pub labels: Vec<(String, String)>,
    /// Only tasks with this text in their error or in the first [`TEXT_BYTES`](Self::TEXT_BYTES) of their request body.
    pub text: Option<String>,
    /// Only tasks created at this time or later.
    pub created_from: Option<Timestamp>,
    /// Only tasks created at this time or earlier.
    pub created_to: Option<Timestamp>,
}

impl Filter {
    /// Only tasks in these states.
    #[must_use]
    pub const fn states(mut self, states: StateSet) -> Self {
        self.states = Some(states);
        self
    }

    /// Only tasks whose task id begins with this.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Only tasks of this pool.
    #[must_use]
    pub fn pool(mut self, pool: PoolName) -> Self {
        self.pool = Some(pool);
        self
    }

    /// Only tasks of this function.
    #[must_use]
    pub fn function(mut self, name: impl Into<String>) -> Self {
        self.function = Some(name.into());
        self
    }

    /// Only tasks that have this label too.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((name.into(), value.into()));
        self
    }

    /// Only tasks with this text in their error or in the beginning of their request body.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// Only tasks created between these times, both included.
    #[must_use]
    pub const fn created(mut self, from: Option<Timestamp>, to: Option<Timestamp>) -> Self {
        (self.created_from, self.created_to) = (from, to);
        self
    }

    /// How much of a request body a text search looks at.
    pub const TEXT_BYTES: usize = 1024;

    /// Whether this task, with this request body, passes the filter.
    #[must_use]
    pub fn matches(&self, task: &TaskRecord, body: &[u8]) -> bool {
        self.states.is_none_or(|states| states.contains(task.state))
            && self.created_from.is_none_or(|from| task.created_at >= from)
            && self.created_to.is_none_or(|to| task.created_at <= to)
            && self.pool.as_ref().is_none_or(|pool| task.pool == *pool)
            && self.function.as_ref().is_none_or(|name| task.function() == name)
            && self
                .prefix
                .as_ref()
                .is_none_or(|prefix| task.task_id_starts_with(prefix))
            && self
                .labels
                .iter()
                .all(|(name, value)| task.labels.get(name) == Some(value))
            && self.text.as_ref().is_none_or(|text| {
                task.error.as_ref().is_some_and(|error| error.contains(text.as_str()))
                    || contains(&body[..body.len().min(Self::TEXT_BYTES)], text.as_bytes())
            })
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || haystack.windows(needle.len()).any(|window| window == needle)
}

/// Oldest or newest first, by creation.
///
/// See the example of [`Page`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// Oldest first.
    Ascending,
    /// Newest first.
    #[default]
    Descending,
}

/// A place in a listing: just behind a task. Tasks are ordered by time of creation and id, so that two tasks of the
/// same millisecond have an order, and none is skipped.
///
/// See the example of [`Page`], where the `next` of a page is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// When the task was created.
    pub created_at: Timestamp,
    /// The id of the task.
    pub id: RequestId,
}

/// One page of a listing.
///
/// # Examples
///
/// All tasks, page by page:
///
/// ```
/// use tower_respond_async::{MemoryStore, RespondAsyncLayer, task::{Filter, Page, SortOrder}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let layer = RespondAsyncLayer::new(MemoryStore::new())?;
/// let tasks = layer.tasks();
/// let mut page = Page::first(100, SortOrder::Ascending);
/// loop {
///     let found = tasks.list(&Filter::default(), page.clone()).await?;
///     for task in &found.items {
///         println!("{} is {}", task.task_id(), task.state);
///     }
///     let Some(next) = found.next else { break };
///     page = page.after(next);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The order of the listing.
    pub order: SortOrder,
    /// Begin behind this task.
    pub after: Option<Cursor>,
    /// How many tasks at most.
    pub limit: usize,
}

impl Page {
    /// The first `limit` tasks in this order.
    #[must_use]
    pub const fn first(limit: usize, order: SortOrder) -> Self {
        Self {
            order,
            after: None,
            limit,
        }
    }

    /// The page behind this task.
    #[must_use]
    pub const fn after(mut self, cursor: Cursor) -> Self {
        self.after = Some(cursor);
        self
    }

    /// How many tasks a page looks at before it returns what it found. Bounds the search for a rare text.
    pub const SCAN_LIMIT: usize = 10_000;
}

impl Default for Page {
    fn default() -> Self {
        Self {
            order: SortOrder::default(),
            after: None,
            limit: 20,
        }
    }
}

/// The items of a page, and where the next page begins.
///
/// See the example of [`Page`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageOf<T> {
    /// The items found. There may be fewer than the limit, even none, while there is a `next`.
    pub items: Vec<T>,
    /// Where the next page begins, if there may be more.
    pub next: Option<Cursor>,
}
