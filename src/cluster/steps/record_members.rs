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
    /// The uid of its claim.
    pub claim: Uid,
}

/// Records on the claims of members that they have started, so that none of them can bootstrap a cluster again.
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
        for StartedMember { name, id, .. } in &self.members {
            let started = check.listed(name)?.is_some_and(|listed| listed.id == *id && !listed.name.is_empty());
            ensure(started, || format!("{name} is not the member {id}"))?;
        }
        Ok(())
    }
    fn effects(&self, check: &Check) -> Vec<Effect> {
        let record = |member: &StartedMember| Effect::AnnotateClaim {
            name: check.cluster.names.claim(&member.name),
            uid: member.claim.clone(),
            annotations: [(key::CLUSTER_ID, self.cluster_id.to_string()), (key::MEMBER_ID, member.id.to_string())].into(),
        };
        self.members.iter().map(record).collect()
    }
    fn describe_done(&self, _: &Check, _: usize) -> String {
        format!("{} started in etcd cluster {}; recorded on their PersistentVolumeClaims", self.names(), self.cluster_id)
    }
}
