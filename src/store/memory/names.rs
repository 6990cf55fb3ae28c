//! Names and keys of tasks. Keys have a window of their own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::ended_keys::{EndedKeys, KeyNumber};
use crate::{
    store::{
        KnownBy, NewRow,
        kit::{ClientKey, KnownKey},
    },
    task::{RequestDigest, RequestId, Scope, TaskName, TaskRecord, Tenant},
    time::Timestamp,
};

/// The names of the tasks that are kept, and the keys of tasks, kept or not.
#[derive(Debug)]
pub(super) struct Names {
    names: BTreeMap<(TaskName, Option<Tenant>), RequestId>,
    keys: HashMap<Arc<ClientKey>, Key>,
    // The keys by the end of their windows.
    windows: BTreeSet<(Timestamp, Arc<ClientKey>)>,
    ended: EndedKeys,
}

#[derive(Clone, Copy, Debug)]
struct Key {
    known: KnownKey,
    /// Its number among the keys of ended tasks. `None` for the key of a live task: it is counted with its task, and
    /// never removed to make room.
    ended: Option<KeyNumber>,
}

/// What the names and keys of other tasks mean for a new task.
#[derive(Debug)]
pub(super) enum Lookup {
    /// The name and the key are unknown.
    Unknown,
    /// This task has the name or the key already; a key comes with its digest.
    Known(RequestId, KnownBy, Option<RequestDigest>),
    /// The name belongs to one task and the key to another.
    Conflict,
}

/// The memory for a key in addition to its texts: 290 to 370 bytes as maps grow, measured with 20,000 to 120,000 keys.
const KEY_BYTES: usize = 320;

/// About how many bytes of memory a key takes.
pub(super) fn weight_of_key(key: &ClientKey) -> usize {
    let tenant = key.tenant.as_ref().map_or(0, |tenant| tenant.as_str().len());
    let caller = key.caller.as_ref().map_or(0, |caller| caller.as_str().len());
    key.key.as_str().len() + tenant + caller + KEY_BYTES
}

impl Names {
    /// Empty, with `max_ended` bytes for the keys of ended tasks.
    pub(super) fn new(max_ended: usize) -> Self {
        Self {
            names: BTreeMap::new(),
            keys: HashMap::new(),
            windows: BTreeSet::new(),
            ended: EndedKeys::new(max_ended),
        }
    }

    /// Whether `task` has a name or a key.
    pub(super) fn concern(task: &NewRow) -> bool {
        task.record.name.is_some() || task.key.is_some()
    }

    pub(super) fn look_up(&self, task: &NewRow, now: Timestamp) -> Lookup {
        let named = name_of(&task.record).and_then(|name| self.names.get(&name).copied());
        let keyed = ClientKey::of(task).and_then(|key| self.keys.get(&key));
        let keyed = keyed.map(|key| key.known).filter(|known| !known.is_over(now));
        match (named, keyed) {
            (Some(named), Some(keyed)) if named != keyed.id => Lookup::Conflict,
            (Some(named), _) => Lookup::Known(named, KnownBy::Name, None),
            (None, Some(keyed)) => Lookup::Known(keyed.id, KnownBy::Key, keyed.digest),
            (None, None) => Lookup::Unknown,
        }
    }

    /// Adds the name and key of a task that is being stored. Returns its key, and how many bytes were freed because it
    /// replaces a key past its window.
    pub(super) fn note(&mut self, task: &NewRow, now: Timestamp) -> (Option<Arc<ClientKey>>, usize) {
        let record = &task.record;
        if let Some(name) = name_of(record) {
            self.names.insert(name, record.id);
        }
        let Some((key, known)) = ClientKey::of(task).zip(KnownKey::of(task, now)) else {
            return (None, 0);
        };
        let freed = self.remove(&key);
        let key = Arc::new(key);
        self.keys.insert(key.clone(), Key { known, ended: None });
        self.windows.insert((known.until, key.clone()));
        (Some(key), freed)
    }

