//! Changing the resources of a member while it runs.

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ResourceRequirements};

use super::{
    check::{Check, RecheckError, changed, ensure},
    definition::Definition,
    effect::Effect,
    fresh::Read,
};
use crate::{
    api::Reason,
    cluster::{
        facts::{
            pods::{changed_settings, describe_changes},
            resize::{has_begun, resources},
        },
        settings::Change,
    },
    ids::Uid,
    kubernetes::{ownership::annotation, pod::is_terminating, resources::Resources},
    member_pod::etcd_container,
    names::{MemberName, annotation as key},
};

/// Writes the resources of a member's template to its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResizeMember {
    /// The member.
    pub member: MemberName,
    /// The uid of its pod.
    pub pod_uid: Uid,
}

impl ResizeMember {
    /// The pod and its template.
    fn pod<'a>(&self, check: &Check<'a>) -> Option<(&'a Pod, &'a PodTemplateSpec)> {
        let (pod, set) = (check.fresh.pods.get(&self.member)?, check.fresh.sets.get(&self.member)?);
        let is_same = pod.metadata.uid.as_deref() == Some(self.pod_uid.as_str());
        Some((&**pod, &set.spec.template)).filter(|_| is_same && !is_terminating(pod))
    }

    /// The resources in the template, and what has to be written to the pod.
    fn resources(&self, check: &Check) -> Option<(ResourceRequirements, Resources)> {
        let (pod, template) = self.pod(check)?;
        let desired = etcd_container(template.spec.as_ref()?)?.resources.clone().unwrap_or_default();
        let resources = resources(pod, &desired)?;
        Some((desired, resources))
    }
}

/// The fields in which a pod differs from its template.
fn changes(pod: &Pod, template: &PodTemplateSpec) -> Vec<Change> {
    let desired = template.metadata.as_ref().and_then(|meta| annotation(meta, key::SETTINGS)).unwrap_or_default();
    changed_settings(pod, desired, template.spec.as_ref())
}

impl Definition for ResizeMember {
    fn name(&self) -> &'static str {
        "ResizeMember"
    }
    fn progressing(&self) -> Reason {
        Reason::Resizing
    }
    fn done(&self) -> Reason {
        Reason::PodResized
    }
    fn member(&self) -> Option<&MemberName> {
        Some(&self.member)
    }
    fn describe(&self) -> String {
        format!("changing the resources of {}", self.member)
    }
    fn reads(&self) -> Vec<Read> {
        vec![Read::Members]
    }

    /// Nothing but the resources differs, so that the pod is like its template afterwards. A member may get into trouble with less, so all
    /// others are healthy, unless this one is not, or is given back what it had.
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        let Self { member, .. } = &*self;
        let Some((pod, template)) = self.pod(check) else { return changed(format!("the pod of {member} has been replaced")) };
        let changes = changes(pod, template);
        ensure(changes.iter().all(Change::is_in_place), || {
            format!("{member} has to be restarted for {}", describe_changes(&changes))
        })?;
        ensure(has_begun(pod) || !changes.is_empty(), || format!("{member} has the resources of its template"))?;
        ensure(self.resources(check).is_some(), || format!("the resources of {member} cannot be changed while it runs"))?;
        let Some(listed) = check.listed(member)? else { return changed(format!("{member} is no member")) };
        let others = check.voters(Some(listed.id))?;
        ensure(has_begun(pod) || !check.is_healthy(listed) || others.healthy == others.all, || {
            format!("only {} of the {} others are healthy", others.healthy, others.all)
        })
    }

    /// The pod shows from now on that its resources are being changed: if the change of the spec is reverted, it is undone.
    fn effects(&self, check: &Check) -> Vec<Effect> {
        let Some((desired, resources)) = self.resources(check) else { return vec![] };
        let (member, uid) = (self.member.clone(), self.pod_uid.clone());
        let annotations = [(key::RESIZING, serde_json::to_string(&desired).unwrap_or_default())].into();
        vec![
            Effect::AnnotatePod { member: member.clone(), uid: uid.clone(), annotations },
            Effect::Resize { member, uid, resources },
        ]
    }

    fn describe_done(&self, check: &Check, _: usize) -> String {
        let changes = self.pod(check).map(|(pod, template)| changes(pod, template)).unwrap_or_default();
        let why = if changes.is_empty() { "the change is reverted".to_owned() } else { describe_changes(&changes) };
        format!("changing the resources of {} while it runs ({why})", self.member)
    }
}
