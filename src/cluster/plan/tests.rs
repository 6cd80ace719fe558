use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use k8s_openapi::{
    api::{
        apps::v1::StatefulSetStatus,
        core::v1::{ContainerState, ContainerStateRunning, ContainerStateWaiting, PersistentVolumeClaim},
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, Time},
    },
};
use proptest::prelude::*;

use super::changes::{IDLE, PENDING, SOON};
use super::*;
use crate::{
    api::{ConditionType, Duration, EtcdClusterStatus, PullPolicy, Reason, condition},
    certificates::{
        requests::{LeafKeys, LeafRequest, SecretChange},
        secret::CachedSecret,
    },
    cluster::{
        fixtures::{self, CLUSTER_ID, SECOND, World, names, objects, reasons},
        observed::{Observed, ObservedMember, Probe},
        outcome::Outcome,
        steps::{Revoke, Step},
    },
    ids::{ClusterId, MemberId},
    kubernetes::secret::SecretView,
    names::{annotation as key, authority_key, bootstrap_key, label, member_key, tls_key},
    pki::{Authority, Domain, Holder, LeafSpec, Ledger, ReissueReason, Usage, crl_serials},
};

const ONE: &str = "replicas: 1";

/// A change of a world.
type Change = fn(&mut World);
/// The leaves of a plan: each Secret with the keys of its certificates.
type Leaves = Vec<(String, Vec<&'static str>)>;

fn leaves(changes: &Changes) -> Leaves {
    let keys = |change: &SecretChange| change.leaves.iter().map(|leaf| leaf.keys.certificate).collect();
    changes.secrets.iter().map(|change| (change.name.clone(), keys(change))).collect()
}

fn states(world: &World) -> Vec<String> {
    let data = world.observed.bootstrap.as_ref().unwrap().data.as_ref().unwrap();
    data.iter().filter(|(key, _)| key.ends_with(bootstrap_key::STATE_SUFFIX)).map(|(_, state)| state.clone()).collect()
}

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

/// The annotations that are written to pods.
fn annotations(changes: &Changes) -> Vec<&str> {
    changes.pods.iter().flat_map(|patch| patch.annotations.keys()).map(String::as_str).collect()
}

// Bootstrap.

#[test]
fn a_cluster_is_bootstrapped_in_stages() {
    let mut world = World::new("{}");
    let first = world.pass().changes();
    assert_eq!(first.authorities.len(), 2);
    assert!(first.secrets.is_empty() && first.step.is_none());
    let desired = [
        "ConfigMap demo-bootstrap",
        "Service demo-peers",
        "Service demo",
        "PodDisruptionBudget demo",
        "PersistentVolumeClaim data-demo-0",
        "PersistentVolumeClaim data-demo-1",
        "PersistentVolumeClaim data-demo-2",
    ];
    assert_eq!(objects(&first), desired);
    assert_eq!(
        first.preflight.len(),
        desired.len() + 3 + 1 + 6,
        "the names of StatefulSets, of the ConfigMap for clients and of Secrets are checked before anything is created"
    );

    let second = world.pass().changes();
    assert_eq!(objects(&second), ["ConfigMap demo-ca"]);
    let all = vec![member_key::SERVER_CRT, member_key::PEER_CRT, member_key::CLIENT_CRT];
    let mut expected = vec![("demo-operator-tls".to_owned(), vec!["tls.crt"])];
    expected.extend((0..3).map(|ordinal| (format!("demo-{ordinal}-tls"), all.clone())));
    assert_eq!(leaves(&second), expected);
    assert!(second.authorities.is_empty() && second.preflight.is_empty());

    let third = world.pass().changes();
    assert_eq!(objects(&third), ["StatefulSet demo-0", "StatefulSet demo-1", "StatefulSet demo-2"]);

    let fourth = world.pass().changes();
    let Some(Step::RecordMembers(record)) = &fourth.step else { panic!("{:?}", fourth.step) };
    assert_eq!((record.cluster_id, record.members.len()), (CLUSTER_ID, 3));
    assert_eq!(fourth.pods.len(), 3, "all members serve the certificates in their Secrets");
    assert_eq!(states(&world), ["new"; 3]);

    assert_eq!(objects(&world.pass().changes()), ["ConfigMap demo-bootstrap"]);
    assert_eq!(states(&world), ["existing"; 3]);
    assert!(world.is_idle());
}

#[test]
fn a_stateful_set_is_applied_only_after_its_secret() {
    let mut world = World::new("{}");
    world.pass();
    world.pass();
    world.member(1).secret = None;
    assert_eq!(objects(&world.changes()), ["StatefulSet demo-0", "StatefulSet demo-2"]);
}

#[test]
fn a_converged_cluster_is_not_changed_until_a_renewal_is_due() {
    let mut world = World::bootstrapped("{}");
    for _ in 0..5 {
        world.now += days(11);
        let plan = world.changes();
        assert!(
            plan.is_empty() && plan.progress.is_empty() && plan.problems.is_empty() && plan.certificates.is_empty(),
            "{plan:?}"
        );
        assert_eq!(plan.next_check(), IDLE);
    }
    world.now += days(6);
    assert_eq!(world.changes().secrets.len(), 4, "after two thirds of 90 days all leaves are due");
    world.settle();
    assert!(world.is_idle());
}

#[test]
fn a_bootstrapping_member_that_has_not_started_stays_new_without_its_recorded_state() {
    for is_recorded in [true, false] {
        let mut world = World::new("{}");
        world.down.insert(names().member(2));
        while world.observed.status.cluster_id.is_none() {
            world.pass();
        }
        let url = names().peer_url(&names().member(2));
        assert!(world.etcd.iter().any(|member| member.peer_urls == [url.clone()] && member.name.is_empty()));
        if !is_recorded {
            // The watch lags, or the ConfigMap was deleted.
            world.observed.bootstrap = None;
        }
        world.pass();
        let data = world.observed.bootstrap.as_ref().unwrap().data.clone().unwrap();
        assert_eq!((data["demo-2.state"].as_str(), data["demo-0.state"].as_str()), ("new", "existing"));
        assert_eq!(data["demo-2.cluster"].split(',').count(), 3);
        world.down.clear();
        world.settle();
        assert_eq!(world.ordinals(), [0, 1, 2]);
    }
}

#[test]
fn members_of_another_operators_unfinished_bootstrap_are_ignored() {
    let mut world = World::new("{replicas: 2}");
    world.pass();
    let mut other = World::new("{replicas: 5}");
    other.pass();
    for (name, member) in &other.observed.members {
        world.observed.members.entry(name.clone()).or_default().claim.clone_from(&member.claim);
    }
    assert_eq!(world.observed.members.len(), 5);
    world.pass();
    let data = world.observed.bootstrap.as_ref().unwrap().data.clone().unwrap();
    assert!(data["demo-0.cluster"].split(',').count() == 2 && !data.contains_key("demo-2.state"), "{data:?}");
}

// Objects of others.

/// A new cluster that finds the objects of another cluster of the same name, as far as `keep` keeps them.
fn with_objects_of_another_cluster(keep: impl FnOnce(&mut World)) -> World {
    let mut world = World::bootstrapped(ONE);
    world.cluster.metadata.uid = Some("another".into());
    world.cluster.status = None;
    world.observed.status = EtcdClusterStatus::default();
    world.kubelet = false;
    keep(&mut world);
    world
}

#[test]
fn objects_of_a_cluster_that_is_being_deleted_are_not_adopted() {
    let mut world = with_objects_of_another_cluster(|_| {});
    for _ in 0..3 {
        let pass = world.pass();
        assert_eq!(pass.blocked().map(|note| note.reason), Some(Reason::NameTaken));
    }
}

#[test]
fn a_cluster_is_not_bootstrapped_if_a_name_is_taken() {
    let mut world = with_objects_of_another_cluster(|world| {
        let client_service = world.observed.client_service.take();
        world.observed = Observed { client_service, ..Observed::default() };
    });
    let blocked = world.blocked();
    assert_eq!(blocked.reason, Reason::NameTaken);
    let owner = "Service demo cannot be used: it belongs to EtcdCluster demo (uid";
    assert!(blocked.message.starts_with(owner), "{}", blocked.message);
}

#[test]
fn a_running_cluster_does_not_change_foreign_objects() {
    let mut world = World::bootstrapped(ONE);
    let other = |meta: &mut ObjectMeta| {
        meta.owner_references = None;
        meta.annotations = Some([(key::CLUSTER_UID.to_owned(), "another".to_owned())].into());
    };
    other(&mut world.observed.client_service.as_mut().unwrap().metadata);
    other(&mut world.observed.ca_config.as_mut().unwrap().metadata);
    other(&mut world.member(0).claim.as_mut().unwrap().metadata);
    other(&mut world.member(0).stateful_set.as_mut().unwrap().metadata);
    let plan = world.changes();
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
        let mut world = World::bootstrapped("{}");
        change(&mut world);
        // Most objects are restored. An object without its owner does not belong to the cluster and is not changed.
        let plan = world.changes();
        if object == "PodDisruptionBudget demo" && world.observed.disruption_budget.is_some() {
            assert_eq!(reasons(&plan.problems), [Reason::NameTaken], "without an owner it is foreign");
            continue;
        }
        assert_eq!(objects(&plan), [object]);
        world.settle();
        assert!(world.is_idle());
    }
}

