//! The page's own functions, called in the page.

use serde_json::json;

use crate::console::served::Served;

#[tokio::test(flavor = "multi_thread")]
async fn the_page_s_functions_do_what_they_say() {
    let served = Served::new().await;
    let browser = served.browse("#/settings").await;
    let call = async |module: &str, expression: &str| {
        let load = format!("import(new URL('{module}', location.href)).then((it) => {expression})");
        browser.eval(&load).await
    };

    // Numbers keep their digits, and keys their order and their duplicates. Text that is not JSON is unchanged.
    for (text, laid_out) in [
        (
            r#"{"b":12345678901234567890,"a":[1.50,-2e+10,[],{}],"b":"\"},{"}"#,
            json!(
                "{\n  \"b\": 12345678901234567890,\n  \"a\": [\n    1.50,\n    -2e+10,\n    [],\n    {}\n  ],\n  \"b\": \"\\\"},{\"\n}"
            ),
        ),
        ("[]", json!("[]")),
        (" 1 ", json!("1")),
        ("{\"a\":}", json!(null)),
        ("hello", json!(null)),
    ] {
        assert_eq!(
            call("json.js", &format!("it.pretty({})", json!(text))).await,
            laid_out,
            "{text}"
        );
    }

    // A shell reads the command as intended.
    let request = json!({
        "method": "POST", "url": "http://a/x?a=1&b='2'", "headers": [["x-a", "it's $HOME"], ["x-empty", ""]],
        "body": "a\n'b'`c`", "bodyEncoding": "utf8",
    });
    let line = call("curl.js", &format!("it.curl({request})")).await;
    let echo = line.as_str().unwrap().replacen("curl ", "printf '%s\\0' ", 1);
    let words = std::process::Command::new("sh")
        .args(["-c", &echo])
        .output()
        .unwrap()
        .stdout;
    let words: Vec<_> = words
        .split(|byte| *byte == 0)
        .map(|word| std::str::from_utf8(word).unwrap())
        .collect();
    let expected = [
        "-i",
        "-X",
        "POST",
        "http://a/x?a=1&b='2'",
        "-H",
        "x-a: it's $HOME",
        "-H",
        "x-empty;",
        "--data-raw",
        "a\n'b'`c`",
        "",
    ];
    assert_eq!(words, expected);

    // Events are parsed correctly from pieces of any size.
    let stream = ": beat\r\n\r\nid: 7\nevent: status\ndata: {\"a\":\ndata: 1}\n\ndata:two\n\nevent: none\n\n";
    let parse = |size: usize| {
        format!(
            "(() => {{ const heard = []; const parser = new it.Parser((event) => heard.push(event)); \
             const text = {}; for (let at = 0; at < text.length; at += {size}) parser.take(text.slice(at, at + {size})); \
             return heard; }})()",
            json!(stream)
        )
    };
    for size in [1, 3, 1000] {
        let heard = call("events.js", &parse(size)).await;
        let expected = json!([
            { "type": "status", "data": { "a": 1 }, "id": "7" },
            { "type": "message", "data": "two", "id": "7" },
        ]);
        assert_eq!(heard, expected, "in pieces of {size}");
    }

    // Labels are read back from the text that they are written as, whatever their content.
    for labels in [
        json!([]),
        json!(["team=a"]),
        json!(["team=a b", "path=C:\\,d=\\", "empty=", "sum=1+1=2"]),
    ] {
        let again = format!("it.readLabels(it.writeLabels({labels}))");
        assert_eq!(call("labels.js", &again).await, labels);
    }
    for (text, labels) in [
        ("a=1,b=2", json!(["a=1", "b=2"])),
        (" a=1 , ,b=2,", json!(["a=1", "b=2"])),
        ("a=1\\,2", json!(["a=1,2"])),
        ("tea", json!(["tea"])),
        ("a=\\", json!(["a=\\"])),
    ] {
        let read = call("labels.js", &format!("it.readLabels({})", json!(text))).await;
        assert_eq!(read, labels, "{text}");
    }
    let by_name = call("labels.js", "it.labelsByName(['a=1=2', 'b='])").await;
    assert_eq!(by_name, json!({ "a": "1=2", "b": "" }));

    let bytes = call("payload.js", "it.hex(new Uint8Array([0, 65, 255]))").await;
    assert_eq!(bytes, json!(format!("00000000  {:<47}  ·A·", "00 41 ff")));
    for (ms, text) in [
        (0, "0 ms"),
        (1500, "1.5 s"),
        (61_000, "1 min 1 s"),
        (7_200_000, "2 h"),
        (90_000_000, "1 d 1 h"),
    ] {
        assert_eq!(call("format.js", &format!("it.duration({ms})")).await, json!(text));
    }

    // Attempts are derived from events: a re-run starts again from 1, and an attempt that was handed back is not
    // counted.
    let event = |id: u32, status: &str, at: u32, detail: &str| json!({ "eventId": id, "status": status, "timestamp": at, "eventDetail": detail });
    let task = json!({
        "status": "Succeeded", "attempt": 1, "generation": 2, "instanceId": "w",
        "events": [
            event(1, "Enqueued", 0, ""), event(2, "Running", 1, "a"),
            event(3, "Enqueued", 2, "released by its worker, uncharged"), event(4, "Running", 3, "b"),
            event(5, "Retrying", 5, "no"), event(6, "Running", 6, "a"), event(7, "Stopping", 7, ""),
            event(8, "Stopped", 8, "stopped on request"), event(9, "Enqueued", 9, "run again on request"),
            event(10, "Running", 10, "c"), event(11, "Succeeded", 12, ""),
        ],
    });
    let attempts = call(
        "timeline.js",
        &format!(
            "it.attempts({task}).map((one) => [one.generation, one.number, one.outcome, one.to - one.from, one.worker])"
        ),
    )
    .await;
    let expected = json!([
        [1, 1, "Enqueued", 1, "a"],
        [1, 1, "Retrying", 2, "b"],
        [1, 2, "Stopped", 2, "a"],
        [2, 1, "Succeeded", 2, "c"],
    ]);
    assert_eq!(attempts, expected);

    // An attempt shows its own state, and not the next state of the task.
    let task = json!({
        "status": "Running", "attempt": 3, "generation": 1, "instanceId": "c",
        "events": [
            event(1, "Enqueued", 0, ""), event(2, "Running", 1, "a"),
            event(3, "Enqueued", 2, "released by its worker, uncharged"), event(4, "Running", 3, "a"),
            event(5, "Enqueued", 5, "rescued: its worker was gone"), event(6, "Running", 6, "b"),
            event(7, "Retrying", 8, "deferred, uncharged: busy"), event(8, "Running", 8, "b"),
            event(9, "Retrying", 8, "handed on, uncharged: 404"), event(10, "Running", 8, "b"),
            event(11, "Retrying", 8, "busy"), event(12, "Running", 9, "c"),
        ],
    });
    let words = call(
        "timeline.js",
        &format!("[...it.timeline({task})[1].querySelectorAll('.badge')].map((badge) => badge.textContent)"),
    )
    .await;
    assert_eq!(
        words,
        json!(["Handed back", "Crashed", "Deferred", "Handed on", "Failed", "Running"])
    );
    browser.close().await;
}
