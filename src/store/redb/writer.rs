//! The one thread that writes.
//!
//! # Why one thread, and why it waits for nobody
//!
//! A commit costs the same for one operation as for a hundred: most of it is waiting for the disk. So the writer takes
//! one operation, and with it all that came while it was busy, and makes one durable commit of them. Alone, an operation
//! waits for nobody; under load, batches form by themselves. Waiting a while for more to come would only add to the
//! latency of the first.
//!
//! Operations of a batch are done one after the other and see each other's work, so the one thread is also what makes
//! every operation atomic: there is no other writer to race with.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    thread,
};

use redb::WriteTransaction;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    batch::Batch,
    fault::{Failure, Fault},
    inner::Inner,
    tables::Tables,
};
use crate::store::{StoreError, StoreResult};

/// How many operations may wait for the writer before their callers wait to be let in: a few batches, so that a caller
/// which gives up has not left much behind.
pub(super) const WAITING: usize = 1024;

/// How many operations go into one commit: at 10 µs each the last of them waits 2.5 ms for the others.
const BATCH: usize = 256;

/// What the writer is told.
pub(super) enum Message {
    /// Something to do.
    Do(Box<dyn Job>),
    /// Finish what has been asked, and let go of the file.
    Close,
}

/// One operation, and whoever waits for its answer.
pub(super) trait Job: Send {
    /// Does it, as part of a batch. An error means that the batch cannot be committed.
    fn run(&mut self, batch: &mut Batch<'_>) -> Result<(), redb::Error>;

    /// Answers, once the batch is durable; or with what kept it from becoming so.
    fn answer(self: Box<Self>, failure: Option<StoreError>);
}

/// A job made of a closure, and the place where its answer is waited for.
pub(super) fn job<T, F>(work: F) -> (Box<dyn Job>, oneshot::Receiver<StoreResult<T>>)
where
    T: Send + 'static,
    F: FnOnce(&mut Batch<'_>) -> Result<T, Fault> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let job = Operation {
        work: Some(work),
        answer: None,
        reply,
    };
    (Box::new(job), answer)
}

struct Operation<F, T> {
    work: Option<F>,
    answer: Option<StoreResult<T>>,
    reply: oneshot::Sender<StoreResult<T>>,
}

impl<F, T> Job for Operation<F, T>
where
    T: Send,
    F: FnOnce(&mut Batch<'_>) -> Result<T, Fault> + Send,
{
    fn run(&mut self, batch: &mut Batch<'_>) -> Result<(), redb::Error> {
        // Taken, so that nothing is ever done twice.
        let Some(work) = self.work.take() else { return Ok(()) };
        self.answer = Some(match work(batch) {
            Ok(answer) => Ok(answer),
            Err(Fault::Answer(error)) => Err(error),
            Err(Fault::Broken(error)) => return Err(error),
        });
        Ok(())
    }

    fn answer(self: Box<Self>, failure: Option<StoreError>) {
        let answer = match (failure, self.answer) {
            (None, Some(answer)) => answer,
            (Some(failure), _) => Err(failure),
            (None, None) => Err(StoreError::closed()),
        };
        // Whoever asked may have given up.
        let _ = self.reply.send(answer);
    }
}

/// Works until there is nobody left to ask for anything, then lets go of the file.
pub(super) fn run(mut messages: mpsc::Receiver<Message>, inner: &Arc<Inner>, done: &watch::Sender<bool>) {
    while let Some(first) = messages.blocking_recv() {
        let mut jobs = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Do(job) => jobs.push(job),
                Message::Close => messages.close(),
            }
            next = if jobs.len() < BATCH {
                messages.try_recv().ok()
            } else {
                None
            };
        }
        commit(inner, jobs);
    }
    inner.let_go();
    // Nobody may be waiting for it.
    let _ = done.send(true);
}

fn commit(inner: &Inner, mut jobs: Vec<Box<dyn Job>>) {
    if jobs.is_empty() {
        return;
    }
    if let Some(failure) = inner.failure() {
        for job in jobs {
            job.answer(Some(failure.since()));
        }
        return;
    }
    let failure = match catch_unwind(AssertUnwindSafe(|| transact(inner, &mut jobs))) {
        Ok(Ok(work)) => {
            for job in jobs {
                job.answer(None);
            }
            if work {
                inner.ram.queue.notify();
            }
            return;
        }
        Ok(Err(error)) => Failure::of_error(&error),
        Err(panic) => Failure::of_panic(&*panic),
    };
    inner.fail(failure.clone());
    for job in jobs {
        job.answer(Some(failure.at_first()));
    }
}

/// Does all jobs in one durable commit, and answers whether something may be runnable now.
fn transact(inner: &Inner, jobs: &mut [Box<dyn Job>]) -> Result<bool, redb::Error> {
    let database = inner.database();
    let Some(database) = &*database else {
        return Err(redb::Error::DatabaseClosed);
    };
    // Durable when it returns, which is redb's default.
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(inner.quick_repair);
    let (dirty, work) = match perform(inner, &transaction, jobs) {
        Ok(done) => done?,
        Err(panic) => {
            // Like the tables, it is dropped while nothing unwinds.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(transaction)));
            resume_unwind(panic);
        }
    };
    match dirty {
        true => transaction.commit()?,
        false => transaction.abort()?,
    }
    Ok(work)
}

/// Does all jobs, and answers whether there is something to commit, and whether something may be runnable then.
fn perform(
    inner: &Inner,
    transaction: &WriteTransaction,
    jobs: &mut [Box<dyn Job>],
) -> thread::Result<Result<(bool, bool), redb::Error>> {
    let mut batch = Batch {
        tables: Tables::default(),
        ram: &inner.ram,
        clock: &*inner.clock,
        dirty: false,
        work: false,
    };
    let done = catch_unwind(AssertUnwindSafe(|| {
        batch.tables.open(transaction)?;
        jobs.iter_mut().try_for_each(|job| job.run(&mut batch))?;
        Ok((batch.dirty, batch.work))
    }));
    batch.tables.close();
    done
}
