//! The ports of containers as proxies lead to them, and the tickets with which their owners come in.

use super::{Containers, NodePort, row::ports_of};
use crate::engine::{StoreError, transaction, vals};
use orion_domain::{LeaseId, Timestamp, UserId};

/// A container that runs and publishes ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedApp {
    /// Its lease.
    pub lease: LeaseId,
    /// Number in its lease.
    pub number: u32,
    /// The specification without the values of `env` and `files`, as JSON.
    pub spec: String,
    /// Its ports, and those of the node that lead there.
    pub ports: Vec<NodePort>,
    /// Address of the node.
    pub addr: String,
    /// The owner's token generation: all that rests on an older one is over.
    pub generation: i64,
    /// Whether the owner's account is enabled.
    pub is_enabled: bool,
}

/// A ticket: its holder comes in once, as the owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppTicket<'a> {
    /// SHA-256 of the ticket, in hex.
    pub sha256: &'a str,
    /// The owner.
    pub user: UserId,
    /// End of the ticket.
    pub expires_at: Timestamp,
}

type Columns = (i64, i64, String, String, String, i64, Option<i64>);

impl Containers<'_> {
    /// Returns the containers that run and publish ports, by lease and number.
    pub async fn published_apps(self) -> Result<Vec<PublishedApp>, StoreError> {
        let sql = "SELECT c.lease_id, c.number, c.spec, c.node_ports, n.addr, u.token_generation, u.disabled_at \
                   FROM containers c JOIN leases l ON l.id = c.lease_id JOIN nodes n ON n.id = c.node_id \
                   JOIN users u ON u.id = l.user_id WHERE c.state = 'running' AND c.node_ports IS NOT NULL \
                   AND c.wanted IN ('started', 'restarted') AND l.occupies_node = c.node_id \
                   AND l.state IN ('provisioning', 'active', 'migrating') AND n.addr IS NOT NULL \
                   ORDER BY c.lease_id, c.number";
        let rows = self.store.db.all::<Columns>(sql, vals![]).await?;
        let app = |(lease, number, spec, ports, addr, generation, disabled_at): Columns| PublishedApp {
            lease: LeaseId(lease),
            number: u32::try_from(number).unwrap_or(u32::MAX),
            spec,
            ports: ports_of(&ports).unwrap_or_default(),
            addr,
            generation,
            is_enabled: disabled_at.is_none(),
        };
        Ok(rows.into_iter().map(app).collect())
    }

    /// Writes a ticket down, and forgets those that were not used in time.
    pub async fn give_ticket(self, ticket: &AppTicket<'_>, now: Timestamp) -> Result<(), StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            tx.exec("DELETE FROM app_tickets WHERE expires_at <= ?", vals![now]).await?;
            let sql = "INSERT INTO app_tickets (sha256, user_id, expires_at) VALUES (?, ?, ?)";
            tx.exec(sql, vals![ticket.sha256, ticket.user, ticket.expires_at]).await.map(|_| ())
        })?)
    }

    /// Takes a ticket; whether it was good until now. It is good no more.
    pub async fn take_ticket(self, ticket: &AppTicket<'_>, now: Timestamp) -> Result<bool, StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            let sql = "DELETE FROM app_tickets WHERE sha256 = ? AND user_id = ? AND expires_at > ?";
            Ok(tx.exec(sql, vals![ticket.sha256, ticket.user, now]).await? == 1)
        })?)
    }
}
