//! Requests to members that change nothing.

use super::Actor;
use crate::{
    api::Reason,
    cluster::{dial, outcome::Outcome},
    names::{CLIENT_PORT, MemberName},
    reporting::note::Note,
};

impl Actor<'_> {
    /// Asks a member for an entry of raft's log that changes nothing. The next pass asks again if the member that waits for one does
    /// not answer by then.
    pub async fn advance(&self, member: &MemberName) -> Outcome {
        let mut outcome = Outcome::default();
        let pod = self.observed.members.get(member).and_then(|member| member.pod.as_ref());
        let (Some(identity), Some(pod)) = (self.identity, pod) else { return outcome };
        let target = dial::target(&self.cluster.names, member, pod, CLIENT_PORT);
        if let Err(error) = self.context.dialer.advance(&target, &identity.tls).await
            && !error.class().is_transient()
        {
            let message = format!("asking {member} for an entry of raft's log: it {error}");
            outcome.failed.push(Note::new(Reason::EtcdRefused, message));
        }
        outcome
    }
}
