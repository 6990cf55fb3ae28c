//! Completions, from the end of a task to their delivery.

use std::collections::HashSet;

use super::{
    Harness, Subject,
    subject::{LONG, a_task, a_task_telling, all_at_once, failure, is_accepted, retry, success, worker},
};
use crate::{
    store::{ClaimedDelivery, DeliveryClaim, DeliverySettlement, GiveUp, Settled, StoreErrorKind},
    task::{
        Condition, Conditions, DeliveryStatus, DeliveryTry, Destination, NewTask, Scope, Subscription, TaskState,
        Tenant,
        delivery::{DeliveryOutcome, Redeliver},
        lifecycle::{Edits, Outcome, Rerun, Stop, UNDELIVERED},
    },
    time::Timestamp,
};

const HERE: Destination = Destination::LOCAL;

/// Success, failure, stop (queued and running), expiry and poison: every destination of the task gets a completion.
pub async fn the_outbox_entry_appears_with_the_state_for_every_way_to_end(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let telling = || a_task_telling(&HERE);
    let mut expected = Vec::new();
    for (outcome, state) in [
        (success(), TaskState::Succeeded),
        (failure(), TaskState::Failed),
        (Outcome::Stopped, TaskState::Stopped),
    ] {
        let lease = store.insert_born(telling(), &worker("w"), LONG).await;
        let accepted = Settled::Accepted { state, outbox: true };
        assert_eq!(store.end(lease, outcome).await, accepted);
        expected.push((lease.id, state));
    }
    let queued = telling();
    store.insert_new(queued.clone()).await;
    assert_eq!(store.stop(&Scope::All, queued.id).await.expect("stop"), Stop::Stopped);
    expected.push((queued.id, TaskState::Stopped));
    let stopping = store.insert_born(telling(), &worker("w"), LONG).await;
    assert_eq!(
        store.stop(&Scope::All, stopping.id).await.expect("stop"),
        Stop::Stopping
    );
    assert!(is_accepted(store.end(stopping, success()).await));
    expected.push((stopping.id, TaskState::Stopped));

    let (old, poison) = (telling(), telling());
    let old = NewTask {
        max_age: store.units(1),
        ..old
    };
    let poison = NewTask {
        crash_allowance: 1,
        ..poison
    };
    store.insert_new(old.clone()).await;
    store.insert_born(poison.clone(), &worker("w"), store.units(1)).await;
    store.pass(2).await;
    let rescued = store.rescue(10).await.expect("rescue");
    assert!(rescued.outbox && rescued.tasks.len() == 2);
    expected.extend([(old.id, TaskState::Expired), (poison.id, TaskState::Failed)]);

    let claimed = store.deliveries(&HERE, LONG).await;
    let mut found: Vec<_> = claimed
        .iter()
        .map(|due| (due.delivery.id, due.delivery.ended_as))
        .collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    for due in &claimed {
        assert_eq!(Some(due.delivery.condition), due.delivery.ended_as.condition());
        assert_eq!(due.record.state, due.delivery.ended_as);
    }
}

/// A destination gets a completion only for the ways to end that it subscribed to, and only one.
pub async fn only_subscribed_destinations_get_a_completion(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let there = Destination::new("there");
    let task = NewTask {
        subscriptions: [
            (HERE, Conditions::NONE.with(Condition::Failure)),
            (there.clone(), Conditions::NONE.with(Condition::Success)),
        ]
        .map(|(destination, on)| Subscription { destination, on })
        .into(),
        ..a_task()
    };
    let lease = store.insert_born(task, &worker("w"), LONG).await;
    let settled = store.end(lease, retry(store.units(0))).await;
    assert!(
        matches!(settled, Settled::Accepted { outbox: false, .. }),
        "a retry is no end"
    );
    let lease = store.claim_one(&worker("w"), LONG).await;
    assert!(is_accepted(store.end(lease, success()).await));
    assert_eq!(store.deliveries(&HERE, LONG).await.len(), 0);
    let claimed = store.deliveries(&there, LONG).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(
        (claimed[0].delivery.condition, &claimed[0].delivery.destination),
        (Condition::Success, &there)
    );
}

