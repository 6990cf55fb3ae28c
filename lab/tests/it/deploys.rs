//! Two releases of an application side by side on one PostgreSQL, and records of a newer build.

use rustix::process::Signal;
use serde_json::Value;
use servers::{Postgres, a_name};
use tokio::process::Command;
use tokio_postgres::{Client, NoTls};
use tower_respond_async::TaskRecord;

use crate::{
    processes::{Cluster, built},
    support::soon,
};

const ASYNC: (&str, &str) = ("X-Fc-Invocation-Type", "Async");

/// Starts a process for each release on an empty schema. Answers with them and the schema.
async fn releases(releases: &[&str]) -> (Cluster, String) {
    let schema = a_name();
    let store = format!("{}?schema={schema}", Postgres::shared_and_durable().url_over_tcp());
    let started = releases.iter().map(|release| {
        let mut process = Command::new(built("release"));
        process.args([*release, &store]);
        process
    });
    (Cluster::of(started).await, schema)
}

/// The events of a task that was handed on to its version.
fn handed_on(task: &Value) -> Vec<&str> {
    let events = task["events"].as_array().unwrap();
    let said = events.iter().map(|event| event["eventDetail"].as_str().unwrap());
    said.filter(|said| said.starts_with("handed on")).collect()
}

#[tokio::test]
async fn what_a_new_release_accepted_ends_well_although_the_old_one_claims_it_too() {
    let (mut cluster, _) = releases(&["1", "2"]).await;
    let (old, new) = (0, 1);
    let mut tasks = Vec::new();
    for _ in 0..8 {
        tasks.push(cluster.accepted(new, "/v2").await);
    }
    soon(async {
        loop {
            for id in &tasks {
                let task = cluster.get(new, &format!("/tasks/{id}")).await.json();
                if !handed_on(&task).is_empty() {
                    return;
                }
            }
        }
    })
    .await;
    // The deploy goes on.
    cluster.processes[old].signal(Signal::TERM);
    assert_eq!(cluster.processes[old].end().await.code(), Some(0));
    let mut times = Vec::new();
    for id in &tasks {
        let task = cluster.status(new, id, "Succeeded").await;
        assert_eq!(
            (&task["statusCode"], &task["attempt"]),
            (&200.into(), &1.into()),
            "{task}"
        );
        assert_eq!(
            (&task["alreadyRetriedTimes"], &task["crashes"]),
            (&0.into(), &Value::Null)
        );
        for said in handed_on(&task) {
            let expected = "handed on, uncharged: version 1 answered 404 Not Found; version 2 accepted the task";
            assert_eq!(said, expected);
        }
        times.push(handed_on(&task).len());
    }
    println!("the old release handed them on so often: {times:?}");
}

/// A record of a newer build is first in the queue.
#[tokio::test]
async fn a_record_of_a_newer_build_blocks_no_other_task_and_runs_where_it_can_be_read() {
    let (cluster, schema) = releases(&["1", "1"]).await;
    let database = database().await;
    let delayed = cluster
        .send(0, "POST", "/v1", &[ASYNC, ("X-Fc-Async-Delay", "3599")])
        .await;
    assert_eq!(delayed.status, 202);
    let newer = delayed.id();
    let written = async |format: u8| {
        // Its time came long ago.
        let write = format!(
            "UPDATE {schema}.task SET format = {format}, record = set_byte(record, 0, {format}), run_at = created_at \
             WHERE id = '{newer}'"
        );
        assert_eq!(database.execute(&write, &[]).await.unwrap(), 1);
    };
    written(TaskRecord::FORMAT + 1).await;

    let mut others = Vec::new();
    for process in [0, 1, 0, 1, 0, 1] {
        others.push(cluster.accepted(process, "/v1").await);
    }
    for id in &others {
        let task = cluster.status(0, id, "Succeeded").await;
        assert_eq!(task["attempt"], 1);
    }
    let look = format!("SELECT state, token FROM {schema}.task WHERE id = '{newer}'");
    let row = database.query_one(&look, &[]).await.unwrap();
    let (state, token): (i16, i64) = (row.get(0), row.get(1));
    assert_eq!((state, token), (0, 0), "nobody claimed it");

    // Back in the format that these processes read, as a process of the newer build would find its own.
    written(TaskRecord::FORMAT).await;
    let task = cluster.status(1, &newer, "Succeeded").await;
    assert_eq!((&task["attempt"], &task["statusCode"]), (&1.into(), &200.into()));
}

async fn database() -> Client {
    let url = Postgres::shared_and_durable().url();
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
