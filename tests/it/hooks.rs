//! Hooks for the end of a task.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use http::header::RETRY_AFTER;
use tower_respond_async::{
    BoxError, Completion, CompletionHook, MemoryStore, RequestBody, RequestId, RespondAsyncBuilder, Scope, TaskState,
    Tasks,
    probe::{Event, Probe},
    store::{Insert, Operation},
    task::{
        Condition, Conditions, DeliveryStatus, Destination, Subscription, Subscriptions, delivery::Redeliver,
        lifecycle::Edits,
    },
    testing::{FaultStore, ManualClock},
    time::Timestamp,
};

use crate::engine_support::{
    Gate, LONG, Reply, at_once, claim_and_die, ended, eventually, find, inserted, ledger, look_round, new_task, ok,
    quick, reached, respond, serve, soon, stored, submission, submit,
};

/// Records the calls of a hook.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Completion>>>);

impl Told {
    fn note(&self, completion: Completion) {
        self.0.lock().unwrap().push(completion);
    }

    fn of(&self, id: RequestId) -> Vec<Completion> {
        let all = self.0.lock().unwrap();
        all.iter().filter(|told| told.request_id() == id).cloned().collect()
    }

    async fn times(&self, id: RequestId, times: usize) -> Vec<Completion> {
        eventually("the hook is called", async || self.of(id).len() >= times).await;
        let told = self.of(id);
        assert_eq!(told.len(), times, "{told:?}");
        told
    }
}

fn still() -> (ManualClock, MemoryStore) {
    let clock = ManualClock::new(Timestamp::from_millis(1_000));
    (clock.clone(), MemoryStore::builder().clock(clock).build())
}

/// Answers with the status in the path.
async fn by_path(request: http::Request<RequestBody>) -> Reply {
    let status = request.uri().path()[1..].parse().unwrap_or(200);
    Ok(respond(status, "answer"))
}

async fn delivery(tasks: &Tasks, id: RequestId, status: DeliveryStatus) {
    eventually(&format!("{status:?}"), async || {
        find(tasks, id).await.destination_status() == status
    })
    .await;
}

/// Longer than the first pause after a failed try, and shorter than the second.
const FIRST_PAUSE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn every_form_of_hook_is_called_once_for_its_kinds_of_end() {
    struct Own(Told);
    impl CompletionHook for Own {
        fn deliver(
            &self,
            completion: Completion,
        ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + '_>> {
            Box::pin(async move {
                self.0.note(completion);
                Ok(())
            })
        }
    }
    let [plain, fallible, asynchronous, own] = [(); 4].map(|()| Told::default());
    let (channel, mut received) = tokio::sync::mpsc::channel(10);
    let hooks = (plain.clone(), fallible.clone(), asynchronous.clone());
    let own_hook: Arc<dyn CompletionHook> = Arc::new(Own(own.clone()));
    let builder = quick(MemoryStore::new())
        .retry(at_once(0))
        .on_success(move |completion: Completion| hooks.0.note(completion))
        .on_failure(move |completion: Completion| -> Result<(), BoxError> {
            hooks.1.note(completion);
            Ok(())
        })
        .on_completion(move |completion: Completion| {
            let told = hooks.2.clone();
            async move { told.note(completion) }
        })
        .on_completion(channel)
        .on_completion(own_hook);
    let tasks = serve(builder, by_path);
    let (good, bad) = (submit(&tasks, "/201").await, submit(&tasks, "/404").await);
    for id in [good, bad] {
        delivery(&tasks, id, DeliveryStatus::Delivered).await;
        assert_eq!(asynchronous.times(id, 1).await.len(), own.times(id, 1).await.len());
    }
    assert_eq!((plain.of(good).len(), plain.of(bad).len()), (1, 0));
    assert_eq!((fallible.of(good).len(), fallible.of(bad).len()), (0, 1));
    let mut channelled = [received.recv().await.unwrap(), received.recv().await.unwrap()];
    channelled.sort_by_key(Completion::request_id);
    assert_eq!(channelled.iter().map(Completion::request_id).collect::<Vec<_>>(), {
        let mut ids = vec![good, bad];
        ids.sort_unstable();
        ids
    });

    let told = &plain.of(good)[0];
    assert_eq!(told.webhook_id, format!("msg_{good}_1_local"));
    assert_eq!(
        (told.condition, told.state, told.attempt, told.generation),
        (Condition::Success, TaskState::Succeeded, 1, 1)
    );
    assert_eq!((told.method().as_str(), told.uri().path()), ("POST", "/201"));
    assert_eq!(&told.request().unwrap().body[..], b"input");
    let response = told.response.as_ref().unwrap();
    assert_eq!((response.status.as_u16(), &response.body[..]), (201, &b"answer"[..]));
    let told = &fallible.of(bad)[0];
    assert_eq!(told.error.as_deref(), Some("the handler answered 404 Not Found"));
}

