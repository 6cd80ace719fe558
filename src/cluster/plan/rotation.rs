//! One authority after the other: the scheduled succession, and the rotation that somebody asks for.
//!
//! etcd reads its bundles only when it starts, so whom a member trusts is what its pod was made with. An authority signs only
//! when every member has started with it in its bundle, and is taken out only when nobody shows a leaf of it any more.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{apps::v1::StatefulSet, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    CONFIRMING, EndedWish, Note, Plan, Source, Step,
    certificates::{AuthorityState, authority_state, reported},
    issuers,
    membership::Roster,
    recovery,
};
use crate::{
    api::DomainStatus,
    cluster::{
        observed::{Authorities, Observed, ObservedMember, SeenSecret, annotation, belongs, is_hex, leaf_keys},
        validate::ValidatedCluster,
    },
    names::{annotation as key, member_key, tls_key},
    pki::{Certificate, Domain, Phase, crl_serials, read_bundle, rotation},
};

/// What is done with the authorities of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Another next authority is made: those that there are may be known to others, or are lost.
    Prepare,
    /// The next authority becomes the active one, and another next one is made.
    Switch,
    /// What has signed before is not to be trusted any more.
    Drop,
    /// The rotation is over.
    Finish,
    /// Both have expired, so that nobody is believed any more: two others are made, and members are restarted with these.
    Renew,
}

/// A change of the authorities of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotate {
    /// The domain.
    pub domain: Domain,
    /// What is done.
    pub turn: Turn,
    /// The Secret of the authorities.
    pub secret: String,
    /// The fingerprints of the active and the next one for whom this was planned; none where they are lost.
    pub seen: Option<[String; 2]>,
    /// Where the authority comes from that is to be trusted.
    pub source: Source,
    /// The common names of the authority that is to be made, and of one after it.
    pub common_names: [String; 2],
    /// How long it is valid, if it is made.
    pub duration: SignedDuration,
    /// Of lost authorities, what members still trust.
    pub salvage: Option<Salvage>,
    /// Whether it waits for nobody, because the active one has expired.
    pub at_once: bool,
}

impl Rotate {
    /// The name of the authority that is to be trusted.
    pub fn name(&self) -> &str {
        match &self.source {
            Source::Made => &self.common_names[0],
            Source::Offered(_, offer) => offer.authority.common_name(),
        }
    }

    /// What is being done, in words.
    pub fn in_words(&self) -> String {
        let (domain, name) = (self.domain, self.name());
        match self.turn {
            Turn::Prepare => format!("beginning a rotation of the {domain} authority: {name:?} is to be trusted"),
            Turn::Switch => format!("letting the next {domain} authority sign"),
            Turn::Drop => format!("taking the {domain} authorities of before out of all bundles"),
            Turn::Renew => format!("making other {domain} authorities, as those that there are have expired"),
            Turn::Finish => format!("ending the rotation of the {domain} authority: nobody trusts the one of before"),
        }
    }
}

/// What the members' Secrets have of authorities that are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salvage {
    /// The resourceVersion of the Secret that does not do, if it is there.
    pub version: Option<String>,
    /// The certificate of the one that signed.
    pub active: Certificate,
    /// Those of all others that are trusted beside it.
    pub others: Vec<Certificate>,
    /// The revocation list, DER.
    pub crl: Vec<u8>,
}

/// How long clients are given to take up what their Secrets hold, before it is needed: kubelets refresh files within about 90 s.
const CLIENTS: SignedDuration = SignedDuration::from_mins(2);

/// The authorities of a domain that a pod was made with, or those of a template are. It may have started with newer ones.
pub fn started_with(made: &ObjectMeta, domain: Domain) -> impl Iterator<Item = &str> {
    let all = annotation(made, key::BUNDLES).unwrap_or_default();
    let of_domain = all.split(';').filter_map(|part| part.split_once('=')).find(|(of, _)| *of == domain.as_str());
    of_domain.into_iter().flat_map(|(_, names)| names.split(','))
}

