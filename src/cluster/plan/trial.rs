//! Whether members accept what the next authority of a rotation signs. An authority that they trust may still be one whose
//! certificates they refuse: Go applies the extensions of an authority to everything that it signed. So nothing depends on the
//! next authority before a member has been seen to accept a certificate of it. It may even be one with which no member starts.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;

use super::input::Input;
use crate::{
    api::Reason,
    certificates::authorities::Authorities,
    cluster::{
        facts::{
            containers::{STARTED, is_crashing, out_of_memory},
            roster::{Roster, RosterEntry},
            trust::{peer_leaf_of, trusted_by},
        },
        observed::{ObservedMember, Trial},
    },
    kubernetes::cached::Cached,
    member_pod::running_since,
    names::{METRICS_PORT, MemberName, annotation as key, member_key, tls_key},
    pki::{Certificate, Domain, Issuer, Phase},
    reporting::note::Note,
};

/// What has been seen of a certificate of the next authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A member accepts it, and none refuses it.
    Accepted,
    /// No member has answered yet. The text says what is missing.
    Pending(String),
    /// Members refuse it.
    Refused(Note),
    /// A member does not start with the authority in its trust bundle, perhaps because of it.
    NotStarting(Note),
}

/// Whether certificates of the next authority are tried: in a rotation, until it is the active one.
pub fn is_due(authorities: &Authorities) -> bool {
    let is_distributing = authorities.rotation.is_some_and(|rotation| rotation.phase == Phase::Distributing);
    is_distributing && authorities.next != authorities.active
}

/// Whether members that trust the next authority accept what it signs.
pub fn verdict(input: &Input, domain: Domain, authorities: &Authorities) -> Verdict {
    match domain {
        _ if is_unused(input) => Verdict::Accepted,
        // Without a certificate of its own the operator gets none of the next authority: the key of the active one is lost. No verifier
        // refuses the form of a built-in authority.
        Domain::Client if input.observed.operator.is_none() && authorities.issuers.next == Issuer::BuiltIn => Verdict::Accepted,
        _ if is_due(authorities) => match (not_starting(input, domain, authorities), domain) {
            (Some(note), _) => Verdict::NotStarting(note),
            (None, Domain::Client) => of_client(input, authorities),
            (None, Domain::Peer) => of_peer(input, authorities, &authorities.next),
        },
        // An earlier version made it the active one without a trial. The operator itself is a client.
        Domain::Peer if is_reissuing(authorities) => of_peer(input, authorities, &authorities.active),
        Domain::Client | Domain::Peer => Verdict::Accepted,
    }
}

/// Whether members refuse what the next authority signs, or one does not start with it.
pub fn is_refused(input: &Input, domain: Domain, authorities: &Authorities) -> bool {
    matches!(verdict(input, domain, authorities), Verdict::Refused(_) | Verdict::NotStarting(_))
}

/// The member that keeps exiting since it trusts the next authority, while none runs that trusts it. Go refuses certificates
/// that other programs read, and etcd does not start with a trust bundle that has one. No verifier refuses the form of a built-in
/// authority, a container that was out of memory has ended for that reason, and a member presents a leaf of the next authority only
/// after others have started with it.
fn not_starting(input: &Input, domain: Domain, authorities: &Authorities) -> Option<Note> {
    let issuer = &authorities.issuers.next;
    let trusting = || input.observed.members.iter().filter(|(_, member)| trusts_next(member, authorities, domain));
    let runs = |member: &ObservedMember| {
        let since = member.pod.as_deref().and_then(running_since);
        member.etcd.status().is_some() || since.is_some_and(|since| input.now.duration_since(since) >= STARTED)
    };
    if *issuer == Issuer::BuiltIn || is_presented(input, authorities) || trusting().any(|(_, member)| runs(member)) {
        return None;
    }
    let ends = |pod: &Pod| is_crashing(pod, input.now) && out_of_memory(pod).is_none();
    let (name, _) = trusting().find(|(_, member)| member.pod.as_deref().is_some_and(ends))?;
    let names = input.facts.names;
    let message = format!(
        "{name} keeps exiting since its trust bundle has CA {:?} of {issuer}, which may be why; kubectl -n {} logs {} --previous \
         shows the reason. {}",
        authorities.next.common_name(),
        names.namespace(),
        names.pod(name),
        take_back(input, domain, authorities)
    );
    Some(Note::new(Reason::MemberDown, message))
}

