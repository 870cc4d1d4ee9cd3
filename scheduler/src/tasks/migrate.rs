//! A lease migrates when it has lost its node: it is moved to a new one. Where none is free it waits, visibly.

use crate::{
    context::Scheduler,
    driver::{ForeignWork, Lanes, Report, Task},
};
use orion_domain::{
    LeaseId, Timestamp,
    lease::{Lease, LeaseState, OnNodeLoss},
};
use orion_fleet::NotProvisioned;
use orion_store::{MoveOutcome, MoveReason, NO_NODE_IS_FREE, StoreError};
use std::{collections::HashMap, time::Duration};

/// Migrating leases read in one run.
const BATCH_MAX: usize = 256;
/// Pause before the next page of a round.
const NEXT_PAGE_AFTER: Duration = Duration::from_millis(50);
/// Reason recorded on a lease that is to wait for its own node: then there is nothing to do for it.
const ITS_OWN: &str = "it waits for its own node, as its policy says";

/// A round through the leases, a page in each run: those that wait in vain hide nobody behind them.
#[derive(Default)]
struct Round {
    /// The last lease of the page before; none at the beginning of a round.
    after: Option<(Timestamp, LeaseId)>,
    /// Foreign work of the round before.
    foreign: ForeignWork<LeaseId>,
    /// Foreign work of this one, as far as it has come.
    met: ForeignWork<LeaseId>,
}

impl Round {
    /// Takes the next page, which is the last one unless it has `limit` leases: of it what `ready` lets through.
    fn take<T>(
        &mut self,
        page: Vec<T>,
        limit: usize,
        place: impl Fn(&T) -> (Timestamp, LeaseId),
        ready: impl FnOnce(&mut ForeignWork<LeaseId>, Vec<T>) -> Vec<T>,
    ) -> Vec<T> {
        self.after = if page.len() < limit { None } else { page.last().map(place) };
        // Foreign work on the other pages is not forgotten over this one.
        let mut foreign = self.foreign.clone();
        let ready = ready(&mut foreign, page);
        self.met.merge(foreign);
        if self.after.is_none() {
            self.foreign = std::mem::take(&mut self.met);
        }
        ready
    }
}

/// The task that moves leases.
pub struct Migrate {
    lanes: Lanes<LeaseId>,
    round: Round,
}

impl Migrate {
    /// Makes the task.
    pub fn new(scheduler: &Scheduler) -> Self {
        Self { lanes: Lanes::new(Self::NAME, scheduler.config.side_by_side_max), round: Round::default() }
    }
}

impl Task for Migrate {
    const NAME: &'static str = "migrate";

    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        // No more than there is room for: the round must not pass over a lease that could not be started.
        let limit = self.lanes.room().min(BATCH_MAX);
        if limit == 0 {
            return Ok(Report::default());
        }
        let leases =
            scheduler.fleet.store.leases().to_migrate(ITS_OWN, self.round.after, limit as u32).await?;
        let found = leases.len();
        let ready = self.round.take(
            leases,
            limit,
            |lease| (lease.since, lease.id),
            |foreign, leases| {
                foreign.ready_items(scheduler, leases, |lease| (lease.id, lease.state.occupies()))
            },
        );
        let ready = without_those_that_wait_in_vain(scheduler, ready).await?;
        let started = self.lanes.start_all(
            scheduler,
            ready,
            |lease| lease.id,
            |scheduler, lease| async move { migrate(&scheduler, lease).await },
        );
        let report = Report::new(found, started);
        // A round goes on soon: who lost its node just now comes last in it.
        Ok(if self.round.after.is_some() { report.next_in(NEXT_PAGE_AFTER) } else { report })
    }
}

/// Returns the leases but those that say already that no node is free, while none is: each would cost a transaction that
/// changes nothing. One query answers for all that want the same.
async fn without_those_that_wait_in_vain(
    scheduler: &Scheduler,
    leases: Vec<Lease>,
) -> Result<Vec<Lease>, StoreError> {
    let (mut answers, mut kept) = (HashMap::new(), Vec::with_capacity(leases.len()));
    for lease in leases {
        let says_so = matches!(&lease.state, LeaseState::Migrating { to: None, reason, .. }
            if reason.starts_with(NO_NODE_IS_FREE));
        if !says_so || scheduler.fleetwide.brake_engaged() {
            kept.push(lease);
            continue;
        }
        let wants = (lease.tags.clone(), lease.holding);
        if !answers.contains_key(&wants) {
            let free = scheduler.fleet.store.nodes().has_free(&lease.tags, lease.holding).await?;
            answers.insert(wants.clone(), free);
        }
        if answers.get(&wants).is_some_and(|free| *free) {
            kept.push(lease);
        }
    }
    Ok(kept)
}

