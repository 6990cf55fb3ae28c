//! Finding tasks among many, page by page, and changing many at once.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri, request::Parts};
use serde_json::json;
use tower_respond_async::{
    RequestId, TaskState, allow_everyone,
    store::{Insert, Inserted, Ledger},
    task::{CapturedRequest, Labels, NewTask, lifecycle::Stop},
    time::Timestamp,
};

use crate::{
    console::{browser::Browser, served::Served},
    support::{WithoutBody, fc},
};

/// An application whose tasks have the labels in their requests: `name=value; name=value`.
async fn labelled() -> Served {
    let labels = |head: &Parts| {
        let brought = head
            .headers
            .get("x-labels")
            .map_or("", |labels| labels.to_str().unwrap());
        Labels::from_iter(brought.split("; ").filter_map(|label| label.split_once('=')))
    };
    Served::with(allow_everyone(), |builder| builder.labels(labels)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_looked_for_is_in_the_address() {
    let served = labelled().await;
    for (name, path, labels) in [
        ("alpha-1", "/echo", "team=a,b; month=10"),
        ("alpha-2", "/status/404", "team=a,b; month=11"),
        ("beta-2", "/echo", "team=a; month=10"),
    ] {
        let request = fc(path).header("x-fc-async-task-id", name).header("x-labels", labels);
        let id = served.app.accepted(request.with(format!("payload of {name}"))).await;
        served.app.ended(id).await;
    }
    let waits = fc("/echo")
        .header("x-fc-async-task-id", "beta-1")
        .header("x-fc-async-delay", "3000");
    served.app.accepted(waits.empty()).await;
    let browser = Browser::open().await;
    let rows = async |browser: &Browser, wanted: &[&str]| {
        let shown = "[...document.querySelectorAll('tbody tr')].map((row) => row.dataset.row).sort()";
        let wanted = json!(wanted).to_string();
        browser
            .until(&format!("JSON.stringify({shown}) === {}", json!(wanted)))
            .await;
    };
    browser.go(served.console("#/tasks")).await;
    rows(&browser, &["alpha-1", "alpha-2", "beta-1", "beta-2"]).await;

    browser.click(".chip", "Failed").await;
    browser.until("location.hash === '#/tasks?status=Failed'").await;
    rows(&browser, &["alpha-2"]).await;
    browser.click(".chip", "Succeeded").await;
    rows(&browser, &["alpha-1", "alpha-2", "beta-2"]).await;
    browser.fill("input[name=prefix]", "beta").await;
    rows(&browser, &["beta-2"]).await;

    // Another browser with the same address shows the same.
    let address = browser.eval("location.href").await;
    browser.open_anew(address.as_str().unwrap()).await;
    rows(&browser, &["beta-2"]).await;
    assert_eq!(
        browser.eval("document.querySelector('[name=prefix]').value").await,
        "beta"
    );
    assert_eq!(browser.count(".chip :checked").await, 2);

    browser.click("button", "Clear filters").await;
    browser.fill("input[name=text]", "payload of alpha").await;
    rows(&browser, &["alpha-1", "alpha-2"]).await;
    browser.fill("input[name=function]", "status").await;
    rows(&browser, &["alpha-2"]).await;
    browser.fill("input[name=text]", "nowhere").await;
    browser.sees(".empty", "No task matches").await;

    browser.click("button", "Clear filters").await;
    browser.fill("input[name=label]", "month=10").await;
    rows(&browser, &["alpha-1", "beta-2"]).await;
    browser.fill("input[name=label]", "month=10, team=a\\,b").await;
    rows(&browser, &["alpha-1"]).await;
    let hash = browser.eval("location.hash").await;
    assert_eq!(hash, "#/tasks?label=month%3D10&label=team%3Da%2Cb");
    browser.open_anew(served.console(hash.as_str().unwrap())).await;
    rows(&browser, &["alpha-1"]).await;
    let field = "document.querySelector('[name=label]').value";
    assert_eq!(browser.eval(field).await, "month=10, team=a\\,b");
    browser.fill("input[name=label]", "month").await;
    let why = "document.querySelector('[name=label]').validationMessage.startsWith('Write labels as name=value')";
    browser.until(why).await;
    browser.fill("input[name=label]", "month=11").await;
    rows(&browser, &["alpha-2"]).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tasks_are_paged_through_and_stopped_at_once() {
    let served = labelled().await;
    for number in 0..1001 {
        let labels = if number == 500 {
            "kind=other"
        } else {
            "kind=batch; of=1=1"
        };
        let waits = fc("/echo")
            .header("x-fc-async-delay", "3000")
            .header("x-labels", labels);
        served.app.accepted(waits.empty()).await;
    }
    let part = "#/tasks?status=Enqueued&label=kind%3Dbatch&label=of%3D1%3D1";
    let browser = served.browse(part).await;
    let mut seen = BTreeSet::new();
    for page in 1..=20 {
        browser.sees(".pager", &format!("Page {page} ·")).await;
        let ids = browser
            .eval("[...document.querySelectorAll('tbody tr')].map((row) => row.dataset.row)")
            .await;
        let ids = ids.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned());
        seen.extend(ids);
        if page < 20 {
            browser.click(".pager button", "Next").await;
        }
    }
    assert_eq!(seen.len(), 1000);
    // The last page is full, and there is no further one.
    assert_eq!(browser.eval("$t('.pager button', 'Next').disabled").await, json!(true));
    browser.click(".pager button", "Previous").await;
    browser.sees(".pager", "Page 19 ·").await;

    // A few by hand.
    for row in [1, 2, 3] {
        browser
            .click(&format!("tbody tr:nth-child({row}) td.pick input"), "")
            .await;
    }
    browser.sees(".bulk", "3 tasks selected").await;
    let barred = "[...document.querySelectorAll('.bulk button:disabled')].map((button) => button.textContent)";
    browser.until("document.querySelector('.bulk button')").await;
    assert_eq!(browser.eval(barred).await, json!(["Run again", "Delete"]));
    browser.click(".bulk button", "Stop").await;
    browser.click("dialog button", "Stop 3").await;
    browser.sees(".toast", "3 tasks stopped").await;

    // All that match: the count must be typed.
    browser.click("thead .pick input", "").await;
    browser.click(".bulk label", "all others that match").await;
    browser.until(&format!("{barred}.length === 0")).await;
    browser.click(".bulk button", "Stop").await;
    browser.sees("dialog h2", "Stop: 997 tasks").await;
    browser.fill("dialog input", "99").await;
    assert_eq!(
        browser.eval("$t('dialog button', 'Stop 997').disabled").await,
        json!(true)
    );
    browser.fill("dialog input", "997").await;
    browser.click("dialog button", "Stop 997").await;
    browser.sees(".toast", "997 tasks stopped").await;
    browser.sees(".empty", "No task matches").await;
    let stats = served.app.tasks.stats().await.unwrap();
    let counts: Vec<_> = stats.counts.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(counts, [(TaskState::Enqueued, 1), (TaskState::Stopped, 1000)]);
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rare_among_many_is_found_and_what_is_not_there_is_not_looked_for() {
    let served = Served::new().await;
    for name in ["first", "second"] {
        let waits = fc("/echo")
            .header("x-fc-async-task-id", name)
            .header("x-fc-async-delay", "3000");
        let id = served.app.accepted(waits.empty()).await;
        assert_eq!(served.app.tasks.stop(id).await.unwrap(), Stop::Stopped);
    }
    // Twice as many as the API examines for one page.
    let input = CapturedRequest::new(Method::POST, Uri::from_static("/echo"), HeaderMap::new(), Bytes::new());
    let input = Arc::new(input);
    for number in 0..20_500_u64 {
        // The random part of the ids must differ: the store spreads tasks by it.
        let mut random = [0; 10];
        random[2..].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let mut task = NewTask::new(
            RequestId::from_parts(Timestamp::from_millis(number), random),
            input.clone(),
        );
        task.delay = Duration::from_secs(3000);
        assert!(matches!(
            Ledger::of(served.store.clone()).insert(Insert::new(task)).await,
            Ok(Inserted::New(..))
        ));
    }
    let browser = served.browse("#/tasks?status=Stopped").await;
    browser.sees(".pager", "2 tasks").await;
    browser.sees("tbody a", "first").await;
    assert_eq!(browser.text(".pager button:last-of-type").await, "Next");

    browser.go(served.console("#/tasks?status=Running")).await;
    browser.sees(".empty", "No task matches").await;
    let looks =
        "performance.getEntriesByType('resource').filter((each) => each.name.includes('status=Running')).length";
    let looks = browser.eval(looks).await;
    assert!(
        looks.as_u64().unwrap() <= 2,
        "{looks} looks for a state that no task is in"
    );
    browser.close().await;
}
