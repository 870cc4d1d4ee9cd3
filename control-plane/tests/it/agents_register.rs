//! Workers: who may become a node, and who may change one.

use crate::{
    api::{Api, Database, Reply},
    on_both_databases,
};
use futures_util::{SinkExt as _, StreamExt as _};
use orion_control_plane::crypto::sha256_hex;
use orion_domain::{NodeId, node::LinkState};
use orion_testkit::{KeyPair, wait_until};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

const REGISTER: &str = "/api/workers/register";
/// A host key that the control plane cannot verify.
const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQCzBoBH4ySyXvC3n2yRqmRy3DyVR0FckGU03QDRWwhxR8TwdAFRQHgU+uItcZ\
     q2/R4pjTRwKscIYUeB4299bs32c47vj7/NrOfCFxd+I8X1UoPRbQxVDLgDhdC7d5Wz4qlpTG1NchL0KtUOwbjhK+PA\
     40hNiCv3m0bZqA96RjmKXQ==";

on_both_databases!(
    a_worker_joins_once_and_is_known_by_its_node_token_from_then_on,
    nobody_takes_the_key_the_name_or_the_address_of_a_known_worker,
    a_worker_whose_host_key_changed_is_quarantined,
    a_join_token_is_good_for_as_long_and_as_often_as_it_says,
    a_registration_names_only_addresses_that_it_may,
    a_join_token_has_limits_unless_told_otherwise,
    a_join_token_under_one_key_is_one_token,
    a_copy_of_a_node_is_refused_while_the_link_of_the_node_is_up,
    a_machine_that_is_a_node_already_is_refused_whatever_its_host_keys_are,
);

async fn a_worker_joins_once_and_is_known_by_its_node_token_from_then_on(api: Api) {
    let (admin, join) = (api.admin("boss").await, api.join_token().await);
    let mut body = api.worker("w1", &KeyPair::generate());
    body["cpu_cores"] = json!(8);
    let created = api.post(REGISTER, &join, &body).await.expect(201);
    let node = created["node_token"].as_str().expect("a node token").to_owned();
    assert!(created["ssh_ca"].as_str().is_some_and(|ca| ca.starts_with("ssh-ed25519 ")), "{created}");
    // The same words again: the same node, and never a token.
    let again = api.post(REGISTER, &join, &body).await.expect(200);
    assert_eq!(again["node_id"], created["node_id"]);
    assert!(again.get("node_token").is_none() && again["message"].is_string(), "{again}");
    // Its own token may change it.
    body["cpu_cores"] = json!(16);
    body["ip"] = json!(api.worker_ip());
    let updated = api.post(REGISTER, &node, &body).await.expect(200);
    assert_eq!(updated["node_id"], created["node_id"]);
    assert!(updated.get("node_token").is_none(), "{updated}");
    let nodes = api.get("/api/nodes", &admin).await.expect(200);
    assert_eq!(nodes.as_array().map(Vec::len), Some(1));
    assert_eq!((&nodes[0]["cpu_cores"], &nodes[0]["ip"]), (&json!(16), &body["ip"]));
    assert_eq!(nodes[0]["offerable"], false, "not before a dial has found its key there");
    // A reset forgets clean nodes only: this one was never cleaned.
    let reset = api.post("/api/reset", &admin, &json!({})).await.expect(200);
    assert_eq!(reset["kept"][0]["hostname"], "w1", "{reset}");
}

async fn nobody_takes_the_key_the_name_or_the_address_of_a_known_worker(api: Api) {
    let (admin, join) = (api.admin("boss").await, api.join_token().await);
    let (key, other) = (KeyPair::generate(), KeyPair::generate());
    let known = api.worker("w1", &key);
    let created = api.post(REGISTER, &join, &known).await.expect(201);
    let same_key = api.worker("w2", &key);
    let same_name = api.worker("w1", &other);
    let mut same_name_in_capitals = api.worker("W1", &other);
    same_name_in_capitals["ssh_port"] = json!(2);
    let mut same_address = api.worker("w3", &other);
    same_address["ip"] = known["ip"].clone();
    let mut changed = known.clone();
    changed["cpu_cores"] = json!(4);
    let by_hand = json!({ "hostname": "w1", "ip": api.worker_ip(), "ssh_port": 22 });
    for body in [&same_key, &same_name, &same_name_in_capitals, &same_address, &changed, &by_hand] {
        let problem = api.post(REGISTER, &join, body).await.problem(409);
        assert_eq!(problem["kind"], "node_known", "{body}: {problem}");
        assert!(problem["hint"].is_string(), "{problem}");
    }
    // Nor does another node's own token help.
    let second = api.post(REGISTER, &join, &api.worker("w4", &other)).await.expect(201);
    let token = second["node_token"].as_str().expect("a node token");
    for body in [&same_name, &same_address] {
        let problem = api.post(REGISTER, token, body).await.problem(409);
        assert_eq!(problem["kind"], "node_known", "{body}: {problem}");
    }
    let nodes = api.get("/api/nodes", &admin).await.expect(200);
    assert_eq!(nodes.as_array().map(Vec::len), Some(2));
    assert_eq!((&nodes[0]["node_id"], &nodes[0]["ip"]), (&created["node_id"], &known["ip"]), "unchanged");
    assert_eq!(nodes[0]["admin"]["host_keys"].as_array().map(Vec::len), Some(1));
    // The same address with another port is another worker.
    let mut beside = api.worker("w5", &KeyPair::generate());
    beside["ip"] = known["ip"].clone();
    beside["ssh_port"] = json!(2201);
    api.post(REGISTER, &join, &beside).await.expect(201);
}

