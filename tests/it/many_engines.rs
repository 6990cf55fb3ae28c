//! Several engines on one store, as in several processes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use axum::{Router, routing::any};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
};
use tower_respond_async::{
    MemoryStore, TaskContext, TaskState, TaskStore, Tasks, forward_store,
    store::{Operation, Reply, StoreError, kit::IoThread},
    task::lifecycle::Stop,
    testing::{FaultStore, Faults, ManualClock},
    time::Timestamp,
};

use crate::{
    engine_support::{Dropped, Gate, LONG, ended, eventually, ok, quick, reached, serve, serve_gated, submit},
    events::Stream,
    support::{self, App, WithoutBody, fc, soon},
};

/// Two handles of one store. Calls of the second are counted.
fn two() -> (MemoryStore, FaultStore<MemoryStore>, Faults) {
    let store = MemoryStore::new();
    let counted = FaultStore::new(store.clone());
    let faults = counted.faults();
    (store, counted, faults)
}

/// An engine whose tasks all run elsewhere.
fn idle(store: impl TaskStore) -> Tasks {
    serve(quick(store), |_| async { ok() })
}

/// A handle without news of other processes.
fn mute(store: &MemoryStore) -> FaultStore<MemoryStore> {
    let mute = FaultStore::new(store.clone());
    mute.faults().without_news();
    mute
}

/// A waiter here for a task that runs there.
async fn a_waiter_hears_of_the_end(here: impl TaskStore, there: MemoryStore) {
    let (gate, dropped) = (Gate::new(), Dropped::default());
    let there = serve_gated(quick(there), &gate, &dropped);
    let here = idle(here);
    let id = submit(&there, "/").await;
    gate.arrived(1).await;
    let mut changes = here.subscribe(id);
    let first = soon(changes.next()).await.unwrap().unwrap();
    assert_eq!(first.state, TaskState::Running);
    let waiting = tokio::spawn(async move { here.wait(id, 10 * LONG).await });
    gate.open();
    let last = soon(changes.next()).await.unwrap().unwrap();
    assert_eq!(last.state, TaskState::Succeeded);
    let waited = soon(waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(waited.state, TaskState::Succeeded);
}

#[tokio::test]
async fn a_task_that_ends_elsewhere_wakes_its_waiter() {
    let store = MemoryStore::new();
    a_waiter_hears_of_the_end(store.clone(), store).await;
}

/// By one look a second.
#[tokio::test]
async fn a_store_that_has_no_news_is_looked_at() {
    let store = MemoryStore::new();
    a_waiter_hears_of_the_end(mute(&store), store).await;
}

/// However many wait, and although nothing changes.
#[tokio::test]
async fn a_thousand_waiters_cost_one_look_a_second() {
    let (store, counted, faults) = two();
    let (gate, dropped) = (Gate::new(), Dropped::default());
    let there = serve_gated(quick(store).concurrency(1), &gate, &dropped);
    let here = serve(quick(counted).concurrency(1), {
        let gate = gate.clone();
        move |_| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                ok()
            }
        }
    });
    let mut waiting = Vec::new();
    for number in 0..1000 {
        let id = submit(if number % 2 == 0 { &there } else { &here }, "/").await;
        let here = here.clone();
        waiting.push(tokio::spawn(async move { here.wait(id, 10 * LONG).await }));
    }
    gate.arrived(2).await;
    let looks = || faults.calls(Operation::Glance);
    eventually("two looks", async || looks() >= 2).await;
    let (looked, read) = (looks(), faults.calls(Operation::Rows));
    assert!(
        read <= 2 * 1000 + 100,
        "each has read its task, once more at the first look: {read}"
    );
    eventually("two looks more", async || looks() >= looked + 2).await;
    let more = faults.calls(Operation::Rows) - read;
    assert!(more < 10, "nobody looks by themselves: {more} reads");
    gate.open();
    for waiter in waiting {
        let record = soon(waiter).await.unwrap().unwrap().unwrap();
        assert_eq!(record.state, TaskState::Succeeded);
    }
}

