//! A control plane in this process on a database of its own, with the same live content on each.

use crate::{
    broken::{Broken, Context as _},
    ground::{PUBLIC_KEY, place, register_in},
};
use axum::Router;
use orion_control_plane::{App, Config, router::router};
use orion_domain::{
    LeaseId, NodeId, Secret, Timestamp, UserId, WebhookId, event::HealthChange, event::LeaseEvent,
    event::NodeEvent,
};
use orion_service::{
    assemble::{Settings, assemble},
    sealed::MasterKey,
};
use orion_store::{EventTail, NewEvent, NewWebhook, Store, StoreError};
use orion_testkit::MariaDb;
use sqlx::{
    AssertSqlSafe, MySqlPool, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Nodes; each but one has a lease.
pub const NODES: usize = 20;
/// Leases of the tenant who asks.
const LEASES: usize = 10;
/// Events of one node and one lease that both sides have, as many as a reply shows.
const EVENTS: usize = 200;
/// Reason for the end of a lease.
pub const OVER: &str = r#"{"why":"released"}"#;
/// Password of every account here.
pub const PASSWORD: &str = "correct horse battery";

/// A kind of database.
#[derive(Clone, Copy, Debug)]
pub enum Engine {
    /// A server of its own.
    MariaDb,
    /// A file.
    Sqlite,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MariaDb => "MariaDB",
            Self::Sqlite => "SQLite",
        })
    }
}

/// The database without the store.
pub enum Sql {
    MariaDb(MySqlPool),
    Sqlite(SqlitePool),
}

impl Sql {
    /// Runs a statement.
    ///
    /// # Errors
    /// The database's.
    pub async fn run(&self, sql: &str) -> Result<(), Broken> {
        let what = sql.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::MariaDb(pool) => sqlx::raw_sql(sql).execute(pool).await.map(drop),
            Self::Sqlite(pool) => sqlx::raw_sql(sql).execute(pool).await.map(drop),
        }
        .context(&what)
    }
}

/// One control plane.
pub struct Side {
    pub app: App,
    pub router: Router,
    pub sql: Sql,
    /// Account that has the leases.
    pub tenant: UserId,
    /// Account of an admin.
    pub admin: UserId,
    /// An account that requests are made about.
    pub spare: UserId,
    pub leases: Vec<LeaseId>,
    /// A lease of the tenant that is over.
    pub ended: LeaseId,
    pub nodes: Vec<NodeId>,
    pub webhook: WebhookId,
    /// Events after this one are the same on each side.
    pub events_until: i64,
    counter: AtomicUsize,
    _data: TempDir,
    _server: Option<MariaDb>,
}

