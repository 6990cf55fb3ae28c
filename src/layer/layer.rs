//! [`RespondAsyncLayer`]: holds the settings and the engine, and wraps the application.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    engine::{Alive, Tasks},
    error::{BoxError, ConfigError},
    layer::{
        RequestBody, RespondAsync, RespondAsyncBuilder,
        config::{Config, Shared},
        replay::Replayer,
    },
    store::TaskStore,
};

/// Adds asynchronous invocation to the application that it wraps. See the [crate documentation](crate).
///
/// It wraps one application, once. The engine runs stored requests on that service, so it must be the whole
/// application, with its routing. That is why the layer is not `Clone`: axum's `Router::layer`, which would wrap each
/// route separately after routing, requires `Clone` and does not accept it.
///
/// ```compile_fail,E0277
/// use axum::{Router, routing::get};
/// use tower_respond_async::{MemoryStore, RespondAsyncLayer};
///
/// let layer = RespondAsyncLayer::new(MemoryStore::new()).unwrap();
/// let app: Router = Router::new().route("/", get(|| async {})).layer(layer);
/// ```
///
/// Write `layer.layer(app)` instead. `app` is the `Router` with all its routes:
///
/// ```
/// use axum::{Router, routing::get};
/// use tower::Layer;
/// use tower_respond_async::{MemoryStore, RespondAsyncLayer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = RespondAsyncLayer::new(MemoryStore::new())?;
/// let app = Router::new().route("/", get(|| async { "hello" }));
/// let app = layer.layer(app);
/// # drop(app.clone()); Ok(()) }
/// ```
#[must_use = "a layer does nothing until it wraps a service"]
pub struct RespondAsyncLayer {
    shared: Arc<Shared>,
    used: AtomicBool,
}

impl RespondAsyncLayer {
    /// Returns a layer over `store` with the default settings.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if it is called outside of a Tokio runtime. [`RespondAsyncBuilder::runtime`] sets a
    /// runtime.
    pub fn new(store: impl TaskStore) -> Result<Self, ConfigError> {
        Self::builder(store).build()
    }

    /// Returns a builder for a layer over `store`.
    pub fn builder(store: impl TaskStore) -> RespondAsyncBuilder {
        RespondAsyncBuilder::new(Arc::new(store))
    }

    pub(crate) fn from_parts(alive: Arc<Alive>, config: Config) -> Self {
        Self {
            shared: Arc::new(Shared {
                alive,
                config,
                has_withheld: AtomicBool::new(false),
            }),
            used: AtomicBool::new(false),
        }
    }

    /// Returns a handle to the tasks of this layer.
    #[must_use]
    pub fn tasks(&self) -> Tasks {
        Tasks::new(self.shared.alive.clone())
    }
}

impl<S, R> Layer<S> for RespondAsyncLayer
where
    S: Service<Request<RequestBody>, Response = Response<R>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send,
    R::Error: Into<BoxError>,
{
    type Service = RespondAsync<S>;

    /// Wraps the application, and begins to run the tasks that an earlier process left in the store.
    ///
    /// # Panics
    ///
    /// - If it is called a second time, for example by an accept loop for each connection. Wrap the application once,
    ///   and clone the wrapped service.
    /// - If the operating system cannot start the thread that renews leases.
    fn layer(&self, inner: S) -> RespondAsync<S> {
        assert!(
            !self.used.swap(true, Ordering::SeqCst),
            "RespondAsyncLayer::layer was called twice: wrap the application once, and clone the wrapped service"
        );
        let Shared { alive, config, .. } = &*self.shared;
        let entry = Replayer::new(inner.clone(), config.carriers.clone(), config.result_limit);
        alive
            .0
            .begin(Arc::new(entry))
            .expect("the operating system gives a thread for the leases");
        RespondAsync::new(inner, self.shared.clone())
    }
}

impl fmt::Debug for RespondAsyncLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RespondAsyncLayer").finish_non_exhaustive()
    }
}
