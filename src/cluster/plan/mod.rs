//! Validated spec + observation + facts + time -> plan. Pure.
//!
//! A plan has only changes of what exists: for a cluster that is up to date it is empty. Planners are functions from the
//! [`Input`](input::Input) to a contribution; what one of them needs from another is a parameter. Everything in a plan is
//! idempotent except the one [`Step`](crate::cluster::steps::Step), which is checked again on fresh reads before it is taken.

mod adoption;
mod bootstrap;
mod certificates;
pub mod changes;
mod confirmation;
mod evidence;
mod expiry;
mod foreign;
pub mod input;
mod issuers;
mod leadership;
mod membership;
mod moves;
mod objects;
mod overwritten;
mod quota;
mod raft_entry;
mod reconnect;
mod recovery;
mod resize;
mod revocation;
mod rollout;
mod rotation;
mod space;
mod start;
mod storage;
mod trial;
mod versions;

use std::collections::BTreeSet;

use self::{
    adoption::Adoption,
    changes::{Changes, Plan, first_step},
    input::{Input, Pending},
    recovery::Recovery,
    rollout::Rollout,
};
use crate::{
    certificates::requests::{LeafRequest, SecretChange},
    names::MemberName,
};

/// Plans a cluster.
pub fn plan(input: &Input) -> Plan {
    if let Some(note) = foreign::blocks(input) {
        return Plan::Blocked(note);
    }
    match adoption::decide(input) {
        Adoption::Nothing => {}
        Adoption::Refused(note) => return Plan::Blocked(note),
        Adoption::Possible(step) => return Plan::Adopt(step.into()),
    }
    // What follows is planned with the quota that members keep.
    let (kept, quota) = quota::kept(input).map_or((None, Changes::default()), |(cluster, changes)| (Some(cluster), changes));
    let input = &Input { cluster: kept.as_ref().unwrap_or(input.cluster), ..*input };
    let recovery = recovery::plan(input);
    let members = start::states(input);
    let versions = versions::plan(input);
    let rollout = Rollout::of(input, &versions);

    let mut changes = recovery.changes.clone();
    changes.merge(quota);
    changes.merge(objects::plan(input, &members));
    changes.merge(certificates::plan(input, &members));
    let sets = objects::stateful_sets(input, &members, &recovery, &versions, &changes.secrets);
    changes.merge(sets);
    changes = overwritten::exclude(input, foreign::exclude(input, changes));
    let confirmation = confirmation::plan(input, &changes.secrets);
    let is_signed_now = |change: &SecretChange| change.leaves.iter().any(|leaf: &LeafRequest| leaf.signed_now);
    let certificates = changes.secrets.iter().any(is_signed_now) || !confirmation.certificates.is_empty();
    changes.merge(confirmation);
    changes.merge(objects::pod_metadata(input));
    changes.merge(raft_entry::plan(input));
    changes.restarting = rollout.restarting(input);

    let pending = Pending {
        secrets: changes.secrets.iter().any(SecretChange::is_written_now),
        stateful_sets: changes.stateful_sets.keys().cloned().collect(),
        pods: !changes.pods.is_empty(),
        certificates,
    };
    changes.merge(step(input, &recovery, &rollout, &pending, &changes.restarting));
    // These notes follow those about the operation that they are part of.
    changes.merge(objects::waiting_members(input, &members, &recovery, &changes));
    Plan::Change(Box::new(changes))
}

/// Plans what keeps the certificates of a cluster with an invalid spec valid: they are issued, renewed and revoked, and authorities
/// succeed each other on schedule. Members, their pods and all other objects stay as they are, so a rotation that needs restarts waits.
pub fn maintain(input: &Input) -> Plan {
    let mut members = start::states(input);
    members.retain(|name, _| input.observed.members.get(name).is_some_and(|member| member.secret.is_some()));
    let mut changes = certificates::plan(input, &members);
    // Those of a new cluster.
    changes.authorities.clear();
    changes = foreign::exclude(input, changes);
    changes.merge(confirmation::plan(input, &changes.secrets));
    changes.merge(first_step(&[&|| bootstrap::record_members(input), &|| revocation::plan(input), &|| rotation::plan(input)]));
    Plan::Change(Box::new(changes))
}

/// The step, and notes about it. The first planner with a step decides; the ones after it are not run.
fn step(input: &Input, recovery: &Recovery, rollout: &Rollout, pending: &Pending, restarting: &BTreeSet<MemberName>) -> Changes {
    // Steps that protect data come first: a step that fails is planned again in every pass, and must not block them.
    first_step(&[
        &|| bootstrap::record_members(input),
        &|| revocation::plan(input),
        &|| objects::delete_budget(input),
        &|| rollout::restart_stuck(input, pending),
        &|| rollout::restart_cut_off(input, pending),
        &|| membership::delete_left_behind(input, recovery),
        &|| Changes { step: recovery.step.clone(), ..Changes::default() },
        &|| rotation::plan(input),
        &|| membership::plan(input, recovery, rollout, pending, restarting),
    ])
}

#[cfg(test)]
mod fields_tests;
#[cfg(test)]
mod in_pod_tests;
#[cfg(test)]
mod maintain_tests;
#[cfg(test)]
mod tests;
