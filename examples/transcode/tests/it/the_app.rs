//! The program itself: started, called, watched, stopped and shut down, as by an operator and a caller.

use std::process::Command;

use serde_json::Value;

use crate::{
    place::{Place, long_clip, short_clip},
    running::{App, SEED, eventually, has_ended},
};

/// VP9 is slow to encode.
const SLOW: &str = r#"{"bucket":"my-bucket","object":"480P.mp4","output_dir":"a","dst_format":"webm"}"#;

#[test]
fn the_article_s_call_is_answered_202_and_its_product_is_there_later() {
    let place = Place::with(short_clip());
    let app = App::start(&place, &[]);

    let accepted = app.call(SEED);

    assert_eq!(accepted.status, 202);
    assert_eq!(accepted.json["functionName"], "transcode");
    let id = accepted.json["taskId"].as_str().unwrap().to_owned();
    let task = app.task_when(&id, has_ended);
    assert_eq!(task["status"], "Succeeded", "{task}");
    let result = app.send("GET", &format!("/tasks/{id}/result"), "", "");
    assert_eq!(
        (result.status, &result.json["object"]),
        (200, &Value::from("a/480P.mov"))
    );
    assert!(place.path_of("a/480P.mov").is_file());
}

#[test]
fn a_plain_call_waits_for_the_same_answer() {
    let place = Place::with(short_clip());
    let app = App::start(&place, &[]);
    let answer = app.send("POST", "/", "", SEED);
    assert_eq!(
        (answer.status, &answer.json["object"]),
        (200, &Value::from("a/480P.mov"))
    );
}

#[test]
fn a_bad_request_fails_once_and_says_why() {
    let place = Place::new();
    let app = App::start(&place, &[]);
    let id = app.accepted(SEED);

    let task = app.task_when(&id, has_ended);

    assert_eq!(
        (&task["status"], &task["statusCode"]),
        (&Value::from("Failed"), &Value::from(404))
    );
    let result = app.send("GET", &format!("/tasks/{id}/result"), "", "");
    assert_eq!(
        (result.status, &result.json["error"]["code"]),
        (404, &Value::from("no_such_object"))
    );
}

#[test]
fn without_ffmpeg_the_app_starts_and_a_task_fails_without_a_retry() {
    let place = Place::with(short_clip());
    let app = App::start(&place, &[("FFMPEG", "/nowhere/ffmpeg")]);
    let id = app.accepted(SEED);

    let task = app.task_when(&id, has_ended);

    assert_eq!(
        (&task["status"], &task["statusCode"]),
        (&Value::from("Failed"), &Value::from(501))
    );
    assert_eq!(task["attempt"], 1);
}

#[test]
fn progress_is_seen_and_a_stop_kills_ffmpeg() {
    let place = Place::with(long_clip());
    let before = place.contents();
    let app = App::start(&place, &[]);
    let id = app.accepted(SLOW);
    let task = app.task_when(&id, |task| task["progress"]["fraction"].as_f64() > Some(0.05));
    assert_eq!(task["status"], "Running");
    assert!(
        task["progress"]["message"]
            .as_str()
            .unwrap()
            .starts_with("transcoding, ")
    );

    let stop = app.send("POST", &format!("/tasks/{id}/stop"), "", "");

    assert!([200, 202].contains(&stop.status));
    app.task_when(&id, |task| task["status"] == "Stopped");
    eventually("nothing is left", || place.is_clear());
    assert_eq!(place.contents(), before);
}

#[test]
fn a_caller_who_hangs_up_stops_the_plain_call() {
    let place = Place::with(long_clip());
    let app = App::start(&place, &[]);
    let caller = app.begin("POST", "/", "", SLOW);
    eventually("ffmpeg runs", || !place.processes().is_empty());

    drop(caller);

    eventually("nothing is left", || place.is_clear());
}

#[test]
fn an_app_that_shuts_down_lets_its_tasks_finish() {
    let place = Place::with(short_clip());
    let mut app = App::start(&place, &[]);
    app.accepted(SEED);

    let status = app.end();

    assert!(status.success());
    assert!(place.path_of("a/480P.mov").is_file());
    assert!(place.is_clear());
}

#[test]
fn an_app_that_shuts_down_cuts_off_what_takes_too_long() {
    let place = Place::with(long_clip());
    let before = place.contents();
    let mut app = App::start(&place, &[("SHUTDOWN_SECONDS", "0")]);
    app.accepted(SLOW);
    let caller = app.begin("POST", "/", "", SLOW);
    eventually("two jobs run", || place.processes().len() == 2);

    let status = app.end();

    assert!(status.success());
    eventually("nothing is left", || place.is_clear());
    assert_eq!(place.contents(), before);
    drop(caller);
}

#[test]
fn a_second_signal_ends_the_app_at_once() {
    let place = Place::with(long_clip());
    let before = place.contents();
    let mut app = App::start(&place, &[("SHUTDOWN_SECONDS", "600")]);
    app.accepted(SLOW);
    let caller = app.begin("POST", "/", "", SLOW);
    eventually("two jobs run", || place.processes().len() == 2);

    eventually("it ends", || {
        app.tell_to_end();
        app.has_ended()
    });

    eventually("nothing is left", || place.is_clear());
    assert_eq!(place.contents(), before);
    drop(caller);
}

#[test]
fn the_task_api_asks_for_the_token_when_there_is_one() {
    let place = Place::new();
    let app = App::start(&place, &[("TASKS_TOKEN", "secret")]);
    assert_eq!(app.send("GET", "/tasks", "", "").status, 401);
    assert_eq!(
        app.send("GET", "/tasks", "Authorization: Bearer secret\r\n", "").status,
        200
    );
}

#[test]
fn a_setting_that_makes_no_sense_ends_the_app_with_its_name() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_transcode"));
    let output = command.env("LISTEN", "0.0.0.0:0").env("BUCKETS", "/").output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("transcode: TASKS_TOKEN: must be set"), "{said}");
}
