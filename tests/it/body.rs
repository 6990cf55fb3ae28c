//! Incoming bodies: too long, too slow, too many, broken off, and from clients that leave.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Limited, StreamBody, channel::Channel};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::advance,
};
use tokio_test::{assert_pending, assert_ready};
use tower::{ServiceBuilder, ServiceExt};
use tower_http::{
    limit::RequestBodyLimitLayer, map_request_body::MapRequestBodyLayer, timeout::RequestBodyTimeoutLayer,
};
use tower_respond_async::{BoxError, MemoryStore, store::Operation, testing::FaultStore};

use crate::support::{Answered, App, WithoutBody, by_hand, fc, other_runtime, read_to_end, routes, soon, talk};

/// This also comes before `100 Continue`, since nothing has been read.
#[tokio::test]
async fn a_length_over_the_limit_is_refused_before_the_body_is_read() {
    let app = App::with(|builder| builder.body_limit(10));
    let answer = app.send(fc("/echo").header("Content-Length", "11").unread()).await;
    answer.assert_refused(413, "EntityTooLarge", None);
    let answer = app.send(fc("/echo").with(vec![b'x'; 11])).await;
    answer.assert_refused(413, "EntityTooLarge", None);
    assert_eq!(app.kept().await, 0);
    app.accepted(fc("/echo").with(vec![b'x'; 10])).await;
}

#[tokio::test]
async fn the_default_limit_is_2_mib() {
    let app = App::new();
    let limit = 2 * 1024 * 1024;
    let answer = app.send(fc("/echo").with(vec![0; limit + 1])).await;
    answer.assert_refused(413, "EntityTooLarge", None);
    app.accepted(fc("/status/204").with(vec![0; limit])).await;
}

/// Without a declared length the bytes are counted, and nothing after the limit is read.
#[tokio::test]
async fn a_body_is_refused_at_the_first_byte_over_the_limit() {
    let app = App::with(|builder| builder.body_limit(11));
    let frames = |count: usize| {
        let given = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let seen = given.clone();
        let frames = (0..count).map(move |_| {
            given.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(b"four")))
        });
        (Body::new(StreamBody::new(futures_util::stream::iter(frames))), seen)
    };
    let (body, given) = frames(1_000_000);
    let answer = app.send(fc("/echo").with(body)).await;
    answer.assert_refused(413, "EntityTooLarge", None);
    assert_eq!(given.load(std::sync::atomic::Ordering::SeqCst), 3);
    assert_eq!((app.kept().await, app.buffered().await), (0, 0));

    let (body, _) = frames(2);
    let id = app.accepted(fc("/echo").with(body)).await;
    assert_eq!(app.response(id).await.body, "fourfour");
}

