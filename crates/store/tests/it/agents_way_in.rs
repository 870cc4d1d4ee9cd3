//! The way in of a node: who may report it, what is kept, and its events.

use crate::world::{World, at, on_both};
use orion_domain::{
    NodeId,
    node::{Health, LinkState},
    way_in::{Way, WayInReport},
};
use orion_store::{Cas, ListedNode, Prober};
use std::time::Duration;

on_both!(
    the_way_in_is_kept_with_its_events_and_only_when_it_changes,
    the_agent_s_word_goes_before_the_scheduler_s_while_its_link_is_up,
    a_clock_that_is_off_is_kept_until_it_is_right,
    the_way_in_of_a_node_that_died_is_proven_anew,
    a_way_in_that_was_not_seen_for_long_is_not_offered_until_it_is_seen,
);

fn shut(reason: &str) -> WayInReport {
    WayInReport { open: false, reason: reason.into() }
}

fn open() -> WayInReport {
    WayInReport { open: true, reason: String::new() }
}

async fn way_in_events(world: &World, node: NodeId) -> Vec<String> {
    let events = world.store.events().of_node(node, 100).await.unwrap();
    events.into_iter().map(|event| event.kind).filter(|kind| kind.starts_with("node.way_in")).collect()
}

async fn the_way_in_is_kept_with_its_events_and_only_when_it_changes(world: World) {
    world.join_token().await;
    let id = world.register(&world.registration(1)).await.id;
    assert_eq!(world.node(id).await.way_in.way, Way::Unknown);
    let set = async |found: WayInReport, second| {
        world.store.agents().set_way_in(id, &found, Prober::Scheduler, at(second)).await.unwrap()
    };
    let node = set(open(), 10).await.done().unwrap();
    assert_eq!((node.way_in.way, node.way_in.since, node.way_in.reason), (Way::Open, at(10), None));
    assert_eq!(world.store.agents().sightings(&[id]).await.unwrap()[&id].open_at, Some(at(10)));
    let page = world.store.nodes().page(NodeId(0), 10).await.unwrap();
    let node = world.node(id).await.into();
    assert_eq!(page, [ListedNode { node, open_at: Some(at(10)), lease: None }]);
    assert!(matches!(set(open(), 20).await, Cas::Stale), "the same again is no news");
    let node = set(shut("/etc/nologin is there"), 30).await.done().unwrap();
    assert_eq!((node.way_in.way, node.way_in.since), (Way::Shut, at(30)));
    let node = set(shut("another\nreason"), 40).await.done().unwrap();
    assert_eq!(node.way_in.since, at(30), "it has been shut since then");
    assert_eq!(node.way_in.reason.as_deref(), Some("another / reason"));
    set(open(), 50).await.done().unwrap();
    assert_eq!(
        way_in_events(&world, id).await,
        ["node.way_in_open", "node.way_in_shut", "node.way_in_shut", "node.way_in_open"]
    );
    let gone =
        world.store.agents().set_way_in(NodeId(4711), &open(), Prober::Scheduler, at(60)).await.unwrap();
    assert!(matches!(gone, Cas::Gone));
}

async fn the_agent_s_word_goes_before_the_scheduler_s_while_its_link_is_up(world: World) {
    world.join_token().await;
    let id = world.register(&world.registration(1)).await.id;
    let set =
        async |found: WayInReport, by| world.store.agents().set_way_in(id, &found, by, at(10)).await.unwrap();
    let (_, link_epoch) = world.store.agents().open_link(id, "api-1", at(1)).await.unwrap().done().unwrap();
    let agent = Prober::Agent { link_epoch, age: Duration::ZERO };
    assert!(matches!(
        set(open(), Prober::Agent { link_epoch: link_epoch - 1, age: Duration::ZERO }).await,
        Cas::Stale
    ));
    assert!(set(open(), Prober::Scheduler).await.done().is_some(), "an older agent says nothing");
    assert!(set(open(), agent).await.done().unwrap().way_in.by_agent);
    assert!(matches!(set(shut("late"), Prober::Scheduler).await, Cas::Stale));
    set(shut("nologin"), agent).await.done().unwrap();

    world.store.agents().link_changed(id, link_epoch, "api-1", LinkState::Lost, at(20)).await.unwrap();
    assert!(matches!(set(open(), agent).await, Cas::Stale), "that link is over");
    assert_eq!(set(open(), Prober::Scheduler).await.done().unwrap().way_in.way, Way::Open);
    let (node, _) = world.store.agents().open_link(id, "api-1", at(30)).await.unwrap().done().unwrap();
    assert!(!node.way_in.by_agent && node.way_in.way == Way::Open, "kept until the agent says otherwise");
    assert_eq!(way_in_events(&world, id).await, ["node.way_in_open", "node.way_in_shut", "node.way_in_open"]);
}

