//! Webhooks: which event is to be sent to which, by one sender at a time, at least once.

use crate::world::{World, at, on_both};
use orion_domain::{DeliveryId, EventId, NodeId, WebhookId, event::LeaseEvent};
use orion_store::{
    Cas, Delivery, DeliveryClaim, DeliveryState, EventTail, NewEvent, NewWebhook, Tried, Webhook,
};
use std::{collections::HashSet, time::Duration};

const TTL: Duration = Duration::from_secs(20);

on_both!(
    a_webhook_is_made_once_for_a_uid_listed_and_deleted,
    an_event_is_written_down_once_for_a_webhook_however_often_it_is_read,
    of_many_senders_one_gets_a_delivery,
    a_sender_that_dies_gives_its_delivery_back_and_its_late_word_is_dropped,
    a_failed_try_is_due_again_at_its_time_and_a_given_up_one_never,
    one_webhook_with_many_due_hides_no_other,
    a_test_goes_to_one_webhook_only,
    a_position_never_goes_back,
    what_is_over_long_ago_is_forgotten_and_what_waits_for_days_is_given_up,
    a_tail_goes_on_where_everything_was_settled,
);

async fn hook(world: &World, number: u32) -> Webhook {
    let new = NewWebhook {
        uid: format!("{number:026}"),
        url: format!("https://hooks.example/{number}"),
        kinds: vec!["lease.*".into(), "node.dead".into()],
        secret_sealed: vec![1, 2, 3],
        created_by: None,
    };
    world.store.webhooks().create(&new, at(0)).await.unwrap()
}

async fn event(world: &World, number: i64) -> EventId {
    let event = NewEvent::new(LeaseEvent::Activated { node: NodeId(number) });
    world.store.events().append(&event, at(number)).await.unwrap();
    world.store.events().after(EventId(0), 1000).await.unwrap().last().unwrap().id
}

/// An event that is to be sent to `hook`, due from `second` on.
async fn delivery(world: &World, hook: WebhookId, second: i64) -> DeliveryId {
    let event = event(world, second).await;
    world.store.webhooks().fan_out(&[(hook, event)], at(second)).await.unwrap();
    *world.store.webhooks().due_deliveries(hook, at(second), 1000).await.unwrap().last().unwrap()
}

async fn claim(world: &World, id: DeliveryId, second: i64) -> Option<DeliveryClaim> {
    world.store.webhooks().claim_delivery(id, TTL, at(second)).await.unwrap()
}

async fn seen(world: &World, id: DeliveryId) -> Delivery {
    world.store.webhooks().delivery(id).await.unwrap().unwrap()
}

fn taken() -> Tried {
    Tried { status: Some(204), error: None, again_at: None }
}

fn failed(again_at: Option<i64>) -> Tried {
    Tried { status: Some(500), error: Some("it answered 500".into()), again_at: again_at.map(at) }
}

async fn a_webhook_is_made_once_for_a_uid_listed_and_deleted(world: World) {
    let before = event(&world, 1).await;
    let first = hook(&world, 1).await;
    assert_eq!(first.position, before, "what was before is not for it");
    assert_eq!(hook(&world, 1).await, first, "the same uid is the same webhook");
    let second = hook(&world, 2).await;
    assert_eq!(world.store.webhooks().list().await.unwrap(), [first.clone(), second.clone()]);
    assert_eq!(first.kinds, ["lease.*", "node.dead"]);
    let waiting = delivery(&world, first.id, 5).await;
    let kept = delivery(&world, second.id, 6).await;
    assert_eq!(world.store.webhooks().delete(first.id, None, at(7)).await.unwrap(), Cas::Done(()));
    assert_eq!(world.store.webhooks().delete(first.id, None, at(7)).await.unwrap(), Cas::Gone);
    assert_eq!(world.store.webhooks().list().await.unwrap(), [second]);
    assert_eq!(world.store.webhooks().delivery(waiting).await.unwrap(), None);
    assert_eq!(seen(&world, kept).await.state, DeliveryState::Pending);
    let told: Vec<String> =
        world.store.events().after(before, 100).await.unwrap().into_iter().map(|event| event.kind).collect();
    for kind in ["webhook.created", "webhook.deleted"] {
        assert!(told.iter().any(|told| told == kind), "{kind} in {told:?}");
    }
}

