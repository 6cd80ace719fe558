//! Authorities as other programs make them, checked with the openssl command.

#![allow(clippy::unwrap_used, clippy::unwrap_in_result, clippy::panic, reason = "a panic is how a test fails")]

use std::{fs, path::Path};

use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    tests::{openssl, spec},
    *,
};

const P256: &str = "EC -pkeyopt ec_paramgen_curve:P-256";
const RSA: &str = "RSA -pkeyopt rsa_keygen_bits:2048";

/// A folder with authorities.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, arguments: &str) {
        let (ok, output) = openssl(self.path(), arguments.trim_end());
        assert!(ok, "{arguments}: {output}");
    }

    fn key(&self, name: &str, algorithm: &str) {
        self.run(&format!("genpkey -algorithm {algorithm} -out {name}.key"));
    }

    /// Creates a root from a key of this name, with further options of `openssl req`.
    fn root(&self, name: &str, options: &str) {
        let usage = "-addext keyUsage=critical,keyCertSign,cRLSign";
        self.run(&format!("req -x509 -days 3650 -key {name}.key {usage} -out {name}.crt {options}"));
    }

    /// Creates an authority below another one, with further options.
    fn below(&self, name: &str, parent: &str, options: &str) {
        let extensions = "-addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign,cRLSign";
        self.run(&format!(
            "req -x509 -days 3650 -key {name}.key -CA {parent}.crt -CAkey {parent}.key -subj /CN={name} {extensions} -out {name}.crt {options}"
        ));
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.path().join(file)).unwrap()
    }

    /// The certificates of files, one after the other.
    fn bundle(&self, names: &str) -> Vec<u8> {
        names.split_whitespace().flat_map(|name| self.read(&format!("{name}.crt"))).collect()
    }

    /// The authority in a Secret with these files.
    fn secret(&self, certificates: &str, roots: &str) -> Result<ExternalAuthority, PkiError> {
        ExternalAuthority::of_secret(&self.bundle(certificates), b"", &self.bundle(roots), moment())
    }

    /// Checks that the authority in a Secret is taken, and that OpenSSL verifies its leaf and its revocation list up to the root.
    fn check_taken(&self, certificates: &str, key: &[u8], roots: &str, what: &str) -> Leaf {
        let external = self.secret(certificates, roots).unwrap_or_else(|problem| panic!("{what}: {problem}"));
        let key = PrivateKey::of_certificate(key, &external.authority).unwrap_or_else(|problem| panic!("{what}: {problem}"));
        let authority = Authority::of(external.authority.clone(), key).unwrap();
        let leaf = authority.issue(&spec(), moment()).unwrap_or_else(|problem| panic!("{what}: {problem}"));
        let (_, read) = X509Certificate::from_der(leaf.certificate.der()).unwrap();
        let (_, above) = X509Certificate::from_der(external.authority.der()).unwrap();
        assert_eq!(read.issuer().as_raw(), above.subject().as_raw(), "{what}");
        let list = authority.sign_crl([(leaf.certificate.serial(), moment())], moment()).unwrap();
        fs::write(self.path().join("list.crl"), list).unwrap();
        fs::write(self.path().join("leaf.pem"), leaf.certificate.pem()).unwrap();
        let trusted: String = [&external.authority].into_iter().chain(&external.ancestors).map(Certificate::pem).collect();
        fs::write(self.path().join("trusted.pem"), trusted).unwrap();
        let (ok, output) = openssl(self.path(), &format!("verify -attime {} -CAfile trusted.pem leaf.pem", moment().as_second()));
        assert!(ok, "{what}: {output}");
        let (ok, output) = openssl(self.path(), "crl -inform DER -in list.crl -noout -CAfile trusted.pem");
        assert!(ok && output.contains("verify OK"), "{what}: {output}");
        leaf
    }
}

/// A moment at which what openssl creates now is valid.
fn moment() -> Timestamp {
    Timestamp::now() + SignedDuration::from_mins(1)
}

