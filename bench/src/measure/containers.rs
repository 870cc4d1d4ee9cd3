//! A container on a node with a real engine: starting it by the API, beside Docker's own client on that node; and listing
//! all that the node has.

use crate::{
    broken::{Broken, Context as _},
    figure::{Figure, Goal, Samples},
    plan::Plan,
    progress::Progress,
    site::{IMAGE, Site},
};
use orion_containers::Engines;
use orion_ssh::{ControlCa, Pool, PoolConfig, Target};
use orion_testkit::Worker;
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Containers on the node while it is listed.
const LISTED: usize = 10;
/// Times that it is listed.
const LISTS: usize = 200;
/// Pause after a container was removed, so that what follows from it is not measured with the next one.
const CALM: Duration = Duration::from_millis(300);
/// Limits of each container: cores, and MiB.
const LIMITS: (f64, u32) = (0.5, 64);

/// A lease with containers.
pub struct Lease<'a> {
    site: &'a Site,
    /// Number of the lease.
    pub id: i64,
    /// The node.
    pub worker: &'a Worker,
}

impl<'a> Lease<'a> {
    /// Rents the node of `site`.
    ///
    /// # Errors
    /// When it is not given.
    pub async fn rent(site: &'a Site) -> Result<Self, Broken> {
        let (rentals, _) = site.api.rent(1, site.tenant_key.public_line()).await?;
        let rental = rentals.first().ok_or_else(|| Broken::new("no rental"))?;
        Ok(Self { site, id: rental.id, worker: site.worker(&rental.node_name)? })
    }

    /// Returns the path of a container, or of all.
    pub fn path(&self, name: &str) -> String {
        let slash = if name.is_empty() { "" } else { "/" };
        format!("/api/rentals/{}/containers{slash}{name}", self.id)
    }

    /// Runs a shell script as a container; the time from the request until the reply that it runs.
    ///
    /// # Errors
    /// When it does not.
    pub async fn run(&self, name: &str, script: &str) -> Result<Duration, Broken> {
        let body = json!({
            "image": IMAGE, "name": name, "command": ["sh", "-c"], "args": [script],
            "cpus": LIMITS.0, "memory_mb": LIMITS.1,
        });
        let started = Instant::now();
        let made = self.site.api.send(Method::POST, &self.path(""), Some(&body)).await?;
        let elapsed = started.elapsed();
        if matches!(made["state"].as_str(), Some("running" | "exited")) {
            return Ok(elapsed);
        }
        Err(Broken::new(format!("a container does not run: {made}")))
    }

    /// Returns a container as the API shows it.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn show(&self, name: &str) -> Result<Value, Broken> {
        self.site.api.send(Method::GET, &self.path(name), None).await
    }

    /// Removes a container.
    ///
    /// # Errors
    /// When it is not removed.
    pub async fn remove(&self, name: &str) -> Result<(), Broken> {
        self.site.api.send(Method::DELETE, &self.path(name), None).await?;
        tokio::time::sleep(CALM).await;
        Ok(())
    }

    /// Releases the lease.
    ///
    /// # Errors
    /// When it is not over.
    pub async fn release(self) -> Result<(), Broken> {
        self.site.api.release(self.id).await?;
        self.site.settle().await
    }

    /// Makes and starts a container of the same limits, in the network of the lease, by Docker's client on the node; the time
    /// of both commands.
    fn run_by_docker(&self) -> Result<Duration, Broken> {
        let (id, (cpus, memory_mb)) = (self.id, LIMITS);
        let said = self.worker.sh(&format!(
            "docker='docker -H unix:///run/docker.sock'; began=$(date +%s%N); \
             $docker create --name floor --network orion-{id} --cpus {cpus} --memory {memory_mb}m \
             --memory-swap {memory_mb}m --pids-limit 4096 --security-opt no-new-privileges --ipc private \
             --log-driver json-file --log-opt max-size=10m --log-opt max-file=2 {IMAGE} sh -c 'exec sleep 1000' >/dev/null && \
             $docker start floor >/dev/null && ended=$(date +%s%N) && $docker rm --force floor >/dev/null && \
             echo $((ended - began))"
        ));
        let nanoseconds = said.trim().parse::<u64>().context("the time of docker create and start")?;
        Ok(Duration::from_nanos(nanoseconds))
    }
}