/// Whether a pod was made with none of the authorities that its template has for a domain: it believes nobody, and nobody believes
/// it. So it is only where all authorities have expired before there were others.
pub fn believes_nobody(pod: &Pod, set: &StatefulSet) -> bool {
    let Some(template) = &set.spec.template.metadata else { return false };
    // Made with all that the template has.
    if annotation(&pod.metadata, key::BUNDLES) == annotation(template, key::BUNDLES) {
        return false;
    }
    Domain::ALL.into_iter().any(|domain| {
        let there = || started_with(&pod.metadata, domain);
        there().next().is_some() && !started_with(template, domain).any(|name| there().any(|other| other == name))
    })
}

/// A member that believes nobody. Nothing is asked of the others, who are no quorum for anybody whom they do not believe.
pub fn restart_unbelieving(observed: &Observed, plan: &Plan) -> Option<Step> {
    observed.members.iter().find_map(|(name, member)| {
        let (pod, set) = (member.pod.as_ref()?, member.stateful_set.as_ref()?);
        let stays = pod.metadata.deletion_timestamp.is_none() && member.secret.is_some();
        (stays && !plan.changes_secrets() && !plan.changes_set(name) && recovery::is_current(set) && believes_nobody(pod, set))
            .then(|| Step::RestartMember { member: name.clone(), pod_uid: pod.metadata.uid.clone().unwrap_or_default() })
    })
}

/// What of a domain's authorities every member must have started with.
pub struct Demand {
    domain: Domain,
    with: String,
    /// If nothing else may be among them.
    only: Option<BTreeSet<String>>,
}

impl Demand {
    /// That everybody trusts the next authority.
    fn to_know(authorities: &Authorities, domain: Domain) -> Self {
        Self { domain, with: authorities.next.fingerprint().to_owned(), only: None }
    }

    /// That nobody trusts others than those that are to be trusted.
    fn to_forget(authorities: &Authorities, domain: Domain) -> Self {
        let only = authorities.trusted().map(|authority| authority.fingerprint().to_owned()).collect();
        Self { only: Some(only), ..Self::to_know(authorities, domain) }
    }

    /// Whether a pod was made with the right authorities.
    pub fn is_met(&self, pod: &Pod) -> bool {
        let mut there = started_with(&pod.metadata, self.domain);
        let is_among = |name: &str| self.only.as_ref().is_none_or(|only| only.contains(name));
        started_with(&pod.metadata, self.domain).all(is_among) && there.any(|name| name == self.with)
    }
}

/// What members must be restarted for, if they have not started with it.
pub fn demands(cluster: &ValidatedCluster, observed: &Observed, now: Timestamp) -> Vec<Demand> {
    let demand = |domain| {
        let AuthorityState::Ready(authorities) = authority_state(cluster, observed, domain) else { return None };
        match authorities.rotation.map(|rotation| rotation.phase) {
            Some(Phase::Distributing) => Some(Demand::to_know(&authorities, domain)),
            Some(Phase::Reissuing) => None,
            Some(Phase::Dropping) => Some(Demand::to_forget(&authorities, domain)),
            None => (now >= rotation::known_by(&authorities.active, &authorities.next, cluster.lives(domain).leaf))
                .then(|| Demand::to_know(&authorities, domain)),
        }
    };
    Domain::ALL.into_iter().filter_map(demand).collect()
}

/// The next change of an authority, and what is to be said about it.
pub fn step(cluster: &ValidatedCluster, observed: &Observed, now: Timestamp, plan: &mut Plan) -> Option<Step> {
    if !cluster.rotate_unknown.is_empty() {
        let (wish, unknown) = (key::ROTATE_CA, cluster.rotate_unknown.join(", "));
        let message = format!("annotation {wish} names {unknown}: it must be client, peer, or client,peer");
        plan.problems.push(Note::new("NoSuchDomain", message));
    }
    let rotates = |domain: &Domain| {
        let state = authority_state(cluster, observed, *domain);
        matches!(state, AuthorityState::Ready(authorities) if authorities.rotation.is_some())
    };
    // The wish for a domain is over once it has begun, so that it is not fulfilled again.
    let (begun, left): (Vec<_>, Vec<_>) = cluster.rotate.iter().partition(|domain| rotates(domain));
    if !begun.is_empty() {
        let left = left.into_iter().map(ToString::to_string).chain(cluster.rotate_unknown.iter().cloned());
        let left = Some(left.collect::<Vec<_>>().join(",")).filter(|left| !left.is_empty());
        let message = "a rotation that was asked for has begun, and goes on by itself; see status.certificates";
        plan.wishes.push(EndedWish { left, ..EndedWish::new(key::ROTATE_CA).told("RotationBegun", message) });
    }
    let turns: Vec<_> = Domain::ALL.into_iter().filter_map(|domain| turn(cluster, observed, domain, now, plan)).collect();
    turns.into_iter().next().map(|rotate| Step::Rotate(Box::new(rotate)))
}

