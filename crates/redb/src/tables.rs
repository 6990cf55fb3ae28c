//! The tables of the file, and the form of their keys and values.
//!
//! | table | key | value, behind its [checksum](super::frame) |
//! |---|---|---|
//! | `tasks` | id | the [row](Row::encode): its head, then the record |
//! | `requests`, `responses` | id | the request, the response: length of the head, head, body |
//! | `logs` | id, number of the last line | a [chunk](super::logs) of lines |
//! | `names` | name, tenant | id |
//! | `keys` | tenant, caller, key, as [`ClientKey`](tower_respond_async::store::kit::ClientKey) has it | the [`KnownKey`] |
//! | `key_ends` | end of the window, key of `keys` | nothing |
//! | `set_aside` | letter of the table, key there | the value as it was found, without a checksum |
//! | `meta` | `format` | version of this page |
//! | `meta` | `control` | all [named values](tower_respond_async::store::kit::ControlValues), once there is one |
//!
//! A completion to be delivered is part of its task's row, so neither can be written or lost without the other.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::Ordering,
};

use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::{
    frame::{self, Damaged, Sealed, Value},
    ram::Ram,
};
use tower_respond_async::{
    store::{Payload, Row, StoreError, StoreErrorKind, kit::KnownKey},
    task::{DecodeError, RequestId, Scope, TaskName, Tenant},
    time::Timestamp,
};

/// The version of the format that this build writes and opens.
pub(crate) const FORMAT: u32 = 3;

pub(crate) type Definition = TableDefinition<'static, Value, Value>;

pub(crate) const TASKS: Definition = TableDefinition::new("tasks");
pub(crate) const REQUESTS: Definition = TableDefinition::new("requests");
pub(crate) const RESPONSES: Definition = TableDefinition::new("responses");
pub(crate) const LOGS: Definition = TableDefinition::new("logs");
pub(crate) const NAMES: Definition = TableDefinition::new("names");
pub(crate) const KEYS: Definition = TableDefinition::new("keys");
pub(crate) const KEY_ENDS: Definition = TableDefinition::new("key_ends");
pub(crate) const SET_ASIDE: Definition = TableDefinition::new("set_aside");
/// The tables in the order of [`Tables::all`], except for the last one there, [`META`].
pub(crate) const DEFINITIONS: [Definition; 8] = [TASKS, REQUESTS, RESPONSES, LOGS, NAMES, KEYS, KEY_ENDS, SET_ASIDE];
pub(crate) const META: Definition = TableDefinition::new("meta");

/// The key in [`META`] of the format's version.
pub(crate) const FORMAT_KEY: &[u8] = b"format";
/// The key in [`META`] of the named values.
pub(crate) const CONTROL_KEY: &[u8] = b"control";

/// The table from which a value was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Task = b't' as isize,
    Request = b'r' as isize,
    Name = b'n' as isize,
    Key = b'k' as isize,
    Control = b'c' as isize,
}

/// The tables of one write transaction. Each is opened on its first use. The owner must [close](Self::close) them.
pub(crate) struct Tables<'t> {
    pub(crate) tasks: OnDemand<'t>,
    pub(crate) requests: OnDemand<'t>,
    pub(crate) responses: OnDemand<'t>,
    pub(crate) logs: OnDemand<'t>,
    pub(crate) names: OnDemand<'t>,
    pub(crate) keys: OnDemand<'t>,
    pub(crate) key_ends: OnDemand<'t>,
    pub(crate) set_aside: OnDemand<'t>,
    pub(crate) meta: OnDemand<'t>,
}

/// A table that is opened on its first use. To open a table, and to close it again at the commit, takes redb some
/// 16,000 instructions, which is much for a commit of one operation.
pub(crate) struct OnDemand<'t> {
    transaction: &'t WriteTransaction,
    definition: Definition,
    table: Option<Table<'t, Value, Value>>,
}

impl<'t> OnDemand<'t> {
    const fn new(transaction: &'t WriteTransaction, definition: Definition) -> Self {
        Self {
            transaction,
            definition,
            table: None,
        }
    }

    pub(crate) fn open(&mut self) -> Result<&mut Table<'t, Value, Value>, redb::Error> {
        match &mut self.table {
            Some(table) => Ok(table),
            closed => Ok(closed.insert(self.transaction.open_table(self.definition)?)),
        }
    }
}

impl<'t> Tables<'t> {
    pub(crate) const fn new(transaction: &'t WriteTransaction) -> Self {
        Self {
            tasks: OnDemand::new(transaction, TASKS),
            requests: OnDemand::new(transaction, REQUESTS),
            responses: OnDemand::new(transaction, RESPONSES),
            logs: OnDemand::new(transaction, LOGS),
            names: OnDemand::new(transaction, NAMES),
            keys: OnDemand::new(transaction, KEYS),
            key_ends: OnDemand::new(transaction, KEY_ENDS),
            set_aside: OnDemand::new(transaction, SET_ASIDE),
            meta: OnDemand::new(transaction, META),
        }
    }

    /// Creates the missing tables: readers expect that all exist.
    pub(crate) fn make_all(&mut self) -> Result<(), redb::Error> {
        for table in self.all() {
            table.open()?;
        }
        Ok(())
    }

