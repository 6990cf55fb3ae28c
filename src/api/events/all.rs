//! The events of all tasks.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::sleep_until;

use crate::{
    api::{
        call::{Answer, Call},
        events::{Teller, last_event_id, told},
        stream::{Gone, Pen},
    },
    engine::{Observer, Place},
    task::{Scope, redact::Secrets},
    wire::{ApiLinks, TaskDocument},
};

/// How often tasks are told of, at most: what changes several times within it is told once, as it is then.
const TOLD_EVERY: Duration = Duration::from_millis(250);

/// Of how many tasks at once: more in a quarter of a second nobody reads, and a page does better to ask for the list.
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
    // Who comes back with a place that is none, or is not remembered, is told that something was missed.
    let asked = asked.map(|id| parse(&id).unwrap_or(NOWHERE));
    let mut listener = observer.listen(asked);
    // Who came back has a place already, and must not be given a later one before it heard what it missed.
    if asked.is_none() {
        teller.place(Shown(listener.place(), whole));
    }
    teller.flush().await?;
    loop {
        let heard = tokio::select! {
            heard = listener.heard(TASKS_AT_ONCE) => heard,
            () = observer.closed() => return Ok(teller.pen),
            () = teller.pen.left() => return Err(Gone),
            () = sleep_until(teller.heartbeat_at()) => {
                teller.flush().await?;
                continue;
            }
        };
        if heard.missed {
            teller.event("missed", None, |out| out.extend_from_slice(b"{}")).await?;
        }
        for id in heard.tasks {
            // What is not there is another tenant's, or was removed since.
            if let Some(task) = observer.find(id).await.map_err(|_| Gone)? {
                let write = |out: &mut Vec<u8>| TaskDocument::new(&task, &links, &secrets).write(out);
                teller.event("status", None, write).await?;
            }
        }
        // Behind the last, so that who is cut off amid them hears of them again rather than not at all.
        if !teller.piece.is_empty() {
            teller.place(Shown(heard.place, whole));
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

/// A place as the id of an event. How much happened in all is not for who sees one tenant only: they are told that
/// something was missed whenever they come back.
struct Shown(Place, bool);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(place, true) => write!(f, "{:x}-{}", place.life, place.number),
            Self(_, false) => f.write_str("0"),
        }
    }
}

/// The place that no feed knows.
const NOWHERE: Place = Place {
    life: 0,
    number: u64::MAX,
};

fn parse(id: &str) -> Option<Place> {
    let (life, number) = id.split_once('-')?;
    Some(Place {
        life: u64::from_str_radix(life, 16).ok()?,
        number: number.parse().ok()?,
    })
}
