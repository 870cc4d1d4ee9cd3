//! A database, workers that are registered in it, and any number of schedulers.

use crate::{PATIENCE, process::Scheduler};
use orion_domain::{
    EventId, LeaseId, NodeId, Secret, Timestamp,
    brake::Brake,
    lease::{Holding, Lease, LeaseState, OnNodeLoss},
    node::{Facts, Node},
    share::Share,
};
use orion_fleet::Fleet;
use orion_service::{
    assemble::{Settings, assemble},
    sealed::MasterKey,
};
use orion_store::{
    CreateUser, Event, EventTail, NewAccount, NewUser, PlaceOutcome, PlaceRequest, RegisterNode,
    RegisterOutcome, Store,
};
use orion_testkit::{MariaDb, Worker, Workers, wait_until};
use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Worlds at once: each has several processes a worker, and the machine may have two cores.
static ROOM: Semaphore = Semaphore::const_new(2);
/// Number of schedulers started here.
static STARTED: AtomicU32 = AtomicU32::new(0);
/// User ids that no account of the machine has, nor any lease.
const FIRST_UID: u32 = 1_000_000_000;

/// Running schedulers and workers with their database; all of it is gone when the value is dropped.
pub struct World {
    // First, so that no scheduler sees the workers go.
    schedulers: Vec<Scheduler>,
    workers: Workers,
    nodes: Vec<NodeId>,
    fleet: Fleet,
    database_url: String,
    master_key: Secret,
    directory: TempDir,
    _room: SemaphorePermit<'static>,
}

impl World {
    /// `workers` nodes, all of them clean and offered, looked after by `schedulers`.
    pub async fn start(workers: usize, schedulers: usize) -> Self {
        let room = ROOM.acquire().await.expect("never closed");
        let database_url = MariaDb::shared().create_database().url;
        let master_key = MasterKey::generate();
        let settings = Settings::new(vec![database_url.clone()], 8, master_key.clone());
        let assembled = assemble(&settings).await.expect("it assembles");
        let mut world = Self {
            schedulers: Vec::new(),
            workers: Workers::start(workers),
            nodes: Vec::new(),
            fleet: assembled.fleet,
            database_url,
            master_key: master_key.to_base64(),
            directory: tempfile::tempdir().expect("a temporary directory"),
            _room: room,
        };
        let ca = assembled.keys.control_ca.public_line();
        world
            .store()
            .accounts()
            .create_join_token(&sha(7), "test", None, None, None, world.now())
            .await
            .expect("stored");
        for (number, worker) in world.workers.all().to_vec().iter().enumerate() {
            worker.install_ca(&ca);
            let node = world.register(worker, u32::try_from(number).expect("few")).await;
            world.nodes.push(node);
        }
        for _ in 0..schedulers {
            world.add_scheduler();
        }
        for node in world.nodes.clone() {
            world.until_node(node, "offered", Node::is_offerable).await;
        }
        world.until_each_node_has_its_scheduler(PATIENCE).await;
        // Nothing is given up in the first seconds of a scheduler, and of a node that changed hands.
        let hold = orion_scheduler::SchedulerConfig::default().hold_after_start;
        let settled = world.now().plus(hold + Duration::from_secs(1));
        wait_until("the schedulers have looked for long enough", PATIENCE, async || {
            (world.now() >= settled).then_some(())
        })
        .await;
        world
    }

    /// Returns the request with which a worker registers.
    pub fn registration(&self, worker: &Worker, number: u32) -> RegisterNode {
        let key = worker.host_key();
        RegisterNode {
            hostname: worker.name().parse().expect("a name"),
            addr: worker.ip().to_string().parse().expect("an address"),
            port: 22.try_into().expect("a port"),
            host_keys: vec![key.parse().expect("a key")],
            facts: Facts::default(),
            tags: Vec::new(),
            body_sha256: sha(1_000 + number),
            join_token_sha256: Some(sha(7)),
            node_token_sha256_presented: None,
            boot_id: None,
            machine_id_sha256: None,
            new_node_token_sha256: sha(2_000 + number),
            now: self.now(),
        }
    }

