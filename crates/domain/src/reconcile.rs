//! What has to be done on a node so that it holds what it should: read what it should hold, read what it
//! holds, apply the difference.

use crate::{
    LeaseId, Timestamp,
    lease::{Account, Phase},
    names::UnixName,
};
use std::ops::RangeInclusive;

/// Lowest uid that Orion gives out. The playbooks and the deadline process know it as `$first_uid`.
pub const FIRST_UID: u32 = 200_000;
/// Highest uid that Orion gives out.
pub const LAST_UID: u32 = 60_000_000;

/// What a node should hold of one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Lease that the account belongs to.
    pub lease: LeaseId,
    /// The lease's ULID.
    pub ulid: String,
    /// The phase of the lease.
    pub phase: Phase,
    /// The login; none where the lease gives none.
    pub account: Option<Account>,
    /// End of the lease (without the grace).
    pub until: Timestamp,
}

impl Desired {
    /// Says whether the login never worked anywhere yet: then its uid must be higher than any that the node has seen.
    pub fn is_new(&self) -> bool {
        self.phase == Phase::Provisioning
    }
}

/// State that was found on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Accounts with a uid of the range of leases, or of the lease group: name and uid.
    pub accounts: Vec<(String, u32)>,
    /// Uids of the members of the lease group.
    pub members: Vec<u32>,
    /// Uids that have a lease file.
    pub lease_files: Vec<u32>,
    /// Uids of the range of leases that own processes.
    pub process_uids: Vec<u32>,
    /// Uids that leases have had on this node: from the first that is given out to the highest that the node has seen.
    pub given_out: RangeInclusive<u32>,
    /// Subordinate ranges of the node: first id and number of ids.
    pub subordinate: Vec<(u32, u32)>,
}

impl Observed {
    /// Whether Orion made what has this uid: a lease file names it, its account is of the lease group, or a lease has
    /// had it here and no container can have it.
    fn is_orions(&self, uid: u32) -> bool {
        let is_subordinate =
            || self.subordinate.iter().any(|(first, count)| uid >= *first && uid - *first < *count);
        self.lease_files.contains(&uid)
            || self.members.contains(&uid)
            || (self.given_out.contains(&uid) && !is_subordinate())
    }

    /// Describes the finding of a uid that is not Orion's.
    fn finding(&self, what: &str, uid: u32) -> String {
        match self.subordinate.iter().find(|(first, count)| uid >= *first && uid - *first < *count) {
            Some((first, count)) => format!(
                "{what} uid {uid} of the subordinate range {first}:{count} is left alone; no lease gets a uid of that range here"
            ),
            None => format!("{what} uid {uid}, which no lease has had here, is left alone"),
        }
    }
}

/// Actions to carry out on a node, and findings of what is not Orion's there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Actions in the order in which they are carried out.
    pub actions: Vec<Action>,
    /// Left alone; a sentence each, at most [`FINDINGS_MAX`].
    pub findings: Vec<String>,
}

/// Largest number of findings that are kept for a node.
pub const FINDINGS_MAX: usize = 20;

/// One thing to do on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Remove an account and whatever its uid left behind.
    Delete {
        /// Name of the account, or a stand-in where only the uid was found.
        user: String,
        /// Uid of the account.
        uid: u32,
    },
    /// Make the account of a lease, or bring it to the wanted state.
    Create {
        /// Number of the lease.
        lease: LeaseId,
    },
}

/// The difference: what must go goes first, so that a name is free before it is made again. Only what Orion made goes.
pub fn plan(desired: &[Desired], observed: &Observed) -> Plan {
    let wanted: Vec<&Account> = desired.iter().filter_map(|wanted| wanted.account.as_ref()).collect();
    let is_wanted = |uid: u32| wanted.iter().any(|account| account.uid == uid);
    let mut actions: Vec<Action> = Vec::new();
    let mut findings: Vec<String> = Vec::new();
    for (user, uid) in &observed.accounts {
        if wanted.iter().any(|account| account.user.as_str() == user && account.uid == *uid) {
            continue;
        }
        if observed.is_orions(*uid) && uid >= observed.given_out.start() && is_plain(user) {
            actions.push(Action::Delete { user: user.clone(), uid: *uid });
        } else {
            findings.push(observed.finding(&format!("the account {user} with"), *uid));
        }
    }
    for &uid in observed.lease_files.iter().chain(&observed.process_uids) {
        let named = actions.iter().any(|a| matches!(a, Action::Delete { uid: known, .. } if *known == uid));
        if is_wanted(uid) || named {
            continue;
        }
        let is_accounts = observed.accounts.iter().any(|(_, account)| *account == uid);
        if observed.is_orions(uid) && uid >= *observed.given_out.start() && !is_accounts {
            actions.push(delete_by_uid(uid));
        } else {
            findings.push(observed.finding("what runs or is kept with", uid));
        }
    }
    findings.truncate(FINDINGS_MAX);
    let with_account = desired.iter().filter(|wanted| wanted.account.is_some());
    actions.extend(with_account.map(|wanted| Action::Create { lease: wanted.lease }));
    Plan { actions, findings }
}

/// Whether Orion can have made an account of this name.
fn is_plain(user: &str) -> bool {
    let safe = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    user.len() <= 31
        && user.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && user.chars().all(safe)
}

/// Removes what a uid left behind, whatever has its name by now.
pub fn delete_by_uid(uid: u32) -> Action {
    Action::Delete { user: stand_in(uid), uid }
}

