//! Machine ids: machines that were made of one image, and one machine with two identities.

use crate::world::{World, at, on_both, sha};
use orion_domain::{
    NodeId,
    doctor::Check,
    node::{Node, QuarantineCause},
};
use orion_store::{Compared, RegisterNode, RegisterOutcome, Scope};

on_both!(
    copies_of_one_image_are_nodes_of_their_own_and_each_is_shown_with_another,
    a_machine_that_is_a_node_already_is_no_new_one,
    the_second_identity_of_one_machine_is_quarantined_when_both_name_its_kernel,
    two_nodes_of_an_older_version_are_compared_when_the_machine_id_is_first_named,
    a_second_identity_that_was_found_while_the_brake_was_on_is_quarantined_when_it_is_released,
    two_hellos_that_overlap_are_compared_afterwards,
    a_node_that_names_no_machine_id_any_more_is_compared_with_nobody,
);

fn registration(world: &World, number: u32, machine: u32) -> RegisterNode {
    RegisterNode { machine_id_sha256: Some(sha(machine)), ..world.registration(number) }
}

async fn joins(world: &World, number: u32, machine: u32) -> Node {
    world.join_token().await;
    world.register(&registration(world, number, machine)).await
}

async fn says_kernel(world: &World, node: NodeId, kernel: &str, second: i64) {
    world.store.agents().record_boot_id(node, kernel, at(second)).await.unwrap();
}

async fn shown(world: &World, first: &Node, last: &Node) -> Vec<Option<String>> {
    let count = u32::try_from(last.id.0 - first.id.0 + 1).unwrap();
    let mut shown = world.store.nodes().shared_machine_ids(NodeId(first.id.0 - 1), count).await.unwrap();
    (first.id.0..=last.id.0).map(|id| shown.remove(&NodeId(id))).collect()
}

async fn copies_of_one_image_are_nodes_of_their_own_and_each_is_shown_with_another(world: World) {
    let first = joins(&world, 1, 50).await;
    let other = joins(&world, 2, 51).await;
    assert_eq!(shown(&world, &first, &other).await, [None, None]);
    let copy = joins(&world, 3, 50).await;
    for (node, kernel) in [(&first, "kernel-1"), (&other, "kernel-2"), (&copy, "kernel-3")] {
        says_kernel(&world, node.id, kernel, 1).await;
    }
    let sentences = shown(&world, &first, &copy).await;
    let names = |index: usize, text: &str| {
        sentences[index].as_ref().is_some_and(|sentence| sentence.starts_with(text))
    };
    assert!(names(0, &format!("it has the machine id of node {}:", copy.id)), "{sentences:?}");
    assert!(names(2, &format!("it has the machine id of node {}:", first.id)), "{sentences:?}");
    assert_eq!(sentences[1], None);
    let third = joins(&world, 4, 50).await;
    let sentence = shown(&world, &third, &third).await.remove(0).unwrap();
    assert!(sentence.starts_with(&format!("it has the machine id of node {} and 1 more:", first.id)));
    let findings = world.store.admin().audit(Scope::Recent, at(2)).await.unwrap();
    let found: Vec<_> = findings.iter().filter(|finding| finding.check == Check::Machines).collect();
    let [finding] = &found[..] else { panic!("{findings:?}") };
    assert_eq!((finding.node, finding.check.is_warning()), (Some(first.id), true));
    for node in [&first, &other, &copy, &third] {
        assert_eq!(world.node(node.id).await.quarantine, None);
    }
}

async fn a_machine_that_is_a_node_already_is_no_new_one(world: World) {
    let node = joins(&world, 1, 50).await;
    says_kernel(&world, node.id, "kernel-1", 1).await;
    let mut again = registration(&world, 2, 50);
    let mut outcome = async |boot: Option<&str>, addr: &str| {
        again.boot_id = boot.map(str::to_owned);
        again.addr = addr.parse().unwrap();
        again.port = 2222.try_into().unwrap();
        world.store.nodes().register(&again).await.unwrap()
    };
    let conflict = |what| RegisterOutcome::Conflict { what, node: node.id };
    assert_eq!(outcome(Some("kernel-1"), "10.0.9.9").await, conflict("machine id and boot id"));
    let addr = node.sshd().unwrap().addr.to_string();
    assert_eq!(outcome(None, &addr).await, conflict("machine id and address"));
    assert!(matches!(outcome(Some("kernel-2"), "10.0.9.9").await, RegisterOutcome::Created(_)));
    assert_eq!(world.node(node.id).await.quarantine, None);
}

async fn the_second_identity_of_one_machine_is_quarantined_when_both_name_its_kernel(world: World) {
    // Neither was linked when the other one joined.
    let first = joins(&world, 1, 50).await;
    let second = joins(&world, 2, 50).await;
    says_kernel(&world, second.id, "kernel-1", 1).await;
    assert_eq!(world.node(second.id).await.quarantine, None);
    says_kernel(&world, first.id, "kernel-1", 2).await;
    assert_eq!(world.node(first.id).await.quarantine, None);
    let after = world.node(second.id).await;
    assert_eq!(after.quarantine_cause, Some(QuarantineCause::Operator));
    world.sql("UPDATE nodes SET admission = 'admitted', health = 'alive'").await.unwrap();
    let dirty = world.store.nodes().dirty(at(99), 9).await.unwrap();
    assert_eq!(
        dirty,
        [first.id],
        "the second one would remove the accounts that the first one's leases have there"
    );
    let reason = after.quarantine.unwrap();
    assert!(reason.starts_with(&format!("it is the same machine as node {} (", first.id)), "{reason}");
}

