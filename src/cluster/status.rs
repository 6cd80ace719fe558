//! Old status + what there is + plan + what came of it -> new status and events. Pure.

use std::{collections::BTreeSet, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::{
    ResourceExt,
    runtime::events::{Event, EventType},
};

use super::{
    act::Acted,
    build,
    observed::{Observed, ObservedMember, SeenSecret, annotation, belongs, hex, name_of, pod_condition, running_since},
    plan::{self, AuthorityState, Note, Plan, RECOVERING, lost_in_words, progress_in_words, why_not_ready},
    seen::Seen,
    validate::{Invalid, ValidatedCluster},
};
use crate::{
    api::{
        self, AuthorityStatus, CertificatesStatus, DomainStatus, EtcdCluster, EtcdClusterStatus, MemberStatus,
        UnknownMemberStatus,
    },
    etcd,
    metrics::{ClusterState, DomainState},
    names::{MemberName, Names, annotation as key, tls_key},
    pki::{Certificate, Domain, Issuer, Phase},
};

/// The types of conditions.
pub mod kind {
    /// A quorum of voters serves.
    pub const AVAILABLE: &str = "Available";
    /// Something is being done or awaited.
    pub const PROGRESSING: &str = "Progressing";
    /// Something needs attention.
    pub const DEGRADED: &str = "Degraded";
    /// Every member serves the certificates that it should.
    pub const CERTIFICATES_READY: &str = "CertificatesReady";
}

/// What the pure stages made of a cluster.
pub enum Judgement {
    /// The spec makes no sense.
    Invalid(Invalid),
    /// This is to be done.
    Planned(Arc<ValidatedCluster>, Box<Plan>),
}

/// What is to be told.
pub struct Report<S = EtcdClusterStatus> {
    /// The status.
    pub status: S,
    /// What has changed in it, to be published once it is written.
    pub events: Vec<Event>,
    /// What was done, to be published in any case.
    pub done: Vec<Event>,
}

/// What is to be told of a pass.
pub fn report(cluster: &EtcdCluster, observed: &Observed, judgement: &Judgement, acted: &Acted, now: Timestamp) -> Report {
    let name = cluster.name_any();
    let names = Names::new(&name, &cluster.namespace().unwrap_or_default(), "");
    let old = &observed.status;
    let uid = cluster.metadata.uid.as_deref().unwrap_or_default();
    let refused = matches!(judgement, Judgement::Planned(_, plan) if plan.refused.is_some());
    // What another cluster of this name has left is no member of this one.
    let members = if refused { vec![] } else { members(&names, uid, observed, now) };
    let wanted = match judgement {
        Judgement::Planned(validated, _) => validated.replicas,
        Judgement::Invalid(_) => u32::try_from(members.len()).unwrap_or_default(),
    };
    let ready = members.iter().filter(|member| member.ready).count();
    let certificates = certificates(uid, &members, observed);
    let mut status = EtcdClusterStatus {
        observed_generation: cluster.metadata.generation,
        conditions: vec![],
        ready: Some(format!("{ready}/{wanted}")),
        ready_replicas: i32::try_from(ready).unwrap_or_default(),
        replicas: i32::try_from(members.len()).unwrap_or_default(),
        selector: Some(
            build::selector(&name).into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","),
        ),
        cluster_id: old.cluster_id.clone().or_else(|| cluster_id(uid, observed)),
        endpoints: vec![names.endpoint()],
        members,
        unknown_members: unknown_members(&names, observed, now),
        certificates,
        progressing_since: None,
    };
    let findings = [
        available(&names, observed, judgement, acted, now),
        progressing(observed, judgement, acted),
        degraded(&names, observed, judgement, acted, now),
        certificates_ready(observed, judgement, acted),
    ];
    let mut events = vec![];
    for finding in findings {
        let before = api::condition(&old.conditions, finding.kind);
        events.extend(finding.change(before));
        status.conditions.push(finding.condition(before, cluster.metadata.generation, now));
    }
    let goes_on = api::condition(&status.conditions, kind::PROGRESSING).filter(|condition| condition.status == "True");
    status.progressing_since = goes_on.map(|condition| {
        let before = old.progressing_since.clone().filter(|_| plan::is_ongoing(old, &condition.reason));
        before.unwrap_or_else(|| seconds(now).to_string())
    });
    let warned = acted.warned.iter().map(|note| event(EventType::Warning, note));
    let done = warned.chain(acted.done.iter().map(|note| event(EventType::Normal, note))).collect();
    Report { status, events: joined(events), done: joined(done) }
}

