//! Connections to receivers: every address is checked, and only checked addresses are connected to.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use tokio::{net::TcpStream, time::timeout};
use tower_service::Service;

use crate::{
    error::{BoxError, BoxFuture},
    hook::webhook::{
        guard::{CheckedUrl, Guard, UrlHost},
        kept::Kept,
        resolve::{Resolve, look_up},
    },
};

/// How long connecting may take: resolving, TCP and TLS together.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Into how many shares the time is divided, at most. Each address gets one, so that an address that does not answer
/// leaves time for others.
const SHARES: u32 = 3;

/// Connects over TCP. Resolving, checking and connecting are in one function, so that nothing comes between them. An
/// address in the URL, which no resolver sees, takes the same way.
#[derive(Clone)]
pub(super) struct Dialler {
    pub(super) guard: Arc<Guard>,
    pub(super) resolver: Arc<dyn Resolve>,
}

impl Dialler {
    async fn dial(self, uri: Uri) -> Result<TokioIo<TcpStream>, BoxError> {
        let guard = self.guard;
        // Parsed again, by the parser that the checks are written for.
        let url = guard.check_url(&uri.to_string())?;
        let addresses = addresses(&*self.resolver, &guard, &url).await?;
        let mut last = None;
        for address in &addresses {
            let share = CONNECT_LIMIT / SHARES.min(addresses.len() as u32);
            match timeout(share, TcpStream::connect(SocketAddr::new(*address, url.port))).await {
                Ok(Ok(stream)) => {
                    // One small write, and then an answer: do not delay it.
                    let _ = stream.set_nodelay(true);
                    return Ok(TokioIo::new(stream));
                }
                Ok(Err(error)) => last = Some(error),
                Err(_) => last = Some(too_slow()),
            }
        }
        Err(last.unwrap_or_else(too_slow).into())
    }
}

/// All addresses of a URL, checked.
pub(super) async fn addresses(
    resolver: &dyn Resolve,
    guard: &Guard,
    url: &CheckedUrl,
) -> Result<Vec<IpAddr>, BoxError> {
    let addresses = match &url.host {
        UrlHost::Address(address) => vec![*address],
        UrlHost::Name(name) => look_up(resolver, name).await?,
    };
    guard.check_addresses(url, &addresses)?;
    Ok(addresses)
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no connection in time")
}

impl Service<Uri> for Dialler {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}

/// Connects over TCP and TLS, within the time limit.
#[derive(Clone)]
pub(super) struct Connector(HttpsConnector<Dialler>);

impl Service<Uri> for Connector {
    type Response = TokioIo<Kept<MaybeHttpsStream<TokioIo<TcpStream>>>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            match timeout(CONNECT_LIMIT, connecting).await {
                // Above TLS, whose own records are not an answer.
                Ok(connected) => Ok(TokioIo::new(Kept::new(connected?))),
                Err(_) => Err(too_slow().into()),
            }
        })
    }
}

/// Makes a connector that uses `dialler`, and TLS for https URLs. It trusts the certificates of the operating system
/// and `roots`.
pub(super) fn connector(dialler: Dialler, roots: &[Vec<u8>]) -> Result<Connector, BoxError> {
    let mut trusted = RootCertStore::empty();
    // Certificates that cannot be read are left out, as in other programs. Without any, no https receiver is trusted.
    trusted.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for root in roots {
        trusted.add(CertificateDer::from(root.clone()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(dialler);
    Ok(Connector(https))
}
