//! How fast are jobs put in and worked off, beside a queue that does nothing else?
//!
//! apalis keeps the jobs of one process in a channel: a push is a send, and nothing is left of a job that has run. Ours
//! keeps the request, the state and its history, the answer, and the indexes to find them by. So the ratio says what
//! that costs, and not that one of them does the same thing better. Both get it as easy as can be: apalis without
//! `tracing`, and each of its submitters with a sink of its own; ours a request without headers.
//!
//! All is done on one thread; `RedbStore` has one of its own to write. A job is 1 KiB, made before the clock is started. A
//! round begins with an empty store. While jobs are put in, nobody works any off: of ours, the application is not there
//! yet. They are run with every default, so of ours at most 64 at once.
//!
//! Rates are jobs a second, so a ratio below 1 is slower. By the wall clock, and by the CPU that the process used, which is
//! steadier on a busy machine and leaves out what waits for the disk.
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

/// How many put jobs in at once.
const SUBMITTERS: usize = 64;

/// How many jobs are put in by one call.
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
        // As ours is: a job that blocks does not hold up the others.
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

/// What is in a job.
fn payload() -> Bytes {
    Bytes::from(vec![b'x'; PAYLOAD])
}

fn made<T>(count: usize, make: impl Fn() -> T) -> Vec<T> {
    (0..count).map(|_| make()).collect()
}

/// What has been used since it was made.
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

/// The columns of a turn in which so many jobs took so long.
fn rates(count: usize, taken: [Duration; 2]) -> Vec<f64> {
    taken.map(|taken| count as f64 / taken.as_secs_f64()).into()
}