/// The ID under which the members have been written down, so that a cluster that is founded a second time by mistake is noticed.
fn cluster_id(uid: &str, observed: &Observed) -> Option<String> {
    let claims = observed.members.values().filter_map(|member| Some(&member.claim.as_ref()?.metadata));
    let mut written = claims.filter(|meta| belongs(meta, uid)).filter_map(|meta| annotation(meta, key::CLUSTER_ID));
    written.next().map(str::to_owned)
}

/// What the metrics tell of a status.
pub fn metrics(status: &EtcdClusterStatus, observed: &Observed) -> ClusterState {
    let count = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or_default();
    let is_true = |kind: &str| api::condition(&status.conditions, kind).is_some_and(|condition| condition.status == "True");
    let domain = |status: Option<&DomainStatus>, domain: Domain| DomainState {
        expiry: first_expiry(observed, domain),
        authorities: [status.map(|domain| &domain.active), status.map(|domain| &domain.next)]
            .map(|authority| authority?.expires.parse().ok()),
        phase: status.and_then(|domain| Phase::parse(domain.phase.as_deref()?)),
    };
    let (ready, wanted) = status.ready.as_deref().unwrap_or_default().split_once('/').unzip();
    ClusterState {
        ready: count(ready),
        wanted: count(wanted),
        available: is_true(kind::AVAILABLE),
        certificates_ready: is_true(kind::CERTIFICATES_READY),
        operator_expiry: observed.operator.as_ref().and_then(|secret| Some(secret.certificate(tls_key::CRT)?.ok()?.not_after())),
        client: domain(status.certificates.as_ref().and_then(|all| all.client.as_ref()), Domain::Client),
        peer: domain(status.certificates.as_ref().and_then(|all| all.peer.as_ref()), Domain::Peer),
    }
}

fn members(names: &Names, uid: &str, observed: &Observed, now: Timestamp) -> Vec<MemberStatus> {
    // Whose StatefulSet is the cluster's is its member, whatever has become of the claim.
    let foreign = |member: &ObservedMember| {
        let claim = member.claim.as_ref().map(|claim| &claim.metadata);
        let set = member.stateful_set.as_ref().map(|set| &set.metadata);
        set.or(claim).is_some_and(|meta| !belongs(meta, uid))
    };
    // One that was removed and of which nothing is left is a member no longer.
    let is_past = |name: &MemberName, member: &ObservedMember| {
        let nothing = member.claim.is_none() && member.stateful_set.is_none() && member.pod.is_none();
        nothing && is_removed(names, observed, name)
    };
    let members = observed.members.iter().filter(|(name, member)| !foreign(member) && !is_past(name, member));
    members.map(|(name, member)| member_status(names, name, member, observed, now)).collect()
}

/// Members that etcd lists at URLs which are not this cluster's.
fn unknown_members(names: &Names, observed: &Observed, now: Timestamp) -> Vec<UnknownMemberStatus> {
    let Ok(list) = &observed.list else { return observed.status.unknown_members.clone() };
    let unknown = |listed: &etcd::Member| {
        let id = format!("{:x}", listed.id);
        let before = observed.status.unknown_members.iter().find(|before| before.id == id);
        UnknownMemberStatus {
            name: listed.name.clone(),
            peer_url: listed.peer_urls.join(","),
            since: before.map_or_else(|| seconds(now).to_string(), |before| before.since.clone()),
            id,
        }
    };
    let mut all: Vec<_> = list.members.iter().filter(|listed| name_of(names, list, listed).is_none()).map(unknown).collect();
    all.sort_by(|one, other| one.id.cmp(&other.id));
    all
}

