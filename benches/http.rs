//! Measures the cost of an asynchronous request for a server over HTTP, beside answering at once and beside work
//! spawned by hand.
//!
//! A hyper server has one thread, and so one core. A client in another thread keeps 32 connections busy with requests
//! of 1 KiB. The figure is the CPU time of the server's thread, which is more exact on a busy machine than requests per
//! second. Accepted work runs on the same thread, and is part of the figure.
//!
//! Targets: at most 1.1 times the CPU time of the spawn by hand, and at least 0.9 of its requests per second. That
//! spawn keeps no record of its work, and its 202 has no body. The second ratio is to code by hand that keeps requests
//! and responses, and sends a document.
//!
//! ```text
//! cargo bench --features full --bench http
//! ```

mod support;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use cpu_time::ThreadTime;
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::{mpsc as requests, oneshot},
};

use crate::support::{
    Contestant,
    by_hand::{AtOnce, Defers, Spawn, SpawnAndKeep, SpawnAndMap},
    compare_to,
    ours::Layered,
    when_measuring,
    work::PAYLOAD,
};

/// How many tasks each contestant keeps: few, so that the figures are those of the code and not of the memory.
const KEPT: usize = 1000;

const CONNECTIONS: usize = 32;

const BY_HAND: &str = "tokio::spawn and 202, by hand";
const KEEPING: &str = "the same, keeping requests, with a document";

fn main() {
    let client = current_thread();
    let servers = [
        ("a handler that answers at once", Server::start(|| AtOnce)),
        (BY_HAND, Server::start(Spawn::default)),
        (
            "tokio::spawn and a map, by hand",
            Server::start(|| SpawnAndMap::new(KEPT)),
        ),
        (KEEPING, Server::start(|| SpawnAndKeep::new(KEPT))),
        ("ours", Server::start(|| Layered::new(KEPT))),
        (
            "ours, the 202 without a document",
            Server::start(|| Layered::without_document(KEPT)),
        ),
    ];
    let contestants = servers
        .iter()
        .map(|(name, server)| Contestant::new(name, || server.turn(&client)));
    compare_to(
        "a request over HTTP on one server core; µs",
        &["server CPU", "wall"],
        &[(BY_HAND, "ratio"), (KEEPING, "keeping")],
        contestants.collect(),
    );
}

/// A server on its own thread.
struct Server {
    address: SocketAddr,
    used: requests::UnboundedSender<oneshot::Sender<Duration>>,
}

impl Server {
    fn start<D: Defers<Incoming>>(defers: impl FnOnce() -> D + Send + 'static) -> Self {
        let (started, address) = mpsc::channel();
        let (used, asked) = requests::unbounded_channel();
        thread::spawn(move || {
            current_thread().block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
                let address = listener.local_addr().expect("a bound socket has an address");
                started.send(address).expect("the client waits for it");
                serve(listener, defers(), asked).await;
            });
        });
        let address = address.recv().expect("the server starts");
        Self { address, used }
    }

    /// Sends many requests on each connection. Answers with the figures for one, in microseconds.
    fn turn(&self, client: &Runtime) -> Vec<f64> {
        let each = when_measuring(500, 4);
        client.block_on(async {
            let (wall, cpu) = (Instant::now(), self.cpu().await);
            let connections = (0..CONNECTIONS).map(|_| tokio::spawn(converse(self.address, each)));
            for connection in connections.collect::<Vec<_>>() {
                connection.await.expect("no connection breaks");
            }
            let requests = (CONNECTIONS * each) as f64;
            let (wall, cpu) = (wall.elapsed(), self.cpu().await - cpu);
            vec![cpu.as_secs_f64() * 1e6 / requests, wall.as_secs_f64() * 1e6 / requests]
        })
    }

    /// The CPU time of the server's thread so far, once all accepted work is done.
    async fn cpu(&self) -> Duration {
        let (answer, cpu) = oneshot::channel();
        self.used.send(answer).expect("the server runs");
        cpu.await.expect("the server answers")
    }
}

async fn serve<D: Defers<Incoming>>(
    listener: TcpListener,
    defers: D,
    mut asked: requests::UnboundedReceiver<oneshot::Sender<Duration>>,
) {
    let started = ThreadTime::now();
    loop {
        let socket = tokio::select! {
            accepted = listener.accept() => accepted.expect("the client connects").0,
            Some(answer) = asked.recv() => {
                defers.all_ended().await;
                let _ = answer.send(started.elapsed());
                continue;
            }
        };
        socket.set_nodelay(true).expect("the socket is open");
        let defers = defers.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let mut defers = defers.clone();
                async move { Ok::<_, Infallible>(defers.answer(request).await) }
            });
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

/// A client that costs little: it writes the same bytes again and again, and searches for the end of each answer.
async fn converse(address: SocketAddr, requests: usize) {
    let mut request = format!(
        "POST /transcode HTTP/1.1\r\nHost: example.org\r\nUser-Agent: curl/8.14.1\r\nAccept: */*\r\n\
         X-Fc-Invocation-Type: Async\r\nContent-Type: application/octet-stream\r\nContent-Length: {PAYLOAD}\r\n\r\n"
    )
    .into_bytes();
    request.resize(request.len() + PAYLOAD, b'x');
    let mut socket = TcpStream::connect(address).await.expect("the server listens");
    socket.set_nodelay(true).expect("the socket is open");
    let mut answer = Vec::with_capacity(8192);
    for _ in 0..requests {
        socket.write_all(&request).await.expect("the server reads");
        answer.clear();
        while !is_whole(&answer) {
            let read = socket.read_buf(&mut answer).await.expect("the server answers");
            assert!(read > 0, "the server keeps the connection");
        }
        assert!(
            answer.starts_with(b"HTTP/1.1 20"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return false;
    };
    let head = str::from_utf8(&answer[..end]).expect("the head is text");
    let length = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, length)| length.parse().expect("a length is a number"));
    answer.len() >= end + 4 + length
}

fn current_thread() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("the operating system gives a timer and a selector")
}
