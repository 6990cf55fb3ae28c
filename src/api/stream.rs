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

/// How many pieces wait for the client at most, besides what its connection buffers.
const PIECES: usize = 4;

/// How long a client may read nothing. After that it must reconnect and resume.
const STALLED: Duration = Duration::from_secs(30);

/// A body, and the pen that writes it.
pub(super) fn stream() -> (Pen, ResponseBody) {
    let (pen, pieces) = mpsc::channel(PIECES);
    (Pen { pen }, ResponseBody::live(Pieces { pieces, ended: false }))
}

/// Writes a body. If it is dropped before [`end`](Self::end), the body ends with an error, so that the client does not
/// take it for complete.
pub(super) struct Pen {
    pen: mpsc::Sender<Piece>,
}

enum Piece {
    Data(Bytes),
    End,
}

/// The client has closed the connection, or reads nothing.
#[derive(Debug)]
pub(super) struct Gone;

impl Pen {
    /// Writes one piece, as soon as there is room for it.
    pub(super) async fn write(&self, piece: impl Into<Bytes>) -> Result<(), Gone> {
        self.send(Piece::Data(piece.into())).await
    }

    /// Ends the body.
    pub(super) async fn end(self) {
        let _ = self.send(Piece::End).await;
    }

    /// Resolves when the client has closed the connection.
    pub(super) async fn left(&self) {
        self.pen.closed().await;
    }

    async fn send(&self, piece: Piece) -> Result<(), Gone> {
        match timeout(STALLED, self.pen.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }
}

struct Pieces {
    pieces: mpsc::Receiver<Piece>,
    ended: bool,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.pieces.poll_recv(cx).map(|piece| match piece {
            Some(Piece::Data(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Piece::End) => {
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
