//! The counts of `MetricsProbe` while tasks really run.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, Uri},
    routing::post,
};
use bytes::Bytes;
use metrics::{Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};
use tempfile::tempdir;
use tower::{Layer, ServiceExt};
use tower_respond_async::{
    Backoff, Completion, MemoryStore, RequestId, RespondAsync, RespondAsyncBuilder, RespondAsyncLayer, TaskContext,
    Tasks,
    probe::{Event, MetricsProbe, Probe},
    store::{Insert, Ledger, Operation, Pruned, StoreError, StoreErrorKind, TaskStore},
    task::{CapturedRequest, Counts, DeliveryStatus, Destination, NewTask, WorkerId},
    testing::{FaultStore, ManualClock},
    time::Timestamp,
};
use tower_respond_async_redb::RedbStore;

use crate::engine_support::eventually;

#[test]
fn what_happens_to_tasks_is_counted() {
    let seen = watch(async || {
        let (app, tasks) = app(|builder| builder);
        for path in ["/fine", "/flaky", "/refuses", "/panics"] {
            assert_eq!(send(&app, path, None).await.0, StatusCode::ACCEPTED);
        }
        for _ in 0..2 {
            assert_eq!(send(&app, "/fine", Some("once")).await.0, StatusCode::ACCEPTED);
        }
        assert_eq!(
            send(&app, "/flaky", Some("once")).await.0,
            StatusCode::UNPROCESSABLE_ENTITY
        );
        let of_somebody = Request::post("/fine")
            .header("prefer", "respond-async")
            .header("idempotency-key", "once")
            .header("authorization", "Bearer somebody")
            .body(Body::from("a body"))
            .expect("a request");
        assert!(app.clone().oneshot(of_somebody).await.is_ok());
        all_ended(&tasks, 5).await;
        tasks.shutdown(Duration::from_secs(5)).await;
    });

    assert_eq!(seen.value("duplicates_withheld_total"), 1.0);
    assert_eq!(seen.value("accepted_total{outcome=accepted}"), 5.0);
    assert_eq!(seen.value("accepted_total{outcome=duplicate}"), 2.0);
    assert_eq!(seen.value("accepted_total{outcome=IdempotencyKeyReused}"), 1.0);
    assert_eq!(seen.samples("accept_duration_seconds").len(), 7);
    assert_eq!(seen.value("attempts_total{outcome=succeeded}"), 3.0);
    // Failed: once the flaky one, once the one that refuses. Panicked: once retried, and once more.
    assert_eq!(seen.value("attempts_total{outcome=failed}"), 2.0);
    assert_eq!(seen.value("attempts_total{outcome=panicked}"), 2.0);
    assert_eq!(seen.value("retries_total"), 2.0);
    assert_eq!(seen.samples("queue_wait_seconds").len(), 7);
    assert_eq!(seen.samples("attempt_duration_seconds{outcome=succeeded}").len(), 3);
    assert_eq!(seen.samples("store_op_duration_seconds{op=settle,outcome=ok}").len(), 7);
    let slots = ["running", "stuck", "free"].map(|state| seen.value(&format!("slots{{state={state}}}")));
    assert_eq!(slots.iter().sum::<f64>(), 4.0);
    assert_eq!(seen.value("tasks{state=Succeeded}"), 0.0);
    assert_eq!(seen.value("buffered_bytes"), 0.0);
    assert_eq!(
        seen.value("poisoned_total"),
        0.0,
        "what has not happened is there as well"
    );
}

/// A deferral is no retry: nothing has failed.
#[test]
fn not_now_is_counted_as_a_deferral() {
    let seen = watch(async || {
        let (app, tasks) = app(|builder| builder);
        assert_eq!(send(&app, "/busy", None).await.0, StatusCode::ACCEPTED);
        all_ended(&tasks, 1).await;
        tasks.shutdown(Duration::from_secs(5)).await;
    });
    assert_eq!(seen.value("attempts_total{outcome=deferred}"), 1.0);
    assert_eq!(seen.value("attempts_total{outcome=succeeded}"), 1.0);
    assert_eq!(seen.value("retries_total"), 0.0);
}

