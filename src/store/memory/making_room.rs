//! Making room: what goes so that something else can be kept.

use super::MemoryStore;
use crate::task::RequestId;

impl MemoryStore {
    /// Makes room for a task of this weight, or some of it. False if there is nothing that could go.
    ///
    /// Called without a lock. What is freed may be taken by somebody else: then the caller asks again.
    pub(super) fn make_room_for(&self, weight: usize) -> bool {
        let room = &self.inner.room;
        if self.drop_oldest_at_rest(None) {
            return true;
        }
        if room.has_all_tasks() {
            return false;
        }
        // Only live tasks and keys are left. A key that is remembered a while longer is worth less than a request.
        let freed = self.names().make_room(room.excess(weight));
        if let Some(freed) = freed {
            room.shrink(freed);
        }
        freed.is_some()
    }

    /// Makes up for what was written to this task, which is never refused. The task itself stays, however large: it is to
    /// be read by whoever waits for it, until the next one wants the room. So there is never more than one too many, as far
    /// as others are at rest.
    ///
    /// Called without a lock.
    pub(super) fn make_up_for(&self, id: RequestId) {
        while self.inner.room.excess(0) > 0 && self.drop_oldest_at_rest(Some(id)) {}
    }

    /// Drops the task that came to rest first. False if there is none but the one that is spared.
    fn drop_oldest_at_rest(&self, spared: Option<RequestId>) -> bool {
        while let Some(shard) = self.inner.room.oldest() {
            let oldest = self.inner.shards[shard].lock().shelf.longest_at_rest();
            let Some((_, mut id)) = oldest else {
                // Somebody else removed it: look again.
                continue;
            };
            if Some(id) == spared {
                let shards = self.inner.shards.iter();
                let others = shards.filter_map(|shard| shard.lock().shelf.longest_at_rest_but(id));
                let Some((_, next)) = others.min() else { return false };
                id = next;
            }
            if self.remove_if(id, |row| row.columns.rests_at.is_some()) {
                return true;
            }
        }
        false
    }
}
