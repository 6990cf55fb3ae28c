//! The engine on a store that fails, loses answers and stalls.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tower_respond_async::{
    MemoryStore, RequestId, Scope, SubmitError, Submitted, TaskState, Tasks,
    store::{Insert, Operation, StoreErrorKind},
    task::{Filter, IdempotencyKey, lifecycle::Stop},
    testing::{FaultStore, Faults},
};

use crate::engine_support::{
    Gate, context, ended, eventually, find, inserted, ledger, look_round, new_task, ok, quick, serve, soon, submission,
    submit,
};

struct Bench {
    memory: MemoryStore,
    faults: Faults,
    tasks: Tasks,
    /// Handlers on `/wait` wait here.
    gate: Gate,
    ran: Arc<Mutex<Vec<RequestId>>>,
}

impl Bench {
    /// An idle engine with one slot.
    async fn new(
        change: impl FnOnce(tower_respond_async::RespondAsyncBuilder) -> tower_respond_async::RespondAsyncBuilder,
    ) -> Self {
        let memory = MemoryStore::new();
        let store = FaultStore::new(memory.clone());
        let faults = store.faults();
        let (gate, ran) = (Gate::new(), Arc::default());
        let (at_gate, seen): (_, Arc<Mutex<Vec<RequestId>>>) = (gate.clone(), Arc::clone(&ran));
        let builder = change(quick(store).concurrency(1));
        let tasks = serve(builder, move |request| {
            seen.lock().unwrap().push(context(&request).request_id().unwrap());
            let gate = at_gate.clone();
            async move {
                if request.uri().path() == "/wait" {
                    gate.pass().await;
                }
                ok()
            }
        });
        let bench = Self {
            memory,
            faults,
            tasks,
            gate,
            ran,
        };
        look_round(&bench.tasks).await;
        // A second task, so that the engine has seen an empty queue and claims the next one with its insert.
        eventually("all is quiet", async || bench.used().await == 0).await;
        look_round(&bench.tasks).await;
        eventually("all is quiet", async || bench.used().await == 0).await;
        bench
    }

    /// Submits a task and loses the store's answer. The key finds the task.
    async fn submit_unanswered(&self, path: &str) -> IdempotencyKey {
        let key = IdempotencyKey::new("key").unwrap();
        let mut submission = submission(path);
        submission.key = Some(key.clone());
        let refused = self.tasks.submit(submission).await.unwrap_err();
        let SubmitError::Store(error) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        key
    }

    /// Submits the same task again, as a client would to find out.
    async fn submit_again(&self, path: &str, key: IdempotencyKey) -> Submitted {
        let mut submission = submission(path);
        submission.key = Some(key);
        self.tasks.submit(submission).await.unwrap()
    }

