//! The answers of a store's operations, computed from all of its rows.
//!
//! This is the simplest form of the contract. If you write a store, read it, and begin with it. Each function looks at
//! every row, which is fast enough for a few hundred tasks. Later replace it by an index or a query with the same
//! result.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//!
//! # use bytes::Bytes;
//! # use http::{HeaderMap, Method, Uri};
//! use tower_respond_async::{
//!     store::{Claim, DeliveryClaim, Due, DueReason, Insertion, Renewal, Which, kit::{Orphans, scan}},
//!     task::{Destination, Filter, Page, Scope, TaskState, WorkerId},
//!     time::Timestamp,
//! };
//! # use tower_respond_async::{store::NewRow, task::{CapturedRequest, NewTask, RequestId, TaskRecord}};
//!
//! # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
//! # let task = NewTask::new(RequestId::from_bytes([7; 16]), request.into());
//! let now = Timestamp::from_millis(1_000);
//! # let new = NewRow::new(TaskRecord::accepted(&task, now).into(), task.request.to_payload());
//! let (mut rows, orphans) = (Vec::new(), Orphans::default());
//! if let Insertion::New(row) = scan::insert(&rows, None, &new, now) {
//!     rows.push(row);
//! }
//! assert_eq!(scan::counts(&rows, &Scope::All, now).of(TaskState::Enqueued), 1);
//!
//! let (worker, lease) = (WorkerId::new("w", 1), Duration::from_secs(30));
//! let claim = Claim::new(worker.clone(), 10, lease);
//! let (rows, _) = scan::claim(rows, &orphans, &claim, now);
//! assert_eq!(scan::rows(rows.clone(), &Scope::All, &Which::HeldBy(worker)), rows);
//! let (renewals, _) = scan::renew(rows.clone(), &orphans, &[rows[0].lease()], lease, now);
//! assert_eq!(renewals, [Renewal::Renewed { stop: false }]);
//!
//! let (rescue, later) = (Due::Rescue { spared: Vec::new() }, now.saturating_add(lease));
//! let due = scan::due(rows.clone(), &orphans, &rescue, 10, later);
//! assert_eq!(due[0].reason, DueReason::Lapsed);
//! let page = scan::page(rows.clone(), &Scope::All, &Filter::default(), &Page::default(), |_| None);
//! assert_eq!(page.items, rows);
//! let claim = DeliveryClaim::new(vec![(Destination::new("audit"), 10)], lease);
//! assert!(scan::claim_deliveries(rows, &orphans, &claim, now).is_empty(), "no task has ended");
//! ```

use std::time::Duration;

use crate::{
    store::{
        Candidate, Claim, ClaimedOutbox, Claims, DeliveryClaim, Due, DueReason, FullReason, Insertion, KnownBy, NewRow,
        Payload, Renewal, Row, Which,
        kit::{Allowance, KnownKey, Orphans},
    },
    task::{Counts, FenceToken, Filter, LeaseRef, Page, PageOf, RequestId, Scope, SortOrder},
    time::Timestamp,
};

/// The result of inserting a task now. `keyed` is what is kept with its key.
///
/// If the answer is `New`, store the row with its request, its name and its key.
///
/// See the example of the [module](self).
pub fn insert(rows: &[Row], keyed: Option<&KnownKey>, task: &NewRow, now: Timestamp) -> Insertion {
    let record = &task.record;
    let known = |id: RequestId, by, digest| Insertion::Known {
        row: rows.iter().find(|row| row.id == id).cloned(),
        id,
        by,
        digest,
    };
    if rows.iter().any(|row| row.id == record.id) {
        return known(record.id, KnownBy::Id, None);
    }
    let is_same = |row: &&Row| row.record.name == record.name && row.record.tenant == record.tenant;
    let named = record.name.as_ref().and_then(|_| rows.iter().find(is_same));
    let keyed = keyed.filter(|keyed| !keyed.is_over(now));
    match (named, keyed) {
        (Some(named), Some(keyed)) if named.id != keyed.id => return Insertion::Conflict,
        (Some(named), _) => return known(named.id, KnownBy::Name, None),
        (None, Some(keyed)) => return known(keyed.id, KnownBy::Key, keyed.digest),
        (None, None) => {}
    }
    let row = task.row(FenceToken::NONE, now);
    if row.columns.is_queued() {
        let waiting = || rows.iter().filter(|row| row.columns.is_queued());
        let own = waiting().filter(|row| row.record.tenant == record.tenant);
        let pool = waiting().filter(|row| row.record.pool == record.pool);
        if waiting().count() as u64 >= task.limits.queued {
            return Insertion::Full(FullReason::Queue);
        }
        if pool.count() as u64 >= task.limits.per_pool {
            return Insertion::Full(FullReason::Pool);
        }
        if record.tenant.is_some() && own.count() as u64 >= task.limits.per_tenant {
            return Insertion::Full(FullReason::Tenant);
        }
    }
    Insertion::New(row)
}

