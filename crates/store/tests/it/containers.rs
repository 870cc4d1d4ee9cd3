//! Containers of leases: names, limits, what was seen of them, and what becomes of them when their lease moves or ends.

use crate::world::{TTL, World, at, on_both};
use orion_domain::{
    ContainerId, LeaseId, NodeId,
    container::{ContainerExit, ContainerPhase},
    lease::{EndReason, Holding, Lease},
    names::Port,
    node::Health,
};
use orion_store::{
    Cas, ContainerMade, ContainerNews, ContainerRow, ContainerStanding, DrainRequest, EngineSaid,
    FirstContainer, Largest, MoveOutcome, MoveReason, MoveRequest, NewContainer, NodePort, PlaceOutcome,
    PlaceRequest, Pulled, Wanted, WantedPorts, new_container_uid,
};

on_both!(
    a_container_makes_its_node_dirty_and_has_a_name_of_its_own,
    many_requests_at_once_get_different_numbers_and_no_more_than_the_limit,
    what_is_seen_of_a_container_is_told_once,
    of_what_an_owner_wants_the_last_counts_until_it_is_removed,
    when_its_lease_moves_a_container_is_made_anew_and_an_old_sighting_is_no_news,
    with_its_lease_a_container_is_over,
    a_port_of_a_node_is_one_containers_until_nobody_can_be_led_by_it_to_another,
    a_lease_with_containers_moves_to_a_node_with_an_engine_where_there_is_one,
    a_lease_is_placed_with_its_container_on_a_node_whose_engine_takes_it,
    an_engine_is_asked_less_and_less_often_until_it_is_there,
    what_was_ended_for_a_move_that_came_to_nothing_runs_again_as_it_was,
    a_restart_has_happened_when_another_run_was_seen,
    a_node_that_has_held_a_lease_is_looked_at_when_its_engine_is_back,
    an_engine_is_silent_since_the_first_time_and_answers_once,
    the_node_that_a_lease_with_containers_has_left_is_known_for_as_long_as_it_lives,
);

async fn lease(world: &World) -> (Lease, NodeId) {
    let node = world.free_node(1).await;
    let user = world.user("alice").await;
    (world.active_lease(&world.wish(user, 1)).await, node)
}

fn wish(lease: LeaseId, name: Option<&str>) -> NewContainer {
    NewContainer {
        lease,
        name: name.map(Into::into),
        spec: "{}".into(),
        uid: new_container_uid(at(0)),
        spec_sealed: vec![1, 2],
        at_once_max: 3,
        actor: None,
    }
}

async fn made(world: &World, lease: LeaseId, name: Option<&str>) -> ContainerRow {
    match world.store.containers().create(&wish(lease, name), at(5)).await.unwrap() {
        ContainerMade::Made { row, .. } => *row,
        other => panic!("{other:?}"),
    }
}

fn runs(row: &ContainerRow, node: NodeId) -> ContainerNews {
    ContainerNews {
        id: row.id,
        incarnation: row.incarnation,
        node,
        engine_id: Some("e1".into()),
        phase: ContainerPhase::Running,
        reason: None,
        exit: None,
        started_at: Some(at(6)),
        finished_at: None,
    }
}

async fn phase(world: &World, id: ContainerId) -> ContainerPhase {
    world.store.containers().get(id).await.unwrap().unwrap().phase
}

async fn a_container_makes_its_node_dirty_and_has_a_name_of_its_own(world: World) {
    let (lease, node) = lease(&world).await;
    let web = made(&world, lease.id, Some("web")).await;
    assert_eq!((web.number, web.phase, web.wanted), (1, ContainerPhase::Pending, Wanted::Started));
    assert_eq!(world.store.nodes().dirty(at(5), 9).await.unwrap(), [node]);
    world.check_holds(at(5)).await;
    let taken = world.store.containers().create(&wish(lease.id, Some("web")), at(6)).await.unwrap();
    assert_eq!(taken, ContainerMade::NameTaken("web".into()));
    let second = made(&world, lease.id, None).await;
    assert_eq!((second.number, second.name.as_str()), (2, "2"));
    let listed = world.store.containers().of_node(node).await.unwrap();
    assert_eq!(listed, world.store.containers().of_lease(lease.id).await.unwrap());
    assert_eq!(listed.iter().map(|row| row.id).collect::<Vec<_>>(), [web.id, second.id]);
    assert_eq!(world.store.containers().get(web.id).await.unwrap(), Some(web));
    assert_eq!(world.lease(lease.id).await.containers, 2);
}

