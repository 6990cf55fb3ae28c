//! Shared by the benchmarks: rounds in turn, medians, tables, the services under test, and what they are compared with.
//!
//! A machine that does other work at the same time is slow in one second and fast in the next. So every contestant has
//! its turn in every round, a ratio is taken within a round, and the table shows the median of the rounds.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "compiled into every benchmark, and none needs all of it"
)]

pub mod by_hand;
pub mod ours;
pub mod work;

use std::{env, fmt::Write};

use tokio::runtime::{Builder, Runtime};

/// Whether to measure. Otherwise (`cargo test --benches`) a benchmark only shows that it still runs.
pub fn is_measuring() -> bool {
    env::args().any(|argument| argument == "--bench")
}

/// Whether to run `name`: all contestants run, unless words on the command line select some.
///
/// Use it to profile one of them: `cargo bench --features full --bench life -- 'Tasks::submit'`.
pub fn is_wanted(name: &str) -> bool {
    let mut words = env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    words.peek().is_none() || words.any(|word| name.contains(&word))
}

/// A runtime on two threads.
pub fn two_threads() -> Runtime {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("the operating system gives threads")
}

/// `full` when measuring, `tiny` otherwise.
pub fn when_measuring<T>(full: T, tiny: T) -> T {
    if is_measuring() { full } else { tiny }
}

/// How many rounds: enough for a median that a few disturbed rounds do not move.
pub fn rounds() -> usize {
    when_measuring(11, 1)
}

/// One of the compared implementations.
pub struct Contestant<'a> {
    pub name: &'static str,
    /// Does its share, and answers with the nanoseconds for one, for each of the table's columns.
    pub turn: Box<dyn FnMut() -> Vec<f64> + 'a>,
}

impl<'a> Contestant<'a> {
    pub fn new(name: &'static str, turn: impl FnMut() -> Vec<f64> + 'a) -> Self {
        Self {
            name,
            turn: Box::new(turn),
        }
    }
}

/// Runs one warm-up round and some measured rounds, in turn, and prints the medians and the ratios to `floor`.
///
/// Each contestant's figures are its columns, then those columns divided by the floor's of the same round.
pub fn compare(title: &str, columns: &[&str], floor: &str, contestants: Vec<Contestant<'_>>) {
    compare_to(title, columns, &[(floor, "ratio")], contestants);
}

/// The same with ratios to several floors, each with its own heading.
pub fn compare_to(title: &str, columns: &[&str], floors: &[(&str, &str)], mut contestants: Vec<Contestant<'_>>) {
    contestants.retain(|contestant| is_wanted(contestant.name));
    let mut figures = vec![Vec::new(); contestants.len()];
    for round in 0..=rounds() {
        for (contestant, figures) in contestants.iter_mut().zip(&mut figures) {
            let figure = (contestant.turn)();
            // The first round warms caches, the allocator and the store.
            if round > 0 || !is_measuring() {
                figures.push(figure);
            }
        }
    }
    // A contestant that runs alone is compared with itself.
    let of = |name: &str| contestants.iter().position(|contestant| contestant.name == name);
    let floors: Vec<_> = floors
        .iter()
        .filter_map(|(name, heading)| Some((*heading, figures.get(of(name).unwrap_or(0))?)))
        .collect();

    let mut out = format!("\n{title}\n{:44}", "");
    for column in columns {
        let _ = write!(out, "{column:>14}");
        for (heading, _) in &floors {
            let _ = write!(out, "{heading:>8}");
        }
    }
    for (contestant, mine) in contestants.iter().zip(&figures) {
        let _ = write!(out, "\n{:44}", contestant.name);
        for column in 0..columns.len() {
            let _ = write!(out, "{:>14.1}", median(mine.iter().map(|figure| figure[column])));
            for (_, floor) in &floors {
                let ratios = mine
                    .iter()
                    .zip(*floor)
                    .map(|(mine, floor)| mine[column] / floor[column]);
                let _ = write!(out, "{:>8.2}", median(ratios));
            }
        }
    }
    println!("{out}");
}

/// The median.
pub fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
