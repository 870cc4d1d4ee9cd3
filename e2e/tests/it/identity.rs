//! Names to which a node gives rights.

use super::{
    system::{Database, System},
    truthful::Truthful,
    user::{Ticket, User, left_on, tickets},
};
use orion_testkit::{Kind, Worker};
use serde_json::json;

/// Rights that a site gives: to users, a group, an alias, the members of a group, and an earlier user's ranges.
const SITE: &str = "printf '%s\\n' 'Defaults !lecture' 'ansible ALL=(ALL) NOPASSWD: ALL' '%admin ALL=(ALL) NOPASSWD: ALL' \
         >/etc/sudoers.d/site; chmod 440 /etc/sudoers.d/site; groupadd -f lxd; groupadd -f builders; \
         printf '%s\\n' 'User_Alias CI = jenkins, runner' 'CI ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/ci; \
         chmod 440 /etc/sudoers.d/ci; sed -i '/^builders:/s/$/petra/' /etc/group; \
         echo petra:700000:65536 >>/etc/subuid; echo petra:700000:65536 >>/etc/subgid; visudo -cq";

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_name_has_rights_on_every_node_gets_an_account_of_another_name_without_them() {
    let system = System::start_kinds(Database::Sqlite, &[Kind::Debian, Kind::Debian]).await;
    for worker in system.workers() {
        worker.sh(SITE);
    }
    has_no_rights(&system, system.admin()).await;
    for name in ["ansible", "jenkins", "petra"] {
        let body = json!({ "username": name, "password": "a long one 12" });
        let reply = User::anyone(&system.url()).post("/auth/signup", body).await;
        if reply.status == 400 {
            continue; // refused for what it is
        }
        reply.expect(201);
        has_no_rights(&system, &User::log_in(&system.url(), name, "a long one 12").await).await;
    }
}

async fn has_no_rights(system: &System, user: &User) {
    let reply = user.try_rent(&json!({ "duration_hours": 1 }), None).await.expect("a reply");
    assert_eq!(reply.status, 200, "{}: {}", user.name, reply.body);
    let ticket: Ticket = tickets(&reply.body).remove(0);
    let truthful = Truthful::watch(user, std::slice::from_ref(&ticket));
    let login = ticket.by_password();
    let id = login.run("id").await.expect("a login that works");
    assert!(!id.contains("builders"), "{}: {id}", user.name);
    let name = &ticket.client_user;
    assert!(ticket.client_user.starts_with("u2"), "{}: {}", user.name, ticket.client_user);
    let worker = system.worker_at(&ticket.host_ip);
    let root =
        login.run("sudo -n id 2>&1 || echo $PASSWORD | sudo -S id 2>&1 || true").await.expect("a shell");
    assert!(!root.contains("uid=0"), "{} is root: {root}", user.name);
    let subordinate = worker.try_sh(&format!("grep '^{name}:' /etc/subuid /etc/subgid"));
    assert!(!subordinate.status.success(), "{name} has subordinate ids: {subordinate:?}");
    user.release(ticket.rental_id).await;
    system.until_offered(system.workers()).await;
    is_clean_but_for_petra(worker);
    truthful.was_true().await;
}

/// The earlier petra's ranges are the site's.
fn is_clean_but_for_petra(worker: &Worker) {
    let left = left_on(worker);
    assert!(left.iter().all(|line| line.contains("petra:700000")), "{left:#?}");
}
