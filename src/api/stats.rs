//! Counts, rates and the state of the processes.

use std::{collections::BTreeMap, time::Duration};

use http::StatusCode;
use serde::Serialize;

use crate::{
    api::{
        answer,
        call::{Answer, Call},
    },
    engine::{ProcessStats, Stats},
    task::{RateStats, SlotStats},
};

/// `GET /stats`
pub(super) async fn stats(call: Call) -> Answer {
    let stats = call.tasks.stats().await?;
    Ok(answer::json(StatusCode::OK, &StatsDocument::new(&stats)))
}

/// For a caller that sees one tenant only, the members about processes and the store are left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatsDocument<'a> {
    counts: BTreeMap<&'static str, u64>,
    oldest_queued_age_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slots: Option<Slots>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rates: Option<Rates>,
    #[serde(skip_serializing_if = "Option::is_none")]
    minutes: Option<Minutes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    buffered_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<Vec<Process<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_callbacks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set_aside: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forgotten_keys: Option<u64>,
}

impl<'a> StatsDocument<'a> {
    fn new(stats: &'a Stats) -> Self {
        let oldest = stats.counts.oldest_queued;
        let sees_all = stats.slots.is_some();
        Self {
            counts: stats
                .counts
                .iter()
                .map(|(state, count)| (state.as_str(), count))
                .collect(),
            oldest_queued_age_ms: oldest.map(millis),
            slots: stats.slots.map(Slots::new),
            rates: stats.rates.map(|[one, fifteen, sixty]| Rates {
                one: Rate::new(one),
                fifteen: Rate::new(fifteen),
                sixty: Rate::new(sixty),
            }),
            minutes: stats.minutes.as_ref().map(|minutes| Minutes::new(minutes)),
            buffered_bytes: stats.buffered_bytes,
            processes: stats
                .processes
                .as_ref()
                .map(|processes| processes.iter().map(Process::new).collect()),
            pending_callbacks: stats.counts.pending_deliveries,
            set_aside: sees_all.then_some(stats.counts.set_aside),
            forgotten_keys: sees_all.then_some(stats.counts.forgotten_keys),
        }
    }
}

/// The rates of each minute, oldest first, for a chart. The last minute is not over.
#[derive(Serialize)]
struct Minutes {
    accepted: Vec<u64>,
    succeeded: Vec<u64>,
    failed: Vec<u64>,
}

impl Minutes {
    fn new(minutes: &[RateStats]) -> Self {
        let each = |count: fn(&RateStats) -> u64| minutes.iter().map(count).collect();
        Self {
            accepted: each(|minute| minute.accepted),
            succeeded: each(|minute| minute.succeeded),
            failed: each(|minute| minute.failed),
        }
    }
}

/// A process on the store.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Process<'a> {
    instance_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    uptime_ms: u64,
    seen_ago_ms: u64,
    draining: bool,
    slots: Slots,
    last_minute: Rate,
    buffered_bytes: u64,
}

impl<'a> Process<'a> {
    fn new(process: &'a ProcessStats) -> Self {
        Self {
            instance_id: &process.instance,
            version: process.version.as_deref(),
            uptime_ms: millis(process.up),
            seen_ago_ms: millis(process.seen),
            draining: process.draining,
            slots: Slots::new(process.slots),
            last_minute: Rate::new(process.last_minute),
            buffered_bytes: process.buffered_bytes,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Serialize)]
struct Slots {
    used: usize,
    total: usize,
    stuck: usize,
}

impl Slots {
    const fn new(slots: SlotStats) -> Self {
        Self {
            used: slots.used,
            total: slots.total,
            stuck: slots.stuck,
        }
    }
}

#[derive(Serialize)]
struct Rates {
    #[serde(rename = "1m")]
    one: Rate,
    #[serde(rename = "15m")]
    fifteen: Rate,
    #[serde(rename = "60m")]
    sixty: Rate,
}

#[derive(Serialize)]
struct Rate {
    accepted: u64,
    succeeded: u64,
    failed: u64,
}

impl Rate {
    const fn new(rate: RateStats) -> Self {
        Self {
            accepted: rate.accepted,
            succeeded: rate.succeeded,
            failed: rate.failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::task::{Counts, Presence, TaskState, WorkerId};

    #[test]
    fn process_members_are_shown_only_to_callers_that_see_all_tenants() {
        let mut counts = Counts::default();
        counts.set(TaskState::Running, 2);
        counts.oldest_queued = Some(Duration::from_millis(1500));
        (counts.set_aside, counts.forgotten_keys) = (8, 9);
        let mut stats = Stats::of_one(counts);
        let json = |stats: &Stats| serde_json::to_string(&StatsDocument::new(stats)).unwrap();
        let counts = "{\"counts\":{\"Enqueued\":0,\"Expired\":0,\"Failed\":0,\"Invalid\":0,\"Retrying\":0,\"Running\":2,\
                      \"Stopped\":0,\"Stopping\":0,\"Succeeded\":0},\"oldestQueuedAgeMs\":1500";
        assert_eq!(json(&stats), format!("{counts}}}"));

        let rate = |accepted| RateStats {
            accepted,
            ..RateStats::default()
        };
        stats.slots = Some(SlotStats {
            used: 2,
            total: 64,
            stuck: 0,
        });
        stats.rates = Some([rate(1), rate(2), rate(3)]);
        stats.minutes = Some([rate(4); 60]);
        stats.buffered_bytes = Some(7);
        let mut own = Presence::new(WorkerId::new("w", 1));
        (own.version, own.up) = (Some("1.2".into()), Duration::from_secs(5));
        stats.processes = Stats::of_all(Counts::default(), own, Vec::new()).processes;
        stats.counts.pending_deliveries = Some(6);
        let rate = |accepted| format!("{{\"accepted\":{accepted},\"succeeded\":0,\"failed\":0}}");
        let each = |count| format!("[{}]", [count; 60].join(","));
        let zeros = each("0");
        let expected = format!(
            "{counts},\"slots\":{{\"used\":2,\"total\":64,\"stuck\":0}},\
             \"rates\":{{\"1m\":{},\"15m\":{},\"60m\":{}}},\
             \"minutes\":{{\"accepted\":{},\"succeeded\":{zeros},\"failed\":{zeros}}},\"bufferedBytes\":7,\
             \"processes\":[{{\"instanceId\":\"w-0000000000000001\",\"version\":\"1.2\",\"uptimeMs\":5000,\
             \"seenAgoMs\":0,\"draining\":false,\"slots\":{{\"used\":0,\"total\":0,\"stuck\":0}},\
             \"lastMinute\":{},\"bufferedBytes\":0}}],\
             \"pendingCallbacks\":6,\"setAside\":8,\"forgottenKeys\":9}}",
            rate(1),
            rate(2),
            rate(3),
            each("4"),
            rate(0),
        );
        assert_eq!(json(&stats), expected);
    }
}
