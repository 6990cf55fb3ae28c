//! Memory for a task that waits, in both stores, and for one that has ended, in the file.
//!
//! It measures the private memory of the process (`RssAnon`, so on Linux): its growth when tasks are added to existing
//! ones. The first tasks fill the cache of the file, which is bounded and not counted.

use std::fs;

use tokio::runtime::Runtime;
use tower_respond_async::{MemoryStore, store::Ledger, task::NewTask};
use tower_respond_async_redb::QuickRepair;

use crate::{
    at_once::{Work, at_once},
    file::{Fresh, id},
    ours::{accept, open, request, work_on},
    support::when_measuring,
};

const BODY: usize = 1024;

pub(crate) fn run(runtime: &Runtime) {
    if !cfg!(target_os = "linux") {
        println!("the memory of a process is measured on Linux only");
        return;
    }
    println!("\nbytes of memory for a task that waits, with a body of {BODY}");
    let file = Fresh::new();
    let store = open(runtime, &file.0, QuickRepair::WhenIdle);
    show("RedbStore", for_one(|count| fill(runtime, &store, count)));
    show(
        "RedbStore, one that has ended",
        for_one(|count| live(runtime, &store, count)),
    );
    runtime.block_on(store.store().close());
    drop(store);
    let store = MemoryStore::builder().max_tasks(usize::MAX).max_bytes(usize::MAX);
    let store = Ledger::of(store.build());
    show("MemoryStore", for_one(|count| fill(runtime, &store, count)));
}

fn show(name: &str, bytes: f64) {
    println!("{name:44}{bytes:>14.0}");
}

fn for_one(fill: impl Fn(usize)) -> f64 {
    let count = when_measuring(200_000, 250);
    fill(count);
    let before = memory();
    fill(count);
    (memory() - before) / count as f64
}

fn live(runtime: &Runtime, store: &Ledger, count: usize) {
    work_on(runtime, store, Work::Life, 250, count / 250);
}

fn fill(runtime: &Runtime, store: &Ledger, count: usize) {
    let store = store.clone();
    at_once(runtime, 250, count / 250, move || {
        let store = store.clone();
        // A body of its own, as every request has.
        let task = NewTask::new(id(), request(BODY));
        async move { accept(&store, task).await }
    });
}

fn memory() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("it is there on Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .expect("it says so");
    kilobytes.trim().parse::<f64>().expect("a number") * 1024.0
}