/// A name for a uid whose account is gone already; no user can be called so (see [`UnixName`]).
fn stand_in(uid: u32) -> String {
    debug_assert!("orion-uid".parse::<UnixName>().is_err());
    format!("orion-uid-{uid}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secret;

    const CREATE: Action = Action::Create { lease: LeaseId(1) };

    #[test]
    fn the_document_for_operators_names_the_uids_that_are_given_out() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/NODES.md");
        let document = std::fs::read_to_string(path).unwrap();
        let range = format!("Uids from {FIRST_UID} up to {LAST_UID} are Orion's to give.");
        assert!(document.contains(&range), "docs/NODES.md: {range}");
    }

    fn desired(user: &str, uid: u32) -> Desired {
        Desired {
            lease: LeaseId(1),
            ulid: "01K0000000000000000000000A".into(),
            phase: Phase::Provisioning,
            account: Some(Account {
                user: user.parse().unwrap(),
                uid,
                password_hash: Secret::new("$6$x"),
                public_key: None,
            }),
            until: Timestamp::from_micros(0),
        }
    }

    fn nothing() -> Observed {
        Observed {
            accounts: Vec::new(),
            members: Vec::new(),
            lease_files: Vec::new(),
            process_uids: Vec::new(),
            given_out: 200_000..=200_010,
            subordinate: Vec::new(),
        }
    }

    fn delete(user: &str, uid: u32) -> Action {
        Action::Delete { user: user.into(), uid }
    }

    #[test]
    fn everything_that_is_not_wanted_goes_before_what_is_wanted_is_made() {
        let observed = Observed {
            accounts: vec![("bob".into(), 200_001), ("alice".into(), 200_002)],
            lease_files: vec![200_001, 200_003],
            process_uids: vec![200_004, 200_003],
            ..nothing()
        };
        let planned = plan(&[desired("alice", 200_002)], &observed);
        assert_eq!(
            planned.actions,
            [
                delete("bob", 200_001),
                delete("orion-uid-200003", 200_003),
                delete("orion-uid-200004", 200_004),
                CREATE
            ]
        );
        assert_eq!(planned.findings, [] as [String; 0]);
    }

    #[test]
    fn the_accounts_of_two_leases_on_one_node_leave_each_other_alone() {
        let (alice, bob) =
            (desired("alice", 200_001), Desired { lease: LeaseId(2), ..desired("bob", 200_002) });
        let observed = Observed {
            accounts: vec![("alice".into(), 200_001), ("bob".into(), 200_002), ("carol".into(), 200_003)],
            members: vec![200_001, 200_002, 200_003],
            lease_files: vec![200_001, 200_002],
            process_uids: vec![200_001, 200_002],
            ..nothing()
        };
        let create = |lease: i64| Action::Create { lease: LeaseId(lease) };
        let both = plan(&[alice.clone(), bob], &observed).actions;
        assert_eq!(both, [delete("carol", 200_003), create(1), create(2)]);
        let one = plan(&[alice], &observed).actions;
        assert_eq!(one, [delete("bob", 200_002), delete("carol", 200_003), create(1)]);
    }

    #[test]
    fn the_same_name_with_an_older_uid_is_removed_first() {
        let observed = Observed { accounts: vec![("alice".into(), 200_001)], ..nothing() };
        assert_eq!(plan(&[desired("alice", 200_002)], &observed).actions, [delete("alice", 200_001), CREATE]);
    }

    #[test]
    fn a_lease_without_an_account_needs_none_and_keeps_nobody_elses() {
        let without = Desired { lease: LeaseId(2), account: None, ..desired("alice", 200_001) };
        let observed = Observed { accounts: vec![("bob".into(), 200_002)], ..nothing() };
        assert_eq!(plan(std::slice::from_ref(&without), &observed).actions, [delete("bob", 200_002)]);
        let both = plan(&[without, desired("bob", 200_002)], &observed).actions;
        assert_eq!(both, [CREATE], "it says nothing of the account of another lease");
    }

    #[test]
    fn a_clean_node_without_a_lease_needs_nothing() {
        assert_eq!(plan(&[], &nothing()), Plan { actions: Vec::new(), findings: Vec::new() });
    }

    #[test]
    fn what_orion_did_not_make_is_left_alone_and_named() {
        let observed = Observed {
            // Of a directory service; with a name that Orion never gives; a member below the range.
            accounts: vec![
                ("ldap-user".into(), 1_234_567),
                ("Build.Bot".into(), 200_003),
                ("service".into(), 990),
            ],
            members: vec![990],
            // Of a container; above all that was given out; and one that a lease has had.
            process_uids: vec![1_000_000, 200_011, 200_005, 200_009, 200_003],
            subordinate: vec![(1_000_000, 65_536), (200_009, 1)],
            ..nothing()
        };
        let planned = plan(&[], &observed);
        assert_eq!(planned.actions, [delete_by_uid(200_005)]);
        let findings = planned.findings.join("; ");
        for named in [
            "the account ldap-user with uid 1234567, which no lease",
            "the account Build.Bot with uid 200003",
            "the account service with uid 990",
            "uid 1000000 of the subordinate range 1000000:65536",
            "uid 200011, which no lease",
            "uid 200009 of the subordinate range 200009:1",
        ] {
            assert!(findings.contains(named), "{named}: {findings}");
        }
    }

    #[test]
    fn a_lease_file_or_the_lease_group_shows_what_is_orions_on_a_node_that_remembers_no_uid() {
        let observed = Observed {
            accounts: vec![("bob".into(), 200_004)],
            members: vec![200_004],
            lease_files: vec![200_003],
            given_out: RangeInclusive::new(200_000, 0),
            ..nothing()
        };
        assert_eq!(
            plan(&[], &observed).actions,
            [delete("bob", 200_004), delete("orion-uid-200003", 200_003)]
        );
    }
}
