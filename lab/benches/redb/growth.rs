//! The cost of a task when many tasks are kept, or wait.
//!
//! The two stores of a table are open at the same time and take turns. After each turn as many old tasks are pruned as
//! new ones ended, so that the numbers stay as stated.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tower_respond_async::{
    store::{Claim, Held, Ledger, Retention},
    task::WorkerId,
};
use tower_respond_async_redb::QuickRepair;

use crate::{
    at_once::Work,
    file::Fresh,
    ours::{LEASE, open, response, success, work_on},
    support::{Contestant, compare, when_measuring},
};

pub(crate) fn run(runtime: &Runtime) {
    let few = Kept::new(runtime, when_measuring(10_000, 100), Work::Life);
    let many = Kept::new(runtime, when_measuring(1_000_000, 300), Work::Life);
    let contestants = vec![
        Contestant::new("growth: 10 thousand ended tasks kept", || few.lives()),
        Contestant::new("growth: a million", || many.lives()),
    ];
    let columns = ["a life", "to prune one"];
    compare(
        "256 at once; ns",
        &columns,
        "growth: 10 thousand ended tasks kept",
        contestants,
    );
    drop((few, many));

    let few = Kept::new(runtime, 1, Work::Accept);
    let many = Kept::new(runtime, when_measuring(100_000, 300), Work::Accept);
    let contestants = vec![
        Contestant::new("growth: 1 task waits", || few.through_the_queue()),
        Contestant::new("growth: 100 thousand wait", || many.through_the_queue()),
    ];
    let columns = ["an accept", "claim, settle"];
    compare("64 at once; ns", &columns, "growth: 1 task waits", contestants);
}

/// A store that holds tasks already.
struct Kept<'a> {
    runtime: &'a Runtime,
    store: Ledger,
    _file: Fresh,
}

impl<'a> Kept<'a> {
    fn new(runtime: &'a Runtime, count: usize, work: Work) -> Self {
        let file = Fresh::new();
        let store = open(runtime, &file.0, QuickRepair::WhenIdle);
        let submitters = count.min(250);
        work_on(runtime, &store, work, submitters, count / submitters);
        Self {
            runtime,
            store,
            _file: file,
        }
    }

    fn lives(&self) -> Vec<f64> {
        let (submitters, each) = (256, when_measuring(10, 1));
        let life = work_on(self.runtime, &self.store, Work::Life, submitters, each).one;
        vec![life, self.prune(submitters * each)]
    }

    fn through_the_queue(&self) -> Vec<f64> {
        let (submitters, each) = (64, when_measuring(20, 1));
        let count = submitters * each;
        let accept = work_on(self.runtime, &self.store, Work::Accept, submitters, each).one;
        let start = Instant::now();
        let mut ended = 0;
        while ended < count {
            let claimed = self.claim(submitters.min(count - ended));
            ended += claimed.len();
            self.settle(claimed);
        }
        let settled = start.elapsed().as_nanos() as f64 / count as f64;
        self.prune(count);
        vec![accept, settled]
    }

    fn claim(&self, max: usize) -> Vec<Held> {
        let claim = Claim::new(WorkerId::new("bench", 1), max, LEASE);
        let claimed = self.runtime.block_on(self.store.claim(claim)).expect("claim");
        assert!(!claimed.tasks.is_empty(), "something waits");
        claimed.tasks.into_iter().map(|task| task.held).collect()
    }

    fn settle(&self, claims: Vec<Held>) {
        let outcome = success(response(1024));
        self.runtime.block_on(async {
            let settled = claims.iter().map(async |held| {
                let _ = self.store.settle(held, &outcome).await.expect("settle");
            });
            futures_util::future::join_all(settled).await;
        });
    }

    /// Prunes the `count` tasks that ended first. Answers with the time for one.
    fn prune(&self, count: usize) -> f64 {
        let at_once = Retention::new(Duration::ZERO, Duration::ZERO);
        let start = Instant::now();
        let mut left = count;
        while left > 0 {
            let pruned = self.store.prune(at_once, left.min(256));
            left -= self.runtime.block_on(pruned).expect("prune").tasks.min(left);
        }
        start.elapsed().as_nanos() as f64 / count as f64
    }
}
