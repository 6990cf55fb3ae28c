//! [`TaskApi`]: the service.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body::Body;
use tower_service::Service;

use crate::{
    api::{Authorizer, access::Denied, call::Call, origin::Origin, routes},
    engine::{Tasks, WeakTasks},
    error::{BoxError, BoxFuture, ConfigError},
    layer::{RequestBody, ResponseBody},
    task::redact::Secrets,
    wire::{LinkBase, Problem, below, host},
};

/// The task API as a service, for a router to nest or a server to call. The [module](crate::api) describes what it
/// serves.
///
/// It does not keep the engine alive. When the engine is gone, it answers 503.
#[derive(Clone)]
pub struct TaskApi {
    tasks: WeakTasks,
    authorizer: Arc<dyn Authorizer>,
    links: Arc<LinkBase>,
    secrets: Arc<Secrets>,
    /// The hosts at which it answers, if it is open to everybody.
    hosts: Option<Arc<[Box<str>]>>,
    origins: Arc<[Origin]>,
    prefix: Arc<str>,
}

impl TaskApi {
    /// An API for `tasks`. `authorizer` decides what each caller may do.
    ///
    /// From now on, answers to async requests link to the API, in headers and documents. The service expects paths
    /// without the base, as a router's `nest_service` passes them on.
    pub fn new(tasks: &Tasks, authorizer: impl Authorizer) -> Self {
        tasks.mark_api_mounted();
        let address = tasks.api_address();
        let is_open = authorizer.is_open();
        if is_open {
            address.is_open.store(true, Ordering::Relaxed);
        }
        Self {
            tasks: tasks.downgrade(),
            authorizer: Arc::new(authorizer),
            links: Arc::new(LinkBase::new(&address)),
            secrets: address.secrets,
            hosts: is_open.then_some(address.hosts),
            origins: Arc::default(),
            prefix: "".into(),
        }
    }

    /// Removes `prefix` from paths, for use without a router that does so, such as a plain hyper service.
    ///
    /// Paths that do not begin with `prefix` are answered 404.
    #[must_use]
    pub fn strip_prefix(mut self, prefix: &str) -> Self {
        self.prefix = prefix.trim_end_matches('/').into();
        self
    }

    /// Also accepts changes from pages of `origin`, such as `https://status.example.org`. You trust these pages with
    /// everything that their readers may do. Each call adds one origin. Default: none.
    ///
    /// A browser lets such a page send a changing request, and read any answer, only with CORS headers. Add a CORS
    /// layer around the application; [the guide](crate::guide::trust#browsers-and-other-origins) shows where.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] unless `origin` is a scheme, a host and perhaps a port: no path, no slash at the end, no
    /// wildcard, and not `null`, which many pages share.
    pub fn allow_origin(mut self, origin: &str) -> Result<Self, ConfigError> {
        let origin = Origin::new(origin)?;
        self.origins = self.origins.iter().cloned().chain([origin]).collect();
        Ok(self)
    }

    async fn answer(self, parts: Parts, body: RequestBody) -> Result<Response<ResponseBody>, Problem> {
        if let Some(hosts) = &self.hosts {
            host::check(&parts, hosts)?;
        }
        let grant = self.authorizer.authorize(&parts).into_grant();
        let grant = grant.map_err(|Denied { challenge }| match challenge {
            Some(challenge) => Problem::unauthorized(challenge),
            None => Problem::forbidden("You may not use the task API."),
        })?;
        let tasks = self.tasks.upgrade().ok_or_else(Problem::shutting_down)?;
        let path = below(&self.prefix, parts.uri.path()).ok_or_else(Problem::not_found)?;
        let (route, task) = match routes::find(path, &parts.method)? {
            routes::Found::Route(route, task) => (route, task),
            routes::Found::Options(allow) => return Ok(routes::options(allow)),
        };
        let links = self.links.of(&parts.uri, &parts.headers);
        let call = Call {
            links: Arc::new(links.unwrap_or_else(|| self.links.known().clone())),
            secrets: self.secrets,
            hosts: self.hosts,
            origins: self.origins,
            tasks: tasks.scoped(grant.scope.clone()),
            grant,
            task,
            parts,
        };
        route.run(call, body).await
    }
}

impl fmt::Debug for TaskApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskApi")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for TaskApi
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let (parts, body) = request.into_parts();
        let api = self.clone();
        ResponseFuture(Box::pin(async move {
            let head = parts.method == http::Method::HEAD;
            let response = match api.answer(parts, RequestBody::live(body)).await {
                Ok(response) => response,
                Err(problem) => problem.into_response(None),
            };
            if head { routes::head_only(response) } else { response }
        }))
    }
}

/// The future of a [`TaskApi`].
///
/// # Cancel safety
///
/// If you drop it before it resolves, a requested change may or may not have been made.
#[must_use]
pub struct ResponseFuture(BoxFuture<'static, Response<ResponseBody>>);

impl Future for ResponseFuture {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().0.as_mut().poll(cx).map(Ok)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
