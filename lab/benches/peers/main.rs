//! Compares the speed of adding and running jobs with a queue that does nothing else.
//!
//! apalis keeps the jobs of one process in a channel: a push is a send, and nothing is left of a job that has run. Our
//! store keeps the request, the state and its history, the response, and the indexes to find them. So the ratio shows
//! the cost of these, and not that one does the same thing better. Both run in their fastest form: apalis without
//! `tracing` and with one sink per submitter, ours with requests without headers.
//!
//! Everything runs on one thread; `RedbStore` has its own writer thread. A job is 1 KiB, made before the clock starts.
//! Each round begins with an empty store. No job runs while jobs are added: our layer has no application yet. Jobs run
//! with every default, so ours run at most 64 at once.
//!
//! Rates are jobs per second, so a ratio below 1 is slower. They are given by the wall clock, and by the CPU time of
//! the process, which is steadier on a busy machine and excludes waiting for the disk.
//!
//! ```text
//! cargo bench -p lab --bench peers
//! cargo bench -p lab --bench peers -- memory     # without the files
//! ```

mod apalis;
mod ours;
#[path = "../../../benches/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use cpu_time::ProcessTime;
use tokio::runtime::{Builder, Runtime};

use crate::support::{Contestant, compare, compare_to, when_measuring, work::PAYLOAD};

/// How many submitters add jobs at the same time.
const SUBMITTERS: usize = 64;

/// How many jobs one call adds.
const BULK: usize = 1000;

const COLUMNS: [&str; 2] = ["wall", "CPU"];

fn main() {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the operating system gives a timer");
    push(&runtime);
    drain(&runtime);
    bulk_in_memory(&runtime);
    bulk_in_a_file(&runtime);
}

fn push(runtime: &Runtime) {
    let each = when_measuring(160, 2);
    let contestants = vec![
        Contestant::new("memory: apalis", || apalis::push(runtime, each)),
        Contestant::new("memory: ours, Tasks::submit", || ours::push(runtime, each)),
    ];
    compare(
        "64 submitters push; jobs a second",
        &COLUMNS,
        "memory: apalis",
        contestants,
    );
}

fn drain(runtime: &Runtime) {
    let count = when_measuring(10_000, 100);
    let floors = [
        ("memory: apalis", "ratio"),
        ("memory: apalis, each job spawned", "spawned"),
    ];
    let contestants = vec![
        Contestant::new(floors[0].0, || apalis::drain(runtime, count)),
        // Like ours: a job that blocks does not hold up the others.
        Contestant::new(floors[1].0, || apalis::drain_spawned(runtime, count)),
        Contestant::new("memory: ours", || ours::drain(runtime, count)),
    ];
    compare_to("jobs that wait are run; jobs a second", &COLUMNS, &floors, contestants);
}

fn bulk_in_memory(runtime: &Runtime) {
    let batches = when_measuring(10, 1);
    let floors = [
        ("memory: apalis, push_bulk", "ratio"),
        ("memory: ours, one by one", "by one"),
    ];
    let contestants = vec![
        Contestant::new("memory: apalis, one by one", || apalis::one_by_one(runtime, batches)),
        Contestant::new(floors[0].0, || apalis::in_one_call(runtime, batches)),
        Contestant::new(floors[1].0, || ours::one_by_one_in_memory(runtime, batches)),
        Contestant::new("memory: ours, in one call", || {
            ours::in_one_call_in_memory(runtime, batches)
        }),
    ];
    compare_to("1,000 jobs are put in; jobs a second", &COLUMNS, &floors, contestants);
}

fn bulk_in_a_file(runtime: &Runtime) {
    let floors = [
        ("file: ours, one after the other", "by one"),
        ("file: ours, all at once", "at once"),
    ];
    let contestants = vec![
        Contestant::new(floors[0].0, || ours::one_by_one_in_a_file(runtime)),
        Contestant::new(floors[1].0, || ours::all_at_once_in_a_file(runtime)),
        Contestant::new("file: ours, in one call", || ours::in_one_call_in_a_file(runtime)),
    ];
    let title = "1,000 jobs are put into a file, synced; jobs a second";
    compare_to(title, &COLUMNS, &floors, contestants);
}

/// The content of a job.
fn payload() -> Bytes {
    Bytes::from(vec![b'x'; PAYLOAD])
}

fn made<T>(count: usize, make: impl Fn() -> T) -> Vec<T> {
    (0..count).map(|_| make()).collect()
}

/// Measures wall clock and CPU time since it was made.
struct Stopwatch {
    wall: Instant,
    cpu: ProcessTime,
}

impl Stopwatch {
    fn start() -> Self {
        Self {
            wall: Instant::now(),
            cpu: ProcessTime::now(),
        }
    }

    fn stop(&self) -> [Duration; 2] {
        [self.wall.elapsed(), self.cpu.elapsed()]
    }
}

/// The columns of a turn that ran so many jobs in these times.
fn rates(count: usize, taken: [Duration; 2]) -> Vec<f64> {
    taken.map(|taken| count as f64 / taken.as_secs_f64()).into()
}
