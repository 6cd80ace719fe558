//! Making and changing the authorities of a domain.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Time};
use kube::{Api, api::PostParams, core::ObjectMeta};
use zeroize::Zeroize;

use super::{IssueError, check_owner};
use crate::{
    cluster::plan::{AuthorityRequest, Rotate, Salvage, Source, Turn},
    k8s::{KeySecret, WriteError, post},
    names::{authority_key, tls_key},
    pki::{
        self, Authority, Certificate, Issuer, Issuers, Ledger, Offer, Phase, PkiError, Rotation, Serial, crl_serials,
        read_bundle, sign_crl_without_key,
    },
};

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
    let theirs = their_key(secrets, &request.source, now).await?;
    let key = theirs.as_ref().map(|secret| secret.bytes(tls_key::KEY));
    let data = found(request, key, now).map_err(pki)?;
    let secret = KeySecret(Secret { metadata, data: Some(data), type_: Some("Opaque".into()), ..Secret::default() });
    secret.create(secrets).await?;
    Ok(true)
}

/// The contents of an authorities' Secret as it begins; `key` is the private key of an authority that somebody else has made.
pub fn found(request: &AuthorityRequest, key: Option<&[u8]>, now: Timestamp) -> Result<Data, PkiError> {
    let mut data = Data::default();
    for (slot, name) in Slot::ALL.into_iter().zip(&request.common_names) {
        slot.put(&mut data, &request.source, name, request.duration, key, now)?;
    }
    put(&mut data, authority_key::LEDGER, Ledger::default().to_json()?);
    put_crl(&mut data, BTreeMap::new(), now)?;
    Ok(data)
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
    let theirs = their_key(secrets, &rotate.source, now).await?;
    let key = theirs.as_ref().map(|secret| secret.bytes(tls_key::KEY));
    let data = secret.0.data.get_or_insert_default();
    if !turn(data, rotate, key, now).map_err(|source| IssueError::Pki { name: rotate.secret.clone(), source })? {
        return Err(changed());
    }
    let written = if make { secret.create(secrets).await } else { secret.replace(secrets).await };
    Ok(written?)
}

/// The Secret with the private key of an authority that somebody else has made, if it is the one that was seen and tried.
async fn their_key(secrets: &Api<Secret>, source: &Source, now: Timestamp) -> Result<Option<KeySecret>, IssueError> {
    let Source::Offered(Issuer::CaSecret { name }, offer) = source else { return Ok(None) };
    let changed = || IssueError::AuthorityChanged(name.clone());
    let pki = |source| IssueError::Pki { name: name.clone(), source };
    let secret = KeySecret::get(secrets, name).await?.ok_or_else(changed)?;
    let there = Offer::of_secret(secret.bytes(tls_key::CRT), secret.bytes(tls_key::CA), now).map_err(pki)?;
    if there.authority != offer.authority {
        return Err(changed());
    }
    Ok(Some(secret))
}

/// What an authority's Secret holds.
pub type Data = BTreeMap<String, ByteString>;

