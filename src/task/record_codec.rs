//! Records and log lines as bytes, for durable stores.
//!
//! A record starts with its format and a kind byte, as requests and responses do in
//! [`envelope`](crate::task::envelope). Then come the parts that every task has. Then come fields: each is a tag, a
//! length and that many bytes, in the order of the tags. The tag 0 ends them. Numbers are LEB128, texts are UTF-8
//! behind their length, and times are relative to the time at which the task was accepted. An ordinary task takes 100
//! to 200 bytes, and none takes more than [`TaskRecord::LONGEST_ENCODED`].
//!
//! Builds of several versions can work on one store at once. **A build keeps the fields that it does not know**: a
//! field with an unknown tag stays in the record, byte for byte, through every step of the task's life, and is written
//! again in its place. So a newer build can add fields, and an older build that claims, settles or runs the task again
//! loses none of them. A record that an older build would damage is written in a greater format. For such a record, the
//! older build returns [`DecodeError::Newer`], and leaves it alone.
//!
//! [`TaskRecord::decode`] and [`LogLine::decode`](crate::task::LogLine::decode) accept any bytes, and return a value or
//! a [`DecodeError`]. They allocate no more than a small multiple of the length of the input.

mod basics;
mod log_line;
mod parts;
mod presence;
mod unknown;

use std::sync::Arc;

use self::basics::{Reader, Writer};
pub(crate) use self::unknown::Unknown;
use crate::task::{
    Accepted, Caller, Content, DecodeError, FenceToken, History, Labels, Life, PoolName, RequestDigest, RequestId,
    Subscriptions, TaskName, TaskRecord, Tenant,
};

const KIND_RECORD: u8 = b'r';
const KIND_LINE: u8 = b'l';

/// The tags of the fields. A tag is never given to another field, and the content of a field never changes: an addition
/// to it gets a tag of its own, so that older builds can still read the field. A tag below 128 takes one byte.
mod tag {
    pub(super) const END: u64 = 0;

    // Set when the task is accepted.
    pub(super) const NAME: u64 = 10;
    pub(super) const TENANT: u64 = 11;
    pub(super) const CALLER: u64 = 12;
    pub(super) const FUNCTION: u64 = 13;
    pub(super) const DIGEST: u64 = 14;
    pub(super) const LABELS: u64 = 15;
    pub(super) const SUBSCRIPTIONS: u64 = 16;
    pub(super) const CALLBACK: u64 = 17;
    pub(super) const REQUEST: u64 = 18;
    pub(super) const POOL: u64 = 19;
    pub(super) const VERSION: u64 = 20;

    // Changes later.
    pub(super) const WORKER: u64 = 30;
    pub(super) const LEASE_UNTIL: u64 = 31;
    pub(super) const STARTED_AT: u64 = 32;
    pub(super) const ENDED_AT: u64 = 33;
    pub(super) const STATUS_CODE: u64 = 34;
    pub(super) const RESPONSE: u64 = 35;
    pub(super) const ERROR: u64 = 36;
    pub(super) const PROGRESS: u64 = 37;
    pub(super) const DEFERRALS: u64 = 38;
    pub(super) const HANDED_ON_AT: u64 = 39;
    pub(super) const HISTORY: u64 = 50;
    /// After the fields that it refers to: subscriptions and error.
    pub(super) const DELIVERIES: u64 = 51;
}

impl TaskRecord {
    /// The newest format that this build reads and writes. [`format`](Self::format) never returns a greater one.
    pub const FORMAT: u8 = 1;

    /// The longest encoding of a record that this build made, in bytes: the sum of the bounds of its parts, and some
    /// reserve. No text of a client, a handler or a hook makes it longer. Fields that a newer build added are not
    /// included.
    ///
    /// The largest parts are the tries (5 KiB), the history (2.3 KiB), the callback URL (2 KiB), and labels and target
    /// (1 KiB each).
    pub const LONGEST_ENCODED: usize = 16 * 1024;

