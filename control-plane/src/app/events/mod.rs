//! The event feed: what the caller may see, without gaps, at least once.

pub mod streams;
pub mod views;

use self::{
    streams::{Joined, LAG_MAX, Place},
    views::EventView,
};
use crate::{
    App,
    app::{accounts::rights::HeldRight, discretion},
    auth::Caller,
    error::ApiError,
};
use axum::response::sse;
use futures_util::Stream;
use orion_domain::{EventId, UserId};
use orion_store::{Event, EventTail, StoreError};
use std::{collections::HashSet, convert::Infallible, time::Duration};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_util::sync::CancellationToken;

/// The event feed and its readers.
#[derive(Clone, Copy)]
pub struct Events<'a> {
    app: &'a App,
}

impl App {
    /// Gives the events.
    pub const fn events(&self) -> Events<'_> {
        Events { app: self }
    }
}

/// Events that may wait for a slow reader.
const QUEUE_MAX: usize = 256;
/// Most events of one reply that does not follow.
const SO_FAR_MAX: u32 = 1_000;
/// Pause after the database could not be read.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

type Frame = Result<sse::Event, Infallible>;

impl Events<'_> {
    /// The feed from now on, or from after `last`.
    ///
    /// # Errors
    /// 429 when the caller has too many streams open, 503 when all have, or the database is away.
    pub async fn feed(
        self,
        who: Caller,
        last: Option<EventId>,
    ) -> Result<impl Stream<Item = Frame> + use<>, ApiError> {
        let place = self.take_stream(who.user, self.app.accounts().streams_of(&who))?;
        let joined = self.join_streams().await?;
        let resume = match last {
            Some(last) => Some(EventTail::resume(&self.app.store, last).await?),
            None => None,
        };
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        // Says where the stream begins, so that a client whose stream breaks before the first event can resume.
        let reached = resume.as_ref().map_or(joined.position, EventTail::position);
        sender.try_send(Ok(sse::Event::default().id(reached.to_string()))).map_err(ApiError::internal)?;
        let right = self.app.accounts().hold_right(who.right, CancellationToken::new());
        let feed = Feed { app: self.app.clone(), user: own(&who), right, reached, sender, _place: place };
        self.app.tasks.spawn(feed.run(joined, resume.map(|tail| tail.settled())));
        Ok(futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|event| (event, receiver))
        }))
    }

    /// Returns the events up to now, after `last` or from the beginning: at most a thousand, the oldest
    /// first.
    ///
    /// # Errors
    /// The database's.
    pub async fn so_far(
        self,
        who: Caller,
        last: Option<EventId>,
    ) -> Result<impl Stream<Item = Frame> + use<>, ApiError> {
        let is_admin = who.is_admin();
        let events =
            self.app.store.events().visible_to(own(&who), last.unwrap_or(EventId(0)), SO_FAR_MAX).await?;
        Ok(futures_util::stream::iter(events.into_iter().map(move |event| {
            let id = event.id;
            Ok(as_sse(for_reader(is_admin, event), id))
        })))
    }
}

/// Returns the user whose events the caller may see; `None` for admins, who see all.
fn own(who: &Caller) -> Option<UserId> {
    (!who.is_admin()).then_some(who.user)
}

/// The task that serves one stream.
struct Feed {
    app: App,
    /// User whose events are sent; `None`: events of all users.
    user: Option<UserId>,
    /// Right by which the reader may see the stream.
    right: HeldRight,
    /// Position from which the reader would resume. Events that come again or late do not set it back.
    reached: EventId,
    sender: mpsc::Sender<Frame>,
    _place: Place,
}

/// The reader is gone, does not read, has no right any more, or the process stops.
struct Over;

impl Feed {
    /// `after`: where it goes on; none: at what is told.
    async fn run(mut self, joined: Joined, after: Option<EventId>) {
        let (shutdown, reader) = (self.app.shutdown.clone(), self.sender.clone());
        let lost = self.right.lost.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = reader.closed() => {}
            () = lost.cancelled() => {}
            _over = self.serve(joined, after) => {}
        }
    }

    async fn serve(&mut self, mut joined: Joined, mut after: Option<EventId>) -> Result<Infallible, Over> {
        loop {
            let known = match after {
                Some(after) => self.catch_up(after, joined.settled).await?,
                None => HashSet::new(),
            };
            // Too slow: it goes on from where it was, out of the log.
            after = Some(self.follow(&mut joined, &known).await?);
            joined = loop {
                match self.app.events().join_streams().await {
                    Ok(joined) => break joined,
                    Err(error) => unreadable(&error).await,
                }
            };
        }
    }

    /// Sends what the log has after `from` by now. What of it may be told to those who joined, too, is given back.
    async fn catch_up(&mut self, mut from: EventId, settled: EventId) -> Result<HashSet<EventId>, Over> {
        let (store, mut known) = (self.app.store.clone(), HashSet::new());
        loop {
            let page = match store.events().visible_to(self.user, from, SO_FAR_MAX).await {
                Ok(page) => page,
                Err(error) => {
                    unreadable(&error).await;
                    continue;
                }
            };
            let is_last = page.len() < SO_FAR_MAX as usize;
            for event in page {
                from = event.id;
                if event.id > settled && known.len() < LAG_MAX {
                    known.insert(event.id);
                }
                self.send(event).await?;
            }
            if is_last {
                return Ok(known);
            }
        }
    }

    /// Sends what is told, until the reader lags too far behind: up to where everything has come to it.
    async fn follow(&mut self, joined: &mut Joined, known: &HashSet<EventId>) -> Result<EventId, Over> {
        let mut settled = joined.settled;
        loop {
            let told = match joined.events.recv().await {
                Ok(told) => told,
                Err(RecvError::Lagged(_)) => return Ok(settled),
                Err(RecvError::Closed) => return Err(Over),
            };
            settled = told.settled;
            let is_visible = self.user.is_none() || self.user == told.event.user;
            if is_visible && !known.contains(&told.event.id) {
                self.send(Event::clone(&told.event)).await?;
            }
        }
    }

    async fn right_stands(&self) -> bool {
        self.app.accounts().right_stands(&self.right.right).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "whether a right still stands could not be read");
            false
        })
    }

    async fn send(&mut self, event: Event) -> Result<(), Over> {
        // What may end the right is looked at before anything after it is told.
        let is_about_the_reader =
            event.user == Some(self.right.right.user) && event.kind.starts_with("user.");
        if is_about_the_reader && !self.right_stands().await {
            return Err(Over);
        }
        self.reached = self.reached.max(event.id);
        let frame = as_sse(for_reader(self.user.is_none(), event), self.reached);
        self.sender.send_timeout(Ok(frame), self.app.config.unread_timeout).await.map_err(|_| Over)
    }
}

async fn unreadable(error: &StoreError) {
    tracing::debug!(%error, "the event log could not be read");
    tokio::time::sleep(AGAIN_AFTER).await;
}

fn for_reader(is_admin: bool, event: Event) -> Event {
    if is_admin { event } else { discretion::of_event(event) }
}

/// `reached` is where a reader goes on after this event.
fn as_sse(event: Event, reached: EventId) -> sse::Event {
    let view = EventView::from(event);
    let frame = sse::Event::default().id(reached.to_string()).event(&view.kind);
    frame.json_data(&view).unwrap_or_else(|_| sse::Event::default().comment("an event that is no JSON"))
}
