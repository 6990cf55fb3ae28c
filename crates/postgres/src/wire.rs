//! Notifications between handles. They are few, and are sent outside of the transactions that make the changes.
//!
//! They are only hints. Each handle reports its presence regularly. It sends nothing else while no other handle is
//! present.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_postgres::{Client, error::Error};
use tower_respond_async::{
    store::{Attention, Change, News, Row},
    task::RequestId,
};

use crate::connection::{Driver, PATIENCE, Server, lock};

/// A handle that has sent no report for this long counts as gone. Each handle reports three times as often.
const PRESENT: Duration = Duration::from_secs(45);
/// The minimum time between two notifications of a handle, so that listeners can keep up.
const PAUSE: Duration = Duration::from_millis(50);
/// The most ids, of 32 digits each, in one notification. The server accepts 8,000 bytes.
const IDS: usize = 240;
/// The most received ids that wait until the handle reads its news.
const KEPT: usize = 4096;

/// Collects the notifications that one handle sends and receives.
pub(crate) struct Wire {
    /// The news to send.
    outgoing: Mutex<News>,
    /// Notified when there is something to send.
    send_due: Notify,
    /// The news received.
    incoming: Mutex<News>,
    /// Notified when news is received.
    received: Notify,
    attends: AtomicBool,
    /// Whether this handle must report its presence now.
    report_due: AtomicBool,
    /// The other handles that are present: when each last reported, and whether it needs the ids of changed tasks.
    peers: Mutex<HashMap<u64, (Instant, bool)>>,
    /// Behind a pooler, the handle sends and receives nothing: `LISTEN` needs a session of its own.
    is_disabled: bool,
    began: Instant,
    boot: u64,
    pub(crate) channel: String,
}

impl Wire {
    pub(crate) fn new(schema: &str, boot: u64, is_disabled: bool) -> Self {
        // FNV-1a: the same in every build.
        let channel = schema.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self {
            outgoing: Mutex::default(),
            send_due: Notify::new(),
            incoming: Mutex::default(),
            received: Notify::new(),
            attends: AtomicBool::new(false),
            report_due: AtomicBool::new(true),
            peers: Mutex::default(),
            is_disabled,
            began: Instant::now(),
            boot,
            channel: format!("ra_{channel:016x}"),
        }
    }

    pub(crate) fn attend(&self, attention: Attention) {
        let attends = attention == Attention::Changes;
        if self.attends.swap(attends, Ordering::SeqCst) != attends {
            self.report_due.store(true, Ordering::SeqCst);
            self.send_due.notify_one();
        }
    }

    pub(crate) async fn news(&self) -> News {
        loop {
            let news = std::mem::take(&mut *lock(&self.incoming));
            if !news.is_empty() {
                return news;
            }
            self.received.notified().await;
        }
    }

    pub(crate) fn stored(&self, row: &Row) {
        self.enqueue(|news| news.work |= row.columns.is_queued());
        self.changed(row.id);
    }

    pub(crate) fn committed(&self, change: &Change) {
        let requeued = change.to.as_ref().is_some_and(|next| next.columns.is_queued());
        self.enqueue(|news| {
            news.work |= requeued;
            news.outbox |= change.brings_completion();
            if change.asks_to_stop() {
                news.stops.push(change.id);
            }
        });
        self.changed(change.id);
    }

    pub(crate) fn control(&self) {
        self.enqueue(|news| news.control = true);
    }

    pub(crate) fn changed(&self, id: RequestId) {
        if self.has_peer(Attention::Changes) {
            self.enqueue(|news| news.changed.push(id));
        }
    }

    /// Whether another handle is present: for [`Attention::Changes`], one that needs the ids of changed tasks. A handle
    /// that was opened less than [`PRESENT`] ago assumes so.
    fn has_peer(&self, attention: Attention) -> bool {
        let any = attention == Attention::Work;
        let is_present = |(at, attends): &(Instant, bool)| at.elapsed() < PRESENT && (any || *attends);
        !self.is_disabled && (self.began.elapsed() < PRESENT || lock(&self.peers).values().any(is_present))
    }

