//! The event feed: what the caller may see, without gaps, at least once.

use crate::{App, app::views::EventView, auth::Caller, error::ApiError};
use axum::response::sse;
use futures_util::Stream;
use orion_domain::EventId;
use orion_store::{Event, EventTail};
use std::{convert::Infallible, time::Duration};
use tokio::sync::mpsc;

/// Events that may wait for a slow reader.
const QUEUE_MAX: usize = 256;
/// Most events of one reply that does not follow.
const SO_FAR_MAX: u32 = 1_000;
/// How often the log is read when nobody nudges.
const POLL_EVERY: Duration = Duration::from_secs(1);

impl App {
    /// The feed from now on, or from after `last`.
    ///
    /// # Errors
    /// 503 when too many streams are open, or the database is away.
    pub async fn event_feed(
        &self,
        who: Caller,
        last: Option<EventId>,
    ) -> Result<impl Stream<Item = Result<sse::Event, Infallible>> + use<>, ApiError> {
        let permit = self
            .streams
            .clone()
            .try_acquire_owned()
            .map_err(|_| ApiError::unavailable("too many event streams are open; close some"))?;
        let mut tail = match last {
            Some(last) => EventTail::resume(&self.store, last, self.now()).await?,
            None => EventTail::from_now(&self.store, self.now()).await?,
        };
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        // Says where the stream begins, so that a client whose stream breaks before the first event can resume.
        let mut reached = tail.position();
        let begin = sse::Event::default().id(reached.to_string());
        sender.try_send(Ok(begin)).map_err(ApiError::internal)?;
        let app = self.clone();
        self.tasks.spawn(async move {
            let _permit = permit;
            let mut nudged = app.fleet.nudge.listen();
            loop {
                let events = match tail.poll(&app.store, app.now()).await {
                    Ok(events) => events,
                    Err(error) => {
                        tracing::debug!(%error, "the event log could not be read");
                        Vec::new()
                    }
                };
                for event in events.into_iter().filter(|event| may_see(&who, event)) {
                    // What comes again or late does not set its reader back.
                    reached = reached.max(event.id);
                    let sent = sender.send_timeout(Ok(as_sse(event, reached)), app.config.unread_timeout);
                    if sent.await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = app.shutdown.cancelled() => return,
                    () = sender.closed() => return,
                    () = nudged.within(POLL_EVERY) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        Ok(futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|event| (event, receiver))
        }))
    }

    /// What there is up to now, after `last` or from the beginning: at most a thousand, the oldest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn events_so_far(
        &self,
        who: Caller,
        last: Option<EventId>,
    ) -> Result<impl Stream<Item = Result<sse::Event, Infallible>> + use<>, ApiError> {
        let user = (!who.is_admin()).then_some(who.user);
        let events = self.store.events_visible_to(user, last.unwrap_or(EventId(0)), SO_FAR_MAX).await?;
        Ok(futures_util::stream::iter(events.into_iter().map(|event| {
            let id = event.id;
            Ok(as_sse(event, id))
        })))
    }
}

/// Users see what is about them; admins see all.
fn may_see(who: &Caller, event: &Event) -> bool {
    who.is_admin() || event.user == Some(who.user)
}

/// `reached` is where a reader goes on after this event.
fn as_sse(event: Event, reached: EventId) -> sse::Event {
    let view = EventView::from(event);
    let frame = sse::Event::default().id(reached.to_string()).event(&view.kind);
    frame.json_data(&view).unwrap_or_else(|_| sse::Event::default().comment("an event that is no JSON"))
}
