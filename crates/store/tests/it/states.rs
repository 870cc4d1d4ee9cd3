//! The table of states against the schema and the store: what it calls impossible cannot be written.

use crate::world::{World, at, on_both};
use orion_domain::{
    LeaseId, NodeId,
    lease::{EndReason, Phase},
    node::{Health, LinkState, QuarantineCause},
    states::{HEALTHS, LINKS, Pair, QUARANTINES, WayOut, way_out, way_out_without_node},
};
use orion_store::{FinishReconcile, NodeClaim};

on_both!(
    the_schema_refuses_a_node_or_none_where_the_table_calls_it_impossible,
    nothing_that_is_written_of_a_lease_or_its_node_leads_to_an_impossible_pair,
    what_was_left_in_an_impossible_pair_is_found_and_taken_off_its_node,
);

async fn the_schema_refuses_a_node_or_none_where_the_table_calls_it_impossible(world: World) {
    let user = world.user("alice").await;
    let node = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await.id;
    for phase in Phase::ALL {
        let healths = || HEALTHS.into_iter().map(|health| pair(phase, health, LinkState::None, None));
        let with_node = healths().any(|pair| way_out(pair) != WayOut::Impossible);
        let without = way_out_without_node(phase) != Some(WayOut::Impossible);
        assert!(with_node != without, "{phase:?} is possible, with a node or without");
        for (occupies, may_be) in [(node.to_string(), with_node), ("NULL".to_owned(), without)] {
            // All else that the schema wants of the phase.
            let from = if phase == Phase::Migrating { node.to_string() } else { "NULL".to_owned() };
            let (ended, hash) = if phase == Phase::Ended { ("1", "") } else { ("NULL", "$6$") };
            let sql = format!(
                "UPDATE leases SET state = '{}', occupies_node = {occupies}, from_node = {from}, ended_at = {ended}, \
                 password_hash = '{hash}', live_name = NULL WHERE id = {lease}",
                phase.as_str()
            );
            match world.sql(&sql).await {
                Ok(rows) => assert!(may_be && rows == 1, "{phase:?} was written with the node {occupies}"),
                Err(error) => {
                    let said = error.to_string();
                    assert!(!may_be && said.contains("leases_occupies"), "{phase:?}, {occupies}: {said}");
                }
            }
        }
    }
}

const fn pair(phase: Phase, health: Health, link: LinkState, quarantine: Option<QuarantineCause>) -> Pair {
    Pair { phase, health, link, quarantine }
}

/// The phases in which a lease has a node.
fn on_a_node() -> impl Iterator<Item = Phase> {
    Phase::ALL.into_iter().filter(|phase| phase.holds_node())
}

async fn nothing_that_is_written_of_a_lease_or_its_node_leads_to_an_impossible_pair(world: World) {
    let user = world.user("alice").await;
    let mut tried = 0;
    for phase in on_a_node() {
        for health in HEALTHS {
            for (link, quarantine) in circumstances(health) {
                tried += 1;
                let (lease, node, claim) = lease_in(&world, user, phase, tried).await;
                is_so(&world, node, link, quarantine).await;
                is_possible(&world, lease, node, "before").await;
                if health != Health::Alive {
                    world.set_health(node, health, at(5)).await;
                }
                is_possible(&world, lease, node, "the health is written").await;
                let result = FinishReconcile {
                    applied_version: claim.version_when_done(),
                    ready: claim.desired.iter().map(|desired| (desired.lease, None)).collect(),
                    ..FinishReconcile::default()
                };
                world.store.nodes().finish_reconcile(&claim, &result, at(6)).await.unwrap();
                is_possible(&world, lease, node, "who worked on it is done").await;
                world.store.leases().end(&[lease], &EndReason::Released, None, at(7)).await.unwrap();
                is_possible(&world, lease, node, "it is given back").await;
                // The next lease takes another node.
                is_so(&world, node, link, Some(QuarantineCause::Operator)).await;
            }
        }
    }
    assert_eq!(tried, 5 * (4 + 12), "each pair with a node that is dead, and the others once");
    world.check_invariants().await;
}

