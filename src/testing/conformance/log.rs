//! The log that a handler writes.

use super::{
    Harness, Subject,
    subject::{LONG, a_task, is_accepted, retry, worker},
};
use crate::{
    store::{LogQuery, StoreErrorKind},
    task::{LogLine, Scope},
    time::Timestamp,
};

fn line(text: &str) -> LogLine {
    LogLine::new(Timestamp::from_millis(7), "INFO", "test", text)
}

/// Lines are numbered from 1 without a gap, through all attempts. An attempt has a bound; beyond it lines are dropped,
/// and the last line says so. The next attempt has a bound of its own.
pub async fn logs_keep_order_and_stay_under_their_bound(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
    let everything = LogQuery {
        limit: usize::MAX,
        ..LogQuery::default()
    };
    for batch in 0..3 {
        let mut lines = vec![line(&format!("{batch}.0")), line(&format!("{batch}.1"))];
        lines[1].fields = vec![("batch".into(), batch.to_string().into())];
        assert!(store.append_log(lease, lines).await.expect("log"));
    }
    let lines = store.logs(&Scope::All, lease.id, everything).await.expect("logs");
    let found: Vec<_> = lines
        .iter()
        .map(|line| (line.seq, line.attempt, &*line.message))
        .collect();
    let expected = [
        (1, 1, "0.0"),
        (2, 1, "0.1"),
        (3, 1, "1.0"),
        (4, 1, "1.1"),
        (5, 1, "2.0"),
        (6, 1, "2.1"),
    ];
    assert_eq!(found, expected);
    assert_eq!(lines[5].fields, [("batch".into(), "2".into())]);
    assert_eq!(
        (lines[5].at, &*lines[5].level, &*lines[5].target),
        (Timestamp::from_millis(7), "INFO", "test")
    );

    let page = LogQuery {
        after: 2,
        limit: 2,
        ..LogQuery::default()
    };
    let lines = store.logs(&Scope::All, lease.id, page).await.expect("logs");
    assert_eq!(lines.iter().map(|line| line.seq).collect::<Vec<_>>(), [3, 4]);

    let many = vec![line("x"); LogQuery::LINES_KEPT + 5];
    assert!(store.append_log(lease, many).await.expect("log"));
    assert!(
        store.append_log(lease, vec![line("too late")]).await.expect("log"),
        "the claim still holds"
    );
    bounded(&store, lease.id, 1).await;

    assert!(is_accepted(store.end(lease, retry(store.units(0))).await));
    let lease = store.claim_one(&worker("w"), LONG).await;
    let long = "y".repeat(LogQuery::BYTES_KEPT / 4);
    for _ in 0..6 {
        assert!(store.append_log(lease, vec![line(&long)]).await.expect("log"));
    }
    let lines = bounded(&store, lease.id, 2).await;
    assert!(lines.len() >= 3, "what fits is kept");
    let unknown = store
        .logs(&Scope::All, a_task().id, everything)
        .await
        .expect_err("there is no such task");
    assert_eq!(unknown.kind(), StoreErrorKind::NotFound);
}

async fn bounded(store: &Subject<'_>, id: crate::task::RequestId, attempt: u32) -> Vec<LogLine> {
    let query = LogQuery {
        attempt: Some(attempt),
        after: 0,
        limit: usize::MAX,
    };
    let lines = store.logs(&Scope::All, id, query).await.expect("logs");
    let (last, kept) = lines.split_last().expect("there are lines");
    assert!(kept.len() <= LogQuery::LINES_KEPT, "{}", kept.len());
    assert!(kept.iter().map(LogLine::weight).sum::<usize>() <= LogQuery::BYTES_KEPT);
    assert!(
        last.message.contains("dropped"),
        "the last line says so: {}",
        last.message
    );
    assert!(lines.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
    assert!(lines.iter().all(|line| line.attempt == attempt));
    lines
}
