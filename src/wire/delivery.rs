//! [`DeliveryDocument`]: the delivery of a completion to one destination.

use std::borrow::Cow;

use serde::Serialize;

use crate::{
    task::{Condition, Delivery, DeliveryStatus, DeliveryTry, TaskRecord, redact::Secrets},
    time::Timestamp,
};

/// A delivery with the tries that are kept.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeliveryDocument<'a> {
    callback_id: u64,
    destination: &'a str,
    webhook_id: String,
    generation: u32,
    condition: &'static str,
    status: &'static str,
    /// When the next try is due, while the delivery is pending. During a try, when that counts as failed.
    next_try_time: Option<Timestamp>,
    tries: Vec<TryDocument<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TryDocument<'a> {
    timestamp: Timestamp,
    status_code: Option<u16>,
    text: Option<Cow<'a, str>>,
}

impl<'a> DeliveryDocument<'a> {
    /// The document of a delivery of this task.
    pub(crate) fn new(task: &TaskRecord, delivery: &'a Delivery, secrets: &Secrets) -> Self {
        let pending = delivery.status == DeliveryStatus::Pending;
        Self {
            callback_id: task.delivery_number(delivery),
            destination: delivery.destination.as_str(),
            webhook_id: delivery.webhook_id(),
            generation: delivery.generation,
            condition: match delivery.condition {
                Condition::Success => "success",
                Condition::Failure => "failure",
                Condition::Stop => "stop",
            },
            status: delivery.status.as_str(),
            next_try_time: pending.then_some(delivery.due_at),
            tries: delivery
                .tries
                .iter()
                .map(|tried| TryDocument::new(tried, secrets))
                .collect(),
        }
    }
}

impl<'a> TryDocument<'a> {
    fn new(tried: &'a DeliveryTry, secrets: &Secrets) -> Self {
        Self {
            timestamp: tried.at,
            status_code: tried.status_code,
            text: tried.text.as_deref().map(|text| secrets.text(text)),
        }
    }
}
