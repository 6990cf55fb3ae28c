//! The part of a handler's answer that has arrived. It is kept outside the replay, so that it survives when the attempt
//! times out.

use std::{
    mem::replace,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header, response::Parts};

use crate::{
    engine::attempts::{
        entry::{Answer, BodyEnd},
        running::Live,
    },
    task::CapturedResponse,
};

/// Writes the answer of a replay into the buffer of its attempt, as it arrives.
pub(crate) struct AnswerWriter(Arc<Live>);

impl AnswerWriter {
    pub(crate) const fn of(live: Arc<Live>) -> Self {
        Self(live)
    }

    /// Records the head. Up to `limit` bytes of the body are kept.
    pub(crate) fn begin(&self, head: Parts, limit: usize) {
        self.0.answer.begin(PartialAnswer {
            head,
            limit,
            body: BodyBuffer::default(),
            truncated: false,
            trailers: None,
        });
    }

    /// Adds a part of the body.
    pub(crate) fn data(&self, data: Bytes) {
        self.0.answer.change(|partial| partial.push(data));
    }

    /// Adds trailers.
    pub(crate) fn trailers(&self, trailers: HeaderMap) {
        self.0.answer.change(|partial| match &mut partial.trailers {
            Some(all) => all.extend(trailers),
            none => *none = Some(Box::new(trailers)),
        });
    }
}

/// The part of an attempt's answer that has arrived.
#[derive(Default)]
pub(crate) struct AnswerBuffer(Mutex<State>);

#[derive(Default)]
enum State {
    /// No head yet.
    #[default]
    Empty,
    Partial(PartialAnswer),
    /// A caller has taken the answer, and judges the attempt by it.
    Taken,
}

/// The result of taking the answer.
pub(crate) enum Taken {
    /// The caller is the first, and judges the attempt by this. `None` if no head has arrived.
    First(Option<PartialAnswer>),
    /// Another caller has taken the answer.
    Already,
}

/// An answer whose head has arrived, with the part of the body that is kept.
pub(crate) struct PartialAnswer {
    head: Parts,
    limit: usize,
    body: BodyBuffer,
    truncated: bool,
    /// Boxed, since few answers have any.
    trailers: Option<Box<HeaderMap>>,
}

impl AnswerBuffer {
    /// Takes what has arrived. Parts that arrive later are ignored.
    pub(crate) fn take(&self) -> Taken {
        match self.with(|state| replace(state, State::Taken)) {
            State::Empty => Taken::First(None),
            State::Partial(partial) => Taken::First(Some(partial)),
            State::Taken => Taken::Already,
        }
    }

    fn begin(&self, partial: PartialAnswer) {
        let late = self.with(|state| match state {
            State::Taken => Some(partial),
            _ => {
                *state = State::Partial(partial);
                None
            }
        });
        // Dropped outside the lock: dropping its extensions runs application code.
        drop(late);
    }

    fn change(&self, change: impl FnOnce(&mut PartialAnswer)) {
        self.with(|state| match state {
            State::Partial(partial) => change(partial),
            State::Empty | State::Taken => {}
        });
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl PartialAnswer {
    fn push(&mut self, data: Bytes) {
        let room = self.limit - self.body.len();
        if data.len() <= room {
            self.body.push(data);
        } else if !replace(&mut self.truncated, true) {
            // Copied: a slice would keep the whole frame alive.
            self.body.push(Bytes::copy_from_slice(&data[..room]));
        }
    }

    /// The complete answer, after its body ended like this.
    pub(crate) fn ended(self, end: BodyEnd) -> Answer {
        let mut headers = self.head.headers;
        let body = self.body.finish();
        // The header is wrong for a body that was cut, and for an answer to HEAD.
        if headers.contains_key(header::CONTENT_LENGTH) && length(&headers) != Some(body.len()) {
            headers.remove(header::CONTENT_LENGTH);
        }
        let mut response = CapturedResponse::new(self.head.status, headers, body);
        response.truncated = self.truncated || !matches!(end, BodyEnd::Over);
        Answer {
            response,
            extensions: self.head.extensions,
            trailers: self.trailers,
            end,
        }
    }
}

fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Joins the data frames of a body. A single frame is kept without a copy.
#[derive(Default)]
pub(crate) struct BodyBuffer {
    first: Bytes,
    rest: BytesMut,
}

impl BodyBuffer {
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
