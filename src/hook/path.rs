//! [`AppPath`]: another path of the application as a destination.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, uri::PathAndQuery};

use crate::{
    error::{BoxFuture, ConfigError},
    hook::{
        Application, Completion, NotSubmitted, PayloadFormat, Schedule, Target, Tried, TryOutcome, target::checked_name,
    },
    task::Destination,
};

/// The header for the webhook id, which is the same in every delivery about one end.
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");

/// How many completions are posted at once. Each is one write to the store.
const CONCURRENCY: usize = 4;

/// How long one post may take. The store's own limit is shorter, unless it was raised.
const LIMIT: Duration = Duration::from_secs(60);

/// A path of the application as a destination: each completion is POSTed to it as a new async task, in the tenant of
/// the task that ended. The cloud calls this a function as a destination.
///
/// The new task is like any other: it is stored and retried, and its completion goes to hooks and webhooks. But it goes
/// to no path: each end would lead to the next. Async requests that its handler makes count towards the longest chain
/// of async requests, which is 8.
///
/// ```
/// use tower_respond_async::{MemoryStore, RespondAsyncLayer, hook::AppPath};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = RespondAsyncLayer::builder(MemoryStore::new())
///     .on_success(AppPath::new("/dest-succ")?)
///     .on_failure(AppPath::new("/dest-fail")?)
///     .build()?;
/// # drop(layer);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct AppPath {
    path: PathAndQuery,
    name: Destination,
    format: PayloadFormat,
    schedule: Schedule,
}

impl AppPath {
    /// A destination at this path, with a query if there is one.
    ///
    /// Its name is made of the path: `/dest-succ` becomes `path-dest-succ`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if it is not a path that begins with a slash.
    pub fn new(path: &str) -> Result<Self, ConfigError> {
        let parsed: Option<PathAndQuery> = path.parse().ok().filter(|_| path.starts_with('/'));
        let parsed = parsed.ok_or_else(|| {
            ConfigError::new(
                "AppPath",
                format!("{path:?} is no path of the application, as /dest-succ"),
            )
        })?;
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        let mut name: String = "path".chars().chain(path.chars().map(plain)).collect();
        name.truncate(64);
        Ok(Self {
            path: parsed,
            name: Destination::new(name),
            format: PayloadFormat::default(),
            schedule: Schedule::default(),
        })
    }

    /// Sets another name. Keep it as long as deliveries under it are stored.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] unless it has 1 to 64 letters, digits, `_` and `-`, and is neither `local` nor `callback`.
    pub fn named(mut self, name: &str) -> Result<Self, ConfigError> {
        self.name = checked_name("AppPath", name)?;
        Ok(self)
    }

    /// The format of the body. Default: [`PayloadFormat::Fc`].
    #[must_use]
    pub fn format(mut self, format: PayloadFormat) -> Self {
        self.format = format;
        self
    }

    /// When a try is repeated because the task could not be stored. Default: [`Schedule::default`].
    #[must_use]
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }
}

impl Target for AppPath {
    fn name(&self) -> &Destination {
        &self.name
    }

    fn deliver<'a>(&'a self, completion: Completion, application: &'a dyn Application) -> BoxFuture<'a, Tried> {
        Box::pin(async move {
            let payload = self.format.render(&completion, PayloadFormat::LIMIT);
            let mut request = Request::new(payload.body);
            *request.method_mut() = http::Method::POST;
            *request.uri_mut() = self.path.clone().into();
            *request.headers_mut() = payload.headers;
            if let Ok(id) = HeaderValue::try_from(&completion.webhook_id) {
                request.headers_mut().insert(WEBHOOK_ID, id);
            }
            match application.submit(&completion, request).await {
                Ok(id) => Tried::new(TryOutcome::Delivered).saying(format!("posted as task {id}")),
                Err(NotSubmitted::Later(error)) => Tried::failed(error),
                Err(error @ NotSubmitted::TooDeep(_)) => Tried::new(TryOutcome::GivenUp).saying(error.to_string()),
            }
        })
    }

    fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }

    fn limit(&self) -> Duration {
        LIMIT
    }

    fn reenters(&self) -> bool {
        true
    }
}
