//! Real authorities and leaves, made once for all worlds: making and reading them is what would cost.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use etcd_warden::{
    certificates::{
        requests::LeafRequest,
        secret::{CachedSecret, SecretDerived},
        transition::{AuthorityRequest, NewAuthority},
    },
    kubernetes::secret::SecretView,
    names::{authority_key, member_key, tls_key},
    pki::{Authority, Certificate, Domain, Ledger, Serial},
};
use jiff::Timestamp;

/// When every world begins.
pub static BEGIN: LazyLock<Timestamp> = LazyLock::new(|| "2026-03-01T12:00:00Z".parse().expect("a time"));

/// A leaf as it is in a Secret.
pub struct Leaf {
    pub certificate: Certificate,
    pub key_digest: String,
}

#[derive(Default)]
struct Pool {
    authorities: HashMap<Domain, Arc<(Authority, Authority)>>,
    leaves: HashMap<(String, u32), Arc<Leaf>>,
    lists: HashMap<(Domain, Vec<Serial>), Vec<u8>>,
}

static POOL: LazyLock<Mutex<Pool>> = LazyLock::new(Mutex::default);

fn pool() -> std::sync::MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The active and the next authority of a domain.
fn authorities(request: &AuthorityRequest) -> Arc<(Authority, Authority)> {
    let create = |new: &NewAuthority| match new {
        NewAuthority::BuiltIn { common_name, duration } => {
            Authority::create(common_name, *duration, *BEGIN).expect("an authority")
        }
        NewAuthority::External(issuer, _) => panic!("no world has an external issuer, and this is {issuer}"),
    };
    let make = || Arc::new((create(&request.active), create(&request.next)));
    pool().authorities.entry(request.domain).or_insert_with(make).clone()
}

fn authority(domain: Domain) -> Arc<(Authority, Authority)> {
    pool().authorities[&domain].clone()
}

/// The list of these revoked certificates, of which etcd reads no more than the serial numbers.
fn list(domain: Domain, authority: &Authority, revoked: Vec<Serial>) -> Vec<u8> {
    let key = (domain, revoked);
    if let Some(list) = pool().lists.get(&key) {
        return list.clone();
    }
    let list = authority.sign_crl(key.1.iter().map(|serial| (*serial, *BEGIN)), *BEGIN).expect("a list");
    pool().lists.entry(key).or_insert(list).clone()
}

/// The contents of an authority's new Secret.
pub fn authority_data(request: &AuthorityRequest) -> SecretView {
    let both = authorities(request);
    let digest = |authority: &Authority| authority.certificate().key_digest().to_hex().into_bytes();
    let data = [
        (authority_key::ACTIVE_CRT, both.0.certificate().pem().into()),
        (authority_key::ACTIVE_KEY, digest(&both.0)),
        (authority_key::NEXT_CRT, both.1.certificate().pem().into()),
        (authority_key::NEXT_KEY, digest(&both.1)),
        (authority_key::CRL, list(request.domain, &both.0, vec![])),
        (authority_key::LEDGER, Ledger::default().to_json().expect("a ledger")),
    ];
    let data = data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    SecretView { type_: "Opaque".into(), data, ..SecretView::default() }
}

/// The leaf for a request, another one for each `generation`.
pub fn leaf(request: &LeafRequest, generation: u32) -> Arc<Leaf> {
    let key = (format!("{} {} {}", request.domain, request.holder, request.keys.certificate), generation);
    if let Some(leaf) = pool().leaves.get(&key) {
        return leaf.clone();
    }
    let issued = authority(request.domain).0.issue(&request.spec, *BEGIN).expect("a leaf");
    let made = Arc::new(Leaf { key_digest: issued.key.public_digest().to_hex(), certificate: issued.certificate });
    // Another thread may have been first.
    pool().leaves.entry(key).or_insert(made).clone()
}

/// Changes the ledger in an authority's Secret, and its list with it.
pub fn with_ledger(domain: Domain, secret: &CachedSecret, change: impl FnOnce(&mut Ledger)) -> SecretView {
    let mut ledger = secret.authorities().expect("authorities").ledger.clone();
    let mut secret = SecretView::clone(secret);
    let revoked = |ledger: &Ledger| ledger.revoked().map(|(serial, _)| serial).collect::<Vec<_>>();
    let before = revoked(&ledger);
    change(&mut ledger);
    let now = revoked(&ledger);
    if before != now {
        secret.data.insert(authority_key::CRL.into(), list(domain, &authority(domain).0, now));
    }
    secret.data.insert(authority_key::LEDGER.into(), ledger.to_json().expect("a ledger"));
    secret
}

/// The keys of Secrets that hold a certificate.
const CERTIFICATES: [&str; 6] = [
    member_key::SERVER_CRT,
    member_key::PEER_CRT,
    member_key::CLIENT_CRT,
    tls_key::CRT,
    authority_key::ACTIVE_CRT,
    authority_key::NEXT_CRT,
];

/// What a Secret holds under each key.
type Contents = BTreeMap<String, Vec<u8>>;

/// What is derived from a Secret. As no Secret here has a uid, it follows from the contents alone, which worlds have in common.
pub fn derived(secret: &SecretView) -> Arc<SecretDerived> {
    thread_local! {
        static KNOWN: RefCell<HashMap<Contents, Arc<SecretDerived>>> = RefCell::default();
    }
    assert_eq!(secret.meta.uid, None, "what is derived would follow from the uid too");
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
    KNOWN.with_borrow_mut(|known| known.entry(text.to_owned()).or_insert_with(read).clone())
}