impl Side {
    /// The accounts and the nodes; nothing lives yet.
    ///
    /// # Errors
    /// When the database cannot be made.
    pub async fn start(engine: Engine) -> Result<Self, Broken> {
        let data = tempfile::tempdir().context("a temporary directory")?;
        let file = data.path().join("orion.db");
        let (server, url) = match engine {
            Engine::MariaDb => {
                let server = MariaDb::start();
                let url = server.create_database().url;
                (Some(server), url)
            }
            Engine::Sqlite => (None, format!("sqlite:{}", file.display())),
        };
        let master_key = MasterKey::generate();
        let settings = Settings::new(vec![url.clone()], 8, master_key.clone());
        let assembled = assemble(&settings).await.context("a control plane")?;
        let mut config = Config::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), master_key);
        (config.signups_per_hour, config.signups_per_minute) = (0, 0);
        (config.requests_of_user, config.requests_of_address) = (0, 0);
        let app = App::new(config, assembled.fleet, &assembled.keys, CancellationToken::new());
        app.compare_clocks().await;
        let sql = match engine {
            Engine::MariaDb => Sql::MariaDb(crate::ground::open_sql(&url).await?),
            Engine::Sqlite => {
                let options = SqliteConnectOptions::new()
                    .filename(&file)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Off);
                Sql::Sqlite(SqlitePool::connect_with(options).await.context("the database")?)
            }
        };
        let mut made = Vec::new();
        for name in ["root-of-all", "tenant", "spare"] {
            made.push(
                app.accounts()
                    .make_admin(name, Secret::new(PASSWORD))
                    .await
                    .map_err(|error| Broken::new(format!("the account {name}: {error:?}")))?,
            );
        }
        let [admin, tenant, spare] = made[..] else { return Err(Broken::new("three accounts")) };
        sql.run("UPDATE users SET role = 'user' WHERE username IN ('tenant', 'spare')").await?;
        register_in(&app.store, NODES, 1, app.now()).await?;
        let nodes = app.store.nodes().all().await.context("the nodes")?.iter().map(|node| node.id).collect();
        Ok(Self {
            router: router(app.clone()),
            app,
            sql,
            tenant,
            admin,
            spare,
            leases: Vec::new(),
            ended: LeaseId(0),
            nodes,
            webhook: WebhookId(0),
            events_until: 0,
            counter: AtomicUsize::new(0),
            _data: data,
            _server: server,
        })
    }

    /// Adds the live state: every node is rented, one lease has just ended, one webhook is for a kind of
    /// event that never occurs.
    ///
    /// # Errors
    /// The database's.
    pub async fn live(&mut self) -> Result<(), Broken> {
        let last = EventTail::from_now(&self.app.store).await.context("the last event")?;
        self.events_until = last.position().0;
        self.make_offerable("1 = 1").await?;
        place(&self.app.store, self.admin, NODES - LEASES).await?;
        let placed = place(&self.app.store, self.tenant, LEASES).await?;
        self.leases = placed.iter().map(|placement| placement.lease.id).collect();
        let last = self.leases.pop().ok_or_else(|| Broken::new("no lease"))?;
        self.sql.run("UPDATE nodes SET applied_version = desired_version, claim_token = NULL, claimed_until = NULL").await?;
        let active = "UPDATE leases SET state = 'active' WHERE state = 'provisioning'";
        self.sql.run(active).await?;
        self.end(last).await?;
        self.ended = last;
        for _ in 0..EVENTS {
            self.tell().await.context("an event")?;
        }
        for node in &self.nodes {
            let change =
                HealthChange { reason: "it answers".into(), was: orion_domain::node::Health::Unknown };
            self.told(NewEvent::new(NodeEvent::Alive(change)).of_node(*node)).await?;
        }
        for row in self.store().leases().list(None, false, LeaseId(0), 100).await.context("leases")? {
            let node = row.lease.state.occupies().unwrap_or(NodeId(0));
            self.told(NewEvent::new(LeaseEvent::Activated { node }).of_lease(row.lease.id)).await?;
        }
        let new = NewWebhook {
            uid: "01J00000000000000000000000".into(),
            url: "http://127.0.0.1:1/".into(),
            kinds: vec!["never.happens".into()],
            secret_sealed: vec![7; 64],
            created_by: None,
        };
        self.webhook = self.app.store.webhooks().create(&new, self.now()).await.context("a webhook")?.id;
        // A scheduler has come as far as everything.
        self.sql.run("UPDATE webhooks SET position = (SELECT MAX(id) FROM events)").await?;
        self.app.store.cluster().heartbeat("benchmark", "scheduler", self.now()).await.context("a beat")?;
        match &self.sql {
            Sql::MariaDb(_) => self.sql.run("ANALYZE TABLE events, leases, lease_nodes").await,
            Sql::Sqlite(_) => self.sql.run("PRAGMA wal_checkpoint(TRUNCATE)").await,
        }
    }

    /// Writes an event of the first node and the first lease.
    ///
    /// # Errors
    /// The database's.
    pub async fn tell(&self) -> Result<(), StoreError> {
        let event = NewEvent::new(LeaseEvent::Extended { until: self.now() })
            .of_node(self.first_node())
            .of_user(self.tenant)
            .of_lease(self.leases.first().copied());
        self.store().events().append(&event, self.now()).await
    }

    /// The node that tasks ask about.
    pub fn first_node(&self) -> NodeId {
        self.nodes.first().copied().unwrap_or(NodeId(0))
    }

    async fn told(&self, event: NewEvent) -> Result<(), Broken> {
        self.store().events().append(&event, self.now()).await.context("an event")
    }

    /// Nodes become as if a scheduler had found them alive and clean.
    ///
    /// # Errors
    /// The database's.
    pub async fn make_offerable(&self, which: &str) -> Result<(), Broken> {
        let sql = format!(
            "UPDATE nodes SET admission = 'admitted', health = 'alive', health_reason = 'SSH answers; no agent', \
             way_in = 'open', applied_version = desired_version, claim_token = NULL, claimed_until = NULL WHERE {which}"
        );
        self.sql.run(&sql).await
    }

    /// One node becomes free: that of the lease that was placed the last time, if any.
    ///
    /// # Errors
    /// The database's.
    pub async fn free_a_node(&self) -> Result<(), Broken> {
        self.end_those_of(Some(self.spare)).await?;
        self.make_offerable("whole_lease IS NULL").await
    }

    /// Ends every lease.
    ///
    /// # Errors
    /// The database's.
    pub async fn end_all(&self) -> Result<(), Broken> {
        self.end_those_of(None).await
    }

    async fn end_those_of(&self, user: Option<UserId>) -> Result<(), Broken> {
        for row in self.store().leases().list(user, false, LeaseId(0), 100).await.context("leases")? {
            self.end(row.lease.id).await?;
        }
        Ok(())
    }

    /// Ends a lease, as a release does whose node is clean.
    ///
    /// # Errors
    /// The database's.
    pub async fn end(&self, lease: LeaseId) -> Result<(), Broken> {
        let sql = format!("UPDATE nodes SET whole_lease = NULL WHERE whole_lease = {lease}");
        self.sql.run(&sql).await?;
        let now = self.now().as_micros();
        let sql = format!(
            "UPDATE leases SET state = 'ended', state_reason = '{OVER}', ended_at = {now}, occupies_node = NULL, from_node = NULL, \
             live_name = NULL, password_hash = '' WHERE id = {lease}"
        );
        self.sql.run(&sql).await
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        self.app.now()
    }

    /// The store of the control plane.
    pub fn store(&self) -> &Store {
        &self.app.store
    }

    /// A number that was not given before.
    pub fn count(&self) -> usize {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// A public key that a tenant may bring.
    pub const fn public_key() -> &'static str {
        PUBLIC_KEY
    }
}
