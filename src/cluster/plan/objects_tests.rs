//! Objects that were changed, and claims.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::{
    api::{PullPolicy, Reason},
    cluster::{
        fixtures::{Fixture, objects, reasons},
        plan::tests::{Change, ONE, states},
    },
    names::{annotation as key, label},
};

#[test]
fn a_running_cluster_does_not_change_foreign_objects() {
    let mut fixture = Fixture::bootstrapped(ONE);
    let other = |meta: &mut ObjectMeta| {
        meta.owner_references = None;
        meta.annotations = Some([(key::CLUSTER_UID.to_owned(), "another".to_owned())].into());
    };
    other(&mut fixture.observed.client_service.as_mut().unwrap().metadata);
    other(&mut fixture.observed.ca_config.as_mut().unwrap().metadata);
    other(&mut fixture.member(0).claim.as_mut().unwrap().metadata);
    other(&mut fixture.member(0).stateful_set.as_mut().unwrap().metadata);
    let plan = fixture.changes();
    assert!(objects(&plan).is_empty(), "{:?}", objects(&plan));
    assert_eq!(reasons(&plan.problems), [Reason::NameTaken]);
    for object in ["Service demo ", "ConfigMap demo-ca ", "PersistentVolumeClaim data-demo-0 ", "StatefulSet demo-0 "] {
        assert!(plan.problems[0].message.contains(object), "{object}: {}", plan.problems[0].message);
    }
}

// Drift.

#[test]
fn objects_that_were_changed_or_deleted_by_hand_are_restored() {
    let changes: [(&str, Change); 12] = [
        ("Service demo", |w| w.observed.client_service = None),
        ("Service demo", |w| w.observed.client_service.as_mut().unwrap().spec.as_mut().unwrap().type_ = Some("NodePort".into())),
        ("Service demo-peers", |w| w.observed.peer_service = None),
        ("Service demo-peers", |w| w.observed.peer_service.as_mut().unwrap().spec.as_mut().unwrap().selector = None),
        ("PodDisruptionBudget demo", |w| w.observed.disruption_budget = None),
        ("PodDisruptionBudget demo", |w| w.observed.disruption_budget.as_mut().unwrap().metadata.owner_references = None),
        ("ConfigMap demo-ca", |w| w.observed.ca_config = None),
        ("ConfigMap demo-bootstrap", |w| {
            w.observed.bootstrap.as_mut().unwrap().data.as_mut().unwrap().insert("demo-1.state".into(), "new".into());
        }),
        ("StatefulSet demo-1", |w| w.member(1).stateful_set = None),
        ("StatefulSet demo-1", |w| w.member(1).stateful_set.as_mut().unwrap().spec.replicas = Some(0)),
        ("StatefulSet demo-1", |w| {
            let pod = w.member(1).stateful_set.as_mut().unwrap().spec.template.spec.as_mut().unwrap();
            pod.containers[0].args.as_mut().unwrap().push("--force-new-cluster".into());
        }),
        ("PersistentVolumeClaim data-demo-1", |w| {
            w.member(1).claim.as_mut().unwrap().metadata.annotations.as_mut().unwrap().remove(key::APPLIED);
        }),
    ];
    for (object, change) in changes {
        let mut fixture = Fixture::bootstrapped("{}");
        change(&mut fixture);
        // Most objects are restored. An object without its owner does not belong to the cluster and is not changed.
        let plan = fixture.changes();
        if object == "PodDisruptionBudget demo" && fixture.observed.disruption_budget.is_some() {
            assert_eq!(reasons(&plan.problems), [Reason::NameTaken], "without an owner it is foreign");
            continue;
        }
        assert_eq!(objects(&plan), [object]);
        fixture.settle();
        assert!(fixture.is_idle());
    }
}

#[test]
fn a_field_that_is_no_longer_desired_is_removed() {
    let mut fixture = Fixture::bootstrapped("{replicas: 1, image: {pullSecrets: [{name: registry}]}}");
    fixture.cluster.spec.image.pull_secrets.clear();
    assert_eq!(objects(&fixture.changes()), ["StatefulSet demo-0"]);
    fixture.settle();
    let pod = fixture.member(0).stateful_set.as_ref().unwrap().spec.template.spec.as_ref().unwrap();
    assert_eq!(pod.image_pull_secrets, None);
}

