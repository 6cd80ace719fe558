//! What users request by annotations of the `EtcdCluster`, and which requests have been completed.
//!
//! Each request is done once. Its identity is the value of its annotation, which may end with `@` and any text:
//! `rotate-ca=client@2026-11-28`. When it is complete the annotation is removed. A tool that applies a manifest again and again sets it
//! again; the status remembers what was completed, so that nothing is done then.

use std::collections::BTreeSet;

use kube::ResourceExt;

use crate::{api::EtcdCluster, names::annotation as key, pki::Domain};

/// Separates what is requested from the text that distinguishes this request from others.
const ID: char = '@';

/// What the user of a cluster requests and has not been done yet.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// Every pod that was created with another value is restarted.
    pub restarted_at: Option<String>,
    /// The name of the member to replace.
    pub replace: Option<String>,
    /// The name of the member to recover from, optionally followed by `,force`.
    pub recover_from: Option<String>,
    /// The domains whose authorities are to be rotated.
    pub rotate: BTreeSet<Domain>,
    /// The words of the rotation request that are not domains. Then nothing is rotated.
    pub rotate_unknown: Vec<String>,
    /// The requests that were completed before, and are not repeated.
    pub repeated: Vec<Request>,
    /// The texts after [`ID`] in the annotations, with it.
    ids: Ids,
}

#[derive(Clone, Debug, Default)]
struct Ids {
    replace: String,
    recover_from: String,
    rotate: String,
}

/// A request that is remembered once it is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The annotation without its prefix: `replace`. For a rotation with its domain: `rotate-ca/client`.
    pub name: String,
    /// What is requested, with the text that distinguishes it.
    pub value: String,
}

impl Request {
    fn new(annotation: &str, domain: Option<Domain>, value: String) -> Self {
        let annotation = annotation.rsplit('/').next().unwrap_or_default();
        let name = domain.map_or_else(|| annotation.to_owned(), |domain| format!("{annotation}/{domain}"));
        Self { name, value }
    }

    /// Whether it has a text that distinguishes it from all others. A value without one may be requested again later.
    pub fn is_unique(value: &str) -> bool {
        value.contains(ID)
    }
}

impl Requests {
    /// The requests of a cluster that are not among those that its status remembers.
    pub fn of(cluster: &EtcdCluster) -> Self {
        let mut requests = Self { restarted_at: cluster.annotations().get(key::RESTARTED_AT).cloned(), ..Self::default() };
        let value = |annotation: &str| {
            let (what, id) = split(cluster.annotations().get(annotation)?);
            Some((what.to_owned(), id.to_owned()))
        };
        let completed = || cluster.status.iter().flat_map(|status| &status.requests);
        let is_new = |requests: &mut Self, request: Request| {
            let is_repeated = completed().any(|it| it.name == request.name && it.value == request.value);
            requests.repeated.extend(is_repeated.then_some(request));
            !is_repeated
        };
        if let Some((what, id)) = value(key::REPLACE) {
            let request = Request::new(key::REPLACE, None, format!("{what}{id}"));
            requests.replace = is_new(&mut requests, request).then_some(what);
            requests.ids.replace = id;
        }
        if let Some((what, id)) = value(key::RECOVER_FROM) {
            let request = Request::new(key::RECOVER_FROM, None, format!("{what}{id}"));
            requests.recover_from = is_new(&mut requests, request).then_some(what);
            requests.ids.recover_from = id;
        }
        if let Some((what, id)) = value(key::ROTATE_CA) {
            requests.ids.rotate = id;
            for word in what.split(',').map(str::trim).filter(|word| !word.is_empty()) {
                match Domain::parse(word) {
                    None => requests.rotate_unknown.push(word.to_owned()),
                    Some(domain) => {
                        let request = requests.rotation(domain);
                        if is_new(&mut requests, request) {
                            requests.rotate.insert(domain);
                        }
                    }
                }
            }
            // It may not be what was meant.
            if !requests.rotate_unknown.is_empty() {
                requests.rotate.clear();
            }
        }
        requests
    }

    /// Whether a request is pending. Each but a restart is removed when it is complete.
    pub fn is_pending(&self) -> bool {
        self.replace.is_some() || self.recover_from.is_some() || !self.rotate.is_empty() || !self.rotate_unknown.is_empty()
    }

    /// The request to replace a member, to be remembered.
    pub fn replacement(&self, member: &str) -> Request {
        Request::new(key::REPLACE, None, format!("{member}{}", self.ids.replace))
    }

