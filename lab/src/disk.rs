//! A disk that fails on demand.

use std::{
    collections::{BTreeSet, HashMap},
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redb::StorageBackend;

use tower_respond_async::store::{StoreError, StoreErrorKind, StoreResult};
use tower_respond_async_redb::{RedbStore, RedbStoreBuilder};

/// A disk in memory for a [`RedbStore`] that injects faults: errors, torn writes, a full disk, a power cut.
///
/// It holds one file, and outlives the stores that were opened on it. Clones are the same disk.
///
/// # Examples
///
/// An accepted task is still there after the disk was full for a while:
///
/// ```
/// use std::sync::Arc;
///
/// use bytes::Bytes;
/// use http::{HeaderMap, Method, Uri};
/// use lab::disk::FaultDisk;
/// use tower_respond_async::{
///     store::{Insert, Ledger, StoreErrorKind},
///     task::{CapturedRequest, NewTask, RequestId},
///     time::Timestamp,
/// };
/// use tower_respond_async_redb::RedbStore;
///
/// fn task(number: u8) -> NewTask {
///     let body = Bytes::from(vec![number; 100_000]);
///     let request = CapturedRequest::new(Method::POST, Uri::from_static("/"), HeaderMap::new(), body);
///     NewTask::new(RequestId::from_parts(Timestamp::ZERO, [number; 10]), Arc::new(request))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let disk = FaultDisk::new();
/// let ledger = Ledger::of(disk.open(RedbStore::builder()).unwrap());
/// ledger.insert(Insert::new(task(1))).await.unwrap();
///
/// disk.set_capacity(Some(disk.used()));
/// let refused = ledger.insert(Insert::new(task(2))).await.unwrap_err();
/// assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
/// ledger.store().close().await;
///
/// disk.set_capacity(None);
/// let ledger = Ledger::of(disk.open(RedbStore::builder()).unwrap());
/// assert!(ledger.task(task(1).id).await.is_ok());
/// # }
/// ```
#[derive(Clone, Default)]
pub struct FaultDisk(Arc<Mutex<Platter>>);

/// The calls that a store makes to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskCall {
    /// Reads some bytes.
    Read,
    /// Writes some bytes.
    Write,
    /// Makes the file longer or shorter.
    Resize,
    /// Makes all earlier writes safe from a power cut.
    Sync,
}

impl DiskCall {
    /// All calls.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Resize, Self::Sync];
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// Does nothing and answers with an error. A failed sync behaves as on Linux: the data counts as synced from then
    /// on, but is not on the disk.
    Error,
    /// Does the first half and answers with an error. A change of length is whole or not done at all, as on file
    /// systems.
    Torn,
    /// Does everything and answers with an error.
    ReplyLost,
    /// Panics, as redb does on some damaged pages.
    Panic,
}

impl DiskFault {
    /// All faults.
    pub const ALL: [Self; 4] = [Self::Error, Self::Torn, Self::ReplyLost, Self::Panic];
}

impl FaultDisk {
    /// Creates an empty disk without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a disk with this file on it.
    #[must_use]
    pub fn holding(file: Vec<u8>) -> Self {
        let blocks = file.chunks(BLOCK).enumerate();
        let used = blocks.filter(|(_, block)| **block != [0; BLOCK][..block.len()]);
        let platter = Platter {
            used: used.map(|(number, _)| number).collect(),
            synced: file.clone(),
            file,
            ..Platter::default()
        };
        Self(Arc::new(Mutex::new(platter)))
    }

    /// Opens the file as a store. It runs on the calling thread: the file is in memory.
    ///
    /// # Errors
    ///
    /// As for [`RedbStoreBuilder::open`]; `Unavailable` if another store has the file open.
    pub fn open(&self, settings: RedbStoreBuilder) -> StoreResult<RedbStore> {
        settings.open_on(NAME, || self.take())
    }

