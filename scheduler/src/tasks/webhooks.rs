//! A delivery is due when an event that a webhook wants was not sent to it, or not taken, and its next try has come.
//! Events are written down for the webhooks that want them (`spread`), and sent (`send`).
//!
//! Lives here: how many are sent at once. Each event is sent at least once; with many schedulers each
//! is sent by one at a time (a claim in the database), also when one is killed in the middle. A target that hangs
//! holds up nobody but itself.

mod send;
mod spread;

use crate::{
    context::Scheduler,
    driver::{ForeignWork, Lanes, Report, Task},
};
use orion_domain::{DeliveryId, WebhookId, share::ShareKey};
use orion_store::StoreError;
use send::{Outcome, Sender};
use spread::FanOut;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// Deliveries under way at once, to all webhooks together.
const SIDE_BY_SIDE_MAX: usize = 128;
/// Deliveries under way at once, to one webhook.
const SIDE_BY_SIDE_TO_ONE_MAX: usize = 8;

/// State of one webhook's target, as far as this process knows.
#[derive(Clone, Copy, Default)]
struct Target {
    under_way: usize,
    /// The last try failed: one at a time then.
    in_trouble: bool,
}

type Targets = Arc<Mutex<HashMap<WebhookId, Target>>>;

/// Counts one try as under way while it lives.
struct UnderWay {
    targets: Targets,
    webhook: WebhookId,
    again: Arc<Notify>,
}

impl UnderWay {
    fn new(targets: &Targets, webhook: WebhookId, again: &Arc<Notify>) -> Self {
        locked(targets).entry(webhook).or_default().under_way += 1;
        Self { targets: targets.clone(), webhook, again: again.clone() }
    }

    fn came_to(&self, in_trouble: bool) {
        if let Some(target) = locked(&self.targets).get_mut(&self.webhook) {
            target.in_trouble = in_trouble;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(target) = locked(&self.targets).get_mut(&self.webhook) {
            target.under_way = target.under_way.saturating_sub(1);
        }
        self.again.notify_one();
    }
}

fn locked(targets: &Targets) -> std::sync::MutexGuard<'_, HashMap<WebhookId, Target>> {
    targets.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task that sends events to webhooks.
pub struct Webhooks {
    sender: Arc<Sender>,
    spread: FanOut,
    foreign: ForeignWork<WebhookId>,
    lanes: Lanes<DeliveryId>,
    targets: Targets,
    again: Arc<Notify>,
}

impl Webhooks {
    /// Makes the task; none without a master key, or where TLS cannot be set up.
    pub fn new(scheduler: &Scheduler) -> Option<Self> {
        let sender = match Sender::new(&scheduler.config) {
            Ok(sender) => sender,
            Err(error) => {
                tracing::error!(error, "nothing is sent to webhooks");
                None
            }
        };
        Some(Self {
            sender: Arc::new(sender?),
            spread: FanOut::default(),
            foreign: ForeignWork::default(),
            lanes: Lanes::new(Self::NAME, SIDE_BY_SIDE_MAX),
            targets: Targets::default(),
            again: Arc::default(),
        })
    }
}

impl Task for Webhooks {
    const NAME: &'static str = "webhooks";
    const PAUSE_MIN: Duration = Duration::from_millis(100);

    async fn woken(&self) {
        self.again.notified().await;
    }

    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        let fleet = &scheduler.fleet;
        let hooks = fleet.store.webhooks().list().await?;
        locked(&self.targets).retain(|id, _| hooks.iter().any(|hook| hook.id == *id));
        if hooks.is_empty() {
            self.spread = FanOut::default();
            return Ok(Report::default());
        }
        // One scheduler writes down what is to be sent. If two take themselves for it, each event is written down once
        // all the same.
        if scheduler.fleetwide.is_mine(ShareKey::EVENT_LOG) {
            if self.spread.pass(&fleet.store, &hooks, fleet.now()).await? {
                self.again.notify_one();
            }
        } else {
            self.spread = FanOut::default();
        }
        let due = fleet.store.webhooks().with_due(fleet.now()).await?;
        let (found, mut started) = (due.len(), 0);
        for webhook in self.foreign.ready_items(scheduler, due, |id| (*id, Some(*id))) {
            started += usize::from(self.start(scheduler, webhook).await?);
        }
        Ok(Report::new(found, started))
    }
}

impl Webhooks {
    /// Starts deliveries to the webhook as far as there is room; returns whether one was started.
    async fn start(&self, scheduler: &Scheduler, webhook: WebhookId) -> Result<bool, StoreError> {
        let target = locked(&self.targets).get(&webhook).copied().unwrap_or_default();
        let most = if target.in_trouble { 1 } else { SIDE_BY_SIDE_TO_ONE_MAX };
        let room = u32::try_from(most.saturating_sub(target.under_way)).unwrap_or(0);
        if room == 0 {
            return Ok(false);
        }
        let (fleet, mut started) = (&scheduler.fleet, false);
        for id in fleet.store.webhooks().due_deliveries(webhook, fleet.now(), room).await? {
            let under_way = UnderWay::new(&self.targets, webhook, &self.again);
            let (worker, sender) = (scheduler.clone(), self.sender.clone());
            started |= self.lanes.start(scheduler, id, async move {
                match sender.deliver(&worker.fleet, id).await? {
                    Outcome::Taken => under_way.came_to(false),
                    Outcome::Failed => under_way.came_to(true),
                    Outcome::NotOurs => {}
                }
                Ok(())
            });
        }
        Ok(started)
    }
}