#[test]
fn a_field_that_is_no_longer_desired_is_removed() {
    let mut world = World::bootstrapped("{replicas: 1, image: {pullSecrets: [{name: registry}]}}");
    world.cluster.spec.image.pull_secrets.clear();
    assert_eq!(objects(&world.changes()), ["StatefulSet demo-0"]);
    world.settle();
    let pod = world.member(0).stateful_set.as_ref().unwrap().spec.template.spec.as_ref().unwrap();
    assert_eq!(pod.image_pull_secrets, None);
}

/// A new version of the operator, with other templates, restarts no member either.
#[test]
fn a_new_template_restarts_no_member() {
    let mut world = World::bootstrapped("replicas: 3");
    let pods = |world: &mut World| (0..3).map(|ordinal| world.pod(ordinal).metadata.uid.clone()).collect::<Vec<_>>();
    let before = pods(&mut world);
    world.cluster.spec.image.pull_policy = PullPolicy::Always;
    assert_eq!(objects(&world.changes()), ["StatefulSet demo-0", "StatefulSet demo-1", "StatefulSet demo-2"]);
    world.taken.clear();
    world.settle();
    assert!(world.is_idle());
    assert_eq!(pods(&mut world), before);
    assert!(world.taken.is_empty(), "{:?}", world.taken);
}

