//! Which host keys are accepted of a node, and that a machine is one node.

use crate::world::{World, at, host_key, on_both, sha};
use orion_domain::{
    credentials::SshPublicKey,
    node::{Admission, Node, QuarantineCause},
};
use orion_store::{KeysTold, RegisterNode, RegisterOutcome};

on_both!(
    a_key_is_added_when_it_was_proved_and_dropped_when_it_is_not_named_any_more,
    a_session_from_before_the_node_moved_adds_no_key,
    a_machine_that_is_two_nodes_is_recognized_by_a_key_of_the_other,
    a_machine_that_is_two_nodes_is_named_under_the_brake_and_quarantined_after_it,
    two_machines_with_a_copied_key_stay_two_nodes,
    no_two_nodes_have_the_same_key,
    of_older_versions_the_pinned_keys_are_accepted_and_none_that_were_only_named,
);

fn keys(numbers: &[u32]) -> Vec<SshPublicKey> {
    numbers.iter().map(|number| host_key(*number).parse().unwrap()).collect()
}

async fn proves(world: &World, node: &Node, numbers: &[u32]) -> KeysTold {
    world.store.nodes().proved_host_keys(node, &keys(numbers), at(5)).await.unwrap()
}

async fn a_key_is_added_when_it_was_proved_and_dropped_when_it_is_not_named_any_more(world: World) {
    let first = world.registration(1);
    let node = world.alive_node_from(&first).await;
    assert_eq!(proves(&world, &world.node(node).await, &[50, 51]).await, KeysTold::Added);
    let after = world.node(node).await;
    assert_eq!(after.sshd().unwrap().host_keys, [host_key(1), host_key(50), host_key(51)]);
    assert_eq!(proves(&world, &after, &[51, 50]).await, KeysTold::Known);
    let event = world.store.events().of_node(node, 99).await.unwrap().into_iter();
    let event = event.filter(|event| event.kind == "node.key_added").collect::<Vec<_>>();
    assert_eq!(event.len(), 1, "{event:?}");
    let added = keys(&[50, 51]).iter().map(SshPublicKey::fingerprint).collect::<Vec<_>>();
    assert_eq!(event[0].data, serde_json::json!({ "fingerprints": added }));
    let mut again = world.registration(1);
    (again.host_keys, again.body_sha256) = (keys(&[52, 50, 1]), sha(50));
    again.node_token_sha256_presented = Some(first.new_node_token_sha256);
    assert!(matches!(world.store.nodes().register(&again).await.unwrap(), RegisterOutcome::Updated(_)));
    assert_eq!(world.node(node).await.sshd().unwrap().host_keys, [host_key(1), host_key(50)]);
    assert_eq!(world.count("SELECT COUNT(*) FROM node_host_keys").await, 2);
}

async fn a_session_from_before_the_node_moved_adds_no_key(world: World) {
    let first = world.registration(1);
    let node = world.alive_node_from(&first).await;
    let before = world.node(node).await;
    let moved = RegisterNode {
        host_keys: first.host_keys.clone(),
        node_token_sha256_presented: Some(first.new_node_token_sha256),
        ..world.registration(2)
    };
    assert!(matches!(world.store.nodes().register(&moved).await.unwrap(), RegisterOutcome::Updated(_)));
    assert_eq!(proves(&world, &before, &[50]).await, KeysTold::Stale);
    let after = world.node(node).await;
    assert_eq!(after.sshd().unwrap().host_keys, [host_key(1)]);
    assert_eq!(after.admission, Admission::Reported);
}

async fn a_machine_that_is_two_nodes_is_recognized_by_a_key_of_the_other(world: World) {
    world.join_token().await;
    let first = world.register(&world.registration(1)).await;
    let second = world.register(&world.registration(2)).await;
    for _ in 0..2 {
        assert_eq!(proves(&world, &second, &[50, 1]).await, KeysTold::SameMachine(first.id));
        // Whichever of the two is looked at.
        assert_eq!(proves(&world, &first, &[2]).await, KeysTold::SameMachine(second.id));
    }
    let (first, second) = (world.node(first.id).await, world.node(second.id).await);
    assert_eq!((&first.quarantine, second.quarantine_cause), (&None, Some(QuarantineCause::Operator)));
    let reason = second.quarantine.clone().unwrap();
    let sentence = format!("it is the same machine as node {} ({})", first.id, first.sshd().unwrap().addr);
    assert!(reason.starts_with(&sentence), "{reason}");
    assert_eq!(
        (first.sshd().unwrap().host_keys.clone(), second.sshd().unwrap().host_keys.clone()),
        (vec![host_key(1)], vec![host_key(2)])
    );
    let events = world.store.events().of_node(second.id, 99).await.unwrap();
    assert_eq!(events.iter().filter(|event| event.kind == "node.quarantined").count(), 1);
}

