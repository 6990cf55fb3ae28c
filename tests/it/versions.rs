//! Two versions of an application on one store, as during a deploy: the older version does not have a route yet.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use tower_respond_async::{
    AttemptEnd, DoNotRetry, MemoryStore, RespondAsyncBuilder, RetryPolicy, TaskRecord, TaskState, Tasks, Verdict,
    probe::{AttemptOutcome, Event, Probe},
    task::lifecycle::Stop,
};

use crate::engine_support::{
    Gate, LONG, Reply, at_once, ended, eventually, ok, quick, reached, respond, serve, submit,
};

/// Two processes: the new one accepts tasks and has no free slot, and the old one runs them meanwhile.
struct Deploy {
    new: Tasks,
    /// Frees the slot.
    gate: Gate,
    old: Tasks,
    answers: Arc<AtomicUsize>,
    outcomes: Outcomes,
}

/// How attempts in the old process ended, and the state that followed.
#[derive(Clone, Debug, Default)]
struct Outcomes(Arc<Mutex<Vec<(AttemptOutcome, TaskState)>>>);

impl Probe for Outcomes {
    fn on_event(&self, event: &Event<'_>) {
        if let Event::Ended { outcome, state, .. } = event {
            self.0.lock().unwrap().push((*outcome, *state));
        }
    }
}

type Setting = fn(RespondAsyncBuilder) -> RespondAsyncBuilder;

impl Deploy {
    /// The new process answers everything with 200, the old one with `answer`.
    async fn begin(new: Setting, old: Setting, answer: fn() -> Reply) -> Self {
        let store = MemoryStore::new();
        let (gate, taken) = (Gate::new(), Gate::new());
        let (passing, taking) = (gate.clone(), taken.clone());
        let builder = quick(store.clone()).retry(at_once(0)).concurrency(1);
        let new = serve(new(builder), move |request| {
            let (passing, taking) = (passing.clone(), taking.clone());
            async move {
                if request.uri().path() == "/take" {
                    taking.open();
                    passing.pass().await;
                }
                ok()
            }
        });
        submit(&new, "/take").await;
        taken.pass().await;
        let (answers, outcomes) = (Arc::<AtomicUsize>::default(), Outcomes::default());
        let counter = answers.clone();
        let old = serve(old(quick(store).probe(outcomes.clone())), move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            async move { answer() }
        });
        Self {
            new,
            gate,
            old,
            answers,
            outcomes,
        }
    }

    async fn answered(&self, times: usize) {
        let answers = async || self.answers.load(Ordering::SeqCst) == times;
        eventually("the old one answers so often", answers).await;
    }
}

/// The history's entries for each wait.
fn waits(task: &TaskRecord) -> Vec<&str> {
    let waits = task.history.iter().filter(|event| event.state == TaskState::Retrying);
    waits.map(|event| event.detail.as_deref().unwrap()).collect()
}

fn not_found() -> Reply {
    Ok(respond(404, "nothing here"))
}

#[tokio::test]
async fn a_route_that_only_the_new_version_has_is_left_to_it_uncharged() {
    let unimplemented: fn() -> Reply = || {
        let mut response = respond(200, "");
        response
            .headers_mut()
            .insert("grpc-status", HeaderValue::from_static("12"));
        Ok(response)
    };
    let deploys = [
        (not_found as fn() -> Reply, "404 Not Found"),
        (|| Ok(respond(405, "not so")), "405 Method Not Allowed"),
        (|| Ok(respond(501, "not yet")), "501 Not Implemented"),
        (unimplemented, "200 OK with grpc-status 12 (UNIMPLEMENTED)"),
    ]
    .map(async |(answer, said)| {
        let deploy = Deploy::begin(|new| new.version("2"), |old| old.version("1"), answer).await;
        let id = submit(&deploy.new, "/v2").await;
        deploy.answered(2).await;
        let waiting = reached(&deploy.new, id, TaskState::Retrying).await;
        assert_eq!(
            (waiting.attempt, waiting.status_code),
            (0, None),
            "the answer is not kept"
        );

        deploy.old.shutdown(LONG).await;
        deploy.gate.open();
        let task = ended(&deploy.new, id).await;
        assert_eq!(
            (task.state, task.status_code),
            (TaskState::Succeeded, Some(200)),
            "{said}"
        );
        assert_eq!((task.attempt, task.retries, task.crashes, task.deferrals), (1, 0, 0, 0));
        let expected = format!("handed on, uncharged: version 1 answered {said}; version 2 accepted the task");
        assert_eq!(waits(&task), [&*expected; 2]);
        let handed_on = (AttemptOutcome::HandedOn, TaskState::Retrying);
        assert_eq!(*deploy.outcomes.0.lock().unwrap(), [handed_on; 2]);
    });
    futures_util::future::join_all(deploys).await;
}

