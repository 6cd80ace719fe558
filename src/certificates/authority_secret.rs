//! The contents of an authorities' Secret, private keys included, and how each transition changes them. Pure: `issuing` reads and
//! writes the Secret.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::ByteString;
use zeroize::Zeroize;

use super::transition::{AuthorityRequest, Change, NewAuthority, Salvage, Transition};
use crate::{
    names::authority_key,
    pki::{
        self, Authority, Certificate, Issuer, Issuers, Ledger, Phase, PkiError, Rotation, Serial, crl_serials, read_bundle,
        sign_crl_without_key,
    },
};

/// The contents of an authorities' Secret.
pub type Contents = BTreeMap<String, ByteString>;

/// The first contents. `key` is the private key of an external authority, if it is known.
pub fn create(request: &AuthorityRequest, key: Option<&[u8]>, now: Timestamp) -> Result<Contents, PkiError> {
    let mut contents = Contents::default();
    Slot::Active.put(&mut contents, &request.active, key, now)?;
    Slot::Next.put(&mut contents, &request.next, key, now)?;
    put(&mut contents, authority_key::LEDGER, Ledger::default().to_json()?);
    put_crl(&mut contents, BTreeMap::new(), now)?;
    Ok(contents)
}

/// Applies a transition if the Secret holds the authorities that the plan has seen. Returns whether it was applied. `key` is the
/// private key of an external authority, if it is known.
pub fn apply(contents: &mut Contents, transition: &Transition, key: Option<&[u8]>, now: Timestamp) -> Result<bool, PkiError> {
    let is = |key: &str, seen: &str| {
        Certificate::from_pem(bytes(contents, key)).is_ok_and(|certificate| certificate.fingerprint() == seen)
    };
    if let Some([active, next]) = &transition.seen
        && !(is(authority_key::ACTIVE_CRT, active) && is(authority_key::NEXT_CRT, next))
    {
        return Ok(false);
    }
    match &transition.change {
        Change::Prepare { next, keeps, salvage } => {
            if let Some(salvage) = salvage {
                put_salvage(contents, salvage)?;
            }
            if *keeps {
                let previous = Certificate::from_pem(bytes(contents, authority_key::NEXT_CRT))?;
                let retiring = read_bundle(bytes(contents, authority_key::RETIRING_CRT))?;
                let retiring: Vec<_> = [previous].into_iter().chain(retiring).collect();
                put(contents, authority_key::RETIRING_CRT, pki::bundle(&retiring));
            }
            Slot::Next.put(contents, next, key, now)?;
            put_rotation(contents, Phase::Distributing, now)?;
        }
        Change::Switch { next, .. } => switch(contents, next, now)?,
        Change::Replace { next } => {
            switch(contents, next, now)?;
            stop_trusting(contents, now)?;
        }
        Change::Drop => stop_trusting(contents, now)?,
        Change::Renew { active, next } => {
            Slot::Active.put(contents, active, key, now)?;
            Slot::Next.put(contents, next, key, now)?;
            put_crl(contents, BTreeMap::new(), now)?;
            stop_trusting(contents, now)?;
        }
        Change::Finish => {
            contents.remove(authority_key::ROTATION);
            // Serials that were never in the ledger were issued by authorities that are no longer trusted.
            put_crl(contents, BTreeMap::new(), now)?;
        }
    }
    Ok(true)
}

/// Stops trusting previous authorities.
fn stop_trusting(contents: &mut Contents, now: Timestamp) -> Result<(), PkiError> {
    contents.remove(authority_key::RETIRING_CRT);
    drop_ancestors(contents)?;
    put_rotation(contents, Phase::Dropping, now)
}

