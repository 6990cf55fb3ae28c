//! Store calls of a process that have not been answered.

use std::{
    task::{Context, Poll, Waker},
    time::Instant,
};

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
            then,
        }))
    }

    /// Whether there is an answer, or none is waited for any longer.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        self.0.is_over(now)
    }

    /// Does what is to be done with the answer.
    pub(super) fn finish(self, process: &mut Process, world: &mut World) {
        self.0.finish(process, world);
    }
}

trait Call {
    fn is_over(&mut self, now: Instant) -> bool;

    fn finish(self: Box<Self>, process: &mut Process, world: &mut World);
}

struct Asked<T, F> {
    call: BoxFuture<'static, StoreResult<T>>,
    answer: Option<StoreResult<T>>,
    give_up_at: Option<Instant>,
    then: F,
}

impl<T, F: FnOnce(&mut Process, &mut World, StoreResult<T>)> Call for Asked<T, F> {
    fn is_over(&mut self, now: Instant) -> bool {
        if let Poll::Ready(answer) = self.call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            self.answer = Some(answer);
        } else if self.give_up_at.is_some_and(|at| at <= now) {
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
