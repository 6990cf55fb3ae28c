//! Measures whether a destination that does not answer delays tasks.
//!
//! 10,000 tasks are submitted and run to their end, without a destination and with one: a port where nothing listens, a
//! receiver that accepts connections and never answers, and one that answers. Each round begins with an empty store.
//! The time runs until the last task has ended; undelivered completions are dropped with the store.
//!
//! Target: with tasks of a millisecond, at least 0.9 of the speed without a destination, that is, a ratio of at most
//! 1.11. Tasks that take no time are shown as well: they show only the cost of the outbox.
//!
//! ```text
//! cargo bench --features full --bench callbacks
//! ```

mod support;

use std::{
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use bytes::Bytes;
use cpu_time::ProcessTime;
use http::{Request, Response};
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Runtime,
};
use tower::{Layer, service_fn};
use tower_respond_async::{BoxError, MemoryStore, RequestBody, RespondAsyncLayer, Submission, hook::webhook::Webhook};

use crate::support::{Contestant, compare, ours::all_ended, when_measuring};

const NOBODY: &str = "nobody to tell";

fn main() {
    let runtime = support::two_threads();
    // A port that was free a moment ago. The system does not soon give it out again.
    let refusing = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let refusing = refusing.expect("there is a free port");
    let (silent, answering) = (receiver(&runtime, false), receiver(&runtime, true));
    for (title, work) in [
        ("tasks of 1 ms, 64 at once; ns for each", Duration::from_millis(1)),
        ("tasks that take no time, 64 at once; ns for each", Duration::ZERO),
    ] {
        let contestants = [
            (NOBODY, None),
            ("a destination that nobody listens at", Some(refusing)),
            ("a destination that never answers", Some(silent)),
            ("a destination that answers", Some(answering)),
        ];
        let contestants = contestants.map(|(name, destination)| {
            let runtime = &runtime;
            Contestant::new(name, move || round(runtime, destination, work))
        });
        compare(title, &["wall", "CPU"], NOBODY, contestants.into());
    }
}

fn round(runtime: &Runtime, destination: Option<SocketAddr>, work: Duration) -> Vec<f64> {
    let count = when_measuring(10_000, 100);
    runtime.block_on(async {
        let mut builder = RespondAsyncLayer::builder(MemoryStore::new());
        if let Some(address) = destination {
            let webhook = Webhook::new(&format!("http://{address}/")).expect("it is a URL");
            builder = builder.on_completion(webhook);
        }
        let layer = builder.build().expect("it is called within a runtime");
        let tasks = layer.tasks();
        let app = layer.layer(service_fn(move |_: Request<RequestBody>| async move {
            if !work.is_zero() {
                tokio::time::sleep(work).await;
            }
            Ok::<_, BoxError>(Response::new(Full::new(Bytes::from_static(b"done"))))
        }));
        let (wall, cpu) = (Instant::now(), ProcessTime::now());
        for _ in 0..count {
            let request = Request::post("/work").body(Bytes::from_static(b"input"));
            let submission = Submission::new(request.expect("it is a request"));
            tasks.submit(submission).await.expect("there is room");
        }
        all_ended(&tasks).await;
        let taken = [wall.elapsed(), cpu.elapsed()];
        drop(app);
        tasks.shutdown(Duration::ZERO).await;
        taken.map(|taken| taken.as_nanos() as f64 / count as f64).into()
    })
}

/// Listens, and answers only if `answers` is set.
fn receiver(runtime: &Runtime, answers: bool) -> SocketAddr {
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
    let listener = listener.expect("there is a free port");
    let address = listener.local_addr().expect("it is bound");
    runtime.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = [0; 4096];
                // The messages are short, so each arrives in one piece.
                while stream.read(&mut read).await.is_ok_and(|bytes| bytes > 0) {
                    let answer = b"HTTP/1.1 204 x\r\n\r\n";
                    if answers && stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}
