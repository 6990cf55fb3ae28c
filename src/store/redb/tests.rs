//! What only the inside of the store can bring about: a disk that fails.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use redb::{StorageBackend, backends::InMemoryBackend};

use super::{QuickRepair, RedbStore, RedbStoreBuilder};
use crate::{
    store::{Insert, Inserted, StoreErrorKind, StoreResult, TaskStore, TaskStoreExt},
    task::{CapturedRequest, NewTask, RequestId, Scope, TaskState, WorkerId, lifecycle::Renewal},
    time::Timestamp,
};

/// A disk in memory that outlives who used it, and counts what can fail down to the call that does.
#[derive(Clone, Debug)]
struct Disk {
    bytes: Arc<InMemoryBackend>,
    faults: Arc<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    writes_left: AtomicU64,
    syncs_left: AtomicU64,
    /// Panic instead.
    panics: std::sync::atomic::AtomicBool,
}

impl Disk {
    fn new() -> Self {
        let faults = Faults::default();
        faults.writes_left.store(u64::MAX, Ordering::Relaxed);
        faults.syncs_left.store(u64::MAX, Ordering::Relaxed);
        Self {
            bytes: Arc::new(InMemoryBackend::new()),
            faults: Arc::new(faults),
        }
    }

    fn fail_after_writes(&self, writes: u64) {
        self.faults.writes_left.store(writes, Ordering::Relaxed);
    }

    fn fail_after_syncs(&self, syncs: u64) {
        self.faults.syncs_left.store(syncs, Ordering::Relaxed);
    }

    fn heal(&self) {
        self.fail_after_writes(u64::MAX);
        self.fail_after_syncs(u64::MAX);
    }

    fn use_up(&self, left: &AtomicU64) -> io::Result<()> {
        let used = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            (left < u64::MAX).then(|| left.saturating_sub(1))
        });
        match used {
            Ok(0) if self.faults.panics.load(Ordering::Relaxed) => panic!("as redb does over some pages"),
            Ok(0) => Err(io::Error::from(io::ErrorKind::StorageFull)),
            _ => Ok(()),
        }
    }

    fn open(&self) -> StoreResult<RedbStore> {
        let database = redb::Builder::new()
            .create_with_backend(self.clone())
            .expect("the disk is well");
        // Writes are counted here, and a slow machine may look idle.
        let settings = RedbStoreBuilder::default().quick_repair(QuickRepair::Never);
        RedbStore::over("a disk in memory".into(), database, settings)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.bytes.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.bytes.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.use_up(&self.faults.writes_left)?;
        self.bytes.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.use_up(&self.faults.syncs_left)?;
        self.bytes.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.use_up(&self.faults.writes_left)?;
        self.bytes.write(offset, data)
    }
}

fn a_task(number: u8) -> NewTask {
    let body = Bytes::from(vec![number; 2000]);
    let input = CapturedRequest::new(Method::POST, Uri::from_static("/"), HeaderMap::new(), body);
    NewTask::new(
        RequestId::from_parts(Timestamp::from_millis(1), [number; 10]),
        Arc::new(input),
    )
}

async fn insert(store: &RedbStore, number: u8) -> StoreResult<RequestId> {
    match store.insert(Insert::new(a_task(number))).await? {
        Inserted::New(record) => Ok(record.id),
        other => panic!("it is new: {other:?}"),
    }
}

async fn claimed(store: &RedbStore) -> Vec<RequestId> {
    let claim = crate::store::Claim {
        worker: WorkerId::new("w", 1),
        max: 1000,
        lease: Duration::from_secs(60),
    };
    let claimed = store.claim(claim).await.unwrap();
    claimed.tasks.iter().map(|task| task.record.id).collect()
}

