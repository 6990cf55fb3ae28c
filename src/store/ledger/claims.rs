//! Claiming tasks, and finding claims whose answer was lost.

use std::{sync::Arc, time::Duration};

use super::{Claimed, ClaimedTask, Held, LEFT_ALONE, Ledger, LostClaim, TakenUp, decoded, source_of};
use crate::{
    store::{Change, Claim, ClaimedRow, Part, Renewal, Row, StoreError, StoreErrorKind, StoreResult, Which},
    task::{CapturedRequest, LeaseRef, RequestId, Scope, TaskRecord, WorkerId, lifecycle::Outcome},
};

impl Ledger {
    /// Takes runnable tasks for a worker. One whose request cannot be read ends as `Invalid` instead.
    pub async fn claim(&self, claim: Claim) -> StoreResult<Claimed> {
        let claims = self.store.claim(claim).await?;
        let mut claimed = Claimed {
            tasks: Vec::with_capacity(claims.tasks.len()),
            next_due: claims.next_due,
            passed_over: claims.passed_over,
            control: claims.control,
            unreadable: Vec::new(),
        };
        for found in claims.tasks {
            let id = found.row.id;
            match self.readable(found).await? {
                Some(task) => claimed.tasks.push(task),
                None => claimed.unreadable.push(id),
            }
        }
        Ok(claimed)
    }

    /// Finds claims of `worker` whose answers were lost: of what it holds, what `is_known` does not know of. What was born claimed is
    /// left to [`look_for`](Self::look_for). They hold for `lease` from when this was called, and are
    /// [taken up](Self::take_up) one by one.
    ///
    /// No claim of this worker may be under way meanwhile, and no other process may go by the same [`WorkerId`]: what that holds
    /// would be found as well. After an error some may hold for `lease` all the same.
    pub async fn lost_claims(
        &self,
        worker: &WorkerId,
        lease: Duration,
        is_known: impl Fn(LeaseRef) -> bool,
    ) -> StoreResult<Vec<LostClaim>> {
        let held = Which::HeldBy(worker.clone());
        let mut lost = self.store.rows(&Scope::All, &held).await?;
        lost.retain(|row| !row.was_born_claimed() && !is_known(row.lease()));
        if lost.is_empty() {
            return Ok(Vec::new());
        }
        let renewals = self.store.renew(lost.iter().map(Row::lease).collect(), lease).await?;
        let renewed = lost
            .into_iter()
            .zip(renewals)
            .filter_map(|(row, renewal)| match renewal {
                Renewal::Renewed { stop } => Some(LostClaim { row, stop }),
                Renewal::Lost => None,
            });
        Ok(renewed.collect())
    }

    /// Reads what is to be run under a claim that was lost. After an error it may be asked again.
    pub async fn take_up(&self, lost: &LostClaim) -> StoreResult<TakenUp> {
        let row = lost.row.clone();
        if lost.stop {
            return Ok(TakenUp::ToStop(Held::of(row).1));
        }
        let request = match self.store.payload(&Scope::All, row.id, Part::Request).await {
            Err(error) if error.kind() == StoreErrorKind::Unavailable => return Err(error),
            request => request.and_then(|request| request.ok_or_else(StoreError::not_found)),
        };
        let id = row.id;
        let task = self.readable(ClaimedRow::new(row, request)).await?;
        Ok(task.map_or(TakenUp::Unreadable(id), TakenUp::Task))
    }

    /// What was claimed. One whose request cannot be read ends.
    async fn readable(&self, found: ClaimedRow) -> StoreResult<Option<ClaimedTask>> {
        let request = found
            .request
            .and_then(|payload| decoded(found.row.id, CapturedRequest::from_payload(payload)));
        match request {
            Ok(request) => Ok(Some(ClaimedTask::new(found.row, Arc::new(request)))),
            Err(reason) => self.set_aside(found.row, &reason).await.map(|()| None),
        }
    }

    /// Ends a claimed task whose request cannot be read, or leaves it to a newer build that can.
    async fn set_aside(&self, mut row: Row, reason: &StoreError) -> StoreResult<()> {
        let now = self.store.now();
        // What was written last: nothing was begun under this claim.
        let mut record = TaskRecord::clone(&row.record);
        let change = match reason.kind() {
            StoreErrorKind::Incompatible => {
                let restored = Arc::make_mut(row.restore());
                // Held by this very claim, so it is accepted.
                let _ = restored.settle(restored.token, &Outcome::Released, now);
                restored.life.run_at = now.saturating_add(LEFT_ALONE);
                Change::between(&row, row.record.clone(), now)
            }
            _ => {
                record.life.token = row.columns.token;
                let why = source_of(reason);
                record.invalidate(&format_args!("its request cannot be read: {why}"), now);
                Change::between(&row, Arc::new(record), now)
            }
        };
        // Stale, somebody else has taken care of it.
        self.store.commit(change).await.map(|_| ())
    }

    /// Looks for a task whose insert or claim was not answered: none if it is not there, and else the claim, if `worker`
    /// holds it.
    pub async fn look_for(
        &self,
        worker: &WorkerId,
        id: RequestId,
    ) -> StoreResult<Option<Option<(Arc<TaskRecord>, Held)>>> {
        let row = self.row(&Scope::All, id).await?;
        let is_ours = |row: &Row| row.columns.is_held() && row.columns.worker.as_ref() == Some(worker);
        Ok(row.map(|row| is_ours(&row).then(|| Held::of(row))))
    }
}
