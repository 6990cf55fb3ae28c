//! The settings in force, for people to read.

use std::time::Duration;

use http::StatusCode;
use serde::Serialize;

use crate::{
    api::{
        Permission, answer,
        call::{Answer, Call},
        origin::Origin,
    },
    engine::Tasks,
    store::Durability,
    task::{Condition, Scope},
};

/// How many waits between retries are shown; a policy may have any number.
const WAITS: u32 = 10;

/// `GET /settings`
pub(super) async fn settings(call: Call) -> Answer {
    let document = SettingsDocument::new(&call);
    Ok(answer::json(StatusCode::OK, &document))
}

/// Lengths are in bytes, times in milliseconds. For a caller that sees one tenant only, the members about the process
/// are left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SettingsDocument<'a> {
    version: &'static str,
    accept: Accept,
    run: Run,
    keep: Keep,
    #[serde(skip_serializing_if = "Option::is_none")]
    api: Option<Api<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<Process<'a>>,
    access: Access<'a>,
}

/// How requests are accepted.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Accept {
    dialects: Vec<&'static str>,
    body_limit: usize,
    body_timeout_ms: u64,
    body_idle_timeout_ms: u64,
    queue_depth: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_queue_depth: Option<u64>,
    dedup_window_ms: u64,
    wait_cap_ms: u64,
}

/// How tasks are run.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    max_retries: u32,
    /// The longest wait before the first retry, the second, and so on; at most ten.
    retry_waits_ms: Vec<u64>,
    crash_allowance: u32,
    attempt_timeout_ms: u64,
    stop_grace_ms: u64,
    max_age_ms: u64,
    lease_ms: u64,
}

/// What is kept, and where completions go.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Keep {
    durability: &'static str,
    result_limit: usize,
    succeeded_ms: u64,
    others_ms: u64,
    callback_patience_ms: u64,
    destinations: Vec<Destination>,
}

#[derive(Serialize)]
struct Destination {
    destination: String,
    on: Vec<&'static str>,
}

/// Hosts and origins of the task API.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Api<'a> {
    /// In addition to hosts that no stranger can own; `null` if it answers at every host.
    hosts: Option<&'a [Box<str>]>,
    /// The origins, besides its own, whose pages may make changes.
    origins: Vec<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Process<'a> {
    instance_id: &'a str,
    concurrency: usize,
    buffer_limit: usize,
    max_waiters: usize,
    store_timeout_ms: u64,
}

/// The caller, and what it may do.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Access<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    all_tenants: bool,
    permissions: Vec<&'static str>,
}

impl<'a> SettingsDocument<'a> {
    fn new(call: &'a Call) -> Self {
        let (tasks, grant) = (&call.tasks, &call.grant);
        let settings = tasks.settings();
        let address = tasks.api_address();
        let everybody = grant.scope == Scope::All;
        let max_retries = tasks.max_retries();
        let waits = tasks.longest_waits(max_retries.min(WAITS));
        let per_tenant = settings.limits.per_tenant;
        Self {
            version: env!("CARGO_PKG_VERSION"),
            accept: Accept {
                body_limit: address.intake.body_limit,
                body_timeout_ms: millis(address.intake.body_timeout),
                body_idle_timeout_ms: millis(address.intake.body_idle_timeout),
                queue_depth: settings.limits.queued,
                tenant_queue_depth: (per_tenant < u64::MAX).then_some(per_tenant),
                dedup_window_ms: millis(settings.key_window),
                wait_cap_ms: millis(address.wait_cap),
                dialects: address.intake.dialects,
            },
            run: Run {
                max_retries,
                retry_waits_ms: waits.into_iter().map(millis).collect(),
                crash_allowance: settings.crash_allowance,
                attempt_timeout_ms: millis(settings.attempt_timeout),
                stop_grace_ms: millis(settings.stop_grace),
                max_age_ms: millis(settings.max_age),
                lease_ms: millis(settings.lease),
            },
            keep: Keep {
                durability: match tasks.durability() {
                    Durability::Process => "process",
                    Durability::Restart => "restart",
                    Durability::Host => "host",
                    Durability::Cluster => "cluster",
                },
                result_limit: address.intake.result_limit,
                succeeded_ms: millis(settings.retention.succeeded),
                others_ms: millis(settings.retention.others),
                callback_patience_ms: millis(settings.callback_patience),
                destinations: destinations(tasks),
            },
            api: everybody.then(|| Api {
                hosts: call.hosts.as_deref(),
                origins: call.origins.iter().map(Origin::as_str).collect(),
            }),
            process: everybody.then(|| Process {
                instance_id: tasks.worker().as_str(),
                concurrency: settings.concurrency,
                buffer_limit: settings.buffer_limit,
                max_waiters: settings.max_waiters,
                store_timeout_ms: millis(settings.store_timeout),
            }),
            access: Access {
                user: grant.user.as_deref(),
                all_tenants: everybody,
                permissions: Permission::EACH
                    .into_iter()
                    .filter(|permission| grant.allows(*permission))
                    .map(Permission::as_str)
                    .collect(),
            },
        }
    }
}

/// The destinations of tasks that are accepted now.
fn destinations(tasks: &Tasks) -> Vec<Destination> {
    let subscriptions = tasks.subscriptions().iter();
    subscriptions
        .map(|subscription| Destination {
            destination: subscription.destination.to_string(),
            on: [
                (Condition::Success, "success"),
                (Condition::Failure, "failure"),
                (Condition::Stop, "stop"),
            ]
            .into_iter()
            .filter(|(condition, _)| subscription.on.contains(*condition))
            .map(|(_, name)| name)
            .collect(),
        })
        .collect()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
