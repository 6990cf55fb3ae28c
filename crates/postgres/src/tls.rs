//! Encrypted connections.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};
use tokio_postgres_rustls::MakeRustlsConnect;
use tower_respond_async::store::{StoreError, StoreErrorKind, StoreResult};

/// Trusts the system's certificates and `own`. The server's certificate must be for the host of the URL.
pub(crate) fn trusting(own: &[Vec<u8>]) -> StoreResult<MakeRustlsConnect> {
    let mut trusted = RootCertStore::empty();
    // Unreadable certificates are skipped: most systems have some.
    trusted.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in own {
        trusted
            .add(CertificateDer::from(certificate.clone()))
            .map_err(refused)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn refused(error: rustls::Error) -> StoreError {
    StoreError::new(StoreErrorKind::Unsupported, "connections cannot be encrypted").because(error)
}
