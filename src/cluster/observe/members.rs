//! Queries to the members.

use futures::future::{join, join_all, join3};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::{
    cluster::{
        dial,
        observed::{Observed, ObservedMember, Probe, Trial},
    },
    context::Context,
    etcd::{Class, DialError, EtcdError, MemberStatus, StatusAnswer, Target, Tls, TlsFault},
    identity::Identity,
    kubernetes::{ownership::annotation, pod::pod_ready},
    member_pod::running_since,
    names::{CLIENT_PORT, METRICS_PORT, MemberName, Names, PEER_PORT, annotation as key, member_key},
};

/// While a cluster is being bootstrapped, a pod does not answer on its client port until there is a quorum, so a pod that is not
/// ready is not asked for this long after its start. Later every running pod is asked: it may be a learner, which is never ready.
const STARTING: SignedDuration = SignedDuration::from_secs(15);

/// Asks all running members concurrently for their status.
pub async fn ask(context: &Context, names: &Names, observed: &mut Observed, identity: &Identity, now: Timestamp) {
    let is_bootstrapping = !observed.has_come_up();
    let answers = observed.members.iter().map(|(name, member)| async move {
        let Some(pod) = &member.pod else { return (Probe::default(), None, None) };
        match running_since(pod) {
            None => return (Probe::Skipped("its container does not run".into()), None, None),
            Some(since) if is_bootstrapping && !pod_ready(pod) && now.duration_since(since) < STARTING => {
                return (Probe::Skipped("it is starting".into()), None, None);
            }
            Some(_) => {}
        }
        let target = dial::target(names, name, pod, CLIENT_PORT);
        let client = async { probe(context.dialer.ask(&target, &identity.tls).await) };
        join3(client, try_next(context, names, name, pod, identity), ask_peer(context, names, name, member, pod)).await
    });
    let answers = join_all(answers).await;
    for (member, (etcd, trial, peer_leaf)) in observed.members.values_mut().zip(answers) {
        member.etcd = etcd;
        member.trial = trial;
        member.peer_leaf = peer_leaf;
    }
}

/// What the answer to a request for its status says about a member.
fn probe(answer: Result<StatusAnswer, DialError>) -> Probe {
    let is_refusal = |error: &EtcdError| error.class() == Class::CertificateRefused;
    match answer {
        Ok(StatusAnswer { served, status: Err(error) }) if is_refusal(&error) => Probe::Refused(Some(served), error.to_string()),
        Ok(StatusAnswer { served, status }) => Probe::Reached(served, status.map_err(|error| error.to_string())),
        Err(error @ DialError::Tls(TlsFault::Rejected(_))) => Probe::Refused(None, error.to_string()),
        Err(error) => Probe::Unreachable(error.to_string()),
    }
}

/// Asks a member for its status with the operator's certificate of the next authority, if there is one.
async fn try_next(context: &Context, names: &Names, name: &MemberName, pod: &Pod, identity: &Identity) -> Option<Trial> {
    let tls = match identity.trial.as_ref()? {
        Ok(tls) => tls,
        Err(problem) => return Some(Trial::Unknown(problem.clone())),
    };
    Some(match context.dialer.ask(&dial::target(names, name, pod, CLIENT_PORT), tls).await {
        Ok(StatusAnswer { status: Ok(_), .. }) => Trial::Accepted,
        Ok(StatusAnswer { status: Err(error), .. }) => of_error(&error),
        Err(DialError::Tls(TlsFault::Rejected(alert))) => Trial::Refused(alert),
        Err(error) => Trial::Unknown(error.to_string()),
    })
}

fn of_error(error: &EtcdError) -> Trial {
    match error.class() {
        Class::CertificateRefused => Trial::Refused(error.detail().to_owned()),
        _ => Trial::Unknown(error.to_string()),
    }
}

/// Reads the leaf on port 2380, until the pod is confirmed to present what its Secret holds: etcd logs each such connection as
/// rejected.
async fn ask_peer(
    context: &Context,
    names: &Names,
    name: &MemberName,
    member: &ObservedMember,
    pod: &Pod,
) -> Option<Result<Vec<u8>, String>> {
    let secret = member.secret.as_ref()?;
    if annotation(&pod.metadata, key::TLS_CONFIRMED) == Some(secret.fingerprint()) {
        return None;
    }
    let bundle = secret.data.get(member_key::PEER_CA)?;
    let tls = match Tls::new(bundle, None) {
        Ok(tls) => tls,
        Err(error) => return Some(Err(error.to_string())),
    };
    Some(context.dialer.served(&dial::target(names, name, pod, PEER_PORT), &tls).await.map_err(|e| e.to_string()))
}

/// What each running member answers on its metrics port, in the order of the members.
async fn ask_metrics<T, F>(names: &Names, observed: &Observed, ask: impl Fn(Target) -> F) -> Vec<Option<Result<T, String>>>
where
    F: Future<Output = Result<T, EtcdError>>,
{
    let answers = observed.members.iter().map(|(name, member)| {
        let pod = member.pod.as_ref().filter(|pod| running_since(pod).is_some());
        let answer = pod.map(|pod| ask(dial::target(names, name, pod, METRICS_PORT)));
        async move { Some(answer?.await.map_err(|e| e.to_string())) }
    });
    join_all(answers).await
}

/// Asks every running member how recent its data is.
pub async fn ask_progress(context: &Context, names: &Names, observed: &mut Observed) {
    let ask = |target| async move { context.dialer.progress(&target).await };
    let answers = ask_metrics(names, observed, ask).await;
    observed.members.values_mut().zip(answers).for_each(|(member, progress)| member.progress = progress);
}

/// Asks every running member which others accept its connections.
pub async fn ask_peers(context: &Context, names: &Names, observed: &mut Observed) {
    let ask = |target| async move { context.dialer.active_peers(&target).await };
    let answers = ask_metrics(names, observed, ask).await;
    observed.members.values_mut().zip(answers).for_each(|(member, peers)| member.active_peers = peers);
}

/// Asks every running member what its metrics say about versions, and each that answers for the member list in its own data.
pub async fn ask_versions(context: &Context, names: &Names, observed: &mut Observed, identity: &Identity) {
    let ask = |target| async move { context.dialer.versions(&target).await };
    let versions = ask_metrics(names, observed, ask);
    let lists = observed.members.iter().map(|(name, member)| async move {
        let pod = member.pod.as_deref().filter(|_| member.etcd.status().is_some())?;
        let target = dial::target(names, name, pod, CLIENT_PORT);
        Some(context.dialer.own_members(&target, &identity.tls).await.map_err(|e| e.to_string()))
    });
    let (versions, lists) = join(versions, join_all(lists)).await;
    for (member, (versions, list)) in observed.members.values_mut().zip(versions.into_iter().zip(lists)) {
        member.versions = versions;
        member.own_list = list;
    }
}

/// The members that answer, with their pods.
pub fn answering(observed: &Observed) -> impl Iterator<Item = (&MemberName, &Pod, &MemberStatus)> {
    observed.members.iter().filter_map(|(name, member)| Some((name, member.pod.as_deref()?, member.etcd.status()?)))
}
