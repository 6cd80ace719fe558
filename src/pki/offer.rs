//! An authority that somebody else has made, and whether it can be used.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::WebPkiClientVerifier,
};

use super::{Certificate, PkiError, read_bundle};

/// What is public of an authority that somebody else has made: it signs, and others may stand above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The certificate of the authority that signs. Members trust it alone, and not all that stand below its root.
    pub authority: Certificate,
    /// Those above it, each signed by the one after it, up to the root. Clients are given them too, because OpenSSL verifies up
    /// to a root.
    pub above: Vec<Certificate>,
}

impl Offer {
    /// That of a Secret: `certificates` are the authority's and perhaps those above it, `roots` are further ones (`ca.crt`).
    ///
    /// # Errors
    /// When one is unreadable or has expired, or the authority may not sign, or it cannot be traced to a root.
    pub fn of_secret(certificates: &[u8], roots: &[u8], now: Timestamp) -> Result<Self, PkiError> {
        let read = |file: &str, text: &[u8]| {
            let hint = "it must hold CERTIFICATE blocks and nothing else, as openssl x509 writes them without -text";
            read_bundle(text).map_err(|problem| PkiError::Chain(format!("{file}: {problem}; {hint}")))
        };
        let mut certificates = read("tls.crt", certificates)?.into_iter();
        let authority = certificates.next().ok_or_else(|| PkiError::Chain("there is no certificate".into()))?;
        check_key(&authority)?;
        let candidates: Vec<_> = certificates.chain(read("ca.crt", roots)?).collect();
        let offer = Self::climb(authority, &candidates, now)?;
        let top = offer.above.last().unwrap_or(&offer.authority);
        if !top.is_self_signed() {
            check_keys_above(top, &candidates)?;
            let name = top.common_name();
            return Err(PkiError::Chain(format!("ca.crt does not hold the certificate of the authority that signed {name:?}")));
        }
        Ok(offer)
    }

    /// That of an answer to a request: the leaf and what came with it, of which one has signed the leaf.
    ///
    /// # Errors
    /// As above; but an answer may keep the root to itself.
    pub fn of_answer(certificates: &[u8], roots: &[u8], now: Timestamp) -> Result<(Certificate, Self), PkiError> {
        let mut certificates = read_bundle(certificates)?.into_iter();
        let leaf = certificates.next().ok_or_else(|| PkiError::Chain("there is no certificate".into()))?;
        let candidates: Vec<_> = certificates.chain(read_bundle(roots)?).collect();
        let Some(authority) = candidates.iter().find(|candidate| leaf.is_below(candidate)) else {
            check_keys_above(&leaf, &candidates)?;
            return Err(PkiError::Chain("the certificate of the authority that signed did not come with the answer".into()));
        };
        Ok((leaf, Self::climb(authority.clone(), &candidates, now)?))
    }

    fn climb(authority: Certificate, candidates: &[Certificate], now: Timestamp) -> Result<Self, PkiError> {
        let mut above: Vec<Certificate> = vec![];
        loop {
            let top = above.last().unwrap_or(&authority);
            let (name, below) = (top.common_name(), above.len());
            if !top.is_ca() {
                return Err(PkiError::Chain(format!("{name:?} is not the certificate of an authority (basicConstraints)")));
            }
            if !top.signs_certificates() {
                return Err(PkiError::Chain(format!("{name:?} is not for signing certificates (keyUsage)")));
            }
            if now < top.not_before() || now >= top.not_after() {
                let (from, to) = (top.not_before(), top.not_after());
                return Err(PkiError::Chain(format!("{name:?} is valid from {from} to {to} only")));
            }
            if top.path_length().is_some_and(|longest| (longest as usize) < below) {
                return Err(PkiError::Chain(format!(
                    "{name:?} allows for fewer authorities below it than the {below} that there are (pathlen)"
                )));
            }
            if top.is_self_signed() {
                break;
            }
            let is_new = |candidate: &&Certificate| **candidate != authority && !above.contains(candidate);
            match candidates.iter().filter(is_new).find(|candidate| top.is_below(candidate)) {
                Some(next) => above.push(next.clone()),
                None => break,
            }
        }
        if authority.subject_key_id().is_none() {
            return Err(PkiError::NotAuthority("its certificate has no subject key identifier"));
        }
        Ok(Self { authority, above })
    }
}

/// Whether what this one has signed can be verified.
fn check_key(authority: &Certificate) -> Result<(), PkiError> {
    let (name, kinds) = (authority.common_name(), "it must be ECDSA P-256 or P-384, Ed25519, or RSA of at least 2048 bits");
    let refused = || PkiError::Chain(format!("the key of {name:?} is of a kind that is not supported: {kinds}"));
    authority.has_known_key().then_some(()).ok_or_else(refused)
}

/// Whether of these certificates the one that should have signed another has a key by which that could be verified.
fn check_keys_above(certificate: &Certificate, candidates: &[Certificate]) -> Result<(), PkiError> {
    candidates.iter().filter(|candidate| certificate.names_as_issuer(candidate)).try_for_each(check_key)
}

/// Of these certificates the one that has signed another; the latest, if it has been renewed.
pub fn above<'a>(certificate: &Certificate, candidates: &'a [Certificate]) -> Option<&'a Certificate> {
    let signed = candidates.iter().filter(|candidate| *candidate != certificate && certificate.is_below(candidate));
    signed.max_by_key(|candidate| candidate.not_after())
}

/// Of the certificates above an authority those that are shown with its leaves, itself first: all but the root, which whoever believes
/// it has. None, if it is a root.
pub fn chain(authority: &Certificate, above: &[Certificate]) -> Vec<Certificate> {
    let mut chain: Vec<Certificate> = vec![];
    let mut top = Some(authority);
    while let Some(certificate) = top.filter(|top| !top.is_self_signed() && !chain.contains(top)) {
        chain.push(certificate.clone());
        top = self::above(certificate, above);
    }
    chain
}

/// Whether somebody who trusts an authority believes a leaf of it in a TLS handshake now: beside the signature by its uses, and by the
/// names that the authority may sign for.
///
/// # Errors
/// What a verifier says.
pub fn verify(leaf: &Certificate, authority: &Certificate, now: Timestamp) -> Result<(), PkiError> {
    let refused = |error: &dyn std::fmt::Display| PkiError::Unbelievable(error.to_string());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.der())).map_err(|e| refused(&e))?;
    let (roots, provider): (_, Arc<CryptoProvider>) = (Arc::new(roots), Arc::new(ring::default_provider()));
    let der = CertificateDer::from(leaf.der());
    let seconds = u64::try_from(now.as_second()).map_err(|_| PkiError::Lifetime)?;
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    if leaf.client_auth() {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
        verifier.map_err(|e| refused(&e))?.verify_client_cert(&der, &[], now).map_err(|e| refused(&e))?;
    }
    // All of its names are looked at for the first of them that can be asked for, which a wildcard cannot.
    let name = leaf.dns_names().iter().find_map(|name| ServerName::try_from(name.as_str()).ok());
    if let Some(name) = name.filter(|_| leaf.server_auth()) {
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build().map_err(|e| refused(&e))?;
        verifier.verify_server_cert(&der, &[], &name, &[], now).map_err(|e| refused(&e))?;
    }
    Ok(())
}
