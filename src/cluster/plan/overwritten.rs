//! Excludes objects that others overwrite each time that they are applied: they must not block restarts and rotations.

use super::{changes::Changes, input::Input};
use crate::{
    api::Reason,
    kubernetes::{covers::Difference, desired::Overwritten, object::Object},
};

/// The changes without the objects that it is useless to apply now, which are reported.
pub fn exclude(input: &Input, changes: Changes) -> Changes {
    let report = report(input, changes.objects.iter().chain(&changes.bootstrap).chain(changes.stateful_sets.values()));
    let is_useful = |object: &Object| input.desired.overwritten(object, input.now).is_none();
    let mut rest = Changes {
        objects: changes.objects.into_iter().filter(is_useful).collect(),
        bootstrap: changes.bootstrap.filter(is_useful),
        stateful_sets: changes.stateful_sets.into_iter().filter(|(_, object)| is_useful(object)).collect(),
        ..changes
    };
    rest.merge(report);
    rest
}

/// What is reported about those of these objects that others overwrite.
fn report<'a>(input: &Input, objects: impl Iterator<Item = &'a Object>) -> Changes {
    let messages = objects.filter_map(|object| message(input, object));
    messages.fold(Changes::default(), |report, message| report.problem(Reason::FieldOverwritten, message))
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
