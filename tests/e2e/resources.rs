//! The resources of pods change while they run, and the quota of the databases is not lowered below what they take.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use etcd_warden::api::EtcdCluster;
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{Pod, ResourceRequirements},
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{ResourceExt, api::ListParams};
use serde_json::{Value, json};

use crate::{
    harness::Scenario,
    members::incarnations,
    namespace::{TIMEOUT, TestNamespace},
    tools::until,
    writer::{Writers, connect},
};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(changed_in_place), scenario!(quota_in_use)]
}

async fn change(ns: &TestNamespace, resources: Value) {
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "pod": { "resources": resources } } })).await;
}

fn memory(resources: Option<&ResourceRequirements>) -> Option<&Quantity> {
    resources?.limits.as_ref()?.get("memory")
}

/// The memory limit that each container runs with, and how often it has ended, by pod.
async fn running(ns: &TestNamespace) -> BTreeMap<String, (Option<Quantity>, i32)> {
    let pods = ns.api::<Pod>().list(&ListParams::default()).await.unwrap();
    let limit = |pod: Pod| {
        let status = pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|status| status.name == "etcd")?;
        Some((pod.name_any(), (memory(status.resources.as_ref()).cloned(), status.restart_count)))
    };
    pods.into_iter().filter_map(limit).collect()
}

/// Pods and StatefulSets have this memory limit, and no container has ended.
async fn assert_agree(ns: &TestNamespace, limit: &str) {
    let expected = Some(Quantity(limit.into()));
    let running = running(ns).await;
    assert!(running.len() == 3 && running.values().all(|found| *found == (expected.clone(), 0)), "{running:?}");
    let pods = ns.api::<Pod>().list(&ListParams::default()).await.unwrap();
    let sets = ns.api::<StatefulSet>().list(&ListParams::default()).await.unwrap();
    let specs = pods.into_iter().filter_map(|pod| pod.spec);
    let templates = sets.into_iter().filter_map(|set| set.spec.template.spec);
    for spec in specs.chain(templates) {
        assert_eq!(memory(spec.containers[0].resources.as_ref()), expected.as_ref());
    }
}

