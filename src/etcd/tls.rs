//! TLS of the client: which authorities it trusts, and which certificate it presents.

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::{CertifiedKey, SingleCertAndKey},
};
use std::{fmt, sync::Arc};
use zeroize::Zeroizing;

/// The TLS configuration to dial the members of one cluster in one trust domain. It is kept until the Secrets change, because
/// creating it parses keys and certificates, which is expensive. A clone is cheap.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

/// Why a [`Tls`] could not be created. It contains no part of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The bundle has no certificate, or one that is not a CA certificate.
    #[error("the trust bundle cannot be used: {0}")]
    Bundle(String),
    /// The client certificate is not a PEM chain.
    #[error("the client certificate cannot be read: {0}")]
    Certificate(String),
    /// The key is not a PEM private key.
    #[error("the client key cannot be read")]
    Key,
    /// The pair cannot be used: the key does not belong to the certificate, or is of a kind that TLS does not support.
    #[error("the client certificate and key cannot be used together: {0}")]
    Pair(String),
}

impl Tls {
    /// Trusts the authorities in `bundle` (PEM), and presents `identity` (a PEM chain and its PEM key), if there is one, to a
    /// member that asks for a certificate.
    pub fn new(bundle: &[u8], identity: Option<(&[u8], &[u8])>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(bundle).map_err(TlsError::Bundle)? {
            roots.add(authority).map_err(|e| TlsError::Bundle(e.to_string()))?;
        }
        // The provider is passed instead of installed, so that no other library in the process can change it.
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::Pair(e.to_string()))?
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = certificates(chain).map_err(TlsError::Certificate)?;
                let key = Zeroizing::new(PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::Key)?);
                // As in the library's `with_client_auth_cert`, which would not zeroize the parsed key.
                let pair = ring::sign::any_supported_type(&key).map(|signer| CertifiedKey::new(chain, signer));
                let pair = pair.and_then(|pair| pair.keys_match().map(|()| pair)).map_err(|e| TlsError::Pair(e.to_string()))?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        // In a resumed session no certificate is presented, and rustls reports the leaf of the session's first handshake: a leaf
        // that was renewed since would not be noticed.
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// All certificates in `text`, which must have at least one.
fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, pem::Error>>().map_err(|e| e.to_string())?;
    if found.is_empty() { Err("it has no certificate".to_owned()) } else { Ok(found) }
}
