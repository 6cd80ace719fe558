//! The one place where keys are made and authorities sign.
//!
//! The order is always: sign, write down what was signed in the authority's Secret, hand it out. So whatever anyone holds is
//! in the ledger and can be revoked, wherever the operator died. Before that the API server is asked whether it would take the
//! Secret, for what is in the ledger stays there until it expires.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Time};
use kube::{Api, api::PostParams, core::ObjectMeta};

use crate::{
    cluster::{
        observed::{belongs, hex},
        plan::{AuthorityRequest, LeafRequest, Rotate, Salvage, SecretChange, Turn, owner_in_words},
    },
    k8s::{KeySecret, WriteError, post},
    names::authority_key,
    pki::{self, Authority, Certificate, Issued, Leaf, Ledger, Phase, PkiError, Rotation, Serial, crl_serials, read_bundle},
};

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The authority's Secret is gone, or is not what the plan was made with.
    #[error("the authority in Secret {0} changed meanwhile")]
    AuthorityChanged(String),
    /// Its contents can't be used.
    #[error("the authority in Secret {name} cannot be used: {source}")]
    Pki {
        /// The Secret.
        name: String,
        /// Why not.
        source: PkiError,
    },
    /// Our clock may be wrong, by which authorities have expired.
    #[error(
        "the authority in Secret {name} has expired by the operator's clock ({ours:.0}), but the API server's says {theirs:.0}; one of them is wrong"
    )]
    Clock {
        /// The Secret.
        name: String,
        /// What our clock says.
        ours: Timestamp,
        /// What the API server's says.
        theirs: Timestamp,
    },
    /// A Secret could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Makes the authorities of a domain, the active and the next one, in a Secret of their own. If the Secret is there already, made
/// by an earlier pass that our watch has not told of yet, nothing is done. Returns whether they were made.
pub async fn create_authorities(
    secrets: &Api<Secret>,
    request: &AuthorityRequest,
    metadata: ObjectMeta,
    uid: &str,
    now: Timestamp,
) -> Result<bool, IssueError> {
    let pki = |source| IssueError::Pki { name: request.secret.clone(), source };
    if let Some(there) = KeySecret::get(secrets, &request.secret).await? {
        check_owner(&there, uid)?;
        return Ok(false);
    }
    let [active, next] = &request.common_names;
    let active = Authority::create(active, request.duration, now).map_err(pki)?;
    let next = Authority::create(next, request.duration, now).map_err(pki)?;
    let crl = active.sign_crl([], now).map_err(pki)?;
    let ledger = Ledger::default().to_json().map_err(pki)?;
    let data = [
        (authority_key::ACTIVE_CRT, active.certificate().pem().as_bytes().to_vec()),
        (authority_key::ACTIVE_KEY, active.key_pem().to_vec()),
        (authority_key::NEXT_CRT, next.certificate().pem().as_bytes().to_vec()),
        (authority_key::NEXT_KEY, next.key_pem().to_vec()),
        (authority_key::CRL, crl),
        (authority_key::LEDGER, ledger),
    ];
    let data = data.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value))).collect();
    let secret = KeySecret(Secret { metadata, data: Some(data), type_: Some("Opaque".into()), ..Secret::default() });
    secret.create(secrets).await?;
    Ok(true)
}

/// Changes the authorities of a domain.
///
/// # Errors
/// [`IssueError::AuthorityChanged`] where they are not those for whom this was planned.
pub async fn rotate(
    secrets: &Api<Secret>,
    rotate: &Rotate,
    metadata: ObjectMeta,
    uid: &str,
    now: Timestamp,
) -> Result<(), IssueError> {
    let changed = || IssueError::AuthorityChanged(rotate.secret.clone());
    if rotate.at_once {
        check_clock(secrets, rotate, now).await?;
    }
    let there = KeySecret::get(secrets, &rotate.secret).await?;
    if let Some(salvage) = &rotate.salvage {
        let version = there.as_ref().and_then(|there| there.0.metadata.resource_version.clone());
        // It may have come back meanwhile, from a backup.
        if version != salvage.version {
            return Err(match (&there, &salvage.version) {
                (Some(there), None) => {
                    let owner = "it lacks the labels by which the operator finds it: give them back".to_owned();
                    WriteError::Foreign { object: there.describe(), owner }.into()
                }
                _ => changed(),
            });
        }
    }
    let make = there.is_none();
    let new = || KeySecret(Secret { metadata, type_: Some("Opaque".into()), ..Secret::default() });
    // Only what members still trust stands in for a Secret that is gone.
    let mut secret = match there {
        Some(there) => there,
        None if rotate.salvage.is_some() => new(),
        None => return Err(changed()),
    };
    if !make {
        check_owner(&secret, uid)?;
    }
    let data = secret.0.data.get_or_insert_default();
    if !turn(data, rotate, now).map_err(|source| IssueError::Pki { name: rotate.secret.clone(), source })? {
        return Err(changed());
    }
    let written = if make { secret.create(secrets).await } else { secret.replace(secrets).await };
    Ok(written?)
}

