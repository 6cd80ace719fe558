//! Every object name, DNS name, label, annotation and Secret key, in one place.

use std::{
    fmt::{self, Debug},
    hash::Hash,
    sync::Arc,
};

use kube::ResourceExt;

use crate::{api::EtcdUser, pki::Domain};

/// The field manager of everything the operator applies.
pub const FIELD_MANAGER: &str = "etcd-warden";

/// The port that clients use.
pub const CLIENT_PORT: i32 = 2379;
/// The port that members use among themselves.
pub const PEER_PORT: i32 = 2380;
/// The port for probes and metrics, without TLS: kubelets have no client certificate.
pub const METRICS_PORT: i32 = 2381;

/// Labels.
pub mod label {
    /// Always [`NAME_VALUE`].
    pub const NAME: &str = "app.kubernetes.io/name";
    /// The cluster's name.
    pub const INSTANCE: &str = "app.kubernetes.io/instance";
    /// Always [`MANAGED_BY_VALUE`].
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// The member's name, on what belongs to one member.
    pub const MEMBER: &str = "etcd-warden.dev/member";
    /// The `EtcdUser`'s name, on its Secret.
    pub const USER: &str = "etcd-warden.dev/user";
    /// The value of [`NAME`].
    pub const NAME_VALUE: &str = "etcd";
    /// The value of [`MANAGED_BY`].
    pub const MANAGED_BY_VALUE: &str = "etcd-warden";
    /// The selector of everything the operator made.
    pub const MANAGED: &str = "app.kubernetes.io/managed-by=etcd-warden";
}

/// Annotations.
pub mod annotation {
    /// On Secrets with leaves: when the operator has written them last.
    pub const WRITTEN_AT: &str = "etcd-warden.dev/written-at";
    /// On every object that the operator applies: a digest of what it applied, so that a field that is no longer desired is
    /// noticed though the rest is as it should be.
    pub const APPLIED: &str = "etcd-warden.dev/applied";
    /// On claims and authorities' Secrets, which may outlive their cluster: the uid of the `EtcdCluster` they belong to.
    pub const CLUSTER_UID: &str = "etcd-warden.dev/cluster-uid";
    /// On a claim, once its member has been seen started: etcd's ID of the cluster.
    pub const CLUSTER_ID: &str = "etcd-warden.dev/cluster-id";
    /// On a claim, once its member has been seen started: etcd's ID of the member.
    pub const MEMBER_ID: &str = "etcd-warden.dev/member-id";
    /// On a pod's template: the fingerprints of the authorities in the bundles that existed when the pod was made, so those it
    /// started with, or fewer.
    pub const BUNDLES: &str = "etcd-warden.dev/bundles";
    /// On an `EtcdCluster`, by its user: restart every member that has not been started since this was set to its value. On
    /// pods: the value with which they were made.
    pub const RESTARTED_AT: &str = "etcd-warden.dev/restarted-at";
    /// On an `EtcdCluster`, by its user: the name of a member that is to be replaced.
    pub const REPLACE: &str = "etcd-warden.dev/replace";
    /// On an `EtcdCluster`, by its user: the name of the member from whose data alone the cluster is to be recovered, with
    /// [`FORCE`] behind it if what others may have beside is to be lost knowingly.
    pub const RECOVER_FROM: &str = "etcd-warden.dev/recover-from";
    /// On an `EtcdCluster`, by its user: the domains, separated by commas, whose authorities are to be replaced by new ones.
    pub const ROTATE_CA: &str = "etcd-warden.dev/rotate-ca";
    /// On an `EtcdUser`, by its user: its certificates are revoked, and it gets no other for as long as this is there.
    pub const REVOKE: &str = "etcd-warden.dev/revoke";
    /// What ends the value of [`RECOVER_FROM`] where it is to be done in any case.
    pub const FORCE: &str = ",force";
    /// On a claim: its data was discarded in favor of that of this member. Its member is never started with it again.
    pub const DISCARDED_FOR: &str = "etcd-warden.dev/given-up-for";
    /// On a pod: which version of its Secret it was told about, and when. Writing it makes the kubelet refresh the files at
    /// once.
    pub const TLS_TOUCHED: &str = "etcd-warden.dev/tls-touched";
    /// On a pod: which version of its Secret it was seen to serve.
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
    /// The authorities whose leaves are accepted on 2379.
    pub const CLIENT_CA: &str = "client-ca.crt";
    /// The authorities whose leaves are accepted on 2380.
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
    /// The authorities that sign the members' server leaves.
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
    /// The revoked serials, DER, signed by the active authority, or by a throw-away key where it cannot sign.
    pub const CRL: &str = "ca.crl";
    /// The certificates of authorities that sign no more and are still trusted.
    pub const RETIRING_CRT: &str = "retiring.crt";
    /// Certificates above those of the authorities, up to their roots.
    pub const ANCESTORS_CRT: &str = "above.crt";
    /// Whose the active and the next one are: JSON. See `pki::Issuers`.
    pub const ISSUERS: &str = "issuers.json";
    /// The phase of a requested rotation: JSON. See `pki::Rotation`.
    pub const ROTATION: &str = "rotation.json";
    /// What was issued, to whom and until when: JSON. See `pki::Ledger`.
    pub const LEDGER: &str = "issued.json";
    /// What the key of every [`pending`] begins with.
    pub const PENDING: &str = "pending-";
    /// The private key of a leaf that an issuer was asked for and has yet to sign, by a digest of whose it is.
    pub fn pending(digest: &str) -> String {
        format!("{PENDING}{digest}.key")
    }
}

