//! Event streams: `text/event-stream`, in the form that browsers' `EventSource` reads.
//!
//! A stream ends when there is nothing more to send, when the engine is closing, or when the client reads nothing for
//! half a minute. A client resumes with the id of the last event, in `Last-Event-ID` as browsers do, or in the query as
//! `lastEventId`.

mod all;
mod one;

use std::{fmt::Display, io::Write, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
    request::Parts,
};
use tokio::time::Instant;

pub(super) use self::{all::all, one::one};
use crate::{
    api::{
        answer::{NO_STORE, NOSNIFF},
        call::{Answer, Call},
        query,
        stream::{Gone, Pen, stream},
    },
    engine::Observer,
    layer::ResponseBody,
    wire::Problem,
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Turns off buffering in proxies that collect answers before they pass them on, such as nginx.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// After how long a silence a comment is sent, so that proxies keep the connection open and a lost client is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// When a disconnected client reconnects, in milliseconds.
const ASK_AGAIN: u32 = 1000;

/// How long a piece of a stream grows before it is sent.
const PIECE_BYTES: usize = 64 * 1024;

/// Answers with the stream that `tell` writes.
fn told<F>(call: &Call, tell: impl FnOnce(Teller) -> F) -> Answer
where
    F: Future<Output = Result<Pen, Gone>> + Send + 'static,
{
    let observer = call.observer();
    if !observer.is_open() {
        return Err(Problem::shutting_down());
    }
    let permit = observer.permit().ok_or_else(Problem::too_many_streams)?;
    let (pen, body) = stream();
    let telling = tell(Teller::new(observer.clone(), pen));
    observer.spawn(async move {
        let _permit = permit;
        if let Ok(pen) = telling.await {
            pen.end().await;
        }
    });
    Ok(answer(body))
}

fn answer(body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// The id of the last event that the client received.
fn last_event_id(request: &Parts) -> Option<String> {
    let header = request.headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let id = header.map(str::to_owned).or_else(|| query::last_event_id(&request.uri));
    id.filter(|id| !id.is_empty())
}

/// Writes the events of one stream.
struct Teller {
    observer: Observer,
    pen: Pen,
    piece: Vec<u8>,
    written_at: Instant,
}

impl Teller {
    fn new(observer: Observer, pen: Pen) -> Self {
        Self {
            observer,
            pen,
            piece: format!("retry: {ASK_AGAIN}\n\n").into_bytes(),
            written_at: Instant::now(),
        }
    }

    /// Writes an event. A client that is cut off after it resumes from its id, if it has one.
    async fn event(
        &mut self,
        name: &str,
        id: Option<&(dyn Display + Sync)>,
        data: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Gone> {
        if let Some(id) = id {
            writeln!(self.piece, "id: {id}").expect("memory takes any text");
        }
        // The JSON that is written here has no line breaks.
        write!(self.piece, "event: {name}\ndata: ").expect("memory takes any text");
        data(&mut self.piece);
        self.piece.extend_from_slice(b"\n\n");
        match self.piece.len() >= PIECE_BYTES {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    /// Sets the place from which the client resumes, without an event.
    fn place(&mut self, id: impl Display) {
        write!(self.piece, "id: {id}\n\n").expect("memory takes any text");
    }

    /// Sends what was written; after a long silence, a comment.
    async fn flush(&mut self) -> Result<(), Gone> {
        if self.piece.is_empty() {
            if self.written_at.elapsed() < HEARTBEAT {
                return Ok(());
            }
            self.piece.extend_from_slice(b":\n\n");
        }
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        self.pen.write(piece).await?;
        self.written_at = Instant::now();
        Ok(())
    }

    fn heartbeat_at(&self) -> Instant {
        self.written_at + HEARTBEAT
    }
}
