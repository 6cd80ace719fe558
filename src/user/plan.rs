//! Whether a user may have a certificate, and whether the one there is will do. Pure.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use kube::ResourceExt;

use crate::{
    api::{EtcdCluster, EtcdUser},
    cluster::{
        build,
        observed::{Authorities, SeenSecret, belongs},
        plan::{AuthorityState, Note, SecretChange, authority_of, changed_files, owner_in_words, request_leaf},
        validate,
    },
    names::{self, Names, annotation, label, tls_key},
    pki::{Domain, Holder, Issued, LeafSpec, Usage},
};

/// What there is around a user.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The names of the cluster's objects.
    pub names: Names,
    /// The cluster, if it is there.
    pub cluster: Option<EtcdCluster>,
    /// The authorities of its client domain.
    pub authority: Option<SeenSecret>,
    /// The user's Secret.
    pub secret: Option<SeenSecret>,
    /// The other users in the namespace.
    pub others: Vec<EtcdUser>,
}

/// What is to be done for a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The spec can't be served; somebody must change something.
    Refused(Note),
    /// Something is not there yet.
    Waiting(Note),
    /// Nothing can be issued for now; what there is goes on until it expires.
    Held(Note),
    /// The Secret is to be made or changed.
    Issue(SecretChange),
    /// All is as it should be.
    Nothing,
}

/// The common name of a user's certificate.
pub fn common_name(user: &EtcdUser) -> String {
    user.spec.common_name.clone().unwrap_or_else(|| user.name_any())
}

/// The name of a user's Secret.
pub fn secret_name(user: &EtcdUser) -> String {
    user.spec.secret_name.clone().unwrap_or_else(|| names::default_user_secret(&user.name_any()))
}

/// What is to be done for a user.
pub fn plan(user: &EtcdUser, observed: &Observed, now: Timestamp) -> Plan {
    let duration = match validate::check_leaf("spec.certificate.duration", &user.spec.certificate.duration) {
        Ok(duration) => duration,
        Err(problem) => return Plan::Refused(Note::new("InvalidSpec", problem)),
    };
    if user.annotations().contains_key(annotation::REVOKE) {
        return Plan::Refused(Note::new("Revoked", revoked(user, observed)));
    }
    if let Some(refusal) = refuse(user, observed) {
        return Plan::Refused(refusal);
    }
    let cluster = &user.spec.cluster_ref.name;
    let Some(there) = &observed.cluster else {
        return Plan::Waiting(Note::new(
            "ClusterNotFound",
            format!("there is no EtcdCluster {cluster} in this namespace; waiting for it"),
        ));
    };
    if there.spec.paused {
        return Plan::Held(Note::new("ClusterPaused", format!("EtcdCluster {cluster} is paused; nothing is issued")));
    }
    let authorities = match authority(there, observed) {
        Ok(authorities) => authorities,
        Err(plan) => return *plan,
    };
    let uid = user.uid().unwrap_or_default();
    if let Some(secret) = &observed.secret
        && !belongs(&secret.meta, &uid)
    {
        return Plan::Refused(Note::new(
            "NameTaken",
            format!("Secret {} cannot be used: {}", secret_name(user), owner_in_words(&secret.meta)),
        ));
    }
    let secret = observed.secret.as_ref();
    let held = || {
        let (reason, why) =
            if authorities.is_in_force(now) { ("WaitingForIssuer", MOVED_ON) } else { ("AuthorityLost", CANNOT_SIGN) };
        Plan::Held(Note::new(reason, why))
    };
    if secret.is_none() && !authorities.signs(now) {
        return held();
    }
    let spec = LeafSpec {
        common_name: common_name(user),
        dns_names: BTreeSet::new(),
        ip_addresses: BTreeSet::new(),
        usage: Usage::Client,
        duration,
    };
    let holder = Holder::User { name: user.name_any(), uid };
    let leaf = request_leaf(secret, &(Domain::Client, spec, [tls_key::CRT, tls_key::KEY]), &holder, &authorities, now);
    let endpoint = observed.names.endpoint();
    let files = [(tls_key::CA, authorities.roots.as_bytes()), (tls_key::ENDPOINTS, endpoint.as_bytes())];
    let mut labels = build::selector(cluster);
    labels.insert(label::USER.into(), user.name_any());
    let change = SecretChange {
        name: secret_name(user),
        version: secret.and_then(|secret| secret.meta.resource_version.clone()),
        type_: "kubernetes.io/tls",
        labels,
        leaves: leaf.into_iter().collect(),
        files: changed_files(secret, files),
    };
    if !change.leaves.is_empty() || !change.files.is_empty() {
        Plan::Issue(change)
    } else if authorities.signs(now) {
        Plan::Nothing
    } else {
        held()
    }
}

