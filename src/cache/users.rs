//! The users, by what they have in common: there may be thousands, and a pass over one concerns few others.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kube::{
    ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};

use super::watch::{Guarded, Watched};
use crate::{
    api::EtcdUser,
    names::{user_common_name, user_secret},
};

/// The users, which are kept up to date by a watch.
#[derive(Clone)]
pub struct Users {
    /// The objects.
    pub store: Store<Guarded<EtcdUser>>,
    groups: Arc<Mutex<Groups>>,
}

/// What several users may have in common, in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Group {
    /// The namespace alone: the only one of a user that cannot be read.
    Namespace,
    /// The cluster.
    Cluster(String),
    /// The Secret.
    Secret(String),
    /// The common name in a cluster.
    CommonName(String, String),
}

impl Group {
    fn all_of(user: &Guarded<EtcdUser>) -> Vec<Self> {
        let Ok(user) = &user.0 else { return vec![Self::Namespace] };
        let cluster = &user.spec.cluster_ref.name;
        vec![Self::Namespace, Self::Cluster(cluster.clone()), Self::Secret(user_secret(user)), Self::common_name(user)]
    }

    fn common_name(user: &EtcdUser) -> Self {
        Self::CommonName(user.spec.cluster_ref.name.clone(), user_common_name(user))
    }
}

/// The names of the users of each group, by namespace, and the groups of each user.
#[derive(Debug, Default)]
pub(super) struct Groups {
    names: HashMap<(String, Group), BTreeSet<String>>,
    of: HashMap<(String, String), Vec<Group>>,
}

impl Groups {
    /// Follows the watch. `store` has the users.
    pub(super) fn follow(&mut self, seen: &Watched<'_, Guarded<EtcdUser>>, store: &Store<Guarded<EtcdUser>>) {
        match seen {
            Watched::Applied(user) | Watched::Found(user) => {
                self.remove(&id(user));
                self.add(id(user), Group::all_of(user));
            }
            Watched::Deleted(user) => self.remove(&id(user)),
            // Those that were deleted while the watch was interrupted.
            Watched::Listed => {
                let is_gone =
                    |(namespace, name): &&(String, String)| store.get(&ObjectRef::new(name).within(namespace)).is_none();
                let gone: Vec<_> = self.of.keys().filter(is_gone).cloned().collect();
                for id in &gone {
                    self.remove(id);
                }
            }
        }
    }

    fn add(&mut self, id: (String, String), groups: Vec<Group>) {
        for group in &groups {
            self.names.entry((id.0.clone(), group.clone())).or_default().insert(id.1.clone());
        }
        self.of.insert(id, groups);
    }

    fn remove(&mut self, id: &(String, String)) {
        for group in self.of.remove(id).unwrap_or_default() {
            let group = (id.0.clone(), group);
            let Some(names) = self.names.get_mut(&group) else { continue };
            names.remove(&id.1);
            if names.is_empty() {
                self.names.remove(&group);
            }
        }
    }
}

fn id(user: &Guarded<EtcdUser>) -> (String, String) {
    (user.namespace().unwrap_or_default(), user.name_any())
}

impl Users {
    pub(super) fn new(store: Store<Guarded<EtcdUser>>, groups: Arc<Mutex<Groups>>) -> Self {
        Self { store, groups }
    }

    /// All users of a namespace, also those that cannot be read.
    pub fn of_namespace(&self, namespace: &str) -> Vec<Arc<Guarded<EtcdUser>>> {
        self.of_group(namespace, Group::Namespace)
    }

    /// The users of a cluster.
    pub fn of_cluster(&self, namespace: &str, cluster: &str) -> Vec<Arc<Guarded<EtcdUser>>> {
        self.of_group(namespace, Group::Cluster(cluster.to_owned()))
    }

    /// The users with the Secret or the common name of this one, itself included; some have both and are there twice.
    pub fn like(&self, user: &EtcdUser) -> Vec<Arc<Guarded<EtcdUser>>> {
        let namespace = user.namespace().unwrap_or_default();
        let mut like = self.of_group(&namespace, Group::Secret(user_secret(user)));
        like.extend(self.of_group(&namespace, Group::common_name(user)));
        like
    }

    fn of_group(&self, namespace: &str, group: Group) -> Vec<Arc<Guarded<EtcdUser>>> {
        let groups = lock(&self.groups);
        let names = groups.names.get(&(namespace.to_owned(), group)).into_iter().flatten();
        names.filter_map(|name| self.store.get(&ObjectRef::new(name).within(namespace))).collect()
    }
}

