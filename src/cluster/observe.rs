//! Reads Kubernetes, from what is kept of it, and asks every member.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::{join, join_all};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::{
    Api, Resource, ResourceExt,
    api::ListParams,
    runtime::reflector::{ObjectRef, Store},
};

use tokio::time::timeout;

use super::{
    Context,
    observed::{
        Answer, Home, NoOffer, Observed, ObservedMember, Offered, SecretView, SeenSecret, annotation, belongs, is_unscheduled,
        name_of, pod_ready, running_since,
    },
    plan::inquiry,
    seen::Seen,
    validate::ValidatedCluster,
};
use crate::{
    api::{EtcdCluster, EtcdUser},
    cache::{Guarded, Scope},
    etcd::{MemberList, MemberStatus, Target, Tls},
    issuing::find_offer,
    k8s::KeySecret,
    names::{
        CLIENT_PORT, METRICS_PORT, MemberName, Names, PEER_PORT, annotation as key, authority_key, bootstrap_key, label,
        member_key, tls_key,
    },
    pki::{Authority, Domain, Issuer, Offer, PkiError, PrivateKey},
};

/// How the operator shows itself to the members of one cluster.
#[derive(Clone)]
pub struct Identity(pub Arc<Tls>);

/// The identities, each kept until its Secret changes: reading a key and building a configuration from it is what costs.
#[derive(Default)]
pub struct Identities(Mutex<HashMap<(String, String), (String, Identity)>>);

impl Identities {
    /// Forgets a cluster that is gone.
    pub fn forget(&self, namespace: &str, cluster: &str) {
        self.kept().remove(&(namespace.to_owned(), cluster.to_owned()));
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), (String, Identity)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn of(&self, context: &Context, names: &Names, secret: &SecretView) -> Result<Identity, String> {
        let id = (names.namespace().to_owned(), names.cluster().to_owned());
        let version = secret.meta.resource_version.clone().unwrap_or_default();
        if let Some((of, identity)) = self.kept().get(&id)
            && *of == version
        {
            return Ok(identity.clone());
        }
        let secrets: Api<Secret> = Api::namespaced(context.client.clone(), names.namespace());
        let secret = KeySecret::get(&secrets, &names.operator_secret()).await.map_err(|e| e.to_string())?;
        let secret = secret.ok_or_else(|| format!("Secret {} is gone", names.operator_secret()))?;
        let (crt, key) = (secret.bytes(tls_key::CRT), secret.bytes(tls_key::KEY));
        let tls = Tls::new(secret.bytes(tls_key::CA), Some((crt, key))).map_err(|e| e.to_string())?;
        let identity = Identity(Arc::new(tls));
        let version = secret.0.metadata.resource_version.clone().unwrap_or_default();
        self.kept().insert(id, (version, identity.clone()));
        Ok(identity)
    }
}

/// Everything there is to know of a cluster, and the identity with which its members were asked.
pub async fn observe(context: &Context, cluster: &EtcdCluster, now: Timestamp) -> (Observed, Option<Identity>) {
    let names = Names::new(&cluster.name_any(), &cluster.namespace().unwrap_or_default(), &context.domain);
    let mut observed = read(context, cluster, &names);
    find_claims(context, &names, &mut observed).await;
    let identity = match &observed.operator {
        None => Err("the operator has no certificate for it yet".to_owned()),
        Some(secret) => context.identities.of(context, &names, secret).await,
    };
    match &identity {
        Err(problem) => observed.list = Err(problem.clone()),
        Ok(identity) => {
            ask(context, &names, &mut observed, identity, now).await;
            find_homes(context, &mut observed).await;
            let list = timeout(LIST, member_list(context, &names, answering(&observed), identity)).await;
            observed.list = list.unwrap_or_else(|_| Err("no member gave a list that a quorum confirms in time".into()));
            if observed.list.is_err() && observed.status.cluster_id.is_some() {
                ask_progress(context, &names, &mut observed).await;
            }
            // A member may be listed before there is anything else of it.
            if let Ok(list) = &observed.list {
                for name in list.members.iter().filter_map(|listed| name_of(&names, list, listed)) {
                    let found = find(context, &names, &name);
                    observed.members.entry(name).or_insert(found);
                }
            }
        }
    }
    (observed, identity.ok())
}

