//! Private keys whose certificates an issuer was asked for and nobody waits for any more.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use etcd_warden::{
    api::{EtcdCluster, EtcdUser},
    certificates::requests::pending_key,
    etcd::{
        Change, DialError, Dialer, EtcdError, Member, MemberList, MemberStatus, Progress, StatusAnswer, Target, Tls,
        VersionMetrics,
    },
    ids::{ClusterId, MemberId, Uid},
    names::{authority_key, member_key, tls_key},
    pki::{Holder, Phase},
};
use futures::future::BoxFuture;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Pod, Secret},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{
    issuers::{Behavior, Issuer, OTHER, later, spec, spec_with},
    namespace::{TestNamespace, until, until_ok},
    state::{certificate, names},
};

const CLUSTER: ClusterId = ClusterId(7);
const MEMBER: MemberId = MemberId(1);

/// Connections to the only member of a cluster. It is healthy, presents what its Secret holds, and accepts every certificate.
#[derive(Clone)]
struct Healthy {
    secrets: Api<Secret>,
    peer_url: String,
}

impl Healthy {
    async fn leaf(&self, key: &str) -> Vec<u8> {
        certificate(&self.secrets.get("demo-0-tls").await.unwrap(), key).der().to_vec()
    }
}

impl Dialer for Healthy {
    fn ask<'a>(&'a self, _: &'a Target, _: &'a Tls) -> BoxFuture<'a, Result<StatusAnswer, DialError>> {
        let status = MemberStatus {
            cluster_id: CLUSTER,
            member_id: MEMBER,
            leader: Some(MEMBER),
            raft_applied_index: 10,
            is_learner: false,
            version: "3.6.16".into(),
            storage: None,
            downgrade: None,
            db_size: 1 << 16,
            errors: vec![],
        };
        Box::pin(async { Ok(StatusAnswer { served: self.leaf(member_key::SERVER_CRT).await, status: Ok(status) }) })
    }

    fn members<'a>(&'a self, _: &'a Target, _: &'a Tls) -> BoxFuture<'a, Result<MemberList, EtcdError>> {
        let peer_urls = vec![self.peer_url.clone()];
        let member = Member { id: MEMBER, name: "demo-0".into(), peer_urls, is_learner: false };
        Box::pin(async { Ok(MemberList { cluster_id: CLUSTER, members: vec![member] }) })
    }

    fn own_members<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<MemberList, EtcdError>> {
        self.members(target, tls)
    }

    fn change<'a>(&'a self, _: &'a Target, _: &'a Tls, change: &'a Change) -> BoxFuture<'a, Result<(), EtcdError>> {
        panic!("the member is not to be changed: {change:?}")
    }

    fn advance<'a>(&'a self, _: &'a Target, _: &'a Tls) -> BoxFuture<'a, Result<(), EtcdError>> {
        Box::pin(async { Ok(()) })
    }

    fn versions<'a>(&'a self, _: &'a Target) -> BoxFuture<'a, Result<VersionMetrics, EtcdError>> {
        Box::pin(async { Ok(VersionMetrics { cluster: Some(6), has_snapshot: false }) })
    }

    fn active_peers<'a>(&'a self, _: &'a Target) -> BoxFuture<'a, Result<BTreeSet<MemberId>, EtcdError>> {
        Box::pin(async { Ok(BTreeSet::new()) })
    }

    fn progress<'a>(&'a self, _: &'a Target) -> BoxFuture<'a, Result<Progress, EtcdError>> {
        Box::pin(async { Ok(Progress { revision: 1, has_leader: true, is_learner: false }) })
    }

    fn served<'a>(&'a self, _: &'a Target, _: &'a Tls) -> BoxFuture<'a, Result<Vec<u8>, DialError>> {
        Box::pin(async { Ok(self.leaf(member_key::PEER_CRT).await) })
    }
}

/// Creates the pod of the only member from its StatefulSet, and makes it appear to run.
async fn run_pod(ns: &TestNamespace<'_>) {
    let template = ns.api::<StatefulSet>().get("demo-0").await.unwrap().spec.template;
    let mut pod = Pod { metadata: template.metadata.unwrap(), spec: template.spec, status: None };
    pod.metadata.name = Some("demo-0-0".into());
    pod.spec.as_mut().unwrap().node_name = Some("none".into());
    let pods = ns.api::<Pod>();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let status = json!({
        "podIP": "127.0.0.1", "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }],
        "containerStatuses": [{
            "name": "etcd", "image": "etcd", "imageID": "", "ready": true, "restartCount": 0,
            "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } },
        }],
    });
    pods.patch_status("demo-0-0", &PatchParams::default(), &Patch::Merge(json!({ "status": status }))).await.unwrap();
}