#[tokio::test]
async fn a_hook_that_fails_is_called_again_under_the_same_webhook_id() {
    type Hook = fn(u32) -> Result<(), BoxError>;
    let ways: [(Hook, &str); 2] = [
        (|_| Err("the ledger is locked".into()), "the ledger is locked"),
        (|call| panic!("call {call} failed"), "the hook panicked: call 1 failed"),
    ];
    for (fail, text) in ways {
        let (clock, store) = still();
        let told = Told::default();
        let in_hook = told.clone();
        let builder = quick(store).on_completion(move |completion: Completion| {
            let id = completion.request_id();
            in_hook.note(completion);
            match in_hook.of(id).len() as u32 {
                call if call < 2 => fail(call),
                _ => Ok(()),
            }
        });
        let tasks = serve(builder, by_path);
        let id = submit(&tasks, "/200").await;
        eventually("the first try", async || {
            let record = find(&tasks, id).await;
            record.deliveries.first().is_some_and(|delivery| delivery.tried == 1)
        })
        .await;
        let record = find(&tasks, id).await;
        assert_eq!(
            (record.state, record.error.as_deref()),
            (TaskState::Succeeded, None),
            "the task is none the worse"
        );
        assert_eq!(record.destination_status(), DeliveryStatus::Pending);
        assert_eq!(record.deliveries[0].tries[0].text.as_deref(), Some(text));

        clock.advance(FIRST_PAUSE);
        // The end of that task makes the engine check the outbox.
        look_round(&tasks).await;
        let calls = told.times(id, 2).await;
        assert_eq!(calls[0].webhook_id, calls[1].webhook_id);
        delivery(&tasks, id, DeliveryStatus::Delivered).await;
    }
}

#[tokio::test]
async fn a_channel_without_a_receiver_is_a_failed_delivery() {
    let (channel, received) = tokio::sync::mpsc::channel::<Completion>(1);
    drop(received);
    let tasks = serve(quick(MemoryStore::new()).on_completion(channel), by_path);
    let id = submit(&tasks, "/200").await;
    eventually("the first try", async || {
        let record = find(&tasks, id).await;
        record.deliveries.first().is_some_and(|delivery| delivery.tried == 1)
    })
    .await;
    let record = find(&tasks, id).await;
    assert_eq!(
        (record.state, record.destination_status()),
        (TaskState::Succeeded, DeliveryStatus::Pending)
    );
    let text = record.deliveries[0].tries[0].text.as_deref().unwrap();
    assert!(text.contains("receiver"), "{text}");
}

#[tokio::test]
async fn a_hook_that_never_ends_is_timed_out_and_called_again() {
    let (clock, store) = still();
    let (gate, told) = (Gate::new(), Told::default());
    let (at_gate, in_hook) = (gate.clone(), told.clone());
    let builder = quick(store).on_failure(move |completion: Completion| {
        let (gate, told) = (at_gate.clone(), in_hook.clone());
        async move {
            let first = told.of(completion.request_id()).is_empty();
            told.note(completion);
            if first {
                gate.pass().await;
                std::future::pending::<()>().await;
            }
        }
    });
    let tasks = serve(builder, by_path);
    let id = submit(&tasks, "/404").await;
    gate.arrived(1).await;
    gate.open();
    // Only the timers' clock: half a minute passes for the hook, and no time for the store.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    eventually("it is timed out", async || {
        let record = find(&tasks, id).await;
        record.deliveries[0].tried == 1
    })
    .await;
    let record = find(&tasks, id).await;
    let text = record.deliveries[0].tries[0].text.as_deref().unwrap();
    assert_eq!(text, "the hook took longer than 30s");
    clock.advance(FIRST_PAUSE);
    let other = submit(&tasks, "/410").await;
    told.times(id, 2).await;
    delivery(&tasks, id, DeliveryStatus::Delivered).await;
    delivery(&tasks, other, DeliveryStatus::Pending).await;
}

