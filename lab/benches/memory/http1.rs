//! Tasks that arrive over HTTP/1, on a connection with other requests as well.

use std::{
    convert::Infallible,
    future::pending,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream as Accepted};
use tower::{Service, ServiceExt};
use tower_respond_async::RequestBody;

use crate::{BODY, PATH, current_thread, for_one, headers, layer, support::ours::wrapped, when_measuring};

/// The requests on a connection.
#[derive(Clone, Copy)]
pub(crate) struct Connection {
    pub(crate) name: &'static str,
    /// The body length of each task's request.
    pub(crate) task: usize,
    /// The body length of the request that follows each task and is answered at once. 0: none follows.
    other: usize,
    /// Whether both are sent without waiting for an answer.
    pipelined: bool,
}

const ALONE: Connection = Connection {
    name: "it waits, and came over HTTP",
    task: BODY,
    other: 0,
    pipelined: false,
};

pub(crate) const CONNECTIONS: [Connection; 4] = [
    ALONE,
    Connection {
        name: "the same, without a body",
        task: 0,
        ..ALONE
    },
    Connection {
        name: "64 KiB after each on the connection",
        other: 64 * 1024,
        ..ALONE
    },
    Connection {
        name: "64 KiB after each, sent together",
        other: 64 * 1024,
        pipelined: true,
        ..ALONE
    },
];

/// One task has the only slot, and the others wait behind it.
pub(crate) fn waiting(connection: Connection) -> f64 {
    let runtime = current_thread();
    let within = runtime.enter();
    let app = tower::service_fn(|request: Request<RequestBody>| async move {
        let is_task = request.uri().path() == PATH;
        drop(request.into_body().collect().await);
        if is_task {
            pending::<()>().await;
        }
        Ok(Response::new(Full::default()))
    });
    let (app, tasks) = wrapped(app, layer().concurrency(1));
    drop(within);
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
    let listener = listener.expect("a port is free");
    let address = listener.local_addr().expect("a bound socket has an address");
    let converse = |count| {
        let client = thread::spawn(move || converse(address, count, connection));
        runtime.block_on(async {
            let (socket, _) = listener.accept().await.expect("the client connects");
            serve(socket, app.clone()).await;
        });
        client.join().expect("the client gets its answers");
    };
    // Takes the slot.
    converse(1);
    let kept = for_one(when_measuring(500, 10), converse);
    let stats = runtime.block_on(tasks.stats());
    let queued = stats.expect("the memory store answers").counts.queued();
    assert_eq!(queued, when_measuring(1000, 20), "all but the first wait");
    // The task in the slot never ends.
    runtime.shutdown_timeout(Duration::ZERO);
    kept
}

/// Serves to the end of the connection, so that only kept parts of its buffers are left.
async fn serve<S>(socket: Accepted, app: S)
where
    S: Service<Request<RequestBody>, Response = Response<Full<Bytes>>, Error = Infallible> + Clone,
{
    socket.set_nodelay(true).expect("the socket is open");
    let service = service_fn(move |request: Request<Incoming>| app.clone().oneshot(request.map(RequestBody::live)));
    let served = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
    served.await.expect("the client closes the connection");
}

fn converse(address: SocketAddr, count: usize, connection: Connection) {
    let mut task = format!("POST {PATH} HTTP/1.1\r\nx-fc-invocation-type: Async\r\n").into_bytes();
    for (name, value) in headers(connection.task) {
        task.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    task.extend_from_slice(b"\r\n");
    task.resize(task.len() + connection.task, b'x');
    let head = format!(
        "POST /upload HTTP/1.1\r\nhost: example.org\r\ncontent-length: {}\r\n\r\n",
        connection.other
    );
    let mut other = head.into_bytes();
    other.resize(other.len() + connection.other, b'z');

    let mut socket = TcpStream::connect(address).expect("the server listens");
    socket.set_nodelay(true).expect("the socket is open");
    let mut exchange = |request: &[u8], answers: &[&str]| {
        socket.write_all(request).expect("the server reads");
        for status in answers {
            let answer = read_answer(&mut socket);
            assert!(answer.starts_with(status), "{answer}");
        }
    };
    for _ in 0..count {
        match (connection.other, connection.pipelined) {
            (0, _) => exchange(&task, &["HTTP/1.1 202"]),
            (_, false) => {
                exchange(&task, &["HTTP/1.1 202"]);
                exchange(&other, &["HTTP/1.1 200"]);
            }
            (_, true) => exchange(&[&task[..], &other].concat(), &["HTTP/1.1 202", "HTTP/1.1 200"]),
        }
    }
}

/// Reads one answer, and not a byte of the next one.
fn read_answer(socket: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).expect("the server answers");
        answer.push(byte[0]);
    }
    let head = String::from_utf8(answer).expect("the head is text");
    let length = head.lines().filter_map(|line| line.split_once(": "));
    let length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.map(|(_, value)| value.parse().expect("a number")).next();
    let mut body = vec![0; length.unwrap_or(0)];
    socket.read_exact(&mut body).expect("the whole answer comes");
    head
}
