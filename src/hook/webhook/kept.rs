//! Connections that are kept for the next request, and how it is known that one of them was closed by the receiver.
//!
//! The receiver may close a connection at the very moment at which a request is sent on it. Then nothing is wrong with the
//! receiver, and the request belongs on a fresh connection. hyper does that for a request of which it has written nothing;
//! one that was written it gives up, since the receiver may have acted on it. A completion may be told twice, so it need
//! not be given up.

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

/// Notes that a request was answered: from now on its connection is one that was kept.
pub(super) fn note_answer<B>(response: &Response<B>) {
    if let Some(past) = response.extensions().get::<Past>() {
        past.0.answered.store(true, Relaxed);
    }
}

/// Whether a request failed since the receiver had closed a connection that was kept, and before anything of an answer came.
pub(super) fn was_closed(error: &legacy::Error) -> bool {
    let Some(connected) = error.connect_info() else {
        return false;
    };
    let mut extras = Extensions::new();
    connected.get_extras(&mut extras);
    let Some(Past(past)) = extras.get() else { return false };
    past.answered.load(Relaxed)
        && match connected.is_negotiated_h2() {
            // What has come there was perhaps for others. The head of an answer comes whole.
            true => causes(error).any(|cause| cause.is::<io::Error>() || is_farewell(cause)),
            // Nothing else makes a request fail of whose answer nothing has come.
            false => !past.heard.load(Relaxed),
        }
}

/// A receiver that closes an HTTP/2 connection says which requests it has not looked at and never will (RFC 9113, 6.8).
fn is_farewell(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<h2::Error>();
    error.is_some_and(|error| error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR))
}

/// An error and all that led to it.
pub(super) fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// What was on a connection, known to its stream and to whoever sends on it. The channel on which hyper hands over an answer
/// or an error puts what was stored before it in order.
#[derive(Clone, Default)]
struct Past(Arc<Seen>);

#[derive(Default)]
struct Seen {
    /// A request was answered.
    answered: AtomicBool,
    /// Something was read after the last that was written.
    heard: AtomicBool,
}

/// A stream that remembers.
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
