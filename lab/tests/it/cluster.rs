//! The example `cluster` shows what it promises, and leaves nothing behind.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use servers::{Postgres, a_name};
use tokio::{process::Command, time::timeout};

use crate::processes::built;

/// Runs the program to its end. Answers with its output.
async fn shown(program: &mut Command) -> String {
    let program = program.arg("--once").kill_on_drop(true).output();
    let output = timeout(Duration::from_secs(300), program).await.unwrap().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    println!("{said}");
    said
}

#[tokio::test]
async fn tasks_of_the_process_that_the_cluster_kills_end_elsewhere() {
    // The example's server runs as another user.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut program = Command::new(built("cluster"));
    let said = shown(program.env("TMPDIR", folder.path()).env_remove("DATABASE_URL")).await;
    // The round robin decides how many of the six tasks the killed process ran.
    let first = said.lines().find(|line| line.starts_with("task 0 runs in ")).unwrap();
    let was_killed = said.matches(&first["task 0 ".len()..]).count();
    assert_eq!(said.matches("with attempt 2\n").count(), was_killed, "{said}");
    assert_eq!(said.matches("with attempt 1\n").count(), 6 - was_killed, "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "its server is gone");
}

#[tokio::test]
async fn the_cluster_takes_a_server_that_is_there() {
    let url = format!("{}?schema={}", Postgres::shared_and_durable().url_over_tcp(), a_name());
    let said = shown(Command::new(built("cluster")).env("DATABASE_URL", url)).await;
    assert!(said.ends_with("all 6 have ended\n"), "{said}");
}
