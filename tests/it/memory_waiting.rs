//! Pending completions in the memory store: how much room they may take, and which are given up beyond that.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use tower_respond_async::{
    MemoryStore, RequestId, Scope,
    store::{Answers, DeliveryClaim, DeliverySettlement, Insert, Inserted, Ledger},
    task::{
        CapturedRequest, Conditions, DeliveryStatus, DeliveryTry, Destination, NewTask, Subscription, Subscriptions,
        TaskRecord, WorkerId, delivery::DeliveryOutcome, lifecycle::Outcome,
    },
    testing::ManualClock,
    time::Timestamp,
};

const LEASE: Duration = Duration::from_secs(30);
const OVERDUE: Duration = Duration::from_secs(10);
const WEBHOOK: Destination = Destination::LOCAL;

/// Ended tasks in a store for forty, with callbacks to hosts that their clients named.
struct Ended {
    ledger: Ledger,
    clock: ManualClock,
    count: u64,
}

impl Ended {
    fn new() -> Self {
        let clock = ManualClock::new(Timestamp::from_millis(1_000));
        let store = MemoryStore::builder().max_tasks(40).clock(clock.clone()).build();
        Self {
            ledger: Ledger::of(store),
            clock,
            count: 0,
        }
    }

    /// Stores and ends one more task, a millisecond later. `None` if there is no room for it.
    async fn one(&mut self, host: &str, to: &[Destination]) -> Option<RequestId> {
        self.count += 1;
        let mut random = [0; 10];
        random[2..].copy_from_slice(&self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let id = RequestId::from_parts(Timestamp::from_millis(self.count), random);
        let request = CapturedRequest::new(Method::POST, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
        let mut task = NewTask::new(id, Arc::new(request));
        task.callback = Some(format!("https://{host}:8443/hook").into());
        task.subscriptions = to
            .iter()
            .map(|destination| Subscription {
                destination: destination.clone(),
                on: Conditions::ALL,
            })
            .collect::<Subscriptions>();
        let insert = Insert::new(task).claimed_by(WorkerId::new("w", 1), LEASE);
        let Inserted::New(_, Some(held)) = self.ledger.insert(insert).await.unwrap() else {
            return None;
        };
        let _ = self.ledger.settle(&held, &Outcome::Stopped).await.unwrap();
        self.clock.advance(Duration::from_millis(1));
        Some(id)
    }

    async fn some(&mut self, count: usize, host: &str, to: &[Destination]) -> Vec<RequestId> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(self.one(host, to).await.expect("there is room"));
        }
        all
    }

    /// Tries the first completion that is due, in vain.
    async fn try_one(&self) -> RequestId {
        let claim = DeliveryClaim::new(vec![(Destination::CALLBACK, 1)], LEASE);
        let claimed = self.ledger.claim_deliveries(claim).await.unwrap().remove(0);
        let id = claimed.delivery.id;
        let settlement = DeliverySettlement::new(
            claimed,
            DeliveryOutcome::Retry(Duration::from_secs(60 * 60)),
            DeliveryTry::new(Timestamp::ZERO),
        );
        assert!(self.ledger.settle_delivery(settlement).await.unwrap());
        id
    }

    async fn give_up(&self, answers: Answers) -> Vec<RequestId> {
        let given_up = self.ledger.give_up_crowded(answers, 100).await.unwrap();
        given_up.iter().map(|delivery| delivery.id).collect()
    }

    fn is_crowded(&self) -> bool {
        self.ledger.store().queue_hint(None, None).crowded
    }

    async fn record(&self, id: RequestId) -> Arc<TaskRecord> {
        self.ledger.task(id).await.unwrap()
    }
}

fn answers(hosts: &[(&str, bool)]) -> Answers {
    let mut answers = Answers::default();
    answers.mixed = vec![Destination::CALLBACK];
    answers.hosts = Arc::new(
        hosts
            .iter()
            .map(|(host, does)| ((*host).into(), *does))
            .collect::<HashMap<_, _>>(),
    );
    answers.overdue = OVERDUE;
    answers
}