/// The role of a member without a vote.
const LEARNER: &str = "Learner";

fn member_status(names: &Names, name: &MemberName, member: &ObservedMember, observed: &Observed, now: Timestamp) -> MemberStatus {
    let etcd = member.etcd.status();
    let listed = observed.listed(names, name);
    let written = member.claim.as_ref().and_then(|claim| annotation(&claim.metadata, key::MEMBER_ID)).map(str::to_owned);
    let role = etcd.map(|status| match status {
        status if status.is_learner => LEARNER,
        status if status.leader == status.member_id => "Leader",
        _ => "Follower",
    });
    let before = observed.reported(name);
    // Without a list, who has lost everything is still the member that it was.
    let known = || written.or_else(|| before?.id.clone());
    let id = listed.map(|m| m.id).or(etcd.map(|status| status.member_id)).map(|id| format!("{id:x}")).or_else(known);
    // Of another incarnation, what was before says nothing.
    let has_voted = |before: &MemberStatus| is_learner(before) && role.is_some_and(|role| role != LEARNER);
    let unchanged = before.filter(|before| before.ready == member.serves() && before.id == id && !has_voted(before));
    MemberStatus {
        name: name.to_string(),
        id,
        role: role.map(str::to_owned),
        ready: member.serves(),
        since: unchanged.and_then(|before| before.since.clone()).or_else(|| Some(seconds(now).to_string())),
        message: (!member.serves()).then(|| why_not_ready(member)),
        progress: progress_in_words(member),
        version: etcd.map(|status| status.version.clone()),
        db_size: etcd.map(|status| rounded(status.db_size)),
        certificate_expires: member.secret.as_ref().and_then(expiry).map(|at| at.to_string()),
    }
}

/// The power of two that a size fits in, from 1Mi on: what changes with every write must not be in a status.
fn rounded(bytes: i64) -> String {
    let mebibytes = u64::try_from(bytes).unwrap_or_default().div_ceil(1 << 20).max(1).next_power_of_two();
    if mebibytes >= 1024 { format!("{}Gi", mebibytes / 1024) } else { format!("{mebibytes}Mi") }
}

fn expiry(secret: &SeenSecret) -> Option<Timestamp> {
    Domain::ALL.into_iter().filter_map(|domain| secret.ends(domain)).min()
}

fn first_expiry(observed: &Observed, domain: Domain) -> Option<Timestamp> {
    observed.members.values().filter_map(|member| member.secret.as_ref()?.ends(domain)).min()
}

fn certificates(uid: &str, members: &[MemberStatus], observed: &Observed) -> Option<CertificatesStatus> {
    let old = observed.status.certificates.clone().unwrap_or_default();
    let domain = |domain: Domain, old: Option<DomainStatus>| {
        let expires = first_expiry(observed, domain).map(|at| at.to_string());
        // Once reported, an authority changes only by a rotation: that is how one that was changed by hand is noticed.
        match plan::authority_of(observed.authority(domain), String::new, old.as_ref(), uid, false) {
            AuthorityState::Ready(authorities) => Some(DomainStatus {
                active: authority(&authorities.active, &authorities.issuers.active),
                next: authority(&authorities.next, &authorities.issuers.next),
                retiring: authorities.retiring.iter().map(|retired| authority(retired, &Issuer::BuiltIn)).collect(),
                phase: authorities.rotation.map(|rotation| rotation.phase.as_str().to_owned()),
                phase_since: authorities.rotation.map(|rotation| seconds(rotation.since).to_string()),
                expires,
            }),
            _ => old.map(|old| DomainStatus { expires, ..old }),
        }
    };
    let status = CertificatesStatus {
        // All in UTC and of one form, so the first text is the first moment.
        expires: members.iter().filter_map(|member| member.certificate_expires.clone()).min(),
        client: domain(Domain::Client, old.client),
        peer: domain(Domain::Peer, old.peer),
    };
    (status != CertificatesStatus::default()).then_some(status)
}