fn read(context: &Context, cluster: &EtcdCluster, names: &Names) -> Observed {
    let scope = &context.scope;
    let namespace = names.namespace();
    let secret = |name: String| get(&scope.secrets, namespace, &name).map(|secret| SecretView::new(&secret).into());
    let bootstrap = get(&scope.config_maps, namespace, &names.bootstrap_config());

    // A member leaves its trace in the bootstrap ConfigMap, in a StatefulSet, in a claim and in what was last reported.
    let mut traced: BTreeSet<MemberName> = BTreeSet::new();
    let written = bootstrap.iter().flat_map(|config| config.data.iter().flatten());
    traced.extend(written.filter_map(|(key, _)| names.parse_member(key.strip_suffix(bootstrap_key::STATE_SUFFIX)?)));
    let reported = cluster.status.iter().flat_map(|status| &status.members);
    traced.extend(reported.filter_map(|member| names.parse_member(&member.name)));
    traced.extend(labelled(&scope.stateful_sets, names));
    traced.extend(labelled(&scope.claims, names));

    let members = traced.into_iter().map(|name| {
        let member = find(context, names, &name);
        (name, member)
    });
    let users = scope.users.state();
    Observed {
        status: cluster.status.clone().unwrap_or_default(),
        client_service: get(&scope.services, namespace, &names.client_service()),
        peer_service: get(&scope.services, namespace, &names.peer_service()),
        disruption_budget: get(&scope.budgets, namespace, &names.disruption_budget()),
        ca_config: get(&scope.config_maps, namespace, &names.ca_config()),
        client_authority: secret(names.client_authority()),
        peer_authority: secret(names.peer_authority()),
        operator: secret(names.operator_secret()),
        members: members.collect(),
        bootstrap,
        // One that cannot be read is there all the same.
        users: users
            .iter()
            .filter(|user| user.namespace().as_deref() == Some(namespace) && !user.annotations().contains_key(key::REVOKE))
            .filter_map(|user| user.uid())
            .collect(),
        user_secrets: user_secrets(scope, names, &users),
        ..Observed::default()
    }
}

/// The Secrets of a cluster's users, where they matter: while its client authority is being rotated.
fn user_secrets(scope: &Scope, names: &Names, users: &[Arc<Guarded<EtcdUser>>]) -> BTreeMap<String, SeenSecret> {
    let authority = get(&scope.secrets, names.namespace(), &names.client_authority());
    let rotating =
        authority.is_some_and(|secret| secret.data.as_ref().is_some_and(|data| data.contains_key(authority_key::ROTATION)));
    let is_ours = |user: &&EtcdUser| {
        user.namespace().as_deref() == Some(names.namespace()) && user.spec.cluster_ref.name == names.cluster()
    };
    // Whoever has been revoked is not waited for, nor whose Secret is another's.
    let may = |user: &&EtcdUser| !user.annotations().contains_key(key::REVOKE);
    let secret = |user: &EtcdUser| {
        let secret = get(&scope.secrets, names.namespace(), &crate::user::secret_name(user))?;
        belongs(&secret.metadata, user.metadata.uid.as_deref()?).then(|| SecretView::new(&secret).into())
    };
    let users = users.iter().filter(|_| rotating).filter_map(|user| user.0.as_ref().ok());
    users.filter(is_ours).filter(may).filter_map(|user| Some((user.name_any(), secret(user)?))).collect()
}

fn find(context: &Context, names: &Names, name: &MemberName) -> ObservedMember {
    let (scope, namespace) = (&context.scope, names.namespace());
    ObservedMember {
        claim: get(&scope.claims, namespace, &names.claim(name)),
        stateful_set: get(&scope.stateful_sets, namespace, name.as_str()),
        pod: get(&scope.pods, namespace, &names.pod(name)),
        secret: get(&scope.secrets, namespace, &names.member_secret(name)).map(|secret| SecretView::new(&secret).into()),
        ..ObservedMember::default()
    }
}

fn get<K: Resource<DynamicType = ()> + Clone + 'static>(store: &Store<K>, namespace: &str, name: &str) -> Option<Seen<K>> {
    store.get(&ObjectRef::new(name).within(namespace)).map(Into::into)
}