#[tokio::test]
async fn a_host_that_does_not_answer_has_an_eighth_of_the_room_and_its_oldest_are_given_up() {
    let mut ended = Ended::new();
    let of_dead = ended.some(5, "Dead.example", &[Destination::CALLBACK, WEBHOOK]).await;
    ended.some(5, "other.example", &[Destination::CALLBACK]).await;
    assert!(!ended.is_crowded());
    ended.some(3, "dead.example", &[Destination::CALLBACK]).await;
    assert!(ended.is_crowded());
    assert_eq!(ended.give_up(answers(&[("dead.example", true)])).await, []);
    assert_eq!(ended.give_up(answers(&[])).await, [], "nobody knows");

    let given_up = ended.give_up(answers(&[("dead.example", false)])).await;
    assert_eq!(given_up, of_dead[..3]);
    assert!(!ended.is_crowded());
    let record = ended.record(of_dead[0]).await;
    let [callback, webhook] = &record.deliveries[..] else {
        panic!("{record:?}")
    };
    assert_eq!(callback.status, DeliveryStatus::Failed);
    let why = callback.tries[0].text.as_deref().unwrap();
    assert!(why.contains("does not answer") && why.contains("no room"), "{why}");
    assert_eq!(callback.tried, 0, "that was no try");
    assert_eq!(webhook.status, DeliveryStatus::Pending, "it is not the host's");
}

#[tokio::test]
async fn all_silent_hosts_together_have_half_of_the_room() {
    let mut ended = Ended::new();
    let mut all = Vec::new();
    for host in 0..30 {
        all.extend(ended.one(&format!("{host}.example"), &[Destination::CALLBACK]).await);
    }
    let dead: Vec<_> = (0..30).map(|host| format!("{host}.example")).collect();
    let dead: Vec<_> = dead.iter().map(|host| (host.as_str(), false)).collect();
    assert_eq!(
        ended.give_up(answers(&dead[..20])).await,
        [],
        "the others are not known not to"
    );
    assert_eq!(ended.give_up(answers(&dead)).await, all[..10]);
    assert!(!ended.is_crowded());

    let mut silent = Answers::default();
    silent.silent = vec![WEBHOOK];
    let told = ended.some(10, "x.example", &[WEBHOOK]).await;
    assert_eq!(ended.give_up(silent.clone()).await, [], "it has a quarter");
    for id in &all[10..25] {
        assert!(!ended.record(*id).await.deliveries.is_empty());
    }
    silent.mixed = vec![Destination::CALLBACK];
    silent.hosts = answers(&dead).hosts;
    assert_eq!(
        ended.give_up(silent).await,
        all[10..20],
        "the oldest, whoever they wait for"
    );
    assert!(ended.record(told[0]).await.deliveries[0].is_pending());
}

#[tokio::test]
async fn an_untried_host_is_waited_for_while_a_place_may_become_free() {
    let mut ended = Ended::new();
    ended.some(30, "new.example", &[Destination::CALLBACK]).await;
    assert_eq!(ended.give_up(answers(&[])).await, []);
    let tried = ended.try_one().await;
    assert_eq!(ended.give_up(answers(&[])).await, [tried], "it was tried itself");
    ended.clock.advance(OVERDUE);
    assert_eq!(ended.give_up(answers(&[("new.example", true)])).await, []);
    assert_eq!(ended.give_up(answers(&[])).await.len(), 9);
    assert!(!ended.is_crowded() || ended.give_up(answers(&[("new.example", true)])).await.is_empty());
}

#[tokio::test]
async fn a_completion_that_is_being_tried_is_not_given_up() {
    let mut ended = Ended::new();
    ended.some(6, "dead.example", &[Destination::CALLBACK]).await;
    let claim = DeliveryClaim::new(vec![(Destination::CALLBACK, 1)], LEASE);
    let claimed = ended.ledger.claim_deliveries(claim).await.unwrap();
    assert_eq!(ended.give_up(answers(&[("dead.example", false)])).await, []);
    ended.clock.advance(LEASE);
    assert_eq!(
        ended.give_up(answers(&[("dead.example", false)])).await,
        [claimed[0].delivery.id]
    );
}

#[tokio::test]
async fn a_task_that_is_run_again_or_deleted_waits_no_more() {
    let mut ended = Ended::new();
    let all = ended.some(6, "dead.example", &[Destination::CALLBACK]).await;
    assert!(ended.is_crowded());
    let _ = ended
        .ledger
        .rerun(&Scope::All, all[0], Default::default())
        .await
        .unwrap();
    assert!(!ended.is_crowded());
    let _ = ended.ledger.stop(&Scope::All, all[0]).await.unwrap();
    assert!(ended.is_crowded());
    let _ = ended.ledger.delete(&Scope::All, all[1]).await.unwrap();
    assert!(!ended.is_crowded());
}
