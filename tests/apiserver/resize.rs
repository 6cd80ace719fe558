//! What the API server answers when the resources of a running pod are changed.

use etcd_warden::{
    ids::Uid,
    kubernetes::{
        apply::{Resized, resize},
        resources::Resources,
    },
};
use k8s_openapi::api::core::v1::{LimitRange, Pod, ResourceRequirements, ServiceAccount};
use kube::{Api, api::PostParams, client::ClientBuilder, config::AuthInfo};
use serde_json::{Value, json};

use crate::namespace::TestNamespace;

fn requirements(value: &Value) -> ResourceRequirements {
    serde_json::from_value(value.clone()).unwrap()
}

#[tokio::test]
async fn resources_of_a_pod_are_changed_unless_it_has_to_be_created_with_them() {
    let ns = TestNamespace::new("resize").await;
    let small = json!({ "requests": { "cpu": "100m" }, "limits": { "memory": "256Mi" } });
    let containers = json!([
        { "name": "proxy", "image": "proxy", "resources": { "requests": { "cpu": "10m" } } },
        { "name": "etcd", "image": "etcd", "args": ["--name=demo-0"], "resources": small },
    ]);
    let pod = json!({ "metadata": { "name": "demo-0-0" }, "spec": { "containers": containers, "automountServiceAccountToken": false } });
    let account: ServiceAccount = serde_json::from_value(json!({ "metadata": { "name": "default" } })).unwrap();
    ns.api::<ServiceAccount>().create(&PostParams::default(), &account).await.ok();
    let pods = ns.api::<Pod>();
    let created = pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let uid = Uid::of(&created.metadata).unwrap();
    let change = async |pods: &Api<Pod>, uid: &Uid, from: &Value, to: &Value| {
        let resources = Resources::of(&requirements(to), [&requirements(from)]).unwrap();
        resize(pods, "demo-0-0", uid, "etcd", &resources).await.map_err(|error| error.to_string())
    };
    let impossible = |answer: Result<Resized, String>| match answer {
        Ok(Resized::Impossible(words)) => words,
        other => panic!("{other:?}"),
    };

    let large = json!({ "requests": { "cpu": "200m" }, "limits": { "memory": "512Mi", "cpu": "1" } });
    if ns.minor().await < 33 {
        let words = impossible(change(&pods, &uid, &small, &large).await);
        assert_eq!(words, "the server could not find the requested resource");
        return;
    }
    assert_eq!(change(&pods, &uid, &small, &large).await, Ok(Resized::Accepted));
    let changed = pods.get("demo-0-0").await.unwrap();
    let (mut expected, spec) = (created.spec.unwrap(), changed.spec.unwrap());
    expected.containers[1].resources = Some(requirements(
        &json!({ "requests": { "cpu": "200m", "memory": "512Mi" }, "limits": { "memory": "512Mi", "cpu": "1" } }),
    ));
    assert_eq!(spec, expected);
    assert!(changed.metadata.generation > created.metadata.generation, "the kubelet tells that it has seen the change");
    // To write the same again does nothing.
    assert_eq!(change(&pods, &uid, &small, &large).await, Ok(Resized::Accepted));

    let words = impossible(change(&pods, &uid, &large, &json!({ "requests": { "cpu": "200m" } })).await);
    assert!(words.contains("resource limits cannot be removed"), "{words}");
    let pages = json!({ "requests": { "cpu": "200m" }, "limits": { "memory": "512Mi", "cpu": "1", "hugepages-2Mi": "2Mi" } });
    let words = impossible(change(&pods, &uid, &large, &pages).await);
    assert!(words.contains("only cpu and memory"), "{words}");
    assert!(change(&pods, &Uid::from("another"), &large, &small).await != Ok(Resized::Accepted), "the pod has been replaced");

    // A new pod would be refused as well.
    let range =
        json!({ "metadata": { "name": "max" }, "spec": { "limits": [{ "type": "Container", "max": { "memory": "1Gi" } }] } });
    let range: LimitRange = serde_json::from_value(range).unwrap();
    ns.api::<LimitRange>().create(&PostParams::default(), &range).await.unwrap();
    let huge = json!({ "requests": { "cpu": "200m" }, "limits": { "memory": "2Gi", "cpu": "1" } });
    let mut refused = change(&pods, &uid, &large, &huge).await;
    // The plugin learns of the range by a watch.
    while refused == Ok(Resized::Accepted) {
        assert_eq!(change(&pods, &uid, &huge, &large).await, Ok(Resized::Accepted));
        refused = change(&pods, &uid, &large, &huge).await;
    }
    assert!(refused.as_ref().is_err_and(|words| words.contains("maximum memory usage per Container is 1Gi")), "{refused:?}");

    let token = ns.server.kubectl(&["-n", &ns.name, "create", "token", "default"]);
    let mut config = ns.server.config();
    config.auth_info = AuthInfo { token: Some(token.trim().to_owned().into()), ..AuthInfo::default() };
    let powerless = Api::namespaced(ClientBuilder::try_from(config).unwrap().build(), &ns.name);
    let words = impossible(change(&powerless, &uid, &large, &small).await);
    assert!(words.contains("cannot patch resource \"pods/resize\""), "{words}");
}
