//! What playbooks and the node itself do with containers: start, deadline, removal.

use std::time::Duration;

use orion_containers::{ContainerPlacement, Engine};
use orion_domain::container::{ContainerRequest, EngineState, network_name};
use orion_fleet::playbook::{Playbook, Playbooks, Reply, Report, read_reply};
use orion_ssh::ExecRequest;
use orion_testkit::wait_until;

use crate::node::{Node, name_of, placement, shell, spec};

/// Longest that a node takes from a deadline until the last container is gone.
const LIMIT: Duration = Duration::from_secs(15);

async fn play(node: &Node, playbook: &Playbook, epoch: u64, values: &[(&str, &str)]) -> Reply {
    let mut request = ExecRequest::new(playbook.command());
    request.stdin = playbook.stdin(epoch, values).expect("good values");
    request.timeout = Duration::from_secs(120);
    let output = node.pool().exec(&node.target(), request).await.expect("it runs");
    read_reply(playbook, Some(output.status), &output.stdout, &output.stderr, &[])
}

pub fn done(reply: Reply) -> Report {
    let Reply::Done(report) = reply else { panic!("it ended with {reply:?}") };
    report
}

fn playbooks() -> Playbooks {
    Playbooks::builtin().expect("the repository's playbooks are good")
}

/// Makes and starts a container that runs for ever, whatever happens, with a deadline.
async fn lease(node: &Node, engine: &Engine, deadline_s: &str) -> (ContainerPlacement, String) {
    let request = ContainerRequest {
        restart: Some("always".into()),
        ..shell("trap '' TERM; while :; do sleep 0.2; done")
    };
    let placement = placement();
    let created = engine.create(&spec(request), &placement).await.expect("it is made");
    let report = done(start(node, 1, &placement, &created.id, deadline_s).await);
    assert_eq!(report.get("started"), Some("yes"), "{report:?}");
    (placement, created.id)
}

/// What the firewall is told.
pub struct Rules<'a> {
    pub denied: &'a str,
    pub proxies: &'a str,
    pub ports: &'a str,
    pub public_ports: &'a str,
}

impl Default for Rules<'_> {
    fn default() -> Self {
        Self { denied: "169.254.0.0/16", proxies: "", ports: "", public_ports: "" }
    }
}

impl<'a> Rules<'a> {
    fn values(&self) -> [(&'a str, &'a str); 4] {
        [
            ("denied", self.denied),
            ("proxies", self.proxies),
            ("ports", self.ports),
            ("public_ports", self.public_ports),
        ]
    }
}

async fn start(node: &Node, epoch: u64, lease: &ContainerPlacement, id: &str, deadline_s: &str) -> Reply {
    start_with(node, epoch, lease, id, deadline_s, &Rules::default()).await
}

pub async fn start_with(
    node: &Node,
    epoch: u64,
    lease: &ContainerPlacement,
    id: &str,
    deadline_s: &str,
    rules: &Rules<'_>,
) -> Reply {
    let number = lease.lease.to_string();
    let own = [
        ("lease", number.as_str()),
        ("lease_ulid", &lease.lease_ulid),
        ("container", id),
        ("deadline_s", deadline_s),
        ("agent", "no"),
    ];
    let values: Vec<_> = own.into_iter().chain(rules.values()).collect();
    play(node, playbooks().start_container(), epoch, &values).await
}

async fn keep(node: &Node, lease: &ContainerPlacement, deadline_s: &str) {
    let number = lease.lease.to_string();
    let own = [
        ("lease", number.as_str()),
        ("lease_ulid", lease.lease_ulid.as_str()),
        ("deadline_s", deadline_s),
        ("agent", "no"),
    ];
    let values: Vec<_> = own.into_iter().chain(Rules::default().values()).collect();
    done(play(node, playbooks().keep_containers(), 1, &values).await);
}

pub async fn remove(node: &Node, lease: &ContainerPlacement) -> Reply {
    let values = [("lease_ulid", lease.lease_ulid.as_str()), ("grace_s", "1")];
    play(node, playbooks().remove_containers(), 1, &values).await
}

/// Names of all containers of the node, in order; without the engine's API.
fn names(node: &Node) -> Vec<String> {
    let listed = node.worker().sh("docker ps --all --format '{{.Names}}' | sort");
    listed.lines().map(str::to_owned).collect()
}

