//! Measures how much memory a task takes in `MemoryStore`, and whether a task that arrived over HTTP keeps more than
//! its own bytes.
//!
//! The figures are bytes that are allocated and not freed, as the program requested them, without the allocator's
//! slack. Everything runs on one thread, so that every allocation is counted. A request has a body of 1 KiB and eight
//! headers. Its own bytes are those of its path, of these headers, and of the bodies.
//!
//! A figure shows by how much the store grows when the number of tasks doubles. So it includes what indexes and maps
//! hold in reserve, and excludes what exists once.
//!
//! hyper hands out header values and bodies as parts of its read buffer. A task that keeps such a part keeps the whole
//! buffer, which grows with the traffic on the connection.
//!
//! ```text
//! cargo bench -p lab --bench memory
//! ```

mod http1;
#[path = "../../../benches/support/mod.rs"]
mod support;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::Full;
use tokio::runtime::{Builder, Runtime};
use tower::service_fn;
use tower_respond_async::{
    MemoryStore, RequestBody, RespondAsyncBuilder as LayerBuilder, RespondAsyncLayer, Submission, Tasks,
};

use crate::support::{
    is_wanted,
    ours::{all_ended, wrapped},
    when_measuring,
};

const PATH: &str = "/transcode";

const BODY: usize = 1024;

/// The headers that a browser's script sends to an API with a session, with a body of this length. All of them are
/// stored.
fn headers(body: usize) -> [(&'static str, String); 8] {
    let length = body.to_string();
    [
        ("host", "example.org"),
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        ),
        ("accept", "application/json"),
        ("accept-language", "en-GB,en;q=0.9"),
        ("authorization", "Bearer Zm9ydHkgY2hhcmFjdGVycyBvZiBub3RoaW5nIGF0IGFsbA"),
        ("content-type", "application/json"),
        ("content-length", &length),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
}

fn main() {
    let runtime = current_thread();
    println!(
        "\n{:52}{:>10}{:>10}{:>10}{:>8}",
        "bytes of memory for a task", "kept", "its own", "beyond", "ratio"
    );
    let copied = show("it waits", BODY, 0, || waiting(&runtime));
    show("it has ended, with an empty answer", BODY, 0, || ended(&runtime, 0));
    show("it has ended, with an answer of 1 KiB", BODY, BODY, || {
        ended(&runtime, BODY)
    });
    drop(runtime);
    for connection in http1::CONNECTIONS {
        let kept = show(connection.name, connection.task, 0, || http1::waiting(connection));
        if let (Some(kept), Some(copied)) = (kept, copied) {
            // Twice the size of a copy is more than rounding: then the read buffer is kept.
            let held = if kept > 2.0 * copied { "is held" } else { "is not held" };
            println!("{:52}{held:>38}", "    the buffer that it was read into");
        }
    }
}

/// Measures and prints what a task keeps whose bodies have these lengths.
fn show(name: &str, body: usize, answer: usize, figure: impl FnOnce() -> f64) -> Option<f64> {
    if !is_wanted(name) {
        return None;
    }
    let headers = headers(body).map(|(name, value)| name.len() + value.len());
    let own = (PATH.len() + headers.iter().sum::<usize>() + body + answer) as f64;
    let kept = figure();
    println!(
        "{name:52}{kept:>10.0}{own:>10.0}{:>10.0}{:>8.2}",
        kept - own,
        kept / own
    );
    Some(kept)
}

/// Tasks submitted in the process: each has its own copy of everything.
fn waiting(runtime: &Runtime) -> f64 {
    let layer = {
        let _within = runtime.enter();
        layer().build().expect("it is called within a runtime")
    };
    let tasks = layer.tasks();
    for_one(when_measuring(20_000, 100), |count| {
        runtime.block_on(submit(&tasks, count));
    })
}

fn ended(runtime: &Runtime, answer: usize) -> f64 {
    let app = service_fn(move |_: Request<RequestBody>| {
        std::future::ready(Ok(Response::new(Full::new(Bytes::from(vec![b'y'; answer])))))
    });
    let (_app, tasks) = {
        let _within = runtime.enter();
        wrapped(app, layer())
    };
    for_one(when_measuring(20_000, 100), |count| {
        runtime.block_on(async {
            submit(&tasks, count).await;
            all_ended(&tasks).await;
        });
    })
}

async fn submit(tasks: &Tasks, count: usize) {
    for _ in 0..count {
        let submission = Submission::new(request());
        tasks.submit(submission).await.expect("there is room");
    }
}

fn request() -> Request<Bytes> {
    let headers = headers(BODY).map(|(name, value)| {
        let value = HeaderValue::from_maybe_shared(Bytes::from(value));
        (HeaderName::from_static(name), value.expect("it is text"))
    });
    let mut request = Request::new(Bytes::from(vec![b'x'; BODY]));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_maybe_shared(Bytes::copy_from_slice(PATH.as_bytes())).expect("it is a path");
    *request.headers_mut() = HeaderMap::from_iter(headers);
    request
}

/// A layer that drops no tasks.
fn layer() -> LayerBuilder {
    let store = MemoryStore::builder().max_tasks(usize::MAX).max_bytes(usize::MAX);
    RespondAsyncLayer::builder(store.build()).queue_depth(u64::MAX)
}

/// The bytes of one more task, when there are `count` already.
fn for_one(count: usize, fill: impl Fn(usize)) -> f64 {
    fill(count);
    let counted = allocation_counter::measure(|| fill(count));
    counted.bytes_current as f64 / count as f64
}

fn current_thread() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("the operating system gives a timer")
}
