//! The body types of the crate: [`RequestBody`] for handlers, [`ResponseBody`] for the answers of the task API.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};

use crate::error::BoxError;

/// The body of a request as a service reads it: stored bytes on a replay, or the live body of a server.
///
/// A service that is generic over its body, like axum's `Router`, needs no change. A service with a concrete body takes
/// `Request<RequestBody>`. Convert the body of the server outside of the layer, with
/// `MapRequestBodyLayer::new(RequestBody::live)`. The example `hyper_app` of this crate has such a service.
pub struct RequestBody(Inner);

/// The body of a response of the task API: whole, or a stream.
///
/// The layer needs a body that is `From<Bytes>`, for its own answers. If the body of your service is not, convert it
/// inside of the layer, with `MapResponseBodyLayer::new(ResponseBody::live)`. The example `hyper_app` of this crate
/// has such a service.
pub struct ResponseBody(Inner);

enum Inner {
    Whole(Option<Bytes>),
    Live(UnsyncBoxBody<Bytes, BoxError>),
}

impl Inner {
    fn live<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self::Live(body.map_err(Into::into).boxed_unsync())
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().filter(|b| !b.is_empty()).map(|b| Ok(Frame::data(b)))),
            Self::Live(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Live(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Live(body) => body.size_hint(),
        }
    }

    fn describe(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(bytes) => {
                write!(f, "{name}({} bytes)", bytes.as_ref().map_or(0, Bytes::len))
            }
            Self::Live(_) => write!(f, "{name}(live)"),
        }
    }
}

macro_rules! body {
    ($body:ident) => {
        impl $body {
            /// An empty body.
            #[must_use]
            pub const fn empty() -> Self {
                Self(Inner::Whole(None))
            }

            /// Returns a body that streams `body`.
            pub fn live<B>(body: B) -> Self
            where
                B: Body<Data = Bytes> + Send + 'static,
                B::Error: Into<BoxError>,
            {
                Self(Inner::live(body))
            }
        }

        impl From<Bytes> for $body {
            fn from(bytes: Bytes) -> Self {
                Self(Inner::Whole(Some(bytes)))
            }
        }

        impl Default for $body {
            fn default() -> Self {
                Self::empty()
            }
        }

        impl fmt::Debug for $body {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.describe(stringify!($body), f)
            }
        }

        impl Body for $body {
            type Data = Bytes;
            type Error = BoxError;

            fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
                self.get_mut().0.poll_frame(cx)
            }

            fn is_end_stream(&self) -> bool {
                self.0.is_end_stream()
            }

            fn size_hint(&self) -> SizeHint {
                self.0.size_hint()
            }
        }
    };
}

body!(RequestBody);
body!(ResponseBody);