async fn a_machine_that_is_two_nodes_is_named_under_the_brake_and_quarantined_after_it(world: World) {
    world.join_token().await;
    let first = world.register(&world.registration(1)).await;
    let second = world.register(&world.registration(2)).await;
    let known = world.store.cluster().brake().await.unwrap();
    world.store.cluster().engage_brake(&known, "s", "many", at(4)).await.unwrap().done().unwrap();
    assert_eq!(proves(&world, &second, &[50, 1]).await, KeysTold::SameMachine(first.id));
    assert_eq!(world.node(second.id).await.quarantine, None);
    world.store.cluster().release_brake(None, "over", None, at(5)).await.unwrap().done().unwrap();
    assert_eq!(proves(&world, &second, &[50, 1]).await, KeysTold::SameMachine(first.id));
    assert!(world.node(second.id).await.quarantine.is_some());
}

async fn two_machines_with_a_copied_key_stay_two_nodes(world: World) {
    world.join_token().await;
    let first = world.register(&world.registration(1)).await;
    let second = world.register(&world.registration(2)).await;
    for (node, kernel) in [(first.id, "kernel-1"), (second.id, "kernel-2")] {
        world.store.agents().open_link(node, "api", at(0)).await.unwrap();
        world.store.agents().record_boot_id(node, kernel, at(1)).await.unwrap();
    }
    let linked = async |node| world.node(node).await;
    assert_eq!(proves(&world, &linked(first.id).await, &[50]).await, KeysTold::Added);
    assert_eq!(proves(&world, &linked(second.id).await, &[50]).await, KeysTold::Copied(first.id));
    assert_eq!(proves(&world, &linked(second.id).await, &[50, 51]).await, KeysTold::Added);
    let second = world.node(second.id).await;
    assert_eq!(
        (second.quarantine.clone(), second.sshd().unwrap().host_keys.clone()),
        (None, vec![host_key(2), host_key(51)])
    );
}

async fn no_two_nodes_have_the_same_key(world: World) {
    world.join_token().await;
    let first = world.register(&world.registration(1)).await;
    assert_eq!(proves(&world, &first, &[50]).await, KeysTold::Added);
    let mut second = world.registration(2);
    second.host_keys = keys(&[2, 50]);
    let conflict = RegisterOutcome::Conflict { what: "host key", node: first.id };
    assert_eq!(world.store.nodes().register(&second).await.unwrap(), conflict);
    let second = world.register(&world.registration(2)).await;
    let twice = format!("UPDATE node_host_keys SET node_id = {} WHERE node_id = {}", second.id, first.id);
    world.sql(&twice).await.unwrap();
    let sql = "INSERT INTO node_host_keys (fingerprint, node_id) SELECT fingerprint, 77 FROM node_host_keys";
    assert!(world.sql(sql).await.is_err(), "a fingerprint stands there once");
}

async fn of_older_versions_the_pinned_keys_are_accepted_and_none_that_were_only_named(world: World) {
    world.join_token().await;
    let first = world.register(&world.registration(1)).await;
    let second = world.register(&world.registration(2)).await;
    for (node, list) in [(first.id, [1, 50]), (second.id, [50, 2])] {
        let lines = serde_json::to_string(&list.map(host_key)).unwrap();
        world.sql(&format!("UPDATE nodes SET host_keys = '{lines}' WHERE id = {node}")).await.unwrap();
    }
    // A replica of an older version registered it meanwhile.
    world.sql(&format!("DELETE FROM node_host_keys WHERE node_id = {}", second.id)).await.unwrap();
    let world = world.upgraded().await;
    let kept = async |node| world.node(node).await.sshd().unwrap().host_keys.clone();
    assert_eq!((kept(first.id).await, kept(second.id).await), (vec![host_key(1)], vec![host_key(2)]));
    assert_eq!(world.count("SELECT COUNT(*) FROM node_host_keys").await, 2);
    // The others come back when sshd proves them.
    assert_eq!(proves(&world, &world.node(first.id).await, &[50]).await, KeysTold::Added);
}
