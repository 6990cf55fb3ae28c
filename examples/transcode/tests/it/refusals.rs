//! The answers to bad requests: a status, a code, a sentence, and nothing left behind.

use std::fs;

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_respond_async::DoNotRetry;

use crate::place::{Place, read, short_clip, sound_clip};

fn body(bucket: &str, object: &str, output_dir: &str, dst_format: &str) -> String {
    json!({"bucket": bucket, "object": object, "output_dir": output_dir, "dst_format": dst_format}).to_string()
}

fn seed() -> String {
    body("my-bucket", "480P.mp4", "a", "mov")
}

/// Sends `body`, expects the error `(status, code)` and an unchanged place, and returns the sentence.
async fn refused(place: &Place, body: String, expected: (u16, &str)) -> String {
    let before = place.contents();
    let (status, answer) = place.post(body.clone()).await;
    assert_eq!(
        (status.as_u16(), answer["error"]["code"].as_str().unwrap()),
        expected,
        "{body}: {answer}"
    );
    assert_eq!(answer.as_object().unwrap().len(), 1);
    assert_eq!(answer["error"].as_object().unwrap().len(), 2);
    assert_eq!(place.contents(), before, "{body}");
    place.is_cleared().await;
    match &answer["error"]["message"] {
        Value::String(message) => message.clone(),
        other => panic!("no message but {other}"),
    }
}

#[tokio::test]
async fn a_body_that_is_not_the_json_we_ask_for() {
    let place = Place::with(short_clip());
    for bad in [
        "",
        "{",
        "[]",
        "null",
        "\"480P.mp4\"",
        "{}",
        "{\"bucket\":\"\u{0}\"}",
        r#"{"bucket":1,"object":"480P.mp4","output_dir":"a","dst_format":"mov"}"#,
        r#"{"bucket":"b","bucket":"c","object":"480P.mp4","output_dir":"a","dst_format":"mov"}"#,
        r#"{"bucket":"my-bucket","object":"480P.mp4","output_dir":"a"}"#,
    ] {
        refused(&place, bad.to_owned(), (400, "invalid_body")).await;
    }
    refused(
        &place,
        seed().replace("480P", &"x".repeat(100_000)),
        (413, "invalid_body"),
    )
    .await;
}

