//! The etcd client: the operator's requests to one member, each over a new TLS connection.
//!
//! [`Dialer`] is the trait, [`Client`] the real implementation. Every call dials one specific member, because an answer of an
//! arbitrary member says nothing about the others. The handshake of the connection shows which leaf the member serves, and the
//! RPC uses the same connection, so "serves this leaf" and "is healthy" are one observation.
//!
//! Errors say whether the member was reached: a [`DialError`] means that no leaf could be read, an [`EtcdError`] that the request
//! failed, in most cases after the leaf was read. The texts of both continue a sentence that begins with the member's name.

mod client;
mod error;
mod progress;
mod tls;
mod version;

pub use client::Client;
pub use error::{Class, DialError, EtcdError, TlsFault};
pub use tls::{Tls, TlsError};
pub use version::{RELEASES, Release, Version, supported};

use futures::future::BoxFuture;
use std::{collections::BTreeSet, fmt, net::IpAddr};

use crate::ids::{ClusterId, MemberId};

/// One port of one member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The name that the member's certificate must be valid for, and that is resolved unless `address` is set.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The address to connect to instead of resolving `host`, if it is known from a more reliable source than DNS.
    pub address: Option<IpAddr>,
}

impl Target {
    /// The port `port` of `host`, which is resolved.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port, address: None }
    }

    /// The same target, connected to at `address`.
    #[must_use]
    pub fn at(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An IPv6 address needs its brackets here, as in any URL.
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The status of a member (`Maintenance/Status`). Learners and members without quorum answer this request too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// The cluster that the member belongs to.
    pub cluster_id: ClusterId,
    /// The member's own ID.
    pub member_id: MemberId,
    /// The leader that the member knows, if any.
    pub leader: Option<MemberId>,
    /// The last raft index that the member has applied.
    pub raft_applied_index: u64,
    /// Whether the member is a learner, which has no vote.
    pub is_learner: bool,
    /// The version of etcd that the member runs, such as `3.6.16`.
    pub version: String,
    /// The version of its storage, which follows that of the cluster. 3.5 does not report it.
    pub storage: Option<Version>,
    /// The version to which the cluster may be downgraded, while a downgrade is enabled. 3.5 does not report it.
    pub downgrade: Option<Version>,
    /// The bytes that the database occupies on disk, free pages included.
    pub db_size: i64,
    /// The errors that etcd reports: that there is no leader, and every alarm.
    pub errors: Vec<String>,
}

impl MemberStatus {
    /// The members that have raised the alarm NOSPACE.
    pub fn out_of_space(&self) -> impl Iterator<Item = MemberId> {
        self.errors.iter().filter_map(|error| alarm(error)).filter(|(_, alarm)| *alarm == NOSPACE).map(|(member, _)| member)
    }

    /// Whether the member reports that it is the leader.
    pub fn leads(&self) -> bool {
        self.leader == Some(self.member_id)
    }
}

/// The alarm of a member whose database has reached its quota: etcd refuses every write.
pub const NOSPACE: &str = "NOSPACE";
/// The alarm of a member whose data differs from that of the others.
pub const CORRUPT: &str = "CORRUPT";

/// The member that has raised an alarm, and the alarm, if an error is one. Every member reports the alarms of all, as
/// `memberID:160 alarm:NOSPACE` (`server/etcdserver/api/v3rpc/maintenance.go`, `Status`).
pub fn alarm(error: &str) -> Option<(MemberId, &str)> {
    let (member, alarm) = error.strip_prefix("memberID:")?.split_once(" alarm:")?;
    Some((MemberId(member.parse().ok()?), alarm.trim()))
}

/// One entry of the member list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The member's ID.
    pub id: MemberId,
    /// The member's name, empty until it has started.
    pub name: String,
    /// The peer URLs.
    pub peer_urls: Vec<String>,
    /// Whether the member is a learner, which has no vote.
    pub is_learner: bool,
}

/// The members of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberList {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Its members, voters and learners, in no particular order.
    pub members: Vec<Member>,
}

