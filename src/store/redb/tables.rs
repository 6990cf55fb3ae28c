//! What is in the file: the tables, and how their keys and values are written.
//!
//! | table | key | value, behind its [checksum](super::frame) |
//! |---|---|---|
//! | `tasks` | id | digest of the request, then the record |
//! | `inputs`, `outputs` | id | the request, the response |
//! | `logs` | id, number of the last line | a [chunk](super::logs) of lines |
//! | `names` | name, tenant | id |
//! | `keys` | tenant, caller, key | id, end of the window, digest |
//! | `key_ends` | end of the window, key of `keys` | nothing |
//! | `set_aside` | letter of the table, key there | the value as it was found, without a checksum |
//! | `meta` | `format` | version of this page |
//!
//! A completion to be delivered is part of its task's record, so that it can neither be written nor lost without it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::Ordering,
};

use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::{
    frame::{self, Bytes, Damaged},
    ram::Ram,
};
use crate::{
    task::{Caller, DecodeError, IdempotencyKey, RequestDigest, RequestId, TaskName, TaskRecord, Tenant},
    time::Timestamp,
};

/// The version of the tables that this build writes, and the newest it opens.
pub(super) const FORMAT: u32 = 1;

pub(super) type Definition = TableDefinition<'static, Bytes, Bytes>;

pub(super) const TASKS: Definition = TableDefinition::new("tasks");
pub(super) const INPUTS: Definition = TableDefinition::new("inputs");
pub(super) const OUTPUTS: Definition = TableDefinition::new("outputs");
pub(super) const LOGS: Definition = TableDefinition::new("logs");
pub(super) const NAMES: Definition = TableDefinition::new("names");
pub(super) const KEYS: Definition = TableDefinition::new("keys");
pub(super) const KEY_ENDS: Definition = TableDefinition::new("key_ends");
pub(super) const SET_ASIDE: Definition = TableDefinition::new("set_aside");
/// In the order of [`Tables::all`].
pub(super) const DEFINITIONS: [Definition; 8] = [TASKS, INPUTS, OUTPUTS, LOGS, NAMES, KEYS, KEY_ENDS, SET_ASIDE];
pub(super) const META: Definition = TableDefinition::new("meta");

/// The key in [`META`] of the format's version.
pub(super) const FORMAT_KEY: &[u8] = b"format";

/// Where a value that was set aside comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Task = b't' as isize,
    Input = b'i' as isize,
    Name = b'n' as isize,
    Key = b'k' as isize,
}

/// The tables of one write transaction, each opened when it is first asked for. Whoever made them [closes](Self::close)
/// them.
pub(super) struct Tables<'t> {
    pub(super) tasks: OnDemand<'t>,
    pub(super) inputs: OnDemand<'t>,
    pub(super) outputs: OnDemand<'t>,
    pub(super) logs: OnDemand<'t>,
    pub(super) names: OnDemand<'t>,
    pub(super) keys: OnDemand<'t>,
    pub(super) key_ends: OnDemand<'t>,
    pub(super) set_aside: OnDemand<'t>,
}

/// A table that is opened when it is first asked for. To open one and to close it again at the commit takes redb some 16,000
/// instructions, which is much to a commit of one operation.
pub(super) struct OnDemand<'t> {
    transaction: &'t WriteTransaction,
    definition: Definition,
    table: Option<Table<'t, Bytes, Bytes>>,
}

impl<'t> OnDemand<'t> {
    const fn new(transaction: &'t WriteTransaction, definition: Definition) -> Self {
        Self {
            transaction,
            definition,
            table: None,
        }
    }

    pub(super) fn open(&mut self) -> Result<&mut Table<'t, Bytes, Bytes>, redb::Error> {
        match &mut self.table {
            Some(table) => Ok(table),
            closed => Ok(closed.insert(self.transaction.open_table(self.definition)?)),
        }
    }
}

impl<'t> Tables<'t> {
    pub(super) const fn new(transaction: &'t WriteTransaction) -> Self {
        Self {
            tasks: OnDemand::new(transaction, TASKS),
            inputs: OnDemand::new(transaction, INPUTS),
            outputs: OnDemand::new(transaction, OUTPUTS),
            logs: OnDemand::new(transaction, LOGS),
            names: OnDemand::new(transaction, NAMES),
            keys: OnDemand::new(transaction, KEYS),
            key_ends: OnDemand::new(transaction, KEY_ENDS),
            set_aside: OnDemand::new(transaction, SET_ASIDE),
        }
    }

    /// Makes those that are not there yet: readers take it that all are.
    pub(super) fn make_all(&mut self) -> Result<(), redb::Error> {
        for table in self.all() {
            table.open()?;
        }
        Ok(())
    }

    /// Closes what was opened, to be called when nothing unwinds: the destructor of a redb table writes, and panics over
    /// what an earlier panic left behind. Two panics at once end the process; one at a time is caught here.
    pub(super) fn close(mut self) {
        for table in self.all() {
            let table = table.table.take();
            // What went wrong before is what is told.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(table)));
        }
    }

    const fn all(&mut self) -> [&mut OnDemand<'t>; 8] {
        [
            &mut self.tasks,
            &mut self.inputs,
            &mut self.outputs,
            &mut self.logs,
            &mut self.names,
            &mut self.keys,
            &mut self.key_ends,
            &mut self.set_aside,
        ]
    }

    /// Moves nothing, but keeps a copy of what cannot be read, to be looked at, and counts it.
    pub(super) fn keep_aside(
        &mut self,
        ram: &Ram,
        origin: Origin,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), redb::Error> {
        let key = [&[origin as u8], key].concat();
        self.set_aside.open()?.insert(&*key, value)?;
        ram.set_aside.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A task as it is stored.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) record: TaskRecord,
    pub(super) digest: Option<RequestDigest>,
}

