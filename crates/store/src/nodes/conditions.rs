//! Conditions on rows of `nodes`, as SQL, that more than one of the store's files asks for.
//!
//! Lives here: the text of each condition, with what it binds. Does not live here: the queries and writes around them.

/// When a node may be offered; says the same as [`orion_domain::node::Node::is_offerable`].
pub(crate) const OFFERABLE: &str = "admission = 'admitted' AND health = 'alive' AND quarantine IS NULL \
                         AND cordon IS NULL AND whole_lease IS NULL AND applied_version = desired_version \
                         AND way_in = 'open' AND cpu_held = 0 AND memory_held_mb = 0 AND transport = 'ssh'";

/// Condition under which slices of a node may be offered. Work that is pending for other leases is no
/// hindrance.
pub(crate) const SLICEABLE: &str = "admission = 'admitted' AND health = 'alive' AND quarantine IS NULL \
    AND cordon IS NULL AND whole_lease IS NULL AND unclean = 0 AND way_in = 'open' AND transport = 'ssh' \
    AND disk_full IS NULL AND (engine_down_since IS NULL OR engine IS NULL)";

/// Condition of a node whose engine takes containers now.
pub(crate) const HAS_ENGINE: &str = "engine IS NOT NULL AND engine_down_since IS NULL AND disk_full IS NULL";

/// Condition under which a node's row may be claimed; binds `now`.
pub(crate) const CLAIMABLE: &str = "(claimed_until IS NULL OR claimed_until <= ?)";

/// A quarantine that the next successful reconcile may end; binds `now`.
pub(crate) const QUARANTINE_IS_DUE: &str = "(quarantine IS NOT NULL \
     AND quarantine_cause IN ('passing', 'cleaning') AND COALESCE(quarantine_until, 0) <= ?)";

/// A lease of this node is on its way to another one, which has not confirmed it.
pub(crate) const HAS_OUTGOING_MIGRATION: &str = "EXISTS (SELECT 1 FROM leases moving WHERE moving.state = 'migrating' \
                                        AND moving.from_node = nodes.id AND moving.occupies_node <> nodes.id)";

/// Beginning of the reason of a quarantine for a second identity of a machine. A node in it is not reconciled: it would
/// remove what the first one's tenant has there.
pub(crate) const SAME_MACHINE: &str = "it is the same machine as node";
