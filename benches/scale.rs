//! Measures whether the task API answers fast with a million ended tasks in the file.
//!
//! One task in a hundred failed, one in a hundred thousand was stopped, none runs: common, rare and absent states. Each
//! request is sent 300 times in turn with the others, to the service as a server would call it. Filling the file takes
//! a minute or two, and it grows to about 4 GB. You can give another number of tasks.
//!
//! Target: every request under 100 ms at the 99th percentile.
//!
//! ```text
//! cargo bench --features full --bench scale
//! cargo bench --features full --bench scale -- 100000
//! ```

mod support;

use std::{
    env, fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use serde_json::Value;
use tokio::runtime::Runtime;
use tower::{Layer, ServiceExt};
use tower_respond_async::{
    RequestBody, RequestId, RespondAsyncLayer, TaskApi, allow_everyone,
    store::{Insert, Inserted, Ledger},
    task::{CapturedRequest, CapturedResponse, NewTask, WorkerId, lifecycle::Outcome},
    time::Timestamp,
};
use tower_respond_async_redb::RedbStore;

use crate::support::when_measuring;

const LEASE: Duration = Duration::from_secs(600);

/// How many are sent at once. The store commits them together.
const AT_ONCE: usize = 256;

fn main() {
    let runtime = support::two_threads();
    let asked = env::args().find_map(|word| word.parse().ok());
    let tasks = when_measuring(asked.unwrap_or(1_000_000), 2_000);

    let file = File::new();
    let store = runtime
        .block_on(RedbStore::open(&file.0))
        .expect("a new file can be opened");
    let store = Arc::new(store);
    let start = Instant::now();
    fill(&runtime, &store, tasks);
    println!("{tasks} tasks stored and ended in {:.0?}", start.elapsed());
    // The tasks stored last are in the caches; a file that was opened again has empty caches.
    drop(Arc::into_inner(store).expect("nobody else has it"));
    let start = Instant::now();
    let store = runtime
        .block_on(RedbStore::open(&file.0))
        .expect("it can be opened again");
    let size = fs::metadata(&file.0).expect("it is there").len() / 1_000_000;
    println!("{size} MB, opened again in {:.1?}\n", start.elapsed());
    runtime.block_on(ask(store, tasks));
}

/// A file that is removed with the benchmark.
struct File(PathBuf);

impl File {
    fn new() -> Self {
        Self(env::temp_dir().join(format!("bench-scale-{}.redb", std::process::id())))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn fill(runtime: &Runtime, store: &Arc<RedbStore>, tasks: usize) {
    let ledger = Ledger::new(store.clone());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("it is past 1970").as_millis() as u64;
    let body = Bytes::from(vec![b'x'; 256]);
    let uri = Uri::from_static("/work/some/thing?x=1");
    let request = Arc::new(CapturedRequest::new(Method::POST, uri, HeaderMap::new(), body.clone()));
    let response = Arc::new(CapturedResponse::new(StatusCode::OK, HeaderMap::new(), body));
    let next = Arc::new(AtomicUsize::new(0));
    runtime.block_on(async {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let (ledger, request, response, next) =
                    (ledger.clone(), request.clone(), response.clone(), next.clone());
                tokio::spawn(async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= tasks {
                            return;
                        }
                        let mut random = [0; 10];
                        fastrand::fill(&mut random);
                        let id = RequestId::from_parts(Timestamp::from_millis(now), random);
                        let insert =
                            Insert::new(NewTask::new(id, request.clone())).claimed_by(WorkerId::new("bench", 1), LEASE);
                        let Inserted::New(_, Some(held)) = ledger.insert(insert).await.expect("it is stored") else {
                            panic!("it is new")
                        };
                        let response = response.clone();
                        let outcome = match number {
                            _ if number % 100_000 == 7 => Outcome::Stopped,
                            _ if number % 100 == 50 => Outcome::Failed {
                                error: "it broke".into(),
                                response: Some(response),
                            },
                            _ => Outcome::Succeeded { response },
                        };
                        if matches!(outcome, Outcome::Stopped) {
                            let stopped = ledger.stop(&tower_respond_async::Scope::All, id).await;
                            let _ = stopped.expect("it is told to stop");
                        }
                        let settled = ledger.settle(&held, &outcome).await;
                        let _ = settled.expect("it is settled");
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.expect("it ends");
        }
    });
}

/// Sends each request many times in turn, and prints the times.
async fn ask(store: RedbStore, tasks: usize) {
    let layer = RespondAsyncLayer::builder(store).build().expect("it makes sense");
    let handle = layer.tasks();
    let app = layer.layer(tower::service_fn(|_: Request<RequestBody>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::<Bytes>::default()))
    }));
    let api = TaskApi::new(&handle, allow_everyone());
    let get = async |path: &str| {
        let request = Request::get(path).body(Empty::<Bytes>::new()).expect("a path");
        let response = api.clone().oneshot(request).await.expect("it cannot fail");
        assert_eq!(response.status(), 200, "{path}");
        response.into_body().collect().await.expect("a whole body").to_bytes()
    };
    let read = |body: &Bytes| serde_json::from_slice::<Value>(body).expect("it is JSON");

    let first = read(&get("/?limit=100").await);
    let one = first["tasks"][0]["taskId"].as_str().expect("a task").to_owned();
    // A page in the middle: as deep as a thousand pages go.
    let mut token = String::new();
    for _ in 0..(tasks / 200).min(1000) {
        let page = read(&get(&format!("/?limit=100&nextToken={token}")).await);
        token = page["nextToken"].as_str().unwrap_or_default().to_owned();
    }
    let questions = [
        ("the newest 50", "/?limit=50".to_owned()),
        ("50 with payloads", "/?limit=50&includePayload=1".to_owned()),
        ("50 from the middle", format!("/?limit=50&nextToken={token}")),
        ("the oldest 50", "/?limit=50&sortOrderByTime=asc".to_owned()),
        ("50 that succeeded", "/?limit=50&status=Succeeded".to_owned()),
        ("50 that failed, 1 in 100", "/?limit=50&status=Failed".to_owned()),
        ("stopped, 1 in 100,000", "/?limit=50&status=Stopped".to_owned()),
        ("running, none", "/?limit=50&status=Running".to_owned()),
        ("stats", "/stats".to_owned()),
        ("one task", format!("/{one}")),
        ("one response", format!("/{one}/response")),
    ];
    let rounds = when_measuring(300, 2);
    let mut took = vec![Vec::with_capacity(rounds); questions.len()];
    for _ in 0..rounds {
        for ((_, path), took) in questions.iter().zip(&mut took) {
            let start = Instant::now();
            get(path).await;
            took.push(start.elapsed());
        }
    }
    println!("{:28}{:>12}{:>12}{:>12}", "", "median", "p99", "longest");
    for ((name, _), took) in questions.iter().zip(&mut took) {
        took.sort_unstable();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
        println!("{name:28}{:>12.2?}{:>12.2?}{:>12.2?}", at(0.5), at(0.99), at(1.0));
    }
    drop(app);
    handle.shutdown(Duration::ZERO).await;
}
