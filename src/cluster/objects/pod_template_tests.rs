//! What `spec.pod.template` can add, and what it cannot change.

use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};

use crate::{
    cluster::{
        fixtures::cluster,
        objects::stateful_set,
        validate::{Invalid, validate},
    },
    names::annotation,
};

fn template_of(spec: &str) -> Result<PodTemplateSpec, Vec<String>> {
    let cluster = validate(&cluster(spec), "cluster.local").map_err(|Invalid(problems)| problems)?;
    Ok(stateful_set(&cluster, &cluster.names.member(0), &cluster.release, "").spec.template)
}

fn pod(template: &str) -> PodSpec {
    template_of(&format!("{{pod: {{template: {template}}}}}")).expect(template).spec.unwrap()
}

/// The only problem of a template.
fn problem(template: &str) -> String {
    problem_of(&format!("{{pod: {{template: {template}}}}}"))
}

fn problem_of(spec: &str) -> String {
    let problems = template_of(spec).expect_err(spec);
    assert_eq!(problems.len(), 1, "{spec}: {problems:?}");
    assert!(problems[0].starts_with("spec.pod.template: "), "{}", problems[0]);
    problems[0]["spec.pod.template: ".len()..].to_owned()
}

#[test]
fn what_the_operator_does_not_set_can_be_added() {
    let pod = pod(r#"{spec: {
        runtimeClassName: gvisor,
        schedulerName: mine,
        serviceAccountName: etcd,
        hostAliases: [{ip: 192.0.2.1, hostnames: [backup.example.com]}],
        dnsConfig: {options: [{name: ndots, value: "2"}]},
        tolerations: [{key: dedicated, operator: Exists}],
        initContainers: [{name: prepare, image: busybox, resources: {limits: {cpu: 1, memory: 64Mi}}}],
        containers: [
          {name: proxy, image: proxy:1, ports: [{containerPort: 9000}], envFrom: [{secretRef: {name: proxy}}]},
          {name: etcd, terminationMessagePolicy: File, env: [{name: GOMAXPROCS, value: "2"}],
           ports: [{containerPort: 6060, name: pprof}],
           volumeMounts: [{name: zone, mountPath: /usr/share/zoneinfo}, {name: zone, mountPath: /var/lib/etcdextra}]},
        ],
        volumes: [{name: zone, emptyDir: {}}],
        securityContext: {supplementalGroups: [7]},
    }}"#);
    let names: Vec<_> = pod.containers.iter().map(|container| container.name.as_str()).collect();
    assert_eq!(names, ["etcd", "proxy"]);
    let etcd = &pod.containers[0];
    let variable = |name: &str| etcd.env.iter().flatten().any(|variable| variable.name == name);
    assert!(variable("GOMAXPROCS") && variable("ETCD_INITIAL_CLUSTER"), "{:?}", etcd.env);
    let mounts: Vec<_> = etcd.volume_mounts.iter().flatten().map(|mount| mount.mount_path.as_str()).collect();
    assert_eq!(mounts, ["/var/lib/etcd", "/etc/etcd/tls", "/usr/share/zoneinfo", "/var/lib/etcdextra"]);
    let volumes: Vec<_> = pod.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    assert_eq!(volumes, ["data", "tls", "zone"]);
    assert_eq!(etcd.ports.as_ref().map(Vec::len), Some(4));
    assert_eq!(etcd.termination_message_policy.as_deref(), Some("File"));
    let context = pod.security_context.unwrap();
    assert_eq!((context.run_as_user, context.supplemental_groups), (Some(65532), Some(vec![7])));
    assert_eq!((pod.runtime_class_name.as_deref(), pod.scheduler_name.as_deref()), (Some("gvisor"), Some("mine")));
}

#[test]
fn labels_and_annotations_can_be_added() {
    let spec = "{pod: {labels: {a: b}, template: {metadata: {labels: {c: d}, annotations: {note: mine}}}}}";
    let metadata = template_of(spec).unwrap().metadata.unwrap();
    let labels = metadata.labels.unwrap();
    assert!(labels["a"] == "b" && labels["c"] == "d" && labels.len() == 6, "{labels:?}");
    let annotations = metadata.annotations.unwrap();
    assert!(annotations["note"] == "mine" && annotations.contains_key(annotation::SETTINGS), "{annotations:?}");
}