fn authority(certificate: &Certificate, issuer: &Issuer) -> AuthorityStatus {
    AuthorityStatus {
        issuer: (*issuer != Issuer::BuiltIn).then(|| issuer.to_string()),
        name: certificate.common_name().to_owned(),
        key_id: certificate.subject_key_id().map(hex).unwrap_or_default(),
        expires: certificate.not_after().to_string(),
    }
}

/// What a condition is to say.
pub struct Finding {
    /// The type of the condition.
    pub kind: &'static str,
    /// Whether it is True.
    pub holds: bool,
    /// Reason and message.
    pub note: Note,
    /// Whether the event about it is a warning; `None` where there is nothing to tell.
    pub warns: Option<bool>,
}

impl Finding {
    fn status(&self) -> &'static str {
        if self.holds { "True" } else { "False" }
    }

    /// The condition, which keeps the time of its last transition unless its status changes.
    pub fn condition(&self, before: Option<&Condition>, generation: Option<i64>, now: Timestamp) -> Condition {
        let unchanged = before.filter(|before| before.status == self.status());
        Condition {
            type_: self.kind.into(),
            status: self.status().into(),
            reason: self.note.reason.into(),
            message: self.note.message.clone(),
            observed_generation: generation,
            last_transition_time: unchanged.map_or_else(|| Time(seconds(now)), |before| before.last_transition_time.clone()),
        }
    }

    /// The event, where status or reason are not what they were. At first only what goes wrong is worth one, or that something
    /// is there.
    pub fn change(&self, before: Option<&Condition>) -> Option<Event> {
        let changed = before.is_none_or(|before| before.status != self.status() || before.reason != self.note.reason);
        let warns = self.warns.filter(|_| changed)?;
        let first = before.is_none() && !warns && !self.holds;
        let type_ = if warns { EventType::Warning } else { EventType::Normal };
        (!first).then(|| event(type_, &self.note))
    }
}

/// The API keeps whole seconds; a time with more would differ from what is read back.
fn seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// An event that says what a note says.
pub fn event(type_: EventType, note: &Note) -> Event {
    Event { type_, reason: note.reason.into(), note: Some(truncated(&note.message)), action: note.reason.into(), secondary: None }
}

/// The same with one event for each reason: the notes of one pass belong together.
fn joined(events: Vec<Event>) -> Vec<Event> {
    let mut joined: Vec<Event> = vec![];
    for event in events {
        let Some(same) = joined.iter_mut().find(|other| other.reason == event.reason) else {
            joined.push(event);
            continue;
        };
        let (before, note) = (same.note.take().unwrap_or_default(), event.note.unwrap_or_default());
        same.note = Some(if before.contains(&note) { before } else { truncated(&format!("{before}; {note}")) });
        if matches!(event.type_, EventType::Warning) {
            same.type_ = EventType::Warning;
        }
    }
    joined
}

