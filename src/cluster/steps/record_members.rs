//! Recording which members have started.

use super::{
    check::{Check, RecheckError, ensure},
    definition::Definition,
    effect::Effect,
    fresh::Read,
};
use crate::{
    api::Reason,
    ids::{ClusterId, MemberId, Uid},
    names::{MemberName, annotation as key},
};

/// A member that has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartedMember {
    /// The member.
    pub name: MemberName,
    /// Its ID.
    pub id: MemberId,
    /// The uid of its claim; if its data is in its pod, of its StatefulSet.
    pub record: Uid,
    /// The pod in which its data is.
    pub pod: Option<Uid>,
}

/// Records on the claims of members that they have started, so that none of them can bootstrap a cluster again. If the data of a member is in
/// its pod, that is recorded on its StatefulSet, with the pod: another pod of it has no data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordMembers {
    /// The cluster's ID.
    pub cluster_id: ClusterId,
    /// The members.
    pub members: Vec<StartedMember>,
}

impl RecordMembers {
    fn names(&self) -> String {
        self.members.iter().map(|member| member.name.to_string()).collect::<Vec<_>>().join(", ")
    }
}

impl Definition for RecordMembers {
    fn name(&self) -> &'static str {
        "RecordMembers"
    }
    fn progressing(&self) -> Reason {
        Reason::RecordingMembers
    }
    fn done(&self) -> Reason {
        Reason::MembersRecorded
    }
    fn describe(&self) -> String {
        format!("recording that {} started", self.names())
    }
    fn reads(&self) -> Vec<Read> {
        vec![Read::Members]
    }
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        ensure(check.list()?.cluster_id == self.cluster_id, || "the members are in another cluster".into())?;
        for StartedMember { name, id, pod, .. } in &self.members {
            let existing = check.fresh.pods.get(name).and_then(|pod| Uid::of(&pod.metadata));
            ensure(pod.is_none() || *pod == existing, || format!("{name} has another pod"))?;
            let started = check.listed(name)?.is_some_and(|listed| listed.id == *id && !listed.name.is_empty());
            ensure(started, || format!("{name} is not the member {id}"))?;
        }
        Ok(())
    }
    fn effects(&self, check: &Check) -> Vec<Effect> {
        let record = |member: &StartedMember| {
            let uid = member.record.clone();
            let ids = [(key::CLUSTER_ID, self.cluster_id.to_string()), (key::MEMBER_ID, member.id.to_string())];
            match &member.pod {
                None => Effect::AnnotateClaim { name: check.cluster.names.claim(&member.name), uid, annotations: ids.into() },
                Some(pod) => {
                    let annotations = ids.into_iter().chain([(key::DATA_POD, pod.to_string())]).collect();
                    Effect::AnnotateStatefulSet { member: member.name.clone(), uid, annotations }
                }
            }
        };
        self.members.iter().map(record).collect()
    }
    fn describe_done(&self, _: &Check, _: usize) -> String {
        let kind = if self.members.iter().any(|member| member.pod.is_some()) { "StatefulSet" } else { "PersistentVolumeClaim" };
        let claims = if self.members.len() == 1 { format!("its {kind}") } else { format!("their {kind}s") };
        format!("{} started in etcd cluster {}; recorded on {claims}", self.names(), self.cluster_id)
    }
}