    /// The format in which the record is written: the oldest whose builds may change this record.
    #[must_use]
    pub const fn format(&self) -> u8 {
        // There is only one format so far. With a second, the content of the record will decide.
        Self::FORMAT
    }

    /// The record as bytes, in its [`format`](Self::format).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(self.format(), KIND_RECORD, 256);
        let base = self.created_at;
        out.put(self.id.as_bytes());
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
        out.number(base.as_millis());
        out.time(self.run_at, base);
        out.time(self.expires_at, base);
        out.duration(self.max_age);
        out.text(self.method.as_str());
        out.target(&self.target);

        let mut fields = self.unknown.between(out);
        for (tag, text) in [
            (tag::NAME, self.name.as_ref().map(TaskName::as_str)),
            (tag::TENANT, self.tenant.as_ref().map(Tenant::as_str)),
            (tag::CALLER, self.caller.as_ref().map(Caller::as_str)),
            (tag::FUNCTION, self.function.as_deref()),
        ] {
            fields.maybe(tag, text, |out, text| out.put(text.as_bytes()));
        }
        fields.maybe(tag::DIGEST, self.digest, |out, digest| out.put(digest.as_bytes()));
        let labels = self.labels.iter().count();
        fields.maybe(tag::LABELS, (labels > 0).then_some(labels), |out, count| {
            out.number(count as u64);
            for (name, value) in self.labels.iter() {
                out.text(name);
                out.text(value);
            }
        });
        fields.list(tag::SUBSCRIPTIONS, &self.subscriptions, Writer::subscription);
        fields.maybe(tag::CALLBACK, self.callback.as_deref(), |out, url| {
            out.put(url.as_bytes());
        });
        let request = (self.request != Content::default()).then_some(&self.request);
        fields.maybe(tag::REQUEST, request, Writer::content);
        let pool = (!self.pool.is_default()).then_some(&self.pool);
        fields.maybe(tag::POOL, pool, |out, pool| out.put(pool.as_str().as_bytes()));
        fields.maybe(tag::VERSION, self.version.as_deref(), |out, version| {
            out.put(version.as_bytes());
        });

