//! Measures the cost of a task from its request to its recorded end, beside the same written by hand.
//!
//! Each life takes in a request of 1 KiB, makes a 202, runs the application on the request, and records its response of
//! 1 KiB. Ours has everything on (response kept, history, indexes, links). All contestants keep the latest 1,000 tasks,
//! so that dropping old ones is part of every life. Making the request is shown by itself and subtracted from the
//! others.
//!
//! Target: at most 1.6 times `tokio::spawn` with a map, on one thread and on two. That code keeps no request, so
//! nothing could run again. The second ratio is to code by hand that keeps it, and answers with a document. Allocations
//! are counted by `cargo bench --features full --bench allocations`, since counting slows them down.
//!
//! ```text
//! cargo bench --features full --bench life
//! ```

mod support;

use std::{hint::black_box, time::Instant};

use bytes::Bytes;
use cpu_time::ProcessTime;
use http::StatusCode;
use http_body_util::Full;
use tokio::runtime::{Builder, Runtime};

use crate::support::{
    Contestant,
    by_hand::{Defers, QueuePerWorker, SpawnAndKeep, SpawnAndMap},
    compare_to,
    ours::{Layered, Submitting},
    when_measuring,
    work::request,
};

/// How many tasks each contestant keeps: few, so that the figures are those of the code and not of the memory.
const KEPT: usize = 1000;

const BY_HAND: &str = "tokio::spawn and a map, by hand";
const KEEPING: &str = "the same, keeping requests, with a document";

fn main() {
    let one = Builder::new_current_thread().enable_all().build();
    let two = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    for (threads, runtime) in [(1, one), (2, two)] {
        let runtime = runtime.expect("the operating system gives threads");
        for submitters in [64, 256] {
            lives(&runtime, threads, submitters);
        }
    }
}

fn lives(runtime: &Runtime, threads: usize, submitters: usize) {
    let (by_hand, keeping) = (SpawnAndMap::new(KEPT), SpawnAndKeep::new(KEPT));
    let (queues, layered, bare, submitting) = runtime.block_on(async {
        (
            QueuePerWorker::new(KEPT, threads),
            Layered::new(KEPT),
            Layered::without_document(KEPT),
            Submitting::new(KEPT),
        )
    });
    let contestants = vec![
        Contestant::new(BY_HAND, || batch(runtime, &by_hand, submitters)),
        Contestant::new(KEEPING, || batch(runtime, &keeping, submitters)),
        Contestant::new("a queue per worker and a map, by hand", || {
            batch(runtime, &queues, submitters)
        }),
        Contestant::new("ours: an asynchronous request", || batch(runtime, &layered, submitters)),
        Contestant::new("ours: one whose 202 has no document", || {
            batch(runtime, &bare, submitters)
        }),
        Contestant::new("ours: Tasks::submit", || batch(runtime, &submitting, submitters)),
    ];
    let title = format!("one life, {threads} thread(s), {submitters} submitters; ns");
    let floors = [(BY_HAND, "ratio"), (KEEPING, "keeping")];
    compare_to(&title, &["wall", "CPU"], &floors, contestants);
}

/// Runs many lives, each submitter's one after another. Answers with the figures for one, without making the request.
fn batch(runtime: &Runtime, contestant: &impl Defers<Full<Bytes>>, submitters: usize) -> Vec<f64> {
    let each = when_measuring(25_600, 512) / submitters;
    let lives = (each * submitters) as f64;
    let (wall, cpu) = (Instant::now(), ProcessTime::now());
    runtime.block_on(async {
        let submitters = (0..submitters).map(|_| {
            let mut contestant = contestant.clone();
            tokio::spawn(async move {
                for _ in 0..each {
                    let response = contestant.answer(request()).await;
                    assert!(response.status() != StatusCode::SERVICE_UNAVAILABLE);
                    // Lets the task run, as waiting for the client's next request would.
                    tokio::task::yield_now().await;
                }
            })
        });
        for submitter in submitters.collect::<Vec<_>>() {
            submitter.await.expect("no submitter panics");
        }
        contestant.all_ended().await;
    });
    let (wall, cpu) = (wall.elapsed(), cpu.elapsed());
    let (request_wall, request_cpu) = requests(runtime, submitters, each);
    vec![
        wall.as_nanos() as f64 / lives - request_wall,
        cpu.as_nanos() as f64 / lives - request_cpu,
    ]
}

/// The same with requests only, and no contestant.
fn requests(runtime: &Runtime, submitters: usize, each: usize) -> (f64, f64) {
    let lives = (each * submitters) as f64;
    let (wall, cpu) = (Instant::now(), ProcessTime::now());
    runtime.block_on(async {
        let submitters = (0..submitters).map(|_| {
            tokio::spawn(async move {
                for _ in 0..each {
                    black_box(request());
                    tokio::task::yield_now().await;
                }
            })
        });
        for submitter in submitters.collect::<Vec<_>>() {
            submitter.await.expect("no submitter panics");
        }
    });
    (
        wall.elapsed().as_nanos() as f64 / lives,
        cpu.elapsed().as_nanos() as f64 / lives,
    )
}
