//! Restarts members, one after the other, each confirmed before the next.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Pod, PodSpec},
};

use super::{
    changes::Changes,
    input::{Input, Pending},
    leadership::move_leader,
    trial,
    versions::Versions,
};
use crate::{
    api::Reason,
    cluster::{
        facts::{
            claims::waits_for_restart,
            ongoing::{is_ongoing, ongoing_since},
            pods::{
                changed_settings, describe_changes, has_never_served, is_in_effect, is_stuck, pod_is_forced, template_is_forced,
            },
            readiness::down_for,
            resize::{self, Resize, has_begun},
            roster::{Roster, RosterEntry, first},
            trust::{TrustRequirement, shares_no_trusted_ca, shares_no_trusted_ca_of},
        },
        objects,
        observed::ObservedMember,
        settings::Change,
        steps::RestartMember,
        validated::ValidatedCluster,
    },
    ids::Uid,
    kubernetes::{desired::Desired, ownership::annotation, pod::is_terminating},
    member_pod::{etcd_container, etcd_status, running_since},
    names::{MemberName, annotation as key},
    pki::{Domain, Phase, rotation},
};

/// What every pod must have been created with. Any other change of the template takes effect when a pod is restarted for another
/// reason.
pub struct Rollout<'a> {
    restarted_at: Option<&'a str>,
    cluster: &'a ValidatedCluster,
    /// Which release each member's next pod gets.
    pub versions: &'a Versions,
    trust: Vec<TrustRequirement>,
    /// The member that is restarted to try its peer leaf.
    tried: Option<&'a MemberName>,
    /// What the API server refuses.
    desired: &'a Desired,
    now: Timestamp,
}

/// How long the kubelet may take to expand the file system of a volume while its pod runs. It is made to sync the pod at once
/// (`storage.rs`).
const ONLINE_EXPANSION: SignedDuration = SignedDuration::from_mins(1);

impl<'a> Rollout<'a> {
    /// What the pods of a cluster must have been created with.
    pub fn of(input: &Input<'a>, versions: &'a Versions) -> Self {
        Self {
            restarted_at: input.cluster.requests.restarted_at.as_deref(),
            cluster: input.cluster,
            versions,
            trust: Domain::ALL.into_iter().filter_map(|domain| trust_requirement(input, domain)).collect(),
            tried: input.facts.authorities.state.peer.ready().and_then(|peer| trial::to_be_restarted(input, peer)),
            desired: input.desired,
            now: input.now,
        }
    }

    /// Whether a member's pod was created differently, so that it has to be restarted.
    pub fn is_outdated(&self, name: &MemberName, member: &ObservedMember) -> bool {
        let is_due = |pod: &Pod| self.is_due_anyway(pod, name, member) || self.has_other_settings(pod, name, member);
        member.pod.as_ref().is_some_and(|pod| is_due(pod)) && self.in_place(name, member).is_none()
    }

    /// How far the change of a member's resources is, if nothing else is different and its pod can be changed while it runs.
    pub fn in_place(&self, name: &MemberName, member: &ObservedMember) -> Option<Resize> {
        // The kubelet restarts a container that ends only after a while, even if it has been given more memory.
        let pod = member.pod.as_ref().filter(|pod| !is_terminating(pod) && running_since(pod).is_some())?;
        let changes = self.changes(pod, name, member);
        let is_resized = (has_begun(pod) || !changes.is_empty()) && changes.iter().all(Change::is_in_place);
        let is_restarted = || self.is_due_anyway(pod, name, member) || objects::reads_resources(&self.cluster.template);
        if !is_resized || is_restarted() || self.refusal(pod).is_some() {
            return None;
        }
        resize::progress(pod, &self.cluster.pod.resources).filter(|resize| !matches!(resize, Resize::Infeasible(_)))
    }

    /// With which words the API server refuses to change the resources of a running pod.
    fn refusal(&self, pod: &Pod) -> Option<String> {
        self.desired.refusal(&Uid::of(&pod.metadata)?, self.now)
    }

