//! How many there are of what: for metrics, counted by the database.

use crate::{Store, db::vals, error::StoreError};

/// Nodes that are alike in all that decides whether they are offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTally {
    /// [`orion_domain::node::Health`] as the database has it.
    pub health: String,
    /// [`orion_domain::node::Admission`] as the database has it.
    pub admission: String,
    /// Kept out of use.
    pub quarantined: bool,
    /// Takes no new leases.
    pub cordoned: bool,
    /// A lease has it.
    pub leased: bool,
    /// What it should hold has not been applied yet.
    pub dirty: bool,
    /// How many are so.
    pub count: i64,
}

impl Store {
    /// All nodes, counted by what decides whether they are offered.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn tally_nodes(&self) -> Result<Vec<NodeTally>, StoreError> {
        let sql = "SELECT health, admission, quarantine IS NOT NULL, cordon IS NOT NULL, \
                   lease_id IS NOT NULL, applied_version < desired_version, COUNT(*) \
                   FROM nodes GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6";
        let rows = self.db.all::<(String, String, i64, i64, i64, i64, i64)>(sql, vals![]).await?;
        let tally = |(health, admission, quarantined, cordoned, leased, dirty, count)| NodeTally {
            health,
            admission,
            quarantined: quarantined != 0,
            cordoned: cordoned != 0,
            leased: leased != 0,
            dirty: dirty != 0,
            count,
        };
        Ok(rows.into_iter().map(tally).collect())
    }

    /// Leases that are not over, by the name of their state.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn tally_leases(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let sql = "SELECT state, COUNT(*) FROM leases WHERE state IN \
                   ('provisioning', 'active', 'migrating', 'releasing') GROUP BY state ORDER BY state";
        Ok(self.db.all::<(String, i64)>(sql, vals![]).await?)
    }
}