#[test]
fn the_issuer_of_a_leaf_is_the_subject_octet_for_octet() {
    let folder = Folder::new();
    folder.key("ca", P256);
    // The string types are those of ASN1_mbstring_copy's mask.
    for (mask, subject) in [
        ("default", "/DC=com/DC=example/CN=Example Issuing CA 1"),
        ("default", "/C=DE/O=Corp/OU=IT/OU=PKI/CN=CA"),
        ("default", "/C=DE/O=Corp/OU=PKI+CN=CA"),
        ("default", "/CN=one/CN=two/emailAddress=ca@example.com/serialNumber=7"),
        ("utf8only", "/O=Müller/CN=Prüf"),
        ("MASK:0x800", "/O=Müller/CN=Prüf CA"),
        ("MASK:0x4", "/O=Müller/CN=corp_root"),
        ("MASK:0x10", "/O=Corp/CN=corp@root"),
        ("MASK:0x2", "/O=Corp/CN=Corp-Root"),
    ] {
        let config = format!("[req]\ndistinguished_name=dn\nstring_mask={mask}\nutf8=yes\n[dn]\n");
        fs::write(folder.path().join("names.conf"), config).unwrap();
        let subject_without_spaces = subject.replace(' ', "_");
        let ca = "-addext basicConstraints=critical,CA:TRUE -addext subjectKeyIdentifier=hash";
        folder.root("ca", &format!("-config names.conf -utf8 {ca} -subj {subject_without_spaces}"));
        folder.check_taken("ca", &folder.read("ca.key"), "", &format!("{mask} {subject}"));
        let name = Certificate::from_pem(&folder.read("ca.crt")).unwrap().common_name().to_owned();
        let expected = subject_without_spaces.rsplit("CN=").next().unwrap().split('/').next().unwrap().to_owned();
        assert_eq!(name, expected, "{mask}");
    }
}

#[test]
fn an_authority_may_have_signed_itself_in_any_way() {
    let folder = Folder::new();
    folder.key("below", P256);
    let pss = "-sigopt rsa_padding_mode:pss -sigopt";
    for (algorithm, options) in [
        (P256, "-sha512".to_owned()),
        ("EC -pkeyopt ec_paramgen_curve:P-384", "-sha512".to_owned()),
        (P256, "-sha224".to_owned()),
        (RSA, "-sha3-256".to_owned()),
        (RSA, "-sha224".to_owned()),
        (RSA, format!("-sha256 {pss} rsa_pss_saltlen:max")),
        (RSA, format!("-sha256 {pss} rsa_pss_saltlen:digest")),
        (RSA, format!("-sha512 {pss} rsa_pss_saltlen:20")),
    ] {
        folder.key("ca", algorithm);
        folder.root("ca", &format!("-subj /CN=ca {options}"));
        folder.check_taken("ca", &folder.read("ca.key"), "", &options);
        // The same of an authority that such a root signed: Go does not go on to the root.
        folder.below("below", "ca", &options);
        folder.check_taken("below", &folder.read("below.key"), "ca", &options);
    }
}

#[test]
fn a_root_that_openssl_does_not_take_for_one_is_refused() {
    let folder = Folder::new();
    for (algorithm, options, kind) in
        [(P256, "-sha3-256", "2.16.840.1.101.3.4.3.10"), (RSA, "-sha512-256", "1.2.840.113549.1.1.16")]
    {
        folder.key("ca", algorithm);
        folder.root("ca", &format!("-subj /CN=ca {options}"));
        let problem = folder.secret("ca", "").unwrap_err().to_string();
        let why = format!("\"ca\" is signed with {kind}, so OpenSSL does not take it for a root: ");
        assert!(problem.starts_with(&why) && problem.contains("-sha256"), "{problem}");
    }
}

