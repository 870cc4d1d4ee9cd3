//! The brake: one for all schedulers, and the giving up of nodes that honours it.

use crate::world::{World, at, on_both};
use orion_domain::{
    UserId,
    brake::{Brake, Engaged},
    lease::Phase,
    node::Health,
};
use orion_store::{Cas, EventTail};

on_both!(
    the_brake_is_off_until_somebody_pulls_it_and_then_on_for_all,
    only_one_of_many_schedulers_pulls_the_brake,
    a_brake_that_was_lifted_meanwhile_is_not_engaged_for_an_older_reason,
    a_scheduler_lifts_only_the_brake_that_it_looked_at_and_an_admin_any,
    lifting_a_brake_that_is_not_on_changes_nothing,
    no_node_is_given_up_while_the_brake_is_on,
    who_pulls_the_brake_and_who_gives_up_a_node_write_the_same_row,
    a_setting_that_cannot_be_read_is_a_brake_that_is_off,
    silent_nodes_are_those_that_became_suspect_or_dead_lately,
);

async fn pull(world: &World, by: &str, seconds: i64) -> Brake {
    let known = world.store.cluster().brake().await.unwrap();
    world
        .store
        .cluster()
        .engage_brake(&known, by, "many", at(seconds))
        .await
        .unwrap()
        .done()
        .expect("it is off")
}

async fn events(world: &World, kind: &str) -> Vec<serde_json::Value> {
    let mut tail = EventTail::resume(&world.store, orion_domain::EventId(0)).await.unwrap();
    let events = tail.poll(&world.store).await.unwrap();
    events.into_iter().filter(|event| event.kind == kind).map(|event| event.data).collect()
}

async fn the_brake_is_off_until_somebody_pulls_it_and_then_on_for_all(world: World) {
    assert_eq!(world.store.cluster().brake().await.unwrap(), Brake::default());
    let pulled = pull(&world, "s-1", 10).await;
    let engaged = Engaged { since: at(10), reason: "many".into(), by: "s-1".into() };
    assert_eq!(pulled, Brake { engaged: Some(engaged), lifted_at: None });
    assert_eq!(world.store.cluster().brake().await.unwrap(), pulled);
    assert_eq!(events(&world, "brake.engaged").await, [serde_json::json!({ "reason": "many", "by": "s-1" })]);
    // What clients have read since the first version.
    let setting = world.store.cluster().get_setting("brake").await.unwrap().unwrap();
    let setting: serde_json::Value = serde_json::from_str(&setting).unwrap();
    assert_eq!(setting["engaged"], true);
    assert_eq!(setting["reason"], "many");
    assert!(setting["since"].is_string());
}

async fn only_one_of_many_schedulers_pulls_the_brake(world: World) {
    for round in 0..3 {
        let known = world.store.cluster().brake().await.unwrap();
        let mut pulling = tokio::task::JoinSet::new();
        for number in 0..6 {
            let (store, known) = (world.store.clone(), known.clone());
            pulling.spawn(async move {
                let by = format!("s-{number}");
                store
                    .cluster()
                    .engage_brake(&known, &by, "many", at(10 + round))
                    .await
                    .unwrap()
                    .done()
                    .is_some()
            });
        }
        let pulled = pulling.join_all().await.into_iter().filter(|done| *done).count();
        assert_eq!(pulled, 1, "round {round}");
        let lifted = world.store.cluster().release_brake(None, "again", None, at(20 + round)).await.unwrap();
        assert!(matches!(lifted, Cas::Done(_)));
    }
    assert_eq!(events(&world, "brake.engaged").await.len(), 3);
    assert_eq!(events(&world, "brake.lifted").await.len(), 3);
}

async fn a_brake_that_was_lifted_meanwhile_is_not_engaged_for_an_older_reason(world: World) {
    let before = world.store.cluster().brake().await.unwrap();
    pull(&world, "s-1", 10).await;
    world.store.cluster().release_brake(None, "by hand", None, at(20)).await.unwrap().done().unwrap();
    let late = world.store.cluster().engage_brake(&before, "s-2", "many", at(21)).await.unwrap();
    assert_eq!(late, Cas::Stale);
    assert_eq!(
        world.store.cluster().brake().await.unwrap(),
        Brake { engaged: None, lifted_at: Some(at(20)) }
    );
    pull(&world, "s-2", 22).await;
}

async fn who_pulls_the_brake_and_who_gives_up_a_node_write_the_same_row(world: World) {
    let node = world.free_node(1).await;
    let turn = async || world.store.cluster().get_setting("brake_turn").await.unwrap();
    let mut seen = vec![turn().await];
    world.set_health(node, Health::Suspect, at(5)).await;
    assert_eq!(turn().await, seen[0], "a doubt gives nothing up");
    world.set_health(node, Health::Dead, at(6)).await;
    seen.push(turn().await);
    pull(&world, "s-1", 10).await;
    seen.push(turn().await);
    world.store.cluster().release_brake(None, "by hand", None, at(20)).await.unwrap().done().unwrap();
    seen.push(turn().await);
    seen.dedup();
    assert_eq!(seen.len(), 4, "{seen:?}");
}