/// Restarts the pod of the only member, as its StatefulSet and the kubelet would, until `other` is done.
async fn restarting<T>(ns: &TestNamespace<'_>, other: impl Future<Output = T>) -> T {
    let (pods, sets) = (ns.api::<Pod>(), ns.api::<StatefulSet>());
    let keep_running = async {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tick.tick().await;
            let generation = sets.get("demo-0").await.unwrap().metadata.generation;
            let observed = Patch::Merge(json!({ "status": { "observedGeneration": generation, "replicas": 1 } }));
            sets.patch_status("demo-0", &PatchParams::default(), &observed).await.unwrap();
            match pods.get_opt("demo-0-0").await.unwrap() {
                None => run_pod(ns).await,
                Some(pod) if pod.metadata.deletion_timestamp.is_some() => {
                    drop(pods.delete("demo-0-0", &DeleteParams::default().grace_period(0)).await);
                }
                Some(_) => {}
            }
        }
    };
    tokio::select! {
        result = other => result,
        () = keep_running => unreachable!("it runs forever"),
    }
}

/// Waits until a cluster of one member is known to run.
async fn runs(ns: &TestNamespace<'_>) {
    ns.bootstrapped("demo").await;
    run_pod(ns).await;
    until_ok(async || {
        let status = ns.api::<EtcdCluster>().get("demo").await.unwrap().status.unwrap_or_default();
        (status.cluster_id == Some(CLUSTER)).then_some(()).ok_or_else(|| format!("the member is recorded: {status:#?}"))
    })
    .await;
}

