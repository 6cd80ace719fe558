//! The cache of Kubernetes objects, which is kept up to date by watches.
//!
//! Only the custom resources and objects with the operator's label are watched, and **no private key is kept**: before an object
//! is stored, private keys are replaced by a digest of their public keys, which shows whether a key belongs to its certificate.
//! When a private key is needed, its Secret is read.

mod users;

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use futures::StreamExt;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Container, PersistentVolumeClaim, Pod, PodSpec, ResourceRequirements, Secret, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::{DeserializeGuard, NamespaceResourceScope},
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{EtcdCluster, EtcdUser},
    certificates::secret::{CachedSecret, SecretDerived},
    kubernetes::{
        cached::{Cached, Drift},
        secret::{SecretView, redact},
    },
    names::label,
};

pub use users::Users;

/// A custom resource, which this version of the operator may be unable to read.
pub type Guarded<K> = DeserializeGuard<K>;

/// The cache of one namespace, or of all namespaces.
pub struct Scope {
    /// The clusters.
    pub clusters: Store<Guarded<EtcdCluster>>,
    /// The users.
    pub users: Users,
    /// The Secrets that the operator created, without their private keys.
    pub secrets: Kept<Secret, SecretDerived>,
    /// The ConfigMaps that the operator created.
    pub config_maps: Kept<ConfigMap>,
    /// The Services that the operator created.
    pub services: Kept<Service>,
    /// The PersistentVolumeClaims that the operator created.
    pub claims: Kept<PersistentVolumeClaim>,
    /// The StatefulSets that the operator created.
    pub stateful_sets: Kept<StatefulSet>,
    /// The pods of the StatefulSets.
    pub pods: Kept<Pod>,
    /// The PodDisruptionBudgets that the operator created.
    pub budgets: Kept<PodDisruptionBudget>,
}

impl Scope {
    /// A Secret that the operator created.
    pub fn secret(&self, namespace: &str, name: &str) -> Option<CachedSecret> {
        self.secrets.view(namespace, name)
    }
}

impl Kept<Secret, SecretDerived> {
    fn view(&self, namespace: &str, name: &str) -> Option<CachedSecret> {
        let (secret, derived) = self.find(namespace, name)?;
        Some(Cached::new(Arc::new(SecretView::new(&secret)), derived))
    }
}

/// The objects of one kind, and what was derived from the current version of each.
pub struct Kept<K: Resource<DynamicType = ()> + Clone + 'static, D = Drift> {
    store: Store<K>,
    derived: Derived<K, D>,
}

/// The version and what was derived from it, by namespace and name.
type Derived<K, D> = Arc<Mutex<HashMap<(String, String), (Weak<K>, Arc<D>)>>>;

impl<K: Resource<DynamicType = ()> + Clone + 'static, D: Default> Kept<K, D> {
    fn find(&self, namespace: &str, name: &str) -> Option<(Arc<K>, Arc<D>)> {
        let object = self.store.get(&ObjectRef::new(name).within(namespace))?;
        let mut known = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        let (version, derived) = known.entry((namespace.to_owned(), name.to_owned())).or_default();
        if version.as_ptr() != Arc::as_ptr(&object) {
            (*version, *derived) = (Arc::downgrade(&object), Arc::default());
        }
        Some((object, derived.clone()))
    }

    /// An object by its name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Cached<K, D>> {
        self.find(namespace, name).map(|(object, derived)| Cached::new(object, derived))
    }

    /// All objects.
    pub fn state(&self) -> Vec<Arc<K>> {
        self.store.state()
    }
}

/// Requests for passes over objects that may have to change.
#[derive(Clone)]
pub struct Triggers {
    /// Clusters.
    pub clusters: UnboundedSender<ObjectRef<Guarded<EtcdCluster>>>,
    /// Users.
    pub users: UnboundedSender<ObjectRef<Guarded<EtcdUser>>>,
}

impl Triggers {
    /// Requests a pass over a cluster. When the operator stops, the request is dropped.
    fn cluster(&self, name: &str, namespace: &str) {
        let _ = self.clusters.send(ObjectRef::new(name).within(namespace));
    }
    /// Requests a pass over a user.
    pub fn user(&self, name: &str, namespace: &str) {
        let _ = self.users.send(ObjectRef::new(name).within(namespace));
    }
    /// Requests a pass over the cluster or user that an object belongs to.
    fn owner_of<K: Resource>(&self, object: &K) {
        let namespace = object.namespace().unwrap_or_default();
        let Some(labels) = object.meta().labels.as_ref() else { return };
        if let Some(user) = labels.get(label::USER) {
            self.user(user, &namespace);
        } else if let Some(cluster) = labels.get(label::INSTANCE) {
            self.cluster(cluster, &namespace);
        }
    }
}