async fn the_way_in_of_a_node_that_died_is_proven_anew(world: World) {
    let id = world.free_node(1).await;
    world.set_health(id, Health::Dead, at(10)).await;
    assert_eq!(world.node(id).await.way_in.way, Way::Unknown);
    let version = world.node(id).await.version;
    world.store.nodes().set_health(id, version, Health::Alive, "back", at(20)).await.unwrap().done().unwrap();
    world.clean(id, at(20)).await;
    assert!(!world.node(id).await.is_offerable());
    world.store.agents().set_way_in(id, &open(), Prober::Scheduler, at(30)).await.unwrap().done().unwrap();
    assert!(world.node(id).await.is_offerable());

    // An agent that goes on to report says the same for ever: its word is kept.
    let (_, link_epoch) = world.store.agents().open_link(id, "api-1", at(40)).await.unwrap().done().unwrap();
    world
        .store
        .agents()
        .set_way_in(id, &open(), Prober::Agent { link_epoch, age: Duration::ZERO }, at(40))
        .await
        .unwrap()
        .done()
        .unwrap();
    world.set_health(id, Health::Dead, at(50)).await;
    assert_eq!(world.node(id).await.way_in.way, Way::Open);
}

async fn a_way_in_that_was_not_seen_for_long_is_not_offered_until_it_is_seen(world: World) {
    let id = world.free_node(1).await;
    let (_, link_epoch) = world.store.agents().open_link(id, "api-1", at(40)).await.unwrap().done().unwrap();
    let agent = |seconds| Prober::Agent { link_epoch, age: Duration::from_secs(seconds) };
    world.store.agents().set_way_in(id, &open(), agent(30), at(80)).await.unwrap().done().unwrap();
    let seen = world.store.agents().sightings(&[id]).await.unwrap()[&id];
    assert_eq!((seen.open_at, seen.last_seen), (Some(at(50)), at(80)), "the login, and the word of it");
    let lost = async |by| world.store.agents().way_in_not_seen(id, by, at(150)).await.unwrap();
    assert!(matches!(lost(Prober::Scheduler).await, Cas::Stale), "the agent reports");
    let node = lost(agent(100)).await.done().unwrap();
    assert_eq!((node.way_in.way, node.is_offerable()), (Way::Unknown, false));
    assert!(matches!(lost(agent(100)).await, Cas::Stale), "it is written once");
    assert_eq!(way_in_events(&world, id).await, ["node.way_in_open", "node.way_in_unknown"]);
    world.store.agents().set_way_in(id, &open(), agent(0), at(160)).await.unwrap().done().unwrap();
    assert!(world.node(id).await.is_offerable());
    world.store.agents().link_changed(id, link_epoch, "api-1", LinkState::Lost, at(170)).await.unwrap();
    assert_eq!(lost(Prober::Scheduler).await.done().unwrap().way_in.way, Way::Unknown);
}

async fn a_clock_that_is_off_is_kept_until_it_is_right(world: World) {
    world.join_token().await;
    let id = world.register(&world.registration(1)).await.id;
    let set = async |off| world.store.agents().set_clock_off(id, off, at(10)).await.unwrap();
    assert!(matches!(set(None).await, Cas::Stale));
    assert_eq!(set(Some(180_000)).await.done().unwrap().clock_off_ms, Some(180_000));
    assert!(matches!(set(Some(180_000)).await, Cas::Stale));
    assert_eq!(set(Some(-5_000)).await.done().unwrap().clock_off_ms, Some(-5_000));
    assert_eq!(set(None).await.done().unwrap().clock_off_ms, None);
}
