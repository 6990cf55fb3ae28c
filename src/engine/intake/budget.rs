//! A limit for the bytes of request bodies that are being read.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// A number of bytes that all requests share while their bodies are read.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Inner>);

struct Inner {
    limit: usize,
    used: AtomicUsize,
}

/// Bytes taken from a budget. Dropping it gives them back.
#[must_use]
pub(crate) struct Reserved {
    budget: Arc<Inner>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Inner {
            limit,
            used: AtomicUsize::new(0),
        }))
    }

    /// An empty reservation that can grow.
    pub(crate) fn reserve(&self) -> Reserved {
        Reserved {
            budget: self.0.clone(),
            bytes: 0,
        }
    }

    /// Whether this many bytes are available now.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.used().checked_add(bytes).is_some_and(|used| used <= self.0.limit)
    }

    /// The bytes in use; never more than the limit.
    pub(crate) fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }
}

impl Reserved {
    /// Grows the reservation to at least `bytes`. Returns `false`, and changes nothing, if the budget has not enough
    /// bytes left.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes) else {
            return true;
        };
        if more == 0 {
            return true;
        }
        let limit = self.budget.limit;
        let grown = self
            .budget
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(more).filter(|used| *used <= limit)
            });
        if grown.is_ok() {
            self.bytes = bytes;
        }
        grown.is_ok()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_never_exceeded_and_always_given_back() {
        let budget = Budget::new(100);
        let mut first = budget.reserve();
        assert!(first.grow_to(60) && first.grow_to(30));
        let mut second = budget.reserve();
        assert!(!second.grow_to(41) && !second.grow_to(usize::MAX));
        assert!(second.grow_to(40));
        assert_eq!(budget.used(), 100);
        drop((first, second));
        assert_eq!(budget.used(), 0);
    }
}
