//! The store as one process uses it. Calls and answers are recorded by process here, and so what the process may do.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use tower_respond_async::{
    error::BoxFuture,
    forward_store,
    store::{
        Abilities, Change, Claim, ClaimedOutbox, Claims, Committed, DeliveryClaim, Guard, Insertion, NewRow, News,
        Operation, Renewal, Reply, Row, StoreResult, TaskStore, Which,
    },
    task::{LeaseRef, LogLine, RequestId, Scope},
};

use super::{
    gate::{Arrival, Faulty, Parked},
    known::Report,
    standing::Fate,
    world::{BUDGET, HOLDS, Shared, World},
};

/// A process's access to the store. It ends with the process: calls of a dead process reach nothing.
pub(super) struct Tap {
    pub(super) shared: Shared,
    pub(super) process: u32,
    pub(super) store: Arc<Faulty>,
    /// Its own handle, if the store is shared. It gives news of what other processes do.
    pub(super) handle: Option<Arc<dyn TaskStore>>,
    /// Whether its news arrive.
    pub(super) is_told: bool,
}

impl Tap {
    /// The handle for news and other calls outside the faults.
    fn store(&self) -> &dyn TaskStore {
        match &self.handle {
            Some(handle) => &**handle,
            None => &*self.store,
        }
    }

    fn now(&self) -> Duration {
        self.shared.enter(self.process).now
    }

    fn forward<T: Send + 'static>(
        &self,
        operation: Operation,
        call: impl FnOnce(Arc<Faulty>) -> Reply<'static, T> + Send + 'static,
    ) -> Reply<'static, T> {
        let mut world = self.shared.enter(self.process);
        let answer = match world.arrival(self.process, operation) {
            Arrival::Never => return Reply::later(std::future::pending()),
            Arrival::Now => {
                drop(world);
                call(self.store.clone())
            }
            Arrival::Parked => {
                let is_frozen = world.processes.get(&self.process).is_some_and(|it| !it.is_awake());
                let (parked, answer) = Parked::new(self.process, is_frozen, self.store.clone(), call);
                world.parked.push(parked);
                answer
            }
        };
        let (shared, process) = (self.shared.clone(), self.process);
        Reply::later(async move {
            let mut answer = answer;
            let mut polled = false;
            let answer = std::future::poll_fn(|cx| {
                let answer = Pin::new(&mut answer).poll(cx);
                let mut world = shared.enter(process);
                world.look_at_what_was_done();
                if answer.is_pending() && !polled {
                    polled = true;
                    world.report.held_calls += 1;
                }
                answer
            })
            .await;
            if answer.is_err() {
                shared.enter(process).report.failed_calls += 1;
            }
            answer
        })
    }

    /// Records an insert before it is answered.
    fn asks_to_insert(&self, tasks: &[NewRow]) -> Duration {
        let mut world = self.shared.enter(self.process);
        let now = world.now;
        if let Some(standing) = world.processes.get_mut(&self.process) {
            let claimed = tasks.iter().filter(|task| task.claim.is_some());
            standing.inserted.extend(claimed.map(|task| (task.record.id, now)));
        }
        now
    }

    fn told_inserted(&self, insertions: &[Insertion], asked: Duration) {
        let held = insertions.iter().filter_map(|insertion| match insertion {
            Insertion::New(row) => row.columns.is_held().then(|| row.lease()),
            _ => None,
        });
        let held: Vec<_> = held.collect();
        self.told_of(&held, asked);
    }

    /// Records claims that were received, and asked for at `asked`.
    fn told_of(&self, leases: &[LeaseRef], asked: Duration) {
        let mut world = self.shared.enter(self.process);
        let now = world.now;
        if let Some(standing) = world.processes.get_mut(&self.process) {
            standing.told_of(leases, asked, now);
        }
    }

    fn buffers(&self, bytes: usize) {
        let mut world = self.shared.enter(self.process);
        let Some(standing) = world.processes.get_mut(&self.process) else {
            return;
        };
        standing.buffered += bytes;
        let buffered = standing.buffered;
        world.check(
            11,
            buffered <= BUDGET,
            format_args!("{buffered} bytes wait to be stored"),
        );
    }
}

impl TaskStore for Tap {
    forward_store!(
        now queue_hint due commit_all list counts payload set_progress logs prune_keys attend glance beat control
        close
    );

