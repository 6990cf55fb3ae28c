//! The floors: code written by hand that only stores the bodies, tracks what waits, and records ends.
//!
//! There is one table with the body in the row, and one index over what waits. Many submitters send to one writer,
//! which puts everything that arrived during its last statement into the next one, with `unnest`. There are no
//! versions, tokens, leases, counters, keys or lists, and nothing is checked.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{mpsc, oneshot};
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use crate::{
    server::Server,
    support::work::PAYLOAD,
    turn::{Stopwatch, at_once, checkpoint, id},
};

const TABLE: &str = "DROP SCHEMA IF EXISTS bench_floor CASCADE; CREATE SCHEMA bench_floor;
CREATE TABLE bench_floor.task (
  nth bigint GENERATED ALWAYS AS IDENTITY, id uuid PRIMARY KEY, state smallint NOT NULL DEFAULT 0,
  created_at timestamptz NOT NULL DEFAULT now(), taken_at timestamptz, body bytea NOT NULL, answer bytea);
CREATE INDEX waits ON bench_floor.task (nth) WHERE state = 0;";

const ONE: &str = "INSERT INTO bench_floor.task (id, body) VALUES ($1, $2)";
const MANY: &str = "INSERT INTO bench_floor.task (id, body) SELECT * FROM unnest($1::uuid[], $2::bytea[])";
const TAKEN: &str = "INSERT INTO bench_floor.task (id, state, taken_at, body) \
    SELECT id, 1, now(), body FROM unnest($1::uuid[], $2::bytea[]) AS s(id, body)";
const CLAIM: &str = "UPDATE bench_floor.task SET state = 1, taken_at = now() WHERE id = ANY (ARRAY( \
    SELECT id FROM bench_floor.task WHERE state = 0 ORDER BY nth LIMIT $1 FOR UPDATE SKIP LOCKED)) RETURNING id, body";
const END: &str = "UPDATE bench_floor.task SET state = 2, answer = 'ok' WHERE id = ANY ($1::uuid[]) AND state = 1";

/// How many rows one statement has at most.
const MOST: usize = 1000;

enum Asked {
    Insert(Uuid, oneshot::Sender<()>),
    End(Uuid),
}

pub(crate) struct Floor<'a> {
    server: &'a Server,
    admin: Client,
}

impl<'a> Floor<'a> {
    pub(crate) async fn new(server: &'a Server) -> Self {
        let admin = server.connect().await;
        Self { server, admin }
    }

    /// Empties the table, and runs a checkpoint.
    async fn clear(&self) {
        for statement in [TABLE, checkpoint()] {
            self.admin.batch_execute(statement).await.expect("it is done");
        }
    }

    async fn prepared(&self, statement: &str) -> (Client, Statement) {
        let client = self.server.connect().await;
        let statement = client.prepare(statement).await.expect("it is a statement");
        (client, statement)
    }

    pub(crate) async fn accepts(&self, submitters: usize, each: usize) -> Vec<f64> {
        self.written(submitters, each, false).await
    }

    /// Rows inserted as claimed, and ended. Nothing waits for the end.
    pub(crate) async fn lives(&self, submitters: usize, each: usize) -> Vec<f64> {
        self.written(submitters, each, true).await
    }

    async fn written(&self, submitters: usize, each: usize, ends: bool) -> Vec<f64> {
        self.clear().await;
        let (client, insert) = self.prepared(if ends { TAKEN } else { MANY }).await;
        let end = client.prepare(END).await.expect("it is a statement");
        let watch = Stopwatch::start(self.server, &self.admin).await;
        let (queue, asked) = mpsc::unbounded_channel();
        let writer = tokio::spawn(write(client, insert, end, asked));
        at_once(submitters, each, move || {
            let queue = queue.clone();
            async move {
                let (reply, done) = oneshot::channel();
                let id = Uuid::from_bytes(*id().as_bytes());
                assert!(queue.send(Asked::Insert(id, reply)).is_ok(), "the writer lives");
                done.await.expect("it is stored");
                if ends {
                    assert!(queue.send(Asked::End(id)).is_ok(), "the writer lives");
                }
            }
        })
        .await;
        // The connection must stay until the CPU time of its server process is read.
        let _client = writer.await.expect("the writer ends");
        watch.stop(submitters * each).await
    }

