//! Who is restarted, so that every pod is made with what is wanted: one after the other, each confirmed before the next.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::{
    Note, Plan, Step, certificates, evidence,
    membership::{Entry, Roster, is_ongoing, ongoing_since},
    recovery::is_current,
    rotation::{self, Demand},
};
use crate::{
    api::ClientAuth,
    cluster::{
        build,
        observed::{Observed, ObservedMember, annotation, running_since},
        validate::ValidatedCluster,
    },
    names::{MemberName, annotation as key},
};

/// What every pod is to have been made with. Whatever else has changed is taken up when it is made anew for another reason.
pub struct Wanted<'a> {
    restarted_at: Option<&'a str>,
    asks_clients: bool,
    demands: Vec<Demand>,
    /// Whether others can be added: where they can't be given certificates, it may take a restart until they can.
    pub can_issue: bool,
}

impl<'a> Wanted<'a> {
    /// What it is for this cluster.
    pub fn of(cluster: &'a ValidatedCluster, observed: &Observed, now: Timestamp) -> Self {
        Self {
            restarted_at: cluster.restarted_at.as_deref(),
            asks_clients: cluster.client_auth == ClientAuth::Required,
            demands: rotation::demands(cluster, observed, now),
            can_issue: certificates::can_issue(cluster, observed, now),
        }
    }

    /// Whether a member's pod was made with something else.
    fn is_outdated(&self, member: &ObservedMember) -> bool {
        let Some(pod) = &member.pod else { return false };
        let asked = self.restarted_at.is_some_and(|at| annotation(&pod.metadata, key::RESTARTED_AT) != Some(at));
        let other = build::asks_clients(pod.spec.as_ref()).is_some_and(|asks| asks != self.asks_clients);
        asked || other || !self.demands.iter().all(|demand| demand.is_met(pod))
    }
}

/// How long a restarted member may be down before it needs attention: a pod has 30 s to end, and as long to come.
pub const RESTART: SignedDuration = SignedDuration::from_mins(1);

/// The members that are down because they are being restarted as their user asked: their pods go, are gone, or have just come.
pub fn restarting(observed: &Observed, wanted: &Wanted, now: Timestamp) -> BTreeSet<MemberName> {
    // When the last pod is gone and its StatefulSet has not made another one yet, nothing but what was reported tells of it.
    let rotating = is_ongoing(&observed.status, "RotatingAuthority") && !wanted.demands.is_empty();
    let goes_on = rotating
        || is_ongoing(&observed.status, "Restarting")
        || observed.members.values().any(|member| wanted.is_outdated(member));
    if !goes_on && wanted.restarted_at.is_none() && wanted.demands.is_empty() {
        return BTreeSet::new();
    }
    let is_due = |member: &ObservedMember| {
        let Some(pod) = &member.pod else { return goes_on };
        let ended =
            pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()).any(|it| it.restart_count > 0);
        let is_new = running_since(pod).is_none_or(|since| now.duration_since(since) < RESTART) && !ended;
        if pod.metadata.deletion_timestamp.is_some() { wanted.is_outdated(member) } else { !wanted.is_outdated(member) && is_new }
    };
    let is_restarting = |name: &MemberName, member: &ObservedMember| {
        member.has_started() && !member.serves() && is_due(member) && evidence::down_for(observed, name, now) < RESTART
    };
    let members = observed.members.iter().filter(|(name, member)| is_restarting(name, member));
    members.map(|(name, _)| name.clone()).collect()
}

/// The member that has been restarted before others and does not serve.
pub fn tried<'a>(wanted: &Wanted, roster: &'a Roster) -> Option<&'a MemberName> {
    if !roster.voters.values().any(|voter| wanted.is_outdated(voter.member)) {
        return None;
    }
    let is_tried = |voter: &Entry| voter.member.pod.is_some() && !wanted.is_outdated(voter.member) && !voter.serves();
    roster.voters.iter().find(|(_, voter)| is_tried(voter)).map(|(name, _)| name)
}

