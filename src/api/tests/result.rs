//! The result of a task.

use super::*;

#[tokio::test]
async fn a_result_that_is_not_there_yet_says_where_to_ask_again() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    let lease = world.claim().await;
    let progress = Progress::new(0.5, "half");
    assert!(world.store.set_progress(lease.lease(), progress).await.unwrap());
    let answer = get(&world.open(), format!("/{id}/result")).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.header("location"), format!("/tasks/{id}/result"));
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.header("x-progress"), "0.5");
    assert_eq!(answer.header("x-respond-async-status"), "Running");
    assert_eq!(answer.header("content-location"), answer.header("location"));
    assert_eq!(answer.json()["progress"]["fraction"], 0.5);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_the_task_or_with_its_time() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    let mut preferring = request("GET", &format!("/{id}/result"));
    let prefer = HeaderValue::from_static("wait=1");
    preferring.headers_mut().insert("prefer", prefer);
    assert_eq!(send(&world.open(), preferring).await.status, 202);

    let api = world.open();
    let waiting = get(&api, format!("/{id}/result?wait=50"));
    let response = Arc::new(response(b"done", &[]));
    let ending = async {
        tokio::task::yield_now().await;
        let lease = world.claim().await;
        world.settle(lease, Outcome::Succeeded { response }).await;
    };
    let (answer, ()) = tokio::join!(waiting, ending);
    assert_eq!((answer.status, &answer.body[..]), (201, &b"done"[..]));

    assert_eq!(get(&api, format!("/{id}/result?wait=soon")).await.status, 400);
}

#[tokio::test]
async fn a_result_is_the_handler_s_response_and_cannot_script() {
    let world = World::new();
    let stored = response(
        b"<script>steal()</script>",
        &[
            ("content-type", "text/html"),
            ("x-raw", "\u{e9}"),
            ("x-two", "1"),
            ("x-two", "2"),
            ("set-cookie", "a=1"),
            ("cache-control", "public, max-age=9"),
            ("content-security-policy", "default-src *"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("content-length", "999"),
            ("x-respond-async-status", "Forged"),
        ],
    );
    let id = world.ended(1, stored).await;
    let path = format!("/{id}/result");
    let answer = get(&world.open(), &path).await;
    assert_eq!(
        (answer.status, &answer.body[..]),
        (201, &b"<script>steal()</script>"[..])
    );
    assert_eq!(answer.header("content-type"), "text/html");
    assert_eq!(answer.headers["x-raw"].as_bytes(), "\u{e9}".as_bytes());
    assert_eq!(answer.headers.get_all("x-two").iter().count(), 2);
    assert_eq!(answer.header("content-length"), "24");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("x-respond-async-status"), "Succeeded");
    assert_eq!(answer.header("set-cookie"), "a=1");
    let policies: Vec<_> = answer.headers.get_all("content-security-policy").iter().collect();
    assert_eq!(policies, ["default-src *", "sandbox"]);
    assert_eq!(answer.header("x-hop"), "1");
    for hop in ["connection", "transfer-encoding"] {
        assert!(!answer.headers.contains_key(hop), "{hop}");
    }

    let mut browser = request("GET", &path);
    browser
        .headers_mut()
        .insert("sec-fetch-dest", HeaderValue::from_static("empty"));
    let answer = send(&world.open(), browser).await;
    assert_eq!((answer.status, answer.header("set-cookie")), (201, ""));
    for run in ["script", "serviceworker", "style"] {
        let mut browser = request("GET", &path);
        browser
            .headers_mut()
            .insert("sec-fetch-dest", HeaderValue::from_static(run));
        assert_eq!(send(&world.open(), browser).await.status, 403, "{run}");
    }
}

#[tokio::test]
async fn a_task_that_ended_without_a_response_is_gone() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    assert_eq!(post(&world.open(), format!("/{id}/stop")).await.status, 200);
    let answer = get(&world.open(), format!("/{id}/result")).await;
    assert_eq!((answer.status, answer.code().as_str()), (410, "TaskHasNoResponse"));
    assert_eq!(answer.header("x-respond-async-status"), "Stopped");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("stopped before it ran"), "{detail}");
    assert_eq!(get(&world.open(), format!("/{id}")).await.status, 200);
}

#[tokio::test]
async fn a_response_is_shown_as_data_with_its_secrets_left_out() {
    let world = World::new();
    let waiting = world.insert(9, |_| {}).await;
    let lease = world.claim().await;
    let path = format!("/{waiting}/response");
    let early = get(&world.open(), &path).await;
    assert_eq!((early.status, early.code()), (404, "ResponseNotFound".to_owned()));

    let headers = [
        ("location", "/elsewhere"),
        ("set-cookie", "a=1"),
        ("x-two", "1"),
        ("x-two", "2"),
    ];
    let response = Arc::new(response(b"\xff\x00", &headers));
    world.settle(lease, Outcome::Succeeded { response }).await;
    let answer = get(&world.open(), &path).await;
    assert_eq!((answer.status, answer.header("location")), (200, ""));
    let expected = json!({
        "status": 201,
        "headers": [["location", "/elsewhere"], ["set-cookie", "REDACTED"], ["x-two", "1"], ["x-two", "2"]],
        "body": "/wA=",
        "bodyEncoding": "base64",
        "truncated": false,
    });
    assert_eq!(answer.json(), expected);
}
