//! Which authorities and leaves there must be, and whether each member serves its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Range,
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    AuthorityRequest, CONFIRMING, LeafRequest, Note, Plan, PodNote, SecretChange, Source, Step, issuers, members::Members,
    membership::Roster,
};
use crate::{
    api::{AuthorityStatus, DomainStatus},
    cluster::{
        build,
        observed::{
            Answer, Authorities, Complete, Leaves, Observed, ObservedMember, SeenSecret, annotation, belongs, is_hex,
            running_since,
        },
        validate::ValidatedCluster,
    },
    names::{MemberName, annotation as key, common_name, member_key, tls_key},
    pki::{self, Domain, Holder, Issuer, LeafSpec, Phase, Stale, Usage},
};

/// The authorities of a domain as they were found.
pub enum AuthorityState {
    /// They have never been made.
    Absent,
    /// They are as they were made.
    Ready(Arc<Authorities>),
    /// They were made, and are not there any more or not what they were.
    Lost(String),
}

impl AuthorityState {
    fn ready(&self) -> Option<&Arc<Authorities>> {
        match self {
            Self::Ready(authorities) => Some(authorities),
            _ => None,
        }
    }
}

/// What has become of a domain's authorities.
///
/// They are made only while nothing can trust them yet. After that, a Secret that is missing or holds another authority is a
/// loss to be reported: making a new one would cut off every member and client that trusts the old one.
pub fn authority_state(cluster: &ValidatedCluster, observed: &Observed, domain: Domain) -> AuthorityState {
    let trusted = observed.members.values().any(|member| member.secret.is_some() || member.stateful_set.is_some());
    authority_of(
        observed.authority(domain),
        || cluster.names.authority(domain),
        reported(observed, domain),
        &cluster.uid,
        trusted,
    )
}

/// What was last reported of a domain.
pub fn reported(observed: &Observed, domain: Domain) -> Option<&DomainStatus> {
    let certificates = observed.status.certificates.as_ref()?;
    match domain {
        Domain::Client => certificates.client.as_ref(),
        Domain::Peer => certificates.peer.as_ref(),
    }
}

/// What has become of the authorities in the Secret of this name of the cluster with this uid, of which the status reported these, and
/// that members may trust.
pub fn authority_of(
    secret: Option<&SeenSecret>,
    name: impl Fn() -> String,
    reported: Option<&DomainStatus>,
    uid: &str,
    trusted: bool,
) -> AuthorityState {
    let lost = |problem: &str| AuthorityState::Lost(format!("Secret {}{problem}", name()));
    let Some(secret) = secret else {
        return if trusted || reported.is_some() { lost(" is gone, or without its labels") } else { AuthorityState::Absent };
    };
    if !belongs(&secret.meta, uid) {
        return lost(" is not this cluster's");
    }
    match Authorities::read(secret) {
        Err(problem) => lost(&format!(": {problem}")),
        Ok(authorities) if reported.is_some_and(|reported| !is_as_reported(&authorities, reported)) => {
            lost(" holds other authorities than the members trust")
        }
        Ok(authorities) => AuthorityState::Ready(authorities),
    }
}

/// Whether authorities are those that were reported, or what a single turn of a rotation makes of them: the one that was next has
/// become the active one, another one is next and a rotation has begun, or there are others after both had expired.
fn is_as_reported(authorities: &Authorities, reported: &DomainStatus) -> bool {
    let is = |authority: &pki::Certificate, reported: &AuthorityStatus| {
        authority.subject_key_id().is_some_and(|id| is_hex(&reported.key_id, id))
    };
    let beginning = authorities.rotation.is_some_and(|rotation| rotation.phase == Phase::Distributing);
    let same = is(&authorities.active, &reported.active) && (beginning || is(&authorities.next, &reported.next));
    // Where all had expired there was nobody left to be trusted.
    let anew = || {
        let renewed = authorities.rotation.filter(|rotation| rotation.phase == Phase::Dropping);
        let had_ended = |reported: &AuthorityStatus| {
            let end = reported.expires.parse::<Timestamp>();
            renewed.zip(end.ok()).is_some_and(|(rotation, end)| end <= rotation.since)
        };
        had_ended(&reported.active) && had_ended(&reported.next)
    };
    same || is(&authorities.active, &reported.next) || anew()
}

