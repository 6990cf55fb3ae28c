//! Measures what the layer costs a request that does not ask for async.
//!
//! Every request pays this cost, so it should be two header look-ups and little else: a pass-through boxes nothing and
//! allocates nothing. The bare service, the two look-ups by hand, and layers of tower-http are shown beside it.
//!
//! Target: at most the two look-ups and 10 ns, and no allocation (the benchmark `allocations` counts them).
//!
//! ```text
//! cargo bench --features full --bench overhead
//! ```

mod support;

use std::{
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use cpu_time::ThreadTime;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{
        ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, COOKIE, HOST, REFERER, USER_AGENT,
    },
};
use http_body_util::Full;
use tokio::runtime::Builder;
use tower::{Layer, service_fn};
use tower_http::{limit::RequestBodyLimitLayer, timeout::TimeoutLayer, trace::TraceLayer};
use tower_service::Service;

use crate::support::{
    Contestant, compare,
    ours::{layer, wrapped},
    when_measuring,
    work::Mirror,
};

const FLOOR: &str = "two header look-ups by hand";

fn main() {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the operating system gives a timer");
    let _within = runtime.enter();
    for headers in [HeaderMap::new(), typical()] {
        pass_through(&headers);
    }
}

fn pass_through(headers: &HeaderMap) {
    let looked_up = service_fn(|request: Request<Full<Bytes>>| {
        for name in [&FC, &PREFER] {
            assert!(!request.headers().contains_key(name), "it does not ask");
        }
        Mirror.call(request)
    });
    let (ours, _tasks) = wrapped(Mirror, layer(1000));
    let timeout = TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_secs(30));
    let contestants = vec![
        Contestant::new("the bare service", || turn(Mirror, headers)),
        Contestant::new(FLOOR, || turn(looked_up, headers)),
        Contestant::new("ours", || turn(ours.clone(), headers)),
        Contestant::new("tower-http RequestBodyLimit", || {
            turn(RequestBodyLimitLayer::new(1024).layer(Mirror), headers)
        }),
        Contestant::new("tower-http Trace", || {
            turn(TraceLayer::new_for_http().layer(Mirror), headers)
        }),
        Contestant::new("tower-http Timeout", || turn(timeout.layer(Mirror), headers)),
    ];
    let title = format!("a request that passes through, {} headers; ns of CPU", headers.len());
    compare(&title, &["CPU"], FLOOR, contestants);
}

/// Sends many requests, one after another, each made from the response to the one before.
fn turn<S, R>(mut service: S, headers: &HeaderMap) -> Vec<f64>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>>,
    S::Error: std::fmt::Debug,
{
    let requests = when_measuring(200_000, 10);
    let mut headers = headers.clone();
    let mut cx = Context::from_waker(Waker::noop());
    let cpu = ThreadTime::now();
    for _ in 0..requests {
        let mut request = Request::new(Full::default());
        *request.headers_mut() = headers;
        assert!(service.poll_ready(&mut cx).is_ready());
        let answer = pin!(service.call(black_box(request))).poll(&mut cx);
        let Poll::Ready(Ok(response)) = answer else {
            panic!("the service answers at once");
        };
        headers = response.into_parts().0.headers;
    }
    vec![cpu.elapsed().as_nanos() as f64 / f64::from(requests)]
}

static FC: HeaderName = HeaderName::from_static("x-fc-invocation-type");
static PREFER: HeaderName = HeaderName::from_static("prefer");

/// The headers of a browser.
fn typical() -> HeaderMap {
    let headers = [
        (HOST, "example.org"),
        (
            USER_AGENT,
            "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        ),
        (
            ACCEPT,
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        ),
        (ACCEPT_LANGUAGE, "en,de;q=0.7"),
        (ACCEPT_ENCODING, "gzip, deflate, br, zstd"),
        (REFERER, "https://example.org/"),
        (COOKIE, "session=3f1b0a0e5b0f4d0f"),
        (AUTHORIZATION, "Bearer 3f1b0a0e5b0f4d0f"),
        (CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("sec-fetch-mode"), "navigate"),
    ];
    headers
        .map(|(name, value)| (name, HeaderValue::from_static(value)))
        .into_iter()
        .collect()
}
