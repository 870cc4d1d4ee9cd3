//! Leases that are rented with a container: whole nodes, and slices of one node beside each other.

use super::{
    PATIENCE,
    container_life::{IMAGE, on_engine, shell, system_on, until},
    system::{Database, System},
    user::{User, http},
};
use orion_domain::{
    NodeId,
    clock::{Clock as _, SystemClock},
};
use orion_store::{Store, StoreConfig};
use orion_testkit::{Worker, program, wait_until};
use serde_json::{Value, json};
use std::{
    process::Command,
    time::{Duration, Instant},
};

/// A slice of a twentieth of a core that runs a script.
fn slice(name: &str, script: &str) -> Value {
    json!({
        "duration_hours": 1, "name": name, "cpus": 0.05, "memory_mb": 32, "container": shell("main", script),
    })
}

/// Waits until the node's engine was noticed: then leases with containers are placed there.
async fn until_engine(system: &System) {
    for worker in system.workers() {
        system.until_node(worker, "takes containers", |node| node["containers"]["offered"] == true).await;
    }
}

async fn rented(user: &User, body: &Value) -> Value {
    user.try_rent(body, None).await.expect("a reply").expect(200)[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_or_a_slice_is_rented_together_with_its_container() {
    let system = system_on(Database::Sqlite, 1).await;
    until_engine(&system).await;
    let (worker, ida) = (&system.workers()[0], system.user("ida").await);

    // A whole node: login and container.
    let body = json!({ "duration_hours": 1, "name": "whole", "container": shell("web", "exec sleep 1000") });
    let first = ida.try_rent(&body, Some("once")).await.expect("a reply").expect(200);
    let again = ida.try_rent(&body, Some("once")).await.expect("a reply").expect(200);
    assert_eq!(first, again);
    let (ticket, id) =
        (super::user::tickets(&first).remove(0), first[0]["rental_id"].as_i64().expect("a number"));
    assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("ida\n"));
    assert_eq!(
        (&first[0]["state"], &first[0]["containers"][0]["state"]),
        (&json!("active"), &json!("running"))
    );
    assert_eq!(on_engine(worker), [format!("orion-{id}-1 running"), format!("orion-{id}")]);
    assert_eq!(ida.show(id).await["containers"][0]["name"], "web");
    // It has the node: there is no room for a slice.
    let none = ida.try_rent(&slice("none", "true"), None).await.expect("a reply").expect(503);
    assert_eq!((&none["found"], &none["largest_free"]["cpus"]), (&json!(0), &json!(0.0)), "{none}");
    ida.release(id).await;
    assert_eq!(on_engine(worker), [] as [&str; 0]);

    // One whose container cannot be started is there, and takes another one.
    let bad =
        json!({ "duration_hours": 1, "container": { "image": "127.0.0.1:1/nothing:1" }, "name": "bad" });
    let ticket = rented(&ida, &bad).await;
    assert_eq!((&ticket["state"], &ticket["containers"][0]["state"]), (&json!("active"), &json!("failed")));
    assert!(
        ticket["containers"][0]["state_reason"].as_str().expect("a reason").contains("nothing"),
        "{ticket}"
    );
    let id = ticket["rental_id"].as_i64().expect("a number");
    ida.post(&format!("/api/rentals/{id}/containers"), shell("good", "exec sleep 1000")).await.expect(201);
    ida.release(id).await;

    // Two slices in one request: no login, a container each.
    let mut two = slice("pair", "exec sleep 1000");
    two["count"] = json!(2);
    let pair = ida.try_rent(&two, None).await.expect("a reply").expect(200);
    let numbers: Vec<i64> = pair
        .as_array()
        .expect("a list")
        .iter()
        .map(|ticket| {
            for key in ["client_user", "client_pass", "ssh_command", "known_hosts"] {
                assert_eq!(ticket.get(key), Some(&Value::Null), "{key}: {ticket}");
            }
            assert_eq!(
                (&ticket["state"], &ticket["containers"][0]["state"]),
                (&json!("active"), &json!("running"))
            );
            ticket["rental_id"].as_i64().expect("a number")
        })
        .collect();
    let shown = ida.show(numbers[0]).await;
    assert_eq!(shown["slice"], json!({ "cpus": 0.05, "memory_mb": 32, "gpus": 0 }));
    assert_eq!(
        (&shown["client_user"], &shown["host_ip"], &shown["name"]),
        (&Value::Null, &Value::Null, &json!("pair-1"))
    );
    assert_eq!(worker.sh("getent passwd ida || echo none").trim(), "none");
    let limits = worker.sh(&format!(
        "docker inspect -f '{{{{.HostConfig.NanoCpus}}}} {{{{.HostConfig.Memory}}}}' orion-{}-1",
        numbers[1]
    ));
    assert_eq!(limits.trim(), "50000000 33554432", "all of the slice, where nothing is said");
    for number in &numbers {
        ida.release(*number).await;
    }
    assert_eq!(on_engine(worker), [] as [&str; 0]);

    // What is wrong is named.
    let with = |key: &str, value: Value| {
        let mut body = slice("wrong", "true");
        body[key] = value;
        body
    };
    let mut greedy = slice("wrong", "true");
    greedy["container"]["memory_mb"] = json!(64);
    for (body, field) in [
        (with("ssh_password", json!("a long password")), "ssh_password"),
        (with("cpus", json!(100_000)), "cpus"),
        (with("cpus", Value::Null), "cpus"),
        (with("memory_mb", json!(4)), "memory_mb"),
        (with("gpus", json!(9)), "gpus"),
        (with("container", Value::Null), "container"),
        (with("container", json!({ "image": "-v" })), "container.image"),
        (with("container", json!({ "imgae": "x" })), "container.imgae"),
        (greedy, "container.memory_mb"),
    ] {
        let refused = ida.try_rent(&body, None).await.expect("a reply").expect(400);
        assert_eq!(refused["field"], field, "{refused}");
    }
    by_command_line(&system, &ida);
}

fn by_command_line(system: &System, ida: &User) {
    let orion = |line: &[&str]| {
        let mut command = Command::new(program("orion"));
        command.args(line).env("ORION_API", system.url()).env("ORION_TOKEN", &ida.token);
        let done = command.output().expect("it runs");
        (
            done.status.success(),
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr),
        )
    };
    let line = ["rent", "--for", "1h", "--name", "cli", "--cpus", "0.1", "--memory", "32m", "--image", IMAGE];
    let script = ["-e", "WORD=hello", "--", "sh", "-c", "echo $WORD; exec sleep 1000"];
    let (is_done, said) = orion(&[&line[..], &script[..]].concat());
    assert!(is_done && said.contains("running") && said.contains("orion logs -f cli 1"), "{said}");
    assert_eq!(orion(&["logs", "cli", "1"]), (true, "hello\n".to_owned()));
    let (is_done, said) = orion(&["show", "cli"]);
    assert!(is_done && said.contains("0.1 cores, 32 MiB") && said.contains("1 is running"), "{said}");
    let (_, shown) = orion(&["-o", "json", "show", "cli"]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let (is_done, said) = orion(&["nodes", "show", shown["node_name"].as_str().expect("it has a node")]);
    assert!(is_done && said.contains("what is free of it, as slices"), "{said}");
    let (is_done, said) = orion(&["ssh", "cli"]);
    assert!(!is_done && said.contains("has no login"), "{said}");
    assert!(orion(&["release", "cli"]).0);
}

/// What a worker's kernel says that the first process of a container has used of a core, in ticks.
fn ticks(worker: &Worker, container: &str) -> u64 {
    let pid = worker.sh(&format!("docker inspect -f '{{{{.State.Pid}}}}' {container}"));
    let stat = worker.sh(&format!("cut -d' ' -f14,15 /proc/{}/stat", pid.trim()));
    stat.split_whitespace().map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_with_slices_share_a_node_and_none_disturbs_another() {
    let system = system_on(Database::Sqlite, 1).await;
    until_engine(&system).await;
    let worker = &system.workers()[0];
    let quiet = "while :; do date +%s; sleep 0.5; done";
    let floods =
        "while :; do echo 0123456789012345678901234567890123456789012345678901234567890123456789; done";
    let mut tenants = Vec::new();
    for (name, cpus, script) in [
        ("ida", 0.1, quiet),
        ("burner", 0.3, "while :; do :; done"),
        ("eater", 0.3, "sleep 1; x=0123456789; while :; do x=$x$x; done"),
        ("forker", 0.2, "i=0; while [ $i -lt 6000 ]; do sleep 1000 & i=$((i+1)); done; wait"),
        ("flooder", 0.3, floods),
    ] {
        let user = system.user(name).await;
        let mut body = slice(name, script);
        body["cpus"] = json!(cpus);
        let id = rented(&user, &body).await["rental_id"].as_i64().expect("a number");
        tenants.push((user, id, format!("/api/rentals/{id}/containers/main")));
    }
    let number = |tenant: usize| tenants[tenant].1;
    let (before, begun) = (ticks(worker, &format!("orion-{}-1", number(1))), Instant::now());
    // The one that eats memory is ended alone, and that is named.
    let ended = until(&tenants[2].0, &tenants[2].2, "exited").await;
    assert_eq!((&ended["exit_code"], &ended["oom_killed"]), (&json!(137), &json!(true)), "{ended}");
    assert_eq!(ended["state_reason"], "out of memory (exit code 137)");
    super::wait_until_time(begun, Duration::from_secs(10)).await;
    let used = ticks(worker, &format!("orion-{}-1", number(1))) - before;
    let share = used as f64 / 100.0 / begun.elapsed().as_secs_f64();
    assert!(share < 0.36, "it may have 0.3 of a core, and has {share}");
    let log = worker
        .sh(&format!("du -cb $(docker inspect -f '{{{{.LogPath}}}}' orion-{}-1)* | tail -n 1", number(4)));
    let bytes: u64 = log.split_whitespace().next().and_then(|size| size.parse().ok()).expect("a size");
    assert!(bytes <= 21_000_000, "two files of 10 MB, not {bytes} bytes");
    let pids = worker.sh(&format!("docker inspect -f '{{{{.HostConfig.PidsLimit}}}}' orion-{}-1", number(3)));
    assert_eq!(pids.trim(), "4096");

    // The neighbour's clock has gone on, and the node is well.
    let (ida, id, path) = &tenants[0];
    let view = ida.get(path).await.expect(200);
    assert_eq!((&view["state"], &view["rental_id"]), (&json!("running"), &json!(id)));
    let text = ida.text(&format!("{path}/logs")).await;
    let times: Vec<i64> = text
        .lines()
        .filter_map(|line| {
            let line: Value = serde_json::from_str(line).expect("a line of JSON");
            line["text"].as_str()?.trim().parse().ok()
        })
        .collect();
    let gap = times.windows(2).map(|pair| pair[1] - pair[0]).max().expect("many lines");
    assert!(times.len() > 15 && gap <= 3, "{} lines, {gap} s apart at most", times.len());
    let node = system.node(worker).await.expect("registered");
    assert_eq!((&node["status"], &node["allocated"]), (&json!("alive"), &json!(true)));
    // Nobody sees another's.
    tenants[1].0.get(path).await.expect(404);
    for (user, id, _) in &tenants {
        user.release(*id).await;
    }
    wait_until("nothing is left", PATIENCE, async || {
        let left = on_engine(worker);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_slices_wait_for_a_node_that_is_being_worked_on_and_all_are_there() {
    let system = system_on(Database::MariaDb, 1).await;
    until_engine(&system).await;
    let (worker, url) = (&system.workers()[0], system.up().database_url().expect("MariaDB").to_owned());
    let node = NodeId(system.node(worker).await.expect("registered")["node_id"].as_i64().expect("a number"));
    let store =
        Store::open_existing(&StoreConfig { urls: vec![url], connections_max: 2 }).await.expect("open");
    let held = Duration::from_secs(10);
    let claim = wait_until("the node is claimed", PATIENCE, async || {
        let claim =
            store.nodes().claim(node, "a test", held, SystemClock.now()).await.expect("the database answers");
        claim.ok_or("somebody works on it")
    })
    .await;
    let ida = system.user("ida").await.over(patient());
    let rents = (0..32).map(|number| {
        let ida = ida.clone();
        async move {
            let mut body = slice(&format!("s-{number}"), "exec sleep 1000");
            (body["cpus"], body["memory_mb"]) = (json!(0.02), json!(16));
            ida.try_rent(&body, None).await.expect("a reply")
        }
    });
    let begun = Instant::now();
    let replies = futures_util::future::join_all(rents).await;
    assert!(begun.elapsed() > Duration::from_secs(5), "the claim was in the way");
    store.nodes().release_claim(&claim, SystemClock.now()).await.expect("over by now");
    for reply in replies {
        // What is not made within a minute is made all the same.
        assert!([200, 202].contains(&reply.status), "{}", reply.body);
        let id = reply.body[0]["rental_id"].as_i64().expect("a number");
        until(&ida, &format!("/api/rentals/{id}/containers/main"), "running").await;
        assert_eq!(reply.body[0]["node_id"], node.0);
    }
    assert_eq!(on_engine(worker).iter().filter(|line| line.ends_with(" running")).count(), 32);
}

fn patient() -> reqwest::Client {
    drop(http());
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(120)).build().expect("a client")
}

/// A registry that knows every image and never gives one.
const SLOW_REGISTRY: &str = r#"cat >/tmp/slow <<'END'
#!/bin/sh
read -r line
case "$line" in
"GET /v2/ "*) printf 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}' ;;
*) exec sleep 300 ;;
esac
END
chmod +x /tmp/slow
nohup busybox nc -ll -p 5999 -e /tmp/slow >/dev/null 2>&1 </dev/null &"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_rental_whose_image_takes_longer_than_a_minute_is_accepted_and_says_where_to_look() {
    let system = system_on(Database::Sqlite, 1).await;
    until_engine(&system).await;
    let (worker, ida) = (&system.workers()[0], system.user("ida").await.over(patient()));
    worker.sh(SLOW_REGISTRY);
    let mut body = slice("slow", "true");
    body["container"] = json!({ "image": "127.0.0.1:5999/slow:1", "name": "main" });
    let first = ida.try_rent(&body, Some("once")).await.expect("a reply").expect(202);
    let container = &first[0]["containers"][0];
    assert_eq!(
        (&first[0]["state"], &container["state"]),
        (&json!("provisioning"), &json!("pulling")),
        "{first}"
    );
    assert!(container["step"].as_str().expect("a step").starts_with("pulling"), "{first}");
    let again = ida.try_rent(&body, Some("once")).await.expect("a reply").expect(202);
    assert_eq!(first, again);
    let id = first[0]["rental_id"].as_i64().expect("a number");
    assert_eq!(ida.show(id).await["containers"][0]["state"], "pulling");
    // It can be given back while it waits.
    ida.release(id).await;
    ida.until(id, "ended", |lease| lease["state"] == "ended").await;
}

