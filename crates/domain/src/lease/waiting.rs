//! Transitions of leases that wait for a node: before their first one, and after they gave theirs up to another lease.

use super::{LeaseEvent, LeaseState};
use crate::Refused;

impl LeaseState {
    /// The lease was approved.
    ///
    /// # Errors
    /// When it does not wait for that.
    pub fn approve(self) -> Result<(Self, LeaseEvent), Refused> {
        if self == Self::Requested {
            return Ok((Self::Scheduled { reason: None }, LeaseEvent::Scheduled));
        }
        self.refused("approved")
    }

    /// Refuses to give its first node to a lease that does not wait for one.
    pub fn may_begin(&self) -> Result<(), Refused> {
        match self {
            Self::Scheduled { .. } | Self::Queued { .. } => Ok(()),
            Self::Requested
            | Self::Provisioning { .. }
            | Self::Active { .. }
            | Self::Migrating { .. }
            | Self::Yielding { .. }
            | Self::Releasing { .. }
            | Self::Ended { .. } => self.refused("begun"),
        }
    }

    /// No node could take the lease, which has had no login yet: it queues.
    ///
    /// # Errors
    /// When it is not being provided.
    pub fn queue(self, reason: &str) -> Result<(Self, LeaseEvent), Refused> {
        if let Self::Provisioning { .. } = self {
            let reason = reason.to_owned();
            return Ok((Self::Queued { reason: reason.clone() }, LeaseEvent::Queued { reason }));
        }
        self.refused("queued")
    }

    /// The room of the lease is for another one: its account will be removed, and then it queues.
    ///
    /// # Errors
    /// When its login does not work.
    pub fn preempt(self, reason: &str) -> Result<(Self, LeaseEvent), Refused> {
        if let Self::Active { node } = self {
            let reason = reason.to_owned();
            return Ok((
                Self::Yielding { node, reason: reason.clone() },
                LeaseEvent::Yielding { node, reason },
            ));
        }
        self.refused("preempted")
    }
}