/// Several processes claim deliveries at the same moment. Each delivery goes to one of them.
pub async fn a_delivery_is_claimed_by_one_deliverer_only(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for _ in 0..harness.rounds().div_ceil(10) {
        let mut stored = HashSet::new();
        for _ in 0..5 {
            let lease = store.insert_born(a_task_telling(&HERE), &worker("w"), LONG).await;
            let _ = store.end(lease, success()).await;
            stored.insert(lease.id);
        }
        let claimed = all_at_once(4, |_| {
            let store = store.store.clone();
            let claim = DeliveryClaim {
                from: vec![(HERE, 3), (Destination::new("elsewhere"), 3)],
                lease: LONG,
            };
            async move { store.claim_deliveries(claim).await.expect("claim deliveries") }
        })
        .await;
        let mut claimed: Vec<_> = claimed.into_iter().flatten().map(|due| due.delivery.id).collect();
        claimed.extend(
            store
                .deliveries(&HERE, LONG)
                .await
                .into_iter()
                .map(|due| due.delivery.id),
        );
        assert_eq!(claimed.len(), 5, "each once");
        assert_eq!(HashSet::from_iter(claimed), stored);
    }
}

/// If a process dies, its deliveries need no rescue: they are due again when the lease runs out. A late result is
/// refused.
pub async fn a_delivery_whose_lease_ran_out_is_due_again(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let first = one_due(&store).await;
    assert_eq!(store.deliveries(&HERE, LONG).await.len(), 0);
    store.pass(4).await;
    let second = store.deliveries(&HERE, LONG).await.remove(0);
    assert!(second.delivery.token > first.delivery.token);
    assert_eq!(second.delivery.webhook_id(), first.delivery.webhook_id());
    assert!(
        !told(&store, &first, DeliveryOutcome::Delivered).await,
        "it has lost its claim"
    );
    assert!(told(&store, &second, DeliveryOutcome::Delivered).await);
    assert!(!told(&store, &second, DeliveryOutcome::Failed).await, "it is settled");
    let record = store.record(first.delivery.id).await;
    assert_eq!(record.destination_status(), DeliveryStatus::Delivered);
    assert_eq!((record.deliveries[0].tried, record.deliveries[0].tries.len()), (1, 1));
}

/// A retry waits and counts a try. A release counts none and does not wait; a postponement counts none and waits. A
/// failure and a refused address are final.
pub async fn a_delivery_is_retried_at_its_time(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let due = one_due(&store).await;
    assert!(told(&store, &due, DeliveryOutcome::Released).await);
    let due = store.deliveries(&HERE, LONG).await.remove(0);
    assert_eq!(due.delivery.tried, 0);
    assert!(told(&store, &due, DeliveryOutcome::Postponed(store.units(3))).await);
    store.pass(2).await;
    assert_eq!(store.deliveries(&HERE, LONG).await.len(), 0);
    store.pass(2).await;
    let due = store.deliveries(&HERE, LONG).await.remove(0);
    assert_eq!(due.delivery.tried, 0);
    assert!(told(&store, &due, DeliveryOutcome::Retry(store.units(3))).await);
    store.pass(2).await;
    assert_eq!(store.deliveries(&HERE, LONG).await.len(), 0);
    store.pass(2).await;
    let due = store.deliveries(&HERE, LONG).await.remove(0);
    assert_eq!(due.delivery.tried, 1);
    assert!(told(&store, &due, DeliveryOutcome::Failed).await);
    assert_eq!(
        store.record(due.delivery.id).await.destination_status(),
        DeliveryStatus::Failed
    );

    let due = one_due(&store).await;
    assert!(told(&store, &due, DeliveryOutcome::Blocked).await);
    assert_eq!(
        store.record(due.delivery.id).await.destination_status(),
        DeliveryStatus::Blocked
    );
    store.pass(4).await;
    assert_eq!(store.deliveries(&HERE, LONG).await.len(), 0);
}

/// Each end has a completion, and the first one stays pending through the rerun.
pub async fn a_rerun_leaves_earlier_completions_on_their_way(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let lease = store.insert_born(a_task_telling(&HERE), &worker("w"), LONG).await;
    let _ = store.end(lease, failure()).await;
    let rerun = store
        .rerun(&Scope::All, lease.id, Edits::default())
        .await
        .expect("rerun");
    assert_eq!(rerun, Rerun::Enqueued { generation: 2 });
    let lease = store.claim_one(&worker("w"), LONG).await;
    let settled = store.end(lease, success()).await;
    assert!(matches!(settled, Settled::Accepted { outbox: true, .. }));
    let due = store.deliveries(&HERE, LONG).await;
    let mut ends: Vec<_> = due
        .iter()
        .map(|due| (due.delivery.generation, due.delivery.ended_as))
        .collect();
    ends.sort_unstable();
    assert_eq!(ends, [(1, TaskState::Failed), (2, TaskState::Succeeded)]);
    let ids: HashSet<_> = due.iter().map(|due| due.delivery.webhook_id()).collect();
    assert_eq!(ids.len(), 2, "each has an id of its own");
}

