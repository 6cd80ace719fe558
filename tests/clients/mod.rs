//! Clients of etcd over connections of their own, with mutual TLS.

pub mod history;

use std::{error::Error, fs, io, path::PathBuf, sync::Arc};

use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// The files of a client.
#[derive(Clone, Debug)]
pub struct Files {
    pub ca: PathBuf,
    pub crt: PathBuf,
    pub key: PathBuf,
}

impl Files {
    /// The TLS configuration. It fails while the files are being written and the key does not belong to the certificate.
    fn configuration(&self) -> Result<ClientConfig, Box<dyn Error>> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_file_iter(&self.ca)? {
            roots.add(authority?)?;
        }
        let chain = CertificateDer::pem_file_iter(&self.crt)?.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&fs::read(&self.key)?)?;
        Ok(ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key)?)
    }
}

/// A channel that connects when it is used, and reconnects when its connection is closed. The files are read now.
pub fn connect(files: &Files, host: &str, port: u16) -> Channel {
    let mut config = (0..1000).find_map(|_| files.configuration().ok()).expect("the files of a client");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let endpoint = Endpoint::from_shared(format!("https://{host}:{port}")).unwrap();
    let host = host.to_owned();
    let connect = tower::service_fn(move |_| {
        let (connector, host) = (connector.clone(), host.clone());
        async move {
            let tcp = TcpStream::connect((host.as_str(), port)).await?;
            let name = ServerName::try_from(host).map_err(io::Error::other)?;
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
        }
    });
    endpoint.connect_with_connector_lazy(connect)
}
