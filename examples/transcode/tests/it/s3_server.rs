//! Buckets on an S3 server from another project, which checks every signature. It keeps objects as files, so tests can
//! look into a bucket without a request.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    error_handling::HandleError,
    extract::{Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use s3s::{HttpError, auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};

use crate::{
    place::{Place, large_clip, short_clip},
    running::{App, SEED, eventually, has_ended},
    s3::app_with,
};

const KEY: (&str, &str) = ("somebody", "a secret/with+signs=");

#[test]
fn a_signed_call_fetches_an_object_and_its_product_replaces_an_older_one() {
    let (server, place) = (Server::new(), Place::new());
    server.put("480P.mp4", short_clip());
    server.put("a/480P.mov", short_clip());
    let app = app_with(server.address, KEY, &place);

    let id = app.accepted(SEED);
    let task = app.task_when(&id, has_ended);

    assert_eq!(task["status"], "Succeeded", "{task}");
    let product = fs::read(server.path_of("a/480P.mov")).unwrap();
    assert_eq!(&product[4..12], b"ftypqt  ");
    let result = app.send("GET", &format!("/tasks/{id}/result"), "", "");
    assert_eq!(result.json["size"], product.len());
    assert_eq!(server.uploads(), 0, "it was completed");
}

#[test]
fn an_object_of_many_pieces_comes_and_goes_in_several_parts() {
    let (server, place) = (Server::new(), Place::new());
    server.put("480P.mp4", large_clip());
    let app = app_with(server.address, KEY, &place);

    let answer = app.send("POST", "/", "", &SEED.replace("mov", "avi"));

    assert_eq!(answer.status, 200, "{}", answer.json);
    let product = fs::read(server.path_of("a/480P.avi")).unwrap();
    assert_eq!(answer.json["size"], product.len());
    // The container contains its own length.
    let length = u32::from_le_bytes(product[4..8].try_into().unwrap()) as usize;
    assert_eq!((&product[..4], length + 8), (&b"RIFF"[..], product.len()));
    assert!(server.watch.parts.load(Ordering::SeqCst) > 1);
}

/// The signature covers the name, so both sides must encode it alike.
#[test]
fn an_object_may_have_any_name_that_is_taken() {
    let (server, place) = (Server::new(), Place::new());
    let app = app_with(server.address, KEY, &place);
    for name in ["影片 1", "a+b=c&d", "it's (1)!*", "~$@:,;?", "\"<>|{}^`[]"] {
        server.put(&format!("{name}/{name}.mp4"), short_clip());
        let order = json!({
            "bucket": "my-bucket",
            "object": format!("{name}/{name}.mp4"),
            "output_dir": format!("to/{name}"),
            "dst_format": "mov",
        });

        let answer = app.send("POST", "/", "", &order.to_string());

        assert_eq!(answer.status, 200, "{name}: {}", answer.json);
        assert!(server.path_of(&format!("to/{name}/{name}.mov")).is_file(), "{name}");
    }
}

#[test]
fn a_missing_object_is_the_caller_s_mistake() {
    let (server, place) = (Server::new(), Place::new());
    let app = app_with(server.address, KEY, &place);

    let answer = app.send("POST", "/", "", SEED);

    let found = (answer.status, &answer.json["error"]["code"]);
    assert_eq!(found, (404, &Value::from("no_such_object")));
}

#[test]
fn a_stop_amid_the_upload_leaves_no_part_of_it() {
    let (server, place) = (Server::new(), Place::new());
    server.put("480P.mp4", short_clip());
    server.watch.holds_parts.store(true, Ordering::SeqCst);
    let app = app_with(server.address, KEY, &place);
    let id = app.accepted(SEED);
    eventually("the product is on its way", || {
        server.watch.parts.load(Ordering::SeqCst) == 1
    });
    assert_eq!(server.uploads(), 1);

    app.send("POST", &format!("/tasks/{id}/stop"), "", "");

    app.task_when(&id, |task| task["status"] == "Stopped");
    eventually("the upload is aborted", || server.uploads() == 0);
    assert!(!server.path_of("a").exists());
}

#[test]
fn a_key_that_is_refused_is_said_to_be_and_is_not_tried_again() {
    let (server, place) = (Server::new(), Place::new());
    server.put("480P.mp4", short_clip());
    for key in [("somebody", "another secret"), ("nobody", KEY.1)] {
        let place = Place::new();
        let app = app_with(server.address, key, &place);
        refused(&app, "read");
    }
    // This key may read, but not write.
    server.watch.writes_are_denied.store(true, Ordering::SeqCst);
    refused(&app_with(server.address, KEY, &place), "written");
}

fn refused(app: &App, doing: &str) {
    let id = app.accepted(SEED);
    let task = app.task_when(&id, has_ended);
    assert_eq!(
        (&task["status"], &task["attempt"]),
        (&json!("Failed"), &json!(1)),
        "{task}"
    );
    let result = app.send("GET", &format!("/tasks/{id}/result"), "", "");
    assert_eq!(
        (result.status, &result.json["error"]["code"]),
        (500, &json!("bucket_denied"))
    );
    let message = result.json["error"]["message"].as_str().unwrap();
    assert!(message.contains(doing) && message.contains("credentials"), "{message}");
}

/// The server. Dropping it removes its objects and its runtime.
struct Server {
    address: SocketAddr,
    root: TempDir,
    watch: Arc<Watch>,
    _runtime: Runtime,
}

/// A filter in front of the server.
#[derive(Default)]
struct Watch {
    parts: AtomicUsize,
    /// Whether parts do not arrive.
    holds_parts: AtomicBool,
    writes_are_denied: AtomicBool,
}

impl Server {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("my-bucket")).unwrap();
        let mut server = S3ServiceBuilder::new(FileSystem::new(root.path()).unwrap());
        server.set_auth(SimpleAuth::from_single(KEY.0, KEY.1));
        let server = HandleError::new(server.build(), async |error: HttpError| {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:?}"))
        });
        let watch = Arc::<Watch>::default();
        let watched = middleware::from_fn_with_state(watch.clone(), Watch::pass);
        let server = Router::new().fallback_service(server).layer(watched);

        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async { axum::serve(listener, server).await.unwrap() });
        Self {
            address,
            root,
            watch,
            _runtime: runtime,
        }
    }

    fn put(&self, object: &str, from: &Path) {
        let path = self.path_of(object);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(from, path).unwrap();
    }

    fn path_of(&self, object: &str) -> PathBuf {
        self.root.path().join("my-bucket").join(object)
    }

    /// Uploads that were begun, and neither completed nor aborted. The server has a file for each.
    fn uploads(&self) -> usize {
        let entries = fs::read_dir(self.root.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".upload")).count()
    }
}

impl Watch {
    async fn pass(State(watch): State<Arc<Self>>, request: Request, next: Next) -> Response {
        if request.method() != "GET" && watch.writes_are_denied.load(Ordering::SeqCst) {
            let denied = "<Error><Code>AccessDenied</Code></Error>";
            return (StatusCode::FORBIDDEN, denied).into_response();
        }
        if request.uri().query().is_some_and(|query| query.contains("partNumber=")) {
            watch.parts.fetch_add(1, Ordering::SeqCst);
            if watch.holds_parts.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
        }
        next.run(request).await
    }
}
