//! What the operator keeps of Kubernetes' objects, by watching them.
//!
//! Only what carries the operator's label is watched, besides its own resources, and **no private key is kept**: it is
//! replaced by a digest of its public half before the object is stored, which is enough to tell whether a key fits its
//! certificate. Who needs a key reads its Secret when it needs it.

use std::{fmt::Debug, hash::Hash, sync::Arc};

use futures::StreamExt;
use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, Container, PersistentVolumeClaim, Pod, PodSpec, Secret, Service},
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroize;

use crate::{
    api::{EtcdCluster, EtcdUser},
    cluster::observed::is_private,
    names::label,
    pki,
};

/// A resource of a user's, which may be one that this version of the operator cannot read.
pub type Guarded<K> = DeserializeGuard<K>;

/// What is kept of one namespace, or of all of them.
pub struct Scope {
    /// The clusters.
    pub clusters: Store<Guarded<EtcdCluster>>,
    /// The users.
    pub users: Store<Guarded<EtcdUser>>,
    /// The Secrets that the operator made, without their private keys.
    pub secrets: Store<Secret>,
    /// The ConfigMaps that the operator made.
    pub config_maps: Store<ConfigMap>,
    /// The Services that the operator made.
    pub services: Store<Service>,
    /// The claims that the operator made.
    pub claims: Store<PersistentVolumeClaim>,
    /// The StatefulSets that the operator made.
    pub stateful_sets: Store<StatefulSet>,
    /// The pods of those.
    pub pods: Store<Pod>,
    /// The disruption budgets that the operator made.
    pub budgets: Store<PodDisruptionBudget>,
}

/// Who is to be looked at because something changed.
#[derive(Clone)]
pub struct Triggers {
    /// Clusters.
    pub clusters: UnboundedSender<ObjectRef<Guarded<EtcdCluster>>>,
    /// Users.
    pub users: UnboundedSender<ObjectRef<Guarded<EtcdUser>>>,
}

impl Triggers {
    /// A cluster by name. Nobody listens any more when the operator stops, and then it does not matter.
    fn cluster(&self, name: &str, namespace: &str) {
        let _ = self.clusters.send(ObjectRef::new(name).within(namespace));
    }
    /// A user by name.
    pub fn user(&self, name: &str, namespace: &str) {
        let _ = self.users.send(ObjectRef::new(name).within(namespace));
    }
    /// Whoever an object that the operator made belongs to.
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

/// Starts the watches of one namespace, or of all where there is none, and returns when everything has been read once.
pub async fn start(client: &Client, namespace: Option<&str>, triggers: &Triggers, stop: &CancellationToken) -> Arc<Scope> {
    let watch = Watch { client, namespace, stop };
    let ours = || watcher::Config::default().labels(label::MANAGED);
    let any = watcher::Config::default;
    let clusters = {
        let triggers = triggers.clone();
        watch.keep(
            any(),
            |_| {},
            move |cluster: &Guarded<EtcdCluster>| {
                triggers.cluster(&cluster.name_any(), &cluster.namespace().unwrap_or_default());
            },
        )
    };
    let users = {
        let triggers = triggers.clone();
        watch.keep(
            any(),
            |_| {},
            move |user: &Guarded<EtcdUser>| {
                let namespace = user.namespace().unwrap_or_default();
                triggers.user(&user.name_any(), &namespace);
                // The cluster revokes what a user had who is gone.
                if let Ok(user) = &user.0 {
                    triggers.cluster(&user.spec.cluster_ref.name, &namespace);
                }
            },
        )
    };
    let scope = Scope {
        clusters,
        users,
        secrets: watch.keep(ours(), redact, owner(triggers)),
        config_maps: watch.keep(ours(), |_| {}, owner(triggers)),
        services: watch.keep(ours(), |_| {}, owner(triggers)),
        claims: watch.keep(ours(), |_| {}, owner(triggers)),
        stateful_sets: watch.keep(ours(), |_| {}, owner(triggers)),
        pods: watch.keep(ours(), slim, owner(triggers)),
        budgets: watch.keep(ours(), |_| {}, owner(triggers)),
    };
    scope.read_once().await;
    Arc::new(scope)
}

/// Tells whoever an object belongs to.
fn owner<K: Resource>(triggers: &Triggers) -> impl Fn(&K) + Send + 'static + use<K> {
    let triggers = triggers.clone();
    move |object| triggers.owner_of(object)
}