#[test]
fn users_can_be_chosen_where_the_operator_chooses_none() {
    let template = "template: {spec: {securityContext: {runAsUser: 1000, fsGroup: 1000}}}";
    let assigned = template_of(&format!("{{pod: {{userIDs: Assigned, {template}}}}}")).unwrap();
    assert_eq!(assigned.spec.unwrap().security_context.unwrap().run_as_user, Some(1000));
    let problems = template_of(&format!("{{pod: {{{template}}}}}")).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
}

#[test]
fn what_the_operator_sets_cannot_be_changed() {
    let etcd = |fields: &str| format!("{{spec: {{containers: [{{name: etcd, {fields}}}]}}}}");
    for (template, path, why) in [
        (etcd("image: other"), "spec.containers[etcd].image cannot be changed", "spec.image or spec.version"),
        (etcd("imagePullPolicy: Never"), "spec.containers[etcd].imagePullPolicy cannot be changed", "spec.image.pullPolicy"),
        (etcd("command: [sh]"), "spec.containers[etcd].command cannot be changed", "the operator sets it"),
        (etcd("args: [--name=other]"), "spec.containers[etcd].args cannot be changed", "set spec.etcd"),
        (etcd("livenessProbe: {periodSeconds: 1}"), "spec.containers[etcd].livenessProbe.periodSeconds", "the operator sets it"),
        (etcd("startupProbe: {initialDelaySeconds: 9}"), "spec.containers[etcd].startupProbe.initialDelaySeconds", "sets it"),
        (etcd("readinessProbe: {exec: {command: [sh]}}"), "spec.containers[etcd].readinessProbe.exec", "the operator sets it"),
        (etcd("lifecycle: {postStart: {sleep: {seconds: 9}}}"), "spec.containers[etcd].lifecycle.postStart", "sets it"),
        (etcd("securityContext: {runAsUser: 0}"), "spec.containers[etcd].securityContext.runAsUser", "the operator sets it"),
        (etcd("ports: [{containerPort: 2379, hostPort: 2379}]"), "spec.containers[etcd].ports[2379].hostPort", "sets it"),
        (
            etcd("volumeMounts: [{name: data, mountPath: /var/lib/etcd, subPath: old}]"),
            "spec.containers[etcd].volumeMounts[/var/lib/etcd].subPath",
            "the operator sets it",
        ),
        (
            etcd("volumeMounts: [{name: other, mountPath: /etc/etcd/tls}]"),
            "spec.containers[etcd].volumeMounts[/etc/etcd/tls].name",
            "the operator sets it",
        ),
        (
            etcd("volumeMounts: [{name: other, mountPath: /var/lib/etcd/member-data/}]"),
            "spec.containers[etcd].volumeMounts[/var/lib/etcd/member-data/] cannot be set",
            "it would hide the data",
        ),
        (etcd("volumeMounts: [{name: other, mountPath: /usr//local/}]"), "volumeMounts[/usr//local/]", "it would hide the data"),
        (etcd("volumeMounts: [{name: other, mountPath: /a/../var}]"), "volumeMounts[/a/../var]", "it would hide the data"),
        (etcd("volumeMounts: [{name: other, mountPath: /}]"), "volumeMounts[/]", "it would hide the data"),
        (
            etcd("env: [{name: ETCD_INITIAL_CLUSTER, value: x}]"),
            "spec.containers[etcd].env[ETCD_INITIAL_CLUSTER].value",
            "the operator sets it",
        ),
        (etcd("env: [{name: ETCD_UNSAFE_NO_FSYNC, value: 'true'}]"), "env[ETCD_UNSAFE_NO_FSYNC] cannot be set", "set spec.etcd"),
        (etcd("env: [{name: HTTPS_PROXY, value: x}]"), "env[HTTPS_PROXY] cannot be set", "through the proxy"),
        (
            etcd("envFrom: [{configMapRef: {name: x}}]"),
            "spec.containers[etcd].envFrom cannot be set",
            "name each variable in env",
        ),
        (etcd("resources: {limits: {cpu: 1}}"), "spec.containers[etcd].resources cannot be set", "set spec.pod.resources"),
        (etcd("restartPolicy: Never"), "spec.containers[etcd].restartPolicy cannot be set", "always restarted"),
        ("{spec: {volumes: [{name: data, emptyDir: {}}]}}".into(), "spec.volumes[data].emptyDir", "the operator sets it"),
        ("{spec: {volumes: [{name: tls, secret: {optional: true}}]}}".into(), "spec.volumes[tls].secret.optional", "sets it"),
        ("{spec: {restartPolicy: Never}}".into(), "spec.restartPolicy cannot be set", "always restarted"),
        ("{spec: {hostNetwork: true}}".into(), "spec.hostNetwork cannot be set", "the addresses of their nodes"),
        ("{spec: {subdomain: other}}".into(), "spec.subdomain cannot be set", "the names of their pods"),
        ("{spec: {hostname: other}}".into(), "spec.hostname cannot be set", "the names of their pods"),
        ("{spec: {nodeName: one}}".into(), "spec.nodeName cannot be set", "spec.pod.affinity"),
        ("{spec: {terminationGracePeriodSeconds: 5}}".into(), "spec.terminationGracePeriodSeconds", "electionTimeout"),
        ("{spec: {automountServiceAccountToken: true}}".into(), "spec.automountServiceAccountToken", "the operator sets it"),
        (
            "{spec: {affinity: {nodeAffinity: {}}}}".into(),
            "spec.affinity.nodeAffinity cannot be changed",
            "set spec.pod.affinity",
        ),
        ("{spec: {securityContext: {runAsNonRoot: false}}}".into(), "spec.securityContext.runAsNonRoot", "the operator sets it"),
        ("{metadata: {name: other}}".into(), "metadata.name cannot be set", "only labels and annotations"),
        (
            "{metadata: {labels: {app.kubernetes.io/instance: other}}}".into(),
            "metadata.labels[app.kubernetes.io/instance] cannot be changed",
            "",
        ),
        (
            "{metadata: {labels: {controller-revision-hash: x}}}".into(),
            "metadata.labels[controller-revision-hash]",
            "not for users",
        ),
        (
            "{metadata: {annotations: {etcd-warden.dev/tls-confirmed: x}}}".into(),
            "metadata.annotations[etcd-warden.dev/tls-confirmed] cannot be set",
            "not for users",
        ),
        ("{spec: {container: []}}".into(), "spec.container is null or not a field of a pod template", ""),
        ("{metdata: {}}".into(), "metdata is null or not a field", ""),
        ("{spec: {containers: [{name: a, imge: b}]}}".into(), "spec.containers[0].imge is null or not a field", ""),
        ("{spec: {affinity: null}}".into(), "spec.affinity is null or not a field", "nothing can be removed"),
        ("{spec: {containers: {}}}".into(), "invalid type: map, expected", ""),
    ] {
        let problem = problem(&template);
        assert!(problem.contains(path) && problem.contains(why), "{template}: {problem}");
    }
}

#[test]
fn what_another_field_of_the_spec_sets_cannot_be_changed() {
    for (pod, path) in [
        ("labels: {a: b}, template: {metadata: {labels: {a: c}}}", "metadata.labels[a] cannot be changed: set spec.pod.labels"),
        (
            "tolerations: [{operator: Exists}], template: {spec: {tolerations: [{key: a}]}}",
            "spec.tolerations cannot be changed: set spec.pod.tolerations",
        ),
        (
            "resources: {limits: {cpu: 1}}, template: {spec: {containers: [{name: etcd, resources: {limits: {memory: 1Gi}}}]}}",
            "spec.containers[etcd].resources.limits.memory cannot be changed: set spec.pod.resources",
        ),
    ] {
        assert_eq!(problem_of(&format!("{{pod: {{{pod}}}}}")), path);
    }
}
