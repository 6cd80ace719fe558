//! A cluster is founded with what it needs and with nothing written twice.

use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn what_is_there_is_not_written_again() {
    let world = World::new("twice").await;
    let operator = world.operator();
    world.cluster("demo", json!({})).await;
    world.user("app", json!({ "clusterRef": { "name": "demo" } })).await;
    world.reports("demo", "Progressing", "WaitingForMembers").await;
    world.user_reports("app", "Issued").await;
    operator.quiet(3).await;
    eprintln!("{:#?}", operator.tap.writes());
    operator.stop().await;

    let restarted = world.operator();
    restarted.quiet(4).await;
    assert!(restarted.tap.writes().is_empty(), "{:#?}", restarted.tap.writes());
    restarted.stop().await;
}
