//! Records and log lines as bytes: the versioned form in which a durable store keeps them.
//!
//! A record opens with a version and a kind byte, as [`envelope`](crate::task::envelope) does for requests and responses;
//! numbers are LEB128, texts are UTF-8 behind their length, and what may be missing is announced by a bit. An ordinary task
//! takes 100 to 200 bytes. [`TaskRecord::decode`] and [`LogLine::decode`] take any bytes whatever and answer with a value
//! or a [`DecodeError`]; they allocate no more than a small multiple of what the input is long.

use std::{str, sync::Arc, time::Duration};

use http::{Method, Uri};

use crate::{
    task::{
        Accepted, Caller, Condition, Conditions, DecodeError, Delivery, DeliveryStatus, DeliveryTry, Destination,
        FenceToken, HistoryEvent, Labels, LogLine, Progress, RequestDigest, RequestId, Subscription, TaskName,
        TaskRecord, TaskState, Tenant, WorkerId, target,
    },
    time::Timestamp,
};

/// The newest version of records and log lines that this build reads.
///
/// Version 2 adds the address that a request named for its completion. Version 3 adds who asked and how often the handler
/// said "not now", and has the parts of a target apart. A record is written in the oldest version that says all of it, and
/// log lines in version 1: builds that know no other go on to read them, and leave those of later versions to newer ones.
pub const VERSION: u8 = 3;

const WITHOUT_CALLBACK: u8 = 1;
const TARGET_IS_ONE_TEXT: u8 = 2;

const KIND_RECORD: u8 = b'r';
const KIND_LINE: u8 = b'l';

/// The bit beside a delivery's status that says that it is claimed.
const CLAIMED: u8 = 0x80;

impl TaskRecord {
    /// Writes the record in the oldest version that can say all of it, at most [`VERSION`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let newest =
            self.deferrals > 0 || self.caller.is_some() || self.digest.is_some() || !target::is_one_text(&self.uri);
        let version = match &self.callback {
            _ if newest => VERSION,
            Some(_) => TARGET_IS_ONE_TEXT,
            None => WITHOUT_CALLBACK,
        };
        let mut out = Writer::new(version, KIND_RECORD, 256);
        let optional = [
            self.name.is_some(),
            self.tenant.is_some(),
            self.function.is_some(),
            self.worker.is_some(),
            self.lease_until.is_some(),
            self.started_at.is_some(),
            self.ended_at.is_some(),
            self.status_code.is_some(),
            self.error.is_some(),
            self.progress.is_some(),
            self.callback.is_some(),
            self.deferrals > 0,
            self.caller.is_some(),
            self.digest.is_some(),
        ];
        let bits = optional.iter().enumerate();
        out.number(bits.fold(0, |bits, (at, is)| bits | u64::from(*is) << at));

        out.0.extend_from_slice(self.id.as_bytes());
        out.byte(self.state as u8);
        for count in [
            self.generation,
            self.attempt,
            self.retries,
            self.crashes,
            self.max_attempts,
            self.crash_allowance,
        ] {
            out.number(count.into());
        }
        out.number(self.token.get());
        for time in [self.created_at, self.run_at, self.expires_at] {
            out.time(time);
        }
        out.number(self.max_age.as_secs());
        out.number(self.max_age.subsec_nanos().into());
        out.text(self.method.as_str());
        let [scheme, authority, path] = target::parts(&self.uri);
        if version > TARGET_IS_ONE_TEXT {
            out.text(scheme);
            out.text(authority);
        }
        out.text(path);

        for text in [
            self.name.as_ref().map(TaskName::as_str),
            self.tenant.as_ref().map(Tenant::as_str),
            self.function.as_deref(),
        ] {
            text.inspect(|text| out.text(text));
        }
        if let Some(worker) = &self.worker {
            out.text(worker.name());
            out.0.extend_from_slice(&worker.boot().to_be_bytes());
        }
        for time in [self.lease_until, self.started_at, self.ended_at] {
            time.inspect(|time| out.time(*time));
        }
        self.status_code.inspect(|status| out.number((*status).into()));
        self.error.as_ref().inspect(|error| out.text(error));
        if let Some(progress) = &self.progress {
            out.0.extend_from_slice(&progress.fraction.to_bits().to_be_bytes());
            out.text(&progress.message);
        }
        self.callback.as_ref().inspect(|url| out.text(url));
        if self.deferrals > 0 {
            out.number(self.deferrals.into());
        }
        self.caller.as_ref().inspect(|caller| out.text(caller.as_str()));
        self.digest.inspect(|digest| out.0.extend_from_slice(digest.as_bytes()));

