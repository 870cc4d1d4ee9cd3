//! Row claims: who may work on a node now, and with which epoch.
//!
//! A claim is taken in one short transaction, or one statement after a placement; the slow work happens outside; the result is written
//! `WHERE claim_token = ?`. The epoch that comes with a claim only grows, and nodes refuse an older one.

use super::{NodeChange, Nodes};
use crate::{
    engine::{CommitMarker, Result, StoreError, Tx, Val, each, transaction, vals},
    events::new_ulid,
    leases::placement::Placement,
    leases::row::{LeaseRecord, lease_sql},
    nodes::claimed::{NodeClaim, node_claim},
    nodes::conditions::{CLAIMABLE, HAS_OUTGOING_MIGRATION, QUARANTINE_IS_DUE, SAME_MACHINE},
};
use orion_domain::{LeaseId, NodeId, Timestamp, lease::Lease};
use std::time::Duration;

/// The claim's write; binds holder, token, its end and `now`.
const CLAIM: &str = "UPDATE nodes SET claimed_by = ?, claim_token = ?, claimed_until = ?, first_turn_until = 0, \
                     epoch = epoch + 1, version = version + 1, changed_at = ?";

/// Condition that a placed lease is on the node still and has not ended: the first turn of the next one is its own.
/// Binds the lease.
const STILL_THERE: &str = "AND EXISTS (SELECT 1 FROM leases placed WHERE placed.id = ? \
                           AND placed.occupies_node = nodes.id \
                           AND placed.state IN ('provisioning', 'active', 'migrating'))";

/// A node that is drained and whose lease is just on its way to another one: its login works until that one has
/// confirmed it, or the drain is due. Binds `now`.
fn keeps_its_login() -> String {
    format!(
        "(drain_since IS NOT NULL AND (drain_deadline IS NULL OR drain_deadline > ?) AND {HAS_OUTGOING_MIGRATION})"
    )
}

/// A lease that is on its way off a drained node, and keeps what it has there; binds the node and `now`.
const DEPARTING: &str = "WHERE nodes.id = ? AND nodes.drain_since IS NOT NULL \
                         AND (nodes.drain_deadline IS NULL OR nodes.drain_deadline > ?) \
                         AND moving.from_node = nodes.id AND moving.state = 'migrating' AND moving.occupies_node <> nodes.id";

impl Tx {
    /// Claims a node if nobody has. `extra` narrows it down further (`AND …`, with its values).
    pub(crate) async fn claim(
        &mut self,
        id: NodeId,
        (holder, token, ttl): (&str, &str, Duration),
        (extra, extra_values): (&str, Vec<Val>),
        now: Timestamp,
    ) -> Result<Option<NodeClaim>> {
        let sql = format!("{CLAIM} WHERE id = ? AND {CLAIMABLE} {extra}");
        let mut values = vals![holder, token, now.plus(ttl), now, id, now];
        values.extend(extra_values);
        if self.exec(sqlx::AssertSqlSafe(sql), values).await? == 0 {
            return Ok(None);
        }
        self.set_commit_marker(CommitMarker::Claim(id.0, token.into()));
        self.read_claim(id, token, now).await
    }

    /// Returns the current data that the holder of a claim needs.
    pub(crate) async fn read_claim(
        &mut self,
        id: NodeId,
        token: &str,
        now: Timestamp,
    ) -> Result<Option<NodeClaim>> {
        let Some(record) = self.node_record(id).await? else { return Ok(None) };
        let leases = self.leases_on(id).await?;
        let holds = self.holds_on(id).await?;
        let mut claim = node_claim(record, token.into(), (&leases, holds), now)?;
        if claim.node.drain.is_some() {
            let sql = format!("SELECT moving.uid FROM leases moving, nodes {DEPARTING} ORDER BY moving.id");
            let rows = self.all::<(String,)>(sqlx::AssertSqlSafe(sql), vals![id, now]).await?;
            claim.departing = rows.into_iter().map(|(ulid,)| ulid).collect();
        }
        Ok(Some(claim))
    }

    pub(crate) async fn lease(&mut self, id: LeaseId) -> Result<Option<Lease>> {
        let record = self.one::<LeaseRecord>(lease_sql("WHERE l.id = ?"), vals![id]).await?;
        Ok(record.map(Lease::try_from).transpose()?)
    }

    /// Returns the leases on the node, by number.
    pub(crate) async fn leases_on(&mut self, node: NodeId) -> Result<Vec<Lease>> {
        let sql = lease_sql("WHERE l.occupies_node = ? ORDER BY l.id");
        each(self.all::<LeaseRecord>(sql, vals![node]).await?).map_err(Into::into)
    }
}

