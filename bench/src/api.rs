//! The API as a client uses it: one persistent HTTP connection, JSON in and out.

use crate::broken::{Broken, Context as _};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Longest wait for a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// A logged-in account.
pub struct Api {
    http: reqwest::Client,
    base: String,
    token: String,
}

/// One rented node.
#[derive(Clone, Debug)]
pub struct Rental {
    /// Number of the lease.
    pub id: i64,
    /// The worker's name.
    pub node_name: String,
    /// The login's name.
    pub user: String,
}

/// A page of the list of nodes.
#[derive(Clone, Copy, Debug)]
pub struct NodesPage {
    /// Length of the page.
    pub bytes: usize,
    /// Cursor of the next page, after a full page.
    pub next: Option<i64>,
}

/// Present state and location of a lease.
#[derive(Clone, Debug)]
pub struct Place {
    /// `active`, `migrating` …
    pub state: String,
    /// The worker's name, if it has one.
    pub node_name: Option<String>,
    /// Address and port of the sshd on which the lease's login works, if there is one.
    pub address: Option<(String, u16)>,
    /// Lines for a `known_hosts` file.
    pub known_hosts: String,
}

impl Api {
    /// A client that is not logged in.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn anonymous(base: &str) -> Result<Self, Broken> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(REPLY_TIMEOUT)
            .pool_idle_timeout(None)
            .build()
            .context("making an HTTP client")?;
        Ok(Self { http, base: base.to_owned(), token: String::new() })
    }

    /// The same account service, logged in as `username`.
    ///
    /// # Errors
    /// When the login is refused.
    pub async fn log_in(&self, username: &str, password: &str) -> Result<Self, Broken> {
        let body = json!({ "username": username, "password": password });
        let reply = self.send(Method::POST, "/auth/login", Some(&body)).await?;
        let token = text(&reply, "token")?;
        Ok(Self { http: self.http.clone(), base: self.base.clone(), token })
    }

    /// Makes an account.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn sign_up(&self, username: &str, password: &str) -> Result<(), Broken> {
        let body = json!({ "username": username, "password": password });
        self.send(Method::POST, "/auth/signup", Some(&body)).await.map(drop)
    }

    /// Whether the API answers and its database does.
    pub async fn is_healthy(&self) -> bool {
        self.send(Method::GET, "/api/health", None).await.is_ok()
    }

    /// Whether the API answers, whatever its database does.
    pub async fn is_live(&self) -> bool {
        self.send(Method::GET, "/api/live", None).await.is_ok()
    }

    /// The whole address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The access token; empty without a login.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Reads a reply to its end; its bytes.
    ///
    /// # Errors
    /// When it is none of success, or breaks off.
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, Broken> {
        let doing = format!("GET {path}");
        let response = self.http.get(self.url(path)).bearer_auth(&self.token).send().await.context(&doing)?;
        let status = response.status();
        let body = response.bytes().await.context(&doing)?;
        if status.is_success() {
            return Ok(body.into());
        }
        Err(Broken::new(format!("{doing}: {status}: {}", String::from_utf8_lossy(&body))))
    }

    /// A page of all nodes, as it comes over the wire: its JSON is not read.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn nodes_page(&self, after: i64, limit: u32) -> Result<NodesPage, Broken> {
        let url = self.url(&format!("/api/nodes?limit={limit}&cursor={after}"));
        let response = self.http.get(url).bearer_auth(&self.token).send().await.context("GET /api/nodes")?;
        if !response.status().is_success() {
            return Err(Broken::new(format!("GET /api/nodes: {}", response.status())));
        }
        let link = response.headers().get(reqwest::header::LINK).and_then(|link| link.to_str().ok());
        let next = link.and_then(|link| {
            let cursor = link.split("cursor=").nth(1)?;
            cursor.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
        });
        let body = response.bytes().await.context("GET /api/nodes")?;
        Ok(NodesPage { bytes: body.len(), next })
    }

    /// A join token for workers. Only for an admin.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn join_token(&self) -> Result<String, Broken> {
        let reply = self
            .send(Method::POST, "/api/tokens", Some(&json!({ "note": "benchmark", "unlimited": true })))
            .await?;
        text(&reply, "token")
    }

    /// Every node as `name (status): reason`, and how many of them are offered.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn nodes(&self) -> Result<(usize, Vec<String>), Broken> {
        let reply = self.send(Method::GET, "/api/nodes", None).await?;
        let nodes = reply.as_array().map(Vec::as_slice).unwrap_or_default();
        let offered = nodes.iter().filter(|node| node["offerable"] == true && node["allocated"] == false);
        let word = |node: &Value, key: &str| node[key].as_str().unwrap_or("?").to_owned();
        let described = |node: &Value| {
            format!("{} ({}): {}", word(node, "hostname"), word(node, "status"), word(node, "status_reason"))
        };
        Ok((offered.count(), nodes.iter().map(described).collect()))
    }

    /// Rents `count` nodes for an hour; the time from the request until the whole reply is here.
    ///
    /// # Errors
    /// When fewer are given.
    pub async fn rent(&self, count: usize, public_key: &str) -> Result<(Vec<Rental>, Duration), Broken> {
        let body = json!({ "duration_hours": 1, "count": count, "ssh_public_key": public_key });
        let started = Instant::now();
        let reply = self.send(Method::POST, "/api/rent", Some(&body)).await?;
        let elapsed = started.elapsed();
        let rentals = reply
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
            .iter()
            .map(|rental| {
                let id = rental["rental_id"].as_i64();
                Ok(Rental {
                    id: id.ok_or_else(|| Broken::new("a rental without an id"))?,
                    node_name: text(rental, "node_name")?,
                    user: text(rental, "client_user")?,
                })
            })
            .collect::<Result<Vec<_>, Broken>>()?;
        if rentals.len() == count {
            Ok((rentals, elapsed))
        } else {
            Err(Broken::new(format!("{} nodes for a rental of {count}", rentals.len())))
        }
    }

    /// Releases a lease; the time until the reply that says it has ended.
    ///
    /// # Errors
    /// When it has not.
    pub async fn release(&self, id: i64) -> Result<Duration, Broken> {
        let started = Instant::now();
        let reply = self.send(Method::POST, &format!("/api/release/{id}"), None).await?;
        let elapsed = started.elapsed();
        match reply["state"].as_str() {
            Some("ended") => Ok(elapsed),
            Some(_) | None => Err(Broken::new(format!("a released lease has not ended: {reply}"))),
        }
    }

    /// Returns the present state and location of a lease.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn place_of(&self, id: i64) -> Result<Place, Broken> {
        let reply = self.send(Method::GET, &format!("/api/rentals/{id}"), None).await?;
        let port = reply["ssh_port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let address = reply["host_ip"].as_str().map(str::to_owned).zip(port);
        Ok(Place {
            state: text(&reply, "state")?,
            node_name: reply["node_name"].as_str().map(str::to_owned),
            address,
            known_hosts: reply["known_hosts"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// Returns the events of a lease, oldest first.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn history(&self, id: i64) -> Result<Value, Broken> {
        let reply = self.send(Method::GET, &format!("/api/rentals/{id}"), None).await?;
        Ok(reply["events"].clone())
    }

    /// Sends a request; the reply's JSON.
    ///
    /// # Errors
    /// When the reply is none of success.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Broken> {
        let doing = format!("{method} {path}");
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.context(&doing)?;
        let status = response.status();
        let reply = response.bytes().await.context(&doing)?;
        if !status.is_success() {
            return Err(Broken::new(format!("{doing}: {status}: {}", String::from_utf8_lossy(&reply))));
        }
        serde_json::from_slice(&reply).context(&doing)
    }
}

fn text(value: &Value, key: &str) -> Result<String, Broken> {
    let found = value[key].as_str().map(str::to_owned);
    found.ok_or_else(|| Broken::new(format!("a reply without {key}")))
}