    fn enqueue(&self, note: impl FnOnce(&mut News)) {
        if !self.has_peer(Attention::Work) {
            return;
        }
        let mut news = lock(&self.outgoing);
        note(&mut news);
        if news.changed.len() + news.stops.len() > IDS {
            (news.stops, news.changed) = (Vec::new(), Vec::new());
            news.missed = true;
        }
        let is_any = !news.is_empty();
        drop(news);
        if is_any {
            self.send_due.notify_one();
        }
    }

    fn receive(&self, payload: &str) {
        let mut parts = payload.split(';');
        let Some(from) = parts.next().and_then(|boot| u64::from_str_radix(boot, 16).ok()) else {
            return;
        };
        if from == self.boot {
            return;
        }
        let what = parts.next().unwrap_or_default();
        if what.contains('h') {
            let seen = (Instant::now(), what.contains('a'));
            let mut peers = lock(&self.peers);
            // A handle that is gone never reports again, so its entry is removed here.
            peers.retain(|_, (at, _)| at.elapsed() < PRESENT);
            let is_new = peers.insert(from, seen).is_none();
            drop(peers);
            if is_new {
                // The other handle has no report of this one yet.
                self.report_due.store(true, Ordering::SeqCst);
                self.send_due.notify_one();
            }
        }
        let attends = self.attends.load(Ordering::SeqCst);
        self.note(|news| {
            news.work |= what.contains('w');
            news.outbox |= what.contains('o');
            news.control |= what.contains('c');
            news.missed |= what.contains('m');
            news.stops.extend(ids(parts.next().unwrap_or_default()));
            let changed = ids(parts.next().unwrap_or_default());
            if attends {
                news.changed.extend(changed);
            }
        });
    }

    fn note(&self, note: impl FnOnce(&mut News)) {
        let mut news = lock(&self.incoming);
        note(&mut news);
        if news.changed.len() + news.stops.len() > KEPT {
            (news.stops, news.changed) = (Vec::new(), Vec::new());
            news.missed = true;
        }
        let is_any = !news.is_empty();
        drop(news);
        if is_any {
            self.received.notify_one();
        }
    }

    /// The notification to send now, if there is any.
    fn outgoing(&self) -> Option<String> {
        let news = std::mem::take(&mut *lock(&self.outgoing));
        let reports = self.report_due.swap(false, Ordering::SeqCst);
        if news.is_empty() && !reports {
            return None;
        }
        let mut what = String::new();
        for (is_so, letter) in [
            (reports, 'h'),
            (self.attends.load(Ordering::SeqCst), 'a'),
            (news.work, 'w'),
            (news.outbox, 'o'),
            (news.control, 'c'),
            (news.missed, 'm'),
        ] {
            what.extend(is_so.then_some(letter));
        }
        Some(format!(
            "{:x};{what};{};{}",
            self.boot,
            digits(&news.stops),
            digits(&news.changed)
        ))
    }
}

fn digits(ids: &[RequestId]) -> String {
    ids.iter()
        .map(|id| format!("{:032x}", u128::from_be_bytes(*id.as_bytes())))
        .collect()
}

fn ids(digits: &str) -> Vec<RequestId> {
    let ids = digits.as_bytes().chunks_exact(32).filter_map(|id| {
        let id = u128::from_str_radix(std::str::from_utf8(id).ok()?, 16).ok()?;
        Some(RequestId::from_bytes(id.to_be_bytes()))
    });
    ids.collect()
}

