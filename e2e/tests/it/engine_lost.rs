//! Container engines that stay down on nodes that live: what leaves them, what stays, and when nothing moves.

use super::{
    PATIENCE,
    container_crashes::SCRIPT,
    container_life::{IMAGE, on_engine, shell, until},
    system::{Database, System, stays_for},
    user::User,
};
use orion_testkit::{Worker, wait_until};
use serde_json::{Value, json};
use std::time::Duration;

/// Seconds after which an engine counts as lost here, as the setting takes them.
const LOST_S: &str = "2";
/// Time for which what must not move is watched.
const WATCHED: Duration = Duration::from_secs(6);

async fn slice(user: &User, name: &str, on_node_loss: &str) -> (i64, String) {
    let mut body = json!({
        "duration_hours": 1, "name": name, "cpus": 0.05, "memory_mb": 32, "on_node_loss": on_node_loss,
        "container": shell("main", SCRIPT),
    });
    body["container"]["restart"] = json!("always");
    let ticket = user.try_rent(&body, None).await.expect("a reply").expect(200)[0].clone();
    let id = ticket["rental_id"].as_i64().expect("a number");
    (id, format!("/api/rentals/{id}/containers/main"))
}

/// The worker on which a container is, by the API.
async fn worker_of<'a>(system: &'a System, container: &Value) -> &'a Worker {
    for worker in system.workers() {
        if system.node(worker).await.expect("registered")["node_id"] == container["node_id"] {
            return worker;
        }
    }
    panic!("on no node: {container}");
}

async fn until_silent(user: &User, path: &str) {
    wait_until("the silence of the engine is said", PATIENCE, async || {
        let view = user.get(path).await.expect(200);
        let says = view["state_reason"].as_str().unwrap_or_default();
        let is_said = says.contains("the container engine of its node does not answer");
        if is_said { Ok(()) } else { Err(view.to_string()) }
    })
    .await;
}

/// The container is said to be on this node for as long as it is watched.
async fn stays(user: &User, path: &str, node: &Value) {
    stays_for(WATCHED, async || {
        let view = user.get(path).await.expect(200);
        (view["node_id"] != *node || view["state"] != "running").then(|| view.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_leave_a_node_whose_engine_stays_down_a_login_keeps_it_and_where_three_are_down_nothing_moves()
{
    let mut system = System::start(Database::Sqlite, 0).await;
    system.up().kill();
    system.up().set("ORION_ENGINE_LOST_S", LOST_S);
    system.up().start();
    system.up().answers().await;
    system.add_with_engine(3);
    for worker in system.workers() {
        worker.wait_for_engine();
        worker.make_image(IMAGE);
        system.until_node(worker, "takes containers", |node| node["containers"]["offered"] == true).await;
    }
    system.until_offered(system.workers()).await;
    let ida = system.user("ida").await;
    let ticket = ida.rent_one().await;
    let web = format!("/api/rentals/{}/containers/web", ticket.rental_id);
    ida.post(web.trim_end_matches("/web"), shell("web", SCRIPT)).await.expect(201);
    let login_on = system.worker_at(&ticket.host_ip);
    let (moves, main) = slice(&ida, "moves", "migrate").await;
    let (ends, _) = slice(&ida, "ends", "end").await;
    let made = until(&ida, &main, "running").await;
    let first = worker_of(&system, &made).await;
    assert_eq!(on_engine(first).iter().filter(|line| line.ends_with(" running")).count(), 2, "both slices");

    // By its policy each slice moves or ends.
    first.stop_engine();
    let moved = wait_until("the slice runs elsewhere", PATIENCE, async || {
        let view = ida.get(&main).await.expect(200);
        let is_elsewhere = view["state"] == "running" && view["node_id"] != made["node_id"];
        if is_elsewhere { Ok(view) } else { Err(view.to_string()) }
    })
    .await;
    let second = worker_of(&system, &moved).await;
    assert_eq!(on_engine(second), [format!("orion-{moves}-1 running"), format!("orion-{moves}")]);
    ida.until(ends, "ends", |lease| {
        ["releasing", "ended"].contains(&lease["state"].as_str().unwrap_or_default())
    })
    .await;

    // A login keeps its node, and what is not known of its container is said.
    login_on.stop_engine();
    until_silent(&ida, &web).await;
    let node = ida.get(&web).await.expect(200)["node_id"].clone();
    stays(&ida, &web, &node).await;
    let lease = ida.show(ticket.rental_id).await;
    assert_eq!((&lease["state"], &lease["host_ip"]), (&json!("active"), &json!(ticket.host_ip)));
    assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("ida\n"));

    // Three silent engines of three: more likely the fault is elsewhere.
    second.stop_engine();
    until_silent(&ida, &main).await;
    stays(&ida, &main, &moved["node_id"]).await;
    assert_eq!(ida.show(moves).await["state"], "active");

    // Two of three: the slice goes back to where it began, and finds nothing of what it left there.
    first.start_engine();
    let back = wait_until("the slice runs where it was first", 2 * PATIENCE, async || {
        let view = ida.get(&main).await.expect(200);
        let is_back = view["state"] == "running" && view["node_id"] == made["node_id"];
        if is_back { Ok(view) } else { Err(view.to_string()) }
    })
    .await;
    assert_ne!(back["engine_id"], made["engine_id"]);
    second.start_engine();
    login_on.start_engine();
    wait_until("each engine holds what it should", 2 * PATIENCE, async || {
        let seen = [first, second, login_on].map(on_engine);
        let of_slice = vec![format!("orion-{moves}-1 running"), format!("orion-{moves}")];
        // The engine has ended what ran without it.
        let of_login =
            vec![format!("orion-{}-1 exited", ticket.rental_id), format!("orion-{}", ticket.rental_id)];
        if seen == [of_slice, Vec::new(), of_login] { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    ida.until(ends, "over", |lease| lease["state"] == "ended").await;
    for lease in [moves, ticket.rental_id] {
        ida.release(lease).await;
    }
    wait_until("nothing is left", PATIENCE, async || {
        let left: Vec<String> = system.workers().iter().flat_map(on_engine).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}
