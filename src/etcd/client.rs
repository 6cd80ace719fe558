//! The real client. It opens the TCP and TLS connection itself to read the leaf from it, and then passes the connection to the
//! gRPC library, which does not expose certificates.

use super::{
    Change, Class, DialError, Dialer, EtcdError, Member, MemberList, MemberStatus, Progress, StatusAnswer, Target, Tls, TlsFault,
    Version, VersionMetrics, progress,
};
use crate::ids::{ClusterId, MemberId};
use etcd_client::{AlarmAction, AlarmOptions, AlarmType, DowngradeOptions};
use futures::{FutureExt, future::BoxFuture};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::{collections::BTreeSet, io, net::SocketAddr, time::Duration};
use tokio::{
    io::AsyncBufReadExt,
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    codegen::http::uri::PathAndQuery,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// Dials real members. Its fields are the timeouts of the stages of a call, so the longest call takes their sum.
#[derive(Clone, Debug)]
pub struct Client {
    /// Of resolving the name and opening the TCP connection.
    pub connect: Duration,
    /// Of the TLS handshake. A member that was started without quorum accepts the connection and does not answer.
    pub handshake: Duration,
    /// Of the call itself. It is shorter than the 7 s that etcd itself waits for a quorum.
    pub rpc: Duration,
    /// Of a membership change. It is longer than etcd itself waits, so that an answer is not missed.
    pub change: Duration,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            handshake: Duration::from_secs(2),
            rpc: Duration::from_secs(4),
            change: Duration::from_secs(8),
        }
    }
}

impl Dialer for Client {
    fn ask<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<StatusAnswer, DialError>> {
        async move {
            let (served, stream) = self.handshake(target, tls).await?;
            let status = self.within(status(stream, target).boxed()).await;
            Ok(StatusAnswer { served, status })
        }
        .boxed()
    }

    fn members<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<MemberList, EtcdError>> {
        async move {
            let (_, stream) = self.handshake(target, tls).await?;
            self.within(members(stream, target, true).boxed()).await
        }
        .boxed()
    }

    fn own_members<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<MemberList, EtcdError>> {
        async move {
            let (_, stream) = self.handshake(target, tls).await?;
            self.within(members(stream, target, false).boxed()).await
        }
        .boxed()
    }

    fn change<'a>(&'a self, target: &'a Target, tls: &'a Tls, change: &'a Change) -> BoxFuture<'a, Result<(), EtcdError>> {
        async move {
            let (_, stream) = self.handshake(target, tls).await?;
            timeout(self.change, self::change(stream, target, change))
                .await
                .unwrap_or_else(|_| Err(EtcdError::timeout(self.change)))
        }
        .boxed()
    }

    fn advance<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<(), EtcdError>> {
        async move {
            let (_, stream) = self.handshake(target, tls).await?;
            self.within(advance(stream, target).boxed()).await
        }
        .boxed()
    }

    fn progress<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Progress, EtcdError>> {
        async move {
            let tcp = self.connect(target).await?;
            self.within(progress::read(tcp).boxed()).await
        }
        .boxed()
    }

    fn active_peers<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<BTreeSet<MemberId>, EtcdError>> {
        async move {
            let tcp = self.connect(target).await?;
            self.within(progress::read_peers(tcp).boxed()).await
        }
        .boxed()
    }

    fn versions<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<VersionMetrics, EtcdError>> {
        async move {
            let tcp = self.connect(target).await?;
            self.within(progress::read_versions(tcp).boxed()).await
        }
        .boxed()
    }

    fn served<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<Vec<u8>, DialError>> {
        async move { Ok(self.handshake(target, tls).await?.0) }.boxed()
    }
}

impl Client {
    /// Connects and performs the handshake. Returns the leaf that the member serves, and the connection.
    async fn handshake(&self, target: &Target, tls: &Tls) -> Result<(Vec<u8>, TlsStream<TcpStream>), DialError> {
        let port = target.port;
        let name = ServerName::try_from(target.host.clone()).map_err(|e| TlsFault::Other(e.to_string()))?;
        let tcp = self.connect(target).await?;
        let stream = timeout(self.handshake, TlsConnector::from(tls.config()).connect(name, tcp))
            .await
            .map_err(|_| DialError::Silent { port })?
            .map_err(|e| TlsFault::from_io(&e))?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|leaf| leaf.to_vec());
        Ok((leaf.ok_or_else(|| TlsFault::Other("it presents no certificate".to_owned()))?, stream))
    }

    async fn connect(&self, target: &Target) -> Result<TcpStream, DialError> {
        let late = |_| DialError::Timeout { port: target.port, within: self.connect };
        timeout(self.connect, connect(target)).await.map_err(late)?
    }

    async fn within<T>(&self, call: BoxFuture<'_, Result<T, EtcdError>>) -> Result<T, EtcdError> {
        timeout(self.rpc, call).await.unwrap_or_else(|_| Err(EtcdError::timeout(self.rpc)))
    }
}

async fn connect(target: &Target) -> Result<TcpStream, DialError> {
    let port = target.port;
    let addresses: Vec<SocketAddr> = match target.address {
        Some(address) => vec![(address, port).into()],
        None => lookup_host((target.host.as_str(), port))
            .await
            .map_err(|e| DialError::Resolve { host: target.host.clone(), reason: e.to_string() })?
            .collect(),
    };
    TcpStream::connect(addresses.as_slice()).await.map_err(|e| match e.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused { port },
        _ => DialError::Unreachable { port, reason: e.to_string() },
    })
}

