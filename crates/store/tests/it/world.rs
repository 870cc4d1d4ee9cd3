//! A store on either database with users and nodes in it, and a way around the store for what only SQL can
//! show or break.

use crate::mariadb;
use base64::Engine;
use orion_domain::{
    LeaseId, NodeId, Refused, Secret, Timestamp, UserId,
    doctor::Check,
    lease::{Holding, Lease, OnNodeLoss},
    names::Port,
    node::{Facts, Health, Node},
    way_in::WayInReport,
};
use orion_store::{
    Cas, CreateUser, FinishReconcile, Finished, NewAccount, NewUser, NodeClaim, PlaceOutcome, PlaceRequest,
    Placement, Prober, RegisterNode, RegisterOutcome, Scope, Store, StoreConfig,
};
use sqlx::{AssertSqlSafe, MySqlPool, Row, SqlitePool};
use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

pub const TTL: Duration = Duration::from_secs(30);
pub const FIRST_UID: u32 = 200_000;

/// Runs each test of a module on both databases.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite { $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name($crate::world::World::sqlite().await).await; }
        )* }
        mod on_mariadb { $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name($crate::world::World::mariadb().await).await; }
        )* }
    };
}
pub(crate) use on_both;

/// Returns the moment `seconds` after a fixed one.
/// The refusal of a lease in the state `from`.
pub fn lease_refuses<T>(from: &'static str, attempted: &'static str) -> Cas<T, Refused> {
    Cas::Refused(Refused { noun: "lease", from, attempted })
}

/// The refusal of a node in the state `from`.
pub fn node_refuses<T>(from: &'static str, attempted: &'static str) -> Cas<T, Refused> {
    Cas::Refused(Refused { noun: "node", from, attempted })
}

pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros((1_800_000_000 + seconds) * 1_000_000)
}

#[derive(Clone)]
enum Raw {
    Sqlite(SqlitePool),
    Maria(MySqlPool),
}

/// An open transaction of [`World::hold`].
pub enum Held {
    Sqlite(sqlx::pool::PoolConnection<sqlx::Sqlite>),
    Maria(sqlx::pool::PoolConnection<sqlx::MySql>),
}

impl Held {
    pub async fn release(self) {
        self.end("ROLLBACK").await;
    }

    pub async fn commit(self) {
        self.end("COMMIT").await;
    }

    async fn end(self, sql: &'static str) {
        match self {
            Self::Sqlite(mut connection) => sqlx::raw_sql(sql).execute(&mut *connection).await.map(drop),
            Self::Maria(mut connection) => sqlx::raw_sql(sql).execute(&mut *connection).await.map(drop),
        }
        .unwrap();
    }
}

pub struct World {
    pub store: Store,
    pub url: String,
    raw: Raw,
    _directory: Option<tempfile::TempDir>,
}

pub fn sha(number: u32) -> String {
    format!("{number:064x}")
}

pub fn host_key(number: u32) -> String {
    let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
    blob.extend([0; 28]);
    blob.extend(number.to_be_bytes());
    format!("ssh-ed25519 {}", base64::engine::general_purpose::STANDARD.encode(blob))
}

pub fn config(url: &str) -> StoreConfig {
    StoreConfig { urls: vec![url.into()], connections_max: 10 }
}

/// A placed lease whose node is claimed for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub lease: Lease,
    pub claim: NodeClaim,
}