/// Starts the watches of one namespace, or of all if it is `None`, and returns when all objects have been read once.
pub async fn start(client: &Client, namespace: Option<&str>, triggers: &Triggers, stop: &CancellationToken) -> Arc<Scope> {
    let watch = Watch { client, namespace, stop };
    let any = watcher::Config::default;
    let clusters = {
        let triggers = triggers.clone();
        watch.keep(
            any(),
            |_| {},
            move |seen: &Watched<'_, Guarded<EtcdCluster>>, _| {
                if let Some(cluster) = seen.object() {
                    triggers.cluster(&cluster.name_any(), &cluster.namespace().unwrap_or_default());
                }
            },
        )
    };
    let users = {
        let (triggers, groups): (_, Arc<Mutex<users::Groups>>) = (triggers.clone(), Arc::default());
        let known = groups.clone();
        let store = watch.keep(
            any(),
            |_| {},
            move |seen: &Watched<'_, Guarded<EtcdUser>>, store: &Store<Guarded<EtcdUser>>| {
                users::lock(&known).follow(seen, store);
                let Some(user) = seen.object() else { return };
                let namespace = user.namespace().unwrap_or_default();
                triggers.user(&user.name_any(), &namespace);
                // The cluster revokes the certificates of a deleted user.
                if let Ok(user) = &user.0 {
                    triggers.cluster(&user.spec.cluster_ref.name, &namespace);
                }
            },
        );
        Users::new(store, groups)
    };
    let scope = Scope {
        clusters,
        users,
        secrets: watch.keep_own(redact, triggers),
        config_maps: watch.keep_own(|_| {}, triggers),
        services: watch.keep_own(|_| {}, triggers),
        claims: watch.keep_own(|_| {}, triggers),
        stateful_sets: watch.keep_own(|_| {}, triggers),
        pods: watch.keep_own(slim, triggers),
        budgets: watch.keep_own(|_| {}, triggers),
    };
    scope.read_once().await;
    Arc::new(scope)
}

impl Scope {
    async fn read_once(&self) {
        // An error would mean that the watch has ended, which happens only when the operator stops.
        let _ = self.clusters.wait_until_ready().await;
        let _ = self.users.store.wait_until_ready().await;
        let _ = self.secrets.store.wait_until_ready().await;
        let _ = self.config_maps.store.wait_until_ready().await;
        let _ = self.services.store.wait_until_ready().await;
        let _ = self.claims.store.wait_until_ready().await;
        let _ = self.stateful_sets.store.wait_until_ready().await;
        let _ = self.pods.store.wait_until_ready().await;
        let _ = self.budgets.store.wait_until_ready().await;
    }
}

/// What a watch reports.
enum Watched<'a, K> {
    /// The object was created or changed, or was there when all were listed.
    Applied(&'a K),
    /// The object was deleted.
    Deleted(&'a K),
    /// All objects have been listed: those that were not among them were deleted.
    Listed,
}

impl<'a, K> Watched<'a, K> {
    fn of(event: &'a watcher::Event<K>) -> Option<Self> {
        match event {
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => Some(Self::Applied(object)),
            watcher::Event::Delete(object) => Some(Self::Deleted(object)),
            watcher::Event::Init => None,
            watcher::Event::InitDone => Some(Self::Listed),
        }
    }

    fn object(&self) -> Option<&'a K> {
        match self {
            Self::Applied(object) | Self::Deleted(object) => Some(object),
            Self::Listed => None,
        }
    }
}

struct Watch<'a> {
    client: &'a Client,
    namespace: Option<&'a str>,
    stop: &'a CancellationToken,
}

