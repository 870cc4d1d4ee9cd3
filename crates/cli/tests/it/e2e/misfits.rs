//! Nodes that cannot make an account: broken ones go into quarantine, fit ones with a taken name stay.

use super::{
    PATIENCE,
    system::{Database, System},
    user::{Ticket, User, is_clean},
};
use orion_testkit::Worker;
use serde_json::{Value, json};
use std::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_make_an_account_is_quarantined_and_the_lease_goes_to_another() {
    let system = System::start(Database::Sqlite, 3).await;
    let maya = system.user("maya").await;
    let [full, read_only, good] = system.workers() else { panic!("three workers") };

    full.fill_disk();
    let reason = rent_until_quarantined(&system, &maya, full).await;
    assert!(reason.contains("create_user"), "which step failed is said: {reason}");
    read_only.make_read_only();
    let reason = rent_until_quarantined(&system, &maya, read_only).await;
    assert!(reason.to_lowercase().contains("read-only"), "{reason}");

    // Nothing but the good one is left to offer, and the bad ones stay out of use also when they recover.
    full.empty_disk();
    read_only.make_writable();
    let ticket = maya.rent_one().await;
    assert_eq!(ticket.host_ip, good.ip().to_string());
    let refused = maya.try_rent(&json!({ "duration_hours": 1 }), None).await.expect("a reply").expect(503);
    assert_eq!(refused["found"], 0);
    maya.release(ticket.rental_id).await;
    is_clean(good);

    // An admin lets them back in; they are cleaned before they are offered.
    for worker in [full, read_only] {
        let node = system.node(worker).await.expect("known");
        let lift = format!("/api/admin/nodes/{}/quarantine/lift", node["node_id"]);
        system.admin().post(&lift, json!({})).await.expect(200);
    }
    system.until_offered(system.workers()).await;
    system.workers().iter().for_each(is_clean);
    let all = maya.rent(json!({ "duration_hours": 1, "count": 3 })).await;
    for ticket in &all {
        login_works(&maya, ticket).await;
    }
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
        if node["status"] == "quarantined" {
            assert!(replaced(&shown).is_some_and(|event| event["data"].to_string().contains("create_user")));
            return node["status_reason"].as_str().expect("a reason").to_owned();
        }
        assert!(begun.elapsed() < PATIENCE, "{} was never tried: {node}", broken.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_knows_the_user_name_is_passed_over_and_stays_in_use() {
    let system = System::start(Database::Sqlite, 2).await;
    let [taken, free] = system.workers() else { panic!("two workers") };
    taken.sh("useradd -m noah && echo mine >/home/noah/file");
    let (noah, olga) = (system.user("noah").await, system.user("olga").await);
    let begun = Instant::now();
    loop {
        let ticket = noah.rent_one().await;
        assert_eq!(ticket.host_ip, free.ip().to_string());
        login_works(&noah, &ticket).await;
        let shown = noah.show(ticket.rental_id).await;
        noah.release(ticket.rental_id).await;
        if replaced(&shown).is_some() {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{} was never tried", taken.name());
    }
    // It is fit for everybody else.
    system.until_offered(system.workers()).await;
    let both = olga.rent(json!({ "duration_hours": 1, "count": 2 })).await;
    for ticket in &both {
        login_works(&olga, ticket).await;
    }
    assert_eq!(taken.sh("id -u noah; cat /home/noah/file"), "1000\nmine\n", "who was there is left alone");
    // Nobody's node is free; what is said is that none is.
    let refused = noah.try_rent(&json!({ "duration_hours": 1 }), None).await.expect("a reply").expect(503);
    assert_eq!(refused["found"], 0);
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
