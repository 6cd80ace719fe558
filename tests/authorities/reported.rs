//! CAs as they were reported, made by the commands that made them, and what is said of them.

use std::{fs, path::Path};

use etcd_warden::pki::{Authority, Domain, ExternalAuthority, PkiError, Usage};
use jiff::Timestamp;

use crate::{der::openssl, spec};

const KEY_ID: &str = "04:14:01:02:03:04:05:06:07:08:09:0a:0b:0c:0d:0e:0f:10:11:12:13:14";
const CA: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";

/// Makes a certificate and its key. `above` signs it; without one it is a root.
fn make(dir: &Path, name: &str, above: Option<&str>, hash: &str, extensions: &str) {
    fs::write(dir.join("extensions"), format!("{CA}{extensions}\n")).unwrap();
    openssl(dir, &format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}.key"));
    openssl(dir, &format!("req -new -key {name}.key -subj /CN={name} -out {name}.csr"));
    let by = above.map_or(format!("-signkey {name}.key"), |above| format!("-CA {above}.crt -CAkey {above}.key"));
    openssl(dir, &format!("x509 -req -in {name}.csr {by} -{hash} -days 3650 -extfile extensions -out {name}.crt"));
}

/// What is said of a CA whose `ca.crt` has these certificates. Empty if it is accepted.
fn said(dir: &Path, name: &str, roots: &[&str], domain: Domain) -> String {
    let read = |file: String| fs::read(dir.join(file)).unwrap();
    let roots: Vec<_> = roots.iter().flat_map(|root| read(format!("{root}.crt"))).collect();
    let now = Timestamp::now();
    let judge = || -> Result<(), PkiError> {
        let external = ExternalAuthority::of_secret(&read(format!("{name}.crt")), &read(format!("{name}.key")), &roots, now)?;
        let authority = Authority::load(external.authority.pem().as_bytes(), &read(format!("{name}.key")))?;
        let trial = spec(domain, if domain == Domain::Peer { Usage::Both } else { Usage::Server }).within(external.path());
        external.check(domain, &trial)?;
        let names = authority.issue(&trial, now)?.certificate.dns_names().clone();
        assert_eq!(names, trial.dns_names);
        Ok(())
    };
    judge().err().map_or_else(String::new, |why| why.to_string())
}

#[test]
fn a_ca_that_go_would_refuse_is_refused_in_both_domains() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (extension, why) in [
        ("extendedKeyUsage=serverAuth", "has an extendedKeyUsage without clientAuth"),
        ("extendedKeyUsage=clientAuth", "has an extendedKeyUsage without serverAuth"),
        ("extendedKeyUsage=codeSigning", "has an extendedKeyUsage without serverAuth and clientAuth"),
        (&format!("subjectKeyIdentifier=critical,DER:{KEY_ID}"), "has subjectKeyIdentifier as a critical extension"),
        (
            "authorityInfoAccess=critical,caIssuers;URI:http://pki.example/ca.crt",
            "has authorityInfoAccess as a critical extension",
        ),
        ("subjectAltName=URI:http://[pki", "has \"http://[pki\" in subjectAltName"),
        ("1.2.3.4=critical,DER:05:00", "has the critical extension 1.2.3.4"),
        ("2.25.329800735698586629295641978511506172918=DER:05:00", "has the object identifier 2.25.3298"),
    ] {
        let id = if extension.starts_with("subjectKeyIdentifier") { "" } else { "\nsubjectKeyIdentifier=hash" };
        make(dir, "odd", None, "sha256", &format!("{extension}{id}"));
        for domain in Domain::ALL {
            let said = said(dir, "odd", &[], domain);
            assert!(said.contains(why) && said.contains("have it issued"), "{extension}, {domain}: {said}");
        }
    }
}

#[test]
fn what_stands_above_a_ca_counts_for_clients_only() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let plain = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid";
    make(dir, "root", None, "sha256", "subjectKeyIdentifier=hash");
    make(dir, "names", None, "sha256", "subjectKeyIdentifier=hash\nnameConstraints=critical,permitted;DNS:corp.example");
    make(dir, "email", Some("root"), "sha256", &format!("{plain}\nextendedKeyUsage=emailProtection"));
    for (above, roots, hash, why) in [
        ("root", &["root"][..], "sha256", None),
        ("names", &["names"], "sha256", Some("\"names\" may sign for DNS:corp.example only, and so not for DNS:demo")),
        ("email", &["email", "root"], "sha256", Some("\"email\" has an extendedKeyUsage without serverAuth")),
        ("root", &["root"], "sha1", Some("\"issuing\" is signed with SHA-1")),
    ] {
        make(dir, "issuing", Some(above), hash, plain);
        assert_eq!(said(dir, "issuing", roots, Domain::Peer), "", "{above}, {hash}");
        let said = said(dir, "issuing", roots, Domain::Client);
        match why {
            None => assert_eq!(said, ""),
            Some(why) => assert!(said.starts_with("clients that use OpenSSL would refuse it") && said.contains(why), "{said}"),
        }
    }
}

#[test]
fn a_ca_for_the_names_of_the_kubernetes_cluster_only_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (constraint, why) in [
        ("permitted;DNS:svc,permitted;DNS:cluster.local", ""),
        ("permitted;DNS:svc,permitted;DNS:cluster.local,permitted;IP:10.0.0.0/255.0.0.0", ""),
        ("permitted;DNS:svc", "may sign for DNS:svc only, and so not for DNS:demo-0-0.demo-peers.ns.svc.cluster.local"),
        (
            "excluded;DNS:demo-peers.ns.svc",
            "may not sign for DNS:demo-peers.ns.svc, and so not for DNS:demo-0-0.demo-peers.ns.svc",
        ),
    ] {
        make(dir, "cluster-names", None, "sha256", &format!("subjectKeyIdentifier=hash\nnameConstraints=critical,{constraint}"));
        for domain in Domain::ALL {
            let said = said(dir, "cluster-names", &[], domain);
            assert!(said.contains(why) && said.is_empty() == why.is_empty(), "{constraint}, {domain}: {said}");
        }
    }
}