/// An event's note has 1024 bytes at most (`events.k8s.io/v1`).
fn truncated(text: &str) -> String {
    match text.char_indices().find(|(at, c)| at + c.len_utf8() > 1020) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn available(names: &Names, observed: &Observed, judgement: &Judgement, acted: &Acted, now: Timestamp) -> Finding {
    let finding =
        |holds, reason, message: String, warns| Finding { kind: kind::AVAILABLE, holds, note: Note::new(reason, message), warns };
    if let Judgement::Planned(_, plan) = judgement
        && let Some(refused) = &plan.refused
    {
        return finding(false, refused.reason, refused.message.clone(), Some(true));
    }
    let unfounded = observed.status.cluster_id.is_none();
    if let Judgement::Invalid(invalid) = judgement
        && unfounded
    {
        return finding(false, "InvalidSpec", invalid.to_string(), None);
    }
    let mut silent: Vec<_> = observed.members.iter().filter_map(|(name, member)| down(name, member)).collect();
    match &observed.list {
        Err(problem) if silent.is_empty() => silent.push(problem.clone()),
        Err(_) => {}
        Ok(list) => {
            let member = |voter: &etcd::Member| observed.members.get_key_value(&name_of(names, list, voter)?);
            let voters: Vec<_> = list.voters().collect();
            // A kubelet that has yet to look at a pod takes no quorum away.
            let serves = |(name, member): (_, &ObservedMember)| member.serves() || is_coming(observed, name, member, now);
            let serving = voters.iter().filter(|voter| member(voter).is_some_and(serves)).count();
            if serving > voters.len() / 2 {
                let message = format!("{serving} of {} voters serve{}", voters.len(), even(judgement));
                return finding(true, "QuorumServes", message, Some(false));
            }
            let unknown = voters.iter().filter(|voter| member(voter).is_none());
            silent.extend(unknown.map(|voter| format!("etcd lists a member {:x} that is not known here", voter.id)));
        }
    }
    let planned = match judgement {
        Judgement::Planned(_, plan) => plan.problems.as_slice(),
        Judgement::Invalid(_) => &[],
    };
    let taken = planned.iter().chain(&acted.failed).find(|note| note.reason == "NameTaken");
    let why = taken.map_or_else(|| silent.join("; "), |taken| taken.message.clone());
    if unfounded {
        return finding(false, "Starting", format!("the cluster has not come up yet: {why}"), None);
    }
    // Whoever is about to be back is nobody to recover from.
    let restarting = matches!(judgement, Judgement::Planned(_, plan) if !plan.restarting.is_empty());
    let message = match (&observed.list, taken) {
        (Err(_), None) if !restarting => {
            // In words, because what lists print has no room for the time of a transition.
            let before = api::condition(&observed.status.conditions, kind::AVAILABLE).filter(|before| before.status == "False");
            let since = before.map_or_else(|| seconds(now), |before| before.last_transition_time.0);
            let recovering =
                matches!(judgement, Judgement::Planned(_, plan) if plan.waits.iter().any(|wait| wait.reason == RECOVERING));
            format!("quorum is lost since {since}. {}", lost_in_words(names, observed, recovering))
        }
        _ => format!("fewer than a quorum of voters serve: {why}"),
    };
    finding(false, "NoQuorum", message, Some(true))
}

/// What an even number of members costs.
fn even(judgement: &Judgement) -> String {
    match judgement {
        Judgement::Planned(cluster, _) if cluster.replicas.is_multiple_of(2) => {
            format!("; {} members survive no more failures than {}", cluster.replicas, cluster.replicas - 1)
        }
        _ => String::new(),
    }
}

/// Whether a quorum says that this is no member any more: what is left of it is on its way out.
fn is_removed(names: &Names, observed: &Observed, name: &MemberName) -> bool {
    let known = observed.status.cluster_id.as_deref();
    let list = observed.list.as_ref().ok().filter(|list| known.is_some_and(|known| list.is_of(known)));
    list.is_some() && observed.listed(names, name).is_none()
}

/// How long a pod may be not ready though its member answers: kubelets look every 2 s, unless they have much to do.
const STARTING: SignedDuration = SignedDuration::from_secs(15);

/// Whether a member answers and its pod is about to be ready: a learner's is not before it has its vote, and then, as after the
/// start of its container, the kubelet has yet to look.
fn is_coming(observed: &Observed, name: &MemberName, member: &ObservedMember, now: Timestamp) -> bool {
    // One that starts as a cluster of one is never ready.
    let may = |pod: &&Seen<Pod>| pod.metadata.deletion_timestamp.is_none() && !build::is_forced(pod.spec.as_ref());
    let (Some(status), Some(pod), false) = (member.etcd.status(), member.pod.as_ref().filter(may), member.serves()) else {
        return false;
    };
    let Some(started) = running_since(pod) else { return status.is_learner };
    let before = observed.reported(name).filter(|before| !before.ready && !was_ready(pod, started));
    let voted = before.and_then(|before| if is_learner(before) { Some(now) } else { before.since.as_ref()?.parse().ok() });
    status.is_learner || voted.into_iter().chain([started]).any(|since| now.duration_since(since) < STARTING)
}

/// Whether a pod that is not ready was so once since its container started.
fn was_ready(pod: &Pod, started: Timestamp) -> bool {
    let changed = pod_condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref());
    changed.is_some_and(|changed| changed.0 > started)
}

fn is_learner(reported: &MemberStatus) -> bool {
    reported.role.as_deref() == Some(LEARNER)
}