    /// The request to rotate the authorities of a domain, to be remembered.
    pub fn rotation(&self, domain: Domain) -> Request {
        Request::new(key::ROTATE_CA, Some(domain), format!("{domain}{}", self.ids.rotate))
    }

    /// The request to recover, to be remembered if it is unique: if the quorum is lost again, the same request is made again.
    pub fn recovery(&self) -> Option<Request> {
        let value = format!("{}{}", self.recover_from.as_ref()?, self.ids.recover_from);
        Request::is_unique(&value).then(|| Request::new(key::RECOVER_FROM, None, value))
    }

    /// The value of the annotation that requests only these rotations.
    pub fn rotations(&self, domains: &[&Domain]) -> Option<String> {
        let words: Vec<_> = domains.iter().map(ToString::to_string).collect();
        (!words.is_empty()).then(|| format!("{}{}", words.join(","), self.ids.rotate))
    }
}

/// What is requested, and the text that distinguishes it with the separator.
fn split(value: &str) -> (&str, &str) {
    value.split_at(value.find(ID).unwrap_or(value.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{CompletedRequestStatus, EtcdClusterSpec, EtcdClusterStatus};

    fn requests(annotations: &[(&str, &str)], completed: &[(&str, &str)]) -> Requests {
        let mut cluster = EtcdCluster::new("demo", EtcdClusterSpec::default());
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        cluster.metadata.annotations = Some(annotations.collect());
        let completed = completed.iter().map(|(name, value)| CompletedRequestStatus {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
            completed_at: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH),
        });
        cluster.status = Some(EtcdClusterStatus { requests: completed.collect(), ..EtcdClusterStatus::default() });
        Requests::of(&cluster)
    }

    #[test]
    fn what_is_requested_is_read_without_what_distinguishes_it() {
        let all = [(key::REPLACE, "demo-1@a"), (key::RECOVER_FROM, "demo-0,force@b@c"), (key::ROTATE_CA, "client, peer@d")];
        let unknown = requests(&[(key::ROTATE_CA, "client,all@d")], &[]);
        assert_eq!((unknown.rotate.len(), unknown.rotate_unknown), (0, vec!["all".to_owned()]));
        let requests = requests(&all, &[]);
        assert_eq!((requests.replace.as_deref(), requests.recover_from.as_deref()), (Some("demo-1"), Some("demo-0,force")));
        assert_eq!(requests.rotate, [Domain::Client, Domain::Peer].into());
        assert!(requests.rotate_unknown.is_empty());
        assert_eq!(requests.replacement("demo-1"), Request { name: "replace".into(), value: "demo-1@a".into() });
        assert_eq!(requests.rotation(Domain::Peer), Request { name: "rotate-ca/peer".into(), value: "peer@d".into() });
        assert_eq!(requests.recovery(), Some(Request { name: "recover-from".into(), value: "demo-0,force@b@c".into() }));
        assert_eq!(requests.rotations(&[&Domain::Peer]).as_deref(), Some("peer@d"));
    }

    #[test]
    fn a_completed_request_is_not_repeated_and_another_value_is_another_request() {
        let completed = [("replace", "demo-1"), ("recover-from", "demo-0@1"), ("rotate-ca/client", "client@1")];
        let same =
            requests(&[(key::REPLACE, "demo-1"), (key::RECOVER_FROM, "demo-0@1"), (key::ROTATE_CA, "client@1")], &completed);
        assert_eq!((same.replace, same.recover_from, same.rotate), (None, None, BTreeSet::new()));
        let repeated: Vec<_> = same.repeated.iter().map(|request| (request.name.as_str(), request.value.as_str())).collect();
        assert_eq!(repeated, completed);
        // The other domain has not been rotated yet.
        assert_eq!(requests(&[(key::ROTATE_CA, "client,peer@1")], &completed).rotate, [Domain::Peer].into());
        let others =
            requests(&[(key::REPLACE, "demo-1@1"), (key::RECOVER_FROM, "demo-0"), (key::ROTATE_CA, "client")], &completed);
        assert_eq!((others.replace.as_deref(), others.recover_from.as_deref()), (Some("demo-1"), Some("demo-0")));
        assert_eq!((others.rotate.len(), others.repeated.len()), (1, 0));
        assert_eq!(others.recovery(), None, "if the quorum is lost again, the same request is made again");
    }
}