/// The tasks of a dead process: two that it ran, of which one has crashed too often, and one that is too old.
async fn die_with_tasks(ledger: &Ledger, lease: Duration) {
    let dead = WorkerId::new("dead", 1);
    for (number, crash_allowance) in [(1, 3), (2, 1)] {
        let mut task = a_task(number);
        task.crash_allowance = crash_allowance;
        let inserted = ledger.insert(Insert::new(task).claimed_by(dead.clone(), lease)).await;
        assert!(inserted.is_ok());
    }
    let mut old = a_task(3);
    old.max_age = Duration::from_secs(1);
    assert!(ledger.insert(Insert::new(old)).await.is_ok());
}

async fn go_on_with_them(store: impl TaskStore) {
    let layer = RespondAsyncLayer::builder(store).probe(MetricsProbe::new());
    let layer = layer.build().expect("the settings make sense");
    let tasks = layer.tasks();
    let app = layer.layer(routes());
    all_ended(&tasks, 3).await;
    tasks.shutdown(Duration::from_secs(5)).await;
    drop(app);
}

fn assert_each_is_counted_once(seen: &Seen) {
    assert_eq!(seen.value("rescued_total"), 2.0);
    assert_eq!(seen.value("poisoned_total"), 1.0);
    assert_eq!(seen.value("expired_total"), 1.0);
    assert_eq!(seen.value("attempts_total{outcome=succeeded}"), 1.0);
}

#[test]
fn tasks_that_a_dead_process_left_are_counted() {
    let seen = watch(async || {
        let clock = ManualClock::new(Timestamp::from_millis(1_700_000_000_000));
        let store = MemoryStore::builder().clock(clock.clone()).build();
        die_with_tasks(&Ledger::of(store.clone()), Duration::from_secs(1)).await;
        clock.advance(Duration::from_secs(2));
        go_on_with_them(store).await;
    });
    assert_each_is_counted_once(&seen);
}

/// When it is opened, the embedded store knows that these tasks have no holder, and no lease must lapse. They used to
/// be missing from the counts.
#[test]
fn tasks_that_were_rescued_as_a_file_was_opened_are_counted() {
    let seen = watch(async || {
        let clock = ManualClock::new(Timestamp::from_millis(1_700_000_000_000));
        let folder = tempdir().unwrap();
        let open = async || {
            let store = RedbStore::builder()
                .clock(clock.clone())
                .open(folder.path().join("tasks.redb"));
            store.await.expect("it is a file of ours")
        };
        let ledger = Ledger::of(open().await);
        die_with_tasks(&ledger, Duration::from_secs(3600)).await;
        ledger.store().close().await;
        drop(ledger);
        clock.advance(Duration::from_secs(2));
        go_on_with_them(open().await).await;
    });
    assert_each_is_counted_once(&seen);
}

#[test]
fn tries_to_tell_a_hook_are_counted() {
    let seen = watch(async || {
        let (tell, mut told) = tokio::sync::mpsc::channel::<Completion>(8);
        let (app, tasks) = app(|builder| {
            builder
                .on_success(tell)
                .on_failure(|_: Completion| Err::<(), _>("nobody is there"))
        });
        send(&app, "/fine", None).await;
        send(&app, "/refuses", None).await;
        assert!(told.recv().await.is_some());
        all_ended(&tasks, 2).await;
        tasks.shutdown(Duration::from_secs(5)).await;
    });

    assert_eq!(seen.value("callback_deliveries_total{outcome=delivered}"), 1.0);
    assert_eq!(seen.value("callback_deliveries_total{outcome=retried}"), 1.0);
}

/// A time limit outside the measurement used to cut it off: the slowest calls were missing from the durations.
#[test]
fn a_store_call_that_never_answers_is_measured() {
    let seen = watch(async || {
        let store = FaultStore::new(MemoryStore::new());
        let faults = store.faults();
        let layer = RespondAsyncLayer::builder(store)
            .store_timeout(Duration::from_millis(20))
            .probe(MetricsProbe::new());
        let layer = layer.build().expect("the settings make sense");
        let tasks = layer.tasks();
        let app = layer.layer(routes());
        let hangs = faults.delay_next(Operation::Commit);
        send(&app, "/fine", None).await;
        all_ended(&tasks, 1).await;
        drop(hangs);
        tasks.shutdown(Duration::from_secs(5)).await;
    });

    let timed_out = seen.samples("store_op_duration_seconds{op=settle,outcome=unavailable}");
    assert!(timed_out.len() == 1 && timed_out[0] >= 0.02, "{timed_out:?}");
    assert_eq!(seen.samples("store_op_duration_seconds{op=settle,outcome=ok}").len(), 1);
}

