//! What the open event streams of this process share: their places, and one reader of the log for all.

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
/// How often the log is read when nobody nudges.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// What happens in a moment is read together.
const TOGETHER: Duration = Duration::from_millis(20);

/// The open event streams.
#[derive(Debug)]
pub struct Streams {
    most: usize,
    most_of_user: usize,
    open: Mutex<HashMap<UserId, usize>>,
    readers: broadcast::Sender<Told>,
    /// None while nobody reads.
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
    /// What happened.
    pub event: Arc<Event>,
    /// Everything up to here was told before, or was visible before.
    pub settled: EventId,
}

/// Where a stream joined the log.
#[derive(Debug)]
pub struct Joined {
    /// Every event that becomes visible from now on; also some that just have.
    pub events: broadcast::Receiver<Told>,
    /// The greatest number that was told before.
    pub position: EventId,
    /// Nothing up to here becomes visible any more.
    pub settled: EventId,
}

impl Streams {
    /// At most `most` streams, `most_of_user` for each user.
    pub fn new(most: usize, most_of_user: usize) -> Self {
        Self {
            most,
            most_of_user,
            open: Mutex::default(),
            readers: broadcast::Sender::new(LAG_MAX),
            tail: AsyncMutex::new(None),
        }
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    fn take(&self, user: UserId) -> Result<(), ApiError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.values().sum::<usize>() >= self.most {
            return Err(ApiError::unavailable("too many event streams are open; close some"));
        }
        let own = open.entry(user).or_default();
        if *own >= self.most_of_user {
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

impl App {
    /// A place for one more stream of `user`.
    ///
    /// # Errors
    /// 429 when the user has too many, 503 when there are too many.
    pub fn take_stream(&self, user: UserId) -> Result<Place, ApiError> {
        self.streams.take(user)?;
        Ok(Place { app: self.clone(), user })
    }

    /// Joins those who are told what happens.
    ///
    /// # Errors
    /// The database's.
    pub async fn join_streams(&self) -> Result<Joined, StoreError> {
        let mut tail = self.streams.tail.lock().await;
        let tail = match &mut *tail {
            Some(tail) => tail,
            none => none.insert(EventTail::from_now(&self.store).await?),
        };
        let events = self.streams.readers.subscribe();
        Ok(Joined { events, position: tail.position(), settled: tail.settled() })
    }

    /// Tells all who joined what happens, until shutdown. Costs the database nothing while nobody listens.
    pub async fn tell_streams(self) {
        let mut nudged = self.fleet.nudge.listen();
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = nudged.within(POLL_EVERY) => tokio::time::sleep(TOGETHER).await,
            }
            let mut tail = self.streams.tail.lock().await;
            if self.streams.readers.receiver_count() == 0 {
                *tail = None;
            }
            if let Some(tail) = &mut *tail
                && let Err(error) = self.tell(tail).await
            {
                tracing::debug!(%error, "the event log could not be read");
            }
        }
    }

    async fn tell(&self, tail: &mut EventTail) -> Result<(), StoreError> {
        loop {
            let settled = tail.settled();
            let events = tail.poll(&self.store).await?;
            let there_may_be_more = events.len() >= EventTail::POLL_MAX;
            for event in events {
                // Without a listener there is nobody to tell.
                let _ = self.streams.readers.send(Told { event: Arc::new(event), settled });
            }
            if !there_may_be_more {
                return Ok(());
            }
        }
    }
}