#[tokio::test]
async fn a_connection_whose_body_was_too_long_is_closed() {
    let app = App::with(|builder| builder.body_limit(10));
    let address = app.serve().await;
    // There is no chunk of length 0: the client does not end its body.
    let request = "POST /echo HTTP/1.1\r\nHost: here\r\nX-Fc-Invocation-Type: Async\r\nTransfer-Encoding: chunked\r\n\r\n\
                   b\r\nhello world\r\n";
    let answer = talk(address, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(app.kept().await, 0);
}

#[tokio::test]
async fn a_client_that_expects_100_is_refused_without_it() {
    let app = App::with(|builder| builder.body_limit(10));
    let address = app.serve().await;
    let head = "POST /echo HTTP/1.1\r\nHost: here\r\nX-Fc-Invocation-Type: Async\r\nConnection: close\r\n\
                Expect: 100-continue\r\n";
    let answer = talk(address, format!("{head}Content-Length: 11\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");

    let mut connection = TcpStream::connect(address).await.unwrap();
    let accepted = format!("{head}Content-Length: 5\r\n\r\n");
    connection.write_all(accepted.as_bytes()).await.unwrap();
    let mut told = [0; 25];
    soon(connection.read_exact(&mut told)).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    connection.write_all(b"hello").await.unwrap();
    let answer = read_to_end(&mut connection).await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_refused_and_nothing_is_stored() {
    let app = App::new();
    let frames = [
        Ok(http_body::Frame::data(Bytes::from_static(b"half"))),
        Err(std::io::Error::other("the wire was cut")),
    ];
    let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
    let answer = app.send(fc("/echo").with(body)).await;
    answer.assert_refused(400, "InvalidArgument", None);
    assert_eq!((app.kept().await, app.buffered().await), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_refused_after_its_idle_time() {
    let app = App::with(|builder| builder.runtime(other_runtime()));
    let (mut sender, body) = Channel::<Bytes>::new(1);
    sender.send_data(Bytes::from_static(b"begun")).await.unwrap();
    let mut answer = by_hand(&app, fc("/echo").with(Body::new(body)));
    assert_pending!(answer.poll());
    assert_eq!(app.buffered().await, 5);
    advance(Duration::from_millis(9_990)).await;
    assert_pending!(answer.poll());
    advance(Duration::from_millis(20)).await;
    let response = assert_ready!(answer.poll());
    Answered::read(response)
        .await
        .assert_refused(408, "RequestTimeout", None);
    assert_eq!((app.kept().await, app.buffered().await), (0, 0));
    drop(sender);
}

/// One byte at a time does not keep a body open for ever.
#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_is_refused_after_its_whole_time() {
    let app = App::with(|builder| builder.runtime(other_runtime()));
    let (mut sender, body) = Channel::<Bytes>::new(1);
    let mut answer = by_hand(&app, fc("/echo").with(Body::new(body)));
    for _ in 0..6 {
        sender.send_data(Bytes::from_static(b"x")).await.unwrap();
        assert_pending!(answer.poll());
        advance(Duration::from_millis(9_900)).await;
    }
    assert_pending!(answer.poll());
    sender.send_data(Bytes::from_static(b"x")).await.unwrap();
    assert_pending!(answer.poll());
    advance(Duration::from_millis(700)).await;
    let response = assert_ready!(answer.poll());
    Answered::read(response)
        .await
        .assert_refused(408, "RequestTimeout", None);
    assert_eq!((app.kept().await, app.buffered().await), (0, 0));
}

/// Bodies that are being read share one budget.
#[tokio::test]
async fn when_the_budget_for_bodies_is_used_up_more_are_refused() {
    let app = App::with(|builder| builder.body_limit(8).buffer_limit(8));
    let (mut sender, body) = Channel::<Bytes>::new(1);
    sender.send_data(Bytes::from_static(b"12345678")).await.unwrap();
    let mut held = by_hand(&app, fc("/echo").with(Body::new(body)));
    assert_pending!(held.poll());
    assert_eq!(app.buffered().await, 8);

    let answer = app.send(fc("/echo").header("Content-Length", "1").unread()).await;
    answer.assert_refused(503, "BufferFull", Some("1"));
    let (mut unannounced, body) = Channel::<Bytes>::new(1);
    unannounced.send_data(Bytes::from_static(b"x")).await.unwrap();
    drop(unannounced);
    let answer = app.send(fc("/echo").with(Body::new(body))).await;
    answer.assert_refused(503, "BufferFull", Some("1"));
    app.accepted(fc("/echo").empty()).await;

    drop(sender);
    let answer = Answered::read(soon(held).await).await;
    assert_eq!((answer.status, app.buffered().await), (202, 0));
    app.accepted(fc("/echo").with("x")).await;
}

#[tokio::test]
async fn a_client_that_leaves_amid_its_body_leaves_nothing() {
    let app = App::new();
    let (mut sender, body) = Channel::<Bytes>::new(1);
    sender.send_data(Bytes::from_static(b"half of ")).await.unwrap();
    let mut answer = by_hand(&app, fc("/echo").with(Body::new(body)));
    assert_pending!(answer.poll());
    assert_eq!(app.buffered().await, 8);
    drop(answer);
    assert_eq!((app.kept().await, app.buffered().await), (0, 0));
    assert!(sender.send_data(Bytes::new()).await.is_err(), "the body is still held");
}

/// The same over a connection.
#[tokio::test]
async fn a_connection_that_breaks_amid_its_body_leaves_nothing() {
    let app = App::new();
    let address = app.serve().await;
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = "POST /echo HTTP/1.1\r\nHost: here\r\nX-Fc-Invocation-Type: Async\r\nContent-Length: 8\r\n\r\nhalf";
    connection.write_all(request.as_bytes()).await.unwrap();
    app.until_buffered(4).await;
    drop(connection);
    app.until_buffered(0).await;
    assert_eq!(app.kept().await, 0);
}

#[tokio::test]
async fn a_client_that_leaves_during_the_commit_has_its_task_run() {
    let store = FaultStore::new(MemoryStore::new());
    let faults = store.faults();
    let app = App::build(store, routes(), |builder| builder);
    let slow = faults.delay_next(Operation::Insert);
    let request = fc("/echo").header("X-Fc-Async-Task-Id", "left").with("whole body");
    let mut answer = by_hand(&app, request);
    assert_pending!(answer.poll());
    soon(slow.arrived()).await;
    drop(answer);
    assert_eq!(app.kept().await, 0);
    assert_eq!(app.buffered().await, 10, "the commit holds the body still");

    slow.release();
    let again = fc("/echo").header("X-Fc-Async-Task-Id", "left").with("whole body");
    app.until_kept(1).await;
    let answer = app.send(again).await;
    assert!(answer.is_duplicate());
    assert_eq!(app.response(answer.id()).await.body, "whole body");
    assert_eq!((app.kept().await, app.buffered().await), (1, 0));
}

/// The store refuses after the client has left.
#[tokio::test]
async fn a_commit_that_is_refused_after_the_client_left_leaves_nothing() {
    let store = FaultStore::new(MemoryStore::builder().max_tasks(0).build());
    let faults = store.faults();
    let app = App::build(store, routes(), |builder| builder);
    let slow = faults.delay_next(Operation::Insert);
    let mut answer = by_hand(&app, fc("/echo").with("whole body"));
    assert_pending!(answer.poll());
    soon(slow.arrived()).await;
    drop(answer);
    slow.release();
    app.until_buffered(0).await;
    let stats = app.tasks.stats().await.unwrap();
    assert_eq!((app.kept().await, stats.slots.unwrap().used), (0, 0));
    app.send(fc("/echo").empty())
        .await
        .assert_refused(503, "StorageFull", Some("5"));
}

/// A body whose error an outer layer made, as the error itself or as its cause.
fn failing(error: impl Into<BoxError>) -> Body {
    let frames = [
        Ok(http_body::Frame::data(Bytes::from_static(b"half"))),
        Err::<_, BoxError>(error.into()),
    ];
    Body::new(StreamBody::new(futures_util::stream::iter(frames)))
}

#[tokio::test]
async fn a_limit_outside_of_the_layer_is_413_however_the_body_comes() {
    let app = App::new();
    let limited = ServiceBuilder::new()
        .layer(RequestBodyLimitLayer::new(10))
        .service(app.service.clone());
    for body in [Body::from(vec![b'x'; 11]), endless_frames(b"xxxx")] {
        let response = soon(limited.clone().oneshot(fc("/echo").with(body))).await.unwrap();
        let answer = Answered::read(response.map(Body::new)).await;
        answer.assert_refused(413, "EntityTooLarge", None);
    }
    let wrapped = std::io::Error::other(
        Body::new(Limited::new(endless_frames(b"x"), 0))
            .collect()
            .await
            .unwrap_err(),
    );
    let answer = app.send(fc("/echo").with(failing(wrapped))).await;
    answer.assert_refused(413, "EntityTooLarge", None);
    assert_eq!((app.kept().await, app.buffered().await), (0, 0));
}

#[tokio::test]
async fn a_body_that_timed_out_outside_of_the_layer_is_408() {
    let app = App::new();
    let timed_out = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    let elapsed = tokio::time::timeout(Duration::ZERO, std::future::pending::<()>()).await;
    for body in [
        failing(timed_out()),
        failing(axum::Error::new(std::io::Error::other(timed_out()))),
        failing(elapsed.unwrap_err()),
    ] {
        let answer = app.send(fc("/echo").with(body)).await;
        answer.assert_refused(408, "RequestTimeout", None);
    }
    assert_eq!((app.kept().await, app.buffered().await), (0, 0));
}

/// The error does not differ from that of a broken connection. `body_idle_timeout` does the same, and answers 408.
#[tokio::test(start_paused = true)]
async fn a_timeout_outside_that_does_not_say_what_it_is_is_400_and_nothing_is_stored() {
    let app = App::with(|builder| builder.runtime(other_runtime()));
    let timed = ServiceBuilder::new()
        .layer(RequestBodyTimeoutLayer::new(Duration::from_secs(5)))
        .layer(MapRequestBodyLayer::new(Body::new))
        .service(app.service.clone());
    let (sender, body) = Channel::<Bytes>::new(1);
    let response = soon(timed.oneshot(fc("/echo").with(Body::new(body)))).await.unwrap();
    Answered::read(response)
        .await
        .assert_refused(400, "InvalidArgument", None);
    assert_eq!(app.kept().await, 0);
    drop(sender);
}

/// A body that is always ready with one more frame.
fn endless_frames(data: &'static [u8]) -> Body {
    let frames = std::iter::repeat_with(move || Ok::<_, BoxError>(http_body::Frame::data(Bytes::from_static(data))));
    Body::new(StreamBody::new(futures_util::stream::iter(frames)))
}

/// The reading used to go on for ever, on a thread that then ran nothing else.
#[tokio::test]
async fn a_body_of_nothing_but_empty_frames_ends() {
    let app = App::new();
    let answer = app.send(fc("/echo").with(endless_frames(b""))).await;
    answer.assert_refused(400, "InvalidArgument", None);
    let stop = Request::post("/tasks/nothing/stop").with(endless_frames(b""));
    assert_eq!(app.send(stop).await.status, 400);
    let trailers = std::iter::repeat_with(|| Ok::<_, BoxError>(http_body::Frame::trailers(HeaderMap::new())));
    let body = Body::new(StreamBody::new(futures_util::stream::iter(trailers)));
    let answer = app.send(fc("/echo").with(body)).await;
    answer.assert_refused(400, "InvalidArgument", None);
    assert_eq!((app.kept().await, app.buffered().await), (0, 0));
}

/// The runtime has one thread.
#[tokio::test]
async fn others_go_on_while_a_body_is_read_that_is_always_ready() {
    let app = App::with(|builder| builder.body_limit(1_000_000).buffer_limit(1_000_000));
    let others = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = others.clone();
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            tokio::task::yield_now().await;
        }
    });
    for path in ["/echo", "/tasks/nothing/stop"] {
        let before = others.load(std::sync::atomic::Ordering::SeqCst);
        let frames = std::iter::repeat_with(|| Ok::<_, BoxError>(http_body::Frame::data(Bytes::from_static(b"x"))));
        let body = Body::new(StreamBody::new(futures_util::stream::iter(frames.take(50_000))));
        let service = app.service.clone();
        let answer = tokio::spawn(service.oneshot(fc(path).with(body)));
        soon(answer).await.unwrap().unwrap();
        let turns = others.load(std::sync::atomic::Ordering::SeqCst) - before;
        assert!(turns >= 100, "{path}: {turns} turns in 50,000 frames");
    }
    other.abort();
}