/// All completions are kept, one for each run, and the refusal changes nothing. Once one of them is delivered, the task
/// can run again.
pub async fn a_rerun_is_refused_while_too_many_completions_are_pending(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let rerun = async |id| store.rerun(&Scope::All, id, Edits::default()).await.expect("rerun");
    let mut lease = store.insert_born(a_task_telling(&HERE), &worker("w"), LONG).await;
    let id = lease.id;
    let most = UNDELIVERED as u32 + 1;
    for generation in 2..=most {
        let _ = store.end(lease, success()).await;
        assert_eq!(rerun(id).await, Rerun::Enqueued { generation });
        lease = store.claim_one(&worker("w"), LONG).await;
    }
    let _ = store.end(lease, success()).await;
    let before = store.record(id).await;
    assert_eq!(rerun(id).await, Rerun::Undelivered);
    assert_eq!(store.record(id).await, before);
    assert!(store.response(&Scope::All, id).await.expect("output").is_some());

    let due = store.deliveries(&HERE, LONG).await;
    let mut generations: Vec<_> = due.iter().map(|due| due.delivery.generation).collect();
    generations.sort_unstable();
    assert_eq!(generations, (1..=most).collect::<Vec<_>>());
    assert_eq!(rerun(id).await, Rerun::Undelivered, "on its way is not told");
    assert!(told(&store, &due[0], DeliveryOutcome::Delivered).await);
    assert_eq!(rerun(id).await, Rerun::Enqueued { generation: most + 1 });
    for due in &due[1..] {
        assert!(told(&store, due, DeliveryOutcome::Delivered).await);
    }
    let counts = store.counts(&Scope::All).await.expect("counts");
    assert_eq!(counts.pending_deliveries, Some(0));
}

/// A completion can be made due again whether it was delivered, was given up, or waits for a later try. A caller out of
/// scope, or a delivery that does not exist, changes nothing.
pub async fn a_completion_is_made_due_again_on_request(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let again = async |due: &ClaimedDelivery| {
        let (id, generation) = (due.delivery.id, due.delivery.generation);
        let redelivered = store.redeliver(&Scope::All, id, generation, &HERE).await;
        assert_eq!(redelivered.expect("redeliver"), Redeliver::Due);
        let again = store.deliveries(&HERE, LONG).await;
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].delivery.webhook_id(), due.delivery.webhook_id());
        assert_eq!(again[0].delivery.tried, 0, "its schedule begins anew");
        again.into_iter().next().expect("there is one")
    };
    for outcome in [
        DeliveryOutcome::Delivered,
        DeliveryOutcome::Failed,
        DeliveryOutcome::Blocked,
        DeliveryOutcome::Retry(LONG),
    ] {
        let due = one_due(&store).await;
        assert!(told(&store, &due, outcome).await);
        assert_eq!(store.deliveries(&HERE, LONG).await.len(), 0);
        let second = again(&due).await;
        assert!(second.delivery.token > due.delivery.token);
        assert!(!told(&store, &due, DeliveryOutcome::Failed).await, "its claim is old");
        assert!(told(&store, &second, DeliveryOutcome::Delivered).await);
        assert_eq!(store.record(due.delivery.id).await.deliveries[0].tries.len(), 2);
    }
    let due = one_due(&store).await;
    let stranger = Scope::One(Some(Tenant::new("stranger")));
    let refused = store.redeliver(&stranger, due.delivery.id, 1, &HERE).await;
    assert_eq!(refused.expect_err("out of scope").kind(), StoreErrorKind::NotFound);
    for (generation, destination) in [(2, HERE), (1, Destination::new("elsewhere"))] {
        let unknown = store
            .redeliver(&Scope::All, due.delivery.id, generation, &destination)
            .await;
        assert_eq!(unknown.expect("redeliver"), Redeliver::Unknown);
    }
    assert!(
        told(&store, &due, DeliveryOutcome::Delivered).await,
        "nothing was changed"
    );
}