        fields.maybe(tag::WORKER, self.worker.as_ref(), Writer::worker);
        for (tag, time) in [
            (tag::LEASE_UNTIL, self.lease_until),
            (tag::STARTED_AT, self.started_at),
            (tag::ENDED_AT, self.ended_at),
        ] {
            fields.maybe(tag, time, |out, time| out.time(time, base));
        }
        fields.maybe(tag::STATUS_CODE, self.status_code, |out, status| {
            out.number(status.into());
        });
        fields.maybe(tag::RESPONSE, self.response.as_ref(), Writer::content);
        fields.maybe(tag::ERROR, self.error.as_deref(), |out, error| {
            out.put(error.as_bytes());
        });
        fields.maybe(tag::PROGRESS, self.progress.as_ref(), Writer::progress);
        let deferrals = (self.deferrals > 0).then_some(self.deferrals);
        fields.maybe(tag::DEFERRALS, deferrals, |out, count| out.number(count.into()));
        fields.maybe(tag::HANDED_ON_AT, self.handed_on_at, |out, time| out.time(time, base));
        fields.list(tag::HISTORY, &self.history, |out, event| out.event(event, base));
        fields.list(tag::DELIVERIES, &self.deliveries, |out, delivery| {
            out.delivery(delivery, self);
        });
        fields.end()
    }

    /// Reads what [`encode`](Self::encode) of this build, an older one or a newer one wrote, if this build may change
    /// it.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Newer`] for a format greater than [`FORMAT`](Self::FORMAT): leave the record to a newer build.
    /// [`DecodeError::Malformed`] for anything else that is wrong: set it aside.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes, KIND_RECORD, Self::FORMAT)?;
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
        let base = input.instant()?;
        let (run_at, expires_at) = (input.time(base)?, input.time(base)?);
        let max_age = input.duration()?;
        let method = input.method()?;
        let accepted = Accepted {
            id,
            name: None,
            pool: PoolName::DEFAULT,
            tenant: None,
            caller: None,
            function: None,
            method,
            target: input.target()?,
            request: Content::default(),
            digest: None,
            labels: Labels::default(),
            max_attempts,
            crash_allowance,
            max_age,
            subscriptions: Subscriptions::default(),
            callback: None,
            version: None,
        };
        let life = Life {
            accepted: Arc::new(accepted),
            state,
            generation,
            attempt,
            retries,
            deferrals: 0,
            crashes,
            token,
            worker: None,
            lease_until: None,
            created_at: base,
            handed_on_at: None,
            run_at,
            expires_at,
            started_at: None,
            ended_at: None,
            status_code: None,
            response: None,
            error: None,
            progress: None,
            history: History::default(),
            deliveries: Vec::new(),
            unknown: Unknown::default(),
        };
        let mut record = Self { life };
        record.read_fields(&mut input)?;
        input.end()?;
        Ok(record)
    }

    fn read_fields(&mut self, input: &mut Reader<'_>) -> Result<(), DecodeError> {
        let mut unknown = Vec::new();
        let mut before = tag::END;
        let base = self.created_at;
        loop {
            let field = input.rest();
            let tag = input.number()?;
            if tag == tag::END {
                break;
            }
            if tag <= before {
                return Err(DecodeError::Malformed("a field out of order"));
            }
            before = tag;
            let mut value = input.inner()?;
            let accepted = Arc::get_mut(&mut self.life.accepted).expect("nobody else has seen it");
            match tag {
                tag::NAME => accepted.name = Some(TaskName::stored(value.whole_text()?)),
                tag::TENANT => accepted.tenant = Some(Tenant::new(value.whole_text()?)),
                tag::CALLER => accepted.caller = Some(Caller::stored(value.whole_text()?)),
                tag::FUNCTION => accepted.function = Some(value.whole_text()?.into()),
                tag::DIGEST => accepted.digest = Some(RequestDigest::from_bytes(value.array()?)),
                tag::LABELS => {
                    let labels: Vec<_> = value.list(|value| Ok((value.text()?, value.text()?)))?;
                    accepted.labels = labels.into_iter().collect();
                }
                tag::SUBSCRIPTIONS => {
                    accepted.subscriptions = value.list(Reader::subscription)?.into_iter().collect();
                }
                tag::CALLBACK => accepted.callback = Some(value.whole_text()?.into()),
                tag::REQUEST => accepted.request = value.content()?,
                tag::POOL => accepted.pool = PoolName::stored(value.whole_text()?),
                tag::VERSION => accepted.version = Some(value.whole_text()?.into()),
                tag::WORKER => self.life.worker = Some(value.worker()?),
                tag::LEASE_UNTIL => self.life.lease_until = Some(value.time(base)?),
                tag::STARTED_AT => self.life.started_at = Some(value.time(base)?),
                tag::ENDED_AT => self.life.ended_at = Some(value.time(base)?),
                tag::STATUS_CODE => self.life.status_code = Some(value.status()?),
                tag::RESPONSE => self.life.response = Some(value.content()?),
                tag::ERROR => self.life.error = Some(value.whole_text()?.into()),
                tag::PROGRESS => self.life.progress = Some(value.progress()?),
                tag::DEFERRALS => self.life.deferrals = value.small()?,
                tag::HANDED_ON_AT => self.life.handed_on_at = Some(value.time(base)?),
                tag::HISTORY => self.life.history = value.list(|value| value.event(base))?.into(),
                tag::DELIVERIES => self.life.deliveries = value.list(|value| value.delivery(self))?,
                _ => {
                    unknown.extend_from_slice(&field[..field.len() - input.rest().len()]);
                    continue;
                }
            }
            value.end()?;
        }
        self.life.unknown = Unknown::new(unknown);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
