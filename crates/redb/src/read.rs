//! Reads, which do not use the writer.

use std::sync::atomic::Ordering;

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable};

use crate::{
    fault::Fault,
    frame::{Damaged, Value},
    inner::Inner,
    logs,
    tables::{LOGS, REQUESTS, RESPONSES, TASKS, Unreadable, ids_of_name, read_payload, read_row},
};
use tower_respond_async::{
    store::{
        Candidate, Candidates, Due, DueReason, Glance, LogQuery, Part, Payload, Row, StoreResult, Which, kit::Moment,
    },
    task::{Counts, Cursor, Filter, LogLine, Page, PageOf, RequestId, Scope, SortOrder},
    time::Timestamp,
};

/// How many tasks are read from the file for each read of the index, during which the index is locked.
const CHUNK: usize = 256;

impl Inner {
    pub(crate) fn rows(&self, scope: &Scope, which: &Which) -> StoreResult<Vec<Row>> {
        self.read(|transaction| {
            let tasks = transaction.open_table(TASKS)?;
            let ids = match which {
                Which::Id(id) => vec![*id],
                Which::Name(name) => ids_of_name(transaction, scope, name)?,
                Which::HeldBy(worker) => self.ram.held_by(worker),
            };
            let mut rows = Vec::with_capacity(ids.len());
            for id in ids {
                let row = match (self.row_in(&tasks, scope, id), which) {
                    (Err(Fault::Answer(_)), Which::HeldBy(_)) => None,
                    (found, _) => found?,
                };
                // The claim may not be in the file yet, or no longer.
                let is_meant = |row: &Row| match which {
                    Which::HeldBy(worker) => row.columns.is_held() && row.columns.worker.as_ref() == Some(worker),
                    _ => true,
                };
                rows.extend(row.filter(is_meant));
            }
            Ok(rows)
        })
    }

    /// The tasks that are due. `None` if an index has a task that is missing or unreadable in the file.
    pub(crate) fn due(&self, what: &Due, max: usize) -> StoreResult<Option<Candidates>> {
        let now = self.clock.now();
        let due = self.ram.due(what, max, now);
        self.read(|transaction| {
            let tasks = transaction.open_table(TASKS)?;
            let mut rows = Vec::with_capacity(due.len());
            for (id, reason) in &due {
                match self.row_in(&tasks, &Scope::All, *id) {
                    Ok(Some(row)) => rows.push(Candidate::new(row, *reason)),
                    Ok(None) | Err(Fault::Answer(_)) => return Ok(None),
                    Err(broken) => return Err(broken),
                }
            }
            if let Due::Prune(_) = what {
                warm(transaction, &due)?;
            }
            Ok(Some(Candidates::new(now, rows)))
        })
    }

    pub(crate) fn payload(&self, scope: &Scope, id: RequestId, part: Part) -> StoreResult<Option<Payload>> {
        self.read(|transaction| {
            let Some(row) = self.row_in(&transaction.open_table(TASKS)?, scope, id)? else {
                return Ok(None);
            };
            let (table, is_there) = match part {
                Part::Request => (REQUESTS, true),
                Part::Response => (RESPONSES, row.record.status_code.is_some()),
            };
            match payload(&transaction.open_table(table)?, id)? {
                // According to the record there is a payload, so it was lost.
                None if is_there => Err(Unreadable::from(Damaged).of(id).into()),
                found => Ok(found),
            }
        })
    }

    pub(crate) fn glance(&self, ids: &[RequestId]) -> StoreResult<Vec<Option<Glance>>> {
        self.read(|transaction| {
            let (tasks, logs) = (transaction.open_table(TASKS)?, transaction.open_table(LOGS)?);
            let glance = |id: &RequestId| match self.row_in(&tasks, &Scope::All, *id) {
                Ok(Some(row)) => {
                    let last_line = logs::last(&logs, *id)?;
                    Ok(Some(Glance::of(row.version, row.columns.progress.as_ref(), last_line)))
                }
                // An unreadable task does not fail the others.
                Ok(None) | Err(Fault::Answer(_)) => Ok(None),
                Err(broken) => Err(broken),
            };
            ids.iter().map(glance).collect()
        })
    }

