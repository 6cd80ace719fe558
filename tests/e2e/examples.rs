//! The examples and the commands in the documents work unchanged.

use std::{fs, sync::Arc};

use serde_json::json;

use crate::{
    harness::Scenario,
    namespace::{TIMEOUT, TestNamespace},
    tools::{kubectl, root, run, until},
};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(first_use), scenario!(every_field), scenario!(go_client).long(), scenario!(documents)]
}

async fn apply(ns: &TestNamespace, file: &str) {
    let manifest = fs::read_to_string(root().join("examples").join(file)).unwrap();
    ns.apply(&manifest).await.success();
}

/// A cluster, a user, and a pod that writes and reads with the user's Secret, all applied at once. All pods comply with the
/// profile `restricted`.
async fn first_use(ns: Arc<TestNamespace>) {
    apply(&ns, "client-pod.yaml").await;
    apply(&ns, "user.yaml").await;
    apply(&ns, "cluster.yaml").await;
    ns.kubectl(["wait", "--for=condition=Available", "--timeout=140s", "etcdcluster/demo"]).await.success();
    ns.kubectl(["wait", "--for=condition=Ready", "--timeout=140s", "etcd/demo"]).await.success();
    ns.kubectl(["wait", "--for=condition=Ready", "--timeout=60s", "etcduser/app"]).await.success();
    ns.kubectl(["wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=140s", "pod/etcdctl"]).await.success();
    assert_eq!(ns.kubectl(["logs", "etcdctl"]).await.success(), "greeting\nhello\n");
}

async fn every_field(ns: Arc<TestNamespace>) {
    apply(&ns, "cluster-full.yaml").await;
    ns.until_ready("full").await;
    ns.create_user("app", "full").await;
    let user = ns.user_identity("app").await;
    user.etcdctl(["put", "a", "b"]).await.success();
    // TLS 1.2 is refused because of `minVersion`.
    let (crt, key) = user.pair.as_ref().unwrap();
    let url = format!("{}/version", user.endpoint);
    let old = ["-sS", "--tls-max", "1.2", "--cacert", user.ca.to_str().unwrap(), "--cert", crt.to_str().unwrap()];
    let refusal = run("curl", old.into_iter().chain(["--key", key.to_str().unwrap(), &url])).await.failure();
    assert!(refusal.contains("protocol version"), "{refusal}");
    let set = ns.get::<k8s_openapi::api::apps::v1::StatefulSet>("full-0").await.unwrap();
    let pod = set.spec.template;
    assert_eq!(pod.metadata.unwrap().labels.unwrap()["example.com/team"], "storage");
    let container = pod.spec.unwrap().containers.remove(0);
    let args = container.args.unwrap();
    assert!(args.contains(&"--max-txn-ops=512".to_owned()) && args.contains(&"--quota-backend-bytes=536870912".to_owned()));
    let before = serde_json::to_string(&ns.status("full").await).unwrap();
    // Applying it again changes nothing.
    apply(&ns, "cluster-full.yaml").await;
    assert_eq!(serde_json::to_string(&ns.until_ready("full").await).unwrap(), before);
}

/// The example in Go can be built and works with the files of the Secret.
async fn go_client(ns: Arc<TestNamespace>) {
    ns.cluster_and_user("demo", 1, json!({})).await;
    let folder = ns.write("app-etcd-tls", &ns.secret("app-etcd-tls").await);
    let program = folder.join("client");
    let source = root().join("examples/go-client");
    run("go", ["build", "-C", source.to_str().unwrap(), "-o", program.to_str().unwrap(), "."]).await.success();
    until("the client succeeds", TIMEOUT, || async { run(&program, [&folder]).await.result() }).await;
}

/// The commands in the documents work unchanged, in a namespace of their own.
async fn documents(ns: Arc<TestNamespace>) {
    let kubeconfig = ns.write("kubeconfig", &[("config".to_owned(), own_context(&ns).await.into_bytes())].into());
    let operations = "docs/operations.md";
    let clients = "Clients outside of Kubernetes";
    let sections =
        [("README.md", "First use"), (operations, clients), (operations, "Members"), (operations, "When it does not work")];
    for (file, section) in sections {
        let document = fs::read_to_string(root().join(file)).unwrap();
        let (_, text) = document.split_once(&format!("\n## {section}\n")).unwrap();
        let text = text.split_once("\n## ").map_or(text, |(text, _)| text);
        let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
        let mut script = format!("export KUBECONFIG={}/config\ncd {}\n", kubeconfig.display(), root().display());
        // Blocks that build the Go example are skipped: it was built before, because registries cannot be reached from here.
        script.extend(blocks.filter(|block| !block.starts_with("go -C")));
        assert!(script.contains("kubectl "), "{section}");
        let output = run("bash", ["-euo", "pipefail", "-c", &script]).await.success();
        ns.measure(format!("{file}, {section}: {} lines", output.lines().count()));
        assert!(section != "First use" || output.contains("greeting\nhello\n"), "{output}");
        assert!(section != clients || output.contains("Z3JlZXRpbmc="), "{output}");
    }
    assert_eq!(ns.until_ready("demo").await.members.len(), 5);
}

/// A kubeconfig with the scenario's namespace as the default.
async fn own_context(ns: &TestNamespace) -> String {
    let config = kubectl(["config", "view", "--raw", "--flatten", "-o", "json"]).await.success();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    for context in config["contexts"].as_array_mut().unwrap() {
        context["context"]["namespace"] = ns.name.as_str().into();
    }
    config.to_string()
}