/// Reads claims that are missing from what is kept of Kubernetes though there is more of their members: one that has lost its
/// labels is not among what is watched, and must not be taken for lost data.
async fn find_claims(context: &Context, names: &Names, observed: &mut Observed) {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), names.namespace());
    let reported = |name: &MemberName| observed.status.members.iter().any(|member| member.name == name.as_str());
    let missing = |(name, member): &(&MemberName, &ObservedMember)| {
        member.claim.is_none() && (reported(name) || member.stateful_set.is_some())
    };
    let missing: Vec<_> = observed.members.iter().filter(missing).map(|(name, _)| name.clone()).collect();
    for name in missing {
        let found = claims.get_opt(&names.claim(&name)).await;
        if let Some(member) = observed.members.get_mut(&name) {
            member.claim_unread = found.is_err();
            member.claim = found.unwrap_or_default().map(Into::into);
        }
    }
}

/// Looks by which authorities the issuers sign that a spec names, which must make sense: they have to sign what it wants.
pub async fn find_offers(context: &Context, cluster: &ValidatedCluster, now: Timestamp) -> BTreeMap<Domain, Offered> {
    let namespace = cluster.names.namespace();
    let find = async |domain: Domain| {
        let offered = match cluster.issuer(domain) {
            Issuer::BuiltIn => None,
            Issuer::CaSecret { name } => {
                let secrets: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
                let offer = ca_secret(&secrets, name, cluster, domain, now).await;
                Some(Offered { asked: None, answer: offer.map_err(NoOffer::Unusable) })
            }
            Issuer::CertManager { .. } => {
                let requests = Api::namespaced(context.client.clone(), namespace);
                find_offer(&requests, cluster, domain, now).await
            }
        };
        Some((domain, offered?))
    };
    join_all(Domain::ALL.map(find)).await.into_iter().flatten().collect()
}

/// The authority in a Secret of somebody else's. It is read each time: it has none of the operator's labels, so it is not watched.
async fn ca_secret(
    secrets: &Api<Secret>,
    name: &str,
    cluster: &ValidatedCluster,
    domain: Domain,
    now: Timestamp,
) -> Result<Offer, String> {
    let secret = KeySecret::get(secrets, name).await.map_err(|e| e.to_string())?;
    let secret = secret.ok_or_else(|| "there is no such Secret".to_owned())?;
    for key in [tls_key::CRT, tls_key::KEY] {
        if secret.bytes(key).is_empty() {
            return Err(format!("{key} is missing"));
        }
    }
    let offer = Offer::of_secret(secret.bytes(tls_key::CRT), secret.bytes(tls_key::CA), now).map_err(|e| e.to_string())?;
    let key = PrivateKey::from_pem(secret.bytes(tls_key::KEY)).map_err(|e| match e {
        PkiError::Label(_) => format!("{} {e}: convert it with openssl pkcs8 -topk8 -nocrypt", tls_key::KEY),
        _ => format!("{}: {e}", tls_key::KEY),
    })?;
    let authority = Authority::load(offer.authority.pem().as_bytes(), key.pem()).map_err(|e| e.to_string())?;
    // What it signs must be believed, before anybody is restarted for it.
    authority.issue(&inquiry(cluster, domain, TRIAL), now).map_err(|e| e.to_string())?;
    Ok(offer)
}

/// How long what an authority signs to be tried is good for.
const TRIAL: SignedDuration = SignedDuration::from_hours(1);

/// Looks where the volumes of members can be used whose pods no node takes.
async fn find_homes(context: &Context, observed: &mut Observed) {
    let homeless = observed.members.values_mut().filter(|member| member.pod.as_deref().is_some_and(is_unscheduled));
    join_all(homeless.map(|member| async {
        let volume = member.claim.as_ref().and_then(|claim| claim.spec.as_ref()?.volume_name.clone());
        if let Some(volume) = volume {
            // Whoever may not read volumes or nodes has no evidence, and that is no error.
            member.home = find_home(context, &volume).await.unwrap_or_default();
        }
    }))
    .await;
}

