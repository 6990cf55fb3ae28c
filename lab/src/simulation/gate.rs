//! Calls that have not reached the store yet: their process froze while making them, or the store gathers calls to
//! commit them together.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::oneshot;
use tower_respond_async::{
    store::{Operation, Reply},
    testing::FaultStore,
};

use super::{witness::Witness, world::World};

/// The store as processes reach it.
pub(super) type Faulty = FaultStore<Witness>;

/// A call that waits.
pub(super) struct Parked {
    process: u32,
    /// Whether it waits for its process to thaw; otherwise it waits for the store's commit.
    is_frozen: bool,
    make: Box<dyn FnOnce() + Send>,
}

/// What happens to a call.
pub(super) enum Arrival {
    Now,
    Parked,
    /// Its process is gone.
    Never,
}

impl Parked {
    /// Creates a call to be made later, and the future of its answer.
    pub(super) fn new<T: Send + 'static>(
        process: u32,
        is_frozen: bool,
        store: Arc<Faulty>,
        call: impl FnOnce(Arc<Faulty>) -> Reply<'static, T> + Send + 'static,
    ) -> (Self, Reply<'static, T>) {
        let (send, made) = oneshot::channel::<Reply<'static, T>>();
        let make = move || {
            // The caller may have given up waiting: the call is made all the same.
            let _ = send.send(call(store).at_once().map_or_else(|call| call, Reply::now));
        };
        let parked = Self {
            process,
            is_frozen,
            make: Box::new(make),
        };
        let answer = Reply::later(async move {
            match made.await {
                Ok(call) => call.await,
                // Its process is gone.
                Err(_) => std::future::pending().await,
            }
        });
        (parked, answer)
    }

    /// Makes the call. The lock on the world must not be held.
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
    /// A process makes a call. It may freeze or die while doing so.
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
        // A commit between its decision and its call is the case in which only the token refuses a zombie. Make it
        // frequent.
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
                // The call may have been sent before the process died.
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

    /// Removes and returns the calls that a process made as it froze.
    pub(super) fn take_frozen(&mut self, process: u32) -> Vec<Parked> {
        self.take_parked(|parked| parked.is_frozen && parked.process == process)
    }

    /// Removes and returns the calls to be committed together.
    pub(super) fn take_gathered(&mut self) -> Vec<Parked> {
        self.take_parked(|parked| !parked.is_frozen)
    }

    /// Removes the calls of a process that is gone. They are never made.
    pub(super) fn take_orphaned(&mut self, process: u32) -> Vec<Parked> {
        self.take_parked(|parked| parked.process == process)
    }

    fn take_parked(&mut self, which: impl Fn(&Parked) -> bool) -> Vec<Parked> {
        let (out, stay) = std::mem::take(&mut self.parked).into_iter().partition(which);
        self.parked = stay;
        out
    }
}

/// Whether the store commits something for this call.
fn is_gathered(operation: Operation) -> bool {
    use Operation as Of;
    matches!(
        operation,
        Of::Insert | Of::InsertAll | Of::Claim | Of::Commit | Of::CommitAll | Of::ClaimDeliveries
    )
}
