//! Whether a user may have a certificate, and whether the existing one is up to date. Pure.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kube::{Resource, ResourceExt};

use crate::{
    api::{CertificateSpec, EtcdCluster, EtcdUser, Reason},
    certificates::{
        authorities::Authorities,
        contents,
        issuers::issuers,
        leaf::{DesiredLeaf, LeafKeys, SignedBy},
        lifetimes::{leaf_lifetime, lifetimes},
        probes::{ProbeSpec, issuer_probes},
        requests::{SecretChange, changed_files, request_leaf},
        secret::CachedSecret,
        state::{AuthorityState, authority_state},
    },
    ids::Uid,
    kubernetes::ownership::{belongs, describe_owner},
    names::{Names, annotation as key, common_name, label, tls_key, user_common_name, user_secret},
    pki::{Domain, Holder, Issued, PerDomain},
    reporting::note::Note,
};

/// The observed state of a user, its Secret and its cluster.
#[derive(Clone, Debug)]
pub struct ObservedUser {
    /// The user's uid.
    pub uid: Uid,
    /// The names of the cluster's objects.
    pub names: Names,
    /// The cluster, if it exists.
    pub cluster: Option<EtcdCluster>,
    /// The Secret with the authorities of its client domain.
    pub authority: Option<CachedSecret>,
    /// The Secret under the user's name for it.
    pub secret: Option<CachedSecret>,
    /// The other users in the namespace, at least those with which this one [`competes`].
    pub others: Vec<EtcdUser>,
}

/// What is to be done for a user.
#[derive(Clone, Debug, PartialEq)]
pub enum UserPlan {
    /// No certificate is issued.
    Blocked(Obstacle),
    /// The Secret is created or changed.
    Issue(Box<UserChange>),
    /// The Secret is up to date.
    Nothing,
}

/// A change of a user's Secret.
#[derive(Clone, Debug, PartialEq)]
pub struct UserChange {
    /// The Secret, with the certificate to issue, if one is due.
    pub secret: SecretChange,
    /// How to learn the authorities of the issuers in the cluster's spec, if that part of it is valid.
    pub probes: Option<PerDomain<ProbeSpec>>,
}

/// Why no certificate is issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The spec cannot be fulfilled unless a person changes something.
    Refused(Note),
    /// Something does not exist yet.
    Waiting(Note),
    /// Nothing can be issued for now. An existing certificate stays in use until it expires.
    Suspended(Note),
}

/// Plans what is to be done for a user.
pub fn plan(user: &EtcdUser, observed: &ObservedUser, now: Timestamp) -> UserPlan {
    match try_plan(user, observed, now) {
        Ok(Some(secret)) => UserPlan::Issue(Box::new(UserChange { secret, probes: probes(observed) })),
        Ok(None) => UserPlan::Nothing,
        Err(obstacle) => UserPlan::Blocked(obstacle),
    }
}

fn try_plan(user: &EtcdUser, observed: &ObservedUser, now: Timestamp) -> Result<Option<SecretChange>, Obstacle> {
    let duration = leaf_lifetime("spec.certificate.duration", &user.spec.certificate.duration).map_err(invalid);
    // The rules of the version that accepted the spec may have been others. What was issued is renewed nevertheless.
    let lifetime = match (&duration, &observed.secret) {
        (Ok(duration), _) => *duration,
        (Err(_), Some(_)) => leaf_lifetime("", &CertificateSpec::default().duration).map_err(invalid)?,
        (Err(problem), None) => return Err(problem.clone()),
    };
    check_not_revoked(user, observed)?;
    check_common_name(user)?;
    check_names_are_free(user, observed)?;
    let authorities = authorities(user, observed)?;
    check_owner(user, observed)?;
    let can_sign = authorities.can_sign(now);
    if observed.secret.is_none() && !can_sign {
        return Err(cannot_sign(&authorities, now));
    }
    // The trust bundle of an existing Secret is kept up to date even while nothing can be signed.
    let change = secret_change(user, observed, &authorities, lifetime, now);
    if !change.leaves.is_empty() || !change.files.is_empty() {
        Ok(Some(change))
    } else if can_sign {
        duration.map(|_| None).map_err(|problem| match problem {
            Obstacle::Refused(note) => Obstacle::Suspended(note),
            other => other,
        })
    } else {
        Err(cannot_sign(&authorities, now))
    }
}

