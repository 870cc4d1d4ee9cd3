//! `orion nodes drain`, `undrain`, `lift` and `forget`: which nodes are meant, what is sent, and what the progress shows.

use orion_testkit::{Answer, FakeApi, Home};
use serde_json::{Value, json};

fn node(id: i64, drain: &Value) -> Value {
    let status = if drain.is_null() { "alive" } else { "draining" };
    json!({"node_id": id, "hostname": format!("node-{id}"), "status": status, "allocated": false, "drain": drain})
}

fn state(state: &str, leases_left: u32) -> Value {
    json!({"reason": "fans", "state": state, "leases_left": leases_left, "deadline": null})
}

#[test]
fn nodes_are_drained_by_number_and_by_host_name_each_once() {
    let api = FakeApi::start(|request, _| match request.line.as_str() {
        "GET /api/nodes?limit=1000" => {
            Answer::Json(200, json!([node(1, &Value::Null), node(2, &Value::Null)]))
        }
        "GET /api/nodes/2" => Answer::Json(200, node(2, &Value::Null)),
        "POST /api/admin/nodes/1/drain" => {
            Answer::Json(200, json!({"message": "ok", "node": node(1, &state("moving", 1))}))
        }
        "POST /api/admin/nodes/2/drain" => {
            Answer::Json(200, json!({"message": "ok", "node": node(2, &state("cleaning", 0))}))
        }
        _ => Answer::Json(404, json!({"detail": "there is no such node"})),
    });
    let home = Home::logged_in(&api);
    let ended =
        home.run(&["nodes", "drain", "NODE-1", "2", "node-2", "--deadline", "2h", "--reason", "fans"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""), "{ended:?}");
    assert_eq!(
        ended.err,
        "✔ node-1 takes no new leases · moving, 1 lease left\n✔ node-2 takes no new leases · cleaning\n"
    );
    let sent: Vec<_> = api.seen().into_iter().filter(|request| request.line.starts_with("POST")).collect();
    assert_eq!(sent.len(), 2, "each once");
    for request in sent {
        assert_eq!(request.json(), json!({"deadline_hours": 2.0, "reason": "fans"}));
    }
}

#[test]
fn an_unknown_node_is_told_before_anything_is_drained() {
    let api = FakeApi::start(|request, _| match request.line.as_str() {
        "GET /api/nodes?limit=1000" => Answer::Json(200, json!([node(1, &Value::Null)])),
        _ => Answer::Json(404, json!({"detail": "there is no node '7'"})),
    });
    let home = Home::logged_in(&api);
    for (unknown, command) in [("7", "drain"), ("nodx", "drain"), ("nodx", "undrain"), ("7", "lift")] {
        let ended = home.run(&["nodes", command, "node-1", unknown]);
        assert_eq!((ended.code, ended.out.as_str()), (Some(4), ""), "{ended:?}");
        assert!(ended.err.contains("hint: see the nodes: orion nodes"), "{ended:?}");
    }
    assert!(api.lines().iter().all(|line| line.starts_with("GET")), "{:?}", api.lines());
}

#[test]
fn waiting_shows_each_stage_once_and_outlives_an_api_that_is_away() {
    let api = FakeApi::start(|request, before| match request.line.as_str() {
        "POST /api/admin/nodes/1/drain" => {
            Answer::Json(200, json!({"message": "ok", "node": node(1, &state("waiting for a free node", 1))}))
        }
        // The first question is which node is meant, the second is the command.
        _ => match before {
            0 => Answer::Json(200, node(1, &Value::Null)),
            2 | 3 => Answer::Json(200, node(1, &state("waiting for a free node", 1))),
            4 => Answer::Json(503, json!({"detail": "the database does not answer"})),
            5 => Answer::Json(200, node(1, &state("moving", 1))),
            6 => Answer::Json(200, node(1, &state("cleaning", 0))),
            _ => Answer::Json(200, node(1, &state("drained", 0))),
        },
    });
    let ended = Home::logged_in(&api).run(&["-o", "json", "nodes", "drain", "1", "--wait"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let stages: Vec<&str> = ended
        .err
        .lines()
        .filter_map(|line| line.strip_prefix("  node-1: "))
        .map(|line| before(line, " ("))
        .collect();
    assert_eq!(
        stages,
        ["waiting for a free node, 1 lease left", "moving, 1 lease left", "cleaning", "drained"]
    );
    assert!(ended.err.contains("the database does not answer") && ended.err.contains("goes on"), "{ended:?}");
    let shown: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(shown[0]["drain"]["state"], "drained");
}

fn before<'a>(line: &'a str, end: &str) -> &'a str {
    line.split(end).next().unwrap_or(line)
}

#[test]
fn waiting_ends_when_somebody_else_ends_the_drain() {
    let api = FakeApi::start(|request, _| match request.line.as_str() {
        "POST /api/admin/nodes/1/drain" => {
            Answer::Json(200, json!({"message": "ok", "node": node(1, &state("moving", 1))}))
        }
        _ => Answer::Json(200, node(1, &Value::Null)),
    });
    let ended = Home::logged_in(&api).run(&["nodes", "drain", "1", "--wait"]);
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.err.contains("error: somebody ended the drain of node-1\nhint: begin again:"), "{ended:?}");
}

