//! What there is: the data that [`super::observe`] gathers and the pure stages read.
//!
//! What could not be read is data too. Private keys are not among it: where a Secret has one, the operator's cache keeps a
//! digest of its public half (see [`crate::cache`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, PersistentVolumeClaim, Pod, PodCondition, Secret, Service},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use ring::digest;

use super::seen::Seen;
use crate::{
    api::{EtcdClusterStatus, MemberStatus},
    etcd,
    names::{MemberName, Names, annotation, authority_key, bootstrap_key, member_key},
    pki::{
        self, Certificate, Domain, Issuers, KeyDigest, LeafSpec, Ledger, Offer, Phase, PkiError, Rotation, Serial, Spread,
        read_bundle,
    },
};

/// One cluster as it was found.
#[derive(Clone, Debug)]
pub struct Observed {
    /// What was last reported.
    pub status: EtcdClusterStatus,
    /// The Service for clients.
    pub client_service: Option<Seen<Service>>,
    /// The headless Service.
    pub peer_service: Option<Seen<Service>>,
    /// The disruption budget.
    pub disruption_budget: Option<Seen<PodDisruptionBudget>>,
    /// What clients must trust.
    pub ca_config: Option<Seen<ConfigMap>>,
    /// What members read at each start.
    pub bootstrap: Option<Seen<ConfigMap>>,
    /// The client domain's authorities.
    pub client_authority: Option<SeenSecret>,
    /// The peer domain's authorities.
    pub peer_authority: Option<SeenSecret>,
    /// The operator's identity.
    pub operator: Option<SeenSecret>,
    /// Every member of which there is any trace.
    pub members: BTreeMap<MemberName, ObservedMember>,
    /// What etcd says of its members, from a read that a quorum confirmed; or why there is none.
    pub list: Result<etcd::MemberList, String>,
    /// The uids of all `EtcdUser`s in the namespace that may hold certificates: who of them has one of the cluster is in its
    /// ledger.
    pub users: BTreeSet<String>,
    /// While the client authority is being rotated: the Secrets of the cluster's users, by their names.
    pub user_secrets: BTreeMap<String, SeenSecret>,
    /// The authorities that the issuers offer which a cluster is to have, where those are not the built-in one.
    pub offers: BTreeMap<Domain, Offered>,
}

/// What an issuer that is not the built-in one signs by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// When it was asked for a certificate by which to know its authority, if that takes asking.
    pub asked: Option<Timestamp>,
    /// Its authority, or why it is not known.
    pub answer: Result<Offer, NoOffer>,
}

/// Why it is not known by which authority an issuer signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoOffer {
    /// It has yet to answer, as these words tell.
    Awaited(String),
    /// It has no authority that could be used, as these words tell.
    Unusable(String),
}

impl Default for Observed {
    /// Nothing at all.
    fn default() -> Self {
        Self {
            status: EtcdClusterStatus::default(),
            client_service: None,
            peer_service: None,
            disruption_budget: None,
            ca_config: None,
            bootstrap: None,
            client_authority: None,
            peer_authority: None,
            operator: None,
            members: BTreeMap::new(),
            list: Err("no member was asked".into()),
            users: BTreeSet::new(),
            user_secrets: BTreeMap::new(),
            offers: BTreeMap::new(),
        }
    }
}

impl Observed {
    /// The authorities of a domain.
    pub fn authority(&self, domain: Domain) -> Option<&SeenSecret> {
        match domain {
            Domain::Client => self.client_authority.as_ref(),
            Domain::Peer => self.peer_authority.as_ref(),
        }
    }

    /// What etcd says of a member, if it lists it.
    pub fn listed(&self, names: &Names, member: &MemberName) -> Option<&etcd::Member> {
        listed(names, self.list.as_ref().ok()?, member)
    }

    /// What was last reported of a member.
    pub fn reported(&self, member: &MemberName) -> Option<&MemberStatus> {
        self.status.members.iter().find(|reported| reported.name == member.as_str())
    }
}

/// What a list says of a member of this cluster, if it has it.
pub fn listed<'a>(names: &Names, list: &'a etcd::MemberList, member: &MemberName) -> Option<&'a etcd::Member> {
    list.members.iter().find(|listed| text_of(names, list, listed) == Some(member.as_str()))
}

/// The member of this cluster that etcd lists: by its URL, or, where somebody has changed that, by the name that it bears and
/// nobody else at that one's URL.
pub fn name_of(names: &Names, list: &etcd::MemberList, listed: &etcd::Member) -> Option<MemberName> {
    names.parse_member(text_of(names, list, listed)?)
}

