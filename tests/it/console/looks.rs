//! The look of the console: dark, light, on a phone; and its pictures for the README.

use std::{env, fs, path::Path, time::Duration};

use serde_json::json;
use tower_respond_async::{Backoff, TaskState, allow_everyone};

use crate::{
    console::{browser::Browser, served::Served},
    support::{WithoutBody, fc},
};

/// An application with some activity.
async fn busy() -> Served {
    let quickly = Backoff::new().base(Duration::from_millis(300));
    let served = Served::with(allow_everyone(), |builder| builder.retry(quickly)).await;
    for order in 1..=6 {
        let body = format!(
            r#"{{"order":{order},"total":12345678901234567890,"items":[{{"sku":"a-{order}","count":2}}],"paid":true,"note":null}}"#
        );
        let request = fc("/echo").header("content-type", "application/json").with(body);
        let id = served.app.accepted(request).await;
        served.app.ended(id).await;
    }
    for path in ["/status/404", "/status/422"] {
        let id = served.app.accepted(fc(path).empty()).await;
        served.app.ended(id).await;
    }
    served
        .app
        .accepted(fc("/echo").header("x-fc-async-delay", "1800").empty())
        .await;
    let stopped = served.app.accepted(fc("/work").empty()).await;
    served.app.until(stopped, TaskState::Running).await;
    let _ = served.app.tasks.stop(stopped).await.unwrap();
    served.app.until(stopped, TaskState::Stopped).await;
    let request = fc("/work?fail=2&token=s3cret")
        .header("x-fc-async-task-id", "nightly-report")
        .header("content-type", "application/json")
        .header("authorization", "Bearer s3cret");
    let id = served
        .app
        .accepted(request.with(r#"{"bucket":"reports","month":"2026-10","rows":[1,2,3]}"#))
        .await;
    served.app.until(id, TaskState::Running).await;
    served
}

const PAGES: [(&str, &str, &str); 5] = [
    ("overview", "#/", ".page-overview tbody tr"),
    ("tasks", "#/tasks", ".page-tasks tbody tr"),
    ("task", "#/tasks/nightly-report", ".page-task .log .level-info"),
    ("invoke", "#/invoke", ".page-invoke pre.curl"),
    ("settings", "#/settings", ".page-settings dd"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_page_can_be_read_in_the_light_and_in_the_dark_on_a_desk_and_on_a_phone() {
    let served = busy().await;
    let browser = Browser::open().await;
    for (width, height) in [(1280, 860), (360, 780)] {
        browser.resize(width, height).await;
        for colours in ["light", "dark"] {
            browser.colours(colours).await;
            for (name, part, there) in PAGES {
                browser.open_anew(served.console(part)).await;
                browser.until(&format!("document.querySelector('{there}')")).await;
                let here = format!("{name}, {colours}, {width} wide");

                let wide = browser.eval("document.documentElement.scrollWidth - innerWidth").await;
                assert_eq!(wide, json!(0), "{here}: it is wider than the window");
                let dark = browser
                    .eval("$luminance(getComputedStyle(document.documentElement).backgroundColor)")
                    .await;
                assert_eq!(dark.as_f64().unwrap() < 0.5, colours == "dark", "{here}");
                let faint = browser.eval("$faint()").await;
                assert_eq!(faint, json!([]), "{here}: hard to read");
                let nameless = browser.eval("$nameless()").await;
                assert_eq!(nameless, json!([]), "{here}: a screen reader has no name for these");
                let small = browser.eval("$small()").await;
                assert_eq!(small, json!([]), "{here}: hard to hit");
            }
        }
    }

    // The user's own choice overrides the system's, and is kept.
    browser.resize(1280, 860).await;
    browser.go(served.console("")).await;
    browser.colours("light").await;
    for (scheme, dark) in [("light", false), ("dark", true)] {
        browser.click("#theme", "").await;
        browser
            .until(&format!("document.documentElement.style.colorScheme === '{scheme}'"))
            .await;
        let luminance = browser
            .eval("$luminance(getComputedStyle(document.documentElement).backgroundColor)")
            .await;
        assert_eq!(luminance.as_f64().unwrap() < 0.5, dark);
    }
    browser.open_anew(served.console("")).await;
    assert_eq!(browser.eval("document.documentElement.style.colorScheme").await, "dark");
    browser.close().await;
}

/// Takes the pictures for the README. They are written only on request, so that tests do not change the checkout:
///
/// ```text
/// CONSOLE_PICTURES=1 cargo test --features full --test it console::looks::pictures
/// ```
#[tokio::test(flavor = "multi_thread")]
async fn pictures_of_every_page_can_be_taken() {
    let served = busy().await;
    let browser = Browser::open().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/console");
    let keep = env::var_os("CONSOLE_PICTURES").is_some();
    if keep {
        fs::create_dir_all(&folder).unwrap();
    }
    let take = async |name: &str| {
        let picture = browser.screenshot().await;
        assert!(
            picture.starts_with(b"\x89PNG") && picture.len() > 5_000,
            "{name}: {} bytes",
            picture.len()
        );
        if keep {
            fs::write(folder.join(format!("{name}.png")), picture).unwrap();
        }
    };
    browser.resize(1280, 800).await;
    // The chart would be empty without an hour of work, so the page gets one.
    browser.go(served.console("#/invoke")).await;
    browser.eval("$hour()").await;
    for (name, part, there) in PAGES {
        browser.eval(&format!("location.hash = '{part}'")).await;
        browser.until(&format!("document.querySelector('{there}')")).await;
        if name == "invoke" {
            browser.fill("input[name=path]", "/echo").await;
            browser.fill("#invoke-headers", "content-type: application/json").await;
            browser
                .fill("#invoke-body", "{\"bucket\": \"my-bucket\", \"object\": \"480P.mp4\"}")
                .await;
            browser.click("button", "Send").await;
            browser.sees(".task-line .badge", "Succeeded").await;
        }
        browser
            .eval("document.activeElement.blur(); new Promise((resolve) => setTimeout(resolve, 400))")
            .await;
        take(name).await;
    }
    browser.colours("dark").await;
    browser.eval("location.hash = '#/'").await;
    browser.until("document.querySelector('.page-overview tbody tr')").await;
    take("overview-dark").await;
    browser.resize(390, 800).await;
    browser.eval("location.hash = '#/tasks'").await;
    browser.until("document.querySelector('.page-tasks tbody tr')").await;
    take("tasks-phone").await;
    browser.close().await;
}