/// Sends and receives notifications, on a connection of its own, until the store is closed. Signals `ready` when it
/// listens for the first time.
pub(crate) async fn run(server: Arc<Server>, wire: Arc<Wire>, ready: oneshot::Sender<()>) {
    let mut ready = Some(ready);
    let mut pause = Duration::from_millis(50);
    while !server.is_closed() {
        let listening = timeout(PATIENCE, listen(&server, &wire.channel)).await;
        if let Ok(Ok((client, messages, _driver))) = listening {
            pause = Duration::from_millis(50);
            match ready.take() {
                Some(ready) => _ = ready.send(()),
                // Notifications were missed while there was no connection.
                None => wire.note(|news| {
                    (news.work, news.outbox, news.control, news.missed) = (true, true, true, true);
                }),
            }
            wire.report_due.store(true, Ordering::SeqCst);
            wire.send_due.notify_one();
            // An error is the end of the connection; the loop opens another.
            let _ = exchange(&wire, &client, messages).await;
        }
        sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

async fn exchange(wire: &Wire, client: &Client, mut messages: mpsc::UnboundedReceiver<String>) -> Result<(), Error> {
    let (mut sent_at, mut reported_at) = (Instant::now() - PAUSE, Instant::now());
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => wire.receive(&message),
                None => return Ok(()),
            },
            () = wire.send_due.notified() => {
                sleep_until(sent_at + PAUSE).await;
                sent_at = Instant::now();
                if let Some(payload) = wire.outgoing() {
                    client.execute("SELECT pg_notify($1, $2)", &[&wire.channel, &payload]).await?;
                }
            }
            // This also uses the connection regularly, so that a dead one is detected.
            () = sleep_until(reported_at + PRESENT / 3) => {
                reported_at = Instant::now();
                wire.report_due.store(true, Ordering::SeqCst);
                wire.send_due.notify_one();
            }
        }
    }
}

async fn listen(server: &Server, channel: &str) -> Result<(Client, mpsc::UnboundedReceiver<String>, Driver), Error> {
    let (sender, messages) = mpsc::unbounded_channel();
    let (client, driver) = server.session(Some(sender)).await?;
    client.batch_execute(&format!("LISTEN {channel}")).await?;
    Ok((client, messages, driver))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_notification_is_received() {
        let (here, there) = (Wire::new("s", 1, false), Wire::new("s", 2, false));
        there.attend(Attention::Changes);
        let id = RequestId::from_bytes([7; 16]);
        here.changed(id);
        here.control();
        let payload = here.outgoing().unwrap_or_default();
        there.receive(&payload);
        here.receive(&payload);
        let news = there.news().await;
        assert_eq!((news.changed, news.control, news.work), (vec![id], true, false));
        assert!(
            lock(&here.incoming).is_empty(),
            "a handle does not receive its own news"
        );
    }

    #[tokio::test]
    async fn too_many_ids_are_reported_as_missed() {
        let (here, there) = (Wire::new("s", 1, false), Wire::new("s", 2, false));
        there.attend(Attention::Changes);
        for number in 0..=255 {
            here.changed(RequestId::from_bytes([number; 16]));
        }
        let payload = here.outgoing().unwrap_or_default();
        assert!(payload.len() < 8000);
        there.receive(&payload);
        assert!(there.news().await.missed);
    }

    /// Each start of a process opens another handle. Without the removal, a long-running process would keep an entry
    /// for every handle that ever reported.
    #[tokio::test(start_paused = true)]
    async fn a_handle_that_no_longer_reports_is_forgotten() {
        let here = Wire::new("s", 1, false);
        for boot in 2..=9_u64 {
            here.receive(&format!("{boot:x};h;;"));
        }
        sleep(PRESENT / 2).await;
        here.receive("a;ha;;");
        assert_eq!(lock(&here.peers).len(), 9);
        sleep(PRESENT / 2).await;
        here.receive("b;h;;");
        let mut present: Vec<_> = lock(&here.peers).keys().copied().collect();
        present.sort_unstable();
        assert_eq!(present, [0xa, 0xb]);
        assert!(here.has_peer(Attention::Changes));
    }
}
