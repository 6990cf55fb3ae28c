//! The same life without this crate, with nothing that such code usually lacks.
//!
//! There is no lease, retry, timeout, panic guard, stop, listing, hook, shutdown or limit on what runs at once.
//!
//! [`SpawnAndMap`] is the floor, and does less than any real application needs: the request is gone once it ran, so
//! nothing can be retried, and the 202 has little more than an id. [`SpawnAndKeep`] does by hand what a task needs to
//! run again and to be shown: it keeps the request, and answers with a document and the headers that lead to the task.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{CONTENT_LOCATION, CONTENT_TYPE, LOCATION, RETRY_AFTER},
    request::Parts,
};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use serde::Serialize;
use tokio::sync::mpsc;
use tower_service::Service;
use uuid::Uuid;

use super::work::Echo;

/// Answers 202 and does the work later.
pub trait Defers<B>: Clone + Send + 'static {
    fn answer(&mut self, request: Request<B>) -> impl Future<Output = Response<Full<Bytes>>> + Send;
    /// Resolves when all work is done and recorded.
    fn all_ended(&self) -> impl Future<Output = ()> + Send;
}

/// Does the work at once and answers with its response.
#[derive(Clone, Copy)]
pub struct AtOnce;

impl<B> Defers<B> for AtOnce
where
    B: Body<Data = Bytes, Error: std::fmt::Debug> + Send + Unpin + 'static,
{
    async fn answer(&mut self, request: Request<B>) -> Response<Full<Bytes>> {
        let Ok(response) = Echo.call(request).await;
        response
    }

    async fn all_ended(&self) {}
}

/// Spawns the work and keeps no record of it.
#[derive(Clone, Default)]
pub struct Spawn {
    under_way: Arc<AtomicUsize>,
}

