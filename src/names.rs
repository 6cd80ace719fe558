//! Every object name, DNS name, label, annotation and Secret key, in one place.

use std::{
    fmt::{self, Debug},
    hash::Hash,
    sync::Arc,
};

use kube::ResourceExt;

use crate::{api::EtcdUser, pki::Domain};

/// The field manager of all objects that the operator applies.
pub const FIELD_MANAGER: &str = "etcd-warden";

/// The container that runs etcd. Others may add containers to a pod, also before this one.
pub const CONTAINER: &str = "etcd";
/// The name of the volume with the data of a member.
pub const DATA_VOLUME: &str = "data";

/// The port for clients.
pub const CLIENT_PORT: u16 = 2379;
/// The port for peers.
pub const PEER_PORT: u16 = 2380;
/// The port for probes and metrics, without TLS: kubelets have no client certificate.
pub const METRICS_PORT: u16 = 2381;

/// The name of a member's own host.
pub const LOCALHOST: &str = "localhost";

/// Labels.
pub mod label {
    use std::collections::BTreeMap;

    use super::MemberName;

    /// Always [`NAME_VALUE`].
    pub const NAME: &str = "app.kubernetes.io/name";
    /// The cluster's name.
    pub const INSTANCE: &str = "app.kubernetes.io/instance";
    /// Always [`MANAGED_BY_VALUE`].
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// The member's name, on objects that belong to one member.
    pub const MEMBER: &str = "etcd-warden.dev/member";
    /// The `EtcdUser`'s name, on its Secret.
    pub const USER: &str = "etcd-warden.dev/user";
    /// The value of [`NAME`].
    pub const NAME_VALUE: &str = "etcd";
    /// The value of [`MANAGED_BY`].
    pub const MANAGED_BY_VALUE: &str = "etcd-warden";
    /// The selector of all objects that the operator created.
    pub const MANAGED: &str = "app.kubernetes.io/managed-by=etcd-warden";