/// What there is to say of a member that does not serve.
fn down(name: &MemberName, member: &ObservedMember) -> Option<String> {
    (!member.serves()).then(|| format!("{name}: {}", why_not_ready(member)))
}

fn messages(notes: &[Note]) -> String {
    notes.iter().map(|note| note.message.as_str()).collect::<Vec<_>>().join("; ")
}

fn progressing(observed: &Observed, judgement: &Judgement, acted: &Acted) -> Finding {
    let finding = |holds, note, warns| Finding { kind: kind::PROGRESSING, holds, note, warns };
    match judgement {
        Judgement::Invalid(invalid) => finding(false, Note::new("InvalidSpec", invalid.to_string()), None),
        Judgement::Planned(_, plan) if plan.refused.is_some() => {
            finding(false, Note::new("Refused", "nothing is done; see Available"), None)
        }
        Judgement::Planned(cluster, _) if cluster.paused => {
            finding(false, Note::new("Paused", "spec.paused is true: nothing is changed, certificates included"), Some(false))
        }
        Judgement::Planned(_, plan) => {
            let nothing = || Note::new("AsWanted", format!("nothing is being done or awaited{}", outdated(observed)));
            let going_on = ongoing(plan, acted);
            finding(going_on.is_some(), going_on.unwrap_or_else(nothing), None)
        }
    }
}

/// Whose pods are older than their templates, which restarts nobody.
fn outdated(observed: &Observed) -> String {
    let members = observed.members.iter().filter(|(_, member)| member.is_older_than_template());
    let names: Vec<_> = members.map(|(name, _)| name.to_string()).collect();
    if names.is_empty() {
        return String::new();
    }
    format!(
        "; what was changed in the template of {} is taken up at their next restart ({})",
        names.join(", "),
        key::RESTARTED_AT
    )
}

/// What is being done or awaited. What lasts longest comes first, so that the reason does not change with every pass.
fn ongoing(plan: &Plan, acted: &Acted) -> Option<Note> {
    let waits: Vec<_> = plan.waits.iter().chain(&acted.waits).cloned().collect();
    if let Some(first) = waits.first() {
        let step = plan.step.as_ref().filter(|_| acted.waits.is_empty());
        let now = step.map(|step| format!("; now: {}", step.in_words())).unwrap_or_default();
        return Some(Note::new(first.reason, messages(&waits) + &now));
    }
    if let Some(step) = &plan.step {
        return Some(Note::new(step.name(), step.in_words()));
    }
    let certificates: Vec<_> = plan.certificates.iter().filter(|note| note.reason != "AuthorityLost").cloned().collect();
    if let Some(first) = certificates.first() {
        return Some(Note::new(first.reason, messages(&certificates)));
    }
    let objects = plan.objects.iter().map(super::plan::Object::describe);
    let secrets = plan.secrets.iter().map(|change| format!("Secret {}", change.name));
    let pods = plan.pods.iter().map(|note| format!("Pod {}", note.pod));
    let changes: Vec<_> = objects.chain(secrets).chain(pods).collect();
    (!changes.is_empty()).then(|| Note::new("Applying", format!("bringing up to date: {}", changes.join(", "))))
}

