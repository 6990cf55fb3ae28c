//! The output of `TracingProbe` while tasks really run.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
    routing::post,
};
use tower::{Layer as _, ServiceExt};
use tower_respond_async::{
    Backoff, BoxError, Completion, MemoryStore, RequestId, RespondAsync, RespondAsyncLayer, TaskContext, TaskRecord,
    Tasks,
    probe::{Event, Probe, TracingProbe},
    store::{StoreError, StoreErrorKind},
    task::{DeliveryStatus, Destination, lifecycle::Rescue},
    time::Timestamp,
};
use tracing::{
    Instrument, Level, Subscriber,
    field::{Field, Visit},
    info, info_span,
    span::{Attributes, Id},
};
use tracing_subscriber::{
    layer::{Context, Layer, SubscriberExt},
    registry::LookupSpan,
};

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[test]
fn each_attempt_is_a_span_that_follows_from_the_request() {
    let seen = watch(async || {
        let (app, tasks) = app();
        // Once the engine has found its queue empty, a task starts with its request and not behind it.
        run(&app, &tasks, "/refuses", TRACEPARENT).await;
        let record = run(&app, &tasks, "/flaky", TRACEPARENT).await;
        assert_eq!(record.attempt, 2);
        tasks.shutdown(Duration::from_secs(5)).await;
    });

    let spans = seen.spans().into_iter();
    let attempts: Vec<_> = spans
        .filter(|span| span.fields.get("faas.name").is_some_and(|name| name == "flaky"))
        .collect();
    assert_eq!(attempts.len(), 2);
    for (span, number) in attempts.iter().zip(["1", "2"]) {
        assert_eq!(span.name, "task.attempt");
        assert_eq!(span.parent, None, "the request was answered long ago");
        assert_eq!(span.fields["task.attempt"], number);
        assert_eq!(span.fields["traceparent"], TRACEPARENT);
        assert_eq!(span.fields["otel.kind"], "consumer");
        assert_eq!(span.fields["messaging.operation.type"], "process");
        assert_eq!(span.fields["messaging.destination.name"], "flaky");
        assert_eq!(span.fields["messaging.message.body.size"], "18");
        let id = &span.fields["task.id"];
        assert_eq!(
            [&span.fields["messaging.message.id"], &span.fields["faas.invocation_id"]],
            [id, id]
        );
    }
    assert_eq!(attempts[0].follows.as_deref(), Some("request"));
    assert_eq!(attempts[1].follows, None, "nothing of the request is left by then");
}

#[test]
fn every_poll_of_an_attempt_is_inside_its_span() {
    let seen = watch(async || {
        let (app, tasks) = app();
        run(&app, &tasks, "/flaky", TRACEPARENT).await;
        tasks.shutdown(Duration::from_secs(5)).await;
    });

    for (message, spans) in [
        ("before waiting", ["task.attempt", "task.attempt"]),
        ("after waiting", ["task.attempt", "task.attempt"]),
    ] {
        let found: Vec<_> = seen.events(message).into_iter().map(|event| event.span).collect();
        assert_eq!(found, spans.map(|span| Some(span.to_owned())), "{message}");
    }
    assert_eq!(seen.events("task accepted")[0].span.as_deref(), Some("request"));
}

#[test]
fn the_life_of_a_task_is_logged_at_sensible_levels() {
    let seen = watch(async || {
        let (app, tasks) = app();
        run(&app, &tasks, "/flaky", TRACEPARENT).await;
        run(&app, &tasks, "/refuses", TRACEPARENT).await;
        tasks.shutdown(Duration::from_secs(5)).await;
    });

    for (message, level, count) in [
        ("task accepted", Level::DEBUG, 2),
        ("attempt started", Level::DEBUG, 3),
        ("attempt failed, to be retried", Level::INFO, 1),
        ("attempt ended", Level::DEBUG, 1),
        ("task failed", Level::WARN, 1),
    ] {
        let events = seen.events(message);
        assert_eq!(events.len(), count, "{message}");
        assert!(events.iter().all(|event| event.level == level), "{message}");
    }
    assert!(!seen.events("store called").is_empty());
}

