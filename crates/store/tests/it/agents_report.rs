//! What a node says of itself is compared and acted on; what an admin says of it, too.

use crate::world::{TTL, World, at, node_refuses, on_both};
use orion_domain::{
    lease::{EndReason, LeaseState, OnNodeLoss, Phase},
    node::{Health, LockOrder, QuarantineCause},
};
use orion_store::{BootTold, Cas, DeclaredDead, ForgetOutcome, ForgetRequest, PlaceRequest};

on_both!(
    a_clean_node_whose_account_differs_is_looked_at,
    a_doubt_of_an_account_needs_each_of_its_conditions,
    a_node_that_was_booted_is_looked_at,
    a_kernel_that_runs_again_after_another_is_a_second_machine,
    a_kernel_that_runs_again_much_later_is_a_snapshot_and_the_brake_keeps_a_node_in_use,
    a_node_that_does_not_answer_is_declared_dead_also_under_the_brake,
    an_admin_s_order_to_lock_stands_until_the_node_is_clean,
    a_node_that_is_declared_dead_again_is_ordered_locked_anew,
    work_that_began_before_an_order_to_lock_does_not_end_it,
    a_node_that_answers_is_not_declared_dead,
    a_release_that_nobody_can_finish_ends_when_its_node_is_forgotten_by_force,
);

async fn a_clean_node_whose_account_differs_is_looked_at(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    let doubt = async |now| {
        world.store.agents().doubt_account(node, lease.id, "its account is locked", now).await.unwrap()
    };
    let claim = world.claim(node, at(2)).await;
    assert_eq!(doubt(at(2)).await, Cas::Stale, "whoever works on it knows more");
    world.store.nodes().release_claim(&claim, at(3)).await.unwrap();
    assert!(doubt(at(3)).await.done().unwrap().is_dirty());
    let told = world.store.events().of_node(node, 1).await.unwrap().remove(0);
    assert_eq!((told.kind.as_str(), &told.data["reason"]), ("node.differs", &"its account is locked".into()));
    assert_eq!(doubt(at(3)).await, Cas::Stale, "it is dirty already");
    world.clean(node, at(4)).await;
    assert_eq!(doubt(lease.until).await, Cas::Stale, "the node closes it then, as it should");
    world.store.leases().end(&[lease.id], &EndReason::Released, None, at(5)).await.unwrap();
    world.clean(node, at(6)).await;
    assert_eq!(doubt(at(7)).await, Cas::Stale);
}

async fn a_doubt_of_an_account_needs_each_of_its_conditions(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    let doubt = async || world.store.agents().doubt_account(node, lease.id, "locked", at(3)).await.unwrap();
    for spoiler in [
        "UPDATE nodes SET health = 'unreachable'",
        "UPDATE holds SET role = 'leaving'",
        "UPDATE nodes SET desired_version = desired_version + 1",
        "UPDATE nodes SET claimed_until = 1800000009000000, claim_token = 'another'",
        "UPDATE leases SET state = 'provisioning'",
    ] {
        world.sql(spoiler).await.unwrap();
        assert_eq!(doubt().await, Cas::Stale, "doubted although {spoiler}");
        let restore = "UPDATE nodes SET health = 'alive', desired_version = applied_version, claimed_until = NULL, \
             claim_token = NULL";
        world.sql(restore).await.unwrap();
        world.sql("UPDATE holds SET role = 'current'").await.unwrap();
        world.sql("UPDATE leases SET state = 'active'").await.unwrap();
    }
    assert!(doubt().await.done().is_some(), "the control: it is doubted otherwise");
}

async fn a_node_that_was_booted_is_looked_at(world: World) {
    let node = world.free_node(1).await;
    let hear = async |boot: &str| world.store.agents().record_boot_id(node, boot, at(5)).await.unwrap();
    assert_eq!([hear("").await, hear("a").await, hear("a").await], [BootTold::Same; 3]);
    assert!(!world.node(node).await.is_dirty());
    assert_eq!(hear("b").await, BootTold::Rebooted);
    assert!(world.node(node).await.is_dirty());
    assert_eq!(world.store.events().of_node(node, 1).await.unwrap()[0].kind, "node.rebooted");
    let after = world.node(node).await;
    assert_eq!(hear("b").await, BootTold::Same);
    assert_eq!(world.node(node).await, after, "nothing is written for what is known");
}

