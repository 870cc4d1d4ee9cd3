//! The end of a lease: by the control plane, and by the node alone when the control plane is gone.

use super::{
    PATIENCE,
    admission::admit_by_hand,
    system::{Database, System},
    user::{Ticket, is_clean, is_refused},
};
use orion_domain::{Clock as _, SystemClock, Timestamp};
use orion_testkit::{Worker, wait_until};
use serde_json::json;
use std::time::Duration;

/// Converts seconds to fractions of an hour, which is what the API takes.
fn hours(seconds: u32) -> f64 {
    f64::from(seconds) / 3600.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_by_itself_and_without_the_control_plane_the_node_closes_the_login() {
    let system = System::start_with_plain(Database::Sqlite, 1, 1).await;
    let (plain, with_agent) = (&system.workers()[0], &system.workers()[1]);
    admit_by_hand(&system, plain).await;
    let erin = system.user("erin").await;

    let short = erin.rent(json!({ "duration_hours": hours(4) })).await.remove(0);
    assert_eq!(short.by_password().run("id -un").await.as_deref(), Ok("erin\n"));
    let ended = erin.until(short.rental_id, "over", |lease| lease["state"] == "ended").await;
    assert_eq!(ended["state_reason"], "its time was up");
    assert!(SystemClock.now() >= end_of(&short), "not before its time");
    is_refused(&short.by_password()).await;
    is_clean(system.worker_at(&short.host_ip));
    system.until_offered(system.workers()).await;

    let both = erin.rent(json!({ "duration_hours": hours(6), "count": 2 })).await;
    system.up().kill();
    for ticket in &both {
        assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("erin\n"), "still their time");
        let stay = "setsid nohup sleep 3000 >/dev/null 2>&1 </dev/null & echo stays";
        assert_eq!(ticket.by_password().run(stay).await.as_deref(), Ok("stays\n"));
    }
    for ticket in &both {
        let worker = system.worker_at(&ticket.host_ip);
        is_locked_by_the_node_itself(worker).await;
        assert!(SystemClock.now() >= end_of(ticket), "{} locked before its time", worker.name());
        is_refused(&ticket.by_password()).await;
        assert_eq!(
            worker.sh("ps -u erin -o args= | grep -c sleep || true"),
            "0\n",
            "its processes are ended"
        );
        assert_eq!(worker.sh("id -un erin"), "erin\n", "but deleted by the control plane only");
    }

    system.up().start();
    system.up().answers().await;
    for ticket in &both {
        erin.until(ticket.rental_id, "over", |lease| lease["state"] == "ended").await;
    }
    system.until_offered(&[plain.clone(), with_agent.clone()]).await;
    is_clean(plain);
    is_clean(with_agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_booted_while_the_control_plane_was_away_keeps_its_deadlines_again() {
    let system = System::start_with_plain(Database::Sqlite, 1, 0).await;
    let worker = &system.workers()[0];
    admit_by_hand(&system, worker).await;
    let erin = system.user("erin").await;
    let ticket = erin.rent_one().await;
    let runs = || worker.try_sh("kill -0 $(cat /run/orion/deadline.pid)").status.success();
    assert!(runs());
    system.up().kill();
    // What a boot leaves, on a machine that has nothing that starts the process; a worker of these tests boots with an agent.
    worker.sh("kill -9 $(cat /run/orion/deadline.pid); rm -rf /run/orion; \
         sed -i 's/^boot_id=.*/boot_id=before/' /var/lib/orion/leases/[0-9]*");
    assert!(!runs());
    system.up().start();
    system.up().answers().await;
    wait_until("it runs again", PATIENCE, async || if runs() { Ok(()) } else { Err("it does not") }).await;
    assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("erin\n"));
    erin.release(ticket.rental_id).await;
    system.until_offered(std::slice::from_ref(worker)).await;
    is_clean(worker);
}

/// The lease file says so, and the account's password is locked.
async fn is_locked_by_the_node_itself(worker: &Worker) {
    // Its 6 seconds, the grace of 10, and patience.
    let patience = Duration::from_secs(16) + PATIENCE;
    wait_until(&format!("{} locks the account", worker.name()), patience, async || {
        let state = worker.sh("cat /var/lib/orion/leases/*; grep ^erin: /etc/shadow");
        if state.contains("locked=1") && state.contains("erin:!") { Ok(()) } else { Err(state) }
    })
    .await;
}

fn end_of(ticket: &Ticket) -> Timestamp {
    ticket.leased_until.parse().expect("an RFC 3339 time")
}
