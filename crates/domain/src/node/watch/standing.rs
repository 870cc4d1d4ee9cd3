//! What of a scheduler's own state speaks against giving a node up.

use crate::{Timestamp, brake::Brake};
use std::time::Duration;

/// The state of a scheduler, and of the brake, that bears on giving a node up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether there is no other scheduler that could be asked.
    pub alone: bool,
    /// Whether this machine's clock is too far off the database's, or was not compared yet.
    pub clock_off: bool,
    /// The brake; none until it was read.
    pub brake: Option<Brake>,
    /// Time at which this scheduler began to probe, or went on after its last suspension.
    pub probing_since: Timestamp,
    /// Time at which this scheduler took the node over from another one, if it did.
    pub taken_over: Option<Timestamp>,
    /// Reason not to give up nodes whose sshd accepts no login, if there is one
    /// ([`crate::brake::Census::many_are_sick`]).
    pub many_are_sick: Option<String>,
}

impl Standing {
    /// Returns why the node may not be given up now, if so. `hold` is for how long nothing is after a start or a
    /// suspension, and no node that was taken over.
    pub fn holds_back(&self, hold: Duration, now: Timestamp) -> Option<String> {
        if self.clock_off {
            return Some("this machine's clock is off the database's".into());
        }
        let Some(brake) = &self.brake else { return Some("the brake has not been read yet".into()) };
        if let Some(engaged) = &brake.engaged {
            return Some(format!("the brake is on: {}", engaged.reason));
        }
        let seconds = hold.as_secs();
        if now.since(self.probing_since) < hold {
            return Some(format!(
                "the scheduler has just started or resumed; it probes for {seconds} s first"
            ));
        }
        self.taken_over.is_some_and(|at| now.since(at) < hold).then(|| {
            format!("another scheduler looked after it until just now; this one probes for {seconds} s first")
        })
    }
}
