//! Reading, without a word to the writer.

use std::sync::{Arc, atomic::Ordering};

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable};

use super::{
    fault::Fault,
    frame::{self, Bytes},
    inner::Inner,
    logs,
    tables::{INPUTS, LOGS, OUTPUTS, Stored, TASKS, Unreadable, ids_of_name},
};
use crate::{
    store::{LogQuery, StoreError, StoreErrorKind, StoreResult, index::Moment},
    task::{
        CapturedRequest, CapturedResponse, Counts, Cursor, Filter, LogLine, Page, PageOf, RequestId, Scope, SortOrder,
        TaskRecord, TaskRef, TaskState,
    },
    time::Timestamp,
};

/// How many tasks are looked up between two glances at the index, which is locked for that.
const CHUNK: usize = 256;

impl Inner {
    pub(super) fn find(&self, scope: &Scope, task: &TaskRef) -> StoreResult<Option<Arc<TaskRecord>>> {
        self.read(|transaction| {
            let tasks = transaction.open_table(TASKS)?;
            let ids = match task {
                TaskRef::Id(id) => vec![*id],
                TaskRef::Name(name) => ids_of_name(transaction, name)?,
            };
            let mut found = Vec::new();
            for id in ids {
                let stored = self.stored(&tasks, id)?;
                found.extend(stored.filter(|stored| scope.contains(stored.record.tenant.as_ref())));
            }
            match (found.pop(), found.is_empty(), task) {
                (Some(_), false, TaskRef::Name(name)) => {
                    let context = format!("several tenants have a task called {name}");
                    Err(Fault::Answer(StoreError::new(StoreErrorKind::Conflict, context)))
                }
                (found, ..) => Ok(found.map(|stored| Arc::new(stored.record))),
            }
        })
    }

    pub(super) fn input(&self, scope: &Scope, id: RequestId) -> StoreResult<Option<Arc<CapturedRequest>>> {
        self.read(|transaction| {
            let tasks = transaction.open_table(TASKS)?;
            if !self.is_in(&tasks, scope, id)? {
                return Ok(None);
            }
            let payload = payload(&transaction.open_table(INPUTS)?, id)?;
            let input = payload.ok_or(Fault::unreadable(id, frame::Damaged.into()))?;
            let input = CapturedRequest::decode(input).map_err(|error| Fault::unreadable(id, error.into()))?;
            Ok(Some(Arc::new(input)))
        })
    }

    pub(super) fn output(&self, scope: &Scope, id: RequestId) -> StoreResult<Option<Arc<CapturedResponse>>> {
        self.read(|transaction| {
            let stored = self.stored(&transaction.open_table(TASKS)?, id)?;
            let Some(stored) = stored.filter(|stored| scope.contains(stored.record.tenant.as_ref())) else {
                return Ok(None);
            };
            let Some(output) = payload(&transaction.open_table(OUTPUTS)?, id)? else {
                return match stored.record.status_code {
                    // The record tells of a response, so it was lost.
                    Some(_) => Err(Fault::unreadable(id, frame::Damaged.into())),
                    None => Ok(None),
                };
            };
            let output = CapturedResponse::decode(output).map_err(|error| Fault::unreadable(id, error.into()))?;
            Ok(Some(Arc::new(output)))
        })
    }

    pub(super) fn logs(&self, scope: &Scope, id: RequestId, query: LogQuery) -> StoreResult<Vec<LogLine>> {
        self.read(|transaction| {
            let tasks = transaction.open_table(TASKS)?;
            if !self.is_in(&tasks, scope, id)? {
                return Err(Fault::not_found());
            }
            // A chunk stands under the number of its last line, so the first that can have a later one is this.
            let first = logs::key(id, query.after.saturating_add(1));
            let last = logs::key(id, u64::MAX);
            let chunks = transaction.open_table(LOGS)?;
            let mut lines = Vec::new();
            for chunk in ReadableTable::range::<&[u8]>(&chunks, &first[..]..=&last[..])? {
                let (key, value) = chunk?;
                let chunk = logs::read(key.value(), value.value()).map_err(|error| Fault::unreadable(id, error))?;
                let wanted = chunk.into_iter().filter(|line| {
                    line.seq > query.after && query.attempt.is_none_or(|attempt| line.attempt == attempt)
                });
                lines.extend(wanted.take(query.limit - lines.len()));
                if lines.len() == query.limit {
                    break;
                }
            }
            Ok(lines)
        })
    }

