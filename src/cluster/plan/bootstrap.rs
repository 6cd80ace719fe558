//! How members start: the bootstrap ConfigMap, and the record on their claims once they have started.

use k8s_openapi::api::core::v1::ConfigMap;

use super::{changes::Changes, input::Input, start::StartStates};
use crate::{
    cluster::{
        objects::{self, StartState},
        observed::ObservedMember,
        steps::{RecordMembers, StartedMember},
    },
    ids::Uid,
    kubernetes::{object::Object, ownership::belongs},
    names::{MemberName, bootstrap_key},
};

/// The bootstrap ConfigMap, if it has to be applied.
pub fn config_map(input: &Input, members: &StartStates) -> Option<Object> {
    let new = members.iter().filter(|(_, state)| **state == StartState::New);
    let kept: Vec<_> = new.filter_map(|(name, _)| Some((name.clone(), kept_list(input, name)?.clone()))).collect();
    let build = || -> ConfigMap {
        let mut config = objects::bootstrap(input.cluster, members);
        let kept = kept.iter().map(|(name, list)| (bootstrap_key::cluster(name), list.clone()));
        config.data.get_or_insert_default().extend(kept);
        config
    };
    input.desired.unless_applied(&(members.clone(), kept.clone()), build, input.observed.bootstrap.as_ref())
}

/// The member list that was recorded for a member that bootstraps the cluster and has not started yet. The list is kept even if
/// other members are removed meanwhile, because etcd derives the cluster ID from it.
fn kept_list<'a>(input: &Input<'a>, name: &MemberName) -> Option<&'a String> {
    let list = input.facts.bootstrap?.data.as_ref()?.get(&bootstrap_key::cluster(name))?;
    // A recorded list of the member alone is a mistake, unless the cluster has only one member.
    (*list != input.facts.names.initial_entry(name)).then_some(list)
}

/// Records the members that were observed running for the first time, and those whose claims or StatefulSets record the ID of another member: the
/// next time they are down, their data would count as lost.
pub fn record_members(input: &Input) -> Changes {
    let Input { observed, facts, .. } = input;
    let Ok(list) = &observed.list else { return Changes::default() };
    // Members that bootstrapped a second cluster are reported, not recorded.
    if observed.status.cluster_id.is_some_and(|known| known != list.cluster_id) {
        return Changes::default();
    }
    let started = |(name, member): (&MemberName, &ObservedMember)| {
        let record = member.record()?;
        let pod = if member.is_in_pod() { Some(Uid::of(&member.pod.as_ref()?.metadata)?) } else { None };
        // It has published its name through Raft, and it is the member that answers at this address.
        let listed = observed.listed(facts.names, name).filter(|listed| !listed.name.is_empty())?;
        let answers = member.etcd.status().is_some_and(|status| status.member_id == listed.id);
        let is_recorded =
            member.recorded_ids() == (Some(list.cluster_id), Some(listed.id)) && (pod.is_none() || member.has_pod_with_data());
        let stays = record.deletion_timestamp.is_none();
        let is_due = answers && !is_recorded && stays && belongs(record, facts.uid);
        Some(StartedMember { name: name.clone(), id: listed.id, record: Uid::of(record)?, pod }).filter(|_| is_due)
    };
    let members: Vec<_> = observed.members.iter().filter_map(started).collect();
    if members.is_empty() {
        return Changes::default();
    }
    Changes::step(RecordMembers { cluster_id: list.cluster_id, members })
}

#[cfg(test)]
#[path = "bootstrap_tests.rs"]
mod tests;
