//! Another path of the application as a destination.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, uri::PathAndQuery};

use crate::{
    error::{BoxFuture, ConfigError},
    hook::{
        Application, Completion, NotSubmitted, PayloadFormat, Schedule, Target, Tried, TryOutcome, target::checked_name,
    },
    task::Destination,
};

/// The header that says which end a delivery is about: the same for every delivery of it.
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");

/// How many completions are posted at once: posting is one write to the store.
const PLACES: usize = 4;

/// How long posting one may take. The store has a limit of its own, which is shorter unless it was raised.
const LIMIT: Duration = Duration::from_secs(60);

/// A path of the application itself: each completion is POSTed to it as a new async task, in the tenant of the task that
/// ended. It is what the cloud calls a function as a destination.
///
/// The new task is one like any other: it is kept, retried, and told to hooks and webhooks, but to no path, or each end
/// would lead to the next. Requests it makes itself count towards the longest chain of async requests, which is 8.
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
    /// This path, and query if there is one.
    ///
    /// Its name is made of the path: `/dest-succ` is `path-dest-succ`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if it does not begin with a slash, or is no path.
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

    /// Another name than the one made of the path. It must stay the same as long as deliveries under it are stored.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if it is no name of a destination.
    pub fn named(mut self, name: &str) -> Result<Self, ConfigError> {
        self.name = checked_name("AppPath", name)?;
        Ok(self)
    }

    /// What is posted. Default: [`PayloadFormat::Fc`].
    #[must_use]
    pub fn format(mut self, format: PayloadFormat) -> Self {
        self.format = format;
        self
    }

    /// When it is tried again if the task cannot be stored.
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

    fn places(&self) -> usize {
        PLACES
    }

    fn limit(&self) -> Duration {
        LIMIT
    }

    fn reenters(&self) -> bool {
        true
    }
}