    /// The labels of all objects of a cluster. They select its pods.
    pub fn of_cluster(cluster: &str) -> BTreeMap<String, String> {
        [(NAME, NAME_VALUE), (INSTANCE, cluster), (MANAGED_BY, MANAGED_BY_VALUE)]
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    /// The same labels as a selector in text form.
    pub fn selector_text(cluster: &str) -> String {
        of_cluster(cluster).into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
    }

    /// The labels of an object that belongs to one member.
    pub fn of_member(cluster: &str, member: &MemberName) -> BTreeMap<String, String> {
        let mut labels = of_cluster(cluster);
        labels.insert(MEMBER.into(), member.to_string());
        labels
    }
}

/// Annotations.
pub mod annotation {
    /// On Secrets with leaves: when the operator last wrote them.
    pub const WRITTEN_AT: &str = "etcd-warden.dev/written-at";
    /// On every object that the operator applies: a digest of the applied fields. It shows that a field is no longer desired even
    /// if all desired fields are up to date.
    pub const APPLIED: &str = "etcd-warden.dev/applied";
    /// On PersistentVolumeClaims and authorities' Secrets, which may outlive their cluster: the uid of the `EtcdCluster` that
    /// they belong to.
    pub const CLUSTER_UID: &str = "etcd-warden.dev/cluster-uid";
    /// On objects that no other object owns: Argo CD, which by default takes every object with the instance label of an application for
    /// a part of it, does not delete them ([`KEEP_VALUE`]) and does not report them as out of sync ([`EXTRANEOUS_VALUE`]).
    pub const KEEP: &str = "argocd.argoproj.io/sync-options";
    /// The value of [`KEEP`].
    pub const KEEP_VALUE: &str = "Prune=false,Delete=false";
    /// See [`KEEP`].
    pub const EXTRANEOUS: &str = "argocd.argoproj.io/compare-options";
    /// The value of [`EXTRANEOUS`].
    pub const EXTRANEOUS_VALUE: &str = "IgnoreExtraneous";
    /// On a PersistentVolumeClaim: the fields of `spec.storage` that it was made from (JSON).
    pub const STORAGE: &str = "etcd-warden.dev/storage";
    /// On a StatefulSet whose pod has the data of its member, once that has started: the uid of the pod. Beside it are [`CLUSTER_ID`] and
    /// [`MEMBER_ID`].
    pub const DATA_POD: &str = "etcd-warden.dev/data-pod";
    /// On a PersistentVolumeClaim, once its member has started: etcd's ID of the cluster.
    pub const CLUSTER_ID: &str = "etcd-warden.dev/cluster-id";
    /// On a PersistentVolumeClaim, once its member has started: etcd's ID of the member.
    pub const MEMBER_ID: &str = "etcd-warden.dev/member-id";
    /// On a pod template: the fingerprints of the authorities in the trust bundles when the pod was created, and of those that
    /// signed its peer leaf. The pod has started with these or with more.
    pub const BUNDLES: &str = "etcd-warden.dev/bundles";
    /// On a pod template: the values of the fields of the spec for which members are restarted (JSON).
    pub const SETTINGS: &str = "etcd-warden.dev/settings";
    /// On a pod whose resources are being changed while it runs: those that it is given (JSON). When that is complete, they are in
    /// [`SETTINGS`].
    pub const RESIZING: &str = "etcd-warden.dev/resizing";
    /// On a pod template: the minor version for which the pod was restarted with the version before, so that etcd wrote a snapshot of
    /// raft's log that the new version needs.
    pub const PREPARED_FOR: &str = "etcd-warden.dev/prepared-for";
    /// On a pod template: a digest of what a pod gets only when it is created. Labels and annotations of the spec, and the resources of
    /// etcd's container, are not in it: they are changed while pods run.
    pub const TEMPLATE: &str = "etcd-warden.dev/template";
    /// On pods: which of their labels and annotations come from the spec of the cluster (JSON).
    pub const FROM_SPEC: &str = "etcd-warden.dev/from-spec";
    /// On a pod template: the container that `kubectl exec` and `kubectl logs` choose by default.
    pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
    /// Set by users on an `EtcdCluster`: every member is restarted when the value changes. On pods: the value with which they
    /// were created.
    pub const RESTARTED_AT: &str = "etcd-warden.dev/restarted-at";
    /// Set by users on an `EtcdCluster`: the name of a member to be replaced.
    pub const REPLACE: &str = "etcd-warden.dev/replace";
    /// Set by users on an `EtcdCluster`: the name of the member from whose data the cluster is to be recovered, followed by
    /// [`FORCE`] to accept that more recent data of other members is lost.
    pub const RECOVER_FROM: &str = "etcd-warden.dev/recover-from";
    /// Set by users on an `EtcdCluster`: the domains whose authorities are to be rotated, separated by commas.
    pub const ROTATE_CA: &str = "etcd-warden.dev/rotate-ca";
    /// Set by users on an `EtcdUser`: its certificates are revoked, and no other is issued as long as the annotation exists.
    pub const REVOKE: &str = "etcd-warden.dev/revoke";
    /// The suffix of [`RECOVER_FROM`] that forces the recovery.
    pub const FORCE: &str = ",force";
    /// On a PersistentVolumeClaim: the member in favor of which its data was discarded. No member is started with this data
    /// again.
    pub const DISCARDED_FOR: &str = "etcd-warden.dev/given-up-for";
    /// On a pod: a version of its Secret, and the time of writing. A change of it makes the kubelet refresh the mounted files at
    /// once.
    pub const TLS_TOUCHED: &str = "etcd-warden.dev/tls-touched";
    /// On a pod: since when the file system of its volume was to be expanded. A change of it makes the kubelet do so at once.
    pub const EXPANSION: &str = "etcd-warden.dev/expansion";
    /// On a pod: the version of its Secret that it was confirmed to serve.
    pub const TLS_CONFIRMED: &str = "etcd-warden.dev/tls-confirmed";
}

/// Keys in the members' Secrets, which are the names of the files in the container.
pub mod member_key {
    /// The server leaf for port 2379.
    pub const SERVER_CRT: &str = "server.crt";
    /// Its private key.
    pub const SERVER_KEY: &str = "server.key";
    /// The peer leaf for port 2380.
    pub const PEER_CRT: &str = "peer.crt";
    /// Its private key.
    pub const PEER_KEY: &str = "peer.key";
    /// The in-pod client leaf, for etcdctl and the JSON gateway.
    pub const CLIENT_CRT: &str = "client.crt";
    /// Its private key.
    pub const CLIENT_KEY: &str = "client.key";
    /// The trust bundle for port 2379.
    pub const CLIENT_CA: &str = "client-ca.crt";
    /// The trust bundle for port 2380.
    pub const PEER_CA: &str = "peer-ca.crt";
    /// The revoked serials of the client domain, DER.
    pub const CLIENT_CRL: &str = "client.crl";
    /// The revoked serials of the peer domain, DER.
    pub const PEER_CRL: &str = "peer.crl";
}

/// Keys in Secrets of type `kubernetes.io/tls`: the operator's own and those of users.
pub mod tls_key {
    /// The leaf.
    pub const CRT: &str = "tls.crt";
    /// Its private key.
    pub const KEY: &str = "tls.key";
    /// In the operator's Secret during a rotation: a leaf of the next authority, with which the operator tries whether members
    /// accept it.
    pub const NEXT_CRT: &str = "next.crt";
    /// Its private key.
    pub const NEXT_KEY: &str = "next.key";
    /// The trust bundle for the members' server leaves.
    pub const CA: &str = "ca.crt";
    /// The URLs of the cluster, separated by commas.
    pub const ENDPOINTS: &str = "endpoints";
}

/// Keys in the authorities' Secrets.
pub mod authority_key {
    /// The certificate of the authority that signs.
    pub const ACTIVE_CRT: &str = "active.crt";
    /// Its private key.
    pub const ACTIVE_KEY: &str = "active.key";
    /// The certificate of the authority that signs next.
    pub const NEXT_CRT: &str = "next.crt";
    /// Its private key.
    pub const NEXT_KEY: &str = "next.key";
    /// The revoked serials, DER, signed by the active authority, or by a temporary key if it cannot sign.
    pub const CRL: &str = "ca.crl";
    /// The certificates of authorities that no longer sign and are still trusted.
    pub const RETIRING_CRT: &str = "retiring.crt";
    /// The certificates of the authorities' ancestors, up to their roots.
    pub const ANCESTORS_CRT: &str = "above.crt";
    /// Which issuers the active and the next authority belong to: JSON. See `pki::Issuers`.
    pub const ISSUERS: &str = "issuers.json";
    /// The phase of a rotation: JSON. See `pki::Rotation`.
    pub const ROTATION: &str = "rotation.json";
    /// The certificates that were issued, with their holders and expiry: JSON. See `pki::Ledger`.
    pub const LEDGER: &str = "issued.json";
    /// The prefix of every [`pending`] key.
    pub const PENDING: &str = "pending-";
    /// The private key of a leaf that was requested from an issuer and is not signed yet, by a digest of its holder and file.
    pub fn pending(digest: &str) -> String {
        format!("{PENDING}{digest}.key")
    }
}

/// Keys of the bootstrap ConfigMap.
pub mod bootstrap_key {
    use super::MemberName;
    /// The `--initial-cluster-token`, which differs between clusters.
    pub const TOKEN: &str = "token";
    /// The `--initial-cluster` of a member.
    pub fn cluster(member: &MemberName) -> String {
        [member.as_str(), ".cluster"].concat()
    }
    /// The suffix of every [`state`] key.
    pub const STATE_SUFFIX: &str = ".state";
    /// The `--initial-cluster-state` of a member.
    pub fn state(member: &MemberName) -> String {
        [member.as_str(), STATE_SUFFIX].concat()
    }
}

/// Common names.
pub mod common_name {
    /// The operator's common name. For etcd's authentication it is the root user.
    pub const OPERATOR: &str = "root";
    /// The prefix of names that are reserved for the operator.
    pub const RESERVED_PREFIX: &str = "etcd-warden:";
    /// The common name of probes, which are requested only to learn the authority of an issuer.
    pub const ISSUER_PROBE: &str = "etcd-warden:inquiry";
    /// The common name of server leaves.
    pub const SERVER: &str = "etcd-warden:server";
    /// The common name of peer leaves.
    pub const PEER: &str = "etcd-warden:peer";
    /// The common name of in-pod client leaves.
    pub const MEMBER: &str = "etcd-warden:member";
}

/// The name of a member and of its StatefulSet: that of the cluster and an ordinal, `demo-0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberName {
    // The ordinal is the first field, so that demo-2 sorts before demo-10.
    ordinal: u32,
    text: Arc<str>,
}