    async fn register(&self, worker: &Worker, number: u32) -> NodeId {
        let request = self.registration(worker, number);
        let RegisterOutcome::Created(node) = self.store().nodes().register(&request).await.expect("stored")
        else {
            panic!("{} is known already", worker.name())
        };
        node.id
    }

    pub fn add_scheduler(&mut self) {
        // Other test processes have other ids, which tells their schedulers' connections from these.
        let uid = FIRST_UID + std::process::id() * 64 + STARTED.fetch_add(1, Relaxed) % 64;
        let key = self.master_key.expose();
        self.schedulers.push(Scheduler::start(self.directory.path(), uid, &self.database_url, key));
    }

    pub fn store(&self) -> &Store {
        &self.fleet.store
    }

    pub fn now(&self) -> Timestamp {
        self.fleet.now()
    }

    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    pub fn worker(&self, node: NodeId) -> &Worker {
        let index = self.nodes.iter().position(|known| *known == node).expect("a node of this world");
        &self.workers[index]
    }

    pub fn scheduler(&mut self, index: usize) -> &mut Scheduler {
        &mut self.schedulers[index]
    }

    /// A scheduler is gone; the others keep their order.
    pub fn forget_scheduler(&mut self, index: usize) {
        self.schedulers.remove(index);
    }

    /// The names of all schedulers that run here, in the order of their start.
    pub async fn names(&self) -> Vec<String> {
        wait_until("every scheduler beats", PATIENCE, async || {
            let replicas = self.store().cluster().replicas().await.map_err(|error| error.to_string())?;
            let name_of = |scheduler: &Scheduler| {
                let pid = format!("-{}-", scheduler.pid());
                replicas
                    .iter()
                    .find(|r| r.kind == "scheduler" && r.name.contains(&pid))
                    .map(|r| r.name.clone())
            };
            let names: Option<Vec<String>> = self.schedulers.iter().map(name_of).collect();
            names.ok_or_else(|| format!("{replicas:?}"))
        })
        .await
    }

    /// Returns for each node the scheduler that should look after it.
    pub async fn owners(&self) -> Vec<(NodeId, usize)> {
        let names = self.names().await;
        let owner = |node: NodeId| {
            let mut owners =
                (0..names.len()).filter(|index| Share::new(&names[*index], names.clone()).is_mine(node));
            (node, owners.next().expect("every node has an owner"))
        };
        self.nodes.iter().map(|node| owner(*node)).collect()
    }

    /// The nodes of one scheduler.
    pub async fn nodes_of(&self, index: usize) -> Vec<NodeId> {
        let owners = self.owners().await;
        owners.into_iter().filter(|(_, owner)| *owner == index).map(|(node, _)| node).collect()
    }

    /// The scheduler that should look after a node.
    pub async fn owner_of(&self, node: NodeId) -> usize {
        let owners = self.owners().await;
        owners.into_iter().find(|(of, _)| *of == node).expect("a node of this world").1
    }

    /// Waits until each scheduler has sessions with exactly its own nodes.
    pub async fn until_each_node_has_its_scheduler(&self, at_most: Duration) {
        self.until_shared(&[], at_most).await;
    }

    /// The same, but for nodes that are `dead`.
    pub async fn until_each_live_node_has_its_scheduler(&self, dead: &[NodeId]) {
        self.until_shared(dead, PATIENCE).await;
    }

    async fn until_shared(&self, dead: &[NodeId], at_most: Duration) {
        let mut owners = self.owners().await;
        owners.retain(|(node, _)| !dead.contains(node));
        wait_until("every node is looked after by its own scheduler alone", at_most, async || {
            let sessions: Vec<_> = self.schedulers.iter().map(Scheduler::sessions).collect();
            for (node, owner) in &owners {
                let ip = self.worker(*node).ip();
                let holders: Vec<usize> =
                    (0..sessions.len()).filter(|s| sessions[*s].contains_key(&ip)).collect();
                if holders != [*owner] {
                    return Err(format!("{node} ({ip}) should be with {owner}, is with {holders:?}"));
                }
            }
            Ok(())
        })
        .await;
    }

