//! One brake for all schedulers.

use crate::world::World;
use orion_domain::{UserId, node::Health};
use orion_testkit::Worker;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_that_is_cut_off_pulls_the_brake_and_all_others_honour_it_until_it_is_back() {
    let mut world = World::start(8, 2).await;
    let first = world.nodes_of(0).await;
    let (cut_off, other) = if first.len() >= 4 { (0, 1) } else { (1, 0) };
    let (lost, kept) = (world.nodes_of(cut_off).await, world.nodes_of(other).await);
    let names = world.names().await;
    let ips: Vec<_> = lost.iter().map(|node| world.worker(*node).ip()).collect();
    let cut = world.scheduler(cut_off).cut_off_from(&ips);
    let brake = world.until_brake("the brake is on", |brake| brake.engaged.is_some()).await;
    assert_eq!(brake.engaged.map(|engaged| engaged.by).as_ref(), Some(&names[cut_off]));

    // The other scheduler gives nobody up either, though one of its nodes is gone.
    let Some(&dying) = kept.first() else {
        return assert_eq!(lost.len(), 8, "all nodes are one scheduler's");
    };
    world.worker(dying).kill();
    let long = Duration::from_secs(8);
    world
        .until_node(dying, "silent for long, and only suspect", |node| {
            assert_ne!(node.health, Health::Dead, "{}", node.health_reason);
            node.health == Health::Suspect && world.now().since(node.health_since) > long
        })
        .await;
    for node in world.nodes() {
        assert_eq!(world.count_of(*node, "node.dead").await, 0, "{node}");
    }

    drop(cut);
    world.worker(dying).start();
    world.until_brake("the brake is off", |brake| brake.engaged.is_none()).await;
    for node in world.nodes() {
        world.until_node(*node, "alive", |node| node.health == Health::Alive).await;
        assert_eq!(world.count_of(*node, "node.dead").await, 0, "{node}");
    }
    // And from now on, who dies is given up.
    world.worker(dying).kill();
    world.until_node(dying, "dead", |node| node.health == Health::Dead).await;
    let events = world.events().await;
    let count = |kind: &str| events.iter().filter(|event| event.kind == kind).count();
    assert_eq!((count("brake.engaged"), count("brake.lifted")), (1, 1), "engaged once, by one of them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brake_that_is_lifted_by_hand_is_not_engaged_again_for_the_same_silence() {
    let world = World::start(6, 2).await;
    let gone = &world.nodes()[..4];
    let workers: Vec<&Worker> = gone.iter().map(|node| world.worker(*node)).collect();
    Worker::kill_together(&workers);
    world.until_brake("the brake is on", |brake| brake.engaged.is_some()).await;
    for node in gone {
        world.until_node(*node, "silent", |node| node.health != Health::Alive).await;
    }
    let lifted =
        world.store().cluster().release_brake(None, "they are gone", Some(UserId(1)), world.now()).await;
    assert!(lifted.expect("the database answers").done().is_some(), "it was on");
    for node in gone {
        world.until_node(*node, "dead", |node| node.health == Health::Dead).await;
    }
    assert_eq!(world.store().cluster().brake().await.expect("the database answers").engaged, None);
    let events = world.events().await;
    assert_eq!(events.iter().filter(|event| event.kind == "brake.engaged").count(), 1);
}