impl MemberName {
    /// The ordinal. Members are ordered by it.
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The names of the objects of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    cluster: String,
    namespace: String,
    domain: String,
    peer_host: String,
    /// The suffix of peer URLs, after the member's name.
    peer_end: String,
}

impl Names {
    /// The names of the cluster `cluster` in `namespace`. `domain` is the DNS domain of Kubernetes (`cluster.local`).
    pub fn new(cluster: &str, namespace: &str, domain: &str) -> Self {
        let peer_host = format!("{cluster}-peers.{namespace}.svc");
        let peer_end = format!("-0.{peer_host}:{PEER_PORT}");
        Self { cluster: cluster.into(), namespace: namespace.into(), domain: domain.into(), peer_host, peer_end }
    }
    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }
    /// The cluster's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
    /// The member with an ordinal.
    pub fn member(&self, ordinal: u32) -> MemberName {
        MemberName { ordinal, text: format!("{}-{ordinal}", self.cluster).into() }
    }
    /// The member with this name, if it is a name of this cluster's members.
    pub fn parse_member(&self, text: &str) -> Option<MemberName> {
        Some(MemberName { ordinal: self.ordinal(text)?, text: text.into() })
    }
    /// Whether a text is the name of a member of this cluster.
    pub fn is_member(&self, text: &str) -> bool {
        self.ordinal(text).is_some()
    }
    fn ordinal(&self, text: &str) -> Option<u32> {
        let number = text.strip_prefix(&self.cluster)?.strip_prefix('-')?;
        // Only the form in which names are written is accepted.
        let is_plain = number.bytes().all(|digit| digit.is_ascii_digit()) && (number == "0" || !number.starts_with('0'));
        number.parse().ok().filter(|_| is_plain)
    }
    /// The Service for clients.
    pub fn client_service(&self) -> String {
        self.cluster.clone()
    }
    /// The headless Service for members.
    pub fn peer_service(&self) -> String {
        format!("{}-peers", self.cluster)
    }
    /// The PodDisruptionBudget.
    pub fn disruption_budget(&self) -> String {
        self.cluster.clone()
    }
    /// The ConfigMap with the trust bundle for clients.
    pub fn ca_config(&self) -> String {
        format!("{}-ca", self.cluster)
    }
    /// The ConfigMap that members read at each start.
    pub fn bootstrap_config(&self) -> String {
        format!("{}-bootstrap", self.cluster)
    }
    /// The Secret of the client domain's authorities.
    pub fn client_authority(&self) -> String {
        format!("{}-client-ca", self.cluster)
    }
    /// The Secret of the peer domain's authorities.
    pub fn peer_authority(&self) -> String {
        format!("{}-peer-ca", self.cluster)
    }
    /// The Secret of a domain's authorities.
    pub fn authority(&self, domain: Domain) -> String {
        match domain {
            Domain::Client => self.client_authority(),
            Domain::Peer => self.peer_authority(),
        }
    }
    /// The Secret with the operator's identity.
    pub fn operator_secret(&self) -> String {
        format!("{}-operator-tls", self.cluster)
    }
    /// A member's Secret.
    pub fn member_secret(&self, member: &MemberName) -> String {
        [member.as_str(), "-tls"].concat()
    }
    /// A member's PersistentVolumeClaim.
    pub fn claim(&self, member: &MemberName) -> String {
        ["data-", member.as_str()].concat()
    }
    /// A member's pod.
    pub fn pod(&self, member: &MemberName) -> String {
        format!("{member}-0")
    }
    /// The host name of a member, `demo-0-0.demo-peers.ns.svc`.
    pub fn member_host(&self, member: &MemberName) -> String {
        format!("{member}-0.{}", self.peer_host)
    }
    /// The host name of the headless Service, `demo-peers.ns.svc`, which every peer leaf contains and which members verify.
    pub fn peer_host(&self) -> &str {
        &self.peer_host
    }
    /// The host name of the Service for clients, `demo.ns.svc`.
    pub fn client_host(&self) -> String {
        format!("{}.{}.svc", self.client_service(), self.namespace)
    }
    /// A member's client URL.
    pub fn client_url(&self, member: &MemberName) -> String {
        format!("https://{}:{CLIENT_PORT}", self.member_host(member))
    }
    /// A member's peer URL.
    pub fn peer_url(&self, member: &MemberName) -> String {
        ["https://", member.as_str(), &self.peer_end].concat()
    }
    /// A member's part of an `--initial-cluster`.
    pub fn initial_entry(&self, member: &MemberName) -> String {
        [member.as_str(), "=", &self.peer_url(member)].concat()
    }
    /// The member with this peer URL, if it is a member of this cluster.
    pub fn member_at(&self, peer_url: &str) -> Option<MemberName> {
        self.parse_member(self.text_at(peer_url)?)
    }
    /// The name of the member with this peer URL, if it is a member of this cluster.
    pub fn text_at<'a>(&self, peer_url: &'a str) -> Option<&'a str> {
        let text = peer_url.strip_prefix("https://")?.strip_suffix(&self.peer_end)?;
        self.is_member(text).then_some(text)
    }
    /// The URL for clients.
    pub fn endpoint(&self) -> String {
        format!("https://{}:{CLIENT_PORT}", self.client_host())
    }
    /// The DNS names of a member's server leaf, without those in the spec. `demo.ns.svc` and `demo-peers.ns.svc` are included
    /// because SRV discovery verifies the name that was looked up.
    pub fn server_sans(&self, member: &MemberName) -> Vec<String> {
        let mut names: Vec<_> = [self.member_host(member), self.client_host(), self.peer_host.clone()]
            .into_iter()
            .flat_map(|host| self.with_domain(host))
            .collect();
        names.push(LOCALHOST.into());
        names
    }
    /// The DNS names of a member's peer leaf.
    pub fn peer_sans(&self, member: &MemberName) -> Vec<String> {
        [self.member_host(member), self.peer_host.clone()].into_iter().flat_map(|host| self.with_domain(host)).collect()
    }
    fn with_domain(&self, host: String) -> [String; 2] {
        let full = format!("{host}.{}", self.domain);
        [host, full]
    }
}

