//! The etcd client against real etcd processes on loopback, with mutual TLS on both ports as in a cluster.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use etcd_warden::{
    etcd::{Change, Class, Client, DialError, Dialer, EtcdError, MemberList, Progress, StatusAnswer, Target, Tls, TlsFault},
    ids::MemberId,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use time::OffsetDateTime;

mod clients;
#[path = "etcd/downgrade.rs"]
mod downgrade;
#[path = "etcd/flags.rs"]
mod flags;
#[path = "etcd/linearizable.rs"]
mod linearizable;
#[path = "etcd/requests.rs"]
mod requests;
#[path = "etcd/stopping.rs"]
mod stopping;
#[path = "etcd/transient.rs"]
mod transient;
#[path = "etcd/waiting.rs"]
mod waiting;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The host name in every leaf. It does not resolve; members are dialed by address, which is also possible for pods.
const HOST: &str = "member.test";
/// Long enough for an election on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn one_connection_reads_the_leaf_and_the_status() {
    let cluster = Cluster::start(1).await;
    let (member, tls) = (&cluster.members[0], cluster.tls());

    let answer = Client::default().ask(&member.client(), &tls).await.unwrap();
    assert_eq!(answer.served, cluster.server.der);
    let status = answer.status.unwrap();
    assert_eq!(status.version, "3.6.16");
    assert!(status.leads() && status.leader == Some(status.member_id), "{status:?}");
    assert!(status.raft_applied_index > 0 && status.db_size > 0);
    assert!(!status.is_learner);
    assert_eq!(status.errors, Vec::<String>::new());

    let list = Client::default().members(&member.client(), &tls).await.unwrap();
    assert_eq!(list.cluster_id, status.cluster_id);
    let [only] = list.members.as_slice() else { panic!("{list:?}") };
    assert_eq!((only.id, only.name.as_str(), only.is_learner), (status.member_id, "m0", false));
    assert_eq!(only.peer_urls, [format!("https://127.0.0.1:{}", member.peer_port)]);
}

#[tokio::test]
async fn a_renewed_leaf_is_noticed_with_the_same_tls() {
    let cluster = Cluster::start(1).await;
    let (member, tls) = (&cluster.members[0], cluster.tls());
    // After the first connection a session could be resumed with its ticket.
    for _ in 0..2 {
        assert_eq!(ask(member, &tls).await.served, cluster.server.der);
    }
    let renewed = cluster.client_ca.leaf("server", 2);
    renewed.write(cluster.dir.path(), "server");
    let answer = ask(member, &tls).await;
    assert_eq!(answer.served, renewed.der);
    assert_ne!(answer.served, cluster.server.der);
    assert!(answer.status.is_ok(), "{answer:?}");
}

#[tokio::test]
async fn the_peer_port_presents_its_leaf_to_a_client_without_a_certificate() {
    let cluster = Cluster::start(1).await;
    let (client, member) = (Client::default(), &cluster.members[0]);
    let peers = Tls::new(cluster.peer_ca.pem.as_bytes(), None).unwrap();
    assert_eq!(client.served(&member.peer(), &peers).await.unwrap(), cluster.peer.der);
    // So does the client port, but without a certificate it answers no request.
    let anonymous = Tls::new(cluster.client_ca.pem.as_bytes(), None).unwrap();
    assert_eq!(client.served(&member.client(), &anonymous).await.unwrap(), cluster.server.der);
    assert_refused(client.ask(&member.client(), &anonymous).await.unwrap().status);
    // The domains do not trust each other's authorities.
    let error = client.served(&member.peer(), &cluster.tls()).await.unwrap_err();
    assert!(matches!(error, DialError::Tls(TlsFault::NotTrusted(_))), "{error:?}");
}