/// Makes a gRPC channel from a connection.
async fn channel(mut stream: TlsStream<TcpStream>, target: &Target) -> Result<Channel, EtcdError> {
    // An HTTP/2 server sends its settings first. The client waits for them before it sends anything: only then can a TLS alert be
    // read that tells a refused certificate from other ways in which a connection ends.
    if stream.fill_buf().await.map_err(|e| EtcdError::from_first_read(&e))?.is_empty() {
        return Err(EtcdError::closed());
    }
    let mut stream = Some(TokioIo::new(stream));
    let once = tower::service_fn(move |_| {
        // The channel would reconnect when its connection breaks, but there is only this connection.
        let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        async move { stream }
    });
    Endpoint::from_shared(format!("https://{target}"))
        .map_err(|e| EtcdError::new(Class::Other, e.to_string()))?
        .connect_with_connector(once)
        .await
        .map_err(|_| EtcdError::closed())
}

async fn status(stream: TlsStream<TcpStream>, target: &Target) -> Result<MemberStatus, EtcdError> {
    let channel = etcd_client::Channel::Tonic(channel(stream, target).await?);
    let status = etcd_client::Client::from_channel(channel, None).await?.status().await?;
    let header = status.header().ok_or_else(no_header)?;
    Ok(MemberStatus {
        cluster_id: ClusterId(header.cluster_id()),
        member_id: MemberId(header.member_id()),
        // etcd writes 0 for none (`raft.None`).
        leader: Some(status.leader()).filter(|id| *id != 0).map(MemberId),
        raft_applied_index: status.raft_applied_index(),
        is_learner: status.is_learner(),
        version: status.version().to_owned(),
        storage: Version::parse(status.storage_version()),
        downgrade: status.downgrade_info().filter(|info| info.enabled()).and_then(|info| Version::parse(info.target_version())),
        db_size: status.db_size(),
        errors: status.errors().to_vec(),
    })
}

/// Requests the member list with an own message: the call of the client library is never linearizable, so a partitioned member
/// would answer with an outdated list.
async fn members(stream: TlsStream<TcpStream>, target: &Target, linearizable: bool) -> Result<MemberList, EtcdError> {
    let request = wire::MemberListRequest { linearizable };
    let response: wire::MemberListResponse = call(stream, target, "/etcdserverpb.Cluster/MemberList", request).await?;
    Ok(MemberList {
        cluster_id: ClusterId(response.header.ok_or_else(no_header)?.cluster_id),
        members: response
            .members
            .into_iter()
            .map(|m| Member { id: MemberId(m.id), name: m.name, peer_urls: m.peer_urls, is_learner: m.is_learner })
            .collect(),
    })
}

/// Asks whether authentication is on. etcd answers this through raft: the request is an entry of its log (`v3_server.go`,
/// `AuthStatus`), of all that change nothing the one with the fewest parts. The client library has no call for it.
async fn advance(stream: TlsStream<TcpStream>, target: &Target) -> Result<(), EtcdError> {
    let request = wire::AuthStatusRequest {};
    let _: wire::AuthStatusResponse = call(stream, target, "/etcdserverpb.Auth/AuthStatus", request).await?;
    Ok(())
}

/// Makes a call with own messages.
async fn call<Q, A>(stream: TlsStream<TcpStream>, target: &Target, path: &'static str, request: Q) -> Result<A, EtcdError>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel(stream, target).await?);
    grpc.ready().await.map_err(|_| EtcdError::closed())?;
    let mut request = tonic::Request::new(request);
    // With this header etcd refuses at once if it has no leader; otherwise it would wait for one until the deadline.
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    let codec = ProstCodec::<Q, A>::default();
    Ok(grpc.unary(request, PathAndQuery::from_static(path), codec).await?.into_inner())
}

async fn change(stream: TlsStream<TcpStream>, target: &Target, change: &Change) -> Result<(), EtcdError> {
    let channel = etcd_client::Channel::Tonic(channel(stream, target).await?);
    let mut client = etcd_client::Client::from_channel(channel, None).await?;
    match change {
        Change::AddLearner { peer_url } => {
            let learner = etcd_client::MemberAddOptions::new().with_is_learner();
            client.member_add([peer_url.as_str()], Some(learner)).await.map(|_| ())
        }
        Change::Promote { id } => client.member_promote(id.0).await.map(|_| ()),
        Change::Remove { id } => client.member_remove(id.0).await.map(|_| ()),
        Change::MoveLeader { to } => client.move_leader(to.0).await.map(|_| ()),
        Change::EnableDowngrade { to } => {
            client.maintenance_client().downgrade(DowngradeOptions::Enable(format!("3.{to}"))).await.map(|_| ())
        }
        Change::CancelDowngrade => client.maintenance_client().downgrade(DowngradeOptions::Cancel).await.map(|_| ()),
        Change::DisarmSpace { member } => {
            let mut of_member = AlarmOptions::new();
            of_member.with_member(member.0);
            client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(of_member)).await.map(|_| ())
        }
    }?;
    Ok(())
}

fn no_header() -> EtcdError {
    EtcdError::new(Class::Other, "its answer has no header")
}

/// The messages of `MemberList` and `AuthStatus`, as in etcd's `api/etcdserverpb/rpc.proto`, with the fields that are used.
mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct AuthStatusRequest {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct AuthStatusResponse {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct MemberListRequest {
        #[prost(bool, tag = "1")]
        pub linearizable: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct MemberListResponse {
        #[prost(message, optional, tag = "1")]
        pub header: Option<ResponseHeader>,
        #[prost(message, repeated, tag = "2")]
        pub members: Vec<Member>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ResponseHeader {
        #[prost(uint64, tag = "1")]
        pub cluster_id: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Member {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(string, tag = "2")]
        pub name: String,
        #[prost(string, repeated, tag = "3")]
        pub peer_urls: Vec<String>,
        #[prost(bool, tag = "5")]
        pub is_learner: bool,
    }
}
