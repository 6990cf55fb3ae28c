//! [`Attempts`] runs the tasks of this process.

pub(crate) mod answer_buffer;
pub(crate) mod attempt;
mod claim;
pub(crate) mod context;
pub(crate) mod entry;
mod grpc;
mod judge;
mod lease;
mod log;
mod lost;
pub(crate) mod retry;
pub(crate) mod run;
pub(crate) mod running;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use crate::{
    engine::{
        attempts::{entry::Entry, lease::LeaseThread, lost::Lost, running::Running},
        core::Core,
        pools::Pools,
        under_way::Part,
    },
    task::TaskRecord,
};

/// The slots, the running attempts, the application, and the thread that renews leases.
pub(crate) struct Attempts {
    pub(crate) core: Arc<Core>,
    pub(crate) pools: Pools,
    pub(crate) running: Running,
    lost: Arc<Lost>,
    entry: RwLock<Option<Arc<dyn Entry>>>,
    lease_thread: Mutex<Option<LeaseThread>>,
}

impl Attempts {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let settings = &core.settings;
        Self {
            pools: Pools::new(
                settings.concurrency,
                settings.limits,
                &settings.pools,
                core.signals.wake.clone(),
            ),
            running: Running::new(),
            lost: Arc::default(),
            entry: RwLock::new(None),
            lease_thread: Mutex::new(None),
            core,
        }
    }

    /// Runs tasks on `entry` from now on.
    ///
    /// # Errors
    ///
    /// The error of the operating system if it cannot start the thread for leases.
    pub(crate) fn begin(self: &Arc<Self>, entry: Arc<dyn Entry>) -> io::Result<()> {
        *self.entry.write().unwrap_or_else(PoisonError::into_inner) = Some(entry);
        let lease_thread = LeaseThread::start(self)?;
        *self.lease_thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease_thread);
        Ok(())
    }

    /// Stops renewing leases, and drops the application.
    pub(crate) async fn end(&self) {
        let lease_thread = self.lease_thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(lease_thread) = lease_thread {
            lease_thread.stop(self.core.settings.store_timeout).await;
        }
        let entry = self.entry.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(entry);
    }

    /// The application; `None` after it was dropped.
    pub(crate) fn entry(&self) -> Option<Arc<dyn Entry>> {
        self.entry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The record with the latest progress of its attempt in this process, which may not be stored yet.
    pub(crate) fn with_progress(&self, mut record: Arc<TaskRecord>) -> Arc<TaskRecord> {
        if !record.state.is_held() {
            return record;
        }
        let token = record.token;
        let live = self
            .running
            .of(record.id)
            .into_iter()
            .find(|live| live.lease.token == token);
        if let Some(progress) = live.and_then(|live| live.progress()) {
            Arc::make_mut(&mut record).life.progress = Some(progress);
        }
        record
    }
}

impl Part for Attempts {
    fn core(&self) -> &Core {
        &self.core
    }
}
