//! The server to measure on: a private one that syncs to disk, or the one that `DATABASE_URL` names.

use std::{env, fs, time::Duration};

use tokio_postgres::{Client, NoTls};

/// Settings for measuring: enough memory for the data, and no checkpoints during a turn. The same for every contestant.
const SETTINGS: &str =
    "shared_buffers = 1GB\nmax_wal_size = 8GB\ncheckpoint_timeout = 30min\nautovacuum_naptime = 60\n";

/// A server that was just started listens on its ports one after another.
const TRIES: usize = 100;

pub(crate) struct Server {
    url: String,
    own: Option<servers::Postgres>,
}

impl Server {
    /// The server of `DATABASE_URL`, or a private one with these additional settings.
    pub(crate) fn start(settings: &str) -> Self {
        match env::var("DATABASE_URL") {
            Ok(url) => Self { url, own: None },
            Err(_) => {
                let own = servers::Postgres::start(&format!("{SETTINGS}{settings}"));
                Self {
                    url: own.url(),
                    own: Some(own),
                }
            }
        }
    }

    pub(crate) const fn is_own(&self) -> bool {
        self.own.is_some()
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) async fn connect(&self) -> Client {
        for _ in 0..TRIES {
            if let Ok((client, connection)) = tokio_postgres::connect(&self.url, NoTls).await {
                tokio::spawn(connection);
                return client;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server does not answer");
    }

    /// An empty schema of this name, on a server that has just run a checkpoint.
    pub(crate) async fn fresh(&self, schema: &str) -> Client {
        let client = self.connect().await;
        client
            .batch_execute(&format!("DROP SCHEMA IF EXISTS {schema} CASCADE"))
            .await
            .expect("the schema goes");
        client
    }

    /// The CPU time of its processes so far, in nanoseconds. `None` unless the server is private.
    pub(crate) async fn cpu(&self, admin: &Client) -> Option<Vec<(i32, f64)>> {
        self.own.as_ref()?;
        let processes = admin
            .query("SELECT pid FROM pg_stat_activity", &[])
            .await
            .expect("it knows its processes");
        let used = processes.iter().filter_map(|process| {
            let process: i32 = process.get(0);
            let used = fs::read_to_string(format!("/proc/{process}/schedstat")).ok()?;
            Some((process, used.split(' ').next()?.parse().ok()?))
        });
        Some(used.collect())
    }
}

/// The CPU time used between the two, by the processes that are there at the end.
pub(crate) fn used(before: &[(i32, f64)], after: &[(i32, f64)]) -> f64 {
    let was = |process: i32| {
        before
            .iter()
            .find(|(of, _)| *of == process)
            .map_or(0.0, |(_, used)| *used)
    };
    after.iter().map(|(process, used)| used - was(*process)).sum()
}