fn degraded(names: &Names, observed: &Observed, judgement: &Judgement, acted: &Acted, now: Timestamp) -> Finding {
    let mut problems: Vec<Note> = vec![];
    match judgement {
        Judgement::Invalid(invalid) => problems.push(Note::new("InvalidSpec", invalid.to_string())),
        Judgement::Planned(_, plan) => {
            problems.extend(plan.refused.clone());
            problems.extend(plan.problems.clone());
            problems.extend(plan.certificates.iter().filter(|note| note.reason == "AuthorityLost").cloned());
        }
    }
    problems.extend(acted.failed.clone());
    // One that has never started is not down, nor one that is about to be ready or that is being restarted; what it waits for is
    // in Progressing. But one that was down before stays so until it serves.
    let refused = matches!(judgement, Judgement::Planned(_, plan) if plan.refused.is_some());
    let was_down =
        api::condition(&observed.status.conditions, kind::DEGRADED).is_some_and(|before| before.reason == "MemberDown");
    let is_restarting = |name| !was_down && matches!(judgement, Judgement::Planned(_, plan) if plan.restarting.contains(name));
    let started = observed.members.iter().filter(|(name, member)| {
        let comes = is_coming(observed, name, member, now) || is_restarting(name);
        !refused && member.has_started() && !comes && !is_removed(names, observed, name)
    });
    problems.extend(started.filter_map(|(name, member)| down(name, member)).map(|message| Note::new("MemberDown", message)));
    problems.extend(complaints(observed));
    if let (Ok(list), Some(known)) = (&observed.list, &observed.status.cluster_id)
        && !list.is_of(known)
    {
        problems
            .insert(0, Note::new("ClusterIDChanged", format!("the members are in cluster {:x}, not {known}", list.cluster_id)));
    }
    match problems.first() {
        Some(first) => {
            Finding { kind: kind::DEGRADED, holds: true, note: Note::new(first.reason, messages(&problems)), warns: Some(true) }
        }
        None => Finding {
            kind: kind::DEGRADED,
            holds: false,
            note: Note::new("Healthy", "nothing needs attention"),
            warns: Some(false),
        },
    }
}

/// What etcd itself complains of, alarms above all: a cluster with the alarm NOSPACE serves and refuses every write. Each
/// member tells of the alarms of all.
fn complaints(observed: &Observed) -> Option<Note> {
    let statuses = observed.members.values().filter_map(|member| member.etcd.status());
    let errors: BTreeSet<_> = statuses.flat_map(|status| &status.errors).map(|error| error.trim()).collect();
    let errors: Vec<_> = errors.into_iter().collect();
    (!errors.is_empty()).then(|| Note::new("EtcdComplains", format!("etcd reports {}", errors.join(", "))))
}

fn certificates_ready(observed: &Observed, judgement: &Judgement, acted: &Acted) -> Finding {
    let finding = |holds, note, warns| Finding { kind: kind::CERTIFICATES_READY, holds, note, warns };
    let Judgement::Planned(_, plan) = judgement else {
        return finding(false, Note::new("InvalidSpec", "nothing is issued for a spec that makes no sense; see Degraded"), None);
    };
    if plan.refused.is_some() {
        return finding(false, Note::new("Refused", "nothing is issued; see Available"), None);
    }
    if let Some(lost) = plan.certificates.iter().find(|note| note.reason == "AuthorityLost") {
        return finding(false, lost.clone(), Some(true));
    }
    // What an issuer has not given says more than that it is being asked for it.
    let notes: Vec<_> = acted.issuers.iter().chain(&plan.certificates).cloned().collect();
    if let Some(first) = notes.first() {
        return finding(false, Note::new(first.reason, messages(&notes)), is_issuers_fault(first).then_some(true));
    }
    let unconfirmed = |member: &ObservedMember| {
        let version = member.secret.as_ref().map(SeenSecret::fingerprint);
        let confirmed = member.pod.as_ref().and_then(|pod| annotation(&pod.metadata, key::TLS_CONFIRMED));
        version.is_none() || version != confirmed
    };
    let waiting: Vec<_> = observed.members.iter().filter(|(_, m)| unconfirmed(m)).map(|(name, _)| name.to_string()).collect();
    if observed.members.is_empty() {
        return finding(false, Note::new("NotConfirmed", "there are no members yet"), None);
    }
    let remarked = |message: String| [message].into_iter().chain(plan.remarks.iter().cloned()).collect::<Vec<_>>().join("; ");
    if !waiting.is_empty() {
        let message = format!("not yet seen to serve their certificates: {}", waiting.join(", "));
        return finding(false, Note::new("NotConfirmed", remarked(message)), None);
    }
    finding(true, Note::new("Served", remarked("every member serves the certificates that it should".into())), Some(false))
}

/// Whether somebody has to do something about an issuer.
fn is_issuers_fault(note: &Note) -> bool {
    ["IssuerUnusable", "IssuerFailed", "SameAuthority", "CertManagerMissing"].contains(&note.reason)
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
