//! An admission webhook that changes what others write, in this process. The API server must be able to reach its loopback address.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{Router, body::Bytes, http::header::CONTENT_TYPE, routing::post};
use k8s_openapi::{ByteString, api::admissionregistration::v1::MutatingWebhookConfiguration};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

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

/// The JSON Patch of an object, empty if it stays as it is.
pub type Change = fn(&Value) -> Vec<Value>;

/// A registered webhook.
pub struct Webhook {
    name: String,
    webhooks: Api<MutatingWebhookConfiguration>,
    server: JoinHandle<()>,
}

impl Webhook {
    /// Starts a webhook and registers it for a resource, such as `apps/statefulsets`, of a namespace.
    pub async fn install(client: Client, namespace: &str, resource: &str, change: Change) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([Ipv4Addr::LOCALHOST.to_string()]).unwrap().self_signed(&key).unwrap();
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let listener = Encrypted { listener, acceptor: TlsAcceptor::from(Arc::new(config)) };
        let answer = move |body: Bytes| async move { ([(CONTENT_TYPE, "application/json")], review(&body, change)) };
        let routes = Router::new().route("/", post(answer));
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let (group, resource) = resource.split_once('/').unwrap();
        let configuration = serde_json::from_value(json!({
            "metadata": { "name": namespace },
            "webhooks": [{
                "name": "webhook.example.com",
                "clientConfig": { "url": url, "caBundle": ByteString(certificate.pem().into_bytes()) },
                "rules": [{
                    "apiGroups": [group], "apiVersions": ["v1"], "resources": [resource], "operations": ["CREATE", "UPDATE"],
                }],
                "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } },
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }],
        }));
        let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client);
        webhooks.create(&PostParams::default(), &configuration.unwrap()).await.unwrap();
        Self { name: namespace.to_owned(), webhooks, server }
    }

    /// Removes and stops it.
    pub async fn remove(self) {
        self.webhooks.delete(&self.name, &DeleteParams::default()).await.map(drop).unwrap();
        self.server.abort();
    }
}

/// The answer to a review.
fn review(body: &[u8], change: Change) -> String {
    let review: Value = serde_json::from_slice(body).unwrap();
    let request = &review["request"];
    let mut response = json!({ "uid": request["uid"], "allowed": true });
    let patch = change(&request["object"]);
    if !patch.is_empty() {
        response["patchType"] = "JSONPatch".into();
        response["patch"] = json!(ByteString(json!(patch).to_string().into_bytes()));
    }
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response }).to_string()
}
