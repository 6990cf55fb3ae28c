//! The task API: watch, fetch, stop, re-run and delete tasks over HTTP.
//!
//! A [`TaskApi`] is a service of its own, mounted inside the application at the layer's `api_base`. It does nothing for
//! anybody until an [`Authorizer`] lets them: a [`BearerToken`], a closure over the head of the request, or, where no
//! stranger can reach it, [`allow_everyone`].
//!
//! | request | answer | permission |
//! |---|---|---|
//! | `GET /` | tasks, filtered and page by page | list |
//! | `GET /openapi.json` | all this for programs, made from the table that finds the handlers | none, to whom is let in |
//! | `GET /stats` | how many tasks are in each state | list |
//! | `GET /settings` | what is in force, and what the caller may do | list |
//! | `GET /events` | a stream of what changes in any task | list |
//! | `GET /{id}` | the task | view |
//! | `GET /{id}/operation` | the same, for clients of long-running operations | view |
//! | `GET /{id}/request` | the request, with credentials redacted | payload |
//! | `GET /{id}/response` | the response as a document, with credentials redacted | result |
//! | `GET /{id}/result` | the response as the handler gave it, once there is one | result |
//! | `GET /{id}/logs` | what the handler logged, as JSON or, if `Accept` prefers it, as text | logs |
//! | `GET /{id}/events` | a stream of what happens in the task | view; of its log, logs; of callbacks, callbacks |
//! | `POST`, `PUT /{id}/stop` | 202 `Stopping` or 200 `Stopped` | stop |
//! | `POST /{id}/retry` | 202: it runs again, edited if wanted | retry; to edit, invoke too |
//! | `GET /{id}/callbacks` | who was told how it ended, with every try | callbacks |
//! | `POST /{id}/callbacks/{n}/redeliver` | 202: that one is told again | callbacks |
//! | `DELETE /{id}` | 204 | delete |
//! | `POST /bulk/stop`, `/bulk/retry`, `/bulk/delete` | what became of each, up to 1,000 | as for one; for a filter, list too |
//!
//! Listing or viewing with `includePayload` needs payload too, and shows responses only with result. Every refusal is a
//! JSON problem. A task outside of the caller's scope is answered 404, as if it were not there.
//!
//! # Examples
//!
//! Mounted in a router, for whoever knows the token:
//!
//! ```
//! use axum::Router;
//! use tower_respond_async::{BearerToken, TaskApi, Tasks};
//!
//! fn app(tasks: &Tasks, token: &str) -> Router {
//!     Router::new().nest_service("/tasks", TaskApi::new(tasks, BearerToken::new(token)))
//! }
//! ```
//!
//! For the tenants of an application, who see and stop their own tasks, where something in front has checked who they
//! are:
//!
//! ```
//! use http::request::Parts;
//! use tower_respond_async::{
//!     Access, Authorizer,
//!     api::Permission,
//!     task::{Scope, Tenant},
//! };
//!
//! fn tenants(request: &Parts) -> Access {
//!     match request.headers.get("x-authenticated-tenant").and_then(|name| name.to_str().ok()) {
//!         Some(name) => Access::read_only(Scope::One(Some(Tenant::new(name))))
//!             .with(Permission::Stop)
//!             .as_user(name),
//!         None => Access::deny(),
//!     }
//! }
//!
//! let (request, ()) = http::Request::get("/").header("x-authenticated-tenant", "acme").body(()).unwrap().into_parts();
//! let access = tenants.authorize(&request);
//! assert!(access.allows(Permission::Stop) && !access.allows(Permission::Delete));
//! ```
//!
//! # Results in a browser
//!
//! A result is whatever a handler answered, which may be a page that a stranger wrote, and here it is served from the
//! application's own origin. Status, headers and body are handed out as they were, except:
//!
//! - `Content-Security-Policy: sandbox` is added, so that a page runs no script and belongs to no origin; and `nosniff`
//! - `Cache-Control` is `no-store`: no cache may answer in place of the authorizer, and a re-run changes the result
//! - what names the connection (`Connection`, `Transfer-Encoding` ...) is left out, and `Content-Length` is counted anew
//! - our own headers (`X-Respond-Async-*`, `X-Fc-Request-Id`, `X-Fc-Async-Task-Id`, `Operation-Location`, `X-Progress`) say what
//!   is true of the task; a handler's own of these names are left out
//! - it is not given to a browser that wants to run it, as a script, style sheet or worker
//! - a browser, known by `Sec-Fetch-*` or `Origin`, gets these of the handler's headers and no others:
//!
//! | header | |
//! |---|---|
//! | `Content-Type`, `-Encoding`, `-Language`, `-Length`, `-Range`, `-Location`, `-Digest`, `-MD5`, `Content-Disposition`, `Digest`, `Repr-Digest`, `Accept-Ranges`, `ETag`, `Last-Modified`, `Date` | describe the body |
//! | `Location`, `Allow`, `Retry-After` | are part of what the status says |
//! | `Content-Security-Policy`, `X-Frame-Options`, `Referrer-Policy` | only take rights away from the page |
//!
//! All others are left out, since what a browser does with them it does for the whole origin, or for whoever looks, and next
//! year there are new ones: `Set-Cookie` logs the reader in as the one who sent the task; `Alt-Svc`, `Accept-CH`,
//! `Strict-Transport-Security`, `Clear-Site-Data`, `NEL`, `Reporting-Endpoints` and `Service-Worker-Allowed` change what it does on
//! this origin from then on; `Refresh` leads it away; `Link` and `Speculation-Rules` have it load something;
//! `WWW-Authenticate` has it ask its user for a password; `Access-Control-*` let the origin that sent the task read the
//! reader's. A page that needs one reads `/response`, where all of them are data. A program gets every header; a browser
//! that opens a page over plain HTTP at another address than loopback sends neither of the two and counts as one.
//!
//! # Changing requests from a browser
//!
//! They are refused (403) when they come from a page of another origin, by `Sec-Fetch-Site`, or where that is absent, by
//! `Origin` and `Host`, unless that origin was [named](TaskApi::allow_origin). An API that is [open to
//! everybody](allow_everyone) also looks at the `Host` of every request, and answers 421 at one that a stranger may have made
//! lead here. [The guide](crate::guide::trust) says what each of them is against.

mod access;
mod answer;
mod bearer;
mod body;
mod bulk;
mod call;
mod callbacks;
mod change;
pub(crate) mod edits;
mod events;
mod list;
mod logs;
mod openapi;
mod origin;
pub(crate) mod paging;
pub(crate) mod query;
mod result;
mod route;
mod routes;
mod service;
mod settings;
mod stats;
mod stream;
mod table;
mod view;

#[cfg(test)]
mod tests;

pub use self::{
    access::{Access, AllowEveryone, Authorizer, Permission, allow_everyone},
    bearer::BearerToken,
    service::{ResponseFuture, TaskApi},
};