/// Where no other process has the version, and where the handler exists and intends the 404.
#[tokio::test]
async fn any_other_404_ends_its_task_at_once() {
    let means_it: fn() -> Reply = || {
        let mut response = respond(404, "no such film");
        response.extensions_mut().insert(DoNotRetry);
        Ok(response)
    };
    let (is_1, is_2): (Setting, Setting) = (|one| one.version("1"), |two| two.version("2"));
    let impatient: Setting = |old| old.version("1").version_patience(Duration::ZERO);
    for (what, new, old, answer) in [
        ("they are one version", is_2, is_2, not_found as fn() -> Reply),
        ("the task is of no version", |new| new, is_1, not_found),
        ("there are no versions", |new| new, |old| old, not_found),
        ("it is not to wait", is_2, impatient, not_found),
        ("the handler is there", is_2, is_1, means_it),
        ("it is another status", is_2, is_1, || Ok(respond(410, "gone"))),
    ] {
        let deploy = Deploy::begin(new, old, answer).await;
        let id = submit(&deploy.new, "/v2").await;
        let task = ended(&deploy.new, id).await;
        let status = answer().unwrap().status().as_u16();
        assert_eq!(
            (task.state, task.status_code),
            (TaskState::Failed, Some(status)),
            "{what}"
        );
        assert_eq!((task.attempt, waits(&task)), (1, vec![]), "{what}");
    }
}

/// The policy then judges it, and not before.
#[tokio::test]
async fn in_the_end_a_404_is_an_answer_like_any_other() {
    struct Welcome;
    impl RetryPolicy for Welcome {
        fn max_retries(&self) -> u32 {
            0
        }
        fn judge(&self, _: &AttemptEnd<'_>) -> Verdict {
            Verdict::Success
        }
        fn delay(&self, _: u32, _: f64) -> Duration {
            Duration::ZERO
        }
    }
    let impatient: Setting = |old| old.version("1").version_patience(Duration::from_millis(1));
    let welcome: Setting = |old| old.version_patience(Duration::from_millis(1)).retry(Welcome);
    for (old, end) in [(impatient, TaskState::Failed), (welcome, TaskState::Succeeded)] {
        let deploy = Deploy::begin(|new| new.version("2"), old, not_found).await;
        let id = submit(&deploy.new, "/v2").await;
        let task = ended(&deploy.new, id).await;
        assert_eq!((task.state, task.status_code, task.attempt), (end, Some(404), 1));
        let since = task.started_at.unwrap().since(task.handed_on_at.unwrap());
        assert!(
            since >= Duration::from_secs(1),
            "it waits before it runs again: {since:?}"
        );
        assert_eq!((waits(&task).len(), deploy.answers.load(Ordering::SeqCst)), (1, 2));
    }
}

#[tokio::test]
async fn a_task_that_waits_for_its_version_can_be_stopped() {
    let deploy = Deploy::begin(|new| new.version("2"), |old| old.version("1"), not_found).await;
    let id = submit(&deploy.new, "/v2").await;
    deploy.answered(1).await;
    reached(&deploy.new, id, TaskState::Retrying).await;
    assert_eq!(deploy.old.stop(id).await.unwrap(), Stop::Stopped);
    assert_eq!(ended(&deploy.new, id).await.attempt, 0);
}
