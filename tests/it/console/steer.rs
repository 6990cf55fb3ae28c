//! Using the console: sending requests, watching, stopping, re-running; by keyboard, with a token, below a prefix.

use axum::Router;
use http::request::Parts;
use serde_json::{Value, json};
use tower::make::Shared;
use tower_respond_async::{Access, BearerToken, Scope, TaskState, allow_everyone, api::Permission};

use crate::{
    console::{
        browser::Browser,
        served::{HOSTILE, Served},
    },
    support::{App, WithoutBody, fc, routes},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_tried_out_both_ways_and_watched_live() {
    let served = Served::new().await;
    let browser = served.browse("#/invoke").await;

    // Synchronous: the response itself.
    browser.fill("input[name=path]", "/echo?a=1").await;
    browser.fill("#invoke-headers", "content-type: application/json").await;
    browser.fill("#invoke-body", r#"{"n":12345678901234567890}"#).await;
    browser.click(".switch", "Async").await;
    browser.sees("pre.curl", "--data-raw").await;
    browser.click("button", "Send").await;
    browser.sees(".badge", "200").await;
    browser.sees(".payload pre", "12345678901234567890").await;
    assert_eq!(browser.count(".task-line").await, 0);

    // Asynchronous: a 202, and a task that can be watched from here.
    browser.fill("input[name=path]", "/work").await;
    browser.click(".switch", "Async").await;
    browser.fill("input[name=taskId]", "the-job").await;
    browser.sees("pre.curl", "X-Fc-Invocation-Type: Async").await;
    browser.click("button", "Send").await;
    browser.sees(".badge", "202").await;
    browser.sees(".task-line .badge", "Running").await;
    browser.sees(".task-line", "half of it").await;
    browser.click(".task-line a", "the-job").await;

    // The task's page, live: progress, the growing log, the end.
    browser.sees("h1", "the-job").await;
    browser.sees("#pulse", "live").await;
    browser.sees(".task-progress", "half of it").await;
    browser.sees(".log .said", "the first half is done").await;
    browser.sees(".page-task", "There is none yet.").await;
    assert_eq!(browser.count(".log li").await, 1);
    served.gate.let_pass(1);
    browser.sees(".task-top .badge", "Succeeded").await;
    browser.sees(".log .level-warn", "the second half is done too").await;
    browser.sees(".payload pre", "12345678901234567890").await;
    browser.sees(".attempts td", "Succeeded").await;
    browser.sees(".events li", "Enqueued").await;
    browser.sees("button", "Run again").await;

    // And by its request id, from the box at the top.
    let id = served
        .app
        .tasks
        .list(&Default::default(), Default::default())
        .await
        .unwrap()
        .items[0]
        .id;
    browser.press("/").await;
    browser.write(&id.to_string()).await;
    browser.press("Enter").await;
    browser.until(&format!("location.hash === '#/tasks/{id}'")).await;
    browser.sees("h1", "the-job").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_waited_for_and_a_task_is_delayed() {
    let served = Served::new().await;
    let browser = served.browse("#/invoke").await;
    browser.fill("input[name=path]", "/hello/you").await;
    browser.fill("input[name=wait]", "20").await;
    browser.click("button", "Send").await;
    browser.sees(".payload pre", "hello you").await;

    browser.fill("input[name=wait]", "").await;
    browser.fill("input[name=delay]", "600").await;
    browser.click("button", "Send").await;
    browser.sees(".task-line .badge", "Enqueued").await;
    browser.click(".task-line a", "").await;
    browser.sees(".facts", "Not before").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_stopped_run_again_edited_and_deleted() {
    let served = Served::new().await;
    let request = fc("/work")
        .header("x-fc-async-task-id", "job")
        .header("authorization", "Bearer s3cret")
        .with("one");
    let id = served.app.accepted(request).await;
    served.app.until(id, TaskState::Running).await;

    let browser = served.browse("#/tasks/job").await;
    browser.click(".task-top button", "Stop").await;
    browser.sees(".task-top .badge", "Stopped").await;
    browser.sees(".attempts td", "Stopped").await;

    served.gate.let_pass(1);
    browser.click(".task-top button", "Run again").await;
    browser.sees(".task-top .badge", "Succeeded").await;
    browser.sees(".facts", "Generation").await;

    // Edited: the secret is never shown, but is still sent.
    browser.click(".task-top button", "Edit and run again").await;
    browser
        .until("document.querySelector('#edit-headers')?.value.includes('authorization: REDACTED')")
        .await;
    browser.fill("#edit-uri", "/echo").await;
    browser.fill("#edit-body", "two").await;
    browser.click("dialog button", "Run again").await;
    browser.sees(".facts", "/echo").await;
    browser.sees(".task-top .badge", "Succeeded").await;
    browser.sees(".payload pre", "two").await;
    let stored = served.app.tasks.request(id).await.unwrap().unwrap();
    assert_eq!(stored.headers["authorization"], "Bearer s3cret");
    assert!(!browser.text("body").await.contains("s3cret"));

    browser.click(".task-top button", "Delete").await;
    browser.sees("dialog h2", "Delete this task?").await;
    browser.press("Escape").await;
    browser.until("!document.querySelector('dialog')").await;
    served.app.record(id).await;
    browser.click(".task-top button", "Delete").await;
    browser.click("dialog button", "Delete").await;
    browser.until("location.hash === '#/tasks'").await;
    assert_eq!(served.app.kept().await, 0);
    browser.close().await;
}

/// The page stops its requests about a task that is being deleted, and must resume them if the task is not deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_is_refused_leaves_the_page_live() {
    let served = Served::new().await;
    served.gate.let_pass(1);
    let id = served
        .app
        .accepted(fc("/work").header("x-fc-async-task-id", "job").empty())
        .await;
    served.app.until(id, TaskState::Succeeded).await;

    let browser = served.browse("#/tasks/job").await;
    browser.click(".task-top button", "Delete").await;
    browser.sees("dialog h2", "Delete this task?").await;
    // Meanwhile the task is run again.
    assert_eq!(served.app.post("/tasks/job/retry").await.status, 202);
    served.app.until(id, TaskState::Running).await;
    browser.click("dialog button", "Delete").await;
    browser.sees(".toast.bad", "Running").await;
    browser.sees(".task-top .badge", "Running").await;
    browser.sees("#pulse", "live").await;
    served.gate.let_pass(1);
    browser.sees(".task-top .badge", "Succeeded").await;
    browser
        .until("document.querySelectorAll('.log .level-warn').length === 2")
        .await;

    let complaints = browser.complaints();
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    assert!(complaints[0].contains("409 (Conflict)"), "{complaints:#?}");
    browser.forget_complaints();
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_is_enough() {
    let served = Served::new().await;
    let id = served
        .app
        .accepted(fc("/work").header("x-fc-async-task-id", "job").empty())
        .await;
    served.app.until(id, TaskState::Running).await;
    let browser = served.browse("").await;
    let focused = "document.activeElement.textContent || document.activeElement.getAttribute('aria-label')";

    // The first Tab stop leads past the navigation.
    browser.press("Tab").await;
    assert_eq!(browser.eval(focused).await, "Skip to content");
    browser.press("Enter").await;
    browser.until("document.activeElement.id === 'main'").await;

    browser.press("?").await;
    browser.sees("dialog h2", "Keyboard").await;
    browser.press("Escape").await;
    browser.until("!document.querySelector('dialog')").await;

    browser.press("g").await;
    browser.press("t").await;
    browser.until("location.hash === '#/tasks'").await;
    browser.sees(".page-tasks tbody a", "job").await;
    browser.press("j").await;
    browser.until("document.activeElement.matches('tbody a')").await;
    browser.press("Enter").await;
    browser.sees("h1", "job").await;

    // Tab alone reaches the stop button, and the focus is visible.
    let tab_to = async |text: &str| {
        for _ in 0..60 {
            browser.press("Tab").await;
            if browser.eval(focused).await == text {
                let outline = browser
                    .eval("getComputedStyle(document.activeElement).outlineStyle")
                    .await;
                assert_eq!(outline, "solid", "the focus on {text} cannot be seen");
                return;
            }
        }
        panic!("no {text} was reached");
    };
    browser.sees(".task-top button", "Stop").await;
    tab_to("Stop").await;
    browser.press("Enter").await;
    browser.sees(".task-top .badge", "Stopped").await;

    // A request from the invoke page.
    browser.press("g").await;
    browser.press("i").await;
    browser.until("location.hash === '#/invoke'").await;
    browser.until("!!document.querySelector('[name=path]')").await;
    browser.press("/").await;
    browser.until("document.activeElement.name === 'path'").await;
    browser.eval("document.activeElement.select()").await;
    browser.write("/hello/keys").await;
    browser.press("Tab").await;
    assert_eq!(browser.eval("document.activeElement.name").await, "async");
    browser.press(" ").await;
    browser.press("Tab").await;
    browser.press("Enter").await;
    browser.sees(".payload pre", "hello keys").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_and_kept_in_the_tab_alone() {
    let access = Access::read_only(Scope::All).without(Permission::Payload);
    let served = Served::with(BearerToken::new("s3cret").granting(access), |builder| builder).await;
    let id = served
        .app
        .accepted(fc("/work").header("x-fc-async-task-id", "job").empty())
        .await;
    served.app.until(id, TaskState::Running).await;

    let browser = served.browse("#/tasks/job").await;
    // A user who does not sign in sees why nothing is shown, and can sign in later.
    browser.click("dialog button", "Not now").await;
    browser.sees("#notice", "The request carries no credentials").await;
    browser.click("#notice button", "Sign in").await;
    browser.sees("dialog h2", "Sign in").await;
    browser.write("wrong").await;
    browser.click("dialog button", "Sign in").await;
    browser.sees("dialog label", "not accepted").await;
    browser.write("wrong too").await;
    browser.press("Enter").await;
    browser.sees("dialog label", "not accepted").await;
    browser.write("s3cret").await;
    browser.click("dialog button", "Sign in").await;
    browser.sees("h1", "job").await;

    // Actions that the caller may not use are not offered, and hidden data is not there.
    browser.sees(".log .said", "the first half is done").await;
    browser.sees(".task-top .badge", "Running").await;
    assert_eq!(browser.count(".task-top .actions button").await, 0);
    assert_eq!(
        browser.eval("$t('.card h2', 'Request') === undefined").await,
        json!(true)
    );
    let stores =
        browser.eval("[sessionStorage.length, localStorage.length, document.cookie, location.href.includes('s3cret')]");
    assert_eq!(stores.await, json!([1, 0, "", false]));

    // The token survives a reload, and is removed on request.
    browser.go(served.console("#/settings")).await;
    browser.sees(".chip", "logs").await;
    browser.click("button", "Forget the token").await;
    browser.sees("dialog h2", "Sign in").await;
    assert_eq!(browser.eval("sessionStorage.length").await, json!(0));

    // The API answered 401 and 403, as intended, and the browser reports each.
    let complaints = browser.complaints();
    let expected =
        |complaint: &String| complaint.contains("401 (Unauthorized)") || complaint.contains("403 (Forbidden)");
    assert!(complaints.iter().all(expected), "{complaints:#?}");
    browser.forget_complaints();
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_goes_on_when_the_server_is_back() {
    let served = Served::new().await;
    let browser = served.browse("#/tasks").await;
    browser.sees("#pulse", "live").await;
    browser.offline(true).await;
    // The typed prefix is requested, in vain, and nothing else will make the page ask again.
    browser.fill("input[name=prefix]", "after").await;
    let asked = "performance.getEntriesByType('resource').some((each) => each.name.includes('prefix=after'))";
    browser.until(asked).await;
    browser.sees("#notice", "The server cannot be reached").await;
    browser.offline(false).await;
    browser.sees("#pulse", "live").await;
    browser.until("document.getElementById('notice').hidden").await;
    served
        .app
        .accepted(fc("/echo").header("x-fc-async-task-id", "after").empty())
        .await;
    browser.sees("tbody a", "after").await;

    let complaints = browser.complaints();
    let network = |complaint: &String| complaint.contains("net::ERR_");
    assert!(complaints.iter().all(network), "{complaints:#?}");
    browser.forget_complaints();
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_its_own_and_nothing_of_the_process() {
    let tenant = |request: &Parts| {
        let name = request.headers.get("x-tenant")?.to_str().ok()?;
        Some(tower_respond_async::Tenant::new(name))
    };
    let acme = || Some(tower_respond_async::Tenant::new("acme"));
    let authorizer = move |_: &Parts| Access::full(Scope::One(acme()));
    let served = Served::with(authorizer, |builder| builder.tenant(tenant)).await;
    for (name, tenant) in [("ours", "acme"), ("theirs", "other")] {
        let request = fc("/echo")
            .header("x-fc-async-task-id", name)
            .header("x-tenant", tenant)
            .empty();
        let id = served.app.accepted(request).await;
        served.app.ended(id).await;
    }
    let browser = served.browse("").await;
    browser.sees("tbody a", "ours").await;
    assert_eq!(browser.count("tbody tr").await, 1);
    assert_eq!(browser.count(".chart").await, 0);
    browser.go(served.console("#/settings")).await;
    browser.sees("dd", "one tenant's tasks").await;
    assert!(!browser.text("main").await.contains("This process"));
    browser.close().await;
}

/// With only one process there is no such row.
#[tokio::test(flavor = "multi_thread")]
async fn the_overview_has_a_row_for_each_process() {
    let served = Served::with(allow_everyone(), |builder| {
        builder.worker_name("first").version(HOSTILE)
    })
    .await;
    let browser = served.browse("#/").await;
    browser.sees(".gauges", "Slots in use").await;
    assert_eq!(browser.count(".processes tr").await, 1, "the heads");
    let second = App::build(served.store.clone(), routes(), |builder| {
        builder.worker_name("second").concurrency(5)
    });
    let row = "table.processes tbody tr";
    browser
        .until(&format!("document.querySelectorAll('{row}').length === 2"))
        .await;
    browser.sees(&format!("{row}:nth-child(1)"), "first-").await;
    browser.sees(&format!("{row}:nth-child(2)"), "0 of 5").await;
    let total = served.app.tasks.stats().await.unwrap().slots.unwrap().total;
    browser.sees(".gauges", &format!("of {total}")).await;
    browser.resize(360, 780).await;
    let wide = browser.eval("document.documentElement.scrollWidth - innerWidth").await;
    assert_eq!(wide, json!(0), "the table scrolls, the page does not");
    drop(second);
    browser.close().await;
}

/// Nothing is shown while everything is in order.
#[tokio::test(flavor = "multi_thread")]
async fn the_overview_says_what_the_store_lost() {
    let served = Served::new().await;
    let browser = served.browse("#/settings").await;
    browser.eval("location.hash = '#/'").await;
    browser.sees(".gauges", "Oldest that waits").await;
    for name in ["Callbacks to deliver", "Damaged values", "Forgotten keys"] {
        assert!(!browser.text(".gauges").await.contains(name), "{name}");
    }
    browser.eval("location.hash = '#/settings'").await;
    let lost = json!({ "pendingCallbacks": 5, "setAside": 6, "forgottenKeys": 7000 });
    browser.eval(&format!("$stats({lost})")).await;
    browser.eval("location.hash = '#/'").await;
    for gauge in ["Callbacks to deliver\n5", "Damaged values\n6", "Forgotten keys\n7,000"] {
        browser.sees(".gauges", gauge).await;
    }
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_below_a_prefix_and_without_its_slash() {
    let served = Served::with(allow_everyone(), |builder| {
        builder.public_url("http://example.org/front")
    })
    .await;
    let outer = Router::new().nest_service("/front", served.app.service.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Shared::new(outer)).await });

    let browser = Browser::open().await;
    browser.go(format!("http://{address}/front/console")).await;
    browser.until("location.pathname === '/front/console/'").await;
    browser.sees("#pulse", "live").await;
    browser.press("g").await;
    browser.press("i").await;
    browser.fill("input[name=path]", "/hello/prefix").await;
    browser.click("button", "Send").await;
    browser.click(".task-line a", "").await;
    browser.sees(".payload pre", "hello prefix").await;
    let paths = "performance.getEntriesByType('resource').map((each) => new URL(each.name).pathname)";
    let outside: Value = browser
        .eval(&format!("{paths}.filter((path) => !path.startsWith('/front/'))"))
        .await;
    assert_eq!(outside, json!([]));
    browser.close().await;
}