async fn until_gone(node: &Node, lease: &ContainerPlacement) {
    wait_until("the node ended the containers", LIMIT, async || {
        let there = names(node);
        if there.contains(&name_of(lease)) { Err(format!("{there:?}")) } else { Ok(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_starts_only_under_the_epoch_and_with_the_lease_it_was_made_for() {
    let node = Node::start();
    let engine = node.engine();
    let (first, second) = (placement(), placement());
    let mine = engine.create(&spec(shell("exec sleep 600")), &first).await.unwrap();
    let bad = ContainerRequest { command: vec!["/no/such".into()], args: Vec::new(), ..shell("") };
    let unable = engine.create(&spec(bad), &second).await.unwrap();
    assert_eq!(done(start(&node, 7, &first, &mine.id, "3600").await).get("started"), Some("yes"));
    assert_eq!(done(start(&node, 7, &first, &mine.id, "3600").await).get("started"), Some("yes"), "again");
    assert_eq!(start(&node, 6, &second, &unable.id, "3600").await, Reply::StaleEpoch { seen: 7 });
    assert_eq!(engine.inspect(&unable.id).await.unwrap().state, EngineState::Created);
    let others = start(&node, 7, &first, &unable.id, "3600").await;
    assert!(matches!(others, Reply::Refused { status: 69, .. }), "{others:?}");
    let report = done(start(&node, 7, &second, &unable.id, "3600").await);
    assert_eq!(report.get("started"), Some("no"));
    assert!(report.get("problem").is_some_and(|text| text.contains("/no/such")), "{report:?}");
    let zero = start(&node, 7, &first, &mine.id, "0").await;
    assert_eq!(zero, Reply::BadValue("deadline_s".into()));

    node.worker().stop_engine();
    let down = start(&node, 7, &first, &mine.id, "3600").await;
    assert!(matches!(down, Reply::Refused { status: 71, .. }), "{down:?}");
    assert!(matches!(remove(&node, &first).await, Reply::StaleEpoch { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_starts_also_when_its_engine_was_killed_in_the_middle_of_starting_it() {
    let node = Node::start();
    let (engine, worker) = (node.engine(), node.worker());
    // An engine that starts again waits for what does not end at SIGTERM.
    let script = "trap 'exit 0' TERM; while :; do sleep 600 & wait; done";
    for try_number in 0..6 {
        let placement = placement();
        let made =
            wait_until("it is made", LIMIT, async || engine.create(&spec(shell(script)), &placement).await)
                .await;
        let moment = 0.1 + 0.04 * f64::from(try_number);
        worker.sh(&format!("docker start {} >/dev/null 2>&1 & sleep {moment}", made.id));
        worker.stop_engine();
        worker.start_engine();
        let report = done(start(&node, 1, &placement, &made.id, "3600").await);
        assert_eq!(report.get("started"), Some("yes"), "killed after {moment} s: {report:?}");
        let state = worker.sh(&format!("docker inspect -f '{{{{.State.Status}}}}' {}", made.id));
        assert_eq!(state.trim(), "running");
        worker.sh(&format!("docker rm -f {}", made.id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_deadline_the_node_alone_ends_the_containers_of_that_lease_and_no_others() {
    let node = Node::start();
    let engine = node.engine();
    let (over, _) = lease(&node, &engine, "3").await;
    let (extended, _) = lease(&node, &engine, "4").await;
    keep(&node, &extended, "3600").await;
    let label = format!("orion.lease={}", over.lease_ulid);
    node.worker()
        .sh(&format!("docker run -d --name operators-own --label {label} bb:1 sleep 600 >/dev/null"));
    until_gone(&node, &over).await;
    let file = format!("/var/lib/orion/containers/{}", over.lease_ulid);
    wait_until("it is remembered", LIMIT, async || {
        let text = node.worker().sh(&format!("cat {file}"));
        if text.ends_with("locked=1\n") { Ok(()) } else { Err(text) }
    })
    .await;
    assert_eq!(names(&node), ["operators-own".to_owned(), name_of(&extended)]);
    // One that is started past the playbook ends, too.
    let late = engine.create(&spec(shell("exec sleep 600")), &over).await.unwrap();
    node.run(&late.id);
    until_gone(&node, &over).await;
    done(remove(&node, &over).await);
    assert!(!node.worker().try_sh(&format!("test -e {file}")).status.success());
    assert_eq!(names(&node), ["operators-own".to_owned(), name_of(&extended)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_holds_also_when_the_engine_is_down_or_hangs_at_that_moment() {
    let node = Node::start();
    let engine = node.engine();
    let (down, _) = lease(&node, &engine, "3").await;
    node.worker().stop_engine();
    wait_until("the deadline is over", LIMIT, async || {
        let log = node.worker().sh("cat /run/orion/deadline.log");
        if log.contains("does not answer") { Ok(()) } else { Err(log) }
    })
    .await;
    node.worker().start_engine();
    until_gone(&node, &down).await;

    // With curl in place of the engine's own program, and after a pause of the engine.
    node.worker().sh("mv /usr/bin/docker /usr/bin/docker-hidden");
    let (frozen, _) = lease(&node, &engine, "2").await;
    node.worker().freeze_engine();
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.worker().thaw_engine();
    until_gone(&node, &frozen).await;
    let (left, _) = lease(&node, &engine, "3600").await;
    assert_eq!(done(remove(&node, &left).await).count("containers"), 1);
    assert!(!names(&node).contains(&name_of(&left)));
}

/// The rules that Orion's chains begin with, and those that lead there.
fn rules(node: &Node) -> Vec<String> {
    let rules = node.worker().sh("iptables -S");
    let own = |rule: &&str| {
        rule.starts_with("-A ORION") || rule.contains("-j ORION-FORWARD") || rule.contains("-j ORION-INPUT")
    };
    rules.lines().filter(own).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_networks_stay_closed_after_a_flush_and_a_restart_of_the_engine() {
    let node = Node::start();
    let engine = node.engine();
    let (kept, _) = lease(&node, &engine, "3600").await;
    let whole = rules(&node);
    assert!(whole.contains(&"-A DOCKER-USER -j ORION-FORWARD".to_owned()), "{whole:?}");
    let same = async |what: &str| {
        wait_until(what, LIMIT, async || {
            let (mut now, mut wanted) = (rules(&node), whole.clone());
            // A flush takes the way to DOCKER-USER.
            for rules in [&mut now, &mut wanted] {
                for rule in rules.iter_mut() {
                    *rule = rule.replace("-A DOCKER-USER", "-A FORWARD");
                }
                rules.sort();
            }
            if now == wanted { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    };
    node.worker().sh("iptables -F");
    same("the node itself closes them again").await;
    node.worker().sh("iptables -F; iptables -P INPUT ACCEPT");
    keep(&node, &kept, "3600").await;
    node.worker().stop_engine();
    node.worker().start_engine();
    node.worker().sh("iptables -I DOCKER-USER -j ACCEPT; iptables -I INPUT -j ACCEPT");
    keep(&node, &kept, "3600").await;
    let first = node.worker().sh("iptables -S DOCKER-USER | sed -n 2p; iptables -S INPUT | sed -n 2p");
    assert_eq!(first, "-A DOCKER-USER -j ORION-FORWARD\n-A INPUT -j ORION-INPUT\n");
    node.worker().sh("command -v iptables | xargs -I{} mount --bind /bin/false {}");
    let placement = placement();
    let made = engine.create(&spec(shell("exec sleep 600")), &placement).await.unwrap();
    let report = done(start(&node, 1, &placement, &made.id, "3600").await);
    assert_eq!(report.get("started"), Some("no"), "no container starts in an open network: {report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lease_had_is_removed_and_what_is_not_orions_stays() {
    let node = Node::start();
    let engine = node.engine();
    let placement = placement();
    engine.create_network(placement.lease, &placement.lease_ulid, "10.201.9.0/28").await.unwrap();
    let network = network_name(placement.lease);
    let placement = ContainerPlacement { network: Some(network.clone()), ..placement };
    let created = engine.create(&spec(shell("exec sleep 600")), &placement).await.unwrap();
    done(start(&node, 1, &placement, &created.id, "3600").await);
    let label = format!("--label orion.lease={}", placement.lease_ulid);
    node.worker().sh(&format!(
        "docker volume create {label} orion-data >/dev/null; docker volume create mine >/dev/null; \
         docker network create mine >/dev/null; docker run -d --name mine bb:1 sleep 600 >/dev/null"
    ));
    let report = done(remove(&node, &placement).await);
    assert_eq!(report.count("containers"), 1);
    assert_eq!(names(&node), ["mine"]);
    assert_eq!(node.worker().sh("docker volume ls -q"), "mine\n");
    let networks = node.worker().sh("docker network ls --format '{{.Name}}'");
    assert!(!networks.contains(&network) && networks.contains("mine"), "{networks}");
    assert_eq!(done(remove(&node, &placement).await).count("containers"), 0, "again");
    assert!(
        !node.worker().sh("iptables -S").contains("ORION"),
        "the firewall's rules go with the last container"
    );
    wait_until("the deadline process has nothing left to do", LIMIT, async || {
        let there = node.worker().try_sh("test -e /run/orion/deadline.pid").status.success();
        if there { Err("it runs") } else { Ok(()) }
    })
    .await;
}
