//! Whether a new cluster adopts the objects that a deleted cluster of the same name left: claims with data, and CA Secrets.
//!
//! It does if they are consistent: both CA Secrets exist, and so do the claims of a majority of the members in the ledger of the
//! peer domain. Then the members start with their data and with the authorities that they trust, and missing members are
//! replaced. Otherwise the adoption is refused, and nothing is changed.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::input::Input;
use crate::{
    api::Reason,
    cluster::{
        observed::ObservedMember,
        steps::{Adopt, Leftover, LeftoverKind, is_leftover},
    },
    ids::Uid,
    kubernetes::ownership::{annotation, belongs},
    names::{MemberName, annotation as key},
    pki::{Domain, Holder},
    reporting::note::Note,
};

/// What happens to leftovers.
pub enum Adoption {
    /// There are none, or the bootstrap of the cluster has begun.
    Nothing,
    /// They are adopted.
    Possible(Adopt),
    /// They are not adopted, for this reason.
    Refused(Note),
}

/// An object under the cluster's names that may outlive its cluster.
type Object<'a> = (LeftoverKind, &'a ObjectMeta);

/// Decides about the objects that exist under the cluster's names before its bootstrap.
pub fn decide(input: &Input) -> Adoption {
    let Input { observed, facts, .. } = input;
    if facts.bootstrap.is_some() || observed.has_come_up() {
        return Adoption::Nothing;
    }
    // The authorities first: once a claim belongs to the cluster, the cluster needs them.
    let secrets = observed.authorities.iter().filter_map(|(_, secret)| Some((LeftoverKind::Secret, &secret.as_ref()?.meta)));
    let claims = observed.members.values().filter_map(|member| Some((LeftoverKind::Claim, &member.claim.as_ref()?.metadata)));
    let all: Vec<Object> = secrets.chain(claims).collect();
    let foreign = all.iter().filter(|(_, meta)| !belongs(meta, facts.uid));
    let objects: Vec<_> = foreign.filter_map(|(kind, meta)| Leftover::of(*kind, meta)).collect();
    if objects.is_empty() {
        return Adoption::Nothing;
    }
    if let Some(note) = being_deleted(input, &all) {
        return Adoption::Refused(note);
    }
    match previous_owner(input, &all) {
        Ok(from) => Adoption::Possible(Adopt { objects, from }),
        Err(problem) => Adoption::Refused(refusal(input, &objects, &problem)),
    }
}

/// What goes with the deleted cluster and still exists. Removing it by hand could remove what a new cluster has by then.
fn being_deleted(input: &Input, all: &[Object]) -> Option<Note> {
    let is_going = |meta: &ObjectMeta| annotation(meta, key::CLUSTER_UID).is_some() && !is_leftover(meta);
    let going = all.iter().filter(|(_, meta)| !belongs(meta, input.facts.uid) && is_going(meta));
    let going: Vec<_> = going.filter_map(|(kind, meta)| Some(Leftover::of(*kind, meta)?.describe())).collect();
    let message = format!(
        "a deleted EtcdCluster of this name is still being deleted; this one waits until nothing is left of it: {}",
        going.join(", ")
    );
    (!going.is_empty()).then(|| Note::new(Reason::LeftoverData, message))
}

fn refusal(input: &Input, leftovers: &[Leftover], problem: &str) -> Note {
    let (namespace, name) = (input.facts.names.namespace(), input.facts.names.cluster());
    let leftovers: Vec<_> = leftovers.iter().map(Leftover::describe).collect();
    Note::new(
        Reason::LeftoverData,
        format!(
            "a deleted EtcdCluster of this name left {}, which cannot be adopted: {problem}. Nothing was changed: restore what is \
             missing, or copy the data that you need and remove them with `kubectl -n {namespace} delete --wait=false pvc,secret -l \
             app.kubernetes.io/managed-by=etcd-warden,app.kubernetes.io/instance={name}`, or choose another name",
            leftovers.join(", "),
        ),
    )
}

/// The uid of the cluster that all objects belonged to, or why they are inconsistent. Some may have been adopted already.
fn previous_owner(input: &Input, all: &[Object]) -> Result<Uid, String> {
    let Input { observed, facts, .. } = input;
    let uid = common_owner(input, all)?;
    let authorities = |domain: Domain| {
        let name = facts.names.authority(domain);
        let secret = observed.authorities[domain].as_ref().ok_or_else(|| format!("Secret {name} is missing"))?;
        secret.authorities().map_err(|problem| format!("Secret {name}: {problem}"))
    };
    authorities(Domain::Client)?;
    let peer = authorities(Domain::Peer)?;
    check_claims(observed.members.values())?;
    // The certificates of removed members were revoked, so the entries that are not revoked name the members. No other retained
    // object does.
    let issued = peer.ledger.entries().filter(|issued| issued.revoked.is_none());
    let members: BTreeSet<MemberName> = issued
        .filter_map(|issued| match &issued.holder {
            Holder::Member { name } => facts.names.parse_member(name),
            Holder::User { .. } | Holder::Operator => None,
        })
        .collect();
    let has_claim = |name: &MemberName| observed.members.get(name).is_some_and(|member| member.claim.is_some());
    let (existing, missing): (Vec<_>, Vec<_>) = members.iter().partition(|name| has_claim(name));
    if existing.len() <= members.len() / 2 {
        let missing: Vec<_> = missing.into_iter().map(|name| facts.names.claim(name)).collect();
        let (existing, all, missing) = (existing.len(), members.len(), missing.join(", "));
        return Err(format!("only {existing} of its {all} members have their claims; missing are {missing}"));
    }
    Ok(uid)
}

/// Checks that the claims have the data of different members of one cluster.
fn check_claims<'a>(members: impl Iterator<Item = &'a ObservedMember>) -> Result<(), String> {
    let (mut clusters, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for member in members {
        let Some(claim) = &member.claim else { continue };
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        if let Some(survivor) = annotation(&claim.metadata, key::DISCARDED_FOR) {
            return Err(format!(
                "the data of PersistentVolumeClaim {name} was discarded to recover the cluster from {survivor}: delete it"
            ));
        }
        let (Some(cluster), Some(id)) = member.recorded_ids() else {
            return Err(format!("PersistentVolumeClaim {name} lacks the annotations that identify its member"));
        };
        clusters.insert(cluster);
        if !ids.insert(id) {
            return Err(format!("PersistentVolumeClaim {name} has the data of the same member as another one"));
        }
    }
    if clusters.len() > 1 {
        return Err("the PersistentVolumeClaims have the data of different clusters".into());
    }
    Ok(())
}

/// The uid of the one deleted cluster that owned all objects that the new cluster does not own yet.
fn common_owner(input: &Input, all: &[Object]) -> Result<Uid, String> {
    let mut uids = BTreeSet::new();
    for (kind, meta) in all.iter().filter(|(_, meta)| !belongs(meta, input.facts.uid)) {
        let describe = || Leftover::of(*kind, meta).map(|object| object.describe()).unwrap_or_default();
        let Some(uid) = annotation(meta, key::CLUSTER_UID) else {
            return Err(format!("{} did not belong to an EtcdCluster", describe()));
        };
        uids.insert(uid);
    }
    match uids.into_iter().collect::<Vec<_>>().as_slice() {
        [uid] => Ok(Uid::from(*uid)),
        _ => Err("they belonged to different clusters".into()),
    }
}

#[cfg(test)]
#[path = "adoption_tests.rs"]
mod tests;