async fn a_kernel_that_runs_again_after_another_is_a_second_machine(world: World) {
    let node = world.free_node(1).await;
    let hear = async |boot: &str| world.store.agents().record_boot_id(node, boot, at(5)).await.unwrap();
    for boot in ["a", "b", "c"] {
        hear(boot).await;
    }
    assert_eq!(world.node(node).await.quarantine, None, "it was booted twice");
    assert_eq!(hear("a").await, BootTold::TwoMachines);
    let after = world.node(node).await;
    let reason = after.quarantine.as_deref().unwrap();
    assert!(reason.starts_with(&format!("two machines use the identity of node {node}")), "{reason}");
    assert_eq!(after.quarantine_cause, Some(QuarantineCause::Operator));
    world.clean(node, at(6)).await;
    assert!(world.node(node).await.quarantine.is_some(), "a person has to judge");
}

async fn a_kernel_that_runs_again_much_later_is_a_snapshot_and_the_brake_keeps_a_node_in_use(world: World) {
    let node = world.free_node(1).await;
    let hear =
        async |boot: &str, now| world.store.agents().record_boot_id(node, boot, at(now)).await.unwrap();
    assert_eq!(hear("a", 5).await, BootTold::Same);
    assert_eq!(hear("b", 10).await, BootTold::Rebooted);
    assert_eq!(hear("a", 700).await, BootTold::Rebooted);
    assert_eq!(world.node(node).await.quarantine, None);
    let known = world.store.cluster().brake().await.unwrap();
    let brake =
        world.store.cluster().engage_brake(&known, "s", "many", at(701)).await.unwrap().done().unwrap();
    assert_eq!(hear("b", 705).await, BootTold::TwoMachines);
    assert_eq!(world.node(node).await.quarantine, None, "seen of many at once it is not their doing");
    world
        .store
        .cluster()
        .release_brake(brake.engaged.as_ref(), "over", None, at(706))
        .await
        .unwrap()
        .done()
        .unwrap();
    assert_eq!(hear("a", 710).await, BootTold::TwoMachines);
    assert!(world.node(node).await.quarantine.is_some(), "it goes on");
}

async fn work_that_began_before_an_order_to_lock_does_not_end_it(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let (_, epoch) = world.store.agents().open_link(node, "api", at(1)).await.unwrap().done().unwrap();
    let lease = world.active_lease(&world.wish(user, 1)).await;
    world.store.agents().doubt_account(node, lease.id, "it is locked", at(2)).await.unwrap().done().unwrap();
    let claim = world.claim(node, at(2)).await;
    world.store.agents().set_agent_sshd(node, epoch, Some(false), at(3)).await.unwrap().done().unwrap();
    world.set_health(node, Health::Unreachable, at(3)).await;
    let version = world.node(node).await.version;
    world.store.nodes().order_lock(node, version, at(23)).await.unwrap().done().unwrap();
    world.finish(&claim, at(24)).await;
    let order = Some(LockOrder { at: at(23), observed_at: Some(at(3)) });
    assert_eq!(world.node(node).await.lock_order, order, "the work does not know of it");
    world.set_health(node, Health::Alive, at(25)).await;
    assert_eq!(world.node(node).await.lock_order, None);
}

