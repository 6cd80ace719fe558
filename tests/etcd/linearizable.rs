//! What clients see while members are killed is linearizable, and the check notices one wrong answer.

use std::{fs, path::Path, sync::Arc};

use serde_json::Value;

use crate::{
    Cluster, LOOPBACK, ask,
    clients::{
        Files, connect,
        history::{Clients, Connect, check},
    },
    until,
};

#[tokio::test]
async fn a_history_with_killed_leaders_is_linearizable() {
    let mut cluster = Cluster::prepare(3);
    let flags = ["--heartbeat-interval=50", "--election-timeout=500"];
    cluster.members = (0..3).map(|index| cluster.spawn_with(index, &flags)).collect();
    cluster.healthy().await;
    let file = cluster.dir.path().join("history.jsonl");
    let clients = Clients::start(to_each_member(&cluster));
    for kills in 0..2 {
        until("there are more answers", async || (clients.answered() >= 50 * (kills + 1)).then_some(())).await;
        let leader = leader(&cluster).await;
        drop(cluster.members.remove(leader));
        // The others have a quorum.
        cluster.healthy().await;
        cluster.members.insert(leader, cluster.spawn_with(leader, &flags));
        cluster.healthy().await;
    }
    clients.stop(&file).await;
    let said = check(&file).await.unwrap();
    println!("{said}");
    assert!(said.contains(" on 5 keys, ") && said.ends_with(" unknown, linearizable"), "{said}");

    make_stale(&file);
    let said = check(&file).await.unwrap_err();
    assert!(said.contains("not linearizable\nregister/"), "{said}");
}

fn to_each_member(cluster: &Cluster) -> Connect {
    let path = |name: &str| cluster.dir.path().join(name);
    let files = Files { ca: path("client-ca.crt"), crt: path("operator.crt"), key: path("operator.key") };
    let ports: Vec<_> = cluster.members.iter().map(|member| member.client_port).collect();
    Arc::new(move |number| connect(&files, &LOOPBACK.to_string(), ports[number % ports.len()]))
}

/// The index of the leader.
async fn leader(cluster: &Cluster) -> usize {
    let tls = cluster.tls();
    until("a member leads", async || {
        for (index, member) in cluster.members.iter().enumerate() {
            if ask(member, &tls).await.status.is_ok_and(|status| status.leads()) {
                return Some(index);
            }
        }
        None
    })
    .await
}

/// The last get of a history returns the first value that was put under its key.
fn make_stale(file: &Path) {
    let text = fs::read_to_string(file).unwrap();
    let mut history: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is = |operation: &Value, kind: &str| operation["kind"] == kind && operation["answered"] == true;
    let last = history.iter().rposition(|operation| is(operation, "get")).unwrap();
    let first = history.iter().find(|operation| is(operation, "put") && operation["key"] == history[last]["key"]).unwrap();
    let stale = first["value"].clone();
    assert_ne!(history[last]["result"], stale);
    history[last]["result"] = stale;
    let lines: Vec<_> = history.iter().map(|operation| format!("{operation}\n")).collect();
    fs::write(file, lines.concat()).unwrap();
}
