//! Registration: who creates, who changes, who is refused.

use crate::world::{World, at, host_key, node_refuses, on_both, sha};
use base64::Engine as _;
use orion_domain::node::{Admission, Health};
use orion_store::{Cas, RegisterNode, RegisterOutcome};

on_both!(
    a_join_token_creates_a_dirty_node,
    a_worker_without_host_keys_waits_for_an_admin,
    the_same_body_again_changes_nothing,
    a_known_key_name_or_address_needs_the_node_token,
    the_node_token_changes_the_node,
    a_changed_host_key_quarantines_the_node_and_is_not_taken_over,
    a_node_that_moved_has_to_show_its_pinned_key,
    what_a_worker_reports_adds_no_host_key,
    a_worker_that_reports_no_keys_changes_none,
    bad_join_tokens_create_nothing,
    a_join_token_creates_as_many_nodes_as_it_says,
    a_join_token_that_is_used_up_tells_nothing_of_known_nodes,
    a_node_without_host_keys_stays_pending_until_it_reports_some,
    the_ed25519_key_is_pinned_in_whatever_order_keys_are_reported,
    a_forgotten_node_registers_again_with_its_token_and_key,
    twenty_workers_that_are_one_make_one_node,
);

async fn a_join_token_creates_a_dirty_node(world: World) {
    world.join_token().await;
    let mut request = world.registration(1);
    request.tags = vec!["gpu".parse().unwrap()];
    request.facts.gpus = vec!["RTX".into()];
    let node = world.register(&request).await;
    assert_eq!(node, world.node(node.id).await);
    assert_eq!((node.admission, node.health), (Admission::Reported, Health::Unknown));
    assert!(node.is_dirty() && !node.is_offerable());
    assert_eq!(
        (node.sshd().unwrap().host_keys.clone(), node.tags, node.facts),
        (vec![host_key(1)], request.tags, request.facts)
    );
    let by_token = world.store.nodes().by_token_sha256(&request.new_node_token_sha256).await.unwrap();
    assert_eq!(by_token.unwrap().id, node.id);
    assert_eq!(world.store.nodes().by_token_sha256(&sha(1)).await.unwrap(), None);
    assert_eq!(world.store.events().of_node(node.id, 9).await.unwrap()[0].kind, "node.registered");
}

async fn a_worker_without_host_keys_waits_for_an_admin(world: World) {
    world.join_token().await;
    let mut request = world.registration(1);
    request.host_keys.clear();
    let node = world.register(&request).await;
    assert_eq!(node.admission, Admission::Pending);
    let key = host_key(1);
    let fingerprint = key.parse::<orion_domain::credentials::SshPublicKey>().unwrap().fingerprint();
    assert_eq!(
        world.store.nodes().accept_host_key(node.id, &fingerprint, at(1)).await.unwrap(),
        node_refuses("still to show a host key", "admitted by one")
    );
    let saw = || world.store.nodes().record_host_key(node.id, &key, &fingerprint, at(1));
    assert_eq!(saw().await.unwrap().done().unwrap().seen_fingerprint.as_deref(), Some(fingerprint.as_str()));
    assert!(saw().await.unwrap().done().is_none(), "the same key again is no news");
    assert_eq!(
        world.store.nodes().accept_host_key(node.id, "SHA256:other", at(2)).await.unwrap(),
        Cas::Stale
    );
    let node =
        world.store.nodes().accept_host_key(node.id, &fingerprint, at(2)).await.unwrap().done().unwrap();
    assert_eq!((node.admission, node.sshd().unwrap().host_keys.clone()), (Admission::Admitted, vec![key]));
    assert_eq!(
        world.store.nodes().accept_host_key(node.id, &fingerprint, at(3)).await.unwrap(),
        node_refuses("admitted", "admitted again by a host key")
    );
}

async fn the_same_body_again_changes_nothing(world: World) {
    world.join_token().await;
    let request = world.registration(1);
    let node = world.register(&request).await;
    let again = world.store.nodes().register(&request).await.unwrap();
    assert_eq!(again, RegisterOutcome::Same(node.id));
    assert_eq!(node, world.node(node.id).await);
    assert_eq!(world.store.events().of_node(node.id, 9).await.unwrap().len(), 1);
}

