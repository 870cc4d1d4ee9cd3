//! How many there are of what: for metrics, counted by the database.

use super::Admin;
use crate::{
    engine::{StoreError, vals},
    leases::LIVE,
};

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
    /// Whether the node's desired state has not been applied yet.
    pub dirty: bool,
    /// [`orion_domain::way_in::Way`] as the database has it.
    pub way_in: String,
    /// Number of nodes with these properties.
    pub count: i64,
}

impl Admin<'_> {
    /// All nodes, counted by what decides whether they are offered.
    pub async fn node_counts(self) -> Result<Vec<NodeTally>, StoreError> {
        let sql = "SELECT health, admission, quarantine IS NOT NULL, cordon IS NOT NULL, \
                   whole_lease IS NOT NULL OR cpu_held > 0, applied_version < desired_version, way_in, COUNT(*) \
                   FROM nodes GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7";
        let rows =
            self.store.db.all::<(String, String, i64, i64, i64, i64, String, i64)>(sql, vals![]).await?;
        let tally = |(health, admission, quarantined, cordoned, leased, dirty, way_in, count)| NodeTally {
            health,
            admission,
            quarantined: quarantined != 0,
            cordoned: cordoned != 0,
            leased: leased != 0,
            dirty: dirty != 0,
            way_in,
            count,
        };
        Ok(rows.into_iter().map(tally).collect())
    }

    /// Containers that were not removed, by the name of their state.
    pub async fn container_counts(self) -> Result<Vec<(String, i64)>, StoreError> {
        let sql = "SELECT state, COUNT(*) FROM containers \
                   WHERE state IN ('pending', 'pulling', 'running', 'exited', 'failed') GROUP BY state ORDER BY state";
        Ok(self.store.db.all::<(String, i64)>(sql, vals![]).await?)
    }

    /// Nodes whose disk is too full for containers.
    pub async fn full_disks(self) -> Result<i64, StoreError> {
        let sql = "SELECT COUNT(*) FROM nodes WHERE disk_full IS NOT NULL";
        Ok(self.store.db.one::<(i64,)>(sql, vals![]).await?.map_or(0, |(count,)| count))
    }

    /// Leases that are not over, by the name of their state.
    pub async fn lease_counts(self) -> Result<Vec<(String, i64)>, StoreError> {
        let sql =
            format!("SELECT state, COUNT(*) FROM leases WHERE state IN {LIVE} GROUP BY state ORDER BY state");
        Ok(self.store.db.all::<(String, i64)>(sqlx::AssertSqlSafe(sql), vals![]).await?)
    }
}
