//! Many submitters at once, and their latencies.

use std::time::Instant;

use tokio::runtime::Runtime;

/// The operation to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Work {
    /// A task is stored in the queue.
    Accept,
    /// A task is stored claimed, and its end recorded.
    Life,
}

/// The figures of a turn, in nanoseconds.
pub(crate) struct Figures {
    /// The time of the turn divided by the number of operations.
    pub(crate) one: f64,
    /// The median latency.
    p50: f64,
    /// The latency of the 99th of 100.
    p99: f64,
}

impl Figures {
    pub(crate) const COLUMNS: [&str; 3] = ["for one", "p50", "p99"];

    pub(crate) fn columns(self) -> Vec<f64> {
        vec![self.one, self.p50, self.p99]
    }
}

/// Runs `work` `each` times on each of `submitters` tasks at once.
pub(crate) fn at_once<F: Future<Output = ()> + Send + 'static>(
    runtime: &Runtime,
    submitters: usize,
    each: usize,
    work: impl Fn() -> F + Clone + Send + 'static,
) -> Figures {
    let start = Instant::now();
    let mut waited = runtime.block_on(async {
        let tasks: Vec<_> = (0..submitters)
            .map(|_| {
                let work = work.clone();
                tokio::spawn(async move {
                    let mut waited = Vec::with_capacity(each);
                    for _ in 0..each {
                        let start = Instant::now();
                        work().await;
                        waited.push(start.elapsed().as_nanos() as f64);
                    }
                    waited
                })
            })
            .collect();
        let mut waited = Vec::with_capacity(submitters * each);
        for task in tasks {
            waited.extend(task.await.expect("it ends"));
        }
        waited
    });
    let one = start.elapsed().as_nanos() as f64 / waited.len() as f64;
    waited.sort_by(f64::total_cmp);
    let share = |hundredths: usize| waited[waited.len() * hundredths / 100];
    Figures {
        one,
        p50: share(50),
        p99: share(99),
    }
}
