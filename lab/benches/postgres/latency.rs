//! How soon a task starts: in the same idle process, and in another process.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::{runtime::Runtime, sync::mpsc, time::sleep};
use tower::{Layer, service_fn};
use tower_respond_async::{BoxError, RequestBody, RespondAsyncLayer, testing::FaultStore};

use crate::{
    floor::Floor,
    ours::{Ours, layer, submission},
    server::Server,
    support::{Contestant, compare, when_measuring},
    turn::share,
};

/// From the submission to the handler, one after another, beside one durable row.
pub(crate) fn start(runtime: &Runtime, server: &Server) {
    let count = when_measuring(200, 3);
    let floor = runtime.block_on(Floor::new(server));
    let ours = runtime.block_on(Ours::new(server, "start", 0));
    let (layer, mut starts) = runtime.block_on(async {
        let layer = layer(ours.handle().await, 64);
        let starts = telling(&layer);
        (layer, starts)
    });
    let tasks = layer.tasks();
    let mut engine = async || {
        let mut taken = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            tasks.submit(submission()).await.expect("there is room");
            let started = starts.recv().await.expect("it starts");
            taken.push(started.duration_since(began).as_secs_f64() * 1e6);
            // Until its end is written.
            sleep(Duration::from_millis(3)).await;
        }
        taken
    };
    let shown = |mut taken: Vec<f64>| vec![share(&mut taken, 50), share(&mut taken, 99)];
    let contestants = vec![
        Contestant::new("start: a row by hand", || shown(runtime.block_on(floor.writes(count)))),
        Contestant::new("start: engine, until its handler runs", || {
            shown(runtime.block_on(engine()))
        }),
    ];
    let title = "a task is submitted where nothing else happens, us";
    compare(title, &["median", "99th"], "start: a row by hand", contestants);
    runtime.block_on(tasks.shutdown(Duration::ZERO));
}

/// Stored by an engine that runs nothing, until it runs in another engine.
pub(crate) fn elsewhere(runtime: &Runtime, server: &Server) {
    println!("\nstored elsewhere, until it runs here, ms           median          99th          most");
    let ours = runtime.block_on(Ours::new(server, "elsewhere", 0));
    for told in [true, false] {
        let mut taken = runtime.block_on(async {
            let there = layer(ours.handle().await, 64);
            let store = FaultStore::new(ours.handle().await);
            if !told {
                store.faults().without_news();
            }
            let here = layer(store, 64);
            let mut starts = telling(&here);
            sleep(when_measuring(Duration::from_secs(3), Duration::from_millis(200))).await;
            let count = when_measuring(300, 3);
            let tasks = there.tasks();
            let submitting = tokio::spawn(async move {
                let mut stored = Vec::with_capacity(count);
                for _ in 0..count {
                    tasks.submit(submission()).await.expect("there is room");
                    stored.push(Instant::now());
                    sleep(Duration::from_millis(100).mul_f64(fastrand::f64())).await;
                }
                stored
            });
            let mut started = Vec::with_capacity(count);
            while started.len() < count {
                started.push(starts.recv().await.expect("it starts"));
            }
            let stored = submitting.await.expect("it ends");
            for layer in [here, there] {
                layer.tasks().shutdown(Duration::ZERO).await;
            }
            // They start in the order in which they were stored; where they do not, the difference is small.
            let taken = started.into_iter().zip(stored);
            let taken = taken.map(|(started, stored)| started.saturating_duration_since(stored).as_secs_f64() * 1e3);
            taken.collect::<Vec<_>>()
        });
        let name = if told { "by notice" } else { "by looking" };
        println!(
            "{name:44}{:>14.1}{:>14.1}{:>14.1}",
            share(&mut taken, 50),
            share(&mut taken, 99),
            share(&mut taken, 100)
        );
    }
}

/// Runs every task, and sends the time of each start.
fn telling(layer: &RespondAsyncLayer) -> mpsc::UnboundedReceiver<Instant> {
    let (started, starts) = mpsc::unbounded_channel();
    drop(layer.layer(service_fn(move |_: Request<RequestBody>| {
        // The receiver may be gone.
        let _ = started.send(Instant::now());
        std::future::ready(Ok::<_, BoxError>(Response::new(Full::<Bytes>::default())))
    })));
    starts
}