        out.number(self.labels.iter().count() as u64);
        for (name, value) in self.labels.iter() {
            out.text(name);
            out.text(value);
        }
        out.number(self.history.len() as u64);
        for event in &self.history {
            out.number(event.id.into());
            out.byte(event.state as u8);
            out.time(event.at);
            out.number(event.attempt.into());
            out.maybe_text(event.detail.as_deref());
        }
        out.number(self.subscriptions.len() as u64);
        for subscription in &*self.subscriptions {
            out.text(subscription.destination.as_str());
            out.byte(subscription.on.bits());
        }
        out.number(self.deliveries.len() as u64);
        for delivery in &self.deliveries {
            out.delivery(delivery);
        }
        out.0
    }

    /// Reads what [`encode`](Self::encode) wrote, by this build or an older one.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Newer`] for a later version: leave the record to a newer build. Anything else wrong is
    /// [`DecodeError::Malformed`]: set it aside.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (version, mut input) = Reader::new(bytes, KIND_RECORD)?;
        let bits = input.number()?;
        let fields = match version {
            WITHOUT_CALLBACK => 10,
            TARGET_IS_ONE_TEXT => 11,
            _ => OPTIONAL_FIELDS,
        };
        if bits >> fields != 0 {
            return Err(DecodeError::Malformed("a field of no meaning"));
        }
        let has = |at: u32| bits >> at & 1 == 1;

        let id = RequestId::from_bytes(input.array()?);
        let state = input.state()?;
        let [generation, attempt, retries, crashes, max_attempts, crash_allowance] = [
            input.small()?,
            input.small()?,
            input.small()?,
            input.small()?,
            input.small()?,
            input.small()?,
        ];
        let token = FenceToken::new(input.number()?);
        let [created_at, run_at, expires_at] = [input.time()?, input.time()?, input.time()?];
        let max_age = input.duration()?;
        let method = Method::from_bytes(input.bytes()?).map_err(|_| DecodeError::Malformed("method"))?;
        let uri = match version {
            // Older builds wrote whatever target there was as one text.
            ..=TARGET_IS_ONE_TEXT => Uri::try_from(input.bytes()?).ok(),
            _ => target::from_parts([input.bytes()?, input.bytes()?, input.bytes()?]),
        };
        let uri = uri.ok_or(DecodeError::Malformed("uri"))?;

        let name = has(0).then(|| input.text().map(TaskName::stored)).transpose()?;
        let tenant = has(1).then(|| input.text().map(Tenant::new)).transpose()?;
        let function = has(2).then(|| input.text().map(Arc::from)).transpose()?;
        let worker = has(3).then(|| input.worker()).transpose()?;
        let lease_until = has(4).then(|| input.time()).transpose()?;
        let started_at = has(5).then(|| input.time()).transpose()?;
        let ended_at = has(6).then(|| input.time()).transpose()?;
        let status_code = has(7).then(|| input.status()).transpose()?;
        let error = has(8).then(|| input.text().map(Arc::from)).transpose()?;
        let progress = has(9).then(|| input.progress()).transpose()?;
        let callback = has(10).then(|| input.text().map(Arc::from)).transpose()?;
        let deferrals = has(11).then(|| input.small()).transpose()?.unwrap_or(0);
        let caller = has(12).then(|| input.text().map(Caller::stored)).transpose()?;
        let digest = has(13)
            .then(|| input.array().map(RequestDigest::from_bytes))
            .transpose()?;

        let labels: Vec<_> = input.list(|input| Ok((input.text()?, input.text()?)))?;
        let history = input.list(Reader::event)?;
        let subscriptions = input.list(Reader::subscription)?;
        let deliveries = input.list(|input| input.delivery(id))?;
        input.end()?;
        let accepted = Accepted {
            id,
            name,
            tenant,
            caller,
            function,
            method,
            uri,
            digest,
            labels: Labels::from_iter(labels),
            max_attempts,
            crash_allowance,
            max_age,
            subscriptions: subscriptions.into_iter().collect(),
            callback,
        };
        Ok(Self {
            accepted: Arc::new(accepted),
            state,
            generation,
            attempt,
            retries,
            deferrals,
            crashes,
            token,
            worker,
            lease_until,
            created_at,
            run_at,
            expires_at,
            started_at,
            ended_at,
            status_code,
            error,
            progress,
            history,
            deliveries,
        })
    }
}

