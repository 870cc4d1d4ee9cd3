//! Containers of leases on real engines: from the request to the end of the lease, over a death of the node, and what
//! must not be lost or left.

use super::{
    PATIENCE,
    system::{Database, System},
    user::{Ticket, User},
};
use orion_testkit::{Worker, program, wait_until};
use reqwest::Method;
use serde_json::{Value, json};
use std::process::Command;

pub const IMAGE: &str = "bb:1";

pub async fn system(workers: usize) -> System {
    system_on(Database::Sqlite, workers).await
}

/// A system whose workers have an engine each, with an image.
pub async fn system_on(database: Database, workers: usize) -> System {
    let mut system = System::start(database, 0).await;
    system.add_with_engine(workers);
    for worker in system.workers() {
        worker.wait_for_engine();
        worker.make_image(IMAGE);
    }
    system.until_offered(system.workers()).await;
    system
}

pub async fn rented(system: &System, ida: &User) -> (Ticket, String) {
    let ticket = ida.rent(json!({ "duration_hours": 1 })).await.remove(0);
    let path = format!("/api/rentals/{}/containers", ticket.rental_id);
    assert!(system.workers().iter().any(|worker| worker.ip().to_string() == ticket.host_ip));
    (ticket, path)
}

/// A container that runs a script of BusyBox's shell.
pub fn shell(name: &str, script: &str) -> Value {
    json!({ "image": IMAGE, "name": name, "command": ["sh", "-c"], "args": [script] })
}

pub async fn until(ida: &User, path: &str, state: &str) -> Value {
    wait_until(&format!("{path} is {state}"), PATIENCE, async || {
        let reply = ida.get(path).await;
        if reply.status == 200 && reply.body["state"] == state {
            Ok(reply.body)
        } else {
            Err(reply.body.to_string())
        }
    })
    .await
}

/// Names of Orion's containers and networks on the engine.
pub fn on_engine(worker: &Worker) -> Vec<String> {
    let listed =
        worker.sh("docker ps -a --format '{{.Names}} {{.State}}'; docker network ls --format '{{.Name}}'");
    let is_own = |line: &&str| line.starts_with("orion-");
    listed.lines().filter(is_own).map(str::to_owned).collect()
}

