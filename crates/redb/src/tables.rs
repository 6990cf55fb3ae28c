//! What is in the file: the tables, and how their keys and values are written.
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
//! A completion to be delivered is part of its task's row, so that it can neither be written nor lost without it.

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

/// The version of the tables that this build writes and opens.
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
/// In the order of [`Tables::all`], whose last one is [`META`].
pub(crate) const DEFINITIONS: [Definition; 8] = [TASKS, REQUESTS, RESPONSES, LOGS, NAMES, KEYS, KEY_ENDS, SET_ASIDE];
pub(crate) const META: Definition = TableDefinition::new("meta");

/// The key in [`META`] of the format's version.
pub(crate) const FORMAT_KEY: &[u8] = b"format";
/// The key in [`META`] of the named values.
pub(crate) const CONTROL_KEY: &[u8] = b"control";

/// Where a value that was set aside comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Task = b't' as isize,
    Request = b'r' as isize,
    Name = b'n' as isize,
    Key = b'k' as isize,
    Control = b'c' as isize,
}

/// The tables of one write transaction, each opened when it is first asked for. Whoever made them [closes](Self::close)
/// them.
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

/// A table that is opened when it is first asked for. To open one and to close it again at the commit takes redb some 16,000
/// instructions, which is much to a commit of one operation.
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

    /// Makes those that are not there yet: readers take it that all are.
    pub(crate) fn make_all(&mut self) -> Result<(), redb::Error> {
        for table in self.all() {
            table.open()?;
        }
        Ok(())
    }

    /// Closes what was opened, to be called when nothing unwinds: the destructor of a redb table writes, and panics over
    /// what an earlier panic left behind. Two panics at once end the process; one at a time is caught here.
    pub(crate) fn close(mut self) {
        for table in self.all() {
            let table = table.table.take();
            // What went wrong before is what is told.
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

    /// Moves nothing, but keeps a copy of what cannot be read, to be looked at, and counts it.
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
    /// Whether a newer build wrote it: then it is well, and not for this one.
    pub(crate) const fn is_newer(self) -> bool {
        matches!(self, Self::Undecodable(DecodeError::Newer(_)))
    }

    /// What is answered of a task of which this is so.
    pub(crate) fn of(self, id: RequestId) -> StoreError {
        let kind = match self {
            Self::Damaged(_) => StoreErrorKind::Corrupt,
            Self::Undecodable(error) => error.into(),
        };
        StoreError::new(kind, format!("what is stored of task {id} cannot be read")).because(self)
    }
}

/// The row that is stored of a task, and the bytes of its record.
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

/// What a name's keys begin with, whatever the tenant. Names hold no zero byte.
fn name_prefix(name: &TaskName) -> Vec<u8> {
    [name.as_str().as_bytes(), &[0]].concat()
}

/// No tenant and one with an empty name are told apart.
pub(crate) fn name_key(name: &TaskName, tenant: Option<&Tenant>) -> Vec<u8> {
    let mut key = name_prefix(name);
    key.push(tenant.is_some().into());
    key.extend_from_slice(tenant.map_or("", Tenant::as_str).as_bytes());
    key
}

/// Where the key with this key in [`KEYS`] stands in [`KEY_ENDS`].
pub(crate) fn end_key(until: Timestamp, key: &[u8]) -> Vec<u8> {
    [&until.as_millis().to_be_bytes(), key].concat()
}

/// The ids of the tasks of a name.
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
        // One that is damaged is as if it were not there; the writer sets it aside when it comes across it.
        ids.extend(read_name(found.value(), value.value()));
    }
    Ok(ids)
}
