//! What tasks are known by to their clients: names, and keys with a window of their own.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    store::{KnownBy, NewRow},
    task::{Caller, IdempotencyKey, RequestDigest, RequestId, Scope, TaskName, TaskRecord, Tenant},
    time::Timestamp,
};

/// Names of tasks that are kept, and keys of tasks whether kept or not.
#[derive(Debug, Default)]
pub(super) struct Names {
    names: BTreeMap<(TaskName, Option<Tenant>), RequestId>,
    keys: HashMap<KeyOf, Key>,
    // Which key to forget next.
    ends: BTreeSet<(Timestamp, KeyOf)>,
}

type KeyOf = (Option<Tenant>, Option<Caller>, IdempotencyKey);

#[derive(Clone, Copy, Debug)]
struct Key {
    id: RequestId,
    digest: Option<RequestDigest>,
    until: Timestamp,
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

/// What a remembered key takes beside its text.
const KEY_BYTES: usize = 160;

impl Names {
    /// Whether `task` has a name or key at all.
    pub(super) fn concern(task: &NewRow) -> bool {
        task.record.name.is_some() || task.key.is_some()
    }

    /// About how many bytes the key of `task` takes to keep.
    pub(super) fn weight(task: &NewRow) -> usize {
        key_of(task).as_ref().map_or(0, weight_of)
    }

    pub(super) fn look_up(&self, task: &NewRow, now: Timestamp) -> Lookup {
        let named = name_of(&task.record).and_then(|name| self.names.get(&name).copied());
        let keyed = key_of(task).and_then(|key| self.keys.get(&key).filter(|known| now < known.until));
        match (named, keyed) {
            (Some(named), Some(keyed)) if named != keyed.id => Lookup::Conflict,
            (Some(named), _) => Lookup::Known(named, KnownBy::Name, None),
            (None, Some(keyed)) => Lookup::Known(keyed.id, KnownBy::Key, keyed.digest),
            (None, None) => Lookup::Unknown,
        }
    }

    /// Notes the name and key of a task that is being stored. Answers the weight of a key that it replaced: one past
    /// its window that had not been pruned.
    pub(super) fn note(&mut self, task: &NewRow, now: Timestamp) -> usize {
        let record = &task.record;
        if let Some(name) = name_of(record) {
            self.names.insert(name, record.id);
        }
        let Some((key_of, (_, window))) = key_of(task).zip(task.key.as_ref()) else {
            return 0;
        };
        let until = now.saturating_add(*window);
        let known = Key {
            id: record.id,
            digest: record.digest,
            until,
        };
        let old = self.keys.insert(key_of.clone(), known);
        let freed = old.map_or(0, |old| {
            self.ends.remove(&(old.until, key_of.clone()));
            weight_of(&key_of)
        });
        self.ends.insert((until, key_of));
        freed
    }

    /// Forgets the name of a task, if it is still that one's.
    pub(super) fn forget(&mut self, record: &TaskRecord) {
        if let Some(name) = name_of(record)
            && self.names.get(&name) == Some(&record.id)
        {
            self.names.remove(&name);
        }
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

    /// Forgets up to `limit` keys past their window: how many, and what they weighed together.
    pub(super) fn prune(&mut self, limit: usize, now: Timestamp) -> (usize, usize) {
        let (mut count, mut weight) = (0, 0);
        while count < limit && self.ends.first().is_some_and(|(until, _)| *until <= now) {
            let Some((_, key_of)) = self.ends.pop_first() else {
                break;
            };
            self.keys.remove(&key_of);
            weight += weight_of(&key_of);
            count += 1;
        }
        (count, weight)
    }
}

fn name_of(record: &TaskRecord) -> Option<(TaskName, Option<Tenant>)> {
    Some((record.name.clone()?, record.tenant.clone()))
}

fn key_of(task: &NewRow) -> Option<KeyOf> {
    let (key, _) = task.key.clone()?;
    Some((task.record.tenant.clone(), task.record.caller.clone(), key))
}

fn weight_of((_, caller, key): &KeyOf) -> usize {
    key.as_str().len() + caller.as_ref().map_or(0, |caller| caller.as_str().len()) + KEY_BYTES
}
