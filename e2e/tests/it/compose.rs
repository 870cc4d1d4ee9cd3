//! Orion as containers, on a private Docker engine: the composed stack of `docker-compose.yml`.

use super::{
    PATIENCE,
    system::ROOM,
    user::{Ticket, User, is_refused},
};
use orion_testkit::{Docker, free_port, program, wait_until, wait_until_blocking};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};
use tempfile::TempDir;
use tokio::sync::Mutex;

/// Longest wait for what has to boot first.
pub const BOOT: Duration = Duration::from_secs(240);
/// The capabilities of a worker: the same list as in `launch_workers/docker.sh`.
const CAPABILITIES: [&str; 8] =
    ["AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID", "SYS_CHROOT"];

/// One test at a time has the engine's network.
pub static ALONE: Mutex<()> = Mutex::const_new(());

/// The directory of the built programs.
pub fn programs() -> PathBuf {
    let [orion, ..] = ["orion", "orion-control-plane", "orion-scheduler", "orion-agent"].map(program);
    orion.parent().expect("a directory").to_owned()
}

/// The stack, up; everything of it is gone when it is dropped.
struct Stack {
    docker: &'static Docker,
    secrets: TempDir,
    https_port: u16,
    http_port: u16,
}

impl Stack {
    fn start() -> Self {
        let docker = Docker::shared();
        docker.build_images(&programs(), &["control-plane", "scheduler", "worker"]);
        let secrets = tempfile::tempdir().expect("a temporary directory");
        // In place of the developer's own .env.
        fs::write(secrets.path().join("env"), "").expect("own directory");
        let stack = Self { docker, secrets, https_port: free_port(), http_port: free_port() };
        let made = docker.command("docker/make-secrets.sh").arg(stack.secrets.path()).output();
        succeeded(made.expect("a script"));
        stack.compose(&["up", "--detach", "--no-build"]);
        stack
    }

    fn compose(&self, arguments: &[&str]) -> String {
        succeeded(self.compose_command(arguments).output().expect("Debian: docker-compose"))
    }

    /// Docker 20.10 may call a network in use for a moment after its last container went ("has active endpoints").
    fn goes_down(&self) {
        wait_until_blocking("the stack is down", PATIENCE, || {
            let output =
                self.compose_command(&["down", "--volumes"]).output().expect("Debian: docker-compose");
            if output.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&output.stderr).into_owned())
            }
        });
    }

    fn compose_command(&self, arguments: &[&str]) -> Command {
        let network = self.docker.network();
        let mut command = self.docker.command("docker-compose");
        command
            .args(["--project-name", "orion", "--env-file"])
            .arg(self.secrets.path().join("env"))
            .args(arguments)
            .env("ORION_SECRETS", self.secrets.path())
            .env("ORION_MARIADB_IMAGE", "orion-stand-in/mariadb")
            .env("ORION_CADDY_IMAGE", "orion-stand-in/caddy")
            .env("ORION_CADDY_BODIES", "buffer_requests")
            .env("ORION_FRONT_NET", format!("{network}.1"))
            .env("ORION_NODES_NET", format!("{network}.2"))
            .env("ORION_HTTPS_PORT", format!("127.0.0.1:{}", self.https_port))
            .env("ORION_HTTP_PORT", format!("127.0.0.1:{}", self.http_port));
        command
    }

    fn secret(&self, name: &str) -> String {
        fs::read_to_string(self.secrets.path().join(name)).expect("make-secrets.sh has made it")
    }

    /// A command in a container, as its own user.
    fn inside(&self, container: &str, command: &[&str]) -> String {
        self.docker.run(&[&["exec", container], command].concat())
    }

    /// One value of `docker inspect`.
    fn inspect(&self, container: &str, what: &str) -> String {
        self.docker.run(&["inspect", "--format", what, container]).trim().to_owned()
    }

    /// Returns a client without an account that reaches the published port and trusts Caddy's authority.
    async fn anyone(&self) -> User {
        let certificate = self.secrets.path().join("authority.crt");
        let from = "orion_caddy_1:/data/caddy/pki/authorities/local/root.crt";
        self.docker.run(&["cp", from, certificate.to_str().expect("a path")]);
        let pem = fs::read(certificate).expect("it was copied");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.https_port));
        let anyone = User::anyone(&format!("https://orion.localhost:{}", self.https_port));
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .resolve("orion.localhost", address)
            .tls_certs_only([reqwest::Certificate::from_pem(&pem).expect("a certificate")]);
        anyone.over(client.build().expect("a client"))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for arguments in [&["ps"][..], &["logs", "--no-color", "--tail", "40"], &["down", "--volumes"]] {
                let output = self.compose_command(arguments).output();
                let said = output.map(|output| output.stdout).unwrap_or_default();
                eprintln!("--- docker-compose {arguments:?} ---\n{}", String::from_utf8_lossy(&said));
            }
        }
    }
}