/// The number of pending completions is over all tenants. It includes claimed completions until they are settled for
/// good.
pub async fn pending_completions_are_counted(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let pending = async || store.counts(&Scope::All).await.expect("counts").pending_deliveries;
    assert_eq!(pending().await, Some(0));
    let claimed = one_due(&store).await;
    let lease = store.insert_born(a_task_telling(&HERE), &worker("w"), LONG).await;
    let _ = store.end(lease, success()).await;
    assert_eq!(pending().await, Some(2));
    assert!(told(&store, &claimed, DeliveryOutcome::Retry(LONG)).await);
    assert_eq!(pending().await, Some(2));
    let due = store.deliveries(&HERE, LONG).await.remove(0);
    assert!(told(&store, &due, DeliveryOutcome::Delivered).await);
    assert_eq!(pending().await, Some(1));
    let redelivered = store.redeliver(&Scope::All, due.delivery.id, 1, &HERE).await;
    assert_eq!(redelivered.expect("redeliver"), Redeliver::Due);
    assert_eq!(pending().await, Some(2));
    let one = store.counts(&Scope::One(None)).await.expect("counts");
    assert_eq!(one.pending_deliveries, None, "they are counted of all together");
}

/// A completion is given up once it has been due for long enough. Not if its destination is spared, not while it is
/// claimed, and not before its next try has been due for long enough. It can be requested again.
pub async fn an_unclaimed_completion_is_given_up(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let there = Destination::new("there");
    let telling = async |destination: &Destination| {
        let lease = store.insert_born(a_task_telling(destination), &worker("w"), LONG).await;
        let _ = store.end(lease, success()).await;
        lease.id
    };
    let given_up = async |spared: &[Destination], max| {
        let give_up = GiveUp {
            spared: spared.to_vec(),
            overdue: store.units(3),
            max,
        };
        store.give_up_deliveries(give_up).await.expect("give up deliveries")
    };
    let (mine, nobodys) = (telling(&HERE).await, telling(&there).await);
    store.pass(2).await;
    assert_eq!(given_up(&[], 10).await, [], "it is early");
    store.pass(2).await;
    let found = given_up(&[HERE], 10).await;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].id, found[0].status, found[0].tried),
        (nobodys, DeliveryStatus::Failed, 0)
    );
    assert!(
        found[0].tries.last().is_some_and(|entry| entry.text.is_some()),
        "it says why"
    );
    assert_eq!(store.record(nobodys).await.deliveries, found, "what is kept");
    assert_eq!(store.deliveries(&there, LONG).await.len(), 0);
    assert_eq!(given_up(&[HERE], 10).await, [], "once");

    let due = store.deliveries(&HERE, LONG).await.remove(0);
    assert_eq!(due.delivery.id, mine);
    store.pass(4).await;
    assert_eq!(given_up(&[], 10).await, [], "it is claimed");
    assert!(told(&store, &due, DeliveryOutcome::Retry(store.units(3))).await);
    store.pass(4).await;
    assert_eq!(given_up(&[], 10).await, [], "its next try is not long due");
    let other = telling(&there).await;
    store.pass(4).await;
    assert_eq!(given_up(&[], 1).await.len(), 1, "as many as were asked for");
    assert_eq!(given_up(&[], 10).await.len(), 1);
    for id in [mine, other] {
        assert_eq!(store.record(id).await.destination_status(), DeliveryStatus::Failed);
    }
    assert!(!told(&store, &due, DeliveryOutcome::Delivered).await);
    let counts = store.counts(&Scope::All).await.expect("counts");
    assert_eq!(counts.pending_deliveries, Some(0));

    let again = store.redeliver(&Scope::All, nobodys, 1, &there).await;
    assert_eq!(again.expect("redeliver"), Redeliver::Due);
    assert_eq!(store.deliveries(&there, LONG).await.len(), 1);
}

async fn one_due(store: &Subject<'_>) -> ClaimedDelivery {
    let lease = store.insert_born(a_task_telling(&HERE), &worker("w"), LONG).await;
    let _ = store.end(lease, success()).await;
    let mut due = store.deliveries(&HERE, store.units(3)).await;
    assert_eq!(due.len(), 1);
    due.remove(0)
}

pub(super) async fn told(store: &Subject<'_>, due: &ClaimedDelivery, outcome: DeliveryOutcome) -> bool {
    let settlement = DeliverySettlement {
        claimed: due.clone(),
        outcome,
        tried: DeliveryTry::new(Timestamp::ZERO),
    };
    store.settle_delivery(settlement).await.expect("settle delivery")
}