fn refused(reason: Reason, message: impl Into<String>) -> Obstacle {
    Obstacle::Refused(Note::new(reason, message))
}

fn invalid(message: impl Into<String>) -> Obstacle {
    refused(Reason::InvalidSpec, message)
}

fn waiting(reason: Reason, message: impl Into<String>) -> Obstacle {
    Obstacle::Waiting(Note::new(reason, message))
}

fn suspended(reason: Reason, message: impl Into<String>) -> Obstacle {
    Obstacle::Suspended(Note::new(reason, message))
}

/// A user that is annotated for revocation gets no certificate. The cluster's next pass revokes those that it has.
fn check_not_revoked(user: &EtcdUser, observed: &ObservedUser) -> Result<(), Obstacle> {
    if !user.annotations().contains_key(key::REVOKE) {
        return Ok(());
    }
    let is_live = |issued: &Issued| {
        let holds = matches!(&issued.holder, Holder::User { uid, .. } if *uid == observed.uid);
        holds && issued.revoked.is_none()
    };
    let authorities = observed.authority.as_ref().and_then(|secret| secret.authorities().ok());
    let all_revoked = authorities.is_some_and(|authorities| !authorities.ledger.entries().any(is_live));
    let message = if all_revoked {
        format!("its certificates are revoked; remove annotation {} to have a new one issued", key::REVOKE)
    } else {
        let cluster = &user.spec.cluster_ref.name;
        format!(
            "its certificates are being revoked by EtcdCluster {cluster}, which cannot do so while it is paused or its client CA is lost"
        )
    };
    Err(refused(Reason::Revoked, message))
}

fn check_common_name(user: &EtcdUser) -> Result<(), Obstacle> {
    let name = user_common_name(user);
    if name == common_name::OPERATOR || name.starts_with(common_name::RESERVED_PREFIX) {
        return Err(invalid(format!(
            "the common name {name} is the operator's own (root and etcd-warden:* are); recreate this EtcdUser with another \
             spec.commonName"
        )));
    }
    // X.520 counts characters, as the API server does, and not octets.
    if name.is_empty() || name.chars().count() > 64 {
        let message = "a common name must have 1 to 64 characters; recreate this EtcdUser with another spec.commonName";
        return Err(invalid(message));
    }
    Ok(())
}

/// Whether two users of one namespace cannot both have what their specs name: a Secret, or a common name in one cluster.
pub fn competes(user: &EtcdUser, other: &EtcdUser) -> bool {
    has_same_secret(user, other) || has_same_common_name(user, other)
}

fn has_same_secret(user: &EtcdUser, other: &EtcdUser) -> bool {
    user_secret(user) == user_secret(other)
}

fn has_same_common_name(user: &EtcdUser, other: &EtcdUser) -> bool {
    user.spec.cluster_ref == other.spec.cluster_ref && user_common_name(user) == user_common_name(other)
}

/// Of two users that compete the older one is served.
fn check_names_are_free(user: &EtcdUser, observed: &ObservedUser) -> Result<(), Obstacle> {
    let older: Vec<_> = observed.others.iter().filter(|other| seniority(other) < seniority(user)).collect();
    if let Some(other) = older.iter().find(|other| has_same_secret(user, other)) {
        let (other, secret) = (other.name_any(), user_secret(user));
        let message =
            format!("EtcdUser {other} has the Secret {secret} already; recreate this EtcdUser with another spec.secretName");
        return Err(refused(Reason::SecretNameTaken, message));
    }
    if let Some(other) = older.iter().find(|other| has_same_common_name(user, other)) {
        let (other, name) = (other.name_any(), user_common_name(user));
        let message =
            format!("EtcdUser {other} has the common name {name} already; recreate this EtcdUser with another spec.commonName");
        return Err(refused(Reason::CommonNameTaken, message));
    }
    Ok(())
}

/// Orders users, the oldest first. Creation times are whole seconds: of two in the same second, the one with a certificate counts as older.
fn seniority(user: &EtcdUser) -> (Option<Timestamp>, bool, Option<String>) {
    let has_no_certificate = user.status.as_ref().is_none_or(|status| status.serial.is_none());
    (user.creation_timestamp().map(|created| created.0), has_no_certificate, user.uid())
}

