//! A node that one scheduler does not reach, and another does; and one that nobody reaches.

use crate::world::World;
use orion_domain::node::Health;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_only_its_own_scheduler_does_not_reach_is_unreachable_and_keeps_its_lease() {
    let mut world = World::start(4, 2).await;
    let (lease, node) = world.lease().await;
    let owner = world.owner_of(node).await;
    let peer = world.names().await.swap_remove(1 - owner);
    let ip = world.worker(node).ip();
    let cut = world.scheduler(owner).cut_off_from(&[ip]);
    let seen = world.until_node(node, "unreachable", |node| node.health == Health::Unreachable).await;
    assert!(
        seen.health_reason.contains(&format!("it answers the scheduler {peer}")),
        "{}",
        seen.health_reason
    );
    assert!(!seen.is_offerable());
    assert_eq!(world.count_of(node, "node.dead").await, 0);
    drop(cut);
    world.until_node(node, "alive", |node| node.health == Health::Alive).await;

    // When it really dies, the other one does not reach it either.
    world.worker(node).kill();
    let killed = Instant::now();
    let seen = world.until_node(node, "dead", |node| node.health == Health::Dead).await;
    eprintln!("with a peer probe: given up {:?} after the kill", killed.elapsed());
    let both = format!("the scheduler {peer} does not reach it either");
    assert!(seen.health_reason.contains(&both), "{}", seen.health_reason);
    world.until_moved(lease, node).await;
    assert_eq!(world.count_of(node, "node.dead").await, 1);
    let moves = world.events().await.into_iter().filter(|event| event.kind == "lease.moving").count();
    assert_eq!(moves, 1, "nothing is moved twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_given_up_also_while_the_only_other_scheduler_hangs() {
    let mut world = World::start(3, 2).await;
    let (lease, node) = world.lease().await;
    let owner = world.owner_of(node).await;
    world.scheduler(1 - owner).pause();
    world.worker(node).kill();
    world.until_node(node, "dead", |node| node.health == Health::Dead).await;
    world.until_moved(lease, node).await;
    world.scheduler(1 - owner).go_on();
    world.until_each_live_node_has_its_scheduler(&[node]).await;
    assert_eq!(world.count_of(node, "node.dead").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_scheduler_alone_asks_nobody() {
    let world = World::start(3, 1).await;
    let (lease, node) = world.lease().await;
    world.worker(node).kill();
    let killed = Instant::now();
    let seen = world.until_node(node, "dead", |node| node.health == Health::Dead).await;
    let given_up = killed.elapsed();
    world.until_moved(lease, node).await;
    eprintln!("alone: given up {given_up:?}, moved {:?} after the kill", killed.elapsed());
    assert!(!seen.health_reason.contains("the scheduler"), "{}", seen.health_reason);
}
