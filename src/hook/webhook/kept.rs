//! Kept connections, and how to detect that the receiver has closed one.
//!
//! A receiver may close a connection just as a request is sent on it. The receiver is fine then, and the request
//! belongs on a fresh connection. hyper repeats a request of which it has written nothing. It does not repeat a request
//! that was written, since the receiver may have acted on it. A completion may be delivered twice, so it can be
//! repeated.

use std::{
    error::Error,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use http::{Extensions, Response};
use hyper_util::{
    client::legacy::{
        self,
        connect::{Connected, Connection},
    },
    rt::TokioIo,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Records that a request was answered. From now on, its connection counts as kept.
pub(super) fn note_answer<B>(response: &Response<B>) {
    if let Some(past) = response.extensions().get::<Past>() {
        past.0.answered.store(true, Relaxed);
    }
}

/// Whether a request failed because the receiver had closed a kept connection, before any part of an answer was read.
pub(super) fn was_closed(error: &legacy::Error) -> bool {
    let Some(connected) = error.connect_info() else {
        return false;
    };
    let mut extras = Extensions::new();
    connected.get_extras(&mut extras);
    let Some(Past(past)) = extras.get() else { return false };
    past.answered.load(Relaxed)
        && match connected.is_negotiated_h2() {
            // Bytes that were read may belong to other streams. The head of an answer arrives whole.
            true => causes(error).any(|cause| cause.is::<io::Error>() || is_farewell(cause)),
            // Nothing else makes a request fail before any part of its answer was read.
            false => !past.heard.load(Relaxed),
        }
}

/// Whether the receiver closed an HTTP/2 connection with a `GOAWAY` frame, without an error. The frame says which
/// requests the receiver has not processed and never will (RFC 9113, 6.8).
fn is_farewell(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<h2::Error>();
    error.is_some_and(|error| error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR))
}

/// An error and all its causes.
pub(super) fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The past of a connection, shared by its stream and the sender. hyper passes answers and errors over a channel, which
/// orders these relaxed stores before them.
#[derive(Clone, Default)]
struct Past(Arc<Seen>);

#[derive(Default)]
struct Seen {
    /// Whether a request was answered.
    answered: AtomicBool,
    /// Whether anything was read after the latest write.
    heard: AtomicBool,
}

/// A stream that records its past.
pub(super) struct Kept<T> {
    stream: TokioIo<T>,
    past: Past,
}

impl<T> Kept<T> {
    pub(super) fn new(stream: T) -> Self {
        Self {
            stream: TokioIo::new(stream),
            past: Past::default(),
        }
    }
}

impl<T: Connection> Connection for Kept<T> {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(self.past.clone())
    }
}

impl<T> AsyncRead for Kept<T>
where
    TokioIo<T>: AsyncRead + Unpin,
{
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.past.0.heard.store(true, Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T> AsyncWrite for Kept<T>
where
    TokioIo<T>: AsyncWrite + Unpin,
{
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.past.0.heard.store(false, Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.past.0.heard.store(false, Relaxed);
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
