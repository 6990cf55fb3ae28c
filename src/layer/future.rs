//! [`ResponseFuture`]: the inner service's answer, or ours.

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
    /// The future of [`RespondAsync`](crate::RespondAsync).
    ///
    /// Dropped while a request is being captured, nothing was stored; dropped while it is being committed, the commit
    /// goes on.
    pub struct ResponseFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F> {
        /// The request goes through.
        Passed { #[pin] future: F },
        /// It goes through, and might not have, had its `Prefer` said something else.
        Varying { #[pin] future: F },
        /// It is being accepted, or refused. The answer to a HEAD has no body, which HTTP/2 servers do not take off.
        Ours { future: BoxFuture<'static, Response<Bytes>>, to_head: bool },
    }
}

impl<F> ResponseFuture<F> {
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

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Passed { future } => future.poll(cx),
            KindProjection::Varying { future } => {
                let mut answer = ready!(future.poll(cx));
                if let Ok(response) = &mut answer {
                    response.headers_mut().append(VARY, PREFER);
                }
                Poll::Ready(answer)
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

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
