//! The event log: what is read of it, and that a tail loses nothing.

use crate::world::{World, at, on_both};
use orion_domain::{Clock, EventId, SystemClock, event::NodeEvent};
use orion_store::{EventTail, NewEvent};
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

on_both!(
    a_tail_loses_nothing_and_repeats_nothing_while_eight_write,
    a_tail_gives_an_event_that_becomes_visible_late,
    a_tail_that_resumes_leaves_no_gap,
    an_event_with_an_old_time_between_young_ones_makes_no_gap,
    a_read_that_takes_long_does_not_settle_what_may_still_come,
    users_see_their_own_events_and_admins_all,
);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn event(number: i64) -> NewEvent {
    NewEvent::new(NodeEvent::ClockOff { off_ms: Some(number) })
}

async fn a_tail_loses_nothing_and_repeats_nothing_while_eight_write(world: World) {
    let mut tail = EventTail::from_now(&world.store).await.unwrap();
    let writing = Arc::new(AtomicBool::new(true));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = world.store.clone();
        writers.spawn(async move {
            for number in 0..60 {
                store.events().append(&event(writer * 1000 + number), SystemClock.now()).await.unwrap();
            }
        });
    }
    let reader = {
        let (store, writing) = (world.store.clone(), writing.clone());
        tokio::spawn(async move {
            let mut numbers = Vec::new();
            loop {
                let last_look = !writing.load(Relaxed);
                let events = tail.poll(&store).await.unwrap();
                numbers.extend(events.iter().map(|event| event.data["off_ms"].as_i64().unwrap()));
                if last_look {
                    return numbers;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    };
    writers.join_all().await;
    writing.store(false, Relaxed);
    let numbers = reader.await.unwrap();
    let distinct: HashSet<i64> = numbers.iter().copied().collect();
    assert_eq!((numbers.len(), distinct.len()), (480, 480));
}

async fn a_tail_gives_an_event_that_becomes_visible_late(world: World) {
    world.store.events().append(&event(1), at(0)).await.unwrap();
    let mut tail = EventTail::from_now(&world.store).await.unwrap();
    assert_eq!(
        tail.poll_by(&world.store, || seconds(0)).await.unwrap(),
        [],
        "what was there before is not news"
    );
    let late = |id: i64, uid: u8| {
        format!(
            "INSERT INTO events (id, uid, at, kind, data) VALUES ({id}, '{uid:026}', 0, 'test.late', '{{}}')"
        )
    };
    world.sql(&late(102, 2)).await.unwrap();
    let ids =
        |events: Vec<orion_store::Event>| events.into_iter().map(|event| event.id.0).collect::<Vec<_>>();
    assert_eq!(ids(tail.poll_by(&world.store, || seconds(1)).await.unwrap()), [102]);
    // 101 took its number first, but committed only now: a reader of `id > 102` never sees it.
    world.sql(&late(101, 1)).await.unwrap();
    assert_eq!(ids(world.store.events().after(EventId(102), 10).await.unwrap()), [] as [i64; 0]);
    assert_eq!(ids(tail.poll_by(&world.store, || seconds(10)).await.unwrap()), [101]);
    for second in 11..60 {
        assert_eq!(
            ids(tail.poll_by(&world.store, || seconds(second)).await.unwrap()),
            [] as [i64; 0],
            "nothing twice"
        );
    }
    world.sql(&late(103, 3)).await.unwrap();
    assert_eq!(ids(tail.poll_by(&world.store, || seconds(61)).await.unwrap()), [103]);
}

async fn a_tail_that_resumes_leaves_no_gap(world: World) {
    for number in 0..10 {
        world.store.events().append(&event(number), at(number * 10)).await.unwrap();
    }
    let all = world.store.events().after(EventId(0), 100).await.unwrap();
    let mut tail = EventTail::resume(&world.store, all[6].id).await.unwrap();
    let again = tail.poll(&world.store).await.unwrap();
    assert_eq!(again, all[4..], "the last 20 seconds before it come again");
    let mut fresh = EventTail::resume(&world.store, EventId(0)).await.unwrap();
    assert_eq!(fresh.poll(&world.store).await.unwrap(), all);
}

async fn an_event_with_an_old_time_between_young_ones_makes_no_gap(world: World) {
    let write = |id: i64, second: i64| {
        let at = at(second).as_micros();
        format!(
            "INSERT INTO events (id, uid, at, kind, data) VALUES ({id}, '{id:026}', {at}, 'test.late', '{{}}')"
        )
    };
    for (id, second) in [(101, 1), (102, 100), (105, 101), (106, 3), (107, 102)] {
        world.sql(&write(id, second)).await.unwrap();
    }
    let mut tail = EventTail::resume(&world.store, EventId(107)).await.unwrap();
    // It took its number long before, and commits only now.
    world.sql(&write(104, 101)).await.unwrap();
    let again = tail.poll(&world.store).await.unwrap();
    assert_eq!(again.iter().map(|event| event.id.0).collect::<Vec<_>>(), [102, 104, 105, 106, 107]);
}

async fn a_read_that_takes_long_does_not_settle_what_may_still_come(world: World) {
    let late = |id: i64| {
        format!(
            "INSERT INTO events (id, uid, at, kind, data) VALUES ({id}, '{id:026}', 0, 'test.late', '{{}}')"
        )
    };
    let mut tail = EventTail::from_settled(EventId(100));
    world.sql(&late(102)).await.unwrap();
    // It begins in the first second and has its answer in the fifteenth.
    let (begun, moments) = (AtomicBool::new(false), [1, 15]);
    let slow = || seconds(moments[usize::from(begun.swap(true, Relaxed))]);
    assert_eq!(tail.poll_by(&world.store, slow).await.unwrap().len(), 1);
    assert_eq!(tail.poll_by(&world.store, || seconds(22)).await.unwrap(), []);
    world.sql(&late(101)).await.unwrap();
    assert_eq!(tail.poll_by(&world.store, || seconds(23)).await.unwrap()[0].id.0, 101);
}

async fn users_see_their_own_events_and_admins_all(world: World) {
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    world.store.events().append(&event(1), at(1)).await.unwrap();
    let of = |user| world.store.events().visible_to(user, EventId(0), 100);
    let of_alice = of(Some(alice)).await.unwrap();
    assert_eq!(of_alice.len(), 1);
    assert!(of_alice.iter().all(|event| event.user == Some(alice)));
    assert_eq!(of(Some(bob)).await.unwrap().len(), 1);
    assert_eq!(of(None).await.unwrap().len(), 3);
    assert_eq!(of_alice[0].data["username"], "alice");
    assert_eq!(of_alice[0].uid.len(), 26);
}