/// Whether there are no members, so that nothing has to trust or accept anything.
pub fn is_unused(input: &Input) -> bool {
    input.observed.members.values().all(|member| member.secret.is_none() && member.pod.is_none())
}

/// Whether members accept a client certificate of the next authority.
fn of_client(input: &Input, authorities: &Authorities) -> Verdict {
    let own = input.observed.operator.as_ref().and_then(|secret| secret.certificate(tls_key::NEXT_CRT)?.ok());
    let name = authorities.next.common_name();
    if own.is_none_or(|leaf| !leaf.is_signed_by(&authorities.next)) {
        return Verdict::Pending(format!(
            "a client certificate of CA {name:?} for the operator, to try whether members accept it"
        ));
    }
    // A member that does not trust it yet refuses it for that reason.
    let members = || input.observed.members.iter().filter(|(_, member)| trusts_next(member, authorities, Domain::Client));
    let refused = members().filter_map(|(name, member)| match &member.trial {
        Some(Trial::Refused(alert)) => Some(format!("{name} ({alert})")),
        _ => None,
    });
    let refused: Vec<_> = refused.collect();
    if !refused.is_empty() {
        let message = format!(
            "refused by {}: a client certificate of CA {name:?} of {}. {}",
            refused.join(", "),
            authorities.issuers.next,
            take_back(input, Domain::Client, authorities)
        );
        return Verdict::Refused(Note::new(Reason::CertificateRefused, message));
    }
    if members().any(|(_, member)| member.trial == Some(Trial::Accepted)) {
        return Verdict::Accepted;
    }
    let why = |member: &ObservedMember| match &member.trial {
        Some(Trial::Unknown(why)) => Some(why.clone()),
        _ => None,
    };
    let why: Vec<_> = members().filter_map(|(name, member)| Some(format!("{name}: {}", why(member)?))).collect();
    let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
    Verdict::Pending(format!("a member that accepts a client certificate of CA {name:?}{why}"))
}

/// The member whose peer leaf the next authority signs before those of the others, to try whether they accept it: one that already
/// has such a leaf; otherwise the last one that is restarted to trust the next authority; otherwise any that does not lead. There
/// is none in a cluster of one member.
pub fn candidate<'a>(input: &Input<'a>, authorities: &Authorities) -> Option<&'a MemberName> {
    if !is_due(authorities) {
        return None;
    }
    // It keeps its leaf although its restart may cost the quorum, as with two members: another leaf would be no trial.
    let roster = input.facts.roster.as_ref();
    let is_gone = |name: &MemberName| roster.is_some_and(|roster| !roster.lists(name));
    let is_voter = |name: &MemberName| roster.is_some_and(|roster| roster.voters.contains_key(name));
    let tried = input.observed.members.iter().filter(|(name, member)| !is_gone(name) && has_next(member, authorities));
    // A learner that has taken the name of a tried member finds its leaf in the Secret. If a voter is tried since, that one goes on, because
    // two members must not present such a leaf.
    if let Some((name, _)) = tried.min_by_key(|(name, _)| !is_voter(name)) {
        return Some(name);
    }
    let roster = roster.filter(|roster| roster.votes() > 1)?;
    // Where the data is in the pods, none is restarted. Once all trust the next authority, a member that is added starts with such a leaf.
    if input.cluster.storage.empty_dir.is_some() {
        let trusts = |voter: &RosterEntry| trusts_next(voter.member, authorities, Domain::Peer);
        let new = roster.learners.iter().find(|(_, learner)| learner.member.stateful_set.is_none());
        return new.filter(|_| roster.voters.values().all(trusts)).map(|(name, _)| name);
    }
    if !roster.all_healthy() || !roster.learners.is_empty() {
        return None;
    }
    let mut outdated = roster.voters.iter().filter(|(_, voter)| !trusts_next(voter.member, authorities, Domain::Peer));
    match (outdated.next(), outdated.next()) {
        (None, _) => roster.voters.iter().rev().find(|(_, voter)| !voter.leads()).map(|(name, _)| name),
        (Some((last, _)), None) => Some(last),
        (Some(_), Some(_)) => None,
    }
}

