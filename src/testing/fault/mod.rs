//! A store that fails on demand.

mod faults;

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll};

use tokio::sync::oneshot;

use self::faults::Fault;
pub use self::faults::{Delayed, Fate, Faults, Odds};
use crate::{
    error::BoxFuture,
    forward_store,
    store::{Abilities, News, Operation, Reply, StoreError, StoreErrorKind, TaskStore},
};

/// Wraps any store, and injects faults into its calls.
///
/// Order the faults through [`faults`](Self::faults). Calls without a fault go to the wrapped store.
///
/// See the examples of [`Faults`] and of the [module](crate::testing).
#[derive(Debug)]
pub struct FaultStore<S: ?Sized> {
    faults: Faults,
    store: Arc<S>,
}

impl<S: TaskStore> FaultStore<S> {
    /// Wraps `store`, without faults for now.
    #[must_use]
    pub fn new(store: S) -> Self {
        Self::over(Arc::new(store))
    }
}

impl<S: TaskStore + ?Sized> FaultStore<S> {
    /// Wraps a shared store, without faults for now.
    #[must_use]
    pub fn over(store: Arc<S>) -> Self {
        Self {
            faults: Faults::default(),
            store,
        }
    }

    /// The handle to order faults with. Keep a clone of it when you give the store away.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    fn store(&self) -> &S {
        &self.store
    }

    fn forward<T: Send + 'static>(
        &self,
        operation: Operation,
        call: impl FnOnce(Arc<S>) -> Reply<'static, T> + Send + 'static,
    ) -> Reply<'static, T> {
        let (fault, due) = self.faults.next(operation);
        let call = call(self.store.clone());
        let answer = match fault {
            None => call,
            Some(Fault::Fail) => Reply::now(Err(ordered(operation))),
            Some(Fault::FailWith(make)) => Reply::now(Err((make.0)())),
            Some(Fault::LoseReply) => Reply::later(async move {
                let _ = call.await;
                Err(ordered(operation))
            }),
            Some(Fault::Delay(gate)) => Reply::later(async move {
                gate.pass().await;
                call.await
            }),
            Some(Fault::Hold(calls)) => {
                let (reply, answer) = oneshot::channel();
                let turn = async move {
                    // The caller may have dropped its future.
                    let _ = reply.send(call.await);
                };
                self.faults.hold(calls, Box::pin(turn));
                Reply::later(async move { answer.await.unwrap_or_else(|_| Err(ordered(operation))) })
            }
            Some(Fault::HoldReply(calls)) => {
                let (release, released) = oneshot::channel::<()>();
                self.faults.hold(calls, Box::pin(async move { drop(release) }));
                Reply::later(async move {
                    let answer = call.await;
                    // The sender is dropped when it is the reply's turn.
                    let _ = released.await;
                    answer
                })
            }
        };
        if due.is_empty() {
            return answer;
        }
        Reply::later(async move {
            let mut answer = answer;
            // Poll this call first: it goes before the held calls that are due. If it is held itself, they do not wait
            // for it.
            let at_once = poll_fn(|cx| Poll::Ready(Pin::new(&mut answer).poll(cx))).await;
            for turn in due {
                turn.await;
            }
            match at_once {
                Poll::Ready(answer) => answer,
                Poll::Pending => answer.await,
            }
        })
    }
}

fn ordered(operation: Operation) -> StoreError {
    let context = format!("{operation:?} failed, as the test ordered");
    StoreError::new(StoreErrorKind::Unavailable, context)
}

impl<S: TaskStore + ?Sized> TaskStore for FaultStore<S> {
    fn abilities(&self) -> Abilities {
        let mut abilities = self.store.abilities();
        abilities.notifies &= !self.faults.has_no_news();
        abilities
    }

    fn news(&self) -> BoxFuture<'_, News> {
        match self.faults.has_no_news() {
            true => Box::pin(std::future::pending()),
            false => self.store.news(),
        }
    }

    forward_store!(
        now queue_hint insert insert_all claim rows due commit commit_all renew claim_deliveries list counts payload
        set_progress append_log logs prune_keys attend glance beat control close
    );
}
