//! Whether an authority is accepted: the verdicts of the operator, of Go, of OpenSSL and of rustls over some hundreds of
//! authorities, each of which differs from a plain one in one or more respects.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod der;
mod features;
mod reported;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use etcd_warden::pki::{Authority, Certificate, Domain, ExternalAuthority, LeafSpec, PkiError, Usage, acceptance_rules};
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::{CertificateDer, UnixTime};
use serde_json::{Value, json};

use der::{Key, Odd, Recipe, extension, name, seq, tlv};
use features::{Feature, basic_constraints, cn, extended_key_usage};

const NOW: &str = "2026-03-01T12:00:00Z";
const HOST: &str = "demo-0-0.demo-peers.ns.svc";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// Where the operator is stricter than those who verify, on purpose. It is never less strict.
///
/// It wants every CA to say that it is one, and does not read times of some forms. These features begin with these words.
const STRICTER: [&str; 6] = [
    "no basicConstraints",
    "neither keyUsage nor basicConstraints",
    "keyUsage []",
    "version 1",
    "GeneralizedTime in another zone",
    "UTCTime without seconds in another zone",
];

/// It reads and verifies the whole chain in both domains, of which peers look at the CA only: it is the same chain for clients. In the
/// peer domain it refuses these features in what is above the CA, though nobody else looks at them. They have these words.
const STRICTER_ABOVE: [&str; 19] = [
    "expired",
    "not valid yet",
    "pathlen Some(0)",
    "pathlen -1",
    "CA:FALSE",
    "keyUsage [6]",
    "keyUsage [0, 2]",
    "key RSA 1024",
    "key explicit",
    "key compressed",
    "version 2",
    "SAN [\"ip:7f0001\"]",
    "serial",
    "twice",
    "GeneralizedTime in zone +0000",
    "a version with a zero",
    "unused bits that are set",
    "more unused bits than there are",
    "padded",
];

/// What is said of features that programs refuse, by words in their names.
const REASONS: [(&str, &str); 19] = [
    ("fraction", "which is not a time as certificates have it"),
    ("Time in zone", "which is not a time as certificates have it"),
    ("Time in another zone", "which is not a time as certificates have it"),
    ("Time without seconds", "which is not a time as certificates have it"),
    (
        "2.25.329800735698586629295641978511506172918",
        "has the object identifier 2.25.329800735698586629295641978511506172918 in ",
    ),
    ("1.2.2147483648", "has the object identifier 1.2.2147483648 in "),
    ("algorithm in what is signed", "names another algorithm beside its signature"),
    ("beside the signature", "names another algorithm beside its signature"),
    ("critical by another octet", "has critical in a form that is not DER"),
    ("a version with a zero", "has its version in a form that is not DER"),
    ("unused bits that are zero", "has a signature with 3 unused bits"),
    ("unused bits", "has its signature in a form that is not DER"),
    ("padded serial", "has its serial number in a form that is not DER"),
    ("padded keyUsage", "has keyUsage in a form that is not DER"),
    ("padded pathlen", "has basicConstraints in a form that is not DER"),
    ("padded policyConstraints", "has policyConstraints in a form that is not DER"),
    ("padded inhibitAnyPolicy", "has inhibitAnyPolicy in a form that is not DER"),
    ("relative to its issuer", "has nameRelativeToCRLIssuer in crlDistributionPoints"),
    ("RSA 8200", "8200 bits"),
];

/// Where in the chain the certificate is that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The authority is a root itself.
    Alone,
    /// The authority, below a root.
    Below,
    /// The authority between that and the root.
    Between,
    /// The root above.
    Above,
    /// The authority, below a root that did not come with it.
    Rootless,
}

/// An authority and those above it.
struct Subject {
    place: Place,
    /// In what it differs.
    name: String,
    chain: Vec<Vec<u8>>,
    /// The subject of the authority's certificate, and the name of its key.
    name_der: Vec<u8>,
    key: &'static str,
}