/// Two maps that a panic may leave different from each other at worst in one user, which its next version or list corrects.
pub(super) fn lock(groups: &Mutex<Groups>) -> MutexGuard<'_, Groups> {
    groups.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use kube::{
        core::{DeserializeGuard, ObjectMeta},
        runtime::{
            reflector::{self, store::Writer},
            watcher,
        },
    };

    use super::*;

    fn user(name: &str, spec: &str) -> Guarded<EtcdUser> {
        let mut user = EtcdUser::new(name, serde_saphyr::from_str(spec).unwrap());
        user.metadata = ObjectMeta { namespace: Some("ns".into()), ..user.metadata };
        DeserializeGuard(Ok(user))
    }

    fn names(users: &[Arc<Guarded<EtcdUser>>]) -> Vec<String> {
        users.iter().map(|user| user.name_any()).collect()
    }

    /// What the watch does with each event.
    fn see(users: &Users, writer: &mut Writer<Guarded<EtcdUser>>, event: &watcher::Event<Guarded<EtcdUser>>) {
        writer.apply_watcher_event(event);
        if let Some(seen) = Watched::of(event) {
            lock(&users.groups).follow(&seen, &users.store);
        }
    }

    #[test]
    fn users_are_found_by_what_they_have_in_common() {
        let (store, mut writer) = reflector::store();
        let users = Users::new(store, Arc::default());
        let mine = user("mine", "{clusterRef: {name: demo}}");
        for user in [
            mine.clone(),
            user("same-name", "{clusterRef: {name: demo}, commonName: mine}"),
            user("same-secret", "{clusterRef: {name: other}, secretName: mine-etcd-tls}"),
            user("other-cluster", "{clusterRef: {name: other}, commonName: mine}"),
            user("unrelated", "{clusterRef: {name: demo}}"),
        ] {
            see(&users, &mut writer, &watcher::Event::Apply(user));
        }
        assert_eq!(users.of_namespace("ns").len(), 5);
        assert!(users.of_namespace("other").is_empty());
        assert_eq!(names(&users.of_cluster("ns", "demo")), ["mine", "same-name", "unrelated"]);
        let like = || names(&users.like(mine.0.as_ref().unwrap()));
        assert_eq!(like(), ["mine", "same-secret", "mine", "same-name"]);

        // It was deleted and created with another spec.
        see(&users, &mut writer, &watcher::Event::Apply(user("same-name", "{clusterRef: {name: other}}")));
        assert_eq!(like(), ["mine", "same-secret", "mine"]);
        see(&users, &mut writer, &watcher::Event::Delete(user("same-secret", "{clusterRef: {name: other}}")));
        assert_eq!(like(), ["mine", "mine"]);
        // While the watch was interrupted, all others were deleted.
        see(&users, &mut writer, &watcher::Event::Init);
        see(&users, &mut writer, &watcher::Event::InitApply(mine.clone()));
        see(&users, &mut writer, &watcher::Event::InitDone);
        assert_eq!(names(&users.of_namespace("ns")), ["mine"]);
        see(&users, &mut writer, &watcher::Event::Delete(mine.clone()));
        let groups = lock(&users.groups);
        assert!(groups.names.is_empty() && groups.of.is_empty(), "{groups:?}");
    }

    /// A namespace has thousands of users, and a pass is made over each of them.
    #[test]
    fn only_the_users_with_the_same_key_are_looked_at() {
        let (store, mut writer) = reflector::store();
        let users = Users::new(store, Arc::default());
        for number in 0..3000 {
            let user = user(&format!("user-{number}"), "{clusterRef: {name: demo}}");
            see(&users, &mut writer, &watcher::Event::Apply(user));
        }
        let mine = user("user-17", "{clusterRef: {name: demo}}");
        let like = || names(&users.like(mine.0.as_ref().unwrap()));
        assert_eq!(like(), ["user-17", "user-17"]);
        // Users are looked up and not searched for: one with the same key that is not in the groups is not found.
        let same = user("same", "{clusterRef: {name: demo}, commonName: user-17}");
        writer.apply_watcher_event(&watcher::Event::Apply(same.clone()));
        assert_eq!(like(), ["user-17", "user-17"]);
        see(&users, &mut writer, &watcher::Event::Apply(same));
        assert_eq!(like(), ["user-17", "same", "user-17"]);
    }
}
