//! A machine that was cloned.

use super::{
    PATIENCE,
    system::{Database, System, stays_for},
    truthful::Truthful,
    user::{is_clean, is_refused},
};
use orion_testkit::{Home, wait_until};
use serde_json::Value;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_of_a_node_is_kept_out_and_the_lease_stays_where_its_account_is() {
    let system = System::start_with_plain(Database::Sqlite, 1, 1).await;
    let (clone, original) = (&system.workers()[0], &system.workers()[1]);
    let yara = system.user("yara").await;
    let ticket = yara.rent_one().await;
    let truthful = Truthful::watch(&yara, std::slice::from_ref(&ticket));
    assert_eq!(ticket.host_ip, original.ip().to_string());

    let image = original.sh("tar -C / -czf - var/lib/orion-agent etc/ssh etc/machine-id | base64 -w 0");
    clone.sh(&format!("echo '{image}' | base64 -d | tar -C / -xzf -"));
    clone.kill();
    clone.start(); // now with an agent, and an address of its own
    // Whatever name and address it bears now.
    let told = wait_until("the node says that there are two machines", PATIENCE, async || {
        let nodes = system.admin().get("/api/nodes").await.expect(200);
        let told = |node: &&Value| node["status_reason"].to_string().contains("two machines");
        nodes.as_array().expect("a list").iter().find(told).cloned().ok_or_else(|| nodes.to_string())
    })
    .await;
    assert_eq!(told["offerable"], false, "{told}");
    stays_for(Duration::from_secs(5), async || {
        let lease = yara.show(ticket.rental_id).await;
        (lease["host_ip"] != ticket.host_ip.as_str()).then(|| lease.to_string())
    })
    .await;
    assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("yara\n"));

    yara.release(ticket.rental_id).await;
    wait_until("the lease is over", PATIENCE, async || {
        let lease = yara.show(ticket.rental_id).await;
        if lease["state"] == "ended" { Ok(()) } else { Err(lease.to_string()) }
    })
    .await;
    is_refused(&ticket.by_password()).await;
    truthful.was_true().await;
    is_clean(original);
    is_clean(clone);
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_of_one_image_are_nodes_of_their_own_and_each_is_shown_with_the_other() {
    let system = System::start(Database::Sqlite, 2).await;
    let yara = system.user("yara").await;
    let ticket = yara.rent_one().await;
    let original = system.worker_at(&ticket.host_ip);
    let copy = system.workers().iter().find(|worker| worker.ip() != original.ip()).expect("two");
    // As an image leaves it whose host keys were made anew at the first boot.
    let machine_id = original.sh("cat /etc/machine-id");
    copy.sh(&format!("echo {} >/etc/machine-id", machine_id.trim()));
    assert_ne!(original.host_key(), copy.host_key());
    copy.kill();
    copy.start(); // the agent names it when it starts
    let other = async |worker| system.node(worker).await.expect("a node")["node_id"].to_string();
    for (worker, twin) in [(original, copy), (copy, original)] {
        let sentence = format!("it has the machine id of node {}:", other(twin).await);
        let told = system
            .until_node(worker, "its machine id is shared", |node| {
                node["status_reason"].to_string().contains(&sentence)
            })
            .await;
        assert_eq!(told["quarantine"], Value::Null, "{told}");
        let tenant = yara.get(&format!("/api/nodes/{}", told["node_id"])).await.expect(200);
        assert!(!tenant["status_reason"].to_string().contains("machine id"), "for admins only: {tenant}");
    }
    let data = system.up().data_dir().display().to_string();
    let ended = Home::new().run(&["-o", "json", "doctor", "--data-dir", &data]);
    let report: Value = serde_json::from_str(&ended.out).expect("a report");
    let checks = report["checks"].as_array().expect("a list");
    let machines = checks.iter().find(|check| check["check"] == "machines").expect("it is checked");
    assert_eq!((machines["ok"].as_bool(), ended.code), (Some(false), Some(0)), "a warning: {report}");
    assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("yara\n"));
    yara.release(ticket.rental_id).await;
    system.until_offered(system.workers()).await;
    is_clean(original);
    is_clean(copy);
}
