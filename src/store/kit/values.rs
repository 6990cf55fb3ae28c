//! Tasks as the values of a key-value store.

use bytes::Bytes;

use super::{ClientKey, ControlValues, KnownKey, Log};
use crate::{
    store::{
        Change, ClaimedRow, Committed, ControlChange, Controls, Glance, NewRow, Part, Payload, Response, Row,
        StoreErrorKind, StoreResult,
    },
    task::{DecodeError, LeaseRef, RequestId, Scope},
    time::Timestamp,
};

/// What a value is. A value is found by its kind and its key.
///
/// See the example of [`Values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The [row](Row::encode) of a task. Its key is the task's id, as for the next three kinds.
    Row = b't',
    /// The [request](Payload::encode).
    Request = b'q',
    /// The [response](Payload::encode), if there is one.
    Response = b'a',
    /// The [log](Log::encode), if there is one.
    Log = b'l',
    /// What is [kept](KnownKey::encode) with a client's key. Its key is [that key](ClientKey::encode).
    Key = b'k',
    /// All [named values](ControlValues::encode) together. The key is empty.
    Control = b'c',
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Row,
        Self::Request,
        Self::Response,
        Self::Log,
        Self::Key,
        Self::Control,
    ];
}

/// The values of a key-value store within one transaction, read and written as tasks.
///
/// Implement the first four methods, on bytes; the others are built from them. Everything that one transaction writes
/// must become visible to others together, or not at all.
///
/// [`rows`](Self::rows), [`prune_keys`](Self::prune_keys) and [`count_unreadable`](Self::count_unreadable) read all
/// values, and are meant for use with [`scan`](super::scan). The other methods find values by key, and also serve a
/// store with indexes.
///
/// # Examples
///
/// ```
/// use std::collections::BTreeMap;
///
/// use tower_respond_async::store::{StoreResult, kit::{Kind, Values}};
///
/// #[derive(Default)]
/// struct InMemory(BTreeMap<(Kind, Vec<u8>), Vec<u8>>);
///
/// impl Values for InMemory {
///     fn get(&self, kind: Kind, of: &[u8]) -> StoreResult<Option<Vec<u8>>> {
///         Ok(self.0.get(&(kind, of.to_vec())).cloned())
///     }
///
///     fn put(&mut self, kind: Kind, of: &[u8], value: &[u8]) -> StoreResult<()> {
///         self.0.insert((kind, of.to_vec()), value.to_vec());
///         Ok(())
///     }
///
///     fn remove(&mut self, kind: Kind, of: &[u8]) -> StoreResult<()> {
///         self.0.remove(&(kind, of.to_vec()));
///         Ok(())
///     }
///
///     fn all(&self, kind: Kind) -> StoreResult<Vec<Vec<u8>>> {
///         let keys = self.0.keys().filter(|(of_kind, _)| *of_kind == kind);
///         Ok(keys.map(|(_, of)| of.clone()).collect())
///     }
/// }
///
/// # use std::time::Duration;
/// # use tower_respond_async::{
/// #     store::{Change, Committed, NewRow, Part, Response},
/// #     task::{CapturedRequest, FenceToken, IdempotencyKey, NewTask, RequestId, TaskRecord},
/// #     time::Timestamp,
/// # };
/// # let (id, now) = (RequestId::from_bytes([7; 16]), Timestamp::from_millis(1_000));
/// # let request = CapturedRequest::new(http::Method::GET, http::Uri::from_static("/"), http::HeaderMap::new(), bytes::Bytes::new());
/// # let task = NewTask::new(id, request.into());
/// # let mut new = NewRow::new(TaskRecord::accepted(&task, now).into(), task.request.to_payload());
/// # new.key = Some((IdempotencyKey::new("k").unwrap(), Duration::from_secs(9)));
/// # let row = new.row(FenceToken::NONE, now);
/// let mut values = InMemory::default();
/// values.put_new(&new, &row, now)?;
/// assert_eq!(values.row(id)?, Some(row.clone()));
/// assert_eq!(values.known_key(&new)?.map(|known| known.id), Some(id));
/// # assert_eq!(values.payload(id, Part::Request)?, Some(new.request.clone()));
/// # let mut change = Change::between(&row, row.record.clone(), now);
/// # change.response = Response::Put(new.request.clone());
/// # assert!(matches!(values.commit(change.clone(), now)?, Committed::Done));
/// # assert_eq!(values.payload(id, Part::Response)?, Some(new.request.clone()));
/// # assert!(matches!(values.commit(change, now)?, Committed::Stale(Some(_))));
/// # let row = values.row(id)?.unwrap();
///
/// assert!(matches!(values.commit(Change::removal(&row), now)?, Committed::Done));
/// assert!(values.rows()?.is_empty());
/// # assert_eq!(values.payload(id, Part::Request)?, None);
/// # assert_eq!(values.payload(id, Part::Response)?, None);
/// # assert!(values.known_key(&new)?.is_some(), "for its window");
/// # assert_eq!(values.prune_keys(9, now)?, 0);
/// # assert_eq!(values.prune_keys(9, now.saturating_add(Duration::from_secs(9)))?, 1);
/// # assert_eq!(values.known_key(&new)?, None);
/// # Ok::<_, tower_respond_async::store::StoreError>(())
/// ```
pub trait Values {
    /// The value of this kind and key, if there is one.
    ///
    /// # Errors
    ///
    /// `Corrupt` if the value is not what was put. If the storage below has no checksums, add one.
    fn get(&self, kind: Kind, of: &[u8]) -> StoreResult<Option<Vec<u8>>>;