    /// Whether it has [died](Self::die_at_nth).
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.platter().dead
    }

    /// Whether a store has the file open.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.platter().in_use
    }

    /// The file as the operating system has it: what a killed process leaves.
    #[must_use]
    pub fn file(&self) -> Vec<u8> {
        self.platter().file.clone()
    }

    /// The file as a power cut may leave it: all synced data, and a part of the later writes. `seed` chooses the part;
    /// it may be in any order and torn between sectors.
    #[must_use]
    pub fn file_after_power_cut(&self, seed: u64) -> Vec<u8> {
        self.platter().after_power_cut(seed)
    }

    /// Fails the `nth` call of this kind from now on, once. 1 is the next call.
    pub fn fail_nth(&self, call: DiskCall, nth: u64, fault: DiskFault) {
        let mut platter = self.platter();
        let nth = platter.calls(call) + nth;
        platter.ordered.insert((call, nth), fault);
    }

    /// Fails the `nth` call of this kind from now on, and then every call of any kind until [`heal`](Self::heal).
    pub fn die_at_nth(&self, call: DiskCall, nth: u64) {
        let mut platter = self.platter();
        platter.dies_at = Some((call, platter.calls(call) + nth));
    }

    /// Removes all faults, except the limit of [`set_capacity`](Self::set_capacity).
    pub fn heal(&self) {
        let mut platter = self.platter();
        platter.ordered.clear();
        platter.dies_at = None;
        platter.dead = false;
    }

    /// Limits the bytes that the disk takes. A write beyond the limit writes what fits and fails. A file may be longer
    /// than the limit: blocks that were never written take no room.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.platter().capacity = bytes.map(|bytes| bytes / BLOCK);
    }

    /// How many bytes are in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.platter().used.len() * BLOCK
    }

    /// How often this call was made, failed calls included.
    #[must_use]
    pub fn calls(&self, call: DiskCall) -> u64 {
        self.platter().calls(call)
    }

    /// Whether the sector of the byte at `at` was ever read. Damage to a sector that was never read has no effect.
    #[must_use]
    pub fn was_read(&self, at: usize) -> bool {
        self.platter().read.contains(&(at / SECTOR))
    }

    fn take(&self) -> StoreResult<Head> {
        let mut platter = self.platter();
        if platter.in_use {
            let context = format!("{NAME} is in use");
            return Err(StoreError::new(StoreErrorKind::Unavailable, context));
        }
        platter.in_use = true;
        Ok(Head(self.clone()))
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        // An ordered panic leaves the data consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for FaultDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let platter = self.platter();
        f.debug_struct("FaultDisk")
            .field("length", &platter.file.len())
            .field("calls", &platter.calls)
            .field("ordered", &platter.ordered)
            .field("dead", &platter.dead)
            .finish_non_exhaustive()
    }
}

/// The name in error messages, where a file would have its path.
const NAME: &str = "a disk in memory";

/// The unit in which space is allocated, as on most file systems.
const BLOCK: usize = 4096;

/// The unit that a disk writes as a whole.
const SECTOR: usize = 512;

#[derive(Default)]
struct Platter {
    file: Vec<u8>,
    /// The file as of the last sync.
    synced: Vec<u8>,
    /// The changes since the last sync, in order.
    unsynced: Vec<Change>,
    /// The blocks that were ever written.
    used: BTreeSet<usize>,
    /// The sectors that were ever read.
    read: BTreeSet<usize>,
    capacity: Option<usize>,
    calls: HashMap<DiskCall, u64>,
    ordered: HashMap<(DiskCall, u64), DiskFault>,
    dies_at: Option<(DiskCall, u64)>,
    dead: bool,
    in_use: bool,
}

enum Change {
    Length(usize),
    Bytes(usize, Vec<u8>),
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Length(length) => file.resize(*length, 0),
            Self::Bytes(at, bytes) => file[*at..at + bytes.len()].copy_from_slice(bytes),
        }
    }
}

impl Platter {
    fn calls(&self, call: DiskCall) -> u64 {
        self.calls.get(&call).copied().unwrap_or(0)
    }

    /// Counts a call and answers with its fault.
    fn count(&mut self, call: DiskCall) -> Option<DiskFault> {
        let calls = self.calls.entry(call).or_default();
        *calls += 1;
        let this = (call, *calls);
        self.dead |= self.dies_at == Some(this);
        let ordered = self.ordered.remove(&this);
        if self.dead { Some(DiskFault::Error) } else { ordered }
    }

