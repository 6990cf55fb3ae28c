//! Claims that lapse, and their holders.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Channel, Full};
use tower::{Layer, Service, service_fn};
use tower_respond_async::{
    BoxError, Completion, MemoryStore, TaskContext, TaskRecord, TaskState, Tasks,
    probe::{AttemptInfo, AttemptLog, AttemptScope, Event, Probe},
    store::{Insert, Operation},
    task::{Conditions, Destination, Filter, LogLine, Subscription, Subscriptions},
    testing::{FaultStore, ManualClock},
    time::{Clock, Timestamp},
};

use crate::engine_support::{
    Dropped, Gate, claim_and_die, context, ended, eventually, find, inserted, ledger, look_round, new_task, ok, quick,
    reached, respond, serve, soon, submit,
};

const LEASE: Duration = Duration::from_secs(30);

/// A store whose clock stands still, and a task in it.
async fn stood_still() -> (ManualClock, MemoryStore, Arc<TaskRecord>) {
    let clock = ManualClock::new(Timestamp::from_millis(1_000));
    let store = MemoryStore::builder().clock(clock.clone()).build();
    let mut task = new_task("/");
    task.subscriptions = Subscriptions::from([Subscription {
        destination: Destination::LOCAL,
        on: Conditions::ALL,
    }]);
    let record = inserted(ledger(&store).insert(Insert::new(task)).await.unwrap());
    (clock, store, record)
}

/// A lease so short that the engine searches for lapsed leases twice a second.
const LOOKS_OFTEN: Duration = Duration::from_secs(1);