/// The common name of a user's certificate.
pub fn user_common_name(user: &EtcdUser) -> String {
    user.spec.common_name.clone().unwrap_or_else(|| user.name_any())
}

/// The name of a user's Secret.
pub fn user_secret(user: &EtcdUser) -> String {
    user.spec.secret_name.clone().unwrap_or_else(|| format!("{}-etcd-tls", user.name_any()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_members_can_be_read_back() {
        let names = Names::new("demo", "ns", "cluster.local");
        assert_eq!(names.parse_member("demo-12"), Some(names.member(12)));
        for other in ["demo", "demo-", "demo-x", "demo-01", "demo-1-0", "other-1", "demo--1", "demo-+1"] {
            assert_eq!(names.parse_member(other), None, "{other}");
        }
        assert!(names.member(2) < names.member(10));
    }

    #[test]
    fn members_are_identified_by_their_peer_urls() {
        let names = Names::new("demo", "ns", "cluster.local");
        let url = names.peer_url(&names.member(12));
        assert_eq!(url, "https://demo-12-0.demo-peers.ns.svc:2380");
        assert_eq!(names.member_at(&url), Some(names.member(12)));
        for other in [
            "demo-1-0.demo-peers.ns.svc:2380",
            "https://demo-1.demo-peers.ns.svc:2380",
            "https://demo-01-0.demo-peers.ns.svc:2380",
        ] {
            assert_eq!(names.member_at(other), None, "{other}");
        }
        for other in [":2379", ":02380", "", ":2380/"] {
            assert_eq!(names.member_at(&url.replace(":2380", other)), None, "{other}");
        }
    }

    #[test]
    fn host_names_do_not_change() {
        let names = Names::new("demo", "ns", "cluster.local");
        assert_eq!(names.client_url(&names.member(0)), "https://demo-0-0.demo-peers.ns.svc:2379");
        assert_eq!(names.endpoint(), "https://demo.ns.svc:2379");
        assert_eq!(names.server_sans(&names.member(0))[1], "demo-0-0.demo-peers.ns.svc.cluster.local");
    }
}