#[test]
fn private_keys_are_read_as_other_programs_write_them() {
    let folder = Folder::new();
    let path = folder.path();
    for (name, algorithm) in [("ec", P256), ("p384", "EC -pkeyopt ec_paramgen_curve:P-384"), ("rsa", RSA), ("ed", "ED25519")] {
        folder.key(name, algorithm);
        folder.root(name, &format!("-subj /CN={name}"));
    }
    folder.run("ec -in ec.key -out sec1.pem");
    folder.run("ec -in p384.key -out p384-sec1.pem");
    folder.run("ec -in ec.key -no_public -out nopub-sec1.pem");
    folder.run("pkcs8 -topk8 -nocrypt -in nopub-sec1.pem -out nopub.pem");
    folder.run("pkey -in ec.key -ec_conv_form compressed -out compressed.pem");
    folder.run("pkey -in ec.key -ec_param_enc explicit -out explicit.pem");
    folder.run("ec -in ec.key -param_enc explicit -out explicit-sec1.pem");
    folder.run("ecparam -name prime256v1 -out parameters.pem");
    folder.run("rsa -in rsa.key -traditional -out pkcs1.pem");
    folder.run("pkcs12 -export -in ec.crt -inkey ec.key -passout pass:x -name corp -out p12");
    folder.run("pkcs12 -in p12 -passin pass:x -noenc -out p12.pem");
    let text = |file: &str| folder.read(file);
    let joined = |parts: &[&[u8]]| parts.concat();
    let carriage_returns = String::from_utf8(text("sec1.pem")).unwrap().replace('\n', "\r\n").into_bytes();
    for (certificate, form, key) in [
        ("ec", "PKCS#8", text("ec.key")),
        ("ec", "SEC1", text("sec1.pem")),
        ("p384", "SEC1 of P-384", text("p384-sec1.pem")),
        ("ec", "SEC1 without public key", text("nopub-sec1.pem")),
        ("ec", "PKCS#8 without public key", text("nopub.pem")),
        ("ec", "compressed point", text("compressed.pem")),
        ("ec", "parameters written out", text("explicit.pem")),
        ("ec", "SEC1 with parameters written out", text("explicit-sec1.pem")),
        ("ec", "EC PARAMETERS before it", joined(&[&text("parameters.pem"), &text("sec1.pem")])),
        ("ec", "byte order mark", joined(&["\u{feff}".as_bytes(), &text("ec.key")])),
        ("ec", "bag attributes, and the certificate", text("p12.pem")),
        ("ec", "CRLF", carriage_returns),
        ("rsa", "PKCS#8 of RSA", text("rsa.key")),
        ("rsa", "PKCS#1", text("pkcs1.pem")),
        ("ed", "PKCS#8 of Ed25519", text("ed.key")),
    ] {
        folder.check_taken(certificate, &key, "", form);
    }
    // tls.crt may have text around its blocks too.
    folder.run("x509 -in ec.crt -text -out text.crt");
    fs::write(path.join("mark.crt"), joined(&["\u{feff}".as_bytes(), &text("ec.crt")])).unwrap();
    for certificate in ["text", "mark"] {
        folder.check_taken(certificate, &text("ec.key"), "", certificate);
    }
}

#[test]
fn what_cannot_be_read_says_why_and_what_mends_it() {
    let folder = Folder::new();
    let path = folder.path();
    for (name, algorithm) in [("ec", P256), ("other", P256), ("three", "RSA -pkeyopt rsa_keygen_pubexp:3"), ("ed", "ED25519")] {
        folder.key(name, algorithm);
        folder.root(name, &format!("-subj /CN={name}"));
    }
    folder.run("pkey -in ec.key -aes128 -passout pass:secret -out encrypted.key");
    folder.run("ec -in ec.key -aes128 -passout pass:secret -out legacy.key");
    folder.run("pkey -in ec.key -outform DER -out der.key");
    folder.run("x509 -in ec.crt -outform DER -out der.crt");
    folder.run("x509 -in ec.crt -trustout -out trusted.crt");
    folder.run("genpkey -algorithm X25519 -out x25519.key");
    let ec = folder.read("ec.key");
    let wide: Vec<u8> = [0xff, 0xfe].into_iter().chain(ec.iter().flat_map(|octet| [*octet, 0])).collect();
    let certificate = |name: &str| Certificate::from_pem(&folder.read(&format!("{name}.crt"))).unwrap();
    for (name, key, why) in [
        ("ec", folder.read("encrypted.key"), "openssl pkey -in tls.key -out"),
        ("ec", folder.read("legacy.key"), "openssl pkey -in tls.key -out"),
        ("ec", folder.read("der.key"), "it is DER: convert it with openssl"),
        ("ec", wide, "iconv -f UTF-16"),
        ("ec", folder.read("other.key"), "does not belong to the certificate"),
        ("ec", folder.read("ed.key"), "does not belong to the certificate"),
        ("ed", folder.read("ec.key"), "does not belong to the certificate"),
        ("three", folder.read("three.key"), "public exponent is less than 65537"),
        ("ec", folder.read("x25519.key"), "its kind is not supported"),
        ("ec", folder.read("ec.crt"), "holds 0 PRIVATE KEY blocks"),
        ("ec", [ec.clone(), folder.read("other.key")].concat(), "holds 2 PRIVATE KEY blocks"),
        ("ec", [ec.clone(), folder.read("other.key")].concat(), "openssl pkey -in tls.key -out first.key"),
        ("ec", String::from_utf8(ec).unwrap().replace("PRIVATE KEY", "OPENSSH PRIVATE KEY").into_bytes(), "ssh-keygen -p"),
    ] {
        let problem = PrivateKey::of_certificate(&key, &certificate(name)).err().unwrap_or_else(|| panic!("{why}")).to_string();
        assert!(problem.contains(why), "{why}: {problem}");
    }
    for (file, why) in [("der.crt", "it is DER"), ("trusted.crt", "openssl x509 -in tls.crt"), ("ec.key", "another kind than")] {
        let problem = ExternalAuthority::of_secret(&folder.read(file), b"", b"", moment()).unwrap_err().to_string();
        assert!(problem.starts_with("tls.crt: ") && problem.contains(why), "{file}: {problem}");
    }
    fs::write(path.join("cut.key"), &folder.read("ec.key")[..60]).unwrap();
    assert!(PrivateKey::of_certificate(&folder.read("cut.key"), &certificate("ec")).is_err());
}

