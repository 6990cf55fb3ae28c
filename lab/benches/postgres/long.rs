//! Claims while another session keeps a transaction open, which prevents the removal of dead rows.
//!
//! Tasks arrive at an even pace, are claimed, settled, and removed a minute later. In the second third of the run the
//! other transaction is open.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{runtime::Runtime, time::sleep};
use tower_respond_async::{
    store::{Claim, Insert, Ledger, Retention},
    task::WorkerId,
};

use crate::{
    ours::{LEASE, Ours, request, success, task},
    server::Server,
    support::when_measuring,
    turn::share,
};

const A_SECOND: usize = 2_000;
const TICK: Duration = Duration::from_millis(10);

pub(crate) fn run(runtime: &Runtime, server: &Server) {
    let minutes = env::var("LONG_MINUTES").ok();
    let minutes = minutes.map_or(30.0, |minutes| minutes.parse().expect("LONG_MINUTES is a number"));
    let third = when_measuring(Duration::from_secs_f64(minutes * 20.0), Duration::from_millis(500));
    runtime.block_on(async {
        let ours = Ours::new(server, "long", 1).await;
        ours.clear().await;
        let (ledger, stop) = (ours.ledger(), Arc::new(AtomicBool::new(false)));
        let began = Instant::now();
        let accepting = tokio::spawn(accept(ledger.clone(), stop.clone()));
        let pruning = tokio::spawn(prune(ledger.clone(), third.min(Duration::from_secs(60)), stop.clone()));
        let ended = Arc::new(AtomicUsize::new(0));
        let claiming = tokio::spawn(claim(ledger, ended.clone(), stop.clone()));

        sleep(third).await;
        let reader = server.connect().await;
        let read = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class";
        reader.batch_execute(read).await.expect("it begins");
        sleep(third).await;
        let dead = dead(&ours).await;
        reader.batch_execute("COMMIT").await.expect("it ends");
        sleep(third).await;
        stop.store(true, Ordering::Relaxed);
        let claims = claiming.await.expect("it ends");
        let accepted = accepting.await.expect("it ends");
        pruning.await.expect("it ends");

        let lives = ended.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
        println!(
            "\n{:.1} minutes, {lives:.0} lives a second, {accepted} tasks",
            third.as_secs_f64() / 20.0
        );
        println!("{:44}{:>14}{:>14}{:>14}", "claims, ms", "median", "99th", "ratio");
        // Leaves out the warm-up, and the first two minutes after the transaction (in a short run, half of the last
        // third).
        let after = third * 2 + (third / 2).min(Duration::from_secs(120));
        let mut floor = None;
        for (name, from, to) in [
            ("before", third / 4, third),
            ("with a transaction open", third, third * 2),
            ("after", after, third * 3),
        ] {
            let within = |at: &&(Instant, f64)| (from..to).contains(&at.0.duration_since(began));
            let mut taken: Vec<f64> = claims.iter().filter(within).map(|(_, taken)| *taken).collect();
            if taken.is_empty() {
                continue;
            }
            let last = share(&mut taken, 99);
            let floor = *floor.get_or_insert(last);
            println!(
                "{name:44}{:>14.2}{last:>14.2}{:>14.2}",
                share(&mut taken, 50),
                last / floor
            );
        }
        println!(
            "dead rows while it was open: {dead}, at the end: {}",
            self::dead(&ours).await
        );
    });
}

async fn dead(ours: &Ours<'_>) -> i64 {
    let count = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'task' AND schemaname = 'bench_long'";
    ours.admin.query_one(count, &[]).await.expect("it counts").get(0)
}

async fn accept(ledger: Ledger, stop: Arc<AtomicBool>) -> usize {
    let (request, mut ticks, mut accepted) = (request(), tokio::time::interval(TICK), 0);
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        for _ in 0..A_SECOND / 100 {
            let (ledger, task) = (ledger.clone(), task(&request, false));
            tokio::spawn(async move { ledger.insert(Insert::new(task)).await.expect("insert") });
            accepted += 1;
        }
    }
    accepted
}

/// The time of each claim, in milliseconds, and when it was made.
async fn claim(ledger: Ledger, ended: Arc<AtomicUsize>, stop: Arc<AtomicBool>) -> Vec<(Instant, f64)> {
    let (worker, outcome, mut taken) = (WorkerId::new("bench", 1), success(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let claimed = ledger
            .claim(Claim::new(worker.clone(), 64, LEASE))
            .await
            .expect("claim");
        taken.push((began, began.elapsed().as_secs_f64() * 1e3));
        for claimed in claimed.tasks {
            let (ledger, outcome, ended) = (ledger.clone(), outcome.clone(), ended.clone());
            tokio::spawn(async move {
                let _ = ledger.settle(&claimed.held, &outcome).await.expect("settle");
                ended.fetch_add(1, Ordering::Relaxed);
            });
        }
        sleep(TICK).await;
    }
    taken
}

async fn prune(ledger: Ledger, kept: Duration, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let pruned = ledger.prune(Retention::new(kept, kept), 1000).await.expect("prune");
        if pruned.tasks < 1000 {
            sleep(Duration::from_millis(200)).await;
        }
    }
}
