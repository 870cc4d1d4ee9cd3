//! Workers as containers (`launch_workers.sh --engine docker`) on a private Docker engine: on Debian, and on what
//! stands in for Alpine, with the static agent.

use super::{
    PATIENCE,
    compose::{ALONE, BOOT, programs, succeeded, until_offered},
    system::{Database, ROOM, System},
    user::{User, is_refused},
};
use orion_testkit::{Docker, KeyPair, wait_until};
use serde_json::{Value, json};
use std::{fs, path::Path, process::Command};
use tempfile::TempDir;

/// Workers of `launch_workers.sh --engine docker`, gone when dropped.
struct Containers<'a> {
    docker: &'static Docker,
    system: &'a System,
}

impl Containers<'_> {
    /// `launch_workers.sh ARGUMENTS…`; new workers are made of the image `orion/KIND` and can be rented by that tag.
    fn launch(&self, kind: &str, arguments: &[&str]) -> String {
        succeeded(self.command(kind, arguments).output().expect("a script"))
    }

    fn command(&self, kind: &str, arguments: &[&str]) -> Command {
        let port = self.system.url().rsplit(':').next().expect("a port").to_owned();
        let network = self.docker.network();
        let mut command = self.docker.command("./launch_workers.sh");
        command
            .args(["--engine", "docker"])
            .args(arguments)
            .env("ORION_WORKERS_PREFIX", "otd")
            .env("ORION_WORKERS_BRIDGE", "otd0")
            .env("ORION_WORKERS_NET", network)
            .env("ORION_WORKER_IMAGE", format!("orion/{kind}"))
            .env("ORION_WORKER_TAGS", kind)
            .env("ORION_WORKER_MEMORY", "256m")
            .env("ORION_JOIN_TOKEN", self.system.join_token())
            .env("ORION_REFUSED_RETRY_S", "1")
            .env("API_ENDPOINT", format!("http://{network}.0.1:{port}"))
            .env_remove("ORION_AGENT");
        command
    }

    /// A fault, or its end, by launch_workers.sh.
    fn fault(&self, option: &str, worker: &str) {
        self.launch("worker", &[option, worker]);
    }

    fn sh(&self, worker: &str, script: &str) -> String {
        self.launch("worker", &["--sh", worker, "/bin/sh", "-c", script])
    }

    /// Returns the state that `--status` shows for a worker.
    fn state(&self, worker: &str) -> String {
        let status = self.launch("worker", &["--status"]);
        let line = status.lines().find(|line| line.starts_with(worker)).expect("a line for each worker");
        line.split_whitespace().last().unwrap_or_default().to_owned()
    }

    /// The worker that holds this lease.
    fn holder(&self, address: &Value) -> &'static str {
        let host = address.as_str().and_then(|ip| ip.rsplit('.').next()).expect("an address");
        match host {
            "11" => "otd1",
            "12" => "otd2",
            "13" => "otd3",
            other => panic!("no worker ends in {other}"),
        }
    }

    async fn until_clean(&self, worker: &str) {
        let offered = |node: &Value| node["hostname"] == worker && node["offerable"] == true;
        wait_until(&format!("{worker} is offered"), PATIENCE, async || {
            let nodes = self.system.admin().get("/api/nodes").await.expect(200);
            let list = nodes.as_array().expect("a list");
            if list.iter().any(offered) { Ok(()) } else { Err(nodes.to_string()) }
        })
        .await;
        let look = "awk -F: '$3 >= 200000 && $3 < 60000000' /etc/passwd /etc/group; ls -A /var/lib/orion/leases; \
                    ls -A /home /tmp | grep -vx orion-probe; for p in /proc/[0-9]*; do stat -c %u $p 2>/dev/null; done | awk '$1 >= 200000'";
        assert_eq!(self.sh(worker, look), "/home:\n\n/tmp:\n", "left in {worker}");
    }
}

impl Drop for Containers<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["otd1", "otd2", "otd3"] {
                let output = self.docker.command("docker").args(["logs", "--tail", "30", name]).output();
                let said = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
                eprintln!("--- {name} ---\n{}", String::from_utf8_lossy(&said));
            }
        }
        // What does not work here is seen by the next test.
        drop(self.command("worker", &["--stop"]).output());
    }
}