/// What an authority's Secret holds.
type Data = BTreeMap<String, ByteString>;

/// Changes the content of an authority's Secret, if it holds the authorities for whom this was planned, and says whether it did.
pub fn turn(data: &mut Data, rotate: &Rotate, now: Timestamp) -> Result<bool, PkiError> {
    let is = |key: &str, seen: &str| {
        Certificate::from_pem(bytes(data, key)).is_ok_and(|certificate| certificate.fingerprint() == seen)
    };
    match &rotate.seen {
        Some([active, next]) if is(authority_key::ACTIVE_CRT, active) && is(authority_key::NEXT_CRT, next) => {}
        Some(_) => return Ok(false),
        None => {}
    }
    match rotate.turn {
        Turn::Prepare => {
            if let Some(salvage) = &rotate.salvage {
                put_salvage(data, salvage)?;
            }
            put_authority(data, NEXT, &rotate.common_names[0], rotate.duration, now)?;
            put_rotation(data, Phase::Distributing, now)?;
        }
        Turn::Switch => {
            let before = Certificate::from_pem(bytes(data, authority_key::ACTIVE_CRT))?;
            let retiring = read_bundle(bytes(data, authority_key::RETIRING_CRT))?;
            let retiring: Vec<_> = [before].into_iter().chain(retiring).filter(|old| old.not_after() >= now).collect();
            put(data, authority_key::RETIRING_CRT, pki::bundle(&retiring));
            for (from, to) in NEXT.into_iter().zip(ACTIVE) {
                let next = data.remove(from).unwrap_or_default();
                data.insert(to.into(), next);
            }
            put_authority(data, NEXT, &rotate.common_names[0], rotate.duration, now)?;
            let ledger = Ledger::from_json(bytes(data, authority_key::LEDGER))?;
            let unknown = unknown(&crl_serials(bytes(data, authority_key::CRL))?, &ledger, now);
            put_crl(data, unknown, now)?;
            if data.contains_key(authority_key::ROTATION) {
                put_rotation(data, Phase::Reissuing, now)?;
            }
        }
        Turn::Drop => {
            data.remove(authority_key::RETIRING_CRT);
            put_rotation(data, Phase::Dropping, now)?;
        }
        Turn::Renew => {
            put_authority(data, ACTIVE, &rotate.common_names[0], rotate.duration, now)?;
            put_authority(data, NEXT, &rotate.common_names[1], rotate.duration, now)?;
            data.remove(authority_key::RETIRING_CRT);
            put_crl(data, BTreeMap::new(), now)?;
            put_rotation(data, Phase::Dropping, now)?;
        }
        Turn::Finish => {
            data.remove(authority_key::ROTATION);
            // Nobody trusts who has signed what the ledger never knew.
            put_crl(data, BTreeMap::new(), now)?;
        }
    }
    Ok(true)
}

fn bytes<'a>(data: &'a Data, key: &str) -> &'a [u8] {
    data.get(key).map(|bytes| bytes.0.as_slice()).unwrap_or_default()
}

fn put(data: &mut Data, key: &str, content: impl Into<Vec<u8>>) {
    data.insert(key.into(), ByteString(content.into()));
}

/// The keys of the active authority in its Secret.
const ACTIVE: [&str; 2] = [authority_key::ACTIVE_CRT, authority_key::ACTIVE_KEY];
/// Those of the next one.
const NEXT: [&str; 2] = [authority_key::NEXT_CRT, authority_key::NEXT_KEY];

