//! The events of one task.

use std::{fmt, str::FromStr, sync::Arc};

use http::{Response, StatusCode};
use tokio::time::sleep_until;

use crate::{
    api::{
        Permission,
        call::{Answer, Call},
        events::{EventWriter, event_stream, last_event_id},
        query::{self, Until},
        stream::{Aborted, BodyWriter},
    },
    layer::ResponseBody,
    store::LogQuery,
    task::{DeliveryStatus, HistoryEvent, Progress, TaskRecord, redact::Secrets},
    time::Timestamp,
    wire::{
        DeliveryDocument, LogDocument,
        json::{Object, key},
        write_progress,
    },
};

/// How many log lines are read at once: at most 1 MiB.
const LINES_AT_ONCE: usize = 64;

/// `GET /{id}/events`
pub(in crate::api) async fn one(call: Call) -> Answer {
    let until = query::until(&call.parts.uri)?;
    let record = call.record().await?;
    let last = record.history.last().map_or(0, |last| last.id);
    let known = last_event_id(&call.parts).and_then(|id| id.parse::<Known>().ok());
    // An event id that this task has not reached yet belongs to another stream.
    let known = known.filter(|known| known.event <= last);
    let callbacks = call.grant.allows(Permission::Callbacks);
    let has_all = known.is_some_and(|known| {
        let has_callbacks = until == Until::Ended || !callbacks || known.deliveries == changes(&record);
        known.event == last && has_callbacks
    });
    if has_all && is_over(&record, until) {
        // 204 stops a browser from reconnecting.
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    let follower = |events| Follower {
        logs: call.grant.allows(Permission::Logs),
        callbacks,
        known: known.unwrap_or_default(),
        progress: None,
        deliveries: Vec::new(),
        until,
        secrets: call.secrets.clone(),
        events,
    };
    event_stream(&call, |events| follower(events).follow(record))
}

fn is_over(record: &TaskRecord, until: Until) -> bool {
    let pending = || {
        record
            .deliveries
            .iter()
            .any(|one| one.status == DeliveryStatus::Pending)
    };
    record.state.is_terminal() && (until == Until::Ended || !pending())
}

/// A number that grows whenever a callback is added, tried or redelivered.
///
/// The claim tokens of each delivery only grow; its count of tries does not, since a redelivery resets it. When the
/// task is run again, some deliveries are dropped, and the number of the generation outweighs them.
fn changes(record: &TaskRecord) -> u64 {
    let runs_before = u64::from(record.generation.saturating_sub(1));
    let of_each = record.deliveries.iter().map(|delivery| 1 + delivery.token.get());
    (runs_before << 32).saturating_add(of_each.sum())
}

/// What the client has received: the number of the last event in the task's history, the number of the last log line,
/// and the number of [changes](changes) of callbacks. It is the id of each event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    event: u32,
    line: u64,
    deliveries: u64,
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.event, self.line, self.deliveries)
    }
}

impl FromStr for Known {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut numbers = text.splitn(3, '-').map(|number| number.parse::<u64>().ok());
        let mut next = || numbers.next().flatten().ok_or(());
        Ok(Self {
            event: next()?.try_into().map_err(|_| ())?,
            line: next()?,
            deliveries: next()?,
        })
    }
}

/// The state in which a delivery was last sent.
#[derive(Clone, Copy, PartialEq, Eq)]
struct SentDelivery {
    number: u64,
    status: DeliveryStatus,
    tried: u32,
    /// The time of the last try. A redelivered completion can reach the same status and count of tries again.
    last: Option<Timestamp>,
}

struct Follower {
    logs: bool,
    callbacks: bool,
    known: Known,
    progress: Option<Progress>,
    deliveries: Vec<SentDelivery>,
    until: Until,
    secrets: Arc<Secrets>,
    events: EventWriter,
}

impl Follower {
    async fn follow(mut self, record: Arc<TaskRecord>) -> Result<BodyWriter, Aborted> {
        let observer = self.events.observer.clone();
        let id = record.id;
        drop(record);
        let watcher = observer.watch(id);
        loop {
            let changed = watcher.changed().notified();
            tokio::pin!(changed);
            // Enabled before the task is read, so that a change in between is not missed.
            changed.as_mut().enable();
            // On an error the stream breaks off, and the client reconnects and resumes.
            let found = observer.find(id).await.map_err(|_| Aborted)?;
            let Some(record) = found else {
                return Ok(self.events.body);
            };
            self.send_new(&record).await?;
            self.events.flush().await?;
            if is_over(&record, self.until) || !observer.is_open() {
                return Ok(self.events.body);
            }
            tokio::select! {
                () = changed => {}
                () = observer.closed() => {}
                () = self.events.body.disconnected() => return Err(Aborted),
                () = sleep_until(self.events.heartbeat_at()) => {}
            }
        }
    }

