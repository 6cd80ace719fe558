//! The nodes on which the volumes of members can be used.

use std::collections::BTreeSet;

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, PersistentVolume};
use kube::{Api, api::ListParams};

use crate::{
    cluster::{
        facts::readiness::down_for,
        observed::{Observed, ObservedMember, VolumeNode},
    },
    context::Context,
    kubernetes::pod::is_unscheduled,
    names::MemberName,
};

/// Finds the nodes of the volumes of members whose pods cannot be scheduled. `lost_node` is how long a member must have been down
/// before it matters whether its node is gone.
pub async fn find_nodes(context: &Context, observed: &mut Observed, lost_node: SignedDuration, now: Timestamp) {
    let concerned = concerned(observed, lost_node, now);
    let members = observed.members.iter_mut().filter(|(name, _)| concerned.contains(name));
    join_all(members.map(|(_, member)| async {
        let volume = member.claim.as_ref().and_then(|claim| claim.spec.as_ref()?.volume_name.clone());
        if let Some(volume) = volume {
            // Without permission to read volumes or nodes there is no evidence. That is not an error.
            member.volume_node = find_node(context, &volume).await.unwrap_or_default();
        }
    }))
    .await;
}

/// The members of whose nodes something follows.
fn concerned(observed: &Observed, lost_node: SignedDuration, now: Timestamp) -> BTreeSet<MemberName> {
    let is_concerned = |(name, member): &(&MemberName, &ObservedMember)| {
        member.pod.as_deref().is_some_and(is_unscheduled) && down_for(observed, name, now) >= lost_node
    };
    observed.members.iter().filter(is_concerned).map(|(name, _)| name.clone()).collect()
}

/// The state of the one node on which a volume can be used. A volume of a zone has no such node: it can be used again once the
/// zone has nodes.
async fn find_node(context: &Context, volume: &str) -> Result<VolumeNode, kube::Error> {
    let volume = Api::<PersistentVolume>::all(context.client.clone()).get_opt(volume).await?;
    let Some(host) = volume.as_ref().and_then(only_host) else { return Ok(VolumeNode::Unknown) };
    let labelled = ListParams::default().labels(&format!("{HOSTNAME}={host}"));
    let nodes = Api::<Node>::all(context.client.clone()).list(&labelled).await?.items;
    Ok(state(&host, &nodes))
}

/// The state of a volume's node, given the nodes with the label of its host.
fn state(host: &str, nodes: &[Node]) -> VolumeNode {
    let is_out_of_service = |node: &Node| {
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        taints.into_iter().any(|taint| taint.key == OUT_OF_SERVICE)
    };
    if nodes.is_empty() {
        VolumeNode::Gone(format!("its volume is on node {host}, which was deleted"))
    } else if nodes.iter().all(is_out_of_service) {
        VolumeNode::Gone(format!("its volume is on node {host}, which has the taint {OUT_OF_SERVICE}"))
    } else {
        VolumeNode::Exists
    }
}

/// The label in the node affinity of a local volume whose value is the node.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// The taint with which an administrator declares that a node is permanently shut down (Kubernetes, non-graceful node shutdown).
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The one host on which a volume can be used, if its node affinity names one.
fn only_host(volume: &PersistentVolume) -> Option<String> {
    let terms = &volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?.node_selector_terms;
    let [term] = terms.as_slice() else { return None };
    let is_host = |requirement: &&NodeSelectorRequirement| requirement.key == HOSTNAME && requirement.operator == "In";
    match term.match_expressions.iter().flatten().find(is_host)?.values.as_deref()? {
        [host] => Some(host.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodCondition;

    use super::*;
    use crate::cluster::fixtures::Fixture;

    #[test]
    fn volumes_are_looked_up_only_when_something_follows() {
        let mut fixture = Fixture::bootstrapped("replicas: 3");
        let unscheduled = PodCondition { type_: "PodScheduled".into(), status: "False".into(), ..PodCondition::default() };
        fixture.pod(2).status.as_mut().unwrap().conditions.as_mut().unwrap().push(unscheduled);
        fixture.stop(1);
        let name = fixture.observed.members.keys().nth(2).unwrap().clone();
        fixture.silent.insert(name.clone());
        let minute = SignedDuration::from_mins(1);
        (0..10).for_each(|_| drop(fixture.pass()));
        assert!(concerned(&fixture.observed, minute, fixture.now).is_empty());
        (0..70).for_each(|_| drop(fixture.pass()));
        assert_eq!(concerned(&fixture.observed, minute, fixture.now), [name].into());
    }

    fn volume(affinity: &str) -> PersistentVolume {
        serde_saphyr::from_str(&format!("{{ spec: {{ nodeAffinity: {affinity} }} }}")).unwrap()
    }

    #[test]
    fn node_affinity_names_the_only_host_of_a_volume() {
        let on = |terms: &str| only_host(&volume(&format!("{{ required: {{ nodeSelectorTerms: {terms} }} }}")));
        assert_eq!(
            on("[{ matchExpressions: [{ key: kubernetes.io/hostname, operator: In, values: [a] }] }]").as_deref(),
            Some("a")
        );
        for elsewhere in [
            "[{ matchExpressions: [{ key: kubernetes.io/hostname, operator: In, values: [a, b] }] }]",
            "[{ matchExpressions: [{ key: kubernetes.io/hostname, operator: NotIn, values: [a] }] }]",
            "[{ matchExpressions: [{ key: topology.kubernetes.io/zone, operator: In, values: [a] }] }]",
            "[{ matchExpressions: [{ key: kubernetes.io/hostname, operator: In, values: [a] }] }, {}]",
        ] {
            assert_eq!(on(elsewhere), None, "{elsewhere}");
        }
        assert_eq!(only_host(&volume("{}")), None);
    }

    #[test]
    fn only_a_deleted_or_tainted_node_is_gone() {
        let node = |taints: &str| -> Node { serde_saphyr::from_str(&format!("{{ spec: {{ taints: {taints} }} }}")).unwrap() };
        let out = || node("[{ key: node.kubernetes.io/out-of-service, value: nodeshutdown, effect: NoExecute }]");
        let unreachable = || node("[{ key: node.kubernetes.io/unreachable, effect: NoExecute }]");
        assert!(matches!(state("a", &[]), VolumeNode::Gone(why) if why.contains("node a, which was deleted")));
        assert!(matches!(state("a", &[out()]), VolumeNode::Gone(why) if why.contains("out-of-service")));
        assert_eq!(state("a", &[unreachable()]), VolumeNode::Exists);
        assert_eq!(state("a", &[out(), node("[]")]), VolumeNode::Exists);
    }
}