    fn read(&mut self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let end = at.saturating_add(out.len());
        let bytes = self.file.get(at..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        self.read.extend(at / SECTOR..end.div_ceil(SECTOR));
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let end = at.saturating_add(bytes.len());
        if self.file.len() < end {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut fits = bytes.len();
        for block in at / BLOCK..end.div_ceil(BLOCK) {
            if self.used.contains(&block) {
                continue;
            }
            if self.capacity.is_some_and(|blocks| self.used.len() >= blocks) {
                fits = fits.min((block * BLOCK).saturating_sub(at));
                break;
            }
            self.used.insert(block);
        }
        self.change(Change::Bytes(at, bytes[..fits].to_vec()));
        match fits < bytes.len() {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn resize(&mut self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.used.retain(|block| block * BLOCK < length);
        self.change(Change::Length(length));
        Ok(())
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.file);
        self.unsynced.push(change);
    }

    /// Puts the first `count` changes on the disk and drops the others.
    fn sync(&mut self, count: usize) {
        let mut length = self.synced.len();
        for change in self.unsynced.drain(..).take(count) {
            if let Change::Length(to) = change {
                length = to;
            }
            if let Change::Bytes(at, bytes) = &change {
                // The write's change of length may have been dropped by a failed sync.
                length = length.max(at + bytes.len());
                self.synced.resize(length.max(self.synced.len()), 0);
            }
            change.apply(&mut self.synced);
        }
    }

    fn after_power_cut(&self, seed: u64) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(seed);
        // From nothing to everything, in five steps.
        let survives = random.u8(0..=4);
        let mut survives = move || random.u8(0..4) < survives;
        let mut file = self.synced.clone();
        for change in in_place_order(&self.unsynced) {
            match change {
                Change::Length(length) => {
                    if survives() {
                        file.resize(*length, 0);
                    }
                }
                Change::Bytes(at, bytes) => {
                    let mut at = *at;
                    for sector in bytes.chunks(SECTOR) {
                        let end = at + sector.len();
                        if survives() && end <= file.len() {
                            file[at..end].copy_from_slice(sector);
                        }
                        at = end;
                    }
                }
            }
        }
        file
    }
}

/// Orders the writes between two changes of length by their place. The order of redb's writes differs from run to run;
/// the same seed must give the same result.
fn in_place_order(changes: &[Change]) -> Vec<&Change> {
    let place = |change: &Change| match change {
        Change::Length(_) => None,
        Change::Bytes(at, _) => Some(*at),
    };
    let mut ordered = Vec::with_capacity(changes.len());
    for run in changes.chunk_by(|one, next| place(one).is_some() && place(next).is_some()) {
        let start = ordered.len();
        ordered.extend(run);
        ordered[start..].sort_by_key(|change| place(change));
    }
    ordered
}

/// A store's handle of the open file.
struct Head(FaultDisk);

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        self.0.platter().in_use = false;
    }
}

fn failed() -> io::Error {
    io::Error::other("the disk failed, as ordered")
}

impl StorageBackend for Head {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.platter().file.len() as u64)
    }

    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let mut platter = self.0.platter();
        let half = out.len() / 2;
        match platter.count(DiskCall::Read) {
            None => return platter.read(at, out),
            Some(DiskFault::Error) => {}
            Some(DiskFault::Torn) => platter.read(at, &mut out[..half])?,
            Some(DiskFault::ReplyLost) => platter.read(at, out)?,
            Some(DiskFault::Panic) => panic!("the disk panics, as ordered"),
        }
        Err(failed())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut platter = self.0.platter();
        match platter.count(DiskCall::Resize) {
            None => return platter.resize(length),
            Some(DiskFault::Error | DiskFault::Torn) => {}
            Some(DiskFault::ReplyLost) => platter.resize(length)?,
            Some(DiskFault::Panic) => panic!("the disk panics, as ordered"),
        }
        Err(failed())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.0.platter();
        let all = platter.unsynced.len();
        match platter.count(DiskCall::Sync) {
            None => {
                platter.sync(all);
                return Ok(());
            }
            Some(DiskFault::Error) => platter.sync(0),
            Some(DiskFault::Torn) => platter.sync(all / 2),
            Some(DiskFault::ReplyLost) => platter.sync(all),
            Some(DiskFault::Panic) => panic!("the disk panics, as ordered"),
        }
        Err(failed())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut platter = self.0.platter();
        match platter.count(DiskCall::Write) {
            None => return platter.write(at, bytes),
            Some(DiskFault::Error) => {}
            Some(DiskFault::Torn) => platter.write(at, &bytes[..bytes.len() / 2])?,
            Some(DiskFault::ReplyLost) => platter.write(at, bytes)?,
            Some(DiskFault::Panic) => panic!("the disk panics, as ordered"),
        }
        Err(failed())
    }
}
