//! Stores that wrap another store.

use std::fmt;

/// An operation of a [`TaskStore`](crate::store::TaskStore) that returns a [`Reply`](crate::store::Reply).
///
/// See the example of [`forward_store!`](crate::forward_store), and that of the module [`testing`](crate::testing), in
/// which an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// `insert`.
    Insert,
    /// `insert_all`.
    InsertAll,
    /// `claim`.
    Claim,
    /// `rows`.
    Rows,
    /// `due`.
    Due,
    /// `commit`.
    Commit,
    /// `commit_all`.
    CommitAll,
    /// `renew`.
    Renew,
    /// `claim_deliveries`.
    ClaimDeliveries,
    /// `list`.
    List,
    /// `counts`.
    Counts,
    /// `payload`.
    Payload,
    /// `set_progress`.
    SetProgress,
    /// `append_log`.
    AppendLog,
    /// `logs`.
    Logs,
    /// `prune_keys`.
    PruneKeys,
    /// `glance`.
    Glance,
    /// `beat`.
    Beat,
    /// `control`.
    Control,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 19] = [
        Self::Insert,
        Self::InsertAll,
        Self::Claim,
        Self::Rows,
        Self::Due,
        Self::Commit,
        Self::CommitAll,
        Self::Renew,
        Self::ClaimDeliveries,
        Self::List,
        Self::Counts,
        Self::Payload,
        Self::SetProgress,
        Self::AppendLog,
        Self::Logs,
        Self::PruneKeys,
        Self::Glance,
        Self::Beat,
        Self::Control,
    ];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Writes operations of [`TaskStore`](crate::store::TaskStore) for a store that wraps another one, inside its `impl`.
