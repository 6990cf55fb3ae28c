//! What is asked of the writer, and how much of it goes into one commit.
//!
//! # Why it lets others run before it calls a commit full
//!
//! Whoever was answered has often something to ask again at once. Most of them need a moment of a core for that, and
//! the writer, which wakes them one after the other, has one itself: without more ado 64 callers that ask again and
//! again fall into two halves, and each commit finds one of them. So operations are taken one by one while the commit
//! is being put together, up to its end; and when there are none left but fewer have come than were answered last, the
//! writer gives its core away once. That is no wait for anybody: nobody who is alone pays for it, and where cores are
//! free it takes as long as a system call.

use std::{thread, time::Duration};

use tokio::{runtime::Runtime, sync::mpsc, time::timeout};

use crate::job::Job;

/// How many operations may wait for the writer before their callers wait to be let in: a few batches, so that a caller
/// which gives up has not left much behind.
pub(crate) const WAITING: usize = 1024;

/// How many operations go into one commit: at 10 µs each the last of them waits 2.5 ms for the others.
const BATCH: usize = 256;

/// How long nobody must ask for anything before the file is [marked](super::writer): long beside the millisecond or so
/// that this takes, so that what comes is seldom kept waiting by it; short beside the time for which a process is at
/// rest.
const IDLE: Duration = Duration::from_millis(100);

/// What the writer is told.
pub(crate) enum Message {
    /// Something to do.
    Do(Box<dyn Job>),
    /// Finish what has been asked, and let go of the file.
    Close,
}

/// What the writer waited for.
pub(crate) enum Waited {
    /// There is something to do.
    Asked(Box<dyn Job>),
    /// There has been nothing for [`IDLE`].
    Idle,
    /// There will be nothing any more.
    Over,
}

pub(crate) struct Inbox {
    messages: mpsc::Receiver<Message>,
    /// How many may well come at once: as many as were answered last. 0 once others were let run for them.
    expected: usize,
}

impl Inbox {
    pub(crate) const fn new(messages: mpsc::Receiver<Message>) -> Self {
        Self { messages, expected: 0 }
    }

    /// Waits for the first operation of a commit. `timer` has a clock and nothing else.
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

    /// The next operation of a commit that has so many, if it takes more and there is one.
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

    /// So many have been answered.
    pub(crate) const fn answered(&mut self, count: usize) {
        self.expected = count;
    }

    /// What is asked already.
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
    fn a_commit_goes_on_without_those_who_do_not_come_back() {
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
