//! What has to be done on a node so that it holds what it should: read what it should hold, read what it
//! holds, apply the difference.

use crate::{LeaseId, Timestamp, lease::Account, names::UnixName};

/// The account that a node should hold. A node under no lease should hold none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredAccount {
    /// Whose it is.
    pub lease: LeaseId,
    /// The lease's ULID.
    pub ulid: String,
    /// Whether its login never worked anywhere yet: then its uid must be higher than any that the node has seen.
    pub is_new: bool,
    /// The login.
    pub account: Account,
    /// When it ends (without the grace).
    pub until: Timestamp,
}

/// What was found on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Accounts of Orion: name and uid.
    pub accounts: Vec<(String, u32)>,
    /// Uids that have a lease file.
    pub lease_files: Vec<u32>,
    /// Uids of Orion's range that own processes.
    pub process_uids: Vec<u32>,
}

/// One thing to do on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Remove an account and whatever its uid left behind.
    Delete {
        /// Its name, or a stand-in where only the uid was found.
        user: String,
        /// Its uid.
        uid: u32,
    },
    /// Make the desired account, or bring it to the wanted state.
    Create,
}

/// The difference: what must go goes first, so that a name is free before it is made again.
pub fn plan(desired: Option<&DesiredAccount>, observed: &Observed) -> Vec<Action> {
    let wanted = desired.map(|d| (d.account.user.as_str(), d.account.uid));
    let is_wanted = |uid: u32| wanted.is_some_and(|(_, w)| w == uid);
    let mut actions: Vec<Action> = Vec::new();
    for (user, uid) in &observed.accounts {
        if wanted != Some((user.as_str(), *uid)) {
            actions.push(Action::Delete { user: user.clone(), uid: *uid });
        }
    }
    for &uid in observed.lease_files.iter().chain(&observed.process_uids) {
        let named = actions.iter().any(|a| matches!(a, Action::Delete { uid: known, .. } if *known == uid));
        if !is_wanted(uid) && !named {
            actions.push(delete_by_uid(uid));
        }
    }
    if desired.is_some() {
        actions.push(Action::Create);
    }
    actions
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

    fn desired(user: &str, uid: u32) -> DesiredAccount {
        DesiredAccount {
            lease: LeaseId(1),
            ulid: "01K0000000000000000000000A".into(),
            is_new: true,
            account: Account {
                user: user.parse().unwrap(),
                uid,
                password_hash: Secret::new("$6$x"),
                public_key: None,
            },
            until: Timestamp::from_micros(0),
        }
    }

    #[test]
    fn everything_that_is_not_wanted_goes_before_what_is_wanted_is_made() {
        let observed = Observed {
            accounts: vec![("bob".into(), 200_001), ("alice".into(), 200_002)],
            lease_files: vec![200_001, 200_003],
            process_uids: vec![200_004, 200_003],
        };
        let delete = |user: &str, uid| Action::Delete { user: user.into(), uid };
        assert_eq!(
            plan(Some(&desired("alice", 200_002)), &observed),
            [
                delete("bob", 200_001),
                delete("orion-uid-200003", 200_003),
                delete("orion-uid-200004", 200_004),
                Action::Create
            ]
        );
    }

    #[test]
    fn the_same_name_with_an_older_uid_is_removed_first() {
        let observed = Observed { accounts: vec![("alice".into(), 200_001)], ..Observed::default() };
        assert_eq!(
            plan(Some(&desired("alice", 200_002)), &observed),
            [Action::Delete { user: "alice".into(), uid: 200_001 }, Action::Create]
        );
    }

    #[test]
    fn a_clean_node_without_a_lease_needs_nothing() {
        assert_eq!(plan(None, &Observed::default()), []);
    }
}
