//! Replaces certificate authorities by their successors: on schedule, or in the phases of a requested rotation.
//!
//! etcd reads its trust bundles only when it starts, so a member trusts the authorities that were in the bundles when its pod was
//! created. An authority signs only once every member has started with it in the bundles, and it is removed only once no member
//! presents a leaf that it signed.

use jiff::{SignedDuration, Timestamp};

use super::{
    changes::{Changes, CompletedRequest, RequestEvent, SOON},
    input::Input,
    issuers, reconnect,
    trial::{self, Verdict},
};
use crate::{
    api::{ConditionType, Reason},
    certificates::{
        authorities::Authorities,
        secret::{CachedSecret, leaf_keys},
        state::{AuthorityState, matches_status},
        transition::{Change, Salvage, Transition},
    },
    cluster::{
        facts::trust::{TrustRequirement, trusted_by},
        observed::ObservedMember,
        steps::ChangeAuthorities,
    },
    digest::is_hex,
    kubernetes::ownership::{annotation, belongs},
    names::{annotation as key, member_key, tls_key},
    pki::{Certificate, Domain, Phase, Rotation, crl_serials, read_bundle, rotation},
    reporting::note::Note,
};

/// How long clients have to read their Secrets before they need the contents: the kubelet refreshes files within about 90 s.
const CLIENT_REFRESH: SignedDuration = SignedDuration::from_mins(2);

/// The next transition of authorities, and notes about it.
pub fn plan(input: &Input) -> Changes {
    let mut changes = requests(input);
    let transitions = Domain::ALL.map(|domain| {
        let (transition, contribution) = transition(input, domain);
        changes.merge(contribution);
        transition
    });
    let first = transitions.into_iter().flatten().next();
    Changes { step: first.map(|transition| ChangeAuthorities(Box::new(transition)).into()), ..changes }
}

/// Whether a requested rotation begins now: none is in progress, or its next authority is refused and another one is needed.
fn may_begin(input: &Input, domain: Domain, authorities: &Authorities) -> bool {
    authorities.rotation.is_none() || trial::is_refused(input, domain, authorities)
}

/// A request to rotate the authorities of a domain is complete once the rotation has started, so that it does not start again.
fn requests(input: &Input) -> Changes {
    let requests = &input.cluster.requests;
    let mut changes = Changes::default();
    if !requests.rotate_unknown.is_empty() {
        let unknown = requests.rotate_unknown.join(", ");
        let message =
            format!("annotation {} names {unknown}: it must be client, peer, or client,peer; nothing is rotated", key::ROTATE_CA);
        changes = changes.problem(Reason::InvalidRotationRequest, message);
    }
    let is_rotating = |domain: &Domain| {
        input.facts.authorities.state[*domain].ready().is_some_and(|authorities| !may_begin(input, *domain, authorities))
    };
    let (started, pending): (Vec<_>, Vec<_>) = requests.rotate.iter().partition(|domain| is_rotating(domain));
    if !started.is_empty() {
        let remaining = requests.rotations(&pending);
        let message = "a rotation that was requested has started; see status.certificates";
        let event = Some(RequestEvent::Accepted(Note::new(Reason::RotationStarted, message)));
        let requests = started.into_iter().map(|domain| requests.rotation(*domain)).collect();
        changes.completed.push(CompletedRequest { annotation: key::ROTATE_CA, remaining, event, requests });
    }
    changes
}

