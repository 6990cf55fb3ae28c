//! Where the task API is, and what it is told of the layer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    engine::IntakeSettings,
    task::{TaskRecord, redact::Secrets},
};

/// Where clients find the task API, how long they may wait there, and what they are told of the layer.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(feature = "api"), expect(dead_code, reason = "what it says is for the task API"))]
pub(crate) struct ApiAddress {
    pub(crate) base: String,
    pub(crate) public_url: Option<String>,
    /// The forwarding headers of requests are believed.
    pub(crate) trust_forwarding: bool,
    /// Links begin with the host that the request names.
    pub(crate) from_host: bool,
    pub(crate) wait_cap: Duration,
    pub(crate) secrets: Arc<Secrets>,
    /// By which names it may be reached while it is open to everybody, beside those that are nobody's to register.
    pub(crate) hosts: Arc<[Box<str>]>,
    /// Whether some API is open to everybody.
    pub(crate) is_open: Arc<AtomicBool>,
    /// Whether there is a task API to point clients at.
    pub(crate) is_mounted: Arc<AtomicBool>,
    pub(crate) intake: IntakeSettings,
}

impl ApiAddress {
    /// Where the task API has the task, if there is one.
    pub(crate) fn of(&self, task: &TaskRecord) -> Option<Arc<str>> {
        if !self.is_mounted() {
            return None;
        }
        let public_url = self.public_url.as_deref().unwrap_or_default().trim_end_matches('/');
        Some(format!("{public_url}{}/{}", self.base, task.task_id()).into())
    }

    /// Whether there is a task API.
    pub(crate) fn is_mounted(&self) -> bool {
        self.is_mounted.load(Ordering::Relaxed)
    }
}