/// Makes an authority.
fn put_authority(
    data: &mut Data,
    [certificate, key]: [&str; 2],
    name: &str,
    duration: SignedDuration,
    now: Timestamp,
) -> Result<(), PkiError> {
    let authority = Authority::create(name, duration, now)?;
    put(data, certificate, authority.certificate().pem());
    put(data, key, authority.key_pem());
    Ok(())
}

fn put_rotation(data: &mut Data, phase: Phase, now: Timestamp) -> Result<(), PkiError> {
    let since = Timestamp::from_second(now.as_second()).unwrap_or(now);
    put(data, authority_key::ROTATION, Rotation { phase, since }.to_json()?);
    Ok(())
}

/// Makes of what is left of an authority's Secret, and of what members trust, one that a rotation can begin with.
fn put_salvage(data: &mut Data, salvage: &Salvage) -> Result<(), PkiError> {
    let active = salvage.active.pem();
    if Authority::load(active.as_bytes(), bytes(data, authority_key::ACTIVE_KEY)).is_err() {
        data.remove(authority_key::ACTIVE_KEY);
    }
    if crl_serials(bytes(data, authority_key::CRL)).is_err() {
        put(data, authority_key::CRL, salvage.crl.clone());
    }
    if Ledger::from_json(bytes(data, authority_key::LEDGER)).is_err() {
        put(data, authority_key::LEDGER, Ledger::default().to_json()?);
    }
    put(data, authority_key::ACTIVE_CRT, active);
    // Their leaves may be in use, until it is over.
    put(data, authority_key::RETIRING_CRT, pki::bundle(&salvage.others));
    Ok(())
}

/// Checks that the API server has about the time that we have: it dates what it is asked to make, also where nothing is made.
async fn check_clock(secrets: &Api<Secret>, rotate: &Rotate, now: Timestamp) -> Result<(), IssueError> {
    let metadata = ObjectMeta { generate_name: Some(format!("{}-", rotate.secret)), ..ObjectMeta::default() };
    let probe = Secret { metadata, ..Secret::default() };
    let dated = secrets.create(&PostParams { dry_run: true, ..post() }, &probe).await;
    let dated = dated.map_err(|e| WriteError::of("a Secret, to learn the time", e))?;
    match dated.metadata.creation_timestamp {
        Some(Time(theirs)) if theirs.duration_since(now).abs() > CLOCKS => {
            Err(IssueError::Clock { name: rotate.secret.clone(), ours: now, theirs })
        }
        _ => Ok(()),
    }
}

/// How far two clocks may be apart.
const CLOCKS: SignedDuration = SignedDuration::from_hours(1);

/// What is on a list and the ledger never knew. It stays revoked, for somebody may have edited the ledger.
fn unknown(listed: &BTreeSet<Serial>, ledger: &Ledger, now: Timestamp) -> BTreeMap<Serial, Timestamp> {
    listed.iter().filter(|serial| !ledger.knows(**serial)).map(|serial| (*serial, now)).collect()
}

/// Has the active authority sign the list of who is revoked, and of these beside.
fn put_crl(data: &mut Data, beside: BTreeMap<Serial, Timestamp>, now: Timestamp) -> Result<(), PkiError> {
    let active = Authority::load(bytes(data, authority_key::ACTIVE_CRT), bytes(data, authority_key::ACTIVE_KEY))?;
    let ledger = Ledger::from_json(bytes(data, authority_key::LEDGER))?;
    put(data, authority_key::CRL, active.sign_crl(beside.into_iter().chain(ledger.revoked()), now)?);
    Ok(())
}

fn check_owner(secret: &KeySecret, uid: &str) -> Result<(), WriteError> {
    if belongs(&secret.0.metadata, uid) {
        return Ok(());
    }
    Err(WriteError::Foreign { object: secret.describe(), owner: owner_in_words(&secret.0.metadata) })
}

/// An authority's Secret as it is now.
struct Opened {
    secret: KeySecret,
    active: Authority,
    ledger: Ledger,
}

/// Attempts to write an authority's Secret when others write it too, each on what it then is.
const ATTEMPTS: usize = 5;