#[test]
fn what_seldom_happens_is_counted_too() {
    let seen = watch(async || {
        let probe = MetricsProbe::new();
        let id = RequestId::from_parts(Timestamp::ZERO, [1; 10]);
        let corrupt = StoreError::new(StoreErrorKind::Corrupt, "a record cannot be read");
        let mut counts = Counts::default();
        counts.pending_deliveries = Some(4);
        let mut pruned = Pruned::default();
        (pruned.tasks, pruned.keys) = (3, 2);
        let delivered = |status| Event::Delivered {
            id,
            destination: &Destination::LOCAL,
            status,
            error: None,
            took: Duration::ZERO,
        };
        for event in [
            delivered(DeliveryStatus::Delivered),
            delivered(DeliveryStatus::Pending),
            delivered(DeliveryStatus::Failed),
            delivered(DeliveryStatus::Blocked),
            Event::LeaseLost { id, attempt: 1 },
            Event::Fenced { id },
            Event::GivenUp {
                id,
                destination: &Destination::LOCAL,
            },
            Event::Pruned(pruned),
            Event::StoreCall {
                operation: "request",
                took: Duration::from_millis(20),
                error: Some(&corrupt),
            },
            Event::SetAside { values: 2 },
            Event::KeysForgotten { keys: 5 },
            Event::Levels {
                counts: Some(&counts),
                slots_used: 3,
                slots_total: 8,
                slots_stuck: 1,
                buffered_bytes: 17,
            },
        ] {
            probe.on_event(&event);
        }
    });

    assert_eq!(seen.value("leases_lost_total"), 1.0);
    assert_eq!(seen.value("fenced_writes_total"), 1.0);
    assert_eq!(seen.value("callbacks_given_up_total"), 1.0);
    assert_eq!(seen.value("pruned_total"), 3.0);
    assert_eq!(seen.value("store_corrupt_records_total"), 3.0);
    assert_eq!(seen.value("store_keys_forgotten_total"), 5.0);
    assert_eq!(
        seen.samples("store_op_duration_seconds{op=request,outcome=corrupt}"),
        [0.02]
    );
    assert_eq!(seen.value("slots{state=running}"), 2.0);
    assert_eq!(seen.value("slots{state=stuck}"), 1.0);
    assert_eq!(seen.value("slots{state=free}"), 5.0);
    assert_eq!(seen.value("buffered_bytes"), 17.0);
    assert_eq!(seen.value("callback_backlog"), 4.0);
    for outcome in ["delivered", "retried", "failed", "blocked"] {
        let counted = seen.value(&format!("callback_deliveries_total{{outcome={outcome}}}"));
        assert_eq!(counted, 1.0, "{outcome}");
    }
}

fn app(configure: impl FnOnce(RespondAsyncBuilder) -> RespondAsyncBuilder) -> (RespondAsync<Router>, Tasks) {
    let builder = RespondAsyncLayer::builder(MemoryStore::new())
        .concurrency(4)
        .retry(Backoff::new().max_retries(1).base(Duration::from_millis(1)))
        .probe(MetricsProbe::new());
    let layer = configure(builder).build().expect("the settings make sense");
    let tasks = layer.tasks();
    (layer.layer(routes()), tasks)
}

fn routes() -> Router {
    Router::new()
        .route("/fine", post(async || "done"))
        .route("/flaky", post(flaky))
        .route("/busy", post(busy))
        .route("/refuses", post(async || StatusCode::BAD_REQUEST))
        .route("/panics", post(panics))
}

async fn flaky(task: TaskContext) -> StatusCode {
    match task.attempt() {
        1 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    }
}

async fn busy(task: TaskContext) -> (StatusCode, [(&'static str, &'static str); 1]) {
    let first = task.fence_token().is_some_and(|token| token.get() == 1);
    let status = if first {
        StatusCode::TOO_MANY_REQUESTS
    } else {
        StatusCode::OK
    };
    (status, [("retry-after", "0")])
}

async fn panics() {
    panic!("asked to");
}

async fn send(app: &RespondAsync<Router>, path: &str, key: Option<&str>) -> (StatusCode, HeaderMap) {
    let mut request = Request::post(path).header("prefer", "respond-async");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let request = request.body(Body::from("a body")).expect("a request");
    let response = app.clone().oneshot(request).await.expect("a router has no errors");
    (response.status(), response.headers().clone())
}

fn a_task(number: u8) -> NewTask {
    let id = RequestId::from_parts(Timestamp::from_millis(1_700_000_000_000), [number; 10]);
    let request = CapturedRequest::new(Method::POST, Uri::from_static("/fine"), HeaderMap::new(), Bytes::new());
    NewTask::new(id, Arc::new(request))
}

