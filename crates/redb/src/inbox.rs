//! The queue of operations for the writer, and how many of them go into one commit.
//!
//! # Why the writer yields before it commits
//!
//! A caller that got its answer often sends its next operation at once. For that it needs a core for a moment, and the
//! writer, which wakes the callers one after the other, occupies one itself. Without a remedy, 64 callers in a loop
//! split into two halves, and each commit contains only one half. So the writer takes operations one by one until the
//! commit is full. If the queue is empty, but fewer operations have come than were answered last time, the writer
//! yields its core once. A lone caller does not pay for that, and where cores are free, the yield takes as long as a
//! system call.

use std::{thread, time::Duration};

use tokio::{runtime::Runtime, sync::mpsc, time::timeout};

use crate::job::Job;

/// How many operations the queue holds; further callers wait for room in it. A few batches, so that callers which give
/// up leave little work behind.
pub(crate) const WAITING: usize = 1024;

/// How many operations go into one commit. At 10 µs each, the last adds 2.5 ms to the latency of the first.
const BATCH: usize = 256;

/// How long the queue must be empty before the writer [marks](super::writer) the file. Long compared with the
/// millisecond or so that marking takes, so that it seldom delays an operation; short compared with the time for which
/// a process is idle.
const IDLE: Duration = Duration::from_millis(100);

/// A message to the writer.
pub(crate) enum Message {
    /// An operation.
    Do(Box<dyn Job>),
    /// Finish the operations in the queue, and close the file.
    Close,
}

/// How a wait of the writer ended.
pub(crate) enum Waited {
    /// An operation came.
    Asked(Box<dyn Job>),
    /// No operation came for [`IDLE`].
    Idle,
    /// The queue is closed and empty.
    Over,
}

pub(crate) struct Inbox {
    messages: mpsc::Receiver<Message>,
    /// How many operations are expected at once: as many as were answered last. 0 after the writer has yielded for
    /// them.
    expected: usize,
}

impl Inbox {
    pub(crate) const fn new(messages: mpsc::Receiver<Message>) -> Self {
        Self { messages, expected: 0 }
    }

    /// Waits for the first operation of a commit. `timer` is a runtime with timers only.
    pub(crate) fn wait(&mut self, timer: &Runtime, tells_idle: bool) -> Waited {
        if let Some(job) = self.next() {
            return Waited::Asked(job);
        }
        loop {
            let message = match tells_idle {
                true => match timer.block_on(async { timeout(IDLE, self.messages.recv()).await }) {
                    Ok(message) => message,
                    Err(_) => return Waited::Idle,
                },
                false => self.messages.blocking_recv(),
            };
            match message {
                Some(Message::Do(job)) => return Waited::Asked(job),
                Some(Message::Close) => self.messages.close(),
                None => return Waited::Over,
            }
        }
    }

    /// The next operation for a commit that has `has` operations, if there is room and there is one.
    pub(crate) fn more(&mut self, has: usize) -> Option<Box<dyn Job>> {
        if has >= BATCH {
            return None;
        }
        let next = self.next();
        if next.is_some() || has >= self.expected {
            return next;
        }
        self.expected = 0;
        thread::yield_now();
        self.next()
    }

    /// Notes how many operations the last commit answered.
    pub(crate) const fn answered(&mut self, count: usize) {
        self.expected = count;
    }

    /// The first operation in the queue, without waiting.
    fn next(&mut self) -> Option<Box<dyn Job>> {
        loop {
            match self.messages.try_recv().ok()? {
                Message::Do(job) => return Some(job),
                Message::Close => self.messages.close(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Batch;
    use tower_respond_async::store::StoreError;

    struct Nothing;

    impl Job for Nothing {
        fn run(&mut self, _: &mut Batch<'_>) -> Result<(), redb::Error> {
            Ok(())
        }

        fn answer(self: Box<Self>, _: Option<StoreError>) {}
    }

    fn inbox(asked: usize) -> (mpsc::Sender<Message>, Inbox) {
        let (sender, messages) = mpsc::channel(WAITING);
        for _ in 0..asked {
            sender.try_send(Message::Do(Box::new(Nothing))).ok().unwrap();
        }
        (sender, Inbox::new(messages))
    }

    #[test]
    fn a_commit_takes_what_is_asked_up_to_its_bound() {
        let (_sender, mut inbox) = inbox(BATCH + 1);
        inbox.answered(BATCH + 1);
        let taken = (0..).take_while(|has| inbox.more(*has).is_some()).count();
        assert_eq!(taken, BATCH);
        assert!(inbox.more(0).is_some(), "the next commit takes the others");
    }

    #[test]
    fn a_commit_does_not_wait_for_callers_that_do_not_come_back() {
        let (_sender, mut inbox) = inbox(0);
        inbox.answered(64);
        assert!(inbox.more(1).is_none());
        assert_eq!(inbox.expected, 0, "others were let run once, and are not again");
    }

    #[test]
    fn what_was_asked_before_the_end_is_done_before_it() {
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let (sender, mut inbox) = inbox(2);
        sender.try_send(Message::Close).ok().unwrap();
        for _ in 0..2 {
            assert!(matches!(inbox.wait(timer.as_ref().unwrap(), true), Waited::Asked(_)));
        }
        assert!(matches!(inbox.wait(timer.as_ref().unwrap(), true), Waited::Over));
        assert!(
            sender.try_send(Message::Close).is_err(),
            "nothing can be asked any more"
        );
    }
}
