//! The whole story on one fleet of machines that Orion did not make (`launch_workers/kinds.sh`): with accounts, ids and
//! processes of others, hardened, of BusyBox's tools and with systemd.

use super::{
    PATIENCE,
    foreign::Foreign,
    system::{Database, System},
    truthful::Truthful,
    user::{Ticket, User, is_clean, is_refused, left_on},
};
use orion_testkit::{KeyPair, Kind, wait_until};
use serde_json::{Value, json};
use std::time::Duration;

const FLEET: [Kind; 4] = [Kind::Foreign, Kind::Hardened, Kind::BusyBox, Kind::Systemd];

#[tokio::test(flavor = "multi_thread")]
async fn one_fleet_of_four_kinds_passes_the_whole_story_and_what_is_not_orions_stays() {
    let system = System::start_kinds(Database::Sqlite, &FLEET).await;
    let foreign = Foreign::on(&system.workers()[0]);
    whole_story(&system).await;
    foreign.is_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_orions_on_a_node_is_told_to_admins_by_the_api() {
    let system = System::start_kinds(Database::Sqlite, &[Kind::Foreign]).await;
    let node = system.node(&system.workers()[0]).await.expect("known");
    let findings = node["admin"]["last_clean_report"]["findings"].as_array().expect("a list").clone();
    for (uid, told) in [
        (
            1_000_017,
            " of the subordinate range 1000000:1000000000 is left alone; no lease gets a uid of that range here",
        ),
        (
            250_001,
            " of the subordinate range 231072:65536 is left alone; no lease gets a uid of that range here",
        ),
        (300_017, ", which no lease has had here, is left alone"),
    ] {
        let sentence = format!("uid {uid}{told}");
        let is_told = |finding: &Value| finding.as_str().is_some_and(|text| text.ends_with(&sentence));
        assert!(findings.iter().any(is_told), "{sentence}: {findings:#?}");
    }
    let user = system.user("ida").await;
    let nodes = user.get("/api/nodes").await.expect(200);
    assert!(!nodes.to_string().contains("left alone"), "{nodes}");
}

/// Rent, both logins, extension, release, dead nodes, a deadline that the node keeps alone.
async fn whole_story(system: &System) {
    let ida = system.user("ida").await;
    let key = KeyPair::generate();
    let rented = everybody_logs_in_by_password_and_key(system, &ida, &key).await;
    let truthful = Truthful::watch(&ida, &rented);
    for ticket in &rented {
        leaves_dirt(system, ticket).await;
        is_extended(system, &ida, ticket).await;
    }
    each_node_is_cut_off_for_a_while(system, &ida, &rented).await;
    each_killed_node_loses_its_lease_to_the_one_before(system, &ida, &rented).await;
    for ticket in &rented[1..] {
        is_released(system, &ida, ticket).await;
    }
    truthful.was_true().await;
    the_nodes_keep_the_deadline_alone(system, &ida).await;
}

async fn everybody_logs_in_by_password_and_key(system: &System, ida: &User, key: &KeyPair) -> Vec<Ticket> {
    // Without a tag: a lease that has one moves to nodes of that tag only.
    let body =
        json!({ "duration_hours": 1, "count": system.workers().len(), "ssh_public_key": key.public_line() });
    let mut rented = ida.rent(body).await;
    rented.sort_by(|one, other| one.host_ip.cmp(&other.host_ip));
    for (ticket, worker) in rented.iter().zip(system.workers()) {
        assert_eq!(ticket.host_ip, worker.ip().to_string());
        assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("ida\n"), "{}", worker.name());
        assert_eq!(ticket.by_key(key).run("id -un").await.as_deref(), Ok("ida\n"), "{}", worker.name());
    }
    rented
}

/// Files wherever a tenant may write, and a process that outlives the session.
async fn leaves_dirt(system: &System, ticket: &Ticket) {
    let dirt = "for dir in ~ /tmp /var/tmp /dev/shm /run/lock /srv/data; do echo secret >$dir/mine; done 2>/dev/null; \
                mkdir -p /tmp/deep/er; echo '* * * * * true' | crontab - 2>/dev/null; \
                systemd-run --user --quiet sleep 3001 2>/dev/null; \
                nohup setsid sleep 3000 >/dev/null 2>&1 </dev/null & echo done";
    assert_eq!(ticket.by_password().run(dirt).await.as_deref(), Ok("done\n"));
    let worker = system.worker_at(&ticket.host_ip);
    let left = left_on(worker);
    if worker.name() == system.workers()[3].name() {
        let of_unit = worker.sh("ps -o ppid= -C sleep | while read p; do ps -o args= -p $p; done");
        assert!(of_unit.contains("systemd --user"), "a unit of the tenant's runs: {of_unit}");
    }
    assert!(left.iter().any(|line| line.contains("process")) && left.len() >= 6, "{left:#?}");
}

