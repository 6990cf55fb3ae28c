//! [`Pool`]: the settings for tasks that share slots.

use std::{fmt, sync::Arc};

use http::request::Parts;

use crate::{
    error::ConfigError,
    task::{InvalidId, PoolName},
};

/// The settings of a pool: tasks that share slots, limits and a pause, so that one slow path cannot take all slots.
///
/// A request belongs to the first pool that [matches](Self::when), and to `default` if none does. The name of the pool
/// is stored with its task. Set pools with [`RespondAsyncBuilder::pool`](crate::RespondAsyncBuilder::pool); pause and
/// resume them with [`Tasks::pause`](crate::Tasks::pause).
///
/// # Examples
///
/// Two films at a time, at most one for each customer. At least 62 of the 64 slots are left for all other requests:
///
/// ```
/// use tower_respond_async::{MemoryStore, Pool, RespondAsyncLayer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let films = Pool::new("transcode")
///     .when(|head| head.uri.path().starts_with("/transcode"))
///     .concurrency(2)
///     .tenant_concurrency(1);
/// let layer = RespondAsyncLayer::builder(MemoryStore::new()).pool(films).build()?;
/// # drop(layer);
/// # Ok(()) }
/// ```
#[must_use = "a pool is given to a builder"]
#[derive(Clone)]
pub struct Pool {
    pub(crate) name: Result<PoolName, (Box<str>, InvalidId)>,
    pub(crate) when: Option<Arc<When>>,
    pub(crate) concurrency: Option<usize>,
    pub(crate) tenant_concurrency: Option<usize>,
    pub(crate) queue_depth: Option<u64>,
}

pub(crate) type When = dyn Fn(&Parts) -> bool + Send + Sync;

impl Pool {
    /// A pool of this name. The pool `default` has the tasks that no other pool matches.
    ///
    /// The name must be a valid [`PoolName`]; if it is not, the builder returns an error.
    pub fn new(name: &str) -> Self {
        Self {
            name: PoolName::new(name).map_err(|error| (name.into(), error)),
            when: None,
            concurrency: None,
            tenant_concurrency: None,
            queue_depth: None,
        }
    }

    /// Sets which requests belong to the pool. Default: none; tasks can be [submitted](crate::Submission::pool) to it
    /// by name.
    pub fn when(mut self, when: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.when = Some(Arc::new(when));
        self
    }

    /// Sets how many handlers of the pool may run at once in this process, within
    /// [`RespondAsyncBuilder::concurrency`](crate::RespondAsyncBuilder::concurrency). Default: that number. It must be
    /// at least 1.
    pub const fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = Some(handlers);
        self
    }

    /// Sets how many handlers of the pool may run at once in this process for one tenant. Default: no limit. It must be
    /// at least 1.
    ///
    /// Tasks of other tenants go before those of a tenant at its limit. Tasks without a tenant are not limited.
    pub const fn tenant_concurrency(mut self, handlers: usize) -> Self {
        self.tenant_concurrency = Some(handlers);
        self
    }

    /// Sets how many tasks of the pool may be queued; more are refused with 503. It must be at least 1.
    ///
    /// Default: half of [`RespondAsyncBuilder::queue_depth`](crate::RespondAsyncBuilder::queue_depth), so that a paused
    /// or slow pool leaves room for the others.
    pub const fn queue_depth(mut self, tasks: u64) -> Self {
        self.queue_depth = Some(tasks);
        self
    }

    /// Checks the settings, and returns the name.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the invalid setting.
    pub(crate) fn check(&self) -> Result<&PoolName, ConfigError> {
        let refuse = |problem: String| Err(ConfigError::new("pool", problem));
        let name = match &self.name {
            Ok(name) => name,
            Err((name, error)) => return refuse(format!("{name:?}: {error}")),
        };
        if name.is_default() && self.when.is_some() {
            return refuse("\"default\" has the requests that no other pool matches; leave out its `when`".to_owned());
        }
        let settings = [
            ("concurrency", self.concurrency == Some(0)),
            ("tenant_concurrency", self.tenant_concurrency == Some(0)),
            ("queue_depth", self.queue_depth == Some(0)),
        ];
        match settings.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((setting, _)) => refuse(format!(
                "the {setting} of {:?} is 0, so that none of its tasks would ever run; it must be at least 1",
                name.as_str()
            )),
            None => Ok(name),
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.name)
            .field("concurrency", &self.concurrency)
            .field("tenant_concurrency", &self.tenant_concurrency)
            .field("queue_depth", &self.queue_depth)
            .finish_non_exhaustive()
    }
}
