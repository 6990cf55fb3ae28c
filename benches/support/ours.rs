//! This crate with everything on: the response kept, the history, every index, a task API for the links in the 202.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt};
use tower_respond_async::{
    MemoryStore, RequestBody, RespondAsync, RespondAsyncBuilder, RespondAsyncLayer, Submission, TaskApi, Tasks,
    allow_everyone,
};
use tower_service::Service;

use super::{by_hand::Defers, work::Echo};

/// More than ever run at once, since the code by hand has no limit.
const SLOTS: usize = 4096;

/// A layer that keeps `kept` tasks.
pub fn layer(kept: usize) -> RespondAsyncBuilder {
    let store = MemoryStore::builder().max_tasks(kept).build();
    RespondAsyncLayer::builder(store).concurrency(SLOTS)
}

/// The layer around an application, and the handle to its tasks.
pub fn wrapped<S>(app: S, builder: RespondAsyncBuilder) -> (RespondAsync<S>, Tasks)
where
    S: Service<Request<RequestBody>, Response = Response<Full<Bytes>>, Error = Infallible> + Clone + Send + Sync,
    S: 'static,
    S::Future: Send,
{
    let layer = builder.build().expect("it is called within a runtime");
    let tasks = layer.tasks();
    // From now on every 202 has links to the task.
    drop(TaskApi::new(&tasks, allow_everyone()));
    (layer.layer(app), tasks)
}

/// An asynchronous request through the layer.
#[derive(Clone)]
pub struct Layered {
    app: RespondAsync<Echo>,
    tasks: Tasks,
}

impl Layered {
    pub fn new(kept: usize) -> Self {
        let (app, tasks) = wrapped(Echo, layer(kept));
        Self { app, tasks }
    }

    /// The 202 has no body.
    pub fn without_document(kept: usize) -> Self {
        let (app, tasks) = wrapped(Echo, layer(kept).fc_strict());
        Self { app, tasks }
    }
}

impl<B> Defers<B> for Layered
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<tower_respond_async::BoxError>,
{
    async fn answer(&mut self, request: Request<B>) -> Response<Full<Bytes>> {
        let app = ServiceExt::<Request<B>>::ready(&mut self.app).await;
        let Ok(app) = app;
        let Ok(response) = app.call(request).await;
        response
    }

    async fn all_ended(&self) {
        all_ended(&self.tasks).await;
    }
}

/// A task submitted in the process: no 202 is made.
#[derive(Clone)]
pub struct Submitting {
    tasks: Tasks,
    // The engine runs tasks on this service, so it must be kept.
    _app: RespondAsync<Echo>,
}

impl Submitting {
    pub fn new(kept: usize) -> Self {
        let (app, tasks) = wrapped(Echo, layer(kept));
        Self { tasks, _app: app }
    }
}

impl<B> Defers<B> for Submitting
where
    B: Body<Data = Bytes, Error: std::fmt::Debug> + Send + 'static,
{
    async fn answer(&mut self, request: Request<B>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("the body arrives").to_bytes();
        let submission = Submission::new(Request::from_parts(head, body));
        let submitted = self.tasks.submit(submission).await;
        submitted.expect("there is room");
        Response::new(Full::default())
    }

    async fn all_ended(&self) {
        all_ended(&self.tasks).await;
    }
}

/// Resolves when no task waits or runs.
pub async fn all_ended(tasks: &Tasks) {
    loop {
        let stats = tasks.stats().await.expect("the memory store answers");
        let used = stats.slots.map_or(0, |slots| slots.used);
        if used == 0 && stats.counts.queued() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
}