/// The links and quarantines that a health is tried with: all where the table has impossible pairs.
fn circumstances(health: Health) -> Vec<(LinkState, Option<QuarantineCause>)> {
    let all = LINKS.into_iter().flat_map(|link| QUARANTINES.into_iter().map(move |cause| (link, cause)));
    all.take(if health == Health::Dead { usize::MAX } else { 1 }).collect()
}

/// A lease in this phase on a node that is alive, whose claim somebody has.
async fn lease_in(
    world: &World,
    user: orion_domain::UserId,
    phase: Phase,
    number: u32,
) -> (LeaseId, NodeId, NodeClaim) {
    let node = world.free_node(number).await;
    let placed = world.place(&world.wish(user, 1)).await.remove(0);
    let lease = placed.lease.id;
    assert_eq!(placed.claim.node.id, node, "no other is free");
    if phase == Phase::Provisioning {
        return (lease, node, placed.claim);
    }
    world.finish(&placed.claim, at(1)).await;
    match phase {
        Phase::Active => {}
        Phase::Migrating => {
            world.set_health(node, Health::Dead, at(2)).await;
            world.set_health(node, Health::Alive, at(3)).await;
        }
        Phase::Releasing => {
            world.store.leases().end(&[lease], &EndReason::Released, None, at(2)).await.unwrap();
        }
        // No route makes one.
        Phase::Yielding => {
            let sql = format!("UPDATE leases SET state = 'yielding' WHERE id = {lease}");
            assert_eq!(world.sql(&sql).await.unwrap(), 1);
        }
        Phase::Requested | Phase::Scheduled | Phase::Queued | Phase::Provisioning | Phase::Ended => {
            unreachable!("it has no node, or was returned above")
        }
    }
    assert_eq!(world.lease(lease).await.state.phase(), phase);
    let claim = world.claim(node, at(4)).await;
    (lease, node, claim)
}

async fn is_so(world: &World, node: NodeId, link: LinkState, quarantine: Option<QuarantineCause>) {
    let cause = quarantine.map_or("NULL".to_owned(), |cause| format!("'{}'", cause.as_str()));
    let why = quarantine.map_or("NULL", |_| "'test'");
    let sql = format!(
        "UPDATE nodes SET link = '{}', quarantine = {why}, quarantine_cause = {cause} WHERE id = {node}",
        link.as_str()
    );
    assert_eq!(world.sql(&sql).await.unwrap(), 1);
}

/// Asserts that the lease and its node are a pair that can be.
async fn is_possible(world: &World, lease: LeaseId, node: NodeId, when: &str) {
    let (lease, node) = (world.lease(lease).await, world.node(node).await);
    let phase = lease.state.phase();
    if lease.state.occupies() == Some(node.id) {
        let pair = pair(phase, node.health, node.link, node.quarantine_cause);
        assert_ne!(way_out(pair), WayOut::Impossible, "{when}: {pair:?}");
    } else {
        assert_ne!(way_out_without_node(phase), Some(WayOut::Impossible), "{when}: {phase:?}");
    }
}

async fn what_was_left_in_an_impossible_pair_is_found_and_taken_off_its_node(world: World) {
    let user = world.user("alice").await;
    let dead = |phase| way_out(pair(phase, Health::Dead, LinkState::None, None));
    for (phase, number) in on_a_node().filter(|phase| dead(*phase) == WayOut::Impossible).zip(1..) {
        let (lease, node, _) = lease_in(&world, user, phase, number).await;
        // Behind the store's back: the schema cannot know it.
        world.sql(&format!("UPDATE nodes SET health = 'dead' WHERE id = {node}")).await.unwrap();
        assert_eq!(world.store.nodes().leases_on_dead_nodes(10).await.unwrap(), [lease], "{phase:?}");
        world.store.nodes().take_off_dead_node(lease, at(9)).await.unwrap().done().unwrap();
        is_possible(&world, lease, node, "it is swept").await;
    }
}
