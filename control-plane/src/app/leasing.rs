//! Release, extend, and looking a lease up.

use crate::{App, auth::Caller, error::ApiError};
use orion_domain::{
    LeaseId, NodeId, Timestamp, UserId,
    lease::{EndReason, Lease, Phase},
    names::LeaseName,
    time::Hours,
};
use orion_fleet::Change;
use orion_store::{Cas, Event, LeaseNodeEntry, LeaseRow};
use std::time::Duration;

/// How long a release waits for a node that somebody else is working on.
const WAIT_FOR_NODE: Duration = Duration::from_secs(10);
/// Events that are shown with a lease.
const EVENTS_SHOWN: u32 = 200;

/// What an extension came to.
#[derive(Clone, Copy, Debug)]
pub struct Extended {
    /// The lease.
    pub lease: LeaseId,
    /// Its new end.
    pub until: Timestamp,
    /// Whether the node knows it.
    pub applied: bool,
}

impl App {
    /// The lease that `which` names: its number, or the name that its owner gave it.
    ///
    /// # Errors
    /// 404, also for somebody else's.
    pub async fn find_lease(&self, who: &Caller, which: &str) -> Result<LeaseRow, ApiError> {
        let missing =
            || ApiError::not_found(format!("you have no lease '{which}'; GET /api/rentals lists yours"));
        let id = match which.parse::<LeaseId>() {
            Ok(id) => id,
            Err(_) => {
                let name: LeaseName = which.parse().map_err(|_| missing())?;
                self.store.lease_by_name(who.user, &name).await?.ok_or_else(missing)?.id
            }
        };
        let row = self.store.lease_row(id).await?.ok_or_else(missing)?;
        if row.lease.user == who.user || who.is_admin() { Ok(row) } else { Err(missing()) }
    }

    /// Ends a lease: replies when the account is gone and that was verified, or when its node is away (then
    /// the scheduler finishes the work). The second time the same.
    ///
    /// # Errors
    /// 404 for an unknown lease or somebody else's.
    pub async fn release(&self, who: &Caller, which: &str) -> Result<Lease, ApiError> {
        let row = self.find_lease(who, which).await?;
        let (app, actor) = (self.clone(), Some(who.user));
        self.to_its_end(async move { app.end_and_clean(row.lease.id, EndReason::Released, actor).await })
            .await
    }

    /// Brings a lease to its end and waits for its node to be clean.
    ///
    /// # Errors
    /// The database's.
    pub async fn end_and_clean(
        &self,
        id: LeaseId,
        reason: EndReason,
        actor: Option<UserId>,
    ) -> Result<Lease, ApiError> {
        self.fleet.end_lease(id, &reason, actor).await?;
        self.wait_for_end(id).await
    }

    /// Waits until a releasing lease has ended, as long as its node can be worked on.
    async fn wait_for_end(&self, id: LeaseId) -> Result<Lease, ApiError> {
        let give_up = self.now().plus(WAIT_FOR_NODE);
        let mut nudged = self.fleet.nudge.listen();
        loop {
            let row = self
                .store
                .lease_row(id)
                .await?
                .ok_or_else(|| ApiError::internal(format!("lease {id} vanished")))?;
            let node_answers = row.node.as_ref().is_some_and(|node| {
                node.health == orion_domain::node::Health::Alive && node.quarantine.is_none()
            });
            if row.lease.state.phase() == Phase::Ended || !node_answers || self.now() >= give_up {
                return Ok(row.lease);
            }
            nudged.within(Duration::from_millis(100)).await;
        }
    }

    /// Moves a lease's end.
    ///
    /// # Errors
    /// 400 for a wrong length, 404 for an unknown lease or somebody else's, 409 if it is over.
    pub async fn extend(&self, who: &Caller, which: &str, hours: f64) -> Result<Extended, ApiError> {
        let length = Hours::new(hours, self.config.lease_hours_max)
            .map_err(|rule| ApiError::field("additional_hours", rule))?
            .duration();
        self.check_clock()?;
        let row = self.find_lease(who, which).await?;
        let app = self.clone();
        self.to_its_end(async move { app.extend_by(row.lease.id, length).await }).await
    }

    async fn extend_by(&self, id: LeaseId, length: Duration) -> Result<Extended, ApiError> {
        let (holder, ttl) = (&self.fleet.config.holder, self.fleet.config.claim_ttl);
        loop {
            let Some(lease) = self.store.lease(id).await? else {
                return Err(ApiError::not_found(format!("there is no lease {id}")));
            };
            if !lease.state.can_be_extended() {
                let phase = lease.state.phase().as_str();
                return Err(ApiError::conflict(
                    "wrong_state",
                    format!("a lease that is {phase} cannot be extended"),
                ));
            }
            let until = lease.until.plus(length);
            // Stale: somebody else changed the lease since it was read; add to what it is now.
            let Cas::Done((lease, claim)) = self.store.extend(id, until, holder, ttl, self.now()).await?
            else {
                continue;
            };
            self.fleet.nudge.all();
            let applied = match claim {
                // The lease has its new end already: what fails from here on is only late.
                Some(claim) => {
                    self.fleet.apply_or_leave(&claim, Change::Extended).await.unwrap_or_else(|error| {
                        tracing::warn!(lease = %id, %error, "the node does not know the new end yet");
                        false
                    })
                }
                None => false,
            };
            return Ok(Extended { lease: id, until: lease.until, applied });
        }
    }

    /// The nodes that a lease has been on, with their names, and its events, oldest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn history(
        &self,
        id: LeaseId,
    ) -> Result<(Vec<(LeaseNodeEntry, Option<String>)>, Vec<Event>), ApiError> {
        let entries = self.store.lease_history(id).await?;
        let ids: Vec<NodeId> = entries.iter().map(|entry| entry.node).collect();
        let known = self.store.nodes_of(&ids).await?;
        let name_of = |id| known.iter().find(|node| node.id == id).map(|node| node.hostname.to_string());
        let nodes = entries
            .into_iter()
            .map(|entry| {
                let name = name_of(entry.node);
                (entry, name)
            })
            .collect();
        Ok((nodes, self.store.events_of_lease(id, EVENTS_SHOWN).await?))
    }
}
