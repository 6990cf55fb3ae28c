//! The figures of a turn, and running many submitters at once.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use cpu_time::ProcessTime;
use tokio_postgres::Client;
use tower_respond_async::{RequestId, time::Timestamp};

use crate::{
    server::{Server, used},
    support::when_measuring,
};

/// The rate per second, and the CPU time of one: here, and in the server, in microseconds.
pub(crate) const COLUMNS: [&str; 3] = ["a second", "us CPU here", "us CPU there"];

/// Measures from when it is made.
pub(crate) struct Stopwatch<'a> {
    server: &'a Server,
    admin: &'a Client,
    there: Option<Vec<(i32, f64)>>,
    here: ProcessTime,
    wall: Instant,
}

impl<'a> Stopwatch<'a> {
    pub(crate) async fn start(server: &'a Server, admin: &'a Client) -> Self {
        let there = server.cpu(admin).await;
        Self {
            server,
            admin,
            there,
            here: ProcessTime::now(),
            wall: Instant::now(),
        }
    }

    /// The columns of a turn with `count` tasks.
    pub(crate) async fn stop(self, count: usize) -> Vec<f64> {
        let (wall, here) = (self.wall.elapsed(), self.here.elapsed());
        let there = match (self.there, self.server.cpu(self.admin).await) {
            (Some(before), Some(after)) => used(&before, &after),
            _ => f64::NAN,
        };
        let count = count as f64;
        vec![
            count / wall.as_secs_f64(),
            here.as_secs_f64() * 1e6 / count,
            there / 1e3 / count,
        ]
    }
}

/// Runs `work` `each` times on each of `submitters` tasks at once.
pub(crate) async fn at_once<F: Future<Output = ()> + Send + 'static>(
    submitters: usize,
    each: usize,
    work: impl Fn() -> F + Clone + Send + 'static,
) {
    let tasks: Vec<_> = (0..submitters)
        .map(|_| {
            let work = work.clone();
            tokio::spawn(async move {
                for _ in 0..each {
                    work().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("it ends");
    }
}

/// The percentile `hundredths` of these figures.
pub(crate) fn share(figures: &mut [f64], hundredths: usize) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[(figures.len() - 1) * hundredths / 100]
}

/// A statement that makes the server write its dirty pages now, and not during a turn.
pub(crate) fn checkpoint() -> &'static str {
    when_measuring("CHECKPOINT", "SELECT")
}

/// Ids as in real use: each in a later millisecond.
pub(crate) fn id() -> RequestId {
    static NEXT: AtomicU64 = AtomicU64::new(1_700_000_000_000);
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    RequestId::from_parts(Timestamp::from_millis(NEXT.fetch_add(1, Ordering::Relaxed)), random)
}
