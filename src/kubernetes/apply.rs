//! Writing to Kubernetes: the only place that applies, annotates, resizes, deletes and evicts, with the checks that precede.

use std::{collections::BTreeMap, fmt::Debug};

use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, DynamicObject, EvictParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::{ObjectMeta, PartialObjectMeta, PartialObjectMetaExt, Selector, SelectorExt, Status},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    error::WriteError,
    object::{Object, ObjectVersion},
    ownership::{belongs, describe_owner},
    resources::Resources,
};
use crate::{ids::Uid, names::FIELD_MANAGER};

/// Reads only the metadata of an object, because it may be a Secret. Fails if it does not belong to the cluster with this uid.
async fn find(client: &Client, namespace: &str, object: &Object, uid: &Uid) -> Result<Option<ObjectMeta>, WriteError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &object.resource);
    match api.get_metadata_opt(&object.name).await.map_err(|e| WriteError::of(object.describe(), e))? {
        Some(existing) if !belongs(&existing.metadata, uid) => {
            Err(WriteError::Foreign { object: object.describe(), owner: describe_owner(&existing.metadata) })
        }
        existing => Ok(existing.map(|existing| existing.metadata)),
    }
}

/// Checks that an object does not exist or belongs to the cluster.
///
/// # Errors
/// [`WriteError::Foreign`] if it belongs to someone else.
pub async fn preflight(client: &Client, namespace: &str, object: &Object, uid: &Uid) -> Result<(), WriteError> {
    find(client, namespace, object, uid).await.map(drop)
}

/// A resourceVersion that no object has. With it the API server creates an object, and refuses to change an existing one.
const ABSENT: &str = "1";

/// Applies an object: creates it, or sets its desired fields.
///
/// It does so only if the object is still the version that the plan has seen, or still does not exist. Server-side apply alone
/// would take over an object that others created under this name, and would undo later changes of another operator. If others
/// added elements to a list, applying is not enough, and a merge patch follows, which replaces lists as a whole.
///
/// Returns the object as it is then. It may still not have all desired fields, because an admission webhook has changed them.
///
/// # Errors
/// [`WriteError::Conflict`] if it has changed since.
pub async fn apply(client: &Client, namespace: &str, object: &Object, uid: &Uid) -> Result<DynamicObject, WriteError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &object.resource);
    let error_of = |error| WriteError::of(object.describe(), error);
    let mut body = serde_json::Value::clone(&object.body);
    let Some(seen) = &object.seen else {
        if let Some(existing) = find(client, namespace, object, uid).await? {
            restore_labels(&api, object, &existing).await?;
            return Err(WriteError::Conflict(object.describe()));
        }
        body["metadata"]["resourceVersion"] = json!(ABSENT);
        return api.patch(&object.name, &applying(), &Patch::Apply(&body)).await.map_err(error_of);
    };
    // Without its uid, an object that was deleted meanwhile would be created again.
    body["metadata"]["uid"] = json!(seen.uid);
    body["metadata"]["resourceVersion"] = json!(seen.resource_version);
    match api.patch(&object.name, &applying(), &Patch::Apply(&body)).await {
        Ok(applied) if object.is_covered_by(&applied) => return Ok(applied),
        // Elements that others added to a list are kept by an apply, and may be the reason why the object is invalid.
        Ok(applied) => body["metadata"]["resourceVersion"] = json!(applied.metadata.resource_version),
        Err(kube::Error::Api(status)) if status.is_invalid() => {}
        Err(error) => return Err(error_of(error)),
    }
    api.patch(&object.name, &merging(), &Patch::Merge(&body)).await.map_err(error_of)
}

fn applying() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

fn merging() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() }
}

/// Restores the labels of an object of the cluster that the watch has not reported. Without its labels it is never reported. The
/// next pass plans for the existing object.
async fn restore_labels(api: &Api<DynamicObject>, object: &Object, existing: &ObjectMeta) -> Result<(), WriteError> {
    let desired = &object.body["metadata"]["labels"];
    let has = |key: &str| existing.labels.as_ref().and_then(|labels| labels.get(key));
    if desired.as_object().into_iter().flatten().all(|(key, value)| has(key).map(String::as_str) == value.as_str()) {
        return Ok(());
    }
    let patch = Patch::Merge(json!({ "metadata": { "uid": existing.uid, "labels": desired } }));
    let labelled = api.patch_metadata(&object.name, &merging(), &patch).await;
    labelled.map(drop).map_err(|error| WriteError::of(object.describe(), error))
}

/// Merges labels and annotations into an object that must still be the one with this uid. Those with the value `None` are removed.
/// Returns its metadata as they are then.
pub async fn annotate<K>(
    api: &Api<K>,
    name: &str,
    uid: &Uid,
    labels: &impl Serialize,
    annotations: &impl Serialize,
) -> Result<ObjectMeta, kube::Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let meta = ObjectMeta { uid: Some(uid.to_string()), ..ObjectMeta::default() };
    merge(api, name, meta, json!({ "labels": labels, "annotations": annotations })).await
}

/// Merges annotations into an object that must still be this version of it. Annotations with the value `None` are removed. Returns the
/// new version.
pub async fn annotate_version<K>(
    api: &Api<K>,
    name: &str,
    seen: &ObjectVersion,
    annotations: &impl Serialize,
) -> Result<Option<String>, kube::Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let (uid, resource_version) = (Some(seen.uid.to_string()), Some(seen.resource_version.clone()));
    let meta = ObjectMeta { uid, resource_version, ..ObjectMeta::default() };
    Ok(merge(api, name, meta, json!({ "annotations": annotations })).await?.resource_version)
}