async fn many_requests_at_once_get_different_numbers_and_no_more_than_the_limit(world: World) {
    let (lease, _) = lease(&world).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, wish) = (world.store.clone(), wish(lease.id, None));
        tasks.spawn(async move { store.containers().create(&wish, at(5)).await.unwrap() });
    }
    let outcomes = tasks.join_all().await;
    let refused = outcomes.iter().filter(|outcome| **outcome == ContainerMade::TooMany).count();
    assert_eq!(refused, 5, "{outcomes:?}");
    let numbers: Vec<u32> =
        world.store.containers().of_lease(lease.id).await.unwrap().iter().map(|row| row.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
}

async fn what_is_seen_of_a_container_is_told_once(world: World) {
    let (lease, node) = lease(&world).await;
    let row = made(&world, lease.id, Some("web")).await;
    let pulled = Pulled { step: "pulling".into(), done: 10, total: Some(100) };
    assert!(world.store.containers().pulling((row.id, row.incarnation), &pulled, at(6)).await.unwrap());
    let pulls = world.store.containers().get(row.id).await.unwrap().unwrap();
    assert_eq!(
        (pulls.phase, pulls.bytes_done, pulls.bytes_total),
        (ContainerPhase::Pulling, Some(10), Some(100))
    );
    let news = runs(&row, node);
    let Cas::Done(seen) = world.store.containers().observed(&news, at(7)).await.unwrap() else {
        panic!("new")
    };
    assert_eq!(
        (seen.phase, seen.engine_id.as_deref(), seen.step),
        (ContainerPhase::Running, Some("e1"), None)
    );
    assert_eq!(world.store.containers().observed(&news, at(8)).await.unwrap(), Cas::Stale, "nothing new");
    assert!(!world.store.containers().pulling((row.id, row.incarnation), &pulled, at(8)).await.unwrap());
    let exit = ContainerExit { code: 137, oom_killed: true, error: String::new() };
    let reason = exit.to_string();
    let ended = ContainerNews {
        phase: ContainerPhase::Exited,
        reason: Some(reason.clone()),
        exit: Some(exit),
        finished_at: Some(at(9)),
        ..news
    };
    let Cas::Done(seen) = world.store.containers().observed(&ended, at(9)).await.unwrap() else {
        panic!("new")
    };
    assert_eq!((seen.reason.as_deref(), seen.exit.map(|exit| exit.oom_killed)), (Some(&*reason), Some(true)));
    let told: Vec<String> =
        world.store.events().of_lease(lease.id, 99).await.unwrap().into_iter().map(|e| e.kind).collect();
    let told: Vec<&str> =
        told.iter().map(String::as_str).filter(|kind| kind.starts_with("container")).collect();
    assert_eq!(told, ["container.created", "container.running", "container.exited"]);
}

