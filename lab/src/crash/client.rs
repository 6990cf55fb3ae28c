//! A client of the application, over loopback HTTP.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tower_respond_async::{BoxError, RequestId};

use super::{
    app::{FOLDER, Orders},
    journal::Answer,
};

/// After this time a client stops waiting for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub struct Client {
    connections: legacy::Client<HttpConnector, Full<Bytes>>,
    folder: HeaderValue,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Client {
    /// Creates a client for processes with these orders only.
    pub fn new(orders: &Orders) -> Self {
        Self {
            connections: legacy::Client::builder(TokioExecutor::new()).build_http(),
            folder: orders.id(),
        }
    }

    /// Sends a request once. An error means only that no whole answer came.
    pub async fn send(&self, to: SocketAddr, request: &Request<Bytes>) -> Result<Reply, BoxError> {
        let uri = format!("http://{to}{}", request.uri());
        let mut sent = Request::builder().method(request.method()).uri(uri);
        // Each process has its own port. The fixed host makes them one host, so that a request sent again to another
        // process is the same request.
        sent = sent.header(HOST, "localhost").header(FOLDER, &self.folder);
        for (name, value) in request.headers() {
            sent = sent.header(name, value);
        }
        let sent = sent.body(Full::new(request.body().clone()))?;
        let replied = timeout(PATIENCE, async {
            let (head, body) = self.connections.request(sent).await?.into_parts();
            Ok::<_, BoxError>(Reply {
                status: head.status,
                headers: head.headers,
                body: body.collect().await?.to_bytes(),
            })
        });
        match replied.await?? {
            reply if reply.status == StatusCode::MISDIRECTED_REQUEST => Err("it is somebody else's process".into()),
            reply => Ok(reply),
        }
    }

    async fn get<T: DeserializeOwned>(&self, to: SocketAddr, path: &str) -> Result<T, BoxError> {
        let reply = self.send(to, &request(Method::GET, path)).await?;
        match reply.status {
            StatusCode::OK => Ok(serde_json::from_slice(&reply.body)?),
            status => Err(format!("{path} was answered with {status}").into()),
        }
    }

    /// All tasks that the query finds, with their payloads, except tasks that are pruned between the listing and the
    /// reading of their payloads.
    pub async fn tasks(&self, to: SocketAddr, query: &str) -> Result<Vec<Document>, BoxError> {
        let mut tasks = Vec::new();
        let mut token = String::new();
        loop {
            let path = format!("/tasks?limit=100&includePayload=true&nextToken={token}&{query}");
            let page: List = self.get(to, &path).await?;
            for task in page.tasks {
                if task.nonce.is_some() || self.is_there(to, task.request_id).await? {
                    tasks.push(task);
                }
            }
            token = page.next_token;
            if token.is_empty() {
                return Ok(tasks);
            }
        }
    }

    async fn is_there(&self, to: SocketAddr, id: RequestId) -> Result<bool, BoxError> {
        let reply = self.send(to, &request(Method::GET, &format!("/tasks/{id}"))).await?;
        Ok(reply.status != StatusCode::NOT_FOUND)
    }

    /// How many tasks have not ended.
    pub async fn unfinished(&self, to: SocketAddr) -> Result<usize, BoxError> {
        let path = "/tasks?limit=100&status=Enqueued&status=Running&status=Retrying&status=Stopping";
        Ok(self.get::<List>(to, path).await?.tasks.len())
    }
}

pub fn request(method: Method, path: &str) -> Request<Bytes> {
    let request = Request::builder().method(method).uri(path).body(Bytes::new());
    request.expect("the path is one of ours")
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    tasks: Vec<Document>,
    next_token: String,
}

/// A task, as the task API shows it.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    pub request_id: RequestId,
    pub status: String,
    pub generation: u32,
    pub attempt: u32,
    pub max_attempts: u32,
    pub already_retried_times: u32,
    #[serde(rename = "taskErrorMessage")]
    pub error: Option<String>,
    /// The nonce in the request.
    #[serde(rename = "taskPayload")]
    pub nonce: Option<String>,
    #[serde(rename = "returnPayload")]
    pub response: Option<String>,
    pub events: Vec<Event>,
}

#[derive(Clone, Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub status: String,
}

impl Document {
    pub fn is_terminal(&self) -> bool {
        is_terminal(&self.status)
    }

    /// The handler's answer.
    pub fn answer(&self) -> Option<Answer> {
        serde_json::from_str(self.response.as_deref()?).ok()
    }
}

pub fn is_terminal(state: &str) -> bool {
    ["Succeeded", "Failed", "Stopped", "Expired", "Invalid"].contains(&state)
}
