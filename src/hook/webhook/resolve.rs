//! Resolves names to addresses.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{net::lookup_host, sync::Semaphore, time::timeout};

use crate::error::BoxFuture;

/// Resolves the names of receivers, anew for every connection. Connections go to the returned addresses, once they are
/// checked.
///
/// # Examples
///
/// A resolver that knows one host:
///
/// ```
/// use std::{io, net::IpAddr};
///
/// use tower_respond_async::{error::BoxFuture, hook::webhook::{Resolve, Webhook}};
///
/// struct Fixed;
///
/// impl Resolve for Fixed {
///     fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
///         Box::pin(async move {
///             match host {
///                 "billing.example.org" => Ok(vec![IpAddr::from([10, 20, 0, 7])]),
///                 _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such host")),
///             }
///         })
///     }
/// }
///
/// let webhook = Webhook::new("https://billing.example.org/ended")?.resolver(Fixed);
/// # Ok::<_, tower_respond_async::ConfigError>(())
/// ```
pub trait Resolve: Send + Sync + 'static {
    /// Returns all addresses of `host`.
    ///
    /// # Errors
    ///
    /// Any error: the delivery is tried again.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

impl<R: Resolve + ?Sized> Resolve for Arc<R> {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        (**self).resolve(host)
    }
}

/// How many names are resolved at once. Each blocks a thread, of which the runtime has 512 by default, and a name
/// server that does not answer blocks one for half a minute.
const LOOKUPS: usize = 32;

/// How long resolving a name may take.
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
            let permit = self.0.clone().acquire_owned().await.map_err(io::Error::other)?;
            let host = host.to_owned();
            // In a task of its own: after a time-out it goes on, and keeps its permit until its thread is free.
            let lookup = tokio::spawn(async move {
                let found = lookup_host((host, 0))
                    .await
                    .map(|found| found.map(|address| address.ip()).collect());
                drop(permit);
                found
            });
            lookup.await.map_err(io::Error::other)?
        })
    }
}

/// The addresses of `host`, or an error if there is no answer in time.
pub(super) async fn look_up(resolver: &dyn Resolve, host: &str) -> io::Result<Vec<IpAddr>> {
    let found = timeout(LOOKUP_LIMIT, resolver.resolve(host)).await;
    found.unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the name could not be looked up in time",
        ))
    })
}
