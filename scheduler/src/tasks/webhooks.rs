//! Webhooks: events are written down for those that want them (`spread`), and sent (`send`).
//!
//! Lives here: the loop, and how many are sent at once. Each event is sent at least once; with many schedulers each
//! is sent by one at a time (a claim in the database), also when one is killed in the middle. A target that hangs
//! holds up nobody but itself.

mod send;
mod spread;

use super::{Lanes, Lying};
use crate::Scheduler;
use orion_domain::{DeliveryId, NodeId, WebhookId};
use orion_store::StoreError;
use send::{Outcome, Sender};
use spread::Spread;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// Deliveries under way at once, to all webhooks together.
const AT_ONCE: usize = 128;
/// To one webhook.
const AT_ONCE_TO_ONE: usize = 8;
/// Shortest pause between two looks, however many nudges come.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// How it goes with one webhook's target, as far as this process knows.
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

/// The key by which schedulers share webhooks: that of the node of the same number, which has nothing else to do
/// with it.
const fn place(webhook: WebhookId) -> NodeId {
    NodeId(webhook.0)
}

struct Webhooks {
    scheduler: Scheduler,
    sender: Arc<Sender>,
    spread: Spread,
    lying: Lying<WebhookId>,
    lanes: Lanes<DeliveryId>,
    targets: Targets,
    again: Arc<Notify>,
}

/// Sends events until shutdown.
pub async fn run(scheduler: Scheduler) {
    let sender = match Sender::new(&scheduler.config) {
        Ok(Some(sender)) => sender,
        Ok(None) => {
            tracing::debug!("no master key: this scheduler sends nothing to webhooks");
            return;
        }
        Err(error) => {
            tracing::error!(error, "nothing is sent to webhooks");
            return;
        }
    };
    let mut nudged = scheduler.fleet.nudge.listen();
    let mut webhooks = Webhooks {
        sender: Arc::new(sender),
        spread: Spread::default(),
        lying: Lying::new(),
        lanes: Lanes::new(AT_ONCE),
        targets: Targets::default(),
        again: Arc::default(),
        scheduler: scheduler.clone(),
    };
    loop {
        if scheduler.fleet.may_claim()
            && let Err(error) = webhooks.look().await
        {
            tracing::warn!(%error, "webhooks could not be looked after");
        }
        tokio::select! {
            () = scheduler.shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_PAUSE) => {}
        }
        tokio::select! {
            () = scheduler.shutdown.cancelled() => return,
            () = webhooks.again.notified() => {}
            () = nudged.within(scheduler.config.look_every) => {}
        }
    }
}

impl Webhooks {
    async fn look(&mut self) -> Result<(), StoreError> {
        let store = &self.scheduler.fleet.store;
        let hooks = store.webhooks().await?;
        locked(&self.targets).retain(|id, _| hooks.iter().any(|hook| hook.id == *id));
        if hooks.is_empty() {
            self.spread = Spread::default();
            return Ok(());
        }
        // One scheduler writes down what is to be sent: the one that would look after the node 0, which there is
        // not. If two take themselves for it, each event is written down once all the same.
        if self.scheduler.fleetwide.is_mine(NodeId(0)) {
            if self.spread.look(store, &hooks, self.scheduler.fleet.now()).await? {
                self.again.notify_one();
            }
        } else {
            self.spread = Spread::default();
        }
        let due = store.webhooks_with_due(self.scheduler.fleet.now()).await?;
        for webhook in self.lying.due(&self.scheduler, due, |id| (*id, Some(place(*id)))) {
            self.start(webhook).await?;
        }
        Ok(())
    }

    async fn start(&self, webhook: WebhookId) -> Result<(), StoreError> {
        let target = locked(&self.targets).get(&webhook).copied().unwrap_or_default();
        let most = if target.in_trouble { 1 } else { AT_ONCE_TO_ONE };
        let room = u32::try_from(most.saturating_sub(target.under_way)).unwrap_or(0);
        if room == 0 {
            return Ok(());
        }
        let fleet = &self.scheduler.fleet;
        for id in fleet.store.due_deliveries(webhook, fleet.now(), room).await? {
            let under_way = UnderWay::new(&self.targets, webhook, &self.again);
            let (scheduler, sender) = (self.scheduler.clone(), self.sender.clone());
            self.lanes.start(&self.scheduler, id, async move {
                match sender.deliver(&scheduler.fleet, id).await {
                    Ok(Outcome::Taken) => under_way.came_to(false),
                    Ok(Outcome::Failed) => under_way.came_to(true),
                    Ok(Outcome::NotOurs) => {}
                    Err(error) => {
                        tracing::warn!(%webhook, delivery = %id, %error, "a delivery could not be recorded; it is sent again");
                    }
                }
            });
        }
        Ok(())
    }
}