fn turn(cluster: &ValidatedCluster, observed: &Observed, domain: Domain, now: Timestamp, plan: &mut Plan) -> Option<Rotate> {
    let wished = cluster.rotate.contains(&domain);
    let state = authority_state(cluster, observed, domain);
    let authorities = match &state {
        AuthorityState::Ready(authorities) => authorities,
        AuthorityState::Lost(_) if wished => return salvage(cluster, observed, domain, now, plan),
        AuthorityState::Absent | AuthorityState::Lost(_) => return None,
    };
    // What was done is written down before the next is done.
    let is_reported = reported(observed, domain).is_some_and(|reported| is_current(authorities, reported));
    let rotate = |turn, source| {
        is_reported.then(|| Rotate {
            domain,
            turn,
            source,
            secret: cluster.names.authority(domain),
            seen: Some([&authorities.active, &authorities.next].map(|authority| authority.fingerprint().to_owned())),
            common_names: [1, 2]
                .map(|later| cluster.authority_name(domain, generation(cluster, domain, authorities.trusted()) + later)),
            duration: cluster.lives(domain).authority,
            salvage: None,
            at_once: false,
        })
    };
    // Whoever has started without the next one believes nobody any more, and is restarted for that.
    if now >= authorities.active.not_after() {
        let (turn, source) = if now < authorities.next.not_after() {
            (Turn::Switch, Source::Made)
        } else {
            (Turn::Renew, issuers::successor(cluster, observed, domain, Some(authorities), true, now, plan)?)
        };
        return rotate(turn, source).map(|rotate| Rotate { at_once: true, ..rotate });
    }
    // An issuer may change, or its authority, at any moment of a rotation: then that begins again, from what is trusted by then.
    let anew = wished && authorities.rotation.is_none();
    if let Some(source) = issuers::successor(cluster, observed, domain, Some(authorities), anew, now, plan) {
        return rotate(Turn::Prepare, source);
    }
    let Some(rotation) = authorities.rotation else {
        // The authority of an issuer that is not the built-in one has none after it.
        if authorities.next == authorities.active {
            return None;
        }
        let due = now >= rotation::succeeds_at(&authorities.active, &authorities.next, cluster.lives(domain).leaf);
        let takes_over = due && is_known(observed, domain, &authorities.next);
        return if takes_over { rotate(Turn::Switch, Source::Made) } else { None };
    };
    let (missing, turn) = match rotation.phase {
        Phase::Distributing => (distributed(cluster, observed, authorities, domain, now), Turn::Switch),
        Phase::Reissuing => (reissued(cluster, observed, authorities, domain, now), Turn::Drop),
        Phase::Dropping => (restarted(cluster, observed, authorities, domain), Turn::Finish),
    };
    let doing = match rotation.phase {
        Phase::Distributing => "members are restarted one by one to trust the new authority before it signs",
        Phase::Reissuing => "certificates of the new authority take the place of those of the one before",
        Phase::Dropping => "members are restarted one by one to forget the authority before",
    };
    let waits = if missing.is_empty() { String::new() } else { format!("; missing: {}", missing.join(", ")) };
    let (phase, since) = (rotation.phase.as_str(), rotation.since);
    let message = format!("the {domain} authority is being rotated, {phase} since {since:.0}: {doing}{waits}");
    plan.waits.push(Note::new("RotatingAuthority", message));
    plan.next_check = plan.next_check.min(CONFIRMING);
    if missing.is_empty() { rotate(turn, Source::Made) } else { None }
}

