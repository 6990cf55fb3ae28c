//! A request to the API, and its answer.

use std::sync::Arc;

use http::{Response, request::Parts};

use crate::{
    api::{Permission, access::Grant, origin::Origin},
    engine::{Observer, Tasks},
    layer::ResponseBody,
    task::{TaskRef, redact::Secrets},
    wire::{ApiLinks, Problem},
};

/// The answer of a handler.
pub(super) type Answer = Result<Response<ResponseBody>, Problem>;

/// A request that has reached its handler: the caller was admitted and has the permission that the route needs.
pub(super) struct Call {
    /// The tasks that the caller may see.
    pub(super) tasks: Tasks,
    pub(super) links: Arc<ApiLinks>,
    pub(super) secrets: Arc<Secrets>,
    /// The hosts at which the API answers; `None` if it answers at every host.
    pub(super) hosts: Option<Arc<[Box<str>]>>,
    pub(super) origins: Arc<[Origin]>,
    pub(super) grant: Grant,
    pub(super) task: Option<TaskRef>,
    pub(super) parts: Parts,
}

impl Call {
    /// An observer of the tasks that the caller may see.
    pub(super) fn observer(&self) -> Observer {
        self.tasks.observer()
    }

    /// Checks that the caller has this permission.
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
