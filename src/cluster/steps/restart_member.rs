//! Restarting a member.

use k8s_openapi::api::core::v1::Pod;

use super::{
    check::{Check, Others, RecheckError, changed, ensure},
    definition::Definition,
    effect::{Deletable, Effect},
    fresh::Read,
};
use crate::{
    api::Reason,
    cluster::{
        facts::{
            claims::waits_for_restart,
            pods::{
                changed_settings, describe_changes, has_never_served, is_in_effect, is_stuck, pod_is_forced, template_is_forced,
            },
            resize::has_begun,
            trust::shares_no_trusted_ca,
        },
        observed::{Observed, ObservedMember},
        release::Release,
    },
    ids::Uid,
    kubernetes::{
        ownership::annotation,
        pod::{is_terminating, pod_ready},
    },
    member_pod::data_in_pod,
    names::{MemberName, annotation as key},
    reporting::note::Note,
};

/// Removes the pod of a member, so that its StatefulSet recreates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartMember {
    /// The member.
    pub member: MemberName,
    /// The uid of its pod.
    pub pod_uid: Uid,
}

impl RestartMember {
    fn pod<'a>(&self, check: &Check<'a>) -> Option<&'a Pod> {
        let pod = check.fresh.pods.get(&self.member)?;
        let is_same = pod.metadata.uid.as_deref() == Some(self.pod_uid.as_str());
        Some(&**pod).filter(|pod| is_same && !is_terminating(pod))
    }

    /// Whether the pod and its template differ in `--force-new-cluster`. No pod that starts as a cluster of one is created while
    /// a quorum confirms a member list.
    fn changes_forced_start(&self, pod: &Pod, check: &Check) -> bool {
        let set = check.fresh.sets.get(&self.member).filter(|set| is_in_effect(set));
        match (pod_is_forced(pod), set.map(|set| template_is_forced(set))) {
            (false, Some(true)) => check.fresh.list.is_none(),
            (true, Some(false)) => true,
            _ => false,
        }
    }

    /// Whether the pod has the data.
    fn has_data(&self, check: &Check) -> bool {
        let recorded = check
            .fresh
            .sets
            .get(&self.member)
            .filter(|_| check.fresh.claim.is_none())
            .filter(|set| set.spec.template.spec.as_ref().is_some_and(|spec| data_in_pod(spec).is_some()));
        recorded.is_some_and(|set| annotation(&set.metadata, key::DATA_POD) == Some(self.pod_uid.as_str()))
    }

    fn shares_no_trusted_ca(&self, pod: &Pod, check: &Check) -> bool {
        check.fresh.sets.get(&self.member).is_some_and(|set| shares_no_trusted_ca(pod, set))
    }

    /// Why the pod is outdated: it was created before the requested restart, or with other trust bundles or settings than its
    /// template has now, or its volume was expanded since.
    fn why_outdated(&self, pod: &Pod, check: &Check) -> Option<String> {
        let requested = check.cluster.requests.restarted_at.as_deref();
        if requested.is_some_and(|at| annotation(&pod.metadata, key::RESTARTED_AT) != Some(at)) {
            return Some("a restart was requested".into());
        }
        if check.fresh.claim.as_ref().is_some_and(|claim| waits_for_restart(claim, pod).is_some()) {
            return Some("the file system of its volume is expanded when its pod starts".into());
        }
        let template = &check.fresh.sets.get(&self.member)?.spec.template;
        let bundles = template.metadata.as_ref().and_then(|meta| annotation(meta, key::BUNDLES));
        if bundles.is_some_and(|bundles| annotation(&pod.metadata, key::BUNDLES) != Some(bundles)) {
            return Some("it has to load other trusted CAs".into());
        }
        let recorded = |key| template.metadata.as_ref().and_then(|meta| annotation(meta, key));
        let changed = recorded(key::SETTINGS).map(|desired| changed_settings(pod, desired, template.spec.as_ref()));
        if let Some(changed) = changed.filter(|changed| !changed.is_empty()) {
            return Some(format!("its settings have changed ({})", describe_changes(&changed)));
        }
        if has_begun(pod) {
            return Some("the change of its resources was reverted".into());
        }
        let prepares = recorded(key::PREPARED_FOR);
        let why = prepares.map_or(
            "the upgrade for which it writes snapshots of raft's log was reverted",
            |_| "it has to write the snapshot of raft's log that the next version needs",
        );
        (annotation(&pod.metadata, key::PREPARED_FOR) != prepares).then(|| why.into())
    }

    /// A member does not start with a lower version than that of its storage.
    fn ensure_storage_fits(&self, check: &Check) -> Result<(), RecheckError> {
        let storage = check.fresh.answers.get(&self.member).and_then(|status| status.storage);
        let template = check.fresh.sets.get(&self.member).and_then(|set| set.spec.template.metadata.as_ref());
        let (Some(storage), Some(next)) = (storage, template.and_then(Release::recorded)) else { return Ok(()) };
        ensure(storage.minor <= next.version.minor, || {
            format!(
                "the storage of {} has version 3.{}, with which etcd {} does not start",
                self.member, storage.minor, next.version
            )
        })
    }

    fn why(&self, check: &Check) -> String {
        let pod = check.fresh.pods.get(&self.member).map(|pod| &**pod);
        let template = check.fresh.sets.get(&self.member).is_some_and(|set| template_is_forced(set));
        match (pod.is_some_and(pod_is_forced), template) {
            _ if pod.is_some_and(|pod| self.shares_no_trusted_ca(pod, check)) => "it trusts none of the current CAs".into(),
            (false, true) => "it is to start as a cluster of one (--force-new-cluster) with its data".into(),
            (true, false) => "it was started with --force-new-cluster and is restarted without it".into(),
            _ => {
                let outdated = pod.and_then(|pod| self.why_outdated(pod, check));
                let why = outdated.unwrap_or_else(|| "its template has changed".into());
                match pod {
                    Some(pod) if is_stuck(pod) => format!("it cannot start, and {why}"),
                    Some(pod) if has_never_served(pod) => format!("it has never been ready, and {why}"),
                    _ => why,
                }
            }
        }
    }
}

