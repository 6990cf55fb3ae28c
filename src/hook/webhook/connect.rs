//! Connections to receivers: each address is checked, and exactly the checked one is dialled.

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
        guard::{Guard, Place, PlaceHost},
        kept::Kept,
        resolve::{Resolve, look_up},
    },
};

/// How long it may take to be connected: name, TCP and TLS together.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Of several addresses, so many share the time: one that does not answer must leave some for the next.
const SHARES: u32 = 3;

/// Connects over TCP. The whole of a name's look-up, check and dialling is here, so that nothing comes in between; an
/// address in the URL itself, which no resolver would ever see, takes the same way.
#[derive(Clone)]
pub(super) struct Dialler {
    pub(super) guard: Arc<Guard>,
    pub(super) resolver: Arc<dyn Resolve>,
}

impl Dialler {
    async fn dial(self, uri: Uri) -> Result<TokioIo<TcpStream>, BoxError> {
        let guard = self.guard;
        // Read once more, by the reader that the checks are written for.
        let place = guard.check_url(&uri.to_string())?;
        let addresses = addresses(&*self.resolver, &guard, &place).await?;
        let mut last = None;
        for address in &addresses {
            let share = CONNECT_LIMIT / SHARES.min(addresses.len() as u32);
            match timeout(share, TcpStream::connect(SocketAddr::new(*address, place.port))).await {
                Ok(Ok(stream)) => {
                    // One small write, then an answer is waited for.
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

/// The addresses that a place leads to, all of them checked.
pub(super) async fn addresses(resolver: &dyn Resolve, guard: &Guard, place: &Place) -> Result<Vec<IpAddr>, BoxError> {
    let addresses = match &place.host {
        PlaceHost::Address(address) => vec![*address],
        PlaceHost::Name(name) => look_up(resolver, name).await?,
    };
    guard.check_addresses(place, &addresses)?;
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

/// Connects within the time for it, TLS included.
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
                // Above TLS, whose own records are no answer.
                Ok(connected) => Ok(TokioIo::new(Kept::new(connected?))),
                Err(_) => Err(too_slow().into()),
            }
        })
    }
}

/// Connects by `dialler`, and with TLS where the URL says https. Trusts the certificates that the operating system does, and
/// `roots`.
pub(super) fn connector(dialler: Dialler, roots: &[Vec<u8>]) -> Result<Connector, BoxError> {
    let mut trusted = RootCertStore::empty();
    // What cannot be read of them is left out, as every other program does; without any, no https receiver is trusted.
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