fn text_of<'a>(names: &Names, list: &etcd::MemberList, listed: &'a etcd::Member) -> Option<&'a str> {
    fn at<'a>(names: &Names, listed: &'a etcd::Member) -> Option<&'a str> {
        listed.peer_urls.iter().find_map(|url| names.text_at(url))
    }
    let is_free = |name: &str| !list.members.iter().any(|other| at(names, other) == Some(name));
    at(names, listed).or_else(|| Some(listed.name.as_str()).filter(|name| names.is_member(name) && is_free(name)))
}

/// One member as it was found.
#[derive(Clone, Debug, Default)]
pub struct ObservedMember {
    /// Its claim.
    pub claim: Option<Seen<PersistentVolumeClaim>>,
    /// Whether it could not be read that there is no claim.
    pub claim_unread: bool,
    /// Its StatefulSet.
    pub stateful_set: Option<Seen<StatefulSet>>,
    /// Its pod.
    pub pod: Option<Seen<Pod>>,
    /// Its certificates.
    pub secret: Option<SeenSecret>,
    /// What it answered.
    pub etcd: Answer,
    /// The leaf that it serves on 2380; asked only until its pod is confirmed.
    pub peer_leaf: Option<Result<Vec<u8>, String>>,
    /// Where its volume can be used; asked only while no node takes its pod.
    pub home: Home,
    /// How far its data goes; asked only where it runs and no quorum gives a list though the cluster was founded.
    pub progress: Option<Result<etcd::Progress, String>>,
}

/// Where a member's volume can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Home {
    /// That was not asked, could not be read, or is more than one node.
    #[default]
    Unknown,
    /// On a node that is there.
    There,
    /// On a node that is gone for good, as these words tell.
    Gone(String),
}

/// What a member answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It was not asked, because of this.
    NotAsked(String),
    /// It could not be reached, because of this.
    Unreachable(String),
    /// It did the handshake with this leaf (DER), and said this of itself.
    Reached(Vec<u8>, Result<etcd::MemberStatus, String>),
}

impl Default for Answer {
    fn default() -> Self {
        Self::NotAsked("it has no pod".into())
    }
}

impl Answer {
    /// What the member said of itself.
    pub fn status(&self) -> Option<&etcd::MemberStatus> {
        match self {
            Self::Reached(_, Ok(status)) => Some(status),
            _ => None,
        }
    }
    /// Why there is no status.
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::NotAsked(reason) | Self::Unreachable(reason) | Self::Reached(_, Err(reason)) => Some(reason),
            Self::Reached(_, Ok(_)) => None,
        }
    }
}

impl ObservedMember {
    /// Whether its pod is ready.
    pub fn pod_ready(&self) -> bool {
        self.pod.as_deref().is_some_and(pod_ready)
    }
    /// Whether it has been seen started once, as its claim says.
    pub fn has_started(&self) -> bool {
        self.claim.as_ref().is_some_and(|claim| annotation(&claim.metadata, annotation::MEMBER_ID).is_some())
    }
    /// Whether its data goes with its pod: a claim that is being deleted stays only as long as a pod uses it.
    pub fn is_doomed(&self) -> bool {
        self.claim.as_ref().is_some_and(|claim| claim.metadata.deletion_timestamp.is_some())
    }
    /// Whether its pod was made from another template than its StatefulSet has now.
    pub fn is_older_than_template(&self) -> bool {
        let wanted = self.stateful_set.as_ref().and_then(|set| set.status.as_ref()?.update_revision.as_deref());
        let made = self.pod.as_ref().and_then(|pod| pod.metadata.labels.as_ref()?.get("controller-revision-hash"));
        wanted.zip(made).is_some_and(|(wanted, made)| wanted != made)
    }
    /// Whether it serves: its pod is ready and it answers the operator.
    pub fn serves(&self) -> bool {
        self.pod_ready() && self.etcd.status().is_some()
    }
}

/// Whether a pod is ready and stays.
pub fn pod_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && pod_condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Whether no node takes a pod.
pub fn is_unscheduled(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod_condition(pod, "PodScheduled").is_some_and(|scheduled| scheduled.status == "False")
}

/// What the kubelet or the scheduler says of a pod.
pub fn pod_condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// The time at which a pod's container started, if it runs.
pub fn running_since(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    Some(statuses.first()?.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0)
}

/// An annotation.
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether an object belongs to the cluster with this uid: it is controlled by it, or it says so where it may outlive it.
pub fn belongs(meta: &ObjectMeta, uid: &str) -> bool {
    meta.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.uid == uid)
        || annotation(meta, annotation::CLUSTER_UID) == Some(uid)
}

