//! Carries news between the handles of one store in one process.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::Notify;

use crate::{
    store::{Attention, News},
    task::RequestId,
};

/// How many tasks are kept for a handle until it takes its news: as many as a busy process changes in some tenths of a
/// second, in 64 KiB.
const KEPT: usize = 4096;

/// Connects the handles of one store. Clones are the same board.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{store::{Attention, kit::NewsBoard}, task::RequestId};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let board = NewsBoard::default();
/// let (here, there) = (board.handle(), board.handle());
/// there.attend(Attention::Changes);
///
/// let id = RequestId::from_bytes([7; 16]);
/// here.changed(id);
/// assert_eq!(there.news().await.changed, [id]);
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct NewsBoard(Arc<Board>);

#[derive(Debug, Default)]
struct Board {
    handles: RwLock<Vec<Weak<Inbox>>>,
    /// How many handles receive changes. Readable without the lock, because every change of a task reads it.
    attending: AtomicUsize,
}

/// One handle of a [`NewsBoard`]. Sends news to the other handles, and receives theirs.
///
/// See the example of [`NewsBoard`].
#[derive(Debug)]
pub struct NewsHandle {
    board: NewsBoard,
    inbox: Arc<Inbox>,
}

/// The news that one handle has received and not taken yet.
#[derive(Debug, Default)]
struct Inbox {
    news: Mutex<News>,
    attends: AtomicBool,
    received: Notify,
}

impl NewsBoard {
    /// A new handle. It receives news from now on, until it is dropped.
    #[must_use]
    pub fn handle(&self) -> NewsHandle {
        let inbox = Arc::new(Inbox::default());
        let mut handles = self.0.handles.write().unwrap_or_else(PoisonError::into_inner);
        handles.retain(|handle| handle.strong_count() > 0);
        handles.push(Arc::downgrade(&inbox));
        drop(handles);
        NewsHandle {
            board: self.clone(),
            inbox,
        }
    }

    /// Sends every handle the news that a task may have become runnable.
    pub fn work(&self) {
        self.send(None, |_, news| news.work = true);
    }

    /// Sends news to all handles but `except`.
    fn send(&self, except: Option<&Arc<Inbox>>, note: impl Fn(&Inbox, &mut News)) {
        let handles = self.0.handles.read().unwrap_or_else(PoisonError::into_inner);
        let others = handles.iter().filter_map(Weak::upgrade);
        for inbox in others.filter(|inbox| except.is_none_or(|own| !Arc::ptr_eq(own, inbox))) {
            inbox.note(|news| note(&inbox, news));
        }
    }
}

impl NewsHandle {
    /// Sets which news this handle receives.
    pub fn attend(&self, attention: Attention) {
        let attends = attention == Attention::Changes;
        if self.inbox.attends.swap(attends, Ordering::SeqCst) != attends {
            match attends {
                true => self.board.0.attending.fetch_add(1, Ordering::SeqCst),
                false => self.board.0.attending.fetch_sub(1, Ordering::SeqCst),
            };
        }
    }

    /// Resolves when there is news for this handle.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, nothing is lost: the next call answers with the same news.
    pub async fn news(&self) -> News {
        loop {
            let news = std::mem::take(&mut *self.inbox.news());
            if !news.is_empty() {
                return news;
            }
            self.inbox.received.notified().await;
        }
    }

    /// Sends every handle, this one included, the news that a task may have become runnable.
    pub fn work(&self) {
        self.board.work();
    }

    /// Sends the other handles the news that a completion is due.
    pub fn outbox(&self) {
        self.board.send(Some(&self.inbox), |_, news| news.outbox = true);
    }

    /// Sends the other handles the news that a named value has changed.
    pub fn control(&self) {
        self.board.send(Some(&self.inbox), |_, news| news.control = true);
    }

    /// Sends the other handles the news that a held task was asked to stop.
    pub fn stop(&self, id: RequestId) {
        self.board
            .send(Some(&self.inbox), |_, news| add_id(news, id, |news| &mut news.stops));
    }

    /// Sends the news that a task has changed to the other handles that receive changes. Costs one load if there are
    /// none.
    pub fn changed(&self, id: RequestId) {
        if self.board.0.attending.load(Ordering::SeqCst) == 0 {
            return;
        }
        self.board.send(Some(&self.inbox), |inbox, news| {
            if inbox.attends.load(Ordering::SeqCst) {
                add_id(news, id, |news| &mut news.changed);
            }
        });
    }
}

impl Drop for NewsHandle {
    fn drop(&mut self) {
        self.attend(Attention::Work);
    }
}

impl Inbox {
    fn note(&self, note: impl FnOnce(&mut News)) {
        let mut news = self.news();
        note(&mut news);
        let is_any = !news.is_empty();
        drop(news);
        if is_any {
            self.received.notify_one();
        }
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add_id(news: &mut News, id: RequestId, list: impl FnOnce(&mut News) -> &mut Vec<RequestId>) {
    if news.missed {
        return;
    }
    let list = list(news);
    if list.last() == Some(&id) {
        return;
    }
    match list.len() < KEPT {
        true => list.push(id),
        false => {
            (news.stops, news.changed) = Default::default();
            news.missed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> RequestId {
        let mut bytes = [0; 16];
        bytes[12..].copy_from_slice(&number.to_be_bytes());
        RequestId::from_bytes(bytes)
    }

    fn received(handle: &NewsHandle) -> News {
        std::mem::take(&mut *handle.inbox.news())
    }

    #[test]
    fn other_handles_receive_the_news_of_a_handle_and_it_does_not_itself() {
        let board = NewsBoard::default();
        let (here, there) = (board.handle(), board.handle());
        here.outbox();
        here.control();
        here.stop(id(1));
        let expected = News {
            outbox: true,
            control: true,
            stops: vec![id(1)],
            ..News::default()
        };
        assert_eq!(received(&there), expected);
        assert!(received(&here).is_empty());
        here.work();
        assert!(received(&here).work && received(&there).work, "work is for all");
        assert!(received(&there).is_empty(), "once");
    }

    #[test]
    fn changes_go_to_handles_that_attend() {
        let board = NewsBoard::default();
        let (here, there, third) = (board.handle(), board.handle(), board.handle());
        here.changed(id(1));
        assert!(received(&there).is_empty());
        there.attend(Attention::Changes);
        there.attend(Attention::Changes);
        for number in [1, 2, 2] {
            here.changed(id(number));
        }
        assert_eq!(received(&there).changed, [id(1), id(2)]);
        assert!(received(&third).is_empty());
        drop(there);
        assert_eq!(board.0.attending.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn more_ids_than_are_kept_are_reported_as_missed() {
        let board = NewsBoard::default();
        let (here, there) = (board.handle(), board.handle());
        there.attend(Attention::Changes);
        for number in 0..=KEPT as u32 {
            here.changed(id(number));
        }
        here.stop(id(1));
        let news = received(&there);
        assert!(news.missed && news.changed.is_empty() && news.stops.is_empty());
        here.changed(id(1));
        assert_eq!(received(&there).changed, [id(1)]);
    }

    #[tokio::test]
    async fn news_is_kept_for_the_next_call() {
        let board = NewsBoard::default();
        let (here, there) = (board.handle(), board.handle());
        let mut waiting = tokio_test::task::spawn(there.news());
        assert!(waiting.poll().is_pending());
        here.outbox();
        assert!(waiting.is_woken());
        drop(waiting);
        assert!(there.news().await.outbox);
    }
}
