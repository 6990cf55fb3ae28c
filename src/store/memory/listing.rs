//! Lists and counts: the shards' tasks merged into one order.

use std::{collections::VecDeque, sync::Arc};

use super::MemoryStore;
use crate::{
    store::index::Moment,
    task::{CapturedRequest, Counts, Cursor, Filter, Page, PageOf, Scope, SortOrder, TaskRecord, TaskState},
};

impl MemoryStore {
    pub(super) fn page(&self, scope: &Scope, filter: &Filter, page: &Page) -> PageOf<Arc<TaskRecord>> {
        let after = page.after.map(|cursor| (cursor.created_at, cursor.id));
        let limit = page.limit.max(1);
        let chunk = limit.div_ceil(self.inner.shards.len()).clamp(4, 256);
        let mut merge = Merge::new(self, page.order, after, chunk);
        let mut items = Vec::with_capacity(limit.min(1000));
        for _ in 0..Page::SCAN_LIMIT {
            let Some((moment, seen)) = merge.next() else {
                return PageOf { items, next: None };
            };
            if seen.is_wanted(scope, filter) {
                items.push(seen.record);
            }
            if items.len() == limit {
                return PageOf {
                    items,
                    next: Some(cursor(moment)),
                };
            }
        }
        PageOf {
            items,
            next: merge.last.map(cursor),
        }
    }

    pub(super) fn count_up_to(&self, scope: &Scope, filter: &Filter, cap: u64) -> u64 {
        let only_states = Filter {
            states: filter.states,
            ..Filter::default()
        };
        if *filter == only_states {
            let counts = self.count_states(scope);
            let wanted = |state: &TaskState| filter.states.is_none_or(|states| states.contains(*state));
            let count: u64 = TaskState::ALL.iter().filter(|s| wanted(s)).map(|s| counts.of(*s)).sum();
            return count.min(cap);
        }
        let mut count = 0;
        for shard in 0..self.inner.shards.len() {
            let mut after = None;
            loop {
                let chunk = self.chunk(shard, SortOrder::Ascending, after, 256);
                let Some((last, _)) = chunk.back() else { break };
                after = Some(*last);
                for (_, seen) in &chunk {
                    count += u64::from(seen.is_wanted(scope, filter));
                    if count >= cap {
                        return cap;
                    }
                }
            }
        }
        count
    }

    pub(super) fn count_states(&self, scope: &Scope) -> Counts {
        let mut counts = Counts::default();
        for shard in &self.inner.shards {
            shard.lock().count_into(&mut counts, scope);
        }
        counts
    }

    /// The next tasks of one shard. Filters are applied outside its lock: a text search takes microseconds.
    fn chunk(&self, shard: usize, order: SortOrder, after: Option<Moment>, count: usize) -> VecDeque<(Moment, Seen)> {
        let tasks = self.inner.shards[shard].lock();
        let moments = tasks.created.behind(after, order, count).into_iter();
        let seen = moments.filter_map(|moment| {
            let kept = tasks.get(moment.1)?;
            let seen = Seen {
                record: kept.record.clone(),
                input: kept.input.clone(),
            };
            Some((moment, seen))
        });
        seen.collect()
    }
}

struct Seen {
    record: Arc<TaskRecord>,
    input: Arc<CapturedRequest>,
}

impl Seen {
    fn is_wanted(&self, scope: &Scope, filter: &Filter) -> bool {
        scope.contains(self.record.tenant.as_ref()) && filter.matches(&self.record, &self.input.body)
    }
}

/// The tasks of all shards in one order, fetched a few at a time, one shard's lock at a time.
struct Merge<'a> {
    store: &'a MemoryStore,
    order: SortOrder,
    chunk: usize,
    shards: Vec<Ahead>,
    last: Option<Moment>,
}

/// What was fetched of a shard and not yet given out.
struct Ahead {
    fetched: VecDeque<(Moment, Seen)>,
    exhausted: bool,
}

impl<'a> Merge<'a> {
    fn new(store: &'a MemoryStore, order: SortOrder, after: Option<Moment>, chunk: usize) -> Self {
        let shards = 0..store.inner.shards.len();
        let shards = shards.map(|shard| {
            let fetched = store.chunk(shard, order, after, chunk);
            let exhausted = fetched.len() < chunk;
            Ahead { fetched, exhausted }
        });
        Self {
            store,
            order,
            chunk,
            shards: shards.collect(),
            last: after,
        }
    }

    fn next(&mut self) -> Option<(Moment, Seen)> {
        let heads = self.shards.iter().enumerate();
        let heads = heads.filter_map(|(shard, ahead)| Some((ahead.fetched.front()?.0, shard)));
        let (_, shard) = match self.order {
            SortOrder::Ascending => heads.min(),
            SortOrder::Descending => heads.max(),
        }?;
        let ahead = &mut self.shards[shard];
        let first = ahead.fetched.pop_front()?;
        if ahead.fetched.is_empty() && !ahead.exhausted {
            ahead.fetched = self.store.chunk(shard, self.order, Some(first.0), self.chunk);
            ahead.exhausted = ahead.fetched.len() < self.chunk;
        }
        self.last = Some(first.0);
        Some(first)
    }
}

const fn cursor((created_at, id): Moment) -> Cursor {
    Cursor { created_at, id }
}
