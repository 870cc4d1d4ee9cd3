//! Two machines with the identity of one node.

use crate::world::{World, at, on_both, sha};
use orion_domain::{
    NodeId, Timestamp,
    node::{LinkState, QuarantineCause},
};
use orion_store::{RegisterNode, RegisterOutcome, Sighting};

on_both!(
    a_second_machine_is_refused_while_the_link_of_the_first_beats,
    a_machine_that_moved_is_let_in_when_its_old_link_is_lost,
    a_link_that_nobody_hears_any_more_keeps_no_machine_out,
    another_kernel_is_another_machine_while_the_link_beats,
);

/// A node whose link is up, and what its machine says from another address.
async fn linked(world: &World) -> (NodeId, RegisterNode) {
    let first = world.registration(1);
    let node = world.alive_node_from(&first).await;
    world.store.agents().open_link(node, "api", at(0)).await.unwrap().done().unwrap();
    world.store.agents().record_boot_id(node, "kernel-1", at(0)).await.unwrap();
    let mut there = world.registration(2);
    there.host_keys.clone_from(&first.host_keys);
    there.node_token_sha256_presented = Some(first.new_node_token_sha256);
    there.join_token_sha256 = None;
    (node, there)
}

async fn says(world: &World, request: &RegisterNode, now: Timestamp) -> RegisterOutcome {
    world.store.nodes().register(&RegisterNode { now, ..request.clone() }).await.unwrap()
}

async fn beats(world: &World, node: NodeId, now: Timestamp) {
    world.store.nodes().touch_seen(&[(node, Sighting { last_seen: now, open_at: None })]).await.unwrap();
}

async fn a_second_machine_is_refused_while_the_link_of_the_first_beats(world: World) {
    let (node, there) = linked(&world).await;
    let before = world.node(node).await;
    assert_eq!(says(&world, &there, at(1)).await, RegisterOutcome::SecondMachine(node));
    assert_eq!(says(&world, &there, at(6)).await, RegisterOutcome::SecondMachine(node));
    assert_eq!(world.node(node).await, before, "its old link may be about to be lost");
    beats(&world, node, at(10)).await;
    for now in 11..14 {
        assert_eq!(says(&world, &there, at(now)).await, RegisterOutcome::SecondMachine(node));
    }
    let after = world.node(node).await;
    assert_eq!(
        (&after.sshd().unwrap().addr, &after.hostname),
        (&before.sshd().unwrap().addr, &before.hostname)
    );
    assert_eq!(after.admission, before.admission);
    assert_eq!(after.quarantine_cause, Some(QuarantineCause::Operator));
    let reason = after.quarantine.unwrap();
    let sentence = format!(
        "two machines use the identity of node {node}: {} and {},",
        before.sshd().unwrap().addr,
        there.addr
    );
    assert!(reason.starts_with(&sentence), "{reason}");
    let events = world.store.events().of_node(node, 99).await.unwrap();
    assert_eq!(events.iter().filter(|event| event.kind == "node.quarantined").count(), 1);
}

async fn a_machine_that_moved_is_let_in_when_its_old_link_is_lost(world: World) {
    let (node, there) = linked(&world).await;
    beats(&world, node, at(9)).await;
    assert_eq!(says(&world, &there, at(10)).await, RegisterOutcome::SecondMachine(node));
    let epoch = world.count("SELECT MAX(link_epoch) FROM nodes").await;
    world
        .store
        .agents()
        .link_changed(node, epoch, "api", LinkState::Lost, at(20))
        .await
        .unwrap()
        .done()
        .unwrap();
    assert!(matches!(says(&world, &there, at(21)).await, RegisterOutcome::Updated(_)));
    let after = world.node(node).await;
    assert_eq!((&after.sshd().unwrap().addr, after.quarantine.as_ref()), (&there.addr, None));
    // It moves again: what was refused before the new link says nothing.
    world.store.agents().open_link(node, "api", at(22)).await.unwrap().done().unwrap();
    beats(&world, node, at(40)).await;
    let back = RegisterNode { addr: "10.9.9.9".parse().unwrap(), body_sha256: sha(5), ..there };
    assert_eq!(says(&world, &back, at(41)).await, RegisterOutcome::SecondMachine(node));
    assert_eq!(world.node(node).await.quarantine, None);
}

async fn a_link_that_nobody_hears_any_more_keeps_no_machine_out(world: World) {
    let (node, there) = linked(&world).await;
    // The replica that held it died, and does not say that it is lost.
    beats(&world, node, at(10)).await;
    assert_eq!(says(&world, &there, at(34)).await, RegisterOutcome::SecondMachine(node));
    assert!(matches!(says(&world, &there, at(36)).await, RegisterOutcome::Updated(_)));
    assert_eq!(world.node(node).await.quarantine, None);
}

async fn another_kernel_is_another_machine_while_the_link_beats(world: World) {
    let (node, _) = linked(&world).await;
    let first = world.registration(1);
    let mut again = first.clone();
    again.node_token_sha256_presented = Some(first.new_node_token_sha256);
    // Older agents name none.
    assert!(matches!(says(&world, &again, at(1)).await, RegisterOutcome::Updated(_)));
    again.boot_id = Some("kernel-1".into());
    assert!(matches!(says(&world, &again, at(1)).await, RegisterOutcome::Updated(_)));
    again.boot_id = Some("kernel-2".into());
    assert_eq!(says(&world, &again, at(1)).await, RegisterOutcome::SecondMachine(node));
    let may = async |boot, now| world.store.nodes().may_link(node, boot, now).await.unwrap();
    assert!(may("kernel-1", at(2)).await);
    assert!(!may("kernel-2", at(2)).await);
    assert!(may("kernel-2", at(26)).await, "the link is silent: it was booted");
    beats(&world, node, at(30)).await;
    assert!(!may("kernel-2", at(31)).await);
    let reason = world.node(node).await.quarantine.unwrap();
    assert!(reason.starts_with("two machines use the identity of node"), "{reason}");
}
