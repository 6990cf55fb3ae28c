//! Measures what capturing the logs of tasks costs the application's events.
//!
//! Every event of the program passes the layer, in a task or not, so an event outside tasks should cost almost nothing.
//! A captured event is formatted and kept. The floors are a registry with a layer that does nothing, and one whose
//! layer formats every event into a list. `fmt`, which most programs have anyway, is shown beside them, writing to
//! nowhere.
//!
//! Target: at most 20 ns over the floor for an event where no task runs.
//!
//! ```text
//! cargo bench --features full --bench capture
//! ```

mod support;

use std::{
    fmt::{self, Write},
    io,
    sync::{Arc, Mutex, mpsc},
};

use axum::{Router, body::Body, routing::any};
use cpu_time::ThreadTime;
use http::Request;
use tokio::runtime::{Builder, Runtime};
use tower::{Layer as _, ServiceExt};
use tower_respond_async::{MemoryStore, RespondAsync, RespondAsyncLayer, Tasks, probe::Capture};
use tracing::{
    Dispatch, Event, Subscriber,
    dispatcher::with_default,
    field::{Field, Visit},
    info, trace,
};
use tracing_subscriber::{
    Layer,
    filter::LevelFilter,
    layer::{Context, SubscriberExt},
    registry,
};

use crate::support::{Contestant, compare, when_measuring};

fn main() {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the operating system gives a timer");
    outside(&runtime);
    inside(&runtime);
}

/// The CPU time of one event on this thread, in nanoseconds.
fn one_event(dispatch: &Dispatch) -> f64 {
    with_default(dispatch, || per_event(when_measuring(200_000, 100)))
}

fn per_event(events: u64) -> f64 {
    let started = ThreadTime::now();
    for number in 0..events {
        info!(number, kind = "measured", "an event");
    }
    started.elapsed().as_nanos() as f64 / events as f64
}

fn one_refused(dispatch: &Dispatch) -> f64 {
    let events = when_measuring(200_000, 100);
    with_default(dispatch, || {
        let started = ThreadTime::now();
        for number in 0..events {
            trace!(number, "refused by level");
        }
        started.elapsed().as_nanos() as f64 / events as f64
    })
}

fn outside(runtime: &Runtime) {
    const FLOOR: &str = "a layer that looks at nothing";
    let nothing = Dispatch::new(registry().with(Nothing.with_filter(LevelFilter::INFO)));
    let (_unused, layer) = Capture::new();
    let idle = Dispatch::new(registry().with(layer));
    let (capture, layer) = Capture::new();
    let busy = Dispatch::new(registry().with(layer));
    let elsewhere = App::new(runtime, capture);
    elsewhere.begin(runtime);
    let turn = |dispatch: Dispatch| move || vec![one_event(&dispatch), one_refused(&dispatch)];
    compare(
        "An event outside of any task, ns",
        &["INFO", "TRACE"],
        FLOOR,
        vec![
            Contestant::new("no subscriber", turn(Dispatch::none())),
            Contestant::new(FLOOR, turn(nothing)),
            Contestant::new("captured, no task runs", turn(idle)),
            Contestant::new("captured, tasks run elsewhere", turn(busy)),
        ],
    );
}

fn inside(runtime: &Runtime) {
    const FLOOR: &str = "formatted into a list by hand";
    let listed = Arc::new(Mutex::new(Vec::new()));
    let by_hand = Dispatch::new(registry().with(Listed(listed.clone()).with_filter(LevelFilter::INFO)));
    let written = tracing_subscriber::fmt::layer().with_writer(io::sink).with_ansi(false);
    let written = Dispatch::new(registry().with(written.with_filter(LevelFilter::INFO)));
    let (capture, layer) = Capture::new();
    let captured = Dispatch::new(registry().with(layer));
    let app = App::new(runtime, capture);
    compare(
        "An event inside a task, ns",
        &["kept", "dropped"],
        FLOOR,
        vec![
            Contestant::new(FLOOR, || {
                listed.lock().expect("nobody panicked").clear();
                let kept = with_default(&by_hand, || per_event(KEPT));
                vec![kept, kept]
            }),
            Contestant::new("fmt, to nowhere", || {
                let written = with_default(&written, || per_event(KEPT));
                vec![written, written]
            }),
            Contestant::new("captured", || with_default(&captured, || app.run(runtime))),
        ],
    );
}

/// Fewer than are kept of an attempt.
const KEPT: u64 = 9_000;

/// An application whose tasks log events and send the time that it took.
struct App {
    service: RespondAsync<Router>,
    tasks: Tasks,
    measured: mpsc::Receiver<Vec<f64>>,
}

impl App {
    fn new(runtime: &Runtime, capture: Capture) -> Self {
        let _within = runtime.enter();
        let (say, measured) = mpsc::channel();
        let layer = RespondAsyncLayer::builder(MemoryStore::new()).probe(capture).build();
        let layer = layer.expect("the settings make sense");
        let handler = any(move || {
            let say = say.clone();
            async move {
                let kept = per_event(KEPT);
                per_event(2_000); // until the log is full
                let dropped = per_event(KEPT);
                say.send(vec![kept, dropped]).expect("somebody listens");
            }
        });
        let waits = any(std::future::pending::<()>);
        Self {
            tasks: layer.tasks(),
            service: layer.layer(Router::new().route("/", handler).route("/wait", waits)),
            measured,
        }
    }

    /// Runs one task that logs.
    fn run(&self, runtime: &Runtime) -> Vec<f64> {
        runtime.block_on(async {
            let id = self.accepted("/").await;
            let deadline = std::time::Duration::from_secs(60);
            self.tasks.wait(id, deadline).await.expect("the store answers");
        });
        self.measured.try_recv().expect("the task has run")
    }

    /// Begins one task that does not end.
    fn begin(&self, runtime: &Runtime) {
        runtime.block_on(self.accepted("/wait"));
    }

    async fn accepted(&self, path: &str) -> tower_respond_async::RequestId {
        let request = Request::post(path)
            .header("X-Fc-Invocation-Type", "Async")
            .body(Body::empty());
        let response = self.service.clone().oneshot(request.expect("it is a request")).await;
        let response = response.expect("a router does not fail");
        let id = response.headers()["x-fc-request-id"]
            .to_str()
            .ok()
            .and_then(|id| id.parse().ok());
        id.expect("an accepted request has an id")
    }
}

/// A layer that does nothing.
struct Nothing;

impl<S: Subscriber> Layer<S> for Nothing {
    fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {}
}

/// A layer that only keeps each event as text.
struct Listed(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Listed {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                let _ = write!(self.0, "{field}={value:?} ");
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().expect("nobody panicked").push(text.0);
    }
}