async fn a_known_key_name_or_address_needs_the_node_token(world: World) {
    world.join_token().await;
    let known = world.registration(1);
    let node = world.register(&known).await.id;
    let mut by_key = world.registration(2);
    by_key.host_keys = vec![host_key(7).parse().unwrap(), host_key(1).parse().unwrap()];
    let mut by_name = world.registration(3);
    by_name.hostname = known.hostname.clone();
    let mut by_address = world.registration(4);
    by_address.addr = known.addr.clone();
    for (request, what) in [(by_key, "host key"), (by_name, "hostname"), (by_address, "address")] {
        let outcome = world.store.nodes().register(&request).await.unwrap();
        assert_eq!(outcome, RegisterOutcome::Conflict { what, node });
        // Nor may another node take it over with its own token.
        let mut own = world.registration(100);
        own.join_token_sha256 = Some(sha(7));
        let other = match world.store.nodes().register(&own).await.unwrap() {
            RegisterOutcome::Created(node) => node.id,
            RegisterOutcome::Same(id) => id,
            unexpected => panic!("{unexpected:?}"),
        };
        let mut theft = request.clone();
        theft.node_token_sha256_presented = Some(own.new_node_token_sha256);
        let outcome = world.store.nodes().register(&theft).await.unwrap();
        assert_eq!(outcome, RegisterOutcome::Conflict { what, node }, "by node {other}");
    }
    assert_eq!(world.count("SELECT COUNT(*) FROM nodes").await, 2);
}

async fn the_node_token_changes_the_node(world: World) {
    let first = world.registration(1);
    let node = world.alive_node_from(&first).await;
    let mut request = world.registration(2);
    request.host_keys = vec![host_key(1).parse().unwrap(), host_key(50).parse().unwrap()];
    request.tags = vec!["gpu".parse().unwrap()];
    request.node_token_sha256_presented = Some(first.new_node_token_sha256.clone());
    request.join_token_sha256 = None;
    let updated = match world.store.nodes().register(&request).await.unwrap() {
        RegisterOutcome::Updated(node) => node,
        other => panic!("{other:?}"),
    };
    assert_eq!(updated, world.node(node).await);
    assert_eq!((&updated.hostname, &updated.sshd().unwrap().addr), (&request.hostname, &request.addr));
    assert_eq!(updated.admission, Admission::Reported, "its key has to be found at the new address");
    assert_eq!((updated.sshd().unwrap().host_keys.clone(), updated.quarantine), (vec![host_key(1)], None));
    assert_eq!(world.count("SELECT COUNT(*) FROM node_tags WHERE tag = 'gpu'").await, 1);
    let version = updated.version;
    let again = world.store.nodes().register(&request).await.unwrap();
    assert!(matches!(again, RegisterOutcome::Updated(node) if node.version == version), "no news, no write");
    request.node_token_sha256_presented = Some(sha(99));
    assert_eq!(world.store.nodes().register(&request).await.unwrap(), RegisterOutcome::BadNodeToken);
}

async fn a_node_that_moved_has_to_show_its_pinned_key(world: World) {
    let first = world.registration(1);
    let node = world.alive_node_from(&first).await;
    let mut request = world.registration(1);
    request.host_keys.push(host_key(50).parse().unwrap());
    request.body_sha256 = sha(50);
    request.node_token_sha256_presented = Some(first.new_node_token_sha256.clone());
    assert!(matches!(world.store.nodes().register(&request).await.unwrap(), RegisterOutcome::Updated(_)));
    for (number, keys) in [(2, request.host_keys.clone()), (3, Vec::new())] {
        let moved = world.registration(number);
        let moved = orion_store::RegisterNode { host_keys: keys, ..moved };
        let moved = orion_store::RegisterNode {
            node_token_sha256_presented: request.node_token_sha256_presented.clone(),
            ..moved
        };
        assert!(matches!(world.store.nodes().register(&moved).await.unwrap(), RegisterOutcome::Updated(_)));
        let after = world.node(node).await;
        assert_eq!(
            (after.sshd().unwrap().host_keys.clone(), after.admission),
            (vec![host_key(1)], Admission::Reported)
        );
        assert_eq!(after.sshd().unwrap().addr, moved.addr);
    }
}