/// A new version of the operator, with other templates, restarts no member either.
#[test]
fn a_new_template_restarts_no_member() {
    let mut fixture = Fixture::bootstrapped("replicas: 3");
    let pods = |fixture: &mut Fixture| (0..3).map(|ordinal| fixture.pod(ordinal).metadata.uid.clone()).collect::<Vec<_>>();
    let before = pods(&mut fixture);
    fixture.cluster.spec.image.pull_policy = PullPolicy::Always;
    assert_eq!(objects(&fixture.changes()), ["StatefulSet demo-0", "StatefulSet demo-1", "StatefulSet demo-2"]);
    fixture.taken.clear();
    fixture.settle();
    assert!(fixture.is_idle());
    assert_eq!(pods(&mut fixture), before);
    assert!(fixture.taken.is_empty(), "{:?}", fixture.taken);
}

#[test]
fn fields_that_the_api_server_adds_are_no_drift() {
    let mut fixture = Fixture::bootstrapped(ONE);
    let set = fixture.member(0).stateful_set.as_mut().unwrap();
    set.metadata.labels.as_mut().unwrap().insert("added".into(), "by-others".into());
    set.spec.template.spec.as_mut().unwrap().dns_policy = Some("ClusterFirst".into());
    fixture.observed.client_service.as_mut().unwrap().spec.as_mut().unwrap().cluster_ip = Some("10.0.0.1".into());
    assert!(fixture.is_idle());
}

// Members.

#[test]
fn a_lost_claim_is_never_recreated() {
    let mut fixture = Fixture::bootstrapped("{}");
    fixture.member(1).claim = None;
    for _ in 0..3 {
        let plan = fixture.pass().changes();
        assert!(plan.is_empty(), "{:?}", objects(&plan));
        assert_eq!(reasons(&plan.problems), [Reason::ClaimLost]);
        assert!(plan.problems[0].message.contains("data-demo-1 is missing"), "{}", plan.problems[0].message);
    }
    assert_eq!(states(&fixture), ["existing"; 3]);
}

#[test]
fn a_claim_that_is_being_deleted_is_reported() {
    let mut fixture = Fixture::bootstrapped("{}");
    fixture.member(1).claim.as_mut().unwrap().metadata.deletion_timestamp = Some(Time(fixture.now));
    let plan = fixture.changes();
    assert!(plan.is_empty());
    assert!(plan.problems[0].message.contains("data-demo-1 is being deleted"), "{}", plan.problems[0].message);
}

#[test]
fn labels_of_a_pod_are_restored() {
    let mut fixture = Fixture::bootstrapped("{}");
    let labels = |fixture: &mut Fixture| fixture.member(1).pod.as_ref().unwrap().metadata.labels.clone().unwrap();
    let before = labels(&mut fixture);
    fixture.member(1).pod.as_mut().unwrap().metadata.labels.as_mut().unwrap().remove(label::INSTANCE);
    assert_eq!(fixture.pass().changes().pods.len(), 1);
    assert_eq!(labels(&mut fixture), before);
    assert!(fixture.is_idle());
}

fn labels_and_annotations(fixture: &mut Fixture) -> [BTreeMap<String, String>; 2] {
    let meta = &fixture.member(1).pod.as_ref().unwrap().metadata;
    [meta.labels.clone().unwrap(), meta.annotations.clone().unwrap()]
}

