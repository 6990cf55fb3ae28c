//! The logs of tasks, captured.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::Path, routing::any};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tower::ServiceExt;
use tower_respond_async::{
    Backoff, MemoryStore, RequestId, RespondAsyncBuilder, TaskApi, TaskState, allow_everyone,
    probe::{Capture, Event, Probe, TracingProbe},
    store::{Ledger, LogQuery},
    task::{LogLine, lifecycle::Outcome},
};
use tracing::{Instrument, Subscriber, debug, error, info, info_span, subscriber::DefaultGuard, warn};
use tracing_subscriber::{filter::LevelFilter, layer::SubscriberExt, registry::LookupSpan};

use crate::{
    engine_support::eventually,
    support::{App, Gate, WithoutBody, fc, no_retries, soon},
};

/// A subscriber for this thread, which is the only one of a test's runtime, and the probe for the builder.
fn capturing() -> (Capture, DefaultGuard) {
    let (capture, layer) = Capture::new();
    let subscriber = tracing_subscriber::registry().with(layer);
    (capture, tracing::subscriber::set_default(subscriber))
}

fn app(
    handler: axum::routing::MethodRouter,
    configure: impl FnOnce(RespondAsyncBuilder) -> RespondAsyncBuilder,
) -> App {
    let routes = Router::new().route("/", handler.clone()).route("/{name}", handler);
    App::build(MemoryStore::new(), routes, configure)
}

async fn log(app: &App, id: RequestId) -> Vec<LogLine> {
    let everything = LogQuery::default().limit(usize::MAX);
    app.tasks.logs(id, everything).await.unwrap()
}

fn messages(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| &*line.message).collect()
}

#[tokio::test]
async fn each_task_s_log_holds_its_own_events_and_no_other() {
    let (capture, _guard) = capturing();
    let handler = any(|Path(name): Path<String>| async move {
        info!(name, n = 1, "begun");
        debug!("not of interest");
        for _ in 0..10 {
            tokio::task::yield_now().await;
            info!("{name} goes on");
        }
        tracing::trace!("neither");
        error!(reason = ?Some("none"), "ended");
    });
    let app = app(handler, |builder| builder.probe(capture));
    let ada = app.accepted(fc("/ada").empty()).await;
    let bob = app.accepted(fc("/bob").empty()).await;
    info!("of the program, not of a task");
    for (id, name) in [(ada, "ada"), (bob, "bob")] {
        app.ended(id).await;
        let lines = log(&app, id).await;
        let mut expected = vec!["begun".to_owned()];
        expected.extend((0..10).map(|_| format!("{name} goes on")));
        expected.push("ended".into());
        assert_eq!(messages(&lines), expected);
        assert_eq!((&*lines[0].level, lines[0].attempt, lines[0].seq), ("INFO", 1, 1));
        assert_eq!(&*lines[0].target, "it::capture");
        assert_eq!(
            lines[0].fields,
            [("name".into(), name.into()), ("n".into(), "1".into())]
        );
        let last = lines.last().unwrap();
        assert_eq!((&*last.level, &*last.fields[0].1), ("ERROR", "Some(\"none\")"));
        assert!(lines.windows(2).all(|pair| pair[0].at <= pair[1].at));
    }
    // The same handler, called synchronously, has no log and runs as well.
    assert_eq!(app.get("/eve").await.status, 200);
}

/// The handler spawns in three ways, and waits for each.
fn spawning() -> axum::routing::MethodRouter {
    any(|| async {
        let (done, child_is_done) = oneshot::channel();
        tokio::spawn(async { info!("without a span") }).await.unwrap();
        tokio::spawn(async { info!("in the current span") }.in_current_span())
            .await
            .unwrap();
        let child = async move {
            info!("in a span of its own");
            let grandchild = async { warn!("in a span within") }.instrument(info_span!("grandchild"));
            tokio::spawn(grandchild).await.unwrap();
            done.send(()).unwrap();
        };
        tokio::spawn(child.instrument(info_span!("child")));
        child_is_done.await.unwrap();
    })
}

