//! Plans which authorities and leaf certificates are issued, and which trust bundles and revocation lists are written.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use jiff::Timestamp;

use super::{changes::Changes, expiry, input::Input, issuers, start::StartStates, trial};
use crate::{
    api::Reason,
    certificates::{
        authorities::Authorities,
        leaf::{DesiredLeaf, SignedBy},
        requests::{SecretChange, changed_files, request_leaf},
        secret::{CachedSecret, Current},
        state::AuthorityState,
        transition::AuthorityRequest,
    },
    cluster::{leaves, objects},
    kubernetes::ownership::belongs,
    names::{MemberName, annotation as key, label, member_key, tls_key},
    pki::{self, Domain, Holder, Issuer, PerDomain},
};

/// Plans authorities, leaves, trust bundles and revocation lists.
pub fn plan(input: &Input, members: &StartStates) -> Changes {
    let mut changes = Changes::default();
    for domain in Domain::ALL {
        changes.merge(authorities(input, domain));
        let existing = input.observed.authorities[domain].as_ref().filter(|secret| belongs(&secret.meta, input.facts.uid));
        let is_due = existing.is_some_and(|secret| objects::is_retention_outdated(input.cluster, &secret.meta));
        changes.retention.extend(is_due.then_some(domain));
    }
    let ready = input.facts.authorities.state.as_ref().map(AuthorityState::ready);
    if let Some(client) = ready.client {
        let build = || objects::ca_config(input.cluster, client.roots.clone());
        changes.objects.extend(input.desired.unless_applied(client.roots.as_str(), build, input.observed.ca_config.as_ref()));
        changes.extend(operator_secret(input, ready));
    }
    changes.remarks = issuers::remarks(input);
    let candidate = ready.peer.and_then(|peer| trial::candidate(input, peer));
    let peer = |name| if candidate == Some(name) { SignedBy::Next } else { SignedBy::Active };
    changes.extend(members.keys().filter_map(|name| member_secret(input, name, peer(name), ready)));
    changes
}

/// Creates the authorities of a domain if they never existed, and reports problems of existing ones.
fn authorities(input: &Input, domain: Domain) -> Changes {
    match &input.facts.authorities.state[domain] {
        AuthorityState::Absent => {
            let (source, mut changes) = issuers::successor(input, domain, None, false);
            if let Some(source) = source {
                let secret = input.facts.names.authority(domain);
                let [active, next] = [1, 2].map(|generation| source.authority(input, domain, generation));
                changes.authorities.push(AuthorityRequest { domain, secret, active, next });
                changes = changes.certificate(Reason::Issuing, format!("creating the {domain} CAs"));
            }
            changes
        }
        AuthorityState::Lost(problem) => Changes::lost(format!(
            "{problem}. No certificate of the {domain} domain can be issued; existing ones are valid until they expire. Restore the \
             Secret from a backup, or set annotation {}={domain} to replace the CA",
            key::ROTATE_CA
        )),
        AuthorityState::Ready(authorities) if authorities.active.not_after() <= input.now => expired(domain, authorities),
        AuthorityState::Ready(authorities) if !authorities.has_key() => Changes::lost(format!(
            "the {domain} CA is lost, and no certificates are issued until it has been replaced; see Progressing"
        )),
        AuthorityState::Ready(authorities) => expiry::plan(input, domain, authorities),
    }
}

fn expired(domain: Domain, authorities: &Authorities) -> Changes {
    let (name, end) = (authorities.active.common_name(), authorities.active.not_after());
    match &authorities.issuers.next {
        Issuer::BuiltIn => {
            let message = format!("the {domain} CA {name:?} expired at {end}; it is being replaced");
            Changes::default().certificate(Reason::CAExpired, message)
        }
        issuer => {
            let message = format!(
                "the {domain} CA {name:?} expired at {end}, and its certificates are no longer accepted. Give {issuer} a new CA"
            );
            Changes::default().certificate(Reason::CAExpired, message.clone()).problem(Reason::CAExpired, message)
        }
    }
}

/// The authorities of both domains, as far as they are usable.
type Ready<'a> = PerDomain<Option<&'a Arc<Authorities>>>;

/// The desired Secret, without its leaves.
struct Template<'a> {
    name: String,
    type_: &'static str,
    labels: BTreeMap<String, String>,
    holder: Holder,
    /// Its public contents besides the leaves.
    files: Vec<(&'static str, &'a [u8])>,
    /// The keys that it no longer has.
    obsolete: &'static [&'static str],
}

