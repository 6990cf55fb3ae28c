//! The receiver of webhooks. It runs in the process of the campaign, and so outlives every process that is killed.

use std::net::SocketAddr;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use tokio::{net::TcpListener, task::JoinSet};
use tower_respond_async::{BoxError, RequestId};

use super::journal::{Journal, Line};

/// The secret with which messages are signed.
pub(crate) const SECRET: &str = "whsec_Y3Jhc2gtaGFybmVzcy1jcmFzaC1oYXJuZXNz";

/// Verifies each message, and writes it into the journal before answering.
#[derive(Debug)]
pub struct Receiver {
    pub address: SocketAddr,
    /// Dropping it ends the server.
    _serving: JoinSet<()>,
}

impl Receiver {
    pub async fn start(journal: Journal) -> Result<Self, BoxError> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let app = Router::new().route("/", post(receive)).with_state(journal);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            axum::serve(listener, app)
                .await
                .expect("it serves as long as it is there");
        });
        Ok(Self {
            address,
            _serving: serving,
        })
    }
}

async fn receive(State(journal): State<Journal>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let read = read(&headers, &body);
    let status = match read {
        Ok(_) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::UNAUTHORIZED,
    };
    journal.write(&match read {
        Ok((id, generation)) => Line::Received { id, generation },
        Err(error) => Line::Unverified {
            what: format!("{error}: {headers:?}"),
        },
    });
    status
}

/// The end that a message is about, if the published library of Standard Webhooks verifies it.
fn read(headers: &HeaderMap, body: &[u8]) -> Result<(RequestId, u32), BoxError> {
    standardwebhooks::Webhook::new(SECRET)?.verify(body, headers)?;
    let id = headers.get("webhook-id").ok_or("it has no id")?.to_str()?;
    let mut parts = id.split('_').skip(1);
    let mut part = || parts.next().ok_or("its id names no end");
    Ok((part()?.parse()?, part()?.parse()?))
}
