//! The parts of a record as bytes.

use std::sync::Arc;

use http::Method;

use super::basics::{Reader, Writer};
use crate::{
    task::{
        Condition, Conditions, Content, DecodeError, Delivery, DeliveryStatus, DeliveryTry, Destination, FenceToken,
        HistoryEvent, Progress, RequestTarget, Subscription, TaskRecord, TaskState, WorkerId,
    },
    time::Timestamp,
};

/// Bits beside a target: whether it has a scheme or an authority, and whether it is cut.
const WITH_HOST: u8 = 1;
const CUT: u8 = 2;

/// Bits beside the status of a delivery: whether it is claimed, and whether it is of an earlier generation.
const CLAIMED: u8 = 0x80;
const OF_BEFORE: u8 = 0x40;

/// Numbers in place of the length of a delivery's error: there is none, or it is that of the record.
const NO_ERROR: u64 = 0;
const SAME_ERROR: u64 = 1;

impl Writer {
    pub(super) fn target(&mut self, target: &RequestTarget) {
        let [scheme, authority, path] = target.parts();
        let host = !scheme.is_empty() || !authority.is_empty();
        self.byte(if host { WITH_HOST } else { 0 } | if target.is_cut() { CUT } else { 0 });
        if host {
            self.text(scheme);
            self.text(authority);
        }
        self.text(path);
    }

    pub(super) fn subscription(&mut self, subscription: &Subscription) {
        self.text(subscription.destination.as_str());
        self.byte(subscription.on.bits());
    }

    pub(super) fn content(&mut self, content: &Content) {
        self.number(content.size);
        self.maybe_text(content.content_type.as_deref());
        self.maybe_text(content.content_encoding.as_deref());
    }

    pub(super) fn worker(&mut self, worker: &WorkerId) {
        self.put(&worker.boot().to_be_bytes());
        self.put(worker.name().as_bytes());
    }

    pub(super) fn progress(&mut self, progress: &Progress) {
        self.put(&progress.fraction.to_bits().to_be_bytes());
        self.put(progress.message.as_bytes());
    }

    pub(super) fn event(&mut self, event: &HistoryEvent, base: Timestamp) {
        self.number(event.id.into());
        self.byte(event.state as u8);
        self.time(event.at, base);
        self.number(event.attempt.into());
        self.maybe_text(event.detail.as_deref());
    }

    pub(super) fn delivery(&mut self, delivery: &Delivery, task: &TaskRecord) {
        let base = task.created_at;
        self.number(delivery.generation.into());
        // The index in the subscriptions, from 1, is shorter than the name.
        let mut subscriptions = task.subscriptions.iter();
        match subscriptions.position(|subscription| subscription.destination == delivery.destination) {
            Some(index) => self.number(index as u64 + 1),
            None => {
                self.number(0);
                self.text(delivery.destination.as_str());
            }
        }
        self.byte(delivery.condition as u8);
        self.byte(delivery.ended_as as u8);
        self.time(delivery.ended_at, base);
        self.number(delivery.attempt.into());
        match &delivery.error {
            None => self.number(NO_ERROR),
            error if *error == task.error => self.number(SAME_ERROR),
            Some(error) => {
                self.number(error.len() as u64 + SAME_ERROR + 1);
                self.put(error.as_bytes());
            }
        }
        let claimed = if delivery.is_claimed { CLAIMED } else { 0 };
        let of_before = if delivery.is_of_before { OF_BEFORE } else { 0 };
        self.byte(delivery.status as u8 | claimed | of_before);
        self.time(delivery.due_at, base);
        self.number(delivery.token.get());
        self.number(delivery.tried.into());
        self.number(delivery.tries.len() as u64);
        for tried in &delivery.tries {
            self.time(tried.at, base);
            self.number(tried.status_code.map_or(0, |status| u64::from(status) + 1));
            self.maybe_text(tried.text.as_deref());
        }
    }
}

