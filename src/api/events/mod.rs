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
        stream::{Aborted, BodyWriter, stream},
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
const RETRY_MILLIS: u32 = 1000;

/// How many bytes are buffered before they are sent.
const BUFFER_BYTES: usize = 64 * 1024;

/// Answers with the stream of events that `write` writes.
fn event_stream<F>(call: &Call, write: impl FnOnce(EventWriter) -> F) -> Answer
where
    F: Future<Output = Result<BodyWriter, Aborted>> + Send + 'static,
{
    let observer = call.observer();
    if !observer.is_open() {
        return Err(Problem::shutting_down());
    }
    let permit = observer.permit().ok_or_else(Problem::too_many_streams)?;
    let (body_writer, body) = stream();
    let writing = write(EventWriter::new(observer.clone(), body_writer));
    observer.spawn(async move {
        let _permit = permit;
        if let Ok(body) = writing.await {
            body.end().await;
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
struct EventWriter {
    observer: Observer,
    body: BodyWriter,
    buffer: Vec<u8>,
    written_at: Instant,
}

impl EventWriter {
    fn new(observer: Observer, body: BodyWriter) -> Self {
        Self {
            observer,
            body,
            buffer: format!("retry: {RETRY_MILLIS}\n\n").into_bytes(),
            written_at: Instant::now(),
        }
    }

    /// Writes an event. A client that is cut off after it resumes from its id, if it has one.
    async fn event(
        &mut self,
        name: &str,
        id: Option<&(dyn Display + Sync)>,
        data: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Aborted> {
        if let Some(id) = id {
            writeln!(self.buffer, "id: {id}").expect("memory takes any text");
        }
        // The JSON that is written here has no line breaks.
        write!(self.buffer, "event: {name}\ndata: ").expect("memory takes any text");
        data(&mut self.buffer);
        self.buffer.extend_from_slice(b"\n\n");
        match self.buffer.len() >= BUFFER_BYTES {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    /// Sends an event id without an event. The client resumes from it.
    fn id(&mut self, id: impl Display) {
        write!(self.buffer, "id: {id}\n\n").expect("memory takes any text");
    }

    /// Sends the buffer. If it is empty and nothing was sent for [`HEARTBEAT`], sends a comment.
    async fn flush(&mut self) -> Result<(), Aborted> {
        if self.buffer.is_empty() {
            if self.written_at.elapsed() < HEARTBEAT {
                return Ok(());
            }
            self.buffer.extend_from_slice(b":\n\n");
        }
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        self.body.write(chunk).await?;
        self.written_at = Instant::now();
        Ok(())
    }

    fn heartbeat_at(&self) -> Instant {
        self.written_at + HEARTBEAT
    }
}