impl Subject {
    /// The identifier of its key, which its leaves name.
    fn key_id(&self, keys: &Keys) -> Vec<u8> {
        let read = Certificate::from_der(&self.chain[0]).ok();
        read.and_then(|read| read.subject_key_id().map(<[u8]>::to_vec)).unwrap_or_else(|| keys.0[self.key].id.clone())
    }
}

/// The keys of all authorities by their names.
struct Keys(BTreeMap<&'static str, Key>);

impl Keys {
    fn generate(dir: &Path) -> Self {
        let ec = |curve: &str| format!("-algorithm EC -pkeyopt ec_paramgen_curve:{curve}");
        let rsa = |bits: u32| format!("-algorithm RSA -pkeyopt rsa_keygen_bits:{bits}");
        let list = [
            ("issuing", "P-256", ec("P-256")),
            ("middle", "P-256", ec("P-256")),
            ("root", "P-256", ec("P-256")),
            ("P-384", "EC", ec("P-384")),
            ("P-521", "EC", ec("P-521")),
            ("P-224", "EC", ec("P-224")),
            ("secp256k1", "EC", ec("secp256k1")),
            ("brainpool", "EC", ec("brainpoolP256r1")),
            ("explicit", "EC", ec("P-256") + " -pkeyopt ec_param_enc:explicit"),
            ("compressed", "EC", ec("P-256")),
            ("Ed25519", "Ed25519", "-algorithm ed25519".into()),
            ("RSA 1024", "RSA", rsa(1024)),
            ("DSA 1024", "DSA", "1024".into()),
            ("DSA 2048", "DSA", "2048".into()),
            ("RSA 2048", "RSA", rsa(2048)),
            ("RSA 3072", "RSA", rsa(3072)),
            // With several primes it is generated in seconds.
            ("RSA 8200", "RSA", rsa(8200) + " -pkeyopt rsa_keygen_primes:5"),
        ];
        let file = |name: &str| name.replace(' ', "-");
        let key = |(name, kind, options): (&'static str, _, String)| (name, Key::generate(dir, &file(name), kind, &options));
        let mut keys: BTreeMap<_, _> = list.into_iter().map(key).collect();
        keys.get_mut("compressed").unwrap().compress();
        Self(keys)
    }

    /// The plain certificate of an authority, whose issuer has this key.
    fn plain(&self, at: usize, key: &'static str, issuer: Option<&str>) -> Recipe {
        let mut extensions = vec![
            basic_constraints(true, true, None),
            extension("2.5.29.15", true, der::key_usage(&[5, 6])),
            extension("2.5.29.14", false, tlv(4, &self.0[key].id)),
        ];
        extensions.extend(issuer.map(|issuer| extension("2.5.29.35", false, seq(&[tlv(0x80, &self.0[issuer].id)]))));
        Recipe {
            version: 2,
            serial: vec![1 + u8::try_from(at).unwrap()],
            subject: name(&[cn(&format!("authority {at}"))]),
            not_before: (23, "260101000000Z"),
            not_after: (23, "360101000000Z"),
            extensions,
            algorithm: None,
            spki: None,
            key,
            odd: Odd::default(),
        }
    }

    /// An authority that differs in a place, with a root that has this key.
    fn subject(&self, place: Place, root: &'static str, feature: &Feature) -> Subject {
        let keys: &[&'static str] = match place {
            Place::Alone => &[root],
            Place::Below | Place::Above | Place::Rootless => &["issuing", root],
            Place::Between => &["issuing", "middle", root],
        };
        let odd = match place {
            Place::Alone | Place::Below | Place::Rootless => 0,
            Place::Between => 1,
            Place::Above => keys.len() - 1,
        };
        let recipe = |(at, key): (usize, &&'static str)| self.plain(at, key, keys.get(at + 1).copied());
        let mut recipes: Vec<_> = keys.iter().enumerate().map(recipe).collect();
        (feature.apply)(&mut recipes[odd]);
        let key = recipes[odd].key;
        if key != keys[odd] {
            // What depends on the key: its own identifier, and that in the certificate below it.
            features::put(&mut recipes[odd], extension("2.5.29.14", false, tlv(4, &self.0[key].id)));
            if let Some(below) = odd.checked_sub(1) {
                features::put(&mut recipes[below], extension("2.5.29.35", false, seq(&[tlv(0x80, &self.0[key].id)])));
            }
        }
        let sign = |(at, recipe): (usize, &Recipe)| {
            let by = recipes.get(at + 1).unwrap_or(recipe);
            recipe.sign(&self.0[recipe.key].spki, &by.subject, &self.0[by.key])
        };
        let known = recipes.len() - usize::from(place == Place::Rootless);
        let chain = recipes.iter().enumerate().take(known).map(sign).collect();
        Subject { place, name: feature.name.clone(), chain, name_der: recipes[0].subject.clone(), key: recipes[0].key }
    }

    fn all(&self) -> Vec<Subject> {
        let everywhere = [Place::Alone, Place::Below, Place::Between, Place::Above];
        let mut all = vec![];
        let mut add = |places: &[Place], root, features: &[Feature]| {
            all.extend(places.iter().flat_map(|place| features.iter().map(|feature| self.subject(*place, root, feature))));
        };
        add(&everywhere, "root", &features::single());
        add(&everywhere, "root", &features::subjects());
        add(&[Place::Alone, Place::Above], "root", &features::combined());
        add(&everywhere, "root", &features::keys());
        add(&everywhere, "root", &features::signatures(&features::OF_EC));
        add(&everywhere, "RSA 2048", &features::signatures(&features::OF_RSA));
        add(&[Place::Rootless], "root", &features::single());
        all
    }
}

/// The leaf that the operator would have signed: the server's, the client's, or the one for both.
fn leaf(subject: &Subject, keys: &Keys, spec: &LeafSpec) -> Vec<u8> {
    let usage: &[&str] = match spec.usage {
        Usage::Server => &["server"],
        Usage::Client => &["client"],
        Usage::Both => &["server", "client"],
    };
    let names: Vec<_> = spec.dns_names.iter().map(|name| tlv(0x82, name.as_bytes())).collect();
    let addresses = spec.ip_addresses.iter().map(|address| match address {
        std::net::IpAddr::V4(address) => tlv(0x87, &address.octets()),
        std::net::IpAddr::V6(address) => tlv(0x87, &address.octets()),
    });
    let names: Vec<_> = names.into_iter().chain(addresses).collect();
    let own = &keys.0["middle"];
    let mut extensions = vec![
        basic_constraints(true, false, None),
        extension("2.5.29.15", true, der::key_usage(&[0])),
        extended_key_usage(false, usage),
        extension("2.5.29.14", false, tlv(4, &own.id)),
        extension("2.5.29.35", false, seq(&[tlv(0x80, &subject.key_id(keys))])),
    ];
    extensions.extend((!names.is_empty()).then(|| extension("2.5.29.17", false, seq(&names))));
    let recipe = Recipe {
        version: 2,
        serial: vec![0x7f, 1],
        subject: name(&[cn(&spec.common_name)]),
        not_before: (23, "260301110000Z"),
        not_after: (23, "260401000000Z"),
        extensions,
        algorithm: None,
        spki: None,
        key: "middle",
        odd: Odd::default(),
    };
    recipe.sign(&own.spki, &subject.name_der, &keys.0[subject.key])
}

/// What a leaf of a domain has: its names as far as the authorities permit them.
fn spec(domain: Domain, usage: Usage) -> LeafSpec {
    let names = ["demo-0-0.demo-peers.ns.svc", "demo-0-0.demo-peers.ns.svc.cluster.local", "demo-peers.ns.svc"];
    let (local, addresses): (&[&str], _) = match domain {
        Domain::Client => (&["localhost"], BTreeSet::from(["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()])),
        Domain::Peer => (&[], BTreeSet::new()),
    };
    let is_client = usage == Usage::Client;
    LeafSpec {
        common_name: if is_client { "app".into() } else { "etcd-warden:server".into() },
        dns_names: if is_client { BTreeSet::new() } else { names.iter().chain(local).map(|name| (*name).to_owned()).collect() },
        ip_addresses: if is_client { BTreeSet::new() } else { addresses },
        optional: local.iter().copied().chain(["127.0.0.1", "::1"]).map(str::to_owned).collect(),
        usage,
        duration: SignedDuration::from_hours(24),
    }
}

fn pem(certificates: &[Vec<u8>]) -> String {
    let block = |der: &Vec<u8>| format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der));
    let wrapped = |text: String| {
        text.lines()
            .flat_map(|line| {
                line.as_bytes().chunks(64).map(|part| String::from_utf8(part.to_vec()).unwrap() + "\n").collect::<Vec<_>>()
            })
            .collect::<String>()
    };
    certificates.iter().map(block).map(wrapped).collect()
}

/// The operator's verdict on a `caSecret`, or on an issuer whose answer does not come with the root.
fn verdict(subject: &Subject, keys: &Keys, domain: Domain) -> Result<(), PkiError> {
    let (chain, key) = (pem(&subject.chain), &keys.0[subject.key].pem);
    let usage = if domain == Domain::Peer { Usage::Both } else { Usage::Server };
    if subject.place == Place::Rootless {
        let leaf = pem(&[leaf(subject, keys, &spec(domain, usage))]);
        let (_, external) = ExternalAuthority::of_answer((leaf + &chain).as_bytes(), b"", now())?;
        return external.check(domain, &spec(domain, usage).within(external.path()));
    }
    let external = ExternalAuthority::of_secret(pem(&subject.chain[..1]).as_bytes(), key, chain.as_bytes(), now())?;
    let authority = Authority::load(external.authority.pem().as_bytes(), key)?;
    let trial = spec(domain, usage).within(external.path());
    external.check(domain, &trial)?;
    authority.issue(&trial, now()).map(drop)
}

/// What is asked about an authority in a domain.
struct Question<'a> {
    subject: &'a Subject,
    domain: Domain,
    /// What a server presents, and what a client presents: the leaf and the certificates between it and the root.
    server: Vec<Vec<u8>>,
    client: Vec<Vec<u8>>,
    /// The private key of the leaf.
    key: String,
}

impl Question<'_> {
    /// The words by which the operator may refuse what no other verifier refuses.
    fn may_be_stricter(&self) -> Option<&'static str> {
        let (place, name) = (self.subject.place, &self.subject.name);
        let is_above = self.domain == Domain::Peer && matches!(place, Place::Between | Place::Above);
        let above = STRICTER_ABOVE.iter().find(|words| is_above && name.contains(*words));
        STRICTER.iter().find(|words| name.starts_with(*words)).or(above).copied()
    }
}

impl<'a> Question<'a> {
    fn of(subject: &'a Subject, keys: &Keys, domain: Domain) -> Self {
        let readable: Option<Vec<_>> = subject.chain.iter().map(|der| Certificate::from_der(der).ok()).collect();
        let path = readable.unwrap_or_default();
        let between = match subject.place {
            Place::Rootless => &subject.chain[..],
            _ => &subject.chain[..subject.chain.len() - 1],
        };
        let present = |usage| [&[leaf(subject, keys, &spec(domain, usage).within(&path))], between].concat();
        let server = present(if domain == Domain::Peer { Usage::Both } else { Usage::Server });
        let client = if domain == Domain::Peer { server.clone() } else { present(Usage::Client) };
        let key = String::from_utf8(keys.0["middle"].pem.clone()).unwrap();
        Self { subject, domain, server, client, key }
    }

    /// The questions to Go: about a server, and about a client. Members trust the authority alone, clients those above it too.
    fn to_go(&self) -> [Value; 2] {
        let encode = |all: &[Vec<u8>]| all.iter().map(|der| STANDARD.encode(der)).collect::<Vec<_>>();
        let members = &self.subject.chain[..1];
        let clients = if self.domain == Domain::Peer { members } else { &self.subject.chain[..] };
        [
            json!({ "Bundle": encode(clients), "Presented": encode(&self.server), "Key": self.key, "Host": HOST, "Now": NOW }),
            json!({ "Bundle": encode(members), "Presented": encode(&self.client), "Key": self.key, "Host": "", "Now": NOW }),
        ]
    }

    /// What rustls says: nothing, or why it refuses.
    fn ask_rustls(&self) -> Option<String> {
        let trusted = CertificateDer::from(self.subject.chain[0].as_slice());
        let anchor = match webpki::anchor_from_trusted_cert(&trusted) {
            Ok(anchor) => [anchor],
            Err(error) => return Some(error.to_string()),
        };
        let at = UnixTime::since_unix_epoch(Duration::from_secs(now().as_second().try_into().unwrap()));
        let uses = [(&self.server, webpki::KeyUsage::server_auth()), (&self.client, webpki::KeyUsage::client_auth())];
        uses.into_iter().find_map(|(presented, usage)| {
            let der = CertificateDer::from(presented[0].as_slice());
            let leaf = webpki::EndEntityCert::try_from(&der).unwrap();
            let all = webpki::ALL_VERIFICATION_ALGS;
            leaf.verify_for_usage(all, &anchor, &[], at, usage, None, None).err().map(|error| error.to_string())
        })
    }

    /// What OpenSSL says: nothing, or why it refuses.
    fn ask_openssl(&self, dir: &Path) -> Option<String> {
        fs::write(dir.join("ca.crt"), pem(&self.subject.chain)).unwrap();
        fs::write(dir.join("leaf.crt"), pem(&self.server[..1])).unwrap();
        fs::write(dir.join("between.crt"), pem(&self.server[1..])).unwrap();
        let mut command = Command::new("openssl");
        command.args(["verify", "-CAfile", "ca.crt", "-purpose", "sslserver", "-auth_level", "2", "-verify_hostname", HOST]);
        command.args(["-attime", &now().as_second().to_string()]);
        if self.server.len() > 1 {
            command.args(["-untrusted", "between.crt"]);
        }
        let result = command.arg("leaf.crt").current_dir(dir).output().unwrap();
        let said = String::from_utf8_lossy(&result.stderr).replace('\n', " ");
        (!result.status.success()).then_some(said)
    }
}

/// Asks Go about all of them with one process.
fn ask_go(dir: &Path, questions: &[Question]) -> Vec<Option<String>> {
    let program = dir.join("verify");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/authorities/verify");
    let built = Command::new("go").args(["build", "-o"]).arg(&program).current_dir(source).status().unwrap();
    assert!(built.success());
    let mut go = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = go.stdin.take().unwrap();
    let text: String =
        questions.iter().flat_map(Question::to_go).flat_map(|question| [question.to_string(), "\n".into()]).collect();
    let writer = thread::spawn(move || input.write_all(text.as_bytes()).unwrap());
    let output = go.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    let lines: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 2 * questions.len());
    lines.chunks(2).map(|pair| pair.iter().find(|line| !line.is_empty()).cloned()).collect()
}

