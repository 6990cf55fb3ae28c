//! How stored tasks are looked for: whose, which, in what order, from where on.

use crate::{
    task::{PoolName, RequestId, StateSet, TaskRecord, Tenant},
    time::Timestamp,
};

/// Whose tasks a caller may see. Stores apply it inside the query, so that a stranger's task is simply not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's.
    All,
    /// One tenant's; `None` is the tasks that have no tenant.
    One(Option<Tenant>),
}

impl Scope {
    /// Whether a task of `tenant` is in it.
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
    /// Only tasks whose task id begins so.
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

    /// Only tasks whose task id begins so.
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

    /// Whether a task with this request body is looked for.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// Oldest first.
    Ascending,
    /// Newest first.
    #[default]
    Descending,
}

/// A place between two tasks in a listing: the last task seen. Tasks are ordered by (created, id), so that two tasks of
/// the same millisecond are told apart and none is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// When the task was created.
    pub created_at: Timestamp,
    /// Its id.
    pub id: RequestId,
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// Which end to begin at.
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

    /// How many tasks a page looks at before it gives back what it found, so that a search for rare text is bounded.
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

/// What a page holds, and where the next one begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageOf<T> {
    /// What was found. May be fewer than asked for, even none, while there is a `next`.
    pub items: Vec<T>,
    /// Where to go on, if there may be more.
    pub next: Option<Cursor>,
}