/// The client authorities of the user's cluster.
fn authorities(user: &EtcdUser, observed: &ObservedUser) -> Result<Arc<Authorities>, Obstacle> {
    let name = &user.spec.cluster_ref.name;
    let existing = observed.cluster.as_ref().and_then(|cluster| Some((cluster, Uid::of(&cluster.metadata)?)));
    let Some((cluster, uid)) = existing else {
        let message = format!("there is no EtcdCluster {name} in this namespace; waiting for it");
        return Err(waiting(Reason::ClusterNotFound, message));
    };
    if cluster.spec.paused {
        return Err(suspended(Reason::ClusterPaused, format!("EtcdCluster {name} is paused; no certificates are issued")));
    }
    let reported = cluster.status.as_ref().and_then(|status| status.certificates.as_ref()?.client.as_ref());
    match authority_state(observed.authority.as_ref(), &observed.names.client_authority(), reported, &uid, false) {
        AuthorityState::Ready(authorities) => Ok(authorities),
        AuthorityState::Absent => {
            Err(waiting(Reason::ClusterNotReady, format!("EtcdCluster {name} has no client CA yet; waiting for it")))
        }
        AuthorityState::Lost(problem) => Err(suspended(Reason::CALost, format!("{problem}; no certificate can be issued"))),
    }
}

/// A Secret that exists already is used only if it is this user's.
fn check_owner(user: &EtcdUser, observed: &ObservedUser) -> Result<(), Obstacle> {
    match &observed.secret {
        Some(secret) if !belongs(&secret.meta, &observed.uid) => {
            let message = format!("Secret {} cannot be used: {}", user_secret(user), describe_owner(&secret.meta));
            Err(refused(Reason::NameTaken, message))
        }
        _ => Ok(()),
    }
}

fn cannot_sign(authorities: &Authorities, now: Timestamp) -> Obstacle {
    if authorities.is_in_force(now) {
        let message = "the issuer signs with another CA; no certificate is issued until that CA is trusted everywhere";
        suspended(Reason::WaitingForIssuer, message)
    } else {
        let message = "the client CA is lost or has expired; no certificate can be issued until the next CA signs";
        suspended(Reason::CALost, message)
    }
}

/// What has to be written into the user's Secret. It may be nothing.
fn secret_change(
    user: &EtcdUser,
    observed: &ObservedUser,
    authorities: &Authorities,
    duration: SignedDuration,
    now: Timestamp,
) -> SecretChange {
    let secret = observed.secret.as_ref();
    let spec = contents::client(user_common_name(user), duration);
    let keys = LeafKeys { certificate: tls_key::CRT, private_key: tls_key::KEY };
    let leaf = DesiredLeaf { domain: Domain::Client, signed_by: SignedBy::Active, spec, keys };
    let holder = Holder::User { name: user.name_any(), uid: observed.uid.clone() };
    let endpoint = observed.names.endpoint();
    let files = [(tls_key::CA, authorities.roots.as_bytes()), (tls_key::ENDPOINTS, endpoint.as_bytes())];
    let mut labels = label::of_cluster(observed.names.cluster());
    labels.insert(label::USER.into(), user.name_any());
    SecretChange {
        name: user_secret(user),
        version: secret.and_then(|secret| secret.meta.resource_version.clone()),
        type_: "kubernetes.io/tls",
        labels,
        leaves: request_leaf(secret, &leaf, &holder, authorities, now).into_iter().collect(),
        files: changed_files(secret, files),
        obsolete: vec![],
    }
}

/// How to learn the authorities of the issuers in the cluster's spec; `None` if the issuers or the lifetimes in it are invalid.
fn probes(observed: &ObservedUser) -> Option<PerDomain<ProbeSpec>> {
    let cluster = observed.cluster.as_ref()?;
    let (spec, owner) = (&cluster.spec, cluster.controller_owner_ref(&())?);
    let issuers = issuers(&spec.tls).ok()?;
    let lifetimes = PerDomain::from_fn(|domain| lifetimes(domain, &spec.tls).ok()).both()?;
    Some(issuer_probes(&observed.names, &owner, spec, &issuers, &lifetimes))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
