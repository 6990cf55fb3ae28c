//! [`DeliveryDocument`]: one completion on its way to one destination, as clients read it.

use crate::{
    task::Delivery,
    wire::json::{self, Object},
};

/// A delivery with the tries that are kept of it.
pub(crate) struct DeliveryDocument<'a> {
    index: usize,
    delivery: &'a Delivery,
}

impl<'a> DeliveryDocument<'a> {
    /// The delivery at `index` of its task's.
    pub(crate) const fn new(index: usize, delivery: &'a Delivery) -> Self {
        Self { index, delivery }
    }

    /// The document at the end of `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let delivery = self.delivery;
        let mut document = Object::begin(out);
        document.number("index", self.index as u64);
        document.text("webhookId", &delivery.webhook_id());
        document.text("destination", delivery.destination.as_str());
        document.number("generation", delivery.generation);
        document.plain("endedAs", delivery.ended_as.as_str());
        document.plain("status", delivery.status.as_str());
        document.number("dueTime", delivery.due_at.as_millis());
        document.number("tried", delivery.tried);
        document.member("tries", |out| {
            json::array(out, &delivery.tries, |out, one| {
                let mut document = Object::begin(out);
                document.number("timestamp", one.at.as_millis());
                document.number_or_null("statusCode", one.status_code.map(u64::from));
                document.text_or_null("text", one.text.as_deref());
                document.end();
            });
        });
        document.end();
    }
}