#[tokio::test]
async fn what_a_handler_spawns_in_a_span_is_in_its_log() {
    let expected = ["in the current span", "in a span of its own", "in a span within"];
    for order in 0..3 {
        let (capture, _guard) = capturing();
        let app = app(spawning(), |builder| match order {
            0 => builder.probe(capture),
            1 => builder.probe(TracingProbe::new()).probe(capture),
            _ => builder.probe(capture).probe(TracingProbe::new()),
        });
        let id = app.accepted(fc("/").empty()).await;
        app.ended(id).await;
        assert_eq!(messages(&log(&app, id).await), expected, "order {order}");
    }
}

#[tokio::test]
async fn every_attempt_s_lines_are_there_to_the_last() {
    let (capture, _guard) = capturing();
    let runs = Arc::new(AtomicUsize::new(0));
    let handler = any(move || {
        let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            info!("run {run} begins");
            match run {
                1 => panic!("it breaks"),
                2 => {
                    warn!("run 2 gives up");
                    StatusCode::SERVICE_UNAVAILABLE
                }
                _ => StatusCode::OK,
            }
        }
    });
    let app = app(handler, |builder| {
        builder
            .probe(capture)
            .retry(Backoff::new().base(Duration::from_millis(1)))
    });
    let id = app.accepted(fc("/").empty()).await;
    assert_eq!(app.ended(id).await.state, TaskState::Succeeded);
    let lines = log(&app, id).await;
    let found: Vec<_> = lines.iter().map(|line| (line.attempt, &*line.message)).collect();
    assert_eq!(
        found,
        [
            (1, "run 1 begins"),
            (2, "run 2 begins"),
            (2, "run 2 gives up"),
            (3, "run 3 begins")
        ]
    );
}

#[tokio::test]
async fn a_log_without_end_is_bounded_and_says_what_was_dropped() {
    let (capture, _guard) = capturing();
    const LINES: usize = 25_000;
    let handler = any(|| async {
        for line in 0..LINES {
            info!(line, "a line");
        }
    });
    let app = app(handler, |builder| builder.probe(capture));
    let id = app.accepted(fc("/").empty()).await;
    app.ended(id).await;
    let lines = log(&app, id).await;
    assert_eq!(lines.len(), LogQuery::LINES_KEPT);
    let (last, kept) = lines.split_last().unwrap();
    assert!(
        kept.iter()
            .enumerate()
            .all(|(n, line)| *line.fields[0].1 == n.to_string())
    );
    let dropped = LINES - kept.len();
    assert!(
        last.message.starts_with(&format!("{dropped} more lines were dropped")),
        "{}",
        last.message
    );
}

#[tokio::test]
async fn a_line_that_is_too_long_or_hostile_is_cut_and_disarmed() {
    /// Its text never ends.
    struct Endless;
    impl std::fmt::Debug for Endless {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            loop {
                f.write_str("again and again ")?;
            }
        }
    }
    /// Logs while it is formatted. `tracing` itself prevents the recursion.
    struct Talkative;
    impl std::fmt::Debug for Talkative {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            info!("within");
            f.write_str("talkative")
        }
    }
    let (capture, _guard) = capturing();
    let handler = any(|| async {
        info!(endless = ?Endless, "long");
        info!(value = ?Talkative, "outer");
        info!(
            name = "\u{1b}[31mred\u{1b}[0m\u{7}",
            "\u{1b}]0;owned\u{7}plain\u{1b}[2J"
        );
    });
    let app = app(handler, |builder| builder.probe(capture));
    let id = app.accepted(fc("/").empty()).await;
    app.ended(id).await;
    let lines = log(&app, id).await;
    assert_eq!(messages(&lines), ["long", "outer", "plain"]);
    let (name, text) = &lines[0].fields[0];
    assert_eq!(&**name, "endless");
    assert!(
        text.len() > 8 * 1024 && lines[0].weight() <= 16 * 1024,
        "{}",
        text.len()
    );
    assert_eq!(&*lines[2].fields[0].1, "red\u{2407}");
}

