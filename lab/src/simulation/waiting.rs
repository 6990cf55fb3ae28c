//! Callers that wait for a task to end. Without faults, they get the end soon.

use std::time::Duration;

use tower_respond_async::{RequestId, TaskRecord, Tasks};

use super::{
    standing::Standing,
    world::{Shared, World},
};

/// How soon a waiter gets an end after the faults have stopped. A process without news checks every second, and does
/// not use a store that was in trouble for ten seconds at most.
const SOON: Duration = Duration::from_secs(15);

/// A waiter on a process.
pub(super) struct Waits {
    pub(super) id: RequestId,
    process: u32,
    /// Since when the task has ended, without faults and with its process awake.
    ended: Option<Duration>,
}

/// Follows a task to its end.
pub(super) async fn wait(shared: Shared, process: u32, id: RequestId, tasks: Tasks) {
    let mut changes = tasks.subscribe(id);
    let mut last = None;
    loop {
        match changes.next().await {
            Ok(Some(record)) => last = Some(record),
            Ok(None) => break,
            // Asking again continues.
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
    // The task ended, or is gone, or the process is shutting down.
    shared.enter(process).heard(process, id, last.as_deref());
}

impl World {
    /// A waiter begins to wait.
    pub(super) fn waits(&mut self, id: RequestId, process: u32) {
        self.waiting.push(Waits {
            id,
            process,
            ended: None,
        });
    }

    /// A waiter's subscription has ended.
    fn heard(&mut self, process: u32, id: RequestId, last: Option<&TaskRecord>) {
        let mut waiting = self.waiting.iter();
        if let Some(at) = waiting.position(|waits| (waits.id, waits.process) == (id, process)) {
            self.waiting.swap_remove(at);
        }
        let Some(record) = last.filter(|record| record.state.is_terminal()) else {
            return;
        };
        self.report.watched += 1;
        let known = self.known.get(&id);
        let as_told = known.is_some_and(|known| known.ends.get(&record.generation) == Some(&record.state));
        self.check(
            4,
            as_told,
            format_args!("who waits for {id} is told that it is {}", record.state),
        );
    }

    /// Checks that no waiter still waits for a task that has ended.
    pub(super) fn check_waiting(&mut self) {
        let (now, faults_on) = (self.now, self.faults_on);
        let (known, processes) = (&self.known, &self.processes);
        self.waiting.retain(|waits| processes.contains_key(&waits.process));
        let mut late = None;
        for waits in &mut self.waiting {
            let has_ended = known
                .get(&waits.id)
                .is_some_and(|known| known.gone.is_some() || known.ends.contains_key(&known.generation));
            let awake = processes.get(&waits.process).is_some_and(Standing::is_awake);
            match waits.ended {
                Some(since) if has_ended && awake && !faults_on => {
                    if now > since + SOON {
                        late = Some(waits.id);
                    }
                }
                _ => waits.ended = (has_ended && awake && !faults_on).then_some(now),
            }
        }
        if let Some(id) = late {
            self.fail(2, format_args!("somebody waits for {id}, which ended long ago"));
        }
    }
}
