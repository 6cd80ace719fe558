//! Checks of the objects that the operator creates.

use std::collections::{BTreeMap, BTreeSet};

use etcd_warden::{
    api::{EtcdCluster, EtcdUser},
    cache::Guarded,
    ids::Uid,
    names::{MemberName, Names, authority_key, bootstrap_key, member_key, tls_key, user_secret},
    pki::{Authority, Certificate, Domain, Holder, Ledger, PrivateKey, Serial, crl_serials, read_bundle},
};
use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service},
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Resource, ResourceExt,
    api::{DynamicObject, ListParams},
    core::{ApiResource, NamespaceResourceScope},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::namespace::TestNamespace;

/// The authorities of one domain and the certificates that they issued.
pub struct Issuing {
    pub active: Authority,
    pub next: Authority,
    pub ledger: Ledger,
    pub revoked: BTreeSet<Serial>,
    pub crl: Vec<u8>,
}

impl Issuing {
    /// Reads them from their Secret.
    pub async fn read(ns: &TestNamespace<'_>, cluster: &str, domain: Domain) -> Self {
        let names = names(ns, cluster);
        let name = if domain == Domain::Client { names.client_authority() } else { names.peer_authority() };
        let secret: Secret = ns.api().get(&name).await.unwrap();
        let authority = |crt, key| Authority::load(bytes(&secret, crt), bytes(&secret, key)).unwrap();
        let crl = bytes(&secret, authority_key::CRL).to_vec();
        Self {
            active: authority(authority_key::ACTIVE_CRT, authority_key::ACTIVE_KEY),
            next: authority(authority_key::NEXT_CRT, authority_key::NEXT_KEY),
            ledger: Ledger::from_json(bytes(&secret, authority_key::LEDGER)).unwrap(),
            revoked: crl_serials(&crl).unwrap(),
            crl,
        }
    }

    /// How many certificates are recorded in the ledger.
    pub fn written(&self) -> usize {
        self.ledger.entries().count()
    }

    fn bundle(&self) -> Vec<Certificate> {
        vec![self.active.certificate().clone(), self.next.certificate().clone()]
    }

    /// Checks a leaf, its key, and its holder in the ledger.
    #[track_caller]
    fn check(&self, secret: &Secret, [crt, key]: [&str; 2], holder: &Holder) {
        let name = secret.name_any();
        let leaf = certificate(secret, crt);
        assert!(leaf.is_signed_by(self.active.certificate()), "{name}: {crt}");
        let key = PrivateKey::from_pem(bytes(secret, key)).unwrap();
        assert!(key.public_digest() == leaf.key_digest(), "{name}: {crt} is not the key's");
        let written = self.ledger.entries().find(|issued| issued.serial == leaf.serial());
        let written = written.unwrap_or_else(|| panic!("{name}: {crt} is not in the ledger"));
        assert_eq!((&written.holder, written.revoked), (holder, None), "{name}: {crt}");
    }
}

/// The names of a cluster's objects.
pub fn names(ns: &TestNamespace<'_>, cluster: &str) -> Names {
    Names::new(cluster, &ns.name, "cluster.local")
}

/// The contents of a Secret under a key.
pub fn bytes<'a>(secret: &'a Secret, key: &str) -> &'a [u8] {
    secret.data.as_ref().and_then(|data| data.get(key)).map(|ByteString(value)| value.as_slice()).unwrap_or_default()
}

/// The certificate under a key.
#[track_caller]
pub fn certificate(secret: &Secret, key: &str) -> Certificate {
    Certificate::from_pem(bytes(secret, key)).unwrap_or_else(|error| panic!("{}: {key}: {error}", secret.name_any()))
}

/// How many certificates are recorded in the ledger of each domain.
#[derive(Debug, PartialEq, Eq)]
pub struct Recorded {
    pub client: usize,
    pub peer: usize,
}

