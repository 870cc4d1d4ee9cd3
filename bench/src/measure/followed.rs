//! One scheduler and a simulated fleet whose nodes have container engines: what following all of them costs, and how soon the
//! ends of many containers are written.

use super::fleet::{CALM, World, one};
use crate::{
    broken::{Broken, Context as _},
    fake_fleet::process::FakeFleet,
    figure::{Figure, Goal},
    ground::Ground,
    plan::{Options, Plan},
    process::{Service, usage},
    progress::Progress,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use orion_domain::{
    LeaseId, UserId,
    container::{ContainerRequest, ContainerSpec},
};
use orion_service::assemble::seal_spec;
use orion_store::{ContainerMade, NewContainer, new_container_uid};
use std::time::{Duration, Instant};

/// Containers on each node.
const EACH: usize = 10;
/// One in so many nodes has a container that ends.
const ENDING: usize = 10;
/// Leases of one request.
const AT_ONCE: usize = 100;
/// Containers that are asked for side by side.
const SIDE_BY_SIDE: usize = 16;
/// Longest wait until all containers run, or until all engines are followed.
const STATE_TIMEOUT: Duration = Duration::from_secs(900);
/// Pause between two looks at the database.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// CPU and memory of a scheduler while nothing happens.
struct Calm {
    cores: f64,
    resident_mib: f64,
}

/// The three `followed_…` figures.
///
/// # Errors
/// When the fleet does not reach a state that it must reach.
pub async fn measure(plan: &Plan, options: &Options) -> Result<Vec<Figure>, Broken> {
    let count = plan.followed_nodes;
    let ground = Ground::start().await?;
    let fleet = FakeFleet::start_with_engines(count, &ground.authority).await?;
    ground.register(count, fleet.port()).await?;
    let mut world = World { options, ground, fleet, count };

    let scheduler = world.start_scheduler()?;
    let prepared = world.rent_all().await;
    let user = prepared.map_err(|error| error.with_log(&scheduler.log_tail()))?;
    scheduler.stop().await?;

    let scheduler = world.start_scheduler()?;
    let without = world.without_containers(&scheduler, plan).await;
    let without = without.map_err(|error| error.with_log(&scheduler.log_tail()))?;
    let filled = world.fill(user).await;
    let filled = filled.map_err(|error| error.with_log(&scheduler.log_tail()))?;
    scheduler.stop().await?;

    let scheduler = world.start_scheduler()?;
    let figures = world.with_containers(&scheduler, plan, &without, filled).await;
    let figures = figures.map_err(|error| error.with_log(&scheduler.log_tail()))?;
    scheduler.stop().await?;
    Ok(figures)
}

impl World<'_> {
    /// Gives each node a lease, once all are clean and their engines known.
    async fn rent_all(&mut self) -> Result<UserId, Broken> {
        self.wait_until_clean("admitting and cleaning nodes with engines", self.count).await?;
        self.wait_for("SELECT COUNT(*) FROM nodes WHERE engine IS NOT NULL", self.count).await?;
        let user = self.ground.user("benchmark").await?;
        let mut left = self.count;
        while left > 0 {
            let batch = left.min(AT_ONCE);
            self.lease(user, batch).await?;
            left -= batch;
        }
        Ok(user)
    }

    async fn without_containers(&mut self, scheduler: &Service, plan: &Plan) -> Result<Calm, Broken> {
        self.open(scheduler).await?;
        self.wait_for("SELECT COUNT(*) FROM nodes WHERE applied_version = desired_version", self.count)
            .await?;
        self.watch("the fleet without containers", scheduler, plan).await
    }

    /// Asks for containers on each node, and waits until the scheduler has made them all; returns how long that took.
    async fn fill(&mut self, user: UserId) -> Result<Duration, Broken> {
        let _progress =
            Progress::start(&format!("making {EACH} containers on each of {} nodes", self.count), 0);
        let leases = self.ground.store.leases().list(Some(user), false, LeaseId(0), 100_000).await;
        let leases = leases.context("the leases")?;
        let started = Instant::now();
        let wished = leases.iter().flat_map(|row| (1..=EACH).map(|number| (row.lease.id, number)));
        let world = &*self;
        stream::iter(wished)
            .map(|(lease, number)| world.ask_for(lease, number, user))
            .buffer_unordered(SIDE_BY_SIDE)
            .try_collect::<()>()
            .await?;
        self.wait_for("SELECT COUNT(*) FROM containers WHERE state = 'running'", self.count * EACH).await?;
        let running = self.fleet.status().await?.running;
        if running == (self.count * EACH) as u64 {
            return Ok(started.elapsed());
        }
        Err(Broken::new(format!("{running} of {} containers run on the nodes", self.count * EACH)))
    }

    async fn ask_for(&self, lease: LeaseId, number: usize, user: UserId) -> Result<(), Broken> {
        let request = ContainerRequest {
            image: "bench:1".into(),
            name: Some(format!("c{number}")),
            cpu_milli: Some(1_000),
            memory_mb: Some(1_024),
            ..ContainerRequest::default()
        };
        let spec = ContainerSpec::check(request).map_err(|error| Broken::new(format!("{error:?}")))?;
        let (now, stored) = (self.ground.now(), spec.to_stored().context("a container")?);
        let uid = new_container_uid(now);
        let new = NewContainer {
            lease,
            name: spec.name.as_ref().map(ToString::to_string),
            spec: stored.open,
            spec_sealed: seal_spec(&self.ground.master_key, &uid, &stored.sealed),
            uid,
            at_once_max: 12,
            actor: Some(user),
        };
        match self.ground.store.containers().create(&new, now).await.context("a container")? {
            ContainerMade::Made { .. } => Ok(()),
            other @ (ContainerMade::NameTaken(_) | ContainerMade::TooMany | ContainerMade::LeaseOver) => {
                Err(Broken::new(format!("a container was not made: {other:?}")))
            }
        }
    }

    async fn with_containers(
        &mut self,
        scheduler: &Service,
        plan: &Plan,
        without: &Calm,
        filled: Duration,
    ) -> Result<Vec<Figure>, Broken> {
        let followed = self.wait_until_followed().await?;
        let calm = self.watch("the fleet with containers", scheduler, plan).await?;
        let (count, window_s) = (self.count, plan.fleet_window.as_secs());
        let exits = self.ends_at_once().await?;
        let figure = |name, unit, value, limit, note| Figure {
            name,
            unit,
            samples: one(value),
            floor: None,
            goal: Goal::AtMost(limit),
            note,
        };
        Ok(vec![
            figure(
                "followed_cpu_cores",
                "cores",
                calm.cores - without.cores,
                0.15,
                format!(
                    "CPU time of orion-scheduler over {window_s} s with {count} nodes of {EACH} containers each: {:.3} cores, \
                     above {:.3} of the same fleet without containers; after its start all were followed within {:.1} s (at \
                     the first start it had made all containers in {:.0} s)",
                    calm.cores,
                    without.cores,
                    followed.as_secs_f64(),
                    filled.as_secs_f64(),
                ),
            ),
            figure(
                "followed_rss_mib",
                "MiB",
                calm.resident_mib - without.resident_mib,
                400.0,
                format!(
                    "VmRSS of orion-scheduler after that: {:.0} MiB, above {:.0} MiB of the same fleet without containers",
                    calm.resident_mib, without.resident_mib
                ),
            ),
            figure(
                "followed_exits_s",
                "s",
                exits.1.as_secs_f64(),
                2.0,
                format!(
                    "until the last of {} containers, each on a node of its own, that ended at once was written as ended",
                    exits.0
                ),
            ),
        ])
    }

    /// Waits until every engine is followed and every node's firewall was looked at; returns the time that this took.
    async fn wait_until_followed(&mut self) -> Result<Duration, Broken> {
        let _progress = Progress::start("following all engines", 0);
        let told = self.fleet.status().await?.told;
        let (started, wanted) = (Instant::now(), self.count as u64);
        loop {
            let status = self.fleet.status().await?;
            if status.followers >= wanted && status.told >= told + wanted {
                return Ok(started.elapsed());
            }
            if started.elapsed() > STATE_TIMEOUT {
                return Err(Broken::new(format!("of {wanted} engines not all are followed: {status:?}")));
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// CPU and memory of the scheduler while nothing happens.
    async fn watch(&self, what: &str, scheduler: &Service, plan: &Plan) -> Result<Calm, Broken> {
        let mut progress = Progress::start(what, 1);
        tokio::time::sleep(CALM).await;
        let (before, started) = (usage(scheduler.pid()?)?.0, Instant::now());
        tokio::time::sleep(plan.fleet_window).await;
        let (after, resident_mib) = usage(scheduler.pid()?)?;
        let cores = (after - before) / started.elapsed().as_secs_f64();
        progress.step(&format!("{cores:.3} cores, {resident_mib:.0} MiB"));
        Ok(Calm { cores, resident_mib })
    }

    /// Ends containers on many nodes at once; returns their number, and the time until the last end is written.
    async fn ends_at_once(&mut self) -> Result<(usize, Duration), Broken> {
        let nodes: Vec<usize> = (0..self.count).step_by(ENDING).collect();
        let mut progress = Progress::start(&format!("{} containers end at once", nodes.len()), 1);
        let started = Instant::now();
        self.fleet.end_containers(&nodes).await?;
        let ended = "SELECT COUNT(*) FROM containers WHERE state = 'exited' AND exit_code = 3";
        self.wait_for(ended, nodes.len()).await?;
        let elapsed = started.elapsed();
        progress.step(&format!("{:.2} s", elapsed.as_secs_f64()));
        Ok((nodes.len(), elapsed))
    }

    /// Waits until a query counts so many.
    async fn wait_for(&self, query: &'static str, wanted: usize) -> Result<(), Broken> {
        let started = Instant::now();
        loop {
            let (found,): (i64,) = sqlx::query_as(query).fetch_one(&self.ground.sql).await.context(query)?;
            if usize::try_from(found).is_ok_and(|found| found >= wanted) {
                return Ok(());
            }
            if started.elapsed() > STATE_TIMEOUT {
                return Err(Broken::new(format!("{found} of {wanted}: {query}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