/// Makes the next authority the active one, and `next` the one after it if it is built in.
fn switch(contents: &mut Contents, next: &NewAuthority, now: Timestamp) -> Result<(), PkiError> {
    let previous = Certificate::from_pem(bytes(contents, authority_key::ACTIVE_CRT))?;
    let retiring = read_bundle(bytes(contents, authority_key::RETIRING_CRT))?;
    let retiring: Vec<_> = [previous].into_iter().chain(retiring).filter(|old| old.not_after() >= now).collect();
    put(contents, authority_key::RETIRING_CRT, pki::bundle(&retiring));
    let issuers = Issuers::from_json(bytes(contents, authority_key::ISSUERS))?;
    // The new issuer does not sign requests that the previous one has not signed yet.
    if issuers.active != issuers.next {
        let pending: Vec<_> = contents.keys().filter(|key| key.starts_with(authority_key::PENDING)).cloned().collect();
        for key in pending {
            wipe(contents.remove(&key));
        }
    }
    Slot::promote_next(contents)?;
    if issuers.next == Issuer::BuiltIn {
        Slot::Next.put(contents, next, None, now)?;
    }
    let ledger = Ledger::from_json(bytes(contents, authority_key::LEDGER))?;
    let unknown = unknown_serials(&crl_serials(bytes(contents, authority_key::CRL))?, &ledger, now);
    put_crl(contents, unknown, now)?;
    if contents.contains_key(authority_key::ROTATION) {
        put_rotation(contents, Phase::Reissuing, now)?;
    }
    Ok(())
}

fn bytes<'a>(contents: &'a Contents, key: &str) -> &'a [u8] {
    contents.get(key).map(|bytes| bytes.0.as_slice()).unwrap_or_default()
}

fn put(contents: &mut Contents, key: &str, content: impl Into<Vec<u8>>) {
    wipe(contents.insert(key.into(), ByteString(content.into())));
}

/// Wipes what was in a Secret: it may have been a private key.
fn wipe(content: Option<ByteString>) {
    if let Some(mut content) = content {
        content.0.zeroize();
    }
}

/// The place of an authority in its Secret.
#[derive(Clone, Copy)]
enum Slot {
    Active,
    Next,
}

impl Slot {
    /// The keys of its certificate and its private key.
    fn keys(self) -> [&'static str; 2] {
        match self {
            Self::Active => [authority_key::ACTIVE_CRT, authority_key::ACTIVE_KEY],
            Self::Next => [authority_key::NEXT_CRT, authority_key::NEXT_KEY],
        }
    }