/// Whether a new member could be given its certificates.
pub fn can_issue(cluster: &ValidatedCluster, observed: &Observed, now: Timestamp) -> bool {
    // An issuer that is being left may be left because it does not sign.
    let signs = |all: &Authorities| all.signs(now) && !all.leaves_its_issuer();
    let signs = |domain| matches!(authority_state(cluster, observed, domain), AuthorityState::Ready(all) if signs(&all));
    Domain::ALL.into_iter().all(signs)
}

/// Whether nothing is lost and nothing has expired.
pub fn is_in_force(cluster: &ValidatedCluster, observed: &Observed, now: Timestamp) -> bool {
    let is = |domain| matches!(authority_state(cluster, observed, domain), AuthorityState::Ready(all) if all.is_in_force(now));
    Domain::ALL.into_iter().all(is)
}

/// Plans authorities, leaves, bundles and revocation lists.
pub fn plan(cluster: &ValidatedCluster, observed: &Observed, members: &Members, now: Timestamp, plan: &mut Plan) {
    let states = Domain::ALL.map(|domain| (domain, authority_state(cluster, observed, domain)));
    for (domain, state) in &states {
        match state {
            AuthorityState::Absent => {
                if let Some(source) = issuers::successor(cluster, observed, *domain, None, false, now, plan) {
                    plan.certificates.push(Note::new("Issuing", format!("the {domain} authorities are being made")));
                    plan.authorities.push(request_authority(cluster, *domain, source));
                }
            }
            AuthorityState::Lost(problem) => plan.certificates.push(Note::new(
                "AuthorityLost",
                format!(
                    "{problem}. No certificate of the {domain} domain can be issued; those in use go on until they expire. Restore the Secret from a backup, or set annotation {}={domain} to have another authority take its place",
                    key::ROTATE_CA
                ),
            )),
            AuthorityState::Ready(authorities) if authorities.active.not_after() <= now => {
                let (name, end) = (authorities.active.common_name(), authorities.active.not_after());
                let what = match &authorities.issuers.next {
                    Issuer::BuiltIn => "another one takes its place".to_owned(),
                    issuer => format!("nobody believes its certificates any more. Have {issuer} replaced by another one"),
                };
                let note = Note::new("AuthorityExpired", format!("the {domain} authority {name:?} expired at {end}; {what}"));
                if !matches!(authorities.issuers.next, Issuer::BuiltIn) {
                    plan.problems.push(note.clone());
                }
                plan.certificates.push(note);
            }
            AuthorityState::Ready(authorities) if !authorities.has_key() => {
                let message = format!("the {domain} authority is lost, and nothing is issued until another one signs; see Progressing");
                plan.certificates.push(Note::new("AuthorityLost", message));
            }
            AuthorityState::Ready(_) => {}
        }
    }
    let authorities = [states[0].1.ready(), states[1].1.ready()];
    if let Some(client) = of(authorities, Domain::Client) {
        let config = || build::ca_config(cluster, client.roots.clone());
        plan.objects.extend(cluster.built.unless_applied(&client.roots, config, observed.ca_config.as_ref()));
        plan_operator(cluster, observed, authorities, now, plan);
    }
    plan.remarks = issuers::remarks(cluster, observed);
    for name in members.keys() {
        plan_member(cluster, observed, name, authorities, now, plan);
    }
}

fn request_authority(cluster: &ValidatedCluster, domain: Domain, source: Source) -> AuthorityRequest {
    AuthorityRequest {
        domain,
        source,
        secret: cluster.names.authority(domain),
        common_names: [1, 2].map(|generation| cluster.authority_name(domain, generation)),
        duration: cluster.lives(domain).authority,
    }
}

