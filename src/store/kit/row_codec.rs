//! Rows as bytes: a head with what the store itself changes, and behind it the record as it was written.
//!
//! A claim changes columns, and a claim of a completion changes the outbox. Both change the head only: a store puts a
//! new head in front of the same bytes of the record, and neither decodes nor encodes a record.
//!
//! The head begins with a version. Numbers are LEB128, texts are UTF-8 behind their length, and a bit says whether an
//! optional value is there. The head takes about 50 bytes. Decoding accepts any bytes as input, and allocates at most a
//! small multiple of their length.

use std::{str, sync::Arc};

use crate::{
    store::{Columns, OutboxRow, Row},
    task::{
        DecodeError, DeliveryStatus, Destination, FenceToken, Progress, RequestId, TaskRecord, TaskState, WorkerId,
    },
    time::Timestamp,
};

impl Row {
    /// The newest version of heads that this build reads, and the version that it writes.
    pub const HEAD_VERSION: u8 = 1;

    /// Writes the row: its head, and behind it its record. The id, by which the row is found, is not written.
    ///
    /// # Examples
    ///
    /// A claim that does not decode the record:
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    /// # use bytes::Bytes;
    /// # use http::{HeaderMap, Method, Uri};
    /// use tower_respond_async::{
    ///     store::{NewRow, Row},
    ///     task::{CapturedRequest, FenceToken, NewTask, RequestId, TaskRecord, WorkerId},
    ///     time::Timestamp,
    /// };
    ///
    /// let now = Timestamp::from_millis(1_000);
    /// # let input = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
    /// # let task = NewTask::new(RequestId::from_bytes([7; 16]), Arc::new(input));
    /// let record = Arc::new(TaskRecord::accepted(&task, now));
    /// let stored = NewRow::new(record, task.request.to_payload()).row(FenceToken::NONE, now).encode();
    ///
    /// let (mut row, record) = Row::decode(task.id, &stored)?;
    /// row.claim(WorkerId::new("w", 1), Duration::from_secs(30), FenceToken::NONE, now);
    /// let claimed = [&row.encode_head(), record].concat();
    /// assert_eq!(Row::decode(task.id, &claimed)?.0, row);
    /// # Ok::<_, tower_respond_async::task::DecodeError>(())
    /// ```
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [self.encode_head(), self.record.encode()].concat()
    }

    /// Writes the head: everything except the record.
    #[must_use]
    pub fn encode_head(&self) -> Vec<u8> {
        let columns = &self.columns;
        let mut out = Writer(Vec::with_capacity(80));
        out.byte(Self::HEAD_VERSION);
        let bits = [
            columns.suspect,
            columns.worker.is_some(),
            columns.lease_until.is_some(),
            columns.started_at.is_some(),
            columns.ended_at.is_some(),
            columns.rests_at.is_some(),
            columns.progress.is_some(),
        ];
        out.byte(
            bits.iter()
                .enumerate()
                .fold(0, |bits, (at, is)| bits | u8::from(*is) << at),
        );
        out.byte(columns.state as u8);
        out.byte(columns.delivery_status as u8);
        out.number(self.version);
        out.number(columns.token.get());
        for time in [columns.created_at, columns.run_at, columns.expires_at] {
            out.time(time);
        }
        if let Some(worker) = &columns.worker {
            out.text(worker.name());
            out.0.extend_from_slice(&worker.boot().to_be_bytes());
        }
        let times = [
            columns.lease_until,
            columns.started_at,
            columns.ended_at,
            columns.rests_at,
        ];
        for time in times.into_iter().flatten() {
            out.time(time);
        }
        if let Some(progress) = &columns.progress {
            out.0.extend_from_slice(&progress.fraction.to_bits().to_be_bytes());
            out.text(&progress.message);
        }
        out.number(self.outbox.len() as u64);
        for row in &self.outbox {
            out.number(row.generation.into());
            out.text(row.destination.as_str());
            out.time(row.due_at);
            out.number(row.token.get());
            out.byte(row.claimed.into());
        }
        out.0
    }

    /// Reads the row of task `id`, and returns the bytes of its record as well.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Newer`] for a later version of the head or the record: leave the row to a newer build.
    /// [`DecodeError::Malformed`] for any other fault, and for the record of another task: set the row aside.
    pub fn decode(id: RequestId, bytes: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut input = Reader(bytes);
        match input.byte()? {
            0 => return Err(DecodeError::Malformed("version 0")),
            version if version > Self::HEAD_VERSION => return Err(DecodeError::Newer(version)),
            _ => {}
        }
        let bits = input.byte()?;
        if bits >> BITS != 0 {
            return Err(DecodeError::Malformed("a column has an unknown value"));
        }
        let has = |at: u32| bits >> at & 1 == 1;
        let (state, delivery_status) = (input.state()?, input.delivery_status()?);
        let (version, token) = (input.number()?, FenceToken::new(input.number()?));
        let [created_at, run_at, expires_at] = [input.time()?, input.time()?, input.time()?];
        let worker = has(1).then(|| input.worker()).transpose()?;
        let mut columns = Columns {
            state,
            suspect: has(0),
            token,
            created_at,
            run_at,
            expires_at,
            worker: None,
            lease_until: has(2).then(|| input.time()).transpose()?,
            started_at: has(3).then(|| input.time()).transpose()?,
            ended_at: has(4).then(|| input.time()).transpose()?,
            rests_at: has(5).then(|| input.time()).transpose()?,
            delivery_status,
            progress: has(6).then(|| input.progress()).transpose()?,
        };
        // Not allocated by the count, which may be wrong.
        let mut outbox = Vec::new();
        for _ in 0..input.number()? {
            outbox.push(input.outbox_row()?);
        }
        let Reader(bytes) = input;
        let record = TaskRecord::decode(bytes)?;
        if record.id != id {
            return Err(DecodeError::Malformed("the record belongs to another task"));
        }
        // Usually the worker in the record. Then its name is shared.
        columns.worker = worker.map(|(name, boot)| match &record.worker {
            Some(same) if (same.name(), same.boot()) == (name, boot) => same.clone(),
            _ => WorkerId::new(name, boot),
        });
        let row = Self {
            id,
            version,
            columns,
            outbox,
            record: Arc::new(record),
        };
        Ok((row, bytes))
    }
}

