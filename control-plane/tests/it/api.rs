//! A control plane on a port of its own, and clients of it.

use crate::contract::{self, Exchange};
use orion_control_plane::{App, Config, crypto::sha256_hex, serve::serve};
use orion_domain::{LeaseId, NodeId, Secret, UserId, lease::OnNodeLoss, node::Health};
use orion_service::{
    assemble::{Settings, assemble},
    sealed::MasterKey,
};
use orion_store::{Cas, FinishReconcile, NewAccount, PlaceOutcome, PlaceRequest};
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

/// Where the control plane keeps its state.
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
    /// With the default settings.
    pub async fn start(database: Database) -> Self {
        Self::start_with(database, |_| {}).await
    }

    /// With settings of the test's own.
    pub async fn start_with(database: Database, configure: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let url = match database {
            Database::Sqlite => format!("sqlite:{}", data.path().join("orion.db").display()),
            Database::MariaDb => MariaDb::shared().create_database().url,
        };
        Self::start_on(url, data, configure).await
    }

    /// On the database at `url`.
    pub async fn start_on(url: String, data: TempDir, configure: impl FnOnce(&mut Config)) -> Self {
        Self::open(url, data, MasterKey::generate(), configure).await
    }

    /// Another replica of the same: on the same database, with the same master key.
    pub async fn replica(&self) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        Self::open(self.database.clone(), data, self.app.config.master_key.clone(), |_| {}).await
    }

    async fn open(
        database: String,
        data: TempDir,
        master_key: MasterKey,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        let settings = Settings {
            database_urls: vec![database.clone()],
            database_connections_max: 8,
            master_key,
            playbooks_dir: None,
        };
        let assembled = assemble(&settings).await.expect("it assembles");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut config = Config::new(address, settings.master_key);
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

    /// Where it listens.
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

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
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

    /// Signs up with [`PASSWORD`] and logs in; the token.
    pub async fn user(&self, name: &str) -> String {
        let body = json!({ "username": name, "password": PASSWORD });
        self.post("/auth/signup", "", &body).await.expect(201);
        self.log_in(name).await
    }

    /// Makes an admin and logs in; the token.
    pub async fn admin(&self, name: &str) -> String {
        self.app.make_admin(name, Secret::new(PASSWORD)).await.expect("an admin");
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
        let made = self.app.store.create_join_token(&sha256, "", None, None, None, self.app.now()).await;
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
        let version = store.node(id).await.expect("a node").expect("registered").version;
        let Cas::Done(node) = store.admit(id, version, now).await.expect("admitted") else {
            panic!("the node changed meanwhile")
        };
        store.set_health(id, node.version, Health::Alive, "SSH answers", now).await.expect("alive");
        let claim = store.claim_node(id, "test", Duration::from_secs(10), now).await.expect("claimed");
        let claim = claim.expect("nobody else claims it");
        let applied =
            FinishReconcile { applied_version: claim.desired_version, ..FinishReconcile::default() };
        store.finish_reconcile(&claim, &applied, now).await.expect("applied");
        assert!(store.node(id).await.expect("a node").expect("registered").is_offerable());
        id
    }

    /// A lease of `name` on a node of its own, active as far as the database knows.
    pub async fn active_lease(&self, name: &str) -> LeaseId {
        self.offered_node(&format!("node-of-{name}-{}", &random_word()[..8])).await;
        let (store, now) = (&self.app.store, self.app.now());
        let user = store.user_by_name(name).await.expect("a user").expect("signed up");
        let password_hash = Secret::new("$6$saltsaltsaltsalt$hash");
        let wish = PlaceRequest {
            user: user.id,
            username: user.username,
            count: 1,
            from: now,
            until: now.plus(Duration::from_secs(3600)),
            name: None,
            accounts: vec![NewAccount { password_hash, public_key: None }],
            tags: Vec::new(),
            on_node_loss: OnNodeLoss::Migrate,
            request_key: random_word(),
            idem: None,
            holder: "test".into(),
            claim_ttl: Duration::from_secs(10),
            first_uid: 200_000,
            last_uid: 300_000,
            now,
        };
        let PlaceOutcome::Placed(mut placed) = store.place(&wish).await.expect("placed") else {
            panic!("no node was free")
        };
        let placement = placed.remove(0);
        let applied = FinishReconcile {
            applied_version: placement.claim.desired_version,
            account_ready: Some(placement.lease.id),
            deadline_applied: Some(placement.lease.until),
            ..FinishReconcile::default()
        };
        store.finish_reconcile(&placement.claim, &applied, now).await.expect("applied");
        placement.lease.id
    }

    /// The number of an account.
    pub async fn user_id(&self, name: &str) -> UserId {
        self.app.store.user_by_name(name).await.expect("a user").expect("signed up").id
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
