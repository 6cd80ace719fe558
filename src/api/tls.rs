use kube::{KubeSchema, core::Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, duration::duration_rule};
use crate::pki::{Domain, Issuer};

/// The certificates of a cluster, in two domains of trust that share nothing: `client` for port 2379 and `peer` for port
/// 2380. A certificate of the peer domain is full control over the data, so it is never handed out.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.client.issuer.caSecret) || !has(self.peer.issuer.caSecret) || self.client.issuer.caSecret.name != self.peer.issuer.caSecret.name").message(ONE_FOR_BOTH))]
#[x_kube(validation = Rule::new("!has(self.client.issuer.certManager) || !has(self.peer.issuer.certManager) || self.client.issuer.certManager.name != self.peer.issuer.certManager.name || self.client.issuer.certManager.kind != self.peer.issuer.certManager.kind || self.client.issuer.certManager.group != self.peer.issuer.certManager.group").message(ONE_FOR_BOTH))]
pub struct TlsSpec {
    /// The oldest TLS version that members accept. It cannot be changed yet.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// Port 2379: the members' server certificates, and those of clients.
    #[serde(default)]
    pub client: ClientTlsSpec,
    /// Port 2380: the certificates by which members know each other.
    #[serde(default)]
    pub peer: PeerTlsSpec,
}

/// Why the domains may not share an authority.
pub const ONE_FOR_BOTH: &str = "spec.tls.client and spec.tls.peer must have issuers of their own: with one authority for both every client could act as a member, which is full control over the data";

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
    /// Who signs the certificates of this domain. A change replaces the authority by the phases of a rotation, in which members are
    /// restarted one by one; see `status.certificates`.
    #[serde(default)]
    pub issuer: IssuerSpec,
    /// The built-in certificate authority. It cannot be changed yet.
    #[serde(default)]
    pub authority: AuthoritySpec,
    /// The members' server certificates.
    #[serde(default)]
    pub certificate: CertificateSpec,
    /// Whether clients must show a certificate. A change restarts the members one by one.
    #[serde(default, rename = "clientAuth")]
    pub client_auth: ClientAuth,
    /// Names and addresses that the server certificates hold beside those by which the cluster's own Services are reached.
    /// Changing them issues new certificates, without a restart.
    #[serde(default, rename = "extraSANs")]
    pub extra_sans: ExtraSans,
}

/// Whether clients must show a certificate.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientAuth {
    /// Only who holds a certificate of the client authority is served.
    #[default]
    Required,
    /// Whoever reaches port 2379 may read and write everything. The members still show certificates, and there is no plaintext.
    None,
}

/// The peer domain.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = four_leaves())]
pub struct PeerTlsSpec {
    /// Who signs the certificates of this domain. A change replaces the authority by the phases of a rotation, in which members are
    /// restarted one by one; see `status.certificates`.
    #[serde(default)]
    pub issuer: IssuerSpec,
    /// The built-in certificate authority. It cannot be changed yet.
    #[serde(default)]
    pub authority: AuthoritySpec,
    /// The members' peer certificates.
    #[serde(default)]
    pub certificate: CertificateSpec,
}

/// Who signs certificates. When nothing is given here, the operator does, by authorities that it makes itself (ECDSA P-256); whoever
/// wants authorities with RSA keys brings them by one of these.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.caSecret) || !has(self.certManager)").message("an issuer is either caSecret or certManager"))]
pub struct IssuerSpec {
    /// An authority of your own, in a Secret in the cluster's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<CaSecret>,
    /// An issuer of cert-manager's. The operator makes the keys and asks for each certificate by a `CertificateRequest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_manager: Option<CertManagerIssuer>,
}

/// An authority in a Secret: `tls.crt` its certificate, perhaps followed by those above it; `tls.key` its private key in PKCS#8 (ECDSA
/// P-256 or P-384, Ed25519, or RSA of at least 2048 bits); `ca.crt` the certificates above it up to the root, where it is not a root
/// itself. Members trust this authority alone, and nothing else that its root has signed. The operator keeps a copy with the cluster's
/// other keys for as long as it signs; when the Secret holds another authority, a rotation to that one begins.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaSecret {
    /// The name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// An issuer of cert-manager's. It must sign what it is asked for: all names and addresses, the uses, and about the duration, by an
/// authority that its answers hold.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertManagerIssuer {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its kind: `Issuer` (in the cluster's namespace), `ClusterIssuer`, or that of another project.
    #[serde(default = "default_issuer_kind")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// The API group of that kind.
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

/// The built-in certificate authority: one of the operator's own, with an ECDSA P-256 key that lies in a Secret which no pod mounts.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthoritySpec {
    /// How long an authority's certificate is valid: at least four times as long as the certificates that it issues. The
    /// next authority is made and trusted beside the active one from the start.
    #[serde(default = "default_authority_duration")]
    pub duration: Duration,
}

/// A certificate, with an ECDSA P-256 key that is new at each renewal.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateSpec {
    /// How long a certificate is valid, at least 1h. It is renewed at two thirds of its life. A shorter duration than that of
    /// the certificates in use issues new ones at once, a longer one takes effect at their renewal.
    #[serde(default = "default_certificate_duration")]
    #[x_kube(validation = duration_rule(&["self"], "duration(self) >= duration('1h')").message("must be at least 1h"))]
    pub duration: Duration,
}

/// Further subject alternative names.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExtraSans {
    /// DNS names, `*.` in front allowed.
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
