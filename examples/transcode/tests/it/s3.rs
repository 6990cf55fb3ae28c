//! Buckets on S3, here a small imitation with the five calls that the app makes, which fails on demand. `s3_server.rs`
//! uses a real server.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, Method, StatusCode, Uri, header::AUTHORIZATION},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use tokio::{net::TcpListener, runtime::Runtime};

use crate::{
    place::{Place, short_clip},
    running::{App, SEED, eventually, has_ended},
};

const SOURCE: &str = "/my-bucket/480P.mp4";
const PRODUCT: &str = "/my-bucket/a/480P.mov";

#[test]
fn an_object_is_fetched_and_its_product_is_stored_in_one_piece() {
    let (s3, place) = (S3::new(), Place::new());
    let app = app(&s3, &place);

    let id = app.accepted(SEED);
    let task = app.task_when(&id, has_ended);

    assert_eq!(task["status"], "Succeeded", "{task}");
    let product = s3.object(PRODUCT).unwrap();
    assert_eq!(&product[4..12], b"ftypqt  ");
    assert_eq!(s3.uploads(), 0, "it was completed");
    let result = app.send("GET", &format!("/tasks/{id}/result"), "", "");
    assert_eq!(result.json["size"], product.len());
}

#[test]
fn a_moment_of_unavailability_is_sat_out() {
    let (s3, place) = (S3::new(), Place::new());
    s3.0.unavailable.store(1, Ordering::Relaxed);
    let app = app(&s3, &place);

    let task = app.task_when(&app.accepted(SEED), has_ended);

    assert_eq!(
        (&task["status"], &task["attempt"]),
        (&Value::from("Succeeded"), &Value::from(1))
    );
    assert_eq!(s3.0.unavailable.load(Ordering::Relaxed), 0);
}

#[test]
fn a_missing_object_and_a_missing_bucket_are_told_apart() {
    let (s3, place) = (S3::new(), Place::new());
    let app = app(&s3, &place);
    for (wrong, code) in [("480P.mp4", "no_such_object"), ("my-bucket", "no_such_bucket")] {
        let answer = app.send("POST", "/", "", &SEED.replace(wrong, "another"));
        let found = (answer.status, &answer.json["error"]["code"]);
        assert_eq!(found, (404, &Value::from(code)));
    }
}

#[test]
fn a_stop_amid_the_upload_aborts_it() {
    let (s3, place) = (S3::new(), Place::new());
    s3.0.holds_parts.store(true, Ordering::Relaxed);
    let app = app(&s3, &place);
    let id = app.accepted(SEED);
    eventually("the product is on its way", || {
        s3.0.parts_held.load(Ordering::Relaxed) == 1
    });
    assert_eq!(s3.uploads(), 1);

    app.send("POST", &format!("/tasks/{id}/stop"), "", "");

    app.task_when(&id, |task| task["status"] == "Stopped");
    eventually("the upload is aborted", || s3.uploads() == 0);
    assert_eq!(s3.object(PRODUCT), None);
}

fn app(s3: &S3, place: &Place) -> App {
    app_with(s3.0.address, ("somebody", "secret"), place)
}

/// Starts the app with its buckets at `address` and these credentials.
pub(crate) fn app_with(address: SocketAddr, (id, secret): (&str, &str), place: &Place) -> App {
    let endpoint = format!("http://{address}");
    let settings = [
        ("BUCKETS", "s3://"),
        ("AWS_ENDPOINT", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "here"),
        ("AWS_ACCESS_KEY_ID", id),
        ("AWS_SECRET_ACCESS_KEY", secret),
    ];
    App::start(place, &settings)
}

