//! Writing to Kubernetes: the one place that applies objects, and the checks that come before.

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::{ObjectMeta, PartialObjectMeta, PartialObjectMetaExt},
};
use serde_json::json;
use zeroize::Zeroize;

use crate::{
    cluster::{
        observed::belongs,
        plan::{Object, ObjectVersion, owner_in_words},
    },
    names::FIELD_MANAGER,
};

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It is not ours to write.
    #[error("{object} cannot be used: {owner}")]
    Foreign {
        /// Kind and name.
        object: String,
        /// Whose it is.
        owner: String,
    },
    /// It changed since it was read; the next pass sees what it is now.
    #[error("{0} changed meanwhile")]
    Conflict(String),
    /// The API server refused.
    #[error("Kubernetes refused {object}: {}", reason(source))]
    Refused {
        /// Kind and name.
        object: String,
        /// What it said.
        source: Box<kube::Error>,
    },
}

impl WriteError {
    /// The error of a request about `object`.
    pub fn of(object: impl Into<String>, source: kube::Error) -> Self {
        match &source {
            // Made by another operator, or by a pass of ours that the watch has not told of yet.
            kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => Self::Conflict(object.into()),
            _ => Self::Refused { object: object.into(), source: Box::new(source) },
        }
    }

    /// The error of a change of `object`, which was there a moment before: that it is gone, as with its cluster, is a change too.
    pub fn of_change(object: impl Into<String>, source: kube::Error) -> Self {
        match &source {
            kube::Error::Api(status) if status.is_not_found() => Self::Conflict(object.into()),
            _ => Self::of(object, source),
        }
    }
}

/// What the API server said, without the parts that only a program reads.
pub fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => {
            let mut text = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            text
        }
    }
}

/// Reads no more of an object than its metadata, as it may be a Secret, and checks that it is the cluster's with this uid.
async fn find(client: &Client, namespace: &str, object: &Object, uid: &str) -> Result<Option<ObjectMeta>, WriteError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &object.resource);
    match api.get_metadata_opt(&object.name).await.map_err(|e| WriteError::of(object.describe(), e))? {
        Some(there) if !belongs(&there.metadata, uid) => {
            Err(WriteError::Foreign { object: object.describe(), owner: owner_in_words(&there.metadata) })
        }
        there => Ok(there.map(|there| there.metadata)),
    }
}

/// Checks that an object is not there or is the cluster's.
pub async fn preflight(client: &Client, namespace: &str, object: &Object, uid: &str) -> Result<(), WriteError> {
    find(client, namespace, object, uid).await.map(drop)
}

/// A version that no object has. With it the API server makes an object, and refuses to change one that is there.
const ABSENT: &str = "1";

/// Applies an object: makes it, or makes its fields what they should be.
///
/// It does so only if the object still is what was planned for, or still is not there: server-side apply alone would take over what
/// somebody else made under the name, and would undo what another operator has written since. Where applying is not enough,
/// because of what others added to a list, a merge patch follows: it replaces lists as a whole.
pub async fn apply(client: &Client, namespace: &str, object: &Object, uid: &str) -> Result<(), WriteError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &object.resource);
    let error_of = |error| WriteError::of(object.describe(), error);
    let mut body = serde_json::Value::clone(&object.body);
    let Some(seen) = &object.seen else {
        if let Some(there) = find(client, namespace, object, uid).await? {
            label(&api, object, &there).await?;
            return Err(WriteError::Conflict(object.describe()));
        }
        body["metadata"]["resourceVersion"] = json!(ABSENT);
        return api.patch(&object.name, &applying(), &Patch::Apply(&body)).await.map(drop).map_err(error_of);
    };
    // Without its uid, one that was deleted meanwhile would be made anew.
    body["metadata"]["uid"] = json!(seen.uid);
    body["metadata"]["resourceVersion"] = json!(seen.resource_version);
    match api.patch(&object.name, &applying(), &Patch::Apply(&body)).await {
        Ok(there) if object.is_held_by(&there) => return Ok(()),
        // What somebody else put into a list, applying leaves there, and it may be what makes the object invalid.
        Ok(there) => body["metadata"]["resourceVersion"] = json!(there.metadata.resource_version),
        Err(kube::Error::Api(status)) if status.is_invalid() => {}
        Err(error) => return Err(error_of(error)),
    }
    api.patch(&object.name, &merging(), &Patch::Merge(&body)).await.map(drop).map_err(error_of)
}

fn applying() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

fn merging() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() }
}

/// Gives an object that is the cluster's, and of which our watch has not told, the labels back without which it never does: the next
/// pass plans for what the object is.
async fn label(api: &Api<DynamicObject>, object: &Object, there: &ObjectMeta) -> Result<(), WriteError> {
    let wanted = &object.body["metadata"]["labels"];
    let has = |key: &str| there.labels.as_ref().and_then(|labels| labels.get(key));
    if wanted.as_object().into_iter().flatten().all(|(key, value)| has(key).map(String::as_str) == value.as_str()) {
        return Ok(());
    }
    let patch = Patch::Merge(json!({ "metadata": { "uid": there.uid, "labels": wanted } }));
    let labelled = api.patch_metadata(&object.name, &merging(), &patch).await;
    labelled.map(drop).map_err(|error| WriteError::of(object.describe(), error))
}

