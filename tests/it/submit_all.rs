//! Many tasks submitted at once.

use std::{collections::HashSet, time::Duration};

use tower_respond_async::{
    MemoryStore, RequestId, Submission, SubmitError, Submitted, TaskState, Tasks,
    store::{FullReason, Operation, StoreErrorKind},
    task::{Filter, IdempotencyKey, Labels, Page},
    testing::FaultStore,
};

use crate::engine_support::{Gate, ended, eventually, look_round, ok, quick, serve, stored, submission};

fn gated(builder: tower_respond_async::RespondAsyncBuilder, gate: &Gate) -> Tasks {
    let gate = gate.clone();
    serve(builder, move |_| {
        let gate = gate.clone();
        async move {
            gate.pass().await;
            ok()
        }
    })
}

fn keyed(path: &str, key: &str) -> Submission {
    let mut submission = submission(path);
    submission.key = IdempotencyKey::new(key).ok();
    submission
}

fn all(paths: std::ops::Range<usize>) -> Vec<Submission> {
    paths.map(|at| submission(&format!("/{at}"))).collect()
}

#[tokio::test]
async fn each_has_an_answer_of_its_own_in_order() {
    let gate = Gate::new();
    let tasks = gated(quick(MemoryStore::new()).concurrency(1).queue_depth(3), &gate);
    gate.open();
    look_round(&tasks).await;
    let before = tasks.stats().await.unwrap().counts;
    let mut too_long = submission("/long");
    too_long.labels = Labels::from_iter([("text", "x".repeat(2_000))]);
    let many = vec![
        keyed("/0", "a"),
        too_long.clone(),
        keyed("/0", "a"),
        keyed("/other", "a"),
        submission("/4"),
        too_long,
    ];

    let answers = tasks.submit_all(many).await.unwrap();

    let mut answers = answers.into_iter();
    let first = stored(answers.next().unwrap().unwrap());
    assert!(matches!(answers.next(), Some(Err(SubmitError::TooLong(_)))));
    for same in [true, false] {
        let Some(Ok(Submitted::Known { id, same_request, .. })) = answers.next() else {
            panic!("its key is known");
        };
        assert_eq!((id, same_request), (first, same));
    }
    let last = stored(answers.next().unwrap().unwrap());
    assert!(matches!(answers.next(), Some(Err(SubmitError::TooLong(_)))));
    assert!(answers.next().is_none());
    for (id, path) in [(first, "/0"), (last, "/4")] {
        let record = ended(&tasks, id).await;
        assert_eq!((record.state, record.attempt), (TaskState::Succeeded, 1));
        assert_eq!(record.target, path);
    }
    let counts = tasks.stats().await.unwrap().counts;
    let total = |counts: &tower_respond_async::task::Counts| counts.iter().map(|(_, count)| count).sum::<u64>();
    assert_eq!(total(&counts), total(&before) + 2);
    assert!(tasks.submit_all(Vec::new()).await.unwrap().is_empty());
}

#[tokio::test]
async fn those_beyond_the_depth_of_the_queue_are_refused_and_the_others_kept() {
    let gate = Gate::new();
    let tasks = gated(quick(MemoryStore::new()).concurrency(1).queue_depth(4), &gate);
    let first = stored(tasks.submit(submission("/first")).await.unwrap());
    gate.arrived(1).await;

    let answers = tasks.submit_all(all(0..6)).await.unwrap();

    let taken: Vec<_> = answers.iter().take_while(|answer| answer.is_ok()).collect();
    assert_eq!(taken.len(), 4);
    for refused in &answers[4..] {
        assert!(
            matches!(refused, Err(SubmitError::Full(FullReason::Queue))),
            "{refused:?}"
        );
    }
    let ids: Vec<RequestId> = answers.into_iter().flatten().map(stored).collect();
    gate.open();
    ended(&tasks, first).await;
    for id in ids {
        assert_eq!(ended(&tasks, id).await.state, TaskState::Succeeded);
    }
}

/// As many as there are slots start with the insert, and no more.
#[tokio::test]
async fn a_thousand_run_once_each_and_never_more_than_there_are_slots() {
    let gate = Gate::new();
    let store = MemoryStore::new();
    let tasks = gated(quick(store).concurrency(8), &gate);

    let answers = tasks.submit_all(all(0..1_000)).await.unwrap();

    let ids: HashSet<_> = answers.into_iter().map(|answer| stored(answer.unwrap())).collect();
    assert_eq!(ids.len(), 1_000);
    gate.arrived(8).await;
    let counts = tasks.stats().await.unwrap().counts;
    assert_eq!(
        counts.iter().find(|(state, _)| *state == TaskState::Running).unwrap().1,
        8
    );
    gate.open();
    for id in ids {
        let record = ended(&tasks, id).await;
        assert_eq!(
            (record.state, record.attempt, record.crashes),
            (TaskState::Succeeded, 1, 0)
        );
    }
}

/// None is left to its lease, whether it was claimed with the insert or not, and none runs twice.
#[tokio::test]
async fn if_the_answer_is_lost_all_run_once_all_the_same() {
    let store = FaultStore::new(MemoryStore::new());
    let faults = store.faults();
    let gate = Gate::new();
    gate.open();
    let tasks = gated(quick(store).concurrency(2), &gate);
    look_round(&tasks).await;
    faults.lose_replies(Operation::InsertAll, 1);

    let answer = tasks.submit_all(all(0..5)).await;

    let Err(SubmitError::Store(error)) = answer else {
        panic!("nobody knows whether they are stored: {answer:?}");
    };
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let five = async || {
        let page = tasks.list(&Filter::default(), Page::default()).await.unwrap();
        let ours = page.items.into_iter().filter(|record| record.target.path().len() == 2);
        ours.collect::<Vec<_>>()
    };
    eventually("all have run", async || {
        let found = five().await;
        found.len() == 5 && found.iter().all(|record| record.state == TaskState::Succeeded)
    })
    .await;
    for record in five().await {
        assert_eq!((record.attempt, record.crashes), (1, 0), "{}", record.target);
    }
}

#[tokio::test]
async fn an_engine_that_is_shutting_down_takes_none() {
    let tasks = gated(quick(MemoryStore::new()), &Gate::new());
    tasks.shutdown(Duration::from_secs(1)).await;
    let answer = tasks.submit_all(all(0..3)).await;
    assert!(matches!(answer, Err(SubmitError::ShuttingDown)), "{answer:?}");
}