/// Whether a member has to be added only to try the peer leaf of the next authority: the data is in the pods, so that none is restarted, all
/// voters trust the next authority already, and none of them has such a leaf.
pub fn needs_member(input: &Input) -> bool {
    let authorities = input.facts.authorities.state.peer.ready().filter(|authorities| is_due(authorities));
    let (Some(authorities), Some(roster)) = (authorities, &input.facts.roster) else { return false };
    let is_open =
        |voter: &RosterEntry| trusts_next(voter.member, authorities, Domain::Peer) && !has_next(voter.member, authorities);
    input.cluster.storage.empty_dir.is_some() && roster.votes() > 1 && roster.voters.values().all(is_open)
}

/// Whether a member alone shows that what the next authority of a domain signs is refused: no other one trusts that authority yet.
pub fn is_only_witness(input: &Input, name: &MemberName, member: &ObservedMember) -> bool {
    let is_gone = |name: &MemberName| input.facts.roster.as_ref().is_some_and(|roster| !roster.lists(name));
    let is_shown = |domain: Domain| {
        let authorities = input.facts.authorities.state[domain].ready()?;
        let trusts = |member: &ObservedMember| trusts_next(member, authorities, domain);
        let mut others = input.observed.members.iter().filter(|(other, _)| *other != name && !is_gone(other));
        Some(
            is_due(authorities)
                && trusts(member)
                && !others.any(|(_, other)| trusts(other))
                && is_refused(input, domain, authorities),
        )
    };
    Domain::ALL.into_iter().any(|domain| is_shown(domain).unwrap_or_default())
}

/// Whether a member tries the peer leaf of the next authority.
pub fn tries(input: &Input, member: &ObservedMember) -> bool {
    let authorities = input.facts.authorities.state.peer.ready().filter(|authorities| is_due(authorities));
    authorities.is_some_and(|authorities| has_next(member, authorities))
}

/// Whether the next authority signed a member's peer leaf, and the active one did not.
fn has_next(member: &ObservedMember, authorities: &Authorities) -> bool {
    has_leaf_of(member, &authorities.next) && !has_leaf_of(member, &authorities.active)
}

/// Whether an authority signed the peer leaf in a member's Secret.
pub fn has_leaf_of(member: &ObservedMember, authority: &Certificate) -> bool {
    let leaf = member.secret.as_ref().and_then(|secret| secret.certificate(member_key::PEER_CRT)?.ok());
    leaf.is_some_and(|leaf| leaf.is_signed_by(authority))
}

/// Whether a member presents a peer leaf of the next authority before it is the active one.
pub fn is_presented(input: &Input, authorities: &Authorities) -> bool {
    is_due(authorities) && input.observed.members.values().any(|member| has_next(member, authorities))
}

fn trusts_next(member: &ObservedMember, authorities: &Authorities, domain: Domain) -> bool {
    let trusted = |pod: &Cached<Pod>| trusted_by(&pod.metadata, domain).any(|name| name == authorities.next.fingerprint());
    member.pod.as_ref().is_some_and(trusted)
}

/// The member that has to be restarted with a peer leaf of the authority that is tried, because connections that stand show nothing.
/// That of a rotation which an earlier version has begun is the active one already: any member will do once all have such a leaf.
pub fn to_be_restarted<'a>(input: &Input<'a>, authorities: &Authorities) -> Option<&'a MemberName> {
    let roster = input.facts.roster.as_ref()?;
    let mut voters = roster.voters.iter().rev();
    if is_due(authorities) {
        let is_tried =
            |voter: &RosterEntry| has_next(voter.member, authorities) && !has_started_with(voter.member, &authorities.next);
        return voters.find(|(_, voter)| is_tried(voter)).map(|(name, _)| name);
    }
    let is_new = |voter: &RosterEntry| {
        has_leaf_of(voter.member, &authorities.active) && !has_started_with(voter.member, &authorities.active)
    };
    let is_unproven = is_reissuing(authorities) && roster.votes() > 1 && roster.voters.values().all(is_new);
    voters.find(|(_, voter)| is_unproven && !voter.leads()).map(|(name, _)| name)
}