#[test]
fn no_body_header_or_path_is_written() {
    let seen = watch(async || {
        let (app, tasks) = app();
        run(&app, &tasks, "/flaky/secret-path?secret-query", "secret-trace").await;
        tasks.shutdown(Duration::from_secs(5)).await;
    });

    assert!(!seen.events("task accepted").is_empty());
    assert!(!format!("{seen:?}").contains("secret"), "{seen:#?}");
}

#[test]
fn that_answers_to_duplicates_are_withheld_is_warned_of_once_and_what_changes_it() {
    let seen = watch(async || {
        let (app, tasks) = app();
        for token in ["Bearer secret-1", "Bearer secret-2", "Bearer secret-3"] {
            let request = Request::post("/refuses")
                .header("x-fc-invocation-type", "Async")
                .header("idempotency-key", "secret-key")
                .header("authorization", token);
            let answer = app
                .clone()
                .oneshot(request.body(Body::empty()).expect("a request"))
                .await;
            assert_eq!(answer.expect("a router has no errors").status(), StatusCode::ACCEPTED);
        }
        tasks.shutdown(Duration::from_secs(5)).await;
    });

    let written = seen.0.lock().unwrap();
    let withheld = written
        .events
        .iter()
        .filter(|event| event.fields["message"].starts_with("duplicate answered"));
    let withheld: Vec<_> = withheld.collect();
    let levels: Vec<_> = withheld.iter().map(|event| event.level).collect();
    assert_eq!(levels, [Level::WARN, Level::DEBUG]);
    assert_eq!(withheld[0].fields["why"], "other credentials");
    for setting in ["RespondAsyncBuilder::caller", "RespondAsyncBuilder::credentials"] {
        assert!(withheld[0].fields["message"].contains(setting), "{:?}", withheld[0]);
    }
    assert!(!format!("{written:?}").contains("secret"), "{written:#?}");
}

#[test]
fn failures_have_higher_levels() {
    let id = RequestId::from_parts(Timestamp::ZERO, [1; 10]);
    let down = StoreError::new(StoreErrorKind::Unavailable, "the store is down");
    let refused: BoxError = "nobody is there".into();
    let delivered = |status| Event::Delivered {
        id,
        destination: &Destination::LOCAL,
        status,
        error: Some(&refused),
        took: Duration::ZERO,
    };
    let rescued = |rescue| Event::Rescued { id, rescue };
    let retry_in = Duration::from_secs(1);
    let (doing, attempt) = ("claiming tasks", 1);

    for (event, level) in [
        (
            Event::Trouble {
                doing,
                error: &down,
                retry_in,
            },
            Level::WARN,
        ),
        (Event::LeaseLost { id, attempt }, Level::WARN),
        (Event::Fenced { id }, Level::WARN),
        (Event::Stuck { id, attempt }, Level::ERROR),
        (rescued(Rescue::Requeued), Level::WARN),
        (rescued(Rescue::Poisoned), Level::ERROR),
        (rescued(Rescue::Expired), Level::WARN),
        (rescued(Rescue::Stopped), Level::INFO),
        (delivered(DeliveryStatus::Delivered), Level::DEBUG),
        (delivered(DeliveryStatus::Pending), Level::WARN),
        (delivered(DeliveryStatus::Failed), Level::ERROR),
        (
            Event::GivenUp {
                id,
                destination: &Destination::LOCAL,
            },
            Level::ERROR,
        ),
        (
            Event::Changed {
                id,
                action: "stop",
                who: Some("anna"),
            },
            Level::INFO,
        ),
    ] {
        let seen = watch(async || TracingProbe::new().on_event(&event));
        let seen = seen.0.lock().unwrap();
        let levels: Vec<_> = seen.events.iter().map(|event| event.level).collect();
        assert_eq!(levels, [level], "{event:?}");
        if matches!(event, Event::Trouble { .. }) {
            assert_eq!(seen.events[0].fields["error"], "the store is down");
        }
        if matches!(event, Event::Changed { .. }) {
            assert_eq!(seen.events[0].fields["who"], "anna");
        }
    }
}

