//! One try: a POST with limits of time and size, and the meaning of its answer.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{CONTENT_LENGTH, LOCATION, USER_AGENT},
};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::{
    sync::OnceCell,
    task::{coop, spawn_blocking},
    time::{Instant, timeout_at},
};

use crate::{
    error::{BoxError, ConfigError},
    hook::{
        CallbackRefused, Completion, PayloadFormat, Tried, TryOutcome,
        webhook::{
            Secret,
            connect::{Connector, Dialler, connector},
            guard::Guard,
            kept::{self, causes},
            resolve::{Resolve, SystemResolver},
            verify,
        },
    },
    task::retry_after,
};

/// How long a whole try may take, from resolving the name to the end of the answer.
const TRY_LIMIT: Duration = Duration::from_secs(15);

/// How much of an answer is read, in bytes. An ordinary answer ends before, so that its connection can be used again.
const ANSWER_BYTES: usize = 16 * 1024;

/// How much of an answer is returned, in bytes.
const SHOWN_BYTES: usize = 1024;

/// How long an idle connection is kept: long enough for the next completion of a burst, short enough for a receiver
/// that is being replaced.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

const AGENT: HeaderValue = HeaderValue::from_static(concat!("tower-respond-async/", env!("CARGO_PKG_VERSION")));

/// Sends completions, with the settings that all kinds of webhooks have.
#[derive(Clone)]
pub(super) struct Sender {
    pub(super) format: PayloadFormat,
    pub(super) payload_limit: usize,
    pub(super) secrets: Vec<Secret>,
    pub(super) headers: HeaderMap,
    pub(super) roots: Vec<Vec<u8>>,
    pub(super) resolver: Arc<dyn Resolve>,
    clients: OnceCell<Clients>,
}

/// Two clients with one connector: one that uses kept connections, and one that does not.
#[derive(Clone)]
struct Clients {
    keeping: Client<Connector, Full<Bytes>>,
    fresh: Client<Connector, Full<Bytes>>,
}

impl Default for Sender {
    fn default() -> Self {
        Self {
            format: PayloadFormat::default(),
            payload_limit: PayloadFormat::LIMIT,
            secrets: Vec::new(),
            headers: HeaderMap::new(),
            roots: Vec::new(),
            resolver: Arc::new(SystemResolver::default()),
            clients: OnceCell::new(),
        }
    }
}

impl Sender {
    /// Trusts this root certificate, in DER or PEM.
    pub(super) fn trust(&mut self, certificate: &[u8]) -> Result<(), ConfigError> {
        use rustls::{RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};

        let der = match CertificateDer::from_pem_slice(certificate) {
            Ok(der) => der.to_vec(),
            Err(_) => certificate.to_vec(),
        };
        let added = RootCertStore::empty().add(CertificateDer::from(der.clone()));
        added.map_err(|error| ConfigError::new("root_certificate", format!("it is no certificate: {error}")))?;
        self.roots.push(der);
        Ok(())
    }

    /// Makes one try. Use a sender with one guard only: its kept connections were checked by that guard.
    pub(super) async fn send(&self, uri: Uri, completion: &Completion, guard: &Arc<Guard>) -> Tried {
        let until = Instant::now() + TRY_LIMIT;
        let clients = match self.clients(guard).await {
            Ok(clients) => clients,
            Err(error) => return Tried::failed(chain(&*error)),
        };
        let mut answer = timeout_at(until, clients.keeping.request(self.request(uri.clone(), completion))).await;
        if matches!(&answer, Ok(Err(error)) if kept::was_closed(error)) {
            // Once, on a fresh connection: other kept connections may be closed as well.
            answer = timeout_at(until, clients.fresh.request(self.request(uri, completion))).await;
        }
        match answer {
            Ok(Ok(response)) => {
                kept::note_answer(&response);
                read(response, until).await
            }
            Ok(Err(error)) if is_refusal(&error) => {
                Tried::new(TryOutcome::Blocked).saying("the address is not one that is called")
            }
            Ok(Err(error)) => Tried::failed(chain(&error)),
            Err(_) => Tried::failed(format_args!("no answer within {TRY_LIMIT:?}")),
        }
    }

