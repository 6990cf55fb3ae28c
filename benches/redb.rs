//! What does the embedded store cost beside redb itself?
//!
//! The floor is one thread that writes the same tables, with keys and values of the same size, and commits for all who
//! wait, as the store does; beside it the same with one table, and what a sync of the disk takes. Accepting is a task of
//! 1 KiB stored in the queue, from 64 submitters; a life is a task of 1 KiB born claimed and settled with an answer of
//! 1 KiB, from 256. With the word `reopen` it measures instead how long a file takes to open that a killed process left.
//!
//! Targets: accepting at most 1 / 0.85 of the floor, a life at most 1 / 0.6.
//!
//! ```text
//! cargo bench --features full --bench redb
//! cargo bench --features full --bench redb -- reopen
//! ```

mod support;

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use redb::{Database, TableDefinition};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};
use tower_respond_async::{
    RequestId, TaskStore,
    store::{Insert, Inserted, RedbStore},
    task::{
        CapturedRequest, CapturedResponse, NewTask, WorkerId,
        lifecycle::{Outcome, Settlement},
    },
    time::Timestamp,
};

use crate::support::{Contestant, compare, when_measuring};

const SAME_TABLES: &str = "the same tables, by hand";
const LEASE: Duration = Duration::from_secs(60);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.expect("the operating system gives threads");
    if env::args().any(|word| word == "reopen") {
        reopen(&runtime);
        return;
    }
    let contestants = vec![
        Contestant::new(SAME_TABLES, || by_hand(&runtime, Tables::Same)),
        Contestant::new("one table, by hand", || by_hand(&runtime, Tables::One)),
        Contestant::new("a sync of 4 KiB and nothing else", sync_only),
        Contestant::new("RedbStore", || ours(&runtime, false)),
        Contestant::new("RedbStore, quick repair", || ours(&runtime, true)),
    ];
    compare("redb", &["accept, 64", "life, 256"], SAME_TABLES, contestants);
}

/// A file for one turn.
struct Fresh(PathBuf);

impl Fresh {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "bench-{}-{}.redb",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        Self(env::temp_dir().join(name))
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn id() -> RequestId {
    static NEXT: AtomicU64 = AtomicU64::new(1_700_000_000_000);
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    RequestId::from_parts(Timestamp::from_millis(NEXT.fetch_add(1, Ordering::Relaxed)), random)
}

/// Runs `work` so many times on each of so many tasks at once: nanoseconds for one.
fn at_once<F: Future<Output = ()> + Send + 'static>(
    runtime: &Runtime,
    submitters: usize,
    each: usize,
    work: impl Fn() -> F + Clone + Send + 'static,
) -> f64 {
    let start = Instant::now();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..submitters)
            .map(|_| {
                let work = work.clone();
                tokio::spawn(async move {
                    for _ in 0..each {
                        work().await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("it ends");
        }
    });
    start.elapsed().as_nanos() as f64 / (submitters * each) as f64
}

fn each(full: usize) -> usize {
    when_measuring(full, 2)
}

fn ours(runtime: &Runtime, quick_repair: bool) -> Vec<f64> {
    let input = Arc::new(CapturedRequest::new(
        Method::POST,
        Uri::from_static("/work"),
        HeaderMap::new(),
        Bytes::from(vec![b'x'; 1024]),
    ));
    let output = Arc::new(CapturedResponse::new(
        StatusCode::OK,
        HeaderMap::new(),
        Bytes::from(vec![b'y'; 1024]),
    ));
    let open = |file: &Fresh| {
        let store = RedbStore::builder().quick_repair(quick_repair).open(&file.0);
        Arc::new(runtime.block_on(store).expect("a new file can be opened"))
    };
    let (first, second) = (Fresh::new(), Fresh::new());
    let store = open(&first);
    let accept = at_once(runtime, 64, each(200), {
        let (store, input) = (store.clone(), input.clone());
        move || {
            let (store, task) = (store.clone(), NewTask::new(id(), input.clone()));
            async move {
                let inserted = store.insert(Insert::new(task)).await.expect("insert");
                assert!(matches!(inserted, Inserted::New(_)));
            }
        }
    });
    drop(store);
    let store = open(&second);
    let worker = WorkerId::new("bench", 1);
    let life = at_once(runtime, 256, each(50), move || {
        let (store, task) = (store.clone(), NewTask::new(id(), input.clone()));
        let (worker, output) = (worker.clone(), output.clone());
        async move {
            let insert = Insert::new(task).born(worker, LEASE);
            let Inserted::New(record) = store.insert(insert).await.expect("insert") else {
                panic!("it is new")
            };
            let settlement = Settlement::new(record.lease(), Outcome::Succeeded { output });
            let _ = store.settle(settlement).await.expect("settle");
        }
    });
    vec![accept, life]
}

type Pairs = TableDefinition<'static, &'static [u8], &'static [u8]>;
const TASKS: Pairs = TableDefinition::new("tasks");
const INPUTS: Pairs = TableDefinition::new("inputs");
const OUTPUTS: Pairs = TableDefinition::new("outputs");

#[derive(Clone, Copy, PartialEq)]
enum Tables {
    Same,
    One,
}

enum Asked {
    Accept(RequestId),
    Settle(RequestId),
}

/// About what a record takes when it waits or runs, and when it has ended.
const RECORD: [usize; 2] = [120, 150];

fn by_hand(runtime: &Runtime, tables: Tables) -> Vec<f64> {
    let run = |submitters, times, settles: bool| {
        let file = Fresh::new();
        let database = Database::create(&file.0).expect("a new file can be opened");
        let (writer, asked) = mpsc::channel(1024);
        let thread = std::thread::spawn(move || write(database, asked, tables));
        let time = at_once(runtime, submitters, times, move || {
            let writer = writer.clone();
            async move {
                let id = id();
                for write in [Some(Asked::Accept(id)), settles.then_some(Asked::Settle(id))]
                    .into_iter()
                    .flatten()
                {
                    let (reply, done) = oneshot::channel();
                    assert!(writer.send((write, reply)).await.is_ok(), "the writer lives");
                    done.await.expect("it is done");
                }
            }
        });
        thread.join().expect("the writer ends");
        time
    };
    vec![run(64, each(200), false), run(256, each(50), true)]
}

fn write(database: Database, mut asked: mpsc::Receiver<(Asked, oneshot::Sender<()>)>, tables: Tables) {
    let body = vec![b'x'; 1050];
    while let Some(first) = asked.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < 256 {
            let Ok(next) = asked.try_recv() else { break };
            batch.push(next);
        }
        let transaction = database.begin_write().expect("begin");
        {
            let mut tasks = transaction.open_table(TASKS).expect("tasks");
            let mut bodies = (tables == Tables::Same).then(|| {
                let inputs = transaction.open_table(INPUTS).expect("inputs");
                (inputs, transaction.open_table(OUTPUTS).expect("outputs"))
            });
            for (write, _) in &batch {
                let (id, length, settles) = match write {
                    Asked::Accept(id) => (id, RECORD[0], false),
                    Asked::Settle(id) => (id, RECORD[1], true),
                };
                let key = &id.as_bytes()[..];
                match &mut bodies {
                    Some((inputs, outputs)) => {
                        tasks.insert(key, &body[..length]).expect("insert");
                        let table = if settles { outputs } else { inputs };
                        table.insert(key, &body[..]).expect("insert");
                    }
                    None => {
                        let whole = [&body[..], &body[..length]].concat();
                        tasks.insert(key, &whole[..]).expect("insert");
                    }
                }
            }
        }
        transaction.commit().expect("commit");
        for (_, reply) in batch {
            let _ = reply.send(());
        }
    }
}

