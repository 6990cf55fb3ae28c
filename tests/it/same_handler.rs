//! Sends thousands of requests twice: to be answered at once, and to run later. The handler records everything that it
//! sees, which must be the same except for the one list of differences.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    env,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts, MatchedPath, NestedPath, OriginalUri, RawPathParams},
};
use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version, request::Parts};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};
use tower::Layer;
use tower_respond_async::{MemoryStore, RespondAsyncLayer, TaskContext, testing::DIFFERENCES};

use crate::support::{no_retries, soon};

const CASES: u64 = 2_000;

/// How many cases run at once, each on its own connection.
const CONNECTIONS: u64 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_sees_the_same_request_now_and_later() {
    let number = |name: &str| env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let seed = number("SAME_HANDLER_SEED").unwrap_or_else(|| fastrand::u64(..));
    let cases = number("SAME_HANDLER_CASES").unwrap_or(CASES);
    println!("SAME_HANDLER_SEED={seed} SAME_HANDLER_CASES={cases}");
    let server = Server::start().await;
    let mut lanes = JoinSet::new();
    for lane in 0..CONNECTIONS {
        let server = server.clone();
        lanes.spawn(async move {
            let mut client = Client::new(lane % 2 == 0, &server);
            for case in (lane..cases).step_by(CONNECTIONS as usize) {
                let asked = Asked::random(seed.wrapping_add(case), client.is_http2);
                compare(&server, &mut client, case, &asked)
                    .await
                    .unwrap_or_else(|error| panic!("SAME_HANDLER_SEED={seed}, case {case}: {error}\n{asked:?}"));
            }
        });
    }
    while let Some(lane) = lanes.join_next().await {
        lane.unwrap();
    }
}

/// What a handler sees of a request.
#[derive(Debug)]
struct Seen {
    method: Method,
    target: [String; 3],
    version: Version,
    headers: HeaderMap,
    /// What axum's router adds to it.
    around: String,
    body: Bytes,
    has_trailers: bool,
}

async fn compare(server: &Server, client: &mut Client, case: u64, asked: &Asked) -> Result<(), String> {
    let now = server.sent(client, case, asked, false).await?;
    let later = server.sent(client, case, asked, true).await?;
    let same = |what: &str, now: &dyn std::fmt::Debug, later: &dyn std::fmt::Debug| {
        let (now, later) = (format!("{now:?}"), format!("{later:?}"));
        match now == later {
            true => Ok(()),
            false => Err(format!("{what} is {now} now and {later} later")),
        }
    };
    same("the method", &now.method, &later.method)?;
    same("the target", &now.target, &later.target)?;
    same("what is around", &now.around, &later.around)?;
    same("the body", &now.body, &later.body)?;
    same("the body sent", &asked.frames.concat(), &later.body.to_vec())?;

    // Differences only as the list allows.
    let method = asked.method.as_str();
    let alike = |headers: &HeaderMap| {
        let alike = headers.iter().filter(|(name, _)| {
            let listed = DIFFERENCES.iter().any(|row| row.is_about(method, name.as_str()));
            !listed
        });
        let alike = alike.map(|(name, value)| (name.clone(), value.clone()));
        alike.collect::<Vec<_>>()
    };
    same("a header", &alike(&now.headers), &alike(&later.headers))?;

    // What the list says about those that differ.
    let values = |seen: &Seen, name: &str| -> Vec<_> { seen.headers.get_all(name).iter().cloned().collect() };
    let length = match later.body.is_empty() {
        true => values(&now, "content-length"),
        false => vec![later.body.len().into()],
    };
    same("the length", &length, &values(&later, "content-length"))?;
    same("the rest of Prefer", &values(&now, "prefer"), &values(&later, "prefer"))?;
    same("the version", &Version::HTTP_11, &later.version)?;
    same("whether there are trailers", &false, &later.has_trailers)?;
    for (name, value) in &later.headers {
        let forged = value == FORGED && (name.as_str().starts_with("x-respond-async-") || name == "x-fc-request-id");
        if forged {
            return Err(format!("{name} is the client's"));
        }
    }
    Ok(())
}

/// The waiters for what the handler sees of a case, now or later.
type Waiting = HashMap<(u64, bool), oneshot::Sender<Seen>>;

/// The layer in a router of axum, below a prefix and without one, over both protocols.
#[derive(Clone)]
struct Server {
    http1: SocketAddr,
    http2: SocketAddr,
    waiting: Arc<Mutex<Waiting>>,
}