async fn a_node_that_does_not_answer_is_declared_dead_also_under_the_brake(world: World) {
    let user = world.user("alice").await;
    let nodes = world.free_nodes(3).await;
    let moves = world.active_lease(&world.wish(user, 1)).await;
    let ends = PlaceRequest { on_node_loss: OnNodeLoss::End, ..world.wish(user, 1) };
    let ends = world.active_lease(&ends).await;
    let releases = world.active_lease(&world.wish(user, 1)).await;
    for node in nodes {
        world.set_health(node, Health::Unreachable, at(2)).await;
    }
    world.store.leases().end(&[releases.id], &EndReason::Released, None, at(3)).await.unwrap();
    assert_eq!(world.lease(releases.id).await.state.phase(), Phase::Releasing, "nobody can finish it");
    let known = world.store.cluster().brake().await.unwrap();
    world.store.cluster().engage_brake(&known, "s", "many", at(3)).await.unwrap().done().unwrap();
    for (lease, moving, ended) in [
        (moves.id, vec![moves.id], vec![]),
        (ends.id, vec![], vec![ends.id]),
        (releases.id, vec![], vec![releases.id]),
    ] {
        let node = world.lease(lease).await.state.occupies().unwrap();
        let declared = world.store.agents().declare_dead(node, "it burnt", Some(user), at(4)).await.unwrap();
        assert_eq!(declared, Cas::Done(DeclaredDead { moving, ended }));
        let after = world.node(node).await;
        assert_eq!((after.health, after.is_dirty()), (Health::Dead, true));
        assert!(after.health_reason.ends_with("declared it dead: it burnt"), "{}", after.health_reason);
        assert_eq!(after.lock_order, Some(LockOrder { at: at(4), observed_at: None }));
        let told = world.store.events().of_node(node, 100).await.unwrap();
        let told = told.iter().find(|event| event.kind == "node.declared_dead").unwrap();
        assert_eq!(told.data["actor"], user.0);
        let again = world.store.agents().declare_dead(node, "again", None, at(5)).await.unwrap();
        assert_eq!(again, node_refuses("dead", "declared dead"));
    }
    world.check_invariants().await;
}

async fn an_admin_s_order_to_lock_stands_until_the_node_is_clean(world: World) {
    let node = world.free_node(1).await;
    world.set_health(node, Health::Unreachable, at(2)).await;
    world.store.agents().declare_dead(node, "it burnt", None, at(4)).await.unwrap().done().unwrap();
    let order = Some(LockOrder { at: at(4), observed_at: None });
    // Neither a verdict that follows nor a link that is dialled again takes it back.
    world.set_health(node, Health::Unreachable, at(5)).await;
    assert_eq!(world.node(node).await.lock_order, order);
    world.store.agents().open_link(node, "api-1", at(6)).await.unwrap().done().unwrap();
    assert_eq!(world.node(node).await.lock_order, order);
    world.set_health(node, Health::Alive, at(7)).await;
    assert_eq!(world.node(node).await.lock_order, order);
    world.clean(node, at(8)).await;
    assert_eq!(world.node(node).await.lock_order, None);
}

async fn a_node_that_is_declared_dead_again_is_ordered_locked_anew(world: World) {
    let node = world.free_node(1).await;
    for second in [4, 8] {
        world.set_health(node, Health::Unreachable, at(second - 1)).await;
        world.store.agents().declare_dead(node, "it burnt", None, at(second)).await.unwrap().done().unwrap();
        let order = Some(LockOrder { at: at(second), observed_at: None });
        assert_eq!(world.node(node).await.lock_order, order, "work that began before does not end it");
    }
}

async fn a_node_that_answers_is_not_declared_dead(world: World) {
    let node = world.free_node(1).await;
    let refused = world.store.agents().declare_dead(node, "odd", None, at(1)).await.unwrap();
    assert_eq!(refused, node_refuses("alive", "declared dead"));
    assert!(world.node(node).await.is_offerable());
    assert_eq!(
        world.store.agents().declare_dead(orion_domain::NodeId(99), "x", None, at(1)).await.unwrap(),
        Cas::Gone
    );
}

async fn a_release_that_nobody_can_finish_ends_when_its_node_is_forgotten_by_force(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    let forget = async |force| {
        world.store.nodes().forget(node, ForgetRequest { force, actor: Some(user) }, at(9)).await.unwrap()
    };
    world.set_health(node, Health::Unreachable, at(2)).await;
    assert_eq!(forget(true).await, ForgetOutcome::Leased(lease.id), "its login may work");
    world.store.leases().end(&[lease.id], &EndReason::Released, None, at(3)).await.unwrap();
    assert_eq!(forget(false).await, ForgetOutcome::Leased(lease.id));
    assert!(matches!(forget(true).await, ForgetOutcome::Forgotten(_)));
    assert_eq!(world.lease(lease.id).await.state, LeaseState::Ended { reason: EndReason::Released });
    assert_eq!(world.kinds_of_lease(lease.id).await.last().unwrap(), "lease.ended");
    let claim = world.store.nodes().claim(node, "x", TTL, at(10)).await.unwrap();
    assert!(claim.is_none(), "it is gone");
    world.check_invariants().await;
}