    pub(crate) fn logs(&self, scope: &Scope, id: RequestId, query: LogQuery) -> StoreResult<Vec<LogLine>> {
        self.read(|transaction| {
            if self.row_in(&transaction.open_table(TASKS)?, scope, id)?.is_none() {
                return Err(Fault::not_found());
            }
            // The key of a chunk has the number of its last line, so this is the first chunk that can have a later
            // line.
            let first = logs::key(id, query.after.saturating_add(1));
            let last = logs::key(id, u64::MAX);
            let chunks = transaction.open_table(LOGS)?;
            let mut lines = Vec::new();
            for chunk in ReadableTable::range::<&[u8]>(&chunks, &first[..]..=&last[..])? {
                let (key, value) = chunk?;
                let chunk = logs::read(key.value(), value.value()).map_err(|error| error.of(id))?;
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

    pub(crate) fn list(&self, scope: &Scope, filter: &Filter, page: &Page) -> StoreResult<PageOf<Row>> {
        let limit = page.limit.max(1);
        self.read(|transaction| {
            // Opened before the index is read. A task in the index that is not in these tables was committed later.
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

    pub(crate) fn counts(&self, scope: &Scope) -> Counts {
        let mut counts = Counts::default();
        self.ram.shelf().tally.count_into(&mut counts, scope);
        let (oldest, now) = (self.ram.queue.lock().oldest(scope), self.clock.now());
        counts.set_aside = self.ram.damaged.load(Ordering::Relaxed);
        counts.oldest_queued = oldest.filter(|run_at| *run_at <= now).map(|run_at| now.since(run_at));
        counts.pending_deliveries = (*scope == Scope::All).then(|| self.ram.outbox.pending());
        counts
    }

    /// The row of the task as of the transaction, completed from memory, if it is in `scope`.
    fn row_in(&self, tasks: &Table, scope: &Scope, id: RequestId) -> Result<Option<Row>, Fault> {
        let key = &id.as_bytes()[..];
        let Some(value) = ReadableTable::get(tasks, key)? else {
            return match self.ram.is_set_aside(id) {
                true => Err(Fault::set_aside(id)),
                false => Ok(None),
            };
        };
        let (mut row, _) = read_row(key, value.value()).map_err(|error| error.of(id))?;
        self.ram.complete(&mut row);
        Ok(Some(row).filter(|row| row.is_in(scope)))
    }

    /// The task, if it matches. Its request is read only if everything else matches.
    fn wanted(&self, tables: &Searched, scope: &Scope, filter: &Filter, id: RequestId) -> Result<Option<Row>, Fault> {
        let mut row = match self.row_in(&tables.tasks, scope, id) {
            Ok(Some(row)) => row,
            // An unreadable task has nothing to list, and must not fail the list.
            Ok(None) | Err(Fault::Answer(_)) => return Ok(None),
            Err(broken) => return Err(broken),
        };
        let record = row.restore();
        if !tables.but_for_text.matches(record, &[]) {
            return Ok(None);
        }
        if let Some(requests) = &tables.requests {
            let request = match payload(requests, id) {
                Ok(request) => request.unwrap_or_default(),
                Err(Fault::Answer(_)) => Payload::default(),
                Err(broken) => return Err(broken),
            };
            if !filter.matches(record, request.body()) {
                return Ok(None);
            }
        }
        Ok(Some(row))
    }
}

type Table = ReadOnlyTable<Value, Value>;

/// The tables and the filter of a search.
struct Searched {
    tasks: Table,
    /// Only for a search by text.
    requests: Option<Table>,
    but_for_text: Filter,
}

impl Searched {
    fn open(transaction: &ReadTransaction, filter: &Filter) -> Result<Self, Fault> {
        let requests = filter.text.is_some().then(|| transaction.open_table(REQUESTS));
        let mut but_for_text = filter.clone();
        but_for_text.text = None;
        Ok(Self {
            tasks: transaction.open_table(TASKS)?,
            requests: requests.transpose()?,
            but_for_text,
        })
    }
}

/// Makes redb read the payloads of tasks into its cache, so that the writer need not wait for the disk when it removes
/// them: tasks that are pruned were written long ago.
fn warm(transaction: &ReadTransaction, due: &[(RequestId, DueReason)]) -> Result<(), redb::Error> {
    for table in [REQUESTS, RESPONSES] {
        let table = transaction.open_table(table)?;
        for (id, _) in due {
            let _ = ReadableTable::get(&table, &id.as_bytes()[..])?;
        }
    }
    Ok(())
}

/// The payload under a task's id, if there is one.
fn payload(table: &Table, id: RequestId) -> Result<Option<Payload>, Fault> {
    let value = ReadableTable::get(table, &id.as_bytes()[..])?;
    let payload = value.map(|value| read_payload(id, value.value()));
    let payload = payload
        .transpose()
        .map_err(|damaged| Unreadable::from(damaged).of(id))?;
    Ok(payload)
}

/// The place to start from: after the page's cursor, or at the edge of the requested time if that is further on.
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

/// Whether all tasks from here on are outside of the requested time.
fn is_past(filter: &Filter, order: SortOrder, created_at: Timestamp) -> bool {
    match order {
        SortOrder::Ascending => filter.created_to.is_some_and(|to| created_at > to),
        SortOrder::Descending => filter.created_from.is_some_and(|from| created_at < from),
    }
}

const fn cursor((created_at, id): Moment) -> Cursor {
    Cursor { created_at, id }
}
