//! The task API: watch, fetch, stop, re-run and delete tasks over HTTP.
//!
//! A [`TaskApi`] is a service of its own, mounted inside the application at the layer's `api_base`. It refuses every
//! request that its [`Authorizer`] does not permit. An authorizer is a [`BearerToken`], a closure over the head of the
//! request, or, where no stranger can reach the API, [`allow_everyone`].
//!
//! | request | answer | permission |
//! |---|---|---|
//! | `GET /` | tasks, filtered and page by page | list |
//! | `GET /openapi.json` | this table as an OpenAPI document | none, but the authorizer must not deny access |
//! | `GET /stats` | how many tasks are in each state | list |
//! | `GET /settings` | the settings in force, and what the caller may do | list |
//! | `GET /events` | a stream of the changes of all tasks | list |
//! | `GET /{id}` | the task | view |
//! | `GET /{id}/operation` | the same, for clients of long-running operations | view |
//! | `GET /{id}/request` | the request, with credentials redacted | payload |
//! | `GET /{id}/response` | the response as a document, with credentials redacted | result |
//! | `GET /{id}/result` | the response as the handler gave it, once there is one | result |
//! | `DELETE /{id}/result` | stops a task that has not ended, deletes one that has | stop or delete |
//! | `GET /{id}/logs` | what the handler logged, as JSON or, if `Accept` prefers it, as text | logs |
//! | `GET /{id}/events` | a stream of the events of the task | view; for its log, logs; for callbacks, callbacks |
//! | `POST`, `PUT /{id}/stop` | 202 `Stopping` or 200 `Stopped` | stop |
//! | `POST /{id}/retry` | 202: the task runs again, with edits if the body has any | retry; for edits, invoke too |
//! | `GET /{id}/callbacks` | the completions of the task and their destinations, with every try | callbacks |
//! | `POST /{id}/callbacks/{n}/redeliver` | 202: that completion is delivered again | callbacks |
//! | `DELETE /{id}` | 204 | delete |
//! | `POST /bulk/stop`, `/bulk/retry`, `/bulk/delete` | the outcome for each of up to 1,000 tasks | as for one; for a filter, list too |
//!
//! Listing or viewing with `includePayload` needs the permission payload too, and shows responses only with result.
//! Every refusal is a JSON problem (RFC 9457). For a task outside of the caller's scope the answer is 404, as if there
//! were no such task.
//!
//! # Examples
//!
//! In a router, for clients that have the token:
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
//! For the tenants of an application, each with its own tasks. A layer or proxy in front has authenticated them:
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
//! The response of a handler may be a page that a stranger wrote, and the API serves it from the application's own
//! origin. Status, headers and body are returned as the handler gave them, except:
//!
//! - `Content-Security-Policy: sandbox` is added, so that a page runs no script and belongs to no origin; and `nosniff`
//! - `Cache-Control` is `no-store`: a cache must not answer in place of the authorizer, and a re-run changes the result
//! - headers of the connection (`Connection`, `Transfer-Encoding` ...) are left out, and `Content-Length` is computed
//!   anew
//! - headers of this crate (`X-Respond-Async-*`, `X-Fc-Request-Id`, `X-Fc-Async-Task-Id`, `Operation-Location`,
//!   `X-Progress`) state facts about the task; the handler's headers of these names are left out
//! - a browser that would run the result, as a script, style sheet or worker, is refused with 403
//! - a browser, recognized by `Sec-Fetch-*` or `Origin`, gets only these of the handler's headers:
//!
//! | header | |
//! |---|---|
//! | `Content-Type`, `-Encoding`, `-Language`, `-Length`, `-Range`, `-Location`, `-Digest`, `-MD5`, `Content-Disposition`, `Digest`, `Repr-Digest`, `Accept-Ranges`, `ETag`, `Last-Modified`, `Date` | describe the body |
//! | `Location`, `Allow`, `Retry-After` | complete the meaning of the status |
//! | `Content-Security-Policy`, `X-Frame-Options`, `Referrer-Policy` | only take rights away from the page |
//!
//! A browser gets no other header, since many headers affect the whole origin or the reader's session, and new ones
//! appear every year:
//!
//! - `Set-Cookie` would log the reader in as the user who sent the task.
//! - `Alt-Svc`, `Accept-CH`, `Strict-Transport-Security`, `Clear-Site-Data`, `NEL`, `Reporting-Endpoints` and
//!   `Service-Worker-Allowed` change how the browser treats this origin from then on.
//! - `Refresh` leads the reader to another page; `Link` and `Speculation-Rules` make the browser load more.
//! - `WWW-Authenticate` makes the browser ask its user for a password.
//! - `Access-Control-*` would let the origin that sent the task read responses to the reader.
//!
//! A page that needs such a header reads it from `/response`, where all headers are data. A program gets every header.
//! A browser that opens a page over plain HTTP, at an address other than loopback, sends neither `Sec-Fetch-*` nor
//! `Origin` and counts as a program.
//!
//! # Changing requests from a browser
//!
//! The API refuses a changing request (403) that comes from a page of another origin, unless you
//! [allowed](TaskApi::allow_origin) that origin. It reads `Sec-Fetch-Site`, or, without it, compares `Origin` with
//! `Host`. An API that is [open to everybody](allow_everyone) also checks the `Host` of every request, and answers 421
//! for a name that a stranger may have pointed to this server. [The guide](crate::guide::trust) explains which attack
//! each check prevents.

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