    fn abilities(&self) -> Abilities {
        let mut abilities = self.store().abilities();
        abilities.notifies &= self.is_told && self.handle.is_some();
        abilities
    }

    fn news(&self) -> BoxFuture<'_, News> {
        match &self.handle {
            Some(handle) if self.is_told => handle.news(),
            // News of a store that is not shared come from its own thread, at no fixed time.
            _ => Box::pin(std::future::pending()),
        }
    }

    fn insert(self: Arc<Self>, task: NewRow) -> Reply<'static, Insertion> {
        let bytes = task.request.body().len();
        self.buffers(bytes);
        let asked = self.asks_to_insert(std::slice::from_ref(&task));
        let asking = self.forward(Operation::Insert, |store| {
            Reply::later(async move { store.insert(task).await })
        });
        Reply::later(async move {
            let answer = asking.await;
            self.shared.enter(self.process).stored(self.process, bytes);
            if let Ok(insertion) = &answer {
                self.told_inserted(std::slice::from_ref(insertion), asked);
            }
            answer
        })
    }

    fn insert_all(self: Arc<Self>, tasks: Vec<NewRow>) -> Reply<'static, Vec<Insertion>> {
        let asked = self.asks_to_insert(&tasks);
        let asking = self.forward(Operation::InsertAll, |store| {
            Reply::later(async move { store.insert_all(tasks).await })
        });
        Reply::later(async move {
            let answer = asking.await;
            if let Ok(insertions) = &answer {
                self.told_inserted(insertions, asked);
            }
            answer
        })
    }

    fn rows<'a>(&'a self, scope: &'a Scope, which: &'a Which) -> Reply<'a, Vec<Row>> {
        let is_of_its_own = matches!(which, Which::HeldBy(_));
        let (scope, which) = (scope.clone(), which.clone());
        let asking = self.forward(Operation::Rows, |store| {
            Reply::later(async move { store.rows(&scope, &which).await })
        });
        Reply::later(async move {
            let answer = asking.await;
            if is_of_its_own && let Ok(rows) = &answer {
                let mut world = self.shared.enter(self.process);
                if let Some(standing) = world.processes.get_mut(&self.process) {
                    rows.iter().map(Row::lease).for_each(|lease| standing.found(lease));
                }
            }
            answer
        })
    }

    fn claim(&self, claim: Claim) -> Reply<'_, Claims> {
        let asked = self.now();
        let asking = self.forward(Operation::Claim, |store| {
            Reply::later(async move { store.claim(claim).await })
        });
        Reply::later(async move {
            let answer = asking.await;
            if let Ok(claims) = &answer {
                let leases: Vec<_> = claims.tasks.iter().map(|task| task.row.lease()).collect();
                self.told_of(&leases, asked);
            }
            answer
        })
    }

    fn commit(&self, change: Change) -> Reply<'_, Committed> {
        let lease = self.shared.enter(self.process).asks_to_commit(self.process, &change);
        let asking = self.forward(Operation::Commit, |store| {
            Reply::later(async move { store.commit(change).await })
        });
        Reply::later(async move {
            let answer = asking.await;
            if let Some(lease) = lease {
                let mut world = self.shared.enter(self.process);
                world.told_of_commit(self.process, lease, &answer);
            }
            answer
        })
    }

    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> Reply<'_, Vec<Renewal>> {
        let (asked, of) = (self.now(), leases.clone());
        let asking = self.forward(Operation::Renew, move |store| {
            Reply::later(async move { store.renew(leases, lease).await })
        });
        Reply::later(async move {
            let answer = asking.await;
            if let Ok(renewals) = &answer {
                let mut world = self.shared.enter(self.process);
                for (lease, renewal) in of.into_iter().zip(renewals) {
                    world.told_renewed(self.process, lease, *renewal, asked);
                }
            }
            answer
        })
    }

    fn append_log(&self, lease: LeaseRef, lines: Vec<LogLine>) -> Reply<'_, bool> {
        let asking = self.forward(Operation::AppendLog, move |store| {
            Reply::later(async move { store.append_log(lease, lines).await })
        });
        Reply::later(async move {
            let answer = asking.await;
            if let Ok(false) = answer {
                self.shared.enter(self.process).log_refused(self.process, lease.id);
            }
            answer
        })
    }

    fn claim_deliveries(&self, claim: DeliveryClaim) -> Reply<'_, Vec<ClaimedOutbox>> {
        let asking = self.forward(Operation::ClaimDeliveries, |store| {
            Reply::later(async move { store.claim_deliveries(claim).await })
        });
        Reply::later(async move {
            let answer = asking.await;
            if let Ok(claimed) = &answer {
                let mut world = self.shared.enter(self.process);
                world.told_of_deliveries(self.process, claimed);
            }
            answer
        })
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