fn member_secret(input: &Input, name: &MemberName, peer: SignedBy, ready: Ready<'_>) -> Option<Changes> {
    let names = input.facts.names;
    let secret = input.observed.members.get(name).and_then(|member| member.secret.as_ref());
    let leaves = input.desired.get(&(name.clone(), peer), || leaves::of_member(input.cluster, name, peer));
    let template = || {
        let client = ready
            .client
            .map(|client| [(member_key::CLIENT_CA, client.bundle.as_bytes()), (member_key::CLIENT_CRL, client.crl.as_slice())]);
        let peer =
            ready.peer.map(|peer| [(member_key::PEER_CA, peer.bundle.as_bytes()), (member_key::PEER_CRL, peer.crl.as_slice())]);
        Template {
            name: names.member_secret(name),
            type_: "Opaque",
            labels: label::of_member(names.cluster(), name),
            holder: Holder::Member { name: name.to_string() },
            files: client.into_iter().chain(peer).flatten().collect(),
            obsolete: &[],
        }
    };
    secret_change(input, secret, leaves, ready, template)
}

fn operator_secret(input: &Input, ready: Ready<'_>) -> Option<Changes> {
    let names = input.facts.names;
    let trial = ready.client.is_some_and(|client| trial::is_due(client));
    let leaves = input.desired.get(&trial, || leaves::of_operator(input.cluster, trial));
    let template = || Template {
        name: names.operator_secret(),
        type_: "kubernetes.io/tls",
        labels: label::of_cluster(names.cluster()),
        holder: Holder::Operator,
        files: ready.client.map(|client| (tls_key::CA, client.roots.as_bytes())).into_iter().collect(),
        obsolete: if trial { &[] } else { &[tls_key::NEXT_CRT, tls_key::NEXT_KEY] },
    };
    secret_change(input, input.observed.operator.as_ref(), leaves, ready, template)
}

/// What has to be written into a Secret, if anything.
fn secret_change<'a>(
    input: &Input,
    secret: Option<&CachedSecret>,
    leaves: Arc<Vec<DesiredLeaf>>,
    ready: Ready<'a>,
    template: impl FnOnce() -> Template<'a>,
) -> Option<Changes> {
    let now = input.now;
    if secret.is_some_and(|secret| !belongs(&secret.meta, input.facts.uid)) {
        return None;
    }
    let both = secret.zip(ready.both());
    if both.is_some_and(|(secret, authorities)| secret.is_current(&leaves, authorities, now)) {
        return None;
    }
    // A Secret is created with all of its leaves or not at all: a pod must not start with only some of them.
    let can_sign =
        |leaf: &DesiredLeaf| ready[leaf.domain].is_some_and(|authorities| authorities.can_sign_as(leaf.signed_by, now));
    if secret.is_none() && !leaves.iter().all(can_sign) {
        return None;
    }
    let Template { name, type_, labels, holder, files, obsolete } = template();
    let request = |leaf: &DesiredLeaf| request_leaf(secret, leaf, &holder, ready[leaf.domain]?, now);
    let requests: Vec<_> = leaves.iter().filter_map(request).collect();
    let files = changed_files(secret, files);
    let exists = |key: &&str| secret.is_some_and(|secret| secret.data.contains_key(*key));
    let obsolete: Vec<_> = obsolete.iter().copied().filter(exists).collect();
    if requests.is_empty() && files.is_empty() && obsolete.is_empty() {
        if let Some((secret, authorities)) = both {
            keep_current(secret, leaves, authorities, now);
        }
        return None;
    }
    let version = secret.and_then(|secret| secret.meta.resource_version.clone());
    let change = SecretChange { name, version, type_, labels, leaves: requests, files, obsolete };
    let mut changes = Changes::default();
    if !change.leaves.is_empty() {
        // An external issuer may take any time, and must not keep members from being restarted.
        let is_signed_now = change.leaves.iter().any(|leaf| leaf.signed_now);
        let reason = if is_signed_now { Reason::Issuing } else { Reason::RequestingCertificates };
        let message = format!("issuing certificates in Secret {}: {}", change.name, change.describe_leaves());
        changes = changes.certificate(reason, message);
    }
    changes.secrets.push(change);
    Some(changes)
}

/// Caches that a Secret is up to date, and for how long, because that is what most passes find.
fn keep_current(secret: &CachedSecret, leaves: Arc<Vec<DesiredLeaf>>, authorities: PerDomain<&Arc<Authorities>>, now: Timestamp) {
    let window = |leaf: &DesiredLeaf| {
        let issuer = authorities[leaf.domain].signing(leaf.signed_by).authority;
        let certificate = secret.certificate(leaf.keys.certificate)?.ok()?;
        let window = pki::current_window(&certificate, leaf.spec.duration, issuer, secret.jitter());
        Some(window.start.max(issuer.not_before())..window.end.min(issuer.not_after()))
    };
    let shorter = |one: Range<Timestamp>, other: Range<Timestamp>| one.start.max(other.start)..one.end.min(other.end);
    let during = leaves.iter().map(window).reduce(|one, other| one.zip(other).map(|(one, other)| shorter(one, other))).flatten();
    // Nothing is cached while an authority cannot sign.
    if let Some(during) = during.filter(|during| during.contains(&now)) {
        secret.set_current(Current { leaves, authorities: authorities.map(Arc::clone), during });
    }
}

#[cfg(test)]
#[path = "certificates_tests.rs"]
mod tests;