/// Whether the status tells of the authorities as they are.
fn is_current(authorities: &Authorities, reported: &DomainStatus) -> bool {
    let is = |authority: &Certificate, text: &str| is_hex(text, authority.subject_key_id().unwrap_or_default());
    let phase = authorities.rotation.map(|rotation| rotation.phase.as_str());
    is(&authorities.active, &reported.active.key_id)
        && is(&authorities.next, &reported.next.key_id)
        && phase == reported.phase.as_deref()
}

/// The number that the name of the latest of these authorities ends with, of those that the operator has made.
fn generation<'a>(cluster: &ValidatedCluster, domain: Domain, authorities: impl Iterator<Item = &'a Certificate>) -> u32 {
    let number = |authority: &Certificate| {
        let number = number(authority.common_name())?;
        (cluster.authority_name(domain, number) == authority.common_name()).then_some(number)
    };
    authorities.filter_map(number).max().unwrap_or_default()
}

fn number(name: &str) -> Option<u32> {
    name.rsplit(' ').next()?.parse().ok()
}

/// The rotation that replaces lost authorities: members go on trusting what they trust until they know another one.
fn salvage(cluster: &ValidatedCluster, observed: &Observed, domain: Domain, now: Timestamp, plan: &mut Plan) -> Option<Rotate> {
    let (bundle, crl) = match domain {
        Domain::Client => (member_key::CLIENT_CA, member_key::CLIENT_CRL),
        Domain::Peer => (member_key::PEER_CA, member_key::PEER_CRL),
    };
    let there = observed.authority(domain);
    let secret = cluster.names.authority(domain);
    if there.is_some_and(|there| !belongs(&there.meta, &cluster.uid)) {
        let message = format!("the {domain} authority cannot be rotated: Secret {secret} is another's. Remove it first");
        plan.problems.push(Note::new("CannotRotate", message));
        return None;
    }
    let Some(reported) = reported(observed, domain) else {
        let message = format!("the {domain} authority cannot be rotated: the status does not tell which one was in use");
        plan.problems.push(Note::new("CannotRotate", message));
        return None;
    };
    let version = there.and_then(|there| there.meta.resource_version.clone());
    let trusted = |member: &ObservedMember| {
        let secret = member.secret.as_ref()?;
        let is_active =
            |authority: &Certificate| authority.subject_key_id().is_some_and(|id| is_hex(&reported.active.key_id, id));
        let (active, others): (Vec<_>, Vec<_>) = read_bundle(secret.data.get(bundle)?).ok()?.into_iter().partition(is_active);
        let crl = secret.data.get(crl).filter(|crl| crl_serials(crl).is_ok())?.clone();
        Some(Salvage { version: version.clone(), active: active.into_iter().next()?, others, crl })
    };
    let Some(salvage) = observed.members.values().find_map(trusted) else {
        let message = format!("the {domain} authority cannot be rotated: no member's Secret holds the one that was in use");
        plan.problems.push(Note::new("CannotRotate", message));
        return None;
    };
    let source = issuers::successor(cluster, observed, domain, None, true, now, plan)?;
    let latest = [&reported.active, &reported.next].into_iter().filter_map(|authority| number(&authority.name)).max();
    Some(Rotate {
        domain,
        turn: Turn::Prepare,
        source,
        secret,
        seen: None,
        common_names: [1, 2].map(|later| cluster.authority_name(domain, latest.unwrap_or_default() + later)),
        duration: cluster.lives(domain).authority,
        salvage: Some(salvage),
        at_once: false,
    })
}

/// Whether every member that runs was made with an authority in its bundle.
fn is_known(observed: &Observed, domain: Domain, authority: &Certificate) -> bool {
    let pods = observed.members.values().filter_map(|member| member.pod.as_ref());
    pods.into_iter().all(|pod| started_with(&pod.metadata, domain).any(|name| name == authority.fingerprint()))
}