    /// Why Kubernetes does not change the resources of a pod while it runs.
    fn why_not_in_place(&self, pod: &Pod) -> Option<String> {
        self.refusal(pod).or_else(|| match resize::progress(pod, &self.cluster.pod.resources)? {
            Resize::Infeasible(words) => Some(words),
            _ => None,
        })
    }

    /// Whether the file system of a member's volume is expanded only when its pod starts again.
    fn waits_for_expansion(&self, pod: &Pod, member: &ObservedMember) -> bool {
        let since = member.claim.as_ref().and_then(|claim| waits_for_restart(claim, pod));
        since.is_some_and(|since| self.now.duration_since(since) >= ONLINE_EXPANSION)
    }

    /// Whether the next pod of a member would be outdated as well: others have changed its template, or it does not exist yet.
    pub fn stays_outdated(&self, name: &MemberName, member: &ObservedMember) -> bool {
        let next = |set: &StatefulSet| {
            let template = set.spec.template.clone();
            Pod { metadata: template.metadata.unwrap_or_default(), spec: template.spec, status: None }
        };
        let is_different = |pod: &Pod| self.is_required(pod, name, member) || self.has_other_settings(pod, name, member);
        member.stateful_set.as_deref().is_none_or(|set| is_different(&next(set)))
    }

    fn has_other_settings(&self, pod: &Pod, name: &MemberName, member: &ObservedMember) -> bool {
        has_begun(pod) || !self.changes(pod, name, member).is_empty()
    }

    /// Whether a member has to be restarted whatever its settings are.
    fn is_due_anyway(&self, pod: &Pod, name: &MemberName, member: &ObservedMember) -> bool {
        let is_tried = self.tried == Some(name);
        is_tried || self.is_required(pod, name, member) || self.waits_for_expansion(pod, member)
    }

    /// Whether a restart was requested, or a pod has not started for something that does not come from the spec.
    fn is_required(&self, pod: &Pod, name: &MemberName, member: &ObservedMember) -> bool {
        let is_requested = self.restarted_at.is_some_and(|at| annotation(&pod.metadata, key::RESTARTED_AT) != Some(at));
        let prepares = self.versions.held(name, Some(member)).and_then(|release| release.prepares);
        let is_prepared = annotation(&pod.metadata, key::PREPARED_FOR) == prepares.map(|minor| minor.to_string()).as_deref();
        is_requested || !is_prepared || !self.trust.iter().all(|requirement| requirement.is_met(pod))
    }

    /// The fields of the spec that have changed since a pod of a member was created.
    fn changes(&self, pod: &Pod, name: &MemberName, member: &ObservedMember) -> Vec<Change> {
        let template = member.stateful_set.as_ref().and_then(|set| set.spec.template.spec.as_ref());
        match self.versions.held(name, Some(member)) {
            None => changed_settings(pod, &self.cluster.recorded, template),
            Some(_) if self.versions.will_restart(name, member) => vec![],
            Some(release) => changed_settings(pod, &release.recorded_with(&self.cluster.settings), template),
        }
    }

    /// The members that are down because they are being restarted: their pods are being deleted, are gone, or are new.
    pub fn restarting(&self, input: &Input) -> BTreeSet<MemberName> {
        let observed = input.observed;
        // When the last outdated pod is gone and its StatefulSet has not created a new one yet, only the last status shows the
        // restart.
        let is_rotating = is_ongoing(&observed.status, Reason::RotatingCA) && !self.trust.is_empty();
        let in_progress = is_rotating
            || RESTARTS.iter().any(|reason| is_ongoing(&observed.status, *reason))
            || observed.members.iter().any(|(name, member)| self.is_outdated(name, member));
        if !in_progress && self.restarted_at.is_none() && self.trust.is_empty() {
            return BTreeSet::new();
        }
        let timeout = restart_timeout(input.cluster);
        let is_due = |name: &MemberName, member: &ObservedMember| {
            let Some(pod) = &member.pod else { return in_progress };
            let has_ended = etcd_status(pod).is_some_and(|container| container.restart_count > 0);
            let is_new = running_since(pod).is_none_or(|since| input.now.duration_since(since) < timeout);
            let is_outdated = self.is_outdated(name, member);
            if is_terminating(pod) { is_outdated } else { !is_outdated && is_new && !has_ended }
        };
        let is_restarting = |name: &MemberName, member: &ObservedMember| {
            member.has_started() && !member.is_healthy() && is_due(name, member) && down_for(observed, name, input.now) < timeout
        };
        let members = observed.members.iter().filter(|(name, member)| is_restarting(name, member));
        members.map(|(name, _)| name.clone()).collect()
    }