impl World {
    fn stored(&mut self, process: u32, bytes: usize) {
        if let Some(standing) = self.processes.get_mut(&process) {
            standing.buffered -= bytes;
        }
    }

    fn log_refused(&mut self, process: u32, id: RequestId) {
        if let Some(standing) = self.processes.get_mut(&process) {
            standing.refused_logs.push(id);
        }
    }

    /// Records a change that a process asks for. Answers with the claim that it settles, if any.
    fn asks_to_commit(&mut self, process: u32, change: &Change) -> Option<(RequestId, u64)> {
        let (id, now) = (change.id, self.now);
        let known = self.known.get_mut(&id)?;
        let standing = self.processes.get_mut(&process)?;
        if let Some(tries) = standing.deliveries.get(&id) {
            known.asked.deliver.extend(tries.iter().cloned());
        }
        // The version that the change was decided on shows whether the task was held then.
        let Guard::Version(version) = change.guard else {
            return None;
        };
        let token = *known.held.get(&version)?;
        if change.to.as_ref().is_none_or(|next| next.columns.is_held()) {
            return None;
        }
        let is_closing = standing.is_closing;
        let Some(held) = standing.claim((id, token)) else {
            self.fail(
                7,
                format_args!("{id} is settled by process {process}, which does not hold it"),
            );
            return None;
        };
        held.take();
        let (fate, until) = (held.fate, held.settle_until);
        // A claim that was not begun may be handed back for as long as the store accepts it.
        let may = held.was_stale || fate == Fate::NotBegun || now < until;
        held.was_stale = false;
        let report = Report {
            released: fate == Fate::NotBegun || is_closing,
            deferred: fate == Fate::Deferred,
            unanswered: true,
        };
        known.asked.settle.insert(token, report);
        self.check(
            7,
            may,
            format_args!("the end of {id} is reported past its deadline, {until:?}"),
        );
        Some((id, token))
    }

    fn told_of_commit(&mut self, process: u32, lease: (RequestId, u64), answer: &StoreResult<Committed>) {
        let Ok(committed) = answer else { return };
        let held = self
            .processes
            .get_mut(&process)
            .and_then(|it| it.claims.get_mut(&lease));
        if let Some(held) = held {
            held.was_stale = matches!(committed, Committed::Stale(_));
        }
        if let Committed::Done = committed {
            let known = self.known.get_mut(&lease.0);
            if let Some(report) = known.and_then(|known| known.asked.settle.get_mut(&lease.1)) {
                report.unanswered = false;
            }
        }
    }

    fn told_renewed(&mut self, process: u32, lease: LeaseRef, renewal: Renewal, asked: Duration) {
        let (now, of) = (self.now, (lease.id, lease.token.get()));
        let Some(held) = self.processes.get_mut(&process).and_then(|it| it.claim(of)) else {
            self.fail(
                3,
                format_args!("process {process} renews a claim of {} that it has not", lease.id),
            );
            return;
        };
        match renewal {
            Renewal::Renewed { stop } => {
                let is_found = std::mem::take(&mut held.is_found);
                held.settle_until = held.settle_until.max(asked + HOLDS);
                held.work_until = held.settle_until;
                self.report.taken_up += u64::from(is_found);
                if stop {
                    self.told_to_stop(process, lease.id, Some(of.1));
                }
            }
            Renewal::Lost => held.work_until = held.work_until.min(now),
        }
    }

    fn told_of_deliveries(&mut self, process: u32, claimed: &[ClaimedOutbox]) {
        let Some(standing) = self.processes.get_mut(&process) else {
            return;
        };
        for found in claimed {
            let Some(row) = found.row.outbox_row(found.generation, &found.destination) else {
                continue;
            };
            let of = (found.generation, found.destination.clone(), row.token.get());
            standing.deliveries.entry(found.row.id).or_default().insert(of);
        }
    }
}
