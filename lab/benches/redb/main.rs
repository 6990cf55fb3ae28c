//! Compares the embedded store with redb itself, and measures it when many tasks are kept.
//!
//! Without a word, it measures accepts and lives by 1, 64 and 256 submitters at once: the time for one, and the latency
//! of the median and of the 99th of 100. The floors are [written by hand](floor): one thread that writes, and commits
//! for all that wait. An accept stores a task of 1 KiB in the queue. A life is a task stored claimed, and settled with
//! a response of 1 KiB.
//!
//! | word | measures | takes |
//! |---|---|---|
//! | none | accepts and lives beside the floors | 2 minutes |
//! | `growth` | 10 thousand and a million ended tasks, 1 and 100 thousand waiting | 3 minutes, several GB of disk |
//! | `memory` | memory per waiting task, in both stores | half a minute |
//! | `reopen` | how long it takes to open a file that a killed process left | 1 minute, 10 GB of disk |
//!
//! Targets: accepting at most 1 / 0.85 of the floor with the same tables at 64, a life at most 1 / 0.6 at 256; at most
//! 1.3 times as much with a million ended tasks as with 10 thousand, and 1.5 times with 100 thousand waiting; memory
//! for a waiting task at most its body and 1 KiB.
//!
//! ```text
//! cargo bench -p lab --bench redb
//! cargo bench -p lab --bench redb -- growth
//! ```

mod at_once;
mod file;
mod floor;
mod growth;
mod memory;
mod ours;
mod reopen;
#[path = "../../../benches/support/mod.rs"]
mod support;

use std::env;

use tower_respond_async_redb::QuickRepair;

use crate::{
    at_once::{Figures, Work},
    support::{Contestant, compare, when_measuring},
};

fn main() {
    let runtime = support::two_threads();
    let word = |word: &str| env::args().any(|argument| argument == word);
    match () {
        () if word("growth") => growth::run(&runtime),
        () if word("memory") => memory::run(&runtime),
        () if word("reopen") => reopen::run(&runtime),
        () => {
            rates(&runtime);
            // A short run of the others shows that they still work.
            if !support::is_measuring() {
                growth::run(&runtime);
                memory::run(&runtime);
                reopen::run(&runtime);
            }
        }
    }
}

fn rates(runtime: &tokio::runtime::Runtime) {
    for (work, submitters, each) in [
        (Work::Accept, 1, 400),
        (Work::Accept, 64, 200),
        (Work::Accept, 256, 50),
        (Work::Life, 1, 200),
        (Work::Life, 64, 100),
        (Work::Life, 256, 50),
    ] {
        let each = when_measuring(each, 2);
        let hand = |form| move || Figures::columns(floor::turn(runtime, form, work, submitters, each));
        let ours = |when| move || Figures::columns(ours::turn(runtime, when, work, submitters, each));
        let contestants = vec![
            Contestant::new(SAME_TABLES, hand(floor::Form::SameTables)),
            Contestant::new("the same, patient, by hand", hand(floor::Form::SameTablesPatient)),
            Contestant::new("one table, by hand", hand(floor::Form::OneTable)),
            Contestant::new("appended to a file, synced, by hand", hand(floor::Form::File)),
            Contestant::new("RedbStore", ours(QuickRepair::WhenIdle)),
            Contestant::new("always ready to be opened at once", ours(QuickRepair::Always)),
        ];
        let title = format!("{work:?}, {submitters} at once; ns");
        compare(&title, &Figures::COLUMNS, SAME_TABLES, contestants);
    }
}

const SAME_TABLES: &str = "the same tables, by hand";
