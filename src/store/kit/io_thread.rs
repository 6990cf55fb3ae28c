//! A thread that drives a store's connections.

use std::{
    fmt, io,
    thread::{self, JoinHandle},
};

use tokio::{runtime::Handle, sync::oneshot};

use crate::store::{StoreError, StoreErrorKind, StoreResult};

/// A thread with a runtime of its own, for a store that has connections.
///
/// Several runtimes call a store: that of the application, which a handler may block and which may end before the store
/// does, and the one that renews leases. A connection that one of them drives ends with it. Work on this thread does
/// not depend on them. Dropping the `IoThread` ends the thread, and drops the work that is still on it.
///
/// # Examples
///
/// ```
/// use tower_respond_async::store::kit::IoThread;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let io = IoThread::start("my-store")?;
/// let runtime = || tokio::runtime::Builder::new_current_thread().build();
/// for _ in 0..2 {
///     // As long as they can wait, its callers need no I/O.
///     let sum = runtime()?.block_on(io.run(async { 1 + 1 }))?;
///     assert_eq!(sum, 2);
/// }
/// # Ok(()) }
/// ```
pub struct IoThread {
    runtime: Handle,
    /// Dropping it ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl IoThread {
    /// Starts a thread with this name.
    ///
    /// # Errors
    ///
    /// The error of the operating system, if it cannot start the runtime or the thread.
    pub fn start(name: &str) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Nothing is ever sent.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self {
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The runtime of the thread. Spawn tasks on it, such as the driver of a connection.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.runtime
    }

    /// Runs `work` on the thread, and answers with its result.
    ///
    /// # Errors
    ///
    /// `Unavailable` if `work` panics, or if the thread has ended.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the work goes on and its result is lost.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = StoreResult<T>> + Send + 'static {
        let running = self.runtime.spawn(work);
        async move {
            running.await.map_err(|error| {
                let context = "the store's thread ended during the operation";
                StoreError::new(StoreErrorKind::Unavailable, context).because(error)
            })
        }
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        let own = self.thread.as_ref().map(|thread| thread.thread().id());
        // The last work on the thread may drop this. The thread cannot wait for itself.
        if let Some(thread) = self.thread.take().filter(|_| own != Some(thread::current().id())) {
            // The runtime catches panics of the work.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for IoThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoThread").finish_non_exhaustive()
    }
}
