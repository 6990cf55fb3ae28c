//! Presences as bytes.

use std::{array, time::Duration};

use super::basics::{Reader, Writer};
use crate::task::{DecodeError, Presence, RateStats, SlotStats, WorkerId};

const KIND_PRESENCE: u8 = b'p';

impl Presence {
    /// The newest format that this build reads and writes.
    pub const FORMAT: u8 = 1;

    /// The presence as bytes, for a store that keeps bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(Self::FORMAT, KIND_PRESENCE, 256);
        out.inner(|out| out.worker(&self.worker));
        out.maybe_text(self.version.as_deref());
        out.duration(self.up);
        out.byte(self.draining.into());
        for number in [self.slots.used, self.slots.total, self.slots.stuck] {
            out.number(number as u64);
        }
        for rate in self.rates.iter().chain(&self.minutes) {
            for number in [rate.accepted, rate.succeeded, rate.failed] {
                out.number(number);
            }
        }
        out.number(self.buffered_bytes);
        out.finish()
    }

    /// Reads what [`encode`](Self::encode) wrote. Additions of a newer build at the end are ignored.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Newer`] for a format greater than [`FORMAT`](Self::FORMAT), `Malformed` for anything else that is
    /// wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes, KIND_PRESENCE, Self::FORMAT)?;
        let worker: WorkerId = input.inner()?.worker()?;
        let version = input.maybe_text()?.map(Into::into);
        let up: Duration = input.duration()?;
        let draining = input.byte()? != 0;
        let [used, total, stuck] = input.numbers()?;
        let count = |number| usize::try_from(number).unwrap_or(usize::MAX);
        let mut rates = [RateStats::default(); 63];
        for rate in &mut rates {
            let [accepted, succeeded, failed] = input.numbers()?;
            *rate = RateStats {
                accepted,
                succeeded,
                failed,
            };
        }
        Ok(Self {
            worker,
            version,
            up,
            draining,
            slots: SlotStats {
                used: count(used),
                total: count(total),
                stuck: count(stuck),
            },
            rates: array::from_fn(|at| rates[at]),
            minutes: array::from_fn(|at| rates[3 + at]),
            buffered_bytes: input.number()?,
        })
    }
}

impl Reader<'_> {
    fn numbers(&mut self) -> Result<[u64; 3], DecodeError> {
        Ok([self.number()?, self.number()?, self.number()?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence() -> Presence {
        let mut presence = Presence::new(WorkerId::new("web-1", u64::MAX));
        presence.version = Some("1.2.3".into());
        presence.up = Duration::from_millis(12_345);
        presence.draining = true;
        (presence.slots.used, presence.slots.total, presence.slots.stuck) = (3, 64, 1);
        for (at, rate) in presence.rates.iter_mut().chain(&mut presence.minutes).enumerate() {
            (rate.accepted, rate.succeeded, rate.failed) = (at as u64, 1000 * at as u64, u64::MAX - at as u64);
        }
        presence.buffered_bytes = 1 << 40;
        presence
    }

    #[test]
    fn a_presence_comes_back_also_from_a_newer_build() {
        let bytes = presence().encode();
        assert_eq!(Presence::decode(&bytes), Ok(presence()));
        let longer = [&bytes[..], b"what a newer build knows"].concat();
        assert_eq!(Presence::decode(&longer), Ok(presence()));
    }

    #[test]
    fn what_is_cut_off_or_of_another_format_is_no_presence() {
        let bytes = presence().encode();
        for length in 0..bytes.len() {
            assert!(Presence::decode(&bytes[..length]).is_err(), "{length}");
        }
        let mut newer = bytes;
        newer[0] = Presence::FORMAT + 1;
        assert_eq!(Presence::decode(&newer), Err(DecodeError::Newer(Presence::FORMAT + 1)));
    }
}