#[test]
fn the_kinds_of_keys_that_can_sign() {
    let folder = Folder::new();
    for (root, algorithm, kind, below_it) in [
        ("short", "RSA -pkeyopt rsa_keygen_bits:1024", "RSA of 1024 bits", false),
        ("wide", "EC -pkeyopt ec_paramgen_curve:P-521", "on the curve secp521r1", true),
        ("goldilocks", "ED448", "ed448", true),
        ("pss", "RSA-PSS -pkeyopt rsa_keygen_bits:2048", "RSA for RSASSA-PSS only", true),
        ("explicit", "EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit", "parameters are written out", false),
    ] {
        folder.key(root, algorithm);
        folder.root(root, &format!("-subj /CN={root}"));
        let problem = folder.secret(root, "").unwrap_err().to_string();
        let expected = format!("the key of {root:?} is ");
        assert!(problem.contains(&expected) && problem.contains(kind) && problem.contains("create a CA"), "{problem}");
        // Above the authority that signs it may be any key that OpenSSL verifies.
        folder.key("below", P256);
        folder.below("below", root, "");
        if below_it {
            folder.check_taken("below", &folder.read("below.key"), root, root);
        } else {
            let problem = folder.secret("below", root).unwrap_err().to_string();
            assert!(problem.contains(&expected) && problem.contains("OpenSSL refuses"), "{problem}");
        }
        // No issuer may sign leaves with it.
        let answered = ExternalAuthority::of_answer(&folder.read("below.crt"), &folder.bundle(root), moment());
        assert!(answered.unwrap_err().to_string().contains(&expected));
    }
}