#[test]
fn a_claim_that_was_expanded_by_hand_keeps_its_size() {
    let mut world = World::bootstrapped(ONE);
    let request = |size: &str| Some([("storage".to_owned(), Quantity(size.into()))].into());
    let spec = world.member(0).claim.as_mut().unwrap().spec.as_mut().unwrap();
    spec.resources.as_mut().unwrap().requests = request("100Gi");
    world.settle();
    let spec = world.member(0).claim.as_ref().unwrap().spec.as_ref().unwrap();
    assert_eq!(spec.resources.as_ref().unwrap().requests, request("100Gi"));
    assert!(world.is_idle());
}

#[test]
fn fields_that_the_api_server_adds_are_no_drift() {
    let mut world = World::bootstrapped(ONE);
    let set = world.member(0).stateful_set.as_mut().unwrap();
    set.metadata.labels.as_mut().unwrap().insert("added".into(), "by-others".into());
    set.spec.template.spec.as_mut().unwrap().dns_policy = Some("ClusterFirst".into());
    world.observed.client_service.as_mut().unwrap().spec.as_mut().unwrap().cluster_ip = Some("10.0.0.1".into());
    assert!(world.is_idle());
}

// Members.

#[test]
fn a_lost_claim_is_never_recreated() {
    let mut world = World::bootstrapped("{}");
    world.member(1).claim = None;
    for _ in 0..3 {
        let plan = world.pass().changes();
        assert!(plan.is_empty(), "{:?}", objects(&plan));
        assert_eq!(reasons(&plan.problems), [Reason::ClaimLost]);
        assert!(plan.problems[0].message.contains("data-demo-1 is missing"), "{}", plan.problems[0].message);
    }
    assert_eq!(states(&world), ["existing"; 3]);
}

#[test]
fn a_claim_that_is_being_deleted_is_reported() {
    let mut world = World::bootstrapped("{}");
    world.member(1).claim.as_mut().unwrap().metadata.deletion_timestamp = Some(Time(world.now));
    let plan = world.changes();
    assert!(plan.is_empty());
    assert!(plan.problems[0].message.contains("data-demo-1 is being deleted"), "{}", plan.problems[0].message);
}

#[test]
fn labels_of_a_pod_are_restored() {
    let mut world = World::bootstrapped("{}");
    let labels = |world: &mut World| world.member(1).pod.as_ref().unwrap().metadata.labels.clone().unwrap();
    let before = labels(&mut world);
    world.member(1).pod.as_mut().unwrap().metadata.labels.as_mut().unwrap().remove(label::INSTANCE);
    assert_eq!(world.pass().changes().pods.len(), 1);
    assert_eq!(labels(&mut world), before);
    assert!(world.is_idle());
}

#[test]
fn a_member_that_lost_all_objects_is_still_known() {
    let mut world = World::bootstrapped("{}");
    world.observed.bootstrap = None;
    *world.member(1) = ObservedMember::default();
    let plan = world.changes();
    assert_eq!(objects(&plan)[0], "ConfigMap demo-bootstrap");
    assert_eq!(reasons(&plan.problems), [Reason::ClaimLost]);
    world.pass();
    assert_eq!(states(&world), ["existing"; 3]);
}

#[test]
fn a_deleted_bootstrap_config_is_recreated_and_started_members_stay_existing() {
    for passes in [4, 5, 9] {
        let mut world = World::new("{}");
        for _ in 0..passes {
            world.pass();
        }
        assert!(world.observed.members.values().all(ObservedMember::has_started));
        world.observed.bootstrap = None;
        world.pass();
        assert_eq!(states(&world), ["existing"; 3], "after {passes} passes");
    }
    let mut world = World::new("{}");
    world.pass();
    world.observed.bootstrap = None;
    world.pass();
    assert_eq!(states(&world), ["new"; 3], "no member has started yet");
}

#[test]
fn the_recorded_list_of_a_started_member_has_only_itself() {
    let world = World::bootstrapped("{}");
    let data = world.observed.bootstrap.unwrap().data.clone().unwrap();
    assert_eq!(data["demo-1.cluster"], "demo-1=https://demo-1-0.demo-peers.ns.svc:2380");
    assert_eq!(data[bootstrap_key::TOKEN], fixtures::UID);
}

/// A world whose members have started and are not recorded yet.
fn before_recording() -> World {
    let mut world = World::new("{}");
    for _ in 0..3 {
        world.pass();
    }
    world
}

/// The members that are recorded if the observation is changed like this.
fn recorded_members(world: &mut World, change: impl FnOnce(&mut Observed)) -> BTreeSet<String> {
    world.plan();
    let mut observed = world.observed.clone();
    change(&mut observed);
    match world.plan_on(&observed).step() {
        Some(Step::RecordMembers(record)) => record.members.iter().map(|member| member.name.to_string()).collect(),
        _ => BTreeSet::new(),
    }
}