/// Numbers of two character devices of major 10 that root may open on this machine and that no engine gives to a
/// container by itself.
fn two_devices(worker: &Worker) -> [String; 2] {
    // FUSE, the control of loop devices, btrfs, the automounter.
    let found = worker.sh("for n in 229 237 234 235; do
        mknod /run/device c 10 $n && (: </run/device) 2>/dev/null && echo $n
        rm -f /run/device
    done");
    let mut numbers = found.lines().map(str::to_owned);
    let mut next = || numbers.next().expect("two of fuse, loop, btrfs and autofs are in the kernel");
    [next(), next()]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_gpu_is_in_the_container_of_one_slice_alone() {
    let mut system = System::start(Database::Sqlite, 0).await;
    system.add_with_gpus("uuid=/dev/gpu0,model=Stand-in,memory_mb=16;uuid=/dev/gpu1,model=Stand-in");
    let worker = &system.workers()[0];
    worker.wait_for_engine();
    worker.make_image(IMAGE);
    let devices = two_devices(worker);
    worker.sh(&format!("mknod /dev/gpu0 c 10 {}; mknod /dev/gpu1 c 10 {}", devices[0], devices[1]));
    system.until_offered(system.workers()).await;
    until_engine(&system).await;
    let ida = system.user("ida").await;
    // The tenant makes a file of its own for each of the devices, and opens it.
    let opens = format!(
        "for n in {} {}; do mknod /tmp/$n c 10 $n; (: </tmp/$n) 2>&1 && echo opened $n; done; echo done",
        devices[0], devices[1]
    );
    let mut body = slice("one", &format!("ls /dev/gpu*; {opens}; exec sleep 1000"));
    body["gpus"] = json!(1);
    body["container"]["gpus"] = json!(1);
    for (name, own) in [("one", 0), ("two", 1)] {
        body["name"] = json!(name);
        let id = rented(&ida, &body).await["rental_id"].as_i64().expect("a number");
        let said = wait_until("it says what it sees", PATIENCE, async || {
            let log = ida.text(&format!("/api/rentals/{id}/containers/main/logs")).await;
            let line =
                |line: &str| Some(serde_json::from_str::<Value>(line).ok()?["text"].as_str()?.to_owned());
            let said: String = log.lines().filter_map(line).collect();
            if said.contains("done") { Ok(said) } else { Err(said) }
        })
        .await;
        let other = format!("can't open /tmp/{}: Operation not permitted", devices[1 - own]);
        assert!(said.contains(&other), "the other one: {said}");
        assert!(said.contains(&format!("opened {}\n", devices[own])), "its own: {said}");
        let seen: Vec<&str> = said.lines().filter(|line| line.starts_with("/dev/gpu")).collect();
        assert_eq!(seen, [format!("/dev/gpu{own}")], "{said}");
    }
    // The same lines do open a device that the engine gave.
    let both =
        worker.sh(&format!("docker run --rm --device /dev/gpu0 --device /dev/gpu1 {IMAGE} sh -c '{opens}'"));
    assert_eq!(both, format!("opened {}\nopened {}\ndone\n", devices[0], devices[1]));
    let node = system.node(worker).await.expect("registered");
    assert_eq!(node["capacity"]["gpus"], json!({ "total": 2, "held": 2, "free": 0 }), "{node}");
    assert_eq!(node["gpus"], json!(["Stand-in", "Stand-in"]));
    body["name"] = json!("three");
    let refused = ida.try_rent(&body, None).await.expect("a reply").expect(503);
    assert_eq!(refused["largest_free"]["gpus"], 0, "{refused}");
    body["gpus"] = json!(3);
    assert_eq!(ida.try_rent(&body, None).await.expect("a reply").expect(400)["field"], "gpus");
}