#[test]
fn renewed_authorities_may_be_in_any_order() {
    let folder = Folder::new();
    for name in ["root", "issuing", "cross", "otherkey"] {
        folder.key(name, P256);
    }
    folder.root("cross", "-subj /CN=cross");
    folder.root("root", "-subj /CN=root");
    folder.below("issuing", "root", "");
    let date = |at: Timestamp| at.strftime("%Y%m%d%H%M%SZ").to_string();
    let (past, now) = (moment() - SignedDuration::from_hours(48), moment());
    // The same root, expired; and signed by another root.
    let renew = |name: &str, options: &str| {
        folder.run("req -new -key root.key -subj /CN=root -out root.csr");
        let extensions = "basicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";
        fs::write(folder.path().join("extensions"), extensions).unwrap();
        folder.run(&format!("x509 -req -in root.csr -extfile extensions {options} -out {name}.crt"));
    };
    fs::write(folder.path().join("index"), "").unwrap();
    renew("crossed", "-CA cross.crt -CAkey cross.key -days 7000");
    let config = "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nrand_serial=yes\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n[e]\nbasicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=hash\n";
    fs::write(folder.path().join("ca.conf"), config).unwrap();
    let (begin, end) = (date(past), date(now - SignedDuration::from_hours(24)));
    folder.run(&format!(
        "ca -batch -notext -config ca.conf -selfsign -keyfile root.key -in root.csr -extensions e -startdate {begin} -enddate {end} -out expired.crt"
    ));
    folder.run("req -x509 -days 3650 -key otherkey.key -subj /CN=root -out otherkey.crt");
    let [root, expired, other] =
        ["root.crt", "expired.crt", "otherkey.crt"].map(|file| Certificate::from_pem(&folder.read(file)).unwrap());
    assert_eq!(renewed_first([&expired, &other, &root]), [&root, &expired, &other]);
    assert_eq!(renewed_first([&other, &root, &expired]), [&other, &root, &expired]);
    let key = folder.read("issuing.key");
    for roots in
        ["root expired", "expired root", "crossed root", "crossed cross", "cross expired crossed", "otherkey expired root"]
    {
        folder.check_taken("issuing", &key, roots, roots);
    }
    assert_eq!(folder.secret("issuing", "crossed root cross").unwrap().ancestors.len(), 1, "the shortest path");
    let root_key = folder.read("root.key");
    for certificates in ["expired root", "root expired"] {
        folder.check_taken(certificates, &root_key, "", certificates);
    }
    for (roots, why) in [
        ("expired", "is valid from"),
        ("otherkey", "the certificate of that name there has another key"),
        ("cross", "add the one whose subject is CN=root"),
        ("crossed", "add the one whose subject is CN=cross"),
    ] {
        let problem = folder.secret("issuing", roots).unwrap_err().to_string();
        assert!(problem.contains(why), "{roots}: {problem}");
    }
}

#[test]
fn an_answer_says_what_is_wrong_with_its_signature() {
    let folder = Folder::new();
    for name in ["ca", "other", "leaf"] {
        folder.key(name, P256);
    }
    folder.root("ca", "-subj /CN=ca");
    folder.root("other", "-subj /CN=ca");
    for (parent, options, why) in [
        ("ca", "-sha512", "it signs with ecdsa-with-SHA512, which is not supported"),
        ("other", "-sha256", "CA \"ca\" came with the answer, but another key signed"),
    ] {
        folder.below("leaf", parent, options);
        let answered = ExternalAuthority::of_answer(&folder.read("leaf.crt"), &folder.read("ca.crt"), moment());
        let problem = answered.unwrap_err().to_string();
        assert!(problem.contains(why), "{problem}");
    }
}

#[test]
fn the_certificate_of_the_key_is_the_authority_in_any_order() {
    let folder = Folder::new();
    for name in ["root", "issuing", "other"] {
        folder.key(name, P256);
    }
    folder.root("root", "-subj /CN=root");
    folder.below("issuing", "root", "");
    for (certificates, key, roots, expected) in [
        ("issuing root", "issuing", "", "issuing"),
        ("root issuing", "issuing", "", "issuing"),
        ("root issuing", "root", "", "root"),
        ("root issuing", "other", "", "root"),
        ("issuing", "issuing", "root", "issuing"),
    ] {
        let key = folder.read(&format!("{key}.key"));
        let external = ExternalAuthority::of_secret(&folder.bundle(certificates), &key, &folder.bundle(roots), moment()).unwrap();
        assert_eq!(external.authority.common_name(), expected, "{certificates}");
    }
}