#[tokio::test]
async fn untrusted_leaves_are_reported_with_the_reason() {
    let cluster = Cluster::start(1).await;
    let (client, member, tls) = (Client::default(), &cluster.members[0], cluster.tls());
    let stranger = Tls::new(Authority::new("stranger").pem.as_bytes(), None).unwrap();
    let elsewhere = Target::new("other.test", member.client_port).at(LOOPBACK);
    let not_trusted = |why: &str| DialError::Tls(TlsFault::NotTrusted(why.to_owned()));

    let unknown = not_trusted("its CA is not in the trust bundle");
    assert_eq!(client.ask(&member.client(), &stranger).await.unwrap_err(), unknown);
    assert_eq!(client.served(&member.peer(), &stranger).await.unwrap_err(), unknown);
    assert_eq!(client.ask(&elsewhere, &tls).await.unwrap_err(), not_trusted("it is not valid for the member's name"));
    let error = client.members(&member.client(), &stranger).await.unwrap_err();
    assert_eq!((error.class(), error.to_string()), (Class::Unavailable, unknown.to_string()));

    let now = OffsetDateTime::now_utc();
    cluster.client_ca.leaf_until("server", 4, now - time::Duration::minutes(1)).write(cluster.dir.path(), "server");
    assert_eq!(client.ask(&member.client(), &tls).await.unwrap_err(), not_trusted("it has expired"));
}

#[tokio::test]
async fn a_client_certificate_of_another_authority_is_refused() {
    let cluster = Cluster::start(1).await;
    let member = cluster.members[0].client();
    let foreign = Authority::new("foreign").leaf("root", 9);
    let tls = foreign.tls(&cluster.client_ca);
    let answer = Client::default().ask(&member, &tls).await.unwrap();
    assert_eq!(answer.served, cluster.server.der, "the leaf is read nevertheless");
    assert_refused(answer.status);
    assert_refused(Client::default().members(&member, &tls).await);
}