impl Server {
    async fn start() -> Self {
        let waiting = Arc::new(Mutex::new(Waiting::new()));
        let told = waiting.clone();
        let handler = move |request: Request<Body>| {
            let told = told.clone();
            async move {
                let (mut head, body) = request.into_parts();
                let case = head.headers.remove(CASE).unwrap().to_str().unwrap().parse().unwrap();
                let is_task = TaskContext::of(&head.extensions).is_task();
                let body = body.collect().await.unwrap();
                let seen = Seen {
                    target: parts(&head.uri),
                    around: around(&mut head).await,
                    method: head.method,
                    version: head.version,
                    headers: head.headers,
                    has_trailers: body.trailers().is_some(),
                    body: body.to_bytes(),
                };
                let _ = told.lock().unwrap().remove(&(case, is_task)).unwrap().send(seen);
            }
        };
        let layer = RespondAsyncLayer::builder(MemoryStore::new())
            .retry(no_retries())
            .build()
            .unwrap();
        let inner = layer.layer(Router::new().fallback(handler));
        let app = Router::new()
            .nest_service("/nested/{outer}", inner.clone())
            .fallback_service(inner);
        let listener = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (first, second) = (listener().await, listener().await);
        let server = Self {
            http1: first.local_addr().unwrap(),
            http2: second.local_addr().unwrap(),
            waiting,
        };
        let service = app.clone();
        tokio::spawn(async move {
            loop {
                let (connection, _) = first.accept().await.unwrap();
                connection.set_nodelay(true).unwrap();
                let service = TowerToHyperService::new(service.clone());
                let serving = hyper::server::conn::http1::Builder::new();
                tokio::spawn(serving.serve_connection(TokioIo::new(connection), service));
            }
        });
        tokio::spawn(async move {
            loop {
                let (connection, _) = second.accept().await.unwrap();
                connection.set_nodelay(true).unwrap();
                let service = TowerToHyperService::new(app.clone());
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(serving.serve_connection(TokioIo::new(connection), service));
            }
        });
        server
    }

    /// Sends the request. Answers with what the handler sees.
    async fn sent(&self, client: &mut Client, case: u64, asked: &Asked, later: bool) -> Result<Seen, String> {
        let (tell, seen) = oneshot::channel();
        self.waiting.lock().unwrap().insert((case, later), tell);
        let answer = soon(client.send(asked.request(case, later))).await;
        let status = answer.status().as_u16();
        let text = soon(answer.into_body().collect())
            .await
            .map_err(|error| error.to_string())?;
        let expected = if later { 202 } else { 200 };
        if status != expected {
            return Err(format!(
                "later is {later}, and the answer is {status} {:?}",
                text.to_bytes()
            ));
        }
        soon(seen).await.map_err(|_| "nobody has seen it".to_owned())
    }
}

fn parts(uri: &Uri) -> [String; 3] {
    let path = uri.path_and_query().map(http::uri::PathAndQuery::as_str);
    let authority = uri.authority().map(http::uri::Authority::as_str);
    [uri.scheme_str(), authority, path].map(|part| part.unwrap_or_default().to_owned())
}

async fn around(head: &mut Parts) -> String {
    let parameters = RawPathParams::from_request_parts(head, &()).await;
    let parameters = parameters.map(|all| all.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>());
    let original = head.extensions.get().map(|OriginalUri(uri)| parts(uri));
    let nested = head.extensions.get().map(|path: &NestedPath| path.as_str());
    let matched = head.extensions.get().map(|path: &MatchedPath| path.as_str());
    format!(
        "{original:?} {nested:?} {matched:?} {:?}",
        parameters.map_err(|error| error.to_string())
    )
}

type Sent = UnsyncBoxBody<Bytes, Infallible>;

/// A connection, opened again after it was closed.
struct Client {
    is_http2: bool,
    address: SocketAddr,
    connection: Option<Connection>,
}

enum Connection {
    Http1(http1::SendRequest<Sent>),
    Http2(http2::SendRequest<Sent>),
}

impl Client {
    fn new(is_http2: bool, server: &Server) -> Self {
        Self {
            is_http2,
            address: if is_http2 { server.http2 } else { server.http1 },
            connection: None,
        }
    }

