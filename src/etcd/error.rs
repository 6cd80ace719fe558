//! What can go wrong between the operator and a member, sorted by what it means for the operator's next decision. The
//! texts are read after the member's name: `demo-0 does not answer on port 2379`.

use rustls::{AlertDescription, CertificateError};
use std::{error::Error as _, io, time::Duration};
use tonic::{Code, Status};

/// Why no leaf could be read from a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The member's name does not resolve. DNS drops a name with its pod.
    #[error("has no address: {host} does not resolve ({reason})")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's words.
        reason: String,
    },
    /// The host is there and nothing listens.
    #[error("does not listen on port {port}: it is stopped, or is starting")]
    Refused {
        /// The port.
        port: u16,
    },
    /// The connection failed in another way: no route, a reset.
    #[error("cannot be reached on port {port}: {reason}")]
    Unreachable {
        /// The port.
        port: u16,
        /// The operating system's words.
        reason: String,
    },
    /// Nothing came back: neither an answer from the resolver nor a TCP connection.
    #[error("cannot be reached on port {port}: no connection within {}", seconds(*.within))]
    Timeout {
        /// The port.
        port: u16,
        /// How long it was tried.
        within: Duration,
    },
    /// The port accepts connections and then says nothing. etcd's client port does so until the member has published
    /// itself through raft, which needs a quorum; a process that hangs does so too.
    #[error("does not answer on port {port} yet: it has no quorum, is starting, or hangs")]
    Silent {
        /// The port.
        port: u16,
    },
    /// The handshake failed.
    #[error(transparent)]
    Tls(#[from] TlsFault),
}

/// Why a TLS handshake failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsFault {
    /// The member's certificate is not one to trust: another authority's, expired, or not for this name.
    #[error("serves a certificate that is not trusted: {0}")]
    NotTrusted(String),
    /// The member does not accept the operator's certificate. TLS 1.2 only; with TLS 1.3 the handshake is over for the
    /// client before the server judges, and it is [`Class::CertificateRefused`].
    #[error("refuses the operator's certificate: {0}")]
    Rejected(String),
    /// What answers does not speak TLS.
    #[error("does not speak TLS on this port")]
    NotTls,
    /// Anything else.
    #[error("cannot be spoken to over TLS: {0}")]
    Other(String),
}

impl TlsFault {
    /// Sorts what the TLS library reports for a failed handshake.
    pub(super) fn from_io(error: &io::Error) -> Self {
        match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(reason)) => Self::NotTrusted(fault_of(reason)),
            Some(rustls::Error::AlertReceived(alert)) if is_about_our_certificate(*alert) => Self::Rejected(format!("{alert:?}")),
            // etcd reads its pair anew for each handshake; one that it cannot read is the alert `InternalError`.
            Some(rustls::Error::AlertReceived(alert)) => Self::Other(format!("it ends the handshake with {alert:?}")),
            Some(rustls::Error::InvalidMessage(_)) => Self::NotTls,
            Some(other) => Self::Other(other.to_string()),
            None => Self::Other(error.to_string()),
        }
    }
}

/// The library's own words for an expired certificate have the time of day in them, and would make a status that holds them
/// change each time it is looked at.
fn fault_of(certificate: &CertificateError) -> String {
    match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is not for the member's name".to_owned()
        }
        CertificateError::UnknownIssuer => "its authority is not in the bundle".to_owned(),
        other => other.to_string(),
    }
}

fn is_about_our_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

/// What an [`EtcdError`] means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The member sees no leader.
    NoLeader,
    /// The member has not been connected to a quorum for 5 seconds, so etcd refuses to add members.
    Unhealthy,
    /// The change would leave fewer started voters than a quorum.
    NotEnoughStarted,
    /// Only the leader does this, and the member is not it.
    NotLeader,
    /// A voter cannot become the leader: it is unknown, a learner, or not connected.
    BadLeader,
    /// The learner is too far behind to be promoted.
    LearnerNotReady,
    /// The member is a voter already.
    NotLearner,
    /// There is a learner already, and etcd allows one.
    TooManyLearners,
    /// A member with this peer URL is in the list already.
    PeerUrlExists,
    /// No member has this ID.
    MemberNotFound,
    /// A learner does not serve this call.
    NotSupportedForLearner,
    /// etcd's own authentication refuses the operator.
    Auth,
    /// The member does not accept the operator's certificate.
    CertificateRefused,
    /// A corruption alarm is raised.
    Corrupt,
    /// The database has reached its quota.
    NoSpace,
    /// No answer in time, from the member or from the quorum that it asked.
    Timeout,
    /// The member could not be asked, or is stopping, or is too busy.
    Unavailable,
    /// Anything else.
    Other,
}

