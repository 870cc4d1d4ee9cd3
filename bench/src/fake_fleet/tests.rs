//! The simulated fleet under Orion's own client: it must behave as a node does.

use super::{
    address, public_host_key,
    server::{Fleet, Mode, listen, serve},
};
use orion_fleet::playbook::{Playbook, Playbooks, Reply, read_reply};
use orion_ssh::{ControlCa, ExecRequest, Kind, Pool, PoolConfig, SshError, Stage, Target};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(20);

struct World {
    fleet: Arc<Fleet>,
    pool: Pool,
    port: u16,
}

impl World {
    fn new(nodes: usize) -> Self {
        Self::of(|authority| Fleet::new(nodes, authority))
    }

    /// A world whose clock says what the test says, in milliseconds.
    fn by_clock(nodes: usize, clock: Arc<AtomicU64>) -> Self {
        let now_ms = move || clock.load(Relaxed);
        Self::of(|authority| Fleet::with_clock(nodes, authority, Box::new(now_ms)))
    }

    fn of(fleet: impl FnOnce(&str) -> Result<Fleet, String>) -> Self {
        let authority = ControlCa::generate();
        let fleet = Arc::new(fleet(&authority.public_line()).unwrap());
        let listener = listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(serve(fleet.clone(), listener));
        Self { fleet, pool: Pool::new(PoolConfig::default(), Arc::new(authority)), port }
    }

    fn target(&self, node: usize) -> Target {
        Target {
            node_id: i64::try_from(node).unwrap() + 1,
            host: address(node).to_string(),
            port: self.port,
            host_keys: vec![public_host_key(node).parse().unwrap()],
        }
    }

    async fn run(&self, node: usize, playbook: &Playbook, values: &[(&str, &str)]) -> Reply {
        let mut request = ExecRequest::new(playbook.command());
        request.stdin = playbook.stdin(1, values).unwrap();
        let output = self.pool.exec(&self.target(node), request).await.unwrap();
        read_reply(playbook, Some(output.status), &output.stdout, &output.stderr, &[])
    }

    /// Asks the node and waits for its answer, however slow this machine is.
    async fn look_at(&self, node: usize) {
        self.pool.keepalive(&self.target(node), LIMIT).await.unwrap();
    }

    async fn keepalive(&self, node: usize) -> Result<(), SshError> {
        self.pool.keepalive(&self.target(node), Duration::from_millis(300)).await
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("within 20 s")
}

#[tokio::test]
async fn each_address_is_a_node_with_a_host_key_and_accounts_of_its_own() {
    let world = World::new(3);
    let playbooks = Playbooks::builtin().unwrap();
    let account = [
        ("user", "alice"),
        ("uid", "200007"),
        ("lease", "1"),
        ("lease_ulid", "01K0000000000000000000000A"),
        ("is_new", "yes"),
        ("password_hash", "$6$salt$hash"),
        ("public_key", ""),
        ("deadline_s", "3600"),
        ("agent", "no"),
    ];
    let made = within(world.run(1, playbooks.create_user(), &account)).await;
    assert!(matches!(made, Reply::Done(_)), "{made:?}");
    let range = [("uid_min", "200000"), ("uid_max", "300000")];
    for node in 0..3 {
        let Reply::Done(report) = within(world.run(node, playbooks.list_users(), &range)).await else {
            panic!("node {node} does not list")
        };
        let accounts = report.node_inventory().unwrap().accounts;
        assert_eq!(accounts.len(), usize::from(node == 1), "node {node}");
    }
    assert_eq!((world.fleet.open(), world.fleet.accounts()), (3, 1));
    let gone = within(world.run(1, playbooks.delete_user(), &[("user", "alice"), ("uid", "200007")])).await;
    assert!(matches!(gone, Reply::Done(_)), "{gone:?}");
    assert_eq!(world.fleet.accounts(), 0);

    let mut other = world.target(2);
    other.host_keys = world.target(0).host_keys;
    let error = within(world.pool.fresh_handshake(&other)).await.unwrap_err();
    assert!(matches!(error.kind, Kind::HostKeyMismatch { .. }), "{error}");
}

#[tokio::test]
async fn only_the_control_ca_is_let_in() {
    let world = World::new(1);
    let stranger = Pool::new(PoolConfig::default(), Arc::new(ControlCa::generate()));
    let error = within(stranger.connect(&world.target(0))).await.unwrap_err();
    assert_eq!(error.kind, Kind::AuthRejected, "{error}");
    within(world.pool.fresh_handshake(&world.target(0))).await.unwrap();
}

#[tokio::test]
async fn a_node_that_hangs_accepts_connections_and_says_nothing_until_it_answers_again() {
    let world = World::new(2);
    for node in 0..2 {
        within(world.pool.connect(&world.target(node))).await.unwrap();
        world.keepalive(node).await.unwrap();
    }
    world.fleet.set_mode(&[0], Mode::Hangs);
    assert_eq!(world.keepalive(0).await.unwrap_err().kind, Kind::TimedOut);
    let error = within(world.pool.fresh_handshake(&world.target(0))).await.unwrap_err();
    assert_eq!((error.stage, error.kind), (Stage::Banner, Kind::TimedOut));
    world.keepalive(1).await.unwrap();
    world.fleet.set_mode(&[0], Mode::Answers);
    world.keepalive(0).await.unwrap();
    within(world.pool.fresh_handshake(&world.target(0))).await.unwrap();
}

#[tokio::test]
async fn a_node_that_dies_ends_its_sessions_and_takes_no_new_ones() {
    let world = World::new(2);
    for node in 0..2 {
        within(world.pool.connect(&world.target(node))).await.unwrap();
    }
    assert_eq!(world.fleet.open(), 2);
    world.fleet.set_mode(&[1], Mode::Dead);
    within(world.pool.closed(2)).await;
    let error = within(world.pool.connect(&world.target(1))).await.unwrap_err();
    assert!(matches!(error.kind, Kind::Closed | Kind::Refused), "{error}");
    world.keepalive(0).await.unwrap();
    world.fleet.set_mode(&[1], Mode::Answers);
    within(world.pool.connect(&world.target(1))).await.unwrap();
    assert_eq!(world.fleet.open(), 2);
}

#[tokio::test]
async fn a_node_that_is_left_alone_shows_in_the_gaps() {
    let clock = Arc::new(AtomicU64::new(1));
    let world = World::by_clock(2, clock.clone());
    for node in 0..2 {
        within(world.pool.connect(&world.target(node))).await.unwrap();
        world.look_at(node).await;
    }
    world.fleet.clear_gaps();
    // Node 1 is not looked at any more; its gap has not ended and counts all the same.
    for _ in 0..8 {
        clock.fetch_add(100, Relaxed);
        world.look_at(0).await;
    }
    let gaps = world.fleet.gaps();
    assert_eq!(gaps.max_ms, 800);
    assert_eq!(gaps.count, 0, "node 0 was looked at all the time, node 1 not at all");
    world.look_at(1).await;
    let gaps = world.fleet.gaps();
    assert_eq!((gaps.count, gaps.max_ms), (1, 800), "{gaps:?}");
}