impl Opened {
    /// Reads it, and checks that the active authority is the one with the subject key identifier `expected`.
    async fn read(secrets: &Api<Secret>, name: &str, expected: &str) -> Result<Self, IssueError> {
        let pki = |source| IssueError::Pki { name: name.to_owned(), source };
        let changed = || IssueError::AuthorityChanged(name.to_owned());
        let secret = KeySecret::get(secrets, name).await?.ok_or_else(changed)?;
        let active =
            Authority::load(secret.bytes(authority_key::ACTIVE_CRT), secret.bytes(authority_key::ACTIVE_KEY)).map_err(pki)?;
        if active.certificate().subject_key_id().map(hex).as_deref() != Some(expected) {
            return Err(changed());
        }
        let ledger = Ledger::from_json(secret.bytes(authority_key::LEDGER)).map_err(pki)?;
        Ok(Self { secret, active, ledger })
    }

    /// The serials on the revocation list.
    fn listed(&self) -> BTreeSet<Serial> {
        crl_serials(self.secret.bytes(authority_key::CRL)).unwrap_or_default()
    }

    /// Whether everything that is revoked is on the revocation list.
    fn lists_the_revoked(&self) -> bool {
        let listed = self.listed();
        self.ledger.revoked().all(|(serial, _)| listed.contains(&serial))
    }

    /// Writes the ledger back, and a new revocation list if other serials are to be on it now.
    async fn write(mut self, secrets: &Api<Secret>, now: Timestamp) -> Result<(), IssueError> {
        let name = self.secret.0.metadata.name.clone().unwrap_or_default();
        let pki = |source| IssueError::Pki { name: name.clone(), source };
        let listed = self.listed();
        // Before what has expired is dropped from the ledger, so that it is not taken for what it never knew.
        let mut wanted = unknown(&listed, &self.ledger, now);
        self.ledger.prune(now);
        wanted.extend(self.ledger.revoked());
        let ledger = self.ledger.to_json().map_err(pki)?;
        let data = self.secret.0.data.get_or_insert_default();
        data.insert(authority_key::LEDGER.into(), ByteString(ledger));
        if !wanted.keys().eq(&listed) {
            let crl = self.active.sign_crl(wanted, now).map_err(pki)?;
            data.insert(authority_key::CRL.into(), ByteString(crl));
        }
        Ok(self.secret.replace(secrets).await?)
    }
}

/// Checks that the active authority in the Secret `name` is the one with the subject key identifier `expected` and can sign now.
pub async fn check(secrets: &Api<Secret>, name: &str, expected: &str, now: Timestamp) -> Result<(), IssueError> {
    let opened = Opened::read(secrets, name, expected).await?;
    opened.active.check_valid(now).map_err(|source| IssueError::Pki { name: name.into(), source })
}