/// A process without waiters makes no calls about the tasks of others.
#[tokio::test]
async fn without_waiters_there_are_no_looks() {
    let (store, counted, faults) = two();
    let (here, there) = (idle(counted), idle(store));
    for _ in 0..100 {
        let id = submit(&there, "/").await;
        ended(&there, id).await;
    }
    // The engine beats every few seconds, so by then it has had time to look.
    eventually("a second sign of life", async || faults.calls(Operation::Beat) >= 2).await;
    assert_eq!(faults.calls(Operation::Glance), 0);
    drop(here);
}

/// At once, and not at its next renewal, which is twenty minutes away.
#[tokio::test]
async fn a_stop_elsewhere_reaches_the_handler_at_once() {
    let store = MemoryStore::new();
    let (gate, dropped) = (Gate::new(), Dropped::default());
    let there = serve_gated(quick(store.clone()).lease(60 * LONG), &gate, &dropped);
    let here = idle(store);
    let id = submit(&there, "/").await;
    gate.arrived(1).await;
    assert_eq!(here.stop(id).await.unwrap(), Stop::Stopping);
    soon(reached(&here, id, TaskState::Stopped)).await;
    assert!(dropped.is_dropped());
}

fn app(store: impl TaskStore, gate: &support::Gate) -> App {
    let gate = gate.clone();
    let handler = any(move |task: TaskContext| async move {
        task.progress(0.5, "half");
        gate.pass().await;
        task.progress(0.9, "most");
        gate.pass().await;
        "done"
    });
    App::build(store, Router::new().route("/", handler), |builder| builder)
}

#[tokio::test]
async fn events_of_a_task_and_of_all_tell_of_what_happens_elsewhere() {
    let store = MemoryStore::new();
    let gate = support::Gate::new();
    let (there, here) = (app(store.clone(), &gate), app(store, &gate));
    let address = here.serve().await;
    let mut all = Stream::open(address, "/tasks/events", "").await;
    let id = there.accepted(fc("/").empty()).await;
    gate.arrived().await;
    let mut one = Stream::open(address, &format!("/tasks/{id}/events"), "").await;
    let progress = soon(one.next_of("progress")).await;
    assert_eq!(progress.data["message"], "half");
    gate.let_pass(1);
    gate.arrived().await;
    let progress = soon(one.next_of("progress")).await;
    assert_eq!(progress.data["message"], "most");
    gate.let_pass(1);
    loop {
        let event = soon(one.next_of("status")).await;
        if event.data["status"] == "Succeeded" {
            break;
        }
    }
    loop {
        let event = soon(all.next_of("status")).await;
        assert_eq!(event.data["requestId"], id.to_string());
        if event.data["status"] == "Succeeded" {
            break;
        }
    }
}

/// The client of a list then fetches it again.
#[tokio::test]
async fn a_stream_of_all_tasks_says_that_it_misses_some_where_the_store_has_no_news() {
    let here = app(mute(&MemoryStore::new()), &support::Gate::new());
    let mut all = Stream::open(here.serve().await, "/tasks/events", "").await;
    soon(all.next_of("missed")).await;
}

