//! Calls the probes of an engine.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    engine::caught::caught,
    probe::{AttemptInfo, AttemptScope, Event, Probe},
    store::StoreResult,
    task::CapturedRequest,
};

/// The probes of one engine.
pub(crate) struct Probes(Box<[Arc<dyn Probe>]>);

impl Probes {
    pub(crate) fn new(probes: Vec<Arc<dyn Probe>>) -> Self {
        Self(probes.into())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls every probe. Does not build the event without probes.
    pub(crate) fn emit<'a>(&self, event: impl FnOnce() -> Event<'a>) {
        if self.0.is_empty() {
            return;
        }
        let event = event();
        for probe in &self.0 {
            // A probe that panics must not end the driver or leak a slot.
            let _ = caught(|| probe.on_event(&event));
        }
    }

    /// Begins to time a store call for the probes. Its time limit is applied inside, so probes see calls that time out.
    pub(crate) fn time(&self, operation: &'static str) -> Timing {
        Timing {
            operation,
            started: (!self.is_empty()).then(Instant::now),
        }
    }

    /// Lets every probe add to a request before it is stored.
    pub(crate) fn capture(&self, request: &mut CapturedRequest) {
        for probe in &self.0 {
            let _ = caught(|| probe.on_capture(request));
        }
    }

    /// The scopes of the probes around one attempt.
    pub(crate) fn scopes<'a>(&self, attempt: impl FnOnce() -> AttemptInfo<'a>) -> Vec<Box<dyn AttemptScope>> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let attempt = attempt();
        let scope = |probe: &Arc<dyn Probe>| caught(|| probe.attempt(&attempt)).ok().flatten();
        self.0.iter().filter_map(scope).collect()
    }
}

/// A store call under way.
pub(crate) struct Timing {
    operation: &'static str,
    /// `None` without probes.
    started: Option<Instant>,
}

impl Timing {
    /// Reports the end of the call to the probes, and returns its answer.
    pub(crate) fn end<T>(self, probes: &Probes, answer: StoreResult<T>) -> StoreResult<T> {
        if let Some(started) = self.started {
            probes.emit(|| Event::StoreCall {
                operation: self.operation,
                took: started.elapsed(),
                error: answer.as_ref().err(),
            });
        }
        answer
    }
}
