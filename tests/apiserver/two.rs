//! Two operators act at once, which leader election makes rare and not impossible.

use futures::future::join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use serde_json::json;

use crate::{state::whole, world::World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_operators_do_no_harm() {
    // Several times, because whose write comes first is chance.
    join_all((0..5).map(|_| async {
        let world = World::new("two").await;
        let operators = [world.operator(), world.operator()];
        world.cluster("demo", json!({})).await;
        world.user("app", json!({ "clusterRef": { "name": "demo" } })).await;
        world.founded("demo").await;
        world.user_reports("app", "Issued").await;
        for operator in &operators {
            operator.quiet(1).await;
        }
        let written = whole(&world, "demo").await;

        // Every Secret was created once, so the authorities were too, and by nobody replaced with others.
        let secrets = world.api::<Secret>().list(&ListParams::default()).await.unwrap().items.len();
        let made = operators.iter().flat_map(|operator| operator.tap.answered(201));
        let made = made.filter(|seen| seen.writes() && seen.method == "POST" && seen.path.ends_with("/secrets")).count();
        assert_eq!((secrets, made), (7, 7));
        // At worst both have issued everything, and one half was never handed out.
        assert!(written.client <= 2 * 8 && written.peer <= 2 * 3, "{written:?}");
        for operator in operators {
            let conflicts = operator.tap.answered(409);
            assert!(conflicts.len() < 20, "{conflicts:#?}");
            let writes = operator.tap.writes().len();
            assert!(writes < 80, "{writes} writes");
            operator.stop().await;
        }
    }))
    .await;
}