/// Who has yet to trust the next authority.
fn distributed(
    cluster: &ValidatedCluster,
    observed: &Observed,
    authorities: &Authorities,
    domain: Domain,
    now: Timestamp,
) -> Vec<String> {
    // Before there are members, nobody trusts anybody.
    let nobody = observed.members.values().all(|member| member.secret.is_none() && member.pod.is_none());
    let mut missing = if nobody { vec![] } else { unrestarted(cluster, observed, &Demand::to_know(authorities, domain)) };
    if domain == Domain::Client {
        let bundle = authorities.roots.as_bytes();
        let knows = |secret: &SeenSecret| secret.data.get(tls_key::CA).is_some_and(|there| there == bundle);
        missing.extend(clients(observed, authorities, now, knows));
    }
    missing
}

/// Who has yet to show a certificate of the active authority.
fn reissued(
    cluster: &ValidatedCluster,
    observed: &Observed,
    authorities: &Authorities,
    domain: Domain,
    now: Timestamp,
) -> Vec<String> {
    let is_of = |secret: &SeenSecret, key: &str| {
        secret.certificate(key).and_then(Result::ok).is_some_and(|leaf| leaf.is_signed_by(&authorities.active))
    };
    let keys = leaf_keys(domain);
    let shows = |member: &ObservedMember| {
        let (Some(secret), Some(pod)) = (&member.secret, &member.pod) else { return false };
        let confirmed = annotation(&pod.metadata, key::TLS_CONFIRMED) == Some(secret.fingerprint());
        confirmed && keys.iter().all(|key| is_of(secret, key))
    };
    let mut missing = unlike(cluster, observed, shows);
    if domain == Domain::Client {
        let operator = observed.operator.as_ref().is_some_and(|secret| is_of(secret, tls_key::CRT));
        missing.extend((!operator).then(|| "the operator".to_owned()));
        missing.extend(clients(observed, authorities, now, |secret| is_of(secret, tls_key::CRT)));
    }
    missing
}

/// Who has yet to forget the authorities of before.
fn restarted(cluster: &ValidatedCluster, observed: &Observed, authorities: &Authorities, domain: Domain) -> Vec<String> {
    unrestarted(cluster, observed, &Demand::to_forget(authorities, domain))
}

fn unrestarted(cluster: &ValidatedCluster, observed: &Observed, demand: &Demand) -> Vec<String> {
    unlike(cluster, observed, |member| member.serves() && member.pod.as_ref().is_some_and(|pod| demand.is_met(pod)))
}

/// The members that are not like this, of those that etcd lists.
fn unlike(cluster: &ValidatedCluster, observed: &Observed, holds: impl Fn(&ObservedMember) -> bool) -> Vec<String> {
    let Some(roster) = Roster::read(cluster, observed) else { return vec!["a quorum".into()] };
    let listed = roster.voters.iter().chain(&roster.learners);
    listed.filter(|(_, entry)| !holds(entry.member)).map(|(name, _)| name.to_string()).collect()
}

/// The users whose Secrets are not like this, or have been for too short a time to have been taken up by whoever reads them; and the
/// time that everybody else is given.
fn clients(observed: &Observed, authorities: &Authorities, now: Timestamp, holds: impl Fn(&SeenSecret) -> bool) -> Vec<String> {
    let begun = authorities.rotation.map_or(now, |rotation| rotation.since);
    let until = |since: Timestamp| since.checked_add(CLIENTS).unwrap_or(Timestamp::MAX);
    let written = |secret: &SeenSecret| annotation(&secret.meta, key::WRITTEN_AT).and_then(|at| at.parse().ok()).unwrap_or(begun);
    let users = observed.user_secrets.iter().filter(|(_, secret)| !holds(secret) || now < until(written(secret)));
    let mut missing: Vec<_> = users.map(|(name, _)| format!("EtcdUser {name}")).collect();
    if now < until(begun) {
        missing.push(format!("time for clients to read their Secrets, until {:.0}", until(begun)));
    }
    missing
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
pub(super) mod tests;
