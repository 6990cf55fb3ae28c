//! Names to addresses.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{net::lookup_host, sync::Semaphore, time::timeout};

use crate::error::BoxFuture;

/// Looks names up. What it answers is checked, and what was checked is dialled: it is asked again for every connection.
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of `host`.
    ///
    /// # Errors
    ///
    /// What went wrong; the delivery is tried again.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

impl<R: Resolve + ?Sized> Resolve for Arc<R> {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        (**self).resolve(host)
    }
}

/// How many names are looked up at once: each blocks a thread, of which the runtime has 512 unless it was told otherwise,
/// and a name server that does not answer holds one for half a minute.
const LOOKUPS: usize = 32;

/// How long a look-up may take.
pub(super) const LOOKUP_LIMIT: Duration = Duration::from_secs(5);

/// The operating system's resolver.
#[derive(Debug)]
pub(super) struct SystemResolver(Arc<Semaphore>);

impl Default for SystemResolver {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LOOKUPS)))
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let place = self.0.clone().acquire_owned().await.map_err(io::Error::other)?;
            let host = host.to_owned();
            // In a task of its own: given up, the look-up goes on and keeps its place until its thread is free.
            let lookup = tokio::spawn(async move {
                let found = lookup_host((host, 0))
                    .await
                    .map(|found| found.map(|address| address.ip()).collect());
                drop(place);
                found
            });
            lookup.await.map_err(io::Error::other)?
        })
    }
}

/// The addresses, or an error if there are none in time.
pub(super) async fn look_up(resolver: &dyn Resolve, host: &str) -> io::Result<Vec<IpAddr>> {
    let found = timeout(LOOKUP_LIMIT, resolver.resolve(host)).await;
    found.unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the name could not be looked up in time",
        ))
    })
}