/// The hook used to be called on the thread that runs the handlers, and everything stood still until it returned.
#[tokio::test]
async fn a_hook_that_blocks_its_thread_delays_no_task() {
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let told = Told::default();
    let in_hook = told.clone();
    let builder = quick(MemoryStore::new())
        .retry(at_once(0))
        .on_failure(move |_: Completion| {
            let _ = blocked.lock().unwrap().recv();
        })
        .on_success(move |completion: Completion| in_hook.note(completion));
    let tasks = serve(builder, by_path);
    let mut failed = Vec::new();
    for _ in 0..8 {
        failed.push(submit(&tasks, "/404").await);
    }
    for id in &failed {
        ended(&tasks, *id).await;
    }
    for _ in 0..20 {
        let id = submit(&tasks, "/200").await;
        told.times(id, 1).await;
    }
    drop(release);
    for id in failed {
        delivery(&tasks, id, DeliveryStatus::Delivered).await;
    }
}

/// A destination was removed from the configuration while it had pending completions. Their tasks used to be kept for
/// ever.
#[tokio::test]
async fn a_completion_for_a_destination_that_is_gone_is_given_up_and_can_be_asked_for_again() {
    #[derive(Clone, Debug, Default)]
    struct GivenUp(Arc<Mutex<Vec<(RequestId, String)>>>);
    impl Probe for GivenUp {
        fn on_event(&self, event: &Event<'_>) {
            if let Event::GivenUp { id, destination } = event {
                self.0.lock().unwrap().push((*id, destination.to_string()));
            }
        }
    }

    let (clock, store) = still();
    let (gone, patience) = (Destination::new("gone"), Duration::from_millis(50));
    let ended_telling = async |destination: &Destination| {
        let mut task = new_task("/200");
        task.subscriptions = Subscriptions::from([Subscription {
            destination: destination.clone(),
            on: Conditions::ALL,
        }]);
        let id = inserted(ledger(&store).insert(Insert::new(task)).await.unwrap()).id;
        let _ = ledger(&store).stop(&Scope::All, id).await.unwrap();
        id
    };
    let (nobodys, mine) = (ended_telling(&gone).await, ended_telling(&Destination::LOCAL).await);
    clock.advance(patience);
    let early = ended_telling(&gone).await;

    let (told, given_up) = (Told::default(), GivenUp::default());
    let in_hook = told.clone();
    let builder = quick(store.clone())
        .callback_patience(patience)
        .probe(given_up.clone())
        .on_completion(move |completion: Completion| in_hook.note(completion));
    let tasks = serve(builder, |_| async { ok() });
    delivery(&tasks, nobodys, DeliveryStatus::Failed).await;
    let record = find(&tasks, nobodys).await;
    let why = record.deliveries[0].tries[0].text.as_deref().unwrap();
    assert_eq!(why, "given up: it was due for 0.05 s, and no process delivered it");
    assert_eq!(*given_up.0.lock().unwrap(), [(nobodys, "gone".to_owned())]);
    assert_eq!(find(&tasks, early).await.destination_status(), DeliveryStatus::Pending);
    told.times(mine, 1).await;
    delivery(&tasks, mine, DeliveryStatus::Delivered).await;

    let again = ledger(&store).redeliver(&Scope::All, nobodys, 1, &gone).await.unwrap();
    assert_eq!(again, Redeliver::Due);
    delivery(&tasks, nobodys, DeliveryStatus::Pending).await;
}

