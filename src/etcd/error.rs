//! Errors of requests to a member, classified by their consequence for the next decision of the operator. Each text continues a
//! sentence that begins with the name of the member: `demo-0 does not answer on port 2379`.

use rustls::{AlertDescription, CertificateError};
use std::{error::Error as _, io, time::Duration};
use tonic::{Code, Status};

/// Why no leaf could be read from a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The member's name does not resolve. DNS removes a name together with its pod.
    #[error("has no address: {host} does not resolve ({reason})")]
    Resolve {
        /// The name.
        host: String,
        /// The message of the resolver.
        reason: String,
    },
    /// The host exists, but nothing listens on the port.
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
        /// The message of the operating system.
        reason: String,
    },
    /// No answer in time, neither from the resolver nor to the TCP connection.
    #[error("cannot be reached on port {port}: no connection within {}", seconds(*.within))]
    Timeout {
        /// The port.
        port: u16,
        /// The timeout.
        within: Duration,
    },
    /// The port accepts connections and sends nothing. etcd's client port does so until the member has published itself through
    /// raft, which needs a quorum; a process that hangs does so too.
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
    /// The member's certificate is not trusted: it was signed by another authority, has expired, or is not valid for this name.
    #[error("presents a certificate that is not trusted: {0}")]
    NotTrusted(String),
    /// The member does not accept the operator's certificate. TLS 1.2 only: with TLS 1.3 the handshake is complete for the client
    /// before the server checks the certificate, and the error is [`Class::CertificateRefused`].
    #[error("refuses the operator's certificate: {0}")]
    Rejected(String),
    /// The answer is not TLS.
    #[error("does not speak TLS on this port")]
    NotTls,
    /// Anything else.
    #[error("cannot be reached over TLS: {0}")]
    Other(String),
}

impl TlsFault {
    /// Classifies what the TLS library reports for a failed handshake.
    pub(super) fn from_io(error: &io::Error) -> Self {
        match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(reason)) => Self::NotTrusted(fault_of(reason)),
            Some(rustls::Error::AlertReceived(alert)) if is_about_our_certificate(*alert) => Self::Rejected(format!("{alert:?}")),
            // etcd reads its key pair at each handshake. If it cannot read it, it sends the alert `InternalError`.
            Some(rustls::Error::AlertReceived(alert)) => Self::Other(format!("it ends the handshake with {alert:?}")),
            Some(rustls::Error::InvalidMessage(_)) => Self::NotTls,
            Some(other) => Self::Other(other.to_string()),
            None => Self::Other(error.to_string()),
        }
    }
}

/// The library's message for an expired certificate contains the current time. A status with it would change in every pass.
fn fault_of(certificate: &CertificateError) -> String {
    match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is not valid for the member's name".to_owned()
        }
        CertificateError::UnknownIssuer => "its CA is not in the trust bundle".to_owned(),
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

/// The meaning of an [`EtcdError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The member has no leader.
    NoLeader,
    /// The member has not been connected to a quorum for 5 seconds, so etcd refuses to add members.
    Unhealthy,
    /// The change would leave fewer started voters than a quorum.
    NotEnoughStarted,
    /// Only the leader can do this, and the member is not the leader.
    NotLeader,
    /// A voter cannot become the leader: it is unknown, a learner, or not connected.
    BadLeader,
    /// The learner is too far behind to be promoted.
    LearnerNotReady,
    /// The member is already a voter.
    NotLearner,
    /// There is already a learner, and etcd allows only one.
    TooManyLearners,
    /// The member list already contains a member with this peer URL.
    PeerUrlExists,
    /// No member has this ID.
    MemberNotFound,
    /// A learner does not serve this call.
    NotSupportedForLearner,
    /// etcd's authentication refuses the operator.
    Auth,
    /// The member does not accept the operator's certificate.
    CertificateRefused,
    /// A corruption alarm is raised.
    Corrupt,
    /// The database has reached its quota.
    NoSpace,
    /// No answer in time, from the member or from the quorum.
    Timeout,
    /// The member could not be reached, is stopping, or is too busy.
    Unavailable,
    /// Anything else.
    Other,
}

