//! Leases that lost their node: finds each a new one. Where none is free they wait, visibly.

use super::{Lanes, Lying, next_look};
use crate::Scheduler;
use orion_domain::{
    LeaseId, Timestamp,
    lease::{Lease, LeaseState, OnNodeLoss},
};
use orion_fleet::NotProvisioned;
use orion_store::{MoveOutcome, MoveReason, StoreError};
use std::time::Duration;

/// Migrating leases read at one look.
const AT_ONCE: usize = 256;
/// Pause before the next page of a round.
const NEXT_PAGE_AFTER: Duration = Duration::from_millis(50);
/// What a lease says that is to wait for its own node: then there is nothing to do for it.
const ITS_OWN: &str = "it waits for its own node, as its policy says";

/// A round through the leases, a page at each look: those that wait in vain hide nobody behind them.
struct Round {
    /// The last lease of the page before; none at the beginning of a round.
    after: Option<(Timestamp, LeaseId)>,
    /// What lay with others' nodes in the round before.
    lying: Lying<LeaseId>,
    /// What lies there in this one, as far as it has come.
    met: Lying<LeaseId>,
}

impl Round {
    fn new() -> Self {
        Self { after: None, lying: Lying::new(), met: Lying::new() }
    }

    /// Takes the next page, which is the last one unless it has `limit` leases: of it what `due` lets through.
    fn take<T>(
        &mut self,
        page: Vec<T>,
        limit: usize,
        place: impl Fn(&T) -> (Timestamp, LeaseId),
        due: impl FnOnce(&mut Lying<LeaseId>, Vec<T>) -> Vec<T>,
    ) -> Vec<T> {
        self.after = if page.len() < limit { None } else { page.last().map(place) };
        // What lies on the other pages is not forgotten over this one.
        let mut lying = Lying(self.lying.0.clone());
        let due = due(&mut lying, page);
        self.met.0.extend(lying.0);
        if self.after.is_none() {
            self.lying = std::mem::replace(&mut self.met, Lying::new());
        }
        due
    }
}

/// Migrates until shutdown.
pub async fn run(scheduler: Scheduler) {
    let lanes: Lanes<LeaseId> = Lanes::new(scheduler.config.side_by_side_max);
    let mut round = Round::new();
    let mut nudged = scheduler.fleet.nudge.listen();
    loop {
        // No more than there is room for: the round must not pass over a lease that could not be started.
        let limit = lanes.room.available_permits().min(AT_ONCE);
        if limit > 0 && scheduler.fleet.may_claim() {
            match scheduler.fleet.store.leases_to_move(ITS_OWN, round.after, limit as u32).await {
                Ok(leases) => {
                    let due = round.take(
                        leases,
                        limit,
                        |lease| (lease.since, lease.id),
                        |lying, leases| {
                            lying.due(&scheduler, leases, |lease| (lease.id, lease.state.occupies()))
                        },
                    );
                    for lease in due {
                        let (worker, id) = (scheduler.clone(), lease.id);
                        lanes.start(&scheduler, id, async move {
                            if let Err(error) = migrate(&worker, lease).await {
                                tracing::warn!(lease = %id, %error, "a lease could not be moved");
                            }
                        });
                    }
                }
                Err(error) => tracing::warn!(%error, "migrating leases could not be read"),
            }
        }
        // A round goes on soon: who lost its node just now comes last in it.
        let pause = if round.after.is_some() { NEXT_PAGE_AFTER } else { scheduler.config.look_every };
        if !next_look(&scheduler, &mut nudged, pause).await {
            return;
        }
    }
}