async fn a_worker_whose_host_key_changed_is_quarantined(api: Api) {
    let (admin, join) = (api.admin("boss").await, api.join_token().await);
    let mut body = api.worker("w1", &KeyPair::generate());
    let pinned = body["host_keys"][0].as_str().expect("a key").split_whitespace().nth(1).map(str::to_owned);
    let created = api.post(REGISTER, &join, &body).await.expect(201);
    let token = created["node_token"].as_str().expect("a node token");
    body["host_keys"] = json!([KeyPair::generate().public_line()]);
    let problem = api.post(REGISTER, token, &body).await.problem(409);
    assert_eq!(problem["kind"], "host_key_changed");
    let node = api.get(&format!("/api/nodes/{}", created["node_id"]), &admin).await.expect(200);
    assert_eq!(node["status"], "quarantined");
    assert!(node["status_reason"].as_str().is_some_and(|text| text.contains("host key")), "{node}");
    let kept = node["admin"]["host_keys"][0].as_str().and_then(|key| key.split_whitespace().nth(1));
    assert_eq!(kept, pinned.as_deref(), "the pinned key is kept");
}

async fn a_join_token_is_good_for_as_long_and_as_often_as_it_says(api: Api) {
    let admin = api.admin("boss").await;
    let once =
        api.post("/api/tokens", &admin, &json!({ "uses": 1, "note": "one machine" })).await.expect(201);
    let once = once["token"].as_str().expect("a token").to_owned();
    let first = api.worker("w1", &KeyPair::generate());
    api.post(REGISTER, &once, &first).await.expect(201);
    api.post(REGISTER, &once, &api.worker("w2", &KeyPair::generate())).await.problem(401);
    let (store, now) = (&api.app.store, api.app.now());
    let expired = "orion-join_expired";
    let then = now.minus(Duration::from_secs(1));
    let made = store
        .accounts()
        .create_join_token(&sha256_hex(expired.as_bytes()), "", None, Some(then), None, now)
        .await;
    made.expect("a token");
    api.post(REGISTER, expired, &api.worker("w3", &KeyPair::generate())).await.problem(401);
    for (body, field) in [
        (json!({ "uses": 0 }), "uses"),
        (json!({ "uses": -1 }), "uses"),
        (json!({ "uses": "many" }), "uses"),
        (json!({ "expires_hours": 0 }), "expires_hours"),
        (json!({ "expires_hours": -1 }), "expires_hours"),
        (json!({ "expires_hours": 1e9 }), "expires_hours"),
        (json!({ "note": "x".repeat(201) }), "note"),
    ] {
        assert_eq!(api.post("/api/tokens", &admin, &body).await.problem(400)["field"], field);
    }
}

async fn a_registration_names_only_addresses_that_it_may(api: Api) {
    let strict = Api::start_on_the_same(&api, |config| config.worker_networks = Vec::new()).await;
    let join = api.join_token().await;
    let named = async |api: &Api, token: &str, address: &str| {
        let mut body = api.worker("w1", &KeyPair::generate());
        (body["ip"], body["hostname"]) =
            (json!(address), json!(format!("at-{}", address.replace(['.', ':'], "-"))));
        (api.post(REGISTER, token, &body).await, body)
    };
    // These tests' own address is loopback, which the registration comes from.
    for address in ["127.0.0.1", "127.9.9.9", "169.254.169.254", "203.0.113.9", "::1", "localhost"] {
        let (reply, _) = named(&strict, &join, address).await;
        let problem = reply.problem(400);
        assert_eq!(problem["field"], "ip", "{address}: {problem}");
        assert!(problem["hint"].to_string().contains("ORION_WORKER_NETWORKS"), "{problem}");
    }
    assert_eq!(named(&strict, &join, "no-such-worker.invalid").await.0.problem(400)["field"], "ip");
    named(&strict, &join, "10.3.2.1").await.0.expect(201);
    // A node keeps the address that it has, and moves only where it may.
    let (reply, mut body) = named(&api, &join, "127.9.9.8").await;
    let token = reply.expect(201)["node_token"].as_str().expect("a token").to_owned();
    body["tags"] = json!(["gpu"]);
    strict.post(REGISTER, &token, &body).await.expect(200);
    body["ip"] = json!("127.9.9.7");
    assert_eq!(strict.post(REGISTER, &token, &body).await.problem(400)["field"], "ip");
}

