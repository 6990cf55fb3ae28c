//! What tasks are known by to their clients: names, and keys with a window of their own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::ended_keys::{EndedKeys, Place};
use crate::{
    store::{
        KnownBy, NewRow,
        kit::{ClientKey, KnownKey},
    },
    task::{RequestDigest, RequestId, Scope, TaskName, TaskRecord, Tenant},
    time::Timestamp,
};

/// Names of tasks that are kept, and keys of tasks whether kept or not.
#[derive(Debug)]
pub(super) struct Names {
    names: BTreeMap<(TaskName, Option<Tenant>), RequestId>,
    keys: HashMap<Arc<ClientKey>, Key>,
    // Whose window ends next.
    windows: BTreeSet<(Timestamp, Arc<ClientKey>)>,
    ended: EndedKeys,
}

#[derive(Clone, Copy, Debug)]
struct Key {
    known: KnownKey,
    /// Where it is among those of ended tasks. One of a live task is in its room, and never forgotten for want of it.
    ended: Option<Place>,
}

/// What the names say about a task that is to be stored.
#[derive(Debug)]
pub(super) enum Lookup {
    /// Nothing.
    Unknown,
    /// It is this one; a key brings its own digest.
    Known(RequestId, KnownBy, Option<RequestDigest>),
    /// Its name is one task and its key another.
    Conflict,
}

/// What a remembered key takes beside its texts: 290 to 370 as maps grow, as measured with 20,000 to 120,000 of them.
const KEY_BYTES: usize = 320;

/// About how many bytes a key takes to remember.
pub(super) fn weight_of_key(key: &ClientKey) -> usize {
    let tenant = key.tenant.as_ref().map_or(0, |tenant| tenant.as_str().len());
    let caller = key.caller.as_ref().map_or(0, |caller| caller.as_str().len());
    key.key.as_str().len() + tenant + caller + KEY_BYTES
}

impl Names {
    /// Nothing, and room for the keys of ended tasks.
    pub(super) fn new(max_ended: usize) -> Self {
        Self {
            names: BTreeMap::new(),
            keys: HashMap::new(),
            windows: BTreeSet::new(),
            ended: EndedKeys::new(max_ended),
        }
    }

    /// Whether `task` has a name or key at all.
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

    /// Notes the name and key of a task that is being stored. Answers its key, and how many bytes were freed by replacing
    /// one past its window that had not been pruned.
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

    /// Forgets the name of a task, if it is still that one's.
    pub(super) fn forget(&mut self, record: &TaskRecord) {
        if let Some(name) = name_of(record)
            && self.names.get(&name) == Some(&record.id)
        {
            self.names.remove(&name);
        }
    }

    /// The task of this key has ended, or is gone: from now on it is one of those that may be forgotten. Answers how many
    /// bytes it takes, and how many were freed by forgetting others; or none if it is not known any more as that task's.
    pub(super) fn end(&mut self, key: &ClientKey, id: RequestId) -> Option<(usize, usize)> {
        let (shared, of) = self.keys.get_key_value(key)?;
        if of.known.id != id || of.ended.is_some() {
            return None;
        }
        let shared = shared.clone();
        let place = self.ended.add(shared);
        self.keys.get_mut(key)?.ended = Some(place);
        let mut freed = 0;
        while let Some(oldest) = self.ended.beyond(key.tenant.as_ref()) {
            freed += self.forget_for_room(oldest);
        }
        Some((weight_of_key(key), freed))
    }

    /// The task of this key runs again: it is in the task's room from now on. Answers how many bytes that is, or none if
    /// the key was forgotten meanwhile.
    pub(super) fn revive(&mut self, key: &ClientKey, id: RequestId) -> Option<usize> {
        let of = self.keys.get_mut(key).filter(|of| of.known.id == id)?;
        self.ended.remove(of.ended.take()?);
        Some(weight_of_key(key))
    }

    /// Forgets keys of ended tasks, the oldest first, until so many bytes are freed. Answers how many were; none if they
    /// do not have as many.
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

    /// How many keys were forgotten before their window was over.
    pub(super) const fn forgotten(&self) -> u64 {
        self.ended.forgotten
    }

    /// The tasks of this name in `scope`.
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

    /// Forgets up to `limit` keys past their window: how many, and how many bytes that freed. One of a live task stays in
    /// its room until it ends.
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

    fn forget_for_room(&mut self, place: Place) -> usize {
        let Some(key) = self.ended.key_at(place) else { return 0 };
        let freed = self.remove(&key);
        self.ended.forgotten += 1;
        freed
    }

    /// Forgets a key, if it is known. Answers how many bytes of the ended ones' room that freed.
    fn remove(&mut self, key: &ClientKey) -> usize {
        let Some((shared, of)) = self.keys.remove_entry(key) else {
            return 0;
        };
        self.windows.remove(&(of.known.until, shared));
        of.ended.map_or(0, |place| self.ended.remove(place))
    }
}

fn name_of(record: &TaskRecord) -> Option<(TaskName, Option<Tenant>)> {
    Some((record.name.clone()?, record.tenant.clone()))
}
