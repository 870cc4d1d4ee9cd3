//! Nodes: links and their epochs, admission, what was seen when, and what a reset forgets.

use crate::world::{World, at, node_refuses, on_both};
use orion_domain::{
    NodeId, Timestamp,
    lease::EndReason,
    node::{Admission, Facts, Health, LinkState, QuarantineCause, Transport},
};
use orion_store::{Cas, ChangesCursor, ListedNode, NodeSummary, PlaceOutcome, Sighting, StoreError};
use std::{collections::HashMap, time::Duration};

on_both!(
    a_node_that_only_dials_out_has_no_address_and_is_neither_offered_nor_worked_on,
    a_late_word_about_an_older_link_is_ignored,
    what_an_agent_says_of_its_sshd_is_forgotten_with_its_link,
    a_node_is_admitted_only_from_reported_and_at_its_version,
    quarantine_is_kept_until_it_is_lifted,
    pages_changes_and_lists_show_every_node,
    a_page_says_of_each_node_what_the_whole_row_says,
    a_change_that_becomes_visible_late_is_read_all_the_same,
    what_was_seen_is_written_in_batches,
    an_older_sighting_that_is_written_later_overwrites_no_newer_one,
    replicas_beat_and_deregister,
    a_replica_that_was_silent_for_an_hour_is_forgotten,
    the_same_quarantine_again_is_not_told_again,
    a_doubt_does_not_raise_the_dead,
    a_node_that_answers_again_is_looked_at_and_one_that_answers_first_is_not,
    late_words_about_a_forgotten_node_find_it_gone,
    a_reset_forgets_clean_nodes_and_keeps_the_others,
);

async fn a_late_word_about_an_older_link_is_ignored(world: World) {
    let node = world.free_node(1).await;
    let (up, first) = world.store.agents().open_link(node, "api-1", at(1)).await.unwrap().done().unwrap();
    assert_eq!((up.link, up.link_replica.as_deref()), (LinkState::Up, Some("api-1")));
    let (_, second) = world.store.agents().open_link(node, "api-2", at(2)).await.unwrap().done().unwrap();
    assert!(second > first);
    let late = world.store.agents().link_changed(node, first, "api-1", LinkState::Lost, at(3)).await.unwrap();
    assert_eq!(late, Cas::Stale);
    let kept = world.node(node).await;
    assert_eq!((kept.link, kept.link_replica.as_deref()), (LinkState::Up, Some("api-2")));
    let lost =
        world.store.agents().link_changed(node, second, "api-2", LinkState::Lost, at(4)).await.unwrap();
    let lost = lost.done().unwrap();
    assert_eq!((lost.link, lost.link_since), (LinkState::Lost, at(4)));
    assert_eq!(world.store.agents().open_link(NodeId(99), "api-1", at(4)).await.unwrap(), Cas::Gone);
    let kinds: Vec<String> =
        world.store.events().of_node(node, 3).await.unwrap().into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds, ["node.link_up", "node.link_up", "node.link_lost"]);
}

async fn what_an_agent_says_of_its_sshd_is_forgotten_with_its_link(world: World) {
    let node = world.free_node(1).await;
    let (_, epoch) = world.store.agents().open_link(node, "api-1", at(1)).await.unwrap().done().unwrap();
    let said =
        world.store.agents().set_agent_sshd(node, epoch, Some(false), at(2)).await.unwrap().done().unwrap();
    assert_eq!(said.agent_sees_sshd, Some(false));
    assert_eq!(
        world.store.agents().set_agent_sshd(node, epoch, Some(false), at(3)).await.unwrap(),
        Cas::Stale
    );
    world
        .store
        .agents()
        .link_changed(node, epoch, "api-1", LinkState::Lost, at(4))
        .await
        .unwrap()
        .done()
        .unwrap();
    assert_eq!(world.node(node).await.agent_sees_sshd, None);
    assert_eq!(world.store.agents().set_agent_sshd(node, epoch, None, at(5)).await.unwrap(), Cas::Stale);
    // What was said over it and is written only now says nothing of the sshd that the next link sees.
    let (_, next) = world.store.agents().open_link(node, "api-2", at(6)).await.unwrap().done().unwrap();
    assert_eq!(
        world.store.agents().set_agent_sshd(node, epoch, Some(false), at(7)).await.unwrap(),
        Cas::Stale
    );
    assert_eq!(world.node(node).await.agent_sees_sshd, None);
    let said =
        world.store.agents().set_agent_sshd(node, next, Some(true), at(8)).await.unwrap().done().unwrap();
    assert_eq!(world.store.agents().set_agent_sshd(node, epoch, None, at(9)).await.unwrap(), Cas::Stale);
    assert_eq!((said.agent_sees_sshd, world.node(node).await), (Some(true), said));
}

