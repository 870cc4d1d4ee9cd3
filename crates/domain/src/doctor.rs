//! What `orion doctor` looks for: the invariants of docs/ARCHITECTURE.md and what belongs to them, each with why
//! it matters and what to do.
//!
//! Lives here: the words and the shape of a finding. Does not live here: looking (`orion_store` in the database,
//! `orion_fleet` on the nodes).

use crate::{LeaseId, NodeId};
use serde::{Deserialize, Serialize};

/// One thing that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Check {
    /// A node is occupied by at most one lease, and both know it.
    I1,
    /// Accounts are where the leases are, and nowhere else.
    I2,
    /// Logins close at their leases' ends.
    I3,
    /// Every state has its event.
    I4,
    /// Secrets are kept only if they are needed.
    I5,
    /// Nodes that are offered may be offered.
    I7,
    /// Versions and epochs of rows only grow.
    #[serde(rename = "versions")]
    Versions,
    /// Uids are never used twice.
    #[serde(rename = "uids")]
    Uids,
    /// Work that was begun goes on.
    #[serde(rename = "stuck")]
    Stuck,
    /// Claims on rows are renewed or run out.
    #[serde(rename = "claims")]
    Claims,
    /// The tables, indexes and checks of this version are there.
    #[serde(rename = "schema")]
    Schema,
    /// The brake is off.
    #[serde(rename = "brake")]
    Brake,
    /// Schedulers and APIs are there.
    #[serde(rename = "processes")]
    Processes,
    /// The clock of this machine agrees with the database's.
    #[serde(rename = "clock")]
    Clock,
    /// Each machine has a machine id of its own.
    #[serde(rename = "machines")]
    Machines,
}