#[test]
fn one_node_that_is_refused_does_not_keep_the_others() {
    let api = FakeApi::start(|request, _| match request.line.as_str() {
        "POST /api/admin/nodes/1/undrain" => {
            Answer::Json(409, json!({"detail": "node 1 is not being drained"}))
        }
        "POST /api/admin/nodes/2/undrain" => {
            Answer::Json(200, json!({"message": "ok", "node": node(2, &Value::Null)}))
        }
        "POST /api/admin/nodes/1/quarantine/lift" => {
            Answer::Json(200, json!({"message": "ok", "node_id": 1}))
        }
        line if line.ends_with("/1") => Answer::Json(200, node(1, &Value::Null)),
        _ => Answer::Json(200, node(2, &Value::Null)),
    });
    let home = Home::logged_in(&api);
    let ended = home.run(&["-o", "json", "nodes", "undrain", "1", "2"]);
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert_eq!(serde_json::from_str::<Value>(&ended.out).unwrap()[0]["node_id"], 2);
    assert!(ended.err.contains("✔ node-2 takes leases again"), "{ended:?}");
    assert!(ended.err.contains("node-1: error: node 1 is not being drained"), "{ended:?}");
    assert!(ended.err.ends_with("error: 1 of 2 nodes were not undrained\n"), "{ended:?}");
    let ended = home.run(&["nodes", "lift", "1"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.err.contains("✔ node-1 is out of quarantine"), "{ended:?}");
}

#[test]
fn nodes_are_forgotten_by_name_and_what_keeps_one_is_told() {
    let api = FakeApi::start(|request, _| match request.line.as_str() {
        "GET /api/nodes?limit=1000" => {
            Answer::Json(200, json!([node(1, &Value::Null), node(2, &Value::Null)]))
        }
        "POST /api/admin/nodes/1/forget" => {
            Answer::Json(200, json!({"message": "Node forgotten", "node_id": 1, "hostname": "node-1"}))
        }
        _ => Answer::Json(
            409,
            json!({"kind": "node_leased", "detail": "lease 17 is on node 2", "hint": "end the lease first"}),
        ),
    });
    let home = Home::logged_in(&api);
    let ended = home.run(&["nodes", "forget", "node-1", "node-2"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(5), ""), "{ended:?}");
    assert!(ended.err.contains("✔ node-1 is forgotten"), "{ended:?}");
    assert!(
        ended.err.contains("node-2: error: lease 17 is on node 2 · hint: end the lease first"),
        "{ended:?}"
    );
    assert!(ended.err.ends_with("error: 1 of 2 nodes were not forgotten\n"), "{ended:?}");
    let ended = home.run(&["-o", "json", "nodes", "forget", "--force", "NODE-1"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(serde_json::from_str::<Value>(&ended.out).unwrap()[0]["hostname"], "node-1");
    let sent: Vec<Value> = api
        .seen()
        .into_iter()
        .filter(|request| request.line.starts_with("POST"))
        .map(|request| request.json())
        .collect();
    assert_eq!(sent, [json!({"force": false}), json!({"force": false}), json!({"force": true})]);
}

#[test]
fn one_node_is_shown_with_both_paths_its_last_cleaning_and_its_history() {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    let mut view = node(1, &state("moving", 1));
    view["admin"] = json!({"ssh": "alive", "ssh_reason": "answered", "agent_since": "2126-11-21T14:00:00Z",
        "agent_sees_sshd": true, "host_keys": [key], "desired_version": 5, "applied_version": 4,
        "reconcile_failures": 3, "registered_at": "2026-11-21T14:00:00Z",
        "last_clean_report": {"removed": [{"user": "bob", "uid": 200007, "processes": 2}]},
        "events": [{"id": 1, "at": "2026-11-21T14:00:00Z", "kind": "node.dead", "data": {"reason": "silent"}}]});
    view["agent"] = json!("up");
    let api = FakeApi::start(move |request, _| match request.line.as_str() {
        "GET /api/nodes?limit=1000" => Answer::Json(200, json!([node(1, &Value::Null)])),
        "GET /api/nodes/1" => Answer::Json(200, view.clone()),
        _ => Answer::Json(404, json!({"detail": "there is no such node"})),
    });
    let home = Home::logged_in(&api);
    let ended = home.run(&["nodes", "show", "node-1"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for part in [
        "alive: answered",
        "link up since",
        "it says that sshd answers",
        "moving, 1 lease left",
        "not clean: 4 of 5 applied",
        "failed 3 times in a row",
        "ssh-ed25519 SHA256:",
        "processes 2",
        "node.dead",
        "silent",
    ] {
        assert!(ended.out.contains(part), "no '{part}' in\n{}", ended.out);
    }
    let ended = home.run(&["nodes", "show", "nod-1"]);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.err.contains("hint: did you mean 'node-1'? see the nodes: orion nodes"), "{ended:?}");
}
