//! Claims of tasks, and claims whose answers were lost.

use std::{sync::Arc, time::Duration};

use super::{Claimed, ClaimedTask, Held, LEFT_ALONE, Ledger, LostClaim, TakenUp, decoded, source_of};
use crate::{
    store::{Change, Claim, ClaimedRow, Part, Renewal, Row, StoreError, StoreErrorKind, StoreResult, Which},
    task::{CapturedRequest, LeaseRef, RequestId, Scope, TaskRecord, WorkerId, lifecycle::Outcome},
};

impl Ledger {
    /// Claims runnable tasks for a worker. A task whose request cannot be read ends as `Invalid`, or waits for a newer
    /// build.
    ///
    /// # Errors
    ///
    /// Any error of the store. Tasks may have been claimed then: [`lost_claims`](Self::lost_claims) finds them.
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

    /// Finds claims of `worker` whose answers were lost: the tasks that it holds, except those for which `is_known` is
    /// `true`. Tasks that were stored claimed are left to [`look_for`](Self::look_for). The claims that it finds are
    /// renewed for `lease`; [take up](Self::take_up) each of them.
    ///
    /// During the call, no claim of this worker may be under way: its tasks would be found as well. For the same reason
    /// no other process may use the same [`WorkerId`].
    ///
    /// # Errors
    ///
    /// Any error of the store. Some of the claims may have been renewed then.
    pub async fn lost_claims(
        &self,
        worker: &WorkerId,
        lease: Duration,
        is_known: impl Fn(LeaseRef) -> bool,
    ) -> StoreResult<Vec<LostClaim>> {
        let held = Which::HeldBy(worker.clone());
        let mut lost = self.store.rows(&Scope::All, &held).await?;
        lost.retain(|row| !row.was_stored_claimed() && !is_known(row.lease()));
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

    /// Reads what is to run under a claim that was lost.
    ///
    /// # Errors
    ///
    /// Any error of the store. The call can be repeated.
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

    /// The claimed task with its request. Sets the task aside if the request cannot be read.
    async fn readable(&self, found: ClaimedRow) -> StoreResult<Option<ClaimedTask>> {
        let request = found
            .request
            .and_then(|payload| decoded(found.row.id, CapturedRequest::from_payload(payload)));
        match request {
            Ok(request) => Ok(Some(ClaimedTask::new(found.row, Arc::new(request)))),
            Err(reason) => self.set_aside(found.row, &reason).await.map(|()| None),
        }
    }

    /// Ends a claimed task whose request cannot be read, or leaves it to a newer build that can read it.
    async fn set_aside(&self, mut row: Row, reason: &StoreError) -> StoreResult<()> {
        let now = self.store.now();
        // The record without this claim: no attempt has begun under it.
        let mut record = TaskRecord::clone(&row.record);
        let change = match reason.kind() {
            StoreErrorKind::Incompatible => {
                let restored = Arc::make_mut(row.restore());
                // This claim holds the task, so this cannot fail.
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
        // If the change is stale, another process has changed the task since.
        self.store.commit(change).await.map(|_| ())
    }

    /// Looks for a task whose insert or claim was not answered. `None` if there is no such task, `Some(None)` if
    /// `worker` does not hold it, and otherwise its record and claim.
    ///
    /// # Errors
    ///
    /// Any error of the store.
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
