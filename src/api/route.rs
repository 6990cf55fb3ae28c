//! The entries of the table of routes.

use http::Method;

use crate::{
    api::{
        Permission,
        call::{Answer, Call},
    },
    error::BoxFuture,
    layer::RequestBody,
};

/// Requests of one method and shape.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static [Segment],
    /// The permission that the caller needs; `None` if admission is enough.
    pub(super) needs: Option<Permission>,
    pub(super) handler: fn(Call, RequestBody) -> BoxFuture<'static, Answer>,
    /// The summary in the OpenAPI document.
    pub(super) says: &'static str,
    /// The query parameters that the handler reads.
    pub(super) query: &'static [&'static str],
    /// The schema of the body, if the handler reads one.
    pub(super) takes: Option<&'static str>,
    /// The status and the schema of each successful answer; `None` for no body.
    pub(super) gives: &'static [(u16, Option<&'static str>)],
}

/// A part of a path between slashes.
pub(super) enum Segment {
    /// A fixed word.
    Word(&'static str),
    /// A task, by request id or name.
    Task,
    /// A number, counted from 1.
    Number,
}
