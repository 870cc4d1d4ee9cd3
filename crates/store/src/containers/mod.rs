//! Containers of leases: what their owners asked for, and what was last seen of them.
//!
//! Lives here: their rows. Does not live here: what a node has to hold of them (`orion_domain::container::plan_containers`),
//! and the engine. A change to what a node is to hold makes the node dirty in the same transaction, as with accounts.

mod apps;
mod engine;
mod network;
mod ports;
mod row;
mod seen;
mod silence;

pub use apps::{AppTicket, PublishedApp};
pub use engine::EngineSaid;
pub use ports::{PublishedPort, WantedPorts};
pub use row::{ContainerRow, NodePort, Wanted};
pub use seen::{ContainerNews, Pulled};
pub use silence::SilentEngine;

use crate::{
    Store,
    engine::{Cas, Fault, Result, StoreError, Tx, each, in_lists, transaction, vals},
    events::{NewEvent, new_ulid},
};
use orion_domain::{
    ContainerId, LeaseId, NodeId, Timestamp, UserId,
    container::{ContainerEvent, ContainerPhase},
    lease::{Lease, LeaseState},
};
use row::{ContainerRecord, container_sql};
use sqlx::AssertSqlSafe;
use std::collections::HashMap;

/// Queries and transactions on containers.
#[derive(Clone, Copy, Debug)]
pub struct Containers<'a> {
    store: &'a Store,
}

impl Store {
    /// Gives the containers.
    pub const fn containers(&self) -> Containers<'_> {
        Containers { store: self }
    }
}

/// A container to be.
#[derive(Clone, Debug)]
pub struct NewContainer {
    /// The lease that it belongs to.
    pub lease: LeaseId,
    /// Name that the owner gave; none for one made of the number.
    pub name: Option<String>,
    /// The specification without the values of `env` and `files`, as JSON.
    pub spec: String,
    /// 26 characters that no other container has; the sealed part is bound to them.
    pub uid: String,
    /// The values of `env` and `files`, sealed by the caller.
    pub spec_sealed: Vec<u8>,
    /// Most containers that the lease may have at once.
    pub at_once_max: u32,
    /// Who asked for it.
    pub actor: Option<UserId>,
}

/// Outcome of making a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerMade {
    /// The container.
    Made {
        /// Its row.
        row: Box<ContainerRow>,
        /// The first version of what its lease's node is to hold with it; none of a lease that has no node now.
        version: Option<i64>,
    },
    /// The lease has a container of that name.
    NameTaken(String),
    /// The lease has as many as it may have.
    TooMany,
    /// The lease is over, or ends.
    LeaseOver,
}

/// Place of a container, and its phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStanding {
    /// The node that it is on.
    pub node: Option<NodeId>,
    /// The engine's id of it there.
    pub engine_id: Option<String>,
    /// Whether it was seen running.
    pub runs: bool,
}

/// Returns a ULID for a new container.
pub fn new_container_uid(now: Timestamp) -> String {
    new_ulid(now)
}

fn container_event(
    lease: &Lease,
    node: impl Into<Option<NodeId>>,
    event: ContainerEvent,
    actor: Option<UserId>,
) -> NewEvent {
    NewEvent::new(event).of_lease(lease.id).of_node(node).of_user(lease.user).by(actor)
}

impl Tx {
    /// What the node of the lease is to hold of it has changed.
    pub(crate) async fn change_desired(&mut self, lease: &Lease, now: Timestamp) -> Result<()> {
        let Some(node) = lease.state.wants_account_on() else { return Ok(()) };
        let sql = "UPDATE nodes SET desired_version = desired_version + 1, retry_at = 0, version = version + 1, \
                   changed_at = ? WHERE id = ?";
        self.exec(sql, vals![now, node]).await?;
        self.change_hold(lease.id, node).await
    }

    async fn container(&mut self, id: ContainerId) -> Result<Option<ContainerRow>> {
        let record = self.one::<ContainerRecord>(container_sql("WHERE c.id = ?"), vals![id.0]).await?;
        Ok(record.map(ContainerRow::try_from).transpose()?)
    }

