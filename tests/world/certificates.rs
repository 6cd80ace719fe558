//! Real authorities and leaves. Creating and reading them is what would cost, so those of a world's first day are created once for
//! all worlds.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    thread::LocalKey,
};

use etcd_warden::{
    certificates::{
        authority_secret,
        leaf::SignedBy,
        requests::LeafRequest,
        secret::{CachedSecret, SecretDerived},
        transition::{AuthorityRequest, Transition},
    },
    kubernetes::secret::{SecretView, is_private},
    names::{authority_key, member_key, tls_key},
    pki::{Authority, Certificate, Ledger, Serial, digest_of_private_pem, read_bundle},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;

/// When every world begins.
pub static BEGIN: LazyLock<Timestamp> = LazyLock::new(|| "2026-03-01T12:00:00Z".parse().expect("a time"));

/// How long after its beginning a world still uses certificates that all worlds have in common, as if they were issued at its
/// beginning.
const SHARED: SignedDuration = SignedDuration::from_hours(24);

/// A leaf as it is in a Secret.
pub struct Leaf {
    pub certificate: Certificate,
    pub key_digest: String,
}

#[derive(Default)]
struct Pool {
    /// What a Secret of authorities holds first, by the names of the authorities.
    contents: HashMap<(String, String), Contents>,
    /// The private keys of authorities, by the digests that stand for them.
    keys: HashMap<Vec<u8>, ByteString>,
    /// The authorities, by the digests of their private keys.
    authorities: HashMap<Vec<u8>, Arc<Authority>>,
    leaves: HashMap<(Vec<u8>, String, u32), Arc<Leaf>>,
    lists: HashMap<(Vec<u8>, Vec<Serial>), Vec<u8>>,
}

static POOL: LazyLock<Mutex<Pool>> = LazyLock::new(Mutex::default);

fn pool() -> std::sync::MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When something is issued, and whether worlds have it in common.
fn moment(now: Timestamp) -> (Timestamp, bool) {
    let shared = now.duration_since(*BEGIN) < SHARED;
    (if shared { *BEGIN } else { now }, shared)
}

/// The contents of a Secret as a cache has them: a digest stands for a private key.
fn view(contents: authority_secret::Contents) -> Contents {
    let show = |(key, value): (String, ByteString)| {
        if !is_private(&key) {
            return (key, value.0);
        }
        let digest = digest_of_private_pem(&value.0).expect("a private key").to_hex().into_bytes();
        pool().keys.insert(digest.clone(), value);
        (key, digest)
    };
    contents.into_iter().map(show).collect()
}

/// The contents of a Secret, private keys included.
fn contents(secret: &SecretView) -> authority_secret::Contents {
    let reveal = |(key, value): (&String, &Vec<u8>)| {
        let value = if is_private(key) { pool().keys[value].clone() } else { ByteString(value.clone()) };
        (key.clone(), value)
    };
    secret.data.iter().map(reveal).collect()
}

/// The contents of an authorities' new Secret.
pub fn authority_data(request: &AuthorityRequest, now: Timestamp) -> SecretView {
    let (at, shared) = moment(now);
    let create = || view(authority_secret::create(request, None, at).expect("authorities"));
    let data = if shared {
        let key = (request.active.common_name().to_owned(), request.next.common_name().to_owned());
        let known = pool().contents.get(&key).cloned();
        // Another thread may have been first.
        known.unwrap_or_else(|| {
            let created = create();
            pool().contents.entry(key).or_insert(created).clone()
        })
    } else {
        create()
    };
    SecretView { type_: "Opaque".into(), data, ..SecretView::default() }
}

/// The Secret after a transition of its authorities, if it holds those that the plan has seen.
pub fn after(secret: &SecretView, transition: &Transition, now: Timestamp) -> Option<SecretView> {
    let mut data = contents(secret);
    let applied = authority_secret::apply(&mut data, transition, None, now).expect("authorities");
    applied.then(|| SecretView { data: view(data), ..secret.clone() })
}

/// An authority of a Secret, and the digest of its private key.
fn authority(secret: &SecretView, signed_by: SignedBy) -> (Vec<u8>, Arc<Authority>) {
    let [certificate, key] = match signed_by {
        SignedBy::Active => [authority_key::ACTIVE_CRT, authority_key::ACTIVE_KEY],
        SignedBy::Next => [authority_key::NEXT_CRT, authority_key::NEXT_KEY],
    };
    let digest = secret.data[key].clone();
    let known = pool().authorities.get(&digest).cloned();
    let authority = known.unwrap_or_else(|| {
        let key = pool().keys[&digest].clone();
        let loaded = Arc::new(Authority::load(&secret.data[certificate], &key.0).expect("an authority"));
        pool().authorities.entry(digest.clone()).or_insert(loaded).clone()
    });
    (digest, authority)
}

/// The list of these revoked certificates, of which etcd reads no more than the serial numbers.
fn list(secret: &SecretView, revoked: Vec<Serial>, now: Timestamp) -> Vec<u8> {
    let (digest, authority) = authority(secret, SignedBy::Active);
    let (at, shared) = moment(now);
    let key = (digest, revoked);
    let known = pool().lists.get(&key).filter(|_| shared).cloned();
    known.unwrap_or_else(|| {
        // An authority that a rotation created on the first day.
        let at = at.max(authority.certificate().not_before());
        let list = authority.sign_crl(key.1.iter().map(|serial| (*serial, at)), at).expect("a list");
        if shared { pool().lists.entry(key).or_insert(list).clone() } else { list }
    })
}

/// The leaf for a request, signed by an authority of a Secret, another one for each `generation`.
pub fn leaf(secret: &SecretView, request: &LeafRequest, generation: u32, now: Timestamp) -> Arc<Leaf> {
    let (digest, authority) = authority(secret, request.signed_by);
    let (at, shared) = moment(now);
    let key = (digest, format!("{} {} {}", request.domain, request.holder, request.keys.certificate), generation);
    let known = pool().leaves.get(&key).filter(|_| shared).cloned();
    known.unwrap_or_else(|| {
        // An authority that a rotation created on the first day.
        let at = at.max(authority.certificate().not_before());
        let issued = authority.issue(&request.spec, at).expect("a leaf");
        let made = Arc::new(Leaf { key_digest: issued.key.public_digest().to_hex(), certificate: issued.certificate });
        if shared { pool().leaves.entry(key).or_insert(made).clone() } else { made }
    })
}

/// Changes the ledger in an authority's Secret, and its list with it.
pub fn with_ledger(secret: &CachedSecret, now: Timestamp, change: impl FnOnce(&mut Ledger)) -> SecretView {
    let mut ledger = secret.authorities().expect("authorities").ledger.clone();
    let mut secret = SecretView::clone(secret);
    let revoked = |ledger: &Ledger| ledger.revoked().map(|(serial, _)| serial).collect::<Vec<_>>();
    let before = revoked(&ledger);
    change(&mut ledger);
    let after = revoked(&ledger);
    if before != after {
        let list = list(&secret, after, now);
        secret.data.insert(authority_key::CRL.into(), list);
    }
    secret.data.insert(authority_key::LEDGER.into(), ledger.to_json().expect("a ledger"));
    secret
}

/// The keys of Secrets that hold a certificate.
const CERTIFICATES: [&str; 7] = [
    member_key::SERVER_CRT,
    member_key::PEER_CRT,
    member_key::CLIENT_CRT,
    tls_key::CRT,
    tls_key::NEXT_CRT,
    authority_key::ACTIVE_CRT,
    authority_key::NEXT_CRT,
];

/// What a Secret holds under each key.
type Contents = BTreeMap<String, Vec<u8>>;

/// What is derived from a Secret. Only Secrets of authorities have a uid here, and of them nothing follows from it. So it follows
/// from the contents alone, which worlds have in common.
pub fn derived(secret: &SecretView) -> Arc<SecretDerived> {
    thread_local! {
        static KNOWN: RefCell<HashMap<Contents, Arc<SecretDerived>>> = RefCell::default();
    }
    let certificates = secret.data.iter().filter(|(key, _)| CERTIFICATES.contains(&key.as_str()));
    let derive = || Arc::new(SecretDerived::knowing(certificates.map(|(key, text)| (key.clone(), known(text)))));
    KNOWN.with_borrow_mut(|known| {
        if let Some(derived) = known.get(&secret.data) {
            return derived.clone();
        }
        if known.len() >= 1_000 {
            known.clear();
        }
        known.entry(secret.data.clone()).or_insert_with(derive).clone()
    })
}

/// The certificate with this text, read once.
fn known(text: &[u8]) -> Certificate {
    thread_local! {
        static KNOWN: RefCell<HashMap<Vec<u8>, Certificate>> = RefCell::default();
    }
    let read = || Certificate::from_pem(text).expect("a certificate");
    remember(&KNOWN, text, read)
}

/// The certificates of a bundle, read once.
pub fn bundle(text: &[u8]) -> Arc<[Certificate]> {
    thread_local! {
        static KNOWN: RefCell<HashMap<Vec<u8>, Arc<[Certificate]>>> = RefCell::default();
    }
    remember(&KNOWN, text, || read_bundle(text).expect("a bundle").into())
}

/// What follows from a text. Worlds in which years pass have many of their own.
fn remember<T: Clone>(known: &'static LocalKey<RefCell<HashMap<Vec<u8>, T>>>, text: &[u8], read: impl FnOnce() -> T) -> T {
    known.with_borrow_mut(|known| {
        if let Some(result) = known.get(text) {
            return result.clone();
        }
        if known.len() >= 5_000 {
            known.clear();
        }
        known.entry(text.to_owned()).or_insert_with(read).clone()
    })
}