#[tokio::test]
async fn a_running_task_s_lines_are_stored_together_and_soon() {
    let (capture, _guard) = capturing();
    let gate = Gate::new();
    let gated = gate.clone();
    let handler = any(move || {
        let gated = gated.clone();
        async move {
            (0..100).for_each(|n| info!("line {n}"));
            gated.pass().await;
            info!("passed");
        }
    });
    let app = app(handler, |builder| builder.probe(capture));
    let id = app.accepted(fc("/").empty()).await;
    gate.arrived().await;
    eventually("the lines are stored", async || {
        let lines = log(&app, id).await.len();
        assert!(
            lines == 0 || lines == 100,
            "{lines} lines: they are not stored together"
        );
        lines == 100
    })
    .await;
    assert_eq!(app.record(id).await.state, TaskState::Running);
    gate.let_pass(1);
    app.ended(id).await;
    assert_eq!(log(&app, id).await.len(), 101);
}

#[tokio::test]
async fn its_filter_is_its_own() {
    fn quiet<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl tracing_subscriber::Layer<S> {
        tracing_subscriber::Layer::with_filter(
            tracing_subscriber::fmt::layer().with_writer(std::io::sink),
            LevelFilter::ERROR,
        )
    }
    let (capture, layer) = Capture::with_filter(LevelFilter::DEBUG);
    let subscriber = tracing_subscriber::registry().with(quiet()).with(layer);
    let _guard = tracing::subscriber::set_default(subscriber);
    let handler = any(|| async {
        debug!("captured");
        tracing::trace!("not captured");
    });
    let app = app(handler, |builder| builder.probe(capture).retry(no_retries()));
    let id = app.accepted(fc("/").empty()).await;
    app.ended(id).await;
    assert_eq!(messages(&log(&app, id).await), ["captured"]);
}

/// After another worker took over its claim, a task logs nothing more, and the attempt reports that.
#[tokio::test]
async fn a_claim_that_was_lost_logs_nothing() {
    let store = MemoryStore::new();
    let fenced = Fenced::default();
    let (capture, _guard) = capturing();
    let gate = Gate::new();
    let gated = gate.clone();
    let handler = any(move || {
        let gated = gated.clone();
        async move {
            gated.pass().await;
            info!("of a zombie");
            gated.pass().await;
        }
    });
    let app = App::build(store.clone(), Router::new().route("/", handler), |builder| {
        builder.probe(capture).probe(fenced.clone())
    });
    let id = app.accepted(fc("/").empty()).await;
    gate.arrived().await;
    // Ends the task under the handler, as the holder of a newer claim would.
    let record = app.record(id).await;
    let ledger = Ledger::of(store.clone());
    let worker = record.worker.clone().unwrap();
    let (_, held) = ledger.look_for(&worker, id).await.unwrap().flatten().unwrap();
    let _ = ledger.settle(&held, &Outcome::Stopped).await.unwrap();
    gate.let_pass(1);
    eventually("it is noticed", async || fenced.0.load(Ordering::SeqCst) > 0).await;
    assert!(log(&app, id).await.is_empty());
}

/// Counts refused writes.
#[derive(Clone, Debug, Default)]
struct Fenced(Arc<AtomicUsize>);

impl Probe for Fenced {
    fn on_event(&self, event: &Event<'_>) {
        if let Event::Fenced { .. } = event {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// The API and the log together: lines arrive as they are stored, and the rest before the end.
#[tokio::test]
async fn a_running_task_s_log_is_followed_live() {
    let (capture, _guard) = capturing();
    let gate = Gate::new();
    let gated = gate.clone();
    let handler = any(move || {
        let gated = gated.clone();
        async move {
            info!(password = "s3cret", "first");
            gated.pass().await;
            info!("last");
        }
    });
    let app = App::wrap(
        MemoryStore::new(),
        |builder| builder.probe(capture),
        |tasks| {
            let api = TaskApi::new(tasks, allow_everyone());
            Router::new().route("/", handler).nest_service("/tasks", api)
        },
    );
    let id = app.accepted(fc("/").empty()).await;
    let events = Request::get(format!("/tasks/{id}/events")).empty();
    let mut body = app.service.clone().oneshot(events).await.unwrap().into_body();
    let mut text = String::new();
    while !text.contains("\"first\"") {
        let frame = soon(body.frame()).await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    assert!(text.contains("REDACTED") && !text.contains("s3cret"), "{text}");
    gate.let_pass(1);
    let rest = soon(body.collect()).await.unwrap().to_bytes();
    let rest = std::str::from_utf8(&rest).unwrap();
    let (last, end) = (rest.find("\"last\"").unwrap(), rest.find("Succeeded").unwrap());
    assert!(last < end, "{rest}");
}
