//! The order to lock a node's accounts: given under the brake, and void when its reason is.

use crate::world::{World, at, on_both};
use orion_domain::{
    NodeId,
    node::{Health, LinkState, LockOrder},
};
use orion_store::Cas;

on_both!(
    accounts_are_ordered_locked_only_where_the_agent_says_that_its_sshd_is_down,
    no_accounts_are_ordered_locked_while_the_brake_is_on,
    an_order_to_lock_is_void_when_the_sshd_answers_or_the_health_changes,
    a_node_that_is_given_up_is_ordered_locked,
    an_order_to_lock_needs_each_of_its_conditions,
);

/// Makes a node whose agent reports that sshd is down; the node is unreachable since second 2.
async fn sshd_down(world: &World, number: u32) -> (NodeId, i64) {
    let node = world.free_node(number).await;
    let (_, epoch) = world.store.agents().open_link(node, "api", at(1)).await.unwrap().done().unwrap();
    world.store.agents().set_agent_sshd(node, epoch, Some(false), at(1)).await.unwrap().done().unwrap();
    world.set_health(node, Health::Unreachable, at(2)).await;
    (node, epoch)
}

async fn order(world: &World, node: NodeId) -> Cas<Option<LockOrder>> {
    let version = world.node(node).await.version;
    match world.store.nodes().order_lock(node, version, at(22)).await.unwrap() {
        Cas::Done(node) => Cas::Done(node.lock_order),
        Cas::Stale => Cas::Stale,
        Cas::Gone => Cas::Gone,
    }
}

async fn accounts_are_ordered_locked_only_where_the_agent_says_that_its_sshd_is_down(world: World) {
    let free = world.free_node(1).await;
    assert_eq!(order(&world, free).await, Cas::Stale, "it is alive");
    let (node, epoch) = sshd_down(&world, 2).await;
    let given = LockOrder { at: at(22), observed_at: Some(at(2)) };
    assert_eq!(order(&world, node).await, Cas::Done(Some(given)));
    assert_eq!(order(&world, node).await, Cas::Stale, "once");
    assert_eq!(world.node(node).await.lock_order, Some(given));
    assert_eq!(world.store.events().of_node(node, 1).await.unwrap()[0].kind, "node.locking");
    let (other, _) = sshd_down(&world, 3).await;
    let version = world.node(other).await.version - 1;
    assert_eq!(
        world.store.nodes().order_lock(other, version, at(22)).await.unwrap(),
        Cas::Stale,
        "it has changed"
    );
    world
        .store
        .agents()
        .link_changed(node, epoch, "api", LinkState::Lost, at(23))
        .await
        .unwrap()
        .done()
        .unwrap();
    assert_eq!(order(&world, node).await, Cas::Stale, "nobody hears it");
}

async fn no_accounts_are_ordered_locked_while_the_brake_is_on(world: World) {
    let (node, _) = sshd_down(&world, 1).await;
    let known = world.store.cluster().brake().await.unwrap();
    let brake = world.store.cluster().engage_brake(&known, "s", "many", at(3)).await.unwrap().done().unwrap();
    let before = world.node(node).await;
    assert_eq!(order(&world, node).await, Cas::Stale);
    assert_eq!(world.node(node).await, before);
    world
        .store
        .cluster()
        .release_brake(brake.engaged.as_ref(), "over", None, at(4))
        .await
        .unwrap()
        .done()
        .unwrap();
    assert!(matches!(order(&world, node).await, Cas::Done(Some(_))));
}

async fn an_order_to_lock_is_void_when_the_sshd_answers_or_the_health_changes(world: World) {
    let (answers, epoch) = sshd_down(&world, 1).await;
    assert!(matches!(order(&world, answers).await, Cas::Done(Some(_))));
    world.store.agents().set_agent_sshd(answers, epoch, Some(true), at(23)).await.unwrap().done().unwrap();
    assert_eq!(world.node(answers).await.lock_order, None);
    let (changes, _) = sshd_down(&world, 2).await;
    assert!(matches!(order(&world, changes).await, Cas::Done(Some(_))));
    world.set_health(changes, Health::Alive, at(23)).await;
    assert_eq!(world.node(changes).await.lock_order, None);
    let (dials, _) = sshd_down(&world, 3).await;
    assert!(matches!(order(&world, dials).await, Cas::Done(Some(_))));
    world.store.agents().open_link(dials, "api", at(23)).await.unwrap().done().unwrap();
    assert_eq!(world.node(dials).await.lock_order, None, "what a new link says is awaited");
}

async fn a_node_that_is_given_up_is_ordered_locked(world: World) {
    let (node, _) = sshd_down(&world, 1).await;
    world.set_health(node, Health::Dead, at(32)).await;
    let given = LockOrder { at: at(32), observed_at: Some(at(2)) };
    assert_eq!(world.node(node).await.lock_order, Some(given));
    world.set_health(node, Health::Alive, at(40)).await;
    assert_eq!(world.node(node).await.lock_order, None);
}

async fn an_order_to_lock_needs_each_of_its_conditions(world: World) {
    let (node, _) = sshd_down(&world, 1).await;
    for spoiler in [
        "health = 'alive'",
        "health = 'suspect'",
        "health = 'dead'",
        "link = 'lost'",
        "agent_sees_sshd = 1",
        "agent_sees_sshd = NULL",
        "lock_ordered_at = 1800000001000000",
    ] {
        world.sql(&format!("UPDATE nodes SET {spoiler}")).await.unwrap();
        assert_eq!(order(&world, node).await, Cas::Stale, "ordered although {spoiler}");
        let restore = "UPDATE nodes SET health = 'unreachable', link = 'up', agent_sees_sshd = 0, \
                       lock_ordered_at = NULL";
        world.sql(restore).await.unwrap();
    }
    assert!(matches!(order(&world, node).await, Cas::Done(Some(_))), "the control: it is ordered otherwise");
}