fn transition(input: &Input, domain: Domain) -> (Option<Transition>, Changes) {
    let is_requested = input.cluster.requests.rotate.contains(&domain);
    let authorities = match &input.facts.authorities.state[domain] {
        AuthorityState::Ready(authorities) => authorities,
        AuthorityState::Lost(_) if is_requested => return replace_lost(input, domain),
        AuthorityState::Absent | AuthorityState::Lost(_) => return (None, Changes::default()),
    };
    let next = |later: u32| generation(input, domain, authorities.trusted()) + later;
    let (change, changes) = if input.now >= authorities.active.not_after() {
        // Members that started without the next authority no longer trust any, and are restarted.
        if input.now < authorities.next.not_after() {
            let next = input.cluster.built_in_authority(domain, next(1));
            (Some(Change::Switch { next, immediately: true }), Changes::default())
        } else {
            let (source, changes) = issuers::successor(input, domain, Some(authorities), true);
            let renew = source.map(|source| {
                let [active, next] = [next(1), next(2)].map(|generation| source.authority(input, domain, generation));
                Change::Renew { active, next }
            });
            (renew, changes)
        }
    } else {
        // The issuer, or its authority, may change at any moment of a rotation: then the rotation starts again, from the
        // authorities that are trusted by then.
        let is_required = is_requested && may_begin(input, domain, authorities);
        let (source, mut changes) = issuers::successor(input, domain, Some(authorities), is_required);
        let change = if let Some(source) = source {
            // A member that tried a refused authority gets a leaf of the active one, unless its issuer signs with another by now.
            let is_taken_back = trial::is_refused(input, domain, authorities) && authorities.can_sign(input.now);
            let keeps = !is_taken_back && trial::is_presented(input, authorities);
            Some(Change::Prepare { next: source.authority(input, domain, next(1)), keeps, salvage: None })
        } else if reconnect::is_due(input, domain, authorities) {
            Some(Change::Replace { next: input.cluster.built_in_authority(domain, next(1)) })
        } else if let Some(rotation) = authorities.rotation {
            let (change, contribution) = phase(input, domain, authorities, rotation, next(1));
            changes.merge(contribution);
            change
        } else {
            scheduled(input, domain, authorities, || next(1))
        };
        (change, changes)
    };
    // The previous transition must be in the status before the next one begins.
    let is_reported = input.observed.reported_domain(domain).is_some_and(|reported| matches_status(authorities, reported));
    let transition = change.filter(|_| is_reported).map(|change| Transition {
        domain,
        secret: input.facts.names.authority(domain),
        seen: Some([&authorities.active, &authorities.next].map(|authority| authority.fingerprint().to_owned())),
        change,
    });
    (transition, changes)
}

/// The scheduled switch to the next authority: once it is due, and every running member trusts the next authority.
fn scheduled(input: &Input, domain: Domain, authorities: &Authorities, generation: impl FnOnce() -> u32) -> Option<Change> {
    // The authority of an external issuer has no scheduled successor.
    if authorities.next == authorities.active {
        return None;
    }
    let is_due = input.now >= rotation::succeeds_at(&authorities.active, &authorities.next, input.cluster.lifetimes[domain].leaf);
    let mut pods = input.observed.members.values().filter_map(|member| member.pod.as_ref());
    let mut is_trusted = || pods.all(|pod| trusted_by(&pod.metadata, domain).any(|name| name == authorities.next.fingerprint()));
    let switch = || Change::Switch { next: input.cluster.built_in_authority(domain, generation()), immediately: false };
    (is_due && is_trusted()).then(switch)
}

