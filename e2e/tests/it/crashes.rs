//! `kill -9` of the control plane at any moment of a rent, and nodes that die while it is down.

use super::{
    PATIENCE,
    system::{Database, System},
    user::{Reply, Ticket, User, is_clean, tickets},
};
use orion_domain::{Clock as _, SystemClock, Timestamp};
use orion_testkit::{random_word, wait_until};
use serde_json::{Value, json};
use std::{collections::HashSet, time::Duration};

/// Milliseconds between a request and the end of the process that serves it: before, while and after the
/// lease is written, the account made, the reply sent.
const MOMENTS_MS: [u64; 5] = [0, 35, 75, 115, 250];
/// Upper bound of the random delay added to each of `MOMENTS_MS`, in milliseconds.
const JITTER_MS: u64 = 40;

/// A rent that a crash may have cut off.
struct Sent {
    user: User,
    body: Value,
    key: Option<String>,
    reply: Result<Reply, String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rent_that_was_cut_off_by_a_crash_is_finished_under_its_key_and_undone_without_one() {
    let system = System::start(Database::Sqlite, 5).await;
    let users = [system.user("with-key").await, system.user("as-well").await, system.user("without").await];
    for moment in MOMENTS_MS {
        let [first, second, third] = users.clone();
        let moment = moment + rand::random_range(0..JITTER_MS);
        let kill = async {
            // The moment of the crash is what is varied, not a wait for a state.
            tokio::time::sleep(Duration::from_millis(moment)).await;
            system.up().kill();
        };
        let (one, two, three, ()) = tokio::join!(
            send(first, 1, Some(random_word())),
            send(second, 2, Some(random_word())),
            send(third, 1, None),
            kill
        );
        let statuses = [&one, &two, &three].map(|sent| sent.reply.as_ref().ok().map(|reply| reply.status));
        eprintln!("killed {moment} ms after the requests, which got {statuses:?}");
        let crashed_at = SystemClock.now();
        system.up().start();
        system.up().answers().await;
        for sent in [one, two] {
            a_keyed_rent_comes_to_the_same_end(&sent).await;
        }
        an_unkeyed_rent_is_kept_or_undone(&three, crashed_at).await;
        every_node_holds_what_it_should(&system, &users).await;
        for user in &users {
            for lease in user.leases().await {
                user.release(lease["rental_id"].as_i64().expect("a number")).await;
            }
        }
        system.until_offered(system.workers()).await;
        system.workers().iter().for_each(is_clean);
    }
}

/// Tests the situation after a backup was restored: a database that has caught up with a node's epochs
/// need not know all that is there.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_the_database_does_not_know_goes_with_the_next_rent_and_with_the_next_release() {
    let system = System::start(Database::Sqlite, 1).await;
    let worker = &system.workers()[0];
    let nora = system.user("nora").await;
    nora.release(nora.rent_one().await.rental_id).await;
    let uid = worker.sh("cut -d' ' -f1 /var/lib/orion/highest_uid").trim().to_owned();
    let leave_ghost = || {
        worker.sh(&format!(
            "useradd -m -u {uid} -U -G orion-lease ghost && cat >/var/lib/orion/leases/{uid} <<EOF
user=ghost
uid={uid}
lease=999999
boot_id=$(cat /proc/sys/kernel/random/boot_id)
deadline_boot_s=99999999
deadline_unix_s=9999999999
remaining_s=99999999
EOF"
        ))
    };
    let is_there = || worker.sh("grep -c ^ghost: /etc/passwd || :").trim() == "1";

    system.until_offered(system.workers()).await;
    leave_ghost();
    assert!(is_there());
    let ticket = nora.rent_one().await;
    assert!(!is_there(), "it went before the login was promised");
    let login = nora.login_now(&ticket).await;
    assert_eq!(login.run("id -un").await.as_deref(), Ok("nora\n"));

    leave_ghost();
    nora.release(ticket.rental_id).await;
    system.until_offered(system.workers()).await;
    is_clean(worker);
}

async fn send(user: User, count: u32, key: Option<String>) -> Sent {
    let body = json!({ "duration_hours": 1, "count": count });
    let reply = user.try_rent(&body, key.as_deref()).await;
    Sent { user, body, key, reply }
}