    pub async fn node(&self, node: NodeId) -> Node {
        self.store().nodes().get(node).await.expect("the database answers").expect("it is known")
    }

    /// Waits until the node is as `wanted` says.
    pub async fn until_node(&self, node: NodeId, what: &str, wanted: impl Fn(&Node) -> bool) -> Node {
        wait_until(&format!("node {node}: {what}"), PATIENCE, async || {
            let seen = self.node(node).await;
            if wanted(&seen) { Ok(seen) } else { Err(format!("{}: {}", seen.status(), seen.health_reason)) }
        })
        .await
    }

    pub async fn until_brake(&self, what: &str, wanted: impl Fn(&Brake) -> bool) -> Brake {
        wait_until(what, PATIENCE, async || {
            let brake = self.store().cluster().brake().await.map_err(|error| error.to_string())?;
            if wanted(&brake) { Ok(brake) } else { Err(format!("{brake:?}")) }
        })
        .await
    }

    /// All events so far.
    pub async fn events(&self) -> Vec<Event> {
        let mut tail = EventTail::resume(self.store(), EventId(0)).await.expect("a tail");
        tail.poll(self.store()).await.expect("events")
    }

    /// The kinds of what happened to a node.
    pub async fn kinds_of(&self, node: NodeId) -> Vec<String> {
        let events = self.store().events().of_node(node, 500).await.expect("events");
        events.into_iter().map(|event| event.kind).collect()
    }

    /// Counts the events of `kind` on a node.
    pub async fn count_of(&self, node: NodeId, kind: &str) -> usize {
        self.kinds_of(node).await.iter().filter(|seen| *seen == kind).count()
    }

    /// A lease whose login works, on any free node.
    pub async fn lease(&self) -> (LeaseId, NodeId) {
        let now = self.now();
        let name = "alice".parse().expect("a name");
        let made = self.store().accounts().create(&NewUser::new(&name, "x"), now).await.expect("stored");
        let CreateUser::Created(user) = made else { panic!("one lease a world") };
        let account = NewAccount {
            password_hash: Secret::new(
                "$6$saltsaltsaltsalt$bsrPd5nmVHkUWtBuSFhQBPwoAqtNIR6UCdfDQ0qZzV8JQqCRXYbHzkbZuyf.\
                 5TPD5LbnhhvXDHJYIDUhfEDFX1",
            ),
            public_key: None,
        };
        let config = &self.fleet.config;
        let request = PlaceRequest {
            user,
            username: name,
            count: 1,
            from: now,
            until: now.plus(Duration::from_secs(3600)),
            name: None,
            accounts: vec![account],
            tags: Vec::new(),
            holding: Holding::WholeNode,
            containers: Vec::new(),
            on_node_loss: OnNodeLoss::Migrate,
            nodes_max: None,
            request_key: "request".into(),
            idem: None,
            first_turn: config.claim_ttl,
            first_uid: orion_domain::reconcile::FIRST_UID,
            last_uid: orion_domain::reconcile::LAST_UID,
            now,
        };
        let PlaceOutcome::Placed(mut placements) =
            self.store().leases().place(&request).await.expect("stored")
        else {
            panic!("no node is free")
        };
        let done = self.fleet.provision(placements.remove(0)).await.expect("a node takes it");
        (done.lease, done.node)
    }

    /// Waits until the lease is `Active` on another node than `left`, and gives that one.
    pub async fn until_moved(&self, lease: LeaseId, left: NodeId) -> NodeId {
        wait_until("the lease is active on another node", PATIENCE, async || {
            let seen: Lease =
                self.store().leases().get(lease).await.map_err(|e| e.to_string())?.ok_or("it is gone")?;
            if let LeaseState::Active { node } = seen.state
                && node != left
            {
                return Ok(node);
            }
            Err(format!("{:?}", seen.state))
        })
        .await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for scheduler in &self.schedulers {
                let log = scheduler.log();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(60)..].join("\n");
                eprintln!("--- scheduler {} ---\n{last}", scheduler.pid());
            }
        }
    }
}

pub fn sha(number: u32) -> String {
    format!("{number:064x}")
}
