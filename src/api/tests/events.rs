//! Event streams, with paused time: no task runs here, so the runtime's clock can stand still.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::*;
use crate::{
    layer::ResponseBody,
    store::{DeliveryClaim, DeliverySettlement},
    task::{Conditions, DeliveryTry, Destination, Subscription, Subscriptions, delivery::DeliveryOutcome},
};

/// A stream that is read block by block.
struct Stream {
    status: u16,
    body: ResponseBody,
    blocks: VecDeque<String>,
}

impl Stream {
    /// Requests a stream, resumed after the event with the id `known`.
    async fn open(world: &World, path: &str, known: Option<&str>) -> Self {
        let mut request = request("GET", path);
        if let Some(known) = known {
            request.headers_mut().insert("last-event-id", known.parse().unwrap());
        }
        let response: Response<_> = world.open().oneshot(request).await.unwrap();
        Self {
            status: response.status().as_u16(),
            body: response.into_body(),
            blocks: VecDeque::new(),
        }
    }

    /// The text up to the next empty line; `None` at the end.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some(block) = self.blocks.pop_front() {
                return Some(block);
            }
            let piece = self.body.frame().await?.unwrap().into_data().unwrap();
            let text = std::str::from_utf8(&piece).unwrap();
            let whole = text.strip_suffix("\n\n").expect("a piece ends with an empty line");
            self.blocks.extend(whole.split("\n\n").map(str::to_owned));
        }
    }

    /// The id and the document of the next event of this kind; `None` if the stream ends first.
    async fn next_of(&mut self, name: &str) -> Option<(String, Value)> {
        loop {
            let block = self.block().await?;
            let field = |name: &str| {
                let start = format!("{name}: ");
                block.lines().find_map(|line| line.strip_prefix(&start))
            };
            if field("event") == Some(name) {
                let document = serde_json::from_str(field("data").unwrap()).unwrap();
                return Some((field("id").unwrap().to_owned(), document));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_shows_every_15_seconds_that_it_lives() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    for path in [format!("/{id}/events"), "/events".to_owned()] {
        let mut stream = Stream::open(&world, &path, None).await;
        let mut said_at = Instant::now();
        while !stream.block().await.unwrap().starts_with(':') {
            said_at = Instant::now();
        }
        for _ in 0..3 {
            let silent = said_at.elapsed();
            assert!(silent >= Duration::from_secs(15), "{path}: {silent:?}");
            assert!(silent < Duration::from_secs(17), "{path}: {silent:?}");
            said_at = Instant::now();
            assert_eq!(stream.block().await.unwrap(), ":", "{path}");
        }
    }
}

/// Settles the one delivery that is due with this outcome.
async fn deliver(world: &World, outcome: DeliveryOutcome) {
    let claim = DeliveryClaim {
        from: vec![(Destination::LOCAL, 1)],
        lease: Duration::from_secs(30),
    };
    let mut claimed = world.ledger().claim_deliveries(claim).await.unwrap();
    let settlement = DeliverySettlement {
        claimed: claimed.remove(0),
        outcome,
        tried: DeliveryTry::new(Timestamp::from_millis(1)),
    };
    assert!(world.ledger().settle_delivery(settlement).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn callbacks_are_streamed_until_the_last_has_ended_and_again_after_a_redelivery() {
    let world = World::new();
    let id = world
        .insert(1, |task| {
            task.subscriptions = Subscriptions::from([Subscription {
                destination: Destination::LOCAL,
                on: Conditions::ALL,
            }]);
        })
        .await;
    let path = format!("/{id}/events?until=delivered");
    let mut stream = Stream::open(&world, &path, None).await;
    let response = Arc::new(response(b"", &[]));
    let lease = world.claim().await;
    world.settle(lease, Outcome::Succeeded { response }).await;
    let (_, pending) = stream.next_of("callback").await.unwrap();
    assert_eq!(
        (&pending["status"], &pending["callbackId"]),
        (&json!("Pending"), &json!(1))
    );

    deliver(&world, DeliveryOutcome::Failed).await;
    let (known, failed) = stream.next_of("callback").await.unwrap();
    assert_eq!(failed["status"], "Failed");
    assert_eq!(failed["tries"].as_array().unwrap().len(), 1);
    assert_eq!(stream.next_of("callback").await, None);
    let nothing = Stream::open(&world, &path, Some(&known)).await;
    assert_eq!(nothing.status, 204);

    // As many tries as before, but another outcome: a client that resumes must get the event.
    let redelivered = post(&world.open(), format!("/{id}/callbacks/1/redeliver")).await;
    assert_eq!(redelivered.status, 202);
    deliver(&world, DeliveryOutcome::Delivered).await;
    let mut again = Stream::open(&world, &path, Some(&known)).await;
    assert_eq!(again.status, 200);
    let (known, delivered) = again.next_of("callback").await.unwrap();
    assert_eq!(delivered["status"], "Delivered");
    assert_eq!(again.next_of("callback").await, None);
    let nothing = Stream::open(&world, &path, Some(&known)).await;
    assert_eq!(nothing.status, 204);

    // A caller without the permission callbacks has nothing to wait for.
    let blind = world.as_one(Access::none(Scope::All).with(Permission::View));
    let mut request = request("GET", &path);
    let last = format!("{}-0-0", known.split_once('-').unwrap().0);
    request.headers_mut().insert("last-event-id", last.parse().unwrap());
    assert_eq!(send(&blind, request).await.status, 204);
}
