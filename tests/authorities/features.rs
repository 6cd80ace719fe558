//! The ways in which the certificate of an authority may differ from a plain one.

use crate::der::{Extension, Odd, Part, Recipe, extension, int, key_usage, name, oid, seq, tlv};

/// A way to differ, with its name.
pub struct Feature {
    pub name: String,
    pub apply: Box<dyn Fn(&mut Recipe) + Sync>,
}

fn feature(name: impl Into<String>, apply: impl Fn(&mut Recipe) + Sync + 'static) -> Feature {
    Feature { name: name.into(), apply: Box::new(apply) }
}

/// Puts an extension in, in place of the one with its identifier.
pub fn put(recipe: &mut Recipe, new: Extension) {
    recipe.extensions.retain(|old| old.id != new.id);
    recipe.extensions.push(new);
}

fn remove(recipe: &mut Recipe, id: &str) {
    recipe.extensions.retain(|old| old.id != id);
}

fn puts(name: impl Into<String>, new: Extension) -> Feature {
    feature(name, move |recipe| put(recipe, new.clone()))
}

const SKI: &str = "2.5.29.14";
const KEY_USAGE: &str = "2.5.29.15";
const SAN: &str = "2.5.29.17";
const BASIC: &str = "2.5.29.19";
const NAMES: &str = "2.5.29.30";
const AKI: &str = "2.5.29.35";
const EXTENDED: &str = "2.5.29.37";
const AIA: &str = "1.3.6.1.5.5.7.1.1";

pub fn extended_key_usage(critical: bool, uses: &[&str]) -> Extension {
    let id = |name: &&str| match *name {
        "any" => oid("2.5.29.37.0"),
        "server" => oid("1.3.6.1.5.5.7.3.1"),
        "client" => oid("1.3.6.1.5.5.7.3.2"),
        "code" => oid("1.3.6.1.5.5.7.3.3"),
        "email" => oid("1.3.6.1.5.5.7.3.4"),
        "ocsp" => oid("1.3.6.1.5.5.7.3.9"),
        "sgc" => oid("1.3.6.1.4.1.311.10.3.3"),
        "other" => oid("1.3.6.1.4.1.311.20.2.2"),
        _ => panic!("{name}"),
    };
    extension(EXTENDED, critical, seq(&uses.iter().map(id).collect::<Vec<_>>()))
}

pub fn basic_constraints(critical: bool, ca: bool, path_length: Option<u8>) -> Extension {
    let ca = if ca { tlv(1, &[0xff]) } else { vec![] };
    extension(BASIC, critical, seq(&[ca, path_length.map_or(vec![], |length| int(&[length]))]))
}

/// Name constraints: `+dns:svc` permits, `-ip:...` excludes.
pub fn name_constraints(critical: bool, names: &[&str]) -> Extension {
    let trees = |sign: char| {
        let of_sign = names.iter().filter_map(|name| name.strip_prefix(sign));
        of_sign.map(|name| seq(&[general_name(name)])).collect::<Vec<_>>().concat()
    };
    let part = |tag: u8, trees: Vec<u8>| if trees.is_empty() { vec![] } else { tlv(tag, &trees) };
    extension(NAMES, critical, seq(&[part(0xa0, trees('+')), part(0xa1, trees('-'))]))
}

/// A general name; addresses are in hexadecimal digits.
fn general_name(text: &str) -> Vec<u8> {
    let (kind, text) = text.split_once(':').unwrap();
    match kind {
        "email" => tlv(0x81, text.as_bytes()),
        "dns" => tlv(0x82, text.as_bytes()),
        "uri" => tlv(0x86, text.as_bytes()),
        "ip" => tlv(0x87, &data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()),
        "id" => tlv(0x88, &oid("1.2.3.4")[2..]),
        "other" => tlv(0xa0, &[oid("1.3.6.1.4.1.311.20.2.3"), tlv(0xa0, &tlv(12, text.as_bytes()))].concat()),
        "dir" => tlv(0xa4, &if text.is_empty() { name(&[]) } else { name(&[cn(text)]) }),
        _ => panic!("{kind}"),
    }
}

