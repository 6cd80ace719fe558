//! Whether a leaf is accepted in a TLS handshake.

use std::{fmt::Display, sync::Arc, time::Duration};

use jiff::Timestamp;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::WebPkiClientVerifier,
};

use super::{
    certificate::Certificate,
    constraints::{Name, refusal},
    error::PkiError,
};

/// Checks that a peer that trusts an authority accepts a leaf of it in a TLS handshake now. This includes the usages of the leaf
/// and the name constraints of the authority.
///
/// # Errors
/// The name for which the authority may not sign, or the error of the verifier.
pub fn verify(leaf: &Certificate, authority: &Certificate, now: Timestamp) -> Result<(), PkiError> {
    let refused = |error: &dyn Display| PkiError::NotAccepted(error.to_string());
    let dns = leaf.dns_names().iter().map(|name| Name::dns(name));
    if let Some(why) = refusal(authority, dns.chain(leaf.ip_addresses().iter().copied().map(Name::ip))) {
        return Err(refused(&format!("the CA {:?} {why} (nameConstraints)", authority.common_name())));
    }
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.der())).map_err(|e| refused(&e))?;
    let (roots, provider): (_, Arc<CryptoProvider>) = (Arc::new(roots), Arc::new(ring::default_provider()));
    let der = CertificateDer::from(leaf.der());
    let seconds = u64::try_from(now.as_second()).map_err(|_| PkiError::Lifetime)?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    if leaf.client_auth() {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
        verifier.map_err(|e| refused(&e))?.verify_client_cert(&der, &[], now).map_err(|e| refused(&e))?;
    }
    // With one name, name constraints are checked for all names of the leaf. It must not be a wildcard.
    let name = leaf.dns_names().iter().find_map(|name| ServerName::try_from(name.as_str()).ok());
    if let Some(name) = name.filter(|_| leaf.server_auth()) {
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build().map_err(|e| refused(&e))?;
        verifier.verify_server_cert(&der, &[], &name, &[], now).map_err(|e| refused(&e))?;
    }
    Ok(())
}
