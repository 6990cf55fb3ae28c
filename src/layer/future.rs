//! [`ResponseFuture`]: the answer of the inner service, or of the layer.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Response, header::VARY};
use pin_project_lite::pin_project;

use crate::error::BoxFuture;

pin_project! {
    /// The future of [`RespondAsync`](crate::RespondAsync). Servers poll it; the [crate documentation](crate) has an example.
    ///
    /// # Cancel safety
    ///
    /// - If you drop it while it reads the body of a request, nothing is stored.
    /// - If you drop it while a task is being committed, the commit goes on.
    /// - If you drop it while it waits for the inner service to be ready, the inner service does not get the request,
    ///   and its permit is free.
    pub struct ResponseFuture<F>
    where
        F: Future,
    {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F>
    where
        F: Future,
    {
        /// The request passes through.
        Passed { #[pin] future: F },
        /// The request passes through. The answer gets `Vary: Prefer`, since the request had a `Prefer` header.
        Varying { #[pin] future: F },
        /// The request passes through when the inner service is ready. Boxed, so that only requests that wait pay for
        /// its space.
        Waiting { passed: BoxFuture<'static, ResponseFuture<F>> },
        /// The inner service failed before it was called.
        Failed { answer: Option<Box<F::Output>> },
        /// The layer accepts or refuses the request. The answer to a HEAD has no body: HTTP/2 servers do not remove it.
        Ours { future: BoxFuture<'static, Response<Bytes>>, to_head: bool },
    }
}

impl<F: Future> ResponseFuture<F> {
    pub(crate) const fn passed(future: F) -> Self {
        Self {
            kind: Kind::Passed { future },
        }
    }

    pub(crate) const fn varying(future: F) -> Self {
        Self {
            kind: Kind::Varying { future },
        }
    }

    pub(crate) const fn waiting(passed: BoxFuture<'static, Self>) -> Self {
        Self {
            kind: Kind::Waiting { passed },
        }
    }

    pub(crate) fn failed<R, E>(error: E) -> Self
    where
        F: Future<Output = Result<R, E>>,
    {
        let answer = Some(Box::new(Err(error)));
        Self {
            kind: Kind::Failed { answer },
        }
    }

    pub(crate) const fn ours(future: BoxFuture<'static, Response<Bytes>>, to_head: bool) -> Self {
        Self {
            kind: Kind::Ours { future, to_head },
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: From<Bytes>,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Most requests take this path. They must not pay for the others.
        if let KindProjection::Passed { future } = self.as_mut().project().kind.project() {
            return future.poll(cx);
        }
        self.poll_other(cx)
    }
}

impl<F, R, E> ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: From<Bytes>,
{
    #[cold]
    fn poll_other(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.as_mut().project().kind.project() {
            KindProjection::Passed { future } => future.poll(cx),
            KindProjection::Varying { future } => {
                let mut answer = ready!(future.poll(cx));
                if let Ok(response) = &mut answer {
                    response.headers_mut().append(VARY, PREFER);
                }
                Poll::Ready(answer)
            }
            KindProjection::Waiting { passed } => {
                let passed = ready!(passed.as_mut().poll(cx));
                self.set(passed);
                self.poll(cx)
            }
            KindProjection::Failed { answer } => {
                Poll::Ready(*answer.take().expect("a future is not polled again after its answer"))
            }
            KindProjection::Ours { future, to_head } => future.as_mut().poll(cx).map(|response| {
                Ok(response.map(|body| match *to_head {
                    true => R::from(Bytes::new()),
                    false => R::from(body),
                }))
            }),
        }
    }
}

const PREFER: HeaderValue = HeaderValue::from_static("Prefer");

impl<F: Future> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