impl<B> Defers<B> for Spawn
where
    B: Body<Data = Bytes, Error: std::fmt::Debug> + Send + 'static,
{
    async fn answer(&mut self, request: Request<B>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = read(body).await;
        let (id, _) = new_id();
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let under_way = self.under_way.clone();
        tokio::spawn(async move {
            run(head, body).await;
            under_way.fetch_sub(1, Ordering::Release);
        });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::ACCEPTED;
        response.headers_mut().insert(X_REQUEST_ID, value(id.to_string()));
        response
    }

    async fn all_ended(&self) {
        while self.under_way.load(Ordering::Acquire) > 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Spawns the work, and keeps the results in a map.
#[derive(Clone)]
pub struct SpawnAndMap {
    records: Arc<Records<Record>>,
}

impl SpawnAndMap {
    /// Keeps the latest `kept` results.
    pub fn new(kept: usize) -> Self {
        Self {
            records: Arc::new(Records::new(kept)),
        }
    }
}

impl<B> Defers<B> for SpawnAndMap
where
    B: Body<Data = Bytes, Error: std::fmt::Debug> + Send + 'static,
{
    async fn answer(&mut self, request: Request<B>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = read(body).await;
        let (id, now) = new_id();
        self.records.begin(id, Record::new(now));
        let records = self.records.clone();
        tokio::spawn(async move {
            let answer = run(head, body).await;
            records.end(id, |record: &mut Record, now| record.end(answer, now));
        });
        accepted(id)
    }

    async fn all_ended(&self) {
        self.records.all_ended().await;
    }
}

/// Spawns the work, keeps the requests and results in a map, and answers with a document, unless that is left out: a
/// task that is submitted in the process needs none.
#[derive(Clone)]
pub struct SpawnAndKeep {
    records: Arc<Records<Task>>,
    with_document: bool,
}

/// A task as its document shows it.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Task {
    id: Uuid,
    status: &'static str,
    method: String,
    uri: String,
    created_time: u64,
    started_time: Option<u64>,
    end_time: Option<u64>,
    attempt: u32,
    max_attempts: u32,
    status_code: Option<u16>,
    error: Option<String>,
    events: Vec<(&'static str, u64)>,
    links: Option<Links>,
    #[serde(skip)]
    request: Arc<(Method, Uri, HeaderMap, Bytes)>,
    #[serde(skip)]
    _answer: Option<(StatusCode, HeaderMap, Bytes)>,
}

#[derive(Clone, Serialize)]
struct Links {
    #[serde(rename = "self")]
    this: String,
    result: String,
    stop: String,
}

impl Links {
    fn of(id: Uuid) -> Self {
        let this = format!("/tasks/{id}");
        Self {
            result: format!("{this}/result"),
            stop: format!("{this}/stop"),
            this,
        }
    }
}

impl Task {
    fn new(id: Uuid, now: u64, head: Parts, body: Bytes, links: Option<Links>) -> Self {
        let mut headers = head.headers;
        headers.remove("x-fc-invocation-type");
        Self {
            id,
            status: "running",
            method: head.method.to_string(),
            uri: head.uri.to_string(),
            created_time: now,
            started_time: Some(now),
            end_time: None,
            attempt: 1,
            max_attempts: 4,
            status_code: None,
            error: None,
            events: vec![("accepted", now), ("running", now)],
            links,
            request: Arc::new((head.method, head.uri, headers, body)),
            _answer: None,
        }
    }

    /// Makes the request again, with an extension that identifies the task.
    fn replay(&self) -> (Parts, Bytes) {
        let (method, uri, headers, body) = &*self.request;
        let mut request = Request::new(());
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(X_REQUEST_ID, value(self.id.to_string()));
        request.headers_mut().insert(X_ATTEMPT, HeaderValue::from(self.attempt));
        (request.into_parts().0, body.clone())
    }

    fn accepted(&self) -> Response<Full<Bytes>> {
        let body = serde_json::to_vec(self).expect("memory takes any document");
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = StatusCode::ACCEPTED;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        if let Some(links) = &self.links {
            headers.insert(LOCATION, value(links.result.clone()));
            headers.insert(CONTENT_LOCATION, value(links.this.clone()));
        }
        headers.insert(X_REQUEST_ID, value(self.id.to_string()));
        response
    }
}

impl SpawnAndKeep {
    /// Keeps the latest `kept` results.
    pub fn new(kept: usize) -> Self {
        Self {
            records: Arc::new(Records::new(kept)),
            with_document: true,
        }
    }

    /// The same without the document and its links.
    pub fn without_document(kept: usize) -> Self {
        Self {
            with_document: false,
            ..Self::new(kept)
        }
    }
}

impl<B> Defers<B> for SpawnAndKeep
where
    B: Body<Data = Bytes, Error: std::fmt::Debug> + Send + 'static,
{
    async fn answer(&mut self, request: Request<B>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = read(body).await;
        let (id, now) = new_id();
        let links = self.with_document.then(|| Links::of(id));
        let task = Task::new(id, now, head, body, links);
        let response = match self.with_document {
            true => task.accepted(),
            false => accepted(id),
        };
        let (head, body) = task.replay();
        self.records.begin(id, task);
        let records = self.records.clone();
        tokio::spawn(async move {
            let answer = run(head, body).await;
            records.end(id, |task: &mut Task, now| {
                task.status = "succeeded";
                task.end_time = Some(now);
                task.status_code = Some(answer.0.as_u16());
                task.events.push(("succeeded", now));
                task._answer = Some(answer);
            });
        });
        response
    }

    async fn all_ended(&self) {
        self.records.all_ended().await;
    }
}

/// Has a worker with a queue for each thread, and the same map.
#[derive(Clone)]
pub struct QueuePerWorker {
    records: Arc<Records<Record>>,
    workers: Arc<[mpsc::UnboundedSender<Job>]>,
    next: usize,
}

type Job = (Uuid, Parts, Bytes);

impl QueuePerWorker {
    /// Starts the workers on the current runtime.
    pub fn new(kept: usize, workers: usize) -> Self {
        let records = Arc::new(Records::new(kept));
        let workers = (0..workers).map(|_| {
            let (queue, mut jobs) = mpsc::unbounded_channel::<Job>();
            let records = records.clone();
            tokio::spawn(async move {
                while let Some((id, head, body)) = jobs.recv().await {
                    let answer = run(head, body).await;
                    records.end(id, |record: &mut Record, now| record.end(answer, now));
                }
            });
            queue
        });
        Self {
            workers: workers.collect(),
            records,
            next: 0,
        }
    }
}

impl<B> Defers<B> for QueuePerWorker
where
    B: Body<Data = Bytes, Error: std::fmt::Debug> + Send + 'static,
{
    async fn answer(&mut self, request: Request<B>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = read(body).await;
        let (id, now) = new_id();
        self.records.begin(id, Record::new(now));
        self.next += 1;
        let worker = &self.workers[self.next % self.workers.len()];
        worker
            .send((id, head, body))
            .expect("workers run until the queue is gone");
        accepted(id)
    }

    async fn all_ended(&self) {
        self.records.all_ended().await;
    }
}

/// The latest results. In several parts, so that two threads rarely need the same lock.
struct Records<R> {
    parts: Box<[Mutex<Part<R>>]>,
    under_way: AtomicUsize,
    kept: usize,
}

struct Part<R> {
    records: HashMap<Uuid, R>,
    oldest: VecDeque<Uuid>,
}

struct Record {
    _created_at: u64,
    ended_at: Option<u64>,
    answer: Option<(StatusCode, HeaderMap, Bytes)>,
}

impl Record {
    const fn new(now: u64) -> Self {
        Self {
            _created_at: now,
            ended_at: None,
            answer: None,
        }
    }

    fn end(&mut self, answer: (StatusCode, HeaderMap, Bytes), now: u64) {
        self.ended_at = Some(now);
        self.answer = Some(answer);
    }
}

const PARTS: usize = 32;

impl<R> Records<R> {
    fn new(kept: usize) -> Self {
        let part = || Part {
            records: HashMap::new(),
            oldest: VecDeque::new(),
        };
        Self {
            parts: (0..PARTS).map(|_| Mutex::new(part())).collect(),
            under_way: AtomicUsize::new(0),
            kept,
        }
    }

    fn begin(&self, id: Uuid, record: R) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let mut part = self.part(id);
        part.records.insert(id, record);
        part.oldest.push_back(id);
        let dropped = match part.oldest.len() * PARTS > self.kept {
            true => part.oldest.pop_front().and_then(|id| part.records.remove(&id)),
            false => None,
        };
        drop(part);
        drop(dropped);
    }

    fn end(&self, id: Uuid, end: impl FnOnce(&mut R, u64)) {
        let now = millis();
        if let Some(record) = self.part(id).records.get_mut(&id) {
            end(record, now);
        }
        self.under_way.fetch_sub(1, Ordering::Release);
    }

    async fn all_ended(&self) {
        while self.under_way.load(Ordering::Acquire) > 0 {
            tokio::task::yield_now().await;
        }
    }

    fn part(&self, id: Uuid) -> MutexGuard<'_, Part<R>> {
        let part = &self.parts[usize::from(id.as_bytes()[15]) % PARTS];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read<B: Body<Data = Bytes, Error: std::fmt::Debug>>(body: B) -> Bytes {
    body.collect().await.expect("the body arrives").to_bytes()
}

async fn run(head: Parts, body: Bytes) -> (StatusCode, HeaderMap, Bytes) {
    let Ok(response) = Echo.call(Request::from_parts(head, Full::new(body))).await;
    let (head, body) = response.into_parts();
    let body = read(body).await;
    (head.status, head.headers, body)
}

fn accepted(id: Uuid) -> Response<Full<Bytes>> {
    let body = format!("{{\"id\":\"{id}\",\"status\":\"accepted\"}}");
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::ACCEPTED;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(LOCATION, value(format!("/tasks/{id}")));
    headers.insert(X_REQUEST_ID, value(id.to_string()));
    response
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("an id is visible ASCII")
}

fn new_id() -> (Uuid, u64) {
    let (now, mut random) = (millis(), [0; 10]);
    fastrand::fill(&mut random);
    let id = uuid::Builder::from_unix_timestamp_millis(now, &random).into_uuid();
    (id, now)
}

fn millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_millis() as u64
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_ATTEMPT: HeaderName = HeaderName::from_static("x-attempt");