impl MemberList {
    /// The members with a vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.is_learner)
    }

    /// A member that only one of two lists has, or that is a learner in only one, as it is in this list and in the other one.
    pub fn difference<'a>(&'a self, other: &'a Self) -> Option<[Option<&'a Member>; 2]> {
        let find = |list: &'a Self, id| list.members.iter().find(|member| member.id == id);
        let ids = self.members.iter().chain(&other.members).map(|member| member.id);
        let is_other = |[one, other]: &[Option<&Member>; 2]| one.map(|m| m.is_learner) != other.map(|m| m.is_learner);
        ids.map(|id| [find(self, id), find(other, id)]).find(is_other)
    }
}

/// The answer of a member to a status request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusAnswer {
    /// The leaf certificate (DER) that the member serves. It was verified against the bundle and the member's name.
    pub served: Vec<u8>,
    /// The member's status, or why it did not give one.
    pub status: Result<MemberStatus, EtcdError>,
}

/// A membership change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a learner with this peer URL.
    AddLearner {
        /// The peer URL.
        peer_url: String,
    },
    /// Promotes a learner to a voter, if it has caught up. It must be sent to the leader, because only the leader knows that.
    Promote {
        /// The learner.
        id: MemberId,
    },
    /// Removes a member permanently: its ID is never used again.
    Remove {
        /// The member.
        id: MemberId,
    },
    /// Makes another voter the leader. It must be sent to the leader.
    MoveLeader {
        /// The next leader.
        to: MemberId,
    },
    /// Allows members of the minor version before: the version of the cluster and then that of each member's storage become this one.
    EnableDowngrade {
        /// The minor version, of etcd 3.
        to: u32,
    },
    /// Allows them no longer.
    CancelDowngrade,
    /// Disarms the alarm NOSPACE that a member has raised.
    DisarmSpace {
        /// The member.
        member: MemberId,
    },
}

/// How recent a member's data is, according to its metrics, which it serves without TLS and without quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The revision of its data. No other metric can be compared across restarts: the counts of proposals start at zero with the
    /// process, and include raft's internal entries.
    pub revision: u64,
    /// Whether it has a leader, and therefore a quorum.
    pub has_leader: bool,
    /// Whether it is a learner, which has no vote.
    pub is_learner: bool,
}

/// What a member's metrics say about versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionMetrics {
    /// The minor version of the cluster as the member knows it: the oldest that a member runs, or lower while a downgrade is enabled.
    pub cluster: Option<u32>,
    /// Whether its process has written a snapshot of raft's log since it started.
    pub has_snapshot: bool,
}

/// The operator's requests to one etcd member. Each call opens a new connection and has a timeout.
pub trait Dialer: Send + Sync + 'static {
    /// Reads the leaf that the member serves and asks for its status.
    fn ask<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<StatusAnswer, DialError>>;

    /// The linearizable member list: what a quorum agreed to, or an error. A learner does not serve it.
    fn members<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<MemberList, EtcdError>>;

    /// The member list that this member has in its own data, which nobody confirmed. A learner does not serve it.
    fn own_members<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<MemberList, EtcdError>>;

    /// Changes the members or the leader. If the call fails, the change may have been made nevertheless.
    fn change<'a>(&'a self, target: &'a Target, tls: &'a Tls, change: &'a Change) -> BoxFuture<'a, Result<(), EtcdError>>;

    /// Has a quorum agree to an entry of raft's log that changes nothing, not even the revision. With authentication it needs the
    /// role `root`, which the operator's user has.
    ///
    /// etcd 3.6 needs this: a member that was sent the leader's snapshot cannot publish itself, and is silent on its client port,
    /// until the next entry. Linearizable reads are no entries.
    fn advance<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<(), EtcdError>>;

    /// Reads how recent the member's data is, without TLS, from the metrics port: a member that was started without quorum does
    /// not answer on other ports.
    fn progress<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Progress, EtcdError>>;

    /// Reads, without TLS, from the metrics port, to which peers the member has connections that it made itself.
    fn active_peers<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<BTreeSet<MemberId>, EtcdError>>;

    /// Reads, without TLS, from the metrics port, what the member's metrics say about versions.
    fn versions<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<VersionMetrics, EtcdError>>;

    /// Reads the leaf that the member serves and sends no request. It works without a client certificate even if the member
    /// requires one, because with TLS 1.3 the server presents its own certificate before it can refuse.
    fn served<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<Vec<u8>, DialError>>;
}