async fn two_nodes_of_an_older_version_are_compared_when_the_machine_id_is_first_named(world: World) {
    world.join_token().await;
    let mut nodes = Vec::new();
    for number in [1, 2] {
        let node = world.register(&world.registration(number)).await;
        says_kernel(&world, node.id, "kernel-1", 1).await;
        nodes.push(node);
    }
    for number in [1, 2] {
        let again = RegisterNode {
            node_token_sha256_presented: Some(sha(2_000_000 + number)),
            boot_id: Some("kernel-1".into()),
            ..registration(&world, number, 50)
        };
        let outcome = world.store.nodes().register(&again).await.unwrap();
        assert!(matches!(outcome, RegisterOutcome::Updated(_)), "{outcome:?}");
    }
    assert_eq!(world.node(nodes[0].id).await.quarantine, None);
    assert!(world.node(nodes[1].id).await.quarantine.unwrap().starts_with("it is the same machine as node"));
}

/// Compares what is to be compared, as the scheduler's task does.
async fn compare(world: &World, second: i64) -> Vec<Compared> {
    let mut outcomes = Vec::new();
    for node in world.store.nodes().machines_to_compare(9).await.unwrap() {
        outcomes.push(world.store.nodes().compare_machine(node, at(second)).await.unwrap());
    }
    outcomes
}

async fn a_second_identity_that_was_found_while_the_brake_was_on_is_quarantined_when_it_is_released(
    world: World,
) {
    let (first, second) = (joins(&world, 1, 50).await, joins(&world, 2, 50).await);
    let cluster = || world.store.cluster();
    let known = cluster().brake().await.unwrap();
    let brake = cluster().engage_brake(&known, "s", "many", at(1)).await.unwrap().done().unwrap();
    says_kernel(&world, first.id, "kernel-1", 2).await;
    says_kernel(&world, second.id, "kernel-1", 3).await;
    for now in [4, 5] {
        assert_eq!(compare(&world, now).await, [Compared::Braked; 2], "it is kept");
        assert_eq!(world.node(second.id).await.quarantine, None);
    }
    cluster().release_brake(brake.engaged.as_ref(), "over", None, at(6)).await.unwrap().done().unwrap();
    assert_eq!(compare(&world, 7).await, [Compared::Quarantined(second.id), Compared::Nothing]);
    let reason = world.node(second.id).await.quarantine.unwrap();
    assert!(reason.starts_with(&format!("it is the same machine as node {} (", first.id)), "{reason}");
    assert_eq!(world.node(first.id).await.quarantine, None);
    world.store.nodes().lift_quarantine(second.id, at(8)).await.unwrap().done().unwrap();
    assert_eq!(compare(&world, 9).await, [], "what an admin lifted stays lifted until there is news");
    says_kernel(&world, second.id, "kernel-2", 10).await;
    assert_eq!(compare(&world, 11).await, [Compared::Nothing], "another machine now");
}

async fn two_hellos_that_overlap_are_compared_afterwards(world: World) {
    let (first, second) = (joins(&world, 1, 50).await, joins(&world, 2, 50).await);
    let hello = format!(
        "UPDATE nodes SET boot_ids = '[\"kernel-1\"]', machine_compare_due = 1 WHERE id = {}",
        second.id
    );
    if world.is_maria() {
        let held = world.hold(&hello).await;
        says_kernel(&world, first.id, "kernel-1", 1).await;
        held.commit().await;
    } else {
        // It has one writer at a time.
        says_kernel(&world, first.id, "kernel-1", 1).await;
        world.sql(&hello).await.unwrap();
    }
    assert_eq!(world.node(second.id).await.quarantine, None, "neither saw the other");
    assert_eq!(compare(&world, 2).await, [Compared::Quarantined(second.id), Compared::Nothing]);
}

async fn a_node_that_names_no_machine_id_any_more_is_compared_with_nobody(world: World) {
    let nodes = [joins(&world, 1, 50).await, joins(&world, 2, 50).await];
    for (index, node) in nodes.iter().enumerate() {
        // A newer agent, which sees that it runs in a container.
        let number = u32::try_from(index).unwrap() + 1;
        let again = RegisterNode {
            node_token_sha256_presented: Some(sha(2_000_000 + number)),
            ..world.registration(number)
        };
        let outcome = world.store.nodes().register(&again).await.unwrap();
        assert!(matches!(outcome, RegisterOutcome::Updated(_)), "{outcome:?}");
        says_kernel(&world, node.id, "kernel-1", 1).await;
    }
    assert_eq!(compare(&world, 2).await, []);
    assert_eq!(shown(&world, &nodes[0], &nodes[1]).await, [None, None]);
    assert_eq!(world.node(nodes[1].id).await.quarantine, None);
}
