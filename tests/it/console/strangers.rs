//! Text from strangers is shown, and never run.

use http::HeaderValue;
use serde_json::json;
use tower_respond_async::{
    TaskState, allow_everyone,
    hook::webhook::Webhook,
    task::{Accepted, DeliveryTry},
};

use crate::{
    console::{
        browser::Browser,
        served::{HOSTILE, Served},
    },
    receiver::{Answer, Receiver},
    support::{WithoutBody, fc, no_retries},
    webhooks::hasty,
};

/// The same text for places that allow only visible ASCII.
fn header() -> HeaderValue {
    HeaderValue::from_static(HOSTILE)
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_is_shown_everywhere_and_run_nowhere() {
    let receiver = Receiver::start(|_, _| Answer::With(500, String::new(), HOSTILE)).await;
    let webhook = Webhook::new(&receiver.url("/hook")).unwrap().schedule(hasty(1));
    let served = Served::with(allow_everyone(), |builder| {
        builder
            .on_completion(webhook)
            .retry(no_retries())
            .function_name(|_| Some(HOSTILE.to_owned()))
    })
    .await;
    let mut ids = Vec::new();
    for (path, kind, end) in [
        ("/say", "text/html", TaskState::Succeeded),
        (
            "/say?status=500&<script>alert(6)</script>",
            "image/svg+xml",
            TaskState::Failed,
        ),
    ] {
        let path = path.replace('<', "%3C").replace('>', "%3E");
        let request = fc(&path)
            .header("content-type", kind)
            .header("x-said", header())
            .with(HOSTILE);
        let id = served.app.accepted(request).await;
        served.app.until(id, end).await;
        ids.push(id.to_string());
    }

    let browser = Browser::open().await;
    for id in &ids {
        browser.go(served.console(&format!("#/tasks/{id}"))).await;
        // Both bodies, both sets of headers, the log and its level, the function, the text of the callback's receiver.
        browser
            .until("document.querySelectorAll('.page-task .payload').length === 2")
            .await;
        browser.until("document.querySelector('.log li')").await;
        browser.until("document.querySelector('.delivery table')").await;
        browser
            .eval("document.querySelectorAll('details').forEach((each) => (each.open = true))")
            .await;
        for (place, whole) in [
            (".payload pre", HOSTILE),
            (".headers td", HOSTILE),
            (".log .said", HOSTILE),
            (".delivery td.wrap", &HOSTILE[..DeliveryTry::TEXT_BYTES]),
            (".facts a", &HOSTILE[..Accepted::FUNCTION_BYTES]),
        ] {
            browser.sees(place, whole).await;
        }
        for view in ["Hex", "Text"] {
            browser.click(".payload-tools button", view).await;
        }
    }
    browser.click(".payload-tools button", "Show image").await;
    browser.until("document.querySelector('img.payload-image')").await;
    // As data: an image runs no script.
    browser
        .until("document.querySelector('img.payload-image').src.startsWith('data:image/svg+xml;base64,')")
        .await;
    // Chromium reports nothing for an invalid image. It stays unpainted.

    browser.click("button", "Edit and run again").await;
    browser
        .until("document.querySelector('dialog #edit-body')?.value.includes('<script>')")
        .await;
    browser.press("Escape").await;

    browser.go(served.console("#/tasks")).await;
    browser.sees("td.c-note", "500").await;
    browser.go(served.console("#/")).await;
    browser
        .until("document.querySelectorAll('tbody tr').length === 2")
        .await;
    let query = "text=%3Cscript%3E&function=%22%3E%3Cimg%20src%3Dx%20onerror%3Dalert(7)%3E";
    browser.go(served.console(&format!("#/tasks?{query}"))).await;
    browser.sees(".empty", "No task matches").await;

    // The request that is sent from the invoke page, and its response.
    browser.go(served.console("#/invoke")).await;
    browser.fill("input[name=path]", "/say").await;
    browser
        .fill(
            "#invoke-headers",
            &format!("x-said: {HOSTILE}\ncontent-type: text/html"),
        )
        .await;
    browser.fill("#invoke-body", HOSTILE).await;
    browser.click(".switch", "Async").await;
    browser.click("button", "Send").await;
    browser.sees(".payload pre", HOSTILE).await;
    browser.sees(".headers td", HOSTILE).await;
    browser.sees("pre.curl", "<script>").await;

    let ran = browser
        .eval(
            "[document.querySelectorAll('main script, main [onerror], main [onload], main iframe').length, \
                            document.querySelectorAll('script').length]",
        )
        .await;
    assert_eq!(ran, json!([0, 1]));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invented_address_runs_nothing_and_leads_nowhere() {
    let served = Served::new().await;
    let browser = Browser::open().await;
    for part in [
        "#/%3Cscript%3Ealert(1)%3C/script%3E",
        "#javascript:alert(1)",
        "#/settings/%3Cimg%20src=x%20onerror=alert(1)%3E",
        "#/%",
        "?x=<script>alert(1)</script>#/invoke",
    ] {
        browser.go(served.console(part)).await;
        browser.until("document.querySelector('main h1')").await;
    }
    browser.close().await;

    // An invalid id, or one that leads out of the API, is no task. The browser reports the API's 404 on the console.
    let browser = Browser::open().await;
    for id in [
        "<img src=x onerror=alert(1)>",
        "../console",
        "..%2F..%2Fecho",
        "a/../../echo",
    ] {
        let id = id.replace('%', "%25").replace('/', "%2F").replace('<', "%3C");
        browser.go(served.console(&format!("#/tasks/{id}"))).await;
        browser.sees("h1", "No such task").await;
    }
    let complaints = browser.complaints();
    assert!(
        complaints.iter().all(|complaint| complaint.contains("404 (Not Found)")),
        "{complaints:#?}"
    );
    browser.forget_complaints();
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_a_browser_would_act_upon_is_shown_as_it_is() {
    let served = Served::new().await;
    for (name, path, end) in [
        ("moved", "/redirect", TaskState::Succeeded),
        ("who", "/password", TaskState::Failed),
    ] {
        let request = fc(path).header("x-fc-async-task-id", name).empty();
        let id = served.app.accepted(request).await;
        served.app.until(id, end).await;
    }
    let browser = served.browse("#/tasks/moved").await;
    browser.sees(".badge", "302").await;
    browser
        .eval("document.querySelectorAll('details').forEach((each) => (each.open = true))")
        .await;
    browser.sees(".headers td", "/echo").await;
    browser.go(served.console("#/tasks/who")).await;
    browser.sees(".payload pre", "who?").await;
    browser.sees(".badge", "401").await;
    browser.close().await;
}