#[tokio::test]
async fn every_kind_of_end_is_delivered() {
    let (clock, store) = still();
    let told = Told::default();
    let stops = Told::default();
    let (in_hook, in_stop) = (told.clone(), stops.clone());
    let poison = {
        let mut task = new_task("/200");
        task.crash_allowance = 1;
        task.subscriptions = Subscriptions::from([Subscription {
            destination: Destination::LOCAL,
            on: Conditions::ALL,
        }]);
        let id = inserted(ledger(&store).insert(Insert::new(task)).await.unwrap()).id;
        assert_eq!(claim_and_die(&store, Duration::ZERO).await.tasks.len(), 1);
        id
    };
    let builder = quick(store)
        .lease(Duration::from_secs(1))
        .max_age(Duration::from_secs(600))
        .on_completion(move |completion: Completion| in_hook.note(completion))
        .on_stop(move |completion: Completion| in_stop.note(completion));
    let tasks = serve(builder, |request| async move {
        match request.uri().path() {
            "/later" => {
                let mut response = respond(503, "");
                response.headers_mut().insert(RETRY_AFTER, "3600".parse().unwrap());
                Ok(response)
            }
            "/hang" => std::future::pending().await,
            _ => by_path(request).await,
        }
    });
    let success = submit(&tasks, "/200").await;
    let failure = submit(&tasks, "/500").await;
    let expired = submit(&tasks, "/later").await;
    reached(&tasks, expired, TaskState::Retrying).await;
    let waiting = {
        let mut submission = submission("/200");
        submission.delay = Duration::from_secs(86_400);
        stored(tasks.submit(submission).await.unwrap())
    };
    let _ = tasks.stop(waiting).await.unwrap();
    for id in [success, failure, poison, waiting] {
        // Before the clock moves: the claim of a delivery under way would lapse, and it would be made twice.
        delivery(&tasks, id, DeliveryStatus::Delivered).await;
    }
    clock.advance(Duration::from_secs(600));
    let expected = HashMap::from([
        (success, (TaskState::Succeeded, Condition::Success)),
        (failure, (TaskState::Failed, Condition::Failure)),
        (expired, (TaskState::Expired, Condition::Failure)),
        (waiting, (TaskState::Stopped, Condition::Stop)),
        (poison, (TaskState::Failed, Condition::Failure)),
    ]);
    for (id, (state, condition)) in expected {
        let calls = told.times(id, 1).await;
        assert_eq!((calls[0].state, calls[0].condition), (state, condition));
        let stopped = (state == TaskState::Stopped) as usize;
        stops.times(id, stopped).await;
    }
}

#[tokio::test]
async fn a_running_task_that_is_stopped_is_delivered_as_stopped() {
    let told = Told::default();
    let in_hook = told.clone();
    let builder = quick(MemoryStore::new())
        .stop_grace(Duration::ZERO)
        .on_stop(move |completion: Completion| in_hook.note(completion));
    let tasks = serve(builder, |_| std::future::pending());
    let id = submit(&tasks, "/").await;
    reached(&tasks, id, TaskState::Running).await;
    let _ = tasks.stop(id).await.unwrap();
    let calls = told.times(id, 1).await;
    assert_eq!((calls[0].state, calls[0].attempt), (TaskState::Stopped, 1));
}

#[tokio::test]
async fn an_end_without_a_matching_hook_calls_none() {
    let told = Told::default();
    let in_hook = told.clone();
    let builder = quick(MemoryStore::new()).on_failure(move |completion: Completion| in_hook.note(completion));
    let tasks = serve(builder, by_path);
    let id = submit(&tasks, "/200").await;
    let record = ended(&tasks, id).await;
    assert_eq!(
        (record.deliveries.len(), record.destination_status()),
        (0, DeliveryStatus::None)
    );
}

/// Each generation has its own end, and each end its own id.
#[tokio::test]
async fn a_task_that_runs_again_is_delivered_again() {
    let told = Told::default();
    let in_hook = told.clone();
    let builder = quick(MemoryStore::new()).on_completion(move |completion: Completion| in_hook.note(completion));
    let tasks = serve(builder, by_path);
    let id = submit(&tasks, "/200").await;
    told.times(id, 1).await;
    let _ = tasks.rerun(id, Edits::default()).await.unwrap();
    let calls = told.times(id, 2).await;
    assert_eq!(calls[1].webhook_id, format!("msg_{id}_2_local"));
    assert_eq!(calls[1].generation, 2);
}

