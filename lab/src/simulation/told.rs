//! Checks the invariants against what a process reports: by then the store shows it.

use tower_respond_async::{
    Scope,
    store::Delete,
    task::{
        RequestId, TaskState,
        lifecycle::{Rescue, Stop},
    },
};

use super::{
    known::{Gone, Settlement},
    world::World,
};

impl World {
    /// A process reports that its settlement was accepted.
    pub(super) fn told_settled(&mut self, process: u32, id: RequestId, state: TaskState) {
        self.note(format_args!("{id} is {state}, as process {process} is told"));
        let as_told = self
            .settled_by(process, id)
            .any(|settled| settled.is_some_and(|it| it.state == state));
        self.check(7, as_told, format_args!("{id} is not {state} as its holder was told"));
    }

    /// A process reports that its claim was refused as old.
    pub(super) fn told_fenced(&mut self, process: u32, id: RequestId) {
        self.note(format_args!("{id} is fenced on process {process}"));
        if let Some(standing) = self.processes.get_mut(&process)
            && let Some(at) = standing.refused_logs.iter().position(|of| *of == id)
        {
            standing.refused_logs.swap_remove(at);
            return;
        }
        self.report.fenced += 1;
        let row = self.witness().row(&Scope::All, id);
        let known = self.known.get(&id);
        // The settlement was made, its answer was lost, and the task was changed after that: the store cannot recognise
        // it any more.
        let is_hidden = |token: u64| {
            let report = known.and_then(|known| known.asked.settle.get(&token));
            let settled = known.and_then(|known| known.settled.get(&token));
            settled.is_none_or(|settled| {
                let unanswered = report.is_some_and(|report| report.unanswered);
                unanswered && row.as_ref().is_none_or(|row| row.record != settled.record)
            })
        };
        let claims = self.processes.get(&process).map(|standing| &standing.claims);
        let mut tokens = claims.into_iter().flatten().filter(|((of, _), _)| *of == id);
        let rightly = tokens.any(|((_, token), _)| is_hidden(*token));
        self.check(7, rightly, format_args!("{id} was settled, and its holder fenced"));
    }

    fn settled_by(&self, process: u32, id: RequestId) -> impl Iterator<Item = Option<&Settlement>> {
        let claims = self.processes.get(&process).map(|standing| &standing.claims);
        let tokens = claims.into_iter().flatten().filter(move |((of, _), _)| *of == id);
        tokens.map(move |((_, token), _)| self.known.get(&id)?.settled.get(token))
    }

    pub(super) fn told_rescued(&mut self, id: RequestId, what: Rescue) {
        let Some(known) = self.known.get_mut(&id) else { return };
        known.rescued_told += 1;
        let rightly = known.rescued_told <= known.rescued;
        self.check(2, rightly, format_args!("{id} was not {what:?} as was told"));
    }

    pub(super) fn told_given_up(&mut self, id: RequestId) {
        let Some(known) = self.known.get_mut(&id) else { return };
        known.given_up_told += 1;
        let rightly = known.given_up_told <= known.given_up;
        self.check(6, rightly, format_args!("nobody gave up telling of {id}, as was told"));
    }

    pub(super) fn told_stopped(&self, id: RequestId, stop: Stop) {
        let Some(known) = self.known.get(&id) else { return };
        let as_told = match stop {
            Stop::Stopping | Stop::Stopped => known.stopped.is_some(),
            Stop::AlreadyEnded(state) => known.ends.values().any(|end| *end == state),
            _ => false,
        };
        self.check(8, as_told, format_args!("{id} is not {stop:?} as was told"));
    }

    pub(super) fn told_deleted(&self, id: RequestId, delete: Delete) {
        let Some(known) = self.known.get(&id) else { return };
        let as_told = delete != Delete::Deleted || known.gone == Some(Gone::Deleted);
        self.check(1, as_told, format_args!("{id} was not removed as was told"));
    }
}
