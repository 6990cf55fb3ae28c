//! The web console: one page to watch tasks, read their logs, stop, re-run and delete them, and try requests.
//!
//! A [`Console`] is a service with the page, its scripts and styles, compiled in. It holds no data and no secret:
//! everything that it shows comes from the [task API](crate::api), which checks permissions. Mount it beside the API
//! and open it in a browser. Where the API needs a bearer token, the page asks for it, and keeps it until the tab is
//! closed.
//!
//! # Examples
//!
//! ```
//! use axum::Router;
//! use tower_respond_async::{BearerToken, Console, TaskApi, Tasks};
//!
//! fn app(tasks: &Tasks, token: &str) -> Router {
//!     Router::new()
//!         .nest_service("/tasks", TaskApi::new(tasks, BearerToken::new(token)))
//!         .nest_service("/console", Console::new(tasks))
//! }
//! ```
//!
//! If you mount it at another path than `/console`, set the path. Here no router takes the prefix off, as in a plain
//! hyper service, and browsers reach the API at another path of the same origin:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use http::Request;
//! use http_body_util::Empty;
//! use tower::ServiceExt;
//! use tower_respond_async::{Console, MemoryStore, RespondAsyncLayer};
//!
//! let layer = RespondAsyncLayer::builder(MemoryStore::new()).never_async("/ops/console").build()?;
//! let console = Console::new(&layer.tasks()).strip_prefix("/ops/console").api("/internal/tasks");
//!
//! let request = Request::get("/ops/console/").body(Empty::<bytes::Bytes>::new())?;
//! let page = console.oneshot(request).await?;
//! assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
//! # Ok(()) }
//! ```
//!
//! # Behind a proxy
//!
//! Every address in the page is relative to the page's own, so the page works under any prefix that a proxy, or an
//! outer router, takes off. For that, the page's address must end with a slash. The service redirects a request without
//! the slash, if it knows the original address: from axum (feature `axum`), or from
//! [`strip_prefix`](Console::strip_prefix).
//!
//! # What a browser is allowed
//!
//! The page is served with `Content-Security-Policy: default-src 'none'`, and exceptions for its scripts, styles and
//! requests on its own origin. Nothing is inline, nothing is loaded from elsewhere, and no other page may frame it.
//! Payloads, headers, errors and logs may come from strangers; the page inserts them as text only.

mod address;
mod assets;
mod service;

pub use self::service::Console;