/// A Secret without its private keys.
#[derive(Clone, Debug, Default)]
pub struct SecretView {
    /// Its metadata.
    pub meta: ObjectMeta,
    /// Its type.
    pub type_: String,
    /// Its contents; in place of a private key, [`KeyDigest::to_hex`] of it.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl SecretView {
    /// Of a Secret whose keys have been taken out.
    pub fn new(secret: &Secret) -> Self {
        Self {
            meta: secret.metadata.clone(),
            type_: secret.type_.clone().unwrap_or_default(),
            data: secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect(),
        }
    }
    /// The digest of the private key under a key, if it is one.
    pub fn key_digest(&self, key: &str) -> Option<KeyDigest> {
        KeyDigest::from_hex(std::str::from_utf8(self.data.get(key)?).ok()?)
    }
}

/// A Secret as it was read.
pub type SeenSecret = Seen<SecretView, SecretContent>;

/// A certificate, and those that are shown with it.
type Shown = (Certificate, Arc<[Certificate]>);

/// What is found out about a Secret.
#[derive(Default)]
pub struct SecretContent {
    certificates: Mutex<BTreeMap<String, Shown>>,
    fingerprint: OnceLock<String>,
    bundles: OnceLock<Option<String>>,
    ends: OnceLock<BTreeMap<Domain, Timestamp>>,
    authorities: OnceLock<Result<Arc<Authorities>, String>>,
    spread: OnceLock<Spread>,
    complete: Mutex<Option<Complete>>,
}

/// The leaves that a Secret is to have: who signs them, what they say, and the keys of the Secret for each and its private key.
pub type Leaves = Vec<(Domain, LeafSpec, [&'static str; 2])>;

/// Where a member's Secret has its leaves of a domain.
pub fn leaf_keys(domain: Domain) -> &'static [&'static str] {
    match domain {
        Domain::Client => &[member_key::SERVER_CRT, member_key::CLIENT_CRT],
        Domain::Peer => &[member_key::PEER_CRT],
    }
}

/// What a Secret was last found to be as wanted by, and from when until when it is.
pub struct Complete {
    /// The leaves that are wanted.
    pub leaves: Arc<Leaves>,
    /// The authorities, in the order of [`Domain::ALL`].
    pub authorities: [Arc<Authorities>; 2],
    /// When.
    pub during: Range<Timestamp>,
}

impl SeenSecret {
    /// The certificate under a key, if there is anything: the first, where others are shown with it.
    pub fn certificate(&self, key: &str) -> Option<Result<Certificate, PkiError>> {
        Some(self.shown(key)?.map(|shown| shown.0))
    }
    /// Whether the certificate under a key comes with these and no others.
    pub fn is_shown_with(&self, key: &str, chain: &[Certificate]) -> bool {
        self.shown(key).and_then(Result::ok).is_some_and(|shown| *shown.1 == *chain)
    }
    fn shown(&self, key: &str) -> Option<Result<Shown, PkiError>> {
        let mut read = self.found().certificates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shown) = read.get(key) {
            return Some(Ok(shown.clone()));
        }
        let text = self.data.get(key).filter(|pem| !pem.is_empty())?;
        let shown = Certificate::with_chain(text).map(|(leaf, chain)| (leaf, chain.into()));
        if let Ok(shown) = &shown {
            read.insert(key.to_owned(), Shown::clone(shown));
        }
        Some(shown)
    }
    /// A digest of everything that is not a private key, to tell one version of the contents from another.
    pub fn fingerprint(&self) -> &str {
        let public = || self.data.iter().filter(|(key, _)| !is_private(key));
        self.found().fingerprint.get_or_init(|| fingerprint(public().map(|(key, value)| (key.as_str(), value.as_slice()))))
    }
    /// When the first of a member's leaves of a domain ends, of those that can be read.
    pub fn ends(&self, domain: Domain) -> Option<Timestamp> {
        let leaves = |domain| leaf_keys(domain).iter().filter_map(|key| self.certificate(key)?.ok());
        let first = |domain| Some((domain, leaves(domain).map(|leaf| leaf.not_after()).min()?));
        self.found().ends.get_or_init(|| Domain::ALL.into_iter().filter_map(first).collect()).get(&domain).copied()
    }
    /// When its leaves are renewed among those of others: one place for all of a Secret, which is then written once.
    pub fn spread(&self) -> Spread {
        *self.found().spread.get_or_init(|| Spread::of(self.meta.uid.as_deref().unwrap_or_default()))
    }
    /// Whether it was found to be as these want it, and is at this time.
    pub fn is_complete(&self, leaves: &Arc<Leaves>, authorities: [&Arc<Authorities>; 2], now: Timestamp) -> bool {
        let known = self.found().complete.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().is_some_and(|known| {
            let same = known.authorities.iter().zip(authorities).all(|(one, other)| Arc::ptr_eq(one, other));
            same && Arc::ptr_eq(&known.leaves, leaves) && known.during.contains(&now)
        })
    }
    /// Keeps what it was found to be as wanted by.
    pub fn completed(&self, complete: Complete) {
        *self.found().complete.lock().unwrap_or_else(PoisonError::into_inner) = Some(complete);
    }
    /// Which authorities are in the bundles of a member's Secret, by their fingerprints, as its pod's template tells it.
    pub fn bundles(&self) -> Option<&str> {
        let names = |key: &str| {
            let authorities = read_bundle(self.data.get(key)?).ok()?;
            let names: BTreeSet<_> = authorities.iter().map(|authority| authority.fingerprint().to_owned()).collect();
            Some(names.into_iter().collect::<Vec<_>>().join(","))
        };
        let both = || {
            let (client, peer) = (names(member_key::CLIENT_CA)?, names(member_key::PEER_CA)?);
            Some(format!("{}={client};{}={peer}", Domain::Client, Domain::Peer))
        };
        self.found().bundles.get_or_init(both).as_deref()
    }
}

