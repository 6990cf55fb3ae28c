//! What there is of a handler's answer: kept beside its replay, so that it is still there when the attempt's time is over.

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

/// Where a replay puts its answer as it comes in.
pub(crate) struct Answering(Arc<Live>);

impl Answering {
    pub(crate) const fn of(live: Arc<Live>) -> Self {
        Self(live)
    }

    /// The head is there. Of the body, `limit` bytes are to be kept.
    pub(crate) fn begin(&self, head: Parts, limit: usize) {
        self.0.so_far.begin(Begun {
            head,
            limit,
            body: Gathered::default(),
            truncated: false,
            trailers: None,
        });
    }

    /// There is more of the body.
    pub(crate) fn data(&self, data: Bytes) {
        self.0.so_far.change(|begun| begun.push(data));
    }

    /// There are trailers.
    pub(crate) fn trailers(&self, trailers: HeaderMap) {
        self.0.so_far.change(|begun| match &mut begun.trailers {
            Some(all) => all.extend(trailers),
            none => *none = Some(trailers),
        });
    }

    /// The body ended so: all of the answer. It never comes if the attempt's time was over before.
    pub(crate) async fn end(self, end: BodyEnd) -> Answer {
        match self.0.so_far.take() {
            Taken::First(Some(begun)) => begun.ended(end),
            Taken::First(None) | Taken::Already => std::future::pending().await,
        }
    }
}

/// What there is of the answer of one attempt.
#[derive(Default)]
pub(crate) struct SoFar(Mutex<State>);

#[derive(Default)]
#[expect(
    clippy::large_enum_variant,
    reason = "it stands in an allocation that every attempt makes; boxed, every answer would make one more"
)]
enum State {
    /// No head as yet.
    #[default]
    Nothing,
    Begun(Begun),
    /// Somebody has it, and judges the attempt by it.
    Taken,
}

/// What was found by whoever came for an answer.
#[expect(clippy::large_enum_variant, reason = "moved once or twice, and taken apart")]
pub(crate) enum Taken {
    /// They are the first, and found this.
    First(Option<Begun>),
    /// Somebody else has it.
    Already,
}

/// An answer whose head is there. Of its body no more than is to be kept.
pub(crate) struct Begun {
    head: Parts,
    limit: usize,
    body: Gathered,
    truncated: bool,
    trailers: Option<HeaderMap>,
}

impl SoFar {
    /// What there is. No more is added, and whoever has it is the one to judge the attempt.
    pub(crate) fn take(&self) -> Taken {
        match self.with(|state| replace(state, State::Taken)) {
            State::Nothing => Taken::First(None),
            State::Begun(begun) => Taken::First(Some(begun)),
            State::Taken => Taken::Already,
        }
    }

    fn begin(&self, begun: Begun) {
        let late = self.with(|state| match state {
            State::Taken => Some(begun),
            _ => {
                *state = State::Begun(begun);
                None
            }
        });
        // Outside of the lock: its extensions are the application's.
        drop(late);
    }

    fn change(&self, change: impl FnOnce(&mut Begun)) {
        self.with(|state| match state {
            State::Begun(begun) => change(begun),
            State::Nothing | State::Taken => {}
        });
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Begun {
    fn push(&mut self, data: Bytes) {
        let room = self.limit - self.body.len();
        if data.len() <= room {
            self.body.push(data);
        } else if !replace(&mut self.truncated, true) {
            // Copied: a part of a frame would keep all of it.
            self.body.push(Bytes::copy_from_slice(&data[..room]));
        }
    }

    /// All of it, the body having ended so.
    pub(crate) fn ended(self, end: BodyEnd) -> Answer {
        let mut headers = self.head.headers;
        let body = self.body.finish();
        // The length of a body that was cut, or of the answer to a HEAD, would be a lie on what is handed out.
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