async fn a_node_is_admitted_only_from_reported_and_at_its_version(world: World) {
    world.join_token().await;
    let node = world.register(&world.registration(1)).await;
    assert_eq!(world.store.nodes().admit(node.id, node.version + 1, at(1)).await.unwrap(), Cas::Stale);
    let admitted = world.store.nodes().admit(node.id, node.version, at(1)).await.unwrap().done().unwrap();
    assert_eq!(admitted.admission, Admission::Admitted);
    assert_eq!(world.store.nodes().admit(node.id, admitted.version, at(2)).await.unwrap(), Cas::Stale);
    let mut by_hand = world.registration(2);
    by_hand.host_keys.clear();
    let pending = world.register(&by_hand).await;
    assert_eq!(world.store.nodes().admit(pending.id, pending.version, at(2)).await.unwrap(), Cas::Stale);
}

async fn quarantine_is_kept_until_it_is_lifted(world: World) {
    let node = world.free_node(1).await;
    let refused = node_refuses("not in quarantine", "taken out of it");
    assert_eq!(world.store.nodes().lift_quarantine(node, at(1)).await.unwrap(), refused);
    world.store.nodes().quarantine(node, "it lies", at(1)).await.unwrap().done().unwrap();
    world.set_health(node, Health::Suspect, at(2)).await;
    world.set_health(node, Health::Alive, at(3)).await;
    assert_eq!(world.node(node).await.quarantine.as_deref(), Some("it lies"));
    let lifted = world.store.nodes().lift_quarantine(node, at(4)).await.unwrap().done().unwrap();
    assert!(lifted.quarantine.is_none() && lifted.is_dirty(), "it is cleaned before it is offered");
    assert_eq!(world.store.nodes().quarantine(NodeId(99), "x", at(6)).await.unwrap(), Cas::Gone);
}