/// Whether a key of a Secret names a private key.
pub fn is_private(key: &str) -> bool {
    key.strip_suffix(".key").is_some()
}

/// A short digest of named contents.
pub fn fingerprint<'a>(parts: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for (name, content) in parts {
        for part in [name.as_bytes(), content] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
    }
    hex(&context.finish().as_ref()[..8])
}

/// The digits of a byte.
fn digits(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 0xf].map(|nibble| b"0123456789abcdef"[usize::from(nibble)])
}

/// Bytes as status fields and, but for its colons, `openssl` write them.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for digit in bytes.iter().flat_map(|byte| digits(*byte)) {
        text.push(char::from(digit));
    }
    text
}

/// Whether a text is what [`hex`] writes of bytes.
pub fn is_hex(text: &str, bytes: &[u8]) -> bool {
    let (pairs, rest) = text.as_bytes().as_chunks();
    rest.is_empty() && pairs.len() == bytes.len() && pairs.iter().zip(bytes).all(|(pair, byte)| *pair == digits(*byte))
}

/// A domain's authorities, read from their Secret.
#[derive(Clone, Debug)]
pub struct Authorities {
    /// The one that signs.
    pub active: Certificate,
    /// The one that signs next.
    pub next: Certificate,
    /// Whoever is trusted, in PEM: what members verify by.
    pub bundle: String,
    /// The same and those above them: what clients verify by, some of whom believe nobody but a root.
    pub roots: String,
    /// The revoked serials, DER.
    pub crl: Vec<u8>,
    /// The same, read.
    pub listed: BTreeSet<Serial>,
    /// Those that sign no more and are still trusted.
    pub retiring: Vec<Certificate>,
    /// Those above any of them.
    pub above: Vec<Certificate>,
    /// What is shown with a leaf of the active one.
    pub chain: Vec<Certificate>,
    /// Whose they are.
    pub issuers: Issuers,
    /// How far a rotation that somebody asked for has come.
    pub rotation: Option<Rotation>,
    /// Whether the key of the active one is where it should be: it may be lost, until another one takes its place.
    has_key: bool,
    /// What was issued.
    pub ledger: Ledger,
}

impl Authorities {
    /// Reads them.
    ///
    /// # Errors
    /// What is wrong with the Secret, in words.
    pub fn read(secret: &SeenSecret) -> Result<Arc<Self>, String> {
        secret.found().authorities.get_or_init(|| Self::find(secret).map(Arc::new)).clone()
    }