#[test]
fn only_named_members_that_answer_with_their_listed_id_are_recorded() {
    let mut world = before_recording();
    let all: BTreeSet<_> = ["demo-0", "demo-1", "demo-2"].map(str::to_owned).into();
    let others: BTreeSet<_> = ["demo-1", "demo-2"].map(str::to_owned).into();
    let list = |observed: &mut Observed| observed.list.as_ref().unwrap().clone();
    assert_eq!(recorded_members(&mut world, |_| {}), all);
    let unnamed = |observed: &mut Observed| {
        let mut list = list(observed);
        list.members[0].name.clear();
        observed.list = Ok(list);
    };
    assert_eq!(recorded_members(&mut world, unnamed), others);
    let elsewhere = |observed: &mut Observed| {
        let mut list = list(observed);
        list.members[0].id = MemberId(7);
        observed.list = Ok(list);
    };
    assert_eq!(recorded_members(&mut world, elsewhere), others);
    let silent = |observed: &mut Observed| {
        observed.members.get_mut(&names().member(0)).unwrap().etcd = Probe::Unreachable("refused".into());
    };
    assert_eq!(recorded_members(&mut world, silent), others);
    assert_eq!(recorded_members(&mut world, |observed| observed.list = Err("no quorum".into())), BTreeSet::new());
    let second = |observed: &mut Observed| observed.status.cluster_id = Some(ClusterId(0xbad));
    assert_eq!(recorded_members(&mut world, second), BTreeSet::new(), "members of a second cluster are not recorded");
}

#[test]
fn a_wrong_id_on_a_claim_is_corrected_while_its_member_answers() {
    for key in [key::MEMBER_ID, key::CLUSTER_ID] {
        let mut world = World::bootstrapped("{}");
        let edited = |world: &mut World| {
            let claim = world.member(1).claim.as_mut().unwrap();
            claim.metadata.annotations.as_mut().unwrap().insert(key.into(), "bad".into())
        };
        let before = edited(&mut world);
        world.silent.insert(names().member(1));
        assert_eq!(recorded_members(&mut world, |_| {}), BTreeSet::new(), "it is unknown which member has the data");
        world.silent.clear();
        assert_eq!(recorded_members(&mut world, |_| {}), BTreeSet::from(["demo-1".to_owned()]));
        world.settle();
        assert_eq!(edited(&mut world), before);
    }
}

/// It must not be reported as foreign: removing it would remove data.
#[test]
fn a_claim_that_has_lost_its_annotations_is_not_reported_as_foreign() {
    let mut world = World::bootstrapped("{}");
    world.pass();
    let claim = world.member(1).claim.as_mut().unwrap();
    (claim.metadata.annotations, claim.metadata.owner_references) = (None, None);
    assert_eq!(reasons(&world.changes().problems), [Reason::NameTaken], "without a volume it has no data");
    world.member(1).claim.as_mut().unwrap().spec.as_mut().unwrap().volume_name = Some("pv".into());
    for _ in 0..3 {
        let pass = world.pass();
        assert!(pass.is_idle(), "{:?}", pass.plan);
        assert_eq!(pass.report.status.members.len(), 3, "it is a member");
        let problems = pass.changes().problems;
        assert_eq!(reasons(&problems), [Reason::AnnotationsLost]);
        let uid = fixtures::UID;
        let command = format!(
            "`kubectl -n ns annotate pvc data-demo-1 etcd-warden.dev/cluster-uid={uid} etcd-warden.dev/cluster-id=c1 etcd-warden.dev/member-id=a1`"
        );
        assert!(problems[0].message.ends_with(&command), "{}", problems[0].message);
    }
    let claim = &mut world.member(1).claim.as_mut().unwrap().metadata;
    claim.annotations = Some([(key::CLUSTER_UID.to_owned(), fixtures::UID.to_owned())].into());
    world.settle();
    assert!(world.member(1).has_started(), "the other annotations are restored while the member answers");
    assert!(world.changes().problems.is_empty());
}

/// Changing the URL of a member with etcdctl does not make it another member.
#[test]
fn a_member_whose_url_was_changed_is_identified_by_its_name() {
    let mut world = World::bootstrapped("{}");
    let plan = world.plan();
    world.observed.list.as_mut().unwrap().members[1].peer_urls = vec!["https://elsewhere:2380".into()];
    let status = world.report_on(&plan, &Outcome::default()).status;
    assert!(status.unknown_members.is_empty(), "{:?}", status.unknown_members);
    assert_eq!(condition(&status.conditions, ConditionType::Available).unwrap().message, "3 of 3 voters are healthy");
    world.member(1).claim.as_mut().unwrap().metadata.annotations.as_mut().unwrap().remove(key::MEMBER_ID);
    let plan = world.plan_on(&world.observed);
    let Some(Step::RecordMembers(record)) = plan.step() else { panic!("{plan:?}") };
    assert_eq!(record.members[0].name, names().member(1));
}

#[test]
fn members_that_start_later_are_recorded_later() {
    let mut world = before_recording();
    world.silent.insert(names().member(2));
    world.pass();
    world.pass();
    assert_eq!(states(&world), ["existing", "existing", "new"]);
    world.silent.clear();
    world.settle();
    assert_eq!(states(&world), ["existing"; 3]);
}

/// A member whose image could not be pulled, after its StatefulSet has changed.
fn unstarted() -> World {
    let mut world = World::new(ONE);
    for _ in 0..3 {
        world.pass();
    }
    world.plan();
    world.kubelet = false;
    let member = world.member(0);
    let set = member.stateful_set.as_mut().unwrap();
    set.metadata.generation = Some(2);
    set.status = Some(StatefulSetStatus {
        observed_generation: Some(2),
        update_revision: Some("new".into()),
        ..StatefulSetStatus::default()
    });
    let pod = member.pod.as_mut().unwrap();
    pod.metadata.labels.as_mut().unwrap().insert("controller-revision-hash".into(), "old".into());
    let status = &mut pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0];
    let waiting = ContainerStateWaiting { reason: Some("ImagePullBackOff".into()), message: None };
    status.state = Some(ContainerState { waiting: Some(waiting), ..ContainerState::default() });
    world
}

