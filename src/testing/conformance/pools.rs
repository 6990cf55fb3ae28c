//! Pools and tenants: how many of their tasks a claim takes, and how many may wait.

use super::{
    Harness, Subject,
    subject::{LONG, a_task, ids, of_tenant, worker},
};
use crate::{
    store::{Claim, FullReason, Insert, Inserted, Limits, PoolClaim},
    task::{Filter, NewTask, Page, PoolName, RequestId, Scope, Tenant, lifecycle::Rescue},
};

fn pool(name: &str) -> PoolName {
    PoolName::new(name).expect("a name")
}

fn in_pool(name: &str, task: NewTask) -> NewTask {
    NewTask {
        pool: pool(name),
        ..task
    }
}

/// Stores `count` tasks of a pool, oldest first.
async fn fill(store: &Subject<'_>, name: &str, count: usize) -> Vec<RequestId> {
    let mut stored = Vec::new();
    for _ in 0..count {
        stored.push(store.insert_new(in_pool(name, a_task())).await.id);
    }
    stored
}

fn claim(max: usize, pools: Vec<PoolClaim>, others: usize) -> Claim {
    let mut claim = Claim::new(worker("w"), max, LONG);
    (claim.pools, claim.others) = (pools, others);
    claim
}

/// A claim takes at most the maximum of each pool, however long other tasks have waited.
pub async fn claims_keep_to_the_maximum_of_each_pool(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let slow = fill(&store, "slow", 5).await;
    let quick = fill(&store, "quick", 5).await;
    let asked = || {
        claim(
            10,
            vec![PoolClaim::new(pool("slow"), 2), PoolClaim::new(pool("quick"), 3)],
            0,
        )
    };
    let claimed = store.claim(asked()).await.expect("claim");
    let expected = [&slow[..2], &quick[..3]].concat();
    assert_eq!(ids(&claimed.tasks), expected, "oldest first, whatever the pool");
    assert_eq!(claimed.next_due, None, "there is nothing else that it may have");
    assert!(!claimed.passed_over);

    let none = claim(10, vec![PoolClaim::new(pool("slow"), 0)], 10);
    let claimed = store.claim(none).await.expect("claim");
    assert_eq!(ids(&claimed.tasks), quick[3..]);
    let delayed = NewTask {
        delay: store.units(4),
        ..in_pool("quick", a_task())
    };
    store.insert_new(delayed).await;
    let due = store.claim(asked()).await.expect("claim");
    assert_eq!(ids(&due.tasks), slow[2..4]);
    assert!(
        due.next_due.is_some_and(|due| due > store.units(3)),
        "{:?}",
        due.next_due
    );
}

/// Tasks of a pool that was renamed still run.
pub async fn a_pool_that_no_claim_names_is_claimed_with_the_others(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let renamed = fill(&store, "renamed", 2).await;
    let default = fill(&store, "default", 2).await;
    let asked = claim(10, vec![PoolClaim::new(PoolName::DEFAULT, 1)], 1);
    let claimed = store.claim(asked).await.expect("claim");
    assert_eq!(ids(&claimed.tasks), [renamed[0], default[0]]);
    assert_eq!(store.claim_ids(&worker("w"), 10).await, [renamed[1], default[1]]);
    let record = store.record(renamed[0]).await;
    assert_eq!(record.pool, pool("renamed"));
}

/// The backlog of one tenant does not delay the tasks of others.
pub async fn a_tenant_at_its_limit_is_passed_over(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let mut annas = Vec::new();
    for _ in 0..4 {
        annas.push(store.insert_new(of_tenant(Some("anna"), a_task())).await.id);
    }
    let bobs = store.insert_new(of_tenant(Some("bob"), a_task())).await.id;
    let nobodys = store.insert_new(a_task()).await.id;
    let mut of_pool = PoolClaim::new(PoolName::DEFAULT, 10);
    of_pool.per_tenant = Some(2);
    of_pool.held = vec![(Tenant::new("anna"), 1)];
    let claimed = store.claim(claim(10, vec![of_pool.clone()], 10)).await.expect("claim");
    assert_eq!(ids(&claimed.tasks), [annas[0], bobs, nobodys]);
    assert!(claimed.passed_over, "the claim reports that some were passed over");
    assert_eq!(claimed.next_due, None, "which it may not have yet");

    of_pool.held = vec![(Tenant::new("anna"), 0)];
    let claimed = store.claim(claim(1, vec![of_pool.clone()], 10)).await.expect("claim");
    assert_eq!(ids(&claimed.tasks), [annas[1]]);
    let claimed = store.claim(claim(10, vec![of_pool], 10)).await.expect("claim");
    assert_eq!(ids(&claimed.tasks), annas[2..]);
    assert!(!claimed.passed_over);
}