#[test]
fn other_blocks_are_ignored_or_named_with_the_command_that_mends_them() {
    let folder = Folder::new();
    let path = folder.path();
    for name in ["root", "issuing"] {
        folder.key(name, P256);
    }
    folder.root("root", "-subj /CN=root");
    folder.below("issuing", "root", "");
    folder.run("req -new -key issuing.key -subj /CN=issuing -out request.pem");
    folder.run("pkey -in root.key -pubout -out public.pem");
    folder.run("ecparam -name prime256v1 -out parameters.pem");
    folder.run("crl2pkcs7 -nocrl -certfile issuing.crt -certfile root.crt -out chain.p7b");
    folder.run("crl2pkcs7 -nocrl -certfile issuing.crt -outform DER -out der.p7b");
    folder.run("pkcs12 -export -in issuing.crt -inkey issuing.key -passout pass:x -out chain.p12");
    let (issuing, root, key) = (folder.read("issuing.crt"), folder.read("root.crt"), folder.read("issuing.key"));
    let secret = |certificates: &[u8], roots: &[u8]| ExternalAuthority::of_secret(certificates, &key, roots, moment());
    for other in ["request.pem", "public.pem", "parameters.pem"] {
        let other = folder.read(other);
        let external = secret(&[other.clone(), issuing.clone()].concat(), &[root.clone(), other].concat()).unwrap();
        assert_eq!(external.ancestors.len(), 1);
    }
    // The blocks of a file that does not end with a newline.
    let glued = [issuing.trim_ascii_end(), &root].concat();
    assert_eq!(secret(&glued, b"").unwrap().ancestors.len(), 1);
    let combined = [key.as_slice(), &issuing, &root].concat();
    fs::write(path.join("tls.crt"), &combined).unwrap();
    let keep = "openssl crl2pkcs7 -nocrl -certfile tls.crt | openssl pkcs7 -print_certs -out converted.crt";
    let convert = "openssl pkcs7 -print_certs -in tls.crt -out converted.crt";
    for (certificates, roots, why) in [
        (
            combined.clone(),
            vec![],
            format!(
                "tls.crt: holds a block of another kind than CERTIFICATE: a private key (PRIVATE KEY). This leaves it out: {keep}"
            ),
        ),
        ([issuing.clone(), key.clone()].concat(), root.clone(), keep.to_owned()),
        (issuing.clone(), [root.clone(), key.clone()].concat(), keep.replace("tls.crt", "ca.crt")),
        (folder.read("chain.p7b"), vec![], format!("PKCS7, as in a file .p7b. This converts it: {convert}")),
        (issuing.clone(), folder.read("chain.p7b"), convert.replace("tls.crt", "ca.crt")),
        (folder.read("der.p7b"), vec![], "openssl pkcs7 -inform DER -print_certs".into()),
        (folder.read("chain.p12"), vec![], "it is PKCS#12: convert it with openssl pkcs12 -nokeys".into()),
        (folder.read("request.pem"), root.clone(), "there is no certificate, but CERTIFICATE REQUEST".into()),
    ] {
        let problem = secret(&certificates, &roots).unwrap_err().to_string();
        assert!(problem.contains(&why), "{why}: {problem}");
    }
    // The commands do what the messages say.
    folder.run("crl2pkcs7 -nocrl -certfile tls.crt -out between.p7b");
    for collection in ["between.p7b", "chain.p7b"] {
        folder.run(&format!("pkcs7 -print_certs -in {collection} -out converted.crt"));
        assert_eq!(secret(&folder.read("converted.crt"), b"").unwrap().ancestors.len(), 1, "{collection}");
    }
}

#[test]
fn a_certificate_that_cannot_be_read_matters_only_if_it_is_needed() {
    let folder = Folder::new();
    for name in ["root", "issuing", "other"] {
        folder.key(name, P256);
    }
    folder.root("root", "-subj /CN=root");
    folder.root("other", "-subj /CN=other");
    folder.below("issuing", "root", "");
    let broken = |name: &str| {
        let der = Certificate::from_pem(&folder.bundle(name)).unwrap().der().to_vec();
        // Without its last octet.
        pem::encode(&der[..der.len() - 1], pem::CERTIFICATE).unwrap().as_bytes().to_vec()
    };
    let secret = |certificates: &[u8], roots: &[u8]| {
        ExternalAuthority::of_secret(certificates, &folder.read("issuing.key"), roots, moment())
    };
    let (issuing, root) = (folder.bundle("issuing"), folder.bundle("root"));
    for (certificates, roots) in [
        (issuing.clone(), [root.clone(), broken("other")].concat()),
        (issuing.clone(), [broken("other"), root.clone()].concat()),
        ([issuing.clone(), broken("other")].concat(), root.clone()),
    ] {
        assert_eq!(secret(&certificates, &roots).unwrap().ancestors.len(), 1);
    }
    for (certificates, roots, why) in [
        (issuing.clone(), [folder.bundle("other"), broken("root")].concat(), "; certificate 2 of ca.crt "),
        (broken("issuing"), root.clone(), "certificate 1 of tls.crt "),
    ] {
        let problem = secret(&certificates, &roots).unwrap_err().to_string();
        assert!(problem.contains(why), "{why}: {problem}");
    }
    let leaf = folder.check_taken("issuing", &folder.read("issuing.key"), "root", "issuing");
    let answer = [leaf.certificate.pem().as_bytes(), &issuing].concat();
    let answered =
        |roots: &[u8]| ExternalAuthority::of_answer(&answer, roots, moment()).map(|(_, external)| external.ancestors.len());
    assert_eq!((answered(&root), answered(&[broken("other"), root.clone()].concat()), answered(b"")), (Ok(1), Ok(1), Ok(0)));
    let problem = answered(&broken("root")).unwrap_err().to_string();
    assert!(problem.starts_with("certificate 1 of ca.crt "), "{problem}");
}