async fn an_event_is_written_down_once_for_a_webhook_however_often_it_is_read(world: World) {
    let (first, second) = (hook(&world, 1).await, hook(&world, 2).await);
    let mut wanted = Vec::new();
    for number in 0..300 {
        let event = event(&world, number).await;
        wanted.extend([(first.id, event), (second.id, event)]);
    }
    // Two schedulers at once, and each of them twice.
    let fan_out = || world.store.webhooks().fan_out(&wanted, at(300));
    let (one, other) = tokio::join!(fan_out(), fan_out());
    one.unwrap();
    other.unwrap();
    let mine = world.store.webhooks().due_deliveries(first.id, at(300), 1000).await.unwrap();
    assert_eq!(mine.len(), 300);
    let claim = claim(&world, mine[0], 301).await.unwrap();
    assert!(world.store.webhooks().finish_delivery(&claim, &taken(), at(302)).await.unwrap());
    fan_out().await.unwrap();
    assert_eq!(world.count("SELECT COUNT(*) FROM webhook_deliveries").await, 600);
    let again = seen(&world, mine[0]).await;
    assert_eq!(
        (again.state, again.attempts),
        (DeliveryState::Delivered, 1),
        "what was sent is not sent again"
    );
}

async fn of_many_senders_one_gets_a_delivery(world: World) {
    let hook = hook(&world, 1).await;
    let id = delivery(&world, hook.id, 1).await;
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = world.store.clone();
        senders.spawn(async move { store.webhooks().claim_delivery(id, TTL, at(2)).await.unwrap() });
    }
    let claims: Vec<DeliveryClaim> = senders.join_all().await.into_iter().flatten().collect();
    assert_eq!(claims.len(), 1);
    assert_eq!((claims[0].attempt, &claims[0].webhook, &*claims[0].event.kind), (1, &hook, "lease.active"));
}

async fn a_sender_that_dies_gives_its_delivery_back_and_its_late_word_is_dropped(world: World) {
    let hook = hook(&world, 1).await;
    let id = delivery(&world, hook.id, 1).await;
    let lost = claim(&world, id, 2).await.unwrap();
    assert_eq!(claim(&world, id, 21).await, None, "its try may still go on");
    assert_eq!(world.store.webhooks().with_due(at(21)).await.unwrap(), []);
    assert_eq!(world.store.webhooks().with_due(at(22)).await.unwrap(), [hook.id]);
    let second = claim(&world, id, 22).await.unwrap();
    assert_eq!(second.attempt, 2);
    assert!(!world.store.webhooks().finish_delivery(&lost, &failed(Some(900)), at(23)).await.unwrap());
    assert!(world.store.webhooks().finish_delivery(&second, &taken(), at(24)).await.unwrap());
    let end = seen(&world, id).await;
    assert_eq!((end.state, end.status, end.error), (DeliveryState::Delivered, Some(204), None));
}

async fn a_failed_try_is_due_again_at_its_time_and_a_given_up_one_never(world: World) {
    let hook = hook(&world, 1).await;
    let id = delivery(&world, hook.id, 1).await;
    let first = claim(&world, id, 2).await.unwrap();
    assert!(world.store.webhooks().finish_delivery(&first, &failed(Some(7)), at(3)).await.unwrap());
    let between = seen(&world, id).await;
    assert_eq!((between.state, between.status), (DeliveryState::Pending, Some(500)));
    assert_eq!((between.next_try_at, between.error.as_deref()), (Some(at(7)), Some("it answered 500")));
    assert_eq!(claim(&world, id, 6).await, None);
    let tally = &world.store.webhooks().counts(&[hook.id]).await.unwrap()[&hook.id];
    assert_eq!((tally.pending, tally.failing, tally.given_up), (1, 1, 0));
    let second = claim(&world, id, 7).await.unwrap();
    assert!(world.store.webhooks().finish_delivery(&second, &failed(None), at(8)).await.unwrap());
    assert_eq!(claim(&world, id, 100_000).await, None);
    let tally = &world.store.webhooks().counts(&[hook.id]).await.unwrap()[&hook.id];
    assert_eq!((tally.pending, tally.failing, tally.given_up), (0, 0, 1));
    let last = tally.last.as_ref().unwrap();
    assert_eq!((last.state, last.attempts, last.last_try_at), (DeliveryState::GivenUp, 2, Some(at(7))));
    assert_eq!((last.next_try_at, &*last.kind), (None, "lease.active"));
}