/// A pod that is to be restarted, one after the other: one that does not serve first, the leader's last.
pub fn restart(
    wanted: &Wanted,
    cluster: &ValidatedCluster,
    observed: &Observed,
    roster: &Roster,
    plan: &mut Plan,
) -> Option<Step> {
    let outdated: Vec<_> = roster.voters.iter().filter(|(_, voter)| wanted.is_outdated(voter.member)).collect();
    if outdated.is_empty() {
        return None;
    }
    plan.waits.push(Note::new(
        "Restarting",
        format!(
            "{} of {} members are still to be restarted{}",
            outdated.len(),
            roster.voters.len(),
            ongoing_since(observed, "Restarting")
        ),
    ));
    // A pod must be made from the template that is wanted.
    let ready = |entry: &Entry| {
        // Its Secret first: no pod starts without it, and the template tells of the bundles in it.
        let applied = !plan.changes_secrets() && !plan.objects.iter().any(|object| object.resource.kind == "StatefulSet");
        applied && entry.member.secret.is_some() && entry.member.stateful_set.as_deref().is_some_and(is_current)
    };
    let gone = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    let pod = |entry: &Entry| entry.member.pod.as_ref().filter(|pod| !gone(pod)).and_then(|pod| pod.metadata.uid.clone());
    let sick = outdated.iter().find(|(_, voter)| !voter.serves());
    let next = sick.or_else(|| outdated.iter().find(|(_, voter)| !voter.leads())).or_else(|| outdated.first())?;
    let (name, voter) = next;
    if !ready(voter) {
        return None;
    }
    if voter.member.is_doomed() && roster.votes() < 3 {
        plan.problems.push(Note::new(
            "CannotRestart",
            format!("{name} is not restarted: its claim is being deleted and goes with its pod, and the others are no quorum without it"),
        ));
        return None;
    }
    if voter.serves() {
        let unconfirmed = plan.certificates.iter().any(|note| matches!(note.reason, "Issuing" | "NotServedYet"));
        // A change of the members is over first, and the one before must serve again, with the certificates that it should.
        let resizing = roster.voters.len() != cluster.replicas as usize && wanted.can_issue;
        let changing = !roster.learners.is_empty() || resizing;
        let until = if changing {
            Some("the change of the members is over".to_owned())
        } else if !roster.all_serve() {
            Some(format!("all {} voters serve{}", roster.votes(), roster.silent_in_words()))
        } else {
            unconfirmed.then(|| "the certificates are as they should be; see CertificatesReady".to_owned())
        };
        if let Some(until) = until {
            plan.waits.push(Note::new("Restarting", format!("{name} is next, when {until}")));
            return None;
        }
        if let Some(message) = other_version(wanted, cluster, roster, voter) {
            plan.problems.push(Note::new("CannotRestart", message));
            return None;
        }
        if !plan.pods.is_empty() {
            return None;
        }
        if voter.leads() && roster.voters.len() > 1 {
            return roster.move_leader(name, voter);
        }
    }
    Some(Step::RestartMember { member: (*name).clone(), pod_uid: pod(voter)? })
}

/// What keeps a voter from being restarted because of the etcd that others have come back with: what a tag names may change.
fn other_version(wanted: &Wanted, cluster: &ValidatedCluster, roster: &Roster, next: &Entry) -> Option<String> {
    let version = |voter: &Entry| voter.member.etcd.status().map(|status| status.version.clone());
    let (here, right) = (version(next)?, cluster.version.to_string());
    // Whoever came back with another image says nothing of the one that is wanted now.
    let image = |spec: Option<&PodSpec>| spec?.containers.first()?.image.clone();
    let has_image = |member: &ObservedMember| {
        let (pod, set) = (member.pod.as_ref(), member.stateful_set.as_ref());
        image(pod.and_then(|pod| pod.spec.as_ref())) == image(set.and_then(|set| set.spec.template.spec.as_ref()))
    };
    let restarted = roster.voters.iter().filter(|(_, voter)| !wanted.is_outdated(voter.member) && has_image(voter.member));
    let mut versions = restarted.filter_map(|(name, voter)| Some((name, version(voter)?)));
    let (name, there) = versions.find(|(_, there)| *there != right && *there != here)?;
    Some(format!(
        "{name} runs etcd {there} since its restart, and spec.version is {right}: no other is restarted with that image. When it is mended, set annotation {} anew",
        key::RESTARTED_AT
    ))
}

/// What a step costs clients, if it is one without which the members that remain are no quorum: with one or two voters that is
/// every restart.
pub fn outage(step: &Step, observed: &Observed) -> Option<Note> {
    let Step::RestartMember { member, .. } = step else { return None };
    let voters = observed.list.as_ref().ok()?.voters().count();
    let serves = observed.members.get(member).is_some_and(ObservedMember::serves);
    (serves && voters < 3).then(|| {
        let of = if voters == 1 { "the only voter".to_owned() } else { format!("one of {voters} voters") };
        Note::new(
            "NoRedundancy",
            format!("{member} is {of}: the cluster does not serve until its pod is back. With 3 members it would"),
        )
    })
}
