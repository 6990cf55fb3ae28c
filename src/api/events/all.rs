//! The events of all tasks.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::sleep_until;

use crate::{
    api::{
        call::{Answer, Call},
        events::{EventWriter, event_stream, last_event_id},
        stream::{Aborted, BodyWriter},
    },
    engine::{Observer, Position},
    task::{Scope, redact::Secrets},
    wire::{ApiLinks, TaskDocument},
};

/// The shortest time between two batches. A task that changes several times within it is sent once, in its latest
/// state.
const BATCH_EVERY: Duration = Duration::from_millis(250);

/// How many tasks a batch has at most. When more tasks change in a quarter of a second, the client should fetch the
/// list.
const TASKS_AT_ONCE: usize = 128;

/// `GET /events`
pub(in crate::api) async fn all(call: Call) -> Answer {
    let resume_id = last_event_id(&call.parts);
    let sees_all = call.grant.scope == Scope::All;
    let (links, secrets) = (call.links.clone(), call.secrets.clone());
    event_stream(&call, move |events| {
        write_events(events, resume_id, sees_all, links, secrets)
    })
}

async fn write_events(
    mut events: EventWriter,
    resume_id: Option<String>,
    sees_all: bool,
    links: Arc<ApiLinks>,
    secrets: Arc<Secrets>,
) -> Result<BodyWriter, Aborted> {
    let observer = events.observer.clone();
    // For an invalid or unknown id, the stream begins with `missed`.
    let resume_at = resume_id.map(|id| parse(&id).unwrap_or(UNKNOWN));
    let mut listener = observer.listen(resume_at);
    // A resumed client must not get a later position before it has received the events that it missed.
    if resume_at.is_none() {
        events.id(EventId(listener.position(), sees_all));
    }
    events.flush().await?;
    loop {
        let batch = tokio::select! {
            batch = listener.next(TASKS_AT_ONCE) => batch,
            () = observer.closed() => return Ok(events.body),
            () = events.body.disconnected() => return Err(Aborted),
            () = sleep_until(events.heartbeat_at()) => {
                events.flush().await?;
                continue;
            }
        };
        if batch.missed {
            events.event("missed", None, |out| out.extend_from_slice(b"{}")).await?;
        }
        for id in batch.tasks {
            // A task that is not found belongs to another tenant, or was removed.
            if let Some(task) = observer.find(id).await.map_err(|_| Aborted)? {
                let write = |out: &mut Vec<u8>| TaskDocument::new(&task, &links, &secrets).write(out);
                events.event("status", None, write).await?;
            }
        }
        // After the last event, so that a client that is cut off in between gets the events twice rather than not at
        // all.
        if !events.buffer.is_empty() {
            events.id(EventId(batch.position, sees_all));
        }
        events.flush().await?;
        pause(&observer, &events).await?;
    }
}

async fn pause(observer: &Observer, events: &EventWriter) -> Result<(), Aborted> {
    tokio::select! {
        () = tokio::time::sleep(BATCH_EVERY) => Ok(()),
        () = observer.closed() => Ok(()),
        () = events.body.disconnected() => Err(Aborted),
    }
}

/// A position in the feed as an event id. A caller that sees one tenant only must not learn how many changes there were
/// in all: its id is always `0`, so it gets `missed` whenever it resumes.
struct EventId(Position, bool);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(position, true) => write!(f, "{:x}-{}", position.feed, position.number),
            Self(_, false) => f.write_str("0"),
        }
    }
}

/// A position that is in no feed.
const UNKNOWN: Position = Position {
    feed: 0,
    number: u64::MAX,
};

fn parse(id: &str) -> Option<Position> {
    let (feed, number) = id.split_once('-')?;
    Some(Position {
        feed: u64::from_str_radix(feed, 16).ok()?,
        number: number.parse().ok()?,
    })
}