///
/// Name the operations to write, or `all`. Each calls the wrapper's method `forward`, with the signature in the
/// example. `forward` decides whether, when and how often the operation is done. Operations without a future, `news`
/// and `close` go to the store that the wrapper's method `store(&self)` returns.
///
/// # Examples
///
/// A store that counts the calls of its operations:
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
/// use tower_respond_async::{
///     forward_store,
///     store::{Ledger, MemoryStore, Operation, Reply, TaskStore},
///     task::{Filter, Scope},
/// };
///
/// #[derive(Debug)]
/// struct Counted {
///     store: Arc<MemoryStore>,
///     calls: AtomicU64,
/// }
///
/// impl Counted {
///     fn store(&self) -> &MemoryStore {
///         &self.store
///     }
///
///     fn forward<T: Send + 'static>(
///         &self,
///         _: Operation,
///         call: impl FnOnce(Arc<MemoryStore>) -> Reply<'static, T> + Send + 'static,
///     ) -> Reply<'static, T> {
///         self.calls.fetch_add(1, Ordering::Relaxed);
///         call(self.store.clone())
///     }
/// }
///
/// impl TaskStore for Counted {
///     forward_store!(all);
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// let counted = Arc::new(Counted { store: Arc::default(), calls: AtomicU64::new(0) });
/// Ledger::new(counted.clone()).list_all(&Scope::All, &Filter::default()).await?;
/// assert_eq!(counted.calls.load(Ordering::Relaxed), 1);
/// # Ok(()) }
/// ```
#[macro_export]
macro_rules! forward_store {
    (all) => {
        $crate::forward_store!(
            abilities now queue_hint insert insert_all claim rows due commit commit_all renew claim_deliveries list counts
            payload set_progress append_log logs prune_keys news attend glance beat control close
        );
    };
    ($($operation:ident)+) => {
        $($crate::__forward!($operation);)+
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __forward {
    (abilities) => {
        fn abilities(&self) -> $crate::store::Abilities {
            $crate::store::TaskStore::abilities(self.store())
        }
    };
    (now) => {
        fn now(&self) -> $crate::time::Timestamp {
            $crate::store::TaskStore::now(self.store())
        }
    };
    (queue_hint) => {
        fn queue_hint(
            &self,
            tenant: ::core::option::Option<&$crate::task::Tenant>,
            pool: ::core::option::Option<&$crate::task::PoolName>,
        ) -> $crate::store::QueueHint {
            $crate::store::TaskStore::queue_hint(self.store(), tenant, pool)
        }
    };
    (news) => {
        fn news(&self) -> $crate::error::BoxFuture<'_, $crate::store::News> {
            $crate::store::TaskStore::news(self.store())
        }
    };
    (attend) => {
        fn attend(&self, attention: $crate::store::Attention) {
            $crate::store::TaskStore::attend(self.store(), attention);
        }
    };
    (close) => {
        fn close(&self) -> $crate::error::BoxFuture<'_, ()> {
            $crate::store::TaskStore::close(self.store())
        }
    };
    (insert) => {
        $crate::__forward!(@detached Insert insert(task: $crate::store::NewRow) -> $crate::store::Insertion);
    };
    (insert_all) => {
        $crate::__forward!(
            @detached InsertAll insert_all(tasks: ::std::vec::Vec<$crate::store::NewRow>)
                -> ::std::vec::Vec<$crate::store::Insertion>
        );
    };
    (claim) => {
        $crate::__forward!(@owned Claim claim(claim: $crate::store::Claim) -> $crate::store::Claims);
    };
    (due) => {
        $crate::__forward!(@owned Due due(what: $crate::store::Due, max: usize) -> $crate::store::Candidates);
    };
    (commit) => {
        $crate::__forward!(@owned Commit commit(change: $crate::store::Change) -> $crate::store::Committed);
    };
    (commit_all) => {
        $crate::__forward!(
            @owned CommitAll commit_all(changes: ::std::vec::Vec<$crate::store::Change>)
                -> ::std::vec::Vec<$crate::store::Committed>
        );
    };
    (renew) => {
        $crate::__forward!(
            @owned Renew renew(leases: ::std::vec::Vec<$crate::task::LeaseRef>, lease: ::core::time::Duration)
                -> ::std::vec::Vec<$crate::store::Renewal>
        );
    };
    (claim_deliveries) => {
        $crate::__forward!(
            @owned ClaimDeliveries claim_deliveries(claim: $crate::store::DeliveryClaim)
                -> ::std::vec::Vec<$crate::store::ClaimedOutbox>
        );
    };
    (set_progress) => {
        $crate::__forward!(
            @owned SetProgress set_progress(lease: $crate::task::LeaseRef, progress: $crate::task::Progress) -> bool
        );
    };
    (append_log) => {
        $crate::__forward!(
            @owned AppendLog append_log(lease: $crate::task::LeaseRef, lines: ::std::vec::Vec<$crate::task::LogLine>)
                -> bool
        );
    };
    (prune_keys) => {
        $crate::__forward!(@owned PruneKeys prune_keys(limit: usize) -> usize);
    };
    (glance) => {
        $crate::__forward!(
            @owned Glance glance(ids: ::std::vec::Vec<$crate::task::RequestId>)
                -> ::std::vec::Vec<::core::option::Option<$crate::store::Glance>>
        );
    };
    (beat) => {
        $crate::__forward!(
            @owned Beat beat(me: $crate::task::Presence, within: ::core::time::Duration)
                -> ::std::vec::Vec<$crate::task::Seen>
        );
    };
    (control) => {
        $crate::__forward!(
            @owned Control control(change: ::core::option::Option<$crate::store::ControlChange>)
                -> $crate::store::Controls
        );
    };
    (rows) => {
        $crate::__forward!(@scoped Rows rows(which: &$crate::store::Which) () -> ::std::vec::Vec<$crate::store::Row>);
    };
    (list) => {
        $crate::__forward!(
            @scoped List list(filter: &$crate::task::Filter) (page: $crate::task::Page)
                -> $crate::task::PageOf<$crate::store::Row>
        );
    };
    (counts) => {
        $crate::__forward!(@scoped Counts counts() () -> $crate::task::Counts);
    };
    (payload) => {
        $crate::__forward!(
            @scoped Payload payload() (id: $crate::task::RequestId, part: $crate::store::Part)
                -> ::core::option::Option<$crate::store::Payload>
        );
    };
    (logs) => {
        $crate::__forward!(
            @scoped Logs logs() (id: $crate::task::RequestId, query: $crate::store::LogQuery)
                -> ::std::vec::Vec<$crate::task::LogLine>
        );
    };
    (@detached $variant:ident $name:ident($arg:ident: $type:ty) -> $answer:ty) => {
        fn $name(self: ::std::sync::Arc<Self>, $arg: $type) -> $crate::store::Reply<'static, $answer> {
            self.forward($crate::store::Operation::$variant, move |store| {
                $crate::store::Reply::later(async move { $crate::store::TaskStore::$name(store, $arg).await })
            })
        }
    };
    (@owned $variant:ident $name:ident($($arg:ident: $type:ty),*) -> $answer:ty) => {
        fn $name(&self, $($arg: $type),*) -> $crate::store::Reply<'_, $answer> {
            self.forward($crate::store::Operation::$variant, move |store| {
                $crate::store::Reply::later(async move { $crate::store::TaskStore::$name(&*store, $($arg),*).await })
            })
        }
    };
    (@scoped $variant:ident $name:ident($($by:ident: &$of:ty),*) ($($arg:ident: $type:ty),*) -> $answer:ty) => {
        fn $name<'a>(
            &'a self,
            scope: &'a $crate::task::Scope,
            $($by: &'a $of,)*
            $($arg: $type,)*
        ) -> $crate::store::Reply<'a, $answer> {
            let scope = ::core::clone::Clone::clone(scope);
            $(let $by = ::core::clone::Clone::clone($by);)*
            self.forward($crate::store::Operation::$variant, move |store| {
                $crate::store::Reply::later(async move {
                    $crate::store::TaskStore::$name(&*store, &scope, $(&$by,)* $($arg),*).await
                })
            })
        }
    };
}