    /// Removes the name of a task, if the name is still that task's.
    pub(super) fn forget(&mut self, record: &TaskRecord) {
        if let Some(name) = name_of(record)
            && self.names.get(&name) == Some(&record.id)
        {
            self.names.remove(&name);
        }
    }

    /// Moves the key of a task that has ended or is gone to the keys of ended tasks. Returns how many bytes it takes
    /// there, and how many bytes were freed by removing others; `None` if the key is not this task's any more.
    pub(super) fn end(&mut self, key: &ClientKey, id: RequestId) -> Option<(usize, usize)> {
        let (shared, of) = self.keys.get_key_value(key)?;
        if of.known.id != id || of.ended.is_some() {
            return None;
        }
        let shared = shared.clone();
        let number = self.ended.add(shared);
        self.keys.get_mut(key)?.ended = Some(number);
        let mut freed = 0;
        while let Some(oldest) = self.ended.beyond(key.tenant.as_ref()) {
            freed += self.forget_for_room(oldest);
        }
        Some((weight_of_key(key), freed))
    }

    /// Moves the key of a task that runs again back to the task. Returns how many bytes that is, or `None` if the key
    /// was removed meanwhile.
    pub(super) fn revive(&mut self, key: &ClientKey, id: RequestId) -> Option<usize> {
        let of = self.keys.get_mut(key).filter(|of| of.known.id == id)?;
        self.ended.remove(of.ended.take()?);
        Some(weight_of_key(key))
    }

    /// Removes keys of ended tasks, oldest first, until `bytes` are freed. Returns how many were freed; `None`, without
    /// removing any, if the keys have fewer.
    pub(super) fn make_room(&mut self, bytes: usize) -> Option<usize> {
        if self.ended.bytes() < bytes {
            return None;
        }
        let mut freed = 0;
        while freed < bytes {
            freed += self.forget_for_room(self.ended.oldest()?);
        }
        Some(freed)
    }

    /// How many keys were removed before the end of their windows.
    pub(super) const fn forgotten(&self) -> u64 {
        self.ended.forgotten
    }

    /// The tasks with this name in `scope`.
    pub(super) fn named(&self, scope: &Scope, name: &TaskName) -> Vec<RequestId> {
        if let Scope::One(tenant) = scope {
            let name = (name.clone(), tenant.clone());
            return self.names.get(&name).copied().into_iter().collect();
        }
        let same = self.names.range((name.clone(), None)..);
        same.take_while(|((other, _), _)| other == name)
            .map(|(_, id)| *id)
            .collect()
    }

    /// Removes up to `limit` keys past their window. Returns how many, and how many bytes that freed. The bytes of a
    /// live task's key stay counted with the task until it ends.
    pub(super) fn prune(&mut self, limit: usize, now: Timestamp) -> (usize, usize) {
        let (mut count, mut freed) = (0, 0);
        while count < limit {
            let Some((_, key)) = self.windows.first().filter(|(until, _)| *until <= now) else {
                break;
            };
            let key = key.clone();
            freed += self.remove(&key);
            count += 1;
        }
        (count, freed)
    }

    fn forget_for_room(&mut self, number: KeyNumber) -> usize {
        let Some(key) = self.ended.key_at(number) else { return 0 };
        let freed = self.remove(&key);
        self.ended.forgotten += 1;
        freed
    }

    /// Removes a key, if it is known. Returns how many bytes that freed among the keys of ended tasks.
    fn remove(&mut self, key: &ClientKey) -> usize {
        let Some((shared, of)) = self.keys.remove_entry(key) else {
            return 0;
        };
        self.windows.remove(&(of.known.until, shared));
        of.ended.map_or(0, |number| self.ended.remove(number))
    }
}

fn name_of(record: &TaskRecord) -> Option<(TaskName, Option<Tenant>)> {
    Some((record.name.clone()?, record.tenant.clone()))
}