/// Whether the authority that is tried is the active one already.
fn is_reissuing(authorities: &Authorities) -> bool {
    authorities.rotation.is_some_and(|rotation| rotation.phase == Phase::Reissuing)
}

fn has_started_with(member: &ObservedMember, authority: &Certificate) -> bool {
    let started = |pod: &Cached<Pod>| peer_leaf_of(&pod.metadata).any(|name| name == authority.fingerprint());
    member.pod.as_ref().is_some_and(started)
}

/// Whether a member that was restarted with a peer leaf of this authority has rejoined: the others accept its connections, and it
/// accepts theirs. One direction is not enough: raft's messages find their way over the other one.
fn of_peer(input: &Input, authorities: &Authorities, authority: &Certificate) -> Verdict {
    let name = authority.common_name();
    let Some(roster) = &input.facts.roster else { return without_quorum(input, authorities, authority) };
    if roster.votes() <= 1 {
        return Verdict::Accepted;
    }
    let is_tried = |voter: &RosterEntry| has_leaf_of(voter.member, authority) && has_started_with(voter.member, authority);
    let mut tried = roster.voters.iter().filter(|(_, voter)| is_tried(voter)).peekable();
    let Some((member, voter)) = tried.peek().copied() else {
        return Verdict::Pending(format!("a member that is restarted with a peer certificate of CA {name:?} and rejoins"));
    };
    if tried.any(|(name, voter)| voter.is_healthy() && apart_from(roster, name, voter).is_empty()) {
        return Verdict::Accepted;
    }
    let apart = apart_from(roster, member, voter);
    // What keeps a member from running is reported elsewhere.
    let runs = |voter: &RosterEntry| matches!(voter.member.active_peers, Some(Ok(_)));
    let refusing: Vec<_> = apart.iter().filter(|(_, other)| runs(other)).map(|(other, _)| other.to_string()).collect();
    if is_starting(input, voter.member) || !runs(voter) || refusing.is_empty() {
        return Verdict::Pending(format!(
            "connections between {member}, which presents a peer certificate of CA {name:?}, and the others{}",
            describe_unread(roster)
        ));
    }
    refused_by(input, authorities, name, member, &refusing.join(", "))
}

/// The same without a member list that a quorum confirms: in a cluster of two the restarted member takes the quorum with it.
fn without_quorum(input: &Input, authorities: &Authorities, authority: &Certificate) -> Verdict {
    let members = || input.observed.members.iter();
    let is_tried = |member: &ObservedMember| has_leaf_of(member, authority) && has_started_with(member, authority);
    let is_alone = |member: &ObservedMember| matches!(&member.active_peers, Some(Ok(peers)) if peers.is_empty());
    let tried = members().find(|(_, member)| is_tried(member) && is_alone(member) && !is_starting(input, member));
    let Some((tried, _)) = tried else { return Verdict::Pending("a quorum".into()) };
    let runs = |member: &ObservedMember| matches!(member.active_peers, Some(Ok(_)));
    let others: Vec<_> =
        members().filter(|(name, member)| *name != tried && runs(member)).map(|(name, _)| name.as_str()).collect();
    if others.is_empty() {
        return Verdict::Pending("a quorum".into());
    }
    refused_by(input, authorities, authority.common_name(), tried, &others.join(", "))
}

fn refused_by(input: &Input, authorities: &Authorities, authority: &str, member: &MemberName, others: &str) -> Verdict {
    let message = format!(
        "{member} was restarted with a peer certificate of CA {authority:?} of {} and is not connected to {others}: one of them refuses \
         it. {}",
        authorities.issuers.next,
        take_back(input, Domain::Peer, authorities)
    );
    Verdict::Refused(Note::new(Reason::CertificateRefused, message))
}