impl Class {
    /// Whether the next pass may try again without reporting a failure: the cause is temporary, or the change was made by others.
    /// Every other error is reported.
    pub fn is_transient(self) -> bool {
        !matches!(self, Self::Auth | Self::CertificateRefused | Self::Corrupt | Self::NoSpace | Self::Other)
    }
}

/// The error of a request to a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct EtcdError {
    class: Class,
    detail: String,
}

/// The parts of etcd before which an error names its package.
const PACKAGES: [&str; 4] = ["etcdserver: ", "auth: ", "membership: ", "raft: "];

/// etcd's messages without the name of the package, which are the same in 3.5, 3.6 and 3.7. Most are those for clients
/// (`api/v3rpc/rpctypes/error.go`). The codes differ: a refusal by a learner is `Unavailable` in 3.5 and `FailedPrecondition`
/// later. And an error for which etcd has no text for clients, or of a call that does not translate it (in 3.5 those of
/// `api/v3rpc/maintenance.go`), has its internal text and the code `Unknown`, whatever it means. So the message determines the
/// class, and the code only if the message is unknown.
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
    ("peerURL exists", Class::PeerUrlExists),
    // The ID follows from the URL and the time in seconds.
    ("member ID already exist", Class::PeerUrlExists),
    ("ID exists", Class::PeerUrlExists),
    ("member not found", Class::MemberNotFound),
    ("ID not found", Class::MemberNotFound),
    ("ID removed", Class::MemberNotFound),
    ("rpc not supported for learner", Class::NotSupportedForLearner),
    ("user name is empty", Class::Auth),
    ("user name not found", Class::Auth),
    ("user not found", Class::Auth),
    ("authentication failed, invalid user ID or password", Class::Auth),
    ("permission denied", Class::Auth),
    ("invalid auth token", Class::Auth),
    ("corrupt cluster", Class::Corrupt),
    ("mvcc: database space exceeded", Class::NoSpace),
    ("no space", Class::NoSpace),
    ("request timed out", Class::Timeout),
    ("request timed out, possibly due to previous leader failure", Class::Timeout),
    ("request timed out, possibly due to connection lost", Class::Timeout),
    ("request timed out, waiting for the applied index took too long", Class::Timeout),
    ("request timed out, leader transfer took too long", Class::Timeout),
    ("request cancelled", Class::Timeout),
    // Users or roles were changed between the request and its entry in raft's log. Go's client repeats it at once.
    ("revision of auth store is old", Class::Unavailable),
    ("revision in header is old", Class::Unavailable),
    // So many entries are committed and not applied yet.
    ("too many requests", Class::Unavailable),
    ("leader changed", Class::Unavailable),
    // The leader is handing over its leadership, or a member has no leader (raft's `ErrProposalDropped`).
    ("raft proposal dropped", Class::Unavailable),
    ("server stopped", Class::Unavailable),
    ("stopped", Class::Unavailable),
    // The members have not agreed on the cluster's version yet.
    ("not capable", Class::Unavailable),
];

