//! Running a stored request: the wrapped service as the engine's entry.

use std::{future::poll_fn, pin::pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Request, Response, header};
use http_body::Body;
use tower_service::Service;

use crate::{
    engine::{Answer, DEPTH, Entry, Replayed, TaskContext},
    error::{BoxError, BoxFuture},
    layer::{
        RequestBody,
        carry::{Carrier, unpack},
        headers::{ATTEMPT, TASK_ID},
    },
    task::{CapturedRequest, CapturedResponse, RequestId, TaskName},
    wire::{HopByHop, Short, Values, X_FC_REQUEST_ID, original, resolve_references, small_number},
};

/// The service that the layer wrapped, as a whole application: every attempt runs on a fresh clone of it.
pub(crate) struct Replayer<S>(Arc<Inner<S>>);

struct Inner<S> {
    service: S,
    carriers: Arc<[Carrier]>,
    result_limit: usize,
}

impl<S> Replayer<S> {
    pub(crate) fn new(service: S, carriers: Arc<[Carrier]>, result_limit: usize) -> Self {
        Self(Arc::new(Inner {
            service,
            carriers,
            result_limit,
        }))
    }
}

impl<S, R> Entry for Replayer<S>
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send,
    R::Error: Into<BoxError>,
{
    fn replay(&self, input: Arc<CapturedRequest>, context: TaskContext) -> BoxFuture<'static, Replayed> {
        let inner = self.0.clone();
        Box::pin(async move {
            let request = inner.request(&input, context)?;
            drop(input);
            let target = original(request.extensions()).unwrap_or(request.uri()).clone();
            let mut service = inner.service.clone();
            poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
            let response = service.call(request).await.map_err(Into::into)?;
            let mut answer = read(response, inner.result_limit).await;
            resolve_references(&mut answer.response.headers, &target);
            Ok(answer)
        })
    }
}

impl<S> Inner<S> {
    fn request(&self, input: &CapturedRequest, context: TaskContext) -> Result<Request<RequestBody>, BoxError> {
        let mut request = Request::new(RequestBody::from(input.body.clone()));
        *request.method_mut() = input.method.clone();
        *request.uri_mut() = input.uri.clone();
        *request.headers_mut() = headers(input, &context);
        unpack(&self.carriers, &input.carried, request.extensions_mut())?;
        request.extensions_mut().insert(context);
        Ok(request)
    }
}

/// The longest texts of the headers that are ours: a length, the request's id, the task's name.
const TEXTS: usize = u64::MAX.ilog10() as usize + 1 + RequestId::BUFFER.len() + TaskName::LONGEST;

/// The stored headers, the length of the body, and what tells the handler which task this is.
fn headers(input: &CapturedRequest, context: &TaskContext) -> HeaderMap {
    let mut buffer = RequestId::BUFFER;
    let mut values = Values::<Short<TEXTS>>::short();
    let length = Some(input.body.len() as u64).filter(|length| *length > 0);
    let length = length.map(|length| values.add_number(length));
    let request_id = context.request_id().map(|id| values.add(&[id.encode(&mut buffer)]));
    let name = context.name().map(|name| values.add(&[name.as_str()]));
    let (_, value) = values.finish();
    let request_id = request_id.and_then(&value);
    let task_id = match name {
        Some(name) => value(name),
        None => request_id.clone(),
    };
    let given = [
        (header::CONTENT_LENGTH, length.and_then(&value)),
        (DEPTH, Some(small_number(input.depth.into()))),
        (ATTEMPT, Some(small_number(context.attempt()))),
        (X_FC_REQUEST_ID, request_id),
        (TASK_ID, task_id),
    ];
    // Not a clone: it would have no room for ours, and grow twice.
    let mut headers = HeaderMap::with_capacity(input.headers.len() + given.len());
    for (name, value) in &input.headers {
        headers.append(name, value.clone());
    }
    for (name, value) in given {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    headers
}

/// Reads a response to its end, or up to `limit` bytes.
async fn read<R>(response: Response<R>, limit: usize) -> Answer
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    let (head, body) = response.into_parts();
    let mut body = pin!(body);
    let mut read = Gathered::default();
    let mut broken = None;
    let mut truncated = false;
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(mut data)) => {
                let room = limit - read.len();
                truncated = data.len() > room;
                data.truncate(room);
                read.push(data);
                if truncated {
                    break;
                }
            }
            // Trailers are not kept.
            Ok(Err(_)) => {}
            Err(error) => {
                broken = Some(error.into());
                break;
            }
        }
    }
    let body = read.finish();
    let mut headers = head.headers;
    let hop = HopByHop::of(&headers);
    // The length of a body that was cut, or of the answer to a HEAD, would be a lie on what is handed out.
    let is_untrue = |name: &HeaderName| *name == header::CONTENT_LENGTH && header_length(&headers) != Some(body.len());
    let gone = headers.keys().filter(|name| hop.contains(name) || is_untrue(name));
    for name in gone.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
    let mut response = CapturedResponse::new(head.status, headers, body);
    response.truncated = truncated;
    Answer {
        response,
        extensions: head.extensions,
        broken,
    }
}

fn header_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The frames of a body put together. One frame stays what it was, without a copy.
#[derive(Default)]
pub(crate) struct Gathered {
    first: Bytes,
    rest: BytesMut,
}

impl Gathered {
    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.rest.len()
    }

    pub(crate) fn push(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.first = data;
        } else {
            self.rest.extend_from_slice(&data);
        }
    }

    pub(crate) fn finish(self) -> Bytes {
        if self.rest.is_empty() {
            return self.first;
        }
        let mut whole = BytesMut::with_capacity(self.len());
        whole.extend_from_slice(&self.first);
        whole.extend_from_slice(&self.rest);
        whole.freeze()
    }
}
