//! A small file, and its fate when bytes are changed.

use std::ops::Range;

use lab::disk::FaultDisk;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableHandle, backends::InMemoryBackend};
use tower_respond_async::{
    Scope, TaskStore,
    store::{Insert, StoreErrorKind},
};
use tower_respond_async_redb::{QuickRepair, RedbStoreBuilder};

use super::census::{Census, Compared, Known, a_task, builder, claim_all, listed};
use crate::harness::{TaskFile, table};

/// A file and its content.
pub(super) struct Subject {
    pub(super) image: Vec<u8>,
    pub(super) tasks: Vec<Known>,
    pub(super) settings: RedbStoreBuilder,
    /// How many of the tasks can be claimed.
    pub(super) claimable: usize,
}

/// One or more bits, changed in each of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flip {
    pub(super) at: usize,
    pub(super) bytes: usize,
    pub(super) mask: u8,
}

/// The fate of a file with a flip.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "what is in it is shown where a fate is not as it should be")]
pub(super) enum Fate {
    /// It was not opened.
    Refused {
        kind: StoreErrorKind,
        text: String,
        /// Whether not a byte of it was written.
        untouched: bool,
    },
    Opened(Opened),
    /// A panic came out of the store.
    Escaped(String),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Opened {
    pub(super) compared: Compared,
    /// How many values were set aside.
    pub(super) set_aside: u64,
    /// How many of the tasks were listed.
    pub(super) listed: usize,
    /// How many of the waiting tasks could be claimed.
    pub(super) claimed: usize,
    /// The state, after another opening, of a task that was acknowledged afterwards.
    pub(super) kept: Kept,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kept {
    #[default]
    NotAcknowledged,
    Whole,
    /// It is reported as damaged.
    Damaged,
    /// The file is refused.
    Refused,
    Lost,
}

/// The file to flip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    /// A file that was closed.
    Closed,
    /// A file whose process was killed.
    Killed,
    /// A file whose process was killed, with quick repair.
    KilledQuick,
    /// A closed file with three tasks: one waits, one was running, one succeeded.
    Small,
}

impl File {
    pub(super) const ALL: [Self; 4] = [Self::Closed, Self::Killed, Self::KilledQuick, Self::Small];

    pub(super) const fn is_closed(self) -> bool {
        matches!(self, Self::Closed | Self::Small)
    }
}

impl Subject {
    pub(super) async fn new(file: File) -> Self {
        let settings = builder().quick_repair(match file {
            File::KilledQuick => QuickRepair::Always,
            _ => QuickRepair::Never,
        });
        let disk = FaultDisk::new();
        let Census { store, tasks } = match file {
            File::Small => Census::of(&[0, 4, 12], &disk, |_| settings.clone()).await,
            _ => Census::take(&disk, |_| settings.clone()).await,
        };
        let image = disk.file();
        store.file.close().await;
        Self {
            image: if file.is_closed() { disk.file() } else { image },
            tasks,
            settings,
            claimable: if file == File::Small { 2 } else { 4 },
        }
    }

    /// Where values are among the bytes that are `read`, including those of older versions of a page.
    pub(super) fn values(&self, read: &[bool]) -> Vec<Range<usize>> {
        let backend = InMemoryBackend::new();
        backend.set_len(self.image.len() as u64).unwrap();
        backend.write(0, &self.image).unwrap();
        let database = Database::builder().create_with_backend(backend).unwrap();
        let transaction = database.begin_read().unwrap();
        let mut found = Vec::new();
        for handle in transaction.list_tables().unwrap() {
            // The only value in it identifies the file.
            if handle.name() == "meta" {
                continue;
            }
            for entry in transaction.open_table(table(handle.name())).unwrap().iter().unwrap() {
                let (_, value) = entry.unwrap();
                let value = value.value();
                if value.is_empty() {
                    continue;
                }
                let places = (0..self.image.len()).filter(|at| read[*at] && self.image[*at..].starts_with(value));
                found.extend(places.map(|at| at..at + value.len()));
            }
        }
        found
    }

    /// Which bytes are read in an unchanged file. No other byte can make a difference.
    pub(super) async fn read(&self) -> Vec<bool> {
        let disk = FaultDisk::holding(self.image.clone());
        let fate = self.fate_of(&disk).await;
        assert!(
            matches!(&fate, Fate::Opened(opened) if opened.is_well(self)),
            "{fate:?}"
        );
        (0..self.image.len()).map(|at| disk.was_read(at)).collect()
    }

    pub(super) async fn fate(&self, flip: Flip) -> Fate {
        let mut image = self.image.clone();
        image[flip.at..][..flip.bytes]
            .iter_mut()
            .for_each(|byte| *byte ^= flip.mask);
        self.fate_of(&FaultDisk::holding(image)).await
    }

    async fn fate_of(&self, disk: &FaultDisk) -> Fate {
        let image = disk.file();
        let store = match disk.open(self.settings.clone()) {
            Ok(store) => TaskFile::from(store),
            Err(error) => {
                assert!(!disk.is_in_use(), "it was let go of");
                return Fate::Refused {
                    kind: error.kind(),
                    text: error.to_string(),
                    untouched: disk.file() == image,
                };
            }
        };
        let mut opened = Opened::default();
        let _ = store.rescue(100).await;
        for known in self.tasks.iter() {
            known.compare(&store, &mut opened.compared).await;
        }
        opened.listed = listed(&store).await.map_or(0, |listed| listed.len());
        opened.claimed = claim_all(&store).await.map_or(0, |claimed| claimed.len());
        let new = a_task(77);
        let acknowledged = store.insert(Insert::new(new.clone())).await.is_ok();
        opened.set_aside = store.file.set_aside().await.unwrap_or(0);
        store.file.close().await;
        assert!(!disk.is_in_use(), "it was let go of");
        if acknowledged {
            opened.kept = match disk.open(self.settings.clone()) {
                Err(_) => Kept::Refused,
                Ok(store) => {
                    let store = TaskFile::from(store);
                    let found = store.find(&Scope::All, &new.id.into()).await;
                    let request = store.request(&Scope::All, new.id).await;
                    match (found, request) {
                        (Ok(Some(_)), Ok(Some(request))) if request == new.request => Kept::Whole,
                        (Err(_), _) | (_, Err(_)) => Kept::Damaged,
                        _ => Kept::Lost,
                    }
                }
            };
        }
        Fate::Opened(opened)
    }
}

impl Opened {
    pub(super) fn is_well(&self, subject: &Subject) -> bool {
        self.compared.whole == subject.tasks.len() && self.compared.wrong.is_empty() && self.kept == Kept::Whole
    }
}
