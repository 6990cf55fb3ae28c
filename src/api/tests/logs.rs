//! The log of a task.

use super::*;
use crate::{store::LogQuery, task::LogLine};

fn line(message: &str) -> LogLine {
    LogLine::new(Timestamp::from_millis(1_700_000_000_000), "INFO", "app", message)
}

impl World {
    /// A running task with lines in its log.
    async fn logging(&self, number: u8, lines: Vec<LogLine>) -> RequestId {
        let id = self.insert(number, |_| {}).await;
        let lease = self.claim().await;
        assert!(self.store.append_log(lease.lease(), lines).await.unwrap());
        id
    }
}

#[tokio::test]
async fn a_log_is_read_page_by_page_and_attempt_by_attempt() {
    let world = World::new();
    let id = world
        .logging(1, (1..=5).map(|n| line(&format!("line {n}"))).collect())
        .await;
    let read = async |query: &str| get(&world.open(), format!("/{id}/logs?{query}")).await.json();
    let messages = |page: &Value| -> Vec<String> {
        let lines = page["lines"].as_array().unwrap();
        lines
            .iter()
            .map(|line| line["message"].as_str().unwrap().to_owned())
            .collect()
    };

    let first = read("limit=3").await;
    assert_eq!(messages(&first), ["line 1", "line 2", "line 3"]);
    assert_eq!((&first["next"], &first["more"]), (&json!(3), &json!(true)));
    let second = read("limit=3&after=3").await;
    assert_eq!(messages(&second), ["line 4", "line 5"]);
    assert_eq!((&second["next"], &second["more"]), (&json!(5), &json!(false)));
    let nothing_new = read("after=5").await;
    assert_eq!((&nothing_new["lines"], &nothing_new["next"]), (&json!([]), &json!(5)));
    assert_eq!(messages(&read("attempt=1").await).len(), 5);
    assert_eq!(read("attempt=2").await["lines"], json!([]));

    for bad in ["limit=0", "limit=1001", "after=-1", "attempt=x"] {
        let answer = get(&world.open(), format!("/{id}/logs?{bad}")).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "InvalidArgument"),
            "{bad}"
        );
    }
    assert_eq!(get(&world.open(), "/nowhere/logs").await.code(), "TaskNotFound");
}

#[tokio::test]
async fn a_client_that_prefers_text_gets_the_whole_log() {
    let world = World::new();
    // More than one read from the store returns.
    let id = world
        .logging(1, (0..200).map(|n| line(&format!("line {n}\nforged"))).collect())
        .await;
    let text = async |query: &str| {
        let mut asking = request("GET", &format!("/{id}/logs{query}"));
        asking
            .headers_mut()
            .insert("accept", HeaderValue::from_static("text/plain"));
        send(&world.open(), asking).await
    };
    let answer = text("").await;
    assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    let lines: Vec<_> = std::str::from_utf8(&answer.body).unwrap().lines().collect();
    assert_eq!(lines.len(), 200);
    assert_eq!(
        lines[199],
        "2023-11-14T22:13:20.000Z #1  INFO app: line 199\u{240a}forged"
    );
    let last = text("?after=198&limit=1").await;
    assert_eq!(std::str::from_utf8(&last.body).unwrap(), format!("{}\n", lines[198]));
    assert_eq!(get(&world.open(), format!("/{id}/logs")).await.header("vary"), "accept");
}

#[tokio::test]
async fn secrets_and_escape_sequences_do_not_leave_a_log() {
    let world = World::new();
    let mut hostile = line("\u{1b}]0;owned\u{7}\u{1b}[2J<script>alert(1)</script>");
    hostile.fields = vec![
        ("authorization".into(), "Bearer s3cret".into()),
        ("n".into(), "\u{1b}[31m1".into()),
    ];
    let id = world.logging(1, vec![hostile]).await;
    let stored = world.store.logs(&Scope::All, id, LogQuery::default()).await.unwrap();
    assert!(stored[0].message.contains('\u{1b}'), "a store keeps what it was given");
    for accept in ["text/plain", "application/json"] {
        let mut asking = request("GET", &format!("/{id}/logs"));
        asking.headers_mut().insert("accept", HeaderValue::from_static(accept));
        let body = send(&world.open(), asking).await.body;
        let text = std::str::from_utf8(&body).unwrap();
        assert!(text.contains("<script>") && text.contains("REDACTED"), "{text}");
        assert!(
            !text.contains("s3cret") && !text.contains("u001b") && !text.contains('\u{1b}'),
            "{text}"
        );
    }
}