/// The first completion is claimed, and the task runs again before its response is read, as if the process was frozen
/// there.
#[tokio::test]
async fn a_completion_never_has_the_response_of_a_later_run() {
    let store = FaultStore::new(MemoryStore::new());
    let reading = store.faults().delay_next(Operation::Payload);
    let (told, runs) = (Told::default(), Arc::new(AtomicUsize::new(0)));
    let in_hook = told.clone();
    let builder = quick(store).on_completion(move |completion: Completion| in_hook.note(completion));
    let tasks = serve(builder, move |_| {
        let status = [200, 201][runs.fetch_add(1, Ordering::SeqCst)];
        async move { Ok(respond(status, "")) }
    });
    let id = submit(&tasks, "/").await;
    soon(reading.arrived()).await;
    let _ = tasks.rerun(id, Edits::default()).await.unwrap();
    let second = told.times(id, 1).await.remove(0);
    assert_eq!((second.generation, second.response.unwrap().status.as_u16()), (2, 201));
    reading.release();
    let first = told.times(id, 2).await.remove(1);
    assert_eq!(first.generation, 1);
    assert!(first.response.is_none() && !first.is_current(), "{first:?}");
}

#[tokio::test]
async fn the_next_engine_delivers_an_end_that_the_shutdown_left_pending() {
    let memory = MemoryStore::new();
    let store = FaultStore::new(memory.clone());
    store.faults().fail_next(Operation::ClaimDeliveries, 100_000);
    let never = Told::default();
    let in_hook = never.clone();
    let first = serve(
        quick(store).on_completion(move |completion: Completion| in_hook.note(completion)),
        by_path,
    );
    let id = submit(&first, "/200").await;
    ended(&first, id).await;
    soon(first.shutdown(LONG)).await;
    assert!(never.of(id).is_empty());

    let told = Told::default();
    let in_hook = told.clone();
    let next = serve(
        quick(memory).on_completion(move |completion: Completion| in_hook.note(completion)),
        |_| async { ok() },
    );
    let calls = told.times(id, 1).await;
    assert_eq!(calls[0].webhook_id, format!("msg_{id}_1_local"));
    delivery(&next, id, DeliveryStatus::Delivered).await;
}

/// At least once: an answer that the store loses does not lose the call, and may repeat it.
#[tokio::test]
async fn a_store_that_fails_around_a_delivery_loses_none() {
    for operation in [Operation::ClaimDeliveries, Operation::Payload] {
        let store = FaultStore::new(MemoryStore::new());
        let (faults, told) = (store.faults(), Told::default());
        let in_hook = told.clone();
        let tasks = serve(
            quick(store).on_completion(move |completion: Completion| in_hook.note(completion)),
            by_path,
        );
        look_round(&tasks).await;
        faults.fail_next(operation, 1);
        let id = submit(&tasks, "/200").await;
        ended(&tasks, id).await;
        // The next task that ends makes the engine check the outbox again.
        let nudged = Arc::new(AtomicUsize::new(0));
        eventually("it is told", async || {
            if nudged.fetch_add(1, Ordering::SeqCst).is_multiple_of(50) {
                look_round(&tasks).await;
            }
            !told.of(id).is_empty()
        })
        .await;
        assert_eq!(find(&tasks, id).await.state, TaskState::Succeeded);
    }
}

/// Two hooks of one task are one delivery: if one fails, both are called again.
#[tokio::test]
async fn all_hooks_of_an_end_are_called_again_if_one_fails() {
    fn failing_first(builder: RespondAsyncBuilder, told: &Told, failed: &Told) -> RespondAsyncBuilder {
        let (told, failed) = (told.clone(), failed.clone());
        builder
            .on_completion(move |completion: Completion| told.note(completion))
            .on_completion(move |completion: Completion| -> Result<(), BoxError> {
                let id = completion.request_id();
                failed.note(completion);
                if failed.of(id).len() == 1 {
                    Err("not now".into())
                } else {
                    Ok(())
                }
            })
    }
    let (clock, store) = still();
    let (told, failed) = (Told::default(), Told::default());
    let tasks = serve(failing_first(quick(store), &told, &failed), by_path);
    let id = submit(&tasks, "/200").await;
    failed.times(id, 1).await;
    delivery(&tasks, id, DeliveryStatus::Pending).await;
    eventually("the first try", async || {
        find(&tasks, id).await.deliveries[0].tried == 1
    })
    .await;
    clock.advance(FIRST_PAUSE);
    look_round(&tasks).await;
    failed.times(id, 2).await;
    told.times(id, 2).await;
    delivery(&tasks, id, DeliveryStatus::Delivered).await;
}