/// The leaf that a member shows to whoever connects to its port of a domain.
pub fn server_leaf(cluster: &ValidatedCluster, domain: Domain, member: &MemberName) -> LeafSpec {
    let names = &cluster.names;
    let local = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
    match domain {
        Domain::Client => LeafSpec {
            common_name: common_name::SERVER.into(),
            dns_names: names.server_sans(member).into_iter().chain(cluster.extra_names.iter().cloned()).collect(),
            ip_addresses: cluster.extra_addresses.iter().copied().chain(local).collect(),
            usage: Usage::Server,
            duration: cluster.client.leaf,
        },
        Domain::Peer => LeafSpec {
            common_name: common_name::PEER.into(),
            dns_names: names.peer_sans(member).into_iter().collect(),
            ip_addresses: BTreeSet::new(),
            usage: Usage::Both,
            duration: cluster.peer.leaf,
        },
    }
}

/// The leaf of a client of this cluster.
fn client_leaf(cluster: &ValidatedCluster, common_name: &str) -> LeafSpec {
    LeafSpec {
        common_name: common_name.into(),
        dns_names: BTreeSet::new(),
        ip_addresses: BTreeSet::new(),
        usage: Usage::Client,
        duration: cluster.client.leaf,
    }
}

/// The three leaves of a member.
pub fn member_leaves(cluster: &ValidatedCluster, member: &MemberName) -> Leaves {
    let server = |domain| server_leaf(cluster, domain, member);
    vec![
        (Domain::Client, server(Domain::Client), [member_key::SERVER_CRT, member_key::SERVER_KEY]),
        (Domain::Peer, server(Domain::Peer), [member_key::PEER_CRT, member_key::PEER_KEY]),
        (Domain::Client, client_leaf(cluster, common_name::MEMBER), [member_key::CLIENT_CRT, member_key::CLIENT_KEY]),
    ]
}

/// The leaf to request, if the one in a Secret will not do.
pub fn request_leaf(
    secret: Option<&SeenSecret>,
    (domain, spec, keys): &(Domain, LeafSpec, [&'static str; 2]),
    holder: &Holder,
    authorities: &Authorities,
    now: Timestamp,
) -> Option<LeafRequest> {
    if !authorities.signs(now) {
        return None;
    }
    let certificate = secret.and_then(|secret| secret.certificate(keys[0]));
    let key = secret.and_then(|secret| secret.key_digest(keys[1]));
    let ledger = &authorities.ledger;
    // What an authority of somebody else's may not sign is held back, as what its issuer does not.
    let at_once = authorities.issuers.active == Issuer::BuiltIn;
    let why = match &certificate {
        // A member that was removed and comes again under its name.
        Some(Ok(leaf)) if ledger.is_revoked(leaf.serial()) => Stale::Revoked,
        // Revoked with that one, it would lock out this one. But other issuers may have numbers that one before them had too.
        Some(Ok(leaf))
            if authorities.issuers.active.has_key() && ledger.holder(leaf.serial()).is_some_and(|other| other != holder) =>
        {
            Stale::Holder
        }
        _ => {
            let spread = secret.map(SeenSecret::spread).unwrap_or_default();
            let read = certificate.as_ref().map(Result::as_ref);
            let complete = || secret.is_some_and(|secret| secret.is_shown_with(keys[0], &authorities.chain));
            pki::stale(read, key, spec, &authorities.active, spread, now).or_else(|| (!complete()).then_some(Stale::Chain))?
        }
    };
    Some(LeafRequest { domain: *domain, spec: spec.clone(), keys: *keys, holder: holder.clone(), why, at_once })
}

/// The public contents of a Secret that are not what they should be.
pub fn changed_files<'a>(
    secret: Option<&SeenSecret>,
    wanted: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> BTreeMap<String, Vec<u8>> {
    let there = |key: &str| secret.and_then(|secret| secret.data.get(key)).map(Vec::as_slice);
    wanted
        .into_iter()
        .filter(|(key, content)| there(key) != Some(content))
        .map(|(key, content)| (key.to_owned(), content.to_owned()))
        .collect()
}

/// A domain's authorities as far as they are known, in the order of [`Domain::ALL`].
type Known<'a> = [Option<&'a Arc<Authorities>>; 2];

/// Those of one domain.
fn of<T>(all: [T; 2], wanted: Domain) -> T {
    let [client, peer] = all;
    match wanted {
        Domain::Client => client,
        Domain::Peer => peer,
    }
}

/// A Secret as it would be made, but for its leaves.
struct Frame<'a> {
    name: String,
    type_: &'static str,
    labels: BTreeMap<String, String>,
    holder: Holder,
    /// What is public in it beside the leaves.
    files: Vec<(&'static str, &'a [u8])>,
}