async fn of_what_an_owner_wants_the_last_counts_until_it_is_removed(world: World) {
    let (lease, node) = lease(&world).await;
    let row = made(&world, lease.id, Some("web")).await;
    world.clean(node, at(6)).await;
    let waiting = async || world.store.containers().waiting(at(99), 9).await.unwrap().len();
    assert_eq!(waiting().await, 1, "it is to be made");
    let want = async |wanted| world.store.containers().want(row.id, wanted, None, at(7)).await.unwrap();
    for wanted in [Wanted::Stopped, Wanted::Restarted] {
        let Cas::Done(now) = want(wanted).await else { panic!("{wanted:?}") };
        assert_eq!(now.wanted, wanted);
        assert_eq!(
            waiting().await,
            usize::from(wanted == Wanted::Restarted),
            "nobody waits for one that is not to run"
        );
        assert_eq!(world.store.nodes().dirty(at(7), 9).await.unwrap(), [node]);
    }
    world.store.containers().observed(&runs(&row, node), at(8)).await.unwrap().done().unwrap();
    let again = world.store.containers().get(row.id).await.unwrap().unwrap();
    assert_eq!(again.wanted, Wanted::Started, "the restart has happened");
    let Cas::Done(gone) = want(Wanted::Removed).await else { panic!("it is there") };
    assert_eq!(gone.phase, ContainerPhase::Removed);
    assert_eq!(world.store.containers().of_node(node).await.unwrap(), []);
    assert_eq!(want(Wanted::Started).await, Cas::Stale);
    assert_eq!(world.store.containers().observed(&runs(&row, node), at(9)).await.unwrap(), Cas::Stale);
    // Its name is free again.
    assert_eq!(made(&world, lease.id, Some("web")).await.number, 2);
}

async fn when_its_lease_moves_a_container_is_made_anew_and_an_old_sighting_is_no_news(world: World) {
    let (lease, node) = lease(&world).await;
    let row = made(&world, lease.id, Some("web")).await;
    let done = made(&world, lease.id, Some("done")).await;
    world.clean(node, at(6)).await;
    world.store.containers().observed(&runs(&row, node), at(6)).await.unwrap().done().unwrap();
    let exit = Some(ContainerExit { code: 0, oom_killed: false, error: String::new() });
    let ended = ContainerNews { phase: ContainerPhase::Exited, exit, ..runs(&done, node) };
    world.store.containers().observed(&ended, at(6)).await.unwrap().done().unwrap();
    world.set_health(node, Health::Dead, at(7)).await;
    let other = world.free_node(2).await;
    let why = MoveReason::NodeDead;
    let request = MoveRequest {
        lease: lease.id,
        away_from: node,
        claim_of_old: None,
        why,
        first_turn: TTL,
        now: at(8),
    };
    let MoveOutcome::Placed(_) = world.store.leases().migrate(&request).await.unwrap() else {
        panic!("it is free")
    };
    let moved = world.store.containers().get(row.id).await.unwrap().unwrap();
    assert_eq!((moved.incarnation, moved.phase, moved.engine_id), (2, ContainerPhase::Pending, None));
    assert_eq!(phase(&world, done.id).await, ContainerPhase::Exited, "what has ended is not run again");
    for node in [node, other] {
        assert_eq!(world.store.containers().observed(&runs(&row, node), at(9)).await.unwrap(), Cas::Stale);
    }
    let fresh = ContainerNews { incarnation: 2, ..runs(&row, other) };
    world.store.containers().observed(&fresh, at(9)).await.unwrap().done().unwrap();
    assert_eq!(phase(&world, row.id).await, ContainerPhase::Running);
    let standings = world.store.containers().standings(&[row.id, done.id]).await.unwrap();
    let standing = |node, engine_id, runs| ContainerStanding { node, engine_id, runs };
    assert_eq!(standings[&row.id], standing(Some(other), Some("e1".into()), true));
    assert_eq!(standings[&done.id], standing(None, None, false));
}

async fn with_its_lease_a_container_is_over(world: World) {
    let (lease, node) = lease(&world).await;
    let row = made(&world, lease.id, Some("web")).await;
    world.clean(node, at(6)).await;
    assert_eq!(world.store.containers().standings(&[row.id]).await.unwrap().len(), 1);
    world.store.leases().end(&[lease.id], &EndReason::Released, None, at(7)).await.unwrap();
    assert!(world.store.containers().standings(&[row.id]).await.unwrap().is_empty(), "its lease ends");
    assert_eq!(world.store.containers().of_node(node).await.unwrap(), [], "a node has to hold nothing of it");
    let late = world.store.containers().create(&wish(lease.id, None), at(7)).await.unwrap();
    assert_eq!(late, ContainerMade::LeaseOver);
    assert_eq!(phase(&world, row.id).await, ContainerPhase::Pending, "until its removal is verified");
    world.clean(node, at(8)).await;
    assert_eq!(phase(&world, row.id).await, ContainerPhase::Removed);
}