    /// Sends what is new. The end of the task comes last.
    async fn send_new(&mut self, record: &TaskRecord) -> Result<(), Aborted> {
        let (history, end) = match record.history.split_last() {
            Some((last, before)) if record.state.is_terminal() => (before, Some(last)),
            _ => (&record.history[..], None),
        };
        for event in history {
            self.send_status(record, event).await?;
        }
        if self.logs {
            self.send_log(record).await?;
        }
        if record.state.is_held() && record.progress != self.progress {
            self.progress.clone_from(&record.progress);
            if let Some(progress) = &self.progress {
                self.events
                    .event("progress", None, |out| write_progress(out, progress, &self.secrets))
                    .await?;
            }
        }
        if self.callbacks {
            self.send_callbacks(record).await?;
        }
        match end {
            Some(end) => self.send_status(record, end).await,
            None => Ok(()),
        }
    }

    async fn send_status(&mut self, record: &TaskRecord, event: &HistoryEvent) -> Result<(), Aborted> {
        if event.id <= self.known.event {
            return Ok(());
        }
        self.known.event = event.id;
        let write = |out: &mut Vec<u8>| {
            let mut document = Object::begin(out);
            document.text(key!("taskId"), &record.task_id());
            document.shown(key!("requestId"), record.id);
            document.number(key!("eventId"), event.id);
            document.plain(key!("status"), event.state.as_str());
            document.number(key!("timestamp"), event.at.as_millis());
            document.number(key!("attempt"), event.attempt);
            document.text(
                key!("eventDetail"),
                &self.secrets.text(record.detail_of(event).unwrap_or("")),
            );
            document.end();
        };
        self.events.event("status", Some(&self.known), write).await
    }

    async fn send_log(&mut self, record: &TaskRecord) -> Result<(), Aborted> {
        loop {
            let query = LogQuery {
                attempt: None,
                after: self.known.line,
                limit: LINES_AT_ONCE,
            };
            let lines = self.events.observer.logs(record.id, query).await.map_err(|_| Aborted)?;
            for line in &lines {
                self.known.line = line.seq;
                let write = |out: &mut Vec<u8>| LogDocument::new(line, &self.secrets).write(out);
                self.events.event("log", Some(&self.known), write).await?;
            }
            if lines.len() < LINES_AT_ONCE {
                return Ok(());
            }
        }
    }

    async fn send_callbacks(&mut self, record: &TaskRecord) -> Result<(), Aborted> {
        let deliveries = &record.deliveries;
        let sent: Vec<_> = deliveries
            .iter()
            .map(|delivery| SentDelivery {
                number: record.delivery_number(delivery),
                status: delivery.status,
                tried: delivery.tried,
                last: delivery.tries.last().map(|tried| tried.at),
            })
            .collect();
        let known = changes(record);
        // In the first round, only the number shows which deliveries a resumed client has received.
        let resumed = self.deliveries.is_empty() && self.known.deliveries == known;
        self.known.deliveries = known;
        for (delivery, now) in deliveries.iter().zip(&sent) {
            if !resumed && !self.deliveries.contains(now) {
                let document = DeliveryDocument::new(record, delivery, &self.secrets);
                let write = |out: &mut Vec<u8>| {
                    serde_json::to_writer(out, &document)
                        .expect("it has no keys but names, and memory takes any length");
                };
                self.events.event("callback", Some(&self.known), write).await?;
            }
        }
        self.deliveries = sent;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_an_event_leads_back_to_it() {
        let known = Known {
            event: 3,
            line: u64::MAX,
            deliveries: 2,
        };
        assert_eq!(known.to_string().parse(), Ok(known));
        for other in [
            "",
            "3",
            "3-4",
            "3-4-",
            "3-4-5-6",
            "a-b-c",
            "-1-2-3",
            "4294967296-0-0",
            "9f-17",
        ] {
            assert_eq!(other.parse::<Known>(), Err(()), "{other}");
        }
    }
}
