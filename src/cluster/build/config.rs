use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::owned;
use crate::{
    cluster::{observed::StartState, validate::ValidatedCluster},
    names::{MemberName, bootstrap_key, tls_key},
};

/// What a client must trust, for programs that may not read Secrets.
pub fn ca_config(cluster: &ValidatedCluster, bundle: String) -> ConfigMap {
    ConfigMap {
        metadata: owned(cluster, cluster.names.ca_config()),
        data: Some([(tls_key::CA.to_owned(), bundle)].into()),
        ..ConfigMap::default()
    }
}

/// What each member starts with if it finds no data. It is read by environment variables at every start of a container,
/// where arguments would be fixed with the pod.
///
/// A founder has the list of all founders. A member that has started once has itself alone and `existing`: etcd ignores that
/// where there is a WAL and fails without one, so a member that lost its disk can neither return nor found a cluster.
pub fn bootstrap(cluster: &ValidatedCluster, members: &BTreeMap<MemberName, StartState>) -> ConfigMap {
    let entry = |member: &MemberName| cluster.names.initial_entry(member);
    let founders = members.keys().map(entry).collect::<Vec<_>>().join(",");
    let mut data = BTreeMap::from([(bootstrap_key::TOKEN.to_owned(), cluster.uid.clone())]);
    for (member, state) in members {
        let (list, state) = match state {
            StartState::New => (founders.clone(), "new"),
            StartState::Joining(list) => (list.clone(), "existing"),
            StartState::Existing => (entry(member), "existing"),
        };
        data.insert(bootstrap_key::cluster(member), list);
        data.insert(bootstrap_key::state(member), state.into());
    }
    ConfigMap { metadata: owned(cluster, cluster.names.bootstrap_config()), data: Some(data), ..ConfigMap::default() }
}