fn app() -> (RespondAsync<Router>, Tasks) {
    let layer = RespondAsyncLayer::builder(MemoryStore::new())
        .retry(Backoff::new().base(Duration::from_millis(1)))
        .on_completion(|_: Completion| ())
        .probe(TracingProbe::new())
        .build()
        .expect("the settings make sense");
    let tasks = layer.tasks();
    let routes = Router::new()
        .route("/flaky", post(flaky))
        .route("/flaky/{*rest}", post(flaky))
        .route("/refuses", post(async || StatusCode::BAD_REQUEST));
    (layer.layer(routes), tasks)
}

async fn flaky(task: TaskContext) -> StatusCode {
    info!("before waiting");
    tokio::task::yield_now().await;
    info!("after waiting");
    match task.attempt() {
        1 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    }
}

/// Sends an async request inside a span `request`, as a server's own tracing does, and waits for the end of its task.
async fn run(app: &RespondAsync<Router>, tasks: &Tasks, uri: &str, traceparent: &str) -> Arc<TaskRecord> {
    let request = Request::post(uri)
        .header("x-fc-invocation-type", "Async")
        .header("authorization", "Bearer secret-token")
        .header("traceparent", traceparent)
        .body(Body::from("secret-body-secret"))
        .expect("a request");
    let answer = app.clone().oneshot(request).instrument(info_span!("request")).await;
    let response = answer.expect("a router has no errors");
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let id = response.headers()["x-fc-request-id"].to_str().expect("a UUID is ASCII");
    let id = id.parse().expect("it is a request id");
    let ended = tasks.wait(id, Duration::from_secs(10)).await;
    let record = ended.expect("the store is open").expect("the task is there");
    assert!(record.state.is_terminal(), "{record:?}");
    record
}

/// Runs `story` on one thread, with a subscriber for this thread only. Answers with what was written.
fn watch(story: impl AsyncFnOnce()) -> Seen {
    let seen = Seen::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let subscriber = tracing_subscriber::registry().with(seen.clone());
    tracing::subscriber::with_default(subscriber, || runtime.block_on(story()));
    seen
}

#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Written>>);

#[derive(Debug, Default)]
struct Written {
    spans: Vec<WrittenSpan>,
    by_id: HashMap<u64, usize>,
    events: Vec<WrittenEvent>,
}

#[derive(Clone, Debug)]
struct WrittenSpan {
    name: &'static str,
    parent: Option<String>,
    follows: Option<String>,
    fields: Fields,
}

#[derive(Clone, Debug)]
struct WrittenEvent {
    level: Level,
    span: Option<String>,
    fields: Fields,
}

type Fields = BTreeMap<&'static str, String>;

impl Seen {
    fn spans(&self) -> Vec<WrittenSpan> {
        self.0.lock().unwrap().spans.clone()
    }

    fn events(&self, message: &str) -> Vec<WrittenEvent> {
        let written = self.0.lock().unwrap();
        let events = written.events.iter();
        events
            .filter(|event| event.fields["message"] == message)
            .cloned()
            .collect()
    }
}

impl<S> Layer<S> for Seen
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Collected::default();
        attributes.record(&mut fields);
        let span = context.span(id).expect("the registry knows it");
        let mut written = self.0.lock().unwrap();
        let place = written.spans.len();
        written.by_id.insert(id.into_u64(), place);
        written.spans.push(WrittenSpan {
            name: span.name(),
            parent: span.parent().map(|parent| parent.name().to_owned()),
            follows: None,
            fields: fields.0,
        });
    }

    fn on_follows_from(&self, span: &Id, follows: &Id, context: Context<'_, S>) {
        let followed = context.span(follows).map(|span| span.name().to_owned());
        let mut written = self.0.lock().unwrap();
        let place = written.by_id[&span.into_u64()];
        written.spans[place].follows = followed;
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let mut fields = Collected::default();
        event.record(&mut fields);
        self.0.lock().unwrap().events.push(WrittenEvent {
            level: *event.metadata().level(),
            span: context.event_span(event).map(|span| span.name().to_owned()),
            fields: fields.0,
        });
    }
}

#[derive(Default)]
struct Collected(Fields);

impl Visit for Collected {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}
