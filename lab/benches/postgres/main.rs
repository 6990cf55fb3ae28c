//! Compares the store in PostgreSQL with code written by hand.
//!
//! It starts a private server from Debian's packages (`apt-get install postgresql`), which syncs to disk. Or
//! `DATABASE_URL` names a server: its schemas `bench_*` are dropped. Every contestant has a turn in every round, on
//! empty tables, after a checkpoint. Rates are per second, so a ratio below 1 is slower. CPU is the time per task, in
//! this process and in the server's. A body is 1 KiB.
//!
//! The floors are [written by hand](floor): one statement is under way, and what arrives meanwhile goes into the next
//! one. The store is measured step by step ("PostgresStore"), and through an engine with every default ("engine"),
//! which captures requests, counts slots and runs handlers.
//!
//! | word | measures | target |
//! |---|---|---|
//! | `accepts` | tasks stored in the queue, by 64 at once | 0.65 of the floor |
//! | `lives` | tasks stored claimed, and settled, by 64 and 256 at once | 0.6 of the floor |
//! | `drain` | waiting tasks, taken and settled by four handles | 0.6 of the floor |
//! | `keyed` | tasks with an `Idempotency-Key` stored in the queue, by 64 at once | 0.5 of those without |
//! | `start` | from a submission to its handler, otherwise idle | twice a durable row |
//! | `elsewhere` | from a task stored elsewhere to its handler here | 99 of 100 within 120 ms; 1.2 s without notices |
//! | `idle` | statements of an idle process | 3 a second, 1 KB of WAL a minute beside beats |
//! | `restart` | 500 requests a second for 10 s; the server is down for 3 s | 5 % refused; the old rate 2 s after |
//! | `growth` | the same with a million ended tasks kept, and with 100 thousand waiting | 1.2 of the time with none |
//! | `long` | claims for `LONG_MINUTES` (30), a transaction open for a third | 99th of 100: 5 times, 1.3 after |
//!
//! Without a word all of them run except the last two, which take minutes. `lab/peers` compares with other queues on
//! PostgreSQL.
//!
//! ```text
//! cargo bench -p lab --bench postgres
//! cargo bench -p lab --bench postgres -- lives
//! ```

mod floor;
mod growth;
mod idle;
mod latency;
mod long;
mod ours;
mod restart;
mod server;
#[path = "../../../benches/support/mod.rs"]
mod support;
mod turn;

use std::env;

use tokio::runtime::Runtime;

use crate::{
    floor::Floor,
    ours::Ours,
    server::Server,
    support::{Contestant, compare, is_measuring, when_measuring},
    turn::COLUMNS,
};

fn main() {
    let runtime = support::two_threads();
    let server = Server::start("");
    let cases: [(&str, &dyn Fn()); 10] = [
        ("accepts", &|| accepts(&runtime, &server)),
        ("lives", &|| lives(&runtime, &server)),
        ("drain", &|| drain(&runtime, &server)),
        ("keyed", &|| keyed(&runtime, &server)),
        ("start", &|| latency::start(&runtime, &server)),
        ("elsewhere", &|| latency::elsewhere(&runtime, &server)),
        ("idle", &|| idle::run(&runtime)),
        ("restart", &|| restart::run(&runtime)),
        ("growth", &|| growth::run(&runtime, &server)),
        ("long", &|| long::run(&runtime, &server)),
    ];
    let is_quick = |name| !is_measuring() || !["growth", "long"].contains(&name);
    let words: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    for (name, run) in cases {
        if words.is_empty() && is_quick(name) || words.iter().any(|word| word.starts_with(name)) {
            run();
        }
    }
}

fn accepts(runtime: &Runtime, server: &Server) {
    let each = when_measuring(200, 2);
    let floor = runtime.block_on(Floor::new(server));
    let ours = runtime.block_on(Ours::new(server, "accepts", 1));
    let contestants = vec![
        Contestant::new("accepts: by hand", || runtime.block_on(floor.accepts(64, each))),
        Contestant::new("accepts: PostgresStore", || {
            runtime.block_on(ours.accepts(64, each, false))
        }),
        Contestant::new("accepts: engine", || runtime.block_on(ours.submissions(64, each))),
    ];
    compare("64 at once store tasks", &COLUMNS, "accepts: by hand", contestants);
}

fn lives(runtime: &Runtime, server: &Server) {
    for (submitters, each) in [(64, 150), (256, 40)] {
        let each = when_measuring(each, 2);
        let floor = runtime.block_on(Floor::new(server));
        let ours = runtime.block_on(Ours::new(server, "lives", 1));
        let contestants = vec![
            Contestant::new("lives: by hand", || runtime.block_on(floor.lives(submitters, each))),
            Contestant::new("lives: PostgresStore", || {
                runtime.block_on(ours.lives(submitters, each))
            }),
            Contestant::new("lives: engine", || {
                runtime.block_on(ours.engine_lives(submitters, each))
            }),
        ];
        let title = format!("{submitters} at once store tasks that they run, and their ends");
        compare(&title, &COLUMNS, "lives: by hand", contestants);
    }
}

fn drain(runtime: &Runtime, server: &Server) {
    let count = when_measuring(10_000, 300);
    let floor = runtime.block_on(Floor::new(server));
    let ours = runtime.block_on(Ours::new(server, "drain", 4));
    let contestants = vec![
        Contestant::new("drain: by hand", || runtime.block_on(floor.drain(count, 4))),
        Contestant::new("drain: PostgresStore", || runtime.block_on(ours.drain(count))),
        Contestant::new("drain: engine", || runtime.block_on(ours.engine_drain(count))),
    ];
    let title = "tasks that wait are taken by four, and ended";
    compare(title, &COLUMNS, "drain: by hand", contestants);
}

fn keyed(runtime: &Runtime, server: &Server) {
    let each = when_measuring(100, 2);
    let ours = runtime.block_on(Ours::new(server, "keyed", 1));
    let contestants = vec![
        Contestant::new("keyed: without a key", || {
            runtime.block_on(ours.accepts(64, each, false))
        }),
        Contestant::new("keyed: with a key each", || {
            runtime.block_on(ours.accepts(64, each, true))
        }),
    ];
    compare(
        "64 at once store tasks with an Idempotency-Key",
        &COLUMNS,
        "keyed: without a key",
        contestants,
    );
}