/// Requests and limits reach running pods without a restart where Kubernetes does it, and by restarts elsewhere. A limit that a member cannot
/// have stops at the first one, and is taken back.
async fn changed_in_place(ns: Arc<TestNamespace>) {
    let resources = |cpu: &str, memory: &str| json!({ "requests": { "cpu": cpu }, "limits": { "memory": memory } });
    let user = ns.cluster_and_user("demo", 3, json!({ "pod": { "resources": resources("20m", "512Mi") } })).await;
    let known = ns.kubectl(["get", "--raw", "/api/v1"]).await.success();
    let is_in_place = known.contains("\"pods/resize\"");
    let writers = Writers::start(&user).await;
    let before = incarnations(&ns).await;
    let began = Instant::now();
    change(&ns, resources("30m", "768Mi")).await;
    until("every pod has the resources", TIMEOUT, || async {
        let running = running(&ns).await;
        let has = |(limit, _): &(Option<Quantity>, i32)| limit.as_ref().is_none_or(|limit| limit.0 == "768Mi");
        // Before Kubernetes 1.33 pods do not show what they run with.
        let is_restarted = is_in_place || incarnations(&ns).await.is_disjoint(&before);
        if is_restarted && running.len() == 3 && running.values().all(has) { Ok(()) } else { Err(format!("{running:?}")) }
    })
    .await;
    ns.until_ready("demo").await;
    let how = if is_in_place { "while they run" } else { "by restarts" };
    ns.measure(format!("resources of 3 members changed {how} in {:.1} s", began.elapsed().as_secs_f32()));
    if is_in_place {
        assert_eq!(incarnations(&ns).await, before);
        assert_agree(&ns, "768Mi").await;

        // Less than etcd uses: the kubelet does not do it.
        change(&ns, resources("30m", "4Mi")).await;
        let message = ns.until_condition("demo", "Degraded", "True", "CannotResize", TIMEOUT).await;
        ns.measure(format!("a limit below what is used: {message}"));
        let large = running(&ns).await.into_values().filter(|(limit, _)| limit.as_ref().is_some_and(|limit| limit.0 == "768Mi"));
        assert_eq!(large.count(), 3, "no container has it");
        change(&ns, resources("30m", "768Mi")).await;
        ns.until_ready("demo").await;
        assert_eq!(incarnations(&ns).await, before);
        assert_agree(&ns, "768Mi").await;
    }

    // A limit cannot be taken from a running pod.
    let before = incarnations(&ns).await;
    change(&ns, json!({ "limits": null })).await;
    until("every pod is replaced", TIMEOUT, || async {
        let now = incarnations(&ns).await;
        if now.is_disjoint(&before) && now.len() == 3 { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    ns.until_ready("demo").await;
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("resources changed: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
    ns.has_no_event("demo", "QuorumLost").await;
}

/// A quota that is smaller than the database waits for room, while other edits take effect. A full database is written to again after the
/// quota was raised.
async fn quota_in_use(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 1, json!({ "etcd": { "autoCompaction": { "retention": "0" } } })).await;
    let channel = etcd_client::Channel::Tonic(connect(&user));
    let mut client = etcd_client::Client::from_channel(channel, None).await.unwrap();
    let mut revision = 0;
    for _ in 0..20 {
        revision = client.put("large", vec![0; 1 << 20], None).await.unwrap().header().unwrap().revision();
    }
    let before = incarnations(&ns).await;
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "etcd": { "quotaBackendSize": "16Mi" } } })).await;
    let message = ns.until_condition("demo", "Degraded", "True", "QuotaTooSmall", TIMEOUT).await;
    ns.measure(message);
    assert_eq!(incarnations(&ns).await, before);
    let arguments = async || {
        let pod = ns.get::<Pod>("demo-0-0").await?;
        pod.spec?.containers.into_iter().next()?.args
    };
    let has = |arguments: &Option<Vec<String>>, flag: &str| arguments.iter().flatten().any(|argument| argument == flag);
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "etcd": { "logLevel": "warn" } } })).await;
    until("another setting takes effect", TIMEOUT, || async {
        let arguments = arguments().await;
        let is_kept = has(&arguments, "--quota-backend-bytes=2147483648");
        if has(&arguments, "--log-level=warn") && is_kept { Ok(()) } else { Err(format!("{arguments:?}")) }
    })
    .await;
    until("the history is compacted", TIMEOUT, || async { user.etcdctl(["compact", &revision.to_string()]).await.result() })
        .await;
    user.etcdctl(["defrag"]).await.success();
    until("the quota takes effect", TIMEOUT, || async {
        let arguments = arguments().await;
        if has(&arguments, "--quota-backend-bytes=16777216") { Ok(()) } else { Err(format!("{arguments:?}")) }
    })
    .await;
    ns.until_ready("demo").await;
    client.put("small", "", None).await.unwrap();

    // A full database refuses every write, until a larger quota gives it room.
    let mut written = 0;
    let refused = loop {
        match client.put(format!("large{written}"), vec![0; 1 << 20], None).await {
            Ok(_) => written += 1,
            Err(error) => break error.to_string(),
        }
        assert!(written < 32, "the quota of 16 MiB is not kept");
    };
    assert!(refused.contains("database space exceeded"), "{refused}");
    let message = ns.until_condition("demo", "Degraded", "True", "EtcdReportsErrors", TIMEOUT).await;
    assert!(message.starts_with("demo-0 has raised the alarm NOSPACE"), "{message}");
    assert!(client.put("small", "", None).await.unwrap_err().to_string().contains("database space exceeded"));
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "etcd": { "quotaBackendSize": "64Mi" } } })).await;
    ns.until_ready("demo").await;
    until("writes are accepted", TIMEOUT, || async {
        client.clone().put("small", "", None).await.map_err(|error| error.to_string())
    })
    .await;
    assert!(user.etcdctl(["alarm", "list"]).await.success().trim().is_empty());
    assert_eq!(ns.events("demo").await.iter().filter(|(reason, _)| reason == "AlarmDisarmed").count(), 1);
}