#[tokio::test]
async fn an_unknown_field_is_named() {
    let place = Place::with(short_clip());
    let misspelt = seed().replace('{', r#"{"bitrate":900,"#);
    let message = refused(&place, misspelt, (400, "invalid_body")).await;
    assert!(message.contains("bitrate"), "{message}");
}

#[tokio::test]
async fn another_content_type_path_or_method() {
    let place = Place::with(short_clip());
    for (request, expected) in [
        (Request::post("/").body(Body::from(seed())), (415, "invalid_body")),
        (Request::get("/").body(Body::empty()), (405, "method_not_allowed")),
        (
            Request::post("/transcode").body(Body::from(seed())),
            (404, "no_such_path"),
        ),
    ] {
        let (status, answer) = place.send(request.unwrap()).await;
        assert_eq!((status.as_u16(), answer["error"]["code"].as_str().unwrap()), expected);
    }
}

#[tokio::test]
async fn a_bucket_or_an_object_that_is_not_there() {
    let place = Place::with(short_clip());
    place.put("directory/inside.mp4", "x");
    fs::write(place.path_of("../a-file"), "x").unwrap();
    for bucket in ["other", "a-file", "my-bucket2"] {
        let message = refused(&place, body(bucket, "480P.mp4", "a", "mov"), (404, "no_such_bucket")).await;
        assert_eq!(message, format!("there is no bucket `{bucket}`"));
    }
    for object in ["481P.mp4", "480p.mp4", "a/480P.mp4", "directory", "480P.mp4/x"] {
        refused(&place, body("my-bucket", object, "a", "mov"), (404, "no_such_object")).await;
    }
}

#[tokio::test]
async fn no_field_leads_out_of_the_bucket() {
    let place = Place::with(short_clip());
    let secret = place.path_of("../../secret.mp4");
    fs::copy(short_clip(), &secret).unwrap();
    let absolute = secret.parent().unwrap().canonicalize().unwrap();
    let absolute = absolute.to_str().unwrap();
    let mut evil: Vec<String> = ["", "..", ".", "/", "//", "\\", "\0", "a\nb", "a\u{7f}"]
        .map(String::from)
        .to_vec();
    for up in [
        "..",
        "%2e%2e",
        "%2E%2E",
        "%252e%252e",
        ".%2e",
        "..%00",
        "..\0",
        ".. /..",
        "a/../..",
    ] {
        for slash in ["/", "\\", "%2f", "%5c", "%252f", "//", "/./"] {
            for name in ["secret", "secret.mp4"] {
                evil.push(format!("{up}{slash}{up}{slash}{name}"));
                evil.push(format!("a{slash}{up}{slash}{up}{slash}{up}{slash}{name}"));
            }
        }
    }
    evil.push(format!("{absolute}/secret.mp4"));
    evil.push(format!("file://{absolute}/secret.mp4"));
    evil.push("C:\\secret.mp4".to_owned());

    for evil in &evil {
        for (bucket, object, output_dir) in [
            (evil.as_str(), "480P.mp4", "a"),
            ("my-bucket", evil, "a"),
            ("my-bucket", "480P.mp4", evil),
        ] {
            let message = refused(&place, body(bucket, object, output_dir, "mov"), (400, "invalid_field")).await;
            assert!(!message.contains("secret") && !message.contains(absolute), "{message}");
        }
        refused(
            &place,
            body("my-bucket", "480P.mp4", "a", evil),
            (400, "unknown_format"),
        )
        .await;
    }
}

#[tokio::test]
async fn an_unknown_format_is_answered_with_the_list() {
    let place = Place::with(short_clip());
    let message = refused(
        &place,
        body("my-bucket", "480P.mp4", "a", "exe"),
        (400, "unknown_format"),
    )
    .await;
    assert_eq!(message, "`dst_format` must be one of avi, flv, mkv, mov, mp4, ts, webm");
}

#[tokio::test]
async fn a_product_that_is_its_own_source() {
    let place = Place::new();
    place.put("a/480P.mov", fs::read(short_clip()).unwrap());
    refused(
        &place,
        body("my-bucket", "a/480P.mov", "a/", "mov"),
        (400, "output_is_input"),
    )
    .await;
}

#[tokio::test]
async fn an_object_that_is_too_large() {
    let mut place = Place::with(short_clip());
    place.transcoder.max_object = 1000;
    refused(&place, seed(), (422, "object_too_large")).await;
}

#[tokio::test]
async fn an_object_that_is_no_video() {
    let place = Place::with(sound_clip());
    let message = refused(&place, seed(), (422, "no_video")).await;
    assert_eq!(message, "`480P.mp4` holds no video");
}

#[tokio::test]
async fn a_damaged_video_is_reported_in_ffmpeg_s_words() {
    let whole = fs::read(short_clip()).unwrap();
    let half = &whole[..whole.len() / 2];
    let headless = &whole[whole.len() / 2..];
    for (damaged, words) in [
        (&b""[..], "Invalid data found"),
        (b"hello, I am not a video\n", "Invalid data found"),
        (&whole[..24], "moov atom not found"),
        (half, ""),
        (headless, ""),
    ] {
        let place = Place::new();
        place.put("480P.mp4", damaged);
        let message = refused(&place, seed(), (422, "corrupt_video")).await;
        assert!(message.contains(words), "{message}");
        assert!(message.len() < 1000 && !message.contains("/transcode-"), "{message}");
    }
}

/// A playlist under a video's name could make ffmpeg read other files of this machine, or call hosts, and put what it
/// found into the product. Only containers that hold their own data are accepted.
#[tokio::test]
async fn a_playlist_in_disguise_opens_nothing() {
    let outside = short_clip().to_str().unwrap();
    for playlist in [
        format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{outside}\n#EXT-X-ENDLIST\n"),
        format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{outside}\n#EXT-X-ENDLIST\n"),
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://127.0.0.1:1/x.ts\n#EXT-X-ENDLIST\n".to_owned(),
        format!("ffconcat version 1.0\nfile '{outside}'\n"),
    ] {
        let place = Place::new();
        place.put("480P.mp4", playlist);
        refused(&place, seed(), (422, "corrupt_video")).await;
    }
}

#[tokio::test]
async fn a_machine_without_ffmpeg_says_what_to_install_and_asks_for_no_retry() {
    let mut place = Place::with(short_clip());
    place.transcoder.ffmpeg.ffmpeg = "/nowhere/ffmpeg".into();
    let message = refused(&place, seed(), (501, "no_ffmpeg")).await;
    assert!(
        message.contains("`/nowhere/ffmpeg`") && message.contains("apt-get install ffmpeg"),
        "{message}"
    );

    place.transcoder.ffmpeg.ffprobe = "/nowhere/ffprobe".into();
    let request = Request::post("/")
        .header("content-type", "application/json")
        .body(Body::from(seed()));
    let response = place.app().oneshot(request.unwrap()).await.unwrap();
    assert!(response.extensions().get::<DoNotRetry>().is_some());
    let (status, answer) = read(response).await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("`/nowhere/ffprobe`")
    );
}

#[tokio::test]
async fn a_trouble_of_the_machine_may_be_tried_again() {
    let mut place = Place::with(short_clip());
    place.transcoder.work_dir = place.work_dir().join("missing");
    let (status, answer) = place.post(seed()).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (500, &json!("internal")));
    assert_eq!(answer["error"]["message"], "could not make a working directory");
}

#[tokio::test]
async fn a_bucket_that_cannot_be_written_may_be_tried_again() {
    let place = Place::with(short_clip());
    place.put("a", "a file where the product's directory should be");
    refused(&place, seed(), (503, "bucket_unavailable")).await;
}
