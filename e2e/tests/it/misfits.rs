//! Nodes that cannot make an account: broken ones are in quarantine until the cause has passed; where a name is taken, the
//! account gets another.

use super::{
    PATIENCE,
    system::{Database, System},
    truthful::Truthful,
    user::{Ticket, User, is_clean},
};
use orion_testkit::Worker;
use serde_json::{Value, json};
use std::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_make_an_account_is_quarantined_until_it_can_and_the_lease_goes_to_another() {
    let system = System::start(Database::Sqlite, 3).await;
    let maya = system.user("maya").await;
    let [full, read_only, _] = system.workers() else { panic!("three workers") };

    full.fill_disk();
    let reason = rent_until_quarantined(&system, &maya, full).await;
    assert!(reason.contains("create_user"), "which step failed is said: {reason}");
    read_only.make_read_only();
    let reason = rent_until_quarantined(&system, &maya, read_only).await;
    assert!(reason.to_lowercase().contains("read-only"), "{reason}");

    // Nobody has to lift anything: when the cause is gone they are cleaned and offered again.
    full.empty_disk();
    read_only.make_writable();
    system.until_offered(system.workers()).await;
    system.workers().iter().for_each(is_clean);
    let all = maya.rent(json!({ "duration_hours": 1, "count": 3 })).await;
    let truthful = Truthful::watch(&maya, &all);
    for ticket in &all {
        login_works(&maya, ticket).await;
    }
    // Broken again under their leases: what is shown of these stays true.
    full.fill_disk();
    read_only.make_read_only();
    for worker in [full, read_only] {
        system.until_node(worker, "shut", |node| node["way_in"] == "shut").await;
    }
    full.empty_disk();
    read_only.make_writable();
    for worker in [full, read_only] {
        system.until_node(worker, "open", |node| node["way_in"] == "open").await;
    }
    truthful.was_true().await;
}

/// Rents and releases until placement has chosen the broken node, which must not show: each rent gives a
/// login that works. The reason of the quarantine.
async fn rent_until_quarantined(system: &System, user: &User, broken: &Worker) -> String {
    let begun = Instant::now();
    loop {
        let ticket = user.rent_one().await;
        assert_ne!(ticket.host_ip, broken.ip().to_string());
        login_works(user, &ticket).await;
        let shown = user.show(ticket.rental_id).await;
        user.release(ticket.rental_id).await;
        let node = system.node(broken).await.expect("known");
        let told =
            |event: &&Value| event["kind"] == "node.quarantined" && event["node_id"] == node["node_id"];
        if let Some(event) = system.events().await.iter().find(told) {
            // Its tenant reads a general sentence, an admin what the tool said.
            let said = replaced(&shown).expect("it was replaced")["data"].to_string();
            assert!(said.contains("an admin sees why") && !said.contains("create_user"), "{said}");
            assert!(event["data"].to_string().contains("create_user"), "{event}");
            return event["data"]["reason"].as_str().expect("a reason").to_owned();
        }
        assert!(begun.elapsed() < PATIENCE, "{} was never tried: {node}", broken.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_user_name_is_somebody_s_the_account_gets_another_and_says_so() {
    let system = System::start(Database::Sqlite, 1).await;
    let [taken] = system.workers() else { panic!("one worker") };
    taken.sh("useradd -m noah && echo mine >/home/noah/file");
    let (noah, olga) = (system.user("noah").await, system.user("olga").await);
    let ticket = noah.rent_one().await;
    let name = ticket.client_user.clone();
    assert!(name.starts_with("u2") && ticket.ssh_command.contains(&format!(" {name}@")), "{name}");
    assert_eq!(ticket.by_password().run("id -un").await, Ok(format!("{name}\n")));
    assert_eq!(noah.show(ticket.rental_id).await["client_user"], name.as_str());
    let truthful = Truthful::watch(&noah, std::slice::from_ref(&ticket));
    noah.release(ticket.rental_id).await;
    system.until_offered(system.workers()).await;
    truthful.was_true().await;
    login_works(&olga, &olga.rent_one().await).await;
    assert_eq!(taken.sh("id -u noah; cat /home/noah/file"), "1000\nmine\n", "who was there is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_whose_node_does_not_take_its_account_again_goes_to_another_one() {
    let system = System::start(Database::Sqlite, 2).await;
    let paul = system.user("paul").await;
    let ticket = paul.rent_one().await;
    let worker = system.worker_at(&ticket.host_ip);
    let truthful = Truthful::watch(&paul, std::slice::from_ref(&ticket));
    // The machine's own people have another paul now; then its sshd is down for a moment, and it is looked at.
    worker.sh("pkill -KILL -u paul; userdel -f -r paul 2>/dev/null; useradd -u 1234 -m paul && echo mine >/home/paul/file");
    worker.stop_sshd();
    system.until_node(worker, "unreachable", |node| node["status"] == "unreachable").await;
    worker.start_sshd();
    let moved = paul.until_moved(ticket.rental_id, &ticket.host_ip).await;
    assert_eq!(paul.login_at(&ticket, &moved).run("id -un").await.as_deref(), Ok("paul\n"));
    system.until_node(worker, "offered", |node| node["offerable"] == true).await;
    assert_eq!(
        worker.sh("id -u paul; cat /home/paul/file"),
        "1234\nmine\n",
        "who is there now is left alone"
    );
    truthful.was_true().await;
}

async fn login_works(user: &User, ticket: &Ticket) {
    let name = format!("{}\n", user.name);
    assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok(name.as_str()));
}

/// The event that tells that the first choice could not.
fn replaced(lease: &Value) -> Option<&Value> {
    let events = lease["events"].as_array().expect("the lease's events");
    events.iter().find(|event| event["kind"] == "lease.replaced")
}