/// How many bits have a meaning.
const BITS: u32 = 7;

const TOO_SHORT: DecodeError = DecodeError::Malformed("it ends too early");

struct Writer(Vec<u8>);

impl Writer {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8);
    }

    fn time(&mut self, time: Timestamp) {
        self.number(time.as_millis());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(*array)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::Malformed("a number"))
    }

    fn time(&mut self) -> Result<Timestamp, DecodeError> {
        self.number().map(Timestamp::from_millis)
    }

    fn text(&mut self) -> Result<&'a str, DecodeError> {
        let length = usize::try_from(self.number()?).map_err(|_| TOO_SHORT)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(TOO_SHORT)?;
        self.0 = rest;
        str::from_utf8(text).map_err(|_| DecodeError::Malformed("a text"))
    }

    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Malformed("a flag")),
        }
    }

    fn state(&mut self) -> Result<TaskState, DecodeError> {
        let state = TaskState::ALL.get(usize::from(self.byte()?));
        state.copied().ok_or(DecodeError::Malformed("a state"))
    }

    fn delivery_status(&mut self) -> Result<DeliveryStatus, DecodeError> {
        Ok(match self.byte()? {
            0 => DeliveryStatus::None,
            1 => DeliveryStatus::Delivered,
            2 => DeliveryStatus::Pending,
            3 => DeliveryStatus::Failed,
            4 => DeliveryStatus::Blocked,
            _ => return Err(DecodeError::Malformed("a delivery status")),
        })
    }

    fn worker(&mut self) -> Result<(&'a str, u64), DecodeError> {
        Ok((self.text()?, u64::from_be_bytes(self.array()?)))
    }

    fn progress(&mut self) -> Result<Progress, DecodeError> {
        let fraction = f32::from_bits(u32::from_be_bytes(self.array()?));
        match (0.0..=1.0).contains(&fraction) {
            true => Ok(Progress {
                fraction,
                message: self.text()?.into(),
            }),
            false => Err(DecodeError::Malformed("a fraction")),
        }
    }

    fn outbox_row(&mut self) -> Result<OutboxRow, DecodeError> {
        let generation = u32::try_from(self.number()?).map_err(|_| DecodeError::Malformed("a number"))?;
        let name = self.text()?;
        let known = [Destination::LOCAL, Destination::CALLBACK];
        let known = known.into_iter().find(|known| known.as_str() == name);
        Ok(OutboxRow {
            generation,
            destination: known.unwrap_or_else(|| Destination::new(name.to_owned())),
            due_at: self.time()?,
            token: FenceToken::new(self.number()?),
            claimed: self.flag()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::{HeaderMap, Method, Uri};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        store::NewRow,
        task::{CapturedRequest, NewTask},
    };

    const ID: RequestId = RequestId::from_bytes([7; 16]);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn new() -> Row {
        let input = CapturedRequest::new(Method::GET, Uri::from_static("/a?b"), HeaderMap::new(), Bytes::new());
        let task = NewTask::new(ID, Arc::new(input));
        let record = Arc::new(TaskRecord::accepted(&task, at(300)));
        NewRow::new(record, task.request.to_payload()).row(FenceToken::NONE, at(300))
    }

    /// A row with all optional values.
    fn full() -> Row {
        let mut row = new();
        row.version = 300;
        row.claim(
            WorkerId::new("w", 2),
            Duration::from_millis(9),
            FenceToken::NONE,
            at(301),
        );
        row.columns.suspect = true;
        row.columns.ended_at = Some(at(302));
        row.columns.rests_at = Some(at(303));
        row.columns.delivery_status = DeliveryStatus::Blocked;
        row.columns.progress = Some(Progress::new(0.5, "half"));
        row.outbox = [Destination::LOCAL, Destination::CALLBACK, Destination::new("x")]
            .map(|destination| OutboxRow {
                generation: 2,
                destination,
                due_at: at(u64::MAX),
                token: FenceToken::new(4),
                claimed: true,
            })
            .into();
        row
    }

    #[test]
    fn what_was_written_is_read_back() {
        for row in [new(), full()] {
            let written = row.encode();
            let (read, record) = Row::decode(ID, &written).unwrap();
            assert_eq!(read, row);
            assert_eq!(record, row.record.encode());
        }
    }

    #[test]
    fn the_written_form_does_not_change() {
        let expected = [
            &b"\x01\x7f\x01\x04\xad\x02\x01"[..],
            b"\xac\x02\xac\x02\xac\xba\x99\x29",
            b"\x01w\0\0\0\0\0\0\0\x02",
            b"\xb6\x02\xad\x02\xae\x02\xaf\x02",
            b"\x3f\0\0\0\x04half",
            b"\x03",
            b"\x02\x05local\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x04\x01",
            b"\x02\x08callback\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x04\x01",
            b"\x02\x01x\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x04\x01",
        ];
        assert_eq!(full().encode_head(), expected.concat());
    }

    #[test]
    fn a_head_may_be_replaced_without_a_look_at_the_record() {
        let (before, after) = (new().encode(), full());
        let (_, record) = Row::decode(ID, &before).unwrap();
        let replaced = [&after.encode_head(), record].concat();
        assert_eq!(Row::decode(ID, &replaced).unwrap().0, after);
    }

    #[test]
    fn newer_rows_differ_from_damaged_rows() {
        let newer = |at: usize| {
            let mut written = new().encode();
            written[at] = 200;
            Row::decode(ID, &written).map(|_| ()).unwrap_err()
        };
        assert_eq!(newer(0), DecodeError::Newer(200), "the head");
        assert_eq!(newer(new().encode_head().len()), DecodeError::Newer(200), "the record");
        assert!(
            matches!(newer(1), DecodeError::Malformed(_)),
            "a column that is not known"
        );
        let another = Row::decode(RequestId::from_bytes([8; 16]), &new().encode()).map(|_| ());
        assert!(matches!(another, Err(DecodeError::Malformed(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_read_or_refused(at in 0_usize..1000, byte: u8, cut in 0_usize..1000) {
            for row in [new(), full()] {
                let mut written = row.encode();
                let length = written.len();
                written[at % length] = byte;
                written.truncate(length - cut % length);
                if let Ok((read, record)) = Row::decode(ID, &written) {
                    let again = [&read.encode_head(), record].concat();
                    prop_assert_eq!(Row::decode(ID, &again).map(|(row, _)| row), Ok(read));
                }
            }
        }

        #[test]
        fn noise_is_read_or_refused(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Row::decode(ID, &[&[Row::HEAD_VERSION], &*noise].concat());
        }
    }
}
