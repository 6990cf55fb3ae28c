//! Several processes on one PostgreSQL, seen from outside: the example `playground`, and no stickiness.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use servers::{Postgres, Stop, a_name};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};

use crate::support::soon;

/// A lease that runs out soon.
const LEASE: [(&str, &str); 1] = [("LEASE_MS", "2000")];

/// Processes that share a schema, and a client that has a connection to each.
pub(crate) struct Cluster {
    pub(crate) processes: Vec<Process>,
    client: Client<HttpConnector, Full<Bytes>>,
}

pub(crate) struct Process {
    child: Child,
    address: SocketAddr,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    pub(crate) fn id(&self) -> String {
        self.headers["x-fc-request-id"].to_str().unwrap().to_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

impl Cluster {
    /// Three of them, started at once in an empty schema of the shared server.
    async fn of_three(settings: &[(&str, &str)]) -> Self {
        Self::start(Postgres::shared_and_durable(), 3, settings).await
    }

    async fn start(server: &Postgres, processes: usize, settings: &[(&str, &str)]) -> Self {
        let url = server.url_over_tcp();
        let store = format!("{url}?schema={}", a_name());
        let started = (0..processes).map(|number| {
            let mut process = Command::new(built("playground"));
            process
                .env("LISTEN", "127.0.0.1:0")
                .env("STORE", &store)
                .env("WORKER_NAME", format!("number-{number}"))
                .envs(settings.iter().copied());
            process
        });
        Self::of(started).await
    }

    /// A process each, started at once. They say first where they listen.
    pub(crate) async fn of(processes: impl IntoIterator<Item = Command>) -> Self {
        Self {
            processes: join_all(processes.into_iter().map(Process::start)).await,
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    pub(crate) async fn send(&self, process: usize, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let uri = format!("http://{}{path}", self.processes[process].address);
        let mut request = Request::builder().method(method).uri(uri);
        // As a load balancer passes it on: with another host it would be another request.
        request = request.header("Host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).unwrap();
        let (head, body) = soon(self.client.request(request)).await.unwrap().into_parts();
        let body = soon(body.collect()).await.unwrap().to_bytes();
        Answer {
            status: head.status,
            headers: head.headers,
            body,
        }
    }

    pub(crate) async fn get(&self, process: usize, path: &str) -> Answer {
        self.send(process, "GET", path, &[]).await
    }

    /// Has a process accept a task.
    pub(crate) async fn accepted(&self, process: usize, path: &str) -> String {
        let answer = self
            .send(process, "POST", path, &[("X-Fc-Invocation-Type", "Async")])
            .await;
        assert_eq!(answer.status, 202);
        answer.id()
    }

    /// The task as a process shows it, as soon as that is so.
    async fn until(&self, process: usize, id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        soon(async {
            loop {
                let task = self.get(process, &format!("/tasks/{id}")).await.json();
                if is_so(&task) {
                    return task;
                }
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    pub(crate) async fn status(&self, process: usize, id: &str, status: &str) -> Value {
        self.until(process, id, |task| task["status"] == status).await
    }

    /// Which process runs the task.
    fn holder(&self, task: &Value) -> usize {
        let name = task["instanceId"].as_str().unwrap();
        let found = (0..self.processes.len()).find(|number| name.starts_with(&format!("number-{number}-")));
        found.unwrap_or_else(|| panic!("nobody is called {name}"))
    }
}

impl Process {
    async fn start(mut program: Command) -> Self {
        let mut child = program
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = soon(async {
            let line = said.next_line().await.unwrap().expect("it says where it listens");
            let address = line.strip_prefix("listening on http://").expect("that comes first");
            address.parse().unwrap()
        })
        .await;
        // Whatever it says is read, so that it can say more.
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        Self { child, address }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let process = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        kill_process(process.expect("it has not been waited for"), signal).unwrap();
    }

    pub(crate) async fn end(&mut self) -> ExitStatus {
        soon(self.child.wait()).await.unwrap()
    }
}

/// The example as it was built with this test.
pub(crate) fn built(example: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let built = this.parent().unwrap().parent().unwrap().join("examples").join(example);
    assert!(
        built.exists(),
        "{} is missing: cargo build --workspace --examples --features tower-respond-async/full",
        built.display()
    );
    built
}

#[tokio::test]
async fn a_task_that_one_accepted_is_there_for_every_other() {
    let cluster = Cluster::of_three(&[]).await;
    for process in 0..3 {
        let id = cluster.accepted(process, "/echo").await;
        for other in 0..3 {
            let seen = cluster.get(other, &format!("/tasks/{id}")).await;
            assert_eq!(
                (seen.status, &seen.json()["requestId"]),
                (StatusCode::OK, &id.clone().into())
            );
        }
    }
}

#[tokio::test]
async fn a_waiter_elsewhere_gets_the_end() {
    let cluster = Cluster::of_three(&[]).await;
    let lines = [("Prefer", "respond-async"), ("Idempotency-Key", "one")];
    let path = "/sleep?ms=1500";
    let accepted = cluster.send(0, "POST", path, &lines).await;
    assert_eq!(accepted.status, 202);
    let id = accepted.id();
    let holder = cluster.holder(&cluster.status(0, &id, "Running").await);
    let (one, other) = ((holder + 1) % 3, (holder + 2) % 3);

    let waits = [("Prefer", "respond-async, wait=30"), ("Idempotency-Key", "one")];
    let (result, events) = (format!("/tasks/{id}/result?wait=30"), format!("/tasks/{id}/events"));
    let began = Instant::now();
    let at_end = async |answer: Answer| (answer, began.elapsed());
    let (same, result, events, ended) = tokio::join!(
        async { at_end(cluster.send(one, "POST", path, &waits).await).await },
        async { at_end(cluster.get(other, &result).await).await },
        async { at_end(cluster.get(one, &events).await).await },
        async {
            let _ = cluster.status(holder, &id, "Succeeded").await;
            began.elapsed()
        },
    );
    for (what, (answer, at)) in [("wait", &same), ("result", &result), ("events", &events)] {
        println!("{what}: {at:?}, where the task runs {ended:?}");
        assert_eq!(answer.status, 200, "{what}");
    }
    assert_eq!(same.0.json()["slept"], 1500);
    assert_eq!(result.0.json()["slept"], 1500);
    let events = String::from_utf8(events.0.body.to_vec()).unwrap();
    assert!(events.contains("Succeeded"), "{events}");
}

#[tokio::test]
async fn a_stop_that_another_process_was_asked_for_reaches_the_handler() {
    let cluster = Cluster::of_three(&[]).await;
    let id = cluster.accepted(0, "/sleep?ms=60000").await;
    let holder = cluster.holder(&cluster.status(0, &id, "Running").await);
    let other = (holder + 1) % 3;
    let stopped = cluster.send(other, "PUT", &format!("/tasks/{id}/stop"), &[]).await;
    assert_eq!(stopped.status, 202);
    let asked = Instant::now();
    let task = cluster.status(other, &id, "Stopped").await;
    println!("stopped after {:?}", asked.elapsed());
    // The handler ended by itself, and was not dropped when its grace was over.
    let last = task["events"].as_array().unwrap().last().unwrap();
    assert_eq!(last["eventDetail"], "stopped on request", "{task}");
}

#[tokio::test]
async fn of_one_key_or_one_name_at_three_processes_there_is_one_task() {
    let cluster = Cluster::of_three(&[]).await;
    for (known_by, value, other) in [
        ("Idempotency-Key", "a-key", StatusCode::UNPROCESSABLE_ENTITY),
        ("X-Fc-Async-Task-Id", "a-name", StatusCode::CONFLICT),
    ] {
        for round in 0..5 {
            let value = format!("{value}-{round}");
            let lines = [("X-Fc-Invocation-Type", "Async"), (known_by, &value)];
            let racing = (0..9).map(|number| cluster.send(number % 3, "POST", "/hello/you", &lines));
            let answers = join_all(racing).await;
            let id = answers[0].id();
            for answer in &answers {
                assert_eq!(answer.status, 202, "{known_by}: {:?}", answer.body);
                assert_eq!(answer.id(), id);
            }
            for process in 0..3 {
                let refused = cluster.send(process, "POST", "/hello/somebody-else", &lines).await;
                assert_eq!(refused.status, other, "{known_by}");
            }
        }
        // Different requests race: one wins, and the others are refused.
        let lines = [("X-Fc-Invocation-Type", "Async"), (known_by, "different")];
        let paths: Vec<String> = (0..9).map(|number| format!("/hello/{number}")).collect();
        let racing = paths.iter().enumerate();
        let racing = racing.map(|(number, path)| cluster.send(number % 3, "POST", path, &lines));
        let mut answers: Vec<_> = join_all(racing).await.iter().map(|answer| answer.status).collect();
        answers.sort();
        assert_eq!(answers[0], 202);
        assert_eq!(answers[1..], [other; 8], "{known_by}");
    }
}

#[tokio::test]
async fn tasks_of_a_killed_process_end_elsewhere() {
    let mut cluster = Cluster::of_three(&LEASE).await;
    let mut tasks = Vec::new();
    for process in 0..3 {
        for _ in 0..3 {
            tasks.push(cluster.accepted(process, "/sleep?ms=2000").await);
        }
    }
    // Any process may have claimed any of them.
    let interrupted = tasks.last().unwrap();
    let holder = cluster.holder(&cluster.status(0, interrupted, "Running").await);
    let other = (holder + 1) % 3;
    cluster.processes[holder].signal(Signal::KILL);
    let killed = Instant::now();
    let _ = cluster.processes[holder].end().await;
    let mut attempts = Vec::new();
    for id in &tasks {
        attempts.push(
            cluster.status(other, id, "Succeeded").await["attempt"]
                .as_u64()
                .unwrap(),
        );
    }
    println!("all ended {:?} after the kill; attempts {attempts:?}", killed.elapsed());
    assert_eq!(
        attempts.last(),
        Some(&2),
        "it ran once in the killed process and once elsewhere"
    );

    // It is not shown any more, and what is counted is what all have done.
    let stats = soon(async {
        loop {
            let stats = cluster.get(other, "/tasks/stats").await.json();
            if stats["processes"].as_array().unwrap().len() == 2 {
                return stats;
            }
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    println!("it was gone from the statistics {:?} after the kill", killed.elapsed());
    assert_eq!(stats["counts"]["Succeeded"], tasks.len(), "{stats}");
}

#[tokio::test]
async fn what_a_drain_hands_back_runs_elsewhere_as_the_same_attempt() {
    let mut cluster = Cluster::of_three(&[("GRACE_MS", "200")]).await;
    // It pays no attention to being stopped.
    let id = cluster.accepted(0, "/hang").await;
    let holder = cluster.holder(&cluster.status(0, &id, "Running").await);
    cluster.processes[holder].signal(Signal::TERM);
    let other = (holder + 1) % 3;
    let elsewhere = |task: &Value| {
        let name = task["instanceId"].as_str().unwrap_or_default();
        task["status"] == "Running" && !name.starts_with(&format!("number-{holder}-"))
    };
    let task = cluster.until(other, &id, elsewhere).await;
    assert_eq!(
        (&task["attempt"], &task["alreadyRetriedTimes"]),
        (&1.into(), &0.into()),
        "{task}"
    );
    assert_eq!(cluster.processes[holder].end().await.code(), Some(0));
}

#[tokio::test]
async fn the_statistics_of_any_process_are_those_of_all() {
    let cluster = Cluster::of_three(&[("CONCURRENCY", "4")]).await;
    for process in 0..3 {
        let _ = cluster.accepted(process, "/hang").await;
    }
    for process in 0..3 {
        soon(async {
            loop {
                let stats = cluster.get(process, "/tasks/stats").await.json();
                let names: Vec<_> = stats["processes"].as_array().unwrap().iter().collect();
                let named = (0..3).all(|number| {
                    let name = format!("number-{number}-");
                    let is_it = |shown: &&&Value| shown["instanceId"].as_str().unwrap().starts_with(&name);
                    names.iter().filter(is_it).count() == 1
                });
                if named && names.len() == 3 && stats["slots"]["total"] == 12 && stats["slots"]["used"] == 3 {
                    assert_eq!(stats["counts"]["Running"], 3, "{stats}");
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_process_without_its_server_is_not_ready_and_goes_on_when_it_is_back() {
    let server = Postgres::start("");
    let mut cluster = Cluster::start(&server, 1, &[]).await;
    assert_eq!(cluster.get(0, "/ready").await.status, 200);
    let before = cluster.accepted(0, "/echo").await;
    let _ = cluster.status(0, &before, "Succeeded").await;

    server.stop(Stop::Kill);
    let not_ready = cluster.get(0, "/ready").await;
    assert_eq!(not_ready.status, 503, "{:?}", not_ready.body);
    assert_eq!(
        cluster.get(0, "/hello/you").await.body,
        "hello you",
        "what asks nothing of the store goes on"
    );
    let refused = cluster
        .send(0, "POST", "/echo", &[("X-Fc-Invocation-Type", "Async")])
        .await;
    assert_eq!(refused.status, 503, "{:?}", refused.body);

    server.restart();
    soon(async {
        while cluster.get(0, "/ready").await.status != 200 {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let after = cluster.accepted(0, "/echo").await;
    let _ = cluster.status(0, &after, "Succeeded").await;
    assert_eq!(cluster.get(0, &format!("/tasks/{before}")).await.status, 200);

    server.stop(Stop::Kill);
    cluster.processes[0].signal(Signal::TERM);
    assert_eq!(
        cluster.processes[0].end().await.code(),
        Some(0),
        "it ends without its server as well"
    );
}

#[tokio::test]
async fn a_store_that_is_not_there_is_said_at_the_start() {
    let output = Command::new(built("playground"))
        .env("LISTEN", "127.0.0.1:0")
        .env("STORE", "postgres://me:s3cret@127.0.0.1:1/db")
        .output();
    let output = timeout(Duration::from_secs(60), output).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("cannot be reached"), "{said}");
    assert!(!said.contains("s3cret"), "{said}");
}

/// Requests come all the time, at whichever process. Those that were answered 202 end at their first attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_server_under_load_loses_nothing_that_was_accepted() {
    let server = Postgres::start("");
    let cluster = Arc::new(Cluster::start(&server, 3, &[]).await);
    let mut sending = JoinSet::new();
    let began = Instant::now();
    let mut back = None;
    for number in 0..400 {
        sleep_until((began + Duration::from_millis(20) * number).into()).await;
        if number == 100 {
            tokio::task::block_in_place(|| server.stop(Stop::Kill));
        }
        if number == 150 {
            tokio::task::block_in_place(|| server.restart());
            back = Some(began.elapsed());
        }
        let cluster = cluster.clone();
        sending.spawn(async move {
            let asked = [("X-Fc-Invocation-Type", "Async")];
            let answer = cluster.send(number as usize % 3, "POST", "/echo", &asked).await;
            (answer, began.elapsed())
        });
    }
    let (mut accepted, mut refused) = (Vec::new(), 0);
    while let Some(sent) = sending.join_next().await {
        let (answer, at) = sent.unwrap();
        match answer.status.as_u16() {
            202 => accepted.push((at, answer.id())),
            503 => refused += 1,
            other => panic!("{other}: {:?}", answer.body),
        }
    }
    let back = back.unwrap();
    let first = accepted.iter().map(|(at, _)| *at).filter(|at| *at > back).min();
    println!(
        "{} accepted, {refused} refused; the first {:?} after the server was back",
        accepted.len(),
        first.map(|first| first - back)
    );
    assert!(refused * 20 <= accepted.len() + refused, "{refused} were refused");
    for (_, id) in &accepted {
        let task = cluster.status(1, id, "Succeeded").await;
        assert_eq!(task["attempt"], 1, "{task}");
    }
}
