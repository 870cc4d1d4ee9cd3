//! Release, extend, and looking a lease up.

pub mod phases;
mod rent;
pub mod reply;
pub mod request;
pub mod views;

use self::views::RentalView;
use crate::{
    App,
    app::{accounts::quotas::EffectiveQuotas, discretion, shared::SharedLooks},
    auth::Caller,
    error::ApiError,
};
use orion_domain::{
    LeaseId, NodeId, Timestamp, UserId,
    lease::{EndReason, Lease, Phase},
    names::LeaseName,
    time::Hours,
};
use orion_fleet::Change;
use orion_store::{Cas, Event, GpuRow, LeaseNodeEntry, LeaseRow};
use std::{sync::Arc, time::Duration};

/// What clients do with leases.
#[derive(Clone, Copy)]
pub struct Leases<'a> {
    app: &'a App,
}

impl App {
    /// Gives the leases.
    pub const fn leases(&self) -> Leases<'_> {
        Leases { app: self }
    }
}

/// A list of leases, as those who asked for it share it.
pub type Listed = Result<Arc<[RentalView]>, ApiError>;

/// The lists that are being read: whose (all, for admins), whether with those that are over, after which, how many.
pub type Lists = SharedLooks<(Option<UserId>, bool, LeaseId, u32), Listed>;

/// Longest wait of a release for a node on which other work is in progress.
const WAIT_FOR_NODE: Duration = Duration::from_secs(10);
/// Events that are shown with a lease.
const EVENTS_SHOWN: u32 = 200;

/// Outcome of an extension.
#[derive(Clone, Copy, Debug)]
pub struct Extended {
    /// Number of the lease.
    pub lease: LeaseId,
    /// New end of the lease.
    pub until: Timestamp,
    /// Whether the node knows it.
    pub applied: bool,
}