fn plans_restart(world: &mut World) -> bool {
    matches!(world.changes().step, Some(Step::RestartMember(_)))
}

/// It may already run although the kubelet has not reported it yet, and the quorum may need it.
#[test]
fn a_pod_that_is_being_created_is_not_restarted() {
    for reason in ["ContainerCreating", "PodInitializing"] {
        let mut world = unstarted();
        assert!(plans_restart(&mut world));
        let status = &mut world.pod(0).status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0];
        status.state.as_mut().unwrap().waiting.as_mut().unwrap().reason = Some(reason.into());
        assert!(!plans_restart(&mut world), "{reason}");
    }
}

/// It runs, but neither the operator nor the kubelet has ever found it serving.
#[test]
fn a_pod_that_has_never_served_is_recreated_from_a_changed_template() {
    let silent = || {
        let mut world = unstarted();
        let since = Time(world.now - SECOND * 60);
        let running = ContainerStateRunning { started_at: Some(since) };
        let pod = world.pod(0);
        let container = &mut pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0];
        container.state = Some(ContainerState { running: Some(running), ..ContainerState::default() });
        pod.metadata.annotations.as_mut().unwrap().remove(key::TLS_CONFIRMED);
        world.silent.insert(names().member(0));
        let since = Some(Time(world.now - SECOND * 60));
        let reported = &mut world.observed.status.members[0];
        (reported.ready, reported.since) = (false, since);
        world
    };
    assert!(plans_restart(&mut silent()));
    let changes: [(&str, Change); 5] = [
        ("its template is the same", |w| {
            w.pod(0).metadata.labels.as_mut().unwrap().insert("controller-revision-hash".into(), "new".into());
        }),
        ("it has served", |w| {
            w.pod(0).metadata.annotations.as_mut().unwrap().insert(key::TLS_CONFIRMED.into(), "some".into());
        }),
        ("it has just started", |w| w.now -= SECOND),
        ("the kubelet's clock is behind ours, and it has just started", |w| {
            w.observed.status.members[0].since = Some(Time(w.now - SECOND));
        }),
        ("it serves", |w| w.silent.clear()),
    ];
    for (why_not, change) in changes {
        let mut world = silent();
        change(&mut world);
        assert!(!plans_restart(&mut world), "{why_not}");
    }
}

#[test]
fn a_pod_that_cannot_start_is_recreated_from_a_changed_template() {
    assert!(plans_restart(&mut unstarted()));
    let mut ending = unstarted();
    ending.pod(0).status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].restart_count = 1;
    assert!(plans_restart(&mut ending), "its container is in a crash loop");
    let changes: [(&str, Change); 6] = [
        ("its data would be lost with it", |w| {
            w.member(0).claim.as_mut().unwrap().metadata.deletion_timestamp = Some(Time(w.now));
        }),
        ("the template is the same", |w| {
            w.pod(0).metadata.labels.as_mut().unwrap().insert("controller-revision-hash".into(), "new".into());
        }),
        ("its controller has not observed the change", |w| {
            w.member(0).stateful_set.as_mut().unwrap().metadata.generation = Some(3);
        }),
        ("it runs", |w| {
            let running = ContainerStateRunning::default();
            let container = &mut w.pod(0).status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0];
            container.state.as_mut().unwrap().running = Some(running);
        }),
        ("it is being deleted", |w| {
            w.pod(0).metadata.deletion_timestamp = Some(Time(w.now));
        }),
        ("the StatefulSet is about to change", |w| w.member(0).stateful_set.as_mut().unwrap().spec.replicas = Some(0)),
    ];
    for (why_not, change) in changes {
        let mut world = unstarted();
        change(&mut world);
        assert!(!plans_restart(&mut world), "{why_not}");
    }
}

// Authorities.

#[test]
fn a_lost_authority_is_never_recreated() {
    type Loss = fn(&mut Option<CachedSecret>);
    let losses: [(&str, Loss); 6] = [
        ("is missing", |secret| *secret = None),
        ("active.crt is missing", |secret| secret.as_mut().unwrap().data.clear()),
        ("active.key is missing", |secret| drop(secret.as_mut().unwrap().data.remove(authority_key::ACTIVE_KEY))),
        ("next.crt", |secret| drop(secret.as_mut().unwrap().data.insert(authority_key::NEXT_CRT.into(), b"edited".to_vec()))),
        ("does not belong to this cluster", |secret| secret.as_mut().unwrap().meta.annotations = None),
        ("holds other CAs", |secret| {
            let now = "2026-03-01T12:00:00Z".parse().unwrap();
            let other = Authority::create("other", SignedDuration::from_hours(9999), now).unwrap();
            let data = &mut secret.as_mut().unwrap().data;
            data.insert(authority_key::ACTIVE_CRT.into(), other.certificate().pem().into());
            data.insert(authority_key::ACTIVE_KEY.into(), other.certificate().key_digest().to_hex().into());
        }),
    ];
    for domain in [Domain::Client, Domain::Peer] {
        for (problem, lose) in losses {
            let mut world = World::bootstrapped("{}");
            lose(world.authority_secret(domain));
            world.now += days(61);
            let plan = world.changes();
            assert!(plan.authorities.is_empty());
            let lost: Vec<_> = plan.certificates.iter().filter(|note| note.reason == Reason::CALost).collect();
            assert_eq!(lost.len(), 1, "{problem}");
            assert!(lost[0].message.contains(problem), "{problem}: {}", lost[0].message);
            let domains: BTreeSet<_> = plan.secrets.iter().flat_map(|change| &change.leaves).map(|leaf| leaf.domain).collect();
            assert_eq!(domains, [domain.other()].into(), "the other domain still issues");
        }
    }
}