/// A rescue needs only the lapsed lease, and nothing from the worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lapsed_lease_is_rescued_once_and_counted_as_a_crash() {
    let (clock, store, task) = stood_still().await;
    assert_eq!(claim_and_die(&store, LEASE).await.tasks.len(), 1);
    let ran = Arc::new(AtomicUsize::new(0));
    let engine = || {
        let ran = ran.clone();
        serve(quick(store.clone()).lease(LOOKS_OFTEN), move |_| {
            ran.fetch_add(1, Ordering::SeqCst);
            async { ok() }
        })
    };
    let engines = [engine(), engine(), engine()];
    clock.advance(LEASE - Duration::from_millis(1));
    look_round(&engines[0]).await;
    assert_eq!(find(&engines[0], task.id).await.state, TaskState::Running);

    ran.store(0, Ordering::SeqCst);
    clock.advance(Duration::from_millis(1));
    let record = ended(&engines[0], task.id).await;
    assert_eq!(
        (record.state, record.attempt, record.crashes, record.retries),
        (TaskState::Succeeded, 2, 1, 0)
    );
    let rescues = record.history.iter().filter(|event| {
        let detail = event.detail.as_deref().unwrap_or_default();
        detail.starts_with("rescued")
    });
    assert_eq!(rescues.count(), 1);
    assert_eq!(ran.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_task_whose_worker_died_three_times_is_poison_and_its_hook_is_called() {
    let (clock, store, task) = stood_still().await;
    for crash in 1..=3 {
        assert_eq!(claim_and_die(&store, LEASE).await.tasks.len(), 1);
        clock.advance(LEASE);
        if crash < 3 {
            assert_eq!(ledger(&store).rescue(10).await.unwrap().tasks.len(), 1);
        }
    }
    let (tell, mut told) = tokio::sync::mpsc::channel(10);
    let ran = Arc::new(AtomicUsize::new(0));
    let in_handler = ran.clone();
    let tasks = serve(quick(store).lease(LOOKS_OFTEN).on_failure(tell), move |_| {
        in_handler.fetch_add(1, Ordering::SeqCst);
        async { ok() }
    });
    let record = ended(&tasks, task.id).await;
    assert_eq!((record.state, record.attempt), (TaskState::Failed, 3));
    assert!(record.error.as_deref().unwrap().starts_with("poison"));
    let completion: Completion = soon(told.recv()).await.unwrap();
    assert_eq!(
        (completion.request_id(), completion.state),
        (task.id, TaskState::Failed)
    );
    assert_eq!(ran.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn suspects_run_one_at_a_time_and_delay_no_other_task() {
    let (clock, store, first) = stood_still().await;
    let mut suspects = vec![first.id];
    for _ in 0..4 {
        suspects.push(inserted(ledger(&store).insert(Insert::new(new_task("/"))).await.unwrap()).id);
    }
    for _ in &suspects {
        assert_eq!(claim_and_die(&store, LEASE).await.tasks.len(), 1);
    }
    clock.advance(LEASE);
    assert_eq!(ledger(&store).rescue(10).await.unwrap().tasks.len(), 5);

    let gate = Gate::new();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (at_gate, at_once, seen) = (gate.clone(), now.clone(), most.clone());
    let tasks = serve(quick(store).concurrency(4), move |request| {
        let (gate, now, most) = (at_gate.clone(), at_once.clone(), seen.clone());
        async move {
            if request.uri().path() == "/" {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                gate.pass().await;
                now.fetch_sub(1, Ordering::SeqCst);
            }
            ok()
        }
    });
    gate.arrived(1).await;
    for _ in 0..5 {
        look_round(&tasks).await;
    }
    assert!(!gate.has_arrival(), "one suspect at a time");
    gate.open();
    for id in suspects {
        let record = ended(&tasks, id).await;
        assert_eq!(
            (record.state, record.attempt, record.crashes),
            (TaskState::Succeeded, 2, 1)
        );
    }
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

/// Counts some kinds of events.
#[derive(Clone, Debug, Default)]
struct Tally(Arc<Mutex<Vec<&'static str>>>);

impl Tally {
    fn of(&self, kind: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|seen| **seen == kind).count()
    }
}

impl Probe for Tally {
    fn on_event(&self, event: &Event<'_>) {
        let kind = match event {
            Event::Fenced { .. } => "fenced",
            Event::LeaseLost { .. } => "lost",
            Event::Ended { .. } => "ended",
            _ => return,
        };
        self.0.lock().unwrap().push(kind);
    }
}

#[tokio::test]
async fn a_zombie_changes_nothing_and_fires_no_hook() {
    let clock = ManualClock::new(Timestamp::from_millis(1_000));
    let store = MemoryStore::builder().clock(clock.clone()).build();
    let (gate, tally) = (Gate::new(), Tally::default());
    let hooks = Arc::new(Mutex::new(Vec::new()));
    let hook = || {
        let hooks = hooks.clone();
        move |completion: Completion| hooks.lock().unwrap().push(completion.webhook_id)
    };
    let at_gate = gate.clone();
    let builder = quick(store.clone()).probe(tally.clone()).on_completion(hook());
    let zombie = serve(builder, move |_| {
        let gate = at_gate.clone();
        async move {
            gate.pass().await;
            Ok(respond(200, "zombie"))
        }
    });
    look_round_gated(&zombie, &gate).await;
    let id = submit(&zombie, "/").await;
    gate.arrived(1).await;

    // The worker does not renew for a lease, by the store's clock.
    clock.advance(LEASE);
    let healthy = serve(quick(store).lease(LOOKS_OFTEN).on_completion(hook()), |_| async {
        Ok(respond(200, "healthy"))
    });
    let record = ended(&healthy, id).await;
    assert_eq!(
        (record.state, record.attempt, record.crashes),
        (TaskState::Succeeded, 2, 1)
    );
    let told = async || {
        hooks
            .lock()
            .unwrap()
            .iter()
            .filter(|hook| hook.contains(&id.to_string()))
            .count()
    };
    eventually("the hook", async || told().await == 1).await;
    let record = find(&healthy, id).await;

    gate.open();
    eventually("the zombie is told", async || tally.of("fenced") == 1).await;
    assert_eq!(tally.of("ended"), 1, "that of the round before");
    assert_eq!(find(&healthy, id).await.history, record.history);
    let response = healthy.response(id).await.unwrap().unwrap();
    assert_eq!(&response.body[..], b"healthy");
    look_round(&healthy).await;
    assert_eq!(told().await, 1);
}

/// Gives handlers the log of their attempt.
#[derive(Clone, Debug, Default)]
struct Logs(Arc<Mutex<Option<AttemptLog>>>);

impl Probe for Logs {
    fn on_event(&self, _: &Event<'_>) {}

    fn attempt(&self, attempt: &AttemptInfo<'_>) -> Option<Box<dyn AttemptScope>> {
        *self.0.lock().unwrap() = Some(attempt.log());
        None
    }
}

/// The log is stored before the end is reported, and that may take long.
#[tokio::test(start_paused = true)]
async fn an_end_whose_log_is_stored_for_longer_than_the_claim_holds_is_not_reported() {
    let store = FaultStore::new(MemoryStore::new());
    let (faults, tally, logs) = (store.faults(), Tally::default(), Logs::default());
    faults.fail_next(Operation::Renew, 100);
    let stored = faults.delay_next(Operation::AppendLog);
    let builder = quick(store).lease(LEASE).simulated(ManualClock::default());
    let tasks = serve(builder.probe(tally.clone()).probe(logs.clone()), move |_| {
        let logs = logs.clone();
        async move {
            // The claim holds for 28 s here.
            tokio::time::sleep(Duration::from_secs(27)).await;
            let line = LogLine::new(Timestamp::ZERO, "INFO", "test", "about to end");
            logs.0.lock().unwrap().as_ref().unwrap().push(line);
            ok()
        }
    });
    submit(&tasks, "/").await;
    let over = async || tally.of("ended") + tally.of("fenced") + tally.of("lost") > 0;
    eventually("the attempt is over", over).await;
    assert_eq!((tally.of("lost"), faults.calls(Operation::Commit)), (1, 0));
    stored.release();
}

async fn look_round_gated(tasks: &Tasks, gate: &Gate) {
    gate.let_through(1);
    look_round(tasks).await;
    gate.arrived(1).await;
}

#[tokio::test]
async fn without_renewal_a_handler_is_dropped_before_its_lease_ends() {
    let memory = MemoryStore::new();
    let store = FaultStore::new(memory.clone());
    let (faults, dropped) = (store.faults(), Dropped::default());
    let (gate, tally) = (Gate::new(), Tally::default());
    faults.fail_next(Operation::Renew, 100_000);
    let (at_gate, in_handler) = (gate.clone(), dropped.clone());
    let builder = quick(store).lease(Duration::from_millis(500)).probe(tally.clone());
    let tasks = serve(builder, move |request| {
        let (gate, flag, task) = (at_gate.clone(), in_handler.flag(), context(&request));
        async move {
            if task.attempt() == 1 {
                gate.pass().await;
                std::future::pending::<()>().await;
            }
            drop(flag);
            ok()
        }
    });
    let id = submit(&tasks, "/").await;
    gate.arrived(1).await;
    gate.open();
    eventually("it is dropped", async || dropped.is_dropped()).await;
    assert_eq!(tally.of("lost"), 1);
    faults.heal();
    let record = ended(&tasks, id).await;
    assert_eq!(
        (record.state, record.attempt, record.crashes),
        (TaskState::Succeeded, 2, 1)
    );
}

/// The watchdog used to check deadlines only, so a slot whose handler had lost its claim was not shown as stuck.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_handler_whose_claim_was_lost_is_shown_as_stuck() {
    let clock = ManualClock::new(Timestamp::from_millis(1_000));
    let store = MemoryStore::builder().clock(clock.clone()).build();
    let (release, blocked) = mpsc::channel::<()>();
    let (blocked, tally) = (Mutex::new(blocked), Tally::default());
    let blocked = Arc::new(blocked);
    let builder = quick(store).lease(LOOKS_OFTEN).concurrency(2).probe(tally.clone());
    let tasks = serve(builder, move |request| {
        let (blocked, task) = (blocked.clone(), context(&request));
        async move {
            if request.uri().path() == "/block" && task.attempt() == 1 {
                let _ = blocked.lock().unwrap().recv();
            }
            ok()
        }
    });
    let id = submit(&tasks, "/block").await;
    reached(&tasks, id, TaskState::Running).await;
    clock.advance(LEASE);
    let record = ended(&tasks, id).await;
    assert_eq!(
        (record.state, record.attempt, record.crashes),
        (TaskState::Succeeded, 2, 1)
    );
    let slots = async || tasks.stats().await.unwrap().slots.unwrap();
    eventually("it is stuck", async || {
        slots().await.stuck == 1 && tally.of("lost") == 1
    })
    .await;
    drop(release);
    eventually("it is free", async || {
        (slots().await.used, slots().await.stuck) == (0, 0)
    })
    .await;
    assert_eq!(tally.of("lost"), 1, "told once");
    assert_eq!(find(&tasks, id).await.history, record.history);
}

/// After a failure the next renewal used to come a third of a lease later, so that two failures in a row lost the
/// claim.
#[tokio::test]
async fn two_failed_renewals_cost_nothing() {
    let store = FaultStore::new(MemoryStore::new());
    let (faults, gate) = (store.faults(), Gate::new());
    faults.fail_next(Operation::Renew, 2);
    let at_gate = gate.clone();
    let tasks = serve(quick(store).lease(Duration::from_secs(6)), move |_| {
        let gate = at_gate.clone();
        async move {
            gate.pass().await;
            ok()
        }
    });
    let id = submit(&tasks, "/").await;
    gate.arrived(1).await;
    eventually("a renewal after them", async || faults.calls(Operation::Renew) >= 3).await;
    gate.open();
    let record = ended(&tasks, id).await;
    assert_eq!(
        (record.state, record.attempt, record.crashes),
        (TaskState::Succeeded, 1, 0)
    );
}

/// The lease used to start with the head of the request. When the body took longer than a lease to arrive, the attempt
/// was past its deadline before it began: it was dropped, idle for a lease, and charged with a crash.
#[tokio::test]
async fn a_request_whose_body_takes_longer_than_a_lease_runs_at_once() {
    let layer = quick(MemoryStore::new())
        .lease(Duration::from_millis(300))
        .build()
        .unwrap();
    let tasks = layer.tasks();
    let mut service = layer.layer(service_fn(|request: Request<_>| async move {
        let _: &TaskContext = request.extensions().get().unwrap();
        drop::<tower_respond_async::RequestBody>(request.into_body());
        Ok::<_, BoxError>(Response::new(Full::<Bytes>::from("done")))
    }));
    look_round(&tasks).await;
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
    let request = Request::post("/slow").header("Prefer", "respond-async");
    let answer = tokio::spawn(async move {
        let body = tower_respond_async::RequestBody::live(body);
        service.call(request.body(body).unwrap()).await
    });
    sender.send_data(Bytes::from_static(b"first ")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    sender.send_data(Bytes::from_static(b"last")).await.unwrap();
    drop(sender);
    assert_eq!(answer.await.unwrap().unwrap().status(), 202);
    let page = tasks.list(&Filter::default(), Default::default()).await.unwrap();
    let slow = page
        .items
        .iter()
        .find(|record| record.target.path() == "/slow")
        .unwrap();
    let record = ended(&tasks, slow.id).await;
    assert_eq!(
        (record.state, record.attempt, record.crashes),
        (TaskState::Succeeded, 1, 0)
    );
}

/// A clock that panics on demand, and with it the store that reads it.
#[derive(Clone, Debug, Default)]
struct Broken(Arc<AtomicUsize>);

impl Clock for Broken {
    fn now(&self) -> Timestamp {
        let broken = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert!(broken.is_err(), "the clock is broken");
        tower_respond_async::time::SystemClock::new().now()
    }
}

/// A panic of the store used to end the driver's work of that kind for good, and the thread that renews leases.
#[tokio::test]
async fn an_engine_outlives_a_store_that_panics() {
    let (clock, gate) = (Broken::default(), Gate::new());
    let at_gate = gate.clone();
    let store = MemoryStore::builder().clock(clock.clone()).build();
    let tasks = serve(quick(store).lease(Duration::from_secs(9)), move |request| {
        let gate = at_gate.clone();
        async move {
            if request.uri().path() == "/wait" {
                gate.pass().await;
            }
            ok()
        }
    });
    let id = submit(&tasks, "/wait").await;
    gate.arrived(1).await;
    clock.0.store(8, Ordering::SeqCst);
    eventually("it has panicked", async || clock.0.load(Ordering::SeqCst) == 0).await;
    look_round(&tasks).await;
    gate.open();
    let record = ended(&tasks, id).await;
    assert_eq!(
        (record.state, record.attempt, record.crashes),
        (TaskState::Succeeded, 1, 0)
    );
}

/// While leases are renewed, a task is never in two handlers at once, however short the leases are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_leases_are_kept_by_renewal() {
    let store = MemoryStore::new();
    let running = Arc::new(Mutex::new(HashSet::new()));
    let engine = || {
        let running = running.clone();
        serve(quick(store.clone()).lease(Duration::from_millis(900)), move |request| {
            let (running, id) = (running.clone(), context(&request).request_id());
            async move {
                assert!(running.lock().unwrap().insert(id));
                tokio::time::sleep(Duration::from_millis(1500)).await;
                running.lock().unwrap().remove(&id);
                ok()
            }
        })
    };
    let engines = [engine(), engine()];
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(submit(&engines[0], "/").await);
    }
    for id in ids {
        let record = ended(&engines[1], id).await;
        assert_eq!(
            (record.state, record.attempt, record.crashes),
            (TaskState::Succeeded, 1, 0)
        );
    }
}
