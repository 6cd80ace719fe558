//! Certificates written octet by octet, so that they may have every fault that a certificate can have.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// An element with a tag and a content.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(u8::try_from(length).unwrap()),
        0x80..=0xff => out.extend([0x81, u8::try_from(length).unwrap()]),
        _ => {
            out.push(0x82);
            out.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    out.extend(content);
    out
}

pub fn seq(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

/// An object identifier in dotted form.
pub fn oid(dotted: &str) -> Vec<u8> {
    let arcs: Vec<u128> = dotted.split('.').map(|arc| arc.parse().unwrap()).collect();
    let mut content = vec![];
    for arc in [&[arcs[0] * 40 + arcs[1]][..], &arcs[2..]].concat() {
        let mut octets = vec![u8::try_from(arc & 0x7f).unwrap()];
        let mut rest = arc >> 7;
        while rest > 0 {
            octets.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
            rest >>= 7;
        }
        octets.reverse();
        content.extend(octets);
    }
    tlv(6, &content)
}

pub fn int(content: &[u8]) -> Vec<u8> {
    tlv(2, content)
}

pub fn bits(content: &[u8]) -> Vec<u8> {
    tlv(3, &[&[0], content].concat())
}

/// The bits of a key usage by their numbers.
pub fn key_usage(set: &[u8]) -> Vec<u8> {
    let octet = set.iter().filter(|bit| **bit < 8).fold(0u8, |octet, bit| octet | 0x80 >> bit);
    let unused = u8::try_from(octet.trailing_zeros()).unwrap();
    if octet == 0 { tlv(3, &[0]) } else { tlv(3, &[unused, octet]) }
}

/// One part of a distinguished name: attributes with their type, the tag of their string and its octets.
pub type Part = Vec<(&'static str, u8, Vec<u8>)>;

pub fn name(parts: &[Part]) -> Vec<u8> {
    let set = |part: &Part| {
        let mut attributes: Vec<_> = part.iter().map(|(id, tag, text)| seq(&[oid(id), tlv(*tag, text)])).collect();
        attributes.sort();
        tlv(0x31, &attributes.concat())
    };
    seq(&parts.iter().map(set).collect::<Vec<_>>())
}

/// An extension.
#[derive(Clone)]
pub struct Extension {
    pub id: String,
    pub critical: bool,
    pub value: Vec<u8>,
}

pub fn extension(id: &str, critical: bool, value: Vec<u8>) -> Extension {
    Extension { id: id.into(), critical, value }
}

/// The key of an authority.
pub struct Key {
    pub spki: Vec<u8>,
    /// The digest of the key, as key identifiers have it.
    pub id: Vec<u8>,
    pub pem: Vec<u8>,
    path: PathBuf,
    kind: &'static str,
    pair: Option<rcgen::KeyPair>,
}

impl Key {
    /// A key that openssl generates from these options.
    pub fn generate(dir: &Path, name: &str, kind: &'static str, options: &str) -> Self {
        let path = dir.join(name);
        let command = if kind == "DSA" { "dsaparam -genkey" } else { "genpkey" };
        openssl(dir, &format!("{command} -out {name} {options}"));
        openssl(dir, &format!("pkey -in {name} -pubout -outform DER -out {name}.pub"));
        let spki = fs::read(dir.join(format!("{name}.pub"))).unwrap();
        let pem = fs::read(&path).unwrap();
        let pair = (kind == "P-256").then(|| rcgen::KeyPair::from_pem(&String::from_utf8(pem.clone()).unwrap()).unwrap());
        let id = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &spki).as_ref().to_vec();
        Self { spki, id, pem, path, kind, pair }
    }

    /// Writes its point in compressed form.
    pub fn compress(&mut self) {
        let point = self.spki.split_off(self.spki.len() - 65);
        let compressed = [&[2 | point[64] & 1], &point[1..33]].concat();
        let algorithm = seq(&[oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7")]);
        self.spki = seq(&[algorithm, bits(&compressed)]);
    }

    /// The algorithm by which it usually signs.
    pub fn algorithm(&self) -> &'static str {
        match self.kind {
            "RSA" => "rsa-sha256",
            "Ed25519" => "ed25519",
            "DSA" => "dsa-sha256",
            _ => "ecdsa-sha256",
        }
    }

    fn sign(&self, algorithm: &str, tbs: &[u8]) -> Vec<u8> {
        if let (Some(pair), "ecdsa-sha256") = (&self.pair, algorithm) {
            return rcgen::SigningKey::sign(pair, tbs).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tbs"), tbs).unwrap();
        let key = self.path.display();
        match algorithm.split_once('-') {
            None => openssl(dir.path(), &format!("pkeyutl -sign -rawin -inkey {key} -in tbs -out signature")),
            Some(("pss", hash)) => openssl(
                dir.path(),
                &format!("dgst -{hash} -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32 -sign {key} -out signature tbs"),
            ),
            Some((_, hash)) => openssl(dir.path(), &format!("dgst -{hash} -sign {key} -out signature tbs")),
        }
        fs::read(dir.path().join("signature")).unwrap()
    }
}

/// The identifier of a signature algorithm.
pub fn algorithm(name: &str) -> Vec<u8> {
    let null = tlv(5, &[]);
    let ecdsa = |last: &str| seq(&[oid(&format!("1.2.840.10045.4.{last}"))]);
    let rsa = |last: u8| seq(&[oid(&format!("1.2.840.113549.1.1.{last}")), null.clone()]);
    match name {
        "ecdsa-sha1" => ecdsa("1"),
        "ecdsa-sha224" => ecdsa("3.1"),
        "ecdsa-sha256" => ecdsa("3.2"),
        "ecdsa-sha384" => ecdsa("3.3"),
        "ecdsa-sha512" => ecdsa("3.4"),
        "rsa-md5" => rsa(4),
        "rsa-sha1" => rsa(5),
        "rsa-sha224" => rsa(14),
        "rsa-sha256" => rsa(11),
        "rsa-sha384" => rsa(12),
        "rsa-sha512" => rsa(13),
        "dsa-sha256" => seq(&[oid("2.16.840.1.101.3.4.3.2")]),
        "ed25519" => seq(&[oid("1.3.101.112")]),
        "pss-sha256" => {
            let hash = seq(&[oid("2.16.840.1.101.3.4.2.1"), null.clone()]);
            let mask = seq(&[oid("1.2.840.113549.1.1.8"), hash.clone()]);
            let parameters = seq(&[tlv(0xa0, &hash), tlv(0xa1, &mask), tlv(0xa2, &int(&[32]))]);
            seq(&[oid("1.2.840.113549.1.1.10"), parameters])
        }
        _ => panic!("{name}"),
    }
}

/// What a certificate consists of.
#[derive(Clone)]
pub struct Recipe {
    /// 2 is version 3. Version 1 is not written, and has no extensions.
    pub version: u8,
    pub serial: Vec<u8>,
    pub subject: Vec<u8>,
    pub not_before: (u8, &'static str),
    pub not_after: (u8, &'static str),
    pub extensions: Vec<Extension>,
    /// The algorithm of its signature, if it is not the usual one of the key.
    pub algorithm: Option<&'static str>,
    /// The key's `SubjectPublicKeyInfo`, if it is written otherwise than usual.
    pub spki: Option<Vec<u8>>,
    /// The name of its key.
    pub key: &'static str,
    /// In what it is not written as others are.
    pub odd: Odd,
}

/// In what a certificate is not DER, or contradicts itself.
#[derive(Clone, Default)]
pub struct Odd {
    /// The algorithm that is named in what is signed.
    pub inner: Option<&'static str>,
    /// The algorithm that is named beside the signature.
    pub outer: Option<&'static str>,
    /// The octet by which extensions say that they are critical.
    pub truth: Option<u8>,
    /// Whether the version has a superfluous zero.
    pub long_version: bool,
    /// How many bits of the signature are said to be unused, and whether all of them are zero.
    pub unused: (u8, bool),
}

impl Recipe {
    /// Its DER, signed by a key whose certificate has this subject.
    pub fn sign(&self, spki: &[u8], issuer: &[u8], by: &Key) -> Vec<u8> {
        let name = self.algorithm.unwrap_or_else(|| by.algorithm());
        let time = |(tag, text): (u8, &str)| tlv(tag, text.as_bytes());
        let mut parts = vec![int(&self.serial), algorithm(self.odd.inner.unwrap_or(name)), issuer.to_vec()];
        parts.extend([seq(&[time(self.not_before), time(self.not_after)]), self.subject.clone()]);
        parts.push(self.spki.clone().unwrap_or_else(|| spki.to_vec()));
        if self.version > 0 {
            let version = [0, self.version];
            parts.insert(0, tlv(0xa0, &int(&version[usize::from(!self.odd.long_version)..])));
            let extension = |one: &Extension| {
                let critical = if one.critical { tlv(1, &[self.odd.truth.unwrap_or(0xff)]) } else { vec![] };
                seq(&[oid(&one.id), critical, tlv(4, &one.value)])
            };
            let all: Vec<_> = self.extensions.iter().map(extension).collect();
            parts.extend((!all.is_empty()).then(|| tlv(0xa3, &seq(&all))));
        }
        let tbs = seq(&parts);
        let (unused, zero) = self.odd.unused;
        let is_meant = |signature: &Vec<u8>| {
            let zeros = signature.last().unwrap().trailing_zeros();
            unused == 0 || (zeros >= u32::from(unused)) == zero
        };
        // Signatures of EC keys are random.
        let signature = std::iter::repeat_with(|| by.sign(name, &tbs)).find(is_meant).unwrap();
        let signature = tlv(3, &[&[unused], signature.as_slice()].concat());
        seq(&[tbs, algorithm(self.odd.outer.unwrap_or(name)), signature])
    }
}

/// Runs openssl, which must succeed.
pub fn openssl(dir: &Path, arguments: &str) {
    let result = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().unwrap();
    assert!(result.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&result.stderr));
}
