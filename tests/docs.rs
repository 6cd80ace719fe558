//! The documents name every reason, step and metric that the operator has, and no others. An example shows every field.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs, path::Path};

use etcd_warden::api::{self, ConditionType, Reason};
use serde_json::Value;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The section of a document under this heading.
fn section(document: &str, heading: &str) -> String {
    let text = read(document);
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).unwrap();
    section.split_once("\n## ").map_or(section, |(section, _)| section).to_owned()
}

/// The words of a text that are formatted as code.
fn code(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The texts between double quotes.
fn literals(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2)
}

#[test]
fn every_reason_is_explained() {
    let explained = code(&(read("docs/troubleshooting.md") + &read("docs/reference.md")));
    let missing: Vec<_> = Reason::ALL.iter().filter(|reason| !explained.contains(reason.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn tables_of_reasons_contain_no_unknown_words() {
    for heading in ["Reasons of an EtcdCluster", "Reasons of an EtcdUser"] {
        for row in section("docs/troubleshooting.md", heading).lines().filter(|line| line.starts_with("| ")) {
            let (_, cells) = row.split_at(2);
            // The last cell is the meaning.
            let (cells, _) = cells.trim_end_matches('|').rsplit_once('|').unwrap();
            let unknown = |word: &String| Reason::parse(word).is_none() && ConditionType::parse(word).is_none();
            let unknown: Vec<_> = code(cells).into_iter().filter(unknown).collect();
            assert!(unknown.is_empty(), "{unknown:?} in {row}");
        }
    }
}

#[test]
fn the_table_of_steps_matches_the_source() {
    let mut steps = BTreeSet::new();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cluster/steps")).unwrap() {
        let source = fs::read_to_string(file.unwrap().path()).unwrap();
        for name in source.split("fn name(&self) -> &'static str {").skip(1) {
            steps.extend(literals(name.split_once("\n    }").unwrap().0).map(str::to_owned));
        }
    }
    let mut documented = BTreeSet::new();
    for row in section("docs/reference.md", "Steps").lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").collect();
        documented.extend(code(cells[0]));
        let reasons = code(&cells[1..3].concat());
        let unknown: Vec<_> = reasons.iter().filter(|reason| Reason::parse(reason).is_none()).collect();
        assert!(reasons.len() >= 2 && unknown.is_empty(), "{row}: {unknown:?}");
    }
    assert_eq!(documented, steps);
}

#[test]
fn every_metric_is_documented() {
    let documented = code(&section("docs/reference.md", "Metrics"));
    let source = read("src/metrics.rs");
    let calls: Vec<_> = source.split("r.register").skip(1).collect();
    assert!(!calls.is_empty());
    for call in calls {
        let name = format!("etcd_warden_{}", literals(call).next().unwrap());
        assert!(documented.iter().any(|word| word.starts_with(&name)), "{name}");
    }
}

/// Fields of types of Kubernetes, which are described there, and the one that the example says is as another.
const NOT_SHOWN: [&str; 6] = [
    ".image.pullSecrets.",
    ".tls.peer.issuer.",
    ".pod.resources.",
    ".pod.affinity.",
    ".pod.tolerations.",
    ".pod.topologySpreadConstraints.",
];

/// The paths of all properties of a schema, such as `.storage.size`.
fn paths(schema: &Value, parent: &str, found: &mut BTreeSet<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{parent}.{name}");
        paths(property, &path, found);
        paths(&property["items"], &path, found);
        found.insert(path);
    }
}

/// The paths of all keys of a document in YAML, of those that are commented out as well.
fn keys(document: &str) -> BTreeSet<String> {
    let mut parents: Vec<(usize, &str)> = vec![];
    let mut found = BTreeSet::new();
    for line in document.lines() {
        let body = line.trim_start();
        let indent = line.len() - body.len();
        let body = body.strip_prefix("# ").unwrap_or(body);
        let text = body.trim_start_matches([' ', '-']);
        let Some((key, _)) = text.split_once(':').filter(|(key, _)| key.chars().all(char::is_alphanumeric)) else { continue };
        let depth = indent + body.len() - text.len();
        parents.retain(|(of_parent, _)| *of_parent < depth);
        parents.push((depth, key));
        found.insert(parents.iter().flat_map(|(_, key)| [".", *key]).collect());
    }
    found
}

#[test]
fn an_example_shows_every_field() {
    let [clusters, _] = api::crds().unwrap();
    let schema = serde_json::to_value(&clusters.spec.versions[0].schema).unwrap();
    let mut fields = BTreeSet::new();
    paths(&schema["openAPIV3Schema"]["properties"]["spec"], "", &mut fields);
    fields.retain(|path| !NOT_SHOWN.iter().any(|not_shown| path.starts_with(not_shown)));
    assert!(fields.contains(".storage.size") && fields.contains(".tls.client.issuer.certManager.kind"), "{fields:?}");
    let shown = keys(&read("examples/cluster-full.yaml"));
    let missing: Vec<_> = fields.iter().filter(|path| !shown.contains(&format!(".spec{path}"))).collect();
    assert!(missing.is_empty(), "examples/cluster-full.yaml does not show {missing:?}");
}