    /// Closes the open tables. Must be called while nothing unwinds: the destructor of a redb table writes, and panics
    /// if an earlier panic left the transaction inconsistent. A second panic during unwinding would abort the process;
    /// here each panic is caught.
    pub(crate) fn close(mut self) {
        for table in self.all() {
            let table = table.table.take();
            // The earlier failure is the one to report.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(table)));
        }
    }

    const fn all(&mut self) -> [&mut OnDemand<'t>; 9] {
        [
            &mut self.tasks,
            &mut self.requests,
            &mut self.responses,
            &mut self.logs,
            &mut self.names,
            &mut self.keys,
            &mut self.key_ends,
            &mut self.set_aside,
            &mut self.meta,
        ]
    }

    /// Stores a copy of an unreadable value, for inspection, and counts it. The original is not removed.
    pub(crate) fn keep_aside(
        &mut self,
        ram: &Ram,
        origin: Origin,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), redb::Error> {
        let key = [&[origin as u8], key].concat();
        self.set_aside.open()?.insert(&*key, value)?;
        ram.damaged.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Why a stored value cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error(transparent)]
    Damaged(#[from] Damaged),
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
}

impl Unreadable {
    /// Whether a newer build wrote the value: then it is intact, but this build cannot use it.
    pub(crate) const fn is_newer(self) -> bool {
        matches!(self, Self::Undecodable(DecodeError::Newer(_)))
    }

    /// The error for the task with this value.
    pub(crate) fn of(self, id: RequestId) -> StoreError {
        let kind = match self {
            Self::Damaged(_) => StoreErrorKind::Corrupt,
            Self::Undecodable(error) => error.into(),
        };
        StoreError::new(kind, format!("the stored data of task {id} cannot be read")).because(self)
    }
}

/// The row of a task, and the bytes of its record.
pub(crate) fn read_row<'a>(key: &[u8], value: &'a [u8]) -> Result<(Row, &'a [u8]), Unreadable> {
    let id = RequestId::from_bytes(key.try_into().map_err(|_| Damaged)?);
    Ok(Row::decode(id, frame::open(key, value)?)?)
}

/// The value of [`REQUESTS`] and [`RESPONSES`].
pub(crate) fn seal_payload(id: RequestId, payload: &Payload) -> Sealed {
    let length = (payload.head().len() as u32).to_be_bytes();
    Sealed::new(id.as_bytes(), &[&length, payload.head(), payload.body()])
}

/// The payload of a task, copied.
pub(crate) fn read_payload(id: RequestId, value: &[u8]) -> Result<Payload, Damaged> {
    let (length, payload) = frame::open(id.as_bytes(), value)?.split_first_chunk().ok_or(Damaged)?;
    let mut body = Bytes::copy_from_slice(payload);
    let length = u32::from_be_bytes(*length) as usize;
    match length <= body.len() {
        true => Ok(Payload::new(body.split_to(length), body)),
        false => Err(Damaged),
    }
}

/// The value of [`KEYS`].
pub(crate) fn read_key(key: &[u8], value: &[u8]) -> Result<KnownKey, Unreadable> {
    Ok(KnownKey::decode(frame::open(key, value)?)?)
}

/// The value of [`NAMES`]: the id of the task that has the name.
pub(crate) fn read_name(key: &[u8], value: &[u8]) -> Result<RequestId, Damaged> {
    let id = frame::open(key, value)?.try_into().map_err(|_| Damaged)?;
    Ok(RequestId::from_bytes(id))
}

/// The prefix of a name's keys, for all tenants. Names contain no zero byte.
fn name_prefix(name: &TaskName) -> Vec<u8> {
    [name.as_str().as_bytes(), &[0]].concat()
}

/// The key of a name. No tenant differs from a tenant with an empty name.
pub(crate) fn name_key(name: &TaskName, tenant: Option<&Tenant>) -> Vec<u8> {
    let mut key = name_prefix(name);
    key.push(tenant.is_some().into());
    key.extend_from_slice(tenant.map_or("", Tenant::as_str).as_bytes());
    key
}

/// The key in [`KEY_ENDS`] for a key in [`KEYS`].
pub(crate) fn end_key(until: Timestamp, key: &[u8]) -> Vec<u8> {
    [&until.as_millis().to_be_bytes(), key].concat()
}

/// The ids of the tasks with this name in `scope`.
pub(crate) fn ids_of_name(
    transaction: &ReadTransaction,
    scope: &Scope,
    name: &TaskName,
) -> Result<Vec<RequestId>, redb::Error> {
    let names = transaction.open_table(NAMES)?;
    let key = match scope {
        Scope::One(tenant) => name_key(name, tenant.as_ref()),
        Scope::All => name_prefix(name),
    };
    let mut ids = Vec::new();
    for entry in ReadableTable::range::<&[u8]>(&names, &*key..)? {
        let (found, value) = entry?;
        let is_meant = match scope {
            Scope::One(_) => found.value() == key,
            Scope::All => found.value().starts_with(&key),
        };
        if !is_meant {
            break;
        }
        // A damaged entry counts as missing; the writer sets it aside when it finds it.
        ids.extend(read_name(found.value(), value.value()));
    }
    Ok(ids)
}
