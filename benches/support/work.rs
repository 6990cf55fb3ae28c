//! The application: it answers with the request's body.

use std::{
    convert::Infallible,
    future::Ready,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Uri,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, USER_AGENT},
};
use http_body::Body;
use http_body_util::Full;
use tower_service::Service;

/// The length of a body, in bytes.
pub const PAYLOAD: usize = 1024;

/// Reads the body, and sends it back.
#[derive(Clone, Copy)]
pub struct Echo;

impl<B: Body<Data = Bytes> + Unpin> Service<Request<B>> for Echo {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Echoing<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Echoing<B> {
        Echoing {
            body: request.into_body(),
            read: Bytes::new(),
        }
    }
}

/// The future of [`Echo`].
pub struct Echoing<B> {
    body: B,
    read: Bytes,
}

impl<B: Body<Data = Bytes> + Unpin> Future for Echoing<B> {
    type Output = Result<Response<Full<Bytes>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        while let Some(Ok(frame)) = ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            if let Ok(data) = frame.into_data() {
                assert!(self.read.is_empty(), "so short a body comes in one piece");
                self.read = data;
            }
        }
        let mut response = Response::new(Full::new(std::mem::take(&mut self.read)));
        let octets = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(CONTENT_TYPE, octets);
        Poll::Ready(Ok(response))
    }
}

/// Answers at once, with the headers and extensions of the request. The next request can be made from them at no cost.
#[derive(Clone, Copy)]
pub struct Mirror;

impl<B> Service<Request<B>> for Mirror {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Full<Bytes>>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, _) = request.into_parts();
        let mut response = Response::new(Full::default());
        *response.headers_mut() = head.headers;
        std::future::ready(Ok(response))
    }
}

/// An async request as curl sends it.
pub fn request() -> Request<Full<Bytes>> {
    let mut headers = HeaderMap::with_capacity(8);
    for (name, value) in [
        (HOST, "example.org"),
        (USER_AGENT, "curl/8.14.1"),
        (ACCEPT, "*/*"),
        (HeaderName::from_static("x-fc-invocation-type"), "Async"),
        (CONTENT_TYPE, "application/octet-stream"),
        (CONTENT_LENGTH, "1024"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let mut request = Request::new(Full::new(Bytes::from(vec![b'x'; PAYLOAD])));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static("/transcode");
    *request.headers_mut() = headers;
    request
}
