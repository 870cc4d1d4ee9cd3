//! Peer probes: one scheduler's question to another, and its answer.

use crate::world::{World, at, on_both};
use orion_domain::{NodeId, Timestamp};
use orion_store::{PeerProbe, PeerProbeAnswer};

on_both!(
    a_question_reaches_who_is_asked_and_its_answer_who_asked,
    a_question_that_was_asked_of_the_next_is_no_longer_the_first_one_s,
    two_schedulers_that_ask_about_one_node_each_get_their_answer,
    what_nobody_waits_for_is_forgotten,
);

fn question(node: NodeId, by: &str, asked_at: Timestamp) -> PeerProbe {
    PeerProbe { node, asked_by: by.into(), asked_at }
}

fn answer(answers: Option<bool>) -> PeerProbeAnswer {
    PeerProbeAnswer { answers, detail: "ssh connect: refused".into() }
}

async fn a_question_reaches_who_is_asked_and_its_answer_who_asked(world: World) {
    let (store, node) = (&world.store, NodeId(5));
    for (number, said) in [Some(true), Some(false), None].into_iter().enumerate() {
        let now = at(10 * i64::try_from(number).unwrap());
        store.cluster().ask_peer_probe(node, "a", "b", now).await.unwrap();
        let asked = question(node, "a", now);
        assert_eq!(store.cluster().peer_probe_answer(&asked).await.unwrap(), None);
        assert!(store.cluster().peer_probes_for("a", 10).await.unwrap().is_empty());
        let [seen] = store.cluster().peer_probes_for("b", 10).await.unwrap().try_into().unwrap();
        assert_eq!(seen, asked);
        store.cluster().answer_peer_probe(&seen, &answer(said), now).await.unwrap();
        assert_eq!(store.cluster().peer_probe_answer(&asked).await.unwrap(), Some(answer(said)));
        assert!(store.cluster().peer_probes_for("b", 10).await.unwrap().is_empty(), "it is answered");
        // The first word counts.
        store.cluster().answer_peer_probe(&seen, &answer(Some(true)), now).await.unwrap();
        assert_eq!(store.cluster().peer_probe_answer(&asked).await.unwrap(), Some(answer(said)));
    }
    store.cluster().end_peer_probe(node, "a").await.unwrap();
    assert_eq!(world.count("SELECT COUNT(*) FROM second_looks").await, 0);
}

async fn a_question_that_was_asked_of_the_next_is_no_longer_the_first_one_s(world: World) {
    let (store, node) = (&world.store, NodeId(5));
    store.cluster().ask_peer_probe(node, "a", "b", at(1)).await.unwrap();
    let [old] = store.cluster().peer_probes_for("b", 10).await.unwrap().try_into().unwrap();
    store.cluster().ask_peer_probe(node, "a", "c", at(6)).await.unwrap();
    assert!(store.cluster().peer_probes_for("b", 10).await.unwrap().is_empty());
    store.cluster().answer_peer_probe(&old, &answer(Some(false)), at(7)).await.unwrap();
    assert_eq!(
        store.cluster().peer_probe_answer(&question(node, "a", at(6))).await.unwrap(),
        None,
        "too late"
    );
    assert_eq!(store.cluster().peer_probes_for("c", 10).await.unwrap(), [question(node, "a", at(6))]);
}

async fn two_schedulers_that_ask_about_one_node_each_get_their_answer(world: World) {
    let (store, node) = (&world.store, NodeId(5));
    for by in ["a", "b"] {
        store.cluster().ask_peer_probe(node, by, "c", at(1)).await.unwrap();
    }
    store.cluster().ask_peer_probe(NodeId(6), "a", "c", at(2)).await.unwrap();
    assert_eq!(store.cluster().peer_probes_for("c", 2).await.unwrap().len(), 2, "no more than asked for");
    let seen = store.cluster().peer_probes_for("c", 10).await.unwrap();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[2].node, NodeId(6), "the oldest first");
    store.cluster().answer_peer_probe(&question(node, "a", at(1)), &answer(Some(true)), at(3)).await.unwrap();
    store
        .cluster()
        .answer_peer_probe(&question(node, "b", at(1)), &answer(Some(false)), at(3))
        .await
        .unwrap();
    let of = async |by: &str| {
        store
            .cluster()
            .peer_probe_answer(&question(node, by, at(1)))
            .await
            .unwrap()
            .and_then(|answer| answer.answers)
    };
    assert_eq!((of("a").await, of("b").await), (Some(true), Some(false)));
}

async fn what_nobody_waits_for_is_forgotten(world: World) {
    let store = &world.store;
    store.cluster().ask_peer_probe(NodeId(1), "gone", "b", at(1)).await.unwrap();
    store.cluster().ask_peer_probe(NodeId(2), "a", "b", at(50)).await.unwrap();
    store.cluster().sweep_peer_probes(at(10)).await.unwrap();
    assert_eq!(store.cluster().peer_probes_for("b", 10).await.unwrap(), [question(NodeId(2), "a", at(50))]);
}