/// Asks OpenSSL about those of the client domain, each with one process.
fn ask_openssl(questions: &[Question]) -> Vec<Option<String>> {
    let (next, threads) = (AtomicUsize::new(0), thread::available_parallelism().map_or(2, usize::from));
    let work = || {
        let dir = tempfile::tempdir().unwrap();
        let mut said = vec![];
        while let Some((at, question)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, questions.get(at)?)))
        {
            if question.domain == Domain::Client {
                said.push((at, question.ask_openssl(dir.path())));
            }
        }
        said
    };
    let mut all = vec![None; questions.len()];
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for (at, said) in running.into_iter().flat_map(|one| one.join().unwrap()) {
            all[at] = said;
        }
    });
    all
}

#[test]
fn the_verdict_is_that_of_go_and_of_openssl() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::generate(dir.path());
    let subjects = keys.all();
    let of = |domain| subjects.iter().map(move |subject| (subject, domain));
    let asked = of(Domain::Client).chain(of(Domain::Peer));
    let questions: Vec<_> = asked.map(|(subject, domain)| Question::of(subject, &keys, domain)).collect();
    let (go, openssl) = (ask_go(dir.path(), &questions), ask_openssl(&questions));
    let (mut accepted, mut stricter, mut wrong) = (0, BTreeMap::<_, usize>::new(), vec![]);
    let mut deciding = BTreeSet::new();
    for ((question, go), openssl) in questions.iter().zip(go).zip(openssl) {
        let theirs = [("Go", go), ("OpenSSL", openssl), ("rustls", question.ask_rustls())];
        let refused: Vec<_> = theirs.iter().filter_map(|(who, why)| Some(format!("{who}: {}", why.as_ref()?))).collect();
        let ours = verdict(question.subject, &keys, question.domain);
        accepted += usize::from(ours.is_ok());
        let named = REASONS.iter().find(|(words, _)| question.subject.name.contains(words));
        if let (Some((_, reason)), Err(said)) = (named, &ours) {
            // Without a root nothing but that may be wrong for OpenSSL.
            let is_rootless =
                question.subject.place == Place::Rootless && said.to_string().contains("whose certificate did not come");
            if !said.to_string().contains(reason) && !is_rootless {
                let (place, name) = (question.subject.place, &question.subject.name);
                wrong.push(format!("{:?} {place:?}: {name}\n  we say: {said}\n  not: {reason}", question.domain));
            }
        }
        if refused.is_empty() == ours.is_ok() {
            if let Err(PkiError::Refused { rule, .. }) = ours {
                deciding.insert(rule);
            }
            continue;
        }
        if let Some(words) = question.may_be_stricter().filter(|_| ours.is_err()) {
            *stricter.entry(words).or_default() += 1;
            continue;
        }
        let ours = ours.err().map_or("accepts it".into(), |error| error.to_string());
        let (place, name) = (question.subject.place, &question.subject.name);
        wrong.push(format!("{:?} {place:?}: {name}\n  we: {ours}\n  they: {}", question.domain, refused.join("; ")));
    }
    let (all, refused) = (questions.len(), questions.len() - accepted);
    println!(
        "{} authorities, {all} verdicts: {accepted} accepted, {refused} refused ({} by the operator alone: {stricter:?}), {} \
         disagreements",
        subjects.len(),
        stricter.values().sum::<usize>(),
        wrong.len()
    );
    assert!(subjects.len() >= 1500, "the generator makes {} authorities only", subjects.len());
    assert!(accepted > 500 && refused > 500, "the generator makes too few of one kind");
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
    let needless: Vec<_> = STRICTER.iter().chain(&STRICTER_ABOVE).filter(|words| !stricter.contains_key(*words)).collect();
    assert!(needless.is_empty(), "the operator is not stricter with these: {needless:?}");
    let idle: Vec<_> = acceptance_rules().filter(|rule| !deciding.contains(rule)).collect();
    assert!(idle.is_empty(), "these rules decide no case: {idle:?}");
    let names: BTreeSet<_> = acceptance_rules().collect();
    assert_eq!(names.len(), acceptance_rules().count(), "each rule has a name of its own");
}
