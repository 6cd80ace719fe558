//! Disarming the alarm NOSPACE.

use std::collections::BTreeSet;

use super::{
    check::{Check, RecheckError, changed, ensure},
    definition::Definition,
    effect::Effect,
    fresh::Read,
};
use crate::{
    api::Reason,
    cluster::{facts::space::has_room, observed::name_of},
    etcd::{Change, MemberStatus},
    ids::MemberId,
};

/// Disarms the alarm NOSPACE, once no database is full any more. etcd refuses every write until it is disarmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisarmAlarm {
    /// The members that have raised it.
    pub raised_by: BTreeSet<MemberId>,
    /// The quota that the members have, in bytes. It may be larger than that of the spec.
    pub quota: i64,
}

impl Definition for DisarmAlarm {
    fn name(&self) -> &'static str {
        "DisarmAlarm"
    }
    fn progressing(&self) -> Reason {
        Reason::DisarmingAlarm
    }
    fn done(&self) -> Reason {
        Reason::AlarmDisarmed
    }
    fn describe(&self) -> String {
        "disarming the alarm NOSPACE".into()
    }
    fn reads(&self) -> Vec<Read> {
        vec![Read::Members]
    }

    /// Every member of the cluster must answer and have room: one that has none would raise the alarm again with the next write.
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        let list = check.list()?;
        let quota = self.quota;
        for listed in list.members.iter().filter(|listed| name_of(&check.cluster.names, list, listed).is_some()) {
            let Some(status) = check.fresh.answers.values().find(|status| status.member_id == listed.id) else {
                return changed(format!("{} does not answer", listed.name));
            };
            ensure(has_room(status.db_size, quota), || {
                format!("the database of {} has {} of {quota} bytes", listed.name, status.db_size)
            })?;
        }
        let raised: BTreeSet<_> = check.fresh.answers.values().flat_map(MemberStatus::out_of_space).collect();
        self.raised_by.retain(|member| raised.contains(member));
        ensure(!self.raised_by.is_empty(), || "the alarm is not raised".into())
    }

    fn effects(&self, _: &Check) -> Vec<Effect> {
        let disarm = |member: &MemberId| Effect::ChangeMembers(Change::DisarmSpace { member: *member });
        self.raised_by.iter().map(disarm).collect()
    }
    fn describe_done(&self, _: &Check, _: usize) -> String {
        "disarmed the alarm NOSPACE: every member's database is smaller than its quota again".into()
    }
}
