//! Whether members refuse what the active authority signs, so that the next one has to take its place without waiting for them.
//!
//! No rotation of this version comes this far, because the next authority is tried before it signs. An earlier version, or a member
//! that changes its mind, may have left a cluster like this: every process runs, and no new connection is accepted. Then nothing is
//! lost by replacing the active authority at once. Members that trust none of the current authorities are restarted with the new
//! ones (`rollout.rs`), whether or not there is a quorum.

use jiff::SignedDuration;

use super::{
    input::Input,
    trial::{has_leaf_of, is_presented},
};
use crate::{
    certificates::{authorities::Authorities, leaf::SignedBy},
    cluster::{
        facts::trust::{peer_leaf_of, trusted_by},
        observed::ObservedMember,
    },
    kubernetes::pod::is_terminating,
    member_pod::running_since,
    names::tls_key,
    pki::{Domain, Issuer, Phase},
};

/// For how long all members must have run without a connection: one that was restarted later may be why.
const ISOLATED: SignedDuration = SignedDuration::from_mins(1);

/// Whether the active authority has to be replaced at once. Another one was requested: a refusal alone is only reported,
/// because a wrong clock causes it too.
pub fn is_due(input: &Input, domain: Domain, authorities: &Authorities) -> bool {
    let is_distributing = authorities.rotation.is_some_and(|rotation| rotation.phase == Phase::Distributing);
    let has_other = authorities.next != authorities.active && authorities.can_sign_as(SignedBy::Next, input.now);
    is_distributing && has_other && is_refused(input, domain, authorities)
}

/// Whether members refuse what the active authority signs. No verifier refuses the form of a built-in authority.
pub fn is_refused(input: &Input, domain: Domain, authorities: &Authorities) -> bool {
    authorities.issuers.active != Issuer::BuiltIn
        && match domain {
            Domain::Client => is_locked_out(input, authorities),
            // A member that tries the next authority explains why no members are connected, as in a cluster of two.
            Domain::Peer => !is_presented(input, authorities) && is_divided(input, authorities),
        }
}

/// Whether every running member refuses the operator's certificate, which is valid, although it trusts the active authority.
fn is_locked_out(input: &Input, authorities: &Authorities) -> bool {
    let own = input.observed.operator.as_ref().and_then(|secret| secret.certificate(tls_key::CRT)?.ok());
    let is_valid = own.is_some_and(|leaf| {
        let is_in_force = leaf.not_before() <= input.now && input.now < leaf.not_after();
        leaf.is_signed_by(&authorities.active) && is_in_force && !authorities.ledger.is_revoked(leaf.serial())
    });
    let refuses = |member: &ObservedMember| {
        let trusts = member.pod.as_ref().is_some_and(|pod| {
            trusted_by(&pod.metadata, Domain::Client).any(|trusted| trusted == authorities.active.fingerprint())
        });
        trusts && member.etcd.refusal().is_some()
    };
    let mut running = running(input).peekable();
    is_valid && running.peek().is_some() && running.all(refuses)
}

/// Whether a member that presents a leaf of the active authority has no connection to any other, and none that has started with
/// such a leaf has one. A member that a network cuts off has others beside it that have.
fn is_divided(input: &Input, authorities: &Authorities) -> bool {
    let peers = |member: &ObservedMember| match &member.active_peers {
        Some(Ok(peers)) => Some(peers.len()),
        _ => None,
    };
    let has_started_with = |member: &ObservedMember| {
        let started = member
            .pod
            .as_ref()
            .is_some_and(|pod| peer_leaf_of(&pod.metadata).any(|signer| signer == authorities.active.fingerprint()));
        started && peers(member).is_some_and(|count| count > 0)
    };
    let is_old = |member: &ObservedMember| {
        let since = member.pod.as_deref().and_then(running_since);
        since.is_some_and(|since| input.now.duration_since(since) >= ISOLATED)
    };
    let is_isolated = |member: &ObservedMember| has_leaf_of(member, &authorities.active) && peers(member) == Some(0);
    let all_old = running(input).count() > 1 && running(input).all(is_old);
    all_old && running(input).any(is_isolated) && !running(input).any(has_started_with)
}

/// The members whose processes run.
fn running<'a>(input: &Input<'a>) -> impl Iterator<Item = &'a ObservedMember> {
    let runs =
        |member: &&ObservedMember| member.pod.as_ref().is_some_and(|pod| !is_terminating(pod) && running_since(pod).is_some());
    input.observed.members.values().filter(runs)
}

#[cfg(test)]
#[path = "reconnect_tests.rs"]
mod tests;