    /// Stores a value, in place of an earlier one.
    ///
    /// # Errors
    ///
    /// If it cannot be stored. Then nothing of this transaction may be stored.
    fn put(&mut self, kind: Kind, of: &[u8], value: &[u8]) -> StoreResult<()>;

    /// Removes a value, if there is one.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put).
    fn remove(&mut self, kind: Kind, of: &[u8]) -> StoreResult<()>;

    /// The keys of all values of a kind, whether the values can be read or not.
    ///
    /// # Errors
    ///
    /// If the storage cannot be read.
    fn all(&self, kind: Kind) -> StoreResult<Vec<Vec<u8>>>;

    /// The row of a task, if there is one.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get), and `Corrupt` if it cannot be decoded, `Incompatible` if a newer build wrote it.
    fn row(&self, id: RequestId) -> StoreResult<Option<Row>> {
        let row = self.get(Kind::Row, id.as_bytes())?;
        let row = row.map(|row| Row::decode(id, &row).map(|(row, _)| row));
        Ok(row.transpose()?)
    }

    /// The row of a task in `scope`, if there is one.
    ///
    /// # Errors
    ///
    /// As for [`row`](Self::row).
    fn row_in(&self, scope: &Scope, id: RequestId) -> StoreResult<Option<Row>> {
        Ok(self.row(id)?.filter(|row| row.is_in(scope)))
    }

    /// The row of a task, if this claim holds it.
    ///
    /// # Errors
    ///
    /// As for [`row`](Self::row).
    fn row_held(&self, lease: LeaseRef) -> StoreResult<Option<Row>> {
        Ok(self.row(lease.id)?.filter(|row| row.is_held_by(lease.token)))
    }

    /// All rows that can be read. Rows that cannot be read are left out.
    ///
    /// # Errors
    ///
    /// As for [`all`](Self::all) and [`get`](Self::get), except that `Corrupt` and `Incompatible` leave a row out.
    fn rows(&self) -> StoreResult<Vec<Row>> {
        let mut rows = Vec::new();
        for id in self.all(Kind::Row)?.into_iter().filter_map(|id| id.try_into().ok()) {
            rows.extend(readable(self.row(RequestId::from_bytes(id)))?.flatten());
        }
        Ok(rows)
    }

    /// Stores a row.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put).
    fn put_row(&mut self, row: &Row) -> StoreResult<()> {
        self.put(Kind::Row, row.id.as_bytes(), &row.encode())
    }

    /// The request or the response of a task, if there is one.
    ///
    /// # Errors
    ///
    /// As for [`row`](Self::row).
    fn payload(&self, id: RequestId, part: Part) -> StoreResult<Option<Payload>> {
        let kind = match part {
            Part::Request => Kind::Request,
            Part::Response => Kind::Response,
        };
        let payload = self.get(kind, id.as_bytes())?;
        let payload = payload.map(|payload| Payload::decode(Bytes::from(payload)));
        Ok(payload.transpose()?)
    }

    /// The log of a task.
    ///
    /// # Errors
    ///
    /// As for [`row`](Self::row).
    fn log(&self, id: RequestId) -> StoreResult<Log> {
        let log = self.get(Kind::Log, id.as_bytes())?;
        Ok(log.map(|log| Log::decode(&log)).transpose()?.unwrap_or_default())
    }

    /// Stores the log of a task.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put).
    fn put_log(&mut self, id: RequestId, log: &Log) -> StoreResult<()> {
        self.put(Kind::Log, id.as_bytes(), &log.encode())
    }

    /// The glance of a task, if there is such a task.
    ///
    /// # Errors
    ///
    /// As for [`row`](Self::row).
    fn glance(&self, id: RequestId) -> StoreResult<Option<Glance>> {
        let Some(row) = self.row(id)? else { return Ok(None) };
        let last_line = self.log(id)?.last();
        Ok(Some(Glance::of(row.version, row.columns.progress.as_ref(), last_line)))
    }