/// The imitation. Dropping it ends its runtime.
struct S3(Arc<Shop>, #[expect(dead_code, reason = "dropped to end it")] Runtime);

struct Shop {
    address: SocketAddr,
    objects: Mutex<BTreeMap<String, Bytes>>,
    /// By upload id.
    uploads: Mutex<BTreeMap<String, Upload>>,
    /// How many more calls are answered 503.
    unavailable: AtomicU32,
    /// Whether parts get no answer.
    holds_parts: AtomicBool,
    parts_held: AtomicU32,
}

/// The key, and the parts by number.
type Upload = (String, BTreeMap<u32, Bytes>);

impl S3 {
    /// With the bucket and the object of the article.
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let clip = std::fs::read(short_clip()).unwrap();
        let shop = Arc::new(Shop {
            address: listener.local_addr().unwrap(),
            objects: Mutex::new(BTreeMap::from([(SOURCE.to_owned(), clip.into())])),
            uploads: Mutex::default(),
            unavailable: AtomicU32::new(0),
            holds_parts: AtomicBool::new(false),
            parts_held: AtomicU32::new(0),
        });
        let calls = Router::new().fallback(answer).layer(DefaultBodyLimit::disable());
        let calls = calls.with_state(shop.clone());
        runtime.spawn(async { axum::serve(listener, calls).await.unwrap() });
        Self(shop, runtime)
    }

    fn object(&self, path: &str) -> Option<Bytes> {
        self.0.objects.lock().unwrap().get(path).cloned()
    }

    fn uploads(&self) -> usize {
        self.0.uploads.lock().unwrap().len()
    }
}

async fn answer(State(shop): State<Arc<Shop>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let signature = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if !signature.is_some_and(|it| it.starts_with("AWS4-HMAC-SHA256 Credential=somebody/")) {
        return error(StatusCode::FORBIDDEN, "AccessDenied");
    }
    let away = |left: u32| left.checked_sub(1);
    if shop
        .unavailable
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, away)
        .is_ok()
    {
        return error(StatusCode::SERVICE_UNAVAILABLE, "SlowDown");
    }
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    let asked: BTreeMap<_, _> = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    let upload = asked.get("uploadId").copied().unwrap_or_default();
    let part = asked.get("partNumber").and_then(|number| number.parse().ok());
    if part.is_some() && shop.holds_parts.load(Ordering::Relaxed) {
        shop.parts_held.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<()>().await;
    }
    let mut uploads = shop.uploads.lock().unwrap();
    match (method, part) {
        (Method::GET, None) if query.is_empty() => match shop.objects.lock().unwrap().get(path) {
            Some(object) => {
                let modified = ("last-modified", "Mon, 23 Nov 2026 10:00:00 GMT");
                ([("etag", "\"1\""), modified], object.clone()).into_response()
            }
            None if path.starts_with("/my-bucket/") => error(StatusCode::NOT_FOUND, "NoSuchKey"),
            None => error(StatusCode::NOT_FOUND, "NoSuchBucket"),
        },
        (Method::POST, None) if asked.contains_key("uploads") => {
            let id = format!("upload-{}", uploads.len());
            uploads.insert(id.clone(), (path.to_owned(), BTreeMap::new()));
            let id = format!("<UploadId>{id}</UploadId>");
            format!("<InitiateMultipartUploadResult>{id}</InitiateMultipartUploadResult>").into_response()
        }
        (Method::PUT, Some(number)) => match uploads.get_mut(upload) {
            Some((key, parts)) if key == path => {
                parts.insert(number, body);
                [("etag", format!("\"{number}\""))].into_response()
            }
            _ => error(StatusCode::NOT_FOUND, "NoSuchUpload"),
        },
        (Method::POST, None) => match uploads.remove(upload) {
            Some((key, parts)) => {
                let list = String::from_utf8_lossy(&body);
                assert_eq!(list.matches("<PartNumber>").count(), parts.len(), "{list}");
                let whole: Vec<_> = parts.into_values().collect();
                shop.objects.lock().unwrap().insert(key, whole.concat().into());
                "<CompleteMultipartUploadResult><ETag>\"2\"</ETag></CompleteMultipartUploadResult>".into_response()
            }
            None => error(StatusCode::NOT_FOUND, "NoSuchUpload"),
        },
        (Method::DELETE, None) if uploads.remove(upload).is_some() => StatusCode::NO_CONTENT.into_response(),
        _ => error(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
    }
}

fn error(status: StatusCode, code: &str) -> Response {
    (status, format!("<Error><Code>{code}</Code></Error>")).into_response()
}
