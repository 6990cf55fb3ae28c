//! Clients that send requests while processes are killed, and record the answers.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use fastrand::Rng;
use http::{Method, Request, StatusCode};
use tokio::{sync::watch, time::sleep};
use tower_respond_async::RequestId;

use super::{
    app::Work,
    client::{Client, Reply, request},
    findings::{Check, Violation},
};

/// How long a client repeats a request that gets no answer. It is shorter than the retention of ended tasks, after
/// which the task's name would be free for another task.
const REPEATS_FOR: Duration = Duration::from_secs(2);

/// The answers that clients received, by nonce. Each request has its own nonce, which repeats keep.
#[derive(Debug, Default)]
pub struct Ledger {
    pub entries: BTreeMap<String, Entry>,
    pub violations: Vec<Violation>,
}

/// The answers that one client received about one task.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// The request id in the 202, if there was one.
    pub accepted: Option<RequestId>,
    /// How often the request was sent without an answer.
    pub unanswered: u32,
    /// The generation whose stop the API acknowledged.
    pub stopped: Option<u32>,
    /// The generation that an acknowledged re-run began.
    pub rerun: Option<u32>,
}

/// The addresses of the processes that serve now. Requests go to each in turn.
pub type Door = watch::Receiver<Vec<SocketAddr>>;

/// The state that all clients of a round share.
#[derive(Clone, Debug)]
pub struct Round {
    /// Part of every nonce, so that nonces of different rounds differ.
    name: String,
    pub client: Client,
    door: Door,
    turn: Arc<AtomicUsize>,
    ledger: Arc<Mutex<Ledger>>,
    /// Whether clients must send nothing new.
    pub last_orders: Arc<AtomicBool>,
}

impl Round {
    pub fn new(name: String, client: Client, door: Door) -> Self {
        Self {
            name,
            client,
            door,
            turn: Arc::default(),
            ledger: Arc::default(),
            last_orders: Arc::default(),
        }
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one task after another until `last_orders` is set.
    pub async fn ask(mut self, number: u32, mut random: Rng) {
        // Earlier tasks, most of which have ended.
        let mut ended: VecDeque<(String, RequestId)> = VecDeque::new();
        for count in 0_u32.. {
            // The pause spreads the load, so that kills meet every step of a task's life.
            sleep(Duration::from_millis(random.u64(0..15))).await;
            if self.last_orders.load(Ordering::SeqCst) {
                return;
            }
            let nonce = format!("r{}-{number}-{count}", self.name);
            let task = task(&nonce, &mut random);
            let patient = random.u8(0..8) > 0;
            let Some(id) = self.place(&nonce, &task, patient).await else {
                continue;
            };
            match random.u8(0..12) {
                0 => self.place_again(&nonce, &task).await,
                1 => self.stop(&nonce, id).await,
                2 if ended.len() > 10 => {
                    if let Some((nonce, id)) = ended.pop_front() {
                        self.rerun(&nonce, id).await;
                    }
                }
                _ => ended.push_back((nonce, id)),
            }
        }
    }

    /// Sends a task, and repeats it without an answer if `patient`. Answers with its request id if it was accepted.
    async fn place(&mut self, nonce: &str, task: &Request<Bytes>, patient: bool) -> Option<RequestId> {
        self.ledger().entries.insert(nonce.to_owned(), Entry::default());
        let since = Instant::now();
        while since.elapsed() < REPEATS_FOR {
            match self.send(task).await {
                Some(reply) if reply.status == StatusCode::ACCEPTED => return self.accepted(nonce, &reply),
                // The process shuts down and has not stored the task, or the store could not say whether it has.
                Some(reply) if reply.status == StatusCode::SERVICE_UNAVAILABLE => {}
                Some(reply) => {
                    self.unexpected(nonce, "a task", &reply);
                    return None;
                }
                None => {
                    self.entry(nonce, |entry| entry.unanswered += 1);
                    if !patient {
                        return None;
                    }
                }
            }
            sleep(Duration::from_millis(3)).await;
        }
        None
    }

    /// Sends an accepted task once more. The answer must name the same task.
    async fn place_again(&mut self, nonce: &str, task: &Request<Bytes>) {
        match self.send(task).await {
            Some(reply) if reply.status == StatusCode::ACCEPTED => _ = self.accepted(nonce, &reply),
            Some(reply) if reply.status != StatusCode::SERVICE_UNAVAILABLE => {
                self.unexpected(nonce, "a task sent again", &reply);
            }
            _ => {}
        }
    }

    async fn stop(&mut self, nonce: &str, id: RequestId) {
        match self.send(&request(Method::POST, &format!("/tasks/{id}/stop"))).await {
            Some(reply) if reply.status.is_success() => {
                let generation = generation(&reply);
                self.entry(nonce, |entry| entry.stopped = generation);
            }
            // The task has ended, or was pruned, or the process shuts down.
            Some(reply) if ![409, 404, 503].contains(&reply.status.as_u16()) => {
                self.unexpected(nonce, "a stop", &reply);
            }
            _ => {}
        }
    }

    async fn rerun(&mut self, nonce: &str, id: RequestId) {
        match self.send(&request(Method::POST, &format!("/tasks/{id}/retry"))).await {
            Some(reply) if reply.status == StatusCode::ACCEPTED => {
                let generation = generation(&reply);
                self.entry(nonce, |entry| entry.rerun = generation);
            }
            // The task has not ended yet, or was pruned, or the process shuts down.
            Some(reply) if ![409, 404, 503].contains(&reply.status.as_u16()) => {
                self.unexpected(nonce, "a re-run", &reply);
            }
            _ => {}
        }
    }

    /// Sends a request to the next process, as soon as there is one. `None` if no answer came.
    async fn send(&mut self, request: &Request<Bytes>) -> Option<Reply> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let to = {
            let open = self.door.wait_for(|open| !open.is_empty()).await.ok()?;
            open[turn % open.len()]
        };
        self.client.send(to, request).await.ok()
    }

