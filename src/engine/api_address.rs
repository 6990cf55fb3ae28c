//! The address of the task API, and the settings of the layer that the API needs.

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

/// The address of the task API, its longest wait, and the settings of the layer that it uses.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(feature = "api"), expect(dead_code, reason = "what it says is for the task API"))]
pub(crate) struct ApiAddress {
    pub(crate) base: String,
    pub(crate) public_url: Option<String>,
    /// Whether the forwarding headers of requests are used.
    pub(crate) trust_forwarding: bool,
    /// Whether links begin with the host that the request names.
    pub(crate) from_host: bool,
    pub(crate) wait_cap: Duration,
    pub(crate) secrets: Arc<Secrets>,
    /// The hosts at which an API without credentials answers, in addition to names that cannot be registered.
    pub(crate) hosts: Arc<[Box<str>]>,
    /// Whether a task API without credentials is mounted.
    pub(crate) is_open: Arc<AtomicBool>,
    /// Whether a task API is mounted.
    pub(crate) is_mounted: Arc<AtomicBool>,
    pub(crate) intake: IntakeSettings,
}

impl ApiAddress {
    /// The address of a task in the task API, if one is mounted.
    pub(crate) fn of(&self, task: &TaskRecord) -> Option<Arc<str>> {
        if !self.is_mounted() {
            return None;
        }
        let public_url = self.public_url.as_deref().unwrap_or_default().trim_end_matches('/');
        Some(format!("{public_url}{}/{}", self.base, task.task_id()).into())
    }

    /// Whether a task API is mounted.
    pub(crate) fn is_mounted(&self) -> bool {
        self.is_mounted.load(Ordering::Relaxed)
    }
}