/// The same key gives a login that works, and however often it is sent, one set of leases.
async fn a_keyed_rent_comes_to_the_same_end(sent: &Sent) {
    let what = format!("{} gets the reply after the crash", sent.user.name);
    let reply = wait_until(&what, PATIENCE, async || {
        let reply = sent.user.try_rent(&sent.body, sent.key.as_deref()).await?;
        if reply.status == 200 { Ok(reply) } else { Err(reply.body.to_string()) }
    })
    .await;
    if let Ok(first) = &sent.reply
        && first.status == 200
    {
        assert_eq!(first.body, reply.body, "the reply that arrived before the crash, again");
    }
    let rented = tickets(&reply.body);
    for ticket in &rented {
        let login = sent.user.login_now(ticket).await;
        let name = format!("{}\n", sent.user.name);
        assert_eq!(login.run("id -un").await.as_deref(), Ok(name.as_str()));
    }
    let again = sent.user.try_rent(&sent.body, sent.key.as_deref()).await.expect("a reply").expect(200);
    assert_eq!(again, reply.body);
    let ids: HashSet<i64> = rented.iter().map(|ticket| ticket.rental_id).collect();
    assert_eq!(live_ids(&sent.user).await, ids, "no lease but those of the reply");
}

/// An acknowledged lease survives; one that nobody was told of goes.
async fn an_unkeyed_rent_is_kept_or_undone(sent: &Sent, crashed_at: Timestamp) {
    let acknowledged: Vec<Ticket> = match &sent.reply {
        Ok(reply) if reply.status == 200 => tickets(&reply.body),
        Ok(_) | Err(_) => Vec::new(),
    };
    for ticket in &acknowledged {
        let login = sent.user.login_now(ticket).await;
        assert_eq!(login.run("id -un").await.as_deref(), Ok("without\n"), "it was acknowledged");
    }
    let known: HashSet<i64> = acknowledged.iter().map(|ticket| ticket.rental_id).collect();
    wait_until("no lease is left that nobody was told of", PATIENCE, async || {
        let mut live = live_ids(&sent.user).await;
        // A lease that became active before the crash is never undone: its owner sees it in the list.
        for id in live.clone() {
            if !known.contains(&id) && was_active_before(&sent.user.show(id).await, crashed_at) {
                live.remove(&id);
            }
        }
        if live == known { Ok(()) } else { Err(format!("{live:?}, not {known:?}")) }
    })
    .await;
}

/// Tells by the lease's own events whether it was active before `moment`.
fn was_active_before(lease: &Value, moment: Timestamp) -> bool {
    let events = lease["events"].as_array().expect("the lease's events");
    events.iter().filter(|event| event["kind"] == "lease.active").any(|event| {
        let at: Timestamp = event["at"].as_str().and_then(|at| at.parse().ok()).expect("a time");
        at <= moment
    })
}

async fn live_ids(user: &User) -> HashSet<i64> {
    user.leases().await.iter().filter_map(|lease| lease["rental_id"].as_i64()).collect()
}

/// Each node is clean and free, or holds exactly the one account of its lease.
async fn every_node_holds_what_it_should(system: &System, users: &[User]) {
    let mut leased = HashSet::new();
    for user in users {
        for lease in user.leases().await {
            let ip = lease["host_ip"].as_str().expect("an address").to_owned();
            let worker = system.worker_at(&ip);
            let accounts = worker.sh("awk -F: '$3 >= 200000 && $3 < 60000000 { print $1 }' /etc/passwd");
            assert_eq!(accounts, format!("{}\n", user.name), "on {}", worker.name());
            assert!(leased.insert(ip), "two leases on {}", worker.name());
        }
    }
    for worker in system.workers().iter().filter(|worker| !leased.contains(&worker.ip().to_string())) {
        system.until_offered(std::slice::from_ref(worker)).await;
        is_clean(worker);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_died_while_the_control_plane_was_down_is_noticed_after_its_start() {
    let system = System::start(Database::Sqlite, 2).await;
    let sara = system.user("sara").await;
    let ticket = sara.rent_one().await;
    system.up().kill();
    system.worker_at(&ticket.host_ip).kill();
    system.up().start();
    system.up().answers().await;
    sara.until_moved(ticket.rental_id, &ticket.host_ip).await;
    assert_eq!(sara.login_now(&ticket).await.run("id -un").await.as_deref(), Ok("sara\n"));
}
