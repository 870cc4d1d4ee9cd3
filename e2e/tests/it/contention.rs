//! Many at once: nobody gets a node that somebody else has, and a rental is all or nothing.

use super::{
    system::{Database, System},
    user::{Reply, User, is_clean, tickets},
};
use orion_testkit::random_word;
use serde_json::{Value, json};
use std::collections::HashSet;

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_rent_at_once_never_share_a_node_on_sqlite() {
    rush(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_rent_at_once_never_share_a_node_on_mariadb() {
    rush(Database::MariaDb).await;
}

async fn rush(database: Database) {
    let system = System::start(database, 4).await;
    let users = [system.user("pia").await, system.user("quinn").await];
    two_clients_twenty_times_at_once(&system, &users).await;
    too_few_are_refused_as_a_whole(&users[0]).await;
    the_same_key_twice_at_once_is_one_rental(&users[1]).await;
}

async fn two_clients_twenty_times_at_once(system: &System, users: &[User; 2]) {
    let body = json!({ "duration_hours": 1 });
    let rents = (0..40).map(|number: usize| {
        let (user, body) = (&users[number % 2], &body);
        async move { (user, user.try_rent(body, None).await.expect("a reply")) }
    });
    let replies: Vec<(&User, Reply)> = futures_util::future::join_all(rents).await;
    let mut taken = HashSet::new();
    for (user, reply) in &replies {
        if reply.status == 503 {
            assert_eq!(reply.body["kind"], "too_few_free", "{}", reply.body);
            continue;
        }
        let ticket = tickets(&reply.clone().expect(200)).remove(0);
        assert!(taken.insert(ticket.host_ip.clone()), "{} was given twice", ticket.host_ip);
        let name = format!("{}\n", user.name);
        assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok(name.as_str()));
        let accounts = "awk -F: '$3 >= 200000 && $3 < 60000000 { print $1 }' /etc/passwd";
        assert_eq!(system.worker_at(&ticket.host_ip).sh(accounts), name, "the only account there");
    }
    assert_eq!(taken.len(), 4, "all nodes found somebody");
    release_all(users).await;
    system.until_offered(system.workers()).await;
    system.workers().iter().for_each(is_clean);
}

async fn too_few_are_refused_as_a_whole(user: &User) {
    let one = user.rent(json!({ "duration_hours": 0.5 })).await.remove(0);
    let reply = user.try_rent(&json!({ "duration_hours": 1, "count": 4 }), None).await.expect("a reply");
    let refused = reply.expect(503);
    assert_eq!((&refused["found"], &refused["kind"]), (&json!(3), &json!("too_few_free")), "{refused}");
    let seconds = refused["retry_after_s"].as_u64().expect("when the next lease ends");
    assert!((1700..=1801).contains(&seconds), "{seconds}");
    assert_eq!(refused["error"], refused["detail"]);
    let live: Vec<i64> = user.leases().await.iter().filter_map(|lease| lease["rental_id"].as_i64()).collect();
    assert_eq!(live, [one.rental_id], "all or none");
    // A 503 is not kept under its key: the same request succeeds when nodes are free.
    let (key, body) = (random_word(), json!({ "duration_hours": 1, "count": 4 }));
    user.try_rent(&body, Some(&key)).await.expect("a reply").expect(503);
    user.release(one.rental_id).await;
    let all = tickets(&user.try_rent(&body, Some(&key)).await.expect("a reply").expect(200));
    assert_eq!(all.len(), 4);
    release_all(std::slice::from_ref(user)).await;
}

async fn the_same_key_twice_at_once_is_one_rental(user: &User) {
    let (key, body) = (random_word(), json!({ "duration_hours": 1, "count": 2, "name": "twin" }));
    let sends = (0..4).map(|_| user.try_rent(&body, Some(&key)));
    let replies = futures_util::future::join_all(sends).await;
    let bodies: Vec<Value> = replies.into_iter().map(|reply| reply.expect("a reply").expect(200)).collect();
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:#?}");
    assert_eq!(user.leases().await.len(), 2);
    let other = json!({ "duration_hours": 2, "count": 2, "name": "twin" });
    let refused = user.try_rent(&other, Some(&key)).await.expect("a reply").expect(422);
    assert_eq!(refused["kind"], "idempotency_key_reused");
    for ticket in tickets(&bodies[0]) {
        assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("quinn\n"));
    }
    release_all(std::slice::from_ref(user)).await;
}

async fn release_all(users: &[User]) {
    for user in users {
        let leases = user.leases().await;
        let ids = leases.iter().filter_map(|lease| lease["rental_id"].as_i64());
        futures_util::future::join_all(ids.map(|id| user.release(id))).await;
    }
}