fn sync_only() -> Vec<f64> {
    let path = env::temp_dir().join(format!("bench-{}.sync", std::process::id()));
    let mut file = fs::File::create(&path).expect("a new file can be made");
    let count = each(500);
    let start = Instant::now();
    for _ in 0..count {
        file.write_all(&[0; 4096]).expect("write");
        file.sync_data().expect("sync");
    }
    let time = start.elapsed().as_nanos() as f64 / count as f64;
    let _ = fs::remove_file(path);
    vec![time, time]
}

/// Fills a file, copies it while it is open, as a kill would leave it, and opens the copy.
fn reopen(runtime: &Runtime) {
    let (tasks, body) = (when_measuring(100_000, 100), 10_000);
    for quick_repair in [false, true] {
        let (file, left) = (Fresh::new(), Fresh::new());
        let input = Arc::new(CapturedRequest::new(
            Method::POST,
            Uri::from_static("/work"),
            HeaderMap::new(),
            Bytes::from(vec![b'x'; body]),
        ));
        let open = |path: &Path| {
            let store = RedbStore::builder().quick_repair(quick_repair).open(path);
            Arc::new(runtime.block_on(store).expect("the file can be opened"))
        };
        let store = open(&file.0);
        at_once(runtime, 250, tasks / 250 + 1, {
            let store = store.clone();
            move || {
                let (store, task) = (store.clone(), NewTask::new(id(), input.clone()));
                async move {
                    let _ = store.insert(Insert::new(task)).await.expect("insert");
                }
            }
        });
        fs::copy(&file.0, &left.0).expect("copy");
        drop(store);
        let size = fs::metadata(&left.0).expect("it is there").len() / 1_000_000;
        let start = Instant::now();
        drop(open(&left.0));
        let killed = start.elapsed();
        let start = Instant::now();
        drop(open(&left.0));
        println!(
            "quick repair {quick_repair}: {size} MB, {tasks} tasks: opened {killed:?} after a kill, {:?} after a close",
            start.elapsed()
        );
    }
}