#[test]
fn labels_and_annotations_of_the_spec_reach_running_pods_without_a_restart() {
    let mut fixture = Fixture::bootstrapped("{pod: {labels: {team: a, old: x}, annotations: {note: one, scrape: 'true'}}}");
    let pods = |fixture: &mut Fixture| (0..3).map(|ordinal| fixture.pod(ordinal).metadata.uid.clone()).collect::<Vec<_>>();
    let before = pods(&mut fixture);
    // What another writer added stays, also with the key of a label that comes later.
    let added = fixture.member(1).pod.as_mut().unwrap();
    added.metadata.labels.as_mut().unwrap().insert("mesh".into(), "on".into());
    added.metadata.annotations.as_mut().unwrap().insert("injected".into(), "yes".into());
    assert!(fixture.is_idle());
    fixture.taken.clear();
    fixture.cluster.spec.pod.labels = [("team".to_owned(), "b".to_owned()), ("new".to_owned(), "y".to_owned())].into();
    fixture.cluster.spec.pod.annotations = [("note".to_owned(), "two".to_owned())].into();
    fixture.settle();
    assert!(fixture.is_idle());
    let [labels, annotations] = labels_and_annotations(&mut fixture);
    assert_eq!(
        ["team", "new", "old", "mesh"].map(|key| labels.get(key).map(String::as_str)),
        [Some("b"), Some("y"), None, Some("on")]
    );
    assert_eq!(
        ["note", "scrape", "injected"].map(|key| annotations.get(key).map(String::as_str)),
        [Some("two"), None, Some("yes")]
    );
    fixture.cluster.spec.pod.labels.clear();
    fixture.cluster.spec.pod.annotations.clear();
    fixture.settle();
    assert!(fixture.is_idle());
    let [labels, annotations] = labels_and_annotations(&mut fixture);
    assert!(!labels.contains_key("team") && labels.contains_key("mesh") && labels.contains_key(label::MEMBER), "{labels:?}");
    assert!(!annotations.contains_key(key::FROM_SPEC) && annotations.contains_key(key::SETTINGS), "{annotations:?}");
    assert_eq!(pods(&mut fixture), before);
    assert!(fixture.taken.is_empty(), "{:?}", fixture.taken);
}

#[test]
fn a_pod_without_a_record_keeps_what_it_has() {
    let mut fixture = Fixture::bootstrapped("{pod: {labels: {team: a}}}");
    let meta = &mut fixture.member(1).pod.as_mut().unwrap().metadata;
    meta.annotations.as_mut().unwrap().remove(key::FROM_SPEC);
    meta.labels.as_mut().unwrap().insert("old".into(), "x".into());
    fixture.settle();
    let [labels, annotations] = labels_and_annotations(&mut fixture);
    assert!(labels.contains_key("old") && annotations.contains_key(key::FROM_SPEC), "{labels:?} {annotations:?}");
}

#[test]
fn the_spec_cannot_change_what_the_operator_and_controllers_write() {
    let mut fixture = Fixture::bootstrapped("{}");
    let before = labels_and_annotations(&mut fixture);
    let own = |keys: &[&str]| keys.iter().map(|key| ((*key).to_owned(), "other".to_owned())).collect();
    fixture.cluster.spec.pod.labels = own(&[label::MEMBER, label::INSTANCE, "controller-revision-hash"]);
    fixture.cluster.spec.pod.annotations = own(&[key::SETTINGS, key::TLS_CONFIRMED, key::FROM_SPEC]);
    fixture.settle();
    assert!(fixture.is_idle());
    assert_eq!(labels_and_annotations(&mut fixture), before);
}

#[test]
fn the_default_container_comes_back() {
    let mut fixture = Fixture::bootstrapped("{pod: {annotations: {kubectl.kubernetes.io/default-container: proxy}}}");
    let container = |fixture: &mut Fixture| labels_and_annotations(fixture)[1][key::DEFAULT_CONTAINER].clone();
    assert_eq!(container(&mut fixture), "proxy");
    fixture.cluster.spec.pod.annotations.clear();
    fixture.settle();
    assert_eq!(container(&mut fixture), "etcd");
}

#[test]
fn a_label_that_others_overwrite_each_time_is_reported_and_left() {
    let mut fixture = Fixture::bootstrapped("{pod: {labels: {team: a}}}");
    for _ in 0..5 {
        let meta = &mut fixture.member(1).pod.as_mut().unwrap().metadata;
        meta.labels.as_mut().unwrap().insert("team".into(), "b".into());
        assert_eq!(fixture.pass().changes().pods.len(), 1);
    }
    fixture.member(1).pod.as_mut().unwrap().metadata.labels.as_mut().unwrap().insert("team".into(), "b".into());
    let plan = fixture.pass().changes();
    assert!(plan.pods.is_empty());
    assert_eq!(reasons(&plan.problems), [Reason::FieldOverwritten]);
    let message = &plan.problems[0].message;
    assert!(
        message.starts_with(r#"Pod demo-1-0: each time that etcd-warden applies metadata.labels.team ("b" instead of "a")"#),
        "{message}"
    );
}
