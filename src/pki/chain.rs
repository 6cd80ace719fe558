//! The certificates above an authority, up to its root.

use super::certificate::Certificate;

/// The certificate among the candidates that signed this one. If it was renewed, the one that expires last.
pub fn parent<'a>(certificate: &Certificate, candidates: &'a [Certificate]) -> Option<&'a Certificate> {
    let signed = candidates.iter().filter(|candidate| *candidate != certificate && certificate.may_be_below(candidate));
    signed.max_by_key(|candidate| candidate.not_after())
}

/// An authority and those above it among its ancestors, each signed by the next one.
pub fn path<'a>(authority: &'a Certificate, ancestors: &'a [Certificate]) -> Vec<&'a Certificate> {
    let mut path = vec![];
    let mut top = Some(authority);
    while let Some(certificate) = top.filter(|top| !path.contains(top)) {
        path.push(certificate);
        top = parent(certificate, ancestors).filter(|_| !certificate.is_self_signed());
    }
    path
}

/// The certificates of a trust bundle in their order, except that of several with one name and key, as of a renewed root, the one that
/// expires last comes first. Clients with gRPC's C core, such as Python's, look at the first of them only, even if it has expired
/// (grpcio 1.85.3: `findings/grpc-core-needs-the-valid-root-first.sh`).
pub fn renewed_first<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> Vec<&'a Certificate> {
    let mut ordered: Vec<&Certificate> = vec![];
    for certificate in certificates {
        let is_older = |other: &&Certificate| certificate.not_after() > other.not_after() && certificate.is_same_authority(other);
        let at = ordered.iter().position(is_older).unwrap_or(ordered.len());
        ordered.insert(at, certificate);
    }
    ordered
}

/// The intermediate certificates that are presented with the leaves of an authority: its own first, then those of its ancestors
/// except the root, which verifiers have. It is empty if the authority is a root.
pub fn presented_chain(authority: &Certificate, ancestors: &[Certificate]) -> Vec<Certificate> {
    path(authority, ancestors).into_iter().filter(|certificate| !certificate.is_self_signed()).cloned().collect()
}
