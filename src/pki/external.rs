//! Authorities of external issuers, and whether they can be used.

use jiff::Timestamp;

use super::{
    acceptance::judge,
    authority::LeafSpec,
    certificate::{Certificate, read_bundle},
    domain::Domain,
    error::PkiError,
};

/// The certificates of an external authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAuthority {
    /// The certificate of the authority that signs. Members trust only this authority, and not others with the same root.
    pub authority: Certificate,
    /// Its ancestors, each signed by the next one, up to the root. They are in the trust bundle of clients, because OpenSSL
    /// verifies up to a root.
    pub ancestors: Vec<Certificate>,
}

impl ExternalAuthority {
    /// The authority in a Secret. `certificates` holds its certificate and optionally those of ancestors, `roots` (`ca.crt`)
    /// further ancestors.
    ///
    /// # Errors
    /// If a certificate is unreadable or has expired, or the authority may not sign, or its root is missing.
    pub fn of_secret(certificates: &[u8], roots: &[u8], now: Timestamp) -> Result<Self, PkiError> {
        let read = |file: &str, text: &[u8]| {
            let hint = "it must hold CERTIFICATE blocks and nothing else, as openssl x509 writes them without -text";
            read_bundle(text).map_err(|problem| PkiError::Chain(format!("{file}: {problem}; {hint}")))
        };
        let mut certificates = read("tls.crt", certificates)?.into_iter();
        let authority = certificates.next().ok_or_else(|| PkiError::Chain("there is no certificate".into()))?;
        check_key(&authority)?;
        let candidates: Vec<_> = certificates.chain(read("ca.crt", roots)?).collect();
        let external = Self::with_ancestors(authority, &candidates, now)?;
        let top = external.ancestors.last().unwrap_or(&external.authority);
        if !top.is_self_signed() {
            check_issuer_keys(top, &candidates)?;
            let name = top.common_name();
            return Err(PkiError::Chain(format!("ca.crt does not hold the certificate of the CA that signed {name:?}")));
        }
        Ok(external)
    }

    /// The leaf in an issuer's answer to a certificate request, and the authority that signed it. `certificates` holds the leaf
    /// and further certificates; one of those or of `roots` has signed the leaf.
    ///
    /// # Errors
    /// Those of [`ExternalAuthority::of_secret`], except that the root may be missing.
    pub fn of_answer(certificates: &[u8], roots: &[u8], now: Timestamp) -> Result<(Certificate, Self), PkiError> {
        let mut certificates = read_bundle(certificates)?.into_iter();
        let leaf = certificates.next().ok_or_else(|| PkiError::Chain("there is no certificate".into()))?;
        let candidates: Vec<_> = certificates.chain(read_bundle(roots)?).collect();
        let Some(authority) = candidates.iter().find(|candidate| leaf.is_below(candidate)) else {
            check_issuer_keys(&leaf, &candidates)?;
            return Err(PkiError::Chain("the certificate of the CA that signed did not come with the answer".into()));
        };
        Ok((leaf, Self::with_ancestors(authority.clone(), &candidates, now)?))
    }

    /// An authority and its ancestors, as far as they are among the candidates.
    fn with_ancestors(authority: Certificate, candidates: &[Certificate], now: Timestamp) -> Result<Self, PkiError> {
        let mut ancestors: Vec<Certificate> = vec![];
        loop {
            let top = ancestors.last().unwrap_or(&authority);
            check_authority(top, ancestors.len(), now)?;
            if top.is_self_signed() {
                break;
            }
            let is_new = |candidate: &&Certificate| **candidate != authority && !ancestors.contains(candidate);
            match candidates.iter().filter(is_new).find(|candidate| top.is_below(candidate)) {
                Some(next) => ancestors.push(next.clone()),
                None => break,
            }
        }
        if authority.subject_key_id().is_none() {
            return Err(PkiError::NotAuthority("its certificate has no subject key identifier"));
        }
        Ok(Self { authority, ancestors })
    }
}

impl ExternalAuthority {
    /// The authority and its ancestors, each signed by the next one.
    pub fn path(&self) -> impl Iterator<Item = &Certificate> {
        [&self.authority].into_iter().chain(&self.ancestors)
    }

    /// Checks that all who verify will accept what the authority signs for the names of this leaf.
    ///
    /// # Errors
    /// [`PkiError::Refused`].
    pub fn check(&self, domain: Domain, leaf: &LeafSpec, now: Timestamp) -> Result<(), PkiError> {
        judge(self.path(), domain, leaf, now)
    }
}

/// Checks that an authority may sign now, with this many authorities between it and the leaf.
fn check_authority(authority: &Certificate, below: usize, now: Timestamp) -> Result<(), PkiError> {
    let name = authority.common_name();
    if !authority.is_ca() {
        return Err(PkiError::Chain(format!("{name:?} is not a CA certificate (basicConstraints)")));
    }
    if !authority.signs_certificates() {
        return Err(PkiError::Chain(format!("{name:?} may not sign certificates (keyUsage)")));
    }
    if authority.check_valid_authority(now).is_err() {
        let (from, to) = (authority.not_before(), authority.not_after());
        return Err(PkiError::Chain(format!("{name:?} is valid from {from} to {to} only")));
    }
    if authority.path_length().is_some_and(|longest| (longest as usize) < below) {
        return Err(PkiError::Chain(format!("{name:?} allows fewer CAs below it than the {below} of the chain (pathlen)")));
    }
    Ok(())
}

/// Checks that signatures of an authority can be verified.
fn check_key(authority: &Certificate) -> Result<(), PkiError> {
    let (name, kinds) = (authority.common_name(), "it must be ECDSA P-256 or P-384, Ed25519, or RSA of at least 2048 bits");
    let refused = || PkiError::Chain(format!("the key of {name:?} is of a kind that is not supported: {kinds}"));
    authority.has_supported_key().then_some(()).ok_or_else(refused)
}

/// Checks that signatures can be verified with the keys of the candidates that a certificate names as its issuer.
fn check_issuer_keys(certificate: &Certificate, candidates: &[Certificate]) -> Result<(), PkiError> {
    candidates.iter().filter(|candidate| certificate.names_as_issuer(candidate)).try_for_each(check_key)
}