/// Merges labels and annotations into an object that must still be the one with this uid.
pub async fn annotate<K>(
    api: &Api<K>,
    name: &str,
    uid: &str,
    labels: &impl serde::Serialize,
    annotations: &impl serde::Serialize,
) -> Result<(), kube::Error>
where
    K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
{
    let meta = ObjectMeta { uid: Some(uid.into()), ..ObjectMeta::default() };
    merge(api, name, meta, json!({ "labels": labels, "annotations": annotations })).await
}

/// Merges annotations into an object that must still be this version of it; those that are `None` are taken off.
pub async fn annotate_version<K>(
    api: &Api<K>,
    name: &str,
    seen: &ObjectVersion,
    annotations: &impl serde::Serialize,
) -> Result<(), kube::Error>
where
    K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
{
    let (uid, resource_version) = (Some(seen.uid.clone()), Some(seen.resource_version.clone()));
    merge(api, name, ObjectMeta { uid, resource_version, ..ObjectMeta::default() }, json!({ "annotations": annotations })).await
}

/// Merges a part of the metadata into an object that is as `precondition` says.
async fn merge<K>(api: &Api<K>, name: &str, precondition: ObjectMeta, part: serde_json::Value) -> Result<(), kube::Error>
where
    K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
{
    let patch: PartialObjectMeta<K> = precondition.into_request_partial::<K>();
    let mut patch = json!(patch);
    patch["metadata"].as_object_mut().into_iter().for_each(|meta| meta.extend(part.as_object().cloned().unwrap_or_default()));
    api.patch_metadata(name, &merging(), &Patch::Merge(&patch)).await?;
    Ok(())
}

/// Writes the status of an object that must still be the version `seen`, so that what is reported is about what there is.
///
/// One that is gone has nobody left to be told.
pub async fn apply_status<K>(
    api: &Api<K>,
    name: &str,
    seen: &Option<String>,
    status: &impl serde::Serialize,
) -> Result<(), WriteError>
where
    K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned,
{
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name, "resourceVersion": seen },
        "status": status,
    });
    match api.patch_status(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(body)).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(WriteError::of(format!("{} {name}", K::kind(&())), error)),
        Ok(_) => Ok(()),
    }
}

/// How objects are created and replaced.
pub fn post() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() }
}

/// A Secret as it was read or is to be written, private keys included: they are wiped when it is dropped. It has no Debug.
pub struct KeySecret(pub Secret);

impl Drop for KeySecret {
    fn drop(&mut self) {
        for value in self.0.data.iter_mut().flat_map(|data| data.values_mut()) {
            value.0.zeroize();
        }
    }
}

impl KeySecret {
    /// Reads a Secret, if it is there.
    pub async fn get(api: &Api<Secret>, name: &str) -> Result<Option<Self>, WriteError> {
        let secret = api.get_opt(name).await.map_err(|e| WriteError::of(format!("Secret {name}"), e))?;
        Ok(secret.map(Self))
    }
    /// Creates it.
    pub async fn create(self, api: &Api<Secret>) -> Result<(), WriteError> {
        let made = api.create(&post(), &self.0).await.map_err(|e| WriteError::of(self.describe(), e))?;
        drop(Self(made));
        Ok(())
    }
    /// Replaces it, if it is still what was read.
    pub async fn replace(self, api: &Api<Secret>) -> Result<(), WriteError> {
        let name = self.0.metadata.name.clone().unwrap_or_default();
        let made = api.replace(&name, &post(), &self.0).await.map_err(|e| WriteError::of_change(self.describe(), e))?;
        drop(Self(made));
        Ok(())
    }
    /// Its kind and name.
    pub fn describe(&self) -> String {
        format!("Secret {}", self.0.metadata.name.as_deref().unwrap_or_default())
    }
    /// The bytes under a key; empty if there are none.
    pub fn bytes(&self, key: &str) -> &[u8] {
        self.0.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn what_is_gone_has_changed_and_was_not_refused() {
        let error = |code, reason| kube::Error::Api(Status::failure("", reason).with_code(code).boxed());
        let changed = |error| matches!(WriteError::of_change("Secret a", error), WriteError::Conflict(_));
        assert!(changed(error(404, "NotFound")) && changed(error(409, "Conflict")));
        assert!(!changed(error(403, "Forbidden")));
        // Where nothing has been read before, it is the namespace that is not there.
        assert!(matches!(WriteError::of("Secret a", error(404, "NotFound")), WriteError::Refused { .. }));
    }
}
