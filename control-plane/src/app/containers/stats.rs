//! Use of containers: processor, memory, network.

use super::{
    Containers, engine_error, not_running,
    streams::{OpenStream, StreamKind},
    views::StatsView,
};
use crate::{App, auth::Caller, error::ApiError};
use orion_containers::{EngineError, Stats, StatsStream};
use orion_domain::container::ContainerPhase;
use std::time::Duration;

/// Time between the two looks that one share of the processor comes from.
const SAMPLE: Duration = Duration::from_millis(500);

/// Use of a container, moment after moment.
pub struct Use {
    app: App,
    stream: StatsStream,
    last: Option<Stats>,
}

impl Use {
    /// Returns the next moment, about a second after the one before; none when the container has ended.
    pub async fn next(&mut self) -> Option<Result<StatsView, EngineError>> {
        loop {
            let now = match self.stream.next().await? {
                Ok(now) => now,
                Err(error) => return Some(Err(error)),
            };
            // Docker goes on with zeros when the container has ended.
            if !now.is_of_running() {
                return None;
            }
            if let Some(last) = self.last.replace(now) {
                return Some(Ok(StatsView::new(&last, &now, self.app.now())));
            }
        }
    }
}

impl Containers<'_> {
    /// Returns the use of a container now, in about half a second.
    ///
    /// # Errors
    /// 404 for an unknown container, 409 for one that does not run, 503 where the node's engine does not answer.
    pub async fn stats(self, who: &Caller, which: &str, name: &str) -> Result<StatsView, ApiError> {
        let (_, engine, id) = self.running(who, which, name).await?;
        let look = async || match engine.stats(&id).await {
            Ok(now) if now.is_of_running() => Ok(now),
            Ok(_) => Err(not_running(ContainerPhase::Exited)),
            Err(error) => Err(engine_error(&error)),
        };
        let first = look().await?;
        tokio::time::sleep(SAMPLE).await;
        Ok(StatsView::new(&first, &look().await?, self.app.now()))
    }

    /// Follows the use of a container.
    ///
    /// # Errors
    /// Those of [`Self::stats`]; 429 for more than may be followed at once.
    pub async fn follow_stats(
        self,
        who: &Caller,
        which: &str,
        name: &str,
    ) -> Result<(Use, OpenStream), ApiError> {
        let (row, engine, id) = self.running(who, which, name).await?;
        let open = self.open_stream(who, &row, StreamKind::Stats)?;
        let stream = engine.follow_stats(&id).await.map_err(|error| engine_error(&error))?;
        Ok((Use { app: self.app.clone(), stream, last: None }, open))
    }
}
