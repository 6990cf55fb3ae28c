//! A thread that drives a store's connections.

use std::{
    fmt, io,
    thread::{self, JoinHandle},
};

use tokio::{runtime::Handle, sync::oneshot};

use crate::store::{StoreError, StoreErrorKind, StoreResult};

/// A thread with a runtime of its own, for a store that has connections.
///
/// A store is called from several runtimes: the application's, which a handler may block and which may end before the store
/// does, and the one that renews leases. A connection that one of them drives is lost with it. What runs here goes on whatever
/// becomes of those. Dropped, it ends, and what still runs on it is dropped.
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
    /// Dropped, the thread ends.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl IoThread {
    /// Starts the thread, under this name.
    ///
    /// # Errors
    ///
    /// The operating system's.
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

    /// What tasks of its own, such as a driver of a connection, are spawned on.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.runtime
    }

    /// Runs `work` on the thread, and answers with what came of it.
    ///
    /// # Errors
    ///
    /// `Unavailable` if it panicked, and if the thread has ended.
    ///
    /// # Cancel safety
    ///
    /// It goes on if this is dropped, and its answer is lost.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = StoreResult<T>> + Send + 'static {
        let running = self.runtime.spawn(work);
        async move {
            running.await.map_err(|error| {
                let context = "the thread of the store's connections broke off what it did";
                StoreError::new(StoreErrorKind::Unavailable, context).because(error)
            })
        }
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        let own = self.thread.as_ref().map(|thread| thread.thread().id());
        // It may be dropped by the last of what runs on it, and cannot wait for itself then.
        if let Some(thread) = self.thread.take().filter(|_| own != Some(thread::current().id())) {
            // What panics on it is caught by the runtime.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for IoThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoThread").finish_non_exhaustive()
    }
}
