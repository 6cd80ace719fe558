use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::CertificateSpec;

/// A client of an `EtcdCluster` in the same namespace. The operator issues a client certificate for it, renews it in a Secret,
/// and revokes it when the `EtcdUser` is deleted.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "etcd-warden.dev",
    version = "v1alpha1",
    kind = "EtcdUser",
    plural = "etcdusers",
    shortname = "etcduser",
    category = "etcd-warden",
    namespaced,
    derive = "PartialEq",
    status = "EtcdUserStatus",
    doc = "A client of an `EtcdCluster` in the same namespace. The operator issues a client certificate for it, renews it in a Secret, and revokes it when the `EtcdUser` is deleted.",
    printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.clusterRef.name"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Secret","type":"string","jsonPath":".status.secretName"}"#,
    printcolumn = r#"{"name":"Expires","type":"string","jsonPath":".status.certificateExpires"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name is too long for the labels made from it: 63 characters at most"),
    validation = Rule::new("has(self.spec.commonName) || self.metadata.name != 'root'").message("the common name root is the operator's own: set spec.commonName or choose another name")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.commonName) == has(oldSelf.commonName) && (!has(self.commonName) || self.commonName == oldSelf.commonName)").message("spec.commonName cannot be changed: create another EtcdUser"))]
#[x_kube(validation = Rule::new("has(self.secretName) == has(oldSelf.secretName) && (!has(self.secretName) || self.secretName == oldSelf.secretName)").message("spec.secretName cannot be changed: create another EtcdUser"))]
#[x_kube(validation = Rule::new("self.clusterRef == oldSelf.clusterRef").message("spec.clusterRef cannot be changed: create another EtcdUser"))]
pub struct EtcdUserSpec {
    /// The cluster that the user is a client of. If it does not exist yet, the certificate is issued once it does.
    pub cluster_ref: ClusterRef,
    /// The common name in the certificate's subject, which is the user's name in etcd. The default is the object's name. `root`
    /// and names that begin with `etcd-warden:` are reserved for the operator. It must be unique among the users of a cluster. It
    /// cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[^[:cntrl:]]*$')").message("must be without control characters"))]
    #[x_kube(validation = Rule::new("self != 'root' && !self.startsWith('etcd-warden:')").message("root and names that begin with etcd-warden: are the operator's own: choose another commonName"))]
    pub common_name: Option<String>,
    /// The Secret that holds the certificate, of type `kubernetes.io/tls` with the keys `tls.crt`, `tls.key`, `ca.crt` and
    /// `endpoints`. The default is the object's name followed by `-etcd-tls`. An existing Secret that the operator did not create
    /// is never overwritten. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')").message("must be the name of a Secret: lower case letters, digits, - and ., each part beginning and ending with a letter or digit"))]
    pub secret_name: Option<String>,
    /// The user's certificate.
    #[serde(default)]
    pub certificate: CertificateSpec,
}

/// A reference to an `EtcdCluster` in the same namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRef {
    /// The name of the `EtcdCluster`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The state of the user as the operator last observed it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdUserStatus {
    /// The generation of the spec that this status refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` is True when the Secret holds a certificate that the cluster's members accept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The common name in the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common_name: Option<String>,
    /// The Secret that holds the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// The serial number of the certificate, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// When the certificate expires. It is renewed at two thirds of its lifetime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<Time>,
}