/// `container_start_ms`, `container_start_above_ms` and `container_list_ms`.
///
/// # Errors
/// When anything fails.
pub async fn measure(plan: &Plan, site: &Site) -> Result<Vec<Figure>, Broken> {
    let lease = Lease::rent(site).await?;
    // With its first container the lease gets its network.
    lease.run("first", "exec sleep 1000").await?;
    lease.run_by_docker()?;
    let mut figures = starts(plan, &lease).await?;
    if plan.any(&["container_list_ms"]) {
        for number in 1..LISTED {
            lease.run(&format!("listed-{number}"), "exec sleep 1000").await?;
        }
        figures.push(lists(&lease).await?);
    }
    lease.release().await?;
    Ok(figures)
}

async fn starts(plan: &Plan, lease: &Lease<'_>) -> Result<Vec<Figure>, Broken> {
    let (mut by_api, mut by_docker, mut above) = <(Samples, Samples, Samples)>::default();
    let mut progress = Progress::start("starting a container", plan.container_starts);
    for round in 0..plan.container_starts {
        let floor_first = if round % 2 == 0 { Some(lease.run_by_docker()?) } else { None };
        tokio::time::sleep(CALM).await;
        let elapsed = lease.run("timed", "exec sleep 1000").await?;
        lease.remove("timed").await?;
        let floor = match floor_first {
            Some(floor) => floor,
            None => lease.run_by_docker()?,
        };
        tokio::time::sleep(CALM).await;
        by_api.push_ms(elapsed);
        by_docker.push_ms(floor);
        above.push((elapsed.as_secs_f64() - floor.as_secs_f64()) * 1e3);
        progress.step(&format!("API {:.1} ms, docker {:.1} ms", by_api.median(), by_docker.median()));
    }
    Ok(vec![
        Figure {
            name: "container_start_ms",
            unit: "ms",
            samples: by_api,
            floor: Some(by_docker),
            goal: Goal::RatioAtMost(1.2),
            note: "POST /api/rentals/ID/containers until the reply that it runs, image and network there; floor: docker \
                   create and docker start with the same limits on that node, timed there"
                .into(),
        },
        Figure {
            name: "container_start_above_ms",
            unit: "ms",
            samples: above,
            floor: None,
            goal: Goal::AtMost(60.0),
            note: "by how much each of these was above the floor that was measured beside it".into(),
        },
    ])
}

/// By Orion's own client of engines, on a session and a channel that are open.
async fn lists(lease: &Lease<'_>) -> Result<Figure, Broken> {
    let authority = ControlCa::generate();
    let line = authority.public_line();
    lease.worker.sh(&format!("echo '{}' >>/etc/ssh/orion/user_ca.pub", line.trim()));
    let target = Target {
        node_id: 1,
        host: lease.worker.ip().to_string(),
        port: lease.worker.ssh_socket().port(),
        host_keys: vec![lease.worker.host_key().parse().context("the worker's host key")?],
    };
    let engine = Engines::new(Pool::new(PoolConfig::default(), Arc::new(authority))).of(&target);
    let mut samples = Samples::default();
    engine.list_containers().await.context("the node's containers")?;
    let mut progress = Progress::start("listing its containers", 1);
    for _ in 0..LISTS {
        let started = Instant::now();
        let listed = engine.list_containers().await.context("the node's containers")?;
        samples.push_ms(started.elapsed());
        if listed.len() != LISTED {
            return Err(Broken::new(format!("{} of {LISTED} containers are listed", listed.len())));
        }
    }
    progress.step(&format!("{:.2} ms", samples.median()));
    Ok(Figure {
        name: "container_list_ms",
        unit: "ms",
        samples,
        floor: None,
        goal: Goal::AtMost(2.0),
        note: format!(
            "GET /containers/json of the engine of a node with {LISTED} containers, over an SSH channel that is kept"
        ),
    })
}