#[test]
fn an_answer_without_the_root_is_for_members_only() {
    let folder = Folder::new();
    for name in ["root", "issuing"] {
        folder.key(name, P256);
    }
    folder.root("root", "-subj /CN=root");
    folder.below("issuing", "root", "");
    let leaf = folder.check_taken("issuing", &folder.read("issuing.key"), "root", "issuing").certificate;
    let answer = [leaf.pem().as_bytes(), &folder.bundle("issuing")].concat();
    let check = |roots: &str, domain| {
        let (_, external) = ExternalAuthority::of_answer(&answer, &folder.bundle(roots), moment()).unwrap();
        external.check(domain, &spec()).err().map(|why| why.to_string()).unwrap_or_default()
    };
    assert_eq!((check("root", Domain::Client), check("root", Domain::Peer), check("", Domain::Peer)), <_>::default());
    for roots in ["", "issuing"] {
        let why = check(roots, Domain::Client);
        let expected =
            "clients that use OpenSSL would refuse it: \"issuing\" is signed by \"CN=root\", whose certificate did not come";
        assert!(why.starts_with(expected) && why.contains("or use caSecret"), "{why}");
    }
}

#[test]
fn an_authority_without_key_identifier_is_taken() {
    let folder = Folder::new();
    for name in ["ca", "root", "issuing"] {
        folder.key(name, P256);
    }
    folder.root("root", "-subj /CN=root");
    let none = "-addext subjectKeyIdentifier=none -addext authorityKeyIdentifier=none";
    folder.root("ca", &format!("-subj /CN=ca {none}"));
    folder.below("issuing", "root", none);
    folder.run("req -new -key issuing.key -subj /CN=leaf -out leaf.csr");
    fs::write(folder.path().join("extensions"), "basicConstraints=CA:FALSE\nauthorityKeyIdentifier=none\n").unwrap();
    for (certificate, roots) in [("ca", ""), ("issuing", "root")] {
        let key = folder.read(&format!("{certificate}.key"));
        let leaf = folder.check_taken(certificate, &key, roots, certificate).certificate;
        let authority = Certificate::from_pem(&folder.bundle(certificate)).unwrap();
        let id = authority.subject_key_id().unwrap();
        assert!(id.len() == 20 && leaf.authority_key_id() == Some(id) && leaf.is_signed_by(&authority), "{certificate}");
        // It is the one that openssl writes.
        folder.run(&format!("req -x509 -key {certificate}.key -subj /CN=ca -out written.crt"));
        assert_eq!(Certificate::from_pem(&folder.bundle("written")).unwrap().subject_key_id(), Some(id));
        let answered =
            |leaf: &Certificate| ExternalAuthority::of_answer(leaf.pem().as_bytes(), &folder.bundle("issuing root ca"), moment());
        assert!(answered(&leaf).is_ok(), "{certificate}");
        // Leaves that do not name the key of their authority cannot be told to be its own.
        let by = format!("-CA {certificate}.crt -CAkey {certificate}.key");
        folder.run(&format!("x509 -req -in leaf.csr {by} -days 30 -extfile extensions -out leaf.crt"));
        let why = answered(&Certificate::from_pem(&folder.bundle("leaf")).unwrap()).unwrap_err().to_string();
        assert!(why.contains("subjectKeyIdentifier=hash"), "{why}");
    }
}