impl Check {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 15] = [
        Self::I1,
        Self::I2,
        Self::I3,
        Self::I4,
        Self::I5,
        Self::I7,
        Self::Versions,
        Self::Uids,
        Self::Stuck,
        Self::Claims,
        Self::Schema,
        Self::Brake,
        Self::Processes,
        Self::Clock,
        Self::Machines,
    ];

    /// Returns the short name of the check, in JSON and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::I1 => "I1",
            Self::I2 => "I2",
            Self::I3 => "I3",
            Self::I4 => "I4",
            Self::I5 => "I5",
            Self::I7 => "I7",
            Self::Versions => "versions",
            Self::Uids => "uids",
            Self::Stuck => "stuck",
            Self::Claims => "claims",
            Self::Schema => "schema",
            Self::Brake => "brake",
            Self::Processes => "processes",
            Self::Clock => "clock",
            Self::Machines => "machines",
        }
    }

    /// Whether a finding is something to know and not a broken promise: the brake is on, nobody schedules, images were
    /// copied.
    pub const fn is_warning(self) -> bool {
        matches!(self, Self::Brake | Self::Processes | Self::Clock | Self::Machines)
    }

    /// Returns what should hold, in a few words.
    pub const fn holds(self) -> &'static str {
        match self {
            Self::I1 => "each node has at most one lease, and both agree on it",
            Self::I2 => "accounts are where the leases are, and nowhere else",
            Self::I3 => "logins close at their leases' ends",
            Self::I4 => "every state has its event",
            Self::I5 => "no secret is kept that need not be, none in the clear",
            Self::I7 => "what is offered may be offered",
            Self::Versions => "versions fit together",
            Self::Uids => "no uid is used twice",
            Self::Stuck => "work that was begun goes on",
            Self::Claims => "claims on nodes are renewed or given back",
            Self::Schema => "tables, indexes and checks are complete",
            Self::Brake => "the brake is off",
            Self::Processes => "schedulers and APIs are there",
            Self::Clock => "this machine's clock agrees with the database's, and the nodes' with it",
            Self::Machines => "each machine has a machine id of its own",
        }
    }

    /// Returns why a finding matters.
    pub const fn why(self) -> &'static str {
        match self {
            Self::I1 => "two tenants may be on one machine, or a node is lost for renting",
            Self::I2 => "a tenant cannot log in, or somebody is on a machine that is not theirs",
            Self::I3 => "somebody uses a machine after their time, or is shut out before it",
            Self::I4 => "the timeline, webhooks and programs that follow the events have a wrong picture",
            Self::I5 => "who reads the database or a backup of it learns what they should not",
            Self::I7 => "the next lease gets a machine that is not clean, not checked or not free",
            Self::Versions => "work on a node is taken for done that is not, or is never taken for done",
            Self::Uids => "files that one tenant left behind would belong to the next",
            Self::Stuck => "a client waits for something that does not come",
            Self::Claims => "nobody else works on the node, or two do",
            Self::Schema => "the database no longer refuses what must not happen",
            Self::Brake => "no lease is moved off a dead node while it is on",
            Self::Processes => "without a scheduler nothing is watched, moved, ended or cleaned",
            Self::Clock => {
                "a process whose clock is more than 2 s off takes no work, and leases end at wrong times; a node whose clock \
                 is more than 10 min off refuses the control plane's certificates"
            }
            Self::Machines => {
                "the nodes may be one machine with two identities, each of which would delete the other's tenant, or copies \
                 of one image, which may have more in common: keys, tokens, passwords"
            }
        }
    }

    /// Returns the remedy for a finding.
    pub const fn what_to_do(self) -> &'static str {
        match self {
            Self::I1 => {
                "quarantine nothing by hand: release the younger lease (orion release), then look at the node \
                 (orion nodes show); if the rows disagree still, restore the last backup (docs/OPERATIONS.md)"
            }
            Self::I2 => {
                "have the node cleaned again: orion nodes drain NODE --wait, then orion nodes undrain NODE; \
                 who made the account by hand should know that Orion's uid range is Orion's"
            }
            Self::I3 => {
                "see that a scheduler runs and reaches the node (orion nodes show NODE); orion release LEASE ends it \
                 now; a wrong deadline on a node is written anew by an extension (orion extend LEASE 1m)"
            }
            Self::I4 => {
                "somebody changed rows by hand, or the log was cut: the state is what counts; tell those who follow \
                 the events to read it anew (GET /api/rentals)"
            }
            Self::I5 => {
                "set the column empty (ended leases), or give the account a new password; treat what stood there as \
                 known to others, and old backups as secret"
            }
            Self::I7 => {
                "take the node out of use first (orion nodes drain NODE), then see the other findings on it"
            }
            Self::Versions => {
                "somebody changed rows by hand: set desired_version above applied_version (UPDATE nodes SET \
                 desired_version = applied_version + 1 WHERE id = NODE), which has the node cleaned again"
            }
            Self::Uids => {
                "set the setting next_uid above every account_uid at once (UPDATE settings SET value = 'NUMBER' \
                 WHERE name = 'next_uid'); after a restore: orion admin after-restore"
            }
            Self::Stuck => {
                "look at the node's reasons and history (orion nodes show NODE) and at the scheduler's log; \
                 a node that does not do what it is told: orion nodes drain NODE"
            }
            Self::Claims => {
                "see that a scheduler runs, with the right clock (orion doctor says both): it takes over"
            }
            Self::Schema => {
                "compare with init.sql, which can be run again on MariaDB and adds what is missing; what was \
                 changed on purpose has to be changed back"
            }
            Self::Brake => "find out why so many nodes went silent at once; then orion brake lift",
            Self::Processes => {
                "start orion-scheduler and orion-control-plane (or orion up), and read their logs"
            }
            Self::Clock => {
                "set this machine's clock, or the database host's or the node's that is named (NTP)"
            }
            Self::Machines => {
                "on each copy: rm /etc/machine-id; systemd-machine-id-setup; restart orion-agent. A node that is the same \
                 machine as another one: orion nodes forget NODE"
            }
        }
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Failure of a check.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Finding {
    /// Check that failed.
    pub check: Check,
    /// The node that it is about, if it is about one.
    pub node: Option<NodeId>,
    /// The lease that it is about, if it is about one.
    pub lease: Option<LeaseId>,
    /// Human-readable description of the finding.
    pub what: String,
}

impl Finding {
    /// A finding about the whole.
    pub fn new(check: Check, what: impl Into<String>) -> Self {
        Self { check, node: None, lease: None, what: what.into() }
    }

    /// The same about `node`.
    #[must_use]
    pub fn on(self, node: NodeId) -> Self {
        Self { node: Some(node), ..self }
    }

    /// The same about `lease`.
    #[must_use]
    pub fn of(self, lease: LeaseId) -> Self {
        Self { lease: Some(lease), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_breaks_no_promise_is_a_warning() {
        let warnings: Vec<&str> =
            Check::ALL.into_iter().filter(|check| check.is_warning()).map(Check::as_str).collect();
        assert_eq!(warnings, ["brake", "processes", "clock", "machines"]);
        assert_eq!(Check::I7.to_string(), Check::I7.as_str());
    }

    #[test]
    fn a_finding_names_its_node_and_its_lease() {
        let finding = Finding::new(Check::I2, "x").on(NodeId(3)).of(LeaseId(4));
        assert_eq!((finding.node, finding.lease), (Some(NodeId(3)), Some(LeaseId(4))));
    }

    #[test]
    fn every_check_has_one_name_and_says_what_to_do() {
        let names: std::collections::HashSet<&str> = Check::ALL.into_iter().map(Check::as_str).collect();
        assert_eq!(names.len(), Check::ALL.len());
        for check in Check::ALL {
            assert_eq!(serde_json::to_value(check).unwrap(), check.as_str());
            assert!(
                check.what_to_do().len() > 20 && check.why().len() > 20 && check.holds().len() > 10,
                "{check}"
            );
        }
    }
}
