//! The requests that were completed, in the status.

use jiff::SignedDuration;

use super::Input;
use crate::{api::CompletedRequestStatus, cluster::requests::Request, reporting::condition::seconds};

/// How long a request without a unique value is remembered after it was completed and its annotation has been removed. A tool that
/// applies a manifest again and again sets the annotation again within this time, and then it is remembered as long as it exists.
/// The same request made later is a new one.
const REPEATED_WITHIN: SignedDuration = SignedDuration::from_hours(2);

/// The completed requests that are remembered.
pub fn completed(input: &Input) -> Vec<CompletedRequestStatus> {
    let Input { observed, decision, outcome, now, .. } = input;
    let Some(cluster) = decision.cluster() else { return observed.status.requests.clone() };
    let new = &outcome.completed;
    let is_kept = |old: &&CompletedRequestStatus| {
        let is_set = cluster.requests.repeated.iter().any(|request| request.name == old.name && request.value == old.value);
        let is_recent = now.duration_since(old.completed_at.0) < REPEATED_WITHIN;
        let is_superseded = new.iter().any(|request| request.name == old.name);
        !is_superseded && (is_set || is_recent || Request::is_unique(&old.value))
    };
    let kept = observed.status.requests.iter().filter(is_kept).cloned();
    let completed = new.iter().map(|request| CompletedRequestStatus {
        name: request.name.clone(),
        value: request.value.clone(),
        completed_at: seconds(*now),
    });
    let mut all: Vec<_> = kept.chain(completed).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

/// The annotations whose requests were completed before, as a suffix for a message.
pub fn repeated(input: &Input) -> String {
    let requests = input.decision.cluster().into_iter().flat_map(|cluster| &cluster.requests.repeated);
    let each = requests.map(|Request { name, value }| {
        let (annotation, what) = (name.split('/').next().unwrap_or_default(), value.split('@').next().unwrap_or_default());
        format!(
            "; annotation {annotation}={value} was completed before and is not repeated: set another value, such as {what}@2, for another \
             request"
        )
    });
    each.collect()
}
