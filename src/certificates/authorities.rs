//! The certificate authorities of a domain, as they are stored in their Secret.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::leaf::SignedBy;
use crate::{
    kubernetes::secret::SecretView,
    names::authority_key,
    pki::{self, Certificate, Issuer, Issuers, Ledger, Phase, PkiError, Rotation, Serial, read_bundle},
};

/// The authorities of a domain.
#[derive(Clone, Debug)]
pub struct Authorities {
    /// The authority that signs.
    pub active: Certificate,
    /// The authority that signs next. It is the active one itself if an external issuer signs, which has only one.
    pub next: Certificate,
    /// All trusted authorities, in PEM: the trust bundle of members.
    pub bundle: String,
    /// The trusted authorities and their ancestors, in PEM: the trust bundle of clients, some of which accept only a root.
    pub roots: String,
    /// The revocation list, DER.
    pub crl: Vec<u8>,
    /// The serials on the revocation list.
    pub listed: BTreeSet<Serial>,
    /// Authorities that no longer sign and are still trusted.
    pub retiring: Vec<Certificate>,
    /// The certificates above the authorities, up to their roots.
    pub ancestors: Vec<Certificate>,
    /// The intermediate certificates that are presented with a leaf of the active authority.
    pub chain: Vec<Certificate>,
    /// The intermediate certificates that are presented with a leaf of the next authority.
    pub next_chain: Vec<Certificate>,
    /// Which issuers the active and the next authority belong to.
    pub issuers: Issuers,
    /// How far a rotation in phases has come, if there is one.
    pub rotation: Option<Rotation>,
    /// The certificates that were issued.
    pub ledger: Ledger,
    /// Whether the private key of the active authority exists, unless an issuer keeps it.
    has_key: bool,
}

impl Authorities {
    /// Reads them from their Secret. `single` reads the one certificate under a key, if the key exists.
    ///
    /// # Errors
    /// What is wrong with the contents.
    pub fn read(secret: &SecretView, single: impl Fn(&str) -> Option<Result<Certificate, PkiError>>) -> Result<Self, String> {
        let text = |key: &str| secret.data.get(key).map(Vec::as_slice).unwrap_or_default();
        let issuers = Issuers::from_json(text(authority_key::ISSUERS)).map_err(|e| format!("{}: {e}", authority_key::ISSUERS))?;
        let certificate = |crt: &str| match single(crt) {
            None => Err(format!("{crt} is missing")),
            Some(Err(e)) => Err(format!("{crt}: {e}")),
            Some(Ok(certificate)) if !certificate.is_ca() => Err(format!("{crt} is not a CA certificate")),
            Some(Ok(certificate)) => Ok(certificate),
        };
        let authority = |crt: &str, key: &str| {
            let certificate = certificate(crt)?;
            match secret.key_digest(key) {
                None => Err(format!("{key} is missing or not a private key")),
                Some(digest) if digest != certificate.key_digest() => Err(format!("{key} does not belong to {crt}")),
                Some(_) => Ok(certificate),
            }
        };
        let bundle = |key: &str| read_bundle(text(key)).map_err(|e| format!("{key}: {e}"));
        let retiring = bundle(authority_key::RETIRING_CRT)?;
        let ancestors = bundle(authority_key::ANCESTORS_CRT)?;
        let rotation = secret.data.get(authority_key::ROTATION).map(|text| Rotation::from_json(text));
        let rotation = rotation.transpose().map_err(|e| format!("{}: {e}", authority_key::ROTATION))?;
        // A rotation that replaces a lost authority begins without its key.
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
        let trusted = || trusted(&active, &next, &retiring);
        let bundle = pki::bundle(pki::renewed_first(trusted()));
        let roots = pki::bundle(pki::renewed_first(trusted().chain(&ancestors)));
        let [chain, next_chain] = [&active, &next].map(|authority| pki::presented_chain(authority, &ancestors));
        Ok(Self {
            active,
            next,
            bundle,
            roots,
            crl,
            listed,
            retiring,
            ancestors,
            chain,
            next_chain,
            issuers,
            rotation,
            ledger,
            has_key,
        })
    }

    /// Whether the private key of the active authority exists, unless an issuer keeps it.
    pub fn has_key(&self) -> bool {
        self.has_key
    }

    /// Whether the active authority can sign, as far as is known here.
    pub fn can_sign(&self, now: Timestamp) -> bool {
        self.is_in_force(now) && !self.issuer_has_moved_on()
    }

    /// The authority that signs a leaf.
    pub fn signing(&self, signed_by: SignedBy) -> Signing<'_> {
        match signed_by {
            SignedBy::Active => Signing { authority: &self.active, issuer: &self.issuers.active, chain: &self.chain },
            SignedBy::Next => Signing { authority: &self.next, issuer: &self.issuers.next, chain: &self.next_chain },
        }
    }

    /// Whether an authority can sign, as far as is known here.
    pub fn can_sign_as(&self, signed_by: SignedBy, now: Timestamp) -> bool {
        match signed_by {
            SignedBy::Active => self.can_sign(now),
            SignedBy::Next => self.next.check_valid_authority(now).is_ok(),
        }
    }

    /// Whether leaves of the active authority are accepted and it is not lost.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.has_key && self.active.check_valid_authority(now).is_ok()
    }

    /// Whether an external issuer already signs with the next authority, which is not trusted everywhere yet.
    fn issuer_has_moved_on(&self) -> bool {
        self.is_leaving_issuer() && self.issuers.active == self.issuers.next
    }

    /// Whether another authority is going to replace that of an external issuer.
    pub fn is_leaving_issuer(&self) -> bool {
        !self.issuers.active.has_key() && self.active != self.next
    }

    /// The authorities that members and clients must trust to verify leaves of this domain. Among them are the next one, so that
    /// it is trusted before it signs, and those whose leaves may still be in use.
    pub fn trusted(&self) -> impl Iterator<Item = &Certificate> {
        trusted(&self.active, &self.next, &self.retiring)
    }
}

/// An authority that signs a leaf.
#[derive(Clone, Copy)]
pub struct Signing<'a> {
    /// Its certificate.
    pub authority: &'a Certificate,
    /// The issuer that it belongs to.
    pub issuer: &'a Issuer,
    /// The intermediate certificates that are presented with the leaf.
    pub chain: &'a [Certificate],
}

fn trusted<'a>(
    active: &'a Certificate,
    next: &'a Certificate,
    retiring: &'a [Certificate],
) -> impl Iterator<Item = &'a Certificate> {
    [active].into_iter().chain([next].into_iter().filter(move |next| *next != active)).chain(retiring)
}
