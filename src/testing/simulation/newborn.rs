//! Tasks that are born claimed, and what becomes of them if the answer of their insert is late or lost.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    process::Process,
    world::{HOLDS, STORE_TIMEOUT, World},
};
use crate::{
    store::Held,
    task::{RequestId, TaskRecord},
};

/// An insert whose answer was lost is looked for.
pub(super) struct Search {
    pub(super) id: RequestId,
    pub(super) claimed_at: Instant,
    pub(super) pause: Duration,
    pub(super) next_at: Instant,
}

impl Process {
    /// What became of the insert of a task that was to be born claimed.
    pub(super) fn born(&mut self, world: &mut World, record: &TaskRecord, held: Held, claimed_at: Instant) {
        let had_slot = self.newborn.iter().any(|(id, _)| *id == record.id);
        self.not_born(record.id);
        match had_slot {
            true => self.start(world, record, held, claimed_at),
            false => self.hand_back(world, held),
        }
    }

    /// A task that was to be born claimed was not stored.
    pub(super) fn not_born(&mut self, id: RequestId) {
        self.newborn.retain(|(newborn, _)| *newborn != id);
    }

    /// The answer of an insert was lost, and with it perhaps a task that waits for this process and no other.
    pub(super) fn lost(&mut self, id: RequestId, claimed_at: Instant, now: Instant) {
        self.not_born(id);
        let pause = Duration::from_millis(50);
        self.searches.push(Search {
            id,
            claimed_at,
            pause,
            next_at: now + pause,
        });
    }

    pub(super) fn search(&mut self, world: &mut World, now: Instant) {
        let (due, later) = std::mem::take(&mut self.searches)
            .into_iter()
            .partition(|search| search.next_at <= now);
        self.searches = later;
        let due: Vec<Search> = due;
        for mut search in due.into_iter().filter(|search| now < search.claimed_at + HOLDS) {
            let (ledger, worker, id) = (world.ledger(), self.worker.clone(), search.id);
            let call = async move { ledger.look_for(&worker, id).await };
            self.ask_alone(world, Some(STORE_TIMEOUT), call, move |process, world, answer| {
                if let Ok(Some(claim)) = answer {
                    let runs = process.attempts.iter().any(|live| live.lease.id == id);
                    if let Some((record, held)) = claim.filter(|_| !runs) {
                        process.start_or_hand_back(world, &record, held, search.claimed_at);
                    }
                    return;
                }
                search.pause = (search.pause * 2).min(Duration::from_secs(2));
                search.next_at = world.now() + search.pause;
                process.searches.push(search);
            });
        }
    }
}
