//! The table of states against the scheduler: the task that a pair's way out names is one that runs, often enough, and does it.

use crate::{Scheduler, SchedulerConfig, tasks::sweep::NOBODY_KNOWS};
use orion_domain::{
    LeaseId, NodeId, Secret, UserId,
    lease::{EndReason, Holding, LeaseState, OnNodeLoss, Phase},
    node::{Facts, Health, LinkState},
    states::{Pair, WayOut, way_out, way_out_without_node},
    way_in::WayInReport,
};
use orion_fleet::Fleet;
use orion_service::{
    assemble::{Settings, assemble},
    sealed::MasterKey,
};
use orion_ssh::ControlCa;
use orion_store::{
    CreateUser, FinishReconcile, NewAccount, NewUser, PlaceOutcome, PlaceRequest, Prober, RegisterNode,
    RegisterOutcome, Start,
};
use orion_testkit::wait_until;
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longest wait of a test for a state that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the table says of the time that a way out takes at most: two tries of a reconcile are a minute apart, a claim runs
/// out after 10 s; what is due or waits is looked for each second.
fn at_most(way_out: WayOut) -> Duration {
    Duration::from_secs(match way_out {
        WayOut::Reconcile => 60,
        WayOut::Sweep => 10,
        WayOut::Lasts | WayOut::Expire | WayOut::Migrate => 1,
        WayOut::Watch | WayOut::GivenUp | WayOut::AgentThenWatch => 3,
        WayOut::Impossible => 0,
    })
}

/// A new database with one user.
async fn database() -> (Fleet, UserId, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("orion.db").display());
    let fleet = assemble(&Settings::new(vec![url], 4, MasterKey::generate())).await.unwrap().fleet;
    let name = "alice".parse().unwrap();
    let made = fleet.store.accounts().create(&NewUser::new(&name, "x"), fleet.now()).await.unwrap();
    let CreateUser::Created(user) = made else { panic!("{made:?}") };
    (fleet, user, directory)
}

/// A scheduler that runs with its default settings until the guard is dropped.
fn run(fleet: &Fleet) -> (Scheduler, DropGuard) {
    let shutdown = CancellationToken::new();
    let scheduler = Scheduler::new(fleet.clone(), SchedulerConfig::default(), shutdown.clone());
    tokio::spawn(scheduler.clone().run());
    (scheduler, shutdown.drop_guard())
}

#[tokio::test]
async fn each_way_out_of_the_table_is_a_task_that_runs_often_enough() {
    let (fleet, _, _directory) = database().await;
    let (scheduler, _guard) = run(&fleet);
    for way_out in WayOut::ALL {
        let Some(task) = way_out.task() else {
            assert_eq!(way_out, WayOut::Impossible, "all else is ended by somebody");
            continue;
        };
        let ran = async || {
            let statuses = scheduler.runs.statuses(PATIENCE);
            let names: Vec<&str> = statuses.iter().map(|status| status.name.as_str()).collect();
            let status = statuses.iter().find(|status| status.name == task);
            let ran = status.is_some_and(|status| status.last_run.is_some() && status.error.is_none());
            ran.then_some(()).ok_or_else(|| format!("{names:?}"))
        };
        wait_until(&format!("{way_out:?}: the task {task} has run"), PATIENCE, ran).await;
        let period = scheduler.runs.period(task);
        assert!(period <= at_most(way_out), "{way_out:?}: {task} runs each {period:?}");
    }
}