/// The rows that a worker claims, and the answer without its tasks and without the version of the named values. Store
/// the rows.
///
/// See the example of the [module](self).
#[must_use]
pub fn claim(mut rows: Vec<Row>, orphans: &Orphans, claim: &Claim, now: Timestamp) -> (Vec<Row>, Claims) {
    let is_own = |row: &Row| row.columns.is_held() && row.columns.worker.as_ref() == Some(&claim.worker);
    let mut has_suspect = rows.iter().any(|row| row.columns.suspect && is_own(row));
    rows.retain(|row| row.columns.is_queued() && now < row.columns.expires_at && !orphans.contains(row.id));
    rows.sort_by_key(|row| (row.columns.run_at, row.id));
    let (mut allowance, mut claimed, mut claims) = (Allowance::of(claim), Vec::new(), Claims::default());
    for mut row in rows {
        let (pool, tenant) = (&row.record.pool, row.record.tenant.as_ref());
        if row.columns.suspect && has_suspect || !allowance.has_for(pool, tenant, row.columns.run_at <= now) {
            continue;
        }
        if claimed.len() == claim.max || !row.columns.is_runnable(now) {
            claims.next_due = Some(row.columns.run_at.since(now));
            break;
        }
        has_suspect |= row.columns.suspect;
        allowance.take(pool, tenant);
        row.claim(claim.worker.clone(), claim.lease, FenceToken::NONE, now);
        claimed.push(row);
    }
    claims.passed_over = allowance.passed_over();
    (claimed, claims)
}

/// The rows in `scope` that `which` selects.
///
/// See the example of the [module](self).
#[must_use]
pub fn rows(mut rows: Vec<Row>, scope: &Scope, which: &Which) -> Vec<Row> {
    let is_asked_for = |row: &Row| match which {
        Which::Id(id) => row.id == *id,
        Which::Name(name) => row.record.name.as_ref() == Some(name),
        Which::HeldBy(worker) => row.columns.is_held() && row.columns.worker.as_ref() == Some(worker),
    };
    rows.retain(|row| row.is_in(scope) && is_asked_for(row));
    rows
}

/// Up to `max` rows that are due, longest due first.
///
/// See the example of the [module](self).
#[must_use]
pub fn due(rows: Vec<Row>, orphans: &Orphans, what: &Due, max: usize, now: Timestamp) -> Vec<Candidate> {
    let since = |row: &Row| match what {
        Due::Rescue { .. } if orphans.contains(row.id) => Some((Timestamp::ZERO, DueReason::Orphaned)),
        Due::Rescue { .. } if row.columns.has_lapsed(now) => Some((row.columns.lease_until?, DueReason::Lapsed)),
        Due::Rescue { spared } if row.columns.is_over_age(now) && !spared.contains(&row.record.pool) => {
            Some((row.columns.expires_at, DueReason::OverAge))
        }
        Due::Rescue { .. } => None,
        Due::Prune(retention) => {
            let past = row.columns.rests_at?.saturating_add(retention.of(row.columns.state));
            (past <= now).then_some((past, DueReason::Retired))
        }
        Due::GiveUp { spared, overdue } => {
            let others = row.outbox.iter().filter(|of| !spared.contains(&of.destination));
            let past = others.map(|of| of.due_at.saturating_add(*overdue)).min()?;
            (past <= now).then_some((past, DueReason::Overdue))
        }
        // A store that looks at all rows has no bound.
        Due::Crowded(_) => None,
    };
    let mut due: Vec<_> = rows.into_iter().filter_map(|row| Some((since(&row)?, row))).collect();
    due.sort_by_key(|((at, _), row)| (*at, row.id));
    let due = due.into_iter().take(max);
    due.map(|((_, reason), row)| Candidate { row, reason }).collect()
}