async fn one_webhook_with_many_due_hides_no_other(world: World) {
    let (busy, quiet) = (hook(&world, 1).await, hook(&world, 2).await);
    let mut wanted = Vec::new();
    for number in 0..600 {
        wanted.push((busy.id, EventId(number)));
    }
    world.store.webhooks().fan_out(&wanted, at(1)).await.unwrap();
    let id = delivery(&world, quiet.id, 50).await;
    assert_eq!(world.store.webhooks().with_due(at(60)).await.unwrap(), [busy.id, quiet.id]);
    assert_eq!(world.store.webhooks().due_deliveries(quiet.id, at(60), 4).await.unwrap(), [id]);
    assert_eq!(world.store.webhooks().due_deliveries(busy.id, at(60), 4).await.unwrap().len(), 4);
}

async fn a_test_goes_to_one_webhook_only(world: World) {
    let (first, second) = (hook(&world, 1).await, hook(&world, 2).await);
    let Cas::Done(id) = world.store.webhooks().test(second.id, None, at(1)).await.unwrap() else {
        panic!("there is that webhook")
    };
    assert_eq!(seen(&world, id).await.kind, "webhook.test");
    assert_eq!(world.store.webhooks().due_deliveries(second.id, at(1), 10).await.unwrap(), [id]);
    assert_eq!(world.store.webhooks().due_deliveries(first.id, at(1), 10).await.unwrap(), []);
    let claim = claim(&world, id, 2).await.unwrap();
    assert_eq!(claim.event.data["webhook_id"], second.id.0);
    assert_eq!(world.store.webhooks().test(WebhookId(999), None, at(1)).await.unwrap(), Cas::Gone);
}

async fn a_position_never_goes_back(world: World) {
    let (first, second) = (hook(&world, 1).await, hook(&world, 2).await);
    let store = &world.store;
    store.webhooks().settle(&[first.id], EventId(500)).await.unwrap();
    store.webhooks().settle(&[first.id, second.id], EventId(400)).await.unwrap();
    store.webhooks().settle(&[], EventId(900)).await.unwrap();
    let positions: Vec<i64> =
        store.webhooks().list().await.unwrap().iter().map(|hook| hook.position.0).collect();
    assert_eq!(positions, [500, 400]);
}

async fn what_is_over_long_ago_is_forgotten_and_what_waits_for_days_is_given_up(world: World) {
    let hook = hook(&world, 1).await;
    let delivered = delivery(&world, hook.id, 1).await;
    let done = claim(&world, delivered, 2).await.unwrap();
    assert!(world.store.webhooks().finish_delivery(&done, &taken(), at(3)).await.unwrap());
    let given_up = delivery(&world, hook.id, 4).await;
    let done = claim(&world, given_up, 5).await.unwrap();
    assert!(world.store.webhooks().finish_delivery(&done, &failed(None), at(6)).await.unwrap());
    let waiting = delivery(&world, hook.id, 7).await;
    // Of a webhook that was deleted while its events were written down.
    world.store.webhooks().fan_out(&[(WebhookId(77), EventId(1))], at(8)).await.unwrap();
    const DAY: i64 = 24 * 3600;
    let kept = async |day: i64| {
        world.store.webhooks().sweep_deliveries(at(day * DAY)).await.unwrap();
        let mut kept = HashSet::new();
        for id in [delivered, given_up, waiting] {
            if world.store.webhooks().delivery(id).await.unwrap().is_some() {
                kept.insert(id);
            }
        }
        kept
    };
    assert_eq!(kept(2).await, HashSet::from([delivered, given_up, waiting]));
    assert_eq!(world.count("SELECT COUNT(*) FROM webhook_deliveries WHERE webhook_id = 77").await, 0);
    assert_eq!(kept(4).await, HashSet::from([given_up, waiting]));
    assert_eq!(kept(31).await, HashSet::from([waiting]));
    assert_eq!(seen(&world, waiting).await.state, DeliveryState::GivenUp);
    assert_eq!(kept(33).await, HashSet::new());
}

async fn a_tail_goes_on_where_everything_was_settled(world: World) {
    let mut tail = EventTail::from_settled(EventId(0));
    for number in 0..5 {
        event(&world, number).await;
    }
    assert_eq!(tail.poll(&world.store).await.unwrap().len(), 5);
    assert_eq!(tail.settled(), EventId(0), "an earlier number may still become visible");
    assert_eq!(tail.poll_by(&world.store, || Duration::from_secs(30)).await.unwrap(), []);
    let settled = tail.settled();
    let last = event(&world, 31).await;
    assert_eq!(settled.0 + 1, last.0, "nothing up to it comes any more");
    let mut next = EventTail::from_settled(settled);
    let events = next.poll(&world.store).await.unwrap();
    assert_eq!(events.iter().map(|event| event.id).collect::<Vec<_>>(), [last]);
}
