use kube::{KubeSchema, core::Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, duration::duration_rule};
use crate::pki::{Domain, Issuer};

/// The certificates of a cluster. There are two trust domains that share no certificate authority: `client` for port 2379 and
/// `peer` for port 2380. A certificate of the peer domain gives full control over the data, so only members receive one.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minVersion != 'TLS1.3' || !has(self.cipherSuites) || self.cipherSuites.size() == 0").message(TLS_1_3_SUITES))]
#[x_kube(validation = Rule::new("!has(self.client.issuer.caSecret) || !has(self.peer.issuer.caSecret) || self.client.issuer.caSecret.name != self.peer.issuer.caSecret.name").message(ONE_FOR_BOTH))]
#[x_kube(validation = Rule::new("!has(self.client.issuer.certManager) || !has(self.peer.issuer.certManager) || self.client.issuer.certManager.name != self.peer.issuer.certManager.name || self.client.issuer.certManager.kind != self.peer.issuer.certManager.kind || self.client.issuer.certManager.group != self.peer.issuer.certManager.group").message(ONE_FOR_BOTH))]
pub struct TlsSpec {
    /// The oldest TLS version that members accept. A change restarts the members one by one.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// The cipher suites of TLS 1.2 that members accept, in the order of preference; by default all that Go considers secure. TLS 1.3
    /// has suites of its own, which cannot be chosen. One of the two with `AES_128_GCM` is required by HTTP/2, and one with `ECDSA` by
    /// the members' certificates, which have ECDSA keys. A change restarts the members one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self.size() == 0 || self.exists(c, c in ['TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256', 'TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256'])").message(HTTP2_SUITE))]
    #[x_kube(validation = Rule::new("self.size() == 0 || self.exists(c, c.startsWith('TLS_ECDHE_ECDSA_'))").message(ECDSA_SUITE))]
    pub cipher_suites: Vec<CipherSuite>,
    /// Port 2379: the server certificates of the members, and the certificates of clients.
    #[serde(default)]
    pub client: ClientTlsSpec,
    /// Port 2380: the certificates that members use among each other.
    #[serde(default)]
    pub peer: PeerTlsSpec,
}

/// Why the domains may not share a certificate authority.
pub const ONE_FOR_BOTH: &str = "spec.tls.client and spec.tls.peer must have issuers of their own: with one authority for both every client could act as a member, which is full control over the data";

/// Why a suite for HTTP/2 is needed.
pub const HTTP2_SUITE: &str = "HTTP/2 needs TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 or TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 in the list, and etcd does not start without it";
/// Why a suite for ECDSA keys is needed.
pub const ECDSA_SUITE: &str =
    "the members' certificates have ECDSA keys, so at least one suite must be for ECDSA (TLS_ECDHE_ECDSA_...)";
/// Why no suites may be chosen for TLS 1.3.
pub const TLS_1_3_SUITES: &str =
    "cipherSuites are those of TLS 1.2: with minVersion TLS1.3 they cannot be set, and etcd does not start with them";

/// A cipher suite of TLS 1.2 that HTTP/2 permits.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, non_camel_case_types, reason = "these are the names that IANA gave them")]
pub enum CipherSuite {
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

impl CipherSuite {
    /// The name that IANA gave it, which etcd's flag takes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            Self::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            Self::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            Self::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            Self::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            Self::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        }
    }

    /// Whether HTTP/2 requires this one or the other one.
    pub fn is_for_http2(self) -> bool {
        matches!(self, Self::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 | Self::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256)
    }

    /// Whether it can be used with a certificate that has an ECDSA key.
    pub fn is_for_ecdsa(self) -> bool {
        matches!(
            self,
            Self::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | Self::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
                | Self::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        )
    }
}

/// A version of TLS.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2
    #[default]
    #[serde(rename = "TLS1.2")]
    V12,
    /// TLS 1.3
    #[serde(rename = "TLS1.3")]
    V13,
}

/// The client domain.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = four_leaves())]
pub struct ClientTlsSpec {
    /// The issuer of the certificates of this domain. A change starts a CA rotation, in which members are restarted one by one;
    /// see `status.certificates`.
    #[serde(default)]
    pub issuer: IssuerSpec,
    /// The built-in certificate authorities.
    #[serde(default)]
    pub authority: AuthoritySpec,
    /// The server certificates of the members.
    #[serde(default)]
    pub certificate: CertificateSpec,
    /// Whether clients must present a certificate: `Required` or `None`. A change restarts the members one by one.
    #[serde(default, rename = "clientAuth")]
    pub client_auth: ClientAuth,
    /// Additional names and addresses in the server certificates, beside those of the cluster's Services. A change issues new
    /// certificates, without a restart.
    #[serde(default, rename = "extraSANs")]
    pub extra_sans: ExtraSans,
}

/// Whether clients must present a certificate.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientAuth {
    /// Clients must present a certificate that was signed by the client CA.
    #[default]
    Required,
    /// Clients need no certificate: every client that reaches port 2379 can read and write all data. Connections still use TLS.
    None,
}

