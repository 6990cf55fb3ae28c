//! Runs a number of lives of a task, and nothing else, for a tool that counts what the process does: see
//! `lab/instructions.sh`.
//!
//! The lives are those of `benches/life.rs`: on one thread, one after another. Each task ends before the next request
//! is made.
//!
//! ```text
//! cargo bench -p lab --bench lives -- submitted 20000
//! ```

#[path = "../../benches/support/mod.rs"]
mod support;

use std::{env, hint::black_box};

use bytes::Bytes;
use http_body_util::Full;
use tokio::runtime::{Builder, Runtime};

use crate::support::{
    by_hand::{Defers, SpawnAndKeep, SpawnAndMap},
    ours::{Layered, Submitting},
    work::request,
};

/// How many tasks each contestant keeps, as in `benches/life.rs`.
const KEPT: usize = 1000;

const KINDS: [&str; 6] = ["request", "map", "kept", "keeping", "submitted", "requested"];

fn main() {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the operating system gives a timer");
    let words: Vec<_> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    match &words[..] {
        // Shows that they still run.
        [] => KINDS.iter().for_each(|kind| run(&runtime, kind, 100)),
        [kind, lives] => run(&runtime, kind, lives.parse().expect("a number of lives")),
        _ => panic!("say which of {KINDS:?}, and how many"),
    }
}

fn run(runtime: &Runtime, kind: &str, lives: usize) {
    match kind {
        // The request is made and dropped.
        "request" => runtime.block_on(async {
            for _ in 0..lives {
                black_box(request());
                tokio::task::yield_now().await;
            }
        }),
        "map" => live(runtime, lives, || SpawnAndMap::new(KEPT)),
        "kept" => live(runtime, lives, || SpawnAndKeep::without_document(KEPT)),
        "keeping" => live(runtime, lives, || SpawnAndKeep::new(KEPT)),
        "submitted" => live(runtime, lives, || Submitting::new(KEPT)),
        "requested" => live(runtime, lives, || Layered::new(KEPT)),
        _ => panic!("{kind} is none of {KINDS:?}"),
    }
}

fn live<D: Defers<Full<Bytes>>>(runtime: &Runtime, lives: usize, contestant: impl FnOnce() -> D) {
    runtime.block_on(async {
        let mut contestant = contestant();
        for _ in 0..lives {
            contestant.answer(request()).await;
            tokio::task::yield_now().await;
        }
        contestant.all_ended().await;
    });
}
