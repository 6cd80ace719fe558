//! The operator is killed before and after each of its changes, while members are added, removed, restarted and replaced, and
//! during a CA rotation.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use etcd_warden::{
    api::{EtcdCluster, EtcdClusterStatus, MemberRole},
    ids::MemberId,
    names::{authority_key, bootstrap_key, member_key},
    pki::{Certificate, Holder, Ledger, Serial, crl_serials},
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, PersistentVolumeClaim, Pod},
    },
};
use kube::{Resource, ResourceExt, api::ListParams};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    failpoint::{kill_at_each_change, operate_until},
    harness::Scenario,
    history::Histories,
    members::{incarnations, voters},
    namespace::TestNamespace,
    operator,
    tools::until,
    writer::Writers,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(before_and_after_each_change).alone()]
}

/// Each kill costs the start of an operator.
const TIMEOUT: Duration = Duration::from_secs(350);

/// A change of the cluster.
#[derive(Clone, Copy, Debug)]
enum Change {
    Grow,
    Shrink,
    Restart,
    Replace,
    /// Rotates the peer CA.
    Rotate,
}

impl Change {
    fn members(self) -> (u32, u32) {
        match self {
            Self::Grow => (1, 3),
            Self::Shrink => (3, 1),
            Self::Restart | Self::Replace | Self::Rotate => (3, 3),
        }
    }

    /// The changes of which it must consist.
    fn parts(self) -> &'static [&'static str] {
        const JOINING: &[&str] = &[
            "etcd AddLearner",
            "apply configmaps",
            "apply persistentvolumeclaims",
            "replace secrets",
            "apply statefulsets",
            "merge persistentvolumeclaims",
            "merge pods",
            "etcd Promote",
            "apply etcdclusters/status",
        ];
        match self {
            Self::Grow => JOINING,
            Self::Shrink => &[
                "etcd Remove",
                "delete statefulsets",
                "delete persistentvolumeclaims",
                "delete poddisruptionbudgets",
                "replace secrets",
                "apply configmaps",
                "apply etcdclusters/status",
            ],
            Self::Restart => &["apply statefulsets", "create pods/eviction", "etcd MoveLeader", "merge pods"],
            Self::Replace => &[
                "etcd MoveLeader",
                "etcd Remove",
                "delete statefulsets",
                "delete persistentvolumeclaims",
                "merge etcdclusters",
                "etcd AddLearner",
                "apply persistentvolumeclaims",
                "replace secrets",
                "apply statefulsets",
                "merge persistentvolumeclaims",
                "etcd Promote",
            ],
            Self::Rotate => &[
                "merge etcdclusters",
                "replace secrets",
                "apply statefulsets",
                "create pods/eviction",
                "etcd MoveLeader",
                "merge pods",
                "apply etcdclusters/status",
            ],
        }
    }
}

/// Runs all changes concurrently, each with operators of its own.
async fn before_and_after_each_change(ns: Arc<TestNamespace>) {
    operator::stop(&ns).await;
    let changes = [Change::Grow, Change::Shrink, Change::Restart, Change::Replace, Change::Rotate].map(|change| {
        let ns = Arc::clone(&ns);
        async move {
            let name = format!("killed::{change:?}").to_lowercase();
            let own = Arc::new(TestNamespace::create(ns.client.clone(), &name).await);
            let ended = tokio::spawn(killed_during(change, Arc::clone(&own))).await;
            match &ended {
                Ok(figures) => {
                    ns.measure(figures.clone());
                    own.remove().await;
                }
                Err(_) => own.dump().await,
            }
            ended.map(drop).map_err(|_| format!("{change:?}: see target/e2e/{name}"))
        }
    });
    let ended: Result<Vec<()>, String> = futures::future::join_all(changes).await.into_iter().collect();
    ended.unwrap();
    operator::scale(2).await;
}

