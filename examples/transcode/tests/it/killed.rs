//! The app is killed during a job, as by an operator, or by a machine out of memory.

use serde_json::Value;

use crate::{
    place::{Place, short_clip},
    running::{App, SEED, eventually, has_ended},
};

/// A real ffmpeg that works at the speed of the video, and loops: by itself it would never end.
const ENDLESS: &str = r#"exec ffmpeg -re -stream_loop -1 "$@""#;

#[test]
fn a_task_whose_app_is_killed_amid_it_ends_after_the_restart() {
    let place = Place::with(short_clip());
    let before = place.contents();
    let endless = place.script("endless", ENDLESS);
    let app = App::start(&place, &[("FFMPEG", endless.to_str().unwrap())]);
    let id = app.accepted(SEED);
    let task = app.task_when(&id, |task| task["progress"]["fraction"].as_f64() > Some(0.05));
    assert_eq!(task["status"], "Running", "{task}");
    assert_eq!(place.processes().len(), 1, "ffmpeg runs");

    drop(app);

    eventually("ffmpeg is gone with the app that started it", || {
        place.processes().is_empty()
    });
    assert_eq!(place.contents(), before, "no part of a product is in the bucket");
    assert_eq!(working_directories(&place), 1, "nobody was there to remove it");

    let app = App::start(&place, &[]);
    let task = app.task_when(&id, has_ended);
    assert_eq!(task["status"], "Succeeded", "{task}");
    let count = |name: &str| task[name].as_u64().unwrap();
    assert_eq!(
        (count("attempt"), count("alreadyRetriedTimes")),
        (2, 0),
        "a crash is no failure"
    );
    let details = task["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["eventDetail"]);
    let crashes = details.filter(|detail| *detail == "rescued: its worker was gone");
    assert_eq!(crashes.count(), 1, "{task}");
    let result = app.send("GET", &format!("/tasks/{id}/result"), "", "");
    let size = place.path_of("a/480P.mov").metadata().unwrap().len();
    assert_eq!((result.status, &result.json["size"]), (200, &Value::from(size)));
    eventually("nothing is left of either run", || place.is_clear());
    let made = ["a", "a/480P.mov"].map(|name| place.path_of(name));
    assert_eq!(place.contents(), before.into_iter().chain(made).collect());
}

#[test]
fn tasks_that_wait_are_run_after_the_restart_and_those_that_ended_are_there() {
    let place = Place::with(short_clip());
    let endless = place.script("endless", ENDLESS);
    let app = App::start(&place, &[("CONCURRENCY", "1")]);
    let ended = app.accepted(SEED);
    app.task_when(&ended, has_ended);
    drop(app);
    let slow = [("CONCURRENCY", "1"), ("FFMPEG", endless.to_str().unwrap())];
    let app = App::start(&place, &slow);
    app.accepted(&SEED.replace("\"a\"", "\"b\""));
    eventually("the one slot is taken", || place.processes().len() == 1);
    let waiting = app.accepted(&SEED.replace("\"a\"", "\"c\""));
    assert_eq!(app.task_when(&waiting, |_| true)["status"], "Enqueued");

    drop(app);

    let app = App::start(&place, &[]);
    assert_eq!(app.task_when(&ended, |_| true)["status"], "Succeeded");
    assert_eq!(app.task_when(&waiting, has_ended)["status"], "Succeeded");
    assert!(place.path_of("c/480P.mov").is_file());
}

#[test]
fn what_is_kept_in_memory_ends_with_the_app() {
    let place = Place::with(short_clip());
    let memory = [("STORE", "memory")];
    let app = App::start(&place, &memory);
    let id = app.accepted(SEED);
    drop(app);
    let app = App::start(&place, &memory);
    assert_eq!(app.send("GET", &format!("/tasks/{id}"), "", "").status, 404);
    assert!(!place.task_file().exists());
}

fn working_directories(place: &Place) -> usize {
    std::fs::read_dir(place.work_dir()).unwrap().count()
}
