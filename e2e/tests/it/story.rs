//! The whole story, as the issue tells it, on both databases.

use super::{
    PATIENCE,
    system::{Database, System},
    user::{Ticket, User, is_clean, is_refused, left_on},
};
use orion_testkit::{Home, KeyPair, Worker, wait_until};
use serde_json::{Value, json};
use std::{fs, path::Path};

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lives_from_sign_up_to_reset_on_sqlite() {
    whole_story(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lives_from_sign_up_to_reset_on_mariadb() {
    whole_story(Database::MariaDb).await;
}

async fn whole_story(database: Database) {
    let system = System::start(database, 4).await;
    let home = alice_rents_by_command_line(&system);
    let key = KeyPair::generate();
    let bob = system.user("bob").await;
    let rented = bob_rents_two_nodes(&bob, &key).await;
    let (first, second) = (&rented[0], &rented[1]);
    leave_dirt(first, system.worker_at(&first.host_ip)).await;
    let moved = a_killed_node_loses_its_lease_to_another(&system, &bob, first, &key).await;
    a_returned_node_is_cleaned_before_it_is_offered(&system, system.worker_at(&first.host_ip)).await;
    alices_ssh_goes_on_after_her_node_died(&system, &home).await;
    an_extension_reaches_the_node(&system, &bob, second).await;
    leave_dirt(second, system.worker_at(&second.host_ip)).await;
    a_release_leaves_nothing_behind(&system, &bob, second).await;
    assert_eq!(bob.show(first.rental_id).await["host_ip"], moved["host_ip"], "the other lease stayed");
    a_reset_lets_the_workers_register_again(&system, &bob, first).await;
    no_secret_was_written_down(&system, &bob, &rented);
}

/// Signs up and rents with the CLI; `orion ssh` works at once, with strict host key checking.
fn alice_rents_by_command_line(system: &System) -> Home {
    let home = Home::new();
    let signed_up = home.run_with_input(
        &["--api", &system.url(), "signup", "alice", "--password-stdin"],
        "correct horse battery\n",
    );
    assert_eq!(signed_up.code, Some(0), "{signed_up:?}");
    let rented = home.run(&["-o", "json", "rent", "--hours", "1", "--name", "train"]);
    assert_eq!(rented.code, Some(0), "{rented:?}");
    let whoami = home.run(&["ssh", "train", "--", "id", "-un"]);
    assert_eq!((whoami.code, whoami.out.as_str()), (Some(0), "alice\n"), "{whoami:?}");
    home
}

async fn bob_rents_two_nodes(bob: &User, key: &KeyPair) -> Vec<Ticket> {
    let body =
        json!({ "duration_hours": 1, "count": 2, "ssh_public_key": key.public_line(), "name": "pair" });
    let rented = bob.rent(body).await;
    assert_eq!(rented.len(), 2);
    assert_ne!(rented[0].host_ip, rented[1].host_ip);
    assert_ne!(rented[0].client_pass, rented[1].client_pass);
    for ticket in &rented {
        // At once: the reply says that the login works.
        assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("bob\n"));
        assert_eq!(ticket.by_key(key).run("id -un").await.as_deref(), Ok("bob\n"));
        let groups =
            ticket.by_password().run("id -Gn; sudo -n true 2>&1; test -r /etc/shadow || echo closed").await;
        let groups = groups.expect("a shell");
        assert!(groups.contains("orion-lease") && groups.ends_with("closed\n"), "{groups}");
        assert_eq!(bob.show(ticket.rental_id).await["state"], "active");
    }
    rented
}

/// A tenant that leaves things everywhere, and processes that outlive the session.
async fn leave_dirt(ticket: &Ticket, worker: &Worker) {
    let dirt = "touch ~/work /tmp/mine /var/tmp/mine /dev/shm/mine; mkdir -p /tmp/dir/sub; \
                echo '* * * * * true' | crontab - 2>/dev/null; \
                setsid nohup sleep 3000 >/dev/null 2>&1 </dev/null & echo done";
    assert_eq!(ticket.by_password().run(dirt).await.as_deref(), Ok("done\n"));
    let processes = format!("ps -u {} -o args= | grep -c '^sleep 3000$'", ticket.client_user);
    assert_eq!(worker.sh(&processes), "1\n");
    // Account and group, lease file, home, and the process: what a cleaning has to find.
    assert!(left_on(worker).len() >= 5, "{:#?}", left_on(worker));
}

async fn a_killed_node_loses_its_lease_to_another(
    system: &System,
    bob: &User,
    ticket: &Ticket,
    key: &KeyPair,
) -> Value {
    system.worker_at(&ticket.host_ip).kill();
    let moved = bob.until_moved(ticket.rental_id, &ticket.host_ip).await;
    let login = bob.login_now(ticket).await;
    assert_eq!(login.run("id -un").await.as_deref(), Ok("bob\n"), "same user, same password");
    let at_new_node = Ticket {
        host_ip: moved["host_ip"].as_str().expect("an address").to_owned(),
        known_hosts: moved["known_hosts"].as_str().expect("host keys").to_owned(),
        ..ticket.clone()
    };
    assert_eq!(at_new_node.by_key(key).run("id -un").await.as_deref(), Ok("bob\n"), "same key");
    let nodes = moved["nodes"].as_array().expect("the nodes that it has been on");
    assert_eq!(nodes.len(), 2, "{moved}");
    assert!(nodes[0]["why"].is_string() && nodes[1]["to"].is_null(), "{moved}");
    moved
}

async fn a_returned_node_is_cleaned_before_it_is_offered(system: &System, worker: &Worker) {
    assert_eq!(system.node(worker).await.expect("it stays known")["status"], "dead");
    worker.start();
    // The first time that it is seen on offer it must have been cleaned.
    let node = system.until_node(worker, "offered again", |node| node["offerable"] == true).await;
    is_clean(worker);
    let removed = &node["admin"]["last_clean_report"]["removed"];
    assert_eq!(removed[0]["user"], "bob", "the report of the cleaning is kept: {node}");
    assert_eq!(
        worker.sh("ls -A /var/tmp /var/spool/cron/crontabs /tmp /dev/shm | grep -c mine || true"),
        "0\n"
    );
}

async fn alices_ssh_goes_on_after_her_node_died(system: &System, home: &Home) {
    let shown = home.run(&["-o", "json", "show", "train"]);
    let lease: Value = serde_json::from_str(&shown.out).expect("JSON");
    let worker = system.worker_at(lease["host_ip"].as_str().expect("an address"));
    worker.kill();
    // The control plane needs a moment to see it; until then the lease shows its old address.
    wait_until("the node is given up", PATIENCE, async || {
        let node = system.node(worker).await?;
        if node["status"] == "dead" { Ok(()) } else { Err(node.to_string()) }
    })
    .await;
    let whoami = home.run(&["ssh", "train", "--", "id", "-un"]);
    assert_eq!((whoami.code, whoami.out.as_str()), (Some(0), "alice\n"), "{whoami:?}");
    worker.start();
    system.until_offered(std::slice::from_ref(worker)).await;
    is_clean(worker);
}

async fn an_extension_reaches_the_node(system: &System, bob: &User, ticket: &Ticket) {
    let worker = system.worker_at(&ticket.host_ip);
    let deadline = || -> i64 {
        let read = "cat /var/lib/orion/leases/* | sed -n 's/^deadline_unix_s=//p'";
        worker.sh(read).trim().parse().expect("one lease file")
    };
    let before = deadline();
    let path = format!("/api/extend/{}", ticket.rental_id);
    let extended = bob.post(&path, json!({ "additional_hours": 2 })).await.expect(200);
    assert_eq!((&extended["lease_id"], &extended["applied"]), (&json!(ticket.rental_id), &json!(true)));
    assert!((7195..7205).contains(&(deadline() - before)), "{before} became {}", deadline());
    let shown = bob.show(ticket.rental_id).await;
    assert_eq!(shown["leased_until"], extended["new_end_at"]);
    assert_eq!((&shown["applied"], &shown["deadline"]), (&json!(true), &json!("node")));
    assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("bob\n"));
}