/// Returns the output of a command; panics with both streams of one that failed.
pub fn succeeded(output: Output) -> String {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}{}", output.status, said(&output.stdout), said(&output.stderr));
    said(&output.stdout)
}

/// Waits until so many nodes can be rented.
pub async fn until_offered(admin: &User, count: usize, patience: Duration) {
    wait_until(&format!("{count} nodes are offered"), patience, async || {
        let nodes = admin.try_send(Method::GET, "/api/nodes", None, None).await?.body;
        let list = nodes.as_array().cloned().unwrap_or_default();
        let offered = list.iter().filter(|node| node["offerable"] == true).count();
        let seen = |node: &Value| {
            [&node["hostname"], &node["status"], &node["reason"]].map(Value::to_string).join(" ")
        };
        if offered == count { Ok(()) } else { Err(list.iter().map(seen).collect::<Vec<_>>().join(", ")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lives_on_the_composed_stack_and_moves_when_its_container_is_killed() {
    let _alone = ALONE.lock().await;
    let _room = ROOM.acquire_many(2).await.expect("never closed");
    let stack = Stack::start();
    let anyone = wait_until("the API answers through Caddy", BOOT, async || {
        let running = stack.docker.run(&["ps", "--quiet", "--filter", "name=orion_caddy_1"]);
        if running.trim().is_empty() {
            return Err("no caddy".to_owned());
        }
        let anyone = stack.anyone().await;
        let reply = anyone.try_send(Method::GET, "/api/health", None, None).await?;
        if reply.status == 200 { Ok(anyone) } else { Err(reply.body.to_string()) }
    })
    .await;
    let admin = anyone.logged_in("admin", &stack.secret("admin_password")).await;
    until_offered(&admin, 2, BOOT).await;

    let alice = anyone.signed_up("alice").await;
    let ticket = alice.rent_one().await;
    assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("alice\n"));
    a_tenant_is_shut_in(&stack, &ticket).await;

    let worker = container_at(&stack, &ticket.host_ip);
    stack.docker.run(&["kill", &worker]);
    let moved = alice.until_moved(ticket.rental_id, &ticket.host_ip).await;
    let login = alice.login_now(&ticket).await;
    assert_eq!(login.run("id -un").await.as_deref(), Ok("alice\n"), "same user, same password: {moved}");
    stack.docker.run(&["start", &worker]);
    until_offered(&admin, 1, PATIENCE).await;
    nothing_is_left(&stack, &worker);

    let second = container_at(&stack, moved["host_ip"].as_str().expect("an address"));
    alice.release(ticket.rental_id).await;
    is_refused(&login).await;
    nothing_is_left(&stack, &second);

    the_containers_are_no_more_than_they_must_be(&stack);
    the_networks_are_as_documented(&stack);
    the_stack_is_looked_at_dumped_and_restored(&stack, &anyone).await;
    let admin = anyone.logged_in("admin", &stack.secret("admin_password")).await;
    a_worker_made_anew_is_the_same_node(&stack, &admin).await;

    stack.goes_down();
    let label = "label=com.docker.compose.project=orion";
    for what in ["container", "network", "volume"] {
        let mut list = vec![what, "ls", "--quiet", "--filter", label];
        list.extend((what == "container").then_some("--all"));
        assert_eq!(stack.docker.run(&list), "", "{what} left behind");
    }
}

/// The container whose address this is.
fn container_at(stack: &Stack, ip: &str) -> String {
    let names = ["orion_worker-1_1", "orion_worker-2_1"];
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let found = names.into_iter().find(|name| stack.inspect(name, format) == ip);
    found.unwrap_or_else(|| panic!("no worker has the address {ip}")).to_owned()
}

/// Neither the database nor the API is to be had from a lease, and its limits are real.
async fn a_tenant_is_shut_in(stack: &Stack, ticket: &Ticket) {
    let addresses = |container: &str| {
        stack.inspect(container, "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}")
    };
    let database = addresses("orion_mariadb_1");
    let front = format!("{}.1.2", stack.docker.network());
    let reach =
        |host: &str, port: u16| format!("timeout 2 bash -c '</dev/tcp/{host}/{port}' 2>/dev/null; echo $?");
    let caddy = "orion.localhost";
    for (host, port, open) in [(database.trim(), 3306, false), (&front, 443, false), (caddy, 443, true)] {
        let code = ticket.by_password().run(&reach(host, port)).await.expect("a shell");
        assert_eq!(code.trim() == "0", open, "{host}:{port}: {code}");
    }
    let made = ticket.by_password().run("cat /proc/self/status; tty; ls -A /srv/orion/join /etc/ssh").await;
    let text = format!("{made:?}");
    assert!(text.contains("CapEff:\\t0000000000000000") && text.contains("NoNewPrivs:\\t1"), "{text}");
    let worker = container_at(stack, &ticket.host_ip);
    let limits = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.Privileged}}";
    assert_eq!(stack.inspect(&worker, limits), "1073741824 1000000000 512 false");
    let memory =
        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || true";
    assert_eq!(stack.inside(&worker, &["sh", "-c", memory]).trim(), "1073741824");
    // tail keeps what it may have to show: 1.2 GB, in 1 GiB.
    let too_much = "head -c 1200000000 /dev/zero | tail -c 1200000000 >/dev/null; echo ${PIPESTATUS[1]}";
    assert_eq!(ticket.by_password().run(too_much).await.as_deref(), Ok("137\n"), "killed by the limit");
}

/// Asserts that nothing of a lease account is left in the container.
fn nothing_is_left(stack: &Stack, container: &str) {
    let look = "awk -F: '$3 >= 200000 && $3 < 60000000' /etc/passwd /etc/group; ls -A /var/lib/orion/leases; \
                ls -A /home /tmp | grep -vx orion-probe; ps -eo uid=,args= | awk '$1 >= 200000'";
    let left = stack.inside(container, &["sh", "-c", look]);
    assert_eq!(left, "/home:\n\n/tmp:\n", "left in {container}");
}

/// Asserts that nobody is root without need, that nobody has rights without use, and that no secret is
/// where it can be read.
fn the_containers_are_no_more_than_they_must_be(stack: &Stack) {
    for service in
        ["orion_control-plane-1_1", "orion_control-plane-2_1", "orion_scheduler_1", "orion_scheduler_2"]
    {
        assert_eq!(stack.inside(service, &["id", "-u"]).trim(), "10001", "{service}");
        let rights = "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.CapAdd}}";
        assert_eq!(stack.inspect(service, rights), "true [ALL] []", "{service}");
    }
    for worker in ["orion_worker-1_1", "orion_worker-2_1"] {
        let added = stack.inspect(worker, "{{join .HostConfig.CapAdd \" \"}}");
        let added: BTreeSet<&str> = added.split(' ').collect();
        assert_eq!(added, BTreeSet::from(CAPABILITIES), "{worker}");
    }
    let join_token = stack.inside("orion_worker-1_1", &["cat", "/srv/orion/join/token"]);
    let names = ["admin_password", "database_password", "database_root_password", "master_key"];
    let mut secrets: Vec<String> = names.iter().map(|name| stack.secret(name)).collect();
    secrets.push(join_token.trim().to_owned());
    let containers = stack.docker.run(&["ps", "--all", "--quiet"]);
    let mut shown =
        stack.docker.run(&[&["inspect"], &containers.split_whitespace().collect::<Vec<_>>()[..]].concat());
    for image in ["control-plane", "scheduler", "worker"] {
        shown += &stack.docker.run(&["history", "--no-trunc", &format!("orion/{image}")]);
        shown += &stack.docker.run(&["inspect", &format!("orion/{image}")]);
    }
    shown += &stack.compose(&["logs", "--no-color"]);
    for secret in secrets {
        assert!(secret.len() > 20 && !shown.contains(&secret), "a secret is shown");
    }
}

/// Fixed addresses are nobody else's, metrics are there for a collector on `front`, and a browser finds the way from
/// the
/// one published port to the other.
fn the_networks_are_as_documented(stack: &Stack) {
    let network = stack.docker.network();
    for service in
        ["orion_control-plane-1_1", "orion_control-plane-2_1", "orion_scheduler_1", "orion_scheduler_2"]
    {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
        let addresses = stack.inspect(service, format);
        for fixed in [".1.", ".2."].map(|third| format!("{network}{third}")) {
            let given = addresses.split_whitespace().find_map(|address| address.strip_prefix(&fixed));
            let last: u8 = given.and_then(|last| last.parse().ok()).expect("on front and on nodes");
            assert!(last > 127, "{service}: {addresses}");
        }
    }
    for (name, port, count) in
        [("control-plane-1", 8080, 1), ("control-plane-2", 8080, 1), ("scheduler", 9464, 2)]
    {
        let script = format!(
            "for ip in $(getent ahostsv4 {name} | awk '{{print $1}}' | sort -u); do exec 3<>/dev/tcp/$ip/{port}; \
             printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; grep -c '^# EOF' <&3; done"
        );
        let collector =
            ["run", "--rm", "--network", "orion_front", "--entrypoint", "bash", "orion/control-plane", "-c"];
        let seen = stack.docker.run(&[&collector[..], &[&script]].concat());
        assert_eq!(seen.lines().collect::<Vec<_>>(), vec!["1"; count], "{name}");
    }
    let page = format!("http://localhost:{}/docs", stack.http_port);
    let shown =
        ["--silent", "--noproxy", "*", "--output", "/dev/null", "--write-out", "%{redirect_url}", &page];
    let shown = succeeded(Command::new("curl").args(shown).output().expect("Debian: curl"));
    assert_eq!(shown, format!("https://localhost:{}/docs", stack.https_port));
}

/// Examines, dumps and restores the stack by the commands of `docs/OPERATIONS.md`.
async fn the_stack_is_looked_at_dumped_and_restored(stack: &Stack, anyone: &User) {
    let examined = stack.compose(&["exec", "-T", "control-plane-1", "orion", "doctor"]);
    assert!(examined.contains("nodes: 2 looked at"), "{examined}");
    let services = ["control-plane-1", "control-plane-2", "scheduler"];
    let as_orion =
        |program: &str| format!("MYSQL_PWD=$(cat /run/secrets/database_password) exec {program} -u orion");
    let inside = |script: &str| stack.compose_command(&["exec", "-T", "mariadb", "sh", "-c", script]);
    let file = stack.secrets.path().join("orion.sql");
    let mut dump = inside(&as_orion("mariadb-dump --single-transaction orion"));
    dump.stdout(fs::File::create(&file).expect("own directory"));
    succeeded(dump.output().expect("it starts"));

    stack.compose(&[&["stop"], &services[..]].concat());
    let anew = r#"mariadb -e "DROP DATABASE orion; CREATE DATABASE orion CHARACTER SET utf8mb4""#;
    succeeded(inside(&as_orion(anew)).output().expect("it starts"));
    let dump = fs::File::open(file).expect("it was written");
    succeeded(inside(&as_orion("mariadb orion")).stdin(dump).output().expect("it starts"));
    let settle =
        ["run", "--rm", "--no-deps", "--entrypoint", "orion", "control-plane-1", "admin", "after-restore"];
    wait_until("the database is settled", PATIENCE, async || {
        let output = stack.compose_command(&settle).output().expect("it starts");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        if said.contains("2 nodes will be looked at") { Ok(()) } else { Err(said) }
    })
    .await;
    stack.compose(&[&["start"], &services[..]].concat());
    wait_until("the API answers again", BOOT, async || {
        let reply = anyone.try_send(Method::GET, "/api/health", None, None).await?;
        if reply.status == 200 { Ok(()) } else { Err(reply.body.to_string()) }
    })
    .await;
}

/// Asserts that the worker's name, address and identity outlive the container.
async fn a_worker_made_anew_is_the_same_node(stack: &Stack, admin: &User) {
    until_offered(admin, 2, PATIENCE).await;
    let before = identities(admin).await;
    stack.compose(&["up", "--detach", "--no-build", "--no-deps", "--force-recreate", "worker-1"]);
    let again = wait_until("the worker's link is up again", PATIENCE, async || {
        let nodes = admin.get("/api/nodes").await.expect(200);
        let up = |node: &Value| node["status"] == "alive" && node["agent"] == "up";
        if nodes.as_array().is_some_and(|list| list.iter().all(up)) { Ok(()) } else { Err(nodes.to_string()) }
    });
    again.await;
    assert_eq!(identities(admin).await, before);
    let ticket = admin.rent(json!({ "duration_hours": 1, "count": 2 })).await;
    for ticket in ticket {
        assert_eq!(ticket.by_password().run("id -un").await.as_deref(), Ok("admin\n"));
        admin.release(ticket.rental_id).await;
    }
}

async fn identities(admin: &User) -> BTreeSet<String> {
    let nodes = admin.get("/api/nodes").await.expect(200);
    let nodes = nodes.as_array().expect("a list");
    nodes.iter().map(|node| format!("{} {}", node["node_id"], node["hostname"])).collect()
}

/// The images' own build stage cannot run here (its compiler comes from a registry); this is what could break it
/// unseen: a file that a program is made of, and that `.dockerignore` keeps away.
#[test]
fn what_the_programs_are_made_of_is_in_the_build_context() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository");
    let ignore = fs::read_to_string(root.join(".dockerignore")).expect("a file");
    let sent: BTreeSet<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("a file");
    let members =
        manifest.split_once("members = [").and_then(|(_, rest)| rest.split_once(']')).expect("members").0;
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    let mut looked_at = 0;
    // Programs are made of src alone: e2e has only tests.
    let sources = members.iter().map(|member| root.join(member).join("src")).filter(|source| source.is_dir());
    for source in sources.flat_map(|directory| rust_files(&directory)) {
        let text = fs::read_to_string(&source).expect("a file");
        for (_, rest) in
            text.match_indices("include_str!(\"").map(|(at, found)| (at, &text[at + found.len()..]))
        {
            let named = rest.split('"').next().expect("a path");
            let file = source.parent().expect("a directory").join(named).canonicalize().expect("it is there");
            let inside = file.strip_prefix(&root).expect("a file of the repository");
            let top = inside.components().next().expect("a name").as_os_str().to_str().expect("a name");
            assert!(sent.contains(top), "{} is made of {}", source.display(), inside.display());
            looked_at += 1;
        }
    }
    for member in members {
        assert!(sent.contains(member.split('/').next().expect("a name")), "{member} is not sent");
    }
    assert!(looked_at > 5, "{looked_at} files that programs are made of: the search finds nothing");
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("readable").path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => rust_files(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}