/// The peer domain.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = four_leaves())]
pub struct PeerTlsSpec {
    /// The issuer of the certificates of this domain. A change starts a CA rotation, in which members are restarted one by one;
    /// see `status.certificates`.
    #[serde(default)]
    pub issuer: IssuerSpec,
    /// The built-in certificate authorities.
    #[serde(default)]
    pub authority: AuthoritySpec,
    /// The peer certificates of the members.
    #[serde(default)]
    pub certificate: CertificateSpec,
}

/// The issuer of certificates: a CA in a Secret or an issuer of cert-manager. By default the operator signs with built-in
/// certificate authorities, which have ECDSA P-256 keys. For a CA with an RSA key use one of the other issuers.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.caSecret) || !has(self.certManager)").message("an issuer is either caSecret or certManager"))]
pub struct IssuerSpec {
    /// A CA of your own, in a Secret in the cluster's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<CaSecret>,
    /// An issuer of cert-manager. The operator creates the private keys and requests each certificate with a
    /// `CertificateRequest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_manager: Option<CertManagerIssuer>,
}

/// A CA in a Secret. `tls.crt` is its certificate, which the certificates of its ancestors may follow. `tls.key` is its private
/// key in PKCS#8, PKCS#1 or SEC1: ECDSA P-256 or P-384, Ed25519, or RSA of at least 2048 bits. If it is an intermediate CA, `ca.crt` holds its
/// ancestors up to the root. Members trust only this CA, not others that the same root has signed. The operator keeps a copy of
/// the key while the CA is in use. If the Secret is changed to another CA, a rotation to that CA starts.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaSecret {
    /// The name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// An issuer of cert-manager. It must sign certificates as requested, with all names, addresses and usages and with about the
/// requested duration, and return the certificate of its CA.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertManagerIssuer {
    /// The name of the issuer.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The kind of the issuer: `Issuer` (in the cluster's namespace), `ClusterIssuer`, or the kind of an external issuer.
    #[serde(default = "default_issuer_kind")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// The API group of the issuer.
    #[serde(default = "default_issuer_group")]
    #[schemars(length(min = 1, max = 253))]
    pub group: String,
}

impl IssuerSpec {
    /// The issuer.
    pub fn issuer(&self) -> Issuer {
        match (&self.ca_secret, &self.cert_manager) {
            (Some(secret), _) => Issuer::CaSecret { name: secret.name.clone() },
            (None, Some(CertManagerIssuer { name, kind, group })) => {
                Issuer::CertManager { name: name.clone(), kind: kind.clone(), group: group.clone() }
            }
            (None, None) => Issuer::BuiltIn,
        }
    }
}

impl TlsSpec {
    /// The issuer of a domain's certificates.
    pub fn issuer(&self, domain: Domain) -> &IssuerSpec {
        match domain {
            Domain::Client => &self.client.issuer,
            Domain::Peer => &self.peer.issuer,
        }
    }
}

fn default_issuer_kind() -> String {
    "Issuer".into()
}
fn default_issuer_group() -> String {
    "cert-manager.io".into()
}

fn four_leaves() -> Rule {
    duration_rule(
        &["self.authority.duration", "self.certificate.duration"],
        "duration(self.authority.duration).getSeconds() >= 4 * duration(self.certificate.duration).getSeconds()",
    )
    .message("authority.duration must be at least four times certificate.duration, so that the next authority is trusted everywhere before it signs")
}

/// A built-in certificate authority. The operator creates it, with an ECDSA P-256 key in a Secret that no pod mounts.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthoritySpec {
    /// How long the certificate of the CA is valid: at least four times `certificate.duration`. The next CA is always created and
    /// trusted in advance. A change applies from the next CA on.
    #[serde(default = "default_authority_duration")]
    pub duration: Duration,
}

/// A certificate. It has an ECDSA P-256 key, which is replaced at each renewal.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateSpec {
    /// How long a certificate is valid, at least 1h. It is renewed at two thirds of its lifetime. A shorter duration takes effect
    /// at once, a longer one at the next renewal.
    #[serde(default = "default_certificate_duration")]
    #[x_kube(validation = duration_rule(&["self"], "duration(self) >= duration('1h')").message("must be at least 1h"))]
    pub duration: Duration,
}

/// Additional subject alternative names.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExtraSans {
    /// DNS names. A wildcard needs at least two labels after the `*`, as in `*.example.com`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 253)))]
    #[x_kube(validation = Rule::new("self.all(n, n.matches('^([*][.])?[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$'))").message("each must be a DNS name in lower case, such as etcd.example.com"))]
    #[x_kube(validation = Rule::new("self.all(n, !isIP(n))").message("addresses belong in ipAddresses"))]
    pub dns_names: Vec<String>,
    /// IPv4 or IPv6 addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 45)))]
    #[x_kube(validation = Rule::new("self.all(a, isIP(a))").message("each must be an IPv4 or IPv6 address"))]
    pub ip_addresses: Vec<String>,
}

fn default_authority_duration() -> Duration {
    Duration::hours(43800)
}
fn default_certificate_duration() -> Duration {
    Duration::hours(2160)
}
impl Default for AuthoritySpec {
    fn default() -> Self {
        Self { duration: default_authority_duration() }
    }
}
impl Default for CertificateSpec {
    fn default() -> Self {
        Self { duration: default_certificate_duration() }
    }
}