/// Whether a restarted member may still connect to the others.
fn is_starting(input: &Input, member: &ObservedMember) -> bool {
    let runs_since = member.pod.as_deref().and_then(running_since);
    runs_since.is_none_or(|since| input.now.duration_since(since) < REJOINING)
}

/// The voters whose connections are not known, and why, as a suffix for a message.
fn describe_unread(roster: &Roster) -> String {
    let unread = roster.voters.iter().filter_map(|(name, voter)| match &voter.member.active_peers {
        Some(Err(why)) => Some(format!("{name} {why}")),
        _ => None,
    });
    let unread: Vec<_> = unread.collect();
    if unread.is_empty() {
        return String::new();
    }
    format!(" ({}; a NetworkPolicy must let the operator reach port {METRICS_PORT} of the members)", unread.join("; "))
}

/// The voters that do not accept the connections of this one, or whose connections it does not accept. One voter in each direction is
/// proof enough that there are none: all verify by the same rules, and etcd may report a connection that stands as inactive, if a
/// message that it sent in another way before was late to fail (seen with 3.6.16: `rafthttp/peer_status.go`).
fn apart_from<'r, 'o>(
    roster: &'r Roster<'o>,
    name: &MemberName,
    voter: &RosterEntry,
) -> Vec<(&'r MemberName, &'r RosterEntry<'o>)> {
    let accepts = |one: &RosterEntry, other: &RosterEntry| {
        let peers = one.member.active_peers.as_ref().and_then(|peers| peers.as_ref().ok());
        peers.is_some_and(|peers| peers.contains(&other.listed.id))
    };
    let others = || roster.voters.iter().filter(|(other, _)| *other != name);
    let is_accepted = others().any(|(_, other)| accepts(voter, other));
    let is_dialed = others().any(|(_, other)| accepts(other, voter));
    let is_apart = |other: &RosterEntry| (!is_accepted && !accepts(voter, other)) || (!is_dialed && !accepts(other, voter));
    others().filter(|(_, other)| is_apart(other)).collect()
}

/// How long a restarted member may take to connect to the others.
const REJOINING: SignedDuration = SignedDuration::from_secs(20);

/// How a change to the next authority is reverted. The active one has never stopped signing.
fn take_back(input: &Input, domain: Domain, authorities: &Authorities) -> String {
    let (active, next) = (&authorities.issuers.active, &authorities.issuers.next);
    if !is_due(authorities) {
        return format!("Name another issuer in spec.tls.{domain}.issuer, such as the previous one");
    }
    let still = "The previous CA stays in use";
    if active == next {
        return match next {
            Issuer::BuiltIn => {
                let (namespace, cluster) = (input.facts.names.namespace(), input.facts.names.cluster());
                format!(
                    "{still}. Replace the new one: kubectl -n {namespace} annotate etcdcluster {cluster} --overwrite {}={domain}@$(date +%s)",
                    key::ROTATE_CA
                )
            }
            issuer => format!("{still}. Give {issuer} a CA whose certificates are accepted, such as the previous one"),
        };
    }
    let issuer = match active {
        Issuer::BuiltIn => "null".to_owned(),
        Issuer::CaSecret { name } => format!(r#"{{"caSecret":{{"name":"{name}"}},"certManager":null}}"#),
        Issuer::CertManager { name, kind, group } => {
            format!(r#"{{"caSecret":null,"certManager":{{"name":"{name}","kind":"{kind}","group":"{group}"}}}}"#)
        }
    };
    let (namespace, cluster) = (input.facts.names.namespace(), input.facts.names.cluster());
    let patch = format!(r#"{{"spec":{{"tls":{{"{domain}":{{"issuer":{issuer}}}}}}}}}"#);
    format!("{still}. Take the change back: kubectl -n {namespace} patch etcdcluster {cluster} --type merge -p '{patch}'")
}

#[cfg(test)]
#[path = "trial_tests.rs"]
mod tests;
