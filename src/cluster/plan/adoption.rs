//! Whether a new cluster takes over what a deleted one of its name has left: claims with data, and the authorities' Secrets.
//!
//! It does if they fit together: both authorities, and the claims of a majority of the members that the ledger of the peer domain
//! knows. Then the members start with their data and the authorities that they trust, and who is missing is replaced. Anything
//! else is refused, and nothing is touched.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Note, Step};
use crate::{
    cluster::{
        observed::{Authorities, Observed, annotation, belongs},
        validate::ValidatedCluster,
    },
    names::{MemberName, annotation as key},
    pki::Holder,
};

/// What is to become of what was left.
pub enum Verdict {
    /// Nothing was left, or the cluster has its own already.
    Nothing,
    /// It is taken over by this step.
    Fits(Step),
    /// It is not, because of this.
    Refused(Note),
}

/// An object that a deleted cluster has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Whether it is a member's claim; else it is an authority's Secret.
    pub claim: bool,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl Left {
    /// Its kind and name.
    pub fn describe(&self) -> String {
        format!("{} {}", if self.claim { "PersistentVolumeClaim" } else { "Secret" }, self.name)
    }

    fn new(claim: bool, meta: &ObjectMeta) -> Self {
        Self { claim, name: meta.name.clone().unwrap_or_default(), uid: meta.uid.clone().unwrap_or_default() }
    }
}

/// Whether an object stays: one with an owner, or that is being deleted, will be gone soon.
pub fn is_left(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_none() && meta.owner_references.iter().flatten().next().is_none()
}

/// Judges what is there under the cluster's names before the cluster has begun.
pub fn judge(cluster: &ValidatedCluster, observed: &Observed) -> Verdict {
    let begun = observed.bootstrap.as_ref().is_some_and(|config| belongs(&config.metadata, &cluster.uid));
    if begun || observed.status.cluster_id.is_some() {
        return Verdict::Nothing;
    }
    // The authorities first: once a claim is the cluster's own, it needs them.
    let secrets =
        [&observed.client_authority, &observed.peer_authority].into_iter().flatten().map(|secret| (false, &secret.meta));
    let claims = observed.members.values().filter_map(|member| Some((true, &member.claim.as_ref()?.metadata)));
    let all: Vec<_> = secrets.chain(claims).collect();
    let left: Vec<_> =
        all.iter().filter(|(_, meta)| !belongs(meta, &cluster.uid)).map(|(claim, meta)| Left::new(*claim, meta)).collect();
    if left.is_empty() {
        return Verdict::Nothing;
    }
    match fits(cluster, observed, &all) {
        Ok(from) => Verdict::Fits(Step::TakeOver { objects: left, from }),
        Err(problem) => Verdict::Refused(refusal(cluster, &left, &problem)),
    }
}

fn refusal(cluster: &ValidatedCluster, left: &[Left], problem: &str) -> Note {
    let (namespace, name) = (cluster.names.namespace(), cluster.names.cluster());
    let left: Vec<_> = left.iter().map(Left::describe).collect();
    Note::new(
        "DataLeft",
        format!(
            "a deleted EtcdCluster of this name has left {}, which cannot be taken over: {problem}. Nothing was touched: restore what \
             is missing, or copy the data that you need and remove them with `kubectl -n {namespace} delete pvc,secret -l \
             app.kubernetes.io/managed-by=etcd-warden,app.kubernetes.io/instance={name}`, or choose another name",
            left.join(", "),
        ),
    )
}

/// The uid of the cluster that all of it was of, or why it does not fit together. Part of it may be the new cluster's already.
fn fits(cluster: &ValidatedCluster, observed: &Observed, all: &[(bool, &ObjectMeta)]) -> Result<String, String> {
    let uid = whose(cluster, all)?;
    let secret = |secret: &Option<_>, name: String| {
        let secret = secret.as_ref().ok_or_else(|| format!("Secret {name} is missing"))?;
        Authorities::read(secret).map_err(|problem| format!("Secret {name}: {problem}"))
    };
    secret(&observed.client_authority, cluster.names.client_authority())?;
    let peer = secret(&observed.peer_authority, cluster.names.peer_authority())?;
    let claims: Vec<_> =
        observed.members.iter().filter_map(|(name, member)| Some((name, &member.claim.as_ref()?.metadata))).collect();
    let (mut clusters, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for (_, meta) in &claims {
        let name = meta.name.as_deref().unwrap_or_default();
        if let Some(survivor) = annotation(meta, key::GIVEN_UP_FOR) {
            return Err(format!("the data of PersistentVolumeClaim {name} was given up for that of {survivor}: delete it"));
        }
        let written = annotation(meta, key::CLUSTER_ID).zip(annotation(meta, key::MEMBER_ID));
        let (of, id) = written.ok_or_else(|| format!("it is not written on PersistentVolumeClaim {name} whose data it has"))?;
        clusters.insert(of);
        if !ids.insert(id) {
            return Err(format!("PersistentVolumeClaim {name} has the data of the same member as another"));
        }
    }
    if clusters.len() > 1 {
        return Err("the claims have the data of different clusters".into());
    }
    // Who was removed has been revoked; so this names the members, and nothing else does that outlives a cluster.
    let members: BTreeSet<MemberName> = peer
        .ledger
        .entries()
        .filter(|issued| issued.revoked.is_none())
        .filter_map(|issued| match &issued.holder {
            Holder::Member { name } => cluster.names.parse_member(name),
            _ => None,
        })
        .collect();
    let there = claims.iter().filter(|(name, _)| members.contains(name)).count();
    if there <= members.len() / 2 {
        let missing: Vec<_> = members
            .iter()
            .filter(|name| !claims.iter().any(|(there, _)| there == name))
            .map(|name| cluster.names.claim(name))
            .collect();
        return Err(format!(
            "only {there} of the {} members that it had have their claims; missing are {}",
            members.len(),
            missing.join(", ")
        ));
    }
    Ok(uid)
}

/// The uid of the one deleted cluster that everything is of, but for what is the new one's already.
fn whose(cluster: &ValidatedCluster, all: &[(bool, &ObjectMeta)]) -> Result<String, String> {
    let mut uids = BTreeSet::new();
    for (claim, meta) in all.iter().filter(|(_, meta)| !belongs(meta, &cluster.uid)) {
        let what = Left::new(*claim, meta).describe();
        let Some(uid) = annotation(meta, key::CLUSTER_UID) else {
            return Err(format!("{what} is not of an EtcdCluster"));
        };
        if !is_left(meta) {
            return Err(format!("{what} is being deleted with the cluster that it was of"));
        }
        uids.insert(uid);
    }
    match uids.into_iter().collect::<Vec<_>>().as_slice() {
        [uid] => Ok((*uid).to_owned()),
        _ => Err("they are of different clusters".into()),
    }
}

#[cfg(test)]
#[path = "adoption_tests.rs"]
mod tests;