    /// Makes `change`, if there is one and the value has the version that it replaces. Answers with all named values
    /// after that.
    ///
    /// # Errors
    ///
    /// As for [`row`](Self::row) and [`put`](Self::put).
    fn control(&mut self, change: Option<&ControlChange>) -> StoreResult<Controls> {
        let values = self.get(Kind::Control, b"")?;
        let values = values.map(|values| ControlValues::decode(&values)).transpose()?;
        let mut values = values.unwrap_or_default();
        let controls = values.apply(change);
        if controls.changed {
            self.put(Kind::Control, b"", &values.encode())?;
        }
        Ok(controls)
    }

    /// What is kept with the key of a task to be stored, if it has a key that is known.
    ///
    /// # Errors
    ///
    /// As for [`row`](Self::row).
    fn known_key(&self, task: &NewRow) -> StoreResult<Option<KnownKey>> {
        match ClientKey::of(task) {
            Some(key) => known_key(self, &key.encode()),
            None => Ok(None),
        }
    }

    /// Stores a [new](crate::store::Insertion::New) task as `row`, with its request and its key.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put).
    fn put_new(&mut self, task: &NewRow, row: &Row, now: Timestamp) -> StoreResult<()> {
        self.put_row(row)?;
        self.put(Kind::Request, row.id.as_bytes(), &task.request.encode())?;
        if let Some((key, known)) = ClientKey::of(task).zip(KnownKey::of(task, now)) {
            self.put(Kind::Key, &key.encode(), &known.encode())?;
        }
        Ok(())
    }

    /// The answer for a row that was claimed: the row, and its request or why that cannot be read.
    fn claimed(&self, row: Row) -> ClaimedRow {
        let request = self.payload(row.id, Part::Request);
        let gone = || DecodeError::Malformed("it is gone").into();
        ClaimedRow {
            request: request.and_then(|request| request.ok_or_else(gone)),
            row,
        }
    }

    /// Makes a change, if its [conditions hold](Change::holds): of the row, and of everything that belongs to it.
    ///
    /// # Errors
    ///
    /// As for [`row`](Self::row) and [`put`](Self::put).
    fn commit(&mut self, change: Change, now: Timestamp) -> StoreResult<Committed> {
        let row = match self.row(change.id)? {
            Some(row) if change.holds(&row, now) => row,
            other => return Ok(Committed::Stale(other.map(Box::new))),
        };
        let of = row.id.as_bytes();
        let Some(next) = change.to else {
            for kind in [Kind::Row, Kind::Request, Kind::Response, Kind::Log] {
                self.remove(kind, of)?;
            }
            return Ok(Committed::Done);
        };
        self.put_row(&next.after(&row, now))?;
        if let Some(request) = &change.request {
            self.put(Kind::Request, of, &request.encode())?;
        }
        match &change.response {
            Response::Keep => {}
            Response::Put(response) => self.put(Kind::Response, of, &response.encode())?,
            Response::Drop => self.remove(Kind::Response, of)?,
        }
        Ok(Committed::Done)
    }

    /// Removes up to `limit` keys whose window has passed or that cannot be read, and answers how many.
    ///
    /// # Errors
    ///
    /// As for [`all`](Self::all) and [`remove`](Self::remove).
    fn prune_keys(&mut self, limit: usize, now: Timestamp) -> StoreResult<usize> {
        let mut pruned = 0;
        for key in self.all(Kind::Key)? {
            if pruned == limit {
                break;
            }
            let known = readable(known_key(self, &key))?.flatten();
            if known.is_none_or(|known| known.is_over(now)) {
                self.remove(Kind::Key, &key)?;
                pruned += 1;
            }
        }
        Ok(pruned)
    }

    /// How many values [`get`](Self::get) cannot read. Reads every value, and decodes none.
    ///
    /// # Errors
    ///
    /// As for [`all`](Self::all) and [`get`](Self::get), except that `Corrupt` and `Incompatible` are counted.
    fn count_unreadable(&self) -> StoreResult<u64> {
        let mut count = 0;
        for kind in Kind::ALL {
            for of in self.all(kind)? {
                count += u64::from(readable(self.get(kind, &of))?.is_none());
            }
        }
        Ok(count)
    }
}

fn known_key(values: &(impl Values + ?Sized), key: &[u8]) -> StoreResult<Option<KnownKey>> {
    let known = values.get(Kind::Key, key)?;
    Ok(known.map(|known| KnownKey::decode(&known)).transpose()?)
}

/// `None` if the value is there and this build cannot read it.
fn readable<T>(read: StoreResult<T>) -> StoreResult<Option<T>> {
    match read {
        Err(error) if matches!(error.kind(), StoreErrorKind::Corrupt | StoreErrorKind::Incompatible) => Ok(None),
        read => read.map(Some),
    }
}