/// The transition that ends a phase of a rotation, unless something is missing, and notes about the progress of the phase.
fn phase(
    input: &Input,
    domain: Domain,
    authorities: &Authorities,
    rotation: Rotation,
    generation: u32,
) -> (Option<Change>, Changes) {
    let (mut missing, change, doing) = match rotation.phase {
        Phase::Distributing => (
            lacking_trust(input, authorities, domain),
            Change::Switch { next: input.cluster.built_in_authority(domain, generation), immediately: false },
            "members are restarted one by one to trust the new CA before it signs",
        ),
        Phase::Reissuing => (
            lacking_leaves(input, authorities, domain),
            Change::Drop,
            "certificates signed by the new CA replace those of the previous one",
        ),
        Phase::Dropping => (
            not_restarted(input, &TrustRequirement::only_current(authorities, domain)),
            Change::Finish,
            "members are restarted one by one to stop trusting the previous CA",
        ),
    };
    let mut changes = Changes::default().check_within(SOON);
    match trial::verdict(input, domain, authorities) {
        Verdict::Accepted => {}
        Verdict::Pending(what) => missing.push(what),
        Verdict::Refused(note) => {
            missing
                .push(format!("a CA whose certificates the members accept; see {}", ConditionType::CertificatesReady.as_str()));
            changes.certificates.push(note.clone());
            changes.problems.push(note);
        }
        Verdict::NotStarting(note) => {
            missing.push(format!("a CA with which members start; see {}", ConditionType::Degraded.as_str()));
            changes.problems.push(note);
        }
    }
    let suffix = if missing.is_empty() { String::new() } else { format!("; waiting for: {}", missing.join(", ")) };
    let (name, since) = (rotation.phase.as_str(), rotation.since);
    let message = format!("the {domain} CA is being rotated, {name} since {since:.0}: {doing}{suffix}");
    let changes = changes.progress(Reason::RotatingCA, message);
    (missing.is_empty().then_some(change), changes)
}

/// The highest generation of the built-in authorities among these, according to their names.
fn generation<'a>(input: &Input, domain: Domain, authorities: impl Iterator<Item = &'a Certificate>) -> u32 {
    let number = |authority: &Certificate| {
        let number = generation_of(authority.common_name())?;
        (input.cluster.authority_name(domain, number) == authority.common_name()).then_some(number)
    };
    authorities.filter_map(number).max().unwrap_or_default()
}

fn generation_of(name: &str) -> Option<u32> {
    name.rsplit(' ').next()?.parse().ok()
}

/// The rotation that replaces lost authorities. Members keep trusting the previous ones until they trust a new one.
fn replace_lost(input: &Input, domain: Domain) -> (Option<Transition>, Changes) {
    let secret = input.facts.names.authority(domain);
    let cannot = |why: &str| {
        let message = format!("the {domain} CA cannot be rotated: {why}");
        (None, Changes::default().problem(Reason::CannotRotate, message))
    };
    let existing = input.observed.authorities[domain].as_ref();
    if existing.is_some_and(|existing| !belongs(&existing.meta, input.facts.uid)) {
        return cannot(&format!("Secret {secret} does not belong to this cluster. Remove it first"));
    }
    let Some(reported) = input.observed.reported_domain(domain) else {
        return cannot("the status does not say which CA was in use");
    };
    let version = existing.and_then(|existing| existing.meta.resource_version.clone());
    let salvaged = input.observed.members.values().find_map(|member| salvage(member, domain, &reported.active.key_id));
    let Some((active, others, crl)) = salvaged else {
        return cannot("no member's Secret has the certificate of the CA that was in use");
    };
    let (source, changes) = issuers::successor(input, domain, None, true);
    let latest = [&reported.active, &reported.next].into_iter().filter_map(|authority| generation_of(&authority.name)).max();
    let transition = source.map(|source| {
        let next = source.authority(input, domain, latest.unwrap_or_default() + 1);
        let salvage = Some(Salvage { version, active, others, crl });
        Transition { domain, secret, seen: None, change: Change::Prepare { next, keeps: false, salvage } }
    });
    (transition, changes)
}

/// The authorities and the revocation list of a domain in a member's Secret: the authority with this key identifier, all others,
/// and the list.
fn salvage(member: &ObservedMember, domain: Domain, key_id: &str) -> Option<(Certificate, Vec<Certificate>, Vec<u8>)> {
    let (bundle, crl) = match domain {
        Domain::Client => (member_key::CLIENT_CA, member_key::CLIENT_CRL),
        Domain::Peer => (member_key::PEER_CA, member_key::PEER_CRL),
    };
    let secret = member.secret.as_ref()?;
    let is_active = |authority: &Certificate| authority.subject_key_id().is_some_and(|id| is_hex(key_id, id));
    let (active, others): (Vec<_>, Vec<_>) = read_bundle(secret.data.get(bundle)?).ok()?.into_iter().partition(is_active);
    let crl = secret.data.get(crl).filter(|crl| crl_serials(crl).is_ok())?.clone();
    Some((active.into_iter().next()?, others, crl))
}

