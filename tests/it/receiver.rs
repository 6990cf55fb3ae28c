//! A receiver of webhooks that follows a script: it answers, or fails in some way.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Barrier,
};
use tokio_rustls::TlsAcceptor;

use crate::engine_support::eventually;

/// A received message.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// How many came before it on the same connection.
    pub(crate) turn: usize,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// How a message is answered.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Status(u16),
    With(u16, String, &'static str),
    /// When as many requests wait for an answer.
    Together(Arc<Barrier>, u16),
    /// Then the connection is closed, without `Connection: close` in the answer.
    ThenClose(u16),
    /// No answer: the connection is closed.
    Close,
    /// No answer: the connection is closed in one direction, and everything that arrives is still read.
    HalfClose,
    /// The beginning of a head, and then the connection is closed.
    Part,
    /// A head that promises more than arrives before the connection is closed.
    BreakOff(u16),
    /// A body without end.
    Endless(u16),
    /// No answer, and the connection stays open.
    Hang,
}

#[derive(Clone)]
pub(crate) struct Receiver(Arc<Inner>);

/// Gives the answer, by the number of earlier messages and the message.
type Script = dyn Fn(usize, &Received) -> Answer + Send + Sync;

struct Inner {
    address: SocketAddr,
    answer: Box<Script>,
    received: Mutex<Vec<Received>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
    /// How many bytes of each endless body were sent before the client stopped reading.
    endless: Mutex<Vec<u64>>,
}

impl Receiver {
    /// Starts a receiver that answers by the number of earlier messages and the message.
    pub(crate) async fn start(answer: impl Fn(usize, &Received) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap(), answer).await
    }

    pub(crate) async fn start_on(
        address: SocketAddr,
        answer: impl Fn(usize, &Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(address, |_| (), answer).await
    }

    /// Starts a receiver whose connections end by a reset at any time.
    pub(crate) async fn start_resetting(answer: impl Fn(usize, &Received) -> Answer + Send + Sync + 'static) -> Self {
        let resets = |stream: &TcpStream| stream.set_zero_linger().unwrap();
        Self::start_with("127.0.0.1:0".parse().unwrap(), resets, answer).await
    }

    /// Starts a receiver that uses TLS.
    pub(crate) async fn start_tls(
        acceptor: TlsAcceptor,
        answer: impl Fn(usize, &Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self::new(listener.local_addr().unwrap(), answer);
        let accepting = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    tokio::spawn(accepting.clone().serve(stream));
                }
            }
        });
        receiver
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.address.port()
    }

    async fn start_with(
        address: SocketAddr,
        prepare: fn(&TcpStream),
        answer: impl Fn(usize, &Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let receiver = Self::new(listener.local_addr().unwrap(), answer);
        let accepting = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                prepare(&stream);
                tokio::spawn(accepting.clone().serve(stream));
            }
        });
        receiver
    }

    pub(crate) fn new(
        address: SocketAddr,
        answer: impl Fn(usize, &Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            address,
            answer: Box::new(answer),
            received: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
            endless: Mutex::default(),
        }))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.0.address)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.0.received.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.0.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn most_open(&self) -> usize {
        self.0.most_open.load(Ordering::SeqCst)
    }

    pub(crate) fn endless(&self) -> Vec<u64> {
        self.0.endless.lock().unwrap().clone()
    }

    /// The received messages, as soon as there are so many.
    pub(crate) async fn has(&self, messages: usize) -> Vec<Received> {
        eventually("it is received", async || self.received().len() >= messages).await;
        let received = self.received();
        assert_eq!(received.len(), messages, "{received:?}");
        received
    }

    pub(crate) async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        self.0.connections.fetch_add(1, Ordering::SeqCst);
        let open = self.0.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most_open.fetch_max(open, Ordering::SeqCst);
        // A client may break off at any time.
        let _ = self.serve_all(stream).await;
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }

    async fn serve_all(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut turn = 0;
        while let Some(received) = read(&mut stream, turn).await? {
            turn += 1;
            let answer = {
                let mut all = self.0.received.lock().unwrap();
                let answer = (self.0.answer)(all.len(), &received);
                all.push(received);
                answer
            };
            match answer {
                Answer::Status(status) => write(&mut stream, status, "", "").await?,
                Answer::With(status, headers, body) => write(&mut stream, status, &headers, body).await?,
                Answer::Together(barrier, status) => {
                    barrier.wait().await;
                    write(&mut stream, status, "", "").await?;
                }
                Answer::ThenClose(status) => return write(&mut stream, status, "", "").await,
                Answer::Close => return Ok(()),
                Answer::HalfClose => {
                    stream.shutdown().await?;
                    while stream.read(&mut [0; 1024]).await? > 0 {}
                    return Ok(());
                }
                Answer::Part => {
                    stream.write_all(b"HTTP/1.1 20").await?;
                    return stream.flush().await;
                }
                Answer::BreakOff(status) => {
                    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: 1000\r\n\r\nhalf of i");
                    stream.write_all(head.as_bytes()).await?;
                    return stream.flush().await;
                }
                Answer::Endless(status) => {
                    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: 1000000000000\r\n\r\n");
                    stream.write_all(head.as_bytes()).await?;
                    let mut written = 0;
                    while stream.write_all(&[b'x'; 4096]).await.is_ok() && stream.flush().await.is_ok() {
                        written += 4096;
                    }
                    self.0.endless.lock().unwrap().push(written);
                    return Ok(());
                }
                Answer::Hang => {
                    // Until the client gives up.
                    let _ = stream.read(&mut [0]).await?;
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), status: u16, headers: &str, body: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await
}

async fn read(stream: &mut (impl AsyncBufReadExt + Unpin), turn: usize) -> std::io::Result<Option<Received>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut start = line.split_whitespace().map(str::to_owned);
    let (method, path) = (start.next().unwrap_or_default(), start.next().unwrap_or_default());
    let mut headers = HeaderMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |value| value.to_str().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(Received {
        method,
        path,
        headers,
        body: body.into(),
        turn,
    }))
}
