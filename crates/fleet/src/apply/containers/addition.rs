//! A further container on a node that held exactly what it should.

use super::{LeasesLookedAt, Outcome, Stop, deadlines::accounts_suffice};
use crate::Fleet;
use orion_domain::reconcile::Desired;
use orion_ssh::Target;
use orion_store::NodeClaim;

impl Fleet {
    /// Makes a new container, and looks neither at the accounts on the node nor at the deadlines that it keeps. The start of the
    /// container tells the node the deadline, and looks at its firewall.
    pub(in crate::apply) async fn add_container(
        &self,
        target: &Target,
        claim: &NodeClaim,
        outcome: &mut Outcome,
    ) -> Result<(), Stop> {
        let engine = self.engines.of(target);
        let Ok(found) = engine.inventory().await else {
            // What follows from that depends on what the node keeps.
            return Box::pin(self.look_and_work_on(target, claim, outcome)).await;
        };
        let rows = self.store.containers().of_node(claim.node.id).await?;
        let (on, what) = ((target, claim), (engine, found));
        match Box::pin(self.bring_containers_in_order(on, what, (&rows, &[]), outcome)).await {
            Ok((leases, _)) => outcome.containers_done(claim, &leases),
            Err(Stop::Unreached(reason)) if accounts_suffice(claim) => outcome.unfinished = Some(reason),
            Err(stop) => return Err(stop),
        }
        Ok(())
    }
}

impl Outcome {
    /// The containers on the node are in order. A lease that gives no login has all that it wants of the node when each of its
    /// containers was begun.
    pub(in crate::apply) fn containers_done(&mut self, claim: &NodeClaim, leases: &LeasesLookedAt) {
        let without = claim.desired.iter().filter(|desired| desired.account.is_none());
        let ready = without.filter(|desired| !leases.waiting.contains(&desired.lease));
        let until = |desired: &Desired| leases.kept.contains(&desired.lease).then_some(desired.until);
        self.ready.extend(ready.map(|desired| (desired.lease, until(desired))));
    }
}