/// A full pool leaves room for the others.
pub async fn limits_hold_for_each_pool(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let limits = Limits {
        queued: 5,
        per_tenant: u64::MAX,
        per_pool: 3,
    };
    let insert = async |name: &str| {
        let insert = Insert::new(in_pool(name, a_task())).within(limits);
        store.insert(insert).await.expect("insert")
    };
    for _ in 0..3 {
        assert!(matches!(insert("slow").await, Inserted::New(..)));
    }
    assert!(matches!(insert("slow").await, Inserted::Full(FullReason::Pool)));
    for _ in 0..2 {
        assert!(matches!(insert("quick").await, Inserted::New(..)));
    }
    assert!(matches!(insert("quick").await, Inserted::Full(FullReason::Queue)));
    let hint = store.queue_hint(None, Some(&pool("slow")));
    assert!(hint.pool_queued.is_none_or(|queued| queued == 3), "{hint:?}");
    let claimed = store.claim_for(&worker("w"), 2, LONG).await.tasks;
    assert_eq!(claimed.len(), 2);
    assert!(matches!(insert("slow").await, Inserted::New(..)), "there is room again");
}

/// Tasks of a paused pool cannot run, so their age does not count.
pub async fn tasks_of_a_spared_pool_do_not_expire(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let aged = |name: &str| NewTask {
        max_age: store.units(2),
        ..in_pool(name, a_task())
    };
    let paused = store.insert_new(aged("paused")).await.id;
    let other = store.insert_new(aged("other")).await.id;
    let held = store.insert_born(aged("paused"), &worker("dead"), store.units(1)).await;
    store.pass(3).await;
    let rescued = store.rescue_sparing(vec![pool("paused")], 10).await.expect("rescue");
    let mut rescued = rescued.tasks;
    rescued.sort_by_key(|(id, _)| *id != other);
    assert_eq!(
        rescued,
        [(other, Rescue::Expired), (held.id, Rescue::Requeued)],
        "leases run out in every pool"
    );
    let rescued = store.rescue_sparing(Vec::new(), 10).await.expect("rescue").tasks;
    assert!(rescued.contains(&(paused, Rescue::Expired)), "{rescued:?}");
}

/// A task of a resumed pool expires later by the time of the pause.
pub async fn a_task_of_a_resumed_pool_has_its_time_back(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let aged = || NewTask {
        max_age: store.units(4),
        ..in_pool("paused", a_task())
    };
    let before = store.insert_new(aged()).await.id;
    store.pass(1).await;
    let paused_at = store.port().now();
    store.pass(2).await;
    let during = store.insert_new(aged()).await.id;
    store.pass(4).await;
    let page = || Page {
        limit: 1,
        ..Page::default()
    };
    let mut next = store.resume(&pool("paused"), paused_at, page()).await.expect("resume");
    let mut pages = 1;
    while next.is_some() {
        let page = Page { after: next, ..page() };
        next = store.resume(&pool("paused"), paused_at, page).await.expect("resume");
        pages += 1;
    }
    assert!(pages >= 2, "it goes by pages");
    assert_eq!(store.rescue(10).await.expect("rescue").tasks, []);
    store.pass(2).await;
    assert_eq!(
        store.rescue(10).await.expect("rescue").tasks,
        [],
        "each has three units or four left"
    );
    let claimed = store.claim_for(&worker("w"), 1, LONG).await.tasks;
    assert_eq!(ids(&claimed), [before]);
    store.pass(3).await;
    let rescued = store.rescue(10).await.expect("rescue").tasks;
    assert_eq!(rescued, [(during, Rescue::Expired)]);
}

/// A list with a pool in its filter has the tasks of that pool only.
pub async fn a_list_can_be_of_one_pool(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let mut of_pools = Vec::new();
    for name in ["one", "default", "two"] {
        of_pools.push((pool(name), fill(&store, name, 3).await));
    }
    for (pool, expected) in of_pools {
        let filter = Filter {
            pool: Some(pool),
            ..Filter::default()
        };
        let listed = store.list_all(&Scope::All, &filter).await.expect("list");
        let mut listed: Vec<_> = listed.iter().map(|record| record.id).collect();
        listed.sort_unstable();
        assert_eq!(listed, expected);
    }
}
