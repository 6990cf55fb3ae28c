//! Event streams, over real connections.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, body::Body, routing::any};
use http::{Request, request::Parts};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower_respond_async::{
    Access, MemoryStore, RequestId, Scope, TaskApi, TaskContext, TaskState, Tenant, api::Permission,
};

use crate::support::{App, Gate, WithoutBody, fc, no_retries, routes, soon};

/// The reading side of a stream.
pub(crate) struct Stream {
    connection: TcpStream,
    /// Text that was received and not consumed yet.
    text: String,
    head: String,
}

/// An event as it was received.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    id: Option<String>,
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl Stream {
    /// Opens a stream, and reads the head of the response.
    pub(crate) async fn open(address: SocketAddr, path: &str, more: &str) -> Self {
        let mut connection = TcpStream::connect(address).await.unwrap();
        // HTTP/1.0, so that the body is not in chunks.
        let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n{more}\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut stream = Self {
            connection,
            text: String::new(),
            head: String::new(),
        };
        stream.head = stream.until("\r\n\r\n").await.expect("there is an answer");
        stream
    }

    /// The text before the next `mark`; `None` if the stream ended first.
    async fn until(&mut self, mark: &str) -> Option<String> {
        loop {
            if let Some((before, after)) = self.text.split_once(mark) {
                let before = before.to_owned();
                self.text = after.to_owned();
                return Some(before);
            }
            let mut bytes = [0; 4096];
            let read = soon(self.connection.read(&mut bytes)).await.unwrap_or(0);
            if read == 0 {
                return None;
            }
            self.text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
        }
    }

    /// The next event; `None` if the stream ended first.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let block = self.until("\n\n").await?;
            let field = |name: &str| {
                let start = format!("{name}: ");
                block
                    .lines()
                    .find_map(|line| line.strip_prefix(&start).map(str::to_owned))
            };
            if let (Some(name), Some(data)) = (field("event"), field("data")) {
                let data = serde_json::from_str(&data).unwrap();
                return Some(Event {
                    id: field("id"),
                    name,
                    data,
                });
            }
        }
    }

    async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }

    /// The next event of a kind.
    pub(crate) async fn next_of(&mut self, name: &str) -> Event {
        loop {
            let event = self
                .next()
                .await
                .unwrap_or_else(|| panic!("the stream ended before an event {name}"));
            if event.name == name {
                return event;
            }
        }
    }
}

