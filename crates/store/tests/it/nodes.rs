//! Nodes: links and their epochs, admission, what was seen when, and what a reset forgets.

use crate::world::{World, at, on_both};
use orion_domain::{
    NodeId, Timestamp,
    lease::EndReason,
    node::{Admission, Facts, Health, LinkState},
};
use orion_store::Cas;
use std::{collections::HashMap, time::Duration};

on_both!(
    a_late_word_about_an_older_link_is_ignored,
    what_an_agent_says_of_its_sshd_is_forgotten_with_its_link,
    a_node_is_admitted_only_from_reported_and_at_its_version,
    quarantine_is_kept_until_it_is_lifted,
    pages_changes_and_lists_show_every_node,
    what_was_seen_is_written_in_batches,
    replicas_beat_and_say_goodbye,
    a_replica_that_was_silent_for_an_hour_is_forgotten,
    the_same_quarantine_again_is_not_told_again,
    a_doubt_does_not_raise_the_dead,
    late_words_about_a_forgotten_node_find_it_gone,
    a_reset_forgets_clean_nodes_and_keeps_the_others,
);

async fn a_late_word_about_an_older_link_is_ignored(world: World) {
    let node = world.free_node(1).await;
    let (up, first) = world.store.open_link(node, "api-1", at(1)).await.unwrap().done().unwrap();
    assert_eq!((up.link, up.link_replica.as_deref()), (LinkState::Up, Some("api-1")));
    let (_, second) = world.store.open_link(node, "api-2", at(2)).await.unwrap().done().unwrap();
    assert!(second > first);
    let late = world.store.link_changed(node, first, "api-1", LinkState::Lost, at(3)).await.unwrap();
    assert_eq!(late, Cas::Stale);
    let kept = world.node(node).await;
    assert_eq!((kept.link, kept.link_replica.as_deref()), (LinkState::Up, Some("api-2")));
    let lost = world.store.link_changed(node, second, "api-2", LinkState::Lost, at(4)).await.unwrap();
    let lost = lost.done().unwrap();
    assert_eq!((lost.link, lost.link_since), (LinkState::Lost, at(4)));
    assert_eq!(world.store.open_link(NodeId(99), "api-1", at(4)).await.unwrap(), Cas::Gone);
    let kinds: Vec<String> =
        world.store.events_of_node(node, 3).await.unwrap().into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds, ["node.link_up", "node.link_up", "node.link_lost"]);
}

async fn what_an_agent_says_of_its_sshd_is_forgotten_with_its_link(world: World) {
    let node = world.free_node(1).await;
    let (_, epoch) = world.store.open_link(node, "api-1", at(1)).await.unwrap().done().unwrap();
    let said = world.store.set_agent_sshd(node, epoch, Some(false), at(2)).await.unwrap().done().unwrap();
    assert_eq!(said.agent_sees_sshd, Some(false));
    assert_eq!(world.store.set_agent_sshd(node, epoch, Some(false), at(3)).await.unwrap(), Cas::Stale);
    world.store.link_changed(node, epoch, "api-1", LinkState::Lost, at(4)).await.unwrap().done().unwrap();
    assert_eq!(world.node(node).await.agent_sees_sshd, None);
    assert_eq!(world.store.set_agent_sshd(node, epoch, None, at(5)).await.unwrap(), Cas::Stale);
    // What was said over it and is written only now says nothing of the sshd that the next link sees.
    let (_, next) = world.store.open_link(node, "api-2", at(6)).await.unwrap().done().unwrap();
    assert_eq!(world.store.set_agent_sshd(node, epoch, Some(false), at(7)).await.unwrap(), Cas::Stale);
    assert_eq!(world.node(node).await.agent_sees_sshd, None);
    let said = world.store.set_agent_sshd(node, next, Some(true), at(8)).await.unwrap().done().unwrap();
    assert_eq!(world.store.set_agent_sshd(node, epoch, None, at(9)).await.unwrap(), Cas::Stale);
    assert_eq!((said.agent_sees_sshd, world.node(node).await), (Some(true), said));
}

async fn a_node_is_admitted_only_from_reported_and_at_its_version(world: World) {
    world.join_token().await;
    let node = world.register(&world.registration(1)).await;
    assert_eq!(world.store.admit(node.id, node.version + 1, at(1)).await.unwrap(), Cas::Stale);
    let admitted = world.store.admit(node.id, node.version, at(1)).await.unwrap().done().unwrap();
    assert_eq!(admitted.admission, Admission::Admitted);
    assert_eq!(world.store.admit(node.id, admitted.version, at(2)).await.unwrap(), Cas::Stale);
    let mut by_hand = world.registration(2);
    by_hand.host_keys.clear();
    let pending = world.register(&by_hand).await;
    assert_eq!(world.store.admit(pending.id, pending.version, at(2)).await.unwrap(), Cas::Stale);
}