#[test]
fn no_authority_is_created_while_members_may_trust_another() {
    let mut world = World::bootstrapped(ONE);
    world.observed.authorities.client = None;
    world.observed.status.certificates = None;
    world.cluster.status = None;
    let plan = world.changes();
    assert!(plan.authorities.is_empty(), "the members' Secrets exist");
    assert!(reasons(&plan.certificates).contains(&Reason::CALost));
}

// Leaves.

#[test]
fn only_the_leaf_that_needs_it_is_reissued() {
    let server = member_key::SERVER_CRT;
    let all_server = vec![("demo-0-tls".to_owned(), vec![server])];
    let changes: [(&str, Change, Leaves); 6] = [
        ("missing", |w| drop(w.member(0).secret.as_mut().unwrap().data.remove(member_key::SERVER_CRT)), all_server.clone()),
        (
            "unreadable",
            |w| drop(w.member(0).secret.as_mut().unwrap().data.insert(member_key::SERVER_CRT.into(), b"x".to_vec())),
            all_server.clone(),
        ),
        (
            "another key",
            |w| {
                let data = &mut w.member(0).secret.as_mut().unwrap().data;
                let other = data[member_key::PEER_KEY].clone();
                data.insert(member_key::SERVER_KEY.into(), other);
            },
            all_server.clone(),
        ),
        ("other names", |w| w.cluster.spec.tls.client.extra_sans.dns_names = vec!["etcd.example.com".into()], all_server.clone()),
        (
            "shortened",
            |w| w.cluster.spec.tls.peer.certificate.duration = Duration("24h".into()),
            vec![("demo-0-tls".to_owned(), vec![member_key::PEER_CRT])],
        ),
        (
            "operator's",
            |w| drop(w.observed.operator.as_mut().unwrap().data.remove("tls.key")),
            vec![("demo-operator-tls".to_owned(), vec!["tls.crt"])],
        ),
    ];
    for (what, change, expected) in changes {
        let mut world = World::bootstrapped(ONE);
        change(&mut world);
        assert_eq!(leaves(&world.changes()), expected, "{what}");
        world.settle();
        assert!(world.is_idle(), "{what}");
    }
}

#[test]
fn leaves_with_different_lifetimes_are_renewed_separately() {
    let mut world = World::bootstrapped("{replicas: 1, tls: {peer: {certificate: {duration: 24h}}}}");
    world.now += SignedDuration::from_hours(17);
    assert_eq!(leaves(&world.changes()), [("demo-0-tls".to_owned(), vec![member_key::PEER_CRT])]);
    world.now += days(100);
    let expired: Vec<_> = world.changes().secrets.iter().flat_map(|c| c.leaves.clone()).map(|leaf| leaf.why).collect();
    assert_eq!(expired, [ReissueReason::Expired, ReissueReason::Expired, ReissueReason::Expired, ReissueReason::Expired]);
    world.settle();
}

#[test]
fn a_longer_lifetime_takes_effect_at_the_next_renewal() {
    let mut world = World::bootstrapped(ONE);
    world.cluster.spec.tls.client.certificate.duration = Duration("4320h".into());
    assert!(world.is_idle());
}

#[test]
fn a_deleted_member_secret_is_recreated() {
    let mut world = World::bootstrapped(ONE);
    world.member(0).secret = None;
    let plan = world.changes();
    assert_eq!(plan.secrets.len(), 1);
    assert_eq!((plan.secrets[0].leaves.len(), plan.secrets[0].files.len(), plan.secrets[0].version.as_ref()), (3, 4, None));
    world.settle();
}

#[test]
fn certificates_that_were_swapped_between_members_are_reissued() {
    let mut world = World::bootstrapped("{}");
    let data = |world: &mut World, ordinal| world.member(ordinal).secret.as_ref().unwrap().data.clone();
    let (one, two) = (data(&mut world, 0), data(&mut world, 1));
    world.member(0).secret.as_mut().unwrap().data = two;
    world.member(1).secret.as_mut().unwrap().data = one;
    let all = vec![member_key::SERVER_CRT, member_key::PEER_CRT, member_key::CLIENT_CRT];
    assert_eq!(leaves(&world.changes()), [("demo-0-tls".to_owned(), all.clone()), ("demo-1-tls".to_owned(), all)]);
    world.settle();
    // Of the three certificates, this one does not name its member.
    for ordinal in [0, 1] {
        let leaf = world.member(ordinal).secret.as_ref().unwrap().certificate(member_key::CLIENT_CRT).unwrap().unwrap();
        let ledger = world.authority_secret(Domain::Client).as_ref().unwrap().data[authority_key::LEDGER].clone();
        let holder = Holder::Member { name: names().member(ordinal).to_string() };
        assert_eq!(Ledger::from_json(&ledger).unwrap().holder(leaf.serial()), Some(&holder));
    }
}