/// A directory with `orion-agent-static`: no dynamic loader, no libraries.
fn static_agent() -> TempDir {
    let version = Command::new("rustc").arg("-vV").output().expect("rustc is there");
    let version = succeeded(version);
    let triple = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // Not into the directory of the other programs: with other flags cargo would build those anew.
    let target = repository.join("target/static-agent");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--package", "orion-agent", "--target", triple, "--target-dir"])
        .arg(&target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .current_dir(&repository)
        .output();
    succeeded(built.expect("cargo starts"));
    let agent = target.join(triple).join("debug/orion-agent");
    let headers =
        succeeded(Command::new("readelf").arg("--program-headers").arg(&agent).output().expect("binutils"));
    assert!(!headers.contains("INTERP"), "it asks for a dynamic loader: {headers}");
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::copy(agent, directory.path().join("orion-agent-static")).expect("a file is copied");
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_as_containers_are_leased_and_fail_like_machines() {
    let _alone = ALONE.lock().await;
    let docker = Docker::shared();
    {
        let _room = ROOM.acquire_many(2).await.expect("never closed");
        docker.build_images(&programs(), &["worker"]);
        docker.build_images(static_agent().path(), &["worker-alpine"]);
    }
    let system = System::start(Database::Sqlite, 0).await;
    let containers = Containers { docker, system: &system };
    containers.launch("worker", &["2"]);
    containers.launch("worker-alpine", &["3"]);
    let unknown = containers.command("no-such-image", &["4"]).output().expect("a script");
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(!unknown.status.success() && said.contains("there is no image orion/no-such-image"), "{said}");
    until_offered(system.admin(), 3, BOOT).await;
    let nodes = system.admin().get("/api/nodes").await.expect(200);
    for node in nodes.as_array().expect("a list") {
        assert_eq!((&node["memory_mb"], &node["cpu_cores"]), (&json!(256), &json!(1)), "its limits: {node}");
    }
    let dora = system.user("dora").await;

    a_system_without_glibc_is_leased(&containers, &dora).await;

    let ticket = dora.rent(json!({ "duration_hours": 1, "tags": ["worker"] })).await.remove(0);
    assert_eq!(ticket.by_password().run("touch /tmp/mine; id -un").await.as_deref(), Ok("dora\n"));
    let mut at = json!(ticket.host_ip);
    for (fault, end, seen) in [
        ("--freeze", "--thaw", "frozen"),
        ("--cut", "--uncut", "running,cut"),
        ("--kill", "--start", "stopped"),
    ] {
        let worker = containers.holder(&at);
        containers.fault(fault, worker);
        assert_eq!(containers.state(worker), seen);
        let moved = dora.until_moved(ticket.rental_id, at.as_str().expect("an address")).await;
        assert_eq!(
            dora.login_now(&ticket).await.run("id -un").await.as_deref(),
            Ok("dora\n"),
            "after {fault}"
        );
        containers.fault(end, worker);
        assert_eq!(containers.state(worker), "running");
        containers.until_clean(worker).await;
        at = moved["host_ip"].clone();
    }
    let login = dora.login_now(&ticket).await;
    dora.release(ticket.rental_id).await;
    is_refused(&login).await;
    containers.until_clean(containers.holder(&at)).await;

    containers.launch("worker", &["--stop"]);
    assert_eq!(containers.launch("worker", &["--status"]), "");
    assert_eq!(docker.run(&["network", "ls", "--quiet", "--filter", "name=otd0"]), "");
}

/// BusyBox's tools, an sshd without PAM, and the agent that brings all it needs.
async fn a_system_without_glibc_is_leased(containers: &Containers<'_>, user: &User) {
    let key = KeyPair::generate();
    let wanted =
        json!({ "duration_hours": 1, "tags": ["worker-alpine"], "ssh_public_key": key.public_line() });
    let ticket = user.rent(wanted).await.remove(0);
    assert_eq!(containers.holder(&json!(ticket.host_ip)), "otd3");
    let left_running = "id -un; readlink -f /bin/sh; setsid sleep 3000 </dev/null >/dev/null 2>&1 &";
    assert_eq!(ticket.by_password().run(left_running).await.as_deref(), Ok("dora\n/bin/busybox\n"));
    assert_eq!(ticket.by_key(&key).run("touch /tmp/mine; id -un").await.as_deref(), Ok("dora\n"));
    // Names are found without the libraries by which glibc does it elsewhere: by DNS, and in /etc/hosts.
    for name in ["otd1", "localhost"] {
        let facts =
            containers.sh("otd3", &format!("orion-agent facts --insecure-http --api http://{name}:1"));
        assert!(facts.contains("\"hostname\""), "{name}: {facts}");
    }
    user.release(ticket.rental_id).await;
    is_refused(&ticket.by_password()).await;
    containers.until_clean("otd3").await;
}