    pub(super) fn list(&self, scope: &Scope, filter: &Filter, page: &Page) -> StoreResult<PageOf<Arc<TaskRecord>>> {
        let limit = page.limit.max(1);
        self.read(|transaction| {
            // Opened before the index is read: what is committed by now, and was not before, came while we looked.
            let tables = Searched::open(transaction, filter)?;
            let mut items = Vec::with_capacity(limit.min(1000));
            let mut after = start(filter, page);
            let mut looked_at = 0;
            loop {
                let chunk = self.ram.shelf().created.behind(after, page.order, CHUNK);
                let exhausted = chunk.len() < CHUNK;
                for moment in chunk {
                    after = Some(moment);
                    if is_past(filter, page.order, moment.0) {
                        return Ok(PageOf { items, next: None });
                    }
                    items.extend(self.wanted(&tables, scope, filter, moment.1)?);
                    looked_at += 1;
                    if items.len() == limit || looked_at == Page::SCAN_LIMIT {
                        let next = Some(cursor(moment));
                        return Ok(PageOf { items, next });
                    }
                }
                if exhausted {
                    return Ok(PageOf { items, next: None });
                }
            }
        })
    }

    pub(super) fn count(&self, scope: &Scope, filter: &Filter, cap: u64) -> StoreResult<u64> {
        let only_states = Filter {
            states: filter.states,
            ..Filter::default()
        };
        if *filter == only_states {
            let counts = self.count_states(scope);
            let wanted = |state: &TaskState| filter.states.is_none_or(|states| states.contains(*state));
            let count: u64 = TaskState::ALL.iter().filter(|s| wanted(s)).map(|s| counts.of(*s)).sum();
            return Ok(count.min(cap));
        }
        let page = Page {
            order: SortOrder::Ascending,
            after: None,
            limit: 0,
        };
        self.read(|transaction| {
            let tables = Searched::open(transaction, filter)?;
            let mut after = start(filter, &page);
            let mut count = 0;
            loop {
                let chunk = self.ram.shelf().created.behind(after, page.order, CHUNK);
                let exhausted = chunk.len() < CHUNK;
                for moment in chunk {
                    after = Some(moment);
                    if count >= cap || is_past(filter, page.order, moment.0) {
                        return Ok(count);
                    }
                    count += u64::from(self.wanted(&tables, scope, filter, moment.1)?.is_some());
                }
                if exhausted {
                    return Ok(count.min(cap));
                }
            }
        })
    }

    pub(super) fn counts(&self, scope: &Scope) -> Counts {
        let mut counts = self.count_states(scope);
        let (oldest, now) = (self.ram.queue.lock().oldest(scope), self.clock.now());
        counts.set_aside = self.ram.set_aside.load(Ordering::Relaxed);
        counts.oldest_queued = oldest.filter(|run_at| *run_at <= now).map(|run_at| now.since(run_at));
        counts.pending_deliveries = (*scope == Scope::All).then(|| self.ram.outbox.len());
        counts
    }

    fn count_states(&self, scope: &Scope) -> Counts {
        let mut counts = Counts::default();
        self.ram.shelf().tally.count_into(&mut counts, scope);
        counts
    }

    fn is_in(&self, tasks: &Table, scope: &Scope, id: RequestId) -> Result<bool, Fault> {
        let stored = self.stored(tasks, id)?;
        Ok(stored.is_some_and(|stored| scope.contains(stored.record.tenant.as_ref())))
    }