/// Checks that a cluster and its users have all objects and certificates, that the certificates are signed by the right
/// authorities and recorded, and that every object has its owner. Returns how many certificates are recorded.
pub async fn check_complete(ns: &TestNamespace<'_>, cluster: &str) -> Recorded {
    let names = names(ns, cluster);
    let object: EtcdCluster = ns.api().get(cluster).await.unwrap();
    let uid = object.uid().unwrap();
    let members: Vec<MemberName> = (0..u32::try_from(object.spec.replicas).unwrap()).map(|n| names.member(n)).collect();
    let client = Issuing::read(ns, cluster, Domain::Client).await;
    let peer = Issuing::read(ns, cluster, Domain::Peer).await;
    let initial_cluster: Vec<_> = members.iter().map(|member| format!("{member}={}", names.peer_url(member))).collect();

    let bootstrap: ConfigMap = owned(ns, &names.bootstrap_config(), &uid).await;
    let bootstrap = bootstrap.data.unwrap();
    assert_eq!(bootstrap[bootstrap_key::TOKEN], uid);
    assert_eq!(bootstrap.len(), 1 + 2 * members.len());
    let ca: ConfigMap = owned(ns, &names.ca_config(), &uid).await;
    assert_eq!(read_bundle(ca.data.unwrap()[tls_key::CA].as_bytes()).unwrap(), client.bundle());
    owned::<Service>(ns, &names.client_service(), &uid).await;
    owned::<Service>(ns, &names.peer_service(), &uid).await;
    let budget = ns.api::<PodDisruptionBudget>().get_opt(&names.disruption_budget()).await.unwrap();
    assert_eq!(budget.is_some(), members.len() > 1);

    for member in &members {
        assert_eq!(bootstrap[&bootstrap_key::cluster(member)], initial_cluster.join(","));
        assert_eq!(bootstrap[&bootstrap_key::state(member)], "new");
        let claim: PersistentVolumeClaim = ns.api().get(&names.claim(member)).await.unwrap();
        assert_eq!(claim.metadata.annotations.unwrap()["etcd-warden.dev/cluster-uid"], uid);
        owned::<StatefulSet>(ns, &member.to_string(), &uid).await;
        let secret: Secret = owned(ns, &names.member_secret(member), &uid).await;
        let holder = Holder::Member { name: member.to_string() };
        client.check(&secret, [member_key::SERVER_CRT, member_key::SERVER_KEY], &holder);
        client.check(&secret, [member_key::CLIENT_CRT, member_key::CLIENT_KEY], &holder);
        peer.check(&secret, [member_key::PEER_CRT, member_key::PEER_KEY], &holder);
        for (domain, ca, crl) in
            [(&client, member_key::CLIENT_CA, member_key::CLIENT_CRL), (&peer, member_key::PEER_CA, member_key::PEER_CRL)]
        {
            assert_eq!(read_bundle(bytes(&secret, ca)).unwrap(), domain.bundle());
            assert_eq!(bytes(&secret, crl), domain.crl);
            let revoked = domain.ledger.revoked().map(|(serial, _)| serial).collect();
            assert_eq!(domain.revoked, revoked);
        }
    }
    let secret: Secret = owned(ns, &names.operator_secret(), &uid).await;
    client.check(&secret, [tls_key::CRT, tls_key::KEY], &Holder::Operator);
    let users = ns.api::<Guarded<EtcdUser>>().list(&ListParams::default()).await.unwrap();
    for user in users.into_iter().filter_map(|user| user.0.ok()) {
        if user.spec.cluster_ref.name == cluster {
            let uid = Uid::of(&user.metadata).unwrap();
            let secret: Secret = owned(ns, &user_secret(&user), uid.as_str()).await;
            assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/tls"));
            assert_eq!(bytes(&secret, tls_key::ENDPOINTS), names.endpoint().as_bytes());
            assert_eq!(read_bundle(bytes(&secret, tls_key::CA)).unwrap(), client.bundle());
            client.check(&secret, [tls_key::CRT, tls_key::KEY], &Holder::User { name: user.name_any(), uid });
        }
    }
    Recorded { client: client.written(), peer: peer.written() }
}

/// An object that is controlled by the owner with this uid.
async fn owned<K>(ns: &TestNamespace<'_>, name: &str, uid: &str) -> K
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
{
    let object: K = ns.api().get(name).await.unwrap();
    assert!(object.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == uid), "{name}");
    object
}

/// Every kind of object that the operator creates.
pub fn kinds() -> [ApiResource; 6] {
    [
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<PersistentVolumeClaim>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<Secret>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<StatefulSet>(&()),
    ]
}

/// All objects of these kinds in the namespace, by kind and name.
pub async fn everything(ns: &TestNamespace<'_>) -> BTreeMap<(String, String), DynamicObject> {
    let mut all = BTreeMap::new();
    for resource in kinds() {
        let api: kube::Api<DynamicObject> = kube::Api::namespaced_with(ns.client.clone(), &ns.name, &resource);
        for object in api.list(&ListParams::default()).await.unwrap() {
            all.insert((resource.kind.clone(), object.name_any()), object);
        }
    }
    all
}
