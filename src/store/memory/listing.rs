//! Lists and counts: merges the tasks of all shards into one order.

use std::collections::VecDeque;

use super::MemoryStore;
use crate::{
    store::{Payload, Row, kit::Moment},
    task::{Counts, Cursor, Filter, Page, PageOf, Scope, SortOrder},
};

impl MemoryStore {
    pub(super) fn page(&self, scope: &Scope, filter: &Filter, page: &Page) -> PageOf<Row> {
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
                items.push(seen.row);
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

    pub(super) fn count_states(&self, scope: &Scope) -> Counts {
        let mut counts = Counts::default();
        for shard in &self.inner.shards {
            shard.lock().count_into(&mut counts, scope);
        }
        counts
    }

    /// The next tasks of one shard. Filters are applied after it is unlocked: a text search takes microseconds.
    fn chunk(&self, shard: usize, order: SortOrder, after: Option<Moment>, count: usize) -> VecDeque<(Moment, Seen)> {
        let tasks = self.inner.shards[shard].lock();
        let moments = tasks.shelf.created.behind(after, order, count).into_iter();
        let seen = moments.filter_map(|moment| {
            let kept = tasks.get(moment.1)?;
            let seen = Seen {
                row: kept.row.clone(),
                request: kept.request.clone(),
            };
            Some((moment, seen))
        });
        seen.collect()
    }
}

struct Seen {
    row: Row,
    request: Payload,
}

impl Seen {
    fn is_wanted(&self, scope: &Scope, filter: &Filter) -> bool {
        self.row.is_in(scope) && filter.matches(&self.row.record, self.request.body())
    }
}

/// The tasks of all shards in one order. Reads a few at a time, and locks one shard at a time.
struct Merge<'a> {
    store: &'a MemoryStore,
    order: SortOrder,
    chunk: usize,
    shards: Vec<Ahead>,
    last: Option<Moment>,
}

/// What was read of a shard and not yet returned.
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
