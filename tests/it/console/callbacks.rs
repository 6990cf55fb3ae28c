//! Deliveries in the console: real webhooks to a receiver that refuses them first, and then accepts them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tower_respond_async::{
    allow_everyone,
    hook::webhook::Webhook,
    task::{DeliveryStatus, DeliveryTry},
};

use crate::{
    console::served::{HOSTILE, Served},
    receiver::{Answer, Receiver},
    support::{WithoutBody, fc},
    webhooks::{hasty, settled},
};

#[tokio::test(flavor = "multi_thread")]
async fn each_try_is_shown_with_what_was_answered_and_a_failed_one_is_made_again() {
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = mended.clone();
    let receiver = Receiver::start(move |_, _| match is_mended.load(Ordering::SeqCst) {
        false => Answer::With(503, String::new(), HOSTILE),
        true => Answer::With(200, String::new(), "thank you"),
    })
    .await;
    let webhook = Webhook::new(&receiver.url("/hook")).unwrap().named("billing").unwrap();
    let served = Served::with(allow_everyone(), |builder| {
        builder.on_completion(webhook.schedule(hasty(2)))
    })
    .await;
    let id = served
        .app
        .accepted(fc("/echo").header("x-fc-async-task-id", "job").empty())
        .await;
    settled(&served.app.tasks, id, DeliveryStatus::Failed).await;

    // Both tries, with the text of the receiver's answer, which must not run.
    let browser = served.browse("#/tasks/job").await;
    browser.sees(".facts div", "Callbacks\nFailed").await;
    browser.sees(".delivery .badge", "Failed").await;
    browser.sees(".delivery b", "billing").await;
    browser
        .sees(".delivery tr:last-child td.wrap", &HOSTILE[..DeliveryTry::TEXT_BYTES])
        .await;
    assert_eq!(browser.count(".delivery tbody tr").await, 2);
    assert_eq!(browser.text(".delivery tbody td:nth-child(3)").await, "503");
    let made = "main .delivery :is(script, img, svg, [onerror], [onload], [onmouseover])";
    assert_eq!(browser.count(made).await, 0);

    // The page, whose stream has ended, shows how the delivery goes on.
    mended.store(true, Ordering::SeqCst);
    browser.click(".delivery button", "Redeliver").await;
    browser.sees(".toast", "It will be delivered again").await;
    browser.sees(".delivery .badge", "Delivered").await;
    browser.sees(".delivery tr:last-child td.wrap", "thank you").await;
    browser.sees(".facts div", "Callbacks\nDelivered").await;
    assert_eq!(browser.count(".delivery tbody tr").await, 3);

    let received = receiver.has(3).await;
    assert_eq!(received[2].header("webhook-id"), received[0].header("webhook-id"));
    browser.close().await;
}