async fn a_release_leaves_nothing_behind(system: &System, bob: &User, ticket: &Ticket) {
    let released = bob.release(ticket.rental_id).await;
    assert_eq!(released["message"], "Lease released");
    let worker = system.worker_at(&ticket.host_ip);
    is_refused(&ticket.by_password()).await;
    is_clean(worker);
    let files = "find /tmp /var/tmp /dev/shm /run /var/mail /var/spool/cron -newermt 1971-01-01 \
                 \\( -name mine -o -name dir -o -name bob \\) 2>/dev/null || true";
    assert_eq!(worker.sh(files).trim(), "");
    assert_eq!(bob.release(ticket.rental_id).await, released, "the second time the same reply");
    let late = bob.post(&format!("/api/extend/{}", ticket.rental_id), json!({ "additional_hours": 1 })).await;
    assert_eq!((late.status, &late.body["kind"]), (409, &json!("wrong_state")), "{}", late.body);
    system.until_offered(std::slice::from_ref(worker)).await;
}

async fn a_reset_lets_the_workers_register_again(system: &System, bob: &User, ticket: &Ticket) {
    let login = bob.login_now(ticket).await;
    let highest = async || {
        let nodes = system.admin().get("/api/nodes").await.expect(200);
        nodes.as_array().expect("a list").iter().filter_map(|node| node["node_id"].as_i64()).max()
    };
    let before = highest().await;
    let reset = system.admin().post("/api/reset", json!({})).await.expect(200);
    assert_eq!((&reset["message"], &reset["kept"]), (&json!("DB reset OK"), &json!([])), "{reset}");
    assert!(bob.leases().await.is_empty());
    is_refused(&login).await;
    for worker in system.workers() {
        system
            .until_node(worker, "registered again", |node| {
                node["offerable"] == true && node["node_id"].as_i64() > before
            })
            .await;
        is_clean(worker);
    }
    let again = bob.rent_one().await;
    assert_eq!(again.by_password().run("id -un").await.as_deref(), Ok("bob\n"));
}

/// I5, and "secrets never in logs or argv".
fn no_secret_was_written_down(system: &System, bob: &User, rented: &[Ticket]) {
    let mut secrets = vec!["correct horse battery", system.admin_password(), system.join_token()];
    secrets.extend([bob.password.as_str(), bob.token.as_str(), system.admin().token.as_str()]);
    secrets.extend(rented.iter().map(|ticket| ticket.client_pass.as_str()));
    let mut places = vec![
        ("the log of orion up".to_owned(), system.up().log().into_bytes()),
        ("its arguments".to_owned(), system.up().command_line().into_bytes()),
    ];
    for worker in system.workers() {
        places.push((format!("the agent's log on {}", worker.name()), worker.agent_log().into_bytes()));
        places.push((format!("sshd's log on {}", worker.name()), worker.sshd_log().into_bytes()));
    }
    places.extend(files_in(&system.up().data_dir()));
    for (place, content) in places {
        for secret in &secrets {
            let found = content.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "a secret stands in {place}");
        }
    }
}

fn files_in(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(directory).expect("the data directory");
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths.map(|path| (path.display().to_string(), fs::read(&path).expect("a file"))).collect()
}
