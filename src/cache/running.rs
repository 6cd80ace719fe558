//! How long the operator has seen etcd run in each pod.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, runtime::reflector::Store};

use super::watch::Watched;
use crate::{ids::Uid, member_pod::running_since};

/// Since when the operator has seen the container of etcd run in each pod. It is measured by the monotonic clock of this process: the
/// operator's time of day may be wrong, and so may be that of a node, which says when a container started.
#[derive(Debug, Default)]
pub(super) struct Running(HashMap<Uid, (Timestamp, Instant)>);

impl Running {
    /// Follows the watch. `store` has the pods.
    pub(super) fn follow(&mut self, seen: &Watched<'_, Pod>, store: &Store<Pod>, now: Instant) {
        match seen {
            Watched::Applied(pod) => self.see(pod, now),
            Watched::Deleted(pod) => drop(Uid::of(pod.meta()).map(|uid| self.0.remove(&uid))),
            Watched::Found(_) => {}
            Watched::Listed => {
                let pods = store.state();
                let uids: HashSet<_> = pods.iter().filter_map(|pod| Uid::of(pod.meta())).collect();
                self.0.retain(|uid, _| uids.contains(uid));
                for pod in &pods {
                    self.see(pod, now);
                }
            }
        }
    }

    /// For how long a container that is running now has been seen running.
    pub(super) fn time(&self, pod: &Uid, now: Instant) -> Duration {
        self.0.get(pod).map(|(_, since)| now.duration_since(*since)).unwrap_or_default()
    }

    fn see(&mut self, pod: &Pod, now: Instant) {
        let Some(uid) = Uid::of(pod.meta()) else { return };
        match running_since(pod) {
            None => drop(self.0.remove(&uid)),
            // A container that has ended and was started again is another one.
            Some(started) if self.0.get(&uid).is_some_and(|(known, _)| *known == started) => {}
            Some(started) => drop(self.0.insert(uid, (started, now))),
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher::Event};

    use super::*;

    fn pod(uid: &str, started: Option<&str>) -> Pod {
        let state = started.map(|started| format!("running: {{startedAt: '{started}'}}")).unwrap_or_default();
        let status = format!(
            "{{containerStatuses: [{{name: etcd, image: i, imageID: i, ready: false, restartCount: 0, state: {{{state}}}}}]}}"
        );
        let text = format!("metadata: {{namespace: ns, name: pod-{uid}, uid: {uid}}}\nstatus: {status}");
        serde_saphyr::from_str(&text).unwrap()
    }

    #[test]
    fn a_container_counts_from_when_it_was_first_seen() {
        let (store, mut writer) = reflector::store();
        let (mut running, begin) = (Running::default(), Instant::now());
        let second = |second| begin + Duration::from_secs(second);
        let mut see = |running: &mut Running, at: u64, event: Event<Pod>| {
            writer.apply_watcher_event(&event);
            if let Some(seen) = Watched::of(&event) {
                running.follow(&seen, &store, second(at));
            }
        };
        let times = |running: &Running, at: u64| ["a", "b"].map(|uid| running.time(&Uid::from(uid), second(at)).as_secs());

        // The clock of its node is hours behind.
        let (early, late) = (Some("2026-03-01T00:00:00Z"), Some("2026-03-01T00:00:30Z"));
        see(&mut running, 0, Event::Apply(pod("a", None)));
        see(&mut running, 10, Event::Apply(pod("a", early)));
        see(&mut running, 20, Event::Apply(pod("a", early)));
        assert_eq!(times(&running, 30), [20, 0]);
        see(&mut running, 40, Event::Apply(pod("a", late)));
        assert_eq!(times(&running, 45), [5, 0]);

        // While the watch was interrupted, one was deleted and one was created.
        for event in [Event::Init, Event::InitApply(pod("b", early)), Event::InitDone] {
            see(&mut running, 50, event);
        }
        assert_eq!(times(&running, 60), [0, 10]);
        for event in [Event::Init, Event::InitApply(pod("b", early)), Event::InitDone] {
            see(&mut running, 70, event);
        }
        assert_eq!(times(&running, 80), [0, 30]);
        see(&mut running, 90, Event::Delete(pod("b", early)));
        assert_eq!(times(&running, 100), [0, 0]);
    }
}