async fn is_extended(system: &System, ida: &User, ticket: &Ticket) {
    let path = format!("/api/extend/{}", ticket.rental_id);
    let extended = ida.post(&path, json!({ "additional_hours": 2 })).await.expect(200);
    assert_eq!(extended["applied"], true, "{extended}");
    let worker = system.worker_at(&ticket.host_ip);
    let left = worker.sh("now=$(date +%s); for file in /var/lib/orion/leases/*; do \
                          echo $(($(sed -n 's/^deadline_unix_s=//p' $file) - now)); done");
    let left: i64 = left.trim().parse().expect("one lease file");
    assert!((10_700..10_830).contains(&left), "{left} s are left on {}", worker.name());
}

/// Not for so long that it is given up: each keeps its lease, and what is not Orion's is there afterwards.
async fn each_node_is_cut_off_for_a_while(system: &System, ida: &User, rented: &[Ticket]) {
    for worker in system.workers() {
        worker.cut();
        tokio::time::sleep(Duration::from_secs(2)).await;
        worker.uncut();
    }
    for (ticket, worker) in rented.iter().zip(system.workers()) {
        let is_clean = |node: &Value| node["status"] == "alive" && node["dirty"] == false;
        system.until_node(worker, "there again", is_clean).await;
        assert_eq!(ida.show(ticket.rental_id).await["host_ip"], ticket.host_ip.as_str());
        assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("ida\n"), "{}", worker.name());
    }
}

/// Frees the first node; then the second dies and its lease goes to the first, the third's to the second, and so on: each
/// kind is left and taken. Each that returns is cleaned before it is offered.
async fn each_killed_node_loses_its_lease_to_the_one_before(system: &System, ida: &User, rented: &[Ticket]) {
    is_released(system, ida, &rented[0]).await;
    let mut free = &system.workers()[0];
    for (ticket, worker) in rented.iter().zip(system.workers()).skip(1) {
        worker.kill();
        let moved = ida.until_moved(ticket.rental_id, &ticket.host_ip).await;
        assert_eq!(moved["host_ip"], free.ip().to_string(), "the free node");
        let login = ida.login_now(ticket).await;
        assert_eq!(login.run("id -un").await.as_deref(), Ok("ida\n"), "on {}", free.name());
        worker.start();
        system.until_offered(std::slice::from_ref(worker)).await;
        is_clean(worker);
        free = worker;
    }
}

async fn is_released(system: &System, ida: &User, ticket: &Ticket) {
    let login = ida.login_now(ticket).await;
    let worker = system.worker_at(ida.show(ticket.rental_id).await["host_ip"].as_str().expect("an address"));
    ida.release(ticket.rental_id).await;
    ida.until(ticket.rental_id, "over", |lease| lease["state"] == "ended").await;
    is_refused(&login).await;
    is_clean(worker);
    system.until_offered(std::slice::from_ref(worker)).await;
}

/// The control plane is gone before the leases end.
async fn the_nodes_keep_the_deadline_alone(system: &System, ida: &User) {
    let rented = ida.rent(json!({ "duration_hours": 8.0 / 3600.0, "count": system.workers().len() })).await;
    system.up().kill();
    for ticket in &rented {
        let stay = "nohup setsid sleep 3000 >/dev/null 2>&1 </dev/null & echo stays";
        assert_eq!(ticket.by_password().run(stay).await.as_deref(), Ok("stays\n"), "still its time");
    }
    for ticket in &rented {
        let worker = system.worker_at(&ticket.host_ip);
        wait_until(&format!("{} ends the lease", worker.name()), PATIENCE, async || {
            let state = worker.sh("cat /var/lib/orion/leases/*; grep ^ida: /etc/shadow");
            let runs: Vec<String> =
                left_on(worker).into_iter().filter(|line| line.contains(" process ")).collect();
            if state.contains("ida:!") && runs.is_empty() { Ok(()) } else { Err(format!("{state}{runs:#?}")) }
        })
        .await;
        is_refused(&ticket.by_password()).await;
    }
    system.up().start();
    system.up().answers().await;
    for ticket in &rented {
        ida.until(ticket.rental_id, "over", |lease: &Value| lease["state"] == "ended").await;
    }
    system.until_offered(system.workers()).await;
    system.workers().iter().for_each(is_clean);
}
