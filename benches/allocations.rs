//! Counts the allocations of a request that passes through, and of a task.
//!
//! Everything runs on one thread, so that every allocation is counted. It is a separate benchmark, since counting slows
//! every allocation down; `overhead` and `life` measure the times. Making the request is shown by itself and subtracted
//! from the others.
//!
//! Target: 0 for a request that does not ask for async, at most 20 for a life.
//!
//! ```text
//! cargo bench --features full --bench allocations
//! ```

mod support;

use std::hint::black_box;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::runtime::{Builder, Runtime};
use tower_service::Service;

use crate::support::{
    by_hand::{Defers, QueuePerWorker, Spawn, SpawnAndKeep, SpawnAndMap},
    is_wanted,
    ours::{Layered, Submitting, layer, wrapped},
    when_measuring,
    work::{Mirror, request},
};

/// How many tasks each contestant keeps.
const KEPT: usize = 1000;

fn main() {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the operating system gives a timer");
    let within = runtime.enter();
    println!("\n{:44}{:>14}{:>14}", "", "allocations", "bytes");

    let (mut app, _tasks) = wrapped(Mirror, layer(KEPT));
    let mut plain = request();
    plain.headers_mut().clear();
    let mut plain = Some(plain);
    let sync = measured(1, || {
        let request: Request<Full<Bytes>> = plain.take().expect("it is sent once");
        black_box(app.call(request));
    });
    print("ours: a request that passes through", sync);
    drop(within);

    let lives = when_measuring(20_000, 200);
    let request = measured(lives, || (0..lives).for_each(|_| drop(black_box(request()))));
    print("the request itself", request);
    let lives = Lives {
        runtime,
        lives,
        request,
    };
    lives.count("tokio::spawn, by hand", Spawn::default);
    lives.count("tokio::spawn and a map, by hand", || SpawnAndMap::new(KEPT));
    lives.count("the same, keeping requests, with a document", || {
        SpawnAndKeep::new(KEPT)
    });
    lives.count("the same, without a document", || SpawnAndKeep::without_document(KEPT));
    lives.count("a queue per worker and a map, by hand", || QueuePerWorker::new(KEPT, 1));
    lives.count("ours: an asynchronous request", || Layered::new(KEPT));
    lives.count("ours: one whose 202 has no document", || {
        Layered::without_document(KEPT)
    });
    lives.count("ours: Tasks::submit", || Submitting::new(KEPT));
}

struct Lives {
    runtime: Runtime,
    lives: usize,
    /// The allocations and bytes of making a request.
    request: (f64, f64),
}

impl Lives {
    fn count<D: Defers<Full<Bytes>>>(&self, name: &str, contestant: impl FnOnce() -> D) {
        if !is_wanted(name) {
            return;
        }
        let _within = self.runtime.enter();
        let mut contestant = contestant();
        let mut live = |lives: usize| {
            self.runtime.block_on(async {
                for _ in 0..lives {
                    contestant.answer(request()).await;
                    tokio::task::yield_now().await;
                }
                contestant.all_ended().await;
            });
        };
        // Maps and rings grow until the contestant keeps its maximum.
        live(4 * KEPT);
        let (allocations, bytes) = measured(self.lives, || live(self.lives));
        print(name, (allocations - self.request.0, bytes - self.request.1));
    }
}

/// Allocations and bytes, for one of `many`.
fn measured(many: usize, act: impl FnOnce()) -> (f64, f64) {
    let counted = allocation_counter::measure(act);
    (
        counted.count_total as f64 / many as f64,
        counted.bytes_total as f64 / many as f64,
    )
}

fn print(name: &str, (allocations, bytes): (f64, f64)) {
    println!("{name:44}{allocations:>14.2}{bytes:>14.0}");
}
