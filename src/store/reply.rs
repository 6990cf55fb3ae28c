//! What the operations of a store return.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use super::StoreResult;
use crate::error::BoxFuture;

/// The answer of a store to an operation, or a future that waits for it.
///
/// Await it like any future. A store that answers at once returns the answer itself: that costs no allocation, and the
/// caller can go on without a wait.
///
/// # Examples
///
/// ```
/// use tower_respond_async::store::{Reply, StoreError};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), StoreError> {
/// let now = Reply::now(Ok(1));
/// let later = Reply::later(async {
///     tokio::task::yield_now().await;
///     Ok(2)
/// });
/// assert_eq!(now.await? + later.await?, 3);
/// # Ok(()) }
/// ```
#[must_use = "the operation may not happen unless you await its reply"]
pub struct Reply<'a, T>(Kind<'a, T>);

enum Kind<'a, T> {
    /// `None` once it was taken.
    Now(Option<StoreResult<T>>),
    Later(BoxFuture<'a, StoreResult<T>>),
}

impl<'a, T> Reply<'a, T> {
    /// An answer that is there already.
    pub const fn now(answer: StoreResult<T>) -> Self {
        Self(Kind::Now(Some(answer)))
    }

    /// An answer to wait for.
    pub fn later(answer: impl Future<Output = StoreResult<T>> + Send + 'a) -> Self {
        Self(Kind::Later(Box::pin(answer)))
    }

    /// The reply with its answer changed by `map`, unless it is an error.
    pub fn map<U>(self, map: impl FnOnce(T) -> U + Send + 'a) -> Reply<'a, U>
    where
        T: Send + 'a,
    {
        match self.0 {
            Kind::Now(answer) => Reply(Kind::Now(answer.map(|answer| answer.map(map)))),
            Kind::Later(answer) => Reply::later(async move { answer.await.map(map) }),
        }
    }

    /// The answer, if it is there already or at the first poll of the future. Otherwise the reply, to be awaited.
    ///
    /// # Errors
    ///
    /// The reply, if the answer is not there yet.
    pub fn at_once(mut self) -> Result<StoreResult<T>, Self> {
        // Needs no waker: who awaits the reply polls it again.
        match Pin::new(&mut self).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Ok(answer),
            Poll::Pending => Err(self),
        }
    }
}

impl<T> Unpin for Reply<'_, T> {}

impl<T> Future for Reply<'_, T> {
    type Output = StoreResult<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Kind::Now(answer) => Poll::Ready(answer.take().expect("a future is not polled again after its answer")),
            Kind::Later(answer) => answer.as_mut().poll(cx),
        }
    }
}

impl<'a, T> From<BoxFuture<'a, StoreResult<T>>> for Reply<'a, T> {
    fn from(answer: BoxFuture<'a, StoreResult<T>>) -> Self {
        Self(Kind::Later(answer))
    }
}

impl<T> fmt::Debug for Reply<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Now(_) => "Reply(now)",
            Kind::Later(_) => "Reply(later)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[tokio::test]
    async fn an_answer_that_takes_time_is_awaited_after_a_first_look() {
        let ready = Reply::later(async { Ok(1) });
        assert!(matches!(ready.at_once(), Ok(Ok(1))));
        let slow = Reply::later(async {
            tokio::task::yield_now().await;
            Ok(2)
        });
        let later = slow.at_once().expect_err("it yields first");
        assert!(matches!(later.await, Ok(2)));
    }

    #[tokio::test]
    async fn what_is_made_of_an_answer_is_as_ready_as_the_answer() {
        assert!(matches!(Reply::now(Ok(1)).map(|one| one + 1).at_once(), Ok(Ok(2))));
        let slow = Reply::later(async {
            tokio::task::yield_now().await;
            Ok(1)
        });
        let later = slow.map(|one| one + 1).at_once().expect_err("it yields first");
        assert!(matches!(later.await, Ok(2)));
        let failed = Reply::<u8>::now(Err(StoreError::closed())).map(|_| unreachable!("there is no answer"));
        assert!(failed.await.is_err());
    }
}