impl Nodes<'_> {
    /// Claims a node for `ttl` to bring it in order. `None`: somebody else works on it or is about to, because a
    /// lease was just placed there; it does not exist; or it is drained and its lease has just set out for another node (see
    /// [`crate::Nodes::dirty`]).
    pub async fn claim(
        self,
        id: NodeId,
        holder: &str,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<Option<NodeClaim>, StoreError> {
        let token = new_ulid(now);
        let sql = format!("SELECT id FROM nodes WHERE id = ? AND {}", keeps_its_login());
        let claim = transaction!(&self.store.db, |tx| {
            let turn = ("AND first_turn_until <= ?", vals![now]);
            let claim = tx.claim(id, (holder, &token, ttl), turn, now).await?;
            // Asked once the row is held: a lease that set out after the look at the dirty nodes is seen here.
            let sql = sqlx::AssertSqlSafe(sql.clone());
            if claim.is_some() && tx.one::<(i64,)>(sql, vals![id, now]).await?.is_some() {
                tx.abandon();
                return Ok(None);
            }
            Ok(claim)
        })?;
        Ok(claim)
    }

    /// Claims the node of a placement for `ttl`, to provision there: with one statement if nothing has happened to the
    /// node since, else as it is by now. None: somebody else works on it, or it is gone.
    pub async fn claim_placed(
        self,
        placement: &Placement,
        holder: &str,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<Option<NodeClaim>, StoreError> {
        let (id, token) = (placement.node(), new_ulid(now));
        if let Some(ahead) = &placement.ahead {
            let sql = format!("{CLAIM} WHERE id = ? AND {CLAIMABLE} AND epoch = ? AND desired_version = ?");
            let mut values = vals![holder, &token, now.plus(ttl), now, id, now];
            values.extend(vals![i64::try_from(ahead.epoch).unwrap_or(i64::MAX), ahead.desired_version]);
            if self.store.db.alone(sqlx::AssertSqlSafe(sql), values).await?.0 == 1 {
                let mut claim = NodeClaim { token, epoch: ahead.epoch + 1, ..ahead.clone() };
                claim.node.claimed_until = Some(now.plus(ttl));
                claim.node.version += 1;
                return Ok(Some(claim));
            }
        }
        let claim = transaction!(&self.store.db, |tx| {
            let known = tx.node_record(id).await?.and_then(|record| record.claim_token);
            // The statement's answer was lost, and it was run twice.
            if known.as_deref() == Some(token.as_str()) {
                return tx.read_claim(id, &token, now).await;
            }
            tx.claim(id, (holder, &token, ttl), (STILL_THERE, vals![placement.lease.id]), now).await
        });
        Ok(claim?)
    }

    /// Holds a claim until `now + ttl`. False: it was lost, stop.
    pub async fn extend_claim(
        self,
        claim: &NodeClaim,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            let sql = "UPDATE nodes SET claimed_until = ?, version = version + 1, changed_at = ? \
                       WHERE id = ? AND claim_token = ?";
            Ok(tx.exec(sql, vals![now.plus(ttl), now, claim.node.id, &claim.token]).await? == 1)
        })?)
    }

    /// Has a node looked at once more: work on its containers was done under a claim that was lost meanwhile, and what it made
    /// last may be there though nobody knows of it.
    pub async fn look_again(self, id: NodeId, now: Timestamp) -> Result<(), StoreError> {
        let change = || NodeChange { sets: "desired_version = desired_version + 1", ..NodeChange::default() };
        self.write(id, now, change).await.map(|_| ())
    }

    /// Gives a claim back without a result; nothing happens if it was lost.
    pub async fn release_claim(self, claim: &NodeClaim, now: Timestamp) -> Result<(), StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            let sql = "UPDATE nodes SET claimed_by = NULL, claim_token = NULL, claimed_until = NULL, \
                       version = version + 1, changed_at = ? WHERE id = ? AND claim_token = ?";
            tx.exec(sql, vals![now, claim.node.id, &claim.token]).await.map(|_| ())
        })?)
    }

    /// Nodes that should be reconciled now: admitted, alive, dirty, claimed by nobody, not left to who provisions a
    /// lease there, not paused after a failure. Quarantined ones, too: what an account left there has to go all the
    /// same; and clean ones whose quarantine ends with a reconcile that succeeds. Not those that are being drained
    /// and whose lease is just on its way to another node: its login works until that one has confirmed it. Nor second
    /// identities of a machine: they would remove what is the first one's.
    pub async fn dirty(self, now: Timestamp, limit: u32) -> Result<Vec<NodeId>, StoreError> {
        let sql = format!(
            "SELECT id FROM nodes WHERE admission = 'admitted' AND health = 'alive' AND transport = 'ssh' \
             AND (applied_version < desired_version OR {QUARANTINE_IS_DUE}) AND retry_at <= ? \
             AND first_turn_until <= ? AND {CLAIMABLE} AND (quarantine IS NULL OR quarantine NOT LIKE ?) \
             AND NOT {} ORDER BY retry_at, id LIMIT ?",
            keeps_its_login()
        );
        let second = format!("{SAME_MACHINE}%");
        let rows = self
            .store
            .db
            .all::<(i64,)>(sqlx::AssertSqlSafe(sql), vals![now, now, now, now, second, now, limit])
            .await?;
        Ok(rows.into_iter().map(|(id,)| NodeId(id)).collect())
    }
}