    async fn clients(&self, guard: &Arc<Guard>) -> Result<&Clients, BoxError> {
        let make = || async {
            let dialler = Dialler {
                guard: guard.clone(),
                resolver: self.resolver.clone(),
            };
            let roots = self.roots.clone();
            // Reads files: the system's certificates.
            let connector = spawn_blocking(move || connector(dialler, &roots)).await??;
            let mut builder = Client::builder(TokioExecutor::new());
            builder
                .pool_idle_timeout(IDLE_LIMIT)
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new());
            let keeping = builder.build(connector.clone());
            let fresh = builder.pool_max_idle_per_host(0).build(connector);
            Ok::<_, BoxError>(Clients { keeping, fresh })
        };
        self.clients.get_or_try_init(make).await
    }

    fn request(&self, uri: Uri, completion: &Completion) -> Request<Full<Bytes>> {
        let payload = self.format.render(completion, self.payload_limit);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let mut headers = payload.headers;
        headers.insert(USER_AGENT, AGENT);
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        // hyper sends no length for an empty body, and some receivers refuse a POST without one (RFC 9110, 8.6).
        headers.insert(CONTENT_LENGTH, HeaderValue::from(payload.body.len()));
        let signatures: Vec<_> = self
            .secrets
            .iter()
            .map(|secret| secret.sign(&completion.webhook_id, now, &payload.body))
            .collect();
        for (name, text) in [
            (verify::ID, completion.webhook_id.clone()),
            (verify::TIMESTAMP, now.to_string()),
            (verify::SIGNATURE, signatures.join(" ")),
        ] {
            if let Some(value) = HeaderValue::try_from(text).ok().filter(|value| !value.is_empty()) {
                headers.insert(name, value);
            }
        }
        let mut request = Request::new(Full::new(payload.body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        request
    }
}

/// Reads an answer. Its head decides the outcome; its body is only shown.
async fn read<B>(response: Response<B>, until: Instant) -> Tried
where
    B: Body<Data = Bytes> + Unpin,
{
    let (head, mut body) = response.into_parts();
    let mut answer = Vec::new();
    let mut length = 0;
    // A body that breaks off, stalls or never ends does not change the outcome.
    while let Ok(Some(Ok(frame))) = timeout_at(until, body.frame()).await {
        let Ok(data) = frame.into_data() else { continue };
        let room = SHOWN_BYTES - answer.len();
        answer.extend_from_slice(&data[..data.len().min(room)]);
        // An empty frame counts as a byte, so that a body of empty frames ends, too.
        length += data.len().max(1);
        if length >= ANSWER_BYTES {
            break;
        }
        coop::consume_budget().await;
    }
    let text = String::from_utf8_lossy(&answer);
    let outcome = match head.status {
        status if status.is_success() => TryOutcome::Delivered,
        StatusCode::GONE => TryOutcome::GivenUp,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => TryOutcome::Failed {
            retry_after: retry_after(&head.headers, SystemTime::now()),
        },
        _ => TryOutcome::Failed { retry_after: None },
    };
    let text = match head.headers.get(LOCATION).filter(|_| head.status.is_redirection()) {
        Some(location) => format!(
            "a redirect, which is not followed, to {}",
            String::from_utf8_lossy(location.as_bytes())
        ),
        None => text.into_owned(),
    };
    Tried::new(outcome).answered(head.status.as_u16()).saying(text)
}

/// Whether the guard refused the address.
fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(<dyn Error>::is::<CallbackRefused>)
}

/// An error and all its causes, in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let texts: Vec<_> = causes(error).map(ToString::to_string).collect();
    texts.join(": ")
}
