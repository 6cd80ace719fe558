//! Secrets with certificates, and what is derived from one version of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use jiff::Timestamp;

use super::{authorities::Authorities, leaf::DesiredLeaf};
use crate::{
    digest::fingerprint,
    kubernetes::{
        cached::Cached,
        secret::{SecretView, is_private},
    },
    names::member_key,
    pki::{Certificate, Domain, PerDomain, PkiError, RenewalJitter, read_bundle},
};

/// A Secret as it was read, without private keys.
pub type CachedSecret = Cached<SecretView, SecretDerived>;

/// A certificate, and the intermediate certificates presented with it.
type Presented = (Certificate, Arc<[Certificate]>);

/// What is derived from a Secret.
#[derive(Default)]
pub struct SecretDerived {
    certificates: Mutex<BTreeMap<String, Presented>>,
    fingerprint: OnceLock<String>,
    bundles: OnceLock<Option<String>>,
    expiry: OnceLock<PerDomain<Option<Timestamp>>>,
    authorities: OnceLock<Result<Arc<Authorities>, String>>,
    jitter: OnceLock<RenewalJitter>,
    current: Mutex<Option<Current>>,
}

impl SecretDerived {
    /// Derived values that already contain these certificates, by their keys. They are presented without intermediate
    /// certificates.
    pub fn knowing(certificates: impl IntoIterator<Item = (String, Certificate)>) -> Self {
        let presented = certificates.into_iter().map(|(key, certificate)| (key, (certificate, Arc::default())));
        Self { certificates: Mutex::new(presented.collect()), ..Self::default() }
    }
}

/// The part of [`crate::names::annotation::BUNDLES`] with the authorities that signed the peer leaf.
pub const PEER_LEAF: &str = "peer-leaf";

/// The keys of a member's Secret that hold its leaf certificates of a domain.
pub fn leaf_keys(domain: Domain) -> &'static [&'static str] {
    match domain {
        Domain::Client => &[member_key::SERVER_CRT, member_key::CLIENT_CRT],
        Domain::Peer => &[member_key::PEER_CRT],
    }
}

/// The leaves and authorities that a Secret is up to date with, and for how long.
pub struct Current {
    /// The desired leaves.
    pub leaves: Arc<Vec<DesiredLeaf>>,
    /// The authorities.
    pub authorities: PerDomain<Arc<Authorities>>,
    /// The period in which no leaf has to be renewed.
    pub during: Range<Timestamp>,
}

impl CachedSecret {
    /// The certificate under a key, if there is one: the first, if intermediate certificates follow it.
    pub fn certificate(&self, key: &str) -> Option<Result<Certificate, PkiError>> {
        Some(self.presented(key)?.map(|presented| presented.0))
    }

    /// The certificate under a key that may hold only one, if there is one.
    fn single_certificate(&self, key: &str) -> Option<Result<Certificate, PkiError>> {
        Some(self.presented(key)?.and_then(|(certificate, chain)| match chain.len() {
            0 => Ok(certificate),
            others => Err(PkiError::Count { expected: "CERTIFICATE", found: 1 + others }),
        }))
    }

    /// Whether the certificate under a key is followed by exactly these intermediate certificates.
    pub fn is_presented_with(&self, key: &str, chain: &[Certificate]) -> bool {
        self.presented(key).and_then(Result::ok).is_some_and(|presented| *presented.1 == *chain)
    }

    fn presented(&self, key: &str) -> Option<Result<Presented, PkiError>> {
        let mut read = self.derived().certificates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(presented) = read.get(key) {
            return Some(Ok(presented.clone()));
        }
        let text = self.data.get(key).filter(|pem| !pem.is_empty())?;
        let presented = Certificate::with_chain(text).map(|(leaf, chain)| (leaf, chain.into()));
        if let Ok(presented) = &presented {
            read.insert(key.to_owned(), Presented::clone(presented));
        }
        Some(presented)
    }

    /// The authorities that the Secret holds, if it is an authorities' Secret.
    ///
    /// # Errors
    /// What is wrong with its contents.
    pub fn authorities(&self) -> Result<&Arc<Authorities>, &str> {
        let read =
            self.derived().authorities.get_or_init(|| Authorities::read(self, |key| self.single_certificate(key)).map(Arc::new));
        read.as_ref().map_err(String::as_str)
    }

    /// A digest of the contents without private keys. It differs between versions of the contents.
    pub fn fingerprint(&self) -> &str {
        let public = || self.data.iter().filter(|(key, _)| !is_private(key));
        self.derived().fingerprint.get_or_init(|| fingerprint(public().map(|(key, value)| (key.as_str(), value.as_slice()))))
    }

    /// When the first of a member's leaf certificates of a domain expires, of those that are readable.
    pub fn expiry(&self, domain: Domain) -> Option<Timestamp> {
        let first = |domain| {
            let leaves = leaf_keys(domain).iter().filter_map(|key| self.certificate(key)?.ok());
            leaves.map(|leaf| leaf.not_after()).min()
        };
        self.derived().expiry.get_or_init(|| PerDomain::from_fn(first))[domain]
    }

    /// The jitter of the renewal. All leaves of a Secret have the same, so that it is written once.
    pub fn jitter(&self) -> RenewalJitter {
        *self.derived().jitter.get_or_init(|| RenewalJitter::of(self.meta.uid.as_deref().unwrap_or_default()))
    }

    /// Whether the Secret was found to be up to date with these leaves and authorities, and still is.
    pub fn is_current(&self, leaves: &Arc<Vec<DesiredLeaf>>, authorities: PerDomain<&Arc<Authorities>>, now: Timestamp) -> bool {
        let current = self.derived().current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().is_some_and(|current| {
            let same = |(domain, authorities)| Arc::ptr_eq(&current.authorities[domain], authorities);
            Arc::ptr_eq(&current.leaves, leaves)
                && authorities.iter().all(|(d, a)| same((d, *a)))
                && current.during.contains(&now)
        })
    }

    /// Keeps what the Secret is up to date with.
    pub fn set_current(&self, current: Current) {
        *self.derived().current.lock().unwrap_or_else(PoisonError::into_inner) = Some(current);
    }

    /// The fingerprints of the authorities in both trust bundles of a member's Secret, and of those that signed its peer leaf, in
    /// the form of [`crate::names::annotation::BUNDLES`].
    pub fn bundles(&self) -> Option<&str> {
        let bundle = |key: &str| read_bundle(self.data.get(key)?).ok();
        let names = |authorities: &mut dyn Iterator<Item = &Certificate>| {
            let names: BTreeSet<_> = authorities.map(|authority| authority.fingerprint().to_owned()).collect();
            names.into_iter().collect::<Vec<_>>().join(",")
        };
        let both = || {
            let (client, peer) = (bundle(member_key::CLIENT_CA)?, bundle(member_key::PEER_CA)?);
            let leaf = self.certificate(member_key::PEER_CRT).and_then(Result::ok);
            let mut signers = peer.iter().filter(|authority| leaf.as_ref().is_some_and(|leaf| leaf.is_signed_by(authority)));
            let signers = names(&mut signers);
            let (client, peer) = (names(&mut client.iter()), names(&mut peer.iter()));
            Some(format!("{}={client};{}={peer};{PEER_LEAF}={signers}", Domain::Client, Domain::Peer))
        };
        self.derived().bundles.get_or_init(both).as_deref()
    }
}