    /// A member that was already restarted, or given other resources, and is not healthy, while others have yet to be.
    pub fn unhealthy_after_change<'r>(&self, roster: &'r Roster) -> Option<&'r MemberName> {
        let is_due = |name: &MemberName, voter: &RosterEntry| {
            self.is_outdated(name, voter.member) || self.in_place(name, voter.member).is_some()
        };
        if !roster.voters.iter().any(|(name, voter)| is_due(name, voter)) {
            return None;
        }
        let is_unhealthy =
            |name: &MemberName, voter: &RosterEntry| voter.member.pod.is_some() && !is_due(name, voter) && !voter.is_healthy();
        roster.voters.iter().find(|(name, voter)| is_unhealthy(name, voter)).map(|(name, _)| name)
    }
}

/// The reasons of `Progressing` while members are restarted because of the spec, some of them only where Kubernetes does not resize pods.
const RESTARTS: [Reason; 4] = [Reason::RollingRestart, Reason::Upgrading, Reason::Downgrading, Reason::Resizing];

/// How long a restarted member may be down before it needs attention: its pod may take the grace period to stop, and 30 s to start.
fn restart_timeout(cluster: &ValidatedCluster) -> SignedDuration {
    objects::grace_period(&cluster.etcd) + SignedDuration::from_secs(30)
}

/// Which authorities of a domain pods must trust.
fn trust_requirement(input: &Input, domain: Domain) -> Option<TrustRequirement> {
    let authorities = input.facts.authorities.state[domain].ready()?;
    match authorities.rotation.map(|rotation| rotation.phase) {
        // Members are not restarted for an authority that one of them refuses.
        Some(Phase::Distributing) if trial::is_refused(input, domain, authorities) => None,
        Some(Phase::Distributing) => Some(TrustRequirement::next(authorities, domain)),
        Some(Phase::Reissuing) => None,
        Some(Phase::Dropping) => Some(TrustRequirement::only_current(authorities, domain)),
        None => {
            let trusted_by = rotation::trusted_by(&authorities.active, &authorities.next, input.cluster.lifetimes[domain].leaf);
            (input.now >= trusted_by).then(|| TrustRequirement::next(authorities, domain))
        }
    }
}