/// Changes the content of an authority's Secret, if it holds the authorities for whom this was planned, and says whether it did. `key`
/// is the private key of an authority that somebody else has made.
pub fn turn(data: &mut Data, rotate: &Rotate, key: Option<&[u8]>, now: Timestamp) -> Result<bool, PkiError> {
    let is = |key: &str, seen: &str| {
        Certificate::from_pem(bytes(data, key)).is_ok_and(|certificate| certificate.fingerprint() == seen)
    };
    match &rotate.seen {
        Some([active, next]) if is(authority_key::ACTIVE_CRT, active) && is(authority_key::NEXT_CRT, next) => {}
        Some(_) => return Ok(false),
        None => {}
    }
    let [one, two] = &rotate.common_names;
    match rotate.turn {
        Turn::Prepare => {
            if let Some(salvage) = &rotate.salvage {
                put_salvage(data, salvage)?;
            }
            Slot::Next.put(data, &rotate.source, one, rotate.duration, key, now)?;
            put_rotation(data, Phase::Distributing, now)?;
        }
        Turn::Switch => {
            let before = Certificate::from_pem(bytes(data, authority_key::ACTIVE_CRT))?;
            let retiring = read_bundle(bytes(data, authority_key::RETIRING_CRT))?;
            let retiring: Vec<_> = [before].into_iter().chain(retiring).filter(|old| old.not_after() >= now).collect();
            put(data, authority_key::RETIRING_CRT, pki::bundle(&retiring));
            let issuers = Issuers::from_json(bytes(data, authority_key::ISSUERS))?;
            // What another issuer was asked for it will not sign.
            if issuers.active != issuers.next {
                let pending: Vec<_> = data.keys().filter(|key| key.starts_with(authority_key::PENDING)).cloned().collect();
                for key in pending {
                    wipe(data.remove(&key));
                }
            }
            Slot::Active.follow(data)?;
            if issuers.next == Issuer::BuiltIn {
                Slot::Next.put(data, &Source::Made, one, rotate.duration, None, now)?;
            }
            let ledger = Ledger::from_json(bytes(data, authority_key::LEDGER))?;
            let unknown = unknown(&crl_serials(bytes(data, authority_key::CRL))?, &ledger, now);
            put_crl(data, unknown, now)?;
            if data.contains_key(authority_key::ROTATION) {
                put_rotation(data, Phase::Reissuing, now)?;
            }
        }
        Turn::Drop => {
            data.remove(authority_key::RETIRING_CRT);
            forget_above(data)?;
            put_rotation(data, Phase::Dropping, now)?;
        }
        Turn::Renew => {
            Slot::Active.put(data, &rotate.source, one, rotate.duration, key, now)?;
            Slot::Next.put(data, &rotate.source, two, rotate.duration, key, now)?;
            data.remove(authority_key::RETIRING_CRT);
            forget_above(data)?;
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
    wipe(data.insert(key.into(), ByteString(content.into())));
}

/// What has been in a Secret may have been a private key.
fn wipe(content: Option<ByteString>) {
    if let Some(mut content) = content {
        content.0.zeroize();
    }
}

/// Where in its Secret an authority has its place.
#[derive(Clone, Copy)]
enum Slot {
    Active,
    Next,
}

impl Slot {
    const ALL: [Self; 2] = [Self::Active, Self::Next];

    /// The keys of its certificate and its private key.
    fn keys(self) -> [&'static str; 2] {
        match self {
            Self::Active => [authority_key::ACTIVE_CRT, authority_key::ACTIVE_KEY],
            Self::Next => [authority_key::NEXT_CRT, authority_key::NEXT_KEY],
        }
    }

    /// Puts an authority there: a new one, or one of somebody else's with its private key, if that is at hand.
    fn put(
        self,
        data: &mut Data,
        source: &Source,
        name: &str,
        duration: SignedDuration,
        theirs: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<(), PkiError> {
        let [certificate, key] = self.keys();
        match source {
            Source::Made => {
                let authority = Authority::create(name, duration, now)?;
                put(data, certificate, authority.certificate().pem());
                put(data, key, authority.key_pem());
                self.note_issuer(data, Issuer::BuiltIn)
            }
            Source::Offered(issuer, offer) => {
                put(data, certificate, offer.authority.pem());
                wipe(data.remove(key));
                if let Some(theirs) = theirs {
                    put(data, key, Authority::load(offer.authority.pem().as_bytes(), theirs)?.key_pem());
                }
                let mut above = read_bundle(bytes(data, authority_key::ABOVE_CRT))?;
                let new: Vec<_> = offer.above.iter().filter(|one| !above.contains(one)).cloned().collect();
                above.extend(new);
                put_above(data, &above);
                self.note_issuer(data, issuer.clone())
            }
        }
    }

    /// Puts what has the other place there too.
    fn follow(self, data: &mut Data) -> Result<(), PkiError> {
        let other = if matches!(self, Self::Active) { Self::Next } else { Self::Active };
        for (to, from) in self.keys().into_iter().zip(other.keys()) {
            match data.get(from).cloned() {
                Some(content) => wipe(data.insert(to.into(), content)),
                None => wipe(data.remove(to)),
            }
        }
        let issuers = Issuers::from_json(bytes(data, authority_key::ISSUERS))?;
        self.note_issuer(data, if matches!(self, Self::Active) { issuers.next } else { issuers.active })
    }

    /// Writes down whose it is. Where there is nothing, the operator has made both.
    fn note_issuer(self, data: &mut Data, issuer: Issuer) -> Result<(), PkiError> {
        let mut issuers = Issuers::from_json(bytes(data, authority_key::ISSUERS))?;
        match self {
            Self::Active => issuers.active = issuer,
            Self::Next => issuers.next = issuer,
        }
        if issuers == Issuers::default() {
            data.remove(authority_key::ISSUERS);
        } else {
            put(data, authority_key::ISSUERS, issuers.to_json()?);
        }
        Ok(())
    }
}

/// Forgets those above authorities that are trusted no more.
fn forget_above(data: &mut Data) -> Result<(), PkiError> {
    let above = read_bundle(bytes(data, authority_key::ABOVE_CRT))?;
    let mut kept: Vec<Certificate> = vec![];
    for slot in Slot::ALL {
        let mut top = Certificate::from_pem(bytes(data, slot.keys()[0]))?;
        // Of one that has been renewed the later.
        while let Some(next) = pki::above(&top, &above).filter(|next| !kept.contains(next)) {
            top = next.clone();
            kept.push(top.clone());
        }
    }
    put_above(data, &kept);
    Ok(())
}

fn put_above(data: &mut Data, above: &[Certificate]) {
    if above.is_empty() {
        data.remove(authority_key::ABOVE_CRT);
    } else {
        put(data, authority_key::ABOVE_CRT, pki::bundle(above));
    }
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
    if Issuers::from_json(bytes(data, authority_key::ISSUERS)).is_err() {
        data.remove(authority_key::ISSUERS);
    }
    if read_bundle(bytes(data, authority_key::ABOVE_CRT)).is_err() {
        data.remove(authority_key::ABOVE_CRT);
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
pub(super) fn unknown(listed: &BTreeSet<Serial>, ledger: &Ledger, now: Timestamp) -> BTreeMap<Serial, Timestamp> {
    listed.iter().filter(|serial| !ledger.knows(**serial)).map(|serial| (*serial, now)).collect()
}

/// Has the active authority sign the list of who is revoked, and of these beside.
fn put_crl(data: &mut Data, beside: BTreeMap<Serial, Timestamp>, now: Timestamp) -> Result<(), PkiError> {
    let ledger = Ledger::from_json(bytes(data, authority_key::LEDGER))?;
    let revoked = beside.into_iter().chain(ledger.revoked());
    let (certificate, key) = (bytes(data, authority_key::ACTIVE_CRT), bytes(data, authority_key::ACTIVE_KEY));
    let crl = if key.is_empty() {
        sign_crl_without_key(revoked, Certificate::from_pem(certificate)?.not_after(), now)?
    } else {
        Authority::load(certificate, key)?.sign_crl(revoked, now)?
    };
    put(data, authority_key::CRL, crl);
    Ok(())
}