/// Whichever write or sync it is: the insert that met it is told, every later one as well, what is in the cache can be
/// read, and what was acknowledged is there when the disk is opened again.
#[tokio::test]
async fn after_a_failed_write_or_sync_nothing_is_written_and_nothing_acknowledged_is_lost() {
    for syncs in [true, false] {
        for nth in 0..12 {
            let disk = Disk::new();
            let store = disk.open().unwrap();
            let born = Insert::new(a_task(200)).born(WorkerId::new("w", 1), Duration::from_secs(60));
            let Inserted::New(running) = store.insert(born).await.unwrap() else {
                panic!("it is new")
            };
            match syncs {
                true => disk.fail_after_syncs(nth),
                false => disk.fail_after_writes(nth),
            }
            let mut acknowledged = Vec::new();
            let mut failed = None;
            for number in 0..50 {
                match insert(&store, number).await {
                    Ok(id) => acknowledged.push(id),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            let failed = failed.expect("the disk failed");
            assert_eq!(failed.kind(), StoreErrorKind::Unavailable, "{failed:?}");
            disk.heal();
            let later = insert(&store, 100).await.unwrap_err();
            assert_eq!(later.kind(), StoreErrorKind::Unavailable);
            assert!(later.to_string().contains("open it again"), "{later}");
            let renewed = store
                .renew(vec![running.lease()], Duration::from_secs(60))
                .await
                .unwrap();
            assert_eq!(renewed, [Renewal::Renewed { stop: false }], "what runs may go on");
            for id in &acknowledged {
                match store.task(*id).await {
                    Ok(record) => assert_eq!(record.state, TaskState::Enqueued),
                    Err(error) => assert_eq!(error.kind(), StoreErrorKind::Unavailable),
                }
            }
            store.close().await;

            let store = disk.open().unwrap();
            let found = claimed(&store).await;
            for id in &acknowledged {
                assert!(found.contains(id), "fault {nth}, syncs {syncs}: {id} is lost");
            }
            assert!(
                found.len() <= acknowledged.len() + 2,
                "the one that ran, and the one that failed"
            );
        }
    }
}

/// As over pages that were changed behind its back.
#[tokio::test]
async fn a_panic_inside_redb_stops_the_store_and_not_the_process() {
    let disk = Disk::new();
    let store = disk.open().unwrap();
    let first = insert(&store, 1).await.unwrap();
    disk.faults.panics.store(true, Ordering::Relaxed);
    disk.fail_after_syncs(0);
    let failed = insert(&store, 2).await.unwrap_err();
    assert_eq!(failed.kind(), StoreErrorKind::Corrupt);
    disk.heal();
    let later = insert(&store, 3).await.unwrap_err();
    assert_eq!(later.kind(), StoreErrorKind::Unavailable);
    let counts = store.counts(&Scope::All).await.unwrap();
    assert!(counts.queued() >= 1);
    drop(store);
    let store = disk.open().unwrap();
    assert!(claimed(&store).await.contains(&first));
}

/// Nobody polls the future: the insert may be there or not, whole, and the store goes on.
#[tokio::test]
async fn a_dropped_operation_leaves_nothing_half_done() {
    let store = Disk::new().open().unwrap();
    for number in 0..100 {
        let insert = store.insert(Insert::new(a_task(number)));
        let _ = tokio::time::timeout(Duration::ZERO, insert).await;
    }
    let last = insert(&store, 200).await.unwrap();
    let found = claimed(&store).await;
    assert!(found.contains(&last));
    for id in found {
        assert!(store.input(&Scope::All, id).await.unwrap().is_some());
    }
}

/// A file whose pages were changed is refused or read, and never ends the process. Every 61st byte of a small one.
#[tokio::test]
async fn a_flipped_byte_anywhere_never_panics_out_of_the_store_and_gives_no_wrong_value() {
    let disk = Disk::new();
    let store = disk.open().unwrap();
    for number in 0..3 {
        insert(&store, number).await.unwrap();
    }
    store.close().await;
    let length = disk.bytes.len().unwrap();
    let mut image = vec![0; length as usize];
    disk.bytes.read(0, &mut image).unwrap();
    let (mut refused, mut wrong) = (0, 0);
    for at in (0..image.len()).step_by(61).filter(|at| image[*at] != 0) {
        let disk = Disk::new();
        disk.bytes.set_len(length).unwrap();
        let mut flipped = image.clone();
        flipped[at] ^= 0x10;
        disk.bytes.write(0, &flipped).unwrap();
        let opened = super::open::with_backend("a disk".as_ref(), disk.clone(), 1024 * 1024);
        let opened =
            opened.and_then(|database| RedbStore::over("a disk".into(), database, RedbStoreBuilder::default()));
        let Ok(store) = opened else {
            refused += 1;
            continue;
        };
        for number in 0..3 {
            let id = a_task(number).id;
            if let Ok(Some(input)) = store.input(&Scope::All, id).await {
                wrong += u32::from(input != a_task(number).input);
            }
        }
        let _ = insert(&store, 9).await;
    }
    assert_eq!(wrong, 0);
    println!("{refused} of the files were refused");
}
