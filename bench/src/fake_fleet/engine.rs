//! The container engine of one simulated node: the calls of Docker's API that Orion makes, answered from memory. Nothing runs.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::CONTENT_TYPE,
};
use orion_domain::{Clock as _, SystemClock, Timestamp};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::sync::broadcast;

/// Socket at which it listens.
pub const SOCKET: &str = "/var/run/docker.sock";
/// Events that one who follows may be behind.
const BEHIND_MAX: usize = 64;

/// Body of a reply.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the engine holds.
#[derive(Debug, Default)]
pub struct Engine {
    containers: BTreeMap<String, Container>,
    networks: BTreeMap<String, Value>,
    last_id: u64,
    events: Option<broadcast::Sender<Arc<str>>>,
}

#[derive(Debug)]
struct Container {
    name: String,
    labels: Value,
    status: &'static str,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
}

/// Counts those who follow events, while it lives.
struct Follower(Arc<AtomicUsize>);

impl Follower {
    fn new(followers: Arc<AtomicUsize>) -> Self {
        followers.fetch_add(1, Relaxed);
        Self(followers)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Reply to a call.
pub enum Reply {
    /// At once.
    Whole(StatusCode, Value),
    /// The engine's events from now on.
    Events(broadcast::Receiver<Arc<str>>),
}

fn found(value: Value) -> Reply {
    Reply::Whole(StatusCode::OK, value)
}

fn missing(what: &str) -> Reply {
    Reply::Whole(StatusCode::NOT_FOUND, json!({ "message": format!("No such {what}") }))
}

fn done() -> Reply {
    Reply::Whole(StatusCode::NO_CONTENT, Value::Null)
}

fn text(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |at| at.to_string())
}

impl Engine {
    /// Returns the number of containers that run.
    pub fn running(&self) -> usize {
        self.containers.values().filter(|container| container.status == "running").count()
    }

    /// Starts a container. False: there is none of this id.
    pub fn start(&mut self, id: &str) -> bool {
        let Some(container) = self.containers.get_mut(id) else { return false };
        if container.status != "running" {
            container.status = "running";
            container.started_at = Some(SystemClock.now());
            self.tell(id, "start");
        }
        true
    }

    /// Ends the first container that runs, with code 3. False: none runs.
    pub fn end_one(&mut self) -> bool {
        let running = self.containers.iter().find(|(_, container)| container.status == "running");
        let Some(id) = running.map(|(id, _)| id.clone()) else { return false };
        self.end(&id);
        true
    }

    fn end(&mut self, id: &str) {
        if let Some(container) = self.containers.get_mut(id)
            && container.status == "running"
        {
            container.status = "exited";
            container.finished_at = Some(SystemClock.now());
            self.tell(id, "die");
        }
    }

    fn tell(&self, id: &str, action: &str) {
        let (Some(events), Some(container)) = (&self.events, self.containers.get(id)) else { return };
        let mut attributes = container.labels.clone();
        attributes["name"] = json!(container.name);
        attributes["image"] = json!("bench:1");
        if action == "die" {
            attributes["exitCode"] = json!("3");
        }
        let at = SystemClock.now().as_micros();
        let event = json!({
            "status": action, "id": id, "from": "bench:1", "Type": "container", "Action": action,
            "Actor": { "ID": id, "Attributes": attributes },
            "scope": "local", "time": at / 1_000_000, "timeNano": at * 1_000,
        });
        // Nobody may follow.
        let _ = events.send(format!("{event}\n").into());
    }

    fn new_id(&mut self) -> String {
        self.last_id += 1;
        format!("{:064x}", (u128::from(self.last_id) << 64) | 0x0c0f_fee0)
    }

    /// Answers a call; `path` without the version of the API.
    pub fn answer(&mut self, method: &Method, path: &str, query: &str, body: &Value) -> Reply {
        let words: Vec<&str> = path.split('/').filter(|word| !word.is_empty()).collect();
        match (method.as_str(), words.as_slice()) {
            ("GET", ["version"]) => found(json!({
                "Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12",
                "Components": [{ "Name": "Engine" }],
            })),
            ("GET", ["info"]) => found(json!({
                "NCPU": 16, "MemTotal": 68_719_476_736_u64, "CgroupVersion": "2",
                "DockerRootDir": "/var/lib/docker",
            })),
            ("GET", ["images", .., "json"]) => {
                found(json!({ "Id": "sha256:bench", "RepoTags": ["bench:1"], "Size": 1_000_000 }))
            }
            ("GET", ["events"]) => {
                let events = self.events.get_or_insert_with(|| broadcast::channel(BEHIND_MAX).0);
                Reply::Events(events.subscribe())
            }
            ("GET", ["volumes"]) => found(json!({ "Volumes": [], "Warnings": null })),
            ("GET", ["networks"]) => found(self.networks.values().cloned().collect()),
            ("POST", ["networks", "create"]) => {
                let id = self.new_id();
                let mut network = body.clone();
                network["Id"] = json!(id);
                self.networks.insert(id.clone(), network);
                Reply::Whole(StatusCode::CREATED, json!({ "Id": id }))
            }
            ("DELETE", ["networks", id]) => match self.networks.remove(*id) {
                Some(_) => done(),
                None => missing("network"),
            },
            ("GET", ["containers", "json"]) => {
                found(self.containers.iter().map(|(id, container)| container.listed(id)).collect())
            }
            ("POST", ["containers", "create"]) => {
                let name = query.trim_start_matches("name=").to_owned();
                if self.containers.values().any(|container| container.name == name) {
                    return Reply::Whole(StatusCode::CONFLICT, json!({ "message": "the name is in use" }));
                }
                let (id, labels) = (self.new_id(), body["Labels"].clone());
                let made = Container { name, labels, status: "created", started_at: None, finished_at: None };
                self.containers.insert(id.clone(), made);
                self.tell(&id, "create");
                Reply::Whole(StatusCode::CREATED, json!({ "Id": id, "Warnings": [] }))
            }
            (method, ["containers", which, rest @ ..]) => self.answer_about(method, which, rest),
            _ => missing("page"),
        }
    }

