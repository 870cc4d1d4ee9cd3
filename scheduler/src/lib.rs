//! The scheduler: probes the nodes' health, moves leases off dead ones, ends leases whose time is up,
//! makes nodes clean, and sends events to webhooks.
//!
//! Lives here: background tasks ([`tasks`]) in one frame ([`driver`]). Each takes no input but the database, is
//! idempotent, runs on a timer and on a nudge, and may be killed at any instruction. Does not live here: the rules
//! ([`orion_domain::health`], [`orion_domain::brake`], [`orion_domain::lease`]) and the work on a node
//! ([`orion_fleet::Fleet::apply`]).
//!
//! The decision to migrate is made in [`orion_domain::node::watch`] (is the node dead?), which [`tasks::watch`] performs,
//! and [`tasks::migrate`] (where to?).
//!
//! Any number of schedulers share the nodes of one database: [`members`] knows which schedulers live,
//! [`orion_domain::share`] which of them owns which node. Work on a node is claimed in the database, so nothing is
//! done twice whoever does it; each does the work on its own nodes first.

pub mod config;
pub mod context;
pub mod driver;
pub mod fleetwide;
pub mod members;
pub mod runs;
pub mod sightings;
pub mod suspension;
pub mod tasks;
pub mod tick;
#[cfg(test)]
mod ways_out;

pub use config::SchedulerConfig;
pub use context::Scheduler;

use driver::Task;

impl Scheduler {
    /// Runs until shutdown, then waits for what is under way.
    pub async fn run(self) {
        self.spawn(suspension::watch(self.clone()));
        self.drive(tasks::heartbeat::Heartbeat::default());
        self.drive(tasks::brake::Brake);
        self.drive(tasks::peer_probe::PeerProbes::default());
        self.drive(tasks::inventory::Inventory::default());
        self.drive(tasks::reconcile::Reconcile::new(&self));
        self.drive(tasks::migrate::Migrate::new(&self));
        self.drive(tasks::containers::Containers::new(&self));
        self.drive(tasks::images::Images::default());
        self.drive(tasks::engines::Engines::default());
        self.drive(tasks::doctor::Doctor::default());
        self.drive(tasks::drain::Drain::default());
        self.drive(tasks::expire::Expire::new(&self));
        self.drive(tasks::sweep::Sweep::default());
        self.drive(tasks::retention::Retention::default());
        self.drive(tasks::sightings::WriteSightings);
        self.drive(tasks::machines::CompareMachines);
        if let Some(apps) = tasks::apps::Apps::new(&self) {
            self.drive(apps);
        }
        if let Some(webhooks) = tasks::webhooks::Webhooks::new(&self) {
            self.drive(webhooks);
        }
        self.shutdown.cancelled().await;
        self.tasks.close();
        if tokio::time::timeout(self.config.soft_stop, self.tasks.wait()).await.is_err() {
            tracing::warn!("some work was still going on; the next process finishes it");
        }
    }

    /// Starts a background task, which runs until shutdown.
    pub fn drive(&self, task: impl Task) {
        self.spawn(driver::drive(self.clone(), task));
    }
}
