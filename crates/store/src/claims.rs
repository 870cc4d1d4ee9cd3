//! Row claims: who may work on a node now, and with which epoch.
//!
//! A claim is taken in one short transaction; the slow work happens outside; the result is written
//! `WHERE claim_token = ?`. The epoch that comes with a claim only grows, and nodes refuse an older one.

use crate::{
    Store,
    attempts::{Tx, Witness, transaction},
    db::vals,
    drain::IS_BEING_LEFT,
    error::{Result, StoreError},
    events::new_ulid,
    model::NodeClaim,
    rows::{LeaseRecord, NodeRecord, lease_sql},
};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    lease::{Lease, LeaseState, Phase},
    node::Node,
    reconcile::DesiredAccount,
};
use std::time::Duration;

/// When a node's row may be claimed; binds `now`.
pub(crate) const CLAIMABLE: &str = "(claimed_until IS NULL OR claimed_until <= ?)";

/// A node that is drained and whose lease is just on its way to another one: its login works until that one has
/// confirmed it, or the drain is due. Binds `now`.
fn keeps_its_login() -> String {
    format!(
        "(drain_since IS NOT NULL AND (drain_deadline IS NULL OR drain_deadline > ?) AND {IS_BEING_LEFT})"
    )
}

/// Puts together what a claim's holder has to know.
pub(crate) fn node_claim(
    record: NodeRecord,
    token: String,
    lease: Option<&Lease>,
    now: Timestamp,
) -> Result<NodeClaim> {
    let epoch = u64::try_from(record.epoch).unwrap_or(0);
    let node = Node::try_from(record)?;
    // A lease that lost the node when its drain was due is not given back before the drain is over.
    let wants = lease.filter(|lease| {
        lease.state.wants_account_on() == Some(node.id)
            && (node.gives_back(now) || !matches!(lease.state, LeaseState::Migrating { to: None, .. }))
    });
    let retiring = lease
        .filter(|lease| matches!(&lease.state, LeaseState::Releasing { node: held, .. } if *held == node.id));
    Ok(NodeClaim {
        token,
        epoch,
        desired_version: node.desired_version,
        was_clean_before: node.applied_version + 1 == node.desired_version,
        desired: wants.map(|lease| DesiredAccount {
            lease: lease.id,
            ulid: lease.ulid.clone(),
            is_new: lease.state.phase() == Phase::Provisioning,
            account: lease.account.clone(),
            until: lease.until,
        }),
        desired_state: lease.map(|lease| lease.state.phase()),
        retiring: retiring.map(|lease| (lease.id, lease.account.clone())),
        node,
    })
}

impl Tx {
    /// Claims a node if nobody has. `extra` narrows it down further (`AND …`, without values).
    pub(crate) async fn claim(
        &mut self,
        id: NodeId,
        (holder, token, ttl): (&str, &str, Duration),
        extra: &'static str,
        now: Timestamp,
    ) -> Result<Option<NodeClaim>> {
        let sql = format!(
            "UPDATE nodes SET claimed_by = ?, claim_token = ?, claimed_until = ?, epoch = epoch + 1, \
             version = version + 1, changed_at = ? WHERE id = ? AND {CLAIMABLE} {extra}"
        );
        let values = vals![holder, token, now.plus(ttl), now, id, now];
        if self.exec(sqlx::AssertSqlSafe(sql), values).await? == 0 {
            return Ok(None);
        }
        self.leave_witness(Witness::Claim(id.0, token.into()));
        self.read_claim(id, token, now).await
    }

    /// What the holder of a claim has to know, as it is now.
    pub(crate) async fn read_claim(
        &mut self,
        id: NodeId,
        token: &str,
        now: Timestamp,
    ) -> Result<Option<NodeClaim>> {
        let Some(record) = self.node_record(id).await? else { return Ok(None) };
        let lease = match record.lease_id {
            Some(lease) => self.lease(LeaseId(lease)).await?,
            None => None,
        };
        Ok(Some(node_claim(record, token.into(), lease.as_ref(), now)?))
    }

    pub(crate) async fn lease(&mut self, id: LeaseId) -> Result<Option<Lease>> {
        let record = self.one::<LeaseRecord>(lease_sql("WHERE l.id = ?"), vals![id]).await?;
        Ok(record.map(Lease::try_from).transpose()?)
    }

    /// The lease that has the node.
    pub(crate) async fn lease_on(&mut self, node: NodeId) -> Result<Option<Lease>> {
        let record = self.one::<LeaseRecord>(lease_sql("WHERE l.occupies_node = ?"), vals![node]).await?;
        Ok(record.map(Lease::try_from).transpose()?)
    }
}

impl Store {
    /// Claims a node for `ttl` to bring it in order. `None`: somebody else works on it, it does not exist, or it is
    /// drained and its lease has just set out for another node (see [`Store::dirty_nodes`]).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn claim_node(
        &self,
        id: NodeId,
        holder: &str,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<Option<NodeClaim>, StoreError> {
        let token = new_ulid(now);
        let sql = format!("SELECT id FROM nodes WHERE id = ? AND {}", keeps_its_login());
        let claim = transaction!(&self.db, |tx| {
            let claim = tx.claim(id, (holder, &token, ttl), "", now).await?;
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

    /// Holds a claim until `now + ttl`. False: it was lost, stop.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn extend_claim(
        &self,
        claim: &NodeClaim,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        Ok(transaction!(&self.db, |tx| {
            let sql = "UPDATE nodes SET claimed_until = ?, version = version + 1, changed_at = ? \
                       WHERE id = ? AND claim_token = ?";
            Ok(tx.exec(sql, vals![now.plus(ttl), now, claim.node.id, &claim.token]).await? == 1)
        })?)
    }

    /// Gives a claim back without a result; nothing happens if it was lost.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release_claim(&self, claim: &NodeClaim, now: Timestamp) -> Result<(), StoreError> {
        Ok(transaction!(&self.db, |tx| {
            let sql = "UPDATE nodes SET claimed_by = NULL, claim_token = NULL, claimed_until = NULL, \
                       version = version + 1, changed_at = ? WHERE id = ? AND claim_token = ?";
            tx.exec(sql, vals![now, claim.node.id, &claim.token]).await.map(|_| ())
        })?)
    }

    /// Nodes that should be reconciled now: admitted, alive, dirty, claimed by nobody, not paused after a
    /// failure. Quarantined ones, too: what an account left there has to go all the same. Not those that are being
    /// drained and whose lease is just on its way to another node: its login works until that one has confirmed it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn dirty_nodes(&self, now: Timestamp, limit: u32) -> Result<Vec<NodeId>, StoreError> {
        let sql = format!(
            "SELECT id FROM nodes WHERE admission = 'admitted' AND health = 'alive' \
             AND applied_version < desired_version AND retry_at <= ? AND {CLAIMABLE} \
             AND NOT {} ORDER BY retry_at, id LIMIT ?",
            keeps_its_login()
        );
        let rows = self.db.all::<(i64,)>(sqlx::AssertSqlSafe(sql), vals![now, now, now, limit]).await?;
        Ok(rows.into_iter().map(|(id,)| NodeId(id)).collect())
    }
}
