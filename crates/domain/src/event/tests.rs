use super::*;
use crate::{
    NodeId,
    node::{Health, LinkState, QuarantineCause},
};
use std::collections::BTreeSet;

/// The kinds that a table of docs/EVENTS.md names in its first column.
fn told() -> BTreeSet<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/EVENTS.md");
    let document = std::fs::read_to_string(path).unwrap();
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let first_cells = rows.filter_map(|row| row.split('|').next());
    let words = first_cells.flat_map(|cell| cell.split('`'));
    words.filter(|word| word.contains('.')).map(str::to_owned).collect()
}

#[test]
fn the_document_tells_every_kind_and_no_other() {
    assert_eq!(told(), kinds().map(str::to_owned).collect());
    assert!(kinds().count() > 50);
}

#[test]
fn a_kind_has_one_group_and_one_variant() {
    let unique: BTreeSet<&str> = kinds().collect();
    assert_eq!(unique.len(), kinds().count());
    assert!(kinds().all(|kind| kind.split('.').count() == 2), "{unique:?}");
}

#[test]
fn an_event_says_its_kind_and_an_object_with_its_data_and_its_actor() {
    let reason = "disk full".to_owned();
    let quarantined = NodeEvent::Quarantined { reason, cause: QuarantineCause::Passing, lease_id: None };
    let payload = EventPayload::from(quarantined);
    assert_eq!(payload.kind(), "node.quarantined");
    assert_eq!(payload.data(None), serde_json::json!({ "reason": "disk full", "cause": "passing" }));

    let empty = EventPayload::from(NodeEvent::QuarantineLifted {});
    assert_eq!(empty.data(None), serde_json::json!({}));
    assert_eq!(empty.data(Some(UserId(3))), serde_json::json!({ "actor": 3 }));

    let active = EventPayload::from(LeaseEvent::Activated { node: NodeId(4) });
    assert_eq!((active.kind(), &active.data(None)["node"]), ("lease.active", &serde_json::json!(4)));
}

#[test]
fn every_health_and_every_link_has_its_kind() {
    let change = || HealthChange { reason: "timeout".into(), was: Health::Alive };
    for (health, kind) in [
        (Health::Unknown, "node.unknown"),
        (Health::Alive, "node.alive"),
        (Health::Suspect, "node.suspect"),
        (Health::Unreachable, "node.unreachable"),
        (Health::Dead, "node.dead"),
    ] {
        let payload = EventPayload::from(NodeEvent::of_health(health, change()));
        assert_eq!(payload.kind(), kind);
        assert_eq!(payload.data(None), serde_json::json!({ "reason": "timeout", "was": "alive" }));
    }
    for (link, kind) in [
        (LinkState::None, "node.link_none"),
        (LinkState::Up, "node.link_up"),
        (LinkState::Lost, "node.link_lost"),
    ] {
        let change = LinkChange { replica: "api-1".into(), link_epoch: 7 };
        assert_eq!(EventPayload::from(NodeEvent::of_link(link, change)).kind(), kind);
    }
}
