//! The products of good requests.

use axum::http::StatusCode;
use serde_json::json;

use crate::place::{Place, Watched, odd_clip, short_clip};

const SEED: &str = r#"{"bucket":"my-bucket","object":"480P.mp4","output_dir":"a","dst_format":"mov"}"#;

#[tokio::test]
async fn the_article_s_request_makes_its_mov() {
    let place = Place::with(short_clip());

    let (status, product) = place.post(SEED).await;

    assert_eq!(status, StatusCode::OK, "{product}");
    let made = place.path_of("a/480P.mov");
    let size = made.metadata().unwrap().len();
    let duration = product["duration"].as_f64().unwrap();
    assert!((1.9..2.2).contains(&duration), "{duration}");
    assert_eq!(
        product,
        json!({"bucket": "my-bucket", "object": "a/480P.mov", "size": size, "duration": duration,
               "codec": "h264", "width": 320, "height": 240})
    );
    assert_eq!(&std::fs::read(made).unwrap()[4..12], b"ftypqt  ");
    place.is_cleared().await;
}

#[tokio::test]
async fn every_format_on_the_list_can_be_made() {
    let place = Place::with(short_clip());
    for (format, codec) in [
        ("avi", "mpeg4"),
        ("flv", "h264"),
        ("mkv", "h264"),
        ("mp4", "h264"),
        ("ts", "h264"),
        ("webm", "vp9"),
    ] {
        let (status, product) = place.post(SEED.replace("mov", format)).await;
        assert_eq!(
            (status, &product["codec"]),
            (StatusCode::OK, &json!(codec)),
            "{format}: {product}"
        );
        assert!(place.path_of(&format!("a/480P.{format}")).is_file());
    }
    place.is_cleared().await;
}

#[tokio::test]
async fn progress_grows_from_nothing_to_all() {
    let place = Place::with(short_clip());
    let watched = Watched::new();

    let (status, _) = place.watched_post(SEED, &watched).await;

    assert_eq!(status, StatusCode::OK);
    let told = watched.told();
    assert_eq!(told.first(), Some(&(0.0, "fetching".to_owned())));
    assert_eq!(told.last(), Some(&(1.0, "done".to_owned())));
    assert!(told.windows(2).all(|pair| pair[0].0 < pair[1].0), "{told:?}");
    assert!(
        told.iter().any(|(_, message)| message.starts_with("transcoding, ")),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_second_run_replaces_the_product_of_the_first() {
    let place = Place::with(short_clip());
    place.put("a/480P.mov", "left by an earlier attempt");
    for _ in 0..2 {
        assert_eq!(place.post(SEED).await.0, StatusCode::OK);
    }
    assert!(place.path_of("a/480P.mov").metadata().unwrap().len() > 1000);
}

#[tokio::test]
async fn odd_sides_and_a_missing_sound_are_no_trouble() {
    let place = Place::with(odd_clip());
    let (status, product) = place.post(SEED).await;
    assert_eq!(status, StatusCode::OK, "{product}");
    assert_eq!((&product["width"], &product["height"]), (&json!(320), &json!(240)));
}

#[tokio::test]
async fn names_that_look_like_options_or_pipes_are_just_names() {
    let place = Place::new();
    for object in ["-i.mp4", "pipe:0", "concat:a|b.mp4", "$(touch x);.mp4", "影片 1.mp4"] {
        place.put(object, std::fs::read(short_clip()).unwrap());
        let body = json!({"bucket": "my-bucket", "object": object, "output_dir": "-y", "dst_format": "mov"});
        let (status, product) = place.post(body.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{object}: {product}");
        assert!(place.path_of(product["object"].as_str().unwrap()).is_file());
    }
}