fn plan_member(
    cluster: &ValidatedCluster,
    observed: &Observed,
    name: &MemberName,
    authorities: Known<'_>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let secret = observed.members.get(name).and_then(|member| member.secret.as_ref());
    let wanted = cluster.built.get(name.as_str(), || member_leaves(cluster, name));
    let frame = || {
        let [client, peer] = authorities;
        let mut files = vec![];
        if let Some(client) = client {
            files.extend([(member_key::CLIENT_CA, client.bundle.as_bytes()), (member_key::CLIENT_CRL, client.crl.as_slice())]);
        }
        if let Some(peer) = peer {
            files.extend([(member_key::PEER_CA, peer.bundle.as_bytes()), (member_key::PEER_CRL, peer.crl.as_slice())]);
        }
        Frame {
            name: cluster.names.member_secret(name),
            type_: "Opaque",
            labels: build::member_labels(cluster.names.cluster(), name),
            holder: Holder::Member { name: name.to_string() },
            files,
        }
    };
    plan_secret(&cluster.uid, secret, wanted, authorities, frame, now, plan);
}

/// The leaf by which the operator is a client of the members.
fn operator_leaves(cluster: &ValidatedCluster) -> Leaves {
    vec![(Domain::Client, client_leaf(cluster, common_name::OPERATOR), [tls_key::CRT, tls_key::KEY])]
}

fn plan_operator(cluster: &ValidatedCluster, observed: &Observed, authorities: Known<'_>, now: Timestamp, plan: &mut Plan) {
    // No member has this name.
    let wanted = cluster.built.get("", || operator_leaves(cluster));
    let frame = || Frame {
        name: cluster.names.operator_secret(),
        type_: "kubernetes.io/tls",
        labels: build::selector(cluster.names.cluster()),
        holder: Holder::Operator,
        files: of(authorities, Domain::Client).map(|client| (tls_key::CA, client.roots.as_bytes())).into_iter().collect(),
    };
    plan_secret(&cluster.uid, observed.operator.as_ref(), wanted, authorities, frame, now, plan);
}

