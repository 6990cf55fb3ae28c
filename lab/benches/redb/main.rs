//! What does the embedded store cost beside redb itself, and what does it cost when much is kept?
//!
//! Without a word, accepts and lives from 1, 64 and 256 submitters at once: what one takes, and the latency that half
//! and 99 of 100 of them stay below. The floors are one thread that writes [by hand](floor), and commits for all who
//! wait. An accept is a task of 1 KiB stored in the queue; a life is one born claimed, and settled
//! with an answer of 1 KiB.
//!
//! | word | measures | takes |
//! |---|---|---|
//! | none | accepts and lives beside the floors | 2 minutes |
//! | `growth` | the same store with 10 thousand and a million ended tasks, and with 1 and 100 thousand in the queue | 3 minutes, several GB of disk |
//! | `memory` | memory per waiting task, in both stores | half a minute |
//! | `reopen` | how long a file takes to open that a killed process left | 1 minute, 10 GB of disk |
//!
//! Targets: accepting at most 1 / 0.85 of the floor with the same tables at 64, a life at most 1 / 0.6 at 256; at most
//! 1.3 times as much with a million ended tasks as with 10 thousand, and 1.5 times with 100 thousand waiting; memory for
//! a waiting task at most its body and 1 KiB.
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
