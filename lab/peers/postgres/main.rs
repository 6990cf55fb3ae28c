//! Compares the store in PostgreSQL with other queues on PostgreSQL: the same job, in the same run.
//!
//! The floors, our store and our engine are those of `lab/benches/postgres`, which describes the measurement.
//! apalis-postgres and graphile_worker run with their fastest settings: a pool of as many connections as they can use,
//! batches of a hundred where there are batches, and a handler that does nothing. They keep less of a job:
//! graphile_worker removes it after it has run, and neither keeps a response's headers, a history, or who may see the
//! job.
//!
//! ```text
//! cargo bench --manifest-path lab/peers/Cargo.toml
//! cargo bench --manifest-path lab/peers/Cargo.toml -- drain
//! ```

mod apalis;
#[path = "../../benches/postgres/floor.rs"]
#[allow(dead_code, reason = "compiled into the other bench as well, which needs all of it")]
mod floor;
mod graphile;
#[path = "../../benches/postgres/ours.rs"]
#[allow(dead_code, reason = "the same")]
mod ours;
#[path = "../../benches/postgres/server.rs"]
#[allow(dead_code, reason = "the same")]
mod server;
#[path = "../../../benches/support/mod.rs"]
mod support;
#[path = "../../benches/postgres/turn.rs"]
#[allow(dead_code, reason = "the same")]
mod turn;

use tokio::runtime::Runtime;

use crate::{
    apalis::Apalis,
    floor::Floor,
    graphile::Graphile,
    ours::Ours,
    server::Server,
    support::{Contestant, compare_to, is_wanted, when_measuring},
    turn::COLUMNS,
};

fn main() {
    let runtime = support::two_threads();
    let server = Server::start("");
    type Case = fn(&Runtime, &Server);
    for (name, run) in [("accepts", accepts as Case), ("lives", lives), ("drain", drain)] {
        if is_wanted(name) {
            run(&runtime, &server);
        }
    }
}

fn accepts(runtime: &Runtime, server: &Server) {
    let each = when_measuring(20, 2);
    let (floor, ours, apalis, graphile) = everybody(runtime, server, "accepts", 1);
    let floors = [("accepts: by hand", "by hand"), ("accepts: apalis", "apalis")];
    let contestants = vec![
        Contestant::new(floors[0].0, || runtime.block_on(floor.accepts(64, each))),
        Contestant::new(floors[1].0, || runtime.block_on(apalis.accepts(64, each))),
        Contestant::new("accepts: graphile_worker", || {
            runtime.block_on(graphile.accepts(64, each))
        }),
        Contestant::new("accepts: PostgresStore", || {
            runtime.block_on(ours.accepts(64, each, false))
        }),
        Contestant::new("accepts: engine", || runtime.block_on(ours.submissions(64, each))),
    ];
    compare_to("64 at once store tasks", &COLUMNS, &floors, contestants);
}

fn lives(runtime: &Runtime, server: &Server) {
    let each = when_measuring(20, 2);
    let (floor, ours, apalis, graphile) = everybody(runtime, server, "lives", 1);
    let floors = [("lives: by hand", "by hand"), ("lives: apalis", "apalis")];
    let contestants = vec![
        Contestant::new(floors[0].0, || runtime.block_on(floor.lives(64, each))),
        Contestant::new(floors[1].0, || runtime.block_on(apalis.lives(64, each))),
        Contestant::new("lives: graphile_worker", || runtime.block_on(graphile.lives(64, each))),
        Contestant::new("lives: PostgresStore", || runtime.block_on(ours.lives(64, each))),
        Contestant::new("lives: engine", || runtime.block_on(ours.engine_lives(64, each))),
    ];
    compare_to("64 at once store tasks, which are run", &COLUMNS, &floors, contestants);
}

fn drain(runtime: &Runtime, server: &Server) {
    let count = when_measuring(5_000, 300);
    let (floor, ours, apalis, graphile) = everybody(runtime, server, "drain", 4);
    let floors = [("drain: by hand", "by hand"), ("drain: graphile_worker", "graphile")];
    let contestants = vec![
        Contestant::new(floors[0].0, || runtime.block_on(floor.drain(count, 4))),
        Contestant::new("drain: apalis", || runtime.block_on(apalis.drain(count, 4))),
        Contestant::new(floors[1].0, || runtime.block_on(graphile.drain(count, 4))),
        Contestant::new("drain: PostgresStore", || runtime.block_on(ours.drain(count))),
        Contestant::new("drain: engine", || runtime.block_on(ours.engine_drain(count))),
    ];
    compare_to(
        "tasks that wait are taken by four, and ended",
        &COLUMNS,
        &floors,
        contestants,
    );
}

fn everybody<'a>(
    runtime: &Runtime,
    server: &'a Server,
    name: &str,
    handles: usize,
) -> (Floor<'a>, Ours<'a>, Apalis<'a>, Graphile<'a>) {
    runtime.block_on(async {
        (
            Floor::new(server).await,
            Ours::new(server, name, handles).await,
            Apalis::new(server).await,
            Graphile::new(server).await,
        )
    })
}
