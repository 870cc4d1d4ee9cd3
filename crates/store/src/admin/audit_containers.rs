//! What must hold of containers and of what leases have of nodes for them: networks, ports, devices.

use super::Admin;
use crate::engine::StoreError;
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    doctor::{Check, Finding},
};
use std::time::Duration;

/// Longest time for which a container may wait to be made: its pull takes half an hour, and waits for others of its user.
const WAITS_MAX: Duration = Duration::from_secs(3 * 3600);

impl Admin<'_> {
    /// I1, for networks, ports and devices; I2, for containers; and containers that wait for too long.
    pub(super) async fn containers(self, now: Timestamp) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        let networks = "SELECT w.lease_id, w.node_id FROM networks w \
                        LEFT JOIN holds h ON h.lease_id = w.lease_id AND h.node_id = w.node_id \
                        WHERE h.lease_id IS NULL ORDER BY 1";
        let ports = "SELECT DISTINCT p.lease_id, p.node_id FROM ports p \
                     LEFT JOIN holds h ON h.lease_id = p.lease_id AND h.node_id = p.node_id \
                     WHERE p.freed_at IS NULL AND h.lease_id IS NULL ORDER BY 1";
        let devices = "SELECT g.lease_id, g.node_id FROM gpus g \
                       LEFT JOIN holds h ON h.lease_id = g.lease_id AND h.node_id = g.node_id \
                       WHERE g.lease_id IS NOT NULL AND h.lease_id IS NULL ORDER BY 1";
        for (sql, what) in [
            (ports, "a port of the node is kept for a lease that holds nothing of it"),
            (networks, "a network of the node is kept for a lease that holds nothing of it"),
            (devices, "a device of the node is kept for a lease that holds nothing of it"),
        ] {
            for (lease, node) in self.pairs(sql.into(), Vec::new()).await? {
                findings.push(Finding::new(Check::I1, what).on(NodeId(node)).of(LeaseId(lease)));
            }
        }
        let left = "SELECT c.lease_id, c.number FROM containers c JOIN leases l ON l.id = c.lease_id \
                    WHERE c.state IN ('pending', 'pulling', 'running') AND l.state = 'ended' ORDER BY 1";
        for (lease, number) in self.pairs(left.into(), Vec::new()).await? {
            let what = format!("its container {number} counts as there, and the lease is over");
            findings.push(Finding::new(Check::I2, what).of(LeaseId(lease)));
        }
        let waits = "SELECT c.lease_id, c.number FROM containers c JOIN leases l ON l.id = c.lease_id \
                     JOIN nodes n ON n.id = l.occupies_node \
                     WHERE c.state IN ('pending', 'pulling') AND c.wanted = 'started' AND c.state_since < ? \
                     AND l.state = 'active' AND n.health = 'alive' ORDER BY 1";
        for (lease, number) in self.pairs(waits.into(), vec![now.minus(WAITS_MAX).into()]).await? {
            let hours = WAITS_MAX.as_secs() / 3600;
            let what = format!("its container {number} waits for more than {hours} h to be made");
            findings.push(Finding::new(Check::Stuck, what).of(LeaseId(lease)));
        }
        Ok(findings)
    }
}
