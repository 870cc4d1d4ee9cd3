//! A node whose agent answers while its sshd does not.

use super::{
    PATIENCE,
    system::{Database, System, stays_for},
};
use orion_testkit::wait_until;
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_sshd_is_down_is_held_and_its_accounts_are_locked_before_it_is_given_up() {
    let system = System::start(Database::Sqlite, 2).await;
    let liam = system.user("liam").await;
    let ticket = liam.rent_one().await;
    let worker = system.worker_at(&ticket.host_ip);
    let locked = || worker.sh("grep ^liam: /etc/shadow").starts_with("liam:!");

    worker.stop_sshd();
    system.until_node(worker, "unreachable", |node| node["status"] == "unreachable").await;
    stays_for(Duration::from_secs(10), async || {
        let lease = liam.show(ticket.rental_id).await;
        let node = system.node(worker).await.expect("known");
        let stays =
            lease["host_ip"] == ticket.host_ip.as_str() && node["status"] == "unreachable" && !locked();
        (!stays).then(|| format!("{lease}\n{node}"))
    })
    .await;
    let other = system.workers().iter().find(|other| other.ip() != worker.ip()).expect("two workers");
    assert_eq!(system.node(other).await.expect("known")["offerable"], true, "it could have moved");

    wait_until("the agent locks the account", PATIENCE, async || locked().then_some(())).await;
    worker.start_sshd();
    system.until_node(worker, "alive", |node| node["status"] == "alive").await;
    wait_until("the account is open again", PATIENCE, async || ticket.by_password().run("id -un").await)
        .await;
    assert!(!locked());
    let shown = liam.show(ticket.rental_id).await;
    assert_eq!(shown["nodes"].as_array().map(Vec::len), Some(1), "{shown}");
    let extended =
        liam.post(&format!("/api/extend/{}", ticket.rental_id), json!({ "additional_hours": 1 })).await;
    assert_eq!(extended.expect(200)["applied"], true);
}
