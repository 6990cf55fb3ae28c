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
    floor::{self, per_task},
    ours::{LEASE, open, response, success, work_on},
    support::{Contestant, compare, when_measuring},
};

const SUBMITTERS: usize = 256;

pub(crate) fn run(runtime: &Runtime) {
    with_ended(runtime);
    with_waiting(runtime);
}

fn with_ended(runtime: &Runtime) {
    let (few, many) = (when_measuring(10_000, 300), when_measuring(1_000_000, 600));
    let columns = ["a life", "to prune one"];
    let (kept_few, kept_many) = (
        Kept::new(runtime, few, Work::Life),
        Kept::new(runtime, many, Work::Life),
    );
    let contestants = vec![
        Contestant::new("growth: 10 thousand ended tasks kept", || kept_few.lives()),
        Contestant::new("growth: a million", || kept_many.lives()),
    ];
    compare(
        "256 at once; ns",
        &columns,
        "growth: 10 thousand ended tasks kept",
        contestants,
    );
    drop((kept_few, kept_many));

    let (mut by_hand_few, mut by_hand_many) = (floor::Kept::new(few), floor::Kept::new(many));
    let turn = |kept: &mut floor::Kept| vec![kept.live(lives()), kept.prune(lives())];
    let contestants = vec![
        Contestant::new("growth by hand: 10 thousand kept", || turn(&mut by_hand_few)),
        Contestant::new("growth by hand: a million", || turn(&mut by_hand_many)),
    ];
    compare(
        "the same tables, by hand, 256 in each commit; ns",
        &columns,
        "growth by hand: 10 thousand kept",
        contestants,
    );
}

fn with_waiting(runtime: &Runtime) {
    let few = Kept::new(runtime, 1, Work::Accept);
    let many = Kept::new(runtime, when_measuring(100_000, 300), Work::Accept);
    let contestants = vec![
        Contestant::new("growth: 1 task waits", || few.through_the_queue()),
        Contestant::new("growth: 100 thousand wait", || many.through_the_queue()),
    ];
    let columns = ["an accept", "claim, settle"];
    compare("64 at once; ns", &columns, "growth: 1 task waits", contestants);
}

/// How many tasks live, and are pruned, in a turn.
fn lives() -> usize {
    SUBMITTERS * when_measuring(10, 1)
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
        let each = lives() / SUBMITTERS;
        let life = work_on(self.runtime, &self.store, Work::Life, SUBMITTERS, each).one;
        vec![life, self.prune(lives())]
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
        let settled = per_task(start, count);
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
        per_task(start, count)
    }
}
