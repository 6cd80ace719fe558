//! How recent a member's data is, read from its metrics.
//!
//! Observed with 3.5.35, 3.6.16 and 3.7.3, on members that were running when quorum was lost and on members that were started
//! without quorum:
//!
//! | metric | ran when quorum was lost | started without quorum |
//! | --- | --- | --- |
//! | `etcd_debugging_mvcc_current_revision` | what it has applied | the same |
//! | `etcd_server_has_leader` | 0 | 0 |
//! | `etcd_server_proposals_applied_total` | raft's index | raft's index, sometimes one less: the last commit was not on disk |
//! | `etcd_server_proposals_committed_total` | raft's index | 0 |
//!
//! The member also has this revision after `--force-new-cluster`, which keeps the entries that were applied and discards those
//! that are not known to be committed.

use std::collections::BTreeSet;

use super::{Class, EtcdError, Progress, VersionMetrics};
use crate::ids::MemberId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The metrics have about 100 KB. No more than this limit is read.
const LIMIT: u64 = 8 << 20;

/// Requests the metrics and reads the progress from them.
pub async fn read(stream: TcpStream) -> Result<Progress, EtcdError> {
    parse(&request(stream).await?).ok_or_else(|| EtcdError::new(Class::Other, "its metrics do not contain its progress"))
}

/// Requests the metrics and reads from them which peers accept the member's connections.
///
/// etcd sets `etcd_network_active_peers` to 1 when the member's own connection to the peer is accepted, and to 0 when such a
/// connection fails (`server/etcdserver/api/rafthttp/peer_status.go`). The peer's connection to the member is in the peer's
/// metrics.
pub async fn read_peers(stream: TcpStream) -> Result<BTreeSet<MemberId>, EtcdError> {
    Ok(peers(&request(stream).await?))
}

/// Requests the metrics and reads from them what they say about versions. Each version that a cluster has had since the member's start
/// has a line of `etcd_cluster_version`; that of the present one has the value 1 (`server/etcdserver/api/membership/cluster.go`,
/// `SetVersion`).
pub async fn read_versions(stream: TcpStream) -> Result<VersionMetrics, EtcdError> {
    versions(&request(stream).await?)
        .ok_or_else(|| EtcdError::new(Class::Other, "its metrics do not contain the number of its snapshots"))
}

async fn request(mut stream: TcpStream) -> Result<String, EtcdError> {
    // The answer to an HTTP/1.0 request is not chunked and ends with the connection.
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.map_err(|_| EtcdError::closed())?;
    let mut answer = vec![];
    stream.take(LIMIT).read_to_end(&mut answer).await.map_err(|_| EtcdError::closed())?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn peers(answer: &str) -> BTreeSet<MemberId> {
    let peer = |line: &str| {
        let (labels, value) = line.strip_prefix("etcd_network_active_peers{")?.split_once("} ")?;
        let (_, remote) = labels.split_once("Remote=\"")?;
        let is_active = value.trim().parse().is_ok_and(|value: f64| value > 0.0);
        remote.split_once('"')?.0.parse().ok().filter(|_| is_active)
    };
    answer.lines().filter_map(peer).collect()
}

fn versions(answer: &str) -> Option<VersionMetrics> {
    let value = |line: &str, name: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    let is_positive = |value: f64| value > 0.0;
    let cluster = |line: &str| {
        let (minor, value) = line.strip_prefix("etcd_cluster_version{cluster_version=\"3.")?.split_once("\"} ")?;
        value.trim().parse().is_ok_and(is_positive).then(|| minor.parse().ok()).flatten()
    };
    let snapshots = answer.lines().find_map(|line| value(line, "etcd_snap_fsync_duration_seconds_count"))?;
    Some(VersionMetrics { cluster: answer.lines().find_map(cluster), has_snapshot: is_positive(snapshots) })
}

fn parse(answer: &str) -> Option<Progress> {
    let metric = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
    let revision: f64 = metric("etcd_debugging_mvcc_current_revision")?;
    let has = |name: &str| metric(name).map(|value| value > 0.0);
    Some(Progress {
        // Prometheus writes floating-point numbers. They are exact for every revision that etcd can reach.
        revision: format!("{revision:.0}").parse().ok()?,
        has_leader: has("etcd_server_has_leader")?,
        is_learner: has("etcd_server_is_learner")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_metrics() {
        let answer = "HTTP/1.0 200 OK\r\n\r\n# TYPE etcd_debugging_mvcc_current_revision gauge\n\
            etcd_debugging_mvcc_current_revision 1.234567e+06\netcd_server_has_leader 0\netcd_server_is_learner 1\n";
        let expected = Progress { revision: 1_234_567, has_leader: false, is_learner: true };
        assert_eq!(parse(answer), Some(expected));
        let peers_of = |value| {
            let line = |remote, value| format!("etcd_network_active_peers{{Local=\"8e9e\",Remote=\"{remote}\"}} {value}\n");
            peers(&format!("# TYPE etcd_network_active_peers gauge\n{}{}", line("91bc3c398fb3c146", 1), line("fd42", value)))
        };
        assert_eq!(peers_of(0), [MemberId(0x91bc_3c39_8fb3_c146)].into());
        assert_eq!(peers_of(1), [MemberId(0x91bc_3c39_8fb3_c146), MemberId(0xfd42)].into());
        let cluster = "etcd_cluster_version{cluster_version=\"3.5\"} 0\netcd_cluster_version{cluster_version=\"3.6\"} 1\n";
        let of = |snapshots| versions(&format!("{cluster}etcd_snap_fsync_duration_seconds_count {snapshots}\n"));
        assert_eq!(of(0), Some(VersionMetrics { cluster: Some(6), has_snapshot: false }));
        assert_eq!(of(2), Some(VersionMetrics { cluster: Some(6), has_snapshot: true }));
        assert_eq!(versions(cluster), None);
        assert_eq!(parse("HTTP/1.0 404 Not Found\r\n\r\n404 page not found"), None);
        assert_eq!(parse(&answer.replace("current_revision 1", "current_revision of 1")), None);
    }
}