/// Members and users that do not trust the next authority yet.
fn lacking_trust(input: &Input, authorities: &Authorities, domain: Domain) -> Vec<String> {
    let mut missing =
        if trial::is_unused(input) { vec![] } else { not_restarted(input, &TrustRequirement::next(authorities, domain)) };
    if domain == Domain::Client {
        let bundle = authorities.roots.as_bytes();
        let has_bundle = |secret: &CachedSecret| secret.data.get(tls_key::CA).is_some_and(|existing| existing == bundle);
        missing.extend(clients(input, authorities, has_bundle));
    }
    missing
}

/// Members and users that do not present a certificate of the active authority yet.
fn lacking_leaves(input: &Input, authorities: &Authorities, domain: Domain) -> Vec<String> {
    let is_current = |secret: &CachedSecret, key: &str| {
        secret.certificate(key).and_then(Result::ok).is_some_and(|leaf| leaf.is_signed_by(&authorities.active))
    };
    let presents_current = |member: &ObservedMember| {
        let (Some(secret), Some(pod)) = (&member.secret, &member.pod) else { return false };
        let is_confirmed = annotation(&pod.metadata, key::TLS_CONFIRMED) == Some(secret.fingerprint());
        is_confirmed && leaf_keys(domain).iter().all(|key| is_current(secret, key))
    };
    let mut missing = members_failing(input, presents_current);
    if domain == Domain::Client {
        let operator = input.observed.operator.as_ref().is_some_and(|secret| is_current(secret, tls_key::CRT));
        missing.extend((!operator).then(|| "the operator".to_owned()));
        missing.extend(clients(input, authorities, |secret| is_current(secret, tls_key::CRT)));
    }
    missing
}

/// Members that are not healthy or do not have the required trust.
fn not_restarted(input: &Input, requirement: &TrustRequirement) -> Vec<String> {
    members_failing(input, |member| member.is_healthy() && member.pod.as_ref().is_some_and(|pod| requirement.is_met(pod)))
}

/// The members in etcd's list that do not satisfy a predicate.
fn members_failing(input: &Input, predicate: impl Fn(&ObservedMember) -> bool) -> Vec<String> {
    let Some(roster) = &input.facts.roster else { return vec!["a quorum".into()] };
    let listed = roster.voters.iter().chain(&roster.learners);
    listed.filter(|(_, entry)| !predicate(entry.member)).map(|(name, _)| name.to_string()).collect()
}

/// Users whose Secrets do not satisfy a predicate, or were written too recently to have been read. While other clients are given
/// time to read theirs, that is included too.
fn clients(input: &Input, authorities: &Authorities, predicate: impl Fn(&CachedSecret) -> bool) -> Vec<String> {
    let started = authorities.rotation.map_or(input.now, |rotation| rotation.since);
    let until = |since: Timestamp| since.checked_add(CLIENT_REFRESH).unwrap_or(Timestamp::MAX);
    let written =
        |secret: &CachedSecret| annotation(&secret.meta, key::WRITTEN_AT).and_then(|at| at.parse().ok()).unwrap_or(started);
    let users = input.observed.user_secrets.iter();
    let users = users.filter(|(_, secret)| !predicate(secret) || input.now < until(written(secret)));
    let mut missing: Vec<_> = users.map(|(name, _)| format!("EtcdUser {name}")).collect();
    if input.now < until(started) {
        missing.push(format!("clients to reload their Secrets, until {:.0}", until(started)));
    }
    missing
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
pub(super) mod tests;
