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

/// What a value is. A value is found by its kind and by whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The [row](Row::encode) of a task. It is found by the task's id, as are the next three.
    Row = b't',
    /// The [request](Payload::encode).
    Request = b'q',
    /// The [response](Payload::encode), if there is one.
    Response = b'a',
    /// The [log](Log::encode), if there is one.
    Log = b'l',
    /// What is [remembered](KnownKey::encode) with a client's key. It is found by [that key](ClientKey::encode).
    Key = b'k',
    /// All [named values](ControlValues::encode) together, found by nothing: an empty key.
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

/// The values of a key-value store in one transaction, read and written as tasks.
///
/// A store implements the first four operations, on bytes. The others are made of them. All that is written in one transaction
/// becomes visible to others together, or not at all.
///
/// [`rows`](Self::rows), [`prune_keys`](Self::prune_keys) and [`count_unreadable`](Self::count_unreadable) look at all there is,
/// which goes with [`scan`](super::scan). The rest finds by key, and serves a store with indexes as well.
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
    /// A value, if there is one.
    ///
    /// # Errors
    ///
    /// `Corrupt` if it is not what was put: a store adds a checksum if what is below has none.
    fn get(&self, kind: Kind, of: &[u8]) -> StoreResult<Option<Vec<u8>>>;

    /// Keeps a value, in place of the one before.
    ///
    /// # Errors
    ///
    /// If it cannot be kept: then nothing of this transaction may be.
    fn put(&mut self, kind: Kind, of: &[u8], value: &[u8]) -> StoreResult<()>;

    /// Takes a value out, if there is one.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put).
    fn remove(&mut self, kind: Kind, of: &[u8]) -> StoreResult<()>;

    /// Of whom there are values of a kind, whether they can be read or not.
    ///
    /// # Errors
    ///
    /// If they cannot be reached.
    fn all(&self, kind: Kind) -> StoreResult<Vec<Vec<u8>>>;

    /// The row of a task, if there is one.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get), and `Incompatible` for what a newer build wrote.
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

    /// All rows that can be read: one that cannot stops nobody.
    ///
    /// # Errors
    ///
    /// As for [`all`](Self::all), and if one cannot be reached.
    fn rows(&self) -> StoreResult<Vec<Row>> {
        let mut rows = Vec::new();
        for id in self.all(Kind::Row)?.into_iter().filter_map(|id| id.try_into().ok()) {
            rows.extend(readable(self.row(RequestId::from_bytes(id)))?.flatten());
        }
        Ok(rows)
    }

    /// Keeps a row as it is now.
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
    /// As for [`get`](Self::get).
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

    /// Keeps the log of a task.
    ///
    /// # Errors
    ///
    /// As for [`put`](Self::put).
    fn put_log(&mut self, id: RequestId, log: &Log) -> StoreResult<()> {
        self.put(Kind::Log, id.as_bytes(), &log.encode())
    }

    /// Where a task stands, if it is there.
    ///
    /// # Errors
    ///
    /// As for [`row`](Self::row).
    fn glance(&self, id: RequestId) -> StoreResult<Option<Glance>> {
        let Some(row) = self.row(id)? else { return Ok(None) };
        let last_line = self.log(id)?.last();
        Ok(Some(Glance::of(row.version, row.columns.progress.as_ref(), last_line)))
    }

    /// Changes a named value, if one is to be changed and it is as it was read, and answers with all of them.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get) and [`put`](Self::put).
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

    /// What is remembered with the key of a task that is to be stored, if it has one and anything is.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    fn known_key(&self, task: &NewRow) -> StoreResult<Option<KnownKey>> {
        match ClientKey::of(task) {
            Some(key) => known_key(self, &key.encode()),
            None => Ok(None),
        }
    }

    /// Keeps a task that is [stored](crate::store::Insertion::New) now as this row: with its request, and with its key.
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

    /// Hands out a row that was claimed, with its request or why that cannot be read.
    fn claimed(&self, row: Row) -> ClaimedRow {
        let request = self.payload(row.id, Part::Request);
        let gone = || DecodeError::Malformed("it is gone").into();
        ClaimedRow {
            request: request.and_then(|request| request.ok_or_else(gone)),
            row,
        }
    }

    /// Makes a change, if it [holds](Change::holds): of the row, and of all that hangs on it.
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

    /// Forgets up to `limit` keys past their window, and those that cannot be read, and says how many.
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

    /// How many values there are that cannot be read, by a look at each.
    ///
    /// # Errors
    ///
    /// As for [`all`](Self::all), and if one cannot be reached.
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

/// `None` for what is there and cannot be read by this build.
fn readable<T>(read: StoreResult<T>) -> StoreResult<Option<T>> {
    match read {
        Err(error) if matches!(error.kind(), StoreErrorKind::Corrupt | StoreErrorKind::Incompatible) => Ok(None),
        read => read.map(Some),
    }
}