/// The keys of the CA's Secret with private keys that wait for certificates, and the requests for these.
async fn waiting(ns: &TestNamespace<'_>, issuer: &Issuer<'_>) -> (BTreeSet<String>, BTreeSet<String>) {
    let authority = ns.api::<Secret>().get("demo-client-ca").await.unwrap();
    let keys = authority.data.unwrap().into_keys().filter(|key| key.starts_with(authority_key::PENDING)).collect();
    (keys, issuer.requests().await.into_keys().collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_deleted_user_waited_for_is_removed() {
    let ns = TestNamespace::new("pending").await;
    let (issuer, names) = (Issuer::new(&ns).await, names(&ns, "demo"));
    let member = Healthy { secrets: ns.api(), peer_url: names.peer_url(&names.member(0)) };
    let operator = ns.operator_with_dialer(Arc::new(member));
    let clusters = ns.api::<EtcdCluster>();
    ns.cluster("demo", spec()).await;
    // What is unused is known only once the members are.
    Box::pin(issuer.during(Behavior::Correct, runs(&ns))).await;

    let deleted = issuer.during(Behavior::Silent, async {
        let names = json!({ "spec": { "tls": { "client": { "extraSANs": { "dnsNames": ["etcd.example.com"] } } } } });
        clusters.patch("demo", &PatchParams::default(), &Patch::Merge(names)).await.unwrap();
        let of_member = until("the member waits for a certificate", async || {
            let now = waiting(&ns, &issuer).await;
            (now.0.len() == 1 && now.1.len() == 1).then_some(now)
        })
        .await;

        let user = ns.user("app", json!({ "clusterRef": { "name": "demo" } })).await;
        ns.user_reports("app", "WaitingForIssuer").await;
        let holder = Holder::User { name: "app".into(), uid: Uid::of(&user.metadata).unwrap() };
        let (keys, requests) = waiting(&ns, &issuer).await;
        let of_user: Vec<_> = keys.difference(&of_member.0).cloned().collect();
        assert_eq!((of_user, requests.len()), (vec![pending_key(&holder, tls_key::CRT)], 2));

        ns.delete::<EtcdUser>("app").await;
        until_ok(async || {
            let now = waiting(&ns, &issuer).await;
            if now == of_member { Ok(()) } else { Err(format!("{now:?} is {of_member:?}")) }
        })
        .await;
        operator.wait_for_passes(3).await;
        assert_eq!(waiting(&ns, &issuer).await, of_member, "those of the member stay");
    });
    deleted.await;

    // What the member waited for is used.
    let served = until("the member has its certificate", async || {
        let leaf = certificate(&ns.api::<Secret>().get("demo-0-tls").await.unwrap(), member_key::SERVER_CRT);
        leaf.dns_names().contains("etcd.example.com").then_some(leaf)
    });
    issuer.during(Behavior::Correct, served).await;
    until("nothing is left", async || (waiting(&ns, &issuer).await == Default::default()).then_some(())).await;
    operator.stop().await;
}

/// The phase of the rotation of the client CA.
async fn phase(ns: &TestNamespace<'_>) -> Option<Phase> {
    let status = ns.api::<EtcdCluster>().get("demo").await.unwrap().status.unwrap_or_default();
    status.certificates?.client?.phase
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_of_an_issuer_is_tried_however_long_it_takes_to_sign() {
    let ns = TestNamespace::new("trial").await;
    let (issuer, names) = (Issuer::new(&ns).await, names(&ns, "demo"));
    let member = Healthy { secrets: ns.api(), peer_url: names.peer_url(&names.member(0)) };
    let operator = ns.operator_with_dialer(Arc::new(member.clone()));
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    runs(&ns).await;

    let clusters = ns.api::<EtcdCluster>();
    clusters.patch("demo", &PatchParams::default(), &Patch::Merge(json!({ "spec": spec() }))).await.unwrap();
    let uids = async || issuer.requests().await.into_values().map(|request| request.uid()).collect::<Vec<_>>();
    let silent = issuer.during(Behavior::Silent, async {
        let asked = until("a certificate for the trial is requested", async || {
            let asked = uids().await;
            (asked.len() == 1 && phase(&ns).await == Some(Phase::Distributing)).then_some(asked)
        })
        .await;
        let waits = waiting(&ns, &issuer).await;
        assert_eq!(waits.0, BTreeSet::from([pending_key(&Holder::Operator, tls_key::NEXT_CRT)]));
        operator.wait_for_passes(5).await;
        assert_eq!((uids().await, waiting(&ns, &issuer).await), (asked, waits), "it is not requested again");
    });
    Box::pin(restarting(&ns, silent)).await;
    operator.stop().await;

    // Clients had the time to reload their Secrets.
    let operator = ns.operator_by(Arc::new(member), later);
    let moves = until_ok(async || match phase(&ns).await {
        Some(Phase::Distributing) => {
            let status = clusters.get("demo").await.unwrap().status;
            Err(format!("the new CA signs: {:#?}", status.map(|status| status.conditions)))
        }
        _ => Ok(()),
    });
    Box::pin(restarting(&ns, issuer.during(Behavior::Correct, moves))).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_the_previous_issuer_is_replaced() {
    let ns = TestNamespace::new("previous").await;
    let (issuer, names) = (Issuer::new(&ns).await, names(&ns, "demo"));
    let member = Healthy { secrets: ns.api(), peer_url: names.peer_url(&names.member(0)) };
    let operator = ns.operator_with_dialer(Arc::new(member.clone()));
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    runs(&ns).await;

    let clusters = ns.api::<EtcdCluster>();
    let change_to = async |name: &str| {
        let spec = Patch::Merge(json!({ "spec": spec_with(name) }));
        clusters.patch("demo", &PatchParams::default(), &spec).await.unwrap();
    };
    // The only request, if it is for this issuer.
    let asked = async |name: &str| {
        until_ok(async || {
            let requests: Vec<_> = issuer.requests().await.into_values().collect();
            match requests.as_slice() {
                [request] if request.spec.issuer_ref.name == name => Ok(request.name_any()),
                others => Err(format!("a certificate is requested from {name}: {others:?}")),
            }
        })
        .await
    };
    change_to("company").await;
    let previous = Box::pin(restarting(&ns, issuer.during(Behavior::Silent, asked("company")))).await;
    operator.stop().await;

    // The request is old.
    let operator = ns.operator_by(Arc::new(member), later);
    change_to(OTHER).await;
    let replaced = issuer.during(Behavior::Silent, async {
        let replaced = asked(OTHER).await;
        operator.wait_for_passes(3).await;
        let conditions = clusters.get("demo").await.unwrap().status.unwrap().conditions;
        assert!(conditions.iter().all(|condition| condition.reason != "NameTaken"), "{conditions:#?}");
        replaced
    });
    let replaced = Box::pin(restarting(&ns, replaced)).await;
    assert_ne!(replaced, previous, "its private key is new");
    let answered = until("the certificate of the new issuer is used", async || {
        let secret = ns.api::<Secret>().get("demo-operator-tls").await.unwrap();
        secret.data.unwrap().contains_key(tls_key::NEXT_CRT).then_some(())
    });
    Box::pin(restarting(&ns, issuer.during(Behavior::Correct, answered))).await;
    operator.stop().await;
}
