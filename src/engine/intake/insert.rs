//! Inserts tasks, and makes room for them if the store is full.

use std::sync::Arc;

use crate::{
    engine::{intake::Intake, outbox::give_up::MANY},
    store::{FullReason, Insert, Inserted, NewRow, Reply},
};

impl Intake {
    /// Inserts a task. If the store has no room, gives up completions of silent receivers that take more than their
    /// share, and tries again.
    pub(crate) fn insert(self: &Arc<Self>, insert: Insert) -> Reply<'static, Inserted> {
        if !self.core.queue_hint(None, None).crowded {
            return self.core.ledger.insert(insert);
        }
        let (intake, again) = (self.clone(), insert.clone());
        let inserting = self.core.ledger.insert(insert);
        Reply::later(async move {
            match inserting.await {
                Ok(inserted) if is_without_room(&inserted) => {}
                answer => return answer,
            }
            match intake.has_given_up().await {
                true => intake.core.ledger.insert(again).await,
                false => Ok(Inserted::Full(FullReason::Storage)),
            }
        })
    }

    /// Inserts many tasks. Those for which the store has no room are tried again like a single one.
    pub(crate) fn insert_all(self: &Arc<Self>, rows: Vec<NewRow>) -> Reply<'static, Vec<Inserted>> {
        if !self.core.queue_hint(None, None).crowded {
            return self.core.ledger.insert_rows(rows);
        }
        let (intake, again) = (self.clone(), rows.clone());
        let inserting = self.core.ledger.insert_rows(rows);
        Reply::later(async move {
            let mut inserted = inserting.await?;
            if inserted.iter().any(is_without_room) && intake.has_given_up().await {
                let of_each = inserted.iter().zip(again).enumerate();
                let without_room = of_each.filter(|(_, (inserted, _))| is_without_room(inserted));
                let (indices, again): (Vec<_>, _) = without_room.map(|(index, (_, row))| (index, row)).unzip();
                for (index, answer) in indices.into_iter().zip(intake.core.ledger.insert_rows(again).await?) {
                    inserted[index] = answer;
                }
            }
            Ok(inserted)
        })
    }

    /// Gives up completions to make room. Returns whether there were any.
    async fn has_given_up(&self) -> bool {
        // The error was reported to the probes already. The insert keeps its first answer.
        self.outbox.give_up_crowded(MANY).await.is_ok_and(|tasks| tasks > 0)
    }
}

const fn is_without_room(inserted: &Inserted) -> bool {
    matches!(inserted, Inserted::Full(FullReason::Storage))
}
