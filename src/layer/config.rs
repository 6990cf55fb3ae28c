//! What the layer is told once, when it is built.

use std::{sync::Arc, time::Duration};

use http::request::Parts;

use crate::{
    engine::Alive,
    layer::{Dialect, HeaderPolicy, carry::Carrier},
    task::{Labels, Tenant},
    wire::{ApiLinks, below},
};

/// What all clones of the wrapped application share: one count to take part in it.
pub(crate) struct Shared {
    /// Keeps the engine going.
    pub(crate) alive: Arc<Alive>,
    pub(crate) config: Config,
}

/// How the layer behaves. The builder's documentation argues each default.
pub(crate) struct Config {
    pub(crate) dialects: Vec<Dialect>,
    pub(crate) fc_strict: bool,
    pub(crate) when: Option<Box<When>>,
    /// Never deferred: the API's base path and the like, without a slash at the end.
    pub(crate) never_async: Vec<String>,
    pub(crate) links: ApiLinks,
    pub(crate) trust_forwarding: bool,
    pub(crate) body_limit: usize,
    pub(crate) body_idle_timeout: Duration,
    pub(crate) body_timeout: Duration,
    pub(crate) wait_cap: Duration,
    pub(crate) result_limit: usize,
    pub(crate) headers: HeaderPolicy,
    pub(crate) tenant: Option<Box<TenantOf>>,
    pub(crate) function_name: Option<Box<FunctionOf>>,
    pub(crate) labels: Option<Box<LabelsOf>>,
    pub(crate) carriers: Arc<[Carrier]>,
}

pub(crate) type When = dyn Fn(&Parts) -> bool + Send + Sync;
pub(crate) type TenantOf = dyn Fn(&Parts) -> Option<Tenant> + Send + Sync;
pub(crate) type FunctionOf = dyn Fn(&Parts) -> Option<String> + Send + Sync;
pub(crate) type LabelsOf = dyn Fn(&Parts) -> Labels + Send + Sync;

impl Config {
    /// Whether `path` is, or is below, a path that is never deferred.
    pub(crate) fn is_never_async(&self, path: &str) -> bool {
        self.never_async.iter().any(|base| below(base, path).is_some())
    }
}
