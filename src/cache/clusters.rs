//! What users depend on in their cluster.

use std::collections::{BTreeSet, HashMap};

use kube::{
    ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};

use super::watch::{Guarded, Watched};
use crate::api::{ConditionType, DomainStatus, EtcdCluster, Reason, condition, reason_of};

/// A namespace and a name.
type Id = (String, String);

/// What the users of each cluster depend on.
#[derive(Default)]
pub(super) struct Clusters(HashMap<Id, ForUsers>);

/// What the users of a cluster depend on.
#[derive(PartialEq, Eq)]
struct ForUsers {
    uid: Option<String>,
    paused: bool,
    authorities: Option<DomainStatus>,
    /// The reason of `Available`, which says whether members refuse certificates.
    available: Option<Reason>,
}

impl ForUsers {
    fn of(cluster: &Guarded<EtcdCluster>) -> Option<Self> {
        let cluster = cluster.0.as_ref().ok()?;
        let status = cluster.status.as_ref();
        let available = status.and_then(|status| condition(&status.conditions, ConditionType::Available));
        Some(Self {
            uid: cluster.uid(),
            paused: cluster.spec.paused,
            authorities: status.and_then(|status| status.certificates.as_ref()?.client.clone()),
            available: available.and_then(reason_of),
        })
    }
}

fn id(cluster: &Guarded<EtcdCluster>) -> Id {
    (cluster.namespace().unwrap_or_default(), cluster.name_any())
}

impl Clusters {
    /// Follows the watch. Returns the clusters whose users may have to change. `store` has the clusters.
    pub(super) fn follow(&mut self, seen: &Watched<'_, Guarded<EtcdCluster>>, store: &Store<Guarded<EtcdCluster>>) -> Vec<Id> {
        let mut seen_ids: BTreeSet<Id> = BTreeSet::new();
        seen.each_changed(store, |cluster| {
            seen_ids.insert(id(cluster));
        });
        // Those that were deleted while the watch was interrupted.
        if let Watched::Listed = seen {
            seen_ids.extend(self.0.keys().cloned());
        }
        seen_ids.retain(|id| {
            let cluster = store.get(&ObjectRef::new(&id.1).within(&id.0));
            self.set(id, cluster.and_then(|cluster| ForUsers::of(&cluster)))
        });
        seen_ids.into_iter().collect()
    }

    /// Whether this is a change.
    fn set(&mut self, id: &Id, now: Option<ForUsers>) -> bool {
        let is_change = self.0.get(id) != now.as_ref();
        match now {
            Some(now) => drop(self.0.insert(id.clone(), now)),
            None => drop(self.0.remove(id)),
        }
        is_change
    }
}

#[cfg(test)]
mod tests {
    use kube::{
        core::DeserializeGuard,
        runtime::{reflector, watcher::Event},
    };

    use super::*;

    fn cluster(name: &str, paused: bool, available: &str, message: &str) -> Guarded<EtcdCluster> {
        let spec = serde_saphyr::from_str(&format!("paused: {paused}")).unwrap();
        let status = format!(
            "{{conditions: [{{type: Available, status: 'False', reason: {available}, message: {message}, \
             lastTransitionTime: '2026-03-01T12:00:00Z'}}]}}"
        );
        let mut cluster = EtcdCluster::new(name, spec);
        (cluster.metadata.namespace, cluster.metadata.uid) = (Some("ns".into()), Some("one".into()));
        cluster.status = Some(serde_saphyr::from_str(&status).unwrap());
        DeserializeGuard(Ok(cluster))
    }

    #[test]
    fn users_are_concerned_when_members_begin_to_refuse_certificates() {
        let (store, mut writer) = reflector::store();
        let mut clusters = Clusters::default();
        let mut see = |event: Event<Guarded<EtcdCluster>>| {
            writer.apply_watcher_event(&event);
            let changed = Watched::of(&event).map(|seen| clusters.follow(&seen, &store)).unwrap_or_default();
            changed.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
        };
        assert_eq!(see(Event::Apply(cluster("demo", false, "QuorumHealthy", "a"))), ["demo"]);
        assert!(see(Event::Apply(cluster("demo", false, "QuorumHealthy", "b"))).is_empty());
        assert_eq!(see(Event::Apply(cluster("demo", false, "CertificateRefused", "b"))), ["demo"]);
        assert_eq!(see(Event::Apply(cluster("demo", true, "CertificateRefused", "b"))), ["demo"]);

        // While the watch was interrupted, one has changed, one was created and one deleted. The store has them at the end.
        assert_eq!(see(Event::Apply(cluster("gone", false, "QuorumHealthy", "a"))), ["gone"]);
        assert_eq!(see(Event::Apply(cluster("same", false, "QuorumHealthy", "a"))), ["same"]);
        assert!(see(Event::Init).is_empty());
        for now in [
            cluster("demo", true, "QuorumHealthy", "b"),
            cluster("new", false, "QuorumHealthy", "b"),
            cluster("same", false, "QuorumHealthy", "b"),
        ] {
            assert!(see(Event::InitApply(now)).is_empty());
        }
        assert_eq!(see(Event::InitDone), ["demo", "gone", "new"]);
        assert_eq!(see(Event::Delete(cluster("new", false, "QuorumHealthy", "b"))), ["new"]);
    }
}