impl LogLine {
    /// Writes the line, in version 1.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(WITHOUT_CALLBACK, KIND_LINE, self.weight() + 32);
        out.number(self.seq);
        out.time(self.at);
        out.number(self.attempt.into());
        for text in [&self.level, &self.target, &self.message] {
            out.text(text);
        }
        out.number(self.fields.len() as u64);
        for (name, value) in &self.fields {
            out.text(name);
            out.text(value);
        }
        out.0
    }

    /// Reads what [`encode`](Self::encode) wrote, by this build or an older one.
    ///
    /// # Errors
    ///
    /// As for [`TaskRecord::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (_, mut input) = Reader::new(bytes, KIND_LINE)?;
        let line = Self {
            seq: input.number()?,
            at: input.time()?,
            attempt: input.small()?,
            level: input.text()?.into(),
            target: input.text()?.into(),
            message: input.text()?.into(),
            fields: input.list(|input| Ok((input.text()?.into(), input.text()?.into())))?,
        };
        input.end()?;
        Ok(line)
    }
}

/// How many fields of a record may be missing.
const OPTIONAL_FIELDS: u32 = 14;

const TOO_SHORT: DecodeError = DecodeError::Malformed("it ends too early");

struct Writer(Vec<u8>);

impl Writer {
    fn new(version: u8, kind: u8, capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity);
        out.extend_from_slice(&[version, kind]);
        Self(out)
    }

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

    /// Its length and one, or nothing.
    fn maybe_text(&mut self, text: Option<&str>) {
        self.number(text.map_or(0, |text| text.len() as u64 + 1));
        self.0.extend_from_slice(text.unwrap_or("").as_bytes());
    }

    fn delivery(&mut self, delivery: &Delivery) {
        self.number(delivery.generation.into());
        self.text(delivery.destination.as_str());
        self.byte(delivery.condition as u8);
        self.byte(delivery.ended_as as u8);
        self.time(delivery.ended_at);
        self.number(delivery.attempt.into());
        self.maybe_text(delivery.error.as_deref());
        self.byte(delivery.status as u8 | if delivery.is_claimed { CLAIMED } else { 0 });
        self.time(delivery.due_at);
        self.number(delivery.token.get());
        self.number(delivery.tried.into());
        self.number(delivery.tries.len() as u64);
        for tried in &delivery.tries {
            self.time(tried.at);
            self.number(tried.status_code.map_or(0, |status| u64::from(status) + 1));
            self.maybe_text(tried.text.as_deref());
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], kind: u8) -> Result<(u8, Self), DecodeError> {
        let mut input = Self(bytes);
        let version = match input.byte()? {
            0 => return Err(DecodeError::Malformed("version 0")),
            version if version > VERSION => return Err(DecodeError::Newer(version)),
            version => version,
        };
        if input.byte()? != kind {
            return Err(DecodeError::Malformed("it is of another kind"));
        }
        Ok((version, input))
    }

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

    fn small(&mut self) -> Result<u32, DecodeError> {
        self.number()?
            .try_into()
            .map_err(|_| DecodeError::Malformed("a number"))
    }

    fn status(&mut self) -> Result<u16, DecodeError> {
        self.number()?
            .try_into()
            .map_err(|_| DecodeError::Malformed("a status"))
    }

    fn time(&mut self) -> Result<Timestamp, DecodeError> {
        self.number().map(Timestamp::from_millis)
    }

    fn duration(&mut self) -> Result<Duration, DecodeError> {
        let (seconds, nanos) = (self.number()?, self.small()?);
        match nanos < 1_000_000_000 {
            true => Ok(Duration::new(seconds, nanos)),
            false => Err(DecodeError::Malformed("a duration")),
        }
    }

    fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.number()?;
        self.take(length)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(length).map_err(|_| TOO_SHORT)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn text(&mut self) -> Result<&'a str, DecodeError> {
        str::from_utf8(self.bytes()?).map_err(|_| DecodeError::Malformed("a text"))
    }

    fn maybe_text(&mut self) -> Result<Option<Arc<str>>, DecodeError> {
        let Some(length) = self.number()?.checked_sub(1) else {
            return Ok(None);
        };
        let text = str::from_utf8(self.take(length)?).map_err(|_| DecodeError::Malformed("a text"))?;
        Ok(Some(text.into()))
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>) -> Result<Vec<T>, DecodeError> {
        let count = self.number()?;
        // Each item takes a byte at least. A longer list is grown as it is read: a count is only a claim until then.
        if count > self.0.len() as u64 {
            return Err(TOO_SHORT);
        }
        let mut list = Vec::with_capacity(count.min(16) as usize);
        for _ in 0..count {
            list.push(item(self)?);
        }
        Ok(list)
    }

    fn state(&mut self) -> Result<TaskState, DecodeError> {
        let state = TaskState::ALL.get(usize::from(self.byte()?));
        state.copied().ok_or(DecodeError::Malformed("a state"))
    }

    fn worker(&mut self) -> Result<WorkerId, DecodeError> {
        let name = self.text()?;
        Ok(WorkerId::new(name, u64::from_be_bytes(self.array()?)))
    }

    fn progress(&mut self) -> Result<Progress, DecodeError> {
        let fraction = f32::from_bits(u32::from_be_bytes(self.array()?));
        if !(0.0..=1.0).contains(&fraction) {
            return Err(DecodeError::Malformed("a fraction"));
        }
        let message = self.text()?.into();
        Ok(Progress { fraction, message })
    }

    fn event(&mut self) -> Result<HistoryEvent, DecodeError> {
        Ok(HistoryEvent {
            id: self.small()?,
            state: self.state()?,
            at: self.time()?,
            attempt: self.small()?,
            detail: self.maybe_text()?,
        })
    }

    fn destination(&mut self) -> Result<Destination, DecodeError> {
        let name = self.text()?;
        let known = [Destination::LOCAL, Destination::CALLBACK]
            .into_iter()
            .find(|known| known.as_str() == name);
        Ok(known.unwrap_or_else(|| Destination::new(name.to_owned())))
    }

    fn subscription(&mut self) -> Result<Subscription, DecodeError> {
        Ok(Subscription {
            destination: self.destination()?,
            on: Conditions::from_bits(self.byte()?),
        })
    }

    fn delivery(&mut self, id: RequestId) -> Result<Delivery, DecodeError> {
        let generation = self.small()?;
        let destination = self.destination()?;
        let condition = match self.byte()? {
            0 => Condition::Success,
            1 => Condition::Failure,
            2 => Condition::Stop,
            _ => return Err(DecodeError::Malformed("a condition")),
        };
        let (ended_as, ended_at) = (self.state()?, self.time()?);
        let (attempt, error) = (self.small()?, self.maybe_text()?);
        let status = self.byte()?;
        Ok(Delivery {
            id,
            generation,
            destination,
            condition,
            ended_as,
            ended_at,
            attempt,
            error,
            status: match status & !CLAIMED {
                0 => DeliveryStatus::None,
                1 => DeliveryStatus::Delivered,
                2 => DeliveryStatus::Pending,
                3 => DeliveryStatus::Failed,
                4 => DeliveryStatus::Blocked,
                _ => return Err(DecodeError::Malformed("a delivery status")),
            },
            is_claimed: status & CLAIMED != 0,
            due_at: self.time()?,
            token: FenceToken::new(self.number()?),
            tried: self.small()?,
            tries: self.list(Self::tried)?,
        })
    }

    fn tried(&mut self) -> Result<DeliveryTry, DecodeError> {
        let mut tried = DeliveryTry::new(self.time()?);
        if let Some(status) = self.number()?.checked_sub(1) {
            let status = status.try_into().map_err(|_| DecodeError::Malformed("a status"))?;
            tried.status_code = Some(status);
        }
        tried.text = self.maybe_text()?;
        Ok(tried)
    }

    fn end(self) -> Result<(), DecodeError> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(DecodeError::Malformed("it goes on after its end")),
        }
    }
}

#[cfg(test)]
mod tests;