/// Plans what is to be written into a Secret of the cluster with this uid, if there is anything.
fn plan_secret<'a>(
    uid: &str,
    secret: Option<&SeenSecret>,
    wanted: Arc<Leaves>,
    authorities: Known<'_>,
    frame: impl FnOnce() -> Frame<'a>,
    now: Timestamp,
    plan: &mut Plan,
) {
    if secret.is_some_and(|secret| !belongs(&secret.meta, uid)) {
        return;
    }
    let all = secret.zip(authorities[0].zip(authorities[1])).map(|(secret, (client, peer))| (secret, [client, peer]));
    if all.is_some_and(|(secret, authorities)| secret.is_complete(&wanted, authorities, now)) {
        return;
    }
    // A Secret is made whole or not at all: a pod must not start with half of it.
    let signs = |domain| of(authorities, domain).is_some_and(|authorities| authorities.signs(now));
    if secret.is_none() && !wanted.iter().all(|(domain, ..)| signs(*domain)) {
        return;
    }
    let Frame { name, type_, labels, holder, files } = frame();
    let request = |leaf: &(Domain, LeafSpec, _)| request_leaf(secret, leaf, &holder, of(authorities, leaf.0)?, now);
    let leaves: Vec<_> = wanted.iter().filter_map(request).collect();
    let files = changed_files(secret, files);
    if leaves.is_empty() && files.is_empty() {
        if let Some((secret, authorities)) = all {
            note_complete(secret, wanted, authorities, now);
        }
        return;
    }
    let version = secret.and_then(|secret| secret.meta.resource_version.clone());
    let change = SecretChange { name, version, type_, labels, leaves, files };
    if !change.leaves.is_empty() {
        let message = format!("being issued in Secret {}: {}", change.name, change.leaves_in_words());
        // What others have to sign may take any time, and keeps nobody from being restarted.
        let reason = if change.leaves.iter().any(|leaf| leaf.at_once) { "Issuing" } else { "AskingIssuer" };
        plan.certificates.push(Note::new(reason, message));
    }
    plan.secrets.push(change);
}

/// Notes that a Secret is as wanted, and until when: most passes find nothing else.
fn note_complete(secret: &SeenSecret, leaves: Arc<Leaves>, authorities: [&Arc<Authorities>; 2], now: Timestamp) {
    let lasting = |(domain, spec, keys): &(Domain, LeafSpec, [&'static str; 2])| {
        let (issuer, leaf) = (&of(authorities, *domain).active, secret.certificate(keys[0])?.ok()?);
        let leaf = pki::lasting(&leaf, spec.duration, issuer, secret.spread());
        Some(leaf.start.max(issuer.not_before())..leaf.end.min(issuer.not_after()))
    };
    let shorter = |one: Range<Timestamp>, other: Range<Timestamp>| one.start.max(other.start)..one.end.min(other.end);
    let during = leaves.iter().map(lasting).reduce(|one, other| one.zip(other).map(|(one, other)| shorter(one, other))).flatten();
    // While an authority does not sign, leaves are not looked at.
    if let Some(during) = during.filter(|during| during.contains(&now)) {
        secret.completed(Complete { leaves, authorities: authorities.map(Arc::clone), during });
    }
}

/// How long a kubelet is given to refresh the files before it is told again.
const TOUCH_AGAIN: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);

/// For how long a pod is not told of a Secret that it has just started with.
const NEW: jiff::SignedDuration = jiff::SignedDuration::from_secs(10);