async fn migrate(scheduler: &Scheduler, lease: Lease) -> Result<(), StoreError> {
    let fleet = &scheduler.fleet;
    let LeaseState::Migrating { from, to: None, .. } = lease.state else {
        // It has a node. Whoever claimed that provisions there; if they died, the reconcile of the node does,
        // or, on one that is not alive, the sweep moves the lease on.
        return Ok(());
    };
    let wait = async |why: &str| fleet.store.leases().set_waiting(lease.id, why, fleet.now()).await.map(drop);
    match lease.on_node_loss {
        OnNodeLoss::Wait => return wait(ITS_OWN).await,
        OnNodeLoss::Migrate | OnNodeLoss::End => {}
    }
    if scheduler.fleetwide.brake_engaged() {
        return wait("the brake is on: too many nodes went silent at once").await;
    }
    match fleet.move_on(lease.id, from, None, MoveReason::NodeDead).await? {
        MoveOutcome::Placed(placement) => {
            match fleet.provision(placement).await {
                Ok(done) => {
                    tracing::info!(lease = %done.lease, node = %done.node, from = %from, "a lease moved")
                }
                Err(NotProvisioned::Store(error)) => return Err(error),
                Err(error) => tracing::warn!(lease = %lease.id, ?error, "a lease found no node yet"),
            }
            Ok(())
        }
        // It waits, and says so: it takes the first node that comes, or its own if that returns.
        MoveOutcome::NoneFree { .. } | MoveOutcome::Stale => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::SchedulerConfig, tasks::heartbeat::Heartbeat};
    use orion_domain::{
        NodeId, Secret, UserId,
        names::Tag,
        node::{Facts, Health},
        way_in::WayInReport,
    };
    use orion_fleet::Fleet;
    use orion_service::{
        assemble::{Settings, assemble},
        sealed::MasterKey,
    };
    use orion_ssh::ControlCa;
    use orion_store::{
        CreateUser, FinishReconcile, NewAccount, NewUser, NodeClaim, PlaceOutcome, PlaceRequest, Prober,
        RegisterNode, RegisterOutcome,
    };
    use orion_testkit::wait_until;
    use std::time::Instant;
    use tokio_util::sync::CancellationToken;

    const AFTER: Duration = Duration::from_secs(3);

    /// Takes a page of leases that all came to wait at once, with room for three; returns which of them are ready.
    fn take(round: &mut Round, waiting: &[i64], at: Instant) -> Vec<i64> {
        let after = round.after.map_or(0, |(_, id)| id.0);
        let page: Vec<i64> = waiting.iter().copied().filter(|id| *id > after).take(3).collect();
        let place = |id: &i64| (Timestamp::from_micros(7), LeaseId(*id));
        round.take(page, 3, place, |foreign, page| {
            let own = |node: NodeId| node.0 < 100;
            foreign.ready_at(at, AFTER, page, |id| (LeaseId(*id), Some(NodeId(*id))), own)
        })
    }

    #[test]
    fn every_lease_is_reached_however_many_wait_in_vain_before_it() {
        let (mut round, start) = (Round::default(), Instant::now());
        let waiting: Vec<i64> = (1..=8).collect();
        let pages: Vec<Vec<i64>> = (0..4).map(|_| take(&mut round, &waiting, start)).collect();
        assert_eq!(pages, [vec![1, 2, 3], vec![4, 5, 6], vec![7, 8], vec![1, 2, 3]]);
        assert_eq!(take(&mut round, &[], start), Vec::<i64>::new());
        assert_eq!(take(&mut round, &[1, 2], start), [1, 2], "a page that is not full ends the round");
        assert_eq!(take(&mut round, &[1, 2], start), [1, 2]);
    }

    #[test]
    fn foreign_work_is_ready_in_time_on_whichever_page_it_stands() {
        let (mut round, start) = (Round::default(), Instant::now());
        let waiting = [1, 2, 100, 101, 102, 103, 104];
        let mut take_at = |secs: u64| take(&mut round, &waiting, start + Duration::from_secs(secs));
        assert_eq!([take_at(0), take_at(1), take_at(2)], [vec![1, 2], vec![], vec![]]);
        assert_eq!(take_at(3), [1, 2, 100]);
        assert_eq!(take_at(3), Vec::<i64>::new(), "they were first seen a second later");
        assert_eq!([take_at(5), take_at(6)], [vec![104], vec![1, 2, 100]]);
        assert_eq!(take_at(6), [101, 102, 103]);
    }

    async fn set_health(fleet: &Fleet, id: NodeId, health: Health) {
        let version = fleet.store.nodes().get(id).await.unwrap().unwrap().version;
        fleet
            .store
            .nodes()
            .set_health(id, version, health, "test", fleet.now())
            .await
            .unwrap()
            .done()
            .unwrap();
    }

    async fn finish(fleet: &Fleet, claim: &NodeClaim) {
        let result = FinishReconcile {
            applied_version: claim.desired_version,
            ready: claim.desired.iter().map(|desired| (desired.lease, None)).collect(),
            ..FinishReconcile::default()
        };
        fleet.store.nodes().finish_reconcile(claim, &result, fleet.now()).await.unwrap().done().unwrap();
    }

    /// A node that is offered; nobody listens at its address.
    async fn free_node(fleet: &Fleet, number: u16, tags: &[Tag]) -> NodeId {
        let sha = |number: u16| format!("{number:064x}");
        let (store, now, key) = (&fleet.store, fleet.now(), ControlCa::generate().public_line());
        store.accounts().create_join_token(&sha(number), "test", None, None, None, now).await.unwrap();
        let request = RegisterNode {
            hostname: format!("node-{number}").parse().unwrap(),
            addr: "127.0.0.1".parse().unwrap(),
            port: i64::from(number).try_into().unwrap(),
            host_keys: vec![key.rsplit_once(' ').unwrap().0.parse().unwrap()],
            facts: Facts::default(),
            tags: tags.to_vec(),
            body_sha256: sha(100 + number),
            join_token_sha256: Some(sha(number)),
            node_token_sha256_presented: None,
            boot_id: None,
            machine_id_sha256: None,
            new_node_token_sha256: sha(200 + number),
            now,
        };
        let outcome = store.nodes().register(&request).await.unwrap();
        let RegisterOutcome::Created(node) = outcome else { panic!("{outcome:?}") };
        store.nodes().admit(node.id, node.version, now).await.unwrap().done().unwrap();
        set_health(fleet, node.id, Health::Alive).await;
        let open = WayInReport { open: true, reason: String::new() };
        store.agents().set_way_in(node.id, &open, Prober::Scheduler, now).await.unwrap().done().unwrap();
        let ttl = fleet.config.claim_ttl;
        let claim = store.nodes().claim(node.id, "test", ttl, fleet.now()).await.unwrap().unwrap();
        finish(fleet, &claim).await;
        node.id
    }

    /// A lease that lost its node, the only one of that number.
    async fn lost_lease(fleet: &Fleet, user: UserId, number: u16, tags: &[Tag]) -> LeaseId {
        let node = free_node(fleet, number, tags).await;
        let (config, now) = (&fleet.config, fleet.now());
        let request = PlaceRequest {
            user,
            username: "alice".parse().unwrap(),
            count: 1,
            from: now,
            until: now.plus(Duration::from_secs(3600)),
            name: None,
            accounts: vec![NewAccount { password_hash: Secret::new("$6$a$b"), public_key: None }],
            tags: tags.to_vec(),
            holding: orion_domain::lease::Holding::WholeNode,
            containers: Vec::new(),
            on_node_loss: OnNodeLoss::Migrate,
            nodes_max: None,
            request_key: format!("request-{number}"),
            idem: None,
            first_turn: config.claim_ttl,
            first_uid: orion_domain::reconcile::FIRST_UID,
            last_uid: orion_domain::reconcile::LAST_UID,
            now,
        };
        let outcome = fleet.store.leases().place(&request).await.unwrap();
        let PlaceOutcome::Placed(placements) = outcome else { panic!("{outcome:?}") };
        let (placed, ttl) = (&placements[0], config.claim_ttl);
        let claim = fleet.store.nodes().claim_placed(placed, "test", ttl, now).await.unwrap().unwrap();
        finish(fleet, &claim).await;
        set_health(fleet, node, Health::Dead).await;
        placements[0].lease.id
    }

    #[tokio::test]
    async fn leases_for_which_no_node_is_free_do_not_hold_up_a_later_one() {
        let (fleet, user, _directory) = database().await;
        for number in 1..=5 {
            lost_lease(&fleet, user, number, &["gpu".parse().unwrap()]).await;
        }
        let last = lost_lease(&fleet, user, 6, &[]).await;
        free_node(&fleet, 7, &[]).await;
        let config = SchedulerConfig {
            side_by_side_max: 2,
            period: Duration::from_millis(50),
            ..SchedulerConfig::default()
        };
        let shutdown = CancellationToken::new();
        let scheduler = Scheduler::new(fleet.clone(), config, shutdown.clone());
        scheduler.fleetwide.set_brake(fleet.store.cluster().brake().await.unwrap());
        scheduler.drive(Heartbeat::default());
        scheduler.drive(Migrate::new(&scheduler));
        wait_until("the last one goes to the free node", Duration::from_secs(10), async || {
            let events = fleet.store.events().of_lease(last, 100).await.map_err(|error| error.to_string())?;
            let kinds: Vec<String> = events.into_iter().map(|event| event.kind).collect();
            if kinds.iter().any(|kind| kind == "lease.moving") { Ok(()) } else { Err(format!("{kinds:?}")) }
        })
        .await;
        shutdown.cancel();
    }

    #[tokio::test]
    async fn a_lease_that_waits_for_a_node_is_tried_again_only_when_one_is_free() {
        let (fleet, user, _directory) = database().await;
        let gpu: Vec<Tag> = vec!["gpu".parse().unwrap()];
        let lease = lost_lease(&fleet, user, 1, &gpu).await;
        free_node(&fleet, 2, &[]).await;
        let scheduler = Scheduler::new(fleet.clone(), SchedulerConfig::default(), CancellationToken::new());
        scheduler.fleetwide.set_brake(fleet.store.cluster().brake().await.unwrap());
        Task::run(&mut Heartbeat::default(), &scheduler).await.unwrap();
        let mut task = Migrate::new(&scheduler);
        assert_eq!(task.run(&scheduler).await.unwrap(), Report::new(1, 1), "it does not wait yet");
        let waits = async || {
            let waiting = fleet.store.leases().get(lease).await.unwrap().unwrap();
            matches!(&waiting.state, LeaseState::Migrating { reason, .. } if reason.starts_with(NO_NODE_IS_FREE))
                .then_some(waiting.version)
                .filter(|_| task_is_idle(&task))
                .ok_or("it does not say so")
        };
        let version = wait_until("it waits and says so", Duration::from_secs(10), waits).await;
        for _ in 0..3 {
            assert_eq!(task.run(&scheduler).await.unwrap(), Report::new(1, 0), "no node has the tag");
        }
        assert_eq!(fleet.store.leases().get(lease).await.unwrap().unwrap().version, version);
        free_node(&fleet, 3, &gpu).await;
        assert_eq!(task.run(&scheduler).await.unwrap(), Report::new(1, 1), "one is free");
    }

    fn task_is_idle(task: &Migrate) -> bool {
        task.lanes.room() == SchedulerConfig::default().side_by_side_max
    }

    /// A new database with one user.
    async fn database() -> (Fleet, UserId, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings::new(
            vec![format!("sqlite:{}", directory.path().join("orion.db").display())],
            4,
            MasterKey::generate(),
        );
        let fleet = assemble(&settings).await.unwrap().fleet;
        let name = "alice".parse().unwrap();
        let made = fleet.store.accounts().create(&NewUser::new(&name, "x"), fleet.now()).await.unwrap();
        let CreateUser::Created(user) = made else { panic!("{made:?}") };
        (fleet, user, directory)
    }
}
