//! A control plane on a port of its own, and clients of it.

use crate::contract::{self, Exchange};
use orion_control_plane::{App, Config, crypto::sha256_hex, serve::serve};
use orion_domain::{
    LeaseId, NodeId, Secret, UserId,
    lease::{Holding, OnNodeLoss},
    node::Health,
    way_in::WayInReport,
};
use orion_service::{
    assemble::{Settings, assemble},
    sealed::MasterKey,
};
use orion_store::{Cas, FinishReconcile, NewAccount, PlaceOutcome, PlaceRequest, Prober};
use orion_testkit::{KeyPair, MariaDb, random_word};
use reqwest::{Method, RequestBuilder, Response, header};
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::client::IntoClientRequest};
use tokio_util::sync::CancellationToken;

/// Kind of database in which the control plane keeps its state.
#[derive(Clone, Copy, Debug)]
pub enum Database {
    Sqlite,
    MariaDb,
}

/// A password that all rules allow.
pub const PASSWORD: &str = "correct horse battery";

/// A running API; it stops when this is dropped.
pub struct Api {
    pub app: App,
    url: String,
    database: String,
    http: reqwest::Client,
    shutdown: CancellationToken,
    addresses: AtomicU8,
    _data: TempDir,
}

impl Api {
    /// Starts the API with the default settings.
    pub async fn start(database: Database) -> Self {
        Self::start_with(database, |_| {}).await
    }

    /// Starts the API with settings of the test's own.
    pub async fn start_with(database: Database, configure: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let url = match database {
            Database::Sqlite => format!("sqlite:{}", data.path().join("orion.db").display()),
            Database::MariaDb => MariaDb::shared().create_database().url,
        };
        Self::start_on(url, data, configure).await
    }

    /// Starts the API on the database at `url`.
    pub async fn start_on(url: String, data: TempDir, configure: impl FnOnce(&mut Config)) -> Self {
        Self::open(url, data, MasterKey::generate(), configure).await
    }