    async fn send(&mut self, request: Request<Sent>) -> Response<Incoming> {
        let is_open = match &mut self.connection {
            Some(Connection::Http1(connection)) => connection.ready().await.is_ok(),
            Some(Connection::Http2(connection)) => connection.ready().await.is_ok(),
            None => false,
        };
        if !is_open {
            let stream = TcpStream::connect(self.address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let stream = TokioIo::new(stream);
            self.connection = Some(match self.is_http2 {
                true => {
                    let (connection, driving) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
                    tokio::spawn(driving);
                    Connection::Http2(connection)
                }
                false => {
                    let (connection, driving) = http1::handshake(stream).await.unwrap();
                    tokio::spawn(driving);
                    Connection::Http1(connection)
                }
            });
        }
        match self.connection.as_mut().unwrap() {
            Connection::Http1(connection) => connection.send_request(request).await.unwrap(),
            Connection::Http2(connection) => connection.send_request(request).await.unwrap(),
        }
    }
}

const CASE: HeaderName = HeaderName::from_static("x-case");

/// A value that clients send in headers that only this crate may set.
const FORGED: &str = "forged";

/// One request.
#[derive(Debug)]
struct Asked {
    method: Method,
    target: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    frames: Vec<Vec<u8>>,
    /// Whether the whole body is one frame, whose length is declared.
    in_one: bool,
    trailers: Option<HeaderMap>,
    prefers: bool,
}

impl Asked {
    fn random(seed: u64, is_http2: bool) -> Self {
        let random = &mut Rng::with_seed(seed);
        let method = pick(
            random,
            &[
                "GET",
                "HEAD",
                "POST",
                "PUT",
                "PATCH",
                "DELETE",
                "OPTIONS",
                "PURGE",
                "m-SEARCH!",
            ],
        );
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let frames: Vec<_> = match random.u8(0..4) {
            0 => Vec::new(),
            _ => (0..random.usize(1..6)).map(|_| bytes(random, 0, 40)).collect(),
        };
        let trailed = !frames.is_empty() && random.u8(0..4) == 0;
        let trailers = trailed.then(|| HeaderMap::from_iter([(name("x-end"), HeaderValue::from_static("1"))]));
        let mut headers: Vec<_> = (0..random.usize(0..14)).map(|_| header(random, is_http2)).collect();
        let in_one = random.bool() && !trailed;
        if !is_http2 {
            if !in_one && !frames.is_empty() {
                // Without it, the client would not send a body on a GET.
                headers.push((http::header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")));
            }
            headers.push((http::header::HOST, HeaderValue::from_static("here:80")));
            if trailed {
                headers.push((http::header::TRAILER, HeaderValue::from_static("x-end")));
            }
        }
        if frames.is_empty() && random.bool() {
            headers.push((http::header::CONTENT_LENGTH, HeaderValue::from_static("0")));
        }
        random.shuffle(&mut headers);
        Self {
            target: target(random, &method, is_http2),
            method,
            headers,
            in_one,
            frames,
            trailers,
            prefers: random.bool(),
        }
    }

    fn request(&self, case: u64, later: bool) -> Request<Sent> {
        let frames = match self.in_one {
            true if self.frames.is_empty() => Vec::new(),
            true => vec![self.frames.concat()],
            false => self.frames.clone(),
        };
        let body: Sent = match self.in_one || frames.is_empty() {
            true => http_body_util::Full::new(Bytes::from(frames.concat())).boxed_unsync(),
            false => {
                let frames = frames.into_iter().map(|data| Frame::data(Bytes::from(data)));
                let frames = frames.chain(self.trailers.clone().map(Frame::trailers));
                StreamBody::new(futures_util::stream::iter(frames.map(Ok))).boxed_unsync()
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        headers.insert(CASE, case.into());
        match (later, self.prefers) {
            (true, true) => drop(headers.append("prefer", HeaderValue::from_static("respond-async"))),
            (true, false) => drop(headers.append("x-fc-invocation-type", HeaderValue::from_static("Async"))),
            (false, _) => {}
        }
        request
    }
}

fn pick<'a>(random: &mut Rng, from: &[&'a str]) -> &'a str {
    from[random.usize(..from.len())]
}

fn name(name: &str) -> HeaderName {
    HeaderName::try_from(name).unwrap()
}

fn bytes(random: &mut Rng, least: usize, most: usize) -> Vec<u8> {
    (0..random.usize(least..most)).map(|_| random.u8(..)).collect()
}

fn text(random: &mut Rng, alphabet: &[u8], most: usize) -> String {
    let length = random.usize(0..most);
    (0..length)
        .map(|_| alphabet[random.usize(..alphabet.len())] as char)
        .collect()
}

/// A path, sometimes long, sometimes below the prefix. Over HTTP/2, and sometimes over HTTP/1, with a scheme and an
/// authority. Or an asterisk.
fn target(random: &mut Rng, method: &Method, is_http2: bool) -> Uri {
    let mut path = match random.u8(0..8) {
        0 if *method == Method::OPTIONS => "*".to_owned(),
        0 => format!("/x/{}", text(random, b"abc/", 6_000)),
        1..4 => format!(
            "/nested/{}{}",
            pick(random, &["a", "%C3%BC", "b%2Fc", "a%20b"]),
            pick(random, &["", "/"])
        ),
        _ => "/x".to_owned(),
    };
    if path != "*" {
        for _ in 0..random.usize(0..4) {
            path = format!(
                "{path}/{}",
                text(random, b"az09.~!$&'()*+,;=:@-_%", 8).replace('%', "%2f")
            );
        }
        if random.bool() {
            path = format!("{path}?{}", text(random, b"az09=&%+?/:@{}[]|", 16).replace('%', "%20"));
        }
    }
    if !is_http2 && random.u8(0..4) > 0 {
        return path.parse().unwrap();
    }
    let authority = pick(random, &["here", "here:8080", "[::1]:80", "user@here", "HERE.example"]);
    if path == "*" && !is_http2 {
        return path.parse().unwrap();
    }
    let uri = Uri::builder().scheme(if is_http2 { "https" } else { "http" });
    uri.authority(authority).path_and_query(path).build().unwrap()
}

fn header(random: &mut Rng, is_http2: bool) -> (HeaderName, HeaderValue) {
    const KNOWN: &[&str] = &[
        "accept",
        "accept-encoding",
        "authorization",
        "content-encoding",
        "content-type",
        "cookie",
        "early-data",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "proxy-authorization",
        "proxy-user",
        "range",
        "traceparent",
        "via",
        "x-authenticated-user",
        "x-forwarded-for",
    ];
    const FORGEABLE: &[&str] = &[
        "x-fc-request-id",
        "x-respond-async-task-id",
        "x-respond-async-attempt",
        "x-respond-async-duplicate",
        "x-respond-async-status",
    ];
    // Only HTTP/1 has them.
    const OF_A_CONNECTION: &[&str] = &[
        "keep-alive, x-authenticated-user",
        "x-two, authorization",
        "te, x-forwarded-for",
        "close, x-case",
    ];
    let value = |random: &mut Rng| {
        let bytes = bytes(random, 0, 24).into_iter();
        let bytes = bytes.map(|byte| if byte < b' ' || byte == 0x7f { b'\t' } else { byte });
        HeaderValue::from_bytes(&bytes.collect::<Vec<_>>()).unwrap()
    };
    match random.u8(0..12) {
        0 => (name(pick(random, FORGEABLE)), HeaderValue::from_static(FORGED)),
        1 if !is_http2 => (
            http::header::CONNECTION,
            HeaderValue::from_static(pick(random, OF_A_CONNECTION)),
        ),
        2 if !is_http2 => (
            name(pick(random, &["keep-alive", "proxy-connection", "http2-settings"])),
            value(random),
        ),
        3 => (http::header::TE, HeaderValue::from_static("trailers")),
        4 => (
            name("prefer"),
            HeaderValue::from_static(pick(random, &["return=minimal", "a=\"b, c\"; d", "handling=lenient"])),
        ),
        5 => (name("x-two"), value(random)),
        6 => (
            name(&format!("x{}", text(random, b"az09!#$&'*+.^_`|~-", 8))),
            value(random),
        ),
        _ => (name(pick(random, KNOWN)), value(random)),
    }
}

/// The generator is useful only if it makes every kind of request.
#[test]
fn the_requests_are_of_every_kind() {
    let mut kinds = BTreeMap::<&str, usize>::new();
    for seed in 0..CASES {
        let asked = Asked::random(seed, seed % 2 == 0);
        let has = |name: &str| asked.headers.iter().any(|(header, _)| header == name);
        for (kind, is) in [
            ("asterisk", asked.target.path() == "*"),
            ("absolute over HTTP/1", seed % 2 == 1 && asked.target.scheme().is_some()),
            ("below the prefix", asked.target.path().starts_with("/nested/")),
            ("long", asked.target.path().len() > 3_000),
            ("in frames", !asked.in_one && asked.frames.len() > 1),
            ("trailers", asked.trailers.is_some()),
            ("no body", asked.frames.is_empty()),
            ("a length of 0", has("content-length")),
            ("a condition", has("if-none-match")),
            ("a connection", has("connection")),
            ("a forgery", has("x-fc-request-id")),
            ("a preference", has("prefer")),
            (
                "no text",
                asked.headers.iter().any(|(_, value)| value.to_str().is_err()),
            ),
            (
                "two of a name",
                asked.headers.iter().filter(|(name, _)| name == "x-two").count() > 1,
            ),
        ] {
            *kinds.entry(kind).or_default() += usize::from(is);
        }
    }
    assert!(kinds.values().all(|count| *count >= 10), "{kinds:?}");
}
