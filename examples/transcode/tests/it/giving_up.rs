//! Jobs that end before their time leave no process, no working file and no object.

use axum::http::StatusCode;
use serde_json::json;
use tokio::time::timeout;
use transcode::{Error, Order, TranscodeRequest};

use crate::place::{DEADLINE, Place, Watched, eventually, long_clip};

/// VP9 is slow to encode.
const SLOW: &str = r#"{"bucket":"my-bucket","object":"480P.mp4","output_dir":"a","dst_format":"webm"}"#;

fn slow_order() -> Order {
    let request: TranscodeRequest = serde_json::from_str(SLOW).unwrap();
    request.try_into().unwrap()
}

async fn is_gone(pids: &[u32]) {
    // A zombie has an entry too: gone means killed and reaped.
    let alive = |pid| std::path::Path::new(&format!("/proc/{pid}")).exists();
    eventually("ffmpeg is gone", || !pids.iter().any(alive)).await;
}

#[tokio::test]
async fn a_stop_in_the_middle_kills_ffmpeg_and_leaves_no_object() {
    let place = Place::with(long_clip());
    let before = place.contents();
    let watched = Watched::new();

    let (answer, pids) = tokio::join!(place.watched_post(SLOW, &watched), async {
        watched.is_beyond(0.05).await;
        let pids = place.processes();
        watched.stop();
        pids
    });

    assert_eq!(answer.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.1["error"]["code"], json!("stopped"));
    assert_eq!(pids.len(), 1, "one ffmpeg was running");
    is_gone(&pids).await;
    place.is_cleared().await;
    assert_eq!(place.contents(), before);
}

#[tokio::test]
async fn dropping_the_future_kills_ffmpeg_and_leaves_no_object() {
    let place = Place::with(long_clip());
    let before = place.contents();
    let (order, watched) = (slow_order(), Watched::new());

    let pids = tokio::select! {
        product = place.transcoder.run(&order, &watched) => panic!("ended: {product:?}"),
        pids = async {
            watched.is_beyond(0.05).await;
            place.processes()
        } => pids,
    };

    assert_eq!(pids.len(), 1, "one ffmpeg was running");
    is_gone(&pids).await;
    place.is_cleared().await;
    assert_eq!(place.contents(), before);
}

#[tokio::test]
async fn aborting_the_task_that_runs_the_job_kills_ffmpeg() {
    let place = Place::with(long_clip());
    let watched = Watched::new();
    let (transcoder, order, job) = (place.transcoder.clone(), slow_order(), watched.clone());
    let running = tokio::spawn(async move { transcoder.run(&order, &job).await });
    watched.is_beyond(0.05).await;
    let pids = place.processes();

    running.abort();

    assert!(running.await.unwrap_err().is_cancelled());
    assert_eq!(pids.len(), 1, "one ffmpeg was running");
    is_gone(&pids).await;
    place.is_cleared().await;
}

/// The runtime that would reap ffmpeg ends with the job. The kill is still sent; init or the next runtime reaps.
#[test]
fn a_runtime_that_ends_takes_ffmpeg_along() {
    let place = Place::with(long_clip());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (transcoder, order, watched) = (place.transcoder.clone(), slow_order(), Watched::new());
    let job = watched.clone();
    runtime.spawn(async move { transcoder.run(&order, &job).await });
    runtime.block_on(watched.is_beyond(0.05));
    assert_eq!(place.processes().len(), 1);

    drop(runtime);

    let after = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    after.block_on(place.is_cleared());
}

#[tokio::test]
async fn a_job_stopped_before_it_began_does_nothing() {
    let place = Place::with(long_clip());
    let watched = Watched::new();
    watched.stop();

    let stopped = timeout(DEADLINE, place.transcoder.run(&slow_order(), &watched))
        .await
        .unwrap();

    assert!(matches!(stopped, Err(Error::Stopped)));
    assert_eq!(watched.told(), []);
}

/// Another program, or a machine out of memory, kills ffmpeg. The video is not at fault, so the answer allows a retry.
#[tokio::test]
async fn an_ffmpeg_killed_by_others_is_no_verdict_on_the_video() {
    let place = Place::with(long_clip());
    let before = place.contents();
    let watched = Watched::new();

    let (answer, ()) = tokio::join!(place.watched_post(SLOW, &watched), async {
        watched.is_beyond(0.05).await;
        for pid in place.processes() {
            let kill = std::process::Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .status();
            assert!(kill.unwrap().success());
        }
    });

    assert_eq!(
        (answer.0.as_u16(), &answer.1["error"]["code"]),
        (500, &json!("ffmpeg_killed"))
    );
    place.is_cleared().await;
    assert_eq!(place.contents(), before);
}
