//! A control plane of registration and link, by the contract: join tokens make nodes, node tokens prove them,
//! idempotency keys give a lost reply again. The tests drive it and see what it saw.

use crate::agent::wait_for;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use orion_domain::agent::{FromAgent, ToAgent};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::{runtime::Runtime, sync::mpsc};

pub const JOIN_TOKEN: &str = "join-7f3a9c51e0";
pub const CA: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

/// A registration as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub bearer: String,
    pub key: Option<String>,
    pub body: Value,
    pub status: u16,
}

pub struct World {
    pub ssh_ca: Value,
    pub acks: bool,
    /// Replies that are lost on the way, though what they say was done.
    pub lost_replies: u32,
    /// Replies in place of the right ones.
    pub instead: Vec<(u16, Value)>,
    pub registrations: Vec<Seen>,
    pub messages: Vec<FromAgent>,
    pub links_taken: u32,
    pub links_refused: u32,
    pub goodbyes: u32,
    nodes: HashMap<String, i64>,
    next_node: i64,
    replies: HashMap<String, (String, Value)>,
    links: Vec<mpsc::UnboundedSender<Message>>,
}

type Shared = Arc<Mutex<World>>;

/// Running until dropped.
pub struct ControlPlane {
    pub addr: SocketAddr,
    world: Shared,
    _runtime: Runtime,
}

impl ControlPlane {
    pub fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap())
    }

    pub fn start_at(addr: SocketAddr) -> Self {
        let world = Arc::new(Mutex::new(World {
            ssh_ca: json!(format!("{CA} orion-control\n")),
            acks: true,
            lost_replies: 0,
            instead: Vec::new(),
            registrations: Vec::new(),
            messages: Vec::new(),
            links_taken: 0,
            links_refused: 0,
            goodbyes: 0,
            nodes: HashMap::new(),
            next_node: 1,
            replies: HashMap::new(),
            links: Vec::new(),
        }));
        let app = Router::new()
            .route("/api/workers/register", post(register))
            .route("/api/workers/link", get(link))
            .with_state(Arc::clone(&world));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(addr)).unwrap();
        let addr = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { addr, world, _runtime: runtime }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Waits until `found` gives something.
    pub fn wait<T>(&self, what: &str, found: impl Fn(&World) -> Option<T>) -> T {
        wait_for(what, || found(&self.world()))
    }

    pub fn wait_until(&self, what: &str, so: impl Fn(&World) -> bool) {
        self.wait(what, |world| so(world).then_some(()));
    }

    /// Sends on every link.
    pub fn say(&self, message: &ToAgent) {
        self.say_text(&serde_json::to_string(message).unwrap());
    }

    pub fn say_text(&self, text: &str) {
        let world = self.world();
        assert!(!world.links.is_empty(), "there is no link");
        for link in &world.links {
            let _ = link.send(Message::text(text));
        }
    }

    /// Forgets all nodes and tells every link, as after a reset.
    pub fn forget(&self) {
        self.world().nodes.clear();
        self.say(&ToAgent::RegisterAgain);
    }

    /// Breaks every link; nodes stay known.
    pub fn cut_links(&self) {
        self.world().links.clear();
    }

    /// The same without a word: links break.
    pub fn forget_silently(&self) {
        let mut world = self.world();
        world.nodes.clear();
        world.links.clear();
    }
}

fn bearer(headers: &HeaderMap) -> String {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.strip_prefix("Bearer ").unwrap_or_default().to_owned()
}

async fn register(State(world): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let mut world = world.lock().unwrap();
    let bearer = bearer(&headers);
    let key = headers.get("idempotency-key").map(|key| key.to_str().unwrap().to_owned());
    let text = String::from_utf8(body.to_vec()).unwrap();
    let (status, reply) = world.judge(&bearer, key.as_deref(), &text);
    let body = serde_json::from_str(&text).unwrap();
    world.registrations.push(Seen { bearer, key, body, status });
    if world.lost_replies > 0 {
        world.lost_replies -= 1;
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let reply = (StatusCode::from_u16(status).unwrap(), Json(reply));
    if status == 429 { ([(header::RETRY_AFTER, "4")], reply).into_response() } else { reply.into_response() }
}

impl World {
    /// Returns whether sshd answered according to the last beat.
    pub fn sshd_is_up(&self) -> bool {
        let said = self.messages.iter().rev().find_map(|message| match message {
            FromAgent::Beat { sshd, .. } => Some(*sshd),
            FromAgent::Hello { .. } | FromAgent::Inventory { .. } | FromAgent::Deadlines { .. } => None,
        });
        said.unwrap_or(false)
    }

    fn judge(&mut self, bearer: &str, key: Option<&str>, text: &str) -> (u16, Value) {
        if let Some(instead) = self.instead.pop() {
            return instead;
        }
        let ssh_ca = self.ssh_ca.clone();
        if let Some(node_id) = self.nodes.get(bearer) {
            return (200, json!({"message": "known", "node_id": node_id, "ssh_ca": ssh_ca}));
        }
        if bearer != JOIN_TOKEN {
            return (401, json!({"title": "Unauthorized", "detail": "the token is wrong"}));
        }
        if let Some((body, reply)) = key.and_then(|key| self.replies.get(key)) {
            if body != text {
                return (422, json!({"detail": "the same key with another body"}));
            }
            return (201, reply.clone());
        }
        if !self.nodes.is_empty() {
            return (409, json!({"error": "node_known", "detail": "a node with this name is known"}));
        }
        let (node_id, token) = (self.next_node, format!("node-token-{}", self.next_node));
        self.next_node += 1;
        self.nodes.insert(token.clone(), node_id);
        let reply = json!({"message": "welcome", "node_id": node_id, "node_token": token, "ssh_ca": ssh_ca});
        if let Some(key) = key {
            self.replies.insert(key.into(), (text.into(), reply.clone()));
        }
        (201, reply)
    }
}

async fn link(State(world): State<Shared>, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    let known = world.lock().unwrap().nodes.contains_key(&bearer(&headers));
    if !known {
        world.lock().unwrap().links_refused += 1;
        return StatusCode::UNAUTHORIZED.into_response();
    }
    upgrade.on_upgrade(move |socket| serve_link(socket, world))
}

async fn serve_link(mut socket: WebSocket, world: Shared) {
    let (tx, mut rx) = mpsc::unbounded_channel();
    {
        let mut world = world.lock().unwrap();
        world.links_taken += 1;
        world.links.retain(|link| !link.is_closed());
        world.links.push(tx);
    }
    loop {
        let message = tokio::select! {
            message = rx.recv() => match message {
                Some(message) => {
                    let _ = socket.send(message).await;
                    continue;
                }
                None => return,
            },
            message = socket.recv() => message,
        };
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(_))) => {
                world.lock().unwrap().goodbyes += 1;
                return;
            }
            Some(Ok(_)) => continue,
            Some(Err(_)) | None => return,
        };
        let message: FromAgent = serde_json::from_str(&text).unwrap();
        let ack = {
            let mut world = world.lock().unwrap();
            world.messages.push(message.clone());
            world.acks
        };
        if let (true, FromAgent::Beat { seq, .. }) = (ack, message) {
            let text = serde_json::to_string(&ToAgent::Ack { seq }).unwrap();
            let _ = socket.send(Message::text(text)).await;
        }
    }
}
