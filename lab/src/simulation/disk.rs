//! A `RedbStore` on a disk whose power fails at any write or sync. Each unsynced sector is then there or not.

use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};
use tower_respond_async::{
    store::{StoreResult, TaskStore},
    testing::ManualClock,
};
use tower_respond_async_redb::{QuickRepair, RedbStore};

use super::ground::Ground;
use crate::disk::{DiskCall, FaultDisk};

/// Large enough for the whole file.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// A `RedbStore` on a file in memory. It has one process at a time, and goes down with it.
#[derive(Debug)]
pub(super) struct OnDisk {
    helper: Runtime,
    disk: FaultDisk,
    /// Whether a power cut is already scheduled.
    is_doomed: bool,
}

impl Default for OnDisk {
    fn default() -> Self {
        let helper = Builder::new_current_thread().build();
        Self {
            helper: helper.expect("a runtime without I/O and timers needs nothing"),
            disk: FaultDisk::default(),
            is_doomed: false,
        }
    }
}

impl Ground for OnDisk {
    fn open(&mut self, clock: &ManualClock) -> StoreResult<Arc<dyn TaskStore>> {
        let settings = RedbStore::builder()
            .clock(clock.clone())
            .cache_bytes(CACHE_BYTES)
            // The thread that it would start goes by real time.
            .quick_repair(QuickRepair::Never);
        let store = self.disk.open(settings);
        store.map(|store| Arc::new(store) as Arc<dyn TaskStore>)
    }

    fn handle(&self) -> Option<Arc<dyn TaskStore>> {
        None
    }

    fn helper(&self) -> Option<Handle> {
        Some(self.helper.handle().clone())
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn trouble(&mut self, random: &mut fastrand::Rng) {
        if !self.is_doomed {
            self.is_doomed = true;
            match random.u8(0..4) {
                0 => self.disk.die_at_nth(DiskCall::Sync, random.u64(1..8)),
                _ => self.disk.die_at_nth(DiskCall::Write, random.u64(1..40)),
            }
        }
    }

    fn is_dead(&self) -> bool {
        self.disk.is_dead()
    }

    fn crash(&mut self, random: &mut fastrand::Rng) {
        // A thread that still holds the old disk may write to it; nothing reads those writes.
        let file = self.disk.file_after_power_cut(random.u64(..));
        self.disk = FaultDisk::holding(file);
        self.is_doomed = false;
    }
}