    /// The containers of a lease that got another node are made anew there.
    pub(crate) async fn containers_moved(
        &mut self,
        before: &LeaseState,
        lease: &Lease,
        now: Timestamp,
    ) -> Result<()> {
        // The node that it leaves has them until it is cleaned: the lease may come back to it.
        let home = match before {
            LeaseState::Active { node } => Some(*node),
            LeaseState::Migrating { from, to: None, .. } => Some(*from),
            LeaseState::Requested
            | LeaseState::Scheduled { .. }
            | LeaseState::Queued { .. }
            | LeaseState::Provisioning { .. }
            | LeaseState::Migrating { to: Some(_), .. }
            | LeaseState::Yielding { .. }
            | LeaseState::Releasing { .. }
            | LeaseState::Ended { .. } => None,
        };
        if let Some(home) = home {
            let sql = "UPDATE containers SET home_node = ?, home_incarnation = oldest_incarnation WHERE lease_id = ?";
            self.exec(sql, vals![home, lease.id]).await?;
        }
        // What has ended stays so, and is on no node any more.
        let sql = "UPDATE containers SET engine_id = NULL, node_id = NULL, node_ports = NULL, \
                   version = version + 1 WHERE lease_id = ?";
        self.exec(sql, vals![lease.id]).await?;
        // MariaDB reads what was set further left: `incarnation` comes after what is made of it. What was ended for a move
        // that came to nothing runs again.
        let sql = "UPDATE containers SET \
                   oldest_incarnation = CASE WHEN home_node = ? THEN home_incarnation ELSE incarnation + 1 END, \
                   incarnation = incarnation + 1, restart_of = NULL, \
                   state = 'pending', state_since = ?, reason = 'its lease moves to another node', \
                   wanted = CASE WHEN wanted = 'stopped' THEN wanted WHEN home_node = ? THEN 'restarted' ELSE 'started' END, \
                   version = version + 1 \
                   WHERE lease_id = ? AND wanted <> 'removed' AND (wanted <> 'started' OR state NOT IN ('exited', 'failed'))";
        let on = lease.state.occupies();
        self.exec(sql, vals![on, now, on, lease.id]).await.map(|_| ())
    }

    /// The containers of a lease that is over are gone.
    pub(crate) async fn containers_over(&mut self, lease: &Lease, now: Timestamp) -> Result<()> {
        let sql = "UPDATE containers SET wanted = 'removed', live_name = NULL, state = 'removed', state_since = ?, \
                   reason = 'its lease is over', engine_id = NULL, node_ports = NULL, version = version + 1 \
                   WHERE lease_id = ? AND state <> 'removed'";
        self.exec(sql, vals![now, lease.id]).await.map(|_| ())
    }
}