/// For each claim whether it still holds, and the rows of the claims after the renewal. Store the rows.
///
/// See the example of the [module](self).
#[must_use]
pub fn renew(
    mut rows: Vec<Row>,
    orphans: &Orphans,
    leases: &[LeaseRef],
    lease: Duration,
    now: Timestamp,
) -> (Vec<Renewal>, Vec<Row>) {
    rows.retain(|row| leases.contains(&row.lease()) && !orphans.contains(row.id));
    let renewals = leases.iter().map(|held| {
        let row = rows.iter_mut().find(|row| row.lease() == *held);
        row.map_or(Renewal::Lost, |row| row.columns.renew(held.token, lease, now))
    });
    (renewals.collect(), rows)
}

/// The completions that are due, claimed: at most a given number for each destination, longest due first. Store their
/// rows.
///
/// See the example of the [module](self).
#[must_use]
pub fn claim_deliveries(
    mut rows: Vec<Row>,
    orphans: &Orphans,
    claim: &DeliveryClaim,
    now: Timestamp,
) -> Vec<ClaimedOutbox> {
    rows.retain(|row| !orphans.contains(row.id));
    let mut claimed = Vec::new();
    for (destination, max) in &claim.from {
        let mut due = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            let of = row
                .outbox
                .iter()
                .enumerate()
                .filter(|(_, of)| of.destination == *destination && of.due_at <= now);
            due.extend(of.map(|(of, entry)| (entry.due_at, row.id, at, of)));
        }
        due.sort_unstable();
        for (_, _, at, of) in due.into_iter().take(*max) {
            rows[at].outbox[of].claim(claim.lease, FenceToken::NONE, now);
            claimed.push((at, rows[at].outbox[of].generation, destination.clone()));
        }
    }
    let claimed = claimed.into_iter().map(|(at, generation, destination)| ClaimedOutbox {
        row: rows[at].clone(),
        generation,
        destination,
    });
    claimed.collect()
}

/// One page of the rows that match. `request` returns the request of a task; it is called only for a filter by text.
///
/// See the example of the [module](self).
#[must_use]
pub fn page(
    mut rows: Vec<Row>,
    scope: &Scope,
    filter: &Filter,
    page: &Page,
    request: impl Fn(RequestId) -> Option<Payload>,
) -> PageOf<Row> {
    rows.sort_by_key(Row::cursor);
    if page.order == SortOrder::Descending {
        rows.reverse();
    }
    let is_behind = |row: &Row| match (page.after, page.order) {
        (None, _) => true,
        (Some(after), SortOrder::Ascending) => row.cursor() > after,
        (Some(after), SortOrder::Descending) => row.cursor() < after,
    };
    let looks_at_text = filter.text.is_some();
    rows.retain(|row| {
        let request = if looks_at_text { request(row.id) } else { None };
        let body = request.as_ref().map_or(&[][..], Payload::body);
        is_behind(row) && row.is_in(scope) && filter.matches(&row.record, body)
    });
    let limit = page.limit.max(1);
    let is_full = rows.len() >= limit;
    rows.truncate(limit);
    PageOf {
        next: rows.last().filter(|_| is_full).map(Row::cursor),
        items: rows,
    }
}

/// How many of the rows in `scope` are in each state.
///
/// See the example of the [module](self).
#[must_use]
pub fn counts(rows: &[Row], scope: &Scope, now: Timestamp) -> Counts {
    let mut counts = Counts::default();
    let seen = || rows.iter().filter(|row| row.is_in(scope));
    for row in seen() {
        counts.set(row.columns.state, counts.of(row.columns.state) + 1);
    }
    let runnable = seen().filter(|row| row.columns.is_queued() && row.columns.run_at <= now);
    counts.oldest_queued = runnable.map(|row| now.since(row.columns.run_at)).max();
    let pending = || rows.iter().map(|row| row.outbox.len() as u64).sum();
    counts.pending_deliveries = (*scope == Scope::All).then(pending);
    counts
}
