//! Five routes with which a booking system starts and stops containers on this machine, outside of Orion's leases.
//!
//! Off unless an address is given; at another one than loopback with TLS alone; behind the node token. The containers carry
//! labels of their own, and Orion's reconcile leaves them alone.

mod engine;
mod request;
mod server;

pub use server::{Listen, serve};

use engine::{Engine, EngineError};
use orion_domain::container::ImageName;
use request::{Start, Wish};
use serde_json::{Value, json};
use std::time::Duration;

/// Label of what these routes started.
const OWN_LABEL: &str = "orion.agent";
/// Label by which the booking system knows its containers.
const MANAGED_LABEL: &str = "managed_by";
const MANAGED_BY: &str = "compute_booking";
/// Time between SIGTERM and SIGKILL.
const STOP_GRACE_S: u64 = 10;
/// Processes that a container may have.
const PIDS_MAX: u32 = 4096;
/// Pause between two looks at the processors' counters.
const CPU_OVER: Duration = Duration::from_millis(250);
/// Names that are tried when one is in use.
const NAMES_TRIED: u32 = 5;

/// A reply: its status, and its body as JSON.
type Reply = (u16, Value);

fn failed(status: u16, error: impl std::fmt::Display) -> Reply {
    (status, json!({ "error": error.to_string() }))
}

/// What the routes do.
#[derive(Clone, Debug)]
pub struct Containers {
    engine: Engine,
    hostname: String,
    /// Host in the URLs of containers.
    host: String,
}

impl Containers {
    /// `host` stands in the URLs of containers.
    pub fn new(hostname: String, host: String) -> Self {
        Self { engine: Engine, hostname, host }
    }

    /// How busy the machine is.
    async fn health(&self) -> Reply {
        match (cpu_percent().await, memory_percent()) {
            (Ok(cpu), Ok(memory)) => {
                let body = json!({
                    "status": "ok", "host": self.hostname, "cpu_percent": cpu, "memory_percent": memory,
                });
                (200, body)
            }
            (Err(error), _) | (_, Err(error)) => {
                (500, json!({ "status": "error", "error": error.to_string() }))
            }
        }
    }

    /// Starts a container; its image is pulled when it is not there.
    async fn start(&self, body: &[u8]) -> Reply {
        let start = match Start::read(body) {
            Ok(start) => start,
            Err(problem) => return failed(400, problem),
        };
        if let Err(error) = self.provide(&start.image).await {
            return match error {
                EngineError::Refused(_, why) => failed(400, format!("Image not found: {why}")),
                EngineError::Away(_) => failed(500, error),
            };
        }
        for _ in 0..NAMES_TRIED {
            let name = format!("compute_{}_{:05}", start.user, rand::random_range(0..100_000));
            match self.create(&name, &start).await {
                Ok(id) => return self.run(&id, &name, start.wish.port).await,
                Err(EngineError::Refused(409, _)) => {}
                Err(error) => return failed(error.status(), error),
            }
        }
        failed(500, "no name was free")
    }

    async fn provide(&self, image: &ImageName) -> Result<(), EngineError> {
        if self.engine.has_image(image).await? { Ok(()) } else { self.engine.pull(image).await }
    }

    async fn create(&self, name: &str, start: &Start) -> Result<String, EngineError> {
        let Wish { cpu_nano, memory_bytes, port } = start.wish;
        let port_key = format!("{port}/tcp");
        let body = json!({
            "Image": start.image.familiar(),
            "Env": [format!("USER_ID={}", start.user), format!("CONTAINER_PORT={port}")],
            "Labels": { OWN_LABEL: "1", MANAGED_LABEL: MANAGED_BY, "user_id": start.user },
            "ExposedPorts": { port_key.clone(): {} },
            "HostConfig": {
                "NanoCpus": cpu_nano,
                "Memory": memory_bytes,
                "MemorySwap": memory_bytes,
                "PidsLimit": PIDS_MAX,
                "SecurityOpt": ["no-new-privileges"],
                "LogConfig": { "Type": "json-file", "Config": { "max-size": "10m", "max-file": "2" } },
                "PortBindings": { port_key: [{ "HostPort": port.to_string() }] },
            },
        });
        self.engine.create(name, &body).await
    }

    /// Starts what was made; it is removed where that fails.
    async fn run(&self, id: &str, name: &str, port: u16) -> Reply {
        if let Err(error) = self.engine.start(id).await {
            if let Err(left) = self.engine.remove(id).await {
                tracing::warn!("the container {name} could not be started, and not be removed: {left}");
            }
            return failed(error.status(), error);
        }
        let url = format!("http://{}:{port}", self.host);
        (200, json!({ "container_name": name, "url": url, "port": port }))
    }

    /// Stops a container that these routes started, and removes it.
    async fn stop(&self, name: &str) -> Reply {
        let gone = || failed(404, "Container not found");
        // No other name is one of a container; a path would lead elsewhere in the engine's API.
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) {
            return gone();
        }
        let own = match self.engine.labels(name).await {
            Ok(Some(labels)) => labels[OWN_LABEL] == "1",
            Ok(None) => return gone(),
            Err(error) => return failed(500, error),
        };
        if !own {
            return gone();
        }
        let stopped = match self.engine.stop(name, STOP_GRACE_S).await {
            Ok(()) => self.engine.remove(name).await,
            Err(error) => Err(error),
        };
        match stopped {
            Ok(()) => (200, json!({ "msg": "Container stopped", "name": name })),
            Err(EngineError::Refused(404, _)) => gone(),
            Err(error) => failed(500, error),
        }
    }

    /// Lists the running containers that these routes started.
    async fn list(&self) -> Reply {
        match self.engine.running(&format!("{OWN_LABEL}=1")).await {
            Ok(found) => (200, Value::Array(found)),
            Err(error) => failed(500, error),
        }
    }

    /// Says whether an image is here, or in its registry; nothing is pulled.
    async fn test_image(&self, name: &str) -> Reply {
        let image: ImageName = match name.parse() {
            Ok(image) => image,
            Err(problem) => return failed(400, format!("Failed to pull image: {name} {problem}")),
        };
        let found = match self.engine.has_image(&image).await {
            Ok(false) => self.engine.ask_registry(&image).await,
            Ok(true) => Ok(()),
            Err(error) => Err(error),
        };
        match found {
            Ok(()) => (200, json!({ "msg": format!("Image {name} available") })),
            Err(EngineError::Refused(_, why)) => failed(400, format!("Failed to pull image: {why}")),
            Err(EngineError::Away(why)) => failed(500, why),
        }
    }
}

/// Reads the first line of `/proc/stat`: time that was idle, and time in all.
fn cpu_times() -> std::io::Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let times: Vec<u64> =
        line.split_whitespace().skip(1).take(8).filter_map(|time| time.parse().ok()).collect();
    let idle = times.get(3).copied().unwrap_or(0) + times.get(4).copied().unwrap_or(0);
    Ok((idle, times.iter().sum()))
}

async fn cpu_percent() -> std::io::Result<f64> {
    let (idle_before, all_before) = cpu_times()?;
    tokio::time::sleep(CPU_OVER).await;
    let (idle, all) = cpu_times()?;
    let all = all.saturating_sub(all_before);
    Ok(percent(all.saturating_sub(idle.saturating_sub(idle_before)), all))
}

fn memory_percent() -> std::io::Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let kb = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next())
            .and_then(|kb| kb.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let (total, available) = (kb("MemTotal:"), kb("MemAvailable:"));
    Ok(percent(total.saturating_sub(available), total))
}

/// With one digit behind the point.
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 * 1000.0 / whole as f64).round() / 10.0 }
}