/// Makes a change while the operator is killed at each step, and checks the result.
async fn killed_during(change: Change, ns: Arc<TestNamespace>) -> String {
    let (from, to) = change.members();
    let user = operate_until(&ns.name, ns.cluster_and_user("demo", from, json!({}))).await;
    let before = ns.status("demo").await;
    let leader = before.members.iter().find(|member| member.role == Some(MemberRole::Leader)).unwrap().name.clone();
    let pods = incarnations(&ns).await;
    let certificates = certificates(&ns, &before).await;
    let annotate = async |key: &str, value: &str| {
        let patch = json!({ "metadata": { "annotations": { format!("etcd-warden.dev/{key}"): value } } });
        ns.patch::<EtcdCluster>("demo", patch).await;
    };
    let writers = Writers::start(&user).await;
    // One of the clusters that run side by side has these clients, too.
    let histories = if matches!(change, Change::Replace) { Some(Histories::start(&user).await) } else { None };
    match change {
        Change::Grow | Change::Shrink => ns.patch::<EtcdCluster>("demo", json!({ "spec": { "replicas": to } })).await,
        Change::Restart => annotate("restarted-at", "now").await,
        Change::Replace => annotate("replace", &leader).await,
        Change::Rotate => annotate("rotate-ca", "peer").await,
    }
    let began = Instant::now();
    let done = async || {
        let status = ns.ready("demo").await?;
        let other = match change {
            Change::Grow | Change::Shrink => true,
            Change::Restart => incarnations(&ns).await.is_disjoint(&pods),
            Change::Replace => ids(&before).get(&leader) != ids(&status).get(&leader),
            Change::Rotate => {
                let [before, now] = [&before, &status].map(|of| of.certificates.as_ref().unwrap().peer.as_ref().unwrap());
                now.phase.is_none() && now.retiring.is_empty() && now.active.key_id != before.active.key_id
            }
        };
        if other { Ok(()) } else { Err("nothing has been done yet".to_owned()) }
    };
    let kills = kill_at_each_change(&ns.name, until(&format!("{change:?}"), TIMEOUT, done)).await;
    let took = began.elapsed();
    let history = if let Some(histories) = histories { format!("; {}", histories.stop(&ns).await) } else { String::new() };
    let figures = writers.stop().await.checked(&user).await;

    let after = ns.status("demo").await;
    let expected: BTreeSet<String> = (0..to).map(|ordinal| format!("demo-{ordinal}")).collect();
    assert_eq!(after.members.iter().map(|member| member.name.clone()).collect::<BTreeSet<_>>(), expected);
    assert_eq!(after.cluster_id, before.cluster_id);
    voters(&user, expected.len()).await;
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");

    // Nothing remains of removed members, and their certificates are revoked.
    assert_eq!(names::<StatefulSet>(&ns).await, expected);
    assert_eq!(names::<PersistentVolumeClaim>(&ns).await, expected.iter().map(|name| format!("data-{name}")).collect());
    assert_eq!(names::<Pod>(&ns).await, expected.iter().map(|name| format!("{name}-0")).collect());
    let bootstrap = ns.get::<ConfigMap>("demo-bootstrap").await.unwrap().data.unwrap();
    let written = bootstrap.keys().filter_map(|key| key.strip_suffix(bootstrap_key::STATE_SUFFIX)).map(str::to_owned);
    assert_eq!(written.collect::<BTreeSet<_>>(), expected);
    let gone: BTreeSet<_> = match change {
        Change::Replace => [leader].into(),
        _ => certificates.keys().filter(|name| !expected.contains(*name)).cloned().collect(),
    };
    for (authority, list) in [("demo-client-ca", member_key::CLIENT_CRL), ("demo-peer-ca", member_key::PEER_CRL)] {
        let secret = ns.secret(authority).await;
        let ledger = Ledger::from_json(&secret[authority_key::LEDGER]).unwrap();
        let read = crl_serials(&ns.secret("demo-0-tls").await[list]).unwrap();
        for issued in ledger.entries() {
            let Holder::Member { name } = &issued.holder else { continue };
            let is_gone = !expected.contains(name)
                || certificates.get(name).is_some_and(|of| gone.contains(name) && of.contains(&issued.serial));
            assert!(issued.revoked.is_some() || !is_gone, "{issued:?} of {authority} is in force");
            assert!(read.contains(&issued.serial) || !is_gone, "{issued:?} is not on the revocation list of members");
            // The certificates of other members are not revoked.
            let of_others = certificates.get(name).is_some_and(|of| !gone.contains(name) && of.contains(&issued.serial));
            assert!(issued.revoked.is_none() || !of_others, "{issued:?} is revoked");
        }
    }

    assert!(kills.total() >= 2 * u32::try_from(change.parts().len()).unwrap(), "{}", kills.summary());
    for part in change.parts() {
        assert!(kills.at(part), "no kill at {part}; {}", kills.summary());
    }
    format!("{change:?} in {:.0} s, {}; {figures}{history}", took.as_secs_f32(), kills.summary())
}

fn ids(status: &EtcdClusterStatus) -> BTreeMap<String, Option<MemberId>> {
    status.members.iter().map(|member| (member.name.clone(), member.id)).collect()
}

/// The serials of each member's certificates.
async fn certificates(ns: &TestNamespace, status: &EtcdClusterStatus) -> BTreeMap<String, BTreeSet<Serial>> {
    let mut all = BTreeMap::new();
    for member in &status.members {
        let secret = ns.secret(&format!("{}-tls", member.name)).await;
        let leaves = [member_key::SERVER_CRT, member_key::CLIENT_CRT, member_key::PEER_CRT];
        let serials = leaves.map(|key| Certificate::from_pem(&secret[key]).unwrap().serial());
        all.insert(member.name.clone(), serials.into());
    }
    all
}

async fn names<K>(ns: &TestNamespace) -> BTreeSet<String>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
{
    ns.api::<K>().list(&ListParams::default()).await.unwrap().iter().map(ResourceExt::name_any).collect()
}
