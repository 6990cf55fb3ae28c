//! Calls that have not reached the store yet: their process was frozen as it made them, or the store commits many together.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::sync::oneshot;
use tower_respond_async::{
    error::BoxFuture,
    store::{Operation, StoreResult},
    testing::FaultStore,
};

use super::{witness::Witness, world::World};

/// The store as processes reach it.
pub(super) type Faulty = FaultStore<Witness>;

/// A call that waits.
pub(super) struct Parked {
    process: u32,
    /// Until its process goes on, or until the store commits.
    is_frozen: bool,
    make: Box<dyn FnOnce() + Send>,
}

/// What becomes of a call as it is made.
pub(super) enum Arrival {
    Now,
    Parked,
    /// Whoever made it is gone.
    Never,
}

impl Parked {
    /// A call that is to be made later, and what waits for its answer.
    pub(super) fn new<T: Send + 'static>(
        process: u32,
        is_frozen: bool,
        store: Arc<Faulty>,
        call: impl FnOnce(Arc<Faulty>) -> BoxFuture<'static, StoreResult<T>> + Send + 'static,
    ) -> (Self, BoxFuture<'static, StoreResult<T>>) {
        let (send, made) = oneshot::channel::<BoxFuture<'static, StoreResult<T>>>();
        let make = move || {
            let mut call = call(store);
            let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            // Whoever waited may have given up: the call is made all the same.
            let _ = send.send(match polled {
                Poll::Ready(answer) => Box::pin(std::future::ready(answer)),
                Poll::Pending => call,
            });
        };
        let parked = Self {
            process,
            is_frozen,
            make: Box::new(make),
        };
        let answer = Box::pin(async move {
            match made.await {
                Ok(call) => call.await,
                // Its process is gone.
                Err(_) => std::future::pending().await,
            }
        });
        (parked, answer)
    }

    /// Makes the call. Nobody may hold the world.
    pub(super) fn make(self) {
        (self.make)();
    }
}

impl fmt::Debug for Parked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parked")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

impl World {
    /// A process makes a call: perhaps it freezes, or dies, as it does.
    pub(super) fn arrival(&mut self, process: u32, operation: Operation) -> Arrival {
        self.note_call(process, operation as u8);
        let (now, gathering) = (self.now, self.is_gathering && is_gathered(operation));
        let faults_on = self.faults_on;
        let Some(standing) = self.processes.get_mut(&process).filter(|it| !it.is_gone) else {
            return Arrival::Never;
        };
        if standing.frozen_until.is_some() {
            return Arrival::Parked;
        }
        // The one between a decision and its call is the zombie that only the token keeps out.
        let odds = if operation == Operation::Commit { 60 } else { 1_500 };
        match self.random.u32(0..odds) {
            0 if faults_on => {
                let long = Duration::from_millis(self.random.u64(100..120_000));
                standing.freeze(now + long);
                self.report.freezes += 1;
                self.note(format_args!(
                    "process {process} freezes for {long:?} as it calls {operation}"
                ));
                Arrival::Parked
            }
            1 if faults_on && self.random.u32(0..10) == 0 => {
                standing.kill();
                self.note(format_args!("process {process} dies as it calls {operation}"));
                // Sent, perhaps, before it died.
                if self.random.bool() {
                    Arrival::Now
                } else {
                    Arrival::Never
                }
            }
            _ if gathering => Arrival::Parked,
            _ => Arrival::Now,
        }
    }

    /// Takes out the calls that a process made as it froze.
    pub(super) fn take_frozen(&mut self, process: u32) -> Vec<Parked> {
        self.take_parked(|parked| parked.is_frozen && parked.process == process)
    }

    /// Takes out the calls that are to be committed together.
    pub(super) fn take_gathered(&mut self) -> Vec<Parked> {
        self.take_parked(|parked| !parked.is_frozen)
    }

    /// Takes out the calls of a process that is gone: nobody will make them.
    pub(super) fn take_orphaned(&mut self, process: u32) -> Vec<Parked> {
        self.take_parked(|parked| parked.process == process)
    }

    fn take_parked(&mut self, which: impl Fn(&Parked) -> bool) -> Vec<Parked> {
        let (out, stay) = std::mem::take(&mut self.parked).into_iter().partition(which);
        self.parked = stay;
        out
    }
}

/// Whether the store commits something for it.
fn is_gathered(operation: Operation) -> bool {
    use Operation as Of;
    matches!(
        operation,
        Of::Insert | Of::InsertAll | Of::Claim | Of::Commit | Of::CommitAll | Of::ClaimDeliveries
    )
}
