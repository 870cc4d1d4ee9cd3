//! What the API shows of nodes.

use crate::{api::Api, on_both_databases};
use orion_domain::{LeaseId, node::Facts};
use serde_json::{Value, json};

on_both_databases!(every_slice_of_a_node_is_shown_to_its_owner_and_to_admins);

async fn every_slice_of_a_node_is_shown_to_its_owner_and_to_admins(api: Api) {
    let (alice, bob, admin) = (api.user("alice").await, api.user("bob").await, api.admin("boss").await);
    let node = api.offered_node("node-1").await;
    let facts = Facts { cpu_cores: Some(4), memory_mb: Some(8192), ..Facts::default() };
    api.app.store.nodes().update_facts(node, &facts, api.app.now()).await.expect("written");
    let of_alice = [api.place_slice("alice", 500, 100).await, api.place_slice("alice", 500, 100).await];
    let of_bob = api.place_slice("bob", 500, 100).await;
    let all = [of_alice[0], of_alice[1], of_bob];
    for (token, sees) in [(&alice, &of_alice[..]), (&bob, &[of_bob][..]), (&admin, &all[..])] {
        let listed = api.get("/api/nodes", token).await.expect(200)[0].clone();
        let shown = api.get(&format!("/api/nodes/{node}"), token).await.expect(200);
        for node in [listed, shown] {
            let ids: Vec<LeaseId> = node["leases"].as_array().expect("a list").iter().map(id).collect();
            assert_eq!(ids, sees, "{node}");
            assert_eq!(node["lease"], node["leases"][0], "the first one");
            assert_eq!((&node["allocated"], &node["leases"][0]["active"]), (&json!(true), &json!(false)));
        }
    }
    let carol = api.user("carol").await;
    let node = api.get("/api/nodes", &carol).await.expect(200)[0].clone();
    assert_eq!((&node["lease"], &node["leases"]), (&Value::Null, &json!([])));
}

fn id(lease: &Value) -> LeaseId {
    LeaseId(lease["rental_id"].as_i64().expect("a number"))
}