    fn find(secret: &SeenSecret) -> Result<Self, String> {
        let text = |key: &str| secret.data.get(key).map(Vec::as_slice).unwrap_or_default();
        let issuers = Issuers::from_json(text(authority_key::ISSUERS)).map_err(|e| format!("{}: {e}", authority_key::ISSUERS))?;
        let certificate = |crt: &str| match Certificate::from_pem(text(crt)) {
            _ if text(crt).is_empty() => Err(format!("{crt} is missing")),
            Err(e) => Err(format!("{crt}: {e}")),
            Ok(certificate) if !certificate.is_ca() => Err(format!("{crt} is not an authority's")),
            Ok(certificate) => Ok(certificate),
        };
        let authority = |crt: &str, key: &str| {
            let certificate = certificate(crt)?;
            match secret.key_digest(key) {
                None => Err(format!("{key} is missing or not a private key")),
                Some(digest) if digest != certificate.key_digest() => Err(format!("{key} is not the key of {crt}")),
                Some(_) => Ok(certificate),
            }
        };
        let bundle = |key: &str| read_bundle(text(key)).map_err(|e| format!("{key}: {e}"));
        let retiring = bundle(authority_key::RETIRING_CRT)?;
        let above = bundle(authority_key::ABOVE_CRT)?;
        let rotation = secret.data.get(authority_key::ROTATION).map(|text| Rotation::from_json(text));
        let rotation = rotation.transpose().map_err(|e| format!("{}: {e}", authority_key::ROTATION))?;
        // That of a lost authority is what its rotation begins without.
        let beginning = rotation.is_some_and(|rotation| rotation.phase == Phase::Distributing);
        let has_key = !issuers.active.has_key() || !beginning || secret.data.contains_key(authority_key::ACTIVE_KEY);
        let active = if issuers.active.has_key() && has_key {
            authority(authority_key::ACTIVE_CRT, authority_key::ACTIVE_KEY)?
        } else {
            certificate(authority_key::ACTIVE_CRT)?
        };
        let next = if issuers.next.has_key() {
            authority(authority_key::NEXT_CRT, authority_key::NEXT_KEY)?
        } else {
            certificate(authority_key::NEXT_CRT)?
        };
        let crl = text(authority_key::CRL).to_vec();
        let listed = pki::crl_serials(&crl).map_err(|e| format!("{}: {e}", authority_key::CRL))?;
        let ledger = Ledger::from_json(text(authority_key::LEDGER)).map_err(|e| format!("{}: {e}", authority_key::LEDGER))?;
        let bundle = pki::bundle(trusted(&active, &next, &retiring));
        let roots = format!("{bundle}{}", pki::bundle(&above));
        let chain = pki::chain(&active, &above);
        Ok(Self { active, next, bundle, roots, crl, listed, retiring, above, chain, issuers, rotation, has_key, ledger })
    }
    /// Whether the key of the active one is there.
    pub fn has_key(&self) -> bool {
        self.has_key
    }
    /// Whether the active one can sign, as far as that can be known here.
    pub fn signs(&self, now: Timestamp) -> bool {
        self.is_in_force(now) && !self.issuer_has_moved_on()
    }
    /// Whether what the active one has signed is believed, and there is no loss.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.has_key && self.active.check_valid_authority(now).is_ok()
    }
    /// Whether an issuer of somebody else's signs by the next one already, which has yet to be trusted everywhere.
    fn issuer_has_moved_on(&self) -> bool {
        self.leaves_its_issuer() && self.issuers.active == self.issuers.next
    }
    /// Whether another authority is to take the place of one that somebody else signs by.
    pub fn leaves_its_issuer(&self) -> bool {
        !self.issuers.active.has_key() && self.active != self.next
    }
    /// Whom whoever verifies leaves of this domain must trust: the next one too, so that it is trusted before it signs, and those
    /// whose leaves may still be in use.
    pub fn trusted(&self) -> impl Iterator<Item = &Certificate> {
        trusted(&self.active, &self.next, &self.retiring)
    }
}

/// An issuer of somebody else's has one authority, which is then its own next one.
fn trusted<'a>(
    active: &'a Certificate,
    next: &'a Certificate,
    retiring: &'a [Certificate],
) -> impl Iterator<Item = &'a Certificate> {
    [active].into_iter().chain([next].into_iter().filter(move |next| *next != active)).chain(retiring)
}

/// How a member is to start if it finds no data: an entry of the bootstrap ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartState {
    /// As one of the founders.
    New,
    /// As a learner that was added, with this list of members: it must be the one that etcd has.
    Joining(String),
    /// Not at all: `existing` with itself alone fails without a WAL and is ignored where there is one.
    Existing,
}

/// The entry of a member in a bootstrap ConfigMap, where `alone` is its part of a list.
pub fn start_state(config: &ConfigMap, member: &MemberName, alone: &str) -> Option<StartState> {
    let data = config.data.as_ref()?;
    match data.get(&bootstrap_key::state(member))?.as_str() {
        "new" => Some(StartState::New),
        _ => match data.get(&bootstrap_key::cluster(member)) {
            Some(list) if list != alone => Some(StartState::Joining(list.clone())),
            _ => Some(StartState::Existing),
        },
    }
}
