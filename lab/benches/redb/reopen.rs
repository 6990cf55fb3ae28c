//! How long a file takes to open.

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use tokio::runtime::Runtime;
use tower_respond_async::task::NewTask;
use tower_respond_async_redb::QuickRepair;

use crate::{
    at_once::at_once,
    file::{Fresh, id},
    ours::{accept, open, request},
    support::{median, when_measuring},
};

/// Fills a file, copies it while it is open, as a kill would leave it, and opens the copy.
pub(crate) fn run(runtime: &Runtime) {
    let tasks = when_measuring(100_000, 500);
    let file = Fresh::new();
    let request = request(10_000);
    let store = open(runtime, &file.0, QuickRepair::WhenIdle);
    at_once(runtime, 250, tasks / 250, {
        let store = store.clone();
        move || {
            let (store, task) = (store.clone(), NewTask::new(id(), request.clone()));
            async move { accept(&store, task).await }
        }
    });
    let (writing, idle, closed) = (Fresh::new(), Fresh::new(), Fresh::new());
    copy(&file.0, &writing.0);
    sleep(Duration::from_secs(1));
    copy(&file.0, &idle.0);
    runtime.block_on(store.store().close());
    drop(store);
    copy(&file.0, &closed.0);
    let size = fs::metadata(&file.0).expect("it is there").len() / 1_000_000;
    println!("\n{size} MB, {tasks} tasks; opened, ms");
    for (name, left) in [
        ("killed while it was written to", writing),
        ("killed at rest", idle),
        ("closed", closed),
    ] {
        let times = (0..when_measuring(5, 1)).map(|_| {
            let again = Fresh::new();
            copy(&left.0, &again.0);
            let start = Instant::now();
            let store = open(runtime, &again.0, QuickRepair::WhenIdle);
            let time = start.elapsed();
            runtime.block_on(store.store().close());
            time.as_secs_f64() * 1000.0
        });
        println!("{name:44}{:>14.1}", median(times));
    }
}

/// Copies the file and syncs the copy, so that opening it does not include reading or writing it back.
fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).expect("copy");
    let copy = fs::File::open(to).expect("it is there");
    copy.sync_all().expect("sync");
}
