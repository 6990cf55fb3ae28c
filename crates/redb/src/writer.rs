//! The one thread that writes.
//!
//! # Why one thread, and why it waits for nobody
//!
//! A commit costs the same for one operation as for a hundred: most of it is waiting for the disk. So the writer takes
//! one operation, and with it all that came while it was busy and [while it does them](super::inbox), and makes one
//! durable commit of them. Alone, an operation waits for nobody; under load, batches form by themselves. Waiting a
//! while for more to come would only add to the latency of the first.
//!
//! Operations of a batch are done one after the other and see each other's work, so the one thread is also what makes
//! every operation atomic: there is no other writer to race with.
//!
//! # Why it writes once more when there is nothing to do
//!
//! After a kill redb reads the whole file, to find out which pages are in use, unless the very last commit wrote that
//! down, which makes a commit up to two thirds dearer: too much for everybody who waits for it. Once nobody has asked for
//! anything for a moment it costs nobody anything: so a file that is killed at rest opens at once.

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
/// Works until there is nobody left to ask for anything, then lets go of the file. `timer` has a clock and nothing else.
pub(crate) fn run(mut inbox: Inbox, timer: &Runtime, inner: &Arc<Inner>, done: &watch::Sender<bool>) {
    let marks = inner.quick_repair == QuickRepair::WhenIdle;
    // Opening it has written to it.
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
    // Nobody may be waiting for it.
    let _ = done.send(true);
}

/// Has the file say which of its pages are in use, as of its last commit.
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

/// Does this and what else there is to do. Answers whether anything was written.
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

/// What came of a batch.
struct Done {
    written: bool,
    /// Something may be runnable now.
    work: bool,
}

/// Does the jobs in one durable commit, and more that the inbox has.
fn transact(inner: &Inner, jobs: &mut Vec<Box<dyn Job>>, inbox: &mut Inbox) -> Result<Done, redb::Error> {
    let database = inner.database();
    let Some(database) = &*database else {
        return Err(redb::Error::DatabaseClosed);
    };
    // Durable when it returns, which is redb's default.
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(inner.quick_repair == QuickRepair::Always);
    let done = match perform(inner, &transaction, jobs, inbox) {
        Ok(done) => done?,
        Err(panic) => {
            // Like the tables, it is dropped while nothing unwinds.
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

/// Does all jobs, up to the commit.
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
