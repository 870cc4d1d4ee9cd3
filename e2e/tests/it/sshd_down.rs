//! Nodes whose agents answer while their sshd does not.

use super::{
    PATIENCE,
    system::{Database, System, stays_for},
    truthful::Truthful,
};
use orion_testkit::{Worker, wait_until};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_sshd_is_down_is_held_and_its_accounts_are_locked_before_it_is_given_up() {
    let system = System::start(Database::Sqlite, 2).await;
    let liam = system.user("liam").await;
    let ticket = liam.rent_one().await;
    let worker = system.worker_at(&ticket.host_ip);
    let locked = || worker.sh("grep ^liam: /etc/shadow").starts_with("liam:!");
    let truthful = Truthful::watch(&liam, std::slice::from_ref(&ticket));

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
    truthful.was_true().await;
    let shown = liam.show(ticket.rental_id).await;
    assert_eq!(shown["nodes"].as_array().map(Vec::len), Some(1), "{shown}");
    let extended =
        liam.post(&format!("/api/extend/{}", ticket.rental_id), json!({ "additional_hours": 1 })).await;
    assert_eq!(extended.expect(200)["applied"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_an_admin_declares_dead_loses_its_lease_at_once_and_can_be_forgotten() {
    let system = System::start(Database::Sqlite, 2).await;
    let lea = system.user("lea").await;
    let ticket = lea.rent_one().await;
    let worker = system.worker_at(&ticket.host_ip);
    worker.stop_sshd();
    let node = system.until_node(worker, "unreachable", |node| node["status"] == "unreachable").await;
    let act = async |what: &str, body: Value| {
        let path = format!("/api/admin/nodes/{}/{what}", node["node_id"]);
        system.admin().post(&path, body).await.expect(200)
    };
    let told = act("declare-dead", json!({ "reason": "it burnt" })).await;
    assert_eq!(told["moving"], json!([ticket.rental_id]), "{told}");
    let moved = lea.until_moved(ticket.rental_id, &ticket.host_ip).await;
    assert_eq!(lea.login_at(&ticket, &moved).run("id -un").await.as_deref(), Ok("lea\n"));
    let locked = || worker.sh("grep ^lea: /etc/shadow").starts_with("lea:!");
    wait_until("the agent locks the account", PATIENCE, async || locked().then_some(())).await;
    worker.kill();
    system.until_node(worker, "dead", |node| node["status"] == "dead").await;
    act("forget", json!({ "force": true })).await;
    assert!(system.node(worker).await.is_err(), "it is forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sshd_of_four_nodes_of_nine_down_at_once_ends_nobody_s_work() {
    let system = System::start(Database::Sqlite, 9).await;
    let mina = system.user("mina").await;
    let tickets = mina.rent(json!({ "duration_hours": 1, "count": 4 })).await;
    for ticket in &tickets {
        let started = ticket.by_password().run("nohup sleep 7777 >/dev/null 2>&1 & echo on").await;
        assert_eq!(started.as_deref(), Ok("on\n"));
    }
    let truthful = Truthful::watch(&mina, &tickets);
    let victims: Vec<&Worker> = tickets.iter().map(|ticket| system.worker_at(&ticket.host_ip)).collect();
    std::thread::scope(|scope| {
        for worker in &victims {
            scope.spawn(|| worker.stop_sshd());
        }
    });
    let engaged = |on: bool| move |health: &Value| health["brake"]["engaged"] == on;
    system.until_health("the brake is on", engaged(true)).await;
    // The accounts would be locked after 20 s, and the nodes given up after 30 s.
    stays_for(Duration::from_secs(40), async || {
        let broken = victims.iter().find_map(|worker| {
            let works = worker.sh("pgrep -u mina -x sleep | wc -l").trim() == "1";
            let open = !worker.sh("grep ^mina: /etc/shadow").starts_with("mina:!");
            (!works || !open).then(|| format!("{}: works {works}, open {open}", worker.name()))
        });
        match broken {
            Some(broken) => Some(broken),
            None => {
                let brake = system.admin().get("/api/health").await.expect(200)["brake"]["engaged"] == true;
                (!brake).then(|| "the brake is off".to_owned())
            }
        }
    })
    .await;
    victims.iter().for_each(|worker| worker.start_sshd());
    system.until_health("the brake is lifted", engaged(false)).await;
    for (ticket, worker) in tickets.iter().zip(&victims) {
        let here = |lease: &Value| lease["state"] == "active" && lease["host_ip"] == ticket.host_ip.as_str();
        mina.until(ticket.rental_id, "on its own node", here).await;
        assert_eq!(ticket.by_password().run("pgrep -u mina -x sleep | wc -l").await.as_deref(), Ok("1\n"));
        assert!(!worker.agent_log().contains("every lease account is locked"), "{}", worker.agent_log());
    }
    truthful.was_true().await;
    let kinds: Vec<Value> = system.events().await.into_iter().map(|event| event["kind"].clone()).collect();
    for kind in ["node.locking", "node.dead", "lease.node_lost", "node.quarantined"] {
        assert!(!kinds.contains(&json!(kind)), "{kind}: {kinds:?}");
    }
}
