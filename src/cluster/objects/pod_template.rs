//! The part of a pod template that the spec adds to the operator's.

use k8s_openapi::{
    DeepMerge,
    api::core::v1::{Container, PodTemplateSpec},
};
use serde_json::{Map, Value};

use super::{
    paths::{DATA_DIR, PROGRAM, TLS_DIR},
    pod_metadata::{is_own_annotation, is_own_label},
};
use crate::names::CONTAINER;

/// The operator's template and what the spec adds to it. Lists are merged as by a strategic merge patch: containers, volumes and
/// variables by their names, ports by their numbers, mounts by their paths. Nothing can be removed.
pub fn merged(mut own: PodTemplateSpec, added: &PodTemplateSpec) -> PodTemplateSpec {
    own.merge_from(added.clone());
    own
}

/// Why `added` must not be merged into the operator's own template: each problem begins with the path of a field. What the operator set
/// must stay as it is, except for [`DEFAULTS`]. Other fields, containers, volumes and so on can be added, except for those of [`REFUSED`] and
/// [`added_element`].
pub fn problems(own: &PodTemplateSpec, added: &PodTemplateSpec) -> Vec<String> {
    let merged = merged(own.clone(), added);
    let values = [own, &merged].map(|template| serde_json::to_value(template).unwrap_or_default());
    let mut problems = vec![];
    compare(&values[0], &values[1], "", &mut problems);
    problems
}

/// Objects to which fields can be added.
const OPEN: [&str; 7] =
    ["", "metadata", "metadata.labels", "metadata.annotations", "spec", "spec.securityContext", "spec.containers[etcd]"];

/// Lists to which elements can be added, and the fields that name the elements.
const OPEN_LISTS: [(&str, &str); 6] = [
    ("spec.containers", "name"),
    ("spec.volumes", "name"),
    ("spec.imagePullSecrets", "name"),
    ("spec.containers[etcd].env", "name"),
    ("spec.containers[etcd].ports", "containerPort"),
    ("spec.containers[etcd].volumeMounts", "mountPath"),
];

/// Fields that the operator does not set and that cannot be added, and why.
const REFUSED: [(&str, &str); 12] = [
    ("spec.activeDeadlineSeconds", "a member is not stopped after some time"),
    ("spec.ephemeralContainers", "a template has none"),
    ("spec.hostNetwork", "members would listen on the addresses of their nodes"),
    ("spec.hostname", "members find each other by the names of their pods"),
    ("spec.hostnameOverride", "members find each other by the names of their pods"),
    ("spec.nodeName", "all members would run on one node; set spec.pod.affinity or spec.pod.nodeSelector"),
    ("spec.restartPolicy", "containers of members are always restarted"),
    ("spec.subdomain", "members find each other by the names of their pods"),
    ("spec.containers[etcd].envFrom", "it could set variables that etcd reads as flags; name each variable in env"),
    ("spec.containers[etcd].resources", "set spec.pod.resources"),
    ("spec.containers[etcd].restartPolicy", "containers of members are always restarted"),
    ("spec.containers[etcd].restartPolicyRules", "containers of members are always restarted"),
];

/// The fields that the operator sets and that can be changed.
const DEFAULTS: [&str; 1] = ["spec.containers[etcd].terminationMessagePolicy"];

/// What to set instead of a field that the operator sets from the spec.
const INSTEAD: [(&str, &str); 12] = [
    ("metadata.labels", "set spec.pod.labels"),
    ("metadata.annotations", "set spec.pod.annotations"),
    ("spec.affinity", "set spec.pod.affinity"),
    ("spec.nodeSelector", "set spec.pod.nodeSelector"),
    ("spec.tolerations", "set spec.pod.tolerations"),
    ("spec.topologySpreadConstraints", "set spec.pod.topologySpreadConstraints"),
    ("spec.priorityClassName", "set spec.pod.priorityClassName"),
    ("spec.containers[etcd].imagePullPolicy", "set spec.image.pullPolicy"),
    ("spec.containers[etcd].image", "set spec.image or spec.version"),
    ("spec.containers[etcd].args", "set spec.etcd"),
    ("spec.containers[etcd].resources", "set spec.pod.resources"),
    ("spec.terminationGracePeriodSeconds", "it follows from spec.etcd.electionTimeout"),
];

