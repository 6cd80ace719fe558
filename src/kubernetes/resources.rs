//! Requests and limits of a container, as they are written to a running pod and found there.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity};
use serde_json::{Value, json};

use super::quantity::nano;

/// The requests and limits that a container is to have instead of others. Those that an admission plugin added when the pod was created are
/// in neither, and stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    requests: Amounts,
    limits: Amounts,
}

/// Amounts as texts, by the names of resources. One that is not to be any more is `None`.
type Amounts = BTreeMap<String, Option<String>>;
type Quantities = BTreeMap<String, Quantity>;

impl Resources {
    /// What has to be written to a container so that it has `new`. It was given each of `old` before. `None` if more than amounts differs,
    /// which cannot be changed.
    pub fn of<'a>(new: &ResourceRequirements, old: impl IntoIterator<Item = &'a ResourceRequirements>) -> Option<Self> {
        let new = effective(new);
        let claims = new.claims.clone();
        let mut resources = Self { requests: amounts(new.requests), limits: amounts(new.limits) };
        for old in old.into_iter().map(effective) {
            if old.claims != claims {
                return None;
            }
            let add = |amounts: &mut Amounts, old: Option<Quantities>| {
                for name in old.into_iter().flat_map(BTreeMap::into_keys) {
                    amounts.entry(name).or_insert(None);
                }
            };
            add(&mut resources.requests, old.requests);
            add(&mut resources.limits, old.limits);
        }
        Some(resources)
    }

    /// Whether a container has them.
    pub fn are_in(&self, found: Option<&ResourceRequirements>) -> bool {
        self.compare(found, |one, other| one == other)
    }

    /// Whether a container runs with them, as the kubelet reports it: some runtimes round what they are told.
    pub fn are_about(&self, found: Option<&ResourceRequirements>) -> bool {
        self.compare(found, |one, other| one.abs_diff(other) <= one.max(other).unsigned_abs() / 100)
    }

    fn compare(&self, found: Option<&ResourceRequirements>, is_same: fn(i128, i128) -> bool) -> bool {
        let compare = |amounts: &Amounts, found: Option<&Quantities>| {
            amounts.iter().all(|(name, amount)| match (amount, found.and_then(|found| found.get(name))) {
                (None, None) => true,
                (Some(amount), Some(found)) => {
                    *amount == found.0 || nano(amount).zip(nano(&found.0)).is_some_and(|(one, other)| is_same(one, other))
                }
                (Some(_), None) | (None, Some(_)) => false,
            })
        };
        compare(&self.requests, found.and_then(|found| found.requests.as_ref()))
            && compare(&self.limits, found.and_then(|found| found.limits.as_ref()))
    }

    /// A strategic merge patch of a pod with this container.
    pub fn patch(&self, container: &str) -> Value {
        let resources = json!({ "requests": self.requests, "limits": self.limits });
        json!({ "spec": { "containers": [{ "name": container, "resources": resources }] } })
    }

    /// What a container has after it was patched.
    pub fn apply_to(&self, existing: &mut ResourceRequirements) {
        let apply = |existing: &mut Option<Quantities>, amounts: &Amounts| {
            let existing = existing.get_or_insert_default();
            for (name, amount) in amounts {
                match amount {
                    Some(amount) => drop(existing.insert(name.clone(), Quantity(amount.clone()))),
                    None => drop(existing.remove(name)),
                }
            }
        };
        apply(&mut existing.requests, &self.requests);
        apply(&mut existing.limits, &self.limits);
    }
}

/// The resources that the API server gives to a container of a new pod: a limit is also the request, if there is none (Kubernetes,
/// `SetDefaults_Pod`).
fn effective(resources: &ResourceRequirements) -> ResourceRequirements {
    let mut effective = resources.clone();
    let requests = effective.requests.get_or_insert_default();
    for (name, limit) in resources.limits.iter().flatten() {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
    effective
}

fn amounts(quantities: Option<Quantities>) -> Amounts {
    quantities.into_iter().flatten().map(|(name, quantity)| (name, Some(quantity.0))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(yaml: &str) -> ResourceRequirements {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn a_limit_is_also_the_request_and_what_is_gone_is_removed() {
        let new = resources("{ limits: { memory: 1Gi }, requests: { cpu: 100m } }");
        let old = ["{ limits: { cpu: 2 } }", "{ requests: { memory: 5Mi } }"].map(resources);
        let changed = Resources::of(&new, &old).unwrap();
        let expected = json!({
            "requests": { "cpu": "100m", "memory": "1Gi" },
            "limits": { "memory": "1Gi", "cpu": null },
        });
        let patch = changed.patch("etcd");
        assert_eq!(patch["spec"]["containers"][0], json!({ "name": "etcd", "resources": expected }));
        let mut container = resources("{ limits: { cpu: 2 }, requests: { cpu: 2, pages: 1 } }");
        assert!(!changed.are_in(Some(&container)) && !changed.are_in(None));
        changed.apply_to(&mut container);
        assert_eq!(container, resources("{ limits: { memory: 1Gi }, requests: { cpu: 100m, memory: 1Gi, pages: 1 } }"));
        assert!(changed.are_in(Some(&container)), "what others have added stays");
        assert_eq!(Resources::of(&resources("{ claims: [{ name: a }] }"), &old), None);
    }

    #[test]
    fn amounts_are_compared_as_numbers_and_the_kubelet_may_round_them() {
        let changed = Resources::of(&resources("{ limits: { cpu: 0.5, memory: 100M } }"), []).unwrap();
        for (found, is_in, is_about) in [
            ("{ limits: { cpu: 500m, memory: 100000k }, requests: { cpu: 500m, memory: 100M } }", true, true),
            ("{ limits: { cpu: 500m, memory: 99999744 }, requests: { cpu: 499m, memory: 100M } }", false, true),
            ("{ limits: { cpu: 500m, memory: 98M }, requests: { cpu: 500m, memory: 100M } }", false, false),
            ("{ limits: { cpu: 500m }, requests: { cpu: 500m, memory: 100M } }", false, false),
        ] {
            let found = resources(found);
            assert_eq!((changed.are_in(Some(&found)), changed.are_about(Some(&found))), (is_in, is_about), "{found:?}");
        }
    }
}