async fn a_join_token_has_limits_unless_told_otherwise(api: Api) {
    let admin = api.admin("boss").await;
    for (body, uses, ends) in [
        (json!({}), json!(100), true),
        (json!({ "uses": null, "expires_hours": null }), json!(100), true),
        (json!({ "unlimited": true }), Value::Null, false),
        (json!({ "unlimited": true, "uses": 3 }), json!(3), false),
        (json!({ "uses": 1_000 }), json!(1_000), true),
    ] {
        let made = api.post("/api/tokens", &admin, &body).await.expect(201);
        assert_eq!((&made["uses"], made["expires_at"].is_string()), (&uses, ends), "{body}: {made}");
    }
}

async fn a_join_token_under_one_key_is_one_token(api: Api) {
    let (boss, chief) = (api.admin("boss").await, api.admin("chief").await);
    let create = async |admin: &str, note: &str| {
        let request = api.request(Method::POST, "/api/tokens").bearer_auth(admin);
        Reply::of(request.header("Idempotency-Key", "k1").json(&json!({ "note": note, "uses": 1 }))).await
    };
    let first = create(&boss, "one").await.expect(201);
    assert_eq!(create(&boss, "one").await.expect(201), first);
    assert_eq!(create(&boss, "two").await.problem(422)["kind"], "idempotency_key_reused");
    let other = create(&chief, "one").await.expect(201);
    assert_ne!(other["token"], first["token"], "keys are each caller's own");
    for reply in [&first, &other] {
        let token = reply["token"].as_str().expect("a token");
        let body = api.worker(&format!("w{}", reply["id"]), &KeyPair::generate());
        api.post(REGISTER, token, &body).await.expect(201);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_that_breaks_a_rule_is_refused() {
    let api = Api::start(Database::Sqlite).await;
    let join = api.join_token().await;
    let good = api.worker("w1", &KeyPair::generate());
    for token in ["", "orion-join_wrong", "orion-node_wrong", "garbage"] {
        api.post(REGISTER, token, &good).await.problem(401);
    }
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    let without = |field: &str| {
        let mut body = good.clone();
        body.as_object_mut().expect("an object").remove(field);
        body
    };
    let many: Vec<String> = (0..65).map(|number| format!("t{number}")).collect();
    let table = [
        with("ssh_port", json!(0)),
        with("ssh_port", json!(70_000)),
        with("ssh_port", json!(-1)),
        with("ssh_port", json!("22")),
        with("ssh_port", json!(22.5)),
        without("ssh_port"),
        with("hostname", json!("")),
        with("hostname", json!("a b")),
        with("hostname", json!("-oProxyCommand=x")),
        with("hostname", json!(5)),
        without("hostname"),
        with("ip", json!("0.0.0.0")),
        with("ip", json!("10.0.0.256")),
        with("ip", json!("a;b")),
        with("ip", json!("")),
        without("ip"),
        with("host_keys", json!(["ssh-ed25519 AAAA"])),
        with("host_keys", json!("ssh-ed25519 AAAA")),
        with("host_keys", json!([RSA])),
        with("tags", json!(["a b"])),
        with("tags", json!(many)),
        with("cpu_cores", json!("eight")),
        with("cpu_cores", json!(-1)),
        with("memory_mb", json!(1.5)),
    ];
    for body in table {
        let problem = api.post(REGISTER, &join, &body).await.problem(400);
        let says = problem["detail"].as_str().is_some_and(|text| text.len() > 10);
        assert!(says, "{body}: {problem}");
    }
    let refused = api.post(REGISTER, &join, &with("host_keys", json!([RSA]))).await.problem(400);
    let detail = refused["detail"].as_str().expect("a text");
    assert!(detail.contains("(ssh-rsa)") && detail.contains("ssh-keygen -q -t ed25519"), "{detail}");
    let admin = api.admin("boss").await;
    assert_eq!(api.get("/api/nodes", &admin).await.expect(200), json!([]), "nothing was registered");
    api.post(REGISTER, &join, &good).await.expect(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_host_keys_waits_for_an_admin() {
    let api = Api::start(Database::Sqlite).await;
    let (admin, join) = (api.admin("boss").await, api.join_token().await);
    let body = json!({ "hostname": "w1", "ip": api.worker_ip(), "ssh_port": 22 });
    let created = api.post(REGISTER, &join, &body).await.expect(201);
    let id = NodeId(created["node_id"].as_i64().expect("a number"));
    let accept = async |fingerprint: &str| -> Reply {
        let path = format!("/api/admin/nodes/{id}/accept-key");
        api.post(&path, &admin, &json!({ "fingerprint": fingerprint })).await
    };
    assert_eq!(accept("SHA256:any").await.problem(409)["kind"], "fingerprint_differs", "none was seen yet");
    let key = KeyPair::generate();
    let line: orion_domain::credentials::SshPublicKey = key.public_line().parse().expect("a key");
    let (seen, now) = (line.fingerprint(), api.app.now());
    api.app.store.nodes().record_host_key(id, line.as_str(), &seen, now).await.expect("recorded");
    let node = api.get(&format!("/api/nodes/{id}"), &admin).await.expect(200);
    assert_eq!((&node["status"], &node["admin"]["seen_fingerprint"]), (&json!("pending"), &json!(seen)));
    assert_eq!(accept("SHA256:another").await.problem(409)["kind"], "fingerprint_differs");
    accept(&seen).await.expect(200);
    let node = api.get(&format!("/api/nodes/{id}"), &admin).await.expect(200);
    assert_ne!(node["status"], "pending");
    assert_eq!(node["admin"]["host_keys"], json!([line.as_str()]));
    let unknown = "/api/admin/nodes/4711/accept-key";
    api.post(unknown, &admin, &json!({ "fingerprint": seen })).await.problem(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_needs_a_node_token_that_is_known() {
    let api = Api::start(Database::Sqlite).await;
    let join = api.join_token().await;
    let created = api.post(REGISTER, &join, &api.worker("w1", &KeyPair::generate())).await.expect(201);
    let token = created["node_token"].as_str().expect("a node token");
    let problem = api.get("/api/workers/link", token).await.problem(400);
    assert!(problem["detail"].is_string(), "known, but no WebSocket");
    let forgotten = api.get("/api/workers/link", "orion-node_forgotten").await.problem(401);
    assert_eq!(forgotten["forgotten"], true, "the agent registers again then");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_words_change_without_end_writes_no_more_than_its_share() {
    let api = Api::start(Database::Sqlite).await;
    let join = api.join_token().await;
    let created = api.post(REGISTER, &join, &api.worker("w1", &KeyPair::generate())).await.expect(201);
    let node = NodeId(created["node_id"].as_i64().expect("a number"));
    let mut link = api.open_link(created["node_token"].as_str().expect("a node token")).await;
    let hello = json!({ "type": "hello", "agent_version": "1", "boot_id": "kernel-1" });
    link.send(Message::text(hello.to_string())).await.expect("sent");
    let begun = std::time::Instant::now();
    for number in 0..500 {
        let way_in = json!({ "open": number % 2 == 0, "reason": format!("reason {number}") });
        let beat = json!({ "type": "beat", "seq": number, "load_percent": 1, "sshd": number % 2 == 0, "way_in": way_in });
        link.send(Message::text(beat.to_string())).await.expect("sent");
    }
    // The last beat was taken once its answer is there.
    let answered = async {
        while let Some(Ok(message)) = link.next().await {
            if message.to_text().is_ok_and(|text| text.contains("499")) {
                return true;
            }
        }
        false
    };
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(60), answered).await,
        Ok(true),
        "it is heard to the end"
    );
    let events = api.app.store.events().of_node(node, 1_000).await.expect("readable");
    let told = events
        .iter()
        .filter(|event| event.kind.starts_with("node.agent_sshd") || event.kind.starts_with("node.way_in"));
    let (told, share) = (told.count(), 12 + begun.elapsed().as_secs() / 5);
    assert!(told >= 2 && told as u64 <= share, "{told} events of 1,000 changes; its share is {share}");
}

async fn a_copy_of_a_node_is_refused_while_the_link_of_the_node_is_up(api: Api) {
    let (admin, join) = (api.admin("boss").await, api.join_token().await);
    let body = api.worker("w1", &KeyPair::generate());
    let created = api.post(REGISTER, &join, &body).await.expect(201);
    let token = created["node_token"].as_str().expect("a node token");
    let path = format!("/api/nodes/{}", created["node_id"]);
    let mut link = api.open_link(token).await;
    let hello = json!({ "type": "hello", "agent_version": "1", "boot_id": "kernel-1" });
    link.send(Message::text(hello.to_string())).await.expect("sent");
    // The link and what it said are known before somebody else knocks: until then the other one would be let in.
    let node = NodeId(created["node_id"].as_i64().expect("a number"));
    wait_until("the link is up", Duration::from_secs(20), async || {
        let link = api.app.store.nodes().get(node).await.expect("readable").expect("registered").link;
        if link == LinkState::Up { Ok(()) } else { Err(link) }
    })
    .await;
    api.app.store.agents().record_boot_id(node, "kernel-1", api.app.now()).await.expect("recorded");
    let mut copy = body.clone();
    copy["ip"] = json!(api.worker_ip());
    let knocks = async |boot_id: &str| {
        let request = api.request(Method::GET, "/api/workers/link").bearer_auth(token);
        let upgrade = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")];
        let request = upgrade.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        let request = request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        Reply::of(request.header("orion-boot-id", boot_id)).await
    };
    wait_until("another kernel may not link", Duration::from_secs(20), async || {
        let reply = knocks("kernel-2").await;
        if reply.status == 409 { Ok(()) } else { Err(reply.text) }
    })
    .await;
    assert_eq!(knocks("kernel-2").await.problem(409)["kind"], "node_known");
    let refused = api.post(REGISTER, token, &copy).await;
    assert_eq!(refused.problem(409)["kind"], "node_known");
    assert_eq!(refused.header("retry-after"), "5", "it tries again soon: it may have moved");
    let node = api.get(&path, &admin).await.expect(200);
    assert_eq!((&node["ip"], &node["quarantine"]), (&body["ip"], &Value::Null), "{node}");
    api.post(REGISTER, token, &body).await.expect(200);
    drop(link);
    wait_until("it moved: its old link is lost", Duration::from_secs(30), async || {
        let reply = api.post(REGISTER, token, &copy).await;
        if reply.status == 200 { Ok(()) } else { Err(reply.text) }
    })
    .await;
    assert_eq!(api.get(&path, &admin).await.expect(200)["ip"], copy["ip"]);
}

async fn a_machine_that_is_a_node_already_is_refused_whatever_its_host_keys_are(api: Api) {
    let (admin, join) = (api.admin("boss").await, api.join_token().await);
    let registers = async |hostname: &str, machine: &str, boot: &str| {
        let body = api.worker(hostname, &KeyPair::generate());
        let request = api.request(Method::POST, REGISTER).bearer_auth(&join).json(&body);
        let request = request.header("orion-machine-id", machine).header("orion-boot-id", boot);
        Reply::of(request).await
    };
    let (machine, other) = (sha256_hex(b"machine"), sha256_hex(b"other"));
    let created = registers("w1", &machine, "kernel-1").await.expect(201);
    let node = NodeId(created["node_id"].as_i64().expect("a number"));
    api.app.store.agents().record_boot_id(node, "kernel-1", api.app.now()).await.expect("recorded");
    let refused = registers("w2", &machine, "kernel-1").await.problem(409);
    assert_eq!(refused["kind"], "node_known");
    let detail = refused["detail"].as_str().expect("a text");
    assert!(detail.starts_with(&format!("node {node} has this machine id and boot id already")), "{detail}");
    assert!(refused["hint"].to_string().contains("orion nodes forget"), "{refused}");
    // Another kernel or another machine id is another machine; what is no hash is passed over.
    let copy = registers("w3", &machine.to_uppercase(), "kernel-3").await.expect(201);
    registers("w4", &other, "kernel-1").await.expect(201);
    registers("w5", "0123456789abcdef0123456789abcdef", "kernel-1").await.expect(201);
    let nodes = api.get("/api/nodes", &admin).await.expect(200);
    let shared = |node: &Value| node["status_reason"].to_string().contains("it has the machine id of node");
    let names: Vec<&Value> = nodes.as_array().expect("a list").iter().filter(|node| shared(node)).collect();
    let ids: Vec<&Value> = names.iter().map(|node| &node["node_id"]).collect();
    assert_eq!(ids, [&created["node_id"], &copy["node_id"]], "{nodes}");
    let one = api.get(&format!("/api/nodes/{node}"), &admin).await.expect(200);
    assert!(shared(&one), "{one}");
}
