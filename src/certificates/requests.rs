//! Leaf certificates that have to be issued, and the Secrets that hold them.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    authorities::Authorities,
    leaf::{DesiredLeaf, LeafKeys, SignedBy},
    secret::CachedSecret,
};
use crate::{
    digest::fingerprint,
    names::authority_key,
    pki::{self, Domain, Holder, Issuer, LeafSpec, ReissueReason, Usage},
};

/// A Secret with certificates that has to be created or changed, with its leaves before or after they are issued. Contents that
/// it does not name are not changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretChange<L = LeafRequest> {
    /// Its name.
    pub name: String,
    /// The resourceVersion that the plan has seen; `None` if the Secret does not exist.
    pub version: Option<String>,
    /// Its type.
    pub type_: &'static str,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The leaves.
    pub leaves: Vec<L>,
    /// The public contents to write.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The keys whose contents are removed, private keys among them.
    pub obsolete: Vec<&'static str>,
}

impl SecretChange {
    /// Whether this pass writes a part of it if nothing fails. An external issuer may take any time to sign.
    pub fn is_written_now(&self) -> bool {
        let signed_now = |leaf: &LeafRequest| leaf.signed_now;
        // A Secret is created only with all of its leaves.
        let is_new = self.version.is_none();
        if is_new { self.leaves.iter().all(signed_now) } else { self.has_contents() || self.leaves.iter().any(signed_now) }
    }

    /// Why the leaves are issued: `server.crt, client.crt (is due for renewal)`.
    pub fn describe_leaves(&self) -> String {
        let group = |leaves: &[LeafRequest]| {
            let names: Vec<_> = leaves.iter().map(|leaf| leaf.keys.certificate).collect();
            format!("{} ({})", names.join(", "), leaves[0].why)
        };
        self.leaves.chunk_by(|one, other| one.why == other.why).map(group).collect::<Vec<_>>().join(", ")
    }
}

impl<L> SecretChange<L> {
    /// The same change with other leaves.
    pub fn with_leaves<M>(self, leaves: Vec<M>) -> SecretChange<M> {
        let Self { name, version, type_, labels, files, obsolete, .. } = self;
        SecretChange { name, version, type_, labels, leaves, files, obsolete }
    }

    /// Whether anything besides leaves changes.
    fn has_contents(&self) -> bool {
        !self.files.is_empty() || !self.obsolete.is_empty()
    }

    /// Whether the change can be made although some of its leaves were left out: the Secret exists, and something remains to be
    /// written. Trust bundles and other leaves do not wait for an issuer.
    pub fn can_be_partial(&self) -> bool {
        self.version.is_some() && (self.has_contents() || !self.leaves.is_empty())
    }
}

/// A leaf certificate that has to be issued, with a new private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafRequest {
    /// The domain whose authority signs it.
    pub domain: Domain,
    /// Which of the domain's authorities signs it.
    pub signed_by: SignedBy,
    /// Its contents.
    pub spec: LeafSpec,
    /// Where the Secret holds it.
    pub keys: LeafKeys,
    /// The holder that the ledger records.
    pub holder: Holder,
    /// Why the existing one has to be replaced.
    pub why: ReissueReason,
    /// Whether the operator signs it itself in this pass.
    pub signed_now: bool,
}

impl LeafRequest {
    /// What kind of leaf it is, for metrics.
    pub fn kind(&self) -> &'static str {
        match (&self.holder, self.spec.usage) {
            (Holder::Operator, _) => "operator",
            (Holder::User { .. }, _) => "user",
            (Holder::Member { .. }, Usage::Server) => "server",
            (Holder::Member { .. }, Usage::Both) => "peer",
            (Holder::Member { .. }, Usage::Client) => "member",
        }
    }
}

/// The key of the Secret of a domain's authorities under which the private key of a leaf is kept until its issuer has signed it.
/// `certificate` is the key of the leaf in its own Secret.
pub fn pending_key(holder: &Holder, certificate: &str) -> String {
    authority_key::pending(&fingerprint([(certificate, holder_text(holder).as_bytes())].into_iter()))
}