    /// Many rows wait. Each connection takes a hundred at a time, and ends them.
    pub(crate) async fn drain(&self, count: usize, connections: usize) -> Vec<f64> {
        self.clear().await;
        let (client, insert) = self.prepared(MANY).await;
        for _ in 0..count.div_ceil(MOST) {
            let ids: Vec<Uuid> = (0..count.min(MOST))
                .map(|_| Uuid::from_bytes(*id().as_bytes()))
                .collect();
            insert_all(&client, &insert, &ids).await;
        }
        let settle = "VACUUM ANALYZE bench_floor.task";
        for statement in [settle, checkpoint()] {
            self.admin.batch_execute(statement).await.expect("it is done");
        }
        let ended = Arc::new(AtomicUsize::new(0));
        let mut ready = Vec::new();
        for _ in 0..connections {
            let (client, claim) = self.prepared(CLAIM).await;
            let end = client.prepare(END).await.expect("it is a statement");
            ready.push((client, claim, end));
        }
        let watch = Stopwatch::start(self.server, &self.admin).await;
        let workers = ready.into_iter().map(|(client, claim, end)| {
            let ended = ended.clone();
            tokio::spawn(async move {
                loop {
                    let taken = client.query(&claim, &[&100_i64]).await.expect("claim");
                    if taken.is_empty() {
                        return client;
                    }
                    let ids: Vec<Uuid> = taken.iter().map(|row| row.get(0)).collect();
                    let bytes: usize = taken.iter().map(|row| row.get::<_, &[u8]>(1).len()).sum();
                    assert_eq!(bytes, PAYLOAD * ids.len());
                    let done = client.execute(&end, &[&ids]).await.expect("end");
                    assert_eq!(done, ids.len() as u64);
                    ended.fetch_add(ids.len(), Ordering::Relaxed);
                }
            })
        });
        let mut clients = Vec::new();
        for worker in workers.collect::<Vec<_>>() {
            clients.push(worker.await.expect("it ends"));
        }
        assert!(ended.load(Ordering::Relaxed) >= count, "all are ended");
        watch.stop(count).await
    }

    /// Inserts one row per statement. Answers with the time of each, in microseconds.
    pub(crate) async fn writes(&self, count: usize) -> Vec<f64> {
        self.clear().await;
        let (client, insert) = self.prepared(ONE).await;
        let body = vec![b'x'; PAYLOAD];
        let mut taken = Vec::with_capacity(count);
        for _ in 0..count {
            let id = Uuid::from_bytes(*id().as_bytes());
            let start = std::time::Instant::now();
            client.execute(&insert, &[&id, &body]).await.expect("insert");
            taken.push(start.elapsed().as_secs_f64() * 1e6);
            // The same pause as in the engine's turn: a disk and a core that rested answer more slowly.
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
        taken
    }
}

async fn insert_all(client: &Client, insert: &Statement, ids: &[Uuid]) {
    let body = [b'x'; PAYLOAD];
    let bodies: Vec<&[u8]> = ids.iter().map(|_| &body[..]).collect();
    let stored = client.execute(insert, &[&ids, &bodies]).await.expect("insert");
    assert_eq!(stored, ids.len() as u64);
}

async fn write(client: Client, insert: Statement, end: Statement, mut asked: mpsc::UnboundedReceiver<Asked>) -> Client {
    let mut together = Vec::new();
    while asked.recv_many(&mut together, MOST).await > 0 {
        let (mut ids, mut replies, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        for asked in together.drain(..) {
            match asked {
                Asked::Insert(id, reply) => {
                    ids.push(id);
                    replies.push(reply);
                }
                Asked::End(id) => ended.push(id),
            }
        }
        // Polled together, they are sent together.
        let inserting = async {
            if !ids.is_empty() {
                insert_all(&client, &insert, &ids).await;
            }
        };
        let ending = async {
            if !ended.is_empty() {
                let done = client.execute(&end, &[&ended]).await.expect("end");
                assert_eq!(done, ended.len() as u64);
            }
        };
        tokio::join!(inserting, ending);
        for reply in replies {
            let _ = reply.send(());
        }
    }
    client
}