async fn pages_changes_and_lists_show_every_node(world: World) {
    let nodes = world.free_nodes(5).await;
    let ids =
        |nodes: Vec<orion_domain::node::Node>| nodes.into_iter().map(|node| node.id).collect::<Vec<_>>();
    let page = async |after, limit| {
        let page = world.store.nodes().page(after, limit).await.unwrap();
        page.into_iter().map(|row| row.node.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(world.store.nodes().all().await.unwrap()), nodes);
    assert_eq!(page(NodeId(0), 2).await, nodes[..2]);
    assert_eq!(page(nodes[1], 100).await, nodes[2..]);
    assert_eq!(ids(world.store.nodes().by_ids(&[nodes[3], NodeId(99)]).await.unwrap()), nodes[3..4]);
    let facts = Facts { cpu_cores: Some(64), agent_version: Some("0.1.0".into()), ..Facts::default() };
    let changed = world.store.nodes().update_facts(nodes[2], &facts, at(70)).await.unwrap().done().unwrap();
    assert_eq!(changed.facts, facts);
    assert_eq!(
        world.store.nodes().update_facts(nodes[2], &facts, at(71)).await.unwrap(),
        Cas::Stale,
        "no news"
    );
    let versions = world.store.nodes().versions(Some(at(70))).await.unwrap();
    assert_eq!(versions, [(nodes[2], changed.version)]);
}

/// A change has the time at which its caller began: it becomes visible later, after deadlocks much later.
async fn a_change_that_becomes_visible_late_is_read_all_the_same(world: World) {
    let nodes = world.free_nodes(3).await;
    let facts = |cores| Facts { cpu_cores: Some(cores), ..Facts::default() };
    let mut cursor = ChangesCursor::new();
    assert_eq!(cursor.since(at(100)), None, "all of them, at first");
    cursor.advance(None, at(100));

    let late = world.store.nodes().update_facts(nodes[1], &facts(2), at(84)).await.unwrap().done().unwrap();
    let since = cursor.since(at(101));
    assert_eq!(world.store.nodes().versions(since).await.unwrap(), [(nodes[1], late.version)]);
    cursor.advance(since, at(101));

    let later = world.store.nodes().update_facts(nodes[2], &facts(2), at(60)).await.unwrap().done().unwrap();
    let since = cursor.since(at(129));
    let versions = world.store.nodes().versions(since).await.unwrap();
    assert!(since.is_some() && !versions.contains(&(nodes[2], later.version)), "it is too late for that");
    cursor.advance(since, at(129));
    let since = cursor.since(at(130));
    let versions = world.store.nodes().versions(since).await.unwrap();
    assert!(since.is_none() && versions.contains(&(nodes[2], later.version)), "all are read every 30 s");
    cursor.advance(since, at(130));
    assert_eq!(cursor.since(at(131)), Some(at(110)));
}

async fn what_was_seen_is_written_in_batches(world: World) {
    let sighting = |last_seen, open_at| Sighting { last_seen: at(last_seen), open_at };
    let seen: Vec<_> = (1..=1200).map(|id| (NodeId(id), sighting(id, Some(at(id))))).collect();
    world.store.nodes().touch_seen(&seen).await.unwrap();
    world.store.nodes().touch_seen(&[(NodeId(3), sighting(9999, None))]).await.unwrap();
    world.store.nodes().touch_seen(&[]).await.unwrap();
    let some = world.store.agents().sightings(&[NodeId(3), NodeId(1200), NodeId(5000)]).await.unwrap();
    let third = sighting(9999, Some(at(3)));
    assert_eq!(some, HashMap::from([(NodeId(3), third), (NodeId(1200), sighting(1200, Some(at(1200))))]));
}

async fn an_older_sighting_that_is_written_later_overwrites_no_newer_one(world: World) {
    let (nodes, node) = (|| world.store.nodes(), NodeId(3));
    let write = async |last_seen, open_at: Option<i64>| {
        let seen = Sighting { last_seen: at(last_seen), open_at: open_at.map(at) };
        nodes().touch_seen(&[(node, seen)]).await.unwrap();
        let known = world.store.agents().sightings(&[node]).await.unwrap()[&node];
        (known.last_seen, known.open_at)
    };
    assert_eq!(write(100, None).await, (at(100), None));
    assert_eq!(write(90, Some(90)).await, (at(100), Some(at(90))), "each by itself");
    assert_eq!(write(120, Some(110)).await, (at(120), Some(at(110))));
    assert_eq!(write(95, Some(95)).await, (at(120), Some(at(110))));
    assert_eq!(write(10_000, Some(10_000)).await, (at(10_000), Some(at(10_000))), "a wrong clock's");
    assert_eq!(write(130, Some(130)).await, (at(130), Some(at(130))), "does not stay");
}

async fn replicas_beat_and_deregister(world: World) {
    for (name, kind, second) in
        [("host-1", "api", 1), ("host-1", "scheduler", 2), ("host-2", "api", 3), ("host-1", "api", 4)]
    {
        world.store.cluster().heartbeat(name, kind, at(second)).await.unwrap();
    }
    let one = ("host-1".to_string(), "scheduler".to_string(), at(2));
    let (first, second) = (("host-1".into(), "api".into(), at(4)), ("host-2".into(), "api".into(), at(3)));
    assert_eq!(replicas(&world).await, [first.clone(), one, second.clone()], "one process may be both");
    world.store.cluster().remove_replica("host-1", "scheduler").await.unwrap();
    assert_eq!(replicas(&world).await, [first, second]);
}

async fn replicas(world: &World) -> Vec<(String, String, Timestamp)> {
    let replicas = world.store.cluster().replicas().await.unwrap();
    replicas.into_iter().map(|replica| (replica.name, replica.kind, replica.beat_at)).collect()
}

async fn a_replica_that_was_silent_for_an_hour_is_forgotten(world: World) {
    let now = world.store.now().await.unwrap();
    let ago = |seconds| now.minus(Duration::from_secs(seconds));
    world.store.cluster().heartbeat("old", "api", ago(3590)).await.unwrap();
    world.store.cluster().heartbeat("new", "api", now).await.unwrap();
    assert_eq!(replicas(&world).await.len(), 2);
    let ahead = now.plus(Duration::from_secs(7200));
    world.store.cluster().heartbeat("new", "api", ahead).await.unwrap();
    assert_eq!(replicas(&world).await.len(), 2, "a machine whose clock is ahead forgets nobody for that");
    world.store.cluster().heartbeat("old", "api", ago(3601)).await.unwrap();
    world.store.cluster().heartbeat("new", "api", now).await.unwrap();
    assert_eq!(replicas(&world).await, [("new".into(), "api".into(), now)]);
}

async fn the_same_quarantine_again_is_not_told_again(world: World) {
    let node = world.free_node(1).await;
    let first = world.store.nodes().quarantine(node, "it lies", at(1)).await.unwrap().done().unwrap();
    assert_eq!(world.store.nodes().quarantine(node, "it lies", at(2)).await.unwrap(), Cas::Stale);
    assert_eq!(world.node(node).await, first);
    let other = world.store.nodes().quarantine(node, "its key changed", at(3)).await.unwrap().done().unwrap();
    assert_eq!(other.quarantine.as_deref(), Some("its key changed"));
    let claim = world.claim(node, at(4)).await;
    world
        .store
        .nodes()
        .fail_reconcile(&claim, "its key changed", at(5), Some(QuarantineCause::Passing), at(4))
        .await
        .unwrap()
        .done()
        .unwrap();
    let kinds = kinds_of_node(&world, node).await;
    let told = kinds.iter().filter(|kind| *kind == "node.quarantined").count();
    assert_eq!((told, kinds.last().unwrap().as_str()), (2, "node.reconcile_failed"));
}

async fn kinds_of_node(world: &World, node: NodeId) -> Vec<String> {
    world.store.events().of_node(node, 100).await.unwrap().into_iter().map(|event| event.kind).collect()
}

async fn a_node_that_answers_again_is_looked_at_and_one_that_answers_first_is_not(world: World) {
    let node = world.free_node(1).await;
    let changes = [
        (Health::Unknown, Health::Alive, false),
        (Health::Alive, Health::Alive, false),
        (Health::Alive, Health::Suspect, false),
        (Health::Suspect, Health::Alive, true),
        (Health::Suspect, Health::Unreachable, false),
        (Health::Unreachable, Health::Alive, true),
        (Health::Unreachable, Health::Dead, true),
        (Health::Dead, Health::Alive, true),
    ];
    for ((before, after, is_looked_at), now) in changes.into_iter().zip(10..) {
        let sql =
            format!("UPDATE nodes SET health = '{}', applied_version = desired_version", before.as_str());
        world.sql(&sql).await.unwrap();
        world.set_health(node, after, at(now)).await;
        let looked_at = world.node(node).await.is_dirty();
        assert_eq!(looked_at, is_looked_at, "{} -> {}", before.as_str(), after.as_str());
    }
}

async fn a_doubt_does_not_raise_the_dead(world: World) {
    let node = world.free_node(1).await;
    world.set_health(node, Health::Dead, at(1)).await;
    let dead = world.node(node).await;
    for doubt in [Health::Suspect, Health::Unknown] {
        let outcome = world.store.nodes().set_health(node, dead.version, doubt, "hm", at(2)).await.unwrap();
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
    assert!(world.store.nodes().by_token_sha256(token).await.unwrap().is_some());
    assert_eq!(world.store.nodes().forget_clean(at(1)).await.unwrap().forgotten, [node]);
    assert_eq!(world.store.nodes().by_token_sha256(token).await.unwrap(), None);
    for sees in [Some(true), Some(false), None] {
        assert_eq!(world.store.agents().set_agent_sshd(node, 1, sees, at(2)).await.unwrap(), Cas::Gone);
    }
    assert_eq!(world.store.nodes().update_facts(node, &Facts::default(), at(2)).await.unwrap(), Cas::Gone);
    let lost = world.store.agents().link_changed(node, 9, "api-1", LinkState::Lost, at(2)).await.unwrap();
    assert_eq!(lost, Cas::Gone);
    assert_eq!(world.store.agents().open_link(node, "api-1", at(2)).await.unwrap(), Cas::Gone);
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
    let result = world.store.nodes().forget_clean(at(6)).await.unwrap();
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
    world.store.leases().end(&[lease.id], &EndReason::Reset, Some(user), at(7)).await.unwrap();
    world.clean(leased, at(8)).await;
    assert_eq!(world.store.nodes().forget_clean(at(60)).await.unwrap().forgotten, [leased, claimed]);
    assert_eq!(world.store.nodes().all().await.unwrap().len(), 1);
}

async fn a_node_that_only_dials_out_has_no_address_and_is_neither_offered_nor_worked_on(world: World) {
    let node = world.free_node(1).await;
    let no_address = "addr = NULL, ssh_port = NULL, host_keys = NULL";
    world.sql(&format!("UPDATE nodes SET {no_address}")).await.expect_err("it is dialled");
    for half in ["addr = NULL", "ssh_port = NULL", "host_keys = NULL"] {
        world.sql(&format!("UPDATE nodes SET transport = 'pull', {half}")).await.expect_err(half);
    }
    world.sql(&format!("UPDATE nodes SET transport = 'pull', {no_address}")).await.unwrap();
    let pulls = world.node(node).await;
    assert_eq!((&pulls.transport, pulls.is_offerable()), (&Transport::Pull, false));
    let user = world.user("alice").await;
    let outcome = world.store.leases().place(&world.wish(user, 1)).await.unwrap();
    assert!(matches!(outcome, PlaceOutcome::TooFew { found: 0, .. }), "{outcome:?}");
    world.sql("UPDATE nodes SET desired_version = desired_version + 1").await.unwrap();
    assert_eq!(world.store.nodes().dirty(at(1), 9).await.unwrap(), []);
}

async fn a_page_says_of_each_node_what_the_whole_row_says(world: World) {
    let changes = [
        "agent_sees_sshd = 0, clock_off_ms = -7000, way_in = 'shut', way_in_reason = 'locked', way_in_since = 7",
        "quarantine = 'a key', quarantine_cause = 'operator', quarantine_since = 3, reconcile_failures = 2",
        "cordon = 'new disk', drain_since = 2, drained_at = NULL, link = 'lost', link_since = 5",
        "cordon = 'new disk', drain_since = 2, drained_at = 4, tags = '[\"gpu\", \"rack-3\"]'",
        "cpu_milli = 4000, cpu_held = 500, memory_capacity_mb = 900, memory_held_mb = 30, whole_lease = NULL",
        "transport = 'pull', addr = NULL, ssh_port = NULL, host_keys = NULL, unclean = 1",
        "admission = 'pending', seen_fingerprint = 'SHA256:x', health = 'suspect', health_reason = 'it is silent'",
        "desired_version = desired_version + 1, last_clean_report = '{\"left\": [\"/tmp/x\"]}', gpus = '[\"A100\"]'",
        "cpu_cores = NULL, memory_mb = NULL, mac = '02:00:00:00:00:01', agent_version = '1.2.3'",
    ];
    let user = world.user("alice").await;
    world.free_node(99).await;
    let leased = world.active_lease(&world.wish(user, 1)).await;
    for (change, number) in changes.iter().zip(1..) {
        let id = world.free_node(number).await;
        world.sql(&format!("UPDATE nodes SET {change} WHERE id = {id}")).await.unwrap();
    }
    let page: Vec<ListedNode> = world.store.nodes().page(NodeId(0), 100).await.unwrap();
    let nodes = world.store.nodes().all().await.unwrap();
    assert_eq!(page.len(), changes.len() + 1);
    for (listed, node) in page.iter().zip(nodes) {
        let said = |node: &NodeSummary| (node.availability(), node.availability().status());
        assert_eq!(said(&listed.node), (node.availability(), node.status()), "{node:?}");
        assert_eq!(listed.lease, (node.whole_lease == Some(leased.id)).then(|| (&leased).into()));
        assert_eq!(listed.node, NodeSummary::from(node));
    }
    let last = page[page.len() - 1].node.id;
    world.sql(&format!("UPDATE nodes SET gpus = 'two' WHERE id = {last}")).await.unwrap();
    let corrupt = world.store.nodes().page(NodeId(0), 100).await.unwrap_err();
    assert!(matches!(&corrupt, StoreError::Corrupt { table: "nodes", id, .. } if *id == last.0), "{corrupt}");
    assert_eq!(
        world.store.nodes().page(NodeId(0), 1).await.unwrap(),
        page[..1],
        "the connection is as before"
    );
}
