//! Who looks after which node while schedulers come, stop, die, and sleep.

use crate::{PATIENCE, world::World};
use orion_domain::node::Health;
use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// Three pauses between two keep-alives: what a killed scheduler's nodes may be left alone for.
const TAKE_OVER_MAX: Duration = Duration::from_secs(9);

/// Whether one of the sessions with this address has been there all the time.
fn keeps_a_session(
    before: &HashMap<Ipv4Addr, BTreeSet<u16>>,
    after: &HashMap<Ipv4Addr, BTreeSet<u16>>,
    ip: Ipv4Addr,
) -> bool {
    before.get(&ip).zip(after.get(&ip)).is_some_and(|(before, after)| !before.is_disjoint(after))
}

/// Nobody's health changed on the way.
async fn assert_all_are_alive_and_always_were(world: &World) {
    for node in world.nodes() {
        assert_eq!(world.node(*node).await.health, Health::Alive);
        let kinds = world.kinds_of(*node).await;
        let doubted = ["node.suspect", "node.unknown", "node.unreachable", "node.dead"];
        assert!(!kinds.iter().any(|kind| doubted.contains(&kind.as_str())), "{node}: {kinds:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nodes_of_a_killed_scheduler_are_probed_by_another_within_three_probe_intervals() {
    let mut world = World::start(6, 2).await;
    let (dying, left) = if world.nodes_of(0).await.len() >= 3 { (0, 1) } else { (1, 0) };
    let (lost, kept) = (world.nodes_of(dying).await, world.nodes_of(left).await);
    let sessions = world.scheduler(left).sessions();
    world.scheduler(dying).kill();
    let killed = Instant::now();
    world.forget_scheduler(dying);
    let ips: Vec<_> = lost.iter().map(|node| world.worker(*node).ip()).collect();
    orion_testkit::wait_until("the other one has sessions with all of them", TAKE_OVER_MAX, async || {
        let sessions = world.scheduler(0).sessions();
        let missing: Vec<_> = ips.iter().filter(|ip| !sessions.contains_key(ip)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
    })
    .await;
    eprintln!("{} nodes were taken over {:?} after the kill", lost.len(), killed.elapsed());
    let after = world.scheduler(0).sessions();
    for node in kept {
        let ip = world.worker(node).ip();
        assert!(
            keeps_a_session(&sessions, &after, ip),
            "{ip} keeps its session: {sessions:?}, now {after:?}"
        );
    }
    assert_all_are_alive_and_always_were(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_schedulers_share_the_nodes_and_one_that_stops_hands_its_own_over_at_once() {
    let mut world = World::start(6, 3).await;
    let owners = world.owners().await;
    let before: Vec<_> = (0..3).map(|index| world.scheduler(index).sessions()).collect();
    let names = world.names().await;
    world.scheduler(2).stop();
    let replicas = world.store().cluster().replicas().await.expect("the database answers");
    assert!(!replicas.iter().any(|replica| replica.name == names[2]), "it deregistered: {replicas:?}");
    world.forget_scheduler(2);
    // Sooner than a scheduler that only fell silent is taken for gone.
    world.until_each_node_has_its_scheduler(Duration::from_millis(3_500)).await;
    for (node, owner) in owners.into_iter().filter(|(_, owner)| *owner != 2) {
        let ip = world.worker(node).ip();
        let (before, after) = (&before[owner], world.scheduler(owner).sessions());
        assert!(keeps_a_session(before, &after, ip), "{node} did not move: {before:?}, now {after:?}");
    }
    // One that comes takes its part.
    world.add_scheduler();
    world.until_each_node_has_its_scheduler(PATIENCE).await;
    assert_all_are_alive_and_always_were(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_that_slept_and_wakes_up_gives_no_verdicts_from_before_its_sleep() {
    let mut world = World::start(5, 2).await;
    // The names decide whose the nodes are: it may be that one scheduler has none.
    let (mut sleeper, mut mine) = (0, world.nodes_of(0).await);
    if mine.is_empty() {
        (sleeper, mine) = (1, world.nodes_of(1).await);
    }
    let Some(&dying) = mine.first() else { panic!("one of the two has some of five nodes") };
    let (lease, node) = world.lease().await;
    world.scheduler(sleeper).pause();
    // The other one takes all over, finds one of them dead, and moves what was there.
    world.worker(dying).kill();
    world.until_node(dying, "dead", |node| node.health == Health::Dead).await;
    if node == dying {
        world.until_moved(lease, node).await;
    }
    let asleep = world.now();
    orion_testkit::wait_until("it sleeps for a while", PATIENCE, async || {
        (world.now().since(asleep) > Duration::from_secs(6)).then_some(())
    })
    .await;
    world.scheduler(sleeper).go_on();
    world.until_each_live_node_has_its_scheduler(&[dying]).await;
    for other in world.nodes().iter().filter(|other| **other != dying) {
        assert_eq!(world.node(*other).await.health, Health::Alive);
        assert_eq!(world.count_of(*other, "node.suspect").await, 0, "{other}");
    }
    assert_eq!(world.count_of(dying, "node.dead").await, 1, "and one verdict about the dead one");
    assert!(world.scheduler(sleeper).log().contains("this scheduler was suspended"), "it noticed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_scheduler_that_slept_gives_up_no_node_that_was_silent_when_it_fell_asleep() {
    let mut world = World::start(2, 1).await;
    let (_, node) = world.lease().await;
    // The network goes before the sleep, and comes back after it.
    world.worker(node).cut();
    world.until_node(node, "suspect", |node| node.health == Health::Suspect).await;
    world.scheduler(0).pause();
    let asleep = world.now();
    orion_testkit::wait_until(
        "it sleeps for longer than a node without an agent may be silent",
        PATIENCE,
        async || (world.now().since(asleep) > Duration::from_secs(8)).then_some(()),
    )
    .await;
    world.scheduler(0).go_on();
    let awake = world.now();
    orion_testkit::wait_until("the network is still away", PATIENCE, async || {
        (world.now().since(awake) > Duration::from_secs(3)).then_some(())
    })
    .await;
    world.worker(node).uncut();
    world.until_node(node, "alive", |node| node.health == Health::Alive).await;
    assert_eq!(world.count_of(node, "node.dead").await, 0);
    assert!(world.scheduler(0).log().contains("this scheduler was suspended"), "it noticed");
}
