//! The ports of containers as routes of the proxies: the database's, projected into every Caddy that the settings name.
//!
//! A route is due when its container runs, and is over when it does not. Each run reads a Caddy's routes, then the database, and
//! puts all routes in place of others in one change, if nobody was faster: so older routes never replace newer ones, whoever
//! writes, and a Caddy or a scheduler that starts anew needs nothing else.
//!
//! Does not live here: who may come in (the API is asked by Caddy for each request), and what the routes lead to.

mod caddy;
mod routes;

use crate::{
    context::Scheduler,
    driver::{Report, Task},
};
use caddy::Caddy;
use orion_fleet::Apps as Settings;
use orion_store::StoreError;
use std::time::Duration;

/// Pause between two runs: Caddy may have been started anew.
const PERIOD: Duration = Duration::from_secs(1);

/// The task that keeps the proxies' routes.
pub struct Apps {
    settings: Settings,
    caddies: Vec<Caddy>,
}

impl Apps {
    /// Makes the task; none where the settings name no domain or no Caddy.
    pub fn new(scheduler: &Scheduler) -> Option<Self> {
        let settings = scheduler.fleet.config.networks.apps.clone()?;
        let caddies: Vec<Caddy> = settings.caddy.iter().map(|socket| Caddy::new(socket)).collect();
        (!caddies.is_empty()).then_some(Self { settings, caddies })
    }
}

impl Task for Apps {
    const NAME: &'static str = "apps";
    const TAKES_CLAIMS: bool = false;

    fn period(&self, _: &Scheduler) -> Duration {
        PERIOD
    }

    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        let site = format!("*.{}", self.settings.domain.name());
        let reads = self.caddies.iter_mut().map(|caddy| caddy.read(&site));
        let read: Vec<_> = futures_util::future::join_all(reads).await;
        // Only now: what was written of it meanwhile is seen, or refused by Caddy.
        let apps = scheduler.fleet.store.containers().published_apps().await?;
        let wanted = routes::routes(&apps, &self.settings);
        let writes = self.caddies.iter_mut().zip(read).map(|(caddy, read)| caddy.write(read, &wanted));
        let written = futures_util::future::join_all(writes).await;
        let changed = written.iter().filter(|changed| **changed).count();
        Ok(Report::new(written.len(), changed))
    }
}
