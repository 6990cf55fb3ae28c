//! [`Replayer`]: runs stored requests on the wrapped service, for the engine.

use std::{
    future::{poll_fn, ready},
    mem::take,
    pin::{Pin, pin},
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body::{Body, Frame};
use tower_service::Service;

use crate::{
    engine::{AnswerWriter, BodyEnd, Entry, Replayed, TaskContext},
    error::{BoxError, BoxFuture},
    layer::{
        RequestBody,
        carry::{Carrier, unpack},
        pace::Pace,
    },
    task::{
        CapturedRequest, RequestId, TaskName,
        own::{ATTEMPT, DEPTH, GIVEN, TASK_ID, X_FC_REQUEST_ID},
    },
    wire::{Short, Values, is_about_the_connection, original, resolve_references, small_number},
};

/// Runs stored requests on the wrapped service. Every attempt runs on a fresh clone of the service.
pub(crate) struct Replayer<S> {
    service: S,
    carriers: Arc<[Carrier]>,
    result_limit: usize,
}

impl<S> Replayer<S> {
    pub(crate) fn new(service: S, carriers: Arc<[Carrier]>, result_limit: usize) -> Self {
        Self {
            service,
            carriers,
            result_limit,
        }
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
    fn replay(
        self: Arc<Self>,
        stored: CapturedRequest,
        context: TaskContext,
        answer: AnswerWriter,
    ) -> BoxFuture<'static, Replayed> {
        // Made outside of the future, to keep the future small.
        let request = match self.request(stored, context) {
            Ok(request) => request,
            Err(error) => return Box::pin(ready(Err(error))),
        };
        let target = original(request.extensions()).unwrap_or(request.uri());
        let target = target.path_and_query().cloned();
        Box::pin(async move {
            let mut service = self.service.clone();
            poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
            let response = service.call(request).await.map_err(Into::into)?;
            let (mut head, body) = response.into_parts();
            if let Some(target) = &target {
                resolve_references(&mut head.headers, target);
            }
            let gone = head.headers.keys().filter(|name| is_about_the_connection(name));
            for name in gone.cloned().collect::<Vec<_>>() {
                head.headers.remove(name);
            }
            answer.begin(head, self.result_limit);
            Ok(read_body(pin!(body), &answer).await)
        })
    }
}

impl<S> Replayer<S> {
    fn request(&self, mut stored: CapturedRequest, context: TaskContext) -> Result<Request<RequestBody>, BoxError> {
        let headers = headers(&mut stored, &context);
        let mut request = Request::new(RequestBody::from(stored.body));
        *request.method_mut() = stored.method;
        *request.headers_mut() = headers;
        unpack(&self.carriers, &stored.carried, &stored.uri, request.extensions_mut())?;
        *request.uri_mut() = stored.uri;
        request.extensions_mut().insert(context);
        Ok(request)
    }
}

/// The greatest total length of the texts that the layer adds as headers: a length, the request id, the task name.
const TEXTS: usize = u64::MAX.ilog10() as usize + 1 + RequestId::BUFFER.len() + TaskName::LONGEST;

/// The headers of a replay: the stored ones, the length of the body, and those that identify the task.
fn headers(stored: &mut CapturedRequest, context: &TaskContext) -> HeaderMap {
    let mut buffer = RequestId::BUFFER;
    let mut values = Values::<Short<TEXTS>>::short();
    let length = Some(stored.body.len() as u64).filter(|length| *length > 0);
    let length = length.map(|length| values.add_number(length));
    let request_id = context.request_id().map(|id| values.add(&[id.encode(&mut buffer)]));
    let name = context.name().map(|name| values.add(&[name.as_str()]));
    let (_, value) = values.finish();
    let request_id = request_id.and_then(&value);
    let task_id = match name {
        Some(name) => value(name),
        None => request_id.clone(),
    };
    let given: [_; GIVEN] = [
        (header::CONTENT_LENGTH, length.and_then(&value)),
        (DEPTH, Some(small_number(stored.depth.into()))),
        (ATTEMPT, Some(small_number(context.attempt()))),
        (X_FC_REQUEST_ID, request_id),
        (TASK_ID, task_id),
    ];
    let mut headers = take(&mut stored.headers);
    headers.reserve(GIVEN);
    for (name, value) in given {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    headers
}

/// Reads a body to its end, whatever its length: a streaming handler works while its body is read. The time limit of
/// the attempt ends an endless body.
async fn read_body<R>(mut body: Pin<&mut R>, answer: &AnswerWriter) -> BodyEnd
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    loop {
        // A body whose frames are always ready would keep the thread, and the time limit would never be checked.
        Pace::turn().await;
        match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            None => return BodyEnd::Over,
            Some(Err(error)) => return BodyEnd::BrokenOff(error.into()),
            Some(Ok(frame)) => match frame.into_data().map_err(Frame::into_trailers) {
                Ok(data) => answer.data(data),
                Err(Ok(trailers)) => answer.trailers(trailers),
                Err(Err(_)) => {}
            },
        }
    }
}
