//! A request on its way through the API, and what comes of it.

use std::sync::Arc;

use http::{Response, request::Parts};

use crate::{
    api::{Permission, access::Grant, origin::Origin},
    engine::{Observer, Tasks},
    layer::ResponseBody,
    task::{TaskRef, redact::Secrets},
    wire::{ApiLinks, Problem},
};

/// What a handler answers.
pub(super) type Answer = Result<Response<ResponseBody>, Problem>;

/// A request that has come as far as its handler: the caller was let in, and may do what the route needs.
pub(super) struct Call {
    /// Those that the caller may see.
    pub(super) tasks: Tasks,
    pub(super) links: Arc<ApiLinks>,
    pub(super) secrets: Arc<Secrets>,
    /// The hosts at which the API answers, if not at all.
    pub(super) hosts: Option<Arc<[Box<str>]>>,
    pub(super) origins: Arc<[Origin]>,
    pub(super) grant: Grant,
    pub(super) task: Option<TaskRef>,
    pub(super) parts: Parts,
}

impl Call {
    /// Looks on, within what the caller may see.
    pub(super) fn observer(&self) -> Observer {
        self.tasks.observer()
    }

    /// Refuses the call unless the caller has this permission.
    pub(super) fn must_allow(&self, permission: Permission) -> Result<(), Problem> {
        match self.grant.allows(permission) {
            true => Ok(()),
            false => Err(Problem::forbidden(format!(
                "This needs the permission {:?}, which you do not have.",
                permission.as_str()
            ))),
        }
    }
}