impl Reader<'_> {
    pub(super) fn method(&mut self) -> Result<Method, DecodeError> {
        Method::from_bytes(self.text()?.as_bytes()).map_err(|_| DecodeError::Malformed("a method"))
    }

    pub(super) fn target(&mut self) -> Result<RequestTarget, DecodeError> {
        let bits = self.byte()?;
        if bits & !(WITH_HOST | CUT) != 0 {
            return Err(DecodeError::Malformed("a target"));
        }
        let (scheme, authority) = match bits & WITH_HOST != 0 {
            true => (self.text()?, self.text()?),
            false => ("", ""),
        };
        RequestTarget::stored([scheme, authority, self.text()?], bits & CUT != 0)
            .ok_or(DecodeError::Malformed("a target"))
    }

    pub(super) fn state(&mut self) -> Result<TaskState, DecodeError> {
        let state = TaskState::ALL.get(usize::from(self.byte()?));
        state.copied().ok_or(DecodeError::Malformed("a state"))
    }

    pub(super) fn status(&mut self) -> Result<u16, DecodeError> {
        self.number()?
            .try_into()
            .map_err(|_| DecodeError::Malformed("a status"))
    }

    pub(super) fn subscription(&mut self) -> Result<Subscription, DecodeError> {
        Ok(Subscription {
            destination: self.destination()?,
            on: Conditions::from_bits(self.byte()?),
        })
    }

    fn destination(&mut self) -> Result<Destination, DecodeError> {
        let name = self.text()?;
        let known = [Destination::LOCAL, Destination::CALLBACK]
            .into_iter()
            .find(|known| known.as_str() == name);
        Ok(known.unwrap_or_else(|| Destination::new(name.to_owned())))
    }

    pub(super) fn content(&mut self) -> Result<Content, DecodeError> {
        Ok(Content {
            size: self.number()?,
            content_type: self.maybe_text()?.map(Arc::from),
            content_encoding: self.maybe_text()?.map(Arc::from),
        })
    }

    pub(super) fn worker(&mut self) -> Result<WorkerId, DecodeError> {
        let boot = u64::from_be_bytes(self.array()?);
        Ok(WorkerId::new(self.whole_text()?, boot))
    }

    pub(super) fn progress(&mut self) -> Result<Progress, DecodeError> {
        let fraction = f32::from_bits(u32::from_be_bytes(self.array()?));
        if !(0.0..=1.0).contains(&fraction) {
            return Err(DecodeError::Malformed("a fraction"));
        }
        let message = self.whole_text()?.into();
        Ok(Progress { fraction, message })
    }

    pub(super) fn event(&mut self, base: Timestamp) -> Result<HistoryEvent, DecodeError> {
        Ok(HistoryEvent {
            id: self.small()?,
            state: self.state()?,
            at: self.time(base)?,
            attempt: self.small()?,
            detail: self.maybe_text()?.map(Arc::from),
        })
    }

    pub(super) fn delivery(&mut self, task: &TaskRecord) -> Result<Delivery, DecodeError> {
        let base = task.created_at;
        let generation = self.small()?;
        let destination = match self.small()?.checked_sub(1) {
            Some(index) => {
                let subscription = task.subscriptions.get(index as usize);
                subscription
                    .ok_or(DecodeError::Malformed("a destination"))?
                    .destination
                    .clone()
            }
            None => self.destination()?,
        };
        let condition = match self.byte()? {
            0 => Condition::Success,
            1 => Condition::Failure,
            2 => Condition::Stop,
            _ => return Err(DecodeError::Malformed("a condition")),
        };
        let (ended_as, ended_at) = (self.state()?, self.time(base)?);
        let attempt = self.small()?;
        let error = match self.number()? {
            NO_ERROR => None,
            SAME_ERROR => task.error.clone(),
            length => {
                let mut error = Reader::at(self.take(length - SAME_ERROR - 1)?);
                Some(error.whole_text()?.into())
            }
        };
        let status = self.byte()?;
        Ok(Delivery {
            id: task.id,
            generation,
            destination,
            condition,
            ended_as,
            ended_at,
            attempt,
            error,
            status: match status & !(CLAIMED | OF_BEFORE) {
                0 => DeliveryStatus::None,
                1 => DeliveryStatus::Delivered,
                2 => DeliveryStatus::Pending,
                3 => DeliveryStatus::Failed,
                4 => DeliveryStatus::Blocked,
                _ => return Err(DecodeError::Malformed("a delivery status")),
            },
            is_claimed: status & CLAIMED != 0,
            due_at: self.time(base)?,
            token: FenceToken::new(self.number()?),
            tried: self.small()?,
            tries: self.list(|input| input.tried(base))?,
            is_of_before: status & OF_BEFORE != 0,
        })
    }

    fn tried(&mut self, base: Timestamp) -> Result<DeliveryTry, DecodeError> {
        let mut tried = DeliveryTry::new(self.time(base)?);
        if let Some(status) = self.number()?.checked_sub(1) {
            let status = status.try_into().map_err(|_| DecodeError::Malformed("a status"))?;
            tried.status_code = Some(status);
        }
        tried.text = self.maybe_text()?.map(Arc::from);
        Ok(tried)
    }
}