impl Class {
    /// Whether the next pass may try again without reporting a failure: the cause is temporary, or someone else has made the change.
    /// Everything else is reported.
    pub fn is_transient(self) -> bool {
        !matches!(self, Self::Auth | Self::CertificateRefused | Self::Corrupt | Self::NoSpace | Self::Other)
    }
}

/// What a member answered in place of what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.words())]
pub struct EtcdError {
    class: Class,
    detail: String,
}

/// etcd's messages (`api/v3rpc/rpctypes/error.go`), which are the same in 3.5, 3.6 and 3.7. The codes are not: a learner's
/// refusal is `Unavailable` in 3.5 and `FailedPrecondition` after. So the message decides, and the code only where etcd has
/// none of these to say.
const MESSAGES: &[(&str, Class)] = &[
    ("no leader", Class::NoLeader),
    ("unhealthy cluster", Class::Unhealthy),
    ("re-configuration failed due to not enough started members", Class::NotEnoughStarted),
    ("not leader", Class::NotLeader),
    ("bad leader transferee", Class::BadLeader),
    ("can only promote a learner member which is in sync with leader", Class::LearnerNotReady),
    ("can only promote a learner member", Class::NotLearner),
    ("too many learner members in cluster", Class::TooManyLearners),
    ("Peer URLs already exists", Class::PeerUrlExists),
    ("member not found", Class::MemberNotFound),
    ("rpc not supported for learner", Class::NotSupportedForLearner),
    ("user name is empty", Class::Auth),
    ("user name not found", Class::Auth),
    ("authentication failed, invalid user ID or password", Class::Auth),
    ("revision of auth store is old", Class::Auth),
    ("corrupt cluster", Class::Corrupt),
    ("mvcc: database space exceeded", Class::NoSpace),
    ("request timed out", Class::Timeout),
    ("request timed out, possibly due to previous leader failure", Class::Timeout),
    ("request timed out, possibly due to connection lost", Class::Timeout),
    ("request timed out, waiting for the applied index took too long", Class::Timeout),
    ("too many requests", Class::Unavailable),
];

impl EtcdError {
    /// What the error means for the next decision.
    pub fn class(&self) -> Class {
        self.class
    }

    /// An error of `class`. `detail` is shown where the class alone does not say enough; for [`Class::Timeout`] and
    /// [`Class::Unavailable`] it is the whole text.
    pub fn new(class: Class, detail: impl Into<String>) -> Self {
        Self { class, detail: detail.into() }
    }

    pub(super) fn timeout(within: Duration) -> Self {
        Self::new(Class::Timeout, format!("does not answer within {}", seconds(within)))
    }

    /// Sorts what the first read after the handshake reports. With TLS 1.3 this, and not the handshake, is where a client
    /// learns that its certificate is refused.
    pub(super) fn from_first_read(error: &io::Error) -> Self {
        match TlsFault::from_io(error) {
            TlsFault::Rejected(alert) => Self::new(Class::CertificateRefused, alert),
            _ => Self::closed(),
        }
    }

    /// The member closed the connection without a word. etcd does so to a certificate on its revocation list.
    pub(super) fn closed() -> Self {
        Self::new(Class::Unavailable, "closes the connection: it is stopping, or the operator's certificate is revoked")
    }

    fn words(&self) -> String {
        let detail = &self.detail;
        match self.class {
            Class::NoLeader => "sees no leader".to_owned(),
            Class::Unhealthy => "has not been connected to a quorum of the members for 5 seconds".to_owned(),
            Class::NotEnoughStarted => "refuses, because too few members would be started".to_owned(),
            Class::NotLeader => "is not the leader".to_owned(),
            Class::BadLeader => "cannot hand the leadership to that member".to_owned(),
            Class::LearnerNotReady => "has a learner that is not in sync with the leader yet".to_owned(),
            Class::NotLearner => "was asked to promote a member that is a voter already".to_owned(),
            Class::TooManyLearners => "has a learner already".to_owned(),
            Class::PeerUrlExists => "knows a member with this peer URL already".to_owned(),
            Class::MemberNotFound => "knows no such member".to_owned(),
            Class::NotSupportedForLearner => "is a learner and does not serve this".to_owned(),
            Class::Auth => format!("does not let the operator in: {detail}"),
            // etcd reads the authorities that it trusts only when it starts.
            Class::CertificateRefused if detail == "UnknownCA" => {
                "refuses the operator's certificate: it started with other authorities; delete its pod".to_owned()
            }
            Class::CertificateRefused => format!("refuses the operator's certificate: {detail}"),
            Class::Corrupt => "has raised the alarm CORRUPT".to_owned(),
            Class::NoSpace => "has no space left in its database".to_owned(),
            Class::Timeout | Class::Unavailable => detail.clone(),
            Class::Other => format!("answers with an error: {detail}"),
        }
    }
}