#[test]
fn secrets_that_were_created_together_are_renewed_at_different_times() {
    let secret = |uid: &str| {
        let mut secret = SecretView::default();
        secret.meta.uid = Some(uid.into());
        CachedSecret::from(secret).jitter()
    };
    assert_ne!(secret("one"), secret("two"));
    assert_eq!(secret("one"), secret("one"));
}

// Confirmation.

/// A member whose Secret was renewed and not yet refreshed by its kubelet.
fn renewed() -> World {
    let mut world = World::bootstrapped(ONE);
    world.kubelet = false;
    world.cluster.spec.tls.client.extra_sans.dns_names = vec!["etcd.example.com".into()];
    assert_eq!(world.pass().changes().secrets.len(), 1);
    world
}

#[test]
fn a_pod_with_a_renewed_leaf_is_touched_again_until_confirmed() {
    let mut world = renewed();
    let touch = world.pass().changes();
    assert_eq!(annotations(&touch), [key::TLS_TOUCHED]);
    assert_eq!(touch.next_check(), SOON);
    assert_eq!(reasons(&touch.certificates), [Reason::NotServedYet]);
    for _ in 0..4 {
        assert!(world.pass().is_idle(), "the kubelet has 5 s");
    }
    assert_eq!(annotations(&world.pass().changes()), [key::TLS_TOUCHED]);
    world.kubelet = true;
    for _ in 0..4 {
        world.pass();
    }
    assert_eq!(annotations(&world.pass().changes()), [key::TLS_TOUCHED], "now the kubelet refreshes the files");
    let confirmed = world.pass().changes();
    assert_eq!(annotations(&confirmed), [key::TLS_CONFIRMED]);
    assert!(confirmed.certificates.is_empty());
    let idle = world.changes();
    assert!(idle.is_empty());
    assert_eq!(idle.next_check(), IDLE);
}

#[test]
fn the_peer_leaf_is_confirmed_on_the_peer_port() {
    let mut world = World::bootstrapped(ONE);
    world.kubelet = false;
    world.cluster.spec.tls.peer.certificate.duration = Duration("24h".into());
    assert_eq!(leaves(&world.pass().changes()), [("demo-0-tls".to_owned(), vec![member_key::PEER_CRT])]);
    let is_confirmed = |world: &mut World| {
        let secret = world.member(0).secret.as_ref().unwrap().fingerprint().to_owned();
        world.pod(0).metadata.annotations.as_ref().unwrap().get(key::TLS_CONFIRMED) == Some(&secret)
    };
    for _ in 0..20 {
        assert_eq!(reasons(&world.pass().changes().certificates), [Reason::NotServedYet]);
        assert!(!is_confirmed(&mut world));
    }
    world.kubelet = true;
    world.settle();
    assert!(is_confirmed(&mut world));
}

