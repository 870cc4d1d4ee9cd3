//! What the open event streams of this process share: their places, and one reader of the log for all.

use super::Events;
use crate::{App, error::ApiError};
use orion_domain::{EventId, UserId};
use orion_store::{Event, EventTail, StoreError};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{Mutex as AsyncMutex, broadcast};

/// Events that a stream may lag behind before it has to read the log by itself again.
pub const LAG_MAX: usize = 4_096;
/// Interval at which the log is read when there is no nudge.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Delay before each read, so that events close together are read at once.
const TOGETHER: Duration = Duration::from_millis(20);

/// The open event streams.
#[derive(Debug)]
pub struct Streams {
    most: usize,
    open: Mutex<HashMap<UserId, usize>>,
    readers: broadcast::Sender<Told>,
    /// Tail of the event log; `None` while no stream reads.
    tail: AsyncMutex<Option<EventTail>>,
}

/// One open stream's place; free again when dropped.
pub struct Place {
    app: App,
    user: UserId,
}

/// An event, as it is told to all.
#[derive(Clone, Debug)]
pub struct Told {
    /// Event to be sent.
    pub event: Arc<Event>,
    /// Number up to which every event was told, or visible, before.
    pub settled: EventId,
}

/// Subscription of a stream that joined the log, with its position.
#[derive(Debug)]
pub struct Joined {
    /// Every event that becomes visible from now on; also some that just have.
    pub events: broadcast::Receiver<Told>,
    /// The greatest number that was told before.
    pub position: EventId,
    /// Number up to which no event becomes visible any more.
    pub settled: EventId,
}

impl Streams {
    /// Creates a registry for at most `most` streams.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            open: Mutex::default(),
            readers: broadcast::Sender::new(LAG_MAX),
            tail: AsyncMutex::new(None),
        }
    }

    /// Returns the number of open streams.
    pub fn count(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// Returns the number of a user's open streams.
    pub fn count_of(&self, user: UserId) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&user).copied().unwrap_or(0)
    }

    fn take(&self, user: UserId, most_of_user: usize) -> Result<(), ApiError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.values().sum::<usize>() >= self.most {
            return Err(ApiError::unavailable("too many event streams are open; close some"));
        }
        let own = open.entry(user).or_default();
        if *own >= most_of_user {
            let detail = format!("you have {own} event streams open, the most there may be; close some");
            return Err(ApiError::too_many(detail, 2));
        }
        *own += 1;
        Ok(())
    }

    fn give_back(&self, user: UserId) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&user) {
            *own -= 1;
            if *own == 0 {
                open.remove(&user);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.app.streams.give_back(self.user);
    }
}

impl Events<'_> {
    /// A place for one more stream of `user`, who may have `most`.
    ///
    /// # Errors
    /// 429 when the user has too many, 503 when there are too many.
    pub fn take_stream(self, user: UserId, most: usize) -> Result<Place, ApiError> {
        self.app.streams.take(user, most)?;
        Ok(Place { app: self.app.clone(), user })
    }

    /// Joins those who are told what happens.
    ///
    /// # Errors
    /// The database's.
    pub async fn join_streams(self) -> Result<Joined, StoreError> {
        let mut tail = self.app.streams.tail.lock().await;
        let tail = match &mut *tail {
            Some(tail) => tail,
            none => none.insert(EventTail::from_now(&self.app.store).await?),
        };
        let events = self.app.streams.readers.subscribe();
        Ok(Joined { events, position: tail.position(), settled: tail.settled() })
    }

    /// Tells all who joined what happens, until shutdown. Costs the database nothing while nobody listens.
    pub async fn tell_streams(self) {
        let mut nudged = self.app.fleet.nudge.listen();
        loop {
            tokio::select! {
                () = self.app.shutdown.cancelled() => return,
                () = nudged.within(POLL_EVERY) => tokio::time::sleep(TOGETHER).await,
            }
            let mut tail = self.app.streams.tail.lock().await;
            if self.app.streams.readers.receiver_count() == 0 {
                *tail = None;
            }
            if let Some(tail) = &mut *tail
                && let Err(error) = self.tell(tail).await
            {
                tracing::debug!(%error, "the event log could not be read");
            }
        }
    }

    async fn tell(self, tail: &mut EventTail) -> Result<(), StoreError> {
        loop {
            let settled = tail.settled();
            let events = tail.poll(&self.app.store).await?;
            let there_may_be_more = events.len() >= EventTail::POLL_MAX;
            for event in events {
                // Without a listener there is nobody to tell.
                let _ = self.app.streams.readers.send(Told { event: Arc::new(event), settled });
            }
            if !there_may_be_more {
                return Ok(());
            }
        }
    }
}