fn statuses(events: &[Event]) -> Vec<&str> {
    let of_status = events.iter().filter(|event| event.name == "status");
    of_status.map(|event| event.data["status"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_task_is_followed_to_its_end() {
    let gate = Gate::new();
    let gated = gate.clone();
    let handler = any(move |task: TaskContext| async move {
        task.progress(0.5, "half");
        gated.pass().await;
        "done"
    });
    let app = App::build(MemoryStore::new(), Router::new().route("/", handler), |builder| builder);
    let address = app.serve().await;
    let id = app.accepted(fc("/").empty()).await;
    gate.arrived().await;

    let mut stream = Stream::open(address, &format!("/tasks/{id}/events"), "").await;
    let head = stream.head.to_lowercase();
    for line in [
        "200 ok",
        "content-type: text/event-stream",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    let first = stream.next().await.unwrap();
    assert_eq!(
        (first.name.as_str(), &first.data["status"]),
        ("status", &json!("Enqueued"))
    );
    assert_eq!(first.data["requestId"], id.to_string());
    assert_eq!(stream.next().await.unwrap().data["status"], "Running");
    let progress = stream.next_of("progress").await;
    assert_eq!(
        (progress.id, progress.data),
        (None, json!({"fraction": 0.5, "message": "half"}))
    );
    gate.let_pass(1);
    let rest = stream.rest().await;
    assert_eq!(statuses(&rest), ["Succeeded"]);
    assert_eq!(
        rest.last().unwrap().name,
        "status",
        "the end of the task is the last event"
    );
}

#[tokio::test]
async fn a_reconnecting_client_resumes() {
    let app = App::with(|builder| builder.retry(no_retries()));
    let address = app.serve().await;
    let id = app.accepted(fc("/status/500").empty()).await;
    app.ended(id).await;
    let path = format!("/tasks/{id}/events");
    let all = Stream::open(address, &path, "").await.rest().await;
    assert_eq!(statuses(&all), ["Enqueued", "Running", "Failed"]);
    let ids: Vec<_> = all.iter().map(|event| event.id.clone().unwrap()).collect();

    let behind_first = format!("Last-Event-ID: {}\r\n", ids[0]);
    assert_eq!(Stream::open(address, &path, &behind_first).await.rest().await, all[1..]);
    let in_query = format!("{path}?lastEventId={}", ids[0]);
    assert_eq!(Stream::open(address, &in_query, "").await.rest().await, all[1..]);
    // There are no further events: a 204 keeps a browser from reconnecting.
    let behind_last = format!("Last-Event-ID: {}\r\n", ids[2]);
    assert!(Stream::open(address, &path, &behind_last).await.head.contains("204"));
    let nonsense = "Last-Event-ID: </script>\r\n";
    assert_eq!(Stream::open(address, &path, nonsense).await.rest().await, all);
    assert!(
        Stream::open(address, "/tasks/none/events", "")
            .await
            .head
            .contains("404")
    );

    // A new generation goes on behind the end of the old one.
    assert_eq!(app.post(format!("/tasks/{id}/retry")).await.status, 202);
    app.ended(id).await;
    let more = Stream::open(address, &path, &behind_last).await.rest().await;
    assert_eq!(statuses(&more).last(), Some(&"Failed"));
    assert!(more.len() >= 2, "{more:?}");
}

#[tokio::test]
async fn a_reconnecting_client_misses_no_change_of_any_task() {
    let app = App::new();
    let address = app.serve().await;
    let mut stream = Stream::open(address, "/tasks/events", "").await;
    let here = stream.until("\n\n").await.unwrap();
    let here = match here.split_once("id: ") {
        Some((_, id)) => id.to_owned(),
        None => stream.until("\n\n").await.unwrap().replace("id: ", ""),
    };
    let first = app.accepted(fc("/echo").empty()).await;
    let told = stream.next().await.unwrap();
    assert_eq!(
        (told.name.as_str(), &told.data["requestId"]),
        ("status", &json!(first.to_string()))
    );
    assert!(
        told.data["links"].is_object(),
        "it is the document that a listing gives"
    );
    drop(stream);

    let second = app.accepted(fc("/echo").empty()).await;
    app.ended(second).await;
    let mut back = Stream::open(address, "/tasks/events", &format!("Last-Event-ID: {here}\r\n")).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let told = back.next().await.unwrap();
        assert_eq!(told.name, "status", "nothing was missed");
        let id = told.data["requestId"].as_str().unwrap().parse::<RequestId>().unwrap();
        if !seen.contains(&id) {
            seen.push(id);
        }
    }
    assert_eq!(seen, [first, second]);

    let mut lost = Stream::open(address, "/tasks/events", "Last-Event-ID: 1-7\r\n").await;
    assert_eq!(lost.next().await.unwrap().name, "missed");
}

fn tenant_of(head: &Parts) -> Option<Tenant> {
    Some(Tenant::new(head.headers.get("x-tenant")?.to_str().ok()?))
}

#[tokio::test]
async fn a_tenant_gets_events_of_its_own_tasks_only() {
    let own = |head: &Parts| match tenant_of(head) {
        Some(tenant) => Access::read_only(Scope::One(Some(tenant))),
        None => Access::full(Scope::All)
            .without(Permission::Logs)
            .without(Permission::Callbacks),
    };
    let app = App::wrap(
        MemoryStore::new(),
        |builder| builder.tenant(tenant_of),
        |tasks| routes().nest_service("/tasks", TaskApi::new(tasks, own)),
    );
    let address = app.serve().await;
    let mut ada = Stream::open(address, "/tasks/events", "X-Tenant: ada\r\n").await;
    let bobs = app.accepted(fc("/echo").header("X-Tenant", "bob").empty()).await;
    app.ended(bobs).await;
    let adas = app.accepted(fc("/echo").header("X-Tenant", "ada").empty()).await;
    let told = ada.next().await.unwrap();
    assert_eq!(told.data["requestId"], adas.to_string());
    let path = format!("/tasks/{bobs}/events");
    assert!(
        Stream::open(address, &path, "X-Tenant: ada\r\n")
            .await
            .head
            .contains("404")
    );
    let events = Stream::open(address, &path, "X-Tenant: bob\r\n").await.rest().await;
    assert_eq!(statuses(&events).last(), Some(&"Succeeded"));
}

#[tokio::test]
async fn close_ends_every_stream() {
    let gate = Gate::new();
    let app = App::build(MemoryStore::new(), gate.among_routes(), |builder| builder);
    let address = app.serve().await;
    let id = app.accepted(fc("/gate").empty()).await;
    gate.arrived().await;
    let mut one = Stream::open(address, &format!("/tasks/{id}/events"), "").await;
    let mut all = Stream::open(address, "/tasks/events", "").await;
    assert_eq!(one.next().await.unwrap().data["status"], "Enqueued");
    app.tasks.close();
    one.rest().await;
    assert_eq!(all.next().await, None);
    assert!(Stream::open(address, "/tasks/events", "").await.head.contains("503"));
    gate.let_pass(1);
}

/// A stream does not keep the engine alive: when the application drops the engine, the stream ends.
#[tokio::test]
async fn an_engine_without_handles_ends_its_streams() {
    let app = App::new();
    let api = TaskApi::new(&app.tasks, tower_respond_async::allow_everyone());
    let request = Request::get("/events").body(Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(api, request).await.unwrap();
    drop(app);
    let read = soon(http_body_util::BodyExt::collect(response.into_body())).await;
    assert!(read.is_ok(), "it ends, and is not broken off");
}

/// There is room for one stream, so a second one is accepted only after the first is gone.
#[tokio::test]
async fn a_client_that_leaves_makes_room_at_once() {
    let app = App::with(|builder| builder.max_waiters(1));
    let address = app.serve().await;
    let first = Stream::open(address, "/tasks/events", "").await;
    let refused = app.get("/tasks/events").await;
    refused_for_room(&refused);
    drop(first);
    let again = async {
        while !Stream::open(address, "/tasks/events", "").await.head.contains("200") {
            tokio::task::yield_now().await;
        }
    };
    soon(again).await;
}

fn refused_for_room(answer: &crate::support::Answered) {
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("TooManyStreams")));
    assert_eq!(answer.header("retry-after"), "1");
}

/// A client that stops reading while its connection stays open is given up: its place becomes free, and its buffer does
/// not grow.
#[tokio::test]
async fn a_client_that_reads_nothing_is_dropped_and_not_buffered_for() {
    let app = App::with(|builder| builder.max_waiters(1));
    let api = TaskApi::new(&app.tasks, tower_respond_async::allow_everyone());
    let request = Request::get("/events").body(Body::empty()).unwrap();
    // Held, and never polled, as a server does when the connection takes no more.
    let response = tower::ServiceExt::oneshot(api, request).await.unwrap();
    refused_for_room(&app.get("/tasks/events").await);

    // Enough events to fill the buffer, one piece every quarter of a second.
    let room = async {
        loop {
            let id = app.accepted(fc("/echo").empty()).await;
            app.until(id, TaskState::Succeeded).await;
            let answer = tokio::time::timeout(Duration::from_millis(500), app.get("/tasks/events")).await;
            match answer {
                // A stream: it has no end to read to.
                Err(_) => return,
                Ok(refused) => refused_for_room(&refused),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(300), room).await.unwrap();
    let read = soon(http_body_util::BodyExt::collect(response.into_body())).await;
    assert!(
        read.is_err(),
        "the rest was given up, and the client is told that it is not whole"
    );
}