impl Containers<'_> {
    /// Makes a container of a lease that is to have its account, or has it.
    pub async fn create(self, new: &NewContainer, now: Timestamp) -> Result<ContainerMade, StoreError> {
        let outcome = transaction!(&self.store.db, |tx| {
            match create(tx, new, now).await {
                // A name or number that another request took just now: it is seen at the next attempt.
                Err(Fault::Unique(text)) if !text.contains("uid") => Err(Fault::Retry(text)),
                other => other,
            }
        });
        Ok(outcome?)
    }

    /// Changes what the owner wants of a container. `Stale`: it is removed, or its lease is over.
    pub async fn want(
        self,
        id: ContainerId,
        wanted: Wanted,
        actor: Option<UserId>,
        now: Timestamp,
    ) -> Result<Cas<ContainerRow>, StoreError> {
        Ok(transaction!(&self.store.db, |tx| { want(tx, id, wanted, actor, now).await })?)
    }

    /// Returns a container.
    pub async fn get(self, id: ContainerId) -> Result<Option<ContainerRow>, StoreError> {
        let record =
            self.store.db.one::<ContainerRecord>(container_sql("WHERE c.id = ?"), vals![id.0]).await?;
        record.map(ContainerRow::try_from).transpose()
    }

    /// Counts a look at a container that waits: the others come first next time.
    pub async fn touch(self, id: ContainerId, now: Timestamp) -> Result<(), StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            tx.exec("UPDATE containers SET seen_at = ? WHERE id = ?", vals![now, id.0]).await.map(|_| ())
        })?)
    }

    /// Writes that the restart that was asked for was tried.
    pub async fn restart_tried(self, id: ContainerId) -> Result<(), StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            let sql = "UPDATE containers SET wanted = 'started', version = version + 1 WHERE id = ? \
                       AND wanted = 'restarted'";
            tx.exec(sql, vals![id.0]).await.map(|_| ())
        })?)
    }

    /// Returns the container that has this ULID.
    pub async fn by_uid(self, uid: &str) -> Result<Option<ContainerRow>, StoreError> {
        let record =
            self.store.db.one::<ContainerRecord>(container_sql("WHERE c.uid = ?"), vals![uid]).await?;
        record.map(ContainerRow::try_from).transpose()
    }

    /// Returns the containers of a lease that were not removed, by number.
    pub async fn of_lease(self, lease: LeaseId) -> Result<Vec<ContainerRow>, StoreError> {
        let sql = container_sql("WHERE c.lease_id = ? AND c.live_name IS NOT NULL ORDER BY c.number");
        each(self.store.db.all::<ContainerRecord>(sql, vals![lease]).await?)
    }

    /// Returns containers that are to be made and wait for an image or for somebody to make them: those of leases on nodes
    /// that are alive, which nothing was written of since `before`.
    pub async fn waiting(self, before: Timestamp, limit: u32) -> Result<Vec<ContainerRow>, StoreError> {
        let sql = container_sql(
            "JOIN leases l ON l.id = c.lease_id JOIN nodes n ON n.id = l.occupies_node \
             WHERE (c.state IN ('pending', 'pulling') AND c.wanted = 'started' OR c.wanted = 'restarted') AND c.seen_at <= ? \
             AND l.state IN ('provisioning', 'active', 'migrating') AND n.health = 'alive' ORDER BY c.seen_at, c.id LIMIT ?",
        );
        each(self.store.db.all::<ContainerRecord>(sql, vals![before, limit]).await?)
    }

    /// Returns where these containers are, without those that were removed and those whose lease is over or ends.
    pub async fn standings(
        self,
        ids: &[ContainerId],
    ) -> Result<HashMap<ContainerId, ContainerStanding>, StoreError> {
        let mut standings = HashMap::with_capacity(ids.len());
        let numbers: Vec<i64> = ids.iter().map(|id| id.0).collect();
        for (list, values) in in_lists(&numbers) {
            let sql = AssertSqlSafe(format!(
                "SELECT c.id, c.node_id, c.engine_id, c.state FROM containers c JOIN leases l ON l.id = c.lease_id \
                 WHERE c.id IN ({list}) AND c.live_name IS NOT NULL AND l.state IN ('provisioning', 'active', 'migrating')"
            ));
            let rows = self.store.db.all::<(i64, Option<i64>, Option<String>, String)>(sql, values).await?;
            standings.extend(rows.into_iter().map(|(id, node, engine_id, state)| {
                let runs = state == ContainerPhase::Running.as_str();
                (ContainerId(id), ContainerStanding { node: node.map(NodeId), engine_id, runs })
            }));
        }
        Ok(standings)
    }

    /// Returns the nodes on which containers are that were seen running.
    pub async fn nodes_with_running(self) -> Result<Vec<NodeId>, StoreError> {
        let sql = "SELECT DISTINCT node_id FROM containers WHERE state = 'running' AND node_id IS NOT NULL ORDER BY node_id";
        let rows = self.store.db.all::<(i64,)>(sql, vals![]).await?;
        Ok(rows.into_iter().map(|(node,)| NodeId(node)).collect())
    }

    /// Returns the living nodes with an engine that a lease with containers has left since then, by its end or a move.
    pub async fn nodes_left(self, since: Timestamp) -> Result<Vec<NodeId>, StoreError> {
        let sql = "SELECT DISTINCT h.node_id FROM lease_nodes h JOIN leases l ON l.id = h.lease_id \
                   JOIN nodes n ON n.id = h.node_id WHERE h.left_at >= ? AND l.containers > 0 \
                   AND n.engine IS NOT NULL AND n.health = 'alive' ORDER BY h.node_id";
        let rows = self.store.db.all::<(i64,)>(sql, vals![since]).await?;
        Ok(rows.into_iter().map(|(node,)| NodeId(node)).collect())
    }

    /// Returns the containers, not removed, of the leases that want something on a node, by lease and number.
    pub async fn of_node(self, node: NodeId) -> Result<Vec<ContainerRow>, StoreError> {
        let sql = container_sql(
            "JOIN leases l ON l.id = c.lease_id WHERE l.occupies_node = ? AND c.live_name IS NOT NULL \
             AND l.state IN ('provisioning', 'active', 'migrating') ORDER BY c.lease_id, c.number",
        );
        each(self.store.db.all::<ContainerRecord>(sql, vals![node]).await?)
    }
}

