//! A client of the API, and the logins that its leases give.

use super::PATIENCE;
use futures_util::StreamExt as _;
use orion_testkit::{KeyPair, LoginError, SshAddress, SshClient, Worker, random_word, wait_until};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{sync::OnceLock, time::Duration};

/// An HTTP client without a proxy and with a long limit.
pub fn http() -> reqwest::Client {
    static PROVIDER: OnceLock<()> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        // Only fails where there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60));
    client.build().expect("a client")
}

/// A status and a JSON body.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Value,
}

impl Reply {
    /// The body, if the status is the expected one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }
}

/// One rented node, as `POST /api/rent` gives it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Ticket {
    pub rental_id: i64,
    pub host_ip: String,
    pub ssh_port: u16,
    pub client_user: String,
    pub client_pass: String,
    pub leased_until: String,
    pub known_hosts: String,
    pub ssh_command: String,
}

impl Ticket {
    /// A login with the password, at the address in the ticket.
    pub fn by_password(&self) -> SshClient {
        SshClient::with_password(self.address(), &self.client_user, &self.client_pass)
    }

    /// The same with a private key.
    pub fn by_key(&self, key: &KeyPair) -> SshClient {
        SshClient::with_private_key(self.address(), &self.client_user, &key.private_path())
    }

    pub fn address(&self) -> SshAddress {
        address(&self.host_ip, self.ssh_port, &self.known_hosts)
    }
}

/// `known_hosts` is of the form `HOST TYPE KEY`.
fn address(ip: &str, port: u16, known_hosts: &str) -> SshAddress {
    let (_, key) = known_hosts.lines().next().and_then(|line| line.split_once(' ')).expect("a host key");
    SshAddress::new((ip.parse::<std::net::IpAddr>().expect("an address"), port).into(), key)
}

/// Client of the API with an account.
#[derive(Clone)]
pub struct User {
    http: reqwest::Client,
    base: String,
    pub token: String,
    pub name: String,
    pub password: String,
}

impl User {
    /// Makes the account.
    pub async fn sign_up(base: &str, name: &str) -> Self {
        Self::anyone(base).signed_up(name).await
    }

    /// Logs in.
    pub async fn log_in(base: &str, name: &str, password: &str) -> Self {
        Self::anyone(base).logged_in(name, password).await
    }

    /// Makes the account, the way that this one reaches the API.
    pub async fn signed_up(&self, name: &str) -> Self {
        let password = random_word();
        let body = json!({ "username": name, "password": password });
        self.post("/auth/signup", body).await.expect(201);
        self.logged_in(name, &password).await
    }

    /// Logs in, the way that this one reaches the API.
    pub async fn logged_in(&self, name: &str, password: &str) -> Self {
        let body = json!({ "username": name, "password": password });
        let reply = self.post("/auth/login", body).await.expect(200);
        let token = reply["token"].as_str().expect("a token").to_owned();
        Self { token, name: name.to_owned(), password: password.to_owned(), ..self.clone() }
    }

    /// The same person over another client: one that trusts a private authority.
    pub fn over(self, http: reqwest::Client) -> Self {
        Self { http, ..self }
    }

    /// The feed of events, from after the event `last`; it does not end by itself.
    pub async fn feed_after(&self, last: i64) -> Result<reqwest::Response, reqwest::Error> {
        let request = self.request(Method::GET, "/api/events").header("Last-Event-ID", last);
        request.timeout(Duration::from_secs(600)).send().await
    }

    /// Returns a client without an account.
    pub fn anyone(base: &str) -> Self {
        let empty = String::new;
        Self { http: http(), base: base.to_owned(), token: empty(), name: empty(), password: empty() }
    }