/// Merges a part of the metadata into an object that meets the `precondition`. Returns its metadata as they are then.
async fn merge<K>(api: &Api<K>, name: &str, precondition: ObjectMeta, part: serde_json::Value) -> Result<ObjectMeta, kube::Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let patch: PartialObjectMeta<K> = precondition.into_request_partial::<K>();
    let mut patch = json!(patch);
    patch["metadata"].as_object_mut().into_iter().for_each(|meta| meta.extend(part.as_object().cloned().unwrap_or_default()));
    Ok(api.patch_metadata(name, &merging(), &Patch::Merge(&patch)).await?.metadata)
}

/// Writes the status of an object that must still be the version `seen`, so that a status describes what the pass has seen. If the
/// object no longer exists, the status is dropped.
///
/// # Errors
/// [`WriteError::Conflict`] if it has changed since.
pub async fn apply_status<K>(api: &Api<K>, name: &str, seen: &Option<String>, status: &impl Serialize) -> Result<(), WriteError>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name, "resourceVersion": seen },
        "status": status,
    });
    match api.patch_status(name, &applying(), &Patch::Apply(body)).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(WriteError::of(format!("{} {name}", K::kind(&())), error)),
        Ok(_) => Ok(()),
    }
}

/// Deletes the object with this uid. Returns whether it existed.
pub async fn delete<K>(api: &Api<K>, name: &str, uid: &Uid) -> Result<bool, WriteError>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    match api.delete(name, &deleting(uid)).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(error) => Err(WriteError::of(format!("{} {name}", K::kind(&())), error)),
        Ok(_) => Ok(true),
    }
}

/// What the API server answered to a change of the resources of a running pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resized {
    /// The kubelet is to do it.
    Accepted,
    /// A pod is not changed in this way, and has to be created with other resources. These are the API server's words.
    Impossible(String),
}

/// Changes the resources of a container of the pod with this uid, while it runs.
///
/// # Errors
/// If the API server refuses it for a reason for which it would also refuse a new pod, such as a quota, or cannot be reached.
pub async fn resize(
    pods: &Api<Pod>,
    name: &str,
    uid: &Uid,
    container: &str,
    resources: &Resources,
) -> Result<Resized, WriteError> {
    let mut patch = resources.patch(container);
    patch["metadata"] = json!({ "uid": uid });
    match pods.patch_resize(name, &merging(), &Patch::Strategic(patch)).await {
        Ok(_) => Ok(Resized::Accepted),
        Err(kube::Error::Api(status)) if is_impossible(&status) => Ok(Resized::Impossible(status.message.clone())),
        Err(error) => Err(WriteError::of(format!("Pod {name}"), error)),
    }
}

/// Whether the API server does not know the subresource (before Kubernetes 1.33), does not let this client use it, or does not make this
/// change: another quality-of-service class, a removed limit.
fn is_impossible(status: &Status) -> bool {
    match status.code {
        404 | 405 | 422 => true,
        403 => status.message.contains("cannot patch resource \"pods/resize\""),
        _ => false,
    }
}

/// What the API server answered to an eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// The pod is being deleted.
    Accepted,
    /// Its disruption budget does not allow it at the moment.
    Disallowed,
    /// More than one disruption budget selects the pod. Kubernetes evicts no such pod.
    SeveralBudgets,
}

/// The API server's words if more than one disruption budget selects a pod. The code of this answer is that of an internal error
/// (Kubernetes `pkg/registry/core/pod/storage/eviction.go`).
const SEVERAL_BUDGETS: &str = "more than one PodDisruptionBudget";

/// Evicts the pod with this uid, if the disruption budgets allow it.
///
/// # Errors
/// If the API server refuses it for any other reason.
pub async fn evict(pods: &Api<Pod>, name: &str, uid: &Uid) -> Result<Eviction, WriteError> {
    let parameters = EvictParams { delete_options: Some(deleting(uid)), ..EvictParams::default() };
    match pods.evict(name, &parameters).await {
        Ok(_) => Ok(Eviction::Accepted),
        Err(kube::Error::Api(status)) if status.code == 429 => Ok(Eviction::Disallowed),
        Err(kube::Error::Api(status)) if status.message.contains(SEVERAL_BUDGETS) => Ok(Eviction::SeveralBudgets),
        Err(error) => Err(WriteError::of(format!("Pod {name}"), error)),
    }
}

/// The disruption budgets that select a pod with these labels.
///
/// # Errors
/// If the budgets cannot be listed.
pub async fn budgets_of(
    budgets: &Api<PodDisruptionBudget>,
    labels: &BTreeMap<String, String>,
) -> Result<Vec<PodDisruptionBudget>, WriteError> {
    let all = budgets.list(&ListParams::default()).await.map_err(|e| WriteError::of("the PodDisruptionBudgets", e))?;
    let selects = |budget: &PodDisruptionBudget| {
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.clone());
        selector.is_some_and(|selector| Selector::try_from(selector).is_ok_and(|selector| selector.matches(labels)))
    };
    Ok(all.items.into_iter().filter(selects).collect())
}

/// Whether a disruption budget does not allow a disruption even while all of its pods are healthy.
pub fn never_allows(budget: &PodDisruptionBudget) -> bool {
    let counts = budget.status.as_ref().and_then(|status| status.expected_pods.zip(status.desired_healthy));
    counts.is_some_and(|(expected, desired)| expected > 0 && desired >= expected)
}

fn deleting(uid: &Uid) -> DeleteParams {
    let preconditions = Preconditions { uid: Some(uid.to_string()), resource_version: None };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

/// The parameters with which objects are created and replaced.
pub fn post() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() }
}