#[tokio::test]
async fn the_figures_are_those_of_all_processes_that_are_there() {
    let clock = ManualClock::new(Timestamp::from_millis(1_700_000_000_000));
    let store = MemoryStore::builder().clock(clock.clone()).build();
    let first = serve(
        quick(store.clone()).worker_name("first").version("1.0").concurrency(3),
        |_| async { ok() },
    );
    let alone = first.stats().await.unwrap();
    assert_eq!(alone.processes.unwrap().len(), 1);
    let id = submit(&first, "/").await;
    ended(&first, id).await;
    let second = serve(
        quick(store).worker_name("second").version("1.1").concurrency(4),
        |_| async { ok() },
    );
    for tasks in [&first, &second] {
        eventually("both are seen", async || {
            let stats = tasks.stats().await.unwrap();
            let accepted = stats.rates.unwrap()[0].accepted;
            (stats.processes.unwrap().len(), accepted) == (2, 1)
        })
        .await;
    }
    let stats = first.stats().await.unwrap();
    assert_eq!(stats.slots.unwrap().total, 7);
    let processes = stats.processes.unwrap();
    let names: Vec<_> = processes.iter().map(|process| &process.instance[..6]).collect();
    assert_eq!(names, ["first-", "second"]);
    let versions: Vec<_> = processes.iter().map(|process| process.version.as_deref()).collect();
    assert_eq!(versions, [Some("1.0"), Some("1.1")]);
    assert_eq!(processes[0].last_minute.succeeded, 1);

    soon(first.shutdown(LONG)).await;
    clock.advance(Duration::from_secs(16));
    eventually("the first is not seen any more", async || {
        let stats = second.stats().await.unwrap();
        stats.processes.unwrap().len() == 1
    })
    .await;
}

/// A store with a server: the first caller opens its connection, and every call uses it.
#[derive(Clone, Debug)]
struct Remote {
    store: Arc<MemoryStore>,
    line: Arc<Line>,
}

#[derive(Debug)]
struct Line {
    io: IoThread,
    server: SocketAddr,
    connection: Mutex<Option<TcpStream>>,
}

impl Remote {
    fn new(store: MemoryStore) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut byte = [0];
            while connection.read_exact(&mut byte).is_ok() && connection.write_all(&byte).is_ok() {}
        });
        let line = Line {
            io: IoThread::start("remote-store").unwrap(),
            server,
            connection: Mutex::default(),
        };
        Self {
            store: Arc::new(store),
            line: Arc::new(line),
        }
    }

    /// Another handle for another engine, over the same connection.
    fn handle(&self) -> Self {
        Self {
            store: Arc::new(MemoryStore::clone(&self.store)),
            line: self.line.clone(),
        }
    }

    fn store(&self) -> &MemoryStore {
        &self.store
    }

    fn forward<T: Send + 'static>(
        &self,
        _: Operation,
        call: impl FnOnce(Arc<MemoryStore>) -> Reply<'static, T> + Send + 'static,
    ) -> Reply<'static, T> {
        let (store, line) = (self.store.clone(), self.line.clone());
        let asked = self.line.io.run(async move {
            line.ask().await.map_err(StoreError::unavailable)?;
            call(store).await
        });
        Reply::later(async move { asked.await? })
    }
}

impl Line {
    async fn ask(&self) -> std::io::Result<()> {
        let mut connection = self.connection.lock().await;
        let connection = match &mut *connection {
            Some(connection) => connection,
            none => none.insert(TcpStream::connect(self.server).await?),
        };
        connection.write_all(b"?").await?;
        connection.read_exact(&mut [0]).await?;
        Ok(())
    }
}

impl TaskStore for Remote {
    forward_store!(all);
}

/// Each engine and its runtime are gone before the next one is built. The server accepts one connection, so a
/// connection that was lost with its runtime would show.
#[test]
fn engine_after_engine_can_be_built_on_a_store_with_a_connection() {
    let store = Remote::new(MemoryStore::new());
    for round in 1..=3 {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            // Short, so that the thread that renews has called the store as well before it ends.
            let lease = Duration::from_millis(300);
            let (gate, dropped) = (Gate::new(), Dropped::default());
            let handle = FaultStore::new(store.handle());
            let faults = handle.faults();
            let tasks = serve_gated(quick(handle).lease(lease), &gate, &dropped);
            let id = submit(&tasks, "/").await;
            gate.arrived(1).await;
            eventually("a renewal", async || faults.calls(Operation::Renew) > 0).await;
            gate.open();
            ended(&tasks, id).await;
            let stats = tasks.stats().await.unwrap();
            assert_eq!(stats.counts.of(TaskState::Succeeded), round);
            soon(tasks.shutdown(LONG)).await;
        });
    }
}
