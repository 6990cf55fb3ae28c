//! A `RedbStore` on a disk whose power goes at any write: what was not synced is there, or is not, block by block.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redb::StorageBackend;

use super::ground::Ground;
use crate::{
    store::{RedbStore, StoreResult, TaskStore},
    testing::ManualClock,
};

/// Large enough for the whole file.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// A `RedbStore`, its file in memory. It has one process at a time, and goes down with it.
#[derive(Debug, Default)]
pub(super) struct OnDisk {
    disk: Disk,
}

impl Ground for OnDisk {
    fn open(&mut self, clock: &ManualClock) -> StoreResult<Arc<dyn TaskStore>> {
        let settings = RedbStore::builder().clock(clock.clone()).cache_bytes(CACHE_BYTES);
        let store = settings.open_on(self.disk.clone());
        store.map(|store| Arc::new(store) as Arc<dyn TaskStore>)
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn trouble(&mut self, random: &mut fastrand::Rng) {
        let mut image = self.disk.image();
        image.cut_after.get_or_insert(random.u32(0..40));
    }

    fn is_dead(&self) -> bool {
        self.disk.image().is_dead()
    }

    fn crash(&mut self, random: &mut fastrand::Rng) {
        // The old disk stays with whoever still holds it: its last words reach nobody.
        let image = self.disk.image().after_the_cut(random);
        self.disk = Disk(Arc::new(Mutex::new(image)));
    }
}

#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Image>>);

#[derive(Debug, Default)]
struct Image {
    /// As the process sees it.
    written: Vec<u8>,
    /// As it certainly is after a power cut.
    synced: Vec<u8>,
    /// What may or may not have arrived, by where it goes.
    between: Vec<(u64, Vec<u8>)>,
    /// How many more writes and syncs there are before the power goes.
    cut_after: Option<u32>,
}

impl Image {
    fn is_dead(&self) -> bool {
        self.cut_after == Some(0)
    }

    fn work(&mut self) -> io::Result<()> {
        if self.is_dead() {
            return Err(io::Error::other("the power is gone"));
        }
        if let Some(left) = &mut self.cut_after {
            *left -= 1;
        }
        Ok(())
    }

    fn after_the_cut(&mut self, random: &mut fastrand::Rng) -> Self {
        let mut bytes = std::mem::take(&mut self.synced);
        // In the order of their places: in which order they are written is not the same in every run.
        self.between.sort_by_key(|(offset, _)| *offset);
        for (offset, data) in &self.between {
            if random.bool() {
                put(&mut bytes, *offset, data);
            }
        }
        Self {
            written: bytes.clone(),
            synced: bytes,
            ..Self::default()
        }
    }
}

/// What is written beyond the end of the file was cut off since.
fn put(bytes: &mut [u8], offset: u64, data: &[u8]) {
    let start = offset as usize;
    if let Some(place) = bytes.get_mut(start..start + data.len()) {
        place.copy_from_slice(data);
    }
}

impl Disk {
    fn image(&self) -> MutexGuard<'_, Image> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.image().written.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let image = self.image();
        let start = offset as usize;
        let bytes = image.written.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut image = self.image();
        image.work()?;
        image.written.resize(len as usize, 0);
        // A file system keeps a journal of lengths; what is in the new part is another matter.
        image.synced.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut image = self.image();
        image.work()?;
        let Image { synced, between, .. } = &mut *image;
        between.drain(..).for_each(|(offset, data)| put(synced, offset, &data));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut image = self.image();
        image.work()?;
        put(&mut image.written, offset, data);
        image.between.push((offset, data.to_vec()));
        Ok(())
    }
}
