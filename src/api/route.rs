//! What the table of routes has of each request that the API serves.

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
    /// What the caller must be allowed; nothing where it is enough to be let in.
    pub(super) needs: Option<Permission>,
    pub(super) handler: fn(Call, RequestBody) -> BoxFuture<'static, Answer>,
    /// What it is for.
    pub(super) says: &'static str,
    /// The query parameters that are read.
    pub(super) query: &'static [&'static str],
    /// The document that may be sent.
    pub(super) takes: Option<&'static str>,
    /// The status and the document of each answer that is no refusal; no document is no body.
    pub(super) gives: &'static [(u16, Option<&'static str>)],
}

/// A part of a path between slashes.
pub(super) enum Segment {
    /// This word.
    Word(&'static str),
    /// A task, by request id or name.
    Task,
    /// One of several of a kind, counted from 1.
    Number,
}
