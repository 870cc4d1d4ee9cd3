//! Whether Orion works, the brake, and the reset.

pub mod health;
mod reset;

use crate::{App, error::ApiError};
use orion_domain::{UserId, brake::Brake};
use orion_store::Cas;

/// What operators look at and do.
#[derive(Clone, Copy)]
pub struct Operations<'a> {
    app: &'a App,
}

impl App {
    /// Gives the operations.
    pub const fn operations(&self) -> Operations<'_> {
        Operations { app: self }
    }
}

impl Operations<'_> {
    /// Gives the brake on migration.
    ///
    /// # Errors
    /// The database's.
    pub async fn brake(self) -> Result<Brake, ApiError> {
        Ok(self.app.store.cluster().brake().await?)
    }

    /// Lifts the brake; whether it was on, and how it is now.
    ///
    /// # Errors
    /// The database's.
    pub async fn lift_brake(self, reason: &str, actor: UserId) -> Result<(bool, Brake), ApiError> {
        let cluster = self.app.store.cluster();
        let lifted = cluster.release_brake(None, reason, Some(actor), self.app.now()).await?;
        self.app.fleet.nudge.all();
        match lifted {
            Cas::Done(brake) => Ok((true, brake)),
            Cas::Stale | Cas::Gone => Ok((false, self.brake().await?)),
        }
    }

    /// Gives what Prometheus scrapes.
    pub async fn metrics_text(self) -> String {
        self.app.fleet.metrics.hold(self.app.links.count(), self.app.streams.count());
        self.app.fleet.metrics_text().await
    }
}