fn alternative_names(critical: bool, names: &[&str]) -> Extension {
    extension(SAN, critical, seq(&names.iter().map(|name| general_name(name)).collect::<Vec<_>>()))
}

/// A part with a common name.
pub fn cn(text: &str) -> Part {
    vec![("2.5.4.3", 12, text.into())]
}

fn uses() -> Vec<Feature> {
    let sets: [&[&str]; 14] = [
        &["server"],
        &["client"],
        &["server", "client"],
        &["any"],
        &["code"],
        &["email", "ocsp"],
        &["other"],
        &["server", "any"],
        &["server", "client", "other"],
        &["sgc"],
        &["sgc", "client"],
        &["client", "any"],
        &["server", "client", "code", "email"],
        &[],
    ];
    let both =
        |critical: bool| sets.map(|set| puts(format!("EKU {set:?}, critical {critical}"), extended_key_usage(critical, set)));
    both(false).into_iter().chain(both(true)).collect()
}

fn constraints() -> Vec<Feature> {
    let (loop4, loop6) = ("+ip:7f000000ff000000", "+ip:00000000000000000000000000000001ffffffffffffffffffffffffffffffff");
    let ours = ["+dns:svc", "+dns:cluster.local"];
    let sets: Vec<Vec<&str>> = vec![
        ours.to_vec(),
        [&ours[..], &["+dns:localhost"]].concat(),
        vec!["+dns:SVC", "+dns:cluster.LOCAL", "+dns:LocalHost"],
        vec!["+dns:.svc", "+dns:.cluster.local", "+dns:localhost"],
        vec!["+dns:ns.svc", "+dns:ns.svc.cluster.local"],
        vec!["+dns:vc", "+dns:cluster.local"],
        vec!["+dns:corp.example"],
        vec!["+dns:"],
        vec!["-dns:"],
        vec!["-dns:localhost"],
        vec!["-dns:corp.example"],
        vec!["-dns:svc"],
        vec!["-dns:demo-0-0.demo-peers.ns.svc"],
        vec!["-dns:.local"],
        vec!["+dns:svc.", "+dns:cluster.local"],
        vec!["+dns:*.svc", "+dns:cluster.local"],
        vec!["+dns:..svc"],
        vec!["+dns:a b"],
        vec!["+dns:s\u{e9}c"],
        vec!["+dns:."],
        vec!["-dns:bad."],
        vec!["-dns:under_score.example"],
        vec![loop4],
        vec![loop4, loop6],
        vec!["+ip:0a000000ff000000"],
        vec!["+ip:0a000000ff000000", "+dns:corp.example"],
        vec!["-ip:0000000000000000", "-ip:0000000000000000000000000000000000000000000000000000000000000000"],
        vec!["-ip:0a000000ff000000"],
        vec!["-ip:7f000001ffffffff"],
        vec!["+ip:0a000000ff00ff00"],
        vec!["-ip:0a000000ff00ff00"],
        vec!["+ip:0a0000"],
        vec!["-ip:0a00000000"],
        vec!["+email:corp.example"],
        vec!["+email:pki@corp.example"],
        vec!["+email:a b@corp.example"],
        vec!["+email:.corp.example"],
        vec!["-email:corp.example"],
        vec!["+email:corp.example."],
        vec!["+uri:corp.example"],
        vec!["+uri:.corp.example"],
        vec!["-uri:corp.example"],
        vec!["+uri:10.0.0.1"],
        vec!["+uri:http://x"],
        vec!["+dir:Corp"],
        vec!["-dir:Corp"],
        vec!["+dir:"],
        vec!["-dir:authority 0"],
        vec!["-dir:AUTHORITY  0"],
        vec!["+id:"],
        vec!["-id:"],
        vec!["+other:x"],
        vec!["+dns:svc", "+dns:cluster.local", "-dns:corp.example", "-ip:0a000000ff000000"],
    ];
    let of = |critical: bool| {
        let one = move |set: &Vec<&str>| puts(format!("NC {set:?}, critical {critical}"), name_constraints(critical, set));
        sets.iter().map(one).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = of(true).into_iter().chain(of(false)).collect();
    let limited = seq(&[tlv(0xa0, &seq(&[general_name("dns:svc"), tlv(0x80, &[1])]))]);
    let zero = seq(&[tlv(0xa0, &[seq(&[general_name("dns:svc"), tlv(0x80, &[0])]), seq(&[general_name("dns:local")])].concat())]);
    all.push(puts("NC with a minimum", extension(NAMES, true, limited)));
    all.push(puts("NC with a minimum of 0", extension(NAMES, true, zero)));
    all.push(puts("NC empty", extension(NAMES, true, seq(&[]))));
    all.push(puts("NC with an empty list", extension(NAMES, true, seq(&[tlv(0xa0, &[])]))));
    all
}

fn basics() -> Vec<Feature> {
    let mut all = vec![];
    for critical in [false, true] {
        for length in [None, Some(0), Some(1), Some(2), Some(100)] {
            all.push(puts(format!("pathlen {length:?}, critical {critical}"), basic_constraints(critical, true, length)));
        }
        all.push(puts(format!("CA:FALSE, critical {critical}"), basic_constraints(critical, false, None)));
    }
    all.push(puts("CA by another boolean", extension(BASIC, true, seq(&[tlv(1, &[1])]))));
    all.push(puts("pathlen -1", extension(BASIC, true, seq(&[tlv(1, &[0xff]), int(&[0xff])]))));
    all.push(feature("no basicConstraints", |recipe| remove(recipe, BASIC)));
    let usages: [&[u8]; 6] = [&[5], &[6], &[5, 6], &[0, 5, 6], &[0, 2], &[]];
    for (set, critical) in usages.iter().flat_map(|set| [(*set, false), (*set, true)]) {
        all.push(puts(format!("keyUsage {set:?}, critical {critical}"), extension(KEY_USAGE, critical, key_usage(set))));
    }
    all.push(feature("no keyUsage", |recipe| remove(recipe, KEY_USAGE)));
    all.push(feature("neither keyUsage nor basicConstraints", |recipe| {
        remove(recipe, KEY_USAGE);
        remove(recipe, BASIC);
    }));
    all
}

fn others() -> Vec<Feature> {
    let policy = seq(&[seq(&[oid("1.2.3.4")])]);
    let any_policy = seq(&[seq(&[oid("2.5.29.32.0")])]);
    let point = seq(&[seq(&[tlv(0xa0, &tlv(0xa0, &general_name("uri:http://pki.example/ca.crl")))])]);
    let mapping = seq(&[seq(&[oid("1.2.3.4"), oid("1.2.3.5")])]);
    let access = seq(&[seq(&[oid("1.3.6.1.5.5.7.48.2"), general_name("uri:http://pki.example/ca.crt")])]);
    let list: Vec<(&str, &str, Vec<u8>)> = vec![
        ("unknown", "1.2.3.4.5", tlv(5, &[])),
        ("unknown below 2.5.29", "2.5.29.99", tlv(5, &[])),
        ("nsCertType", "2.16.840.1.113730.1.1", tlv(3, &[0, 7])),
        ("nsComment", "2.16.840.1.113730.1.13", tlv(22, b"made by hand")),
        ("tlsfeature", "1.3.6.1.5.5.7.1.24", seq(&[int(&[5])])),
        ("qcStatements", "1.3.6.1.5.5.7.1.3", seq(&[seq(&[oid("0.4.0.1862.1.1")])])),
        ("OCSP nocheck", "1.3.6.1.5.5.7.48.1.5", tlv(5, &[])),
        ("policies", "2.5.29.32", policy),
        ("any policy", "2.5.29.32", any_policy),
        ("the same policy twice", "2.5.29.32", seq(&[seq(&[oid("1.2.3.4")]), seq(&[oid("1.2.3.4")])])),
        ("policyConstraints", "2.5.29.36", seq(&[tlv(0x80, &[0])])),
        ("policyMappings", "2.5.29.33", mapping),
        ("inhibitAnyPolicy", "2.5.29.54", int(&[0])),
        ("crlDistributionPoints", "2.5.29.31", point.clone()),
        ("freshestCRL", "2.5.29.46", point),
        ("privateKeyUsagePeriod", "2.5.29.16", seq(&[tlv(0x80, b"20300101000000Z")])),
        ("issuerAltName", "2.5.29.18", seq(&[general_name("dns:pki.example")])),
        ("subjectInfoAccess", "1.3.6.1.5.5.7.1.11", access.clone()),
        ("MS template", "1.3.6.1.4.1.311.20.2", tlv(30, b"\0S\0u\0b\0C\0A")),
        ("MS CA version", "1.3.6.1.4.1.311.21.1", int(&[0])),
        ("CT poison", "1.3.6.1.4.1.11129.2.4.3", tlv(5, &[])),
        ("authorityInfoAccess", AIA, access),
    ];
    let mut all = vec![];
    for (name, id, value) in list {
        for critical in [false, true] {
            all.push(puts(format!("{name}, critical {critical}"), extension(id, critical, value.clone())));
        }
    }
    for id in [SKI, AKI, KEY_USAGE, BASIC] {
        all.push(feature(format!("{id} critical"), move |recipe| {
            recipe.extensions.iter_mut().filter(|extension| extension.id == id).for_each(|extension| extension.critical = true);
        }));
    }
    for id in [SKI, KEY_USAGE, BASIC] {
        all.push(feature(format!("{id} twice"), move |recipe| {
            let copy = recipe.extensions.iter().find(|extension| extension.id == id).cloned();
            recipe.extensions.extend(copy);
        }));
    }
    all.push(feature("an unknown extension twice", |recipe| {
        recipe.extensions.extend(vec![extension("1.2.3.4.5", false, tlv(5, &[])); 2]);
    }));
    let stranger = tlv(0x80, &[7; 20]);
    all.push(puts("AKI of another key", extension(AKI, false, seq(&[stranger]))));
    let directory = |name: Vec<u8>| tlv(0xa1, &tlv(0xa4, &name));
    all.push(puts("AKI of another serial", extension(AKI, false, seq(&[directory(name(&[cn("x")])), tlv(0x82, &[9, 9])]))));
    all.push(puts("AKI of another issuer", extension(AKI, false, seq(&[directory(name(&[cn("x")]))]))));
    all.push(puts("AKI empty", extension(AKI, false, seq(&[]))));
    all.push(feature("no AKI", |recipe| remove(recipe, AKI)));
    all.push(feature("no SKI", |recipe| remove(recipe, SKI)));
    all
}

/// An object identifier below 2.25, which are made of UUIDs.
const UUID: &str = "2.25.329800735698586629295641978511506172918";
/// One whose last number is the least that is too large, and the greatest that is not.
const LARGE: &str = "1.2.2147483648";
const SMALL: &str = "1.2.2147483647";

/// Object identifiers at all places where there is one.
fn identifiers() -> Vec<Feature> {
    let mut all = vec![];
    for id in [UUID, LARGE, SMALL] {
        let access = seq(&[seq(&[oid(id), general_name("uri:http://pki.example/ca.crt")])]);
        let subject = name(&[cn("Corp"), vec![(id, 12, b"x".to_vec())]]);
        let policy = seq(&[seq(&[oid(id)])]);
        for (place, one) in [
            ("an extension", extension(id, false, tlv(5, &[]))),
            ("extendedKeyUsage", extension(EXTENDED, false, seq(&[oid("2.5.29.37.0"), oid("1.3.6.1.5.5.7.3.1"), oid(id)]))),
            ("authorityInfoAccess", extension(AIA, false, access.clone())),
            ("subjectInfoAccess", extension("1.3.6.1.5.5.7.1.11", false, access)),
            ("certificatePolicies", extension("2.5.29.32", false, policy.clone())),
            ("policyMappings", extension("2.5.29.33", false, seq(&[seq(&[oid(id), oid("1.2.3.4")])]))),
            ("a registeredID", extension(SAN, false, seq(&[general_name("dns:pki.example"), tlv(0x88, &oid(id)[2..])]))),
        ] {
            all.push(puts(format!("{id} in {place}"), one));
        }
        all.push(feature(format!("{id} in the subject"), move |recipe| recipe.subject.clone_from(&subject)));
    }
    all
}

/// What is not DER, or not of the form that RFC 5280 has.
fn encodings() -> Vec<Feature> {
    let odd = |name: &str, odd: Odd| feature(name, move |recipe| recipe.odd = odd.clone());
    let relative = tlv(0xa1, &seq(&[oid("2.5.4.3"), tlv(12, b"x")]));
    let full = tlv(0xa0, &general_name("uri:http://pki.example/ca.crl"));
    let point = |name: &[u8]| seq(&[tlv(0xa0, name)]);
    let issuer = tlv(0xa2, &general_name("dir:Corp"));
    vec![
        odd("another algorithm in what is signed", Odd { inner: Some("ecdsa-sha384"), ..Odd::default() }),
        odd("another algorithm beside the signature", Odd { outer: Some("ecdsa-sha384"), ..Odd::default() }),
        odd("an algorithm of RSA beside the signature", Odd { outer: Some("rsa-sha256"), ..Odd::default() }),
        odd("critical by another octet", Odd { truth: Some(1), ..Odd::default() }),
        odd("explicitly not critical", Odd { truth: Some(0), ..Odd::default() }),
        odd("a version with a zero", Odd { long_version: true, ..Odd::default() }),
        odd("a signature with unused bits that are set", Odd { unused: (3, false), ..Odd::default() }),
        odd("a signature with unused bits that are zero", Odd { unused: (3, true), ..Odd::default() }),
        odd("a signature with more unused bits than there are", Odd { unused: (9, false), ..Odd::default() }),
        feature("padded serial", |recipe| recipe.serial.insert(0, 0)),
        puts("padded keyUsage", extension(KEY_USAGE, true, tlv(3, &[1, 0x07]))),
        puts("keyUsage with all bits", extension(KEY_USAGE, true, tlv(3, &[0, 0x06]))),
        puts("padded pathlen", extension(BASIC, true, seq(&[tlv(1, &[0xff]), int(&[0, 1])]))),
        puts("CA by the boolean 0x80", extension(BASIC, true, seq(&[tlv(1, &[0x80]), int(&[1])]))),
        puts("padded policyConstraints", extension("2.5.29.36", false, seq(&[tlv(0x80, &[0, 1])]))),
        puts("padded inhibitAnyPolicy", extension("2.5.29.54", false, int(&[0, 1]))),
        puts("a point relative to its issuer", extension("2.5.29.31", false, seq(&[point(&relative)]))),
        puts("a second point relative to its issuer", extension("2.5.29.31", false, seq(&[point(&full), point(&relative)]))),
        puts("a point with an issuer only", extension("2.5.29.31", false, seq(&[seq(&[issuer])]))),
        puts("a point in a directory", extension("2.5.29.31", false, seq(&[point(&tlv(0xa0, &general_name("dir:Corp")))]))),
    ]
}

fn names() -> Vec<Feature> {
    let sets: [&[&str]; 18] = [
        &["dns:pki.example"],
        &["dns:b\u{fc}cher.example"],
        &["dns:not.a.name."],
        &["dns:"],
        &["email:pki@corp.example"],
        &["email:b\u{fc}"],
        &["uri:http://[pki"],
        &["uri:http://pki.example:x/"],
        &["uri:http://pki.example/"],
        &["uri:a b:c"],
        &["uri:urn:uuid:1"],
        &["uri:http://a..b/"],
        &["uri:http://pki.example/%zz"],
        &["uri:http://[fe80::1]:80/"],
        &["ip:7f000001"],
        &["ip:7f0001"],
        &["dir:Corp"],
        &["other:x", "id:"],
    ];
    let mut all: Vec<_> = sets
        .iter()
        .flat_map(|set| {
            [false, true].map(|critical| puts(format!("SAN {set:?}, critical {critical}"), alternative_names(critical, set)))
        })
        .collect();
    all.push(puts("SAN empty", extension(SAN, false, seq(&[]))));
    all
}

/// Subjects in all string types. What an authority's subject is, its leaves have as their issuer.
pub fn subjects() -> Vec<Feature> {
    let strings: Vec<(&str, u8, &[u8])> = vec![
        ("UTF8", 12, "B\u{fc}cher".as_bytes()),
        ("UTF8 not valid", 12, b"\xff\xfe"),
        ("Numeric", 18, b"12 34"),
        ("Numeric not valid", 18, b"12a"),
        ("Printable", 19, b"Corp (CA), 1+1=2'?:/."),
        ("Printable with _", 19, b"corp_root"),
        ("Printable with @", 19, b"pki@corp"),
        ("Printable with * and &", 19, b"R&D *"),
        ("T61", 20, b"B\xfccher"),
        ("IA5", 22, b"pki@corp.example"),
        ("IA5 not valid", 22, b"B\xfccher"),
        ("Visible", 26, b"Corp"),
        ("Universal", 28, b"\0\0\0C\0\0\0A"),
        ("BMP", 30, b"\0C\0\xfc"),
        ("BMP of odd length", 30, b"\0C\0"),
        ("BMP with a surrogate", 30, b"\xd8\x3d\xde\0"),
        ("BMP with a noncharacter", 30, b"\xff\xfe\0C"),
    ];
    let mut all: Vec<_> = strings
        .into_iter()
        .map(|(kind, tag, text)| {
            let subject = name(&[cn("Corp"), vec![("2.5.4.10", tag, text.to_vec())]]);
            feature(format!("subject with {kind}"), move |recipe| recipe.subject.clone_from(&subject))
        })
        .collect();
    let domain = |text: &str| vec![("0.9.2342.19200300.100.1.25", 22, text.as_bytes().to_vec())];
    let unit = |text: &str| vec![("2.5.4.11", 12, text.as_bytes().to_vec())];
    let odd = [
        ("two DC", name(&[domain("example"), domain("corp"), cn("Corp")])),
        ("two OU", name(&[unit("a"), unit("b"), cn("Corp")])),
        ("two in one part", name(&[[unit("a"), cn("Corp")].concat()])),
        ("two CN", name(&[cn("a"), cn("b")])),
        ("no CN", name(&[unit("a")])),
        ("an email address", name(&[cn("Corp"), vec![("1.2.840.113549.1.9.1", 22, b"pki@corp.example".to_vec())]])),
        ("nothing", name(&[])),
    ];
    all.extend(
        odd.into_iter()
            .map(|(kind, subject)| feature(format!("subject with {kind}"), move |recipe| recipe.subject.clone_from(&subject))),
    );
    all
}

fn fields() -> Vec<Feature> {
    type Time = (u8, &'static str);
    let times: [(&str, Time, Time); 15] = [
        ("expired", (23, "250101000000Z"), (23, "260201000000Z")),
        ("not valid yet", (23, "260401000000Z"), (23, "360101000000Z")),
        ("until 9999", (23, "260101000000Z"), (24, "99991231235959Z")),
        ("GeneralizedTime", (24, "20260101000000Z"), (24, "20490101000000Z")),
        ("from 1950", (23, "500101000000Z"), (23, "490101000000Z")),
        ("a fraction of a second", (23, "260101000000Z"), (24, "20490101000000.5Z")),
        ("GeneralizedTime without seconds", (24, "202601010000Z"), (23, "360101000000Z")),
        ("GeneralizedTime in another zone", (24, "20260101000000+0100"), (23, "360101000000Z")),
        ("GeneralizedTime in zone +0000", (23, "260101000000Z"), (24, "20490101000000+0000")),
        ("UTCTime in zone +0000", (23, "260101000000+0000"), (23, "360101000000Z")),
        ("UTCTime in zone -0000", (23, "260101000000Z"), (23, "360101000000-0000")),
        ("UTCTime in another zone", (23, "260101000000+0100"), (23, "360101000000Z")),
        ("UTCTime in a zone in the west", (23, "260101000000Z"), (23, "360101000000-0130")),
        ("UTCTime without seconds", (23, "2601010000Z"), (23, "360101000000Z")),
        ("UTCTime without seconds in another zone", (23, "260101000000Z"), (23, "3601010000+0100")),
    ];
    let mut all: Vec<_> = times
        .into_iter()
        .map(|(name, from, to)| feature(name, move |recipe| (recipe.not_before, recipe.not_after) = (from, to)))
        .collect();
    let serials: [(&str, Vec<u8>); 5] = [
        ("serial 0", vec![0]),
        ("negative serial", vec![0x80, 1]),
        ("serial of 20 octets", [&[0x7f][..], &[0xff; 19]].concat()),
        ("serial of 20 octets and a zero", [&[0][..], &[0xff; 20]].concat()),
        ("serial of 40 octets", vec![0x7f; 40]),
    ];
    all.extend(serials.into_iter().map(|(name, serial)| feature(name, move |recipe| recipe.serial.clone_from(&serial))));
    all.push(feature("version 1", |recipe| recipe.version = 0));
    all.push(feature("version 2", |recipe| {
        recipe.version = 1;
        recipe.extensions.clear();
    }));
    all.push(feature("version 4", |recipe| recipe.version = 3));
    all
}

/// Other keys, by their names.
pub fn keys() -> Vec<Feature> {
    let names = [
        "RSA 8200",
        "P-384",
        "P-521",
        "P-224",
        "secp256k1",
        "brainpool",
        "explicit",
        "compressed",
        "Ed25519",
        "RSA 2048",
        "RSA 3072",
        "RSA 1024",
        "DSA 1024",
        "DSA 2048",
    ];
    names.into_iter().map(|key| feature(format!("key {key}"), move |recipe| recipe.key = key)).collect()
}

/// The algorithms by which EC keys sign, and RSA keys.
pub const OF_EC: [&str; 5] = ["ecdsa-sha1", "ecdsa-sha224", "ecdsa-sha256", "ecdsa-sha384", "ecdsa-sha512"];
pub const OF_RSA: [&str; 6] = ["rsa-md5", "rsa-sha1", "rsa-sha224", "rsa-sha384", "rsa-sha512", "pss-sha256"];

/// Signatures by these algorithms.
pub fn signatures(algorithms: &[&'static str]) -> Vec<Feature> {
    let by = |name: &&'static str| {
        let name = *name;
        feature(format!("signed by {name}"), move |recipe| recipe.algorithm = Some(name))
    };
    algorithms.iter().map(by).collect()
}

/// All that differ in one respect and are found in any place of a chain.
pub fn single() -> Vec<Feature> {
    [uses(), constraints(), basics(), others(), names(), fields(), identifiers(), encodings()].into_iter().flatten().collect()
}

/// Every combination of uses, constraints, path lengths, key usages and an unknown critical extension.
pub fn combined() -> Vec<Feature> {
    let uses: [Option<&[&str]>; 4] = [None, Some(&["server"]), Some(&["server", "client"]), Some(&["any"])];
    let constraints: [Option<&[&str]>; 3] = [None, Some(&["+dns:svc", "+dns:cluster.local"]), Some(&["+dns:corp.example"])];
    let usages: [Option<&[u8]>; 2] = [Some(&[5, 6]), None];
    let mut all = vec![];
    for one in uses {
        for names in constraints {
            for length in [None, Some(0), Some(1)] {
                for usage in usages {
                    for unknown in [false, true] {
                        let title =
                            format!("EKU {one:?}, NC {names:?}, pathlen {length:?}, keyUsage {usage:?}, unknown {unknown}");
                        all.push(feature(title, move |recipe| {
                            put(recipe, basic_constraints(true, true, length));
                            remove(recipe, KEY_USAGE);
                            recipe.extensions.extend(usage.map(|set| extension(KEY_USAGE, true, key_usage(set))));
                            recipe.extensions.extend(one.map(|set| extended_key_usage(false, set)));
                            recipe.extensions.extend(names.map(|set| name_constraints(true, set)));
                            recipe.extensions.extend(unknown.then(|| extension("1.2.3.4.5", true, tlv(5, &[]))));
                        }));
                    }
                }
            }
        }
    }
    all
}