/// Restarts a member with an outdated pod: an unhealthy one first, the leader last.
pub fn restart(input: &Input, roster: &Roster, rollout: &Rollout, pending: &Pending) -> Changes {
    // One that has its data in its pod is replaced instead (`moves.rs`).
    let is_due = |name: &MemberName, voter: &RosterEntry| !voter.member.is_in_pod() && rollout.is_outdated(name, voter.member);
    let outdated: Vec<_> = roster.voters.iter().filter(|(name, voter)| is_due(name, voter)).collect();
    let Some((name, voter)) = first(outdated.iter().copied()) else { return Changes::default() };
    let (left, all, since) = (outdated.len(), roster.voters.len(), ongoing_since(input.observed, Reason::RollingRestart));
    let edits = outdated.iter().find_map(|(name, voter)| {
        let changed = rollout.changes(voter.member.pod.as_ref()?, name, voter.member);
        (!changed.is_empty()).then(|| describe_changes(&changed))
    });
    let why = edits.as_ref().map(|edits| format!(" ({edits})")).unwrap_or_default();
    let why_not = voter.member.pod.as_ref().and_then(|pod| rollout.why_not_in_place(pod));
    let why_not = why_not.map(|words| format!("; Kubernetes does not change {name} while it runs: {words}")).unwrap_or_default();
    let message = format!("{left} of {all} members have yet to be restarted{why}{since}{why_not}");
    let change = edits.map(|edits| format!("{edits} ({}/{all})", all - left));
    let changes = Changes { change, ..Changes::default().progress(Reason::RollingRestart, message) };
    // The pod must be recreated from the desired template and with the desired Secret: no pod starts without the Secret, and the
    // template names the authorities in its trust bundles.
    let is_applied = !pending.secrets && pending.stateful_sets.is_empty();
    let is_in_effect = voter.member.stateful_set.as_deref().is_some_and(is_in_effect);
    if !is_applied || voter.member.secret.is_none() || !is_in_effect || rollout.stays_outdated(name, voter.member) {
        return changes;
    }
    if voter.member.loses_claim_with_pod() && roster.votes() < 3 {
        let message = format!(
            "{name} is not restarted: its PersistentVolumeClaim is being deleted, so its data would be lost with its pod, and the others \
             are no quorum without it"
        );
        return changes.problem(Reason::CannotRestart, message);
    }
    if voter.is_healthy() {
        if let Some(until) = wait_for(input, roster, pending) {
            return changes.progress(Reason::RollingRestart, format!("{name} will be restarted once {until}"));
        }
        if let Some(message) = other_version(input, rollout, roster, voter) {
            return changes.problem(Reason::CannotRestart, message);
        }
        if pending.pods {
            return changes;
        }
        if voter.leads() && roster.voters.len() > 1 {
            return Changes { step: move_leader(roster, name, voter), ..changes };
        }
    }
    let pod = voter.member.pod.as_ref().filter(|pod| !is_terminating(pod));
    let uid = pod.and_then(|pod| Uid::of(&pod.metadata));
    Changes { step: uid.map(|pod_uid| RestartMember { member: (*name).clone(), pod_uid }.into()), ..changes }
}

/// What a change of a healthy member waits for.
pub fn wait_for(input: &Input, roster: &Roster, pending: &Pending) -> Option<String> {
    // Scaling is completed first, unless no certificates can be issued to new members: that may require a restart.
    let is_scaling = roster.voters.len() != input.cluster.replicas as usize && input.facts.authorities.can_issue;
    if is_scaling || !roster.learners.is_empty() {
        Some("the change of the members is complete".into())
    } else if !roster.all_healthy() {
        Some(format!("all {} voters are healthy{}", roster.votes(), roster.describe_silent()))
    } else {
        // The member that was restarted before must serve its current certificates.
        pending.certificates.then(|| "all members present their new certificates; see CertificatesReady".into())
    }
}

/// Why a voter must not be restarted: others run an unexpected version of etcd since their restart. The image of a tag may
/// change.
fn other_version(input: &Input, rollout: &Rollout, roster: &Roster, next: &RosterEntry) -> Option<String> {
    let version = |voter: &RosterEntry| voter.member.etcd.status().map(|status| status.version.clone());
    let current = version(next)?;
    // A member that was restarted with another image is no evidence about the desired one.
    let image = |spec: Option<&PodSpec>| etcd_container(spec?)?.image.clone();
    let has_desired_image = |member: &ObservedMember| {
        let pod: Option<&Pod> = member.pod.as_deref();
        let template = member.stateful_set.as_ref().and_then(|set| set.spec.template.spec.as_ref());
        image(pod.and_then(|pod| pod.spec.as_ref())) == image(template)
    };
    let restarted =
        roster.voters.iter().filter(|(name, voter)| !rollout.is_outdated(name, voter.member) && has_desired_image(voter.member));
    let desired = |(name, voter): (_, &RosterEntry)| {
        let release = rollout.versions.held(name, Some(voter.member)).unwrap_or(&input.cluster.release);
        Some((name, version(voter)?, release.version.to_string()))
    };
    let mut versions = restarted.filter_map(desired);
    let (name, other, desired) = versions.find(|(_, other, desired)| other != desired && *other != current)?;
    Some(format!(
        "{name} runs etcd {other} since its restart, but spec.version is {desired}: no other member is restarted with that image. When it \
         is fixed, set annotation {} to another value",
        key::RESTARTED_AT
    ))
}

