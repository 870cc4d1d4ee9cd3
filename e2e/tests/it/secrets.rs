//! What must not be in a log at any level, while secrets go all the way to a node.

use super::system::{Database, System};
use orion_testkit::KeyPair;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_a_lease_is_logged_at_any_level_on_its_way_to_the_node() {
    let system = System::start(Database::Sqlite, 1).await;
    let worker = &system.workers()[0];
    system.up().kill();
    system.up().start_logging("trace");
    system.up().answers().await;
    system.until_offered(system.workers()).await;

    let (user, key) = (system.user("quinn").await, KeyPair::generate());
    let body = json!({
        "duration_hours": 1, "ssh_password": "a password for nodes", "ssh_public_key": key.public_line(),
    });
    let ticket = user.rent(body).await.remove(0);
    assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("quinn\n"));
    // The real one, as it lies on the node.
    let hash = worker.sh("sed -n 's/^quinn:\\([^:]*\\):.*/\\1/p' /etc/shadow").trim().to_owned();
    assert!(hash.starts_with("$6$") && hash.len() > 80, "{hash}");
    user.post(&format!("/api/extend/{}", ticket.rental_id), json!({ "additional_hours": 1 }))
        .await
        .expect(200);
    let generated = {
        user.release(ticket.rental_id).await;
        system.until_offered(system.workers()).await;
        let ticket = user.rent_one().await;
        user.release(ticket.rental_id).await;
        ticket.client_pass
    };

    let log = system.up().log();
    for seen in ["TRACE russh", "orion_fleet::provision: a lease's login works"] {
        assert!(log.contains(seen), "nothing of {seen} was logged");
    }
    let secrets = [
        "a password for nodes",
        hash.as_str(),
        "$6$",
        "$argon2id$v=",
        &generated,
        &user.password,
        &user.token,
        system.admin_password(),
        system.join_token(),
        &system.admin().token,
    ];
    for secret in secrets {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "a secret was logged: {line:?}");
    }
}
