//! A store on either database with users and nodes in it, and a way around the store for what only SQL can
//! show or break.

use crate::mariadb;
use base64::Engine;
use orion_domain::{
    LeaseId, NodeId, Secret, Timestamp, UserId,
    lease::{Lease, OnNodeLoss},
    names::Port,
    node::{Facts, Health, Node},
};
use orion_store::{
    Cas, CreateUser, FinishReconcile, Finished, NewAccount, NodeClaim, PlaceOutcome, PlaceRequest, Placement,
    RegisterNode, RegisterOutcome, Role, Store, StoreConfig,
};
use sqlx::{AssertSqlSafe, MySqlPool, SqlitePool};
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

/// So many seconds after a fixed moment.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros((1_800_000_000 + seconds) * 1_000_000)
}

#[derive(Clone)]
enum Raw {
    Sqlite(SqlitePool),
    Maria(MySqlPool),
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
        match self.store.create_user(&name, "$argon2id$x", Role::User, at(0), None).await.unwrap() {
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
            self.store.create_join_token(&sha(7), "test", None, None, None, at(0)).await.unwrap();
        }
    }

    pub async fn register(&self, request: &RegisterNode) -> Node {
        match self.store.register_node(request).await.unwrap() {
            RegisterOutcome::Created(node) => node,
            other => panic!("{other:?}"),
        }
    }

    pub async fn node(&self, id: NodeId) -> Node {
        self.store.node(id).await.unwrap().unwrap()
    }

    pub async fn lease(&self, id: LeaseId) -> Lease {
        self.store.lease(id).await.unwrap().unwrap()
    }

    pub async fn set_health(&self, id: NodeId, health: Health, now: Timestamp) -> Vec<LeaseId> {
        let version = self.node(id).await.version;
        let changed = self.store.set_health(id, version, health, "test", now).await.unwrap();
        changed.done().expect("nobody else writes").leases
    }

    /// Admitted and alive, but dirty.
    pub async fn alive_node_from(&self, request: &RegisterNode) -> NodeId {
        self.join_token().await;
        let node = self.register(request).await;
        self.store.admit(node.id, node.version, at(0)).await.unwrap().done().unwrap();
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
        self.store.claim_node(id, "test", TTL, now).await.unwrap().expect("nobody has claimed it")
    }

    /// What a reconcile without trouble reports.
    pub async fn finish(&self, claim: &NodeClaim, now: Timestamp) -> Finished {
        let result = FinishReconcile {
            applied_version: claim.desired_version,
            account_ready: claim.desired.as_ref().map(|desired| desired.lease),
            deadline_applied: claim.desired.as_ref().map(|desired| desired.until),
            ..FinishReconcile::default()
        };
        match self.store.finish_reconcile(claim, &result, now).await.unwrap() {
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
            applied_version: claim.desired_version,
            subordinate: Some(ranges.to_vec()),
            ..FinishReconcile::default()
        };
        self.store.finish_reconcile(&claim, &result, now).await.unwrap().done().unwrap();
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
            on_node_loss: OnNodeLoss::Migrate,
            request_key: format!("request-{}", NUMBER.fetch_add(1, Relaxed)),
            idem: None,
            holder: "api-1".into(),
            claim_ttl: TTL,
            first_uid: FIRST_UID,
            last_uid: 60_000_000,
            now: at(0),
        }
    }

    pub async fn place(&self, request: &PlaceRequest) -> Vec<Placement> {
        match self.store.place(request).await.unwrap() {
            PlaceOutcome::Placed(placements) => placements,
            other => panic!("{other:?}"),
        }
    }

    /// A lease whose login works.
    pub async fn active_lease(&self, request: &PlaceRequest) -> Lease {
        let placement = self.place(request).await.remove(0);
        let finished = self.finish(&placement.claim, request.now).await;
        assert_eq!(finished.activated, [placement.lease.id]);
        self.lease(placement.lease.id).await
    }

    pub async fn kinds_of_lease(&self, id: LeaseId) -> Vec<String> {
        let events = self.store.events_of_lease(id, 100).await.unwrap();
        events.into_iter().map(|event| event.kind).collect()
    }

    /// What must hold at any time, asked of the tables.
    pub async fn check_invariants(&self) {
        assert_eq!(self.doubled_in("leases").await, 0, "I1: two leases have one node");
        let torn = "SELECT COUNT(*) FROM leases l LEFT JOIN nodes n ON n.id = l.occupies_node \
                    WHERE l.occupies_node IS NOT NULL AND (n.lease_id IS NULL OR n.lease_id <> l.id)";
        assert_eq!(self.count(torn).await, 0, "a lease has a node that does not know of it");
        let torn = "SELECT COUNT(*) FROM nodes n LEFT JOIN leases l ON l.id = n.lease_id \
                    WHERE n.lease_id IS NOT NULL AND (l.occupies_node IS NULL OR l.occupies_node <> n.id)";
        assert_eq!(self.count(torn).await, 0, "a node has a lease that does not know of it");
        let open = "SELECT COUNT(*) FROM leases l WHERE (SELECT COUNT(*) FROM lease_nodes h \
                    WHERE h.lease_id = l.id AND h.left_at IS NULL AND h.node_id = l.occupies_node) \
                    <> CASE WHEN l.occupies_node IS NULL THEN 0 ELSE 1 END";
        assert_eq!(self.count(open).await, 0, "the history of nodes disagrees with the lease");
        let uids = "SELECT COUNT(*) - COUNT(DISTINCT account_uid) FROM leases";
        assert_eq!(self.count(uids).await, 0, "a uid was used twice");
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