impl Leases<'_> {
    /// The lease that `which` names: its number, or the name that its owner gave it.
    ///
    /// # Errors
    /// 404, also for somebody else's.
    pub(in crate::app) async fn find(self, who: &Caller, which: &str) -> Result<LeaseRow, ApiError> {
        let missing =
            || ApiError::not_found(format!("you have no lease '{which}'; GET /api/rentals lists yours"));
        let id = match which.parse::<LeaseId>() {
            Ok(id) => id,
            Err(_) => {
                let name: LeaseName = which.parse().map_err(|_| missing())?;
                self.app.store.leases().by_name(who.user, &name).await?.ok_or_else(missing)?.id
            }
        };
        let row = self.app.store.leases().with_node(id).await?.ok_or_else(missing)?;
        if row.lease.user == who.user || who.is_admin() { Ok(row) } else { Err(missing()) }
    }

    /// Ends a lease: replies when the account is gone and that was verified, or when its node is away (then
    /// the scheduler finishes the work). The second time the same.
    ///
    /// # Errors
    /// 404 for an unknown lease or somebody else's.
    pub async fn release(self, who: &Caller, which: &str) -> Result<Lease, ApiError> {
        let row = self.find(who, which).await?;
        let (app, actor) = (self.app.clone(), Some(who.user));
        self.app
            .run_detached(async move {
                app.leases().end_and_clean(row.lease.id, EndReason::Released, actor).await
            })
            .await
    }

    /// Brings a lease to its end and waits for its node to be clean.
    ///
    /// # Errors
    /// The database's.
    pub async fn end_and_clean(
        self,
        id: LeaseId,
        reason: EndReason,
        actor: Option<UserId>,
    ) -> Result<Lease, ApiError> {
        self.app.fleet.end_lease(id, &reason, actor).await?;
        self.wait_for_end(id).await
    }

    /// Waits until a releasing lease has ended, as long as its node can be worked on.
    async fn wait_for_end(self, id: LeaseId) -> Result<Lease, ApiError> {
        let give_up = self.app.now().plus(WAIT_FOR_NODE);
        let mut nudged = self.app.fleet.nudge.listen();
        loop {
            let row = self
                .app
                .store
                .leases()
                .with_node(id)
                .await?
                .ok_or_else(|| ApiError::internal(format!("lease {id} vanished")))?;
            let node_answers = row.node.as_ref().is_some_and(|node| {
                node.health == orion_domain::node::Health::Alive && node.quarantine.is_none()
            });
            if row.lease.state.phase() == Phase::Ended || !node_answers || self.app.now() >= give_up {
                return Ok(row.lease);
            }
            nudged.within(Duration::from_millis(100)).await;
        }
    }

    /// Moves a lease's end.
    ///
    /// # Errors
    /// 400 for a wrong length, 404 for an unknown lease or somebody else's, 409 if it is over.
    pub async fn extend(self, who: &Caller, which: &str, hours: f64) -> Result<Extended, ApiError> {
        let length = Hours::new(hours, self.app.config.lease_hours_max)
            .map_err(|rule| ApiError::field("additional_hours", rule))?
            .duration();
        self.app.check_clock()?;
        let row = self.find(who, which).await?;
        let app = self.app.clone();
        let quotas = self.app.accounts().quotas_of(who);
        self.app.run_detached(async move { app.leases().extend_by(row.lease.id, length, quotas).await }).await
    }

    async fn extend_by(
        self,
        id: LeaseId,
        length: Duration,
        quotas: EffectiveQuotas,
    ) -> Result<Extended, ApiError> {
        let (holder, ttl) = (&self.app.fleet.config.holder, self.app.fleet.config.claim_ttl);
        loop {
            let Some(lease) = self.app.store.leases().get(id).await? else {
                return Err(ApiError::not_found(format!("there is no lease {id}")));
            };
            lease.state.may_be_extended()?;
            let until = lease.until.plus(length);
            quotas.check_length(until.since(lease.from))?;
            let extended = self.app.store.leases().extend(id, until, holder, ttl, self.app.now()).await?;
            let (lease, claim) = match extended {
                Cas::Done(extended) => extended,
                Cas::Refused(refused) => return Err(refused.into()),
                // Somebody else changed the lease since it was read: add to what it is now.
                Cas::Stale | Cas::Gone => continue,
            };
            self.app.fleet.nudge.all();
            let applied = match claim {
                // The lease has its new end already: what fails from here on is only late.
                Some(claim) => {
                    self.app.fleet.apply_or_leave(&claim, Change::Extended(id)).await.unwrap_or_else(
                        |error| {
                            tracing::warn!(lease = %id, %error, "the node does not know the new end yet");
                            false
                        },
                    )
                }
                None => false,
            };
            return Ok(Extended { lease: id, until: lease.until, applied });
        }
    }

    /// Lists the next leases after `after` by number that the caller may see: with `all` also those that are over.
    /// Those who ask for the same at the same time share a query, which begins after they asked.
    ///
    /// # Errors
    /// The database's.
    pub async fn list(self, who: &Caller, all: bool, after: LeaseId, limit: u32) -> Listed {
        let owner = (!who.is_admin()).then_some(who.user);
        self.app.lists.get((owner, all, after, limit), self.read_list(owner, all, after, limit)).await
    }

    /// Reads a list for its owner; for an admin without one.
    async fn read_list(self, owner: Option<UserId>, all: bool, after: LeaseId, limit: u32) -> Listed {
        let rows = self.app.store.leases().list(owner, all, after, limit).await?;
        let now = self.app.now();
        let view = |row| {
            let row = if owner.is_none() { row } else { discretion::of_lease(row) };
            RentalView::new(&row, now)
        };
        Ok(rows.into_iter().map(view).collect())
    }

    /// Gives a lease with its history.
    ///
    /// # Errors
    /// 404 for an unknown lease or somebody else's.
    pub async fn show(self, who: &Caller, which: &str) -> Result<RentalView, ApiError> {
        let mut row = self.find(who, which).await?;
        let (mut nodes, mut events) = self.history(row.lease.id).await?;
        if !who.is_admin() {
            row = discretion::of_lease(row);
            nodes = nodes.into_iter().map(|(entry, name)| (discretion::of_entry(entry), name)).collect();
            events = events.into_iter().map(discretion::of_event).collect();
        }
        let containers = match row.lease.containers {
            0 => Vec::new(),
            _ => self.app.store.containers().of_lease(row.lease.id).await?,
        };
        let view = RentalView::new(&row, self.app.now()).with_containers(&containers, row.node.as_ref());
        Ok(view.with_gpus(&self.gpus_of(&row).await?).with_history(nodes, events))
    }

    /// Returns the GPUs that a lease has of its node.
    async fn gpus_of(self, row: &LeaseRow) -> Result<Vec<GpuRow>, ApiError> {
        let Some(node) = row.lease.state.occupies() else { return Ok(Vec::new()) };
        let mut gpus = self.app.store.nodes().gpus(node).await?;
        gpus.retain(|gpu| row.lease.holding.is_whole() || gpu.lease == Some(row.lease.id));
        Ok(gpus)
    }

    /// The nodes that a lease has been on, with their names, and its events, oldest first.
    ///
    /// # Errors
    /// The database's.
    async fn history(
        self,
        id: LeaseId,
    ) -> Result<(Vec<(LeaseNodeEntry, Option<String>)>, Vec<Event>), ApiError> {
        let entries = self.app.store.leases().history(id).await?;
        let ids: Vec<NodeId> = entries.iter().map(|entry| entry.node).collect();
        let known = self.app.store.nodes().by_ids(&ids).await?;
        let name_of = |id| known.iter().find(|node| node.id == id).map(|node| node.hostname.to_string());
        let nodes = entries
            .into_iter()
            .map(|entry| {
                let name = name_of(entry.node);
                (entry, name)
            })
            .collect();
        Ok((nodes, self.app.store.events().of_lease(id, EVENTS_SHOWN).await?))
    }
}
