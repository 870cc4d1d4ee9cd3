//! The API, the scheduler, the container engine and the node's sshd killed at several moments of orders for containers:
//! each order ends as it was asked for, once, and what is not Orion's is as before.

use super::{
    PATIENCE,
    container_life::{IMAGE, shell},
    services::{Service, Services},
    system::ROOM,
    user::{Reply, User},
};
use orion_testkit::{Agent, Worker, Workers, program, random_word, wait_until};
use reqwest::Method;
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};
use tokio::sync::SemaphorePermit;

/// Upper bound of the random delay added to each moment of a fault, in milliseconds.
const JITTER_MS: u64 = 80;
/// Ends at SIGTERM, at once: an engine that starts again waits for what does not.
pub const SCRIPT: &str = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";

/// Replicas and schedulers, each a process, and workers with an engine each.
pub struct Site {
    pub apis: Vec<Service>,
    pub schedulers: Vec<Service>,
    pub admin: User,
    pub workers: Workers,
    _services: Services,
    _room: SemaphorePermit<'static>,
}

impl Site {
    /// Starts so many of each; every worker is offered for containers.
    pub async fn start(apis: usize, schedulers: usize, workers: usize) -> Self {
        let room = ROOM.acquire().await.expect("never closed");
        let services = Services::new();
        let apis: Vec<Service> = (0..apis).map(|_| services.control_plane()).collect();
        let schedulers: Vec<Service> = (0..schedulers).map(|_| services.scheduler()).collect();
        for service in apis.iter().chain(&schedulers) {
            service.is_healthy().await;
        }
        let last = apis.last().expect("one at least");
        let admin = services.admin(last).await;
        let token = admin.post("/api/tokens", json!({ "note": "tests" })).await.expect(201);
        let agent =
            Agent::new(&program("orion-agent"), last.port(), token["token"].as_str().expect("a token"));
        let mut fleet = Workers::start(0);
        fleet.set_agent(agent.setting("ORION_REFUSED_RETRY_S", "1"));
        fleet.set_engines();
        fleet.grow_to(workers);
        for worker in fleet.all() {
            worker.wait_for_engine();
            worker.make_image(IMAGE);
        }
        let site = Self { apis, schedulers, admin, workers: fleet, _services: services, _room: room };
        wait_until("each node takes containers", PATIENCE, async || {
            let nodes = site.admin.get("/api/nodes").await.expect(200);
            let is_offered =
                |node: &&Value| node["offerable"] == true && node["containers"]["offered"] == true;
            let offered = nodes.as_array().expect("a list").iter().filter(is_offered).count();
            if offered == workers { Ok(()) } else { Err(nodes.to_string()) }
        })
        .await;
        site
    }

    pub fn worker_at(&self, ip: &str) -> &Worker {
        self.workers.all().iter().find(|worker| worker.ip().to_string() == ip).expect("one of ours")
    }
}

/// What is killed.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Api,
    Scheduler,
    Both,
    Engine,
    Sshd,
}

impl Fault {
    fn strike(self, site: &Site) {
        let worker = &site.workers[0];
        match self {
            Self::Api => site.apis[0].kill(),
            Self::Scheduler => site.schedulers[0].kill(),
            Self::Both => {
                site.apis[0].kill();
                site.schedulers[0].kill();
            }
            Self::Engine => worker.stop_engine(),
            Self::Sshd => {
                worker.stop_sshd();
                worker.sh("pkill -KILL sshd; :");
            }
        }
    }

    async fn mend(self, site: &Site) {
        let worker = &site.workers[0];
        match self {
            Self::Api => {
                site.apis[0].start();
                site.apis[0].answers().await;
            }
            Self::Scheduler => site.schedulers[0].start(),
            Self::Both => {
                site.schedulers[0].start();
                site.apis[0].start();
                site.apis[0].answers().await;
            }
            Self::Engine => worker.start_engine(),
            Self::Sshd => worker.start_sshd(),
        }
    }
}

/// An order, as a client sends it again until it is taken.
#[derive(Clone)]
struct Order {
    method: Method,
    path: String,
    body: Option<Value>,
    key: Option<String>,
}

impl Order {
    async fn send(&self, user: &User) -> Result<Reply, String> {
        user.try_send(self.method.clone(), &self.path, self.body.as_ref(), self.key.as_deref()).await
    }

    fn is_taken(reply: &Result<Reply, String>) -> bool {
        matches!(reply, Ok(reply) if [200, 201, 202].contains(&reply.status))
    }

