//! The cost of a task when many tasks are kept, or wait.
//!
//! The two schemas of a table take turns. After each turn, the tasks that it put into the queue are removed, so that
//! the number of waiting tasks stays as stated.

use std::time::Instant;

use tokio::runtime::Runtime;
use tower_respond_async::task::WorkerId;

use crate::{
    ours::{Ours, drain},
    server::Server,
    support::{Contestant, compare, when_measuring},
    turn::checkpoint,
};

/// Copies the one task in the schema.
const COPY: &str = "CREATE TEMP TABLE copy AS SELECT t.id AS old, gen_random_uuid() AS id, n FROM @.task t, \
    generate_series(1, COUNT) n";
const COPY_TASKS: &str = "INSERT INTO @.task (id, version, state, suspect, token, worker, created_at, run_at, expires_at, \
    lease_until, started_at, ended_at, rests_at, format, generation, owes, tenant, pool, name, function, record, progress, \
    response) SELECT c.id, version, state, suspect, token, worker, created_at - n, run_at - n, expires_at, lease_until, \
    started_at, ended_at, rests_at, format, generation, owes, tenant, pool, name, function, \
    overlay(record PLACING uuid_send(c.id) FROM position(uuid_send(c.old) IN record)), progress, response \
    FROM copy c JOIN @.task t ON t.id = c.old";
const COPY_REQUESTS: &str =
    "INSERT INTO @.request SELECT c.id, sum, head, body FROM copy c JOIN @.request q ON q.id = c.old";
const COUNT_THEM: &str = "INSERT INTO @.tally SELECT 0, '', pool, state, COUNT FROM @.task LIMIT 1";

const COLUMNS: [&str; 3] = ["us an accept", "claim, settle", "us a life"];

pub(crate) fn run(runtime: &Runtime, server: &Server) {
    let (none, ended) = ("growth: nothing is kept", "growth: a million ended ones are kept");
    compare_kept(runtime, server, [none, ended], true, when_measuring(1_000_000, 300));
    let (none, waits) = ("growth: nothing waits", "growth: 100 thousand wait");
    compare_kept(runtime, server, [none, waits], false, when_measuring(100_000, 300));
}

fn compare_kept(runtime: &Runtime, server: &Server, names: [&'static str; 2], ended: bool, count: usize) {
    let few = runtime.block_on(Ours::new(server, "few", 1));
    let many = runtime.block_on(Ours::new(server, "many", 1));
    runtime.block_on(keep(&many, ended, count));
    let contestants = vec![
        Contestant::new(names[0], || runtime.block_on(turn(&few))),
        Contestant::new(names[1], || runtime.block_on(turn(&many))),
    ];
    compare("64 at once", &COLUMNS, names[0], contestants);
}

async fn keep(ours: &Ours<'_>, ended: bool, count: usize) {
    match ended {
        true => ours.lives(1, 1).await,
        false => ours.accepts(1, 1, false).await,
    };
    let count = count.to_string();
    for statement in [COPY, COPY_TASKS, COPY_REQUESTS, COUNT_THEM] {
        ours.run(&[&statement.replace("COUNT", &count)]).await;
    }
    let look = [
        "VACUUM ANALYZE @.task",
        "VACUUM ANALYZE @.request",
        "DROP TABLE copy",
        checkpoint(),
    ];
    ours.run(&look).await;
}

async fn turn(ours: &Ours<'_>) -> Vec<f64> {
    let each = when_measuring(50, 1);
    let micros = |a_second: f64| 1e6 / a_second;
    let accept = micros(ours.more_accepts(64, each, false).await[0]);
    let (ledger, worker) = (ours.ledger(), WorkerId::new("bench", 1));
    let start = Instant::now();
    let mut left = 64 * each;
    while left > 0 {
        let some = drain(&ledger, &worker, left.min(64)).await;
        assert!(some > 0, "they wait");
        left -= some;
    }
    let ended = start.elapsed().as_secs_f64() * 1e6 / (64 * each) as f64;
    vec![accept, ended, micros(ours.more_lives(64, each).await[0])]
}
