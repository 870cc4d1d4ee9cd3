//! How machines become nodes: by plain `curl`, and with a host key that is not the pinned one.

use super::{
    PATIENCE,
    system::{Database, System, stays_for},
    truthful::WORKS,
    user::{User, is_clean},
};
use orion_testkit::{Worker, wait_until};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_an_agent_is_offered_after_an_admin_accepted_its_key_and_its_ca_is_installed() {
    let system = System::start_with_plain(Database::Sqlite, 1, 0).await;
    let worker = &system.workers()[0];
    let ca = register_by_hand(&system, worker).await;
    let node = system.until_node(worker, "its key was seen", |node| {
        node["status"] == "pending" && node["admin"]["seen_fingerprint"].is_string()
    });
    let node = node.await;
    let carol = system.user("carol").await;
    let refused = carol.try_rent(&json!({ "duration_hours": 1 }), None).await.expect("a reply").expect(503);
    assert_eq!(refused["found"], 0, "a pending node is not offered");

    let accept = format!("/api/admin/nodes/{}/accept-key", node["node_id"]);
    let wrong = json!({ "fingerprint": "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" });
    let refused = system.admin().post(&accept, wrong).await.expect(409);
    assert_eq!(refused["kind"], "fingerprint_differs");
    let right = json!({ "fingerprint": node["admin"]["seen_fingerprint"] });
    system.admin().post(&accept, right).await.expect(200);
    // The control plane cannot log in yet.
    system.until_node(worker, "accepted", |node| node["status"] == "unreachable").await;

    worker.install_ca(&ca);
    system.until_offered(system.workers()).await;
    let ticket = carol.rent_one().await;
    assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("carol\n"));
    let shown = carol.show(ticket.rental_id).await;
    assert_eq!((&shown["deadline"], &shown["applied"]), (&json!("node"), &json!(true)));
    carol.release(ticket.rental_id).await;
    is_clean(worker);

    // Without an agent the SSH path alone decides, with a longer limit.
    let ticket = carol.rent_one().await;
    worker.kill();
    let waiting = |lease: &Value| lease["state"] == "migrating" && lease["state_since"].is_string();
    carol.until(ticket.rental_id, "its node is lost", waiting).await;
    system.until_node(worker, "given up", |node| node["status"] == "dead").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_host_key_changed_is_quarantined_and_nobody_logs_in_there() {
    let system = System::start_with_plain(Database::Sqlite, 1, 1).await;
    let (plain, with_agent) = (&system.workers()[0], &system.workers()[1]);
    admit_by_hand(&system, plain).await;
    let dora = system.user("dora").await;
    for worker in [plain, with_agent] {
        worker
            .sh("rm /etc/ssh/ssh_host_* && ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key");
        worker.reload_sshd();
        // New connections meet the new key; the control plane's old session still lives, so end it.
        worker.sh("pkill -KILL -f '^sshd: root' || true");
    }
    for worker in [plain, with_agent] {
        let node = system.until_node(worker, "quarantined", |node| node["status"] == "quarantined").await;
        let reason = node["status_reason"].as_str().expect("a reason");
        assert!(reason.contains("host key"), "{reason}");
        assert_eq!(node["offerable"], false);
    }
    let refused = dora.try_rent(&json!({ "duration_hours": 1 }), None).await.expect("a reply").expect(503);
    assert_eq!(refused["found"], 0);
    stays_for(Duration::from_secs(4), async || {
        let node = system.node(with_agent).await.expect("known");
        (node["status"] != "quarantined").then(|| node.to_string())
    })
    .await;
}

/// The scheduler asks such a node at least once a minute; the probe and what is written of it take their time.
const ASKED_AGAIN: Duration = Duration::from_secs(75);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_an_agent_is_asked_each_minute_and_shown_as_shut_while_nobody_gets_in() {
    let system = System::start_with_plain(Database::Sqlite, 1, 0).await;
    let worker = &system.workers()[0];
    admit_by_hand(&system, worker).await;
    let nora = system.user("nora").await;
    let ticket = nora.rent_one().await;
    assert!(nora.show(ticket.rental_id).await["state_reason"].to_string().contains(WORKS));
    worker.sh("echo 'maintenance until noon' >/etc/nologin");
    assert!(ticket.by_password().run("id").await.is_err(), "nobody but root gets in");
    let shut = wait_until("the way in is shut", ASKED_AGAIN, async || {
        let node = system.node(worker).await?;
        if node["way_in"] == "shut" { Ok(node) } else { Err(node.to_string()) }
    })
    .await;
    assert!(shut.to_string().contains("/etc/nologin"), "{shut}");
    let lease = nora.show(ticket.rental_id).await;
    let reason = lease["state_reason"].as_str().expect("a reason");
    assert!(!reason.starts_with(WORKS) && reason.contains("nologin"), "{lease}");
    assert_eq!(lease["state"], "active", "the machine's doing ends no lease: {lease}");
    worker.sh("rm /etc/nologin");
    let works = |lease: &Value| lease["state_reason"].as_str().is_some_and(|why| why.starts_with(WORKS));
    nora.until(ticket.rental_id, "said to work again", works).await;
    assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("nora\n"));
    nora.release(ticket.rental_id).await;
    system.until_offered(system.workers()).await;
    is_clean(worker);
}

/// `POST /api/workers/register` as `curl` would send it; the line of the control plane's CA.
async fn register_by_hand(system: &System, worker: &Worker) -> String {
    let body = json!({ "hostname": worker.name(), "ip": worker.ip().to_string(), "ssh_port": 22 });
    let joining = User::anyone(&system.url()).with_token(system.join_token());
    let registered = joining.post("/api/workers/register", body).await.expect(201);
    registered["ssh_ca"].as_str().expect("a CA").to_owned()
}

/// All that an admin does for a worker without an agent.
pub async fn admit_by_hand(system: &System, worker: &Worker) {
    let ca = register_by_hand(system, worker).await;
    worker.install_ca(&ca);
    let seen = wait_until("its key was seen", PATIENCE, async || {
        let node = system.node(worker).await?;
        let key = node["admin"]["seen_fingerprint"].as_str().map(str::to_owned);
        key.map(|key| (node["node_id"].clone(), key)).ok_or_else(|| node.to_string())
    });
    let (id, fingerprint) = seen.await;
    let accept = format!("/api/admin/nodes/{id}/accept-key");
    system.admin().post(&accept, json!({ "fingerprint": fingerprint })).await.expect(200);
    system.until_offered(std::slice::from_ref(worker)).await;
}