    /// Puts an authority there: a new one, or an external one with its private key if that is known.
    fn put(
        self,
        contents: &mut Contents,
        new: &NewAuthority,
        external_key: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<(), PkiError> {
        let [certificate, key] = self.keys();
        match new {
            NewAuthority::BuiltIn { common_name, duration } => {
                let authority = Authority::create(common_name, *duration, now)?;
                put(contents, certificate, authority.certificate().pem());
                put(contents, key, authority.key_pem());
                self.record_issuer(contents, Issuer::BuiltIn)
            }
            NewAuthority::External(issuer, external) => {
                put(contents, certificate, external.authority.pem());
                wipe(contents.remove(key));
                if let Some(pem) = external_key {
                    put(contents, key, Authority::load(external.authority.pem().as_bytes(), pem)?.key_pem());
                }
                let mut ancestors = read_bundle(bytes(contents, authority_key::ANCESTORS_CRT))?;
                let new: Vec<_> = external.ancestors.iter().filter(|one| !ancestors.contains(one)).cloned().collect();
                ancestors.extend(new);
                put_ancestors(contents, &ancestors);
                self.record_issuer(contents, issuer.clone())
            }
        }
    }

    /// Puts a copy of the next authority into the place of the active one.
    fn promote_next(contents: &mut Contents) -> Result<(), PkiError> {
        for (to, from) in Self::Active.keys().into_iter().zip(Self::Next.keys()) {
            match contents.get(from).cloned() {
                Some(content) => wipe(contents.insert(to.into(), content)),
                None => wipe(contents.remove(to)),
            }
        }
        let issuers = Issuers::from_json(bytes(contents, authority_key::ISSUERS))?;
        Self::Active.record_issuer(contents, issuers.next)
    }

    /// Records which issuer an authority belongs to. Without a record both are built in.
    fn record_issuer(self, contents: &mut Contents, issuer: Issuer) -> Result<(), PkiError> {
        let mut issuers = Issuers::from_json(bytes(contents, authority_key::ISSUERS))?;
        match self {
            Self::Active => issuers.active = issuer,
            Self::Next => issuers.next = issuer,
        }
        if issuers == Issuers::default() {
            contents.remove(authority_key::ISSUERS);
        } else {
            put(contents, authority_key::ISSUERS, issuers.to_json()?);
        }
        Ok(())
    }
}

/// Drops the ancestors of authorities that are no longer trusted.
fn drop_ancestors(contents: &mut Contents) -> Result<(), PkiError> {
    let ancestors = read_bundle(bytes(contents, authority_key::ANCESTORS_CRT))?;
    let mut kept: Vec<Certificate> = vec![];
    for slot in [Slot::Active, Slot::Next] {
        let mut top = Certificate::from_pem(bytes(contents, slot.keys()[0]))?;
        while let Some(parent) = pki::parent(&top, &ancestors).filter(|parent| !kept.contains(parent)) {
            top = parent.clone();
            kept.push(top.clone());
        }
    }
    put_ancestors(contents, &kept);
    Ok(())
}

fn put_ancestors(contents: &mut Contents, ancestors: &[Certificate]) {
    if ancestors.is_empty() {
        contents.remove(authority_key::ANCESTORS_CRT);
    } else {
        put(contents, authority_key::ANCESTORS_CRT, pki::bundle(ancestors));
    }
}

fn put_rotation(contents: &mut Contents, phase: Phase, now: Timestamp) -> Result<(), PkiError> {
    let since = Timestamp::from_second(now.as_second()).unwrap_or(now);
    put(contents, authority_key::ROTATION, Rotation { phase, since }.to_json()?);
    Ok(())
}

/// Makes a Secret that a rotation can begin with, from what is left of the authorities' Secret and what members trust.
fn put_salvage(contents: &mut Contents, salvage: &Salvage) -> Result<(), PkiError> {
    let active = salvage.active.pem();
    if Authority::load(active.as_bytes(), bytes(contents, authority_key::ACTIVE_KEY)).is_err() {
        contents.remove(authority_key::ACTIVE_KEY);
    }
    if crl_serials(bytes(contents, authority_key::CRL)).is_err() {
        put(contents, authority_key::CRL, salvage.crl.clone());
    }
    if Issuers::from_json(bytes(contents, authority_key::ISSUERS)).is_err() {
        contents.remove(authority_key::ISSUERS);
    }
    if read_bundle(bytes(contents, authority_key::ANCESTORS_CRT)).is_err() {
        contents.remove(authority_key::ANCESTORS_CRT);
    }
    if Ledger::from_json(bytes(contents, authority_key::LEDGER)).is_err() {
        put(contents, authority_key::LEDGER, Ledger::default().to_json()?);
    }
    put(contents, authority_key::ACTIVE_CRT, active);
    // Their leaves may be in use until the rotation is complete.
    put(contents, authority_key::RETIRING_CRT, pki::bundle(&salvage.others));
    Ok(())
}

/// The serials on a revocation list that were never in the ledger. They stay revoked, because the ledger may have been edited.
pub fn unknown_serials(listed: &BTreeSet<Serial>, ledger: &Ledger, now: Timestamp) -> BTreeMap<Serial, Timestamp> {
    listed.iter().filter(|serial| !ledger.knows(**serial)).map(|serial| (*serial, now)).collect()
}

/// Writes a revocation list of all serials that are revoked in the ledger and of these ones. The active authority signs it.
fn put_crl(contents: &mut Contents, further: BTreeMap<Serial, Timestamp>, now: Timestamp) -> Result<(), PkiError> {
    let ledger = Ledger::from_json(bytes(contents, authority_key::LEDGER))?;
    let revoked = further.into_iter().chain(ledger.revoked());
    let (certificate, key) = (bytes(contents, authority_key::ACTIVE_CRT), bytes(contents, authority_key::ACTIVE_KEY));
    let crl = if key.is_empty() {
        sign_crl_without_key(revoked, Certificate::from_pem(certificate)?.not_after(), now)?
    } else {
        Authority::load(certificate, key)?.sign_crl(revoked, now)?
    };
    put(contents, authority_key::CRL, crl);
    Ok(())
}
