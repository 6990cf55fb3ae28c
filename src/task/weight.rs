//! The approximate size of records, for stores that are bounded by bytes.
//!
//! Only the variable parts count: texts, and lists that grow. The fixed part of a record does not count: the limit on
//! the number of records bounds it.

use std::mem::size_of_val;

use crate::task::{Accepted, Delivery, TaskRecord};

impl TaskRecord {
    /// About how many bytes the record takes to keep, without the fixed part that every record has.
    #[must_use]
    pub fn weight(&self) -> usize {
        let history = self.history.iter().map(|event| text(event.detail.as_deref()));
        let deliveries = self.deliveries.iter().map(Delivery::weight);
        self.accepted.weight() + text(self.error.as_deref()) + history.chain(deliveries).sum::<usize>()
    }
}

impl Accepted {
    fn weight(&self) -> usize {
        let texts = [&self.function, &self.callback].map(|part| text(part.as_deref()));
        let name = self.name.as_ref().map_or(0, |name| name.as_str().len());
        let tenant = self.tenant.as_ref().map_or(0, |tenant| tenant.as_str().len());
        let caller = self.caller.as_ref().map_or(0, |caller| caller.as_str().len());
        let pool = if self.pool.is_default() {
            0
        } else {
            self.pool.as_str().len()
        };
        texts.iter().sum::<usize>() + name + tenant + caller + pool + self.target.length() + self.labels.weight()
    }
}

impl Delivery {
    /// The whole size, fixed part included: each generation adds deliveries.
    fn weight(&self) -> usize {
        let tries = self.tries.iter().map(|tried| text(tried.text.as_deref()));
        size_of_val(self) + size_of_val(&*self.tries) + self.destination.as_str().len() + tries.sum::<usize>()
    }
}

fn text(text: Option<&str>) -> usize {
    text.map_or(0, str::len)
}
