//! Store calls of a process that have not been answered.

use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use super::{process::Process, world::World};
use crate::{
    error::BoxFuture,
    store::{StoreError, StoreErrorKind, StoreResult},
};

/// A call on its way, and what is to be done with its answer.
pub(super) struct Waiting(Box<dyn Call>);

impl Waiting {
    pub(super) fn new<T: 'static>(
        call: impl Future<Output = StoreResult<T>> + Send + 'static,
        give_up_at: Option<Instant>,
        then: impl FnOnce(&mut Process, &mut World, StoreResult<T>) + 'static,
    ) -> Self {
        Self(Box::new(Asked {
            call: Box::pin(call),
            answer: None,
            give_up_at,
            is_made: false,
            then,
        }))
    }

    /// Makes the call, if it was not made before. Answers whether that was so.
    pub(super) fn make(&mut self) -> bool {
        self.0.make()
    }

    /// Whether there is an answer to it, or none is waited for any longer.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        self.0.is_over(now)
    }

    /// Does what is to be done with the answer.
    pub(super) fn finish(self, process: &mut Process, world: &mut World) {
        self.0.finish(process, world);
    }
}

trait Call {
    fn make(&mut self) -> bool;

    fn is_over(&mut self, now: Instant) -> bool;

    fn finish(self: Box<Self>, process: &mut Process, world: &mut World);
}

struct Asked<T, F> {
    call: BoxFuture<'static, StoreResult<T>>,
    answer: Option<StoreResult<T>>,
    give_up_at: Option<Instant>,
    /// Whether the store has it; or else it waits for the commit that it is to be part of.
    is_made: bool,
    then: F,
}

impl<T, F> Asked<T, F> {
    fn poll(&mut self) {
        if self.is_made
            && self.answer.is_none()
            && let Poll::Ready(answer) = self.call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        {
            self.answer = Some(answer);
        }
    }
}

impl<T, F: FnOnce(&mut Process, &mut World, StoreResult<T>)> Call for Asked<T, F> {
    fn make(&mut self) -> bool {
        let is_new = !std::mem::replace(&mut self.is_made, true);
        self.poll();
        is_new
    }

    fn is_over(&mut self, now: Instant) -> bool {
        self.poll();
        if self.answer.is_none() && self.give_up_at.is_some_and(|at| at <= now) {
            let too_slow = StoreError::new(StoreErrorKind::Unavailable, "the store took too long");
            self.answer = Some(Err(too_slow));
        }
        self.answer.is_some()
    }

    fn finish(self: Box<Self>, process: &mut Process, world: &mut World) {
        if let Some(answer) = self.answer {
            world.report.failed_calls += u64::from(answer.is_err());
            (self.then)(process, world, answer);
        }
    }
}