impl From<Status> for EtcdError {
    fn from(status: Status) -> Self {
        if status.source().is_some() {
            // It did not come from the member: the connection broke.
            return Self::new(Class::Unavailable, "has dropped the connection");
        }
        let message = status.message().strip_prefix("etcdserver: ").unwrap_or(status.message());
        let known = MESSAGES.iter().find(|(text, _)| *text == message);
        let class = known.map_or_else(
            || match status.code() {
                Code::Unavailable => Class::Unavailable,
                Code::DeadlineExceeded | Code::Cancelled => Class::Timeout,
                Code::Unauthenticated | Code::PermissionDenied => Class::Auth,
                Code::DataLoss => Class::Corrupt,
                _ => Class::Other,
            },
            |(_, class)| *class,
        );
        match class {
            Class::Timeout | Class::Unavailable => Self::new(class, format!("answers: {message}")),
            _ => Self::new(class, message),
        }
    }
}

impl From<etcd_client::Error> for EtcdError {
    fn from(error: etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => status.into(),
            etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) => {
                Self::new(Class::Unavailable, "has dropped the connection")
            }
            other => Self::new(Class::Other, other.to_string()),
        }
    }
}

impl From<DialError> for EtcdError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Tls(TlsFault::Rejected(alert)) => Self::new(Class::CertificateRefused, alert),
            DialError::Timeout { .. } | DialError::Silent { .. } => Self::new(Class::Timeout, error.to_string()),
            _ => Self::new(Class::Unavailable, error.to_string()),
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f32())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(code: Code, message: &str) -> Class {
        EtcdError::from(Status::new(code, message)).class()
    }

    #[test]
    fn the_message_decides_whatever_the_code() {
        for code in [Code::Unavailable, Code::FailedPrecondition] {
            assert_eq!(class(code, "etcdserver: rpc not supported for learner"), Class::NotSupportedForLearner);
        }
        let promote = "etcdserver: can only promote a learner member";
        assert_eq!(class(Code::FailedPrecondition, promote), Class::NotLearner);
        assert_eq!(class(Code::FailedPrecondition, &format!("{promote} which is in sync with leader")), Class::LearnerNotReady);
        assert_eq!(class(Code::Unavailable, "etcdserver: unhealthy cluster"), Class::Unhealthy);
        assert_eq!(class(Code::InvalidArgument, "etcdserver: user name is empty"), Class::Auth);
        assert_eq!(class(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"), Class::NoSpace);
        assert_eq!(class(Code::ResourceExhausted, "etcdserver: too many requests"), Class::Unavailable);
    }

    #[test]
    fn the_code_decides_where_the_message_is_unknown() {
        assert_eq!(class(Code::Unavailable, "etcdserver: leader changed"), Class::Unavailable);
        assert_eq!(class(Code::DeadlineExceeded, "context deadline exceeded"), Class::Timeout);
        assert_eq!(class(Code::PermissionDenied, "etcdserver: permission denied"), Class::Auth);
        assert_eq!(class(Code::Unauthenticated, "etcdserver: invalid auth token"), Class::Auth);
        assert_eq!(class(Code::Unknown, "raft: stopped"), Class::Other);
    }

    #[test]
    fn texts_read_on_after_the_name_of_the_member() {
        let silent = DialError::Silent { port: 2379 };
        assert_eq!(silent.to_string(), "does not answer on port 2379 yet: it has no quorum, is starting, or hangs");
        assert_eq!(EtcdError::from(silent.clone()).to_string(), silent.to_string());
        let timeout = DialError::Timeout { port: 2379, within: Duration::from_millis(2500) };
        assert_eq!(timeout.to_string(), "cannot be reached on port 2379: no connection within 2.5 s");
        let slow = Status::unavailable("etcdserver: request timed out");
        assert_eq!(EtcdError::from(slow).to_string(), "answers: request timed out");
        assert_eq!(EtcdError::timeout(Duration::from_secs(4)).to_string(), "does not answer within 4 s");
    }
}