fn compare(own: &Value, merged: &Value, path: &str, problems: &mut Vec<String>) {
    match (own, merged) {
        (Value::Object(own), Value::Object(merged)) => {
            for (key, merged) in merged {
                let (parent, path) = (path, field(path, key));
                match own.get(key) {
                    Some(own) => compare(own, merged, &path, problems),
                    None if !OPEN.contains(&parent) => problems.push(changed(&path)),
                    None => problems.extend(added_field(parent, &path, key)),
                }
            }
        }
        (Value::Array(own), Value::Array(merged)) => match OPEN_LISTS.iter().find(|(list, _)| *list == path) {
            Some((_, key)) => {
                for merged in merged {
                    let path = format!("{path}[{}]", text(&merged[key]));
                    match own.iter().find(|own| own[key] == merged[key]) {
                        Some(own) => compare(own, merged, &path, problems),
                        None => problems.extend(added_element(&path, merged)),
                    }
                }
            }
            None if own == merged => {}
            None => problems.push(changed(path)),
        },
        _ if own == merged || DEFAULTS.contains(&path) => {}
        _ => problems.push(changed(path)),
    }
}

fn field(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        "metadata.labels" | "metadata.annotations" => format!("{path}[{key}]"),
        _ => format!("{path}.{key}"),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What is said about a field that the operator sets.
fn changed(path: &str) -> String {
    let instead = INSTEAD.iter().find(|(field, _)| path.starts_with(field)).map(|(_, instead)| *instead);
    format!("{path} cannot be changed: {}", instead.unwrap_or("the operator sets it"))
}

/// Why a field must not be added.
fn added_field(parent: &str, path: &str, key: &str) -> Option<String> {
    let why = match parent {
        "metadata" if !["labels", "annotations"].contains(&key) => Some("of the metadata only labels and annotations can be set"),
        "metadata.labels" if is_own_label(key) => Some("it is not for users"),
        "metadata.annotations" if is_own_annotation(key) => Some("it is not for users"),
        _ => REFUSED.iter().find(|(field, _)| *field == path).map(|(_, why)| *why),
    };
    why.map(|why| format!("{path} cannot be set: {why}"))
}

/// Why an element must not be added to a list.
fn added_element(path: &str, element: &Value) -> Option<String> {
    let list = path.split_once("].").map_or("", |(_, list)| list);
    let why = match list {
        _ if list.starts_with("env[ETCD_") => "etcd reads it as a flag; set spec.etcd",
        "env[HTTPS_PROXY]" | "env[https_proxy]" => "etcd would connect to the other members through the proxy",
        _ if list.starts_with("volumeMounts[") && hides(&text(&element["mountPath"])) => {
            "it would hide the data, the certificates or the program"
        }
        _ => return None,
    };
    Some(format!("{path} cannot be set: {why}"))
}

fn parts_of(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").collect()
}

/// Whether something that is mounted at a path hides what etcd needs, or a part of it.
fn hides(path: &str) -> bool {
    let parts = parts_of(path);
    let overlaps = |needed: &&str| parts_of(needed).iter().zip(&parts).all(|(one, other)| one == other);
    parts.contains(&"..") || [DATA_DIR, TLS_DIR, PROGRAM].iter().any(overlaps)
}

/// Whether a container has to start again when the resources of etcd's container change: the template asks for that (`resizePolicy`), or gives
/// them to a process as an environment variable, such as GOMEMLIMIT, which it reads once.
pub fn reads_resources(added: &PodTemplateSpec) -> bool {
    let restarts = |container: &Container| {
        let policies = container.resize_policy.iter().flatten();
        container.name == CONTAINER && policies.into_iter().any(|policy| policy.restart_policy != "NotRequired")
    };
    let reads = |container: &Container| {
        let sources =
            container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()?.resource_field_ref.as_ref());
        sources.into_iter().any(|source| source.container_name.as_ref().unwrap_or(&container.name) == CONTAINER)
    };
    added.spec.iter().flat_map(|spec| &spec.containers).any(|container| restarts(container) || reads(container))
}

/// Reads what the spec adds.
///
/// # Errors
/// What is no part of a pod template.
pub fn parse(written: &Map<String, Value>) -> Result<PodTemplateSpec, Vec<String>> {
    let written = Value::Object(written.clone());
    let parsed: PodTemplateSpec = serde_json::from_value(written.clone()).map_err(|error| vec![error.to_string()])?;
    let mut unknown = vec![];
    find_unknown(&written, &serde_json::to_value(&parsed).unwrap_or_default(), "", &mut unknown);
    let describe = |path: &String| format!("{path} is null or not a field of a pod template; nothing can be removed");
    if unknown.is_empty() { Ok(parsed) } else { Err(unknown.iter().map(describe).collect()) }
}

/// The paths of what a template has as it was written, and not as it was read.
fn find_unknown(written: &Value, parsed: &Value, path: &str, found: &mut Vec<String>) {
    match written {
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = field(path, key);
                match parsed.get(key) {
                    Some(parsed) => find_unknown(value, parsed, &path, found),
                    None => found.push(path),
                }
            }
        }
        Value::Array(list) => {
            for (at, value) in list.iter().enumerate() {
                find_unknown(value, &parsed[at], &format!("{path}[{at}]"), found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
#[path = "pod_template_tests.rs"]
mod tests;