/// Keys of the bootstrap ConfigMap.
pub mod bootstrap_key {
    use super::MemberName;
    /// The token that keeps clusters apart.
    pub const TOKEN: &str = "token";
    /// The `--initial-cluster` of a member.
    pub fn cluster(member: &MemberName) -> String {
        [member.as_str(), ".cluster"].concat()
    }
    /// What the key of every [`state`] ends with.
    pub const STATE_SUFFIX: &str = ".state";
    /// The `--initial-cluster-state` of a member.
    pub fn state(member: &MemberName) -> String {
        [member.as_str(), STATE_SUFFIX].concat()
    }
}

/// Common names.
pub mod common_name {
    /// The operator's own, which etcd's authentication takes for its root user.
    pub const OPERATOR: &str = "root";
    /// Names that begin like this are the operator's.
    pub const RESERVED_PREFIX: &str = "etcd-warden:";
    /// Of certificates that are requested to learn the authority of an issuer; their keys are not kept.
    pub const ISSUER_PROBE: &str = "etcd-warden:inquiry";
    /// Of server leaves.
    pub const SERVER: &str = "etcd-warden:server";
    /// Of peer leaves.
    pub const PEER: &str = "etcd-warden:peer";
    /// Of the in-pod client leaves.
    pub const MEMBER: &str = "etcd-warden:member";
}

/// The name of a member and of its StatefulSet: that of the cluster and an ordinal, `demo-0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberName {
    // The ordinal first, so that demo-2 sorts before demo-10.
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
    /// What a member's URL for other members has after its name.
    peer_end: String,
}

impl Names {
    /// Of the cluster `cluster` in `namespace`, where the cluster's DNS domain is `domain` (`cluster.local`).
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
    /// The member that a text names, if it is one of this cluster's.
    pub fn parse_member(&self, text: &str) -> Option<MemberName> {
        Some(MemberName { ordinal: self.ordinal(text)?, text: text.into() })
    }
    /// Whether a text names a member of this cluster's.
    pub fn is_member(&self, text: &str) -> bool {
        self.ordinal(text).is_some()
    }
    fn ordinal(&self, text: &str) -> Option<u32> {
        let number = text.strip_prefix(&self.cluster)?.strip_prefix('-')?;
        // As it is written, and in no other way.
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
    /// The ConfigMap with what a client must trust.
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
    /// A member's claim.
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
    /// The host name of the headless Service, `demo-peers.ns.svc`, which every peer leaf holds and members ask each other for.
    pub fn peer_host(&self) -> &str {
        &self.peer_host
    }
    /// The host name of the Service for clients, `demo.ns.svc`.
    pub fn client_host(&self) -> String {
        format!("{}.{}.svc", self.client_service(), self.namespace)
    }
    /// A member's URL for clients.
    pub fn client_url(&self, member: &MemberName) -> String {
        format!("https://{}:{CLIENT_PORT}", self.member_host(member))
    }
    /// A member's URL for other members.
    pub fn peer_url(&self, member: &MemberName) -> String {
        ["https://", member.as_str(), &self.peer_end].concat()
    }
    /// A member's part of an `--initial-cluster`.
    pub fn initial_entry(&self, member: &MemberName) -> String {
        [member.as_str(), "=", &self.peer_url(member)].concat()
    }
    /// The member that a URL for other members is of, if it is one of this cluster's.
    pub fn member_at(&self, peer_url: &str) -> Option<MemberName> {
        self.parse_member(self.text_at(peer_url)?)
    }
    /// The name of that member.
    pub fn text_at<'a>(&self, peer_url: &'a str) -> Option<&'a str> {
        let text = peer_url.strip_prefix("https://")?.strip_suffix(&self.peer_end)?;
        self.is_member(text).then_some(text)
    }
    /// The URL for clients.
    pub fn endpoint(&self) -> String {
        format!("https://{}:{CLIENT_PORT}", self.client_host())
    }
    /// The DNS names of a member's server leaf, the user's own not among them. `demo.ns.svc` and `demo-peers.ns.svc` are
    /// there because discovery by SRV asks for a certificate of the name that was looked up.
    pub fn server_sans(&self, member: &MemberName) -> Vec<String> {
        let mut names: Vec<_> = [self.member_host(member), self.client_host(), self.peer_host.clone()]
            .into_iter()
            .flat_map(|host| self.with_domain(host))
            .collect();
        names.push("localhost".into());
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
    fn members_are_read_back() {
        let names = Names::new("demo", "ns", "cluster.local");
        assert_eq!(names.parse_member("demo-12"), Some(names.member(12)));
        for other in ["demo", "demo-", "demo-x", "demo-01", "demo-1-0", "other-1", "demo--1", "demo-+1"] {
            assert_eq!(names.parse_member(other), None, "{other}");
        }
        assert!(names.member(2) < names.member(10));
    }

    #[test]
    fn members_are_known_by_their_urls() {
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
    fn hosts_are_as_users_rely_on() {
        let names = Names::new("demo", "ns", "cluster.local");
        assert_eq!(names.client_url(&names.member(0)), "https://demo-0-0.demo-peers.ns.svc:2379");
        assert_eq!(names.endpoint(), "https://demo.ns.svc:2379");
        assert_eq!(names.server_sans(&names.member(0))[1], "demo-0-0.demo-peers.ns.svc.cluster.local");
    }
}