    /// Sends the order again if its reply did not arrive.
    async fn until_taken(&self, user: &User, first: Result<Reply, String>) {
        if Self::is_taken(&first) {
            return;
        }
        // The API itself waits a minute for what it was told to do.
        wait_until(&format!("{} {} is taken", self.method, self.path), 3 * PATIENCE, async || {
            let reply = self.send(user).await;
            // Removed by the order whose reply was lost.
            let is_gone = self.method == Method::DELETE && matches!(&reply, Ok(reply) if reply.status == 404);
            if Self::is_taken(&reply) || is_gone { Ok(()) } else { Err(format!("{reply:?}")) }
        })
        .await;
    }
}

/// A lease whose containers are ordered about: two that run and one that was stopped, between two rounds.
struct Tenant {
    user: User,
    lease: i64,
    path: String,
    running: [String; 2],
    stopped: String,
}

impl Tenant {
    async fn new(site: &Site) -> Self {
        let user = User::sign_up(&site.apis[0].url(), "ida").await;
        let lease = user.rent_one().await.rental_id;
        let path = format!("/api/rentals/{lease}/containers");
        for name in ["a", "b", "c"] {
            user.post(&path, body(name)).await.expect(201);
        }
        user.post(&format!("{path}/c/stop"), json!({})).await.expect(200);
        let running = ["a", "b"].map(str::to_owned);
        Self { user, lease, path, running, stopped: "c".to_owned() }
    }

    /// One order of each kind: run a new one, start the stopped one, stop one, remove one.
    fn orders(&self, new: &str) -> Vec<Order> {
        let post = |path: String| Order { method: Method::POST, path, body: Some(json!({})), key: None };
        let [first, second] = &self.running;
        vec![
            Order { body: Some(body(new)), key: Some(random_word()), ..post(self.path.clone()) },
            post(format!("{}/{}/restart", self.path, self.stopped)),
            post(format!("{}/{first}/stop", self.path)),
            Order { method: Method::DELETE, body: None, ..post(format!("{}/{second}", self.path)) },
        ]
    }

    /// Gives the orders at once, and has something killed a moment later.
    async fn round(&mut self, site: &Site, fault: Fault, moment: u64) {
        let moment = moment + rand::random_range(0..JITTER_MS);
        let new = format!("n-{}", random_word());
        let orders = self.orders(&new);
        let sent: Vec<_> = orders
            .iter()
            .map(|order| {
                let (order, user) = (order.clone(), self.user.clone());
                tokio::spawn(async move { order.send(&user).await })
            })
            .collect();
        // The moment of the fault is what is varied, not a wait for a state.
        tokio::time::sleep(Duration::from_millis(moment)).await;
        fault.strike(site);
        let begun = std::time::Instant::now();
        fault.mend(site).await;
        let mut statuses = Vec::new();
        for (order, reply) in orders.iter().zip(sent) {
            let reply = reply.await.expect("no panic");
            statuses.push(reply.as_ref().ok().map(|reply| reply.status));
            order.until_taken(&self.user, reply).await;
        }
        let [stopped, _] = self.running.clone();
        self.running = [new, std::mem::replace(&mut self.stopped, stopped)];
        self.is_as_ordered(site).await;
        eprintln!("{fault:?} {moment} ms after orders with {statuses:?}: right after {:?}", begun.elapsed());
    }

    /// The containers are in the states that were asked for, and the engine has these and no others of Orion's.
    async fn is_as_ordered(&self, site: &Site) {
        let [first, second] = &self.running;
        let wanted: BTreeSet<(String, &str)> =
            [(first, "running"), (second, "running"), (&self.stopped, "exited")]
                .map(|(name, state)| (name.clone(), state))
                .into();
        wait_until("all is as ordered, once", 3 * PATIENCE, async || {
            let list = self.user.try_send(Method::GET, &self.path, None, None).await?.body;
            let views = list.as_array().ok_or_else(|| list.to_string())?;
            let text = |view: &Value, key: &str| view[key].as_str().unwrap_or_default().to_owned();
            let shown: BTreeSet<(String, String)> =
                views.iter().map(|view| (text(view, "name"), text(view, "state"))).collect();
            let is_right =
                shown.iter().map(|(name, state)| (name.clone(), state.as_str())).eq(wanted.clone());
            let mut on_node: Vec<String> = views
                .iter()
                .map(|view| format!("{} {}", text(view, "engine_id"), text(view, "state")))
                .collect();
            on_node.sort();
            let engine = of_orion(&site.workers[0]);
            let is_same = on_node == engine;
            if is_right && is_same { Ok(()) } else { Err(format!("{list}; on the engine: {engine:?}")) }
        })
        .await;
    }
}

