//! Changes that the state of a lease or of a node does not allow.

use crate::node::{Admission, Health, Node};
use std::fmt;

/// A change that a state does not allow: what was tried, and in which state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {noun} that is {from} cannot be {attempted}")]
pub struct Refused {
    /// Kind of the thing that was to change.
    pub noun: &'static str,
    /// State that it was in.
    pub from: &'static str,
    /// Change that was tried, as a past participle.
    pub attempted: &'static str,
}

impl Refused {
    /// Says it of the one with this number.
    pub fn of(&self, id: impl fmt::Display) -> String {
        let Self { noun, from, attempted } = self;
        format!("{noun} {id} is {from} and cannot be {attempted}")
    }
}

impl Node {
    fn refused(from: &'static str, attempted: &'static str) -> Result<(), Refused> {
        Err(Refused { noun: "node", from, attempted })
    }

    /// Refuses to declare a node dead that answers, or is dead.
    pub fn may_be_declared_dead(&self) -> Result<(), Refused> {
        match self.health {
            Health::Unknown | Health::Suspect | Health::Unreachable => Ok(()),
            Health::Alive | Health::Dead => Self::refused(self.health.as_str(), "declared dead"),
        }
    }

    /// Refuses to end the quarantine of a node that is in none.
    pub fn may_leave_quarantine(&self) -> Result<(), Refused> {
        match self.quarantine {
            Some(_) => Ok(()),
            None => Self::refused("not in quarantine", "taken out of it"),
        }
    }

    /// Refuses to end the drain of a node that has none.
    pub fn may_be_undrained(&self) -> Result<(), Refused> {
        match self.drain {
            Some(_) => Ok(()),
            None => Self::refused("not being drained", "undrained"),
        }
    }

    /// Refuses to admit a node by the host key that was seen there, if none was or none is waited for.
    pub fn may_be_admitted_by_key(&self) -> Result<(), Refused> {
        match (self.admission, &self.seen_fingerprint) {
            (Admission::Pending, Some(_)) => Ok(()),
            (Admission::Pending, None) => Self::refused("still to show a host key", "admitted by one"),
            (Admission::Reported, _) => Self::refused("confirming its host key", "admitted by another"),
            (Admission::Admitted, _) => Self::refused("admitted", "admitted again by a host key"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::tests::free_node;

    #[test]
    fn a_refusal_says_what_was_tried_in_which_state() {
        let text = |refused: Result<(), Refused>| refused.unwrap_err().of(3);
        let node = free_node();
        assert_eq!(text(node.may_be_declared_dead()), "node 3 is alive and cannot be declared dead");
        assert_eq!(
            text(node.may_leave_quarantine()),
            "node 3 is not in quarantine and cannot be taken out of it"
        );
        assert_eq!(text(node.may_be_undrained()), "node 3 is not being drained and cannot be undrained");
        assert_eq!(
            text(node.may_be_admitted_by_key()),
            "node 3 is admitted and cannot be admitted again by a host key"
        );
        let refused = node.may_be_declared_dead().unwrap_err();
        assert_eq!(refused.to_string(), "a node that is alive cannot be declared dead");
    }

    #[test]
    fn a_node_changes_only_from_the_states_that_allow_it() {
        for (health, may) in [
            (Health::Unknown, true),
            (Health::Alive, false),
            (Health::Suspect, true),
            (Health::Unreachable, true),
            (Health::Dead, false),
        ] {
            assert_eq!(Node { health, ..free_node() }.may_be_declared_dead().is_ok(), may, "{health:?}");
        }
        let seen = || Some("SHA256:x".to_owned());
        for (admission, seen_fingerprint, may) in [
            (Admission::Pending, seen(), true),
            (Admission::Pending, None, false),
            (Admission::Reported, seen(), false),
            (Admission::Admitted, seen(), false),
        ] {
            let node = Node { admission, seen_fingerprint, ..free_node() };
            assert_eq!(node.may_be_admitted_by_key().is_ok(), may, "{node:?}");
        }
        assert!(Node { quarantine: Some("x".into()), ..free_node() }.may_leave_quarantine().is_ok());
    }
}
