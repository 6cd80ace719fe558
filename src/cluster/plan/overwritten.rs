//! Excludes objects that others overwrite each time that they are applied: they must not block restarts and rotations.

use super::{changes::Changes, input::Input};
use crate::{
    api::Reason,
    kubernetes::{covers::Difference, desired::Overwritten, object::Object},
};

/// Removes every object that it is useless to apply now, and reports it.
pub fn exclude(input: &Input, changes: &mut Changes) {
    let mut messages = vec![];
    let mut is_overwritten = |object: &Object| {
        let message = message(input, object);
        messages.extend(message.clone());
        message.is_some()
    };
    changes.objects.retain(|object| !is_overwritten(object));
    changes.bootstrap.take_if(|object| is_overwritten(object));
    changes.stateful_sets.retain(|_, object| !is_overwritten(object));
    let report =
        messages.into_iter().fold(Changes::default(), |report, message| report.problem(Reason::FieldOverwritten, message));
    changes.merge(report);
}

fn message(input: &Input, object: &Object) -> Option<String> {
    let overwritten = input.desired.overwritten(object, input.now)?;
    Some(describe(input, &object.describe(), &object.drift, &overwritten))
}

/// What is said about an object that others overwrite.
pub fn describe(input: &Input, object: &str, drift: &[Difference], overwritten: &Overwritten) -> String {
    let fields: Vec<_> = drift.iter().map(ToString::to_string).collect();
    let by = match &overwritten.manager {
        Some(manager) => format!("field manager {manager}"),
        None => "an admission webhook, a policy or a controller".into(),
    };
    format!(
        "{object}: each time that etcd-warden applies {}, {by} changes it. Exempt namespace {} there: `kubectl get \
         mutatingwebhookconfigurations` lists the webhooks. It is applied again every 10 minutes",
        fields.join(", "),
        input.facts.names.namespace(),
    )
}
