//! The embedded etcd client: what the operator asks of one member, over one TLS connection made for the purpose.
//!
//! [`Dialer`] is the one trait, [`Client`] the real implementation. Every call dials one member, because an answer about
//! "the cluster" that came from whichever member was nearest decides nothing. The connection's handshake tells which leaf
//! the member serves, and the same connection carries the RPC, so "serves this leaf" and "is healthy" are one observation.
//!
//! Errors say whether the member was reached: a [`DialError`] means that no leaf could be read, an [`EtcdError`] that the
//! member did show its leaf and what came after failed. Both display as what a user reads after the member's name.

mod client;
mod error;
mod progress;
mod tls;
mod version;

pub use client::Client;
pub use error::{Class, DialError, EtcdError, TlsFault};
pub use tls::{Tls, TlsError};
pub use version::Version;

use futures::future::BoxFuture;
use std::{fmt, net::IpAddr};

use crate::ids::{ClusterId, MemberId};

/// One port of one member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The name that the member's certificate must be valid for, and that is resolved unless `address` is set.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Where to connect instead of resolving `host`, for when the address is known better than DNS knows it.
    pub address: Option<IpAddr>,
}

impl Target {
    /// The port `port` of `host`, found by resolving `host`.
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

/// What a member says about itself (`Maintenance/Status`), which it answers as a learner and without quorum too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// The cluster that the member belongs to.
    pub cluster_id: ClusterId,
    /// The member's own ID.
    pub member_id: MemberId,
    /// The leader that the member follows, if it sees one.
    pub leader: Option<MemberId>,
    /// The last raft index that the member has applied.
    pub raft_applied_index: u64,
    /// Whether the member is a learner, which has no vote.
    pub is_learner: bool,
    /// The version of etcd that the member runs, such as `3.6.16`.
    pub version: String,
    /// The bytes that the database occupies on disk, free pages included.
    pub db_size: i64,
    /// What etcd complains about: no leader, and every alarm.
    pub errors: Vec<String>,
}

impl MemberStatus {
    /// Whether the member is the leader, by its own word.
    pub fn leads(&self) -> bool {
        self.leader == Some(self.member_id)
    }
}

/// One entry of the member list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The member's ID.
    pub id: MemberId,
    /// The member's name, empty until it has started.
    pub name: String,
    /// The URLs that the other members use.
    pub peer_urls: Vec<String>,
    /// Whether the member is a learner, which has no vote.
    pub is_learner: bool,
}

/// The members of a cluster, as a quorum of it knows them.
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
}

/// What came of asking a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusAnswer {
    /// The leaf certificate (DER) that the member serves. It was verified against the bundle and the member's name.
    pub served: Vec<u8>,
    /// The member's status, or why it did not give one.
    pub status: Result<MemberStatus, EtcdError>,
}

/// A change of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a member without a vote at this URL.
    AddLearner {
        /// Its URL for other members.
        peer_url: String,
    },
    /// Gives a learner its vote, if it has caught up. To be sent to the leader, which alone can tell.
    Promote {
        /// The learner.
        id: MemberId,
    },
    /// Removes a member for good: its ID never comes back.
    Remove {
        /// The member.
        id: MemberId,
    },
    /// Makes another voter the leader. To be sent to the leader.
    MoveLeader {
        /// The next leader.
        to: MemberId,
    },
}

/// How far a member's data goes, as the metrics tell that it shows without TLS and without quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The revision that it would serve. Of what metrics tell it is the one that lasts: the counts of proposals begin anew when
    /// the process does, and count raft's own entries too.
    pub revision: u64,
    /// Whether it sees a leader, and so a quorum.
    pub has_leader: bool,
    /// Whether it is a learner, which has no vote.
    pub is_learner: bool,
}

/// The ways in which the operator talks to one etcd member. Each call is a new connection, bounded in time.
pub trait Dialer: Send + Sync + 'static {
    /// Reads the leaf that the member serves and asks for its status.
    fn ask<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<StatusAnswer, DialError>>;

    /// The member list, linearizable: it is what a quorum agreed to, or an error. A learner cannot give it.
    fn members<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<MemberList, EtcdError>>;

    /// Changes who is a member or who leads. That the call fails does not tell that nothing changed.
    fn change<'a>(&'a self, target: &'a Target, tls: &'a Tls, change: &'a Change) -> BoxFuture<'a, Result<(), EtcdError>>;

    /// Asks how far the member's data goes, without TLS, on the port for metrics: a member that was started without quorum is
    /// silent everywhere else.
    fn progress<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Progress, EtcdError>>;

    /// Reads the leaf that the member serves and says nothing more. It works without a client certificate even where the
    /// member demands one, because TLS 1.3 lets the server refuse only after it has shown its own.
    fn served<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<Vec<u8>, DialError>>;
}
