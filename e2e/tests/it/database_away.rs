//! A database that is away while leases run and a node dies.

use super::{
    PATIENCE,
    system::{Database, System},
};
use orion_testkit::wait_until;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_leases_run_on_and_everything_recovers_by_itself() {
    let system = System::start(Database::OwnMariaDb, 2).await;
    let rosa = system.user("rosa").await;
    let ticket = rosa.rent_one().await;

    system.up().database_server().kill();
    let refused = rosa.try_rent(&json!({ "duration_hours": 1 }), None).await.expect("a reply").expect(503);
    assert_eq!(refused["kind"], "unavailable");
    assert_eq!(
        ticket.by_password().run("id -un").await.as_deref(),
        Ok("rosa\n"),
        "nobody's login is touched"
    );
    // What happens meanwhile is acted upon when it can be written down.
    system.worker_at(&ticket.host_ip).kill();
    let health = system.admin().get("/api/health").await.expect(503);
    assert_eq!(health["parts"]["database"]["status"], "down");

    system.up().database_server().start_again();
    rosa.until_moved(ticket.rental_id, &ticket.host_ip).await;
    assert_eq!(rosa.login_now(&ticket).await.run("id -un").await.as_deref(), Ok("rosa\n"));
    rosa.release(ticket.rental_id).await;
    let again = wait_until("a node can be rented", PATIENCE, async || {
        let reply = rosa.try_rent(&json!({ "duration_hours": 1 }), None).await?;
        if reply.status == 200 { Ok(reply.body) } else { Err(reply.body.to_string()) }
    })
    .await;
    assert_ne!(again[0]["host_ip"], ticket.host_ip.as_str(), "the dead node is not offered");
}
