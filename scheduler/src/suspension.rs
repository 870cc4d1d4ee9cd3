//! Notices that this process was suspended: a signal that stopped it, the sleep of a laptop, the pause of a virtual machine.
//!
//! Lives here: the ticks, of which one that comes late is noticed. Does not live here: their clocks ([`crate::tick`]), and
//! what follows from a suspension ([`crate::fleetwide`]).

use crate::{context::Scheduler, tick::Tick};
use std::time::Duration;

/// Pause between two ticks.
const TICK_PERIOD: Duration = Duration::from_millis(500);

/// Ticks until shutdown.
pub(crate) async fn watch(scheduler: Scheduler) {
    loop {
        if scheduler.fleetwide.tick(Tick::now(scheduler.fleet.now())) {
            tracing::warn!("this scheduler was suspended; it probes all of its nodes anew");
            scheduler.fleet.nudge.all();
        }
        tokio::select! {
            () = scheduler.shutdown.cancelled() => break,
            () = tokio::time::sleep(TICK_PERIOD) => {}
        }
    }
}