impl Scope {
    async fn read_once(&self) {
        // An error would mean that the watch has ended, which happens only when the operator stops.
        let _ = self.clusters.wait_until_ready().await;
        let _ = self.users.wait_until_ready().await;
        let _ = self.secrets.wait_until_ready().await;
        let _ = self.config_maps.wait_until_ready().await;
        let _ = self.services.wait_until_ready().await;
        let _ = self.claims.wait_until_ready().await;
        let _ = self.stateful_sets.wait_until_ready().await;
        let _ = self.pods.wait_until_ready().await;
        let _ = self.budgets.wait_until_ready().await;
    }
}

struct Watch<'a> {
    client: &'a Client,
    namespace: Option<&'a str>,
    stop: &'a CancellationToken,
}

impl Watch<'_> {
    /// Keeps the objects of a kind, after `modify`, and tells `seen` of each that came, changed or went.
    fn keep<K>(&self, config: watcher::Config, modify: fn(&mut K), seen: impl Fn(&K) + Send + 'static) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
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
        let stop = self.stop.clone();
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    () = stop.cancelled() => break,
                    event = events.next() => event,
                };
                match event {
                    Some(Ok(
                        watcher::Event::Apply(object) | watcher::Event::InitApply(object) | watcher::Event::Delete(object),
                    )) => seen(&object),
                    Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => {}
                    Some(Err(error)) if is_not_served(&error) => {
                        tracing::warn!(kind = %K::kind(&()), "the API server does not know this kind: are the CRDs installed?");
                    }
                    Some(Err(error)) => tracing::warn!(kind = %K::kind(&()), %error, "watch interrupted; it goes on"),
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

/// Takes the private keys out of a Secret.
fn redact(secret: &mut Secret) {
    for (key, ByteString(value)) in secret.data.iter_mut().flatten() {
        if is_private(key) {
            let digest = pki::digest_of_private_pem(value).map(|digest| digest.to_hex().into_bytes());
            value.zeroize();
            *value = digest.unwrap_or_default();
        }
    }
}

/// Takes out of a pod what is not needed: there are as many as members. With what it starts etcd tells whether it is as wanted, and
/// whether others start with the same.
pub fn slim(pod: &mut Pod) {
    if let Some(spec) = &mut pod.spec {
        let start = |container: Container| Container {
            name: container.name,
            image: container.image,
            args: container.args,
            env: container.env,
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
    use super::*;

    #[test]
    fn of_pods_that_is_kept_which_is_decided_by() {
        let spec = "{ nodeName: a, containers: [{ name: etcd, image: i, args: [--x], env: [{ name: E, value: v }], workingDir: / }], volumes: [{ name: v }] }";
        let kept = "{ nodeName: a, containers: [{ name: etcd, image: i, args: [--x], env: [{ name: E, value: v }] }] }";
        let read = |spec: &str| -> Option<PodSpec> { serde_saphyr::from_str(spec).ok() };
        let mut pod = Pod { spec: read(spec), ..Pod::default() };
        slim(&mut pod);
        assert!(pod.spec.is_some());
        assert_eq!(pod.spec, read(kept));
    }

    #[test]
    fn no_private_key_is_kept() -> Result<(), pki::PkiError> {
        let key = pki::PrivateKey::generate()?;
        let digest = key.public_digest().to_hex();
        let data = [("tls.key", key.pem().to_vec()), ("other.key", b"nonsense".to_vec()), ("tls.crt", b"public".to_vec())];
        let data = data.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value))).collect();
        let mut secret = Secret { data: Some(data), ..Secret::default() };
        redact(&mut secret);
        let data = secret.data.unwrap_or_default();
        assert_eq!(data["tls.key"].0, digest.into_bytes());
        assert!(data["other.key"].0.is_empty());
        assert_eq!(data["tls.crt"].0, b"public");
        Ok(())
    }
}
