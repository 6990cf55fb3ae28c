//! [`RespondAsync`]: the application, wrapped.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header, request::Parts};
use http_body::Body;
use tower_service::Service;

use crate::{
    error::BoxError,
    layer::{
        ResponseFuture,
        accept::Accept,
        config::Shared,
        dialect::{Ask, PREFER, Preferences},
    },
};

/// An application that can be asked to respond asynchronously. Made by [`RespondAsyncLayer`](crate::RespondAsyncLayer);
/// see the [crate documentation](crate).
///
/// A request that does not ask is handed to the inner service as it is, and its answer handed back as it is. Cheap to
/// clone if the inner service is.
#[derive(Clone)]
pub struct RespondAsync<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> RespondAsync<S> {
    pub(crate) const fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }

    /// The application.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The application. Changes to it are not seen by tasks: they run on the clone that was made when it was wrapped.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The application.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for RespondAsync<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: From<Bytes>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
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
            return ResponseFuture::passed(self.inner.call(request));
        }
        self.call_hinted(request)
    }
}

impl<S> RespondAsync<S> {
    /// A request with a header that may ask for async.
    #[cold]
    fn call_hinted<B, R>(&mut self, request: Request<B>) -> ResponseFuture<S::Future>
    where
        S: Service<Request<B>, Response = Response<R>>,
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
            let future = self.inner.call(Request::from_parts(head, body));
            return match vary {
                true => ResponseFuture::varying(future),
                false => ResponseFuture::passed(future),
            };
        }
        let to_head = head.method == Method::HEAD;
        let accept = Accept {
            shared: self.shared.clone(),
            at,
            preferences: match vary {
                true => Preferences::of(&head.headers),
                false => Preferences::default(),
            },
            vary,
            links: self.shared.config.links.of(&head.uri, &head.headers),
        };
        // The readied inner service is left as it is: its permit belongs to the next request that goes through.
        let future = match ask {
            Ask::Async(options) => accept.run(options, head, body),
            Ask::Refuse(problem) => accept.refuse(*problem),
            Ask::No | Ask::Sync => unreachable!("handled above"),
        };
        ResponseFuture::ours(future, to_head)
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

/// Whether the connection is to become something else. An offer of HTTP/2 on a connection in the clear is none: clients
/// make it on ordinary requests, and servers ignore it.
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