async fn a_scheduler_lifts_only_the_brake_that_it_looked_at_and_an_admin_any(world: World) {
    let first = pull(&world, "s-1", 10).await.engaged.unwrap();
    world
        .store
        .cluster()
        .release_brake(Some(&first), "they answer", None, at(20))
        .await
        .unwrap()
        .done()
        .unwrap();
    pull(&world, "s-2", 30).await;
    let late = world.store.cluster().release_brake(Some(&first), "they answer", None, at(31)).await.unwrap();
    assert_eq!(late, Cas::Stale, "that is another brake by now");
    let lifted = world.store.cluster().release_brake(None, "by hand", Some(UserId(7)), at(32)).await.unwrap();
    assert_eq!(lifted, Cas::Done(Brake { engaged: None, lifted_at: Some(at(32)) }));
    let told = events(&world, "brake.lifted").await;
    assert_eq!(told[1], serde_json::json!({ "reason": "by hand", "actor": 7 }));
}

async fn lifting_a_brake_that_is_not_on_changes_nothing(world: World) {
    assert_eq!(
        world.store.cluster().release_brake(None, "by hand", Some(UserId(7)), at(1)).await.unwrap(),
        Cas::Stale
    );
    assert_eq!(world.store.cluster().brake().await.unwrap(), Brake::default());
    assert!(events(&world, "brake.lifted").await.is_empty());
}

async fn no_node_is_given_up_while_the_brake_is_on(world: World) {
    let node = world.free_node(1).await;
    let alice = world.user("alice").await;
    let lease = world.active_lease(&world.wish(alice, 1)).await;
    let version = world.node(node).await.version;
    pull(&world, "another", 10).await;
    let verdict = world.store.nodes().set_health(node, version, Health::Dead, "gone", at(11)).await.unwrap();
    assert_eq!(verdict, Cas::Stale);
    assert_eq!(world.node(node).await.version, version, "nothing was written");
    assert_eq!(world.lease(lease.id).await.state.phase(), Phase::Active);

    // Doubts are written all the same, and what answers is alive.
    world.set_health(node, Health::Suspect, at(12)).await;
    world.set_health(node, Health::Alive, at(13)).await;
    world.store.cluster().release_brake(None, "by hand", None, at(14)).await.unwrap().done().unwrap();
    assert_eq!(world.set_health(node, Health::Dead, at(15)).await, [lease.id]);
    assert_eq!(world.lease(lease.id).await.state.phase(), Phase::Migrating);

    // One that is dead stays so, with a new reason.
    pull(&world, "another", 20).await;
    let version = world.node(node).await.version;
    let again =
        world.store.nodes().set_health(node, version, Health::Dead, "still gone", at(21)).await.unwrap();
    assert!(matches!(again, Cas::Done(_)), "{again:?}");
    world.check_invariants().await;
}

async fn a_setting_that_cannot_be_read_is_a_brake_that_is_off(world: World) {
    for text in ["", "x", "{}", r#"{"engaged":true}"#] {
        world.store.cluster().put_setting("brake", text).await.unwrap();
        assert_eq!(world.store.cluster().brake().await.unwrap(), Brake::default(), "{text:?}");
    }
    pull(&world, "s-1", 10).await;
    // One of the version that did not know who engaged it.
    let old = format!(r#"{{"engaged":true,"since":"{}","reason":"many"}}"#, at(5));
    world.store.cluster().put_setting("brake", &old).await.unwrap();
    let engaged = Engaged { since: at(5), reason: "many".into(), by: String::new() };
    assert_eq!(world.store.cluster().brake().await.unwrap().engaged, Some(engaged));
}

async fn silent_nodes_are_those_that_became_suspect_or_dead_lately(world: World) {
    let nodes = world.free_nodes(5).await;
    world.set_health(nodes[0], Health::Suspect, at(100)).await;
    world.set_health(nodes[1], Health::Dead, at(101)).await;
    world.set_health(nodes[2], Health::Unreachable, at(101)).await;
    world.set_health(nodes[3], Health::Suspect, at(69)).await;
    let mut glances = world.store.nodes().silent_since(at(70)).await.unwrap();
    glances.sort_by_key(|glance| glance.id);
    let seen: Vec<_> = glances.iter().map(|g| (g.id, g.health, g.health_since)).collect();
    assert_eq!(seen, [(nodes[0], Health::Suspect, at(100)), (nodes[1], Health::Dead, at(101))]);
}
