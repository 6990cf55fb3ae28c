//! The engine's machines on a store that fails, from many seeds.

use std::{
    env,
    panic::catch_unwind,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use tower_respond_async::testing::simulation::{self, Report};

/// How many lives are lived; `SIMULATION_SEEDS` asks for more, and `SIMULATION_SEED` for one.
const SEEDS: u64 = 1_000;

#[test]
fn the_invariants_hold_in_a_thousand_lives() {
    if let Ok(seed) = env::var("SIMULATION_SEED") {
        let report = simulation::run(seed.parse().expect("SIMULATION_SEED is a number"));
        println!("{report:?}");
        return;
    }
    let seeds =
        env::var("SIMULATION_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("SIMULATION_SEEDS is a number"));
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, Into::into);
    let reports: Vec<Report> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)))
                        .take_while(|seed| *seed < seeds)
                        .map(|seed| {
                            catch_unwind(|| simulation::run(seed))
                                .unwrap_or_else(|_| panic!("seed {seed} failed: SIMULATION_SEED={seed} shows it alone"))
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let joined = workers
            .into_iter()
            .map(|worker| worker.join().expect("a life failed: see above"));
        joined.flatten().collect()
    });

    assert_eq!(reports.len() as u64, seeds);
    // A simulation in which nothing goes wrong shows nothing.
    let sum = |figure: fn(&Report) -> u64| reports.iter().map(figure).sum::<u64>();
    for (what, total) in [
        ("tasks", sum(|r| r.tasks)),
        ("attempts", sum(|r| r.attempts)),
        ("crashes", sum(|r| r.crashes)),
        ("freezes", sum(|r| r.freezes)),
        ("shutdowns", sum(|r| r.shutdowns)),
        ("lost calls", sum(|r| r.lost_calls)),
        ("fenced settlements", sum(|r| r.fenced)),
        ("leases lost", sum(|r| r.leases_lost)),
        ("completions delivered", sum(|r| r.delivered)),
    ] {
        println!("{what}: {total}");
        assert!(
            total > seeds / 10,
            "too little happened: {total} {what} in {seeds} lives"
        );
    }
}

#[test]
fn one_seed_is_one_life() {
    for seed in 0..20 {
        assert_eq!(simulation::run(seed), simulation::run(seed));
    }
    assert_ne!(simulation::run(1).trace, simulation::run(2).trace);
}