    /// The same person with another token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        if self.token.is_empty() { request } else { request.bearer_auth(&self.token) }
    }

    /// Sends; a connection that breaks is an error, as text.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Reply, String> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let reply = request.send().await.map_err(|error| error.to_string())?;
        let status = reply.status().as_u16();
        let text = reply.text().await.map_err(|error| error.to_string())?;
        let body = serde_json::from_str(&text).map_err(|error| format!("{status}: {error}: {text}"))?;
        Ok(Reply { status, body })
    }

    /// `GET`
    pub async fn get(&self, path: &str) -> Reply {
        self.try_send(Method::GET, path, None, None).await.expect("a reply")
    }

    /// `GET` of what is no JSON.
    pub async fn text(&self, path: &str) -> String {
        let reply = self.request(Method::GET, path).send().await.expect("a reply");
        assert_eq!(reply.status(), 200);
        reply.text().await.expect("a text")
    }

    /// `POST`
    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.try_send(Method::POST, path, Some(&body), None).await.expect("a reply")
    }

    /// `POST /api/rent`
    pub async fn try_rent(&self, body: &Value, key: Option<&str>) -> Result<Reply, String> {
        self.try_send(Method::POST, "/api/rent", Some(body), key).await
    }

    /// `POST /api/rent`, which must succeed.
    pub async fn rent(&self, body: Value) -> Vec<Ticket> {
        let reply = self.try_rent(&body, None).await.expect("a reply").expect(200);
        tickets(&reply)
    }

    /// One node for an hour.
    pub async fn rent_one(&self) -> Ticket {
        self.rent(json!({ "duration_hours": 1 })).await.remove(0)
    }

    /// `POST /api/release/{id}`, which must succeed.
    pub async fn release(&self, id: i64) -> Value {
        self.post(&format!("/api/release/{id}"), json!({})).await.expect(200)
    }

    /// `GET /api/rentals/{id}`
    pub async fn show(&self, id: i64) -> Value {
        self.get(&format!("/api/rentals/{id}")).await.expect(200)
    }

    /// The user's leases that are not over.
    pub async fn leases(&self) -> Vec<Value> {
        let list = self.get("/api/rentals").await.expect(200);
        list.as_array().expect("a list").clone()
    }

    /// Waits until the lease is as `wanted` says.
    pub async fn until(&self, id: i64, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_until(&format!("lease {id}: {what}"), PATIENCE, async || {
            let path = format!("/api/rentals/{id}");
            let reply = self.try_send(Method::GET, &path, None, None).await?;
            if reply.status == 200 && wanted(&reply.body) {
                Ok(reply.body)
            } else {
                Err(reply.body.to_string())
            }
        })
        .await
    }

    /// Waits until the lease has left the node at `ip` and its login works elsewhere.
    pub async fn until_moved(&self, id: i64, ip: &str) -> Value {
        let moved = |lease: &Value| lease["state"] == "active" && lease["host_ip"] != ip;
        self.until(id, &format!("moved away from {ip}"), moved).await
    }

    /// The login of a lease where it is now, with the password from its ticket.
    pub async fn login_now(&self, ticket: &Ticket) -> SshClient {
        let lease = self.show(ticket.rental_id).await;
        self.login_at(ticket, &lease)
    }

    /// The same for what `GET /api/rentals/{id}` gave.
    pub fn login_at(&self, ticket: &Ticket, lease: &Value) -> SshClient {
        let text = |key: &str| lease[key].as_str().unwrap_or_else(|| panic!("no {key}: {lease}"));
        let port = lease["ssh_port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        let address = address(text("host_ip"), port, text("known_hosts"));
        SshClient::with_password(address, text("client_user"), &ticket.client_pass)
    }

    /// The events that this user may see, from the first to the newest.
    pub async fn events(&self) -> Vec<Value> {
        let reply = self.request(Method::GET, "/api/events?after=0").send().await.expect("a feed");
        assert_eq!(reply.status(), 200);
        let mut stream = reply.bytes_stream();
        let mut text = String::new();
        // The feed does not end; a second without a word means that it has told all.
        while let Ok(Some(piece)) = tokio::time::timeout(Duration::from_secs(1), stream.next()).await {
            text.push_str(&String::from_utf8_lossy(&piece.expect("the feed goes on")));
        }
        text.lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(|data| serde_json::from_str(data).expect("an event"))
            .collect()
    }
}

/// The list that `POST /api/rent` replies.
pub fn tickets(reply: &Value) -> Vec<Ticket> {
    serde_json::from_value(reply.clone()).expect("tickets")
}

/// Asserts that the login is refused (the node answers and says no).
pub async fn is_refused(login: &SshClient) {
    let answer = login.run("id").await;
    assert!(matches!(answer, Err(LoginError::Refused(_))), "{answer:?}");
}

/// Asserts that nothing of a lease account is left on the worker.
pub fn is_clean(worker: &Worker) {
    let left = left_on(worker);
    assert!(left.is_empty(), "left on {}: {left:#?}", worker.name());
}

/// Lists what there is of lease accounts on the worker (`left_on.sh`).
pub fn left_on(worker: &Worker) -> Vec<String> {
    worker.sh(include_str!("left_on.sh")).lines().map(str::to_owned).collect()
}
