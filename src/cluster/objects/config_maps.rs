//! The ConfigMaps: the trust bundle for clients, and what members read at each start.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::metadata::owned;
use crate::{
    cluster::validated::ValidatedCluster,
    names::{MemberName, bootstrap_key, tls_key},
};

/// The trust bundle for clients, for programs that may not read Secrets.
pub fn ca_config(cluster: &ValidatedCluster, bundle: String) -> ConfigMap {
    ConfigMap {
        metadata: owned(cluster, cluster.names.ca_config()),
        data: Some([(tls_key::CA.to_owned(), bundle)].into()),
        ..ConfigMap::default()
    }
}

/// How a member starts if it finds no data: an entry of the bootstrap ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StartState {
    /// It bootstraps the cluster, together with all other new members.
    New,
    /// It joins as the learner that was added, with this member list. The list must match that of etcd.
    Joining(String),
    /// It starts only with its data: etcd ignores `existing` with a list of the member alone if there is a WAL, and fails
    /// otherwise.
    Existing,
}

/// The entry of a member in a bootstrap ConfigMap. `alone` is a member list of this member alone.
pub fn start_state(config: &ConfigMap, member: &MemberName, alone: &str) -> Option<StartState> {
    let data = config.data.as_ref()?;
    match data.get(&bootstrap_key::state(member))?.as_str() {
        "new" => Some(StartState::New),
        _ => match data.get(&bootstrap_key::cluster(member)) {
            Some(list) if list != alone => Some(StartState::Joining(list.clone())),
            _ => Some(StartState::Existing),
        },
    }
}

/// What each member starts with if it finds no data. Members read it through environment variables at every start of a container;
/// arguments cannot change during the life of a pod.
///
/// A member that bootstraps the cluster gets the list of all members that do. A member that has started before gets a list of
/// itself alone, and `existing`: etcd ignores that if there is a WAL and fails otherwise, so a member that lost its disk can
/// neither rejoin nor bootstrap a second cluster.
pub fn bootstrap(cluster: &ValidatedCluster, members: &BTreeMap<MemberName, StartState>) -> ConfigMap {
    let entry = |member: &MemberName| cluster.names.initial_entry(member);
    let all = members.keys().map(entry).collect::<Vec<_>>().join(",");
    let mut data = BTreeMap::from([(bootstrap_key::TOKEN.to_owned(), cluster.uid.to_string())]);
    for (member, state) in members {
        let (list, state) = match state {
            StartState::New => (all.clone(), "new"),
            StartState::Joining(list) => (list.clone(), "existing"),
            StartState::Existing => (entry(member), "existing"),
        };
        data.insert(bootstrap_key::cluster(member), list);
        data.insert(bootstrap_key::state(member), state.into());
    }
    ConfigMap { metadata: owned(cluster, cluster.names.bootstrap_config()), data: Some(data), ..ConfigMap::default() }
}
