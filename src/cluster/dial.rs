//! Dialing members: their addresses, and the request for the member list.

use k8s_openapi::api::core::v1::Pod;

use crate::{
    context::Context,
    etcd::{MemberList, MemberStatus, Target},
    identity::Identity,
    names::{CLIENT_PORT, MemberName, Names},
};

/// A port of a member, at the address that Kubernetes reports for its pod, because DNS may lag.
pub fn target(names: &Names, name: &MemberName, pod: &Pod, port: u16) -> Target {
    let target = Target::new(names.member_host(name), port);
    match pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()).and_then(|ip| ip.parse().ok()) {
        Some(address) => target.at(address),
        None => target,
    }
}

/// The member list, confirmed by a quorum, from the first answering member that can return it. The leader is asked first.
///
/// # Errors
/// Why the last member did not return it.
pub async fn member_list<'a>(
    context: &Context,
    names: &Names,
    answering: impl Iterator<Item = (&'a MemberName, &'a Pod, &'a MemberStatus)>,
    identity: &Identity,
) -> Result<MemberList, String> {
    let mut answering: Vec<_> = answering.filter(|(_, _, status)| !status.is_learner).collect();
    answering.sort_by_key(|(_, _, status)| !status.leads());
    let mut problem = "no member answers".to_owned();
    for (name, pod, _) in answering {
        match context.dialer.members(&target(names, name, pod, CLIENT_PORT), &identity.tls).await {
            Ok(list) => return Ok(list),
            Err(error) => problem = format!("{name}: {error}"),
        }
    }
    Err(problem)
}