async fn a_changed_host_key_quarantines_the_node_and_is_not_taken_over(world: World) {
    let first = world.registration(1);
    let node = world.alive_node_from(&first).await;
    let mut request = world.registration(1);
    request.host_keys = vec![host_key(66).parse().unwrap()];
    request.body_sha256 = sha(66);
    request.node_token_sha256_presented = Some(first.new_node_token_sha256);
    for _ in 0..2 {
        let node = match world.store.nodes().register(&request).await.unwrap() {
            RegisterOutcome::KeyChanged(node) => node,
            other => panic!("{other:?}"),
        };
        assert!(node.quarantine.as_deref().unwrap().contains("its host key changed"), "{node:?}");
        assert_eq!(node.sshd().unwrap().host_keys.clone(), [host_key(1)]);
    }
    let events = world.store.events().of_node(node, 99).await.unwrap();
    assert_eq!(events.iter().filter(|event| event.kind == "node.quarantined").count(), 1);
    assert_eq!(
        world.store.nodes().forget_clean(at(9)).await.unwrap().forgotten,
        [],
        "the pin is the evidence"
    );
}

async fn what_a_worker_reports_adds_no_host_key(world: World) {
    let mut first = world.registration(1);
    let keys = |numbers: &[u32]| numbers.iter().map(|number| host_key(*number).parse().unwrap()).collect();
    first.host_keys = keys(&[1, 2]);
    let node = world.alive_node_from(&first).await;
    assert_eq!(world.node(node).await.sshd().unwrap().host_keys.clone(), [host_key(1)]);
    let mut again = world.registration(1);
    again.node_token_sha256_presented = Some(first.new_node_token_sha256);
    (again.host_keys, again.body_sha256) = (keys(&[3, 1]), sha(50));
    match world.store.nodes().register(&again).await.unwrap() {
        RegisterOutcome::Updated(node) => {
            assert_eq!(
                (node.quarantine.clone(), node.sshd().unwrap().host_keys.clone()),
                (None, vec![host_key(1)])
            );
        }
        other => panic!("{other:?}"),
    }
    // A key beside the main one does not stand in for it.
    (again.host_keys, again.body_sha256) = (keys(&[3]), sha(51));
    assert!(matches!(world.store.nodes().register(&again).await.unwrap(), RegisterOutcome::KeyChanged(_)));
    let node = world.node(node).await;
    assert!(node.quarantine.is_some());
    assert_eq!(node.sshd().unwrap().host_keys.clone(), [host_key(1)]);
}

async fn a_worker_that_reports_no_keys_changes_none(world: World) {
    let first = world.registration(1);
    world.alive_node_from(&first).await;
    let mut again = world.registration(1);
    again.node_token_sha256_presented = Some(first.new_node_token_sha256);
    (again.host_keys, again.body_sha256) = (vec![], sha(50));
    match world.store.nodes().register(&again).await.unwrap() {
        RegisterOutcome::Updated(node) => {
            assert_eq!(
                (node.quarantine.clone(), node.sshd().unwrap().host_keys.clone()),
                (None, vec![host_key(1)])
            );
            assert_eq!(node.admission, Admission::Admitted);
        }
        other => panic!("{other:?}"),
    }
}

async fn bad_join_tokens_create_nothing(world: World) {
    world
        .store
        .accounts()
        .create_join_token(&sha(20), "old", None, Some(at(-1)), None, at(-9))
        .await
        .unwrap();
    let taken_back =
        world.store.accounts().create_join_token(&sha(21), "back", None, None, None, at(0)).await.unwrap().id;
    world.store.accounts().revoke_join_token(taken_back, at(0)).await.unwrap().done().unwrap();
    world.store.accounts().create_join_token(&sha(22), "none", None, None, Some(0), at(0)).await.unwrap();
    for token in [None, Some(sha(20)), Some(sha(21)), Some(sha(22)), Some(sha(23))] {
        let mut request = world.registration(1);
        request.join_token_sha256 = token.clone();
        let outcome = world.store.nodes().register(&request).await.unwrap();
        assert_eq!(outcome, RegisterOutcome::BadJoinToken, "{token:?}");
    }
    assert_eq!(world.count("SELECT COUNT(*) FROM nodes").await, 0);
    let tokens = world.store.accounts().join_tokens().await.unwrap();
    assert_eq!(tokens.iter().map(|token| token.note.as_str()).collect::<Vec<_>>(), ["none", "back", "old"]);
    assert!(tokens[1].revoked);
}

async fn a_join_token_creates_as_many_nodes_as_it_says(world: World) {
    world.store.accounts().create_join_token(&sha(7), "two", None, None, Some(2), at(0)).await.unwrap();
    world.register(&world.registration(1)).await;
    let repeated = world.store.nodes().register(&world.registration(1)).await.unwrap();
    assert!(matches!(repeated, RegisterOutcome::Same(_)));
    let second = world.register(&world.registration(2)).await;
    let third = world.store.nodes().register(&world.registration(3)).await.unwrap();
    assert_eq!(third, RegisterOutcome::BadJoinToken);
    assert_eq!(world.store.accounts().join_tokens().await.unwrap()[0].uses_left, Some(0));
    let lost_reply = world.store.nodes().register(&world.registration(2)).await.unwrap();
    assert_eq!(lost_reply, RegisterOutcome::Same(second.id), "a repetition still works");
}

