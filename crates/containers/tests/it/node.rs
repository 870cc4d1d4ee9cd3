//! One worker with a Docker engine for all tests of this binary, and containers on it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use orion_containers::{ContainerPlacement, Engine, Engines, PublishedPort};
use orion_domain::LeaseId;
use orion_domain::container::{ContainerRequest, ContainerSpec, container_name};
use orion_ssh::{ControlCa, HostKey, Pool, PoolConfig, Target};
use orion_testkit::{Worker, Workers};

pub const IMAGE: &str = "bb:1";

/// A worker with an engine, an image of BusyBox on it, and the way there.
pub struct Node {
    pub workers: Workers,
    ca: Arc<ControlCa>,
}

static SHARED: Mutex<Weak<Node>> = Mutex::new(Weak::new());
static LEASES: AtomicI64 = AtomicI64::new(1);
/// The runtime of sessions: those of a test's own runtime would end with the test.
pub static CA: LazyLock<Arc<ControlCa>> = LazyLock::new(|| Arc::new(ControlCa::generate()));

impl Node {
    /// The worker that tests share, for as long as one of them holds it. Those that harm the engine start their own.
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let node = Arc::new(Self::start());
            *shared = Arc::downgrade(&node);
            node
        })
    }

    pub fn start() -> Self {
        Self::start_beside(0)
    }

    /// A worker with an engine, and so many others in the same network.
    pub fn start_beside(others: usize) -> Self {
        let mut workers = Workers::start(0);
        workers.set_engines();
        workers.grow_to(1 + others);
        let ca = Arc::clone(&CA);
        workers[0].install_ca(&ca.public_line());
        workers[0].wait_for_engine();
        workers[0].make_image(IMAGE);
        Self { workers, ca }
    }

    pub fn worker(&self) -> &Worker {
        &self.workers[0]
    }

    pub fn target(&self) -> Target {
        let key: HostKey = self.worker().host_key().parse().expect("a host key");
        Target { node_id: 1, host: self.worker().ip().to_string(), port: 22, host_keys: vec![key] }
    }

    /// The engine, over a pool of the test's own.
    pub fn engine(&self) -> Engine {
        self.engine_with(PoolConfig::default())
    }

    pub fn engine_with(&self, config: PoolConfig) -> Engine {
        Engines::new(Pool::new(config, Arc::clone(&self.ca))).of(&self.target())
    }

    /// A pool of the test's own.
    pub fn pool(&self) -> Pool {
        Pool::new(PoolConfig::default(), Arc::clone(&self.ca))
    }

    /// Starts a container as the playbook does, on the node.
    pub fn run(&self, id: &str) {
        self.worker().sh(&format!("docker start {id} >/dev/null"));
    }
}

/// A request for a container that runs a script.
pub fn shell(script: &str) -> ContainerRequest {
    ContainerRequest {
        image: IMAGE.into(),
        command: vec!["sh".into(), "-c".into()],
        args: vec![script.into()],
        ..ContainerRequest::default()
    }
}

pub fn spec(request: ContainerRequest) -> ContainerSpec {
    ContainerSpec::check(request).expect("a good request")
}

/// A placement of the first container of a lease that no other test has.
pub fn placement() -> ContainerPlacement {
    let lease = LEASES.fetch_add(1, Ordering::Relaxed);
    ContainerPlacement {
        lease: LeaseId(lease),
        lease_ulid: format!("01K00000000000000000{lease:06}"),
        container_ulid: format!("01K11111111111111111{lease:06}"),
        number: 1,
        epoch: 1,
        cpu_milli: 500,
        memory_mb: 32,
        pids_max: 64,
        gpus: Vec::new(),
        network: None,
        ports: Vec::new(),
    }
}

pub fn name_of(placement: &ContainerPlacement) -> String {
    container_name(placement.lease, placement.number)
}

pub fn port(container_port: u16, node_port: u16) -> PublishedPort {
    PublishedPort { container_port, node_port, address: IpAddr::from([127, 0, 0, 1]) }
}