/// Tells kubelets of changed Secrets, and notes which members serve what they should.
///
/// A change of a pod's annotations makes its kubelet refresh mounted Secrets at once, where it would take up to 90 s by itself
/// (kubelet `pkg/kubelet/config`, `UpdatePods`). etcd reads leaves at every handshake, so the next one tells.
pub fn plan_confirmation(cluster: &ValidatedCluster, observed: &Observed, now: Timestamp, plan: &mut Plan) {
    for (name, member) in &observed.members {
        let (Some(secret), Some(pod)) = (&member.secret, &member.pod) else { continue };
        let secrets = cluster.names.member_secret(name);
        let pending = plan.secrets.iter().any(|change| change.name == secrets && change.is_written_now());
        if pending || pod.metadata.deletion_timestamp.is_some() || matches!(member.etcd, Answer::NotAsked(_)) {
            continue;
        }
        let version = secret.fingerprint();
        let confirmed = annotation(&pod.metadata, key::TLS_CONFIRMED);
        let serves = serves_its_leaves(member, secret);
        if confirmed == Some(version) && serves != Ok(false) {
            continue;
        }
        let touched = annotation(&pod.metadata, key::TLS_TOUCHED).and_then(|text| text.split_once('@'));
        let touched_at = touched.filter(|(of, _)| *of == version).and_then(|(_, at)| at.parse::<Timestamp>().ok());
        // A pod that has just started did so with the Secret as it was then, which may well be this version.
        let new = running_since(pod).is_none_or(|since| now.duration_since(since) < NEW);
        let told = touched_at.is_some() || (confirmed.is_none() && new);
        // The member is waited for anyway. What expired keeps it from being reached, so its kubelet is told all the same.
        if told && matches!(member.etcd, Answer::Unreachable(_)) {
            continue;
        }
        let again = touched_at.is_none_or(|at| now.duration_since(at) >= TOUCH_AGAIN);
        let note = match &serves {
            Ok(true) if told => Some((key::TLS_CONFIRMED, version.to_owned())),
            Ok(_) if again => Some((key::TLS_TOUCHED, format!("{version}@{now:.0}"))),
            // Telling once is right where nothing is known, and telling again is no help.
            Err(_) if !told => Some((key::TLS_TOUCHED, format!("{version}@{now:.0}"))),
            _ => None,
        };
        match serves {
            Ok(true) => {}
            Ok(false) => {
                plan.certificates.push(Note::new("NotServedYet", format!("{name} does not serve its new certificates yet")));
            }
            Err(problem) => plan
                .certificates
                .push(Note::new("NotServedYet", format!("{name} could not be asked which certificates it serves: {problem}"))),
        }
        plan.next_check = plan.next_check.min(CONFIRMING);
        plan.pods.extend(note.map(|(annotation, value)| PodNote {
            pod: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            labels: BTreeMap::new(),
            annotations: [(annotation.to_owned(), value)].into(),
        }));
    }
}

/// Whether a member serves the leaves in its Secret on both ports, or why that is not known.
fn serves_its_leaves(member: &ObservedMember, secret: &SeenSecret) -> Result<bool, String> {
    let is = |der: &[u8], key: &str| secret.certificate(key).and_then(Result::ok).is_some_and(|leaf| leaf.der() == der);
    match (&member.etcd, &member.peer_leaf) {
        (Answer::NotAsked(problem) | Answer::Unreachable(problem), _) => Err(problem.clone()),
        (Answer::Reached(server, _), _) if !is(server, member_key::SERVER_CRT) => Ok(false),
        (_, Some(Ok(peer))) => Ok(is(peer, member_key::PEER_CRT)),
        (_, Some(Err(problem))) => Err(problem.clone()),
        (_, None) => Err("port 2380 was not asked".into()),
    }
}

/// Certificates of users who are gone and of members that have been removed, and what the list lacks of those revoked before.
pub fn revoke(cluster: &ValidatedCluster, observed: &Observed, roster: Option<&Roster>, now: Timestamp) -> Option<Step> {
    let removed = |name: &str| {
        let member = cluster.names.parse_member(name);
        roster.zip(member).is_some_and(|(roster, member)| roster.is_gone(&member))
    };
    let gone = |holder: &Holder| match holder {
        Holder::User { uid, .. } => !observed.users.contains(uid),
        Holder::Member { name } => removed(name),
        Holder::Operator => false,
    };
    Domain::ALL.into_iter().find_map(|domain| {
        let AuthorityState::Ready(authorities) = authority_state(cluster, observed, domain) else { return None };
        // Lost or expired, it signs no list. What it issued ends with it.
        if !authorities.is_in_force(now) {
            return None;
        }
        let live = authorities.ledger.entries().filter(|issued| issued.revoked.is_none()).map(|issued| &issued.holder);
        let holders: BTreeSet<_> = live.filter(|holder| gone(holder)).cloned().collect();
        // A list that was edited or restored from a backup would let in who was revoked.
        let listed = authorities.ledger.revoked().all(|(serial, _)| authorities.listed.contains(&serial));
        (!holders.is_empty() || !listed).then(|| Step::Revoke { domain, holders: holders.into_iter().collect() })
    })
}