async fn a_join_token_that_is_used_up_tells_nothing_of_known_nodes(world: World) {
    world.store.accounts().create_join_token(&sha(7), "one", None, None, Some(1), at(0)).await.unwrap();
    let known = world.registration(1);
    world.register(&known).await;
    let same_name = RegisterNode { hostname: known.hostname, ..world.registration(2) };
    let outcome = world.store.nodes().register(&same_name).await.unwrap();
    assert_eq!(outcome, RegisterOutcome::BadJoinToken);
}

async fn a_node_without_host_keys_stays_pending_until_it_reports_some(world: World) {
    world.join_token().await;
    let without = RegisterNode { host_keys: vec![], ..world.registration(1) };
    world.register(&without).await;
    let token = Some(without.new_node_token_sha256.clone());
    for (host_keys, admission) in
        [(vec![], Admission::Pending), (vec![host_key(1).parse().unwrap()], Admission::Reported)]
    {
        let body_sha256 = sha(50 + u32::try_from(host_keys.len()).unwrap());
        let node_token_sha256_presented = token.clone();
        let again = RegisterNode { host_keys, body_sha256, node_token_sha256_presented, ..without.clone() };
        let outcome = world.store.nodes().register(&again).await.unwrap();
        let RegisterOutcome::Updated(node) = outcome else { panic!("{outcome:?}") };
        assert_eq!(node.admission, admission);
    }
}

async fn the_ed25519_key_is_pinned_in_whatever_order_keys_are_reported(world: World) {
    world.join_token().await;
    let mut blob = b"\0\0\0\x13ecdsa-sha2-nistp256\0\0\0\x08nistp256\0\0\0\x41\x04".to_vec();
    blob.extend([7; 64]);
    let ecdsa = format!("ecdsa-sha2-nistp256 {}", base64::engine::general_purpose::STANDARD.encode(blob));
    let mut registration = world.registration(1);
    registration.host_keys.insert(0, ecdsa.parse().unwrap());
    assert_eq!(world.register(&registration).await.sshd().unwrap().host_keys.clone(), [host_key(1)]);
}

async fn a_forgotten_node_registers_again_with_its_token_and_key(world: World) {
    let first = world.registration(1);
    let node = world.alive_node_from(&first).await;
    let old_epoch = world.claim(node, at(0)).await.epoch;
    world.store.nodes().release_claim(&world.claim(node, at(31)).await, at(31)).await.unwrap();
    world.clean(node, at(31)).await;
    assert_eq!(world.store.nodes().forget_clean(at(40)).await.unwrap().forgotten, [node]);
    assert_eq!(world.store.nodes().get(node).await.unwrap(), None);
    let mut again = world.registration(1);
    again.now = at(50);
    again.join_token_sha256 = None;
    again.node_token_sha256_presented = Some(first.new_node_token_sha256);
    again.new_node_token_sha256 = sha(77);
    let mut stranger = again.clone();
    stranger.host_keys = vec![host_key(2).parse().unwrap()];
    assert_eq!(world.store.nodes().register(&stranger).await.unwrap(), RegisterOutcome::BadNodeToken);
    let new = world.register(&again).await;
    assert_ne!(new.id, node);
    let epoch = world.claim(new.id, at(51)).await.epoch;
    assert!(epoch > old_epoch, "the machine refuses older epochs: {epoch} > {old_epoch}");
    let mut twice = again.clone();
    twice.hostname = "other".parse().unwrap();
    assert_eq!(world.store.nodes().register(&twice).await.unwrap(), RegisterOutcome::BadNodeToken);
}

async fn twenty_workers_that_are_one_make_one_node(world: World) {
    world.join_token().await;
    let request = world.registration(1);
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (store, request) = (world.store.clone(), request.clone());
        workers.spawn(async move { store.nodes().register(&request).await.unwrap() });
    }
    let outcomes = workers.join_all().await;
    let created = outcomes.iter().filter(|outcome| matches!(outcome, RegisterOutcome::Created(_))).count();
    let same = outcomes.iter().filter(|outcome| matches!(outcome, RegisterOutcome::Same(_))).count();
    assert_eq!((created, same), (1, 19));
}
