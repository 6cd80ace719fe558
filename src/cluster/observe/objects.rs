//! The objects of a cluster, from the watches.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, Resource, ResourceExt};

use crate::{
    api::{EtcdCluster, EtcdUser},
    cache::{Kept, Scope},
    certificates::secret::CachedSecret,
    cluster::observed::{Observed, ObservedMember},
    context::Context,
    ids::Uid,
    kubernetes::ownership::belongs,
    names::{MemberName, Names, annotation as key, authority_key, bootstrap_key, label, user_secret},
    pki::PerDomain,
};

/// The objects of a cluster that the watches have.
pub fn read(context: &Context, cluster: &EtcdCluster, names: &Names) -> Observed {
    let scope = &context.scope;
    let namespace = names.namespace();
    let bootstrap = scope.config_maps.get(namespace, &names.bootstrap_config());

    // The bootstrap ConfigMap, StatefulSets, claims and the last status name the members.
    let mut known: BTreeSet<MemberName> = BTreeSet::new();
    let recorded = bootstrap.iter().flat_map(|config| config.data.iter().flatten());
    known.extend(recorded.filter_map(|(key, _)| names.parse_member(key.strip_suffix(bootstrap_key::STATE_SUFFIX)?)));
    let reported = cluster.status.iter().flat_map(|status| &status.members);
    known.extend(reported.filter_map(|member| names.parse_member(&member.name)));
    known.extend(labelled(&scope.stateful_sets, names));
    known.extend(labelled(&scope.claims, names));

    let members = known.into_iter().map(|name| {
        let member = read_member(context, names, &name);
        (name, member)
    });
    let users = scope.users.of_namespace(namespace);
    Observed {
        status: cluster.status.clone().unwrap_or_default(),
        client_service: scope.services.get(namespace, &names.client_service()),
        peer_service: scope.services.get(namespace, &names.peer_service()),
        disruption_budget: scope.budgets.get(namespace, &names.disruption_budget()),
        ca_config: scope.config_maps.get(namespace, &names.ca_config()),
        authorities: PerDomain::from_fn(|domain| scope.secret(namespace, &names.authority(domain))),
        operator: scope.secret(namespace, &names.operator_secret()),
        members: members.collect(),
        bootstrap,
        // An EtcdUser that cannot be deserialized exists as well.
        users: users
            .iter()
            .filter(|user| !user.annotations().contains_key(key::REVOKE))
            .filter_map(|user| Some((Uid::of(user.meta())?, user.name_any())))
            .collect(),
        user_secrets: user_secrets(scope, names),
        ..Observed::default()
    }
}

/// The Secrets of a cluster's users, which matter while its client authority is being rotated.
fn user_secrets(scope: &Scope, names: &Names) -> BTreeMap<String, CachedSecret> {
    let authority = scope.secret(names.namespace(), &names.client_authority());
    if !authority.is_some_and(|secret| secret.data.contains_key(authority_key::ROTATION)) {
        return BTreeMap::new();
    }
    // A rotation does not wait for a revoked user, nor for a user whose Secret has another owner.
    let is_revoked = |user: &&EtcdUser| user.annotations().contains_key(key::REVOKE);
    let secret = |user: &EtcdUser| {
        let secret = scope.secret(names.namespace(), &user_secret(user))?;
        belongs(&secret.meta, &Uid::of(&user.metadata)?).then_some(secret)
    };
    let users = scope.users.of_cluster(names.namespace(), names.cluster());
    let users = users.iter().filter_map(|user| user.0.as_ref().ok()).filter(|user| !is_revoked(user));
    users.filter_map(|user| Some((user.name_any(), secret(user)?))).collect()
}

/// The objects of a member.
pub fn read_member(context: &Context, names: &Names, name: &MemberName) -> ObservedMember {
    let (scope, namespace) = (&context.scope, names.namespace());
    let pod = scope.pods.get(namespace, &names.pod(name));
    let uid = pod.as_ref().and_then(|pod| Uid::of(&pod.metadata));
    ObservedMember {
        claim: scope.claims.get(namespace, &names.claim(name)),
        stateful_set: scope.stateful_sets.get(namespace, name.as_str()),
        seen_running: uid.and_then(|uid| scope.seen_running(&uid).try_into().ok()).unwrap_or_default(),
        pod,
        secret: scope.secret(namespace, &names.member_secret(name)),
        ..ObservedMember::default()
    }
}

/// Reads the claims that the watch does not have although their members have other objects: a claim that has lost its labels is
/// not watched, and must not count as lost.
pub async fn read_unwatched_claims(context: &Context, names: &Names, observed: &mut Observed) {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), names.namespace());
    let is_missing = |(name, member): &(&MemberName, &ObservedMember)| {
        let may_exist = observed.reported(name).is_some() || member.stateful_set.is_some();
        member.claim.is_none() && !member.is_in_pod() && may_exist
    };
    let missing: Vec<_> = observed.members.iter().filter(is_missing).map(|(name, _)| name.clone()).collect();
    for name in missing {
        let found = claims.get_opt(&names.claim(&name)).await;
        if let Some(member) = observed.members.get_mut(&name) {
            member.claim_unread = found.is_err();
            member.claim = found.unwrap_or_default().map(Into::into);
        }
    }
}

/// The members named by the labels of the objects of a cluster.
fn labelled<K: Resource<DynamicType = ()> + Clone + 'static>(kept: &Kept<K>, names: &Names) -> Vec<MemberName> {
    let member = |object: &Arc<K>| {
        let labels = object.meta().labels.as_ref()?;
        let is_own = object.meta().namespace.as_deref() == Some(names.namespace())
            && labels.get(label::INSTANCE).map(String::as_str) == Some(names.cluster());
        names.parse_member(labels.get(label::MEMBER).filter(|_| is_own)?)
    };
    kept.state().iter().filter_map(member).collect()
}
