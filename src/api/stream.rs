//! Bodies that are written while the client reads them. Memory is bounded, and a stalled client is given up.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::{sync::mpsc, time::timeout};

use crate::{error::BoxError, layer::ResponseBody};

/// How many chunks wait for the client at most, besides what its connection buffers.
const CHUNKS: usize = 4;

/// How long a client may read nothing. After that it must reconnect and resume.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// A body, and its writer.
pub(super) fn stream() -> (BodyWriter, ResponseBody) {
    let (chunks, received) = mpsc::channel(CHUNKS);
    let body = ChunkBody {
        chunks: received,
        ended: false,
    };
    (BodyWriter { chunks }, ResponseBody::live(body))
}

/// Writes a body. If it is dropped before [`end`](Self::end), the body ends with an error, so that the client does not
/// take it for complete.
pub(super) struct BodyWriter {
    chunks: mpsc::Sender<Chunk>,
}

enum Chunk {
    Data(Bytes),
    End,
}

/// The body breaks off: the client has closed the connection or reads nothing, or the store has failed.
#[derive(Debug)]
pub(super) struct Aborted;

impl BodyWriter {
    /// Writes one chunk, as soon as there is room for it.
    pub(super) async fn write(&self, chunk: impl Into<Bytes>) -> Result<(), Aborted> {
        self.send(Chunk::Data(chunk.into())).await
    }

    /// Ends the body.
    pub(super) async fn end(self) {
        let _ = self.send(Chunk::End).await;
    }

    /// Resolves when the client has closed the connection.
    pub(super) async fn disconnected(&self) {
        self.chunks.closed().await;
    }

    async fn send(&self, chunk: Chunk) -> Result<(), Aborted> {
        match timeout(STALL_LIMIT, self.chunks.send(chunk)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Aborted),
        }
    }
}

struct ChunkBody {
    chunks: mpsc::Receiver<Chunk>,
    ended: bool,
}

impl Body for ChunkBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.chunks.poll_recv(cx).map(|chunk| match chunk {
            Some(Chunk::Data(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Chunk::End) => {
                self.ended = true;
                None
            }
            None => {
                self.ended = true;
                Some(Err("the stream was given up".into()))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