async fn quarantine_is_kept_until_it_is_lifted(world: World) {
    let node = world.free_node(1).await;
    assert_eq!(world.store.lift_quarantine(node, at(1)).await.unwrap(), Cas::Stale);
    world.store.quarantine(node, "it lies", at(1)).await.unwrap().done().unwrap();
    world.set_health(node, Health::Suspect, at(2)).await;
    world.set_health(node, Health::Alive, at(3)).await;
    assert_eq!(world.node(node).await.quarantine.as_deref(), Some("it lies"));
    let lifted = world.store.lift_quarantine(node, at(4)).await.unwrap().done().unwrap();
    assert!(lifted.quarantine.is_none() && lifted.is_dirty(), "it is cleaned before it is offered");
    assert_eq!(world.store.quarantine(NodeId(99), "x", at(6)).await.unwrap(), Cas::Gone);
}

async fn pages_changes_and_lists_show_every_node(world: World) {
    let nodes = world.free_nodes(5).await;
    let ids =
        |nodes: Vec<orion_domain::node::Node>| nodes.into_iter().map(|node| node.id).collect::<Vec<_>>();
    assert_eq!(ids(world.store.nodes_all().await.unwrap()), nodes);
    assert_eq!(ids(world.store.nodes_page(NodeId(0), 2).await.unwrap()), nodes[..2]);
    assert_eq!(ids(world.store.nodes_page(nodes[1], 100).await.unwrap()), nodes[2..]);
    assert_eq!(ids(world.store.nodes_of(&[nodes[3], NodeId(99)]).await.unwrap()), nodes[3..4]);
    let facts = Facts { cpu_cores: Some(64), agent_version: Some("0.1.0".into()), ..Facts::default() };
    let changed = world.store.update_facts(nodes[2], &facts, at(70)).await.unwrap().done().unwrap();
    assert_eq!(changed.facts, facts);
    assert_eq!(ids(world.store.nodes_changed_since(at(70)).await.unwrap()), [nodes[2]]);
}

async fn what_was_seen_is_written_in_batches(world: World) {
    let seen: Vec<_> = (1..=1200).map(|id| (NodeId(id), at(id))).collect();
    world.store.touch_seen(&seen).await.unwrap();
    world.store.touch_seen(&[(NodeId(3), at(9999))]).await.unwrap();
    world.store.touch_seen(&[]).await.unwrap();
    let some = world.store.last_seen(&[NodeId(3), NodeId(1200), NodeId(5000)]).await.unwrap();
    assert_eq!(some, HashMap::from([(NodeId(3), at(9999)), (NodeId(1200), at(1200))]));
}

async fn replicas_beat_and_say_goodbye(world: World) {
    for (name, kind, second) in
        [("host-1", "api", 1), ("host-1", "scheduler", 2), ("host-2", "api", 3), ("host-1", "api", 4)]
    {
        world.store.replica_beat(name, kind, at(second)).await.unwrap();
    }
    let one = ("host-1".to_string(), "scheduler".to_string(), at(2));
    let (first, second) = (("host-1".into(), "api".into(), at(4)), ("host-2".into(), "api".into(), at(3)));
    assert_eq!(replicas(&world).await, [first.clone(), one, second.clone()], "one process may be both");
    world.store.remove_replica("host-1", "scheduler").await.unwrap();
    assert_eq!(replicas(&world).await, [first, second]);
}

async fn replicas(world: &World) -> Vec<(String, String, Timestamp)> {
    let replicas = world.store.replicas().await.unwrap();
    replicas.into_iter().map(|replica| (replica.name, replica.kind, replica.beat_at)).collect()
}

async fn a_replica_that_was_silent_for_an_hour_is_forgotten(world: World) {
    let now = world.store.now().await.unwrap();
    let ago = |seconds| now.minus(Duration::from_secs(seconds));
    world.store.replica_beat("old", "api", ago(3590)).await.unwrap();
    world.store.replica_beat("new", "api", now).await.unwrap();
    assert_eq!(replicas(&world).await.len(), 2);
    let ahead = now.plus(Duration::from_secs(7200));
    world.store.replica_beat("new", "api", ahead).await.unwrap();
    assert_eq!(replicas(&world).await.len(), 2, "a machine whose clock is ahead forgets nobody for that");
    world.store.replica_beat("old", "api", ago(3601)).await.unwrap();
    world.store.replica_beat("new", "api", now).await.unwrap();
    assert_eq!(replicas(&world).await, [("new".into(), "api".into(), now)]);
}

