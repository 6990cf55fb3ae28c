//! The events of all tasks.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::sleep_until;

use crate::{
    api::{
        call::{Answer, Call},
        events::{Teller, last_event_id, told},
        stream::{Gone, Pen},
    },
    engine::{Observer, Position},
    task::{Scope, redact::Secrets},
    wire::{ApiLinks, TaskDocument},
};

/// The shortest time between two batches. A task that changes several times within it is sent once, in its latest
/// state.
const TOLD_EVERY: Duration = Duration::from_millis(250);

/// How many tasks a batch has at most. When more tasks change in a quarter of a second, the client should fetch the
/// list.
const TASKS_AT_ONCE: usize = 128;

/// `GET /events`
pub(in crate::api) async fn all(call: Call) -> Answer {
    let asked = last_event_id(&call.parts);
    let whole = call.grant.scope == Scope::All;
    let (links, secrets) = (call.links.clone(), call.secrets.clone());
    told(&call, move |teller| tell(teller, asked, whole, links, secrets))
}

async fn tell(
    mut teller: Teller,
    asked: Option<String>,
    whole: bool,
    links: Arc<ApiLinks>,
    secrets: Arc<Secrets>,
) -> Result<Pen, Gone> {
    let observer = teller.observer.clone();
    // For an invalid or unknown id, the stream begins with `missed`.
    let asked = asked.map(|id| parse(&id).unwrap_or(UNKNOWN));
    let mut listener = observer.listen(asked);
    // A resumed client must not get a later position before it has received the events that it missed.
    if asked.is_none() {
        teller.place(Shown(listener.position(), whole));
    }
    teller.flush().await?;
    loop {
        let batch = tokio::select! {
            batch = listener.next(TASKS_AT_ONCE) => batch,
            () = observer.closed() => return Ok(teller.pen),
            () = teller.pen.left() => return Err(Gone),
            () = sleep_until(teller.heartbeat_at()) => {
                teller.flush().await?;
                continue;
            }
        };
        if batch.missed {
            teller.event("missed", None, |out| out.extend_from_slice(b"{}")).await?;
        }
        for id in batch.tasks {
            // A task that is not found belongs to another tenant, or was removed.
            if let Some(task) = observer.find(id).await.map_err(|_| Gone)? {
                let write = |out: &mut Vec<u8>| TaskDocument::new(&task, &links, &secrets).write(out);
                teller.event("status", None, write).await?;
            }
        }
        // After the last event, so that a client that is cut off in between gets the events twice rather than not at
        // all.
        if !teller.piece.is_empty() {
            teller.place(Shown(batch.position, whole));
        }
        teller.flush().await?;
        pause(&observer, &teller).await?;
    }
}

async fn pause(observer: &Observer, teller: &Teller) -> Result<(), Gone> {
    tokio::select! {
        () = tokio::time::sleep(TOLD_EVERY) => Ok(()),
        () = observer.closed() => Ok(()),
        () = teller.pen.left() => Err(Gone),
    }
}

/// A position in the feed as an event id. A caller that sees one tenant only must not learn how many changes there were
/// in all: its id is always `0`, so it gets `missed` whenever it resumes.
struct Shown(Position, bool);

impl fmt::Display for Shown {
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