impl Definition for RestartMember {
    fn name(&self) -> &'static str {
        "RestartMember"
    }
    fn progressing(&self) -> Reason {
        Reason::RestartingMember
    }
    fn done(&self) -> Reason {
        Reason::PodRestarted
    }
    fn member(&self) -> Option<&MemberName> {
        Some(&self.member)
    }
    fn describe(&self) -> String {
        format!("restarting {}", self.member)
    }
    fn reads(&self) -> Vec<Read> {
        vec![Read::Members, Read::Claim(self.member.clone())]
    }

    /// A restart must not lose data that the quorum needs. Apart from that, a pod that cannot start may always be restarted. Any
    /// other restart must be due, and the others must be a quorum without the member: a member that does not answer the operator
    /// may still be part of the quorum. With fewer than 3 voters this is impossible and not required.
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        let Self { member, .. } = &*self;
        let Some(pod) = self.pod(check) else { return changed(format!("the pod of {member} has been replaced")) };
        let listed = check.listed(member);
        let others = match listed.as_ref().ok().copied().flatten() {
            Some(listed) => check.voters(Some(listed.id))?,
            None => Others::default(),
        };
        let is_losing_data = check.fresh.claim.as_ref().is_some_and(|claim| claim.metadata.deletion_timestamp.is_some());
        ensure(others.can_spare() || !is_losing_data, || {
            format!("the PersistentVolumeClaim of {member} is being deleted, and the others are no quorum without its data")
        })?;
        ensure(!self.has_data(check), || format!("the data of {member} is in its pod"))?;
        if self.changes_forced_start(pod, check) || is_stuck(pod) || self.shares_no_trusted_ca(pod, check) {
            return Ok(());
        }
        // If there is no quorum, restarting a member that was never healthy cannot cost it.
        let is_silent = has_never_served(pod) && !check.fresh.answers.contains_key(member);
        if is_silent && (others.can_spare() || !check.has_list()) {
            return Ok(());
        }
        ensure(self.why_outdated(pod, check).is_some(), || format!("{member} has been restarted"))?;
        self.ensure_storage_fits(check)?;
        let Some(listed) = listed? else { return changed(format!("{member} is no member")) };
        if listed.is_learner {
            return Ok(());
        }
        let Others { all, healthy } = others;
        ensure(all < 2 || others.can_spare(), || format!("only {healthy} of the {all} others are healthy"))?;
        if check.is_healthy(listed) || pod_ready(pod) {
            ensure(healthy == all, || format!("{member} is healthy, and only {healthy} of the {all} others are"))?;
            ensure(all == 0 || !check.leads(listed.id), || format!("{member} is the leader"))?;
        }
        Ok(())
    }

    /// The pod is evicted and not deleted, so that the disruption budgets are respected. Only the pods of members that trust none
    /// of the current CAs are deleted: a budget would protect a quorum that does not exist.
    fn effects(&self, check: &Check) -> Vec<Effect> {
        let is_cut_off = self.pod(check).is_some_and(|pod| self.shares_no_trusted_ca(pod, check));
        vec![if is_cut_off {
            Effect::Delete { kind: Deletable::Pod, name: check.cluster.names.pod(&self.member), uid: self.pod_uid.clone() }
        } else {
            Effect::Evict { member: self.member.clone(), uid: self.pod_uid.clone() }
        }]
    }

    fn describe_done(&self, check: &Check, _: usize) -> String {
        format!("restarting {}: {}", self.member, self.why(check))
    }

    /// With one or two voters every restart makes the cluster unavailable for a moment.
    fn cost(&self, observed: &Observed) -> Option<Note> {
        let voters = observed.list.as_ref().ok()?.voters().count();
        let is_healthy = observed.members.get(&self.member).is_some_and(ObservedMember::is_healthy);
        (is_healthy && voters < 3).then(|| {
            let role = if voters == 1 { "the only voter".to_owned() } else { format!("one of {voters} voters") };
            let message = format!(
                "{} is {role}: the cluster is unavailable until its pod is back. With 3 members it would stay available",
                self.member
            );
            Note::new(Reason::NoRedundancy, message)
        })
    }
}
