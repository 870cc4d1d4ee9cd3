//! What users read in place of reasons that are for admins: quarantine reasons, clean reports and the output of tools on
//! nodes name other tenants, their files and processes.
//!
//! Does not live here: who is an admin ([`crate::auth`]).

use orion_domain::{
    lease::{EndReason, LeaseState},
    node::Health,
    way_in::without_details,
};
use orion_store::{Event, LeaseNodeEntry, LeaseRow};

/// Text in place of a quarantine's reason.
pub const OUT_OF_USE: &str = "it is out of use until it is clean, or an admin has looked at it";
/// Text in place of a tool's output on a node.
pub const NOT_PROVIDED: &str = "the node could not provide the login; an admin sees why";

/// Returns the text in place of a health verdict's reason.
pub const fn of_health(health: Health) -> &'static str {
    match health {
        Health::Alive => "SSH answers",
        Health::Suspect => "it did not answer just now, and is looked at again",
        Health::Unreachable => "SSH does not reach it",
        Health::Dead => "it does not answer",
        Health::Unknown => "it was not looked at yet",
    }
}

/// A lease without what a tool said of it.
#[must_use]
pub fn of_lease(mut row: LeaseRow) -> LeaseRow {
    if let LeaseState::Releasing { reason, .. } | LeaseState::Ended { reason } = &mut row.lease.state
        && matches!(reason, EndReason::Failed { .. })
    {
        *reason = EndReason::Failed { detail: NOT_PROVIDED.into() };
    }
    if let Some(node) = &mut row.node {
        node.health_reason = of_health(node.health).to_owned();
        node.way_in.reason = node.way_in.reason.as_deref().map(without_details);
    }
    row
}

/// An event without what a tool said.
#[must_use]
pub fn of_event(mut event: Event) -> Event {
    let Some(reason) = event.data.get_mut("reason") else { return event };
    if event.kind == "lease.replaced" {
        *reason = NOT_PROVIDED.into();
    }
    // The reason of an end is a word; only that of a failure has a text of its own.
    if let Some(detail) = reason.get_mut("detail") {
        *detail = NOT_PROVIDED.into();
    }
    event
}

/// A node that a lease was on, without what a tool said there: only reasons that Orion words itself are shown.
#[must_use]
pub fn of_entry(mut entry: LeaseNodeEntry) -> LeaseNodeEntry {
    let own =
        [EndReason::Released, EndReason::Expired, EndReason::NodeLost, EndReason::Drained, EndReason::Reset];
    let is_own = |why: &str| {
        why == "the node is dead"
            || why.starts_with("the node is being drained")
            || own.iter().any(|reason| reason.to_string() == why)
    };
    if entry.why.as_deref().is_some_and(|why| !is_own(why)) {
        entry.why = Some(NOT_PROVIDED.into());
    }
    entry
}