impl Watch<'_> {
    /// Keeps the objects of a kind that the operator created, after `modify`, and triggers the cluster or user that each belongs to.
    fn keep_own<K, D>(&self, modify: fn(&mut K), triggers: &Triggers) -> Kept<K, D>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        D: Send + Sync + 'static,
    {
        let (derived, triggers): (Derived<K, D>, _) = (Arc::default(), triggers.clone());
        let known = derived.clone();
        let store = self.keep(watcher::Config::default().labels(label::MANAGED), modify, move |seen: &Watched<'_, K>, _| {
            let Some(object) = seen.object() else { return };
            let key = (object.namespace().unwrap_or_default(), object.name_any());
            known.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            triggers.owner_of(object);
        });
        Kept { store, derived }
    }

    /// Keeps the objects of a kind, after `modify`, and calls `seen` with each that was created, changed or deleted, and with the store.
    fn keep<K>(
        &self,
        config: watcher::Config,
        modify: fn(&mut K),
        seen: impl Fn(&Watched<'_, K>, &Store<K>) + Send + 'static,
    ) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        K::DynamicType: Eq + Hash + Clone,
    {
        let api: Api<K> = match self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let (reader, writer) = reflector::store();
        let events = watcher(api, config).default_backoff().modify(move |object| {
            object.meta_mut().managed_fields = None;
            modify(object);
        });
        let mut events = reflector::reflector(writer, events).boxed();
        let store = reader.clone();
        let (stop, namespace) = (self.stop.clone(), self.namespace.map(str::to_owned));
        tokio::spawn(async move {
            // Without one of its watches the operator would act on objects as they were: if one ends, the process ends.
            let _ended = stop.clone().drop_guard();
            loop {
                let event = tokio::select! {
                    () = stop.cancelled() => break,
                    event = events.next() => event,
                };
                match event {
                    Some(Ok(event)) => {
                        if let Some(watched) = Watched::of(&event) {
                            seen(&watched, &store);
                        }
                    }
                    Some(Err(error)) if is_not_served(&error) => {
                        tracing::warn!(kind = %K::kind(&()), namespace, "the API server does not know this kind: are the CRDs installed?");
                    }
                    Some(Err(error)) => {
                        tracing::warn!(kind = %K::kind(&()), namespace, %error, "watch interrupted, will be resumed");
                    }
                    None => break,
                }
            }
        });
        reader
    }
}

fn is_not_served(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

/// Removes the fields of a pod that no decision needs, in order to save memory. Arguments and environment of the containers are
/// kept, because they show whether the pod is up to date, and their limits, because etcd may need more memory.
pub fn slim(pod: &mut Pod) {
    if let Some(spec) = &mut pod.spec {
        let start = |container: Container| Container {
            name: container.name,
            image: container.image,
            args: container.args,
            env: container.env,
            resources: container
                .resources
                .map(|resources| ResourceRequirements { limits: resources.limits, ..Default::default() }),
            ..Container::default()
        };
        *spec = PodSpec {
            node_name: spec.node_name.take(),
            containers: std::mem::take(&mut spec.containers).into_iter().map(start).collect(),
            ..PodSpec::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::{
        certificates::{
            authority_secret,
            transition::{AuthorityRequest, NewAuthority},
        },
        pki::Domain,
    };

    fn authorities(version: &str, now: Timestamp) -> Secret {
        let new = |name: &str| NewAuthority::BuiltIn { common_name: name.into(), duration: SignedDuration::from_hours(24 * 365) };
        let (domain, secret) = (Domain::Client, "ca".to_owned());
        let request = AuthorityRequest { domain, secret, active: new("demo 1"), next: new("demo 2") };
        let mut secret = Secret { data: Some(authority_secret::create(&request, None, now).unwrap()), ..Secret::default() };
        secret.metadata.name = Some("ca".into());
        secret.metadata.namespace = Some("ns".into());
        secret.metadata.resource_version = Some(version.into());
        redact(&mut secret);
        secret
    }

    /// The list of all issued certificates is in it: it would be parsed for each user.
    #[test]
    fn authorities_are_read_once_for_each_version_of_their_secret() {
        let (store, mut writer) = reflector::store();
        let kept: Kept<Secret, SecretDerived> = Kept { store, derived: Arc::default() };
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        writer.apply_watcher_event(&watcher::Event::Apply(authorities("1", now)));
        let read = || kept.view("ns", "ca").unwrap().authorities().unwrap().clone();
        let first = read();
        assert!(Arc::ptr_eq(&first, &read()));
        writer.apply_watcher_event(&watcher::Event::Apply(authorities("2", now)));
        let second = read();
        assert!(!Arc::ptr_eq(&first, &second) && Arc::ptr_eq(&second, &read()));
    }

    #[test]
    fn a_pod_keeps_the_fields_that_decisions_need() {
        let spec = "{ nodeName: a, containers: [{ name: etcd, image: i, args: [--x], env: [{ name: E, value: v }], resources: { limits: { memory: 8Mi }, requests: { memory: 8Mi } }, workingDir: / }], volumes: [{ name: v }] }";
        let kept = "{ nodeName: a, containers: [{ name: etcd, image: i, args: [--x], env: [{ name: E, value: v }], resources: { limits: { memory: 8Mi } } }] }";
        let read = |spec: &str| -> Option<PodSpec> { serde_saphyr::from_str(spec).ok() };
        let mut pod = Pod { spec: read(spec), ..Pod::default() };
        slim(&mut pod);
        assert!(pod.spec.is_some());
        assert_eq!(pod.spec, read(kept));
    }
}