async fn a_lease_with_containers_moves_to_a_node_with_an_engine_where_there_is_one(world: World) {
    let (lease, node) = lease(&world).await;
    made(&world, lease.id, Some("web")).await;
    world.clean(node, at(6)).await;
    for number in 2..10 {
        world.free_node(number).await;
    }
    let with_engine = world.free_node(10).await;
    world.store.containers().engine_seen(with_engine, Some("docker 20.10.24 (API 1.41)")).await.unwrap();
    world.set_health(node, Health::Dead, at(7)).await;
    let moved = async |away_from, second| {
        let why = MoveReason::NodeDead;
        let request = MoveRequest {
            lease: lease.id,
            away_from,
            claim_of_old: None,
            why,
            first_turn: TTL,
            now: at(second),
        };
        match world.store.leases().migrate(&request).await.unwrap() {
            MoveOutcome::Placed(placement) => placement.node(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(moved(node, 8).await, with_engine);
    // Its login matters more than its containers: without one it moves all the same.
    world.set_health(with_engine, Health::Dead, at(9)).await;
    let back = world.lease(lease.id).await.state.occupies().unwrap();
    assert_ne!(moved(back, 10).await, with_engine);
}

async fn a_port_of_a_node_is_one_containers_until_nobody_can_be_led_by_it_to_another(world: World) {
    let (lease, node) = lease(&world).await;
    let containers = world.store.containers();
    let (web, db) = (made(&world, lease.id, Some("web")).await, made(&world, lease.id, Some("db")).await);
    let ports: Vec<Port> = [8080, 9090].map(|port| Port::try_from(port).unwrap()).to_vec();
    let wanted =
        |count: usize, public| WantedPorts { ports: &ports[..count], public, range: 20_000..=20_002 };
    let at_port = |port, node_port| NodePort { port, node_port };
    let taken = containers.take_ports(&web, node, &wanted(2, false)).await.unwrap().unwrap();
    assert_eq!(taken, [at_port(8080, 20_000), at_port(9090, 20_001)]);
    let web = containers.get(web.id).await.unwrap().unwrap();
    assert_eq!(web.node_ports, taken, "they stay the same");
    assert_eq!(containers.take_ports(&web, node, &wanted(2, false)).await.unwrap().unwrap(), taken);
    assert_eq!(containers.take_ports(&db, node, &wanted(2, true)).await.unwrap(), None, "there are three");
    let other = containers.take_ports(&db, node, &wanted(1, true)).await.unwrap().unwrap();
    assert_eq!(other, [at_port(8080, 20_002)]);
    let published = containers.published(node).await.unwrap();
    let shown: Vec<(u16, bool)> = published.iter().map(|port| (port.port, port.is_public)).collect();
    assert_eq!(shown, [(20_000, false), (20_001, false), (20_002, true)]);
    world.check_holds(at(5)).await;

    // Of one that is gone they are free later, and no earlier.
    containers.free_ports_but(node, &[db.id]).await.unwrap();
    let third = made(&world, lease.id, Some("third")).await;
    assert_eq!(containers.take_ports(&third, node, &wanted(1, false)).await.unwrap(), None);
    containers.sweep_ports(at(10), at(20)).await.unwrap();
    containers.sweep_ports(at(19), at(21)).await.unwrap();
    assert_eq!(containers.take_ports(&third, node, &wanted(1, false)).await.unwrap(), None);
    containers.sweep_ports(at(20), at(22)).await.unwrap();
    let again = containers.take_ports(&third, node, &wanted(1, false)).await.unwrap().unwrap();
    assert_eq!(again, [at_port(8080, 20_000)]);
    // What something else uses there is avoided.
    containers.avoid_ports(&third, node, at(100)).await.unwrap();
    let third = containers.get(third.id).await.unwrap().unwrap();
    assert_eq!(
        containers.take_ports(&third, node, &wanted(1, false)).await.unwrap().unwrap(),
        [at_port(8080, 20_001)]
    );

    // With the hold of its lease all of them are freed, and only that.
    world.store.leases().end(&[lease.id], &EndReason::Released, None, at(30)).await.unwrap();
    world.clean(node, at(31)).await;
    assert_eq!(containers.published(node).await.unwrap(), []);
    assert_eq!(world.count("SELECT COUNT(*) FROM ports WHERE freed_at IS NOT NULL").await, 3);
}

fn first(cpu_milli: Option<u32>) -> FirstContainer {
    FirstContainer {
        name: Some("web".into()),
        spec: "{}".into(),
        uid: new_container_uid(at(0)),
        spec_sealed: vec![1, 2],
        cpu_milli,
        memory_mb: None,
        gpus: 0,
    }
}

async fn a_lease_is_placed_with_its_container_on_a_node_whose_engine_takes_it(world: World) {
    let (_without, with) = (world.free_node(1).await, world.free_node(2).await);
    let user = world.user("alice").await;
    let whole = |cpu_milli| PlaceRequest { containers: vec![first(cpu_milli)], ..world.wish(user, 1) };
    let small = Holding::Slice { cpu_milli: 500, memory_mb: 512, gpus: 0 };
    let slice = || PlaceRequest { accounts: Vec::new(), holding: small, ..whole(None) };
    let too_few = async |wish: PlaceRequest| {
        let outcome = world.store.leases().place(&wish).await.unwrap();
        assert!(matches!(outcome, PlaceOutcome::TooFew { found: 0, .. }), "{outcome:?}");
    };
    too_few(whole(None)).await;
    too_few(slice()).await;
    let asked = Largest { cpu_milli: 500, memory_mb: 512, gpus: 0 };
    assert_eq!(world.store.leases().room(asked).await.unwrap().nodes, 0);
    world.store.containers().engine_seen(with, Some("docker 20.10.24 (API 1.41)")).await.unwrap();
    too_few(whole(Some(4001))).await;

    let placed = world.place(&whole(Some(4000))).await.remove(0);
    assert_eq!((placed.claim.node.id, placed.lease.containers), (with, 1));
    assert!(placed.claim.has_containers);
    let rows = world.store.containers().of_lease(placed.lease.id).await.unwrap();
    assert_eq!((rows.len(), rows[0].name.as_str(), rows[0].node), (1, "web", Some(with)));
    world.finish(&placed.claim, at(1)).await;
    world.check_holds(at(2)).await;
    world.store.leases().end(&[placed.lease.id], &EndReason::Released, None, at(3)).await.unwrap();
    world.clean(with, at(4)).await;

    // A slice without a login is finished after a crash, whoever asked for it: no password is lost.
    let two = PlaceRequest { count: 2, containers: vec![first(None), first(None)], ..slice() };
    let PlaceOutcome::Placed(placed) = world.store.leases().place(&two).await.unwrap() else {
        panic!("room")
    };
    for placement in &placed {
        assert_eq!((placement.node(), placement.lease.containers), (with, 1));
        assert!(placement.lease.finish_after_crash && placement.lease.account.is_none());
    }
    world.check_holds(at(5)).await;
    let room = world.store.leases().room(Largest { cpu_milli: 4000, ..asked }).await.unwrap();
    assert!(room.ever_fits && room.nodes == 1, "{room:?}");
    assert_eq!((room.total.cpu_milli, room.free.cpu_milli, room.free.memory_mb), (4000, 3000, 7168));
    assert!(!world.store.leases().room(Largest { gpus: 1, ..asked }).await.unwrap().ever_fits);
    world.store.containers().engine_said(with, &EngineSaid::Down, at(6)).await.unwrap();
    too_few(slice()).await;
}

async fn an_engine_is_asked_less_and_less_often_until_it_is_there(world: World) {
    let node = world.free_node(1).await;
    let containers = world.store.containers();
    let due = async |second| !containers.engines_to_ask(at(second), 9).await.unwrap().is_empty();
    let mut now = 0;
    for pause in [5, 5, 5, 8, 12] {
        assert!(due(now).await);
        assert!(!containers.engine_said(node, &EngineSaid::Nothing, at(now)).await.unwrap());
        assert!(!due(now + pause - 1).await, "asked at {now}");
        now += pause;
    }
    let docker = EngineSaid::Is("docker 20.10.24 (API 1.41)".into());
    assert!(containers.engine_said(node, &docker, at(now)).await.unwrap());
    assert!(!due(now + 3599).await && due(now + 3600).await);
    assert!(containers.engine_said(node, &EngineSaid::Down, at(now + 3600)).await.unwrap());
    assert!(!containers.engine_said(node, &EngineSaid::Down, at(now + 3660)).await.unwrap());
    assert!(due(now + 3690).await, "one that has answered before is asked often");
    assert!(containers.engine_said(node, &docker, at(now + 3690)).await.unwrap());
    // Whatever a node was found to have, it is asked again when it comes back.
    for health in [Health::Unreachable, Health::Alive] {
        world.set_health(node, health, at(now + 3700)).await;
    }
    assert!(due(now + 3700).await);
}

async fn what_was_ended_for_a_move_that_came_to_nothing_runs_again_as_it_was(world: World) {
    let (lease, node) = lease(&world).await;
    let row = made(&world, lease.id, Some("web")).await;
    let done = made(&world, lease.id, Some("done")).await;
    world.clean(node, at(6)).await;
    world.store.containers().observed(&runs(&row, node), at(6)).await.unwrap().done().unwrap();
    let exit = Some(ContainerExit { code: 0, oom_killed: false, error: String::new() });
    let ended = ContainerNews { phase: ContainerPhase::Exited, exit, ..runs(&done, node) };
    world.store.containers().observed(&ended, at(6)).await.unwrap().done().unwrap();
    world.store.nodes().drain(node, &DrainRequest::default(), at(7)).await.unwrap().done().unwrap();
    let other = world.free_node(2).await;
    let moved = async |away_from, why, second| {
        let request = MoveRequest {
            lease: lease.id,
            away_from,
            claim_of_old: None,
            why,
            first_turn: TTL,
            now: at(second),
        };
        world.store.leases().migrate(&request).await.unwrap()
    };
    let MoveOutcome::Placed(_) = moved(node, MoveReason::Draining("new fans".into()), 8).await else {
        panic!("it is free")
    };
    let there = world.store.containers().get(row.id).await.unwrap().unwrap();
    assert_eq!((there.incarnation, there.oldest_incarnation, there.wanted), (2, 2, Wanted::Started));
    let lost = async |now| world.store.leases().nodes_left(lease.id, now, at(0)).await.unwrap();
    assert_eq!(lost(other).await, [node], "it has them still");
    let MoveOutcome::NoneFree { .. } = moved(other, MoveReason::Lost("no answer".into()), 9).await else {
        panic!("there is no third")
    };
    assert_eq!(world.lease(lease.id).await.state.occupies(), Some(node));
    let back = world.store.containers().get(row.id).await.unwrap().unwrap();
    assert_eq!((back.incarnation, back.oldest_incarnation), (3, 1), "the one that was there is the one");
    assert_eq!((back.wanted, back.restart_of), (Wanted::Restarted, None));
    let done = world.store.containers().get(done.id).await.unwrap().unwrap();
    assert_eq!(
        (done.phase, done.wanted),
        (ContainerPhase::Exited, Wanted::Started),
        "it had ended by itself"
    );
}

async fn a_restart_has_happened_when_another_run_was_seen(world: World) {
    let (lease, node) = lease(&world).await;
    let row = made(&world, lease.id, Some("web")).await;
    world.clean(node, at(6)).await;
    world.store.containers().observed(&runs(&row, node), at(6)).await.unwrap().done().unwrap();
    world.store.containers().want(row.id, Wanted::Restarted, None, at(7)).await.unwrap().done().unwrap();
    let wanted = async || world.store.containers().get(row.id).await.unwrap().unwrap().wanted;
    assert_eq!(world.store.containers().observed(&runs(&row, node), at(8)).await.unwrap(), Cas::Stale);
    assert_eq!(wanted().await, Wanted::Restarted, "that is the run which its owner saw");
    let again = ContainerNews { started_at: Some(at(9)), ..runs(&row, node) };
    world.store.containers().observed(&again, at(9)).await.unwrap().done().unwrap();
    assert_eq!(wanted().await, Wanted::Started);
}

async fn a_node_that_has_held_a_lease_is_looked_at_when_its_engine_is_back(world: World) {
    let (_, held) = lease(&world).await;
    world.clean(held, at(6)).await;
    let never = world.free_node(2).await;
    let containers = world.store.containers();
    let docker = EngineSaid::Is("docker 20.10.24 (API 1.41)".into());
    let said = async |said: &EngineSaid, second| {
        for node in [held, never] {
            containers.engine_said(node, said, at(second)).await.unwrap();
        }
        let dirty = [world.node(held).await.is_dirty(), world.node(never).await.is_dirty()];
        if dirty[0] {
            world.clean(held, at(second)).await;
        }
        dirty
    };
    let known = EngineSaid::Is("docker 20.10.25 (API 1.41)".into());
    for (second, what, dirty) in [
        (10, &docker, true),
        (20, &known, false),
        (30, &EngineSaid::Down, false),
        (40, &known, true),
        (50, &EngineSaid::Nothing, false),
        (60, &EngineSaid::Unreached, false),
        (70, &docker, true),
    ] {
        assert_eq!(said(what, second).await, [dirty, false], "{what:?} at {second}");
    }
}

async fn an_engine_is_silent_since_the_first_time_and_answers_once(world: World) {
    let (lease, node) = lease(&world).await;
    world.store.containers().engine_seen(node, Some("docker 20.10.24 (API 1.41)")).await.unwrap();
    assert!(world.store.containers().engine_silent(node, "no answer", at(5)).await.unwrap());
    assert!(!world.store.containers().engine_silent(node, "no answer", at(6)).await.unwrap());
    assert_eq!(world.node(node).await.engine_down_since, Some(at(5)));
    let (silent, with_engine) = world.store.containers().silent_engines().await.unwrap();
    assert_eq!((silent.len(), silent[0].node, silent[0].since, with_engine), (1, node, at(5), 1));
    assert_eq!(silent[0].leases, [], "lease {} has a login there, which works", lease.id);
    assert!(world.store.containers().engine_answers(node, at(7)).await.unwrap());
    assert!(!world.store.containers().engine_answers(node, at(8)).await.unwrap());
    assert_eq!(world.store.containers().silent_engines().await.unwrap(), (Vec::new(), 0));
}

async fn the_node_that_a_lease_with_containers_has_left_is_known_for_as_long_as_it_lives(world: World) {
    let (lease, node) = lease(&world).await;
    let left = async |since| world.store.containers().nodes_left(at(since)).await.unwrap();
    world.store.containers().engine_seen(node, Some("docker 20.10.24 (API 1.41)")).await.unwrap();
    made(&world, lease.id, None).await;
    assert_eq!(left(0).await, [], "it is there");
    world.store.leases().end(&[lease.id], &EndReason::Released, None, at(7)).await.unwrap();
    world.clean(node, at(8)).await;
    assert_eq!((left(8).await, left(9).await), (vec![node], Vec::new()));
    world.set_health(node, Health::Suspect, at(9)).await;
    assert_eq!(left(8).await, [], "nobody can ask it");
}
