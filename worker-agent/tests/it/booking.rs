//! The routes with which a booking system starts containers itself, on a machine with a real engine.

use std::path::Path;
use std::time::Duration;

use orion_testkit::{Agent, Worker, Workers, wait_until_blocking};
use serde_json::Value;

const TOKEN: &str = "orion-node_of-this-test";

/// Calls a route from the machine itself; the status and the body.
fn call(worker: &Worker, token: &str, words: &str) -> (u16, Value) {
    let line = format!(
        "curl -s -w '\\n%{{http_code}}' -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' {words}"
    );
    let said = worker.sh(&line);
    let (body, status) = said.trim_end().rsplit_once('\n').expect("a body and a status");
    (status.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
}

fn post(path: &str, body: &str) -> String {
    format!("-X POST -d '{body}' http://127.0.0.1:5000{path}")
}

#[test]
fn a_booking_system_with_the_node_token_starts_lists_and_stops_its_own_containers() {
    let mut workers = Workers::start(0);
    // Nobody listens there: the routes need no control plane.
    let agent = Agent::new(Path::new(env!("CARGO_BIN_EXE_orion-agent")), 9, "no-token");
    workers.set_agent(agent.setting("ORION_CONTAINERS_LISTEN", "127.0.0.1:5000"));
    workers.set_engines();
    workers.grow_to(1);
    let worker = &workers[0];
    worker.wait_for_engine();
    worker.make_image("bb:1");
    let identity = format!(r#"{{"node_id":1,"node_token":"{TOKEN}","ssh_ca":[]}}"#);
    worker.sh(&format!(
        "mkdir -p /var/lib/orion-agent && printf '%s' '{identity}' >/var/lib/orion-agent/node.json && sync"
    ));
    worker.kill();
    worker.start();
    worker.wait_for_engine();
    let health = "http://127.0.0.1:5000/health";
    wait_until_blocking("the agent serves the routes", Duration::from_secs(20), || {
        let asked = worker.try_sh(&format!("curl -s -o /dev/null {health}"));
        if asked.status.success() { Ok(()) } else { Err("nobody listens".to_owned()) }
    });

    for path in ["/health", "/containers"] {
        assert_eq!(call(worker, "wrong", &format!("http://127.0.0.1:5000{path}")).0, 401, "{path}");
    }
    let (status, said) = call(worker, TOKEN, health);
    assert_eq!((status, &said["status"]), (200, &Value::from("ok")), "{said}");
    assert!(
        said["cpu_percent"].is_number() && said["memory_percent"].is_number() && said["host"].is_string(),
        "{said}"
    );

    assert_eq!(
        call(worker, TOKEN, &post("/start_container", "{\"user_id\":7}")).1["error"],
        "Missing image parameter"
    );
    let absent = r#"{"user_id":7,"image":"127.0.0.1:1/none:1"}"#;
    let (status, said) = call(worker, TOKEN, &post("/start_container", absent));
    assert!(status == 400 && said["error"].as_str().unwrap().starts_with("Image not found: "), "{said}");
    // BusyBox's shell ends at once without a terminal: an image with a command that stays.
    worker.sh(
        "docker create --name made bb:1 >/dev/null && docker commit -c 'CMD [\"sleep\", \"1000\"]' made bb/stays:1 >/dev/null && \
         docker rm made >/dev/null",
    );
    let wish = r#"{"user_id":7,"image":"bb/stays:1","cpu":0.5,"memory":"64m","port":8901}"#;
    let (status, started) = call(worker, TOKEN, &post("/start_container", wish));
    assert_eq!((status, &started["port"]), (200, &Value::from(8901)), "{started}");
    assert_eq!(started["url"], format!("http://{}:8901", worker.ip()));
    let name = started["container_name"].as_str().unwrap();
    assert!(name.starts_with("compute_7_"), "{name}");
    let seen = worker.sh(&format!(
        "docker inspect -f '{{{{.HostConfig.NanoCpus}}}} {{{{.HostConfig.Memory}}}} {{{{.Config.Env}}}}' {name}"
    ));
    assert!(seen.starts_with("500000000 67108864 [USER_ID=7 CONTAINER_PORT=8901"), "{seen}");

    // What it did not start is neither shown nor stopped.
    worker.sh("docker run -d --name mine bb:1 sleep 1000 >/dev/null");
    let (_, listed) = call(worker, TOKEN, "http://127.0.0.1:5000/containers");
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert_eq!((&listed[0]["name"], &listed[0]["status"]), (&Value::from(name), &Value::from("running")));
    assert_eq!(listed[0]["labels"]["managed_by"], "compute_booking");
    for not_its_own in ["mine", "nobody", "..%2Fx"] {
        let (status, said) = call(worker, TOKEN, &post(&format!("/stop_container/{not_its_own}"), "{}"));
        assert_eq!((status, &said["error"]), (404, &Value::from("Container not found")), "{not_its_own}");
    }
    let (status, said) = call(worker, TOKEN, &post(&format!("/stop_container/{name}"), "{}"));
    assert_eq!((status, &said["msg"]), (200, &Value::from("Container stopped")), "{said}");
    assert_eq!(worker.sh("docker ps -a --format '{{.Names}}'").trim(), "mine");

    let (status, said) = call(worker, TOKEN, &post("/test_image/bb/stays:1", "{}"));
    assert_eq!((status, &said["msg"]), (200, &Value::from("Image bb/stays:1 available")), "{said}");
    let (status, said) = call(worker, TOKEN, &post("/test_image/127.0.0.1:1/none:1", "{}"));
    assert!(status == 400 && said["error"].as_str().unwrap().starts_with("Failed to pull image: "), "{said}");
}
