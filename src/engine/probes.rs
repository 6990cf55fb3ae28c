//! The probes of an engine.

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

    /// Calls every probe. Without probes, the event is not even made.
    pub(crate) fn emit<'a>(&self, event: impl FnOnce() -> Event<'a>) {
        if self.0.is_empty() {
            return;
        }
        let event = event();
        for probe in &self.0 {
            // A probe must not panic. If it does, it must not end the driver or leak a slot.
            let _ = caught(|| probe.on_event(&event));
        }
    }

    /// Begins to time a store call for the probes. The time limit of the call lies inside, so that probes see calls
    /// that time out.
    pub(crate) fn time(&self, operation: &'static str) -> Timing<'_> {
        Timing {
            probes: self,
            operation,
            started: (!self.is_empty()).then(Instant::now),
        }
    }

    /// Lets every probe add to a request that is being captured.
    pub(crate) fn capture(&self, request: &mut CapturedRequest) {
        for probe in &self.0 {
            let _ = caught(|| probe.on_capture(request));
        }
    }

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
pub(crate) struct Timing<'a> {
    probes: &'a Probes,
    operation: &'static str,
    /// `None` without probes.
    started: Option<Instant>,
}

impl Timing<'_> {
    /// Ends it with this answer.
    pub(crate) fn end<T>(self, answer: StoreResult<T>) -> StoreResult<T> {
        if let Some(started) = self.started {
            self.probes.emit(|| Event::StoreCall {
                operation: self.operation,
                took: started.elapsed(),
                error: answer.as_ref().err(),
            });
        }
        answer
    }
}
