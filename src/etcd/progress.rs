//! How far a member's data goes, read from its metrics.
//!
//! Tried on 3.5.35, 3.6.16 and 3.7.3, on members that ran when quorum was lost and on such that were started without one:
//!
//! | metric | ran when quorum was lost | started without quorum |
//! | --- | --- | --- |
//! | `etcd_debugging_mvcc_current_revision` | what it has applied | the same |
//! | `etcd_server_has_leader` | 0 | 0 |
//! | `etcd_server_proposals_applied_total` | raft's index | raft's index, sometimes one less: the last commit was not on disk |
//! | `etcd_server_proposals_committed_total` | raft's index | 0 |
//!
//! The revision is also what the member has after `--force-new-cluster`, which keeps what was applied and throws away the entries
//! of which the member does not know that they were committed.

use super::{Class, EtcdError, Progress};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Metrics have about 100 KB. More than this is not read.
const LIMIT: u64 = 8 << 20;

/// Asks for the metrics and reads what is told of progress in them.
pub async fn read(mut stream: TcpStream) -> Result<Progress, EtcdError> {
    // To a request of HTTP/1.0 the answer is one piece, which ends with the connection.
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.map_err(|_| EtcdError::closed())?;
    let mut answer = vec![];
    stream.take(LIMIT).read_to_end(&mut answer).await.map_err(|_| EtcdError::closed())?;
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| EtcdError::new(Class::Other, "its metrics do not tell how far it got"))
}

fn parse(answer: &str) -> Option<Progress> {
    let metric = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
    let revision: f64 = metric("etcd_debugging_mvcc_current_revision")?;
    let has = |name: &str| metric(name).map(|value| value > 0.0);
    Some(Progress {
        // Prometheus' numbers are floating point; written out they are exact for as many revisions as etcd can make.
        revision: format!("{revision:.0}").parse().ok()?,
        has_leader: has("etcd_server_has_leader")?,
        is_learner: has("etcd_server_is_learner")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_among_the_metrics() {
        let answer = "HTTP/1.0 200 OK\r\n\r\n# TYPE etcd_debugging_mvcc_current_revision gauge\n\
            etcd_debugging_mvcc_current_revision 1.234567e+06\netcd_server_has_leader 0\netcd_server_is_learner 1\n";
        let expected = Progress { revision: 1_234_567, has_leader: false, is_learner: true };
        assert_eq!(parse(answer), Some(expected));
        assert_eq!(parse("HTTP/1.0 404 Not Found\r\n\r\n404 page not found"), None);
        assert_eq!(parse(&answer.replace("current_revision 1", "current_revision of 1")), None);
    }
}