impl World {
    pub async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("orion.db").display());
        let store = Store::open(&config(&url)).await.unwrap();
        let raw = Raw::Sqlite(SqlitePool::connect(&url).await.unwrap());
        Self { store, url, raw, _directory: Some(directory) }
    }

    pub async fn mariadb() -> Self {
        let server = tokio::task::spawn_blocking(mariadb::shared).await.unwrap();
        Self::on(server).await
    }

    pub async fn on(server: &mariadb::Server) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let url = server.create_database(&format!("orion_{}", NUMBER.fetch_add(1, Relaxed))).await;
        let store = Store::open(&config(&url)).await.unwrap();
        let raw = Raw::Maria(MySqlPool::connect_lazy(&url).unwrap());
        Self { store, url, raw, _directory: None }
    }

    /// A database with an older version's dump in it, not upgraded yet.
    pub async fn before_upgrade_sqlite(dump: &str) -> Self {
        let world = Self::sqlite().await;
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}?mode=rwc", directory.path().join("old.db").display());
        let pool = SqlitePool::connect(&url).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(dump)).execute(&pool).await.unwrap();
        let url = url.trim_end_matches("?mode=rwc").to_owned();
        Self { url, raw: Raw::Sqlite(pool), _directory: Some(directory), ..world }
    }

    /// The same on MariaDB.
    pub async fn before_upgrade_mariadb(dump: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let world = Self::mariadb().await;
        let server = tokio::task::spawn_blocking(mariadb::shared).await.unwrap();
        let url = server.create_database(&format!("old_{}", NUMBER.fetch_add(1, Relaxed))).await;
        let pool = MySqlPool::connect(&url).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(dump)).execute(&pool).await.unwrap();
        Self { url, raw: Raw::Maria(pool), ..world }
    }

    /// Opens the database with this version's store, which brings it up to date.
    pub async fn upgraded(self) -> Self {
        let store = Store::open(&config(&self.url)).await.expect("the schema is brought up to date");
        Self { store, ..self }
    }

    /// Rows of texts.
    pub async fn texts(&self, sql: &str, columns: usize) -> Vec<Vec<String>> {
        let query = AssertSqlSafe(sql.to_owned());
        match &self.raw {
            Raw::Sqlite(pool) => {
                let rows = sqlx::query(query).fetch_all(pool).await.unwrap();
                rows.iter().map(|row| (0..columns).map(|column| row.get(column)).collect()).collect()
            }
            Raw::Maria(pool) => {
                let rows = sqlx::query(query).fetch_all(pool).await.unwrap();
                rows.iter().map(|row| (0..columns).map(|column| row.get(column)).collect()).collect()
            }
        }
    }

    /// A probe logged in to the node.
    pub async fn is_open(&self, id: NodeId, now: Timestamp) {
        self.store
            .agents()
            .set_way_in(id, &WayInReport { open: true, reason: String::new() }, Prober::Scheduler, now)
            .await
            .unwrap();
    }

    pub fn is_maria(&self) -> bool {
        matches!(self.raw, Raw::Maria(_))
    }

    /// Runs a statement behind the store's back.
    pub async fn sql(&self, sql: &str) -> Result<u64, sqlx::Error> {
        let query = AssertSqlSafe(sql.to_string());
        match &self.raw {
            Raw::Sqlite(pool) => Ok(sqlx::raw_sql(query).execute(pool).await?.rows_affected()),
            Raw::Maria(pool) => Ok(sqlx::raw_sql(query).execute(pool).await?.rows_affected()),
        }
    }

    /// Runs a statement in a transaction that stays open, so that what it wrote is locked.
    pub async fn hold(&self, sql: &str) -> Held {
        let (query, begin) =
            (AssertSqlSafe(sql.to_string()), if self.is_maria() { "BEGIN" } else { "BEGIN IMMEDIATE" });
        let mut held = match &self.raw {
            Raw::Sqlite(pool) => Held::Sqlite(pool.acquire().await.unwrap()),
            Raw::Maria(pool) => Held::Maria(pool.acquire().await.unwrap()),
        };
        match &mut held {
            Held::Sqlite(connection) => {
                sqlx::raw_sql(begin).execute(&mut **connection).await.unwrap();
                sqlx::raw_sql(query).execute(&mut **connection).await.unwrap();
            }
            Held::Maria(connection) => {
                sqlx::raw_sql(begin).execute(&mut **connection).await.unwrap();
                sqlx::raw_sql(query).execute(&mut **connection).await.unwrap();
            }
        }
        held
    }

    /// One number from the database.
    pub async fn count(&self, sql: &str) -> i64 {
        let query = AssertSqlSafe(sql.to_string());
        match &self.raw {
            Raw::Sqlite(pool) => sqlx::query_scalar(query).fetch_one(pool).await.unwrap(),
            Raw::Maria(pool) => sqlx::query_scalar(query).fetch_one(pool).await.unwrap(),
        }
    }

    pub async fn user(&self, name: &str) -> UserId {
        let name = name.parse().unwrap();
        match self.store.accounts().create(&NewUser::new(&name, "$argon2id$x"), at(0)).await.unwrap() {
            CreateUser::Created(id) => id,
            other => panic!("{other:?}"),
        }
    }

    /// A registration like `orion-agent`'s, with a good join token.
    pub fn registration(&self, number: u32) -> RegisterNode {
        RegisterNode {
            hostname: format!("node-{number}").parse().unwrap(),
            addr: format!("10.0.{}.{}", number / 200, number % 200 + 1).parse().unwrap(),
            port: Port::try_from(22).unwrap(),
            host_keys: vec![host_key(number).parse().unwrap()],
            facts: Facts { cpu_cores: Some(4), memory_mb: Some(8192), ..Facts::default() },
            tags: Vec::new(),
            boot_id: None,
            machine_id_sha256: None,
            body_sha256: sha(1_000_000 + number),
            join_token_sha256: Some(sha(7)),
            node_token_sha256_presented: None,
            new_node_token_sha256: sha(2_000_000 + number),
            now: at(0),
        }
    }

    /// The join token of [`World::registration`].
    pub async fn join_token(&self) {
        let known = self.count("SELECT COUNT(*) FROM join_tokens").await > 0;
        if !known {
            self.store.accounts().create_join_token(&sha(7), "test", None, None, None, at(0)).await.unwrap();
        }
    }

    pub async fn register(&self, request: &RegisterNode) -> Node {
        match self.store.nodes().register(request).await.unwrap() {
            RegisterOutcome::Created(node) => node,
            other => panic!("{other:?}"),
        }
    }

    pub async fn node(&self, id: NodeId) -> Node {
        self.store.nodes().get(id).await.unwrap().unwrap()
    }

    pub async fn lease(&self, id: LeaseId) -> Lease {
        self.store.leases().get(id).await.unwrap().unwrap()
    }

    pub async fn set_health(&self, id: NodeId, health: Health, now: Timestamp) -> Vec<LeaseId> {
        let version = self.node(id).await.version;
        let changed = self.store.nodes().set_health(id, version, health, "test", now).await.unwrap();
        if health == Health::Alive {
            // As a probe finds it then.
            let open = WayInReport { open: true, reason: String::new() };
            self.store.agents().set_way_in(id, &open, Prober::Scheduler, now).await.unwrap();
        }
        changed.done().expect("nobody else writes").leases
    }

    /// Admitted and alive, but dirty.
    pub async fn alive_node_from(&self, request: &RegisterNode) -> NodeId {
        self.join_token().await;
        let node = self.register(request).await;
        self.store.nodes().admit(node.id, node.version, at(0)).await.unwrap().done().unwrap();
        self.set_health(node.id, Health::Alive, at(0)).await;
        node.id
    }

    /// Ready to be rented.
    pub async fn free_node(&self, number: u32) -> NodeId {
        let id = self.alive_node_from(&self.registration(number)).await;
        self.clean(id, at(0)).await;
        id
    }

    pub async fn free_nodes(&self, count: u32) -> Vec<NodeId> {
        let mut nodes = Vec::new();
        for number in 1..=count {
            nodes.push(self.free_node(number).await);
        }
        nodes
    }

    pub async fn claim(&self, id: NodeId, now: Timestamp) -> NodeClaim {
        self.store.nodes().claim(id, "test", TTL, now).await.unwrap().expect("nobody has claimed it")
    }

    /// Finishes a reconcile that met no trouble.
    pub async fn finish(&self, claim: &NodeClaim, now: Timestamp) -> Finished {
        let result = FinishReconcile {
            applied_version: claim.version_when_done(),
            ready: claim.desired.iter().map(|desired| (desired.lease, Some(desired.until))).collect(),
            ..FinishReconcile::default()
        };
        match self.store.nodes().finish_reconcile(claim, &result, now).await.unwrap() {
            Cas::Done(finished) => finished,
            other => panic!("{other:?}"),
        }
    }

    pub async fn clean(&self, id: NodeId, now: Timestamp) -> Finished {
        let claim = self.claim(id, now).await;
        self.finish(&claim, now).await
    }

    /// The subordinate uid ranges of a clean node, as its reconcile reads them.
    pub async fn set_subordinate(&self, id: NodeId, ranges: &[(u32, u32)], now: Timestamp) {
        let claim = self.claim(id, now).await;
        let result = FinishReconcile {
            applied_version: claim.version_when_done(),
            subordinate: Some(ranges.to_vec()),
            ..FinishReconcile::default()
        };
        self.store.nodes().finish_reconcile(&claim, &result, now).await.unwrap().done().unwrap();
    }

    pub fn wish(&self, user: UserId, count: usize) -> PlaceRequest {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let account = NewAccount { password_hash: Secret::new("$6$salt$hash"), public_key: None };
        PlaceRequest {
            user,
            username: "alice".parse().unwrap(),
            count,
            from: at(0),
            until: at(3600),
            name: None,
            accounts: vec![account; count],
            tags: Vec::new(),
            holding: Holding::WholeNode,
            containers: Vec::new(),
            on_node_loss: OnNodeLoss::Migrate,
            nodes_max: None,
            request_key: format!("request-{}", NUMBER.fetch_add(1, Relaxed)),
            idem: None,
            first_turn: TTL,
            first_uid: FIRST_UID,
            last_uid: 60_000_000,
            now: at(0),
        }
    }

    /// Places leases and claims their nodes, as who provisions does.
    pub async fn place(&self, request: &PlaceRequest) -> Vec<Placed> {
        match self.store.leases().place(request).await.unwrap() {
            PlaceOutcome::Placed(placements) => self.claim_all(placements, request.now).await,
            other => panic!("{other:?}"),
        }
    }

    pub async fn claim_all(&self, placements: Vec<Placement>, now: Timestamp) -> Vec<Placed> {
        let mut placed = Vec::with_capacity(placements.len());
        for placement in placements {
            placed.push(self.claim_placed(placement, now).await);
        }
        placed
    }

    pub async fn claim_placed(&self, placement: Placement, now: Timestamp) -> Placed {
        let claim = self.store.nodes().claim_placed(&placement, "api-1", TTL, now).await.unwrap();
        Placed { claim: claim.expect("nobody else works on it"), lease: placement.lease }
    }

    /// A lease whose login works.
    pub async fn active_lease(&self, request: &PlaceRequest) -> Lease {
        let placement = self.place(request).await.remove(0);
        let finished = self.finish(&placement.claim, request.now).await;
        assert_eq!(finished.activated, [placement.lease.id]);
        self.lease(placement.lease.id).await
    }

    pub async fn kinds_of_lease(&self, id: LeaseId) -> Vec<String> {
        let events = self.store.events().of_lease(id, 100).await.unwrap();
        events.into_iter().map(|event| event.kind).collect()
    }

    /// Checks in the tables what must hold at any time.
    pub async fn check_invariants(&self) {
        assert_eq!(self.doubled_in("leases").await, 0, "I1: two leases have one node");
        let torn = "SELECT COUNT(*) FROM leases l LEFT JOIN nodes n ON n.id = l.occupies_node \
                    WHERE l.occupies_node IS NOT NULL AND (n.whole_lease IS NULL OR n.whole_lease <> l.id)";
        assert_eq!(self.count(torn).await, 0, "a lease has a node that does not know of it");
        let torn = "SELECT COUNT(*) FROM nodes n LEFT JOIN leases l ON l.id = n.whole_lease \
                    WHERE n.whole_lease IS NOT NULL AND (l.occupies_node IS NULL OR l.occupies_node <> n.id)";
        assert_eq!(self.count(torn).await, 0, "a node has a lease that does not know of it");
        let open = "SELECT COUNT(*) FROM leases l WHERE (SELECT COUNT(*) FROM lease_nodes h \
                    WHERE h.lease_id = l.id AND h.left_at IS NULL AND h.node_id = l.occupies_node) \
                    <> CASE WHEN l.occupies_node IS NULL THEN 0 ELSE 1 END";
        assert_eq!(self.count(open).await, 0, "the history of nodes disagrees with the lease");
        let lost = "SELECT COUNT(*) FROM leases l JOIN nodes n ON n.id = l.occupies_node \
                    WHERE l.state IN ('active', 'releasing') AND n.health = 'dead'";
        assert_eq!(self.count(lost).await, 0, "a lease is active, or ends, on a dead node");
        self.check_holds(at(0)).await;
        let uids = "SELECT COUNT(account_uid) - COUNT(DISTINCT account_uid) FROM leases";
        assert_eq!(self.count(uids).await, 0, "a uid was used twice");
    }

    /// Checks that the audit finds nothing wrong with leases, their nodes and their holds (I1).
    pub async fn check_holds(&self, now: Timestamp) {
        let findings = self.store.admin().audit(Scope::All, now).await.unwrap();
        let torn: Vec<_> = findings.iter().filter(|finding| finding.check == Check::I1).collect();
        assert!(torn.is_empty(), "{torn:#?}");
    }

    /// Nodes that more than one live lease is on.
    pub async fn doubled_in(&self, table: &str) -> i64 {
        let sql = format!(
            "SELECT COUNT(*) FROM (SELECT node_id FROM {table} WHERE state <> 'ended' \
             GROUP BY node_id HAVING COUNT(*) > 1) doubled"
        );
        self.count(&sql).await
    }
}
