//! The settings of the layer.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use http::request::Parts;

use crate::{
    engine::Alive,
    layer::{Credentials, Dialect, HeaderPolicy, carry::Carrier},
    task::{Caller, Labels, Tenant},
    wire::{LinkBase, below},
};

/// What all clones of the wrapped application share, so that a clone costs one reference count.
pub(crate) struct Shared {
    /// Keeps the engine alive.
    pub(crate) alive: Arc<Alive>,
    pub(crate) config: Config,
    /// Whether a withheld answer was already reported.
    pub(crate) has_withheld: AtomicBool,
}

impl Shared {
    /// Whether a task API is mounted that answers can link to.
    pub(crate) fn is_api_mounted(&self) -> bool {
        self.alive.0.is_api_mounted()
    }
}

/// The settings of the layer. The builder documents each default.
pub(crate) struct Config {
    pub(crate) dialects: Vec<Dialect>,
    pub(crate) fc_strict: bool,
    pub(crate) when: Option<Box<When>>,
    /// The path of the task API, without a slash at the end. Requests below it are never async.
    pub(crate) api_base: String,
    /// Other paths below which requests are never async, without a slash at the end.
    pub(crate) never_async: Vec<String>,
    pub(crate) links: LinkBase,
    pub(crate) body_limit: usize,
    pub(crate) body_idle_timeout: Duration,
    pub(crate) body_timeout: Duration,
    pub(crate) wait_cap: Duration,
    pub(crate) result_limit: usize,
    pub(crate) headers: HeaderPolicy,
    pub(crate) tenant: Option<Box<TenantOf>>,
    pub(crate) caller: Option<Box<CallerOf>>,
    pub(crate) credentials: Credentials,
    pub(crate) fingerprint: Option<Box<FingerprintOf>>,
    pub(crate) function_name: Option<Box<FunctionOf>>,
    pub(crate) labels: Option<Box<LabelsOf>>,
    pub(crate) carriers: Arc<[Carrier]>,
}

pub(crate) type When = dyn Fn(&Parts) -> bool + Send + Sync;
pub(crate) type TenantOf = dyn Fn(&Parts) -> Option<Tenant> + Send + Sync;
pub(crate) type CallerOf = dyn Fn(&Parts) -> Option<Caller> + Send + Sync;
pub(crate) type FingerprintOf = dyn Fn(&Parts, &Bytes) -> Vec<u8> + Send + Sync;
pub(crate) type FunctionOf = dyn Fn(&Parts) -> Option<String> + Send + Sync;
pub(crate) type LabelsOf = dyn Fn(&Parts) -> Labels + Send + Sync;

impl Config {
    /// Whether `path` is, or is below, a path that is never async. The path of the API is one if an API is mounted.
    pub(crate) fn is_never_async(&self, path: &str, api_mounted: bool) -> bool {
        let api = api_mounted.then_some(&self.api_base);
        let mut paths = self.never_async.iter().chain(api);
        paths.any(|base| below(base, path).is_some())
    }
}