pub(crate) async fn create(tx: &mut Tx, new: &NewContainer, now: Timestamp) -> Result<ContainerMade> {
    // First, and guarded: the lease's containers come one after the other.
    let sql = "UPDATE leases SET containers = containers + 1, version = version + 1 WHERE id = ? \
               AND state IN ('provisioning', 'active', 'migrating')";
    if tx.exec(sql, vals![new.lease]).await? == 0 {
        tx.abandon();
        return Ok(ContainerMade::LeaseOver);
    }
    let Some(lease) = tx.lease(new.lease).await? else {
        return Err(Fault::Retry("the lease vanished".into()));
    };
    let sql = "SELECT COUNT(*) FROM containers WHERE lease_id = ? AND live_name IS NOT NULL";
    let live = tx.one::<(i64,)>(sql, vals![lease.id]).await?.map_or(0, |(count,)| count);
    if live >= i64::from(new.at_once_max) {
        tx.abandon();
        return Ok(ContainerMade::TooMany);
    }
    let number = lease.containers;
    let name = new.name.clone().unwrap_or_else(|| number.to_string());
    let sql = "SELECT COUNT(*) FROM containers WHERE lease_id = ? AND live_name = ?";
    if tx.one::<(i64,)>(sql, vals![lease.id, &name]).await? != Some((0,)) {
        tx.abandon();
        return Ok(ContainerMade::NameTaken(name));
    }
    let sql = "INSERT INTO containers (uid, lease_id, number, name, live_name, spec, spec_sealed, wanted, state, \
               state_since, node_id, created_at, seen_at) VALUES (?, ?, ?, ?, ?, ?, ?, 'started', 'pending', ?, ?, ?, ?)";
    let node = lease.state.wants_account_on();
    let mut values = vals![&new.uid, lease.id, number, &name, &name, &new.spec, new.spec_sealed.as_slice()];
    values.extend(vals![now, node, now, now]);
    let id = ContainerId(tx.insert(sql, values).await?);
    tx.change_desired(&lease, now).await?;
    let event = ContainerEvent::Created { container: name };
    tx.append_events(&[container_event(&lease, node, event, new.actor)], now).await?;
    let sql = "SELECT desired_version FROM nodes WHERE id = ?";
    let version = tx.one::<(i64,)>(sql, vals![node]).await?.map(|(version,)| version);
    let made = tx.container(id).await?;
    made.map(|row| ContainerMade::Made { row: Box::new(row), version })
        .ok_or_else(|| Fault::Retry("the container vanished".into()))
}

async fn want(
    tx: &mut Tx,
    id: ContainerId,
    wanted: Wanted,
    actor: Option<UserId>,
    now: Timestamp,
) -> Result<Cas<ContainerRow>> {
    let Some(row) = tx.container(id).await? else { return Ok(Cas::Gone) };
    let Some(lease) = tx.lease(row.lease).await? else { return Ok(Cas::Gone) };
    if row.wanted == Wanted::Removed || lease.state.wants_account_on().is_none() {
        return Ok(Cas::Stale);
    }
    let removed = wanted == Wanted::Removed;
    let restart_of = row.started_at.filter(|_| wanted == Wanted::Restarted);
    let sql = "UPDATE containers SET wanted = ?, restart_of = ?, live_name = CASE WHEN ? = 1 THEN NULL ELSE live_name END, \
               state = CASE WHEN ? = 1 THEN 'removed' ELSE state END, \
               state_since = CASE WHEN ? = 1 THEN ? ELSE state_since END, version = version + 1 \
               WHERE id = ? AND version = ?";
    let values = vals![wanted.as_str(), restart_of, removed, removed, removed, now, id.0, row.version];
    if tx.exec(sql, values).await? == 0 {
        return Err(Fault::Retry(format!("container {} changed meanwhile", row.name)));
    }
    tx.change_desired(&lease, now).await?;
    let container = row.name.clone();
    let event = match wanted {
        Wanted::Started | Wanted::Restarted => ContainerEvent::Restarting { container },
        Wanted::Stopped => ContainerEvent::Stopping { container },
        Wanted::Removed => ContainerEvent::Removed { container },
    };
    tx.append_events(&[container_event(&lease, lease.state.occupies(), event, actor)], now).await?;
    let row = tx.container(id).await?;
    row.map(Cas::Done).ok_or_else(|| Fault::Retry("the container vanished".into()))
}
