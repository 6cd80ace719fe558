//! Excludes changes of objects that have one of the cluster's names but do not belong to it.

use super::{changes::Changes, input::Input};
use crate::{
    api::Reason,
    cluster::facts::foreign::{ForeignObject, describe},
    ids::Uid,
    names::{MemberName, annotation as key},
    reporting::note::Note,
};

/// Why a cluster must not be bootstrapped. Claims are not considered here: whether they can be adopted is decided in
/// `adoption.rs`.
pub fn blocks(input: &Input) -> Option<Note> {
    if input.facts.is_bootstrapped {
        return None;
    }
    let foreign = input.facts.foreign.iter().filter(|object| object.kind != "PersistentVolumeClaim");
    let (orphans, others): (Vec<_>, Vec<_>) = foreign.partition(|object| object.is_orphan);
    if !others.is_empty() {
        let message = format!("{}. Nothing was changed: remove it, or choose another name for the cluster", describe(others));
        return Some(Note::new(Reason::NameTaken, message));
    }
    (!orphans.is_empty()).then(|| Note::new(Reason::LeftoverObjects, how_to_remove(input, &orphans)))
}

/// How the user can remove the objects of a cluster that was deleted without them. Members serve as long as these exist, but
/// their certificates are not renewed. The claims and the CA Secrets are not among them, so that the data is adopted afterwards.
fn how_to_remove(input: &Input, orphans: &[&ForeignObject]) -> String {
    let described: Vec<_> = orphans.iter().map(|object| format!("{} {}", object.kind, object.name)).collect();
    // StatefulSets first: no pod is created again without what it needs.
    let (sets, rest): (Vec<&ForeignObject>, Vec<_>) = orphans.iter().copied().partition(|object| object.kind == "StatefulSet");
    let arguments = sets.into_iter().chain(rest).map(|object| format!("{}/{}", object.kind.to_lowercase(), object.name));
    format!(
        "an EtcdCluster of this name was deleted without what it owns (--cascade=orphan), and left {}. Nothing was changed. Its members run \
         without an operator until these objects are removed with `kubectl -n {} delete {}`. That stops the members and keeps their \
         data, which this EtcdCluster then adopts",
        described.join(", "),
        input.facts.names.namespace(),
        arguments.collect::<Vec<_>>().join(" "),
    )
}

/// The changes without those of objects that do not belong to the cluster, which are reported.
pub fn exclude(input: &Input, changes: Changes) -> Changes {
    let foreign = &input.facts.foreign;
    if foreign.is_empty() {
        return changes;
    }
    let is_own = |kind: &str, name: &str| !foreign.iter().any(|object| object.kind == kind && object.name == name);
    let mut rest = Changes {
        objects: changes.objects.into_iter().filter(|object| is_own(&object.resource.kind, &object.name)).collect(),
        expansion: changes.expansion.filter(|object| is_own("PersistentVolumeClaim", &object.name)),
        bootstrap: changes.bootstrap.filter(|object| is_own("ConfigMap", &object.name)),
        stateful_sets: changes.stateful_sets.into_iter().filter(|(_, object)| is_own("StatefulSet", &object.name)).collect(),
        ..changes
    };
    rest.merge(report(input));
    rest
}

/// What is reported about objects that do not belong to the cluster.
fn report(input: &Input) -> Changes {
    let (stripped, others): (Vec<&ForeignObject>, Vec<_>) =
        input.facts.foreign.iter().partition(|object| object.is_stripped_claim);
    let mut report = Changes::default();
    if !others.is_empty() {
        let message = format!("{}. It was not changed: remove it", describe(others));
        report = Changes { name_taken: Some(message.clone()), ..report }.problem(Reason::NameTaken, message);
    }
    for member in input.observed.members.keys() {
        let claim = input.facts.names.claim(member);
        if stripped.iter().any(|object| object.name == claim) {
            report = report.problem(Reason::AnnotationsLost, how_to_restore(input, member, &claim));
        }
    }
    report
}

/// How the user can restore the annotations of a claim.
fn how_to_restore(input: &Input, member: &MemberName, claim: &str) -> String {
    let (names, observed) = (input.facts.names, input.observed);
    let listed = observed.listed(names, member).map(|listed| listed.id);
    let id = listed.or_else(|| observed.reported(member)?.id);
    let uid: &Uid = input.facts.uid;
    let annotations = [
        Some(format!("{}={uid}", key::CLUSTER_UID)),
        observed.status.cluster_id.map(|id| format!("{}={id}", key::CLUSTER_ID)),
        id.map(|id| format!("{}={id}", key::MEMBER_ID)),
    ];
    format!(
        "PersistentVolumeClaim {claim} has lost the annotations that identify its member, and {member} uses it: do not remove it. \
         Restore them: `kubectl -n {} annotate pvc {claim} {}`",
        names.namespace(),
        annotations.into_iter().flatten().collect::<Vec<_>>().join(" "),
    )
}
