//! The web console: one page to watch tasks, read their logs, stop, re-run and delete them, and to try requests out.
//!
//! A [`Console`] is a service that serves the page, its scripts and styles, compiled in. It holds no data and no secret:
//! whatever it shows comes from the [task API](crate::api), which decides who may see and do what. Mount it beside the API
//! and open it in a browser; where the API asks for a bearer token, so does the page, and keeps it for as long as the tab
//! is open.
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
//! Elsewhere than at `/console` it is told where. Without a router that takes the prefix off, as in a plain hyper service,
//! and with an API that browsers reach elsewhere on the same origin:
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
//! # Behind a front
//!
//! Every address in the page is relative to the page's own, so that it works under any prefix which a front, or a router
//! around the application, takes off. For that, the address must end with a slash; a request without it is redirected, as
//! far as the service can tell: axum remembers the address that a nested service was asked for (feature `axum`), and with
//! [`strip_prefix`](Console::strip_prefix) the service sees it itself.
//!
//! # What a browser is allowed
//!
//! The page is served with `Content-Security-Policy: default-src 'none'` and what it needs of its own origin: its scripts,
//! its styles, its requests. Nothing is inline, nothing is loaded from elsewhere, no other page may frame it. Payloads,
//! headers, errors and logs are written by strangers; they reach the page as text only.

mod assets;
mod place;
mod service;

pub use self::service::Console;