/// The text of a holder. Names of pending keys are digests of it and are persisted, so the text must never change. No name and no uid has
/// a character that would have to be escaped.
fn holder_text(holder: &Holder) -> String {
    match holder {
        Holder::Operator => "Operator".to_owned(),
        Holder::Member { name } => format!("Member {{ name: \"{name}\" }}"),
        Holder::User { name, uid } => format!("User {{ name: \"{name}\", uid: \"{uid}\" }}"),
    }
}

/// A leaf certificate that was issued for a request.
pub struct IssuedLeaf {
    /// The request.
    pub request: LeafRequest,
    /// The certificate with its private key.
    pub leaf: pki::Leaf,
}

/// The request for a leaf, if the one in the Secret has to be replaced and the authority can sign.
pub fn request_leaf(
    secret: Option<&CachedSecret>,
    desired: &DesiredLeaf,
    holder: &Holder,
    authorities: &Authorities,
    now: Timestamp,
) -> Option<LeafRequest> {
    let DesiredLeaf { domain, signed_by, spec, keys } = desired;
    if !authorities.can_sign_as(*signed_by, now) {
        return None;
    }
    let signing = authorities.signing(*signed_by);
    let spec = spec.within(pki::path(signing.authority, &authorities.ancestors));
    let certificate = secret.and_then(|secret| secret.certificate(keys.certificate));
    let key = secret.and_then(|secret| secret.key_digest(keys.private_key));
    let ledger = &authorities.ledger;
    let why = match &certificate {
        // A member that was removed and added again under the same name.
        Some(Ok(leaf)) if ledger.is_revoked(leaf.serial()) => ReissueReason::Revoked,
        // It would be revoked together with that of its other holder. External issuers may reuse serials of earlier issuers.
        Some(Ok(leaf)) if signing.issuer.has_key() && ledger.holder(leaf.serial()).is_some_and(|other| other != holder) => {
            ReissueReason::Holder
        }
        _ => {
            let jitter = secret.map(CachedSecret::jitter).unwrap_or_default();
            let read = certificate.as_ref().map(Result::as_ref);
            let has_chain = || secret.is_some_and(|secret| secret.is_presented_with(keys.certificate, signing.chain));
            pki::reissue_reason(read, key, &spec, signing.authority, !signing.issuer.has_key(), jitter, now)
                .or_else(|| (!has_chain()).then_some(ReissueReason::Chain))?
        }
    };
    // Any other issuer may refuse to sign.
    let signed_now = *signing.issuer == Issuer::BuiltIn;
    let (domain, signed_by) = (*domain, *signed_by);
    Some(LeafRequest { domain, signed_by, spec, keys: *keys, holder: holder.clone(), why, signed_now })
}

/// The public contents of a Secret that differ from the desired ones.
pub fn changed_files<'a>(
    secret: Option<&CachedSecret>,
    desired: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> BTreeMap<String, Vec<u8>> {
    let existing = |key: &str| secret.and_then(|secret| secret.data.get(key)).map(Vec::as_slice);
    desired
        .into_iter()
        .filter(|(key, content)| existing(key) != Some(content))
        .map(|(key, content)| (key.to_owned(), content.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pending_keys_never_change() {
        let name = |certificate, holder: Holder| pending_key(&holder, certificate);
        assert_eq!(name("server.crt", Holder::Member { name: "demo-0".into() }), "pending-bd1ae5522b55eedf.key");
        assert_eq!(name("tls.crt", Holder::Operator), "pending-ce698ea23185ae7a.key");
        let user = Holder::User { name: "app".into(), uid: "9c0e2f1a-0000".into() };
        assert_eq!(holder_text(&user), "User { name: \"app\", uid: \"9c0e2f1a-0000\" }");
        assert_eq!(name("tls.crt", user), "pending-18951bb104753d95.key");
    }
}
