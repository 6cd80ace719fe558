//! An admission webhook that changes what the operator writes.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{Router, body::Bytes, http::header::CONTENT_TYPE, routing::post};
use k8s_openapi::{
    ByteString,
    api::{admissionregistration::v1::MutatingWebhookConfiguration, apps::v1::StatefulSet},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::world::{World, until};

/// A listener whose connections are encrypted, as the API server demands of a webhook.
struct Encrypted {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Encrypted {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// Rewrites the registry of a StatefulSet's image, as Kyverno and registry mirrors do.
async fn use_mirror(body: Bytes) -> ([(axum::http::HeaderName, &'static str); 1], String) {
    let review: Value = serde_json::from_slice(&body).unwrap();
    let request = &review["request"];
    let image = request["object"]["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap();
    let mut response = json!({ "uid": request["uid"], "allowed": true });
    if !image.starts_with("mirror.example.com/") {
        let field = "/spec/template/spec/containers/0/image";
        let patch = json!([{ "op": "replace", "path": field, "value": format!("mirror.example.com/{image}") }]);
        response["patchType"] = "JSONPatch".into();
        response["patch"] = json!(ByteString(patch.to_string().into_bytes()));
    }
    let answer = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response });
    ([(CONTENT_TYPE, "application/json")], answer.to_string())
}

/// Starts the webhook and registers it for the StatefulSets of a namespace.
async fn install(world: &World<'_>) -> Api<MutatingWebhookConfiguration> {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([Ipv4Addr::LOCALHOST.to_string()]).unwrap().self_signed(&key).unwrap();
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let listener = Encrypted { listener, acceptor: TlsAcceptor::from(Arc::new(config)) };
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", post(use_mirror))).await });
    let webhook = serde_json::from_value(json!({
        "metadata": { "name": world.namespace },
        "webhooks": [{
            "name": "mirror.example.com",
            "clientConfig": { "url": url, "caBundle": ByteString(certificate.pem().into_bytes()) },
            "rules": [{
                "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["statefulsets"], "operations": ["CREATE", "UPDATE"],
            }],
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": world.namespace } },
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }],
    }));
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(world.client.clone());
    webhooks.create(&PostParams::default(), &webhook.unwrap()).await.unwrap();
    webhooks
}

/// A field that a webhook rewrites is applied once and then reported. Other fields are still reverted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_that_a_webhook_rewrites_is_not_fought() {
    let world = World::new("webhook").await;
    let webhooks = install(&world).await;
    let sets = world.api::<StatefulSet>();
    world.cluster("demo", json!({ "replicas": 1 })).await;
    let operator = world.operator();
    let message = world.reports("demo", "Degraded", "FieldOverwritten").await.message;
    let image = |set: &StatefulSet| set.spec.template.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    let mirrored = image(&sets.get("demo-0").await.unwrap());
    let original = mirrored.strip_prefix("mirror.example.com/").unwrap();
    let field = format!("spec.template.spec.containers[etcd].image (\"{mirrored}\" instead of \"{original}\")");
    assert!(message.contains(&field), "{message}");
    operator.quiet(5).await;
    let writes = operator.tap.writes().iter().filter(|seen| seen.path.ends_with("/statefulsets/demo-0")).count();
    assert!(writes <= 4, "{writes} writes");

    let edit = json!({ "spec": { "template": { "spec": { "terminationGracePeriodSeconds": 5 } } } });
    sets.patch("demo-0", &PatchParams::default(), &Patch::Merge(edit)).await.map(drop).unwrap();
    until("it is reverted", async || {
        let set = sets.get("demo-0").await.unwrap();
        (set.spec.template.spec?.termination_grace_period_seconds == Some(30)).then_some(())
    })
    .await;
    operator.quiet(5).await;
    webhooks.delete(&world.namespace, &DeleteParams::default()).await.map(drop).unwrap();
    operator.stop().await;
}
