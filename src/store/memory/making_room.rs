//! Making room: what is dropped so that other data can be kept.

use super::MemoryStore;
use crate::task::RequestId;

impl MemoryStore {
    /// Makes room for a task of this weight, or some of it. `false` if there is nothing to drop.
    ///
    /// Called without a lock. Another insert may take the room; then the caller calls this again.
    pub(super) fn make_room_for(&self, weight: usize) -> bool {
        let room = &self.inner.room;
        if self.drop_oldest_at_rest(None) {
            return true;
        }
        if room.has_all_tasks() {
            return false;
        }
        // Only tasks that cannot be dropped and keys are left. The rest of a key's window is worth less than a new
        // request.
        let freed = self.names().make_room(room.excess(weight));
        if let Some(freed) = freed {
            room.shrink(freed);
        }
        freed.is_some()
    }

    /// Drops other tasks after this one has grown: its data is never refused. The task itself stays, whatever its size,
    /// because clients wait for it; a later write may drop it. So at most one task is beyond the bound, as far as there
    /// are others that can be dropped.
    ///
    /// Called without a lock.
    pub(super) fn make_up_for(&self, id: RequestId) {
        while self.inner.room.excess(0) > 0 && self.drop_oldest_at_rest(Some(id)) {}
    }

    /// Drops the task that came to rest first, other than `spared`. `false` if there is none.
    fn drop_oldest_at_rest(&self, spared: Option<RequestId>) -> bool {
        while let Some(shard) = self.inner.room.oldest() {
            let oldest = self.inner.shards[shard].lock().shelf.longest_at_rest();
            let Some((_, mut id)) = oldest else {
                // Another thread removed it: look again.
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
