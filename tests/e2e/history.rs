//! Clients whose history is checked: what they saw through a scenario is linearizable.

use std::{fs, sync::Arc};

use crate::{
    clients::history::{Clients, Connect, PREFIX, check},
    namespace::{Identity, TIMEOUT, TestNamespace},
    tools::until,
    writer::connect,
};

/// Clients that record what they do.
pub struct Histories(Clients);

impl Histories {
    /// Starts the clients, and returns when they have the first answers.
    pub async fn start(user: &Identity) -> Self {
        user.etcdctl(["del", PREFIX, "--prefix"]).await.success();
        let user = user.clone();
        let connect: Connect = Arc::new(move |_| connect(&user));
        let clients = Clients::start(connect);
        until("the first answers", TIMEOUT, || async {
            let answered = clients.answered();
            if answered >= 10 { Ok(()) } else { Err(format!("{answered}")) }
        })
        .await;
        Self(clients)
    }

    /// Stops the clients, and checks that their history is linearizable. Returns how many operations it has.
    pub async fn stop(self, ns: &TestNamespace) -> String {
        let folder = ns.folder();
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("history.jsonl");
        self.0.stop(&file).await;
        check(&file).await.unwrap_or_else(|problem| panic!("{problem}"))
    }
}