fn body(name: &str) -> Value {
    let mut body = shell(name, SCRIPT);
    body["restart"] = json!("always");
    body
}

/// Engine's ids and states of the containers with a label and a name of Orion's, in order.
fn of_orion(worker: &Worker) -> Vec<String> {
    let listed = worker.sh("docker ps -a --no-trunc --filter label=orion.lease --filter name=^orion- \
         --format '{{.ID}} {{.State}}' | sort");
    listed.lines().map(str::to_owned).collect()
}

/// Puts on the engine what is not Orion's, some of it with a label or a name as Orion has them; returns what it is.
fn put_foreign(worker: &Worker) -> String {
    let label =
        "--label orion.lease=01K0000000000000000000000A --label orion.container=01K0000000000000000000000B";
    worker.sh(&format!(
        "docker volume create mine; docker network create --subnet 10.202.0.0/24 mine
         run() {{ docker run -d --restart always \"$@\" {IMAGE} sh -c \"{SCRIPT}\"; }}
         run --name mine --network mine -v mine:/data; run --name labelled {label}; run --name orion-424242-1
         docker create --name idle {IMAGE} sleep 1"
    ));
    foreign(worker)
}

fn foreign(worker: &Worker) -> String {
    worker.sh(
        "docker ps -a --no-trunc --format '{{.ID}} {{.Names}} {{.State}}' | grep -E ' (mine|labelled|orion-424242-1|idle) ' | sort
         docker network ls --no-trunc --format '{{.ID}} {{.Name}}' | grep ' mine$'; docker volume ls -q | grep -x mine",
    )
}

/// Whether nothing of a lease's containers is left on the worker; else what is.
pub fn nothing_left(worker: &Worker) -> Result<(), String> {
    let left = worker.sh(
        "docker ps -a --filter label=orion.lease --filter name=^orion- --format '{{.Names}} {{.State}}'
         docker network ls --filter name=^orion- --format '{{.Name}}'
         docker volume ls --filter label=orion.lease --format '{{.Name}}'
         ls -A /var/lib/orion/containers 2>/dev/null
         iptables-save | grep -i -e orion -e 10.201.; ls -A /root/.docker 2>/dev/null; :",
    );
    if left.is_empty() { Ok(()) } else { Err(left) }
}

/// Gives four orders again and again, each time with a fault so many milliseconds later: before, while or after each is
/// taken, written and carried out. In the end the lease is released, with the first of the faults.
async fn rounds(faults: &[(Fault, u64)]) {
    let site = Site::start(1, 1, 1).await;
    let worker = &site.workers[0];
    let before = put_foreign(worker);
    let mut ida = Tenant::new(&site).await;
    for (fault, moment) in faults {
        ida.round(&site, *fault, *moment).await;
    }
    let path = format!("/api/release/{}", ida.lease);
    let sent = tokio::spawn({
        let (path, user) = (path.clone(), ida.user.clone());
        async move { user.try_send(Method::POST, &path, Some(&json!({})), None).await }
    });
    tokio::time::sleep(Duration::from_millis(rand::random_range(20..600))).await;
    faults[0].0.strike(&site);
    faults[0].0.mend(&site).await;
    if !Order::is_taken(&sent.await.expect("no panic")) {
        wait_until("the release is taken, or it was", 3 * PATIENCE, async || {
            let reply = ida.user.try_send(Method::POST, &path, Some(&json!({})), None).await?;
            if [200, 404, 409].contains(&reply.status) { Ok(()) } else { Err(reply.body.to_string()) }
        })
        .await;
    }
    ida.user.until(ida.lease, "over", |lease| lease["state"] == "ended").await;
    wait_until("nothing is left of it", 2 * PATIENCE, async || nothing_left(worker)).await;
    wait_until("what is not Orion's is as before", PATIENCE, async || {
        let now = foreign(worker);
        if now == before { Ok(()) } else { Err(format!("{now}, not {before}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_for_containers_survive_a_kill_of_the_api_and_the_scheduler_at_any_moment() {
    use Fault::{Api, Both, Scheduler};
    rounds(&[(Api, 10), (Api, 200), (Scheduler, 250), (Both, 500), (Api, 1100)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_for_containers_survive_a_kill_of_the_engine_or_sshd_at_any_moment() {
    use Fault::{Engine, Sshd};
    let engine = [10, 200, 450, 1000].map(|moment| (Engine, moment));
    let sshd = [50, 300, 900].map(|moment| (Sshd, moment));
    rounds(&[&engine[..], &sshd].concat()).await;
}