    fn accepted(&self, nonce: &str, reply: &Reply) -> Option<RequestId> {
        let id = reply.headers.get("x-fc-request-id")?.to_str().ok()?.parse().ok()?;
        let mut before = None;
        self.entry(nonce, |entry| before = entry.accepted.replace(id));
        if let Some(before) = before.filter(|before| *before != id) {
            self.violated(
                Check::Twice,
                format!("{nonce} was accepted as {before}, and sent again as {id}"),
            );
        }
        Some(id)
    }

    fn unexpected(&self, nonce: &str, what: &str, reply: &Reply) {
        let body = String::from_utf8_lossy(&reply.body);
        self.violated(
            Check::Answer,
            format!("{nonce}: {what} was answered with {}: {body}", reply.status),
        );
    }

    fn violated(&self, check: Check, what: String) {
        self.ledger().violations.push(Violation { check, what });
    }

    fn entry(&self, nonce: &str, change: impl FnOnce(&mut Entry)) {
        change(
            self.ledger()
                .entries
                .get_mut(nonce)
                .expect("it was entered before it was sent"),
        );
    }
}

/// A request for a random task, with a name or a key.
fn task(nonce: &str, random: &mut Rng) -> Request<Bytes> {
    let mut work = Work {
        ms: random.u64(0..20),
        ..Work::default()
    };
    match random.u8(0..10) {
        0 => work.fail = random.u32(1..3),
        1 => work.refuse = true,
        2 => work.ms = 100,
        _ => {}
    }
    asynchronous(nonce, work, random.bool())
}

/// A request for this work and nonce, with a name or a key.
pub fn asynchronous(nonce: &str, work: Work, named: bool) -> Request<Bytes> {
    let Work {
        ms,
        fail,
        refuse,
        abort,
        gated,
    } = work;
    let known = match named {
        true => ("x-fc-async-task-id", nonce.to_owned()),
        false => ("idempotency-key", format!("\"{nonce}\"")),
    };
    let request = Request::post(format!(
        "/work?ms={ms}&fail={fail}&refuse={refuse}&abort={abort}&gated={gated}"
    ))
    .header("x-fc-invocation-type", "Async")
    .header("content-type", "text/plain")
    .header(known.0, known.1)
    .body(Bytes::from(nonce.to_owned()));
    request.expect("all of it is plain text")
}

fn generation(reply: &Reply) -> Option<u32> {
    let answer: serde_json::Value = serde_json::from_slice(&reply.body).ok()?;
    answer["generation"].as_u64()?.try_into().ok()
}