impl EtcdError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The alert of [`Class::CertificateRefused`], or the message of the member.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// An error of `class`. `detail` is a part of the text of some classes; for [`Class::Timeout`] and [`Class::Unavailable`] it
    /// is the whole text.
    pub fn new(class: Class, detail: impl Into<String>) -> Self {
        Self { class, detail: detail.into() }
    }

    pub(super) fn timeout(within: Duration) -> Self {
        Self::new(Class::Timeout, format!("does not answer within {}", seconds(within)))
    }

    /// Classifies an error of the first read after the handshake. With TLS 1.3 a client learns only here, and not in the
    /// handshake, that its certificate is refused.
    pub(super) fn from_first_read(error: &io::Error) -> Self {
        match TlsFault::from_io(error) {
            TlsFault::Rejected(alert) => Self::new(Class::CertificateRefused, alert),
            _ => Self::closed(),
        }
    }

    /// The member closed the connection without an alert. etcd does so if the certificate is on its revocation list.
    pub(super) fn closed() -> Self {
        Self::new(Class::Unavailable, "closes the connection: it is stopping, or the operator's certificate is revoked")
    }

    fn text(&self) -> String {
        let detail = &self.detail;
        match self.class {
            Class::NoLeader => "sees no leader".to_owned(),
            Class::Unhealthy => "has not been connected to a quorum of the members for 5 seconds".to_owned(),
            Class::NotEnoughStarted => "refuses the change, because too few started members would remain".to_owned(),
            Class::NotLeader => "is not the leader".to_owned(),
            Class::BadLeader => "cannot move leadership to that member".to_owned(),
            Class::LearnerNotReady => "has a learner that is not in sync with the leader yet".to_owned(),
            Class::NotLearner => "was asked to promote a member that is already a voter".to_owned(),
            Class::TooManyLearners => "already has a learner".to_owned(),
            Class::PeerUrlExists => "already has a member with this peer URL".to_owned(),
            Class::MemberNotFound => "does not know that member".to_owned(),
            Class::NotSupportedForLearner => "is a learner and does not serve this".to_owned(),
            Class::Auth => format!("does not authenticate the operator: {detail}"),
            // etcd reads its trust bundle only when it starts.
            Class::CertificateRefused if detail == "UnknownCA" => {
                "refuses the operator's certificate: it was started with other CAs; delete its pod".to_owned()
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
            // The error is not from the member: the connection broke.
            return Self::new(Class::Unavailable, "has dropped the connection");
        }
        let text = status.message();
        let message = PACKAGES.iter().find_map(|package| text.strip_prefix(package)).unwrap_or(text);
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
    fn the_message_determines_the_class() {
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

    /// As etcd 3.5, 3.6 and 3.7 send them: with a code that says nothing, or a wrong one.
    #[test]
    fn what_passes_by_itself_is_transient_whatever_its_code() {
        let passing = [
            (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
            (Code::Unknown, "auth: revision in header is old"),
            (Code::Unknown, "etcdserver: too many requests"),
            (Code::Unknown, "raft proposal dropped"),
            (Code::Unknown, "raft: stopped"),
            (Code::Unknown, "etcdserver: request timed out, leader transfer took too long"),
            (Code::Unknown, "etcdserver: request cancelled"),
            (Code::Unknown, "etcdserver: re-configuration failed due to not enough started members"),
            (Code::FailedPrecondition, "etcdserver: member ID already exist"),
            (Code::FailedPrecondition, "etcdserver: not capable"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "etcdserver: server stopped"),
            (Code::Unavailable, "etcdserver: request timed out"),
            (Code::Unavailable, "etcdserver: unhealthy cluster"),
            (Code::Cancelled, "etcdserver: request canceled"),
        ];
        for (code, message) in passing {
            assert!(class(code, message).is_transient(), "{code:?} {message}");
        }
        let lasting = [
            (Code::Unknown, "auth: user not found"),
            (Code::Unknown, "auth: permission denied"),
            (Code::Unknown, "auth: user name is empty"),
            (Code::Unknown, "etcdserver: no space"),
            (Code::InvalidArgument, "etcdserver: given member URLs are invalid"),
            (Code::Unknown, "something else"),
        ];
        for (code, message) in lasting {
            assert!(!class(code, message).is_transient(), "{code:?} {message}");
        }
    }

    #[test]
    fn the_code_determines_the_class_of_an_unknown_message() {
        assert_eq!(class(Code::Unavailable, "etcdserver: leader changed"), Class::Unavailable);
        assert_eq!(class(Code::DeadlineExceeded, "context deadline exceeded"), Class::Timeout);
        assert_eq!(class(Code::PermissionDenied, "etcdserver: permission denied"), Class::Auth);
        assert_eq!(class(Code::Unauthenticated, "etcdserver: invalid auth token"), Class::Auth);
        assert_eq!(class(Code::Unknown, "cluster is not what it was"), Class::Other);
    }

    #[test]
    fn texts_continue_the_name_of_the_member() {
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
