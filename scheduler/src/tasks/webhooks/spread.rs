//! Which events are for which webhooks: follows the event log and writes down what is to be sent.
//!
//! Numbers of events do not become visible in order, so the log is read with an overlap ([`EventTail`]), and each
//! webhook's `position` in the database goes up only to where nothing comes any more. A scheduler that takes over
//! begins there; what was written down before is not written down twice.

use orion_domain::{
    EventId, Timestamp, WebhookId,
    webhook::{KindPattern, TEST_KIND},
};
use orion_store::{EventTail, Store, StoreError, Webhook};
use std::time::Duration;

/// Pause between two writings of the positions: until then a successor reads a little more again.
const SETTLE_PERIOD: Duration = Duration::from_secs(10);
/// Most events that one poll returns: so many mean that there are more.
const FULL_POLL: usize = 1_000;

/// State that one pass takes over from the pass before; the database has all that must not be lost.
#[derive(Default)]
pub(super) struct FanOut {
    tail: Option<EventTail>,
    /// The webhooks that the tail was begun for.
    hooks: Vec<WebhookId>,
    settled_at: Option<Timestamp>,
}

impl FanOut {
    /// Writes down what is new. Returns whether there may be more at once.
    pub(super) async fn pass(
        &mut self,
        store: &Store,
        hooks: &[Webhook],
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let ids: Vec<WebhookId> = hooks.iter().map(|hook| hook.id).collect();
        // A webhook that is new may want events that this tail has given already.
        let mut tail = match self.tail.take() {
            Some(tail) if ids == self.hooks => tail,
            Some(_) | None => {
                let from = hooks.iter().map(|hook| hook.position).min().unwrap_or(EventId(0));
                EventTail::from_settled(from)
            }
        };
        // On an error the tail is gone, and the next pass begins at the position again.
        let events = tail.poll(store).await?;
        let mut wanted = Vec::new();
        for hook in hooks {
            let patterns: Vec<KindPattern> = hook.kinds.iter().filter_map(|kind| kind.parse().ok()).collect();
            let of_hook = events.iter().filter(|event| {
                event.id > hook.position
                    && event.kind != TEST_KIND
                    && patterns.iter().any(|pattern| pattern.matches(&event.kind))
            });
            wanted.extend(of_hook.map(|event| (hook.id, event.id)));
        }
        store.webhooks().fan_out(&wanted, now).await?;
        let settled = tail.settled();
        let behind = hooks.iter().any(|hook| hook.position < settled);
        if behind && self.settled_at.is_none_or(|at| now.since(at) >= SETTLE_PERIOD) {
            store.webhooks().settle(&ids, settled).await?;
            self.settled_at = Some(now);
        }
        self.tail = Some(tail);
        self.hooks = ids;
        Ok(events.len() >= FULL_POLL)
    }
}
