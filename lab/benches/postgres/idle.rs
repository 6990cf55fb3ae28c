//! The statements that a process sends to the server while there is nothing to do.

use std::time::Duration;

use tokio::{runtime::Runtime, time::sleep};

use crate::{
    ours::{Countdown, Ours, layer, run_all},
    server::Server,
    support::when_measuring,
};

/// Counts by `pg_stat_statements`, which needs a private server. Writes of beats are counted separately.
const COUNT: &str = "SELECT coalesce(sum(calls), 0)::float8, \
    coalesce(sum(wal_bytes) FILTER (WHERE query LIKE '%.process %'), 0)::float8, \
    coalesce(sum(wal_bytes) FILTER (WHERE query NOT LIKE '%.process %'), 0)::float8 \
    FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_statements%'";

pub(crate) fn run(runtime: &Runtime) {
    let server = Server::start("shared_preload_libraries = 'pg_stat_statements'\n");
    if !server.is_own() {
        println!("\nwhat an idle process asks is counted on a private server only");
        return;
    }
    runtime.block_on(async {
        let ours = Ours::new(&server, "idle", 0).await;
        ours.run(&["CREATE EXTENSION pg_stat_statements"]).await;
        let layer = layer(ours.handle().await, 64);
        run_all(&layer, &Countdown::new(1));
        sleep(when_measuring(Duration::from_secs(50), Duration::from_millis(200))).await;
        ours.run(&["SELECT pg_stat_statements_reset()"]).await;
        let watched = when_measuring(Duration::from_secs(60), Duration::from_secs(1));
        sleep(watched).await;
        let found = ours.admin.query_one(COUNT, &[]).await.expect("it counts");
        let [calls, beats, others] = [0, 1, 2].map(|at| found.get::<_, f64>(at));
        let (seconds, minutes) = (watched.as_secs_f64(), watched.as_secs_f64() / 60.0);
        println!("\nan idle process");
        println!("{:44}{:>14.2}", "statements a second", calls / seconds);
        println!("{:44}{:>14.0}", "bytes of WAL a minute, of beats", beats / minutes);
        println!("{:44}{:>14.0}", "bytes of WAL a minute, of all else", others / minutes);
        layer.tasks().shutdown(Duration::ZERO).await;
    });
}
