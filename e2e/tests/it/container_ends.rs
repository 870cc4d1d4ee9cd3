//! Ends of containers that are seen as they happen, and those that were missed.

use super::{
    container_life::{rented, shell, system, until},
    user::User,
};
use orion_domain::Timestamp;
use serde_json::Value;

/// Seconds from the end of a container, by its engine, to the event that tells of it.
async fn seen_after(user: &User, container: &str, view: &Value) -> f64 {
    let time = |value: &Value| value.as_str().and_then(|at| at.parse::<Timestamp>().ok()).expect("a time");
    let told = user.events().await;
    let is_this =
        |event: &&Value| event["kind"] == "container.exited" && event["data"]["container"] == container;
    let event = told.iter().find(is_this).expect("it was told");
    time(&event["at"]).since(time(&view["finished_at"])).as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_seen_as_it_happens_and_one_in_a_cut_when_the_node_is_back() {
    let system = system(1).await;
    let (worker, ida) = (&system.workers()[0], system.user("ida").await);
    let (ticket, path) = rented(&system, &ida).await;
    for (name, is_cut) in [("seen", false), ("missed", true)] {
        let made = ida.post(&path, shell(name, "until [ -e /tmp/end ]; do sleep 0.1; done; exit 4")).await;
        let id = made.expect(201)["engine_id"].as_str().expect("an id").to_owned();
        if is_cut {
            worker.cut();
        }
        worker.sh(&format!("docker exec {id} touch /tmp/end; docker wait {id}"));
        if is_cut {
            worker.uncut();
        }
        let ended = until(&ida, &format!("{path}/{name}"), "exited").await;
        assert_eq!(ended["exit_code"], 4, "{ended}");
        eprintln!("{name}: told {} s after the end", seen_after(&ida, name, &ended).await);
    }
    ida.release(ticket.rental_id).await;
}