/// Waits until so many tasks have ended.
async fn all_ended(tasks: &Tasks, count: u64) {
    eventually("all have ended", async || {
        let stats = tasks.stats().await.expect("the store is open");
        let ended = stats.counts.iter().filter(|(state, _)| state.is_terminal());
        ended.map(|(_, n)| n).sum::<u64>() == count
    })
    .await;
}

/// Runs `story` on one thread, with a recorder for this thread only. Answers with what was recorded.
fn watch(story: impl AsyncFnOnce()) -> Seen {
    let seen = Seen::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    metrics::with_local_recorder(&seen, || runtime.block_on(story()));
    seen.check_names();
    seen
}

/// Everything recorded, by `name{label=value,...}` without the prefix.
#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Recorded>>);

#[derive(Debug, Default)]
struct Recorded {
    described: BTreeMap<String, Option<Unit>>,
    values: BTreeMap<String, f64>,
    samples: BTreeMap<String, Vec<f64>>,
}

impl Seen {
    fn value(&self, metric: &str) -> f64 {
        let recorded = self.0.lock().unwrap();
        *recorded
            .values
            .get(metric)
            .unwrap_or_else(|| panic!("no {metric} in {recorded:#?}"))
    }

    fn samples(&self, metric: &str) -> Vec<f64> {
        let recorded = self.0.lock().unwrap();
        let samples = recorded.samples.get(metric);
        samples
            .unwrap_or_else(|| panic!("no {metric} in {recorded:#?}"))
            .clone()
    }

    /// Every metric is described, with the unit in which its name ends, and no label grows without bound.
    fn check_names(&self) {
        let recorded = self.0.lock().unwrap();
        for metric in recorded.values.keys().chain(recorded.samples.keys()) {
            let (name, labels) = metric.split_once('{').unwrap_or((metric, "}"));
            let unit = recorded
                .described
                .get(name)
                .unwrap_or_else(|| panic!("{name} is not described"));
            let expected = match name.rsplit('_').next() {
                Some("seconds") => Unit::Seconds,
                Some("bytes") => Unit::Bytes,
                _ => Unit::Count,
            };
            assert_eq!(*unit, Some(expected), "{name}");
            for label in labels
                .trim_end_matches('}')
                .split(',')
                .filter(|label| !label.is_empty())
            {
                let label = label.split('=').next().unwrap_or_default();
                assert!(["outcome", "state", "op"].contains(&label), "{metric}");
            }
        }
    }

    fn describe(&self, key: &KeyName, unit: Option<Unit>) {
        let name = without_prefix(key.as_str());
        self.0.lock().unwrap().described.insert(name, unit);
    }

    fn handle(&self, key: &Key) -> Arc<Handle> {
        let labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let mut metric = without_prefix(key.name());
        if !labels.is_empty() {
            metric = format!("{metric}{{{}}}", labels.join(","));
        }
        Arc::new(Handle {
            metric,
            seen: self.clone(),
        })
    }
}

fn without_prefix(name: &str) -> String {
    name.strip_prefix("respond_async_")
        .expect("all metrics have the prefix")
        .to_owned()
}

impl metrics::Recorder for Seen {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&key, unit);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&key, unit);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&key, unit);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.handle(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.handle(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.handle(key))
    }
}

struct Handle {
    metric: String,
    seen: Seen,
}

impl Handle {
    fn change(&self, change: impl FnOnce(f64) -> f64) {
        let mut recorded = self.seen.0.lock().unwrap();
        let value = recorded.values.entry(self.metric.clone()).or_default();
        *value = change(*value);
    }
}

impl CounterFn for Handle {
    fn increment(&self, by: u64) {
        self.change(|value| value + by as f64);
    }

    fn absolute(&self, to: u64) {
        self.change(|_| to as f64);
    }
}

impl GaugeFn for Handle {
    fn increment(&self, by: f64) {
        self.change(|value| value + by);
    }

    fn decrement(&self, by: f64) {
        self.change(|value| value - by);
    }

    fn set(&self, to: f64) {
        self.change(|_| to);
    }
}

impl HistogramFn for Handle {
    fn record(&self, sample: f64) {
        let mut recorded = self.seen.0.lock().unwrap();
        recorded.samples.entry(self.metric.clone()).or_default().push(sample);
    }
}