/// A node that is offered; nobody listens at its address.
async fn free_node(fleet: &Fleet) -> NodeId {
    let sha = |number: u32| format!("{number:064x}");
    let (store, now, key) = (&fleet.store, fleet.now(), ControlCa::generate().public_line());
    store.accounts().create_join_token(&sha(1), "test", None, None, None, now).await.unwrap();
    let request = RegisterNode {
        hostname: "node-1".parse().unwrap(),
        addr: "127.0.0.1".parse().unwrap(),
        port: 1.try_into().unwrap(),
        host_keys: vec![key.rsplit_once(' ').unwrap().0.parse().unwrap()],
        facts: Facts::default(),
        tags: Vec::new(),
        body_sha256: sha(2),
        join_token_sha256: Some(sha(1)),
        node_token_sha256_presented: None,
        boot_id: None,
        machine_id_sha256: None,
        new_node_token_sha256: sha(3),
        now,
    };
    let outcome = store.nodes().register(&request).await.unwrap();
    let RegisterOutcome::Created(node) = outcome else { panic!("{outcome:?}") };
    store.nodes().admit(node.id, node.version, now).await.unwrap().done().unwrap();
    set_health(fleet, node.id, Health::Alive).await;
    let open = WayInReport { open: true, reason: String::new() };
    store.agents().set_way_in(node.id, &open, Prober::Scheduler, now).await.unwrap().done().unwrap();
    let claim = store.nodes().claim(node.id, "test", fleet.config.claim_ttl, now).await.unwrap().unwrap();
    let clean = FinishReconcile { applied_version: claim.desired_version, ..FinishReconcile::default() };
    store.nodes().finish_reconcile(&claim, &clean, now).await.unwrap().done().unwrap();
    node.id
}

async fn set_health(fleet: &Fleet, id: NodeId, health: Health) {
    let (nodes, now) = (fleet.store.nodes(), fleet.now());
    let version = nodes.get(id).await.unwrap().unwrap().version;
    nodes.set_health(id, version, health, "test", now).await.unwrap().done().unwrap();
}

/// One node until so long from now; nobody who provides it has longer than a second.
fn wish(fleet: &Fleet, user: UserId, key: &str, length: Duration) -> PlaceRequest {
    let now = fleet.now();
    PlaceRequest {
        user,
        username: "alice".parse().unwrap(),
        count: 1,
        from: now,
        until: now.plus(length),
        name: None,
        accounts: vec![NewAccount { password_hash: Secret::new("$6$a$b"), public_key: None }],
        tags: Vec::new(),
        holding: Holding::WholeNode,
        containers: Vec::new(),
        on_node_loss: OnNodeLoss::Migrate,
        nodes_max: None,
        request_key: key.into(),
        idem: None,
        first_turn: Duration::from_secs(1),
        first_uid: orion_domain::reconcile::FIRST_UID,
        last_uid: orion_domain::reconcile::LAST_UID,
        now,
    }
}

#[tokio::test]
async fn what_the_table_leaves_to_the_sweep_and_to_the_expiry_is_ended_by_them() {
    let (fleet, user, _directory) = database().await;
    let node = free_node(&fleet).await;
    let outcome = fleet.store.leases().place(&wish(&fleet, user, "a", PATIENCE * 100)).await.unwrap();
    let PlaceOutcome::Placed(placements) = outcome else { panic!("{outcome:?}") };
    set_health(&fleet, node, Health::Dead).await;
    let orphan = fleet.store.leases().get(placements[0].lease.id).await.unwrap().unwrap();
    let (health, link, quarantine) = (Health::Dead, LinkState::None, None);
    let pair = Pair { phase: orphan.state.phase(), health, link, quarantine };
    assert_eq!((pair.phase, way_out(pair)), (Phase::Provisioning, WayOut::Sweep));
    let waits = wish(&fleet, user, "b", Duration::from_secs(2));
    let waits = fleet.store.leases().wait(&waits, &Start::Requested).await.unwrap().unwrap().remove(0);
    assert_eq!(way_out_without_node(waits.state.phase()), Some(WayOut::Expire));

    let (_scheduler, _guard) = run(&fleet);
    let ended = async |lease: LeaseId| {
        wait_until("the lease is over", PATIENCE, async || {
            let state = fleet.store.leases().get(lease).await.unwrap().unwrap().state;
            if let LeaseState::Ended { reason } = state { Ok(reason) } else { Err(format!("{state:?}")) }
        })
        .await
    };
    assert_eq!(ended(waits.id).await, EndReason::Expired);
    let swept = ended(orphan.id).await;
    assert!(matches!(&swept, EndReason::Failed { detail } if detail == NOBODY_KNOWS), "{swept:?}");
}
