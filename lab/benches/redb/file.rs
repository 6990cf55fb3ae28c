//! Files and ids for one turn.

use std::{
    env, fs,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use tower_respond_async::{RequestId, time::Timestamp};

/// A path for a new file, which is removed on drop.
pub(crate) struct Fresh(pub(crate) PathBuf);

impl Fresh {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "bench-{}-{}.redb",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        Self(env::temp_dir().join(name))
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Ids as in real use: each in a later millisecond.
pub(crate) fn id() -> RequestId {
    static NEXT: AtomicU64 = AtomicU64::new(1_700_000_000_000);
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    RequestId::from_parts(Timestamp::from_millis(NEXT.fetch_add(1, Ordering::Relaxed)), random)
}