/// Where a volume can be used, if it is on one node. One that is bound to a zone may be used again when the zone has nodes.
async fn find_home(context: &Context, volume: &str) -> Result<Home, kube::Error> {
    let volume = Api::<PersistentVolume>::all(context.client.clone()).get_opt(volume).await?;
    let Some(host) = volume.as_ref().and_then(the_host) else { return Ok(Home::Unknown) };
    let labelled = ListParams::default().labels(&format!("{HOSTNAME}={host}"));
    let nodes = Api::<Node>::all(context.client.clone()).list(&labelled).await?.items;
    Ok(home(&host, &nodes))
}

/// What the nodes that bear a host's label say of a volume that is on this host.
fn home(host: &str, nodes: &[Node]) -> Home {
    let is_out = |node: &Node| {
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        taints.into_iter().any(|taint| taint.key == OUT_OF_SERVICE)
    };
    if nodes.is_empty() {
        Home::Gone(format!("its volume is on node {host}, which was deleted"))
    } else if nodes.iter().all(is_out) {
        Home::Gone(format!("its volume is on node {host}, which has the taint {OUT_OF_SERVICE}"))
    } else {
        Home::There
    }
}

/// The label by which local volumes name their node.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// The taint by which an administrator says that a node is shut down for good (Kubernetes, non-graceful node shutdown).
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The one host on which a volume can be used, if its node affinity says so.
fn the_host(volume: &PersistentVolume) -> Option<String> {
    let terms = &volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?.node_selector_terms;
    let [term] = terms.as_slice() else { return None };
    let is_host = |wanted: &&NodeSelectorRequirement| wanted.key == HOSTNAME && wanted.operator == "In";
    match term.match_expressions.iter().flatten().find(is_host)?.values.as_deref()? {
        [host] => Some(host.clone()),
        _ => None,
    }
}

/// The members named by the labels of the objects of a cluster.
fn labelled<K: Resource<DynamicType = ()> + Clone + 'static>(store: &Store<K>, names: &Names) -> Vec<MemberName> {
    let of_cluster = |object: &Arc<K>| {
        let labels = object.meta().labels.as_ref()?;
        let ours = object.meta().namespace.as_deref() == Some(names.namespace())
            && labels.get(label::INSTANCE).map(String::as_str) == Some(names.cluster());
        names.parse_member(labels.get(label::MEMBER).filter(|_| ours)?)
    };
    store.state().iter().filter_map(of_cluster).collect()
}

/// How long members are asked for a list, one after the other. With what asking them for their state takes, a pass stays well
/// under the half minute in which a status must tell what has happened.
const LIST: Duration = Duration::from_secs(6);

/// While a cluster is founded, a pod that has just started is silent on its client port until there is a quorum; asking it would
/// only cost time. Later it may be a learner, which is never ready.
const STARTING: SignedDuration = SignedDuration::from_secs(15);

/// Asks every member that can answer, all at once.
async fn ask(context: &Context, names: &Names, observed: &mut Observed, identity: &Identity, now: Timestamp) {
    let founding = observed.status.cluster_id.is_none();
    let answers = observed.members.iter().map(|(name, member)| async move {
        let Some(pod) = &member.pod else { return (Answer::default(), None) };
        match running_since(pod) {
            None => return (Answer::NotAsked("its container does not run".into()), None),
            Some(since) if founding && !pod_ready(pod) && now.duration_since(since) < STARTING => {
                return (Answer::NotAsked("it is starting".into()), None);
            }
            Some(_) => {}
        }
        let client = async {
            match context.dialer.ask(&target(names, name, pod, CLIENT_PORT), &identity.0).await {
                Ok(answer) => Answer::Reached(answer.served, answer.status.map_err(|e| e.to_string())),
                Err(error) => Answer::Unreachable(error.to_string()),
            }
        };
        join(client, ask_peer(context, names, name, member, pod)).await
    });
    let answers = join_all(answers).await;
    for (member, (etcd, peer_leaf)) in observed.members.values_mut().zip(answers) {
        member.etcd = etcd;
        member.peer_leaf = peer_leaf;
    }
}