    /// Starts another replica on the same database, with the same master key.
    pub async fn replica(&self) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        Self::open(self.database.clone(), data, self.app.config.master_key.clone(), |_| {}).await
    }

    /// Starts another replica with settings of its own.
    pub async fn start_on_the_same(other: &Self, configure: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        Self::open(other.database.clone(), data, other.app.config.master_key.clone(), configure).await
    }

    /// Starts the API on the database at `database`, with this master key.
    pub async fn open(
        database: String,
        data: TempDir,
        master_key: MasterKey,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        let settings = Settings::new(vec![database.clone()], 8, master_key);
        let assembled = assemble(&settings).await.expect("it assembles");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut config = Config::new(address, settings.master_key);
        // All clients of all tests have one address.
        (config.signups_per_hour, config.signups_per_minute) = (0, 0);
        (config.requests_of_user, config.requests_of_address) = (0, 0);
        config.requests_of_worker = 0;
        // The workers of these tests are nobody.
        config.worker_networks = vec!["127.0.0.0/8".parse().expect("a network")];
        configure(&mut config);
        let shutdown = CancellationToken::new();
        let app = App::new(config, assembled.fleet, &assembled.keys, shutdown.clone());
        tokio::spawn(serve(app.clone(), listener));
        // Only fails where there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30));
        Self {
            app,
            url: format!("http://{address}"),
            database,
            http: http.build().expect("a client"),
            shutdown,
            addresses: AtomicU8::new(1),
            _data: data,
        }
    }

    /// The URL of its database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Returns the address on which the API listens.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// A link of an agent with this node token, on which nothing was said yet.
    pub async fn open_link(&self, node_token: &str) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
        let mut request =
            format!("ws://{}/api/workers/link", self.address()).into_client_request().expect("a request");
        let bearer = format!("Bearer {node_token}").parse().expect("a header");
        request.headers_mut().insert(header::AUTHORIZATION, bearer);
        tokio_tungstenite::connect_async(request).await.expect("a link").0
    }

    /// A request without a token.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// `GET`, with a token unless that is empty.
    pub async fn get(&self, path: &str, token: &str) -> Reply {
        Reply::of(with(self.request(Method::GET, path), token)).await
    }

    /// `POST` of a JSON body, with a token unless that is empty.
    pub async fn post(&self, path: &str, token: &str, body: &Value) -> Reply {
        Reply::of(with(self.request(Method::POST, path), token).json(body)).await
    }

    /// The same with an idempotency key.
    pub async fn post_keyed(&self, path: &str, key: &str, body: &Value) -> Reply {
        Reply::of(self.request(Method::POST, path).header("Idempotency-Key", key).json(body)).await
    }

    /// The same with a token.
    pub async fn post_keyed_as(&self, path: &str, key: &str, body: &Value, token: &str) -> Reply {
        let request = with(self.request(Method::POST, path), token);
        Reply::of(request.header("Idempotency-Key", key).json(body)).await
    }

    /// Signs up with [`PASSWORD`] and logs in; the token.
    pub async fn user(&self, name: &str) -> String {
        let body = json!({ "username": name, "password": PASSWORD });
        self.post("/auth/signup", "", &body).await.expect(201);
        self.log_in(name).await
    }

    /// Makes an admin and logs in; the token.
    pub async fn admin(&self, name: &str) -> String {
        self.app.accounts().make_admin(name, Secret::new(PASSWORD)).await.expect("an admin");
        self.log_in(name).await
    }

    /// A new token of an account with [`PASSWORD`].
    pub async fn log_in(&self, name: &str) -> String {
        let reply = self.post("/auth/login", "", &json!({ "username": name, "password": PASSWORD })).await;
        reply.expect(200)["token"].as_str().expect("a token").to_owned()
    }

    /// A join token, put into the database as `POST /api/tokens` does.
    pub async fn join_token(&self) -> String {
        let token = format!("orion-join_{}", random_word());
        let sha256 = sha256_hex(token.as_bytes());
        let made =
            self.app.store.accounts().create_join_token(&sha256, "", None, None, None, self.app.now()).await;
        made.expect("a join token");
        token
    }

    /// An address on loopback that no other worker of this API has; nothing listens at its port 1.
    pub fn worker_ip(&self) -> String {
        format!("127.9.0.{}", self.addresses.fetch_add(1, Ordering::Relaxed))
    }

    /// The body of a worker's registration.
    pub fn worker(&self, hostname: &str, host_key: &KeyPair) -> Value {
        let keys = [host_key.public_line()];
        json!({ "hostname": hostname, "ip": self.worker_ip(), "ssh_port": 1, "host_keys": keys })
    }

    /// A node that is on offer as far as the database knows.
    pub async fn offered_node(&self, hostname: &str) -> NodeId {
        let body = self.worker(hostname, &KeyPair::generate());
        let join = self.join_token().await;
        let registered = self.post("/api/workers/register", &join, &body).await.expect(201);
        let id = NodeId(registered["node_id"].as_i64().expect("a number"));
        let (store, now) = (&self.app.store, self.app.now());
        let version = store.nodes().get(id).await.expect("a node").expect("registered").version;
        let Cas::Done(node) = store.nodes().admit(id, version, now).await.expect("admitted") else {
            panic!("the node changed meanwhile")
        };
        store.nodes().set_health(id, node.version, Health::Alive, "SSH answers", now).await.expect("alive");
        let open = WayInReport { open: true, reason: String::new() };
        store.agents().set_way_in(id, &open, Prober::Scheduler, now).await.expect("open");
        let claim = store.nodes().claim(id, "test", Duration::from_secs(10), now).await.expect("claimed");
        let claim = claim.expect("nobody else claims it");
        let applied =
            FinishReconcile { applied_version: claim.desired_version, ..FinishReconcile::default() };
        store.nodes().finish_reconcile(&claim, &applied, now).await.expect("applied");
        assert!(store.nodes().get(id).await.expect("a node").expect("registered").is_offerable());
        id
    }

    /// Places a lease of `name`, who may have `nodes_max` nodes. Whether it was placed.
    pub async fn place(&self, name: &str, nodes_max: Option<u32>) -> bool {
        let wish = PlaceRequest { nodes_max, ..self.wish(name).await };
        let placed = self.app.store.leases().place(&wish).await.expect("an outcome");
        matches!(placed, PlaceOutcome::Placed(_))
    }

    /// Places a slice of `name` beside others on any node that has room.
    pub async fn place_slice(&self, name: &str, cpu_milli: u32, memory_mb: u32) -> LeaseId {
        let holding = Holding::Slice { cpu_milli, memory_mb, gpus: 0 };
        let wish = PlaceRequest { holding, ..self.wish(name).await };
        let outcome = self.app.store.leases().place(&wish).await.expect("an outcome");
        let PlaceOutcome::Placed(placed) = outcome else { panic!("{outcome:?}") };
        placed[0].lease.id
    }

    async fn wish(&self, name: &str) -> PlaceRequest {
        let (store, now) = (&self.app.store, self.app.now());
        let user = store.accounts().by_name(name).await.expect("a user").expect("signed up");
        let password_hash = Secret::new("$6$saltsaltsaltsalt$hash");
        PlaceRequest {
            user: user.id,
            username: user.username,
            count: 1,
            from: now,
            until: now.plus(Duration::from_secs(3600)),
            name: None,
            accounts: vec![NewAccount { password_hash, public_key: None }],
            tags: Vec::new(),
            holding: Holding::WholeNode,
            containers: Vec::new(),
            on_node_loss: OnNodeLoss::Migrate,
            nodes_max: None,
            request_key: random_word(),
            idem: None,
            first_turn: Duration::from_secs(10),
            first_uid: 200_000,
            last_uid: 300_000,
            now,
        }
    }

    /// A lease of `name` on a node of its own, active as far as the database knows.
    pub async fn active_lease(&self, name: &str) -> LeaseId {
        self.offered_node(&format!("node-of-{name}-{}", &random_word()[..8])).await;
        let (store, wish) = (&self.app.store, self.wish(name).await);
        let now = wish.now;
        let PlaceOutcome::Placed(mut placed) = store.leases().place(&wish).await.expect("placed") else {
            panic!("no node was free")
        };
        let (placement, ttl) = (placed.remove(0), Duration::from_secs(10));
        let claim = store.nodes().claim_placed(&placement, "test", ttl, now).await.expect("claimed");
        let claim = claim.expect("nobody else works on it");
        let applied = FinishReconcile {
            applied_version: claim.desired_version,
            ready: vec![(placement.lease.id, Some(placement.lease.until))],
            ..FinishReconcile::default()
        };
        store.nodes().finish_reconcile(&claim, &applied, now).await.expect("applied");
        placement.lease.id
    }

    /// The number of an account.
    pub async fn user_id(&self, name: &str) -> UserId {
        self.app.store.accounts().by_name(name).await.expect("a user").expect("signed up").id
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn with(request: RequestBuilder, token: &str) -> RequestBuilder {
    if token.is_empty() { request } else { request.bearer_auth(token) }
}

/// A whole reply.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: header::HeaderMap,
    pub text: String,
}

impl Reply {
    /// Sends and reads; the reply must be one that the OpenAPI document describes.
    pub async fn of(request: RequestBuilder) -> Self {
        let (client, request) = request.build_split();
        let request = request.expect("a request");
        let (method, path) = (request.method().to_string(), request.url().path().to_owned());
        let sent = request.body().and_then(|body| serde_json::from_slice(body.as_bytes()?).ok());
        let reply: Response = client.execute(request).await.expect("a reply");
        let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
        let reply = Self { status, headers, text: reply.text().await.expect("a whole reply") };
        contract::check(&Exchange {
            method: &method,
            path: &path,
            sent: sent.as_ref(),
            status,
            kind: reply.header("content-type"),
            text: &reply.text,
        });
        reply
    }

    /// The JSON body, if the status is the expected one.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// A header's text; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body of an error: it must be complete, and have this status.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Value {
        let problem = self.expect(status);
        assert_eq!(self.header("content-type"), "application/problem+json", "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        for key in ["type", "title", "detail"] {
            assert!(problem[key].as_str().is_some_and(|text| !text.is_empty()), "no {key}: {problem}");
        }
        assert_eq!(problem["error"], problem["detail"], "the older clients read `error`");
        problem
    }
}
