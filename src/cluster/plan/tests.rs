use super::*;
use crate::cluster::fixtures::World;
#[test]
fn a_cluster_is_founded() {
    let mut world = World::new("{}");
    for _ in 0..8 {
        let pass = world.pass();
        println!(
            "{:?}\n{:#?}",
            pass.report.status.conditions.iter().map(|c| (&c.type_, &c.status, &c.reason, &c.message)).collect::<Vec<_>>(),
            (
                pass.plan.authorities.len(),
                pass.plan.secrets.len(),
                pass.plan.objects.iter().map(Object::describe).collect::<Vec<_>>(),
                &pass.plan.pods,
                &pass.plan.step
            )
        );
    }
    world.settle();
}
