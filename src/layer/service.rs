//! [`RespondAsync`]: the wrapped application.

use std::{
    fmt,
    future::poll_fn,
    mem::replace,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header, request::Parts};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    error::BoxError,
    layer::{
        ResponseFuture,
        async_request::AsyncRequest,
        config::Shared,
        dialect::{Ask, PREFER, Preferences},
    },
};

/// The wrapped application, which [`RespondAsyncLayer`](crate::RespondAsyncLayer) makes.
///
/// A request that does not ask for async goes to the inner service unchanged, and its response is returned unchanged.
/// While [`Dialect::Prefer`](crate::Dialect::Prefer) is active, the response to a request with a `Prefer` header also
/// gets `Vary: Prefer`. Cloning is as cheap as for the inner service. See the [crate documentation](crate) for an
/// example.
///
/// # Readiness
///
/// This service is always ready. It polls the inner service for readiness only when it has a request for it:
///
/// - A request that runs later does not wait for the inner service, and takes no permit of it. The task does both when
///   it runs.
/// - A request that passes through while the inner service is not ready waits in its response future. The inner service
///   moves into that future, and a clone of it stays here. If the inner service fails to become ready, the future
///   returns that error.
///
/// So a `LoadShed` outside never sheds the load of the inner service. A `Timeout` outside also counts the time that
/// requests wait inside, and a `ConcurrencyLimit` outside also counts the requests that wait inside. [The
/// guide](crate::guide::operating#limits-inside-and-outside) says where limits belong.
#[derive(Clone)]
pub struct RespondAsync<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> RespondAsync<S> {
    pub(crate) const fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }

    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service. Changes do not affect tasks: they run on the clone that was made when it was wrapped.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for RespondAsync<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    R: From<Bytes>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    /// Always ready.
    ///
    /// Whether the inner service is needed depends on the request. A permit that is taken here would be wasted on a
    /// request that runs later, or that never comes.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let headers = request.headers();
        if !self
            .shared
            .config
            .dialects
            .iter()
            .any(|dialect| dialect.is_hinted_at(headers))
        {
            return self.pass(request, ResponseFuture::passed);
        }
        self.call_hinted(request)
    }
}

impl<S> RespondAsync<S> {
    /// Handles a request with a header that may ask for async.
    #[cold]
    fn call_hinted<B, R>(&mut self, request: Request<B>) -> ResponseFuture<S::Future>
    where
        S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        R: From<Bytes>,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let at = Instant::now();
        let headers = request.headers();
        let mut ask = Ask::No;
        for found in self.shared.config.dialects.iter().map(|dialect| dialect.read(headers)) {
            if matches!(ask, Ask::No) || matches!(found, Ask::Sync) {
                ask = found;
            }
        }
        let (head, body) = request.into_parts();
        let vary = head.headers.contains_key(&PREFER);
        if matches!(ask, Ask::No | Ask::Sync) || !self.may_defer(&head) {
            let request = Request::from_parts(head, body);
            return match vary {
                true => self.pass(request, ResponseFuture::varying),
                false => self.pass(request, ResponseFuture::passed),
            };
        }
        let to_head = head.method == Method::HEAD;
        let request = AsyncRequest {
            shared: self.shared.clone(),
            at,
            preferences: match vary {
                true => Preferences::of(&head.headers),
                false => Preferences::default(),
            },
            vary,
            links: self.shared.config.links.of(&head.uri, &head.headers),
        };
        let future = match ask {
            Ask::Async(options) => request.run(options, head, body),
            Ask::Refuse(problem) => request.refuse(*problem),
            Ask::No | Ask::Sync => unreachable!("handled above"),
        };
        ResponseFuture::ours(future, to_head)
    }

    /// Passes a request to the inner service: at once if the service is ready, else when it is.
    fn pass<B, T>(&mut self, request: Request<B>, then: T) -> ResponseFuture<S::Future>
    where
        S: Service<Request<B>> + Clone + Send + 'static,
        B: Send + 'static,
        T: FnOnce(S::Future) -> ResponseFuture<S::Future> + Send + 'static,
    {
        // No waker is needed: if the service is not ready, the future polls it again.
        match self.inner.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => then(self.inner.call(request)),
            Poll::Ready(Err(error)) => {
                // A service that has failed must not be polled again.
                drop(self.take_inner());
                ResponseFuture::failed(error)
            }
            Poll::Pending => self.wait(request, then),
        }
    }

    /// Passes a request to the inner service when the service is ready.
    #[cold]
    fn wait<B, T>(&mut self, request: Request<B>, then: T) -> ResponseFuture<S::Future>
    where
        S: Service<Request<B>> + Clone + Send + 'static,
        B: Send + 'static,
        T: FnOnce(S::Future) -> ResponseFuture<S::Future> + Send + 'static,
    {
        let mut inner = self.take_inner();
        ResponseFuture::waiting(Box::pin(async move {
            match poll_fn(|cx| inner.poll_ready(cx)).await {
                Ok(()) => then(inner.call(request)),
                Err(error) => ResponseFuture::failed(error),
            }
        }))
    }

    /// Takes out the inner service with its permit, and leaves a clone without one.
    fn take_inner(&mut self) -> S
    where
        S: Clone,
    {
        let clone = self.inner.clone();
        replace(&mut self.inner, clone)
    }

    fn may_defer(&self, head: &Parts) -> bool {
        head.method != Method::CONNECT
            && !is_upgrade(&head.headers)
            && !self
                .shared
                .config
                .is_never_async(head.uri.path(), self.shared.is_api_mounted())
            && self.shared.config.when.as_ref().is_none_or(|when| when(head))
    }
}

/// Whether the request asks to upgrade the connection.
///
/// `h2c`, an offer of HTTP/2 in cleartext, does not count: clients send it with ordinary requests, and servers ignore
/// it.
fn is_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::UPGRADE)
        .iter()
        .any(|value| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"h2c"))
}

impl<S: fmt::Debug> fmt::Debug for RespondAsync<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RespondAsync")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
