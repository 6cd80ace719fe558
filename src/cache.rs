//! The cache of Kubernetes objects, which is kept up to date by watches.
//!
//! Only the custom resources and objects with the operator's label are watched, and **no private key is kept**: before an object
//! is stored, private keys are replaced by a digest of their public keys, which shows whether a key belongs to its certificate.
//! When a private key is needed, its Secret is read.

mod clusters;
mod running;
mod users;
mod watch;

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Container, PersistentVolumeClaim, Pod, PodSpec, Secret, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Client, Resource, ResourceExt,
    core::NamespaceResourceScope,
    runtime::{
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use self::{
    clusters::Clusters,
    running::Running,
    watch::{Watch, Watched},
};
use crate::{
    api::{EtcdCluster, EtcdUser},
    certificates::secret::{CachedSecret, SecretDerived},
    ids::Uid,
    kubernetes::{
        cached::{Cached, Drift},
        secret::{SecretView, redact},
    },
    names::label,
};

pub use users::Users;
pub use watch::{Guarded, Unread};

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
    running: Arc<Mutex<Running>>,
    /// The PodDisruptionBudgets that the operator created.
    pub budgets: Kept<PodDisruptionBudget>,
    /// The kinds that cannot be read at present. What the cache has of them may be out of date.
    pub unread: tokio::sync::watch::Receiver<Unread>,
}

impl Scope {
    /// A Secret that the operator created.
    pub fn secret(&self, namespace: &str, name: &str) -> Option<CachedSecret> {
        self.secrets.view(namespace, name)
    }

    /// For how long this process has seen the container of etcd run in a pod. It is zero if it does not run.
    pub fn seen_running(&self, pod: &Uid) -> Duration {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).time(pod, Instant::now())
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
    let (sender, unread) = tokio::sync::watch::channel(Unread::new());
    let watch = Watch { client, namespace, stop, unread: sender };
    let users = watch.keep_users(triggers);
    let running: Arc<Mutex<Running>> = Arc::default();
    let follow = {
        let running = running.clone();
        move |seen: &Watched<'_, Pod>, store: &Store<Pod>| {
            running.lock().unwrap_or_else(PoisonError::into_inner).follow(seen, store, Instant::now());
        }
    };
    let scope = Scope {
        clusters: watch.keep_clusters(&users, triggers),
        users,
        secrets: watch.keep_own(redact, triggers),
        config_maps: watch.keep_own(|_| {}, triggers),
        services: watch.keep_own(|_| {}, triggers),
        claims: watch.keep_own(|_| {}, triggers),
        stateful_sets: watch.keep_own(|_| {}, triggers),
        pods: watch.keep_own_and(slim, triggers, follow),
        running,
        budgets: watch.keep_own(|_| {}, triggers),
        unread,
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

impl Watch<'_> {
    /// Keeps the clusters, and triggers each that changes, and its users if what they depend on changes.
    fn keep_clusters(&self, users: &Users, triggers: &Triggers) -> Store<Guarded<EtcdCluster>> {
        let (users, triggers, known) = (users.clone(), triggers.clone(), Mutex::new(Clusters::default()));
        let seen = move |seen: &Watched<'_, Guarded<EtcdCluster>>, store: &Store<Guarded<EtcdCluster>>| {
            seen.each_changed(store, |cluster| {
                triggers.cluster(&cluster.name_any(), &cluster.namespace().unwrap_or_default());
            });
            let changed = known.lock().unwrap_or_else(PoisonError::into_inner).follow(seen, store);
            for (namespace, cluster) in changed {
                users.of_cluster(&namespace, &cluster).iter().for_each(|user| triggers.user(&user.name_any(), &namespace));
            }
        };
        self.keep(watcher::Config::default(), |_| {}, seen)
    }

    /// Keeps the users, and triggers each that changes and its cluster.
    fn keep_users(&self, triggers: &Triggers) -> Users {
        let (triggers, groups): (_, Arc<Mutex<users::Groups>>) = (triggers.clone(), Arc::default());
        let known = groups.clone();
        let seen = move |seen: &Watched<'_, Guarded<EtcdUser>>, store: &Store<Guarded<EtcdUser>>| {
            users::lock(&known).follow(seen, store);
            seen.each_changed(store, |user| {
                let namespace = user.namespace().unwrap_or_default();
                triggers.user(&user.name_any(), &namespace);
                // The cluster revokes the certificates of a deleted user.
                if let Ok(user) = &user.0 {
                    triggers.cluster(&user.spec.cluster_ref.name, &namespace);
                }
            });
        };
        Users::new(self.keep(watcher::Config::default(), |_| {}, seen), groups)
    }

    /// Keeps the objects of a kind that the operator created, after `modify`, and triggers the cluster or user that each belongs to.
    fn keep_own<K, D>(&self, modify: fn(&mut K), triggers: &Triggers) -> Kept<K, D>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        D: Send + Sync + 'static,
    {
        self.keep_own_and(modify, triggers, |_, _| {})
    }

    /// The same, and calls `follow` with what the watch reports, before anything is triggered.
    fn keep_own_and<K, D>(
        &self,
        modify: fn(&mut K),
        triggers: &Triggers,
        follow: impl Fn(&Watched<'_, K>, &Store<K>) + Send + 'static,
    ) -> Kept<K, D>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        D: Send + Sync + 'static,
    {
        let (derived, triggers): (Derived<K, D>, _) = (Arc::default(), triggers.clone());
        let known = derived.clone();
        let seen = move |seen: &Watched<'_, K>, store: &Store<K>| {
            forget(&known, seen);
            follow(seen, store);
            seen.each_changed(store, |object| triggers.owner_of(object));
        };
        let store = self.keep(watcher::Config::default().labels(label::MANAGED), modify, seen);
        Kept { store, derived }
    }
}

