//! Our contestants.

use std::{
    env, fs,
    path::PathBuf,
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::Full;
use tokio::{runtime::Runtime, sync::Notify};
use tower::{Layer, service_fn};
use tower_respond_async::{
    BoxError, MemoryStore, RequestBody, RespondAsyncBuilder, RespondAsyncLayer, Submission, Tasks,
};
use tower_respond_async_redb::RedbStore;

use crate::{BULK, SUBMITTERS, Stopwatch, made, payload, rates, support::ours::all_ended};

async fn submit_all(tasks: &Tasks, submissions: Vec<Submission>) {
    for answer in tasks.submit_all(submissions).await.expect("the store answers") {
        answer.expect("there is room");
    }
}

async fn one_by_one(tasks: &Tasks, submissions: Vec<Submission>) {
    for submission in submissions {
        tasks.submit(submission).await.expect("there is room");
    }
}

async fn all_at_once(tasks: &Tasks, submissions: Vec<Submission>) {
    let submitting = submissions.into_iter().map(async |submission| {
        tasks.submit(submission).await.expect("there is room");
    });
    join_all(submitting).await;
}

pub(crate) fn push(runtime: &Runtime, each: usize) -> Vec<f64> {
    runtime.block_on(async {
        let layer = waiting(RespondAsyncLayer::builder(MemoryStore::new()));
        let tasks = layer.tasks();
        let submitters = made(SUBMITTERS, || made(each, submission));
        let watch = Stopwatch::start();
        join_all(submitters.into_iter().map(|share| one_by_one(&tasks, share))).await;
        let taken = watch.stop();
        tasks.shutdown(Duration::ZERO).await;
        rates(SUBMITTERS * each, taken)
    })
}

pub(crate) fn drain(runtime: &Runtime, count: usize) -> Vec<f64> {
    runtime.block_on(async {
        let layer = waiting(RespondAsyncLayer::builder(MemoryStore::new()));
        let tasks = layer.tasks();
        one_by_one(&tasks, made(count, submission)).await;
        let (done, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let app = {
            let last = last.clone();
            service_fn(move |_: Request<RequestBody>| {
                if done.fetch_add(1, Ordering::Relaxed) + 1 == count {
                    last.notify_one();
                }
                std::future::ready(Ok::<_, BoxError>(Response::new(Full::<Bytes>::default())))
            })
        };
        let watch = Stopwatch::start();
        let app = layer.layer(app);
        last.notified().await;
        all_ended(&tasks).await;
        let taken = watch.stop();
        drop(app);
        tasks.shutdown(Duration::ZERO).await;
        rates(count, taken)
    })
}

pub(crate) fn one_by_one_in_memory(runtime: &Runtime, batches: usize) -> Vec<f64> {
    in_memory(runtime, batches, one_by_one)
}

pub(crate) fn in_one_call_in_memory(runtime: &Runtime, batches: usize) -> Vec<f64> {
    in_memory(runtime, batches, submit_all)
}

pub(crate) fn one_by_one_in_a_file(runtime: &Runtime) -> Vec<f64> {
    in_a_file(runtime, one_by_one)
}

pub(crate) fn all_at_once_in_a_file(runtime: &Runtime) -> Vec<f64> {
    in_a_file(runtime, all_at_once)
}

pub(crate) fn in_one_call_in_a_file(runtime: &Runtime) -> Vec<f64> {
    in_a_file(runtime, submit_all)
}

fn in_memory(runtime: &Runtime, batches: usize, put: impl AsyncFn(&Tasks, Vec<Submission>)) -> Vec<f64> {
    let mut taken = [Duration::ZERO; 2];
    for _ in 0..batches {
        let batch = runtime.block_on(bulk(RespondAsyncLayer::builder(MemoryStore::new()), &put));
        for (taken, more) in taken.iter_mut().zip(batch) {
            *taken += more;
        }
    }
    rates(batches * BULK, taken)
}

fn in_a_file(runtime: &Runtime, put: impl AsyncFn(&Tasks, Vec<Submission>)) -> Vec<f64> {
    let file = Fresh::new();
    let taken = runtime.block_on(async {
        let store = RedbStore::open(&file.0).await.expect("the file can be made");
        bulk(RespondAsyncLayer::builder(store), &put).await
    });
    rates(BULK, taken)
}

async fn bulk(builder: RespondAsyncBuilder, put: &impl AsyncFn(&Tasks, Vec<Submission>)) -> [Duration; 2] {
    let layer = waiting(builder);
    let tasks = layer.tasks();
    let submissions = made(BULK, submission);
    let watch = Stopwatch::start();
    put(&tasks, submissions).await;
    let taken = watch.stop();
    tasks.shutdown(Duration::ZERO).await;
    taken
}

/// A layer without an application, so that submitted tasks wait.
fn waiting(builder: RespondAsyncBuilder) -> RespondAsyncLayer {
    builder.build().expect("it is called within a runtime")
}

fn submission() -> Submission {
    let request = Request::post("/work").body(payload());
    Submission::new(request.expect("it is a request"))
}

/// A path for a new file, which is removed on drop.
struct Fresh(PathBuf);

impl Fresh {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(env::temp_dir().join(format!("peers-{}-{next}.redb", process::id())))
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
