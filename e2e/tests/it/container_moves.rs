//! Containers whose lease leaves a node that lives, and engines that do not answer.

use super::{
    PATIENCE,
    container_life::{IMAGE, on_engine, rented, shell, system, until},
};
use orion_testkit::{Worker, wait_until};
use serde_json::{Value, json};

/// Time in nanoseconds at which the engine told of this action on a container, the last one.
fn told(worker: &Worker, action: &str, container: &str) -> i128 {
    let events = worker.sh("docker events --since 1h --until $(($(date +%s) + 1)) --filter type=container \
         --format '{{.TimeNano}} {{.Action}} {{.Actor.Attributes.name}}'");
    let of_this = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        (words.len() == 3 && words[1] == action && words[2] == container).then(|| words[0].parse().ok())?
    };
    events
        .lines()
        .filter_map(of_this)
        .next_back()
        .unwrap_or_else(|| panic!("no {action} of {container}: {events}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_the_old_container_before_the_new_one_starts_unless_it_may_overlap() {
    let system = system(2).await;
    let ida = system.user("ida").await;
    let (ticket, path) = rented(&system, &ida).await;
    let (lease, old) = (ticket.rental_id, system.worker_at(&ticket.host_ip));
    ida.post(&path, shell("alone", "exec sleep 1000")).await.expect(201);
    let mut both = shell("both", "exec sleep 1000");
    both["overlap"] = json!(true);
    ida.post(&path, both).await.expect(201);
    let node = system.node(old).await.expect("known")["node_id"].clone();
    system.admin().post(&format!("/api/admin/nodes/{node}/drain"), json!({})).await.expect(200);
    let moved = ida.until_moved(lease, &ticket.host_ip).await;
    let new = system.worker_at(moved["host_ip"].as_str().expect("an address"));
    for name in ["alone", "both"] {
        until(&ida, &format!("{path}/{name}"), "running").await;
    }
    wait_until("the drained node holds nothing", PATIENCE, async || {
        let left = on_engine(old);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    let nodes = ida.show(lease).await["nodes"].clone();
    let why = nodes[0]["why"].as_str().unwrap_or_default();
    assert!(why.ends_with("volumes and what its containers wrote stay there"), "{nodes}");
    let (first, second) = (format!("orion-{lease}-1"), format!("orion-{lease}-2"));
    assert!(told(old, "die", &first) < told(new, "start", &first), "never two at once");
    assert!(told(new, "start", &second) < told(old, "die", &second), "never none");
    ida.post(&format!("/api/release/{lease}"), json!({})).await.expect(200);
    assert_eq!(on_engine(new), [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_does_not_wait_for_the_container_engine_of_its_new_node() {
    let system = system(2).await;
    let ida = system.user("ida").await;
    let (ticket, path) = rented(&system, &ida).await;
    let (lease, old) = (ticket.rental_id, system.worker_at(&ticket.host_ip));
    ida.post(&path, shell("web", "exec sleep 1000")).await.expect(201);
    let new = system.workers().iter().find(|worker| worker.name() != old.name()).expect("two");
    new.stop_engine();
    old.kill();
    ida.until_moved(lease, &ticket.host_ip).await;
    assert_eq!(ida.login_now(&ticket).await.run("id -un").await.as_deref(), Ok("ida\n"));
    let web = format!("{path}/web");
    assert_eq!(ida.get(&web).await.expect(200)["state"], "pending");
    new.start_engine();
    until(&ida, &web, "running").await;
    assert_eq!(on_engine(new), [format!("orion-{lease}-1 running"), format!("orion-{lease}")]);
    ida.post(&format!("/api/release/{lease}"), json!({})).await.expect(200);
    assert_eq!(on_engine(new), [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_nothing_explains_goes_also_when_nobody_saw_it_come() {
    let system = system(1).await;
    let (worker, ida) = (&system.workers()[0], system.user("ida").await);
    let (ticket, path) = rented(&system, &ida).await;
    let web = format!("orion-{}-1 running", ticket.rental_id);
    ida.post(&path, shell("web", "exec sleep 1000")).await.expect(201);
    let stray = |number: u32| {
        worker.sh(&format!(
            "docker run -d --name orion-999-{number} --label orion.lease=01K0000000000000000000000A \
             --label orion.container=01K0000000000000000000000{number} --label orion.epoch=1 {IMAGE} sleep 999"
        ));
    };
    let only_the_lease_s = async || {
        let left = on_engine(worker);
        let strays = left.iter().any(|line| line.starts_with("orion-999"));
        if strays || !left.contains(&web) { Err(format!("{left:?}")) } else { Ok(()) }
    };
    stray(1);
    wait_until("it is gone", PATIENCE, only_the_lease_s).await;
    worker.cut();
    stray(2);
    worker.uncut();
    wait_until("it is gone though nobody saw it come", PATIENCE, only_the_lease_s).await;
    ida.post(&format!("/api/release/{}", ticket.rental_id), json!({})).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_was_removed_keeps_no_release_waiting_but_what_runs_on_of_it_does() {
    let system = system(1).await;
    let (worker, ida) = (&system.workers()[0], system.user("ida").await);
    let (ticket, path) = rented(&system, &ida).await;
    let lease = ticket.rental_id;
    ida.post(&path, shell("web", "exec sleep 1000")).await.expect(201);
    // The package goes, and what it started goes on.
    worker.stop_engine();
    worker.sh("rm /run/docker.sock
        for d in /usr/local/bin /usr/bin /usr/sbin; do
          u=/run/hidden$d; mkdir -p $u/upper $u/work
          mount -t overlay overlay -o lowerdir=$d,upperdir=$u/upper,workdir=$u/work $d
          rm -f $d/docker $d/dockerd
        done");
    ida.post(&format!("/api/release/{lease}"), json!({})).await.expect(200);
    let words = "containers run, and the engine that they belong to was removed";
    wait_until("what keeps the release is said", PATIENCE, async || {
        let told = json!(system.events().await).to_string();
        if told.contains(words) { Ok(()) } else { Err(told) }
    })
    .await;
    assert_eq!(ida.show(lease).await["state"], "releasing");
    worker.sh("pkill -KILL containerd-shim; pkill -KILL -x sleep");
    wait_until("the lease is over", 2 * PATIENCE, async || {
        let state = ida.show(lease).await["state"].clone();
        if state == "ended" { Ok(()) } else { Err(state.to_string()) }
    })
    .await;
    // The engine is there again, and knows the container: nothing explains it.
    worker.sh("umount -l /usr/local/bin /usr/bin /usr/sbin");
    worker.start_engine();
    wait_until("the engine holds nothing", PATIENCE, async || {
        let left = on_engine(worker);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_answer_is_said_and_its_containers_are_the_same_afterwards() {
    let system = system(1).await;
    let (worker, ida) = (&system.workers()[0], system.user("ida").await);
    let (ticket, path) = rented(&system, &ida).await;
    let web = format!("{path}/web");
    let mut body = shell("web", "exec sleep 1000");
    body["restart"] = json!("always");
    let made = ida.post(&path, body).await.expect(201);

    // A restart ends the run that its owner saw, and no other.
    let again = ida.post(&format!("{web}/restart"), json!({})).await.expect(200);
    assert_eq!(again["state"], "running", "{again}");
    assert_ne!(again["started_at"], made["started_at"], "{again}");

    worker.stop_engine();
    wait_until("its silence is said", PATIENCE, async || {
        let view = ida.get(&web).await.expect(200);
        let says = view["state_reason"].as_str().unwrap_or_default();
        if says.contains("the container engine of its node does not answer") {
            Ok(())
        } else {
            Err(view.to_string())
        }
    })
    .await;
    worker.start_engine();
    let seen = wait_until("it runs, and that is known", PATIENCE, async || {
        let view = ida.get(&web).await.expect(200);
        if view["state"] == "running" && view["state_reason"].is_null() {
            Ok(view)
        } else {
            Err(view.to_string())
        }
    })
    .await;
    assert_eq!(seen["engine_id"], made["engine_id"], "it was not made anew");
    let kinds: Vec<Value> = system.events().await.iter().map(|event| event["kind"].clone()).collect();
    for kind in ["node.engine_silent", "node.engine_answers"] {
        assert!(kinds.contains(&json!(kind)), "{kind}: {kinds:?}");
    }

    // What its owner has stopped stays so, though the engine starts again.
    ida.post(&format!("{web}/stop"), json!({})).await.expect(200);
    worker.stop_engine();
    worker.start_engine();
    let state = worker.sh(&format!("docker inspect -f '{{{{.State.Status}}}}' orion-{}-1", ticket.rental_id));
    assert_eq!(state.trim(), "exited");
}
