//! The deadlines at which a node ends the containers of leases by itself, and with them the rules of its firewall.

use super::{Outcome, STOP_GRACE, Stop, agent};
use crate::Fleet;
use orion_domain::{LeaseId, lease::Phase, reconcile::Desired};
use orion_ssh::Target;
use orion_store::{ContainerRow, NodeClaim};

/// Difference in seconds up to which the node's deadline is the one that the lease has.
const SAME_DEADLINE_S: u64 = 3;

/// ULID of a lease whose containers a node ends at a deadline, and the seconds until then as the node has them.
pub(super) type KeptLease = (String, Option<i64>);

impl Fleet {
    /// Tells the node until when it keeps the containers of each lease that it keeps already and has another deadline for;
    /// of a new one it is told when the first is started. Returns whether it was told anything.
    pub(super) async fn keep_new_deadlines(
        &self,
        target: &Target,
        claim: &NodeClaim,
        kept: &[KeptLease],
    ) -> Result<bool, Stop> {
        let mut was_told = false;
        for (desired, on_node) in on_node(claim, kept) {
            let left = i64::try_from(self.seconds_left(desired.until)).unwrap_or(i64::MAX);
            let is_same = on_node.is_some_and(|on_node| left.abs_diff(on_node) <= SAME_DEADLINE_S);
            if !is_same {
                self.keep_deadline(target, claim, desired).await?;
                was_told = true;
            }
        }
        Ok(was_told)
    }

    /// Looks at the rules of the node's firewall, by telling it the deadline of a lease that keeps containers there.
    pub(super) async fn look_at_firewall(
        &self,
        (target, claim): (&Target, &NodeClaim),
        kept: &[KeptLease],
        rows: &[ContainerRow],
    ) -> Result<(), Stop> {
        let has_some = |desired: &Desired| rows.iter().any(|row| row.lease == desired.lease);
        match on_node(claim, kept).find(|(desired, _)| has_some(desired)) {
            Some((desired, _)) => self.keep_deadline(target, claim, desired).await,
            None => Ok(()),
        }
    }

    async fn keep_deadline(&self, target: &Target, claim: &NodeClaim, desired: &Desired) -> Result<(), Stop> {
        let firewall = self.firewall(claim.node.id).await?;
        let lease = desired.lease.to_string();
        let deadline_s = self.seconds_left(desired.until).to_string();
        let own = [
            ("lease", &*lease),
            ("lease_ulid", &*desired.ulid),
            ("deadline_s", &*deadline_s),
            ("agent", agent(claim)),
        ];
        let values: Vec<_> = own.into_iter().chain(firewall.values()).collect();
        let playbook = self.playbooks.keep_containers();
        self.run(target, playbook, (claim, Some(desired.lease)), &values).await?;
        self.firewalls.tell(claim.node.id, &firewall, self.now());
        Ok(())
    }

    /// Has the node end what is left of the leases whose containers it keeps a deadline for, and forget them: all but those
    /// that are wanted there, and those that are just on their way off it.
    pub(super) async fn forget_deadlines(
        &self,
        target: &Target,
        claim: &NodeClaim,
        (kept, wanted): (&[KeptLease], &[&str]),
    ) -> Result<(), Stop> {
        let grace_s = STOP_GRACE.as_secs().to_string();
        let stays = |ulid: &String| wanted.contains(&ulid.as_str()) || claim.departing.contains(ulid);
        for (ulid, _) in kept.iter().filter(|(ulid, _)| !stays(ulid)) {
            let values = [("lease_ulid", &**ulid), ("grace_s", &*grace_s)];
            self.run(target, self.playbooks.remove_containers(), (claim, None), &values).await?;
        }
        Ok(())
    }
}

impl Outcome {
    /// Whether the node ends the containers of these leases at a new deadline, too, is not known.
    pub(in crate::apply) fn forget_deadlines_of(&mut self, claim: &NodeClaim, kept: &[KeptLease]) {
        let keeps = |lease: LeaseId| {
            let desired = claim.desired_of(lease);
            desired.is_some_and(|desired| kept.iter().any(|(ulid, _)| *ulid == desired.ulid))
        };
        for (lease, until) in &mut self.ready {
            *until = until.filter(|_| !keeps(*lease));
        }
    }
}

/// The leases on the node that it keeps a deadline for, with the seconds until then as it has them.
fn on_node<'a>(
    claim: &'a NodeClaim,
    kept: &'a [KeptLease],
) -> impl Iterator<Item = (&'a Desired, Option<i64>)> {
    claim.desired.iter().filter_map(|desired| {
        let (_, left) = kept.iter().find(|(ulid, _)| *ulid == desired.ulid)?;
        Some((desired, *left))
    })
}

/// Whether every lease that is on its way to the node is there once its account is: none of them is containers alone.
pub(in crate::apply) fn accounts_suffice(claim: &NodeClaim) -> bool {
    let arrives = |desired: &&Desired| matches!(desired.phase, Phase::Provisioning | Phase::Migrating);
    claim.desired.iter().filter(arrives).all(|desired| desired.account.is_some())
}