    /// The only stored task for this path.
    async fn stored_for(&self, path: &str) -> RequestId {
        let mut found = None;
        eventually("it is stored", async || {
            let all = ledger(&self.memory)
                .list_all(&Scope::All, &Filter::default())
                .await
                .unwrap();
            found = all
                .iter()
                .find(|record| record.target.path() == path)
                .map(|record| record.id);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    fn runs_of(&self, id: RequestId) -> usize {
        self.ran.lock().unwrap().iter().filter(|ran| **ran == id).count()
    }

    async fn used(&self) -> usize {
        self.tasks.stats().await.unwrap().slots.unwrap().used
    }

    /// The task has succeeded at its first attempt, in this handler only.
    async fn ran_once(&self, id: RequestId) {
        let record = ended(&self.tasks, id).await;
        assert_eq!(
            (record.state, record.attempt, record.crashes),
            (TaskState::Succeeded, 1, 0),
            "{record:?}"
        );
        assert_eq!(self.runs_of(id), 1);
    }
}

/// The slot used to stay reserved for most of a lease, in case the insert had taken effect. Nothing would have run here
/// for half a minute.
#[tokio::test]
async fn an_insert_that_fails_stores_nothing_and_costs_no_slot() {
    let bench = Bench::new(|builder| builder).await;
    bench.faults.fail_next(Operation::Insert, 3);
    for _ in 0..3 {
        let refused = bench.tasks.submit(submission("/")).await;
        assert!(matches!(refused, Err(SubmitError::Store(_))));
    }
    assert_eq!(bench.used().await, 0);
    look_round(&bench.tasks).await;
    let counts = bench.tasks.stats().await.unwrap().counts;
    assert_eq!(
        counts.iter().map(|(_, count)| count).sum::<u64>(),
        3,
        "the three look-rounds"
    );
}

#[tokio::test]
async fn an_insert_whose_answer_is_lost_runs_once_and_its_key_finds_it() {
    let bench = Bench::new(|builder| builder).await;
    bench.faults.lose_replies(Operation::Insert, 1);
    let key = bench.submit_unanswered("/lost").await;
    let id = bench.stored_for("/lost").await;
    let Submitted::Known {
        id: known,
        same_request,
        ..
    } = bench.submit_again("/lost", key).await
    else {
        panic!("its key is known");
    };
    assert_eq!((known, same_request), (id, true));
    bench.ran_once(id).await;
}

/// Its slot is taken by another task meanwhile. It is handed back, and not left to its lease and charged with a crash.
#[tokio::test]
async fn a_lost_insert_that_finds_no_slot_waits_for_one() {
    let bench = Bench::new(|builder| builder).await;
    bench.faults.lose_replies(Operation::Insert, 1);
    bench.submit_unanswered("/lost").await;
    let other = submit(&bench.tasks, "/wait").await;
    bench.gate.arrived(1).await;
    let id = bench.stored_for("/lost").await;
    eventually("it is handed back", async || {
        find(&bench.tasks, id).await.state == TaskState::Enqueued
    })
    .await;
    bench.gate.open();
    bench.ran_once(other).await;
    bench.ran_once(id).await;
}

#[tokio::test]
async fn an_insert_that_answers_after_the_time_limit_still_starts_on_its_slot() {
    let bench = Bench::new(|builder| builder.store_timeout(Duration::from_millis(50))).await;
    let delayed = bench.faults.delay_next(Operation::Insert);
    bench.submit_unanswered("/late").await;
    assert_eq!(bench.used().await, 1, "the slot is kept for it");
    delayed.release();
    let id = bench.stored_for("/late").await;
    bench.ran_once(id).await;
}

/// An insert that never answered used to keep its slot for ever.
#[tokio::test]
async fn an_insert_that_hangs_lets_go_of_its_slot_and_is_handed_back_when_it_lands() {
    let bench = Bench::new(|builder| {
        builder
            .store_timeout(Duration::from_millis(50))
            .lease(Duration::from_millis(300))
    })
    .await;
    let delayed = bench.faults.delay_next(Operation::Insert);
    bench.submit_unanswered("/late").await;
    eventually("the slot is free", async || bench.used().await == 0).await;
    look_round(&bench.tasks).await;
    delayed.release();
    let id = bench.stored_for("/late").await;
    bench.ran_once(id).await;
}

/// The commit goes on after its caller has left.
#[tokio::test]
async fn an_insert_whose_caller_left_is_seen_through() {
    let bench = Bench::new(|builder| builder).await;
    let delayed = bench.faults.delay_next(Operation::Insert);
    let tasks = bench.tasks.clone();
    let caller = tokio::spawn(async move { tasks.submit(submission("/left")).await });
    soon(delayed.arrived()).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    delayed.release();
    let id = bench.stored_for("/left").await;
    bench.ran_once(id).await;
}

#[tokio::test]
async fn a_result_is_kept_until_the_store_takes_it() {
    let bench = Bench::new(|builder| builder).await;
    bench.faults.fail_next(Operation::Commit, 4);
    let id = submit(&bench.tasks, "/").await;
    bench.ran_once(id).await;
    let settles = bench.faults.calls(Operation::Commit);
    assert_eq!(settles, 2 + 4 + 1, "two look-rounds, four failures, one success");
}

#[tokio::test]
async fn a_result_whose_answer_is_lost_counts_once() {
    let told = Arc::new(AtomicUsize::new(0));
    let in_hook = told.clone();
    let bench = Bench::new(|builder| {
        builder.on_completion(move |_: tower_respond_async::Completion| {
            in_hook.fetch_add(1, Ordering::SeqCst);
        })
    })
    .await;
    bench.faults.lose_replies(Operation::Commit, 1);
    let id = submit(&bench.tasks, "/").await;
    bench.ran_once(id).await;
    eventually("the slot is free", async || bench.used().await == 0).await;
    assert_eq!(
        find(&bench.tasks, id).await.history.len(),
        3,
        "accepted, begun, ended, once each"
    );
    eventually("the hook is called", async || told.load(Ordering::SeqCst) == 3).await;
}

/// A result that was never stored is not reported. Past its deadline it is dropped, and the task runs again.
#[tokio::test]
async fn a_result_that_cannot_be_stored_while_the_claim_holds_is_dropped_and_the_task_runs_again() {
    let bench = Bench::new(|builder| builder.lease(Duration::from_millis(500))).await;
    bench.faults.fail_next(Operation::Commit, 100_000);
    // The lease is not renewed either: the store is down for both.
    bench.faults.fail_next(Operation::Renew, 100_000);
    let id = submit(&bench.tasks, "/").await;
    eventually("it is given up", async || bench.used().await == 0).await;
    assert!(
        !ledger(&bench.memory)
            .find(&Scope::All, &id.into())
            .await
            .unwrap()
            .unwrap()
            .state
            .is_terminal()
    );
    bench.faults.heal();
    let record = ended(&bench.tasks, id).await;
    assert_eq!(
        (record.state, record.attempt, record.crashes),
        (TaskState::Succeeded, 2, 1)
    );
    assert_eq!(bench.runs_of(id), 2);
}

#[tokio::test]
async fn a_claim_that_fails_is_repeated_after_a_pause() {
    let bench = Bench::new(|builder| builder).await;
    let before = bench.faults.calls(Operation::Claim);
    bench.faults.fail_next(Operation::Claim, 3);
    let id = inserted(ledger(&bench.memory).insert(Insert::new(new_task("/"))).await.unwrap()).id;
    bench.ran_once(id).await;
    let calls = bench.faults.calls(Operation::Claim) - before;
    assert!(
        (4..20).contains(&calls),
        "{calls} claims: it does not hammer a store in trouble"
    );
}

/// The tasks of a slow claim used to wait for their lease, and were charged with a crash.
#[tokio::test]
async fn a_claim_that_answers_after_the_time_limit_runs_what_it_claimed() {
    let bench = Bench::new(|builder| builder.store_timeout(Duration::from_millis(50))).await;
    let delayed = bench.faults.delay_next(Operation::Claim);
    let id = inserted(ledger(&bench.memory).insert(Insert::new(new_task("/"))).await.unwrap()).id;
    soon(delayed.arrived()).await;
    eventually("the time limit has passed", async || bench.used().await == 0).await;
    // Nothing else may claim the task before the release: it is claimed when the delayed call is made.
    bench.faults.fail_next(Operation::Claim, 1);
    delayed.release();
    bench.ran_once(id).await;
}

/// Running tasks do not depend on a claim that stalls.
#[tokio::test]
async fn running_tasks_do_not_notice_a_claim_that_stalls() {
    let bench = Bench::new(|builder| builder.concurrency(2)).await;
    let running = submit(&bench.tasks, "/wait").await;
    bench.gate.arrived(1).await;
    let delayed = bench.faults.delay_next(Operation::Claim);
    let waiting = inserted(ledger(&bench.memory).insert(Insert::new(new_task("/"))).await.unwrap()).id;
    soon(delayed.arrived()).await;
    bench.gate.open();
    bench.ran_once(running).await;
    delayed.release();
    bench.ran_once(waiting).await;
}

/// Such a task used to wait for its lease, and was charged with a crash.
#[tokio::test]
async fn a_claim_whose_answer_is_lost_is_found_and_runs_once() {
    let bench = Bench::new(|builder| builder).await;
    bench.faults.lose_replies(Operation::Claim, 1);
    let id = inserted(ledger(&bench.memory).insert(Insert::new(new_task("/"))).await.unwrap()).id;
    bench.ran_once(id).await;
}

#[tokio::test]
async fn a_lost_claim_that_finds_no_slot_waits_for_one() {
    let bench = Bench::new(|builder| builder).await;
    bench.faults.lose_replies(Operation::Claim, 1);
    let looking = bench.faults.delay_next(Operation::Rows);
    let id = inserted(ledger(&bench.memory).insert(Insert::new(new_task("/"))).await.unwrap()).id;
    soon(looking.arrived()).await;
    let running = submit(&bench.tasks, "/wait").await;
    bench.gate.arrived(1).await;
    looking.release();
    eventually("it is handed back", async || {
        find(&bench.tasks, id).await.state == TaskState::Enqueued
    })
    .await;
    bench.gate.open();
    bench.ran_once(running).await;
    bench.ran_once(id).await;
}

#[tokio::test]
async fn a_lost_claim_of_a_task_that_is_to_stop_begins_nothing() {
    let bench = Bench::new(|builder| builder).await;
    bench.faults.lose_replies(Operation::Claim, 1);
    let looking = bench.faults.delay_next(Operation::Renew);
    let id = inserted(ledger(&bench.memory).insert(Insert::new(new_task("/"))).await.unwrap()).id;
    soon(looking.arrived()).await;
    assert_eq!(bench.tasks.stop(id).await.unwrap(), Stop::Stopping);
    looking.release();
    let record = ended(&bench.tasks, id).await;
    assert_eq!((record.state, bench.runs_of(id)), (TaskState::Stopped, 0), "{record:?}");
}

/// The call without an answer may still hand it back, and then another process could run it as well.
#[tokio::test]
async fn a_claim_that_could_not_be_handed_back_is_not_begun() {
    let bench = Bench::new(|builder| builder.store_timeout(Duration::from_millis(50))).await;
    let claiming = bench.faults.delay_next(Operation::Claim);
    let id = inserted(ledger(&bench.memory).insert(Insert::new(new_task("/"))).await.unwrap()).id;
    soon(claiming.arrived()).await;
    eventually("the time limit has passed", async || bench.used().await == 0).await;
    let running = submit(&bench.tasks, "/wait").await;
    bench.gate.arrived(1).await;
    let handing_back = bench.faults.delay_next(Operation::Commit);
    claiming.release();
    soon(handing_back.arrived()).await;

    let looked = bench.faults.calls(Operation::Rows);
    bench.faults.lose_replies(Operation::Claim, 1);
    bench.gate.open();
    eventually("what is held is looked at", async || {
        bench.faults.calls(Operation::Rows) > looked + 1
    })
    .await;
    assert_eq!(bench.runs_of(id), 0);
    bench.ran_once(running).await;
    handing_back.release();
}

#[tokio::test]
async fn after_an_outage_everything_goes_on() {
    let bench = Bench::new(|builder| builder).await;
    let running = submit(&bench.tasks, "/wait").await;
    bench.gate.arrived(1).await;
    let waiting = submit(&bench.tasks, "/").await;
    bench.faults.fail_everything();
    bench.gate.open();
    let settles = bench.faults.calls(Operation::Commit);
    eventually("it is tried in vain", async || {
        bench.faults.calls(Operation::Commit) >= settles + 3
    })
    .await;
    assert!(bench.tasks.stats().await.is_err());
    assert!(bench.tasks.submit(submission("/")).await.is_err());
    bench.faults.heal();
    for id in [running, waiting] {
        bench.ran_once(id).await;
    }
    look_round(&bench.tasks).await;
}

/// A store that hangs used to hang every reader of a task.
#[tokio::test]
async fn looking_at_a_task_keeps_the_time_limit() {
    let bench = Bench::new(|builder| builder.store_timeout(Duration::from_millis(50))).await;
    let delayed = bench.faults.delay_next(Operation::Counts);
    let stats = soon(bench.tasks.stats()).await;
    assert_eq!(stats.unwrap_err().kind(), StoreErrorKind::Unavailable);
    drop(delayed);
}