/// Issues leaves from the active authority in the Secret `name`, whose subject key identifier must be `expected`, and writes
/// them down.
pub async fn issue(
    secrets: &Api<Secret>,
    name: &str,
    expected: &str,
    requests: &[&LeafRequest],
    now: Timestamp,
) -> Result<Vec<Leaf>, IssueError> {
    let mut attempt = 1;
    loop {
        let mut opened = Opened::read(secrets, name, expected).await?;
        let mut leaves = vec![];
        for request in requests {
            let leaf = opened.active.issue(&request.spec, now).map_err(|source| IssueError::Pki { name: name.into(), source })?;
            opened.ledger.record(&leaf.certificate, request.holder.clone());
            leaves.push(leaf);
        }
        match opened.write(secrets, now).await {
            Ok(()) => return Ok(leaves),
            Err(IssueError::Write(WriteError::Conflict(_))) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Revokes everything that `meant` tells, and makes the list anew if it lacks who was revoked before; returns how many
/// certificates were revoked.
pub async fn revoke(
    secrets: &Api<Secret>,
    name: &str,
    expected: &str,
    meant: impl Fn(&Issued) -> bool,
    now: Timestamp,
) -> Result<usize, IssueError> {
    let mut attempt = 1;
    loop {
        let mut opened = Opened::read(secrets, name, expected).await?;
        let count = opened.ledger.revoke(&meant, now);
        if count == 0 && opened.lists_the_revoked() {
            return Ok(0);
        }
        match opened.write(secrets, now).await {
            Ok(()) => return Ok(count),
            Err(IssueError::Write(WriteError::Conflict(_))) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// What has to be done about a Secret before leaves are issued for it.
pub enum Target {
    /// It is to be made.
    Make,
    /// It is there and is to be changed.
    Change(Box<KeySecret>),
    /// It was made or changed by an earlier pass that our watch has not told of yet.
    Done,
}

/// Reads the Secret that a change is about, or that is to be made with this metadata, so that nothing is issued for someone
/// else's Secret or in vain.
pub async fn target(
    secrets: &Api<Secret>,
    change: &SecretChange,
    metadata: &ObjectMeta,
    uid: &str,
) -> Result<Target, WriteError> {
    let target = find(secrets, change, uid).await?;
    if !change.leaves.is_empty() {
        rehearse(secrets, change, metadata, &target).await?;
    }
    Ok(target)
}

/// Asks the API server whether it would take the Secret, and writes nothing. What was signed stays in the ledger until it expires;
/// signed in each pass for a Secret that a quota or a policy refuses, it would soon fill the authority's Secret for good.
async fn rehearse(
    secrets: &Api<Secret>,
    change: &SecretChange,
    metadata: &ObjectMeta,
    target: &Target,
) -> Result<(), WriteError> {
    let parameters = PostParams { dry_run: true, ..post() };
    let made = match target {
        Target::Done => return Ok(()),
        Target::Make => {
            let mut secret = new_secret(change, metadata.clone());
            let data = secret.0.data.get_or_insert_default();
            data.extend(change.leaves.iter().flat_map(|leaf| leaf.keys).map(|key| (key.to_owned(), ByteString(vec![]))));
            secrets.create(&parameters, &secret.0).await
        }
        Target::Change(secret) => secrets.replace(&change.name, &parameters, &secret.0).await,
    };
    drop(KeySecret(made.map_err(|e| WriteError::of(format!("Secret {}", change.name), e))?));
    Ok(())
}

/// A Secret as it is to be made, without its leaves.
fn new_secret(change: &SecretChange, mut metadata: ObjectMeta) -> KeySecret {
    metadata.labels.get_or_insert_default().extend(change.labels.clone());
    KeySecret(Secret { metadata, type_: Some(change.type_.into()), ..Secret::default() })
}

async fn find(secrets: &Api<Secret>, change: &SecretChange, uid: &str) -> Result<Target, WriteError> {
    let Some(there) = KeySecret::get(secrets, &change.name).await? else {
        // One that we saw and that is gone is made anew by the next pass, which knows it.
        return if change.version.is_some() {
            Err(WriteError::Conflict(format!("Secret {}", change.name)))
        } else {
            Ok(Target::Make)
        };
    };
    check_owner(&there, uid)?;
    let labels = there.0.metadata.labels.as_ref();
    let labelled = change.labels.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
    match &change.version {
        Some(seen) if there.0.metadata.resource_version.as_ref() != Some(seen) => Err(WriteError::Conflict(there.describe())),
        // Unknown to our watch though it has the labels: it is new. Without them the watch will never tell, so it is mended.
        None if labelled => Ok(Target::Done),
        _ => Ok(Target::Change(Box::new(there))),
    }
}

/// Writes a Secret with the leaves that were issued for it, in the order of the change's requests.
pub async fn write(
    secrets: &Api<Secret>,
    change: &SecretChange,
    target: Target,
    leaves: Vec<Leaf>,
    metadata: ObjectMeta,
) -> Result<(), WriteError> {
    let (mut secret, make) = match target {
        Target::Done => return Ok(()),
        Target::Make => (new_secret(change, metadata), true),
        Target::Change(secret) => (*secret, false),
    };
    secret.0.metadata.labels.get_or_insert_default().extend(change.labels.clone());
    let data = secret.0.data.get_or_insert_default();
    data.extend(change.files.iter().map(|(key, value)| (key.clone(), ByteString(value.clone()))));
    for (request, leaf) in change.leaves.iter().zip(leaves) {
        let [certificate, key] = request.keys;
        data.insert(certificate.into(), ByteString(leaf.certificate.pem().as_bytes().to_vec()));
        data.insert(key.into(), ByteString(leaf.key.pem().to_vec()));
    }
    if make { secret.create(secrets).await } else { secret.replace(secrets).await }
}
