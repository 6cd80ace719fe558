//! A client like those of users: one connection for many requests, and etcd's own errors.

use std::{io, sync::Arc};

use etcd_client::Client;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;

use crate::{Cluster, HOST, LOOPBACK};

/// A client with the operator's certificate, connected to a member.
pub async fn client(cluster: &Cluster, member: usize) -> Client {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(cluster.client_ca.pem.as_bytes()).unwrap()).unwrap();
    let leaf = CertificateDer::from_pem_slice(cluster.operator.pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(cluster.operator.key.as_bytes()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(vec![leaf], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (connector, port) = (TlsConnector::from(Arc::new(config)), cluster.members[member].client_port);
    let connect = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let tcp = TcpStream::connect((LOOPBACK, port)).await?;
            let name = ServerName::try_from(HOST).map_err(io::Error::other)?;
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
        }
    });
    let endpoint = Endpoint::from_shared(format!("https://{HOST}:{port}")).unwrap();
    let channel = endpoint.connect_with_connector(connect).await.unwrap();
    Client::from_channel(etcd_client::Channel::Tonic(channel), None).await.unwrap()
}