/// Why a stored value cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(transparent)]
    Damaged(#[from] Damaged),
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
}

impl Unreadable {
    /// Whether a newer build wrote it: then it is well, and not for this one.
    pub(super) const fn is_newer(self) -> bool {
        matches!(self, Self::Undecodable(DecodeError::Newer(_)))
    }
}

impl Stored {
    pub(super) fn read(key: &[u8], value: &[u8]) -> Result<Self, Unreadable> {
        let payload = frame::open(key, value)?;
        let (digest, record) = read_digest(payload).ok_or(Damaged)?;
        let record = TaskRecord::decode(record)?;
        match record.id.as_bytes() == key {
            true => Ok(Self { record, digest }),
            false => Err(Damaged.into()),
        }
    }

    pub(super) fn put(&self, tasks: &mut Table<'_, Bytes, Bytes>) -> Result<(), redb::Error> {
        let record = self.record.encode();
        let (flag, digest) = digest_parts(self.digest.as_ref());
        frame::put(tasks, self.record.id.as_bytes(), &[&flag, digest, &record])?;
        Ok(())
    }
}

/// What a key is remembered with.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownKey {
    pub(super) id: RequestId,
    pub(super) until: Timestamp,
    pub(super) digest: Option<RequestDigest>,
}

impl KnownKey {
    pub(super) fn read(key: &[u8], value: &[u8]) -> Result<Self, Damaged> {
        let payload = frame::open(key, value)?;
        let (id, rest) = payload.split_first_chunk().ok_or(Damaged)?;
        let (until, rest) = rest.split_first_chunk().ok_or(Damaged)?;
        let (digest, _) = read_digest(rest).ok_or(Damaged)?;
        Ok(Self {
            id: RequestId::from_bytes(*id),
            until: Timestamp::from_millis(u64::from_be_bytes(*until)),
            digest,
        })
    }

    pub(super) fn put(&self, keys: &mut Table<'_, Bytes, Bytes>, key: &[u8]) -> Result<(), redb::Error> {
        let until = self.until.as_millis().to_be_bytes();
        let (flag, digest) = digest_parts(self.digest.as_ref());
        frame::put(keys, key, &[self.id.as_bytes(), &until, &flag, digest])?;
        Ok(())
    }
}

fn digest_parts(digest: Option<&RequestDigest>) -> ([u8; 1], &[u8]) {
    match digest {
        Some(digest) => ([1], digest.as_bytes()),
        None => ([0], &[]),
    }
}

fn read_digest(bytes: &[u8]) -> Option<(Option<RequestDigest>, &[u8])> {
    match bytes.split_first()? {
        (0, rest) => Some((None, rest)),
        (_, rest) => {
            let (digest, rest) = rest.split_first_chunk()?;
            Some((Some(RequestDigest::from_bytes(*digest)), rest))
        }
    }
}

/// The value of [`NAMES`]: the id of the task that has the name.
pub(super) fn read_name(key: &[u8], value: &[u8]) -> Result<RequestId, Damaged> {
    let id = frame::open(key, value)?.try_into().map_err(|_| Damaged)?;
    Ok(RequestId::from_bytes(id))
}

/// What a name's keys begin with, whatever the tenant. Names hold no zero byte.
pub(super) fn name_prefix(name: &TaskName) -> Vec<u8> {
    [name.as_str().as_bytes(), &[0]].concat()
}

pub(super) fn name_key(name: &TaskName, tenant: Option<&Tenant>) -> Vec<u8> {
    let mut key = name_prefix(name);
    push_tenant(&mut key, tenant);
    key
}

pub(super) fn key_key(tenant: Option<&Tenant>, caller: Option<&Caller>, key: &IdempotencyKey) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    let length = tenant.map_or(0, |tenant| tenant.as_str().len() as u32);
    bytes.extend_from_slice(&length.to_be_bytes());
    push_tenant(&mut bytes, tenant);
    // Nothing where there is none, as files have it that were written before there were callers. The zero tells a caller
    // from a key, which has no such byte.
    if let Some(caller) = caller {
        bytes.push(0);
        bytes.extend_from_slice(&(caller.as_str().len() as u32).to_be_bytes());
        bytes.extend_from_slice(caller.as_str().as_bytes());
    }
    bytes.extend_from_slice(key.as_str().as_bytes());
    bytes
}

/// No tenant and one with an empty name are told apart.
fn push_tenant(key: &mut Vec<u8>, tenant: Option<&Tenant>) {
    key.push(tenant.is_some().into());
    key.extend_from_slice(tenant.map_or("", Tenant::as_str).as_bytes());
}

/// Where the key with this key in [`KEYS`] stands in [`KEY_ENDS`].
pub(super) fn end_key(until: Timestamp, key: &[u8]) -> Vec<u8> {
    [&until.as_millis().to_be_bytes(), key].concat()
}

/// The ids of the tasks of a name, whatever the tenant.
pub(super) fn ids_of_name(transaction: &ReadTransaction, name: &TaskName) -> Result<Vec<RequestId>, redb::Error> {
    let prefix = name_prefix(name);
    let names = transaction.open_table(NAMES)?;
    let mut ids = Vec::new();
    for entry in ReadableTable::range::<&[u8]>(&names, &*prefix..)? {
        let (key, value) = entry?;
        if !key.value().starts_with(&prefix) {
            break;
        }
        // One that is damaged is as if it were not there; the writer sets it aside when it comes across it.
        ids.extend(read_name(key.value(), value.value()));
    }
    Ok(ids)
}