    fn stored(&self, tasks: &Table, id: RequestId) -> Result<Option<Stored>, Fault> {
        let Some(value) = ReadableTable::get(tasks, &id.as_bytes()[..])? else {
            return match self.ram.shelf().set_aside.contains(&id) {
                true => Err(Fault::set_aside(id)),
                false => Ok(None),
            };
        };
        let mut stored = Stored::read(id.as_bytes(), value.value()).map_err(|error| Fault::unreadable(id, error))?;
        self.ram.complete(&mut stored.record);
        Ok(Some(stored))
    }

    /// The task, if it is looked for. Its request is read only if all else fits.
    fn wanted(
        &self,
        tables: &Searched,
        scope: &Scope,
        filter: &Filter,
        id: RequestId,
    ) -> Result<Option<Arc<TaskRecord>>, Fault> {
        let record = match self.stored(&tables.tasks, id) {
            Ok(Some(stored)) => stored.record,
            // One that cannot be read has nothing to be listed by; the others are not to be lost with it.
            Ok(None) | Err(Fault::Answer(_)) => return Ok(None),
            Err(broken) => return Err(broken),
        };
        if !scope.contains(record.tenant.as_ref()) || !tables.but_for_text.matches(&record, &[]) {
            return Ok(None);
        }
        let Some(inputs) = &tables.inputs else {
            return Ok(Some(Arc::new(record)));
        };
        let body = match payload(inputs, id) {
            Ok(payload) => payload.and_then(|payload| CapturedRequest::decode(payload).ok()),
            Err(Fault::Answer(_)) => None,
            Err(broken) => return Err(broken),
        };
        let body = body.map(|input| input.body).unwrap_or_default();
        Ok(filter.matches(&record, &body).then(|| Arc::new(record)))
    }
}

type Table = ReadOnlyTable<Bytes, Bytes>;

/// What a search looks into.
struct Searched {
    tasks: Table,
    /// Only for a search by text.
    inputs: Option<Table>,
    but_for_text: Filter,
}

impl Searched {
    fn open(transaction: &ReadTransaction, filter: &Filter) -> Result<Self, Fault> {
        let inputs = filter.text.is_some().then(|| transaction.open_table(INPUTS));
        Ok(Self {
            tasks: transaction.open_table(TASKS)?,
            inputs: inputs.transpose()?,
            but_for_text: Filter {
                text: None,
                ..filter.clone()
            },
        })
    }
}

/// The payload under a task's id, copied, if there is one.
fn payload(table: &Table, id: RequestId) -> Result<Option<bytes::Bytes>, Fault> {
    let key = &id.as_bytes()[..];
    let Some(value) = ReadableTable::get(table, key)? else {
        return Ok(None);
    };
    let payload = frame::open(key, value.value()).map_err(|error| Fault::unreadable(id, Unreadable::from(error)))?;
    Ok(Some(bytes::Bytes::copy_from_slice(payload)))
}

/// Where to begin: behind the page's cursor, or at the edge of the time that is asked for if that is further on.
fn start(filter: &Filter, page: &Page) -> Option<Moment> {
    let after = page.after.map(|cursor| (cursor.created_at, cursor.id));
    match page.order {
        SortOrder::Ascending => {
            let edge = filter.created_from.and_then(|from| from.as_millis().checked_sub(1));
            let edge = edge.map(|at| (Timestamp::from_millis(at), RequestId::from_bytes([0xff; 16])));
            after.max(edge)
        }
        SortOrder::Descending => {
            let edge = filter.created_to.and_then(|to| to.as_millis().checked_add(1));
            let edge = edge.map(|at| (Timestamp::from_millis(at), RequestId::from_bytes([0; 16])));
            [after, edge].into_iter().flatten().min()
        }
    }
}

/// Whether nothing from here on can have been created in the time that is asked for.
fn is_past(filter: &Filter, order: SortOrder, created_at: Timestamp) -> bool {
    match order {
        SortOrder::Ascending => filter.created_to.is_some_and(|to| created_at > to),
        SortOrder::Descending => filter.created_from.is_some_and(|from| created_at < from),
    }
}

const fn cursor((created_at, id): Moment) -> Cursor {
    Cursor { created_at, id }
}
