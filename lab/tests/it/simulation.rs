//! Lives of the engine on stores that fail, from many seeds.

use std::{
    env,
    panic::catch_unwind,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use lab::simulation::{self, Report};

/// How many lives are lived on the memory store, and how many on the embedded one and on a server, whose lives take longer.
/// `SIMULATION_SEEDS` asks for more of each, `SIMULATION_SEED` for one.
const SEEDS: u64 = 80;
const SEEDS_ON_REDB: u64 = 8;
const SEEDS_ON_POSTGRES: u64 = 16;

/// The lives of many seeds, on all cores.
fn lives(seeds: u64, run: fn(u64) -> Report, test: &str) -> Vec<Report> {
    let number = |name| {
        env::var(name)
            .ok()
            .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    if let Some(seed) = number("SIMULATION_SEED") {
        return vec![run(seed)];
    }
    let seeds = number("SIMULATION_SEEDS").unwrap_or(seeds);
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, Into::into);
    let live = || {
        std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)))
            .take_while(|seed| *seed < seeds)
            .map(|seed| {
                catch_unwind(|| run(seed)).unwrap_or_else(|_| {
                    let again = format!("SIMULATION_SEED={seed} cargo test -p lab --test it {test}");
                    panic!("seed {seed} failed; to see it alone: {again}")
                })
            })
            .collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(live)).collect();
        let joined = workers
            .into_iter()
            .map(|worker| worker.join().expect("a life failed: see above"));
        joined.flatten().collect()
    })
}

/// One figure of a report, and what it is called.
type Figure = (&'static str, fn(&Report) -> u64);

/// A simulation in which nothing goes wrong shows nothing.
fn enough_happened(reports: &[Report], figures: &[Figure]) {
    for (what, figure) in figures {
        let total: u64 = reports.iter().map(figure).sum();
        println!("{what}: {total}");
        // One life may be a quiet one.
        assert!(
            reports.len() == 1 || total > reports.len() as u64 / 10,
            "too little happened: {total} {what} in {} lives",
            reports.len()
        );
    }
}

/// What happens in every few lives on a store that several processes share.
const OFTEN: &[Figure] = &[
    ("tasks", |r| r.tasks),
    ("attempts", |r| r.attempts),
    ("crashes", |r| r.crashes),
    ("freezes", |r| r.freezes),
    ("shutdowns", |r| r.shutdowns),
    ("calls that failed", |r| r.failed_calls),
    ("calls that were overtaken", |r| r.held_calls),
    ("commits of many calls", |r| r.commits_of_many),
    ("orders sent again", |r| r.sent_again),
    ("lost claims that were found", |r| r.taken_up),
    ("completions delivered", |r| r.delivered),
    ("changes that came too late", |r| r.stale_changes),
    ("ends that somebody waited for", |r| r.watched),
];

/// What happens in many.
const RARELY: &[Figure] = &[
    ("kills", |r| r.kills),
    ("pauses", |r| r.pauses),
    ("clock jumps", |r| r.clock_jumps),
    ("commits that failed as one", |r| r.failed_together),
    ("fenced settlements", |r| r.fenced),
    ("leases lost", |r| r.leases_lost),
    ("completions told again", |r| r.redelivered),
    ("completions given up", |r| r.given_up),
];

#[test]
fn the_invariants_hold_in_many_lives() {
    let reports = lives(SEEDS, simulation::run, "the_invariants_hold_in_many_lives");
    enough_happened(&reports, OFTEN);
    enough_happened(&reports, RARELY);
}

#[test]
fn the_invariants_hold_on_a_server() {
    let reports = lives(
        SEEDS_ON_POSTGRES,
        simulation::run_on_postgres,
        "the_invariants_hold_on_a_server",
    );
    enough_happened(&reports, OFTEN);
    enough_happened(&reports, &[("completions told again", |r| r.redelivered)]);
}

#[test]
fn the_invariants_hold_on_a_file_whose_process_dies() {
    let reports = lives(
        SEEDS_ON_REDB,
        simulation::run_on_redb,
        "the_invariants_hold_on_a_file_whose_process_dies",
    );
    enough_happened(
        &reports,
        &[
            ("tasks", |r| r.tasks),
            ("attempts", |r| r.attempts),
            ("crashes", |r| r.crashes),
            ("power cuts amid a write", |r| r.power_cuts),
            ("shutdowns", |r| r.shutdowns),
            ("clock jumps", |r| r.clock_jumps),
            ("completions delivered", |r| r.delivered),
            ("completions given up", |r| r.given_up),
        ],
    );
}

#[test]
fn one_seed_is_one_life() {
    for seed in 0..4 {
        assert_eq!(simulation::run(seed), simulation::run(seed));
    }
    assert_ne!(simulation::run(1).trace, simulation::run(2).trace);
}

#[test]
fn one_seed_is_one_life_on_a_file_too() {
    for seed in 0..2 {
        assert_eq!(simulation::run_on_redb(seed), simulation::run_on_redb(seed));
    }
}