/// Reads the leaf on 2380, until the pod is known to serve what is in its Secret: etcd logs each such visit as a rejected
/// connection.
async fn ask_peer(
    context: &Context,
    names: &Names,
    name: &MemberName,
    member: &ObservedMember,
    pod: &Pod,
) -> Option<Result<Vec<u8>, String>> {
    let secret = member.secret.as_ref()?;
    if annotation(&pod.metadata, key::TLS_CONFIRMED) == Some(secret.fingerprint()) {
        return None;
    }
    let bundle = secret.data.get(member_key::PEER_CA)?;
    let tls = match Tls::new(bundle, None) {
        Ok(tls) => tls,
        Err(error) => return Some(Err(error.to_string())),
    };
    Some(context.dialer.served(&target(names, name, pod, PEER_PORT), &tls).await.map_err(|e| e.to_string()))
}

/// Asks every member that runs how far its data goes.
async fn ask_progress(context: &Context, names: &Names, observed: &mut Observed) {
    let answers = observed.members.iter().map(|(name, member)| async move {
        let pod = member.pod.as_ref().filter(|pod| running_since(pod).is_some())?;
        Some(context.dialer.progress(&target(names, name, pod, METRICS_PORT)).await.map_err(|e| e.to_string()))
    });
    let answers = join_all(answers).await;
    for (member, progress) in observed.members.values_mut().zip(answers) {
        member.progress = progress;
    }
}

/// A port of a member, by the address that Kubernetes gives for its pod: DNS may be behind.
pub fn target(names: &Names, name: &MemberName, pod: &Pod, port: i32) -> Target {
    let target = Target::new(names.member_host(name), u16::try_from(port).unwrap_or_default());
    match pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()).and_then(|ip| ip.parse().ok()) {
        Some(address) => target.at(address),
        None => target,
    }
}

/// The members that answer, with their pods.
fn answering(observed: &Observed) -> impl Iterator<Item = (&MemberName, &Pod, &MemberStatus)> {
    observed.members.iter().filter_map(|(name, member)| Some((name, member.pod.as_deref()?, member.etcd.status()?)))
}

/// The member list as a quorum knows it, from the first of those answering that can give it, the leader before others.
///
/// # Errors
/// What kept the last one from answering.
pub async fn member_list<'a>(
    context: &Context,
    names: &Names,
    answering: impl Iterator<Item = (&'a MemberName, &'a Pod, &'a MemberStatus)>,
    identity: &Identity,
) -> Result<MemberList, String> {
    let mut answering: Vec<_> = answering.filter(|(_, _, status)| !status.is_learner).collect();
    answering.sort_by_key(|(_, _, status)| status.leader != status.member_id);
    let mut problem = "no member answers".to_owned();
    for (name, pod, _) in answering {
        match context.dialer.members(&target(names, name, pod, CLIENT_PORT), &identity.0).await {
            Ok(list) => return Ok(list),
            Err(error) => problem = format!("{name}: {error}"),
        }
    }
    Err(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(affinity: &str) -> PersistentVolume {
        serde_saphyr::from_str(&format!("{{ spec: {{ nodeAffinity: {affinity} }} }}")).unwrap()
    }

    #[test]
    fn a_volume_of_one_host_names_it() {
        let on = |terms: &str| the_host(&volume(&format!("{{ required: {{ nodeSelectorTerms: {terms} }} }}")));
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
        assert_eq!(the_host(&volume("{}")), None);
    }

    #[test]
    fn only_a_node_that_somebody_gave_up_is_gone() {
        let node = |taints: &str| -> Node { serde_saphyr::from_str(&format!("{{ spec: {{ taints: {taints} }} }}")).unwrap() };
        let out = || node("[{ key: node.kubernetes.io/out-of-service, value: nodeshutdown, effect: NoExecute }]");
        let unreachable = || node("[{ key: node.kubernetes.io/unreachable, effect: NoExecute }]");
        assert!(matches!(home("a", &[]), Home::Gone(words) if words.contains("node a, which was deleted")));
        assert!(matches!(home("a", &[out()]), Home::Gone(words) if words.contains("out-of-service")));
        assert_eq!(home("a", &[unreachable()]), Home::There);
        assert_eq!(home("a", &[out(), node("[]")]), Home::There);
    }
}