const MOVED_ON: &str = "the issuer signs by another authority, which is being trusted everywhere first";
const CANNOT_SIGN: &str = "the authority is lost or has expired; nothing can be issued until the next one signs";

/// How far a revocation has come that its user asked for: the cluster's next pass does it.
fn revoked(user: &EtcdUser, observed: &Observed) -> String {
    let uid = user.uid().unwrap_or_default();
    let holds = |issued: &Issued| matches!(&issued.holder, Holder::User { uid: holder, .. } if *holder == uid);
    let authorities = observed.authority.as_ref().and_then(|secret| Authorities::read(secret).ok());
    let done = authorities.is_some_and(|all| !all.ledger.entries().any(|issued| issued.revoked.is_none() && holds(issued)));
    let wish = annotation::REVOKE;
    if done {
        format!("its certificates are revoked; it gets another when annotation {wish} is taken off")
    } else {
        let cluster = &user.spec.cluster_ref.name;
        format!(
            "its certificates are not revoked yet: EtcdCluster {cluster} is about to, unless it is paused or its authority is lost"
        )
    }
}

fn authority(cluster: &EtcdCluster, observed: &Observed) -> Result<Arc<Authorities>, Box<Plan>> {
    let reported = cluster.status.as_ref().and_then(|status| status.certificates.as_ref()?.client.as_ref());
    let uid = cluster.uid().unwrap_or_default();
    match authority_of(observed.authority.as_ref(), || observed.names.client_authority(), reported, &uid, false) {
        AuthorityState::Ready(authorities) => Ok(authorities),
        AuthorityState::Absent => {
            let message = format!("EtcdCluster {} has no certificate authority yet", cluster.name_any());
            Err(Box::new(Plan::Waiting(Note::new("ClusterNotReady", message))))
        }
        AuthorityState::Lost(problem) => {
            Err(Box::new(Plan::Held(Note::new("AuthorityLost", format!("{problem}; nothing can be issued")))))
        }
    }
}

/// What keeps a user from ever being served as it is. Of two users with one name, the older has it.
fn refuse(user: &EtcdUser, observed: &Observed) -> Option<Note> {
    let name = common_name(user);
    let invalid = |message: String| Some(Note::new("InvalidSpec", message));
    if name == names::common_name::OPERATOR || name.starts_with(names::common_name::RESERVED_PREFIX) {
        return invalid(format!(
            "the common name {name} is the operator's own (root and etcd-warden:* are); set another spec.commonName"
        ));
    }
    if name.is_empty() || name.len() > 64 {
        return invalid("a certificate's common name has 1 to 64 characters; set spec.commonName".into());
    }
    let older = |other: &&EtcdUser| {
        // Times are whole seconds; of two in one, the one that has a certificate already.
        let waits = |user: &EtcdUser| user.status.as_ref().is_none_or(|status| status.serial.is_none());
        let age = |user: &EtcdUser| (user.creation_timestamp().map(|at| at.0), waits(user), user.uid());
        age(other) < age(user)
    };
    let others: Vec<_> = observed.others.iter().filter(older).collect();
    if let Some(other) = others.iter().find(|other| secret_name(other) == secret_name(user)) {
        let message =
            format!("EtcdUser {} has the Secret {} already; set another spec.secretName", other.name_any(), secret_name(user));
        return Some(Note::new("SecretNameTaken", message));
    }
    let same = |other: &&&EtcdUser| other.spec.cluster_ref == user.spec.cluster_ref && common_name(other) == name;
    let other = others.iter().find(same)?;
    let message = format!("EtcdUser {} has the common name {name} already; set another spec.commonName", other.name_any());
    Some(Note::new("CommonNameTaken", message))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
