//! The only thread that writes.
//!
//! # Why one thread, and why it does not wait
//!
//! A commit costs the same for one operation as for a hundred: most of it is waiting for the disk. So the writer takes
//! one operation, together with all that came while it was busy or come [while it works on them](super::inbox), and
//! makes one durable commit. A lone operation does not wait; under load, batches form by themselves. Waiting for more
//! operations would only add to the latency of the first.
//!
//! The operations of a batch run one after the other, and each sees the changes of those before it. The single thread
//! also makes every operation atomic, since there is no other writer.
//!
//! # Why it writes once more when it is idle
//!
//! After a kill, redb reads the whole file to find out which pages are in use, unless the last commit wrote this down.
//! That makes a commit up to two thirds more expensive, which is too much under load. When no operation has come for a
//! moment, it delays nothing, so the writer marks the file then. A file that is killed while idle opens at once.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    thread,
};

use redb::WriteTransaction;
use tokio::{runtime::Runtime, sync::watch};

use crate::{
    QuickRepair,
    batch::Batch,
    fault::Failure,
    inbox::{Inbox, Waited},
    inner::Inner,
    job::Job,
    tables::Tables,
};
/// Runs until the queue is closed, then closes the file. `timer` is a runtime with timers only.
pub(crate) fn run(mut inbox: Inbox, timer: &Runtime, inner: &Arc<Inner>, done: &watch::Sender<bool>) {
    let marks = inner.quick_repair == QuickRepair::WhenIdle;
    // Opening the file has written to it.
    let mut unmarked = true;
    loop {
        match inbox.wait(timer, marks && unmarked) {
            Waited::Asked(job) => unmarked |= commit(inner, job, &mut inbox),
            Waited::Idle => {
                mark(inner);
                unmarked = false;
            }
            Waited::Over => break,
        }
    }
    inner.let_go();
    // Fails if nothing waits for it.
    let _ = done.send(true);
}

/// Writes into the file which of its pages are in use.
fn mark(inner: &Inner) {
    if inner.failure().is_some() {
        return;
    }
    let marked = catch_unwind(AssertUnwindSafe(|| {
        let database = inner.database();
        let Some(database) = &*database else { return Ok(()) };
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        Ok::<_, redb::Error>(transaction.commit()?)
    }));
    match marked {
        Ok(Ok(())) => {}
        Ok(Err(error)) => inner.fail(Failure::of_error(&error)),
        Err(panic) => inner.fail(Failure::of_panic(&*panic)),
    }
}

/// Commits `first` together with the other operations in the queue. Returns whether anything was written.
fn commit(inner: &Inner, first: Box<dyn Job>, inbox: &mut Inbox) -> bool {
    if let Some(failure) = inner.failure() {
        first.answer(Some(failure.since()));
        return false;
    }
    let mut jobs = vec![first];
    let failure = match catch_unwind(AssertUnwindSafe(|| transact(inner, &mut jobs, inbox))) {
        Ok(Ok(done)) => {
            inbox.answered(jobs.len());
            for job in jobs {
                job.answer(None);
            }
            if done.work {
                inner.news.work();
            }
            return done.written;
        }
        Ok(Err(error)) => Failure::of_error(&error),
        Err(panic) => Failure::of_panic(&*panic),
    };
    inner.fail(failure.clone());
    for job in jobs {
        job.answer(Some(failure.at_first()));
    }
    false
}

/// The result of a batch.
struct Done {
    written: bool,
    /// A task may have become runnable.
    work: bool,
}

/// Runs the jobs, and more from the inbox, in one durable commit.
fn transact(inner: &Inner, jobs: &mut Vec<Box<dyn Job>>, inbox: &mut Inbox) -> Result<Done, redb::Error> {
    let database = inner.database();
    let Some(database) = &*database else {
        return Err(redb::Error::DatabaseClosed);
    };
    // redb's default durability: the commit is durable when it returns.
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(inner.quick_repair == QuickRepair::Always);
    let done = match perform(inner, &transaction, jobs, inbox) {
        Ok(done) => done?,
        Err(panic) => {
            // Dropped after the unwinding, like the tables.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(transaction)));
            resume_unwind(panic);
        }
    };
    match done.written {
        true => transaction.commit()?,
        false => transaction.abort()?,
    }
    Ok(done)
}

/// Runs all jobs, without the commit.
fn perform(
    inner: &Inner,
    transaction: &WriteTransaction,
    jobs: &mut Vec<Box<dyn Job>>,
    inbox: &mut Inbox,
) -> thread::Result<Result<Done, redb::Error>> {
    let mut batch = Batch::new(Tables::new(transaction), &inner.ram, &*inner.clock);
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut done = 0;
        while let Some(job) = jobs.get_mut(done) {
            job.run(&mut batch)?;
            done += 1;
            jobs.extend(inbox.more(done));
        }
        Ok(Done {
            written: batch.dirty,
            work: batch.work,
        })
    }));
    batch.tables.close();
    done
}