async fn log_of(ida: &User, path: &str) -> Vec<Value> {
    let text = ida.text(&format!("{path}/logs")).await;
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_lives_on_a_leased_node_and_nothing_of_it_is_left_at_the_end() {
    let system = system(1).await;
    let (worker, ida) = (&system.workers()[0], system.user("ida").await);
    let (ticket, path) = rented(&system, &ida).await;
    let lease = ticket.rental_id;

    let mut body = shell("web", "echo out $WORD; echo err >&2; exec sleep 1000");
    body["env"] = json!({ "WORD": "hush" });
    body["memory_mb"] = json!(64);
    let made = ida.post(&path, body.clone()).await.expect(201);
    assert_eq!(
        (&made["state"], &made["name"], &made["rental_id"]),
        (&json!("running"), &json!("web"), &json!(lease))
    );
    assert!(!made.to_string().contains("hush"), "a value of env is shown nowhere: {made}");
    assert_eq!(on_engine(worker), [format!("orion-{lease}-1 running"), format!("orion-{lease}")]);
    let memory = worker.sh(&format!("docker inspect -f '{{{{.HostConfig.Memory}}}}' orion-{lease}-1"));
    assert_eq!(memory.trim(), (64 * 1024 * 1024).to_string());

    // The same name again, more than the machine has, and what is no image.
    assert_eq!(ida.post(&path, body).await.expect(409)["kind"], "name_taken");
    for (field, value) in [("memory_mb", json!(100_000_000)), ("image", json!("-v")), ("cpus", json!(0))] {
        let mut wrong = shell("wrong", "true");
        wrong[field] = value;
        let refused = ida.post(&path, wrong).await.expect(400);
        assert!(refused["detail"].as_str().expect("a detail").contains(field), "{refused}");
    }

    // Both streams of its log, apart.
    let web = format!("{path}/web");
    let log = log_of(&ida, &web).await;
    for line in
        [json!({ "stream": "stdout", "text": "out hush\n" }), json!({ "stream": "stderr", "text": "err\n" })]
    {
        assert!(log.contains(&line), "{log:?}");
    }

    // One that ends by itself is seen, with its code; one that cannot be started says why.
    ida.post(&path, shell("short", "sleep 1; exit 3")).await.expect(201);
    let ended = until(&ida, &format!("{path}/short"), "exited").await;
    assert_eq!((&ended["exit_code"], &ended["state_reason"]), (&json!(3), &json!("exited with 3")));
    let mut broken = shell("broken", "echo it broke >&2; exit 9");
    broken["restart"] = json!("on-failure:1");
    ida.post(&path, broken).await.expect(201);
    let failed = until(&ida, &format!("{path}/broken"), "failed").await;
    let why = "exited with 9 after 1 restarts; its log ends with: it broke\nit broke";
    assert_eq!((&failed["exit_code"], &failed["state_reason"]), (&json!(9), &json!(why)));
    let bad = json!({ "image": IMAGE, "name": "bad", "command": ["/no/such/program"] });
    let failed = ida.post(&path, bad).await.expect(201);
    assert_eq!(failed["state"], "failed", "{failed}");
    assert!(failed["state_reason"].as_str().expect("a reason").contains("/no/such/program"), "{failed}");
    let absent = json!({ "image": "127.0.0.1:1/nothing:1", "name": "absent" });
    let failed = ida.post(&path, absent).await.expect(201);
    assert_eq!(failed["state"], "failed", "{failed}");

    // Stopped, started again, removed.
    let stopped = ida.post(&format!("{web}/stop"), json!({})).await.expect(200);
    assert_eq!((&stopped["state"], &stopped["state_reason"]), (&json!("exited"), &json!("stopped")));
    assert_eq!(ida.post(&format!("{web}/restart"), json!({})).await.expect(200)["state"], "running");
    let removed = ida.try_send(Method::DELETE, &format!("{path}/short"), None, None).await.expect("a reply");
    assert_eq!(removed.expect(200)["state"], "removed");
    ida.get(&format!("{path}/short")).await.expect(404);
    // Nobody else sees any of it.
    system.user("eve").await.get(&web).await.expect(404);

    // The same from the command line.
    let orion = |line: &[&str]| {
        let mut command = Command::new(program("orion"));
        command.args(line).env("ORION_API", system.url()).env("ORION_TOKEN", &ida.token);
        let done = command.output().expect("it runs");
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{line:?}: {out}{err}");
        (out.into_owned(), err.into_owned())
    };
    let number = lease.to_string();
    let script = "echo out; echo err >&2; exec sleep 1000";
    orion(&["run", &number, IMAGE, "--name", "cli", "--cpus", "0.5", "-e", "A=b", "--", "sh", "-c", script]);
    let (listed, _) = orion(&["ps", &number]);
    assert!(listed.lines().any(|line| line.starts_with("cli ") && line.contains(" running ")), "{listed}");
    assert_eq!(orion(&["logs", &number, "cli"]), ("out\n".to_owned(), "err\n".to_owned()));
    for change in ["stop", "restart", "rm"] {
        orion(&[change, &number, "cli"]);
    }
    assert!(!orion(&["ps", &number]).0.contains("cli"));

    // The node itself ends them with the lease, at its new end, too.
    let kept = "sed -n 's/^deadline_unix_s=//p' /var/lib/orion/containers/*; date +%s";
    let left = || {
        let said = worker.sh(kept);
        let times: Vec<i64> = said.lines().map(|line| line.parse().expect("a time")).collect();
        times[0] - times[1]
    };
    assert!((3_400..3_620).contains(&left()), "{}", left());
    ida.post(&format!("/api/extend/{lease}"), json!({ "additional_hours": 1 })).await.expect(200);
    assert!((7_000..7_220).contains(&left()), "{}", left());

    // What is not Orion's stays.
    worker.sh(&format!("docker run -d --name mine {IMAGE} sleep 1000"));
    ida.post(&format!("/api/release/{lease}"), json!({})).await.expect(200);
    assert_eq!(on_engine(worker), [] as [&str; 0]);
    assert_eq!(worker.sh("docker ps --format '{{.Names}}'").trim(), "mine");
    assert_eq!(worker.sh("ls /var/lib/orion/containers").trim(), "");
    let kinds: Vec<String> = ida
        .events()
        .await
        .iter()
        .filter(|event| event["data"]["container"] == "web")
        .map(|event| event["kind"].as_str().expect("a kind").to_owned())
        .collect();
    let told = ["created", "running", "stopping", "exited", "restarting", "running"];
    assert_eq!(kinds, told.map(|kind| format!("container.{kind}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_containers_of_a_dead_node_run_again_on_the_next_and_the_old_ones_go_when_it_returns() {
    let system = system(2).await;
    let ida = system.user("ida").await;
    let (ticket, path) = rented(&system, &ida).await;
    let old = system.worker_at(&ticket.host_ip);
    let body = json!({ "image": IMAGE, "name": "web", "command": ["sleep", "1000"], "cpus": 0.5, "env": { "A": "b" } });
    ida.post(&path, body).await.expect(201);
    ida.post(&path, shell("done", "exit 0")).await.expect(201);
    until(&ida, &format!("{path}/done"), "exited").await;
    old.kill();
    let web = format!("{path}/web");
    wait_until("it is not said to run on a node that is gone", PATIENCE, async || {
        let view = ida.get(&web).await.expect(200);
        let says = view["state_reason"].as_str().unwrap_or_default().to_owned();
        if view["state"] != "running" || says.starts_with("not known since") {
            Ok(())
        } else {
            Err(view.to_string())
        }
    })
    .await;
    let moved = wait_until("it runs on the other node", PATIENCE, async || {
        let view = ida.get(&web).await.expect(200);
        let is_there = view["state"] == "running" && view["node_id"] != Value::Null;
        let new = ida.get(&format!("/api/rentals/{}", ticket.rental_id)).await.expect(200)["host_ip"].clone();
        if is_there && new != json!(ticket.host_ip) && !new.is_null() {
            Ok(new)
        } else {
            Err(view.to_string())
        }
    })
    .await;
    let new = system.worker_at(moved.as_str().expect("an address"));
    let lease = ticket.rental_id;
    assert_eq!(on_engine(new), [format!("orion-{lease}-1 running"), format!("orion-{lease}")]);
    let seen = new
        .sh(&format!("docker inspect -f '{{{{.HostConfig.NanoCpus}}}} {{{{.Config.Env}}}}' orion-{lease}-1"));
    assert!(seen.starts_with("500000000 [A=b"), "{seen}");
    old.start();
    old.wait_for_engine();
    wait_until("nothing of it is left on the node that returned", PATIENCE, async || {
        let left = on_engine(old);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    ida.post(&format!("/api/release/{lease}"), json!({})).await.expect(200);
    assert_eq!(on_engine(new), [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_its_process_did_not_live_to_finish_is_finished_and_never_twice() {
    let system = system(1).await;
    let (worker, ida) = (&system.workers()[0], system.user("ida").await);
    let (ticket, path) = rented(&system, &ida).await;
    let lease = ticket.rental_id;
    let body = shell("web", "exec sleep 1000");
    worker.freeze_engine();
    let asked = tokio::spawn({
        let (ida, path, body) = (ida.clone(), path.clone(), body.clone());
        async move { ida.try_send(Method::POST, &path, Some(&body), Some("once")).await }
    });
    until(&ida, &format!("{path}/web"), "pending").await;
    system.up().kill();
    // The connection broke, or there was no reply at all.
    let _ = asked.await.expect("a task");
    worker.thaw_engine();
    system.up().start();
    system.up().answers().await;
    until(&ida, &format!("{path}/web"), "running").await;
    let again =
        ida.try_send(Method::POST, &path, Some(&body), Some("once")).await.expect("a reply").expect(201);
    assert_eq!((&again["name"], &again["state"]), (&json!("web"), &json!("running")));
    assert_eq!(on_engine(worker), [format!("orion-{lease}-1 running"), format!("orion-{lease}")]);
    ida.post(&format!("/api/release/{lease}"), json!({})).await.expect(200);
    assert_eq!(on_engine(worker), [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_under_way_when_orion_is_told_to_stop_is_finished_first() {
    let system = system(1).await;
    let (worker, ida) = (&system.workers()[0], system.user("ida").await);
    let (ticket, path) = rented(&system, &ida).await;
    ida.post(&path, shell("web", "exec sleep 1000")).await.expect(201);
    worker.freeze_engine();
    let asked = tokio::spawn({
        let (ida, lease) = (ida.clone(), ticket.rental_id);
        async move { ida.try_send(Method::POST, &format!("/api/release/{lease}"), Some(&json!({})), None).await }
    });
    wait_until("the account is gone, its container is waited for", PATIENCE, async || {
        let account = worker.try_sh("id ida");
        if account.status.success() { Err("it is there") } else { Ok(()) }
    })
    .await;
    system.up().terminate();
    wait_until("it takes no connection any more", PATIENCE, async || {
        let address = system.url().replace("http://", "");
        if std::net::TcpStream::connect(address).is_ok() { Err("it listens") } else { Ok(()) }
    })
    .await;
    worker.thaw_engine();
    let reply = asked.await.expect("a task").expect("a reply").expect(200);
    assert_eq!(reply["message"], "Lease released");
    assert_eq!(on_engine(worker), [] as [&str; 0]);
    assert!(system.up().ended().await.success());
    let log = system.up().log();
    assert!(!log.contains("some work was still going on"), "{log}");
}