    fn answer_about(&mut self, method: &str, which: &str, rest: &[&str]) -> Reply {
        let is_it = |(id, container): &(&String, &Container)| *id == which || container.name == which;
        let Some(id) = self.containers.iter().find(is_it).map(|(id, _)| id.clone()) else {
            return missing("container");
        };
        match (method, rest) {
            ("GET", ["json"]) => found(self.containers[&id].inspected(&id)),
            ("POST", ["stop"]) => {
                self.end(&id);
                done()
            }
            ("POST", ["update"]) => found(json!({ "Warnings": [] })),
            ("DELETE", []) => {
                self.end(&id);
                self.tell(&id, "destroy");
                self.containers.remove(&id);
                done()
            }
            _ => missing("page"),
        }
    }
}

impl Container {
    /// As long as what Docker says of one in a list.
    fn listed(&self, id: &str) -> Value {
        json!({
            "Id": id, "Names": [format!("/{}", self.name)], "Image": "bench:1",
            "ImageID": "sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "Command": "sh -c 'exec sleep 1000'", "Created": 1_780_000_000, "Ports": [], "Labels": self.labels,
            "State": self.status, "Status": "Up 5 minutes", "HostConfig": { "NetworkMode": "orion" },
            "NetworkSettings": { "Networks": { "orion": {
                "IPAMConfig": null, "Links": null, "Aliases": null, "NetworkID": id, "EndpointID": id,
                "Gateway": "10.201.0.1", "IPAddress": "10.201.0.2", "IPPrefixLen": 28, "IPv6Gateway": "",
                "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "MacAddress": "02:42:0a:c9:00:02",
                "DriverOpts": null,
            } } },
            "Mounts": [],
        })
    }

    fn inspected(&self, id: &str) -> Value {
        json!({
            "Id": id, "Name": format!("/{}", self.name), "RestartCount": 0, "Image": "sha256:bench",
            "State": {
                "Status": self.status, "Running": self.status == "running", "OOMKilled": false,
                "ExitCode": if self.finished_at.is_some() { 3 } else { 0 }, "Error": "",
                "StartedAt": text(self.started_at), "FinishedAt": text(self.finished_at),
            },
            "Config": { "Labels": self.labels, "Image": "bench:1" },
        })
    }
}

/// Reads a call, has it answered, and makes the reply for it. `followers` counts those who follow events.
pub async fn respond(
    request: Request<Incoming>,
    followers: Arc<AtomicUsize>,
    answer: impl FnOnce(&Method, &str, &str, &Value) -> Reply,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    // A client that goes away in the middle of its request gets what fits to an empty one.
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let path = head.uri.path();
    // `/v1.41/…`
    let version =
        path.get(1..).and_then(|rest| rest.split_once('/')).filter(|(first, _)| first.starts_with("v1."));
    let path = version.map_or(path, |(_, rest)| rest);
    let reply = answer(&head.method, path, head.uri.query().unwrap_or_default(), &body);
    let (status, body) = match reply {
        Reply::Whole(status, Value::Null) => (status, Full::new(Bytes::new()).boxed_unsync()),
        Reply::Whole(status, value) => (status, Full::new(Bytes::from(value.to_string())).boxed_unsync()),
        Reply::Events(events) => {
            let follower = Follower::new(followers);
            let lines = stream::unfold((events, follower), |(mut events, follower)| async {
                // One who is too far behind is cut off, and lists.
                let event = events.recv().await.ok()?;
                Some((Bytes::copy_from_slice(event.as_bytes()), (events, follower)))
            });
            (StatusCode::OK, StreamBody::new(lines.map(|line| Ok(Frame::data(line)))).boxed_unsync())
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    Ok(response)
}