#[test]
fn a_pod_whose_peer_port_does_not_answer_is_touched_once() {
    let mut world = renewed();
    let with_silent_peer_port = |world: &mut World| {
        world.plan();
        let mut observed = world.observed.clone();
        let member = observed.members.get_mut(&names().member(0)).unwrap();
        let secret = member.secret.as_ref().unwrap();
        let served = secret.certificate(member_key::SERVER_CRT).unwrap().unwrap().der().to_vec();
        let Probe::Reached(_, status) = member.etcd.clone() else { panic!() };
        member.etcd = Probe::Reached(served, status);
        member.peer_leaf = Some(Err("timed out".into()));
        match world.plan_on(&observed) {
            Plan::Change(changes) => changes,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(annotations(&with_silent_peer_port(&mut world)), [key::TLS_TOUCHED]);
    world.pass();
    world.now += SECOND * 60;
    let plan = with_silent_peer_port(&mut world);
    assert!(plan.is_empty());
    assert!(plan.certificates[0].message.contains("timed out"), "{}", plan.certificates[0].message);
}

#[test]
fn a_pod_that_cannot_be_reached_is_touched_once() {
    let mut world = renewed();
    world.silent.insert(names().member(0));
    assert_eq!(annotations(&world.pass().changes()), [key::TLS_TOUCHED], "its leaf may have expired");
    world.now += SECOND * 60;
    let plan = world.changes();
    assert!(plan.is_empty());
    assert_eq!(plan.next_check(), PENDING);
}

// Revocation.

/// A cluster that has issued a certificate to a user.
fn with_user(uid: &str) -> World {
    let mut world = World::bootstrapped(ONE);
    let leaf = LeafRequest {
        domain: Domain::Client,
        spec: LeafSpec {
            common_name: "app".into(),
            dns_names: BTreeSet::new(),
            ip_addresses: BTreeSet::new(),
            usage: Usage::Client,
            duration: days(90),
        },
        keys: LeafKeys { certificate: tls_key::CRT, private_key: tls_key::KEY },
        holder: Holder::User { name: "app".into(), uid: uid.into() },
        why: ReissueReason::Missing,
        signed_now: true,
    };
    let change = SecretChange {
        name: "app-etcd-tls".into(),
        version: None,
        type_: "kubernetes.io/tls",
        labels: BTreeMap::new(),
        leaves: vec![leaf],
        files: BTreeMap::new(),
    };
    world.issue(&mut SecretView::default(), &change);
    world
}

#[test]
fn certificates_of_deleted_users_are_revoked_and_members_get_the_list() {
    let mut world = with_user("u1");
    world.observed.users = ["u1".into()].into();
    assert!(world.is_idle(), "the user exists");
    // The same name, but another object.
    world.observed.users = ["u2".into()].into();
    let holders = vec![Holder::User { name: "app".into(), uid: "u1".into() }];
    assert_eq!(world.pass().changes().step, Some(Revoke { domain: Domain::Client, holders }.into()));

    let written = world.pass().changes();
    assert_eq!(leaves(&written), [("demo-0-tls".to_owned(), vec![])], "the list is written and no leaf is issued");
    assert_eq!(written.secrets[0].files.keys().collect::<Vec<_>>(), [member_key::CLIENT_CRL]);
    assert_eq!(annotations(&world.pass().changes()), [key::TLS_TOUCHED]);
    assert_eq!(annotations(&world.pass().changes()), [key::TLS_CONFIRMED]);
    assert!(world.is_idle());
    let listed = crl_serials(&world.member(0).secret.as_ref().unwrap().data[member_key::CLIENT_CRL]).unwrap();
    let secret = world.observed.authorities.client.as_ref().unwrap();
    let ledger = Ledger::from_json(&secret.data[authority_key::LEDGER]).unwrap();
    assert_eq!(listed, ledger.revoked().map(|(serial, _)| serial).collect());
    assert_eq!(listed.len(), 1);
}

#[test]
fn an_incomplete_revocation_list_is_restored() {
    let mut world = with_user("u1");
    world.observed.users = ["u2".into()].into();
    let before = world.authority_secret(Domain::Client).as_ref().unwrap().data[authority_key::CRL].clone();
    world.settle();
    // As if restored from a backup.
    world.authority_secret(Domain::Client).as_mut().unwrap().data.insert(authority_key::CRL.into(), before);
    assert_eq!(world.changes().step, Some(Revoke { domain: Domain::Client, holders: vec![] }.into()));
}

#[test]
fn nothing_is_revoked_while_the_authority_is_lost() {
    let mut world = with_user("u1");
    world.observed.authorities.client = None;
    assert_eq!(world.changes().step, None);
}

#[test]
fn a_plan_has_one_step_at_a_time() {
    let mut user = with_user("u1");
    // A bootstrapped cluster with a deleted user, and a claim that has lost its member ID.
    let claim: &mut PersistentVolumeClaim = user.member(0).claim.as_mut().unwrap();
    claim.metadata.annotations.as_mut().unwrap().remove(key::MEMBER_ID);
    assert_eq!(user.pass().changes().step.map(|step| step.name()), Some("RecordMembers"), "steps that protect data come first");
    assert_eq!(user.pass().changes().step.map(|step| step.name()), Some("Revoke"));
}

// Properties.

prop_compose! {
    fn specs()(
        replicas in 1..10_u32,
        minor in 5..8_u32,
        leaf in 1..200_u32,
        factor in 4..40_u32,
        retain in any::<bool>(),
        names in prop::collection::vec("[a-z]{1,8}\\.example", 0..3),
        addresses in prop::collection::vec(any::<std::net::IpAddr>(), 0..3),
        tolerate in prop::collection::vec("[a-z]{0,5}", 0..2),
        cpu in prop::option::of(prop::sample::select(vec!["0.5", "500m", "2", "1.25"])),
    ) -> serde_json::Value {
        let tolerations: Vec<_> = tolerate.iter().map(|key| serde_json::json!({"key": key, "operator": "Exists"})).collect();
        let certificates = serde_json::json!({
            "authority": {"duration": format!("{}h", leaf * factor)},
            "certificate": {"duration": format!("{leaf}h")},
        });
        let mut client = certificates.clone();
        client["extraSANs"] = serde_json::json!({"dnsNames": names, "ipAddresses": addresses});
        serde_json::json!({
            "replicas": replicas,
            "version": format!("3.{minor}.40"),
            "storage": {"retention": if retain { "Retain" } else { "Delete" }},
            "tls": {"client": client, "peer": certificates},
            "pod": {"tolerations": tolerations, "resources": {"requests": cpu.map(|cpu| serde_json::json!({"cpu": cpu}))}},
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_valid_cluster_converges_within_six_passes(spec in specs()) {
        let mut world = World::new(&spec.to_string());
        let busy = world.settle();
        prop_assert!(busy <= 6, "{busy} passes");
        for _ in 0..3 {
            prop_assert!(world.pass().is_idle());
        }
    }
}

#[test]
fn a_pod_that_started_unobserved_is_touched_once_for_certificates_issued_since() {
    let mut world = World::bootstrapped(ONE);
    world.silent.insert(names().member(0));
    world.now += SECOND * 11;
    let pod = world.pod(0);
    pod.metadata.annotations.as_mut().unwrap().remove(key::TLS_CONFIRMED);
    assert_eq!(
        annotations(&world.changes()),
        [key::TLS_TOUCHED],
        "it has run for some time, and its certificates may have expired"
    );
    world.pass();
    assert_eq!(annotations(&world.changes()), [""; 0], "only once, because the member cannot be asked whether that helped");
}