/// Restarts a member whose pod cannot start or was never healthy, and whose template has changed since: the user may have fixed
/// what keeps it from starting. A member whose data would be lost with its pod is not restarted.
pub fn restart_stuck(input: &Input, pending: &Pending) -> Changes {
    let is_due = |name: &MemberName, member: &ObservedMember| -> Option<bool> {
        let (pod, set) = (member.pod.as_ref()?, member.stateful_set.as_ref()?);
        let is_in_effect = !pending.stateful_sets.contains(name) && is_in_effect(set);
        let is_silent = has_never_served(pod) && member.etcd.status().is_none() && member.seen_running >= FIRST_START;
        // Only a recovery restarts a member as a cluster of one.
        let is_forcing = template_is_forced(set) && !pod_is_forced(pod);
        let is_broken = is_stuck(pod) || is_silent;
        Some(
            is_in_effect
                && member.is_outdated()
                && !is_terminating(pod)
                && is_broken
                && !is_forcing
                && !member.loses_data_with_pod(),
        )
    };
    restart_first(input, |name, member| is_due(name, member).unwrap_or_default())
}

/// How long etcd may take after its first start in a pod before a changed template is a reason to restart it.
const FIRST_START: SignedDuration = SignedDuration::from_mins(1);

/// Restarts a member that trusts none of the current authorities, whether or not the others are a quorum: the member takes no
/// part in a quorum whose certificates it does not accept. If only clients are refused, members may be a quorum nevertheless, and
/// are restarted one after the other.
pub fn restart_cut_off(input: &Input, pending: &Pending) -> Changes {
    restart_first(input, |name, member| {
        let (Some(pod), Some(set)) = (&member.pod, &member.stateful_set) else { return false };
        let is_possible = !is_terminating(pod) && member.secret.is_some() && !member.is_in_pod();
        let is_applied = !pending.secrets && !pending.stateful_sets.contains(name) && is_in_effect(set);
        let may_stop =
            || shares_no_trusted_ca_of(Domain::Peer, pod, set) || !is_another_starting(input, name) || !member.pod_ready();
        is_possible && is_applied && shares_no_trusted_ca(pod, set) && may_stop()
    })
}

/// Whether another member has just been restarted and is not ready. The operator may have no other way to see it.
fn is_another_starting(input: &Input, name: &MemberName) -> bool {
    let timeout = restart_timeout(input.cluster);
    let is_starting = |member: &ObservedMember| {
        // A pod that stops or starts for longer may never be back.
        let since = |pod: &Pod| {
            let meta = &pod.metadata;
            let created = || meta.creation_timestamp.as_ref().map(|created| created.0);
            meta.deletion_timestamp.as_ref().map(|deleted| deleted.0).or_else(|| running_since(pod)).or_else(created)
        };
        let is_recent = |pod: &Pod| since(pod).is_some_and(|since| input.now.duration_since(since) < timeout);
        member.has_started() && !member.pod_ready() && member.pod.as_deref().is_none_or(is_recent)
    };
    input.observed.members.iter().any(|(other, member)| other != name && is_starting(member))
}

fn restart_first(input: &Input, is_due: impl Fn(&MemberName, &ObservedMember) -> bool) -> Changes {
    let step = input.observed.members.iter().filter(|(name, member)| is_due(name, member)).find_map(|(name, member)| {
        Some(RestartMember { member: name.clone(), pod_uid: Uid::of(&member.pod.as_ref()?.metadata)? })
    });
    step.map(Changes::step).unwrap_or_default()
}

#[cfg(test)]
#[path = "rollout_tests.rs"]
mod tests;
