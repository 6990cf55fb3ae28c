//! Measures how soon a process sees what another process does, and what waiting costs.
//!
//! Two engines share one store in memory, each with its own handle, as processes have it. 1,000 tasks run in one of
//! them, each for a random time of up to three seconds. Each has a waiter: in the same process, in the other, or in the
//! other while the store gives no news and must be polled. The figure is the time from the return of a handler until
//! its waiter has the task, including the end of the attempt and its commit.
//!
//! Targets: 150 ms at the 99th percentile with news, 1.2 s without, and one poll a second for any number of waiters.
//!
//! ```text
//! cargo bench --features full --bench many
//! ```

mod support;

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::time::sleep;
use tower::{Layer, service_fn};
use tower_respond_async::{
    BoxError, MemoryStore, RequestBody, RequestId, RespondAsyncLayer, Submission, Submitted, TaskStore, Tasks,
    store::Operation, testing::FaultStore,
};

use crate::support::when_measuring;

const LONG: Duration = Duration::from_secs(600);

fn main() {
    let runtime = support::two_threads();
    let tasks = when_measuring(1_000, 20);
    let longest = when_measuring(Duration::from_secs(3), Duration::from_millis(50));
    println!("{tasks} waiters                     median       99th       most    looks a second    reads a waiter");
    for (name, waits) in [
        ("in the same process", Waits::Here),
        ("in another, told", Waits::There),
        ("in another, not told", Waits::ThereUntold),
    ] {
        let mut told = runtime.block_on(run(waits, tasks, longest));
        told.latencies.sort_unstable();
        let at = |share: usize| told.latencies[(told.latencies.len() - 1) * share / 100];
        println!(
            "{name:<24} {:>13.1?} {:>10.1?} {:>10.1?} {:>14.1} {:>16.1}",
            at(50),
            at(99),
            at(100),
            told.looks,
            told.reads
        );
    }
}

#[derive(Clone, Copy)]
enum Waits {
    Here,
    There,
    ThereUntold,
}

struct Told {
    latencies: Vec<Duration>,
    /// How often in a second the store was asked for the states of tasks.
    looks: f64,
    /// How often the store was asked for the task of one waiter.
    reads: f64,
}

async fn run(waits: Waits, tasks: usize, longest: Duration) -> Told {
    let store = MemoryStore::new();
    let handle = FaultStore::new(store.clone());
    let calls = handle.faults();
    // An engine that only waits needs one slot.
    let watching = match waits {
        Waits::Here => engine(handle, tasks),
        Waits::There => engine(handle, 1),
        Waits::ThereUntold => {
            calls.without_news();
            engine(handle, 1)
        }
    };
    let running = match waits {
        Waits::Here => watching.clone(),
        _ => engine(store, tasks),
    };
    // After this task the engine has seen that nothing waits, and starts each task at once.
    let first = submit(&running, Duration::ZERO).await;
    let ended = running.wait(first, LONG).await;
    assert!(ended.expect("the store answers").is_some());
    let mut waiting = Vec::with_capacity(tasks);
    let began = Instant::now();
    for _ in 0..tasks {
        let id = submit(&running, longest.mul_f64(fastrand::f64())).await;
        let watching = watching.clone();
        waiting.push(tokio::spawn(async move {
            let ended = watching.wait(id, LONG).await;
            let heard = Instant::now();
            let ended = ended.expect("the store answers").expect("it is there");
            assert!(ended.state.is_terminal());
            (watching.response(id).await, heard)
        }));
    }
    let mut latencies = Vec::with_capacity(tasks);
    for waiter in waiting {
        let (response, heard) = waiter.await.expect("it does not panic");
        let body = response
            .expect("the store answers")
            .expect("it has a response")
            .body
            .clone();
        let returned = u64::from_be_bytes(body[..].try_into().expect("a time"));
        latencies.push(
            heard
                .duration_since(epoch())
                .saturating_sub(Duration::from_nanos(returned)),
        );
    }
    let seconds = began.elapsed().as_secs_f64();
    Told {
        latencies,
        looks: calls.calls(Operation::Glance) as f64 / seconds,
        reads: calls.calls(Operation::Rows) as f64 / tasks as f64,
    }
}

async fn submit(tasks: &Tasks, after: Duration) -> RequestId {
    let request = Request::post(format!("/{}", after.as_millis())).body(Bytes::new());
    let submission = Submission::new(request.expect("it is a request"));
    match tasks.submit(submission).await {
        Ok(Submitted::New(task)) => task.id,
        other => panic!("it is new, and there is room: {other:?}"),
    }
}

/// An application that sleeps for as many milliseconds as the path says, and answers with the time.
fn engine(store: impl TaskStore, slots: usize) -> Tasks {
    let layer = RespondAsyncLayer::builder(store)
        .concurrency(slots)
        .max_waiters(2_048)
        .build();
    let layer = layer.expect("it is right");
    let tasks = layer.tasks();
    let handler = |request: Request<RequestBody>| async move {
        let after: u64 = request.uri().path()[1..].parse().expect("a number");
        sleep(Duration::from_millis(after)).await;
        let now = epoch().elapsed().as_nanos() as u64;
        let body = Full::new(Bytes::copy_from_slice(&now.to_be_bytes()));
        Ok::<_, BoxError>(Response::new(body))
    };
    drop(layer.layer(service_fn(handler)));
    tasks
}

fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}
