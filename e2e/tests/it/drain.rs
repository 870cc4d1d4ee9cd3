//! A node is emptied: its tenant keeps the login on the way, and nothing is left behind.

use super::{
    PATIENCE,
    system::{Database, System, stays_for},
    user::{Ticket, User, is_clean, is_refused, left_on},
};
use orion_testkit::{Home, Worker, wait_until};
use serde_json::{Value, json};
use std::{
    io::Read as _,
    process::{Child, ExitStatus},
    time::Duration,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_is_empty_and_its_tenant_logs_in_elsewhere_with_the_same_password() {
    a_tenant_moves_off(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_is_empty_and_its_tenant_logs_in_elsewhere_with_the_same_password_on_mariadb() {
    a_tenant_moves_off(Database::MariaDb).await;
}

async fn a_tenant_moves_off(database: Database) {
    let system = System::start(database, 3).await;
    let admin = Home::new();
    log_in(&admin, &system);
    let (nora, omar) = (system.user("nora").await, system.user("omar").await);
    let (first, second) = (nora.rent_one().await, omar.rent_one().await);
    let worker = system.worker_at(&first.host_ip);
    assert!(!left_on(worker).is_empty());

    // One node is free: the tenant moves there.
    let draining = Draining::start(&admin, &[worker.name(), "--reason", "new fans"]);
    let shown = draining.until_done().await;
    assert!(shown.contains("drained"), "{shown}");
    is_clean(worker);
    let moved = nora.until_moved(first.rental_id, &first.host_ip).await;
    assert_eq!(nora.login_now(&first).await.run("id -un").await.as_deref(), Ok("nora\n"));
    is_refused(&first.by_password()).await;
    let why = moved["nodes"][0]["why"].as_str().unwrap_or_default();
    assert_eq!(why, "the node is being drained: new fans", "{moved}");
    let kinds = kinds(&moved);
    let expected = ["lease.placed", "lease.active", "lease.node_draining", "lease.moving", "lease.moved"];
    assert_eq!(kinds, expected);
    let node = system.node(worker).await.expect("known");
    assert_eq!((&node["status"], &node["drain"]["state"]), (&json!("drained"), &json!("drained")));
    assert_eq!(
        second.by_password().run("id -un").await.as_deref(),
        Ok("omar\n"),
        "the other was not touched"
    );
    nora.try_rent(&json!({ "duration_hours": 1 }), None).await.expect("a reply").expect(503);

    // Undrained it is looked at, offered, and takes a lease again.
    let undrained = admin.run(&["nodes", "undrain", worker.name()]);
    assert_eq!(undrained.code, Some(0), "{undrained:?}");
    system.until_offered(std::slice::from_ref(worker)).await;
    let again = nora.rent_one().await;
    assert_eq!(again.host_ip, first.host_ip);
    let events = system.events().await;
    let of_node: Vec<&str> = events
        .iter()
        .filter(|event| event["node_id"] == node["node_id"] && event["lease_id"].is_null())
        .filter_map(|event| event["kind"].as_str())
        .filter(|kind| kind.contains("drain"))
        .collect();
    assert_eq!(of_node, ["node.draining", "node.drained", "node.undrained"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_on_a_draining_node_works_until_a_node_comes_free() {
    let system = System::start(Database::Sqlite, 2).await;
    let admin = Home::new();
    log_in(&admin, &system);
    let (pia, quin) = (system.user("pia").await, system.user("quin").await);
    let (stays, other) = (pia.rent_one().await, quin.rent_one().await);
    let worker = system.worker_at(&stays.host_ip);
    let draining = Draining::start(&admin, &[worker.name()]);
    let waits = |node: &Value| node["drain"]["state"] == "waiting for a free node";
    let node = system.until_node(worker, "waits for a free node", waits).await;
    assert_eq!(
        (&node["drain"]["leases_left"], &node["drain"]["leases"]),
        (&json!(1), &json!([stays.rental_id]))
    );
    stays_for(Duration::from_secs(2), async || {
        let (login, lease) = (stays.by_password().run("id -un").await, pia.show(stays.rental_id).await);
        let works = login.as_deref() == Ok("pia\n") && lease["state"] == "active";
        (!works).then(|| format!("{login:?}, {lease}"))
    })
    .await;
    let shown = pia.show(stays.rental_id).await;
    assert!(
        shown["drain"]["plan"].as_str().is_some_and(|plan| plan.contains("as soon as one is free")),
        "{shown}"
    );

    // Its login works somewhere at every moment: the old one until the new one does.
    quin.release(other.rental_id).await;
    wait_until("the old login is gone", PATIENCE, async || {
        if stays.by_password().run("id -un").await.as_deref() == Ok("pia\n") {
            return Err("it works still".to_owned());
        }
        let new = pia.login_now(&stays).await.run("id -un").await;
        assert_eq!(new.as_deref(), Ok("pia\n"), "the old login is gone, and the new one does not work yet");
        Ok(())
    })
    .await;
    let moved = pia.until_moved(stays.rental_id, &stays.host_ip).await;
    assert_eq!(moved["host_ip"], other.host_ip.as_str());
    assert_eq!(pia.login_now(&stays).await.run("id -un").await.as_deref(), Ok("pia\n"));
    draining.until_done().await;
    is_clean(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_deadline_a_drained_node_is_emptied_and_the_leases_wait_or_end() {
    let system = System::start(Database::Sqlite, 3).await;
    let admin = Home::new();
    log_in(&admin, &system);
    let rita = system.user("rita").await;
    let mut leases = Vec::new();
    for policy in ["migrate", "wait", "end"] {
        leases.push(rita.rent(json!({ "duration_hours": 1, "on_node_loss": policy })).await.remove(0));
    }
    let workers: Vec<&Worker> = leases.iter().map(|lease| system.worker_at(&lease.host_ip)).collect();
    let names: Vec<&str> = workers.iter().map(|worker| worker.name()).collect();
    let draining = Draining::start(&admin, &[names.as_slice(), &["--deadline", "8s"]].concat());
    for (index, worker) in workers.iter().enumerate() {
        let state = if index == 0 { "waiting for a free node" } else { "waiting for its deadline" };
        system.until_node(worker, state, |node| node["drain"]["state"] == state).await;
        let login = leases[index].by_password().run("id -un").await;
        assert_eq!(login.as_deref(), Ok("rita\n"), "before the deadline it works");
    }
    draining.until_done().await;
    for (worker, lease) in workers.iter().zip(&leases) {
        is_clean(worker);
        is_refused(&lease.by_password()).await;
    }
    let [migrates, waits, ends] = leases.as_slice() else { panic!("three leases") };
    let ended = rita.until(ends.rental_id, "over", |lease| lease["state"] == "ended").await;
    assert!(ended["state_reason"].as_str().is_some_and(|why| why.contains("drained")), "{ended}");
    waits_for(&rita, migrates, "no node is free (the node is being drained").await;
    waits_for(&rita, waits, "it waits for its own node").await;

    // A node that is free again is taken by the one that may move; the other gets its own back.
    undrain(&admin, workers[2]);
    let moved = rita.until_moved(migrates.rental_id, &migrates.host_ip).await;
    assert_eq!(moved["host_ip"], ends.host_ip.as_str());
    assert_eq!(rita.login_now(migrates).await.run("id -un").await.as_deref(), Ok("rita\n"));
    undrain(&admin, workers[1]);
    rita.until(waits.rental_id, "back", |lease| lease["state"] == "active").await;
    assert_eq!(waits.by_password().run("id -un").await.as_deref(), Ok("rita\n"), "the same password");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_goes_on_after_the_control_plane_was_killed_in_the_middle() {
    let system = System::start(Database::Sqlite, 5).await;
    let admin = Home::new();
    log_in(&admin, &system);
    let sara = system.user("sara").await;
    let leases = sara.rent(json!({ "duration_hours": 1, "count": 2 })).await;
    let workers: Vec<&Worker> = leases.iter().map(|lease| system.worker_at(&lease.host_ip)).collect();
    let mut line = vec!["nodes", "drain"];
    line.extend(workers.iter().map(|worker| worker.name()));
    let begun = admin.run(&line);
    assert_eq!(begun.code, Some(0), "{begun:?}");
    system.up().kill();
    system.up().start();
    system.up().answers().await;
    for (worker, lease) in workers.iter().zip(&leases) {
        system.until_node(worker, "drained", |node| node["drain"]["state"] == "drained").await;
        sara.until_moved(lease.rental_id, &lease.host_ip).await;
        assert_eq!(sara.login_now(lease).await.run("id -un").await.as_deref(), Ok("sara\n"));
        is_clean(worker);
    }
    // A drained machine is switched off: nothing moves because of it, and it is not in the way.
    workers[0].kill();
    system.until_node(workers[0], "dead", |node| node["status"] == "dead").await;
    let lease = sara.show(leases[0].rental_id).await;
    assert_eq!(lease["state"], "active", "{lease}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_while_it_is_drained_is_drained_when_its_lease_has_another() {
    let system = System::start(Database::Sqlite, 2).await;
    let admin = Home::new();
    log_in(&admin, &system);
    let (tara, uwe) = (system.user("tara").await, system.user("uwe").await);
    let (lost, other) = (tara.rent_one().await, uwe.rent_one().await);
    let worker = system.worker_at(&lost.host_ip);
    let draining = Draining::start(&admin, &[worker.name()]);
    system.until_node(worker, "draining", |node| node["status"] == "draining").await;
    worker.kill();
    waits_for(&tara, &lost, "no node is free").await;
    let node = system.node(worker).await.expect("known");
    assert_eq!(node["drain"]["state"], "waiting for a free node", "{node}");
    uwe.release(other.rental_id).await;
    tara.until_moved(lost.rental_id, &lost.host_ip).await;
    draining.until_done().await;
    // It comes back with the account on it: it is cleaned, and not offered.
    worker.start();
    system.until_node(worker, "clean", |node| node["status"] == "drained" && node["dirty"] == false).await;
    is_clean(worker);
    assert_eq!(system.node(worker).await.expect("known")["offerable"], false);
    assert_eq!(tara.login_now(&lost).await.run("id -un").await.as_deref(), Ok("tara\n"));
}

fn log_in(home: &Home, system: &System) {
    let (api, password) = (system.url(), format!("{}\n", system.admin_password()));
    let logged_in = home.run_with_input(&["--api", &api, "login", "admin", "--password-stdin"], &password);
    assert_eq!(logged_in.code, Some(0), "{logged_in:?}");
}

fn undrain(admin: &Home, worker: &Worker) {
    let undrained = admin.run(&["nodes", "undrain", worker.name()]);
    assert_eq!(undrained.code, Some(0), "{undrained:?}");
}

async fn waits_for(user: &User, ticket: &Ticket, why: &str) {
    let waits = |lease: &Value| {
        lease["state"] == "migrating" && lease["state_reason"].as_str().is_some_and(|text| text.contains(why))
    };
    user.until(ticket.rental_id, why, waits).await;
}

fn kinds(lease: &Value) -> Vec<&str> {
    let events = lease["events"].as_array().expect("the lease's events");
    events.iter().filter_map(|event| event["kind"].as_str()).collect()
}

/// A running `orion nodes drain … --wait`.
struct Draining(Child);

impl Draining {
    fn start(home: &Home, arguments: &[&str]) -> Self {
        let line = [&["nodes", "drain", "--wait"], arguments].concat();
        Self(home.command(&line).spawn().expect("orion starts"))
    }

    /// Waits until it ends by itself, well; what it said.
    async fn until_done(mut self) -> String {
        let status: ExitStatus = wait_until("nodes drain --wait returns", PATIENCE, async || {
            self.0.try_wait().expect("it is ours").ok_or_else(|| "it waits".to_owned())
        })
        .await;
        let mut said = String::new();
        let pipe = self.0.stderr.as_mut().expect("a pipe");
        pipe.read_to_string(&mut said).expect("text");
        assert!(status.success(), "{said}");
        said
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