/// Removes what was derived from versions that the store has no more.
fn forget<K: Resource, D>(derived: &Derived<K, D>, seen: &Watched<'_, K>) {
    let mut known = derived.lock().unwrap_or_else(PoisonError::into_inner);
    match seen {
        Watched::Applied(object) | Watched::Deleted(object) => {
            known.remove(&(object.namespace().unwrap_or_default(), object.name_any()));
        }
        Watched::Found(_) => {}
        // All versions in the store have been replaced, also those that have not changed.
        Watched::Listed => known.clear(),
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
            resources: container.resources,
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
    use kube::runtime::reflector;

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
    fn what_was_derived_from_an_object_is_forgotten_with_it() {
        let (store, mut writer) = reflector::store();
        let kept: Kept<ConfigMap> = Kept { store, derived: Arc::default() };
        let mut see = |event: &watcher::Event<ConfigMap>| {
            writer.apply_watcher_event(event);
            if let Some(seen) = Watched::of(event) {
                forget(&kept.derived, &seen);
            }
        };
        let object =
            |name: &str| -> ConfigMap { serde_saphyr::from_str(&format!("metadata: {{namespace: ns, name: {name}}}")).unwrap() };
        let derived_from = |names: &[&str]| {
            for name in names {
                assert!(kept.get("ns", name).is_some());
            }
            let known = kept.derived.lock().unwrap();
            assert_eq!(known.len(), names.len(), "{:?}", known.keys());
        };
        for name in ["a", "b", "c"] {
            see(&watcher::Event::Apply(object(name)));
        }
        derived_from(&["a", "b", "c"]);
        see(&watcher::Event::Delete(object("a")));
        derived_from(&["b", "c"]);
        // While the watch was interrupted, one was deleted.
        for event in [watcher::Event::Init, watcher::Event::InitApply(object("b")), watcher::Event::InitDone] {
            see(&event);
        }
        derived_from(&["b"]);
    }

    #[test]
    fn a_pod_keeps_the_fields_that_decisions_need() {
        let spec = "{ nodeName: a, containers: [{ name: etcd, image: i, args: [--x], env: [{ name: E, value: v }], resources: { limits: { memory: 8Mi }, requests: { memory: 8Mi } }, workingDir: / }], volumes: [{ name: v }] }";
        let kept = "{ nodeName: a, containers: [{ name: etcd, image: i, args: [--x], env: [{ name: E, value: v }], resources: { limits: { memory: 8Mi }, requests: { memory: 8Mi } } }] }";
        let read = |spec: &str| -> Option<PodSpec> { serde_saphyr::from_str(spec).ok() };
        let mut pod = Pod { spec: read(spec), ..Pod::default() };
        slim(&mut pod);
        assert!(pod.spec.is_some());
        assert_eq!(pod.spec, read(kept));
    }
}