/// An authority that members trust is not one whose certificates they accept: Go applies its extensions to what it signed.
#[tokio::test]
async fn a_client_certificate_of_a_trusted_authority_for_servers_only_is_refused() {
    let mut cluster = Cluster::prepare(1);
    let servers_only = Authority::with_uses("servers only", vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let both = format!("{}{}", cluster.client_ca.pem, servers_only.pem);
    fs::write(cluster.dir.path().join("client-ca.crt"), both).unwrap();
    cluster.members.push(cluster.spawn(0));
    cluster.healthy().await;
    let refused = servers_only.leaf("root", 9).tls(&cluster.client_ca);
    assert_refused(ask(&cluster.members[0], &refused).await.status);
}

/// A restarted member whose peer certificate all others refuse has a leader and is healthy, because raft's messages take the
/// connections that the others make. Only its own active peers show it. With an accepted certificate it reconnects by itself.
#[tokio::test]
async fn only_active_peers_show_that_a_peer_certificate_is_refused() {
    for version in ["3.5.35", "3.6.16", "3.7.3"] {
        let mut cluster = Cluster::prepare(3);
        cluster.version = version;
        let dir = cluster.dir.path().to_owned();
        let servers_only = Authority::with_uses("servers only", vec![ExtendedKeyUsagePurpose::ServerAuth]);
        fs::write(dir.join("peer-ca.crt"), format!("{}{}", cluster.peer_ca.pem, servers_only.pem)).unwrap();
        cluster.peer_ca.leaf("peer", 2).write(&dir, "tried");
        let metrics = free_ports::<3>();
        let spawn = |cluster: &Cluster, i: usize| {
            let flag = format!("--listen-metrics-urls=http://127.0.0.1:{}", metrics[i]);
            let own = ["--peer-cert-file=tried.crt", "--peer-key-file=tried.key"];
            let more: Vec<&str> = [flag.as_str()].into_iter().chain(own.into_iter().filter(|_| i == 2)).collect();
            cluster.spawn_with(i, &more)
        };
        cluster.members = (0..3).map(|i| spawn(&cluster, i)).collect();
        cluster.healthy().await;
        let (client, tls) = (Client::default(), cluster.tls());
        let peers = async |i: usize| client.active_peers(&Target::new(HOST, metrics[i]).at(LOOPBACK)).await.ok();
        let mut ids = vec![];
        for member in &cluster.members {
            ids.push(ask(member, &tls).await.status.unwrap().member_id);
        }
        let all = || BTreeSet::from([ids[0], ids[1]]);
        until("it is connected", async || (peers(2).await? == all()).then_some(())).await;

        // Connections that stand are not checked again.
        servers_only.leaf("peer", 3).write(&dir, "tried");
        assert_eq!(peers(2).await, Some(all()), "{version}");
        cluster.members.pop();
        cluster.members.push(spawn(&cluster, 2));
        until("no member accepts it", async || peers(2).await?.is_empty().then_some(())).await;
        cluster.healthy().await;
        assert_eq!(peers(2).await, Some(BTreeSet::new()), "{version}: it is healthy nevertheless");

        cluster.peer_ca.leaf("peer", 4).write(&dir, "tried");
        until("it is connected again", async || {
            let hears = peers(0).await?.contains(&ids[2]) && peers(1).await?.contains(&ids[2]);
            (hears && peers(2).await? == all()).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_revoked_client_certificate_is_refused() {
    let cluster = Cluster::start(1).await;
    let (member, tls) = (&cluster.members[0], cluster.tls());
    assert!(ask(member, &tls).await.status.is_ok());
    cluster.client_ca.revoke(&[cluster.operator.serial]).write(cluster.dir.path());
    let error = ask(member, &tls).await.status.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    assert!(error.to_string().contains("revoked"), "{error}");
}

#[tokio::test]
async fn an_unreadable_key_pair_of_the_member_is_not_reported_as_a_refused_client_certificate() {
    let cluster = Cluster::start(1).await;
    fs::write(cluster.dir.path().join("server.key"), "torn").unwrap();
    let error = Client::default().ask(&cluster.members[0].client(), &cluster.tls()).await.unwrap_err();
    assert!(matches!(error, DialError::Tls(TlsFault::Other(_))), "{error:?}");
}

#[tokio::test]
async fn without_quorum_a_member_reports_its_status_and_no_list() {
    let mut cluster = Cluster::start(3).await;
    let (client, tls) = (Client::default(), cluster.tls());
    let mut lists = Vec::<MemberList>::new();
    let mut leaders = Vec::new();
    for member in &cluster.members {
        let status = ask(member, &tls).await.status.unwrap();
        leaders.push(status.leader);
        let mut list = client.members(&member.client(), &tls).await.unwrap();
        assert_eq!(list.members.iter().find(|m| m.id == status.member_id).unwrap().name, member.name);
        let own = client.own_members(&member.client(), &tls).await.unwrap();
        assert_eq!(own.difference(&list), None);
        list.members.sort_by_key(|m| m.id);
        lists.push(list);
    }
    assert!(leaders.iter().all(|leader| *leader == leaders[0] && leader.is_some()), "{leaders:?}");
    assert!(lists.iter().all(|list| *list == lists[0]), "{lists:?}");
    assert_eq!(lists[0].members.len(), 3);

    cluster.members.truncate(1);
    let survivor = &cluster.members[0];
    // It has no leader, or the leader is stopped and does not answer. A list is never returned without a quorum.
    let error = client.members(&survivor.client(), &tls).await.unwrap_err();
    assert!(matches!(error.class(), Class::NoLeader | Class::Timeout), "{error}");
    // As soon as the survivor has noticed this, it reports it, and still reports its own status.
    until("the survivor has no leader", async || {
        let status = ask(survivor, &tls).await.status.unwrap();
        (status.leader.is_none() && status.errors == ["etcdserver: no leader"]).then_some(())
    })
    .await;
    let error = client.members(&survivor.client(), &tls).await.unwrap_err();
    assert_eq!((error.class(), error.to_string().as_str()), (Class::NoLeader, "sees no leader"));
}

/// The progress of a member without quorum is exactly the data that it has after `--force-new-cluster`: in each version, and
/// whether it was running when quorum was lost or was started without quorum.
#[tokio::test]
async fn a_member_without_quorum_reports_its_progress_and_keeps_that_data_when_forced() {
    for version in ["3.5.35", "3.6.16", "3.7.3"] {
        let mut cluster = Cluster::prepare(3);
        cluster.version = version;
        let metrics = free_ports::<3>();
        let flag = |i: usize| format!("--listen-metrics-urls=http://127.0.0.1:{}", metrics[i]);
        cluster.members = (0..3).map(|i| cluster.spawn_with(i, &[&flag(i)])).collect();
        cluster.healthy().await;
        let (client, tls) = (Client::default(), cluster.tls());
        let port = |i: usize| Target::new(HOST, metrics[i]).at(LOOPBACK);
        let progress = async |i: usize| client.progress(&port(i)).await;
        let put = |key: &str| assert!(cluster.etcdctl(&["put", key, "value"]).status.success());
        (0..10).for_each(|i| put(&format!("key{i}")));
        let served = ask(&cluster.members[0], &tls).await.status.unwrap();
        until("it has applied all writes", async || {
            let progress = progress(0).await.unwrap();
            (progress.has_leader && !progress.is_learner && progress.revision == 11).then_some(())
        })
        .await;

        // It was running when quorum was lost.
        cluster.members.truncate(1);
        let seen = until("it notices that", async || progress(0).await.ok().filter(|progress| !progress.has_leader)).await;
        assert_eq!(seen, Progress { revision: 11, has_leader: false, is_learner: false }, "{version}");

        // It is started without quorum: it does not answer on other ports.
        cluster.members.clear();
        cluster.members.push(cluster.spawn_with(0, &[&flag(0)]));
        let again = until("it reports its progress", async || progress(0).await.ok()).await;
        assert_eq!(again, seen, "{version}");
        assert!(matches!(
            client.ask(&cluster.members[0].client(), &tls).await,
            Err(DialError::Refused { .. } | DialError::Silent { .. })
        ));

        // It is started with the flag twice, as after a restart of its container, and then without it.
        for arguments in [&["--force-new-cluster"][..], &["--force-new-cluster"], &[]] {
            cluster.members.clear();
            let more: Vec<&str> = arguments.iter().copied().chain([flag(0).leak() as &str]).collect();
            cluster.members.push(cluster.spawn_with(0, &more));
            cluster.healthy().await;
            let status = ask(&cluster.members[0], &tls).await.status.unwrap();
            assert_eq!((status.cluster_id, status.member_id), (served.cluster_id, served.member_id), "{version}");
            let list = client.members(&cluster.members[0].client(), &tls).await.unwrap();
            assert_eq!(list.members.iter().map(|member| member.id).collect::<Vec<_>>(), [served.member_id], "{version}");
            assert_eq!(progress(0).await.unwrap(), Progress { has_leader: true, ..seen }, "{version}");
            let held = cluster.etcdctl(&["get", "key", "--prefix", "--keys-only"]);
            assert_eq!(String::from_utf8(held.stdout).unwrap().lines().filter(|line| !line.is_empty()).count(), 10);
        }
    }
}

#[tokio::test]
async fn a_learner_reports_its_status_and_no_list() {
    let mut cluster = Cluster::start(1).await;
    let tls = cluster.tls();
    let [client_port, peer_port] = free_ports();
    let peer_url = format!("https://127.0.0.1:{peer_port}");
    let add = cluster.etcdctl(&["member", "add", "m1", "--learner", &format!("--peer-urls={peer_url}")]);
    assert!(add.status.success(), "{add:?}");

    let list = Client::default().members(&cluster.members[0].client(), &tls).await.unwrap();
    let added = list.members.iter().find(|m| m.is_learner).unwrap();
    assert_eq!((added.name.as_str(), &added.peer_urls), ("", &vec![peer_url.clone()]));

    let initial = format!("m0=https://127.0.0.1:{},m1={peer_url}", cluster.members[0].peer_port);
    let learner = Etcd::spawn(cluster.dir.path(), "m1", client_port, peer_port, &initial, &["--initial-cluster-state=existing"]);
    let status =
        until("the learner answers", async || Client::default().ask(&learner.client(), &tls).await.ok()?.status.ok()).await;
    assert!(status.is_learner);
    let error = Client::default().members(&learner.client(), &tls).await.unwrap_err();
    assert_eq!(error.class(), Class::NotSupportedForLearner, "{error}");
    cluster.members.push(learner);
}

#[tokio::test]
async fn members_are_added_promoted_made_the_leader_and_removed() {
    let mut cluster = Cluster::start(1).await;
    let (client, tls) = (Client::default(), cluster.tls());
    let first = cluster.members[0].client();
    let change = async |target: &Target, change: Change| client.change(target, &tls, &change).await;
    let list = async || client.members(&first, &tls).await.unwrap().members;
    let [client_port, peer_port] = free_ports();
    let peer_url = format!("https://127.0.0.1:{peer_port}");
    let add = || Change::AddLearner { peer_url: peer_url.clone() };

    change(&first, add()).await.unwrap();
    let added = list().await.into_iter().find(|m| m.is_learner).unwrap();
    assert_eq!((added.name.as_str(), &added.peer_urls), ("", &vec![peer_url.clone()]));
    // The request is repeated, as after an answer that was lost: the member is not added twice and keeps its ID. The ID depends
    // on the URL and the time in seconds, so within the same second the ID already exists.
    let again = change(&first, add()).await.unwrap_err();
    assert!(matches!(again.class(), Class::PeerUrlExists | Class::TooManyLearners), "{again}");
    let other = Change::AddLearner { peer_url: "https://127.0.0.1:1".into() };
    assert_eq!(change(&first, other).await.unwrap_err().class(), Class::TooManyLearners);
    assert_eq!(list().await.iter().map(|m| m.id).filter(|id| *id == added.id).count(), 1);
    assert_eq!(list().await.len(), 2);

    let promote = || Change::Promote { id: added.id };
    assert_eq!(change(&first, promote()).await.unwrap_err().class(), Class::LearnerNotReady, "it has not even started");
    let first_id = ask(&cluster.members[0], &tls).await.status.unwrap().member_id;
    assert_eq!(change(&first, Change::MoveLeader { to: added.id }).await.unwrap_err().class(), Class::BadLeader);

    let initial = format!("m0=https://127.0.0.1:{},m1={peer_url}", cluster.members[0].peer_port);
    let joined = Etcd::spawn(cluster.dir.path(), "m1", client_port, peer_port, &initial, &["--initial-cluster-state=existing"]);
    let second = joined.client();
    cluster.members.push(joined);
    until("the learner is promoted", async || match change(&first, promote()).await {
        Ok(()) => Some(()),
        Err(error) => {
            assert_eq!(error.class(), Class::LearnerNotReady, "{error}");
            None
        }
    })
    .await;
    assert_eq!(change(&first, promote()).await.unwrap_err().class(), Class::NotLearner, "as after an answer that was lost");
    assert!(list().await.iter().all(|m| !m.is_learner));
    cluster.healthy().await;

    let lead = |to: MemberId| Change::MoveLeader { to };
    assert_eq!(change(&second, lead(added.id)).await.unwrap_err().class(), Class::NotLeader);
    change(&first, lead(added.id)).await.unwrap();
    assert_eq!(ask(&cluster.members[1], &tls).await.status.unwrap().leader, Some(added.id));
    change(&second, lead(first_id)).await.unwrap();

    // etcd removes a voter only if the remaining voters have been connected for 5 s.
    until("it is removed", async || match change(&first, Change::Remove { id: added.id }).await {
        Ok(()) => Some(()),
        Err(error) => {
            assert_eq!(error.class(), Class::Unhealthy, "{error}");
            None
        }
    })
    .await;
    assert_eq!(change(&first, Change::Remove { id: added.id }).await.unwrap_err().class(), Class::MemberNotFound);
    assert_eq!(list().await.iter().map(|m| m.id).collect::<Vec<_>>(), [first_id]);
    // Its name can be used again at once, by a different member.
    until("it is added again, in another second", async || change(&first, add()).await.ok()).await;
    let next = list().await.into_iter().find(|m| m.is_learner).unwrap();
    assert_ne!(next.id, added.id);
}

#[tokio::test]
async fn a_member_that_never_had_a_quorum_does_not_answer() {
    let mut cluster = Cluster::prepare(3);
    let member = cluster.spawn(0);
    let tls = cluster.tls();
    until("the client port accepts connections", async || {
        tokio::net::TcpStream::connect((LOOPBACK, member.client_port)).await.ok()
    })
    .await;
    let began = Instant::now();
    let error = Client::default().ask(&member.client(), &tls).await.unwrap_err();
    assert_eq!(error, DialError::Silent { port: member.client_port });
    assert!(began.elapsed() < Duration::from_secs(5));
    // Its peer port presents its leaf nevertheless.
    let peers = Tls::new(cluster.peer_ca.pem.as_bytes(), None).unwrap();
    assert_eq!(Client::default().served(&member.peer(), &peers).await.unwrap(), cluster.peer.der);
    cluster.members.push(member);
    cluster.members.push(cluster.spawn(1));
    cluster.healthy().await;
}

#[tokio::test]
async fn a_suspended_process_does_not_answer() {
    let cluster = Cluster::start(1).await;
    let (member, tls) = (&cluster.members[0], cluster.tls());
    member.signal("STOP");
    let began = Instant::now();
    let error = Client::default().ask(&member.client(), &tls).await.unwrap_err();
    assert_eq!(error, DialError::Silent { port: member.client_port });
    let error = Client::default().members(&member.client(), &tls).await.unwrap_err();
    assert_eq!(error.class(), Class::Timeout, "{error}");
    assert!(began.elapsed() < Duration::from_secs(10), "each within five seconds");
    member.signal("CONT");
    assert!(until("it answers again", async || Client::default().ask(&member.client(), &tls).await.ok()).await.status.is_ok());
}

#[tokio::test]
async fn a_closed_port_differs_from_one_without_tls() {
    let (client, tls) = (Client::default(), Tls::new(Authority::new("any").pem.as_bytes(), None).unwrap());
    let [port] = free_ports();
    let error = client.ask(&Target::new(HOST, port).at(LOOPBACK), &tls).await.unwrap_err();
    assert_eq!(error, DialError::Refused { port });

    let error = client.ask(&Target::new("missing.invalid", port), &tls).await.unwrap_err();
    assert!(matches!(error, DialError::Resolve { .. } | DialError::Timeout { .. }), "{error:?}");

    // etcd's metrics port is a plain HTTP server; its client port without TLS closes the connection.
    let [client_port, metrics_port] = free_ports();
    let mut cluster = Cluster::prepare(1);
    let plain = format!("--listen-client-urls=http://127.0.0.1:{client_port}");
    let metrics = format!("--listen-metrics-urls=http://127.0.0.1:{metrics_port}");
    cluster.members.push(cluster.spawn_with(0, &[&plain, &metrics]));
    let answers = async |port| {
        until("the port answers", async || match client.ask(&Target::new(HOST, port).at(LOOPBACK), &tls).await.unwrap_err() {
            DialError::Refused { .. } | DialError::Silent { .. } => None,
            error => Some(error),
        })
        .await
    };
    assert_eq!(answers(metrics_port).await, DialError::Tls(TlsFault::NotTls));
    let error = answers(client_port).await;
    assert!(matches!(error, DialError::Tls(TlsFault::NotTls | TlsFault::Other(_))), "{error:?}");
}

/// Kubernetes may be IPv6-only or dual-stack. One listen address is sufficient, because Go listens on both families for either
/// wildcard address.
#[tokio::test]
async fn the_ipv4_wildcard_listens_on_ipv6_too() {
    let mut cluster = Cluster::prepare(1);
    let listen = format!("--listen-client-urls=https://0.0.0.0:{}", cluster.ports[0][0]);
    cluster.members.push(cluster.spawn_with(0, &[&listen]));
    cluster.healthy().await;
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("this kernel has no IPv6");
        return;
    }
    let port = cluster.members[0].client_port;
    let answer = Client::default().ask(&Target::new("::1", port), &cluster.tls()).await.unwrap();
    assert_eq!(answer.served, cluster.server.der);
    assert!(answer.status.is_ok(), "{answer:?}");
}

#[test]
fn errors_of_unusable_keys_and_certificates_contain_no_secrets() {
    let ca = Authority::new("ca");
    let (one, two) = (ca.leaf("one", 1), ca.leaf("two", 2));
    let bundle = ca.pem.as_bytes();
    let error = |bundle: &[u8], pair: Option<(&str, &str)>| {
        Tls::new(bundle, pair.map(|(crt, key)| (crt.as_bytes(), key.as_bytes()))).unwrap_err().to_string()
    };
    assert!(error(b"", None).starts_with("the trust bundle cannot be used"));
    assert!(error(bundle, Some(("", &one.key))).starts_with("the client certificate cannot be read"));
    assert_eq!(error(bundle, Some((&one.pem, "nothing"))), "the client key cannot be read");
    assert!(error(bundle, Some((&one.pem, &two.key))).starts_with("the client certificate and key cannot be used together"));
    assert_eq!(format!("{:?}", one.tls(&ca)), "Tls");
}

async fn ask(member: &Etcd, tls: &Tls) -> StatusAnswer {
    Client::default().ask(&member.client(), tls).await.unwrap()
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, EtcdError>) {
    let error = result.unwrap_err();
    assert_eq!(error.class(), Class::CertificateRefused, "{error}");
    assert!(error.to_string().starts_with("refuses the operator's certificate: "), "{error}");
}

/// Repeats `probe` until it returns a value. Each attempt is bounded by the client's own timeouts.
async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    tokio::time::timeout(TIMEOUT, async {
        loop {
            tick.tick().await;
            if let Some(found) = probe().await {
                return found;
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("not within {TIMEOUT:?}: {what}"))
}

/// The members of one cluster, and the authorities and leaves of its certificates.
struct Cluster {
    // The field precedes `dir`, so that the processes end before their files are removed.
    members: Vec<Etcd>,
    ports: Vec<[u16; 2]>,
    version: &'static str,
    client_ca: Authority,
    peer_ca: Authority,
    server: Leaf,
    peer: Leaf,
    operator: Leaf,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// Creates certificates, files and ports for `count` members, none of which is running.
    fn prepare(count: usize) -> Self {
        let (client_ca, peer_ca) = (Authority::new("client"), Authority::new("peer"));
        let (server, peer, operator) = (client_ca.leaf("server", 1), peer_ca.leaf("peer", 1), client_ca.leaf("root", 3));
        let dir = tempfile::tempdir().unwrap();
        for (ca, name) in [(&client_ca, "client-ca.crt"), (&peer_ca, "peer-ca.crt")] {
            fs::write(dir.path().join(name), &ca.pem).unwrap();
        }
        for (leaf, name) in [(&server, "server"), (&peer, "peer"), (&operator, "operator")] {
            leaf.write(dir.path(), name);
        }
        client_ca.revoke(&[]).write(dir.path());
        let ports = (0..count).map(|_| free_ports()).collect();
        Self { members: Vec::new(), ports, version: DEFAULT, client_ca, peer_ca, server, peer, operator, dir }
    }

    async fn start(count: usize) -> Self {
        let mut cluster = Self::prepare(count);
        cluster.members = (0..count).map(|i| cluster.spawn(i)).collect();
        cluster.healthy().await;
        cluster
    }

    fn spawn(&self, index: usize) -> Etcd {
        self.spawn_with(index, &[])
    }

    fn spawn_with(&self, index: usize, extra: &[&str]) -> Etcd {
        let urls = self.ports.iter().enumerate().map(|(i, [_, peer])| format!("m{i}=https://127.0.0.1:{peer}"));
        let initial = urls.collect::<Vec<_>>().join(",");
        let [client, peer] = self.ports[index];
        Etcd::spawn_version(self.version, self.dir.path(), &format!("m{index}"), client, peer, &initial, extra)
    }

    /// Waits until every running member has a leader and a quorum.
    async fn healthy(&self) {
        let tls = self.tls();
        for member in &self.members {
            until(&format!("{} is healthy\n{}", member.name, member.log.display()), async || {
                let status = Client::default().ask(&member.client(), &tls).await.ok()?.status.ok()?;
                let list = Client::default().members(&member.client(), &tls).await.ok()?;
                (status.leader.is_some() && list.members.iter().filter(|m| !m.name.is_empty()).count() >= self.members.len())
                    .then_some(())
            })
            .await;
        }
    }

    /// The operator's TLS configuration.
    fn tls(&self) -> Tls {
        self.operator.tls(&self.client_ca)
    }

    fn etcdctl(&self, args: &[&str]) -> std::process::Output {
        self.command(args).output().unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let file = |name: &str| self.dir.path().join(name);
        let mut command = Command::new(program(self.version, "etcdctl"));
        command
            .arg(format!("--endpoints=https://127.0.0.1:{}", self.members[0].client_port))
            .arg(format!("--cacert={}", file("client-ca.crt").display()))
            .arg(format!("--cert={}", file("operator.crt").display()))
            .arg(format!("--key={}", file("operator.key").display()))
            .args(args);
        command
    }
}

/// A running member, killed when dropped.
struct Etcd {
    child: Child,
    name: String,
    client_port: u16,
    peer_port: u16,
    log: PathBuf,
}

impl Etcd {
    fn spawn(dir: &Path, name: &str, client_port: u16, peer_port: u16, initial_cluster: &str, extra: &[&str]) -> Self {
        Self::spawn_version(DEFAULT, dir, name, client_port, peer_port, initial_cluster, extra)
    }

    fn spawn_version(
        version: &str,
        dir: &Path,
        name: &str,
        client_port: u16,
        peer_port: u16,
        initial_cluster: &str,
        extra: &[&str],
    ) -> Self {
        let log = dir.join(format!("{name}.log"));
        let child = Command::new(program(version, "etcd"))
            .current_dir(dir)
            .args([
                "--logger=zap",
                "--log-level=warn",
                "--unsafe-no-fsync",
                "--enable-grpc-gateway=false",
                "--initial-cluster-token=test",
                "--cert-file=server.crt",
                "--key-file=server.key",
                "--trusted-ca-file=client-ca.crt",
                "--client-cert-auth",
                "--client-crl-file=client.crl",
                "--peer-cert-file=peer.crt",
                "--peer-key-file=peer.key",
                "--peer-trusted-ca-file=peer-ca.crt",
                "--peer-client-cert-auth",
            ])
            .arg(format!("--name={name}"))
            .arg(format!("--data-dir={name}"))
            .arg(format!("--listen-client-urls=https://127.0.0.1:{client_port}"))
            .arg(format!("--advertise-client-urls=https://127.0.0.1:{client_port}"))
            .arg(format!("--listen-peer-urls=https://127.0.0.1:{peer_port}"))
            .arg(format!("--initial-advertise-peer-urls=https://127.0.0.1:{peer_port}"))
            .arg(format!("--initial-cluster={initial_cluster}"))
            .args(extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, name: name.to_owned(), client_port, peer_port, log }
    }

    fn client(&self) -> Target {
        Target::new(HOST, self.client_port).at(LOOPBACK)
    }

    fn peer(&self) -> Target {
        Target::new(HOST, self.peer_port).at(LOOPBACK)
    }

    fn signal(&self, signal: &str) {
        let kill = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(kill.success());
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.name, fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// The etcd release that most tests run.
const DEFAULT: &str = "3.6.16";

/// A program of an etcd release.
fn program(version: &str, name: &str) -> PathBuf {
    let root = std::env::var_os("ETCD_WARDEN_CLUSTER")
        .filter(|v| !v.is_empty())
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/etcd-warden/cluster"), PathBuf::from);
    let path = root.join(format!("bin/etcd-{version}")).join(name);
    assert!(path.exists(), "{} is missing: run `make cluster-programs`", path.display());
    path
}

/// Free ports. They are below Linux' range of ports for outgoing connections, of which these tests open many. Each is used once;
/// the process ID makes ports of concurrent test processes differ.
fn free_ports<const N: usize>() -> [u16; N] {
    static USED: AtomicU32 = AtomicU32::new(0);
    std::array::from_fn(|_| {
        loop {
            let next = std::process::id().wrapping_mul(64).wrapping_add(USED.fetch_add(1, Ordering::Relaxed));
            let port = u16::try_from(10_000 + next % 20_000).unwrap();
            if TcpListener::bind((LOOPBACK, port)).is_ok() {
                return port;
            }
        }
    })
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        Self::with_uses(name, vec![])
    }

    /// An authority with these extended key usages.
    fn with_uses(name: &str, uses: Vec<ExtendedKeyUsagePurpose>) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = parameters(name, vec![]);
        params.extended_key_usages = uses;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A leaf for servers and clients, valid for every address of the tests.
    fn leaf(&self, name: &str, serial: u64) -> Leaf {
        self.leaf_until(name, serial, OffsetDateTime::now_utc() + time::Duration::days(1))
    }

    fn leaf_until(&self, name: &str, serial: u64, end: OffsetDateTime) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = parameters(name, [HOST, "127.0.0.1", "::1"].map(str::to_owned).to_vec());
        params.not_after = end;
        params.serial_number = Some(SerialNumber::from(serial));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { der: certificate.der().to_vec(), pem: certificate.pem(), key: key.serialize_pem(), serial }
    }

    fn revoke(&self, serials: &[u64]) -> RevocationList {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + time::Duration::days(1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        RevocationList(list.signed_by(&self.issuer).unwrap().der().to_vec())
    }
}

fn parameters(name: &str, sans: Vec<String>) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::new(sans).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (now - time::Duration::minutes(5), now + time::Duration::days(1));
    params.use_authority_key_identifier_extension = true;
    params
}

struct RevocationList(Vec<u8>);

impl RevocationList {
    fn write(&self, dir: &Path) {
        fs::write(dir.join("client.crl"), &self.0).unwrap();
    }
}

struct Leaf {
    der: Vec<u8>,
    pem: String,
    key: String,
    serial: u64,
}

impl Leaf {
    fn write(&self, dir: &Path, name: &str) {
        fs::write(dir.join(format!("{name}.crt")), &self.pem).unwrap();
        fs::write(dir.join(format!("{name}.key")), &self.key).unwrap();
    }

    fn tls(&self, trusted: &Authority) -> Tls {
        Tls::new(trusted.pem.as_bytes(), Some((self.pem.as_bytes(), self.key.as_bytes()))).unwrap()
    }
}