async fn the_same_quarantine_again_is_not_told_again(world: World) {
    let node = world.free_node(1).await;
    let first = world.store.quarantine(node, "it lies", at(1)).await.unwrap().done().unwrap();
    assert_eq!(world.store.quarantine(node, "it lies", at(2)).await.unwrap(), Cas::Stale);
    assert_eq!(world.node(node).await, first);
    let other = world.store.quarantine(node, "its key changed", at(3)).await.unwrap().done().unwrap();
    assert_eq!(other.quarantine.as_deref(), Some("its key changed"));
    let claim = world.claim(node, at(4)).await;
    world.store.fail_reconcile(&claim, "its key changed", at(5), true, at(4)).await.unwrap().done().unwrap();
    let kinds = kinds_of_node(&world, node).await;
    let told = kinds.iter().filter(|kind| *kind == "node.quarantined").count();
    assert_eq!((told, kinds.last().unwrap().as_str()), (2, "node.reconcile_failed"));
}

async fn kinds_of_node(world: &World, node: NodeId) -> Vec<String> {
    world.store.events_of_node(node, 100).await.unwrap().into_iter().map(|event| event.kind).collect()
}

async fn a_doubt_does_not_raise_the_dead(world: World) {
    let node = world.free_node(1).await;
    world.set_health(node, Health::Dead, at(1)).await;
    let dead = world.node(node).await;
    for doubt in [Health::Suspect, Health::Unknown] {
        let outcome = world.store.set_health(node, dead.version, doubt, "hm", at(2)).await.unwrap();
        assert_eq!(outcome, Cas::Stale, "{doubt:?}");
    }
    assert_eq!(world.node(node).await, dead);
    world.set_health(node, Health::Unreachable, at(3)).await;
    world.set_health(node, Health::Dead, at(4)).await;
    world.set_health(node, Health::Alive, at(5)).await;
    world.set_health(node, Health::Suspect, at(6)).await;
    assert_eq!(world.node(node).await.health, Health::Suspect, "the control: the living may be doubted");
}

async fn late_words_about_a_forgotten_node_find_it_gone(world: World) {
    let request = world.registration(1);
    let node = world.alive_node_from(&request).await;
    world.clean(node, at(0)).await;
    let token = &request.new_node_token_sha256;
    assert!(world.store.node_by_token_sha256(token).await.unwrap().is_some());
    assert_eq!(world.store.forget_clean_nodes(at(1)).await.unwrap().forgotten, [node]);
    assert_eq!(world.store.node_by_token_sha256(token).await.unwrap(), None);
    for sees in [Some(true), Some(false), None] {
        assert_eq!(world.store.set_agent_sshd(node, 1, sees, at(2)).await.unwrap(), Cas::Gone);
    }
    assert_eq!(world.store.update_facts(node, &Facts::default(), at(2)).await.unwrap(), Cas::Gone);
    let lost = world.store.link_changed(node, 9, "api-1", LinkState::Lost, at(2)).await.unwrap();
    assert_eq!(lost, Cas::Gone);
    assert_eq!(world.store.open_link(node, "api-1", at(2)).await.unwrap(), Cas::Gone);
    let kinds = kinds_of_node(&world, node).await;
    assert_eq!(kinds.last().unwrap(), "node.forgotten", "{kinds:?}");
}

async fn a_reset_forgets_clean_nodes_and_keeps_the_others(world: World) {
    let user = world.user("alice").await;
    let leased = world.free_node(1).await;
    let lease = world.active_lease(&world.wish(user, 1)).await;
    let clean = world.free_node(2).await;
    let dead = world.free_node(3).await;
    world.set_health(dead, Health::Dead, at(5)).await;
    let claimed = world.free_node(4).await;
    world.claim(claimed, at(5)).await;
    let result = world.store.forget_clean_nodes(at(6)).await.unwrap();
    assert_eq!(result.forgotten, [clean]);
    let kept: Vec<(NodeId, &str)> = result.kept.iter().map(|(id, name, _)| (*id, name.as_str())).collect();
    assert_eq!(kept, [(leased, "node-1"), (dead, "node-3"), (claimed, "node-4")]);
    let why: Vec<&str> = result.kept.iter().map(|(_, _, why)| why.as_str()).collect();
    assert_eq!(
        why,
        [
            format!("lease {} is still on it", lease.id).as_str(),
            "it could not be cleaned (dead)",
            "it is being worked on"
        ]
    );
    world.store.end_leases(&[lease.id], &EndReason::Reset, Some(user), at(7)).await.unwrap();
    world.clean(leased, at(8)).await;
    assert_eq!(world.store.forget_clean_nodes(at(60)).await.unwrap().forgotten, [leased, claimed]);
    assert_eq!(world.store.nodes_all().await.unwrap().len(), 1);
}
