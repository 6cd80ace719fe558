//! The certificates above an authority, up to its root.

use super::certificate::Certificate;

/// The certificate among the candidates that signed this one. If it was renewed, the one that expires last.
pub fn parent<'a>(certificate: &Certificate, candidates: &'a [Certificate]) -> Option<&'a Certificate> {
    let signed = candidates.iter().filter(|candidate| *candidate != certificate && certificate.may_be_below(candidate));
    signed.max_by_key(|candidate| candidate.not_after())
}

/// The intermediate certificates that are presented with the leaves of an authority: its own first, then those of its ancestors
/// except the root, which verifiers have. It is empty if the authority is a root.
pub fn presented_chain(authority: &Certificate, ancestors: &[Certificate]) -> Vec<Certificate> {
    let mut chain: Vec<Certificate> = vec![];
    let mut top = Some(authority);
    while let Some(certificate) = top.filter(|top| !top.is_self_signed() && !chain.contains(top)) {
        chain.push(certificate.clone());
        top = parent(certificate, ancestors);
    }
    chain
}