async fn migrate(scheduler: &Scheduler, lease: Lease) -> Result<(), StoreError> {
    let fleet = &scheduler.fleet;
    let LeaseState::Migrating { from, to: None, .. } = lease.state else {
        // It has a node. Whoever claimed that provisions there; if they died, the reconcile of the node does,
        // or, on one that is not alive, the sweep moves the lease on.
        return Ok(());
    };
    let wait = async |why: &str| fleet.store.set_waiting(lease.id, why, fleet.now()).await.map(drop);
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
    use crate::{SchedulerConfig, tasks::beat};
    use orion_domain::{
        NodeId, Secret, UserId,
        names::Tag,
        node::{Facts, Health},
    };
    use orion_fleet::Fleet;
    use orion_service::{
        assemble::{Settings, assemble},
        sealed::MasterKey,
    };
    use orion_ssh::ControlCa;
    use orion_store::{
        CreateUser, FinishReconcile, NewAccount, NodeClaim, PlaceOutcome, PlaceRequest, RegisterNode,
        RegisterOutcome, Role,
    };
    use orion_testkit::wait_until;
    use std::time::Instant;
    use tokio_util::sync::CancellationToken;

    const AFTER: Duration = Duration::from_secs(3);

    /// A look at leases that all came to wait at once, with room for three: which of them are due.
    fn look(round: &mut Round, waiting: &[i64], at: Instant) -> Vec<i64> {
        let after = round.after.map_or(0, |(_, id)| id.0);
        let page: Vec<i64> = waiting.iter().copied().filter(|id| *id > after).take(3).collect();
        let place = |id: &i64| (Timestamp::from_micros(7), LeaseId(*id));
        round.take(page, 3, place, |lying, page| {
            let own = |node: NodeId| node.0 < 100;
            lying.sift(page, |id| (LeaseId(*id), Some(NodeId(*id))), own, AFTER, at)
        })
    }

    #[test]
    fn every_lease_is_reached_however_many_wait_in_vain_before_it() {
        let (mut round, start) = (Round::new(), Instant::now());
        let waiting: Vec<i64> = (1..=8).collect();
        let looks: Vec<Vec<i64>> = (0..4).map(|_| look(&mut round, &waiting, start)).collect();
        assert_eq!(looks, [vec![1, 2, 3], vec![4, 5, 6], vec![7, 8], vec![1, 2, 3]]);
        assert_eq!(look(&mut round, &[], start), Vec::<i64>::new());
        assert_eq!(look(&mut round, &[1, 2], start), [1, 2], "a page that is not full ends the round");
        assert_eq!(look(&mut round, &[1, 2], start), [1, 2]);
    }

    #[test]
    fn what_lies_with_others_is_due_in_time_on_whichever_page_it_stands() {
        let (mut round, start) = (Round::new(), Instant::now());
        let waiting = [1, 2, 100, 101, 102, 103, 104];
        let mut look_at = |secs: u64| look(&mut round, &waiting, start + Duration::from_secs(secs));
        assert_eq!([look_at(0), look_at(1), look_at(2)], [vec![1, 2], vec![], vec![]]);
        assert_eq!(look_at(3), [1, 2, 100]);
        assert_eq!(look_at(3), Vec::<i64>::new(), "they were first seen a second later");
        assert_eq!([look_at(5), look_at(6)], [vec![104], vec![1, 2, 100]]);
        assert_eq!(look_at(6), [101, 102, 103]);
    }

    async fn set_health(fleet: &Fleet, id: NodeId, health: Health) {
        let version = fleet.store.node(id).await.unwrap().unwrap().version;
        fleet.store.set_health(id, version, health, "test", fleet.now()).await.unwrap().done().unwrap();
    }

    async fn finish(fleet: &Fleet, claim: &NodeClaim) {
        let result = FinishReconcile {
            applied_version: claim.desired_version,
            account_ready: claim.desired.as_ref().map(|desired| desired.lease),
            ..FinishReconcile::default()
        };
        fleet.store.finish_reconcile(claim, &result, fleet.now()).await.unwrap().done().unwrap();
    }

    /// A node that is offered; nobody listens at its address.
    async fn free_node(fleet: &Fleet, number: u16, tags: &[Tag]) -> NodeId {
        let sha = |number: u16| format!("{number:064x}");
        let (store, now, key) = (&fleet.store, fleet.now(), ControlCa::generate().public_line());
        store.create_join_token(&sha(number), "test", None, None, None, now).await.unwrap();
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
            new_node_token_sha256: sha(200 + number),
            now,
        };
        let outcome = store.register_node(&request).await.unwrap();
        let RegisterOutcome::Created(node) = outcome else { panic!("{outcome:?}") };
        store.admit(node.id, node.version, now).await.unwrap().done().unwrap();
        set_health(fleet, node.id, Health::Alive).await;
        let ttl = fleet.config.claim_ttl;
        let claim = store.claim_node(node.id, "test", ttl, fleet.now()).await.unwrap().unwrap();
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
            on_node_loss: OnNodeLoss::Migrate,
            request_key: format!("request-{number}"),
            idem: None,
            holder: config.holder.clone(),
            claim_ttl: config.claim_ttl,
            first_uid: config.first_uid,
            last_uid: config.last_uid,
            now,
        };
        let outcome = fleet.store.place(&request).await.unwrap();
        let PlaceOutcome::Placed(placements) = outcome else { panic!("{outcome:?}") };
        finish(fleet, &placements[0].claim).await;
        set_health(fleet, node, Health::Dead).await;
        placements[0].lease.id
    }

    #[tokio::test]
    async fn leases_for_which_no_node_is_free_do_not_hold_up_a_later_one() {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings {
            database_urls: vec![format!("sqlite:{}", directory.path().join("orion.db").display())],
            database_connections_max: 4,
            master_key: MasterKey::generate(),
            playbooks_dir: None,
        };
        let fleet = assemble(&settings).await.unwrap().fleet;
        let name = "alice".parse().unwrap();
        let made = fleet.store.create_user(&name, "x", Role::User, fleet.now(), None).await.unwrap();
        let CreateUser::Created(user) = made else { panic!("{made:?}") };
        for number in 1..=5 {
            lost_lease(&fleet, user, number, &["gpu".parse().unwrap()]).await;
        }
        let last = lost_lease(&fleet, user, 6, &[]).await;
        free_node(&fleet, 7, &[]).await;
        let config = SchedulerConfig {
            side_by_side_max: 2,
            look_every: Duration::from_millis(50),
            ..SchedulerConfig::default()
        };
        let shutdown = CancellationToken::new();
        let scheduler = Scheduler::new(fleet.clone(), config, shutdown.clone());
        scheduler.fleetwide.set_brake(fleet.store.brake().await.unwrap());
        scheduler.spawn(beat::run(scheduler.clone()));
        scheduler.spawn(run(scheduler.clone()));
        wait_until("the last one goes to the free node", Duration::from_secs(10), async || {
            let events = fleet.store.events_of_lease(last, 100).await.map_err(|error| error.to_string())?;
            let kinds: Vec<String> = events.into_iter().map(|event| event.kind).collect();
            if kinds.iter().any(|kind| kind == "lease.moving") { Ok(()) } else { Err(format!("{kinds:?}")) }
        })
        .await;
        shutdown.cancel();
    }
}
