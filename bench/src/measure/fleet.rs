//! One scheduler and a simulated fleet: opening it, keeping it healthy, with a part of it hanging, with a part of it
//! dying.

use crate::{
    broken::{Broken, Context as _},
    fake_fleet::{index_of, process::FakeFleet, server::Mode},
    figure::{Figure, Goal, Samples},
    ground::Ground,
    plan::{Options, Plan},
    process::{Service, usage},
    progress::Progress,
};
use orion_domain::{LeaseId, UserId, lease::Phase, node::Health};
use orion_store::FinishReconcile;
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// How long a claim on a node lasts.
const CLAIM: Duration = Duration::from_secs(30);
/// Pause between two looks at a healthy node: the scheduler's default.
const PROBE_EVERY_S: f64 = 3.0;
/// Longest wait until all new nodes are clean, or clean again.
const CLEAN_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest wait for all sessions, or for all leases to move.
const STATE_TIMEOUT: Duration = Duration::from_secs(120);
/// Left alone for so long after the start, before it is watched.
pub(super) const CALM: Duration = Duration::from_secs(10);
/// One in so many nodes hangs.
const HANGING: usize = 20;
/// One in so many nodes dies.
const DYING: usize = 100;

/// Environment of the measurement.
pub(super) struct World<'a> {
    pub(super) options: &'a Options,
    pub(super) ground: Ground,
    pub(super) fleet: FakeFleet,
    pub(super) count: usize,
}

/// The five `fleet_…` figures.
///
/// # Errors
/// When the fleet does not reach a state that it must reach.
pub async fn measure(plan: &Plan, options: &Options) -> Result<Vec<Figure>, Broken> {
    let count = plan.fleet_nodes;
    let ground = Ground::start().await?;
    let fleet = FakeFleet::start(count, &ground.authority).await?;
    let registering = Progress::start(&format!("registering {count} simulated nodes"), 0);
    ground.register(count, fleet.port()).await?;
    drop(registering);
    let mut world = World { options, ground, fleet, count };

    let scheduler = world.start_scheduler()?;
    let enrolled = Instant::now();
    let done = world.wait_until_clean("admitting and cleaning them", count).await;
    let enrolled =
        done.map(|()| enrolled.elapsed()).map_err(|error| error.with_log(&scheduler.log_tail()))?;
    scheduler.stop().await?;

    let scheduler = world.start_scheduler()?;
    let measured = world.measure_with(&scheduler, plan).await;
    let mut figures = measured.map_err(|error| error.with_log(&scheduler.log_tail()))?;
    scheduler.stop().await?;
    if let Some(open) = figures.first_mut() {
        open.note.push_str(&format!(
            "; at the first start all {count} were admitted, listed and offered after {:.1} s",
            enrolled.as_secs_f64()
        ));
    }
    Ok(figures)
}

impl World<'_> {
    pub(super) fn start_scheduler(&self) -> Result<Service, Broken> {
        let metrics = format!("127.0.0.1:{}", orion_testkit::free_port());
        let probe_every = PROBE_EVERY_S.to_string();
        let settings =
            [("ORION_METRICS_LISTEN", metrics.as_str()), ("ORION_PROBE_EVERY_S", probe_every.as_str())];
        Service::start(self.options, &self.ground, "orion-scheduler", &settings)
    }

    async fn measure_with(&mut self, scheduler: &Service, plan: &Plan) -> Result<Vec<Figure>, Broken> {
        let (open, opening_cpu) = self.open(scheduler).await?;
        let mut figures = vec![Figure {
            name: "fleet_open_s",
            unit: "s",
            samples: one(open.as_secs_f64()),
            floor: None,
            goal: Goal::Below(15.0),
            note: format!(
                "from starting orion-scheduler until each of {} simulated nodes had a session; {opening_cpu:.1} s of \
                 CPU",
                self.count
            ),
        }];
        figures.extend(self.keep_healthy(scheduler, plan).await?);
        figures.push(self.with_some_hanging(scheduler, plan).await?);
        figures.push(self.with_some_dying().await?);
        Ok(figures)
    }

    /// Waits until every node has a session; returns the time and the CPU seconds that this took.
    pub(super) async fn open(&mut self, scheduler: &Service) -> Result<(Duration, f64), Broken> {
        let mut progress = Progress::start("opening the simulated fleet", 1);
        let started = Instant::now();
        loop {
            let status = self.fleet.status().await?;
            if status.open >= self.count as u64 {
                progress.step(&format!("{:.1} s", started.elapsed().as_secs_f64()));
                return Ok((started.elapsed(), usage(scheduler.pid()?)?.0));
            }
            if started.elapsed() > STATE_TIMEOUT {
                return Err(Broken::new(format!("{} of {} nodes have a session", status.open, self.count)));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// CPU and memory of the scheduler while nothing happens.
    async fn keep_healthy(&mut self, scheduler: &Service, plan: &Plan) -> Result<Vec<Figure>, Broken> {
        let mut progress = Progress::start("keeping it healthy", 1);
        tokio::time::sleep(CALM).await;
        self.fleet.clear_gaps().await?;
        let (before, logins) = (usage(scheduler.pid()?)?.0, self.fleet.status().await?.logins);
        let started = Instant::now();
        tokio::time::sleep(plan.fleet_window).await;
        let ((after, resident), gaps) = (usage(scheduler.pid()?)?, self.fleet.gaps().await?);
        let cores = (after - before) / started.elapsed().as_secs_f64();
        let logins = self.fleet.status().await?.logins - logins;
        let (played, _) = usage(self.fleet.pid()?)?;
        progress.step(&format!("{cores:.3} cores, {resident:.0} MiB"));
        let looks_per_s = gaps.count as f64 / started.elapsed().as_secs_f64();
        let figure = |name, unit, value, limit, note| Figure {
            name,
            unit,
            samples: one(value),
            floor: None,
            goal: Goal::AtMost(limit),
            note,
        };
        let cpu = format!(
            "CPU time of orion-scheduler over {:.0} s with {} healthy nodes: {looks_per_s:.0} looks and {:.0} logins \
             a second, gaps p99 {:.2} s, max {:.2} s (the simulated fleet's own CPU so far: {played:.0} s)",
            started.elapsed().as_secs_f64(),
            self.count,
            logins as f64 / started.elapsed().as_secs_f64(),
            gaps.p99_ms as f64 / 1e3,
            gaps.max_ms as f64 / 1e3,
        );
        let memory = format!("VmRSS of orion-scheduler after that, {} sessions open", self.count);
        Ok(vec![
            figure("fleet_cpu_cores", "cores", cores, 0.25, cpu),
            figure("fleet_rss_mib", "MiB", resident, 1.2 * 1024.0, memory),
        ])
    }

    /// Measures the gaps between looks at healthy nodes while others hang.
    async fn with_some_hanging(&mut self, scheduler: &Service, plan: &Plan) -> Result<Figure, Broken> {
        let hanging: Vec<usize> = (0..self.count).step_by(HANGING).collect();
        let mut progress = Progress::start(&format!("{} of them hang", hanging.len()), 1);
        self.fleet.clear_gaps().await?;
        let cpu = usage(scheduler.pid()?)?.0;
        let started = Instant::now();
        self.fleet.set_mode(&hanging, Mode::Hangs).await?;
        let given_up = self.wait_until_dead(hanging.len()).await?;
        tokio::time::sleep(plan.fleet_window.saturating_sub(started.elapsed())).await;
        let gaps = self.fleet.gaps().await?;
        let cores = (usage(scheduler.pid()?)?.0 - cpu) / started.elapsed().as_secs_f64();
        let max_s = gaps.max_ms as f64 / 1e3;
        progress.step(&format!("longest gap {max_s:.2} s"));
        self.fleet.set_mode(&hanging, Mode::Answers).await?;
        let back = Instant::now();
        self.wait_until_clean("they answer again", self.count).await?;
        Ok(Figure {
            name: "fleet_probe_gap_s",
            unit: "s",
            samples: one(max_s),
            floor: None,
            goal: Goal::Below(2.0 * PROBE_EVERY_S),
            note: format!(
                "longest time that one of {} healthy nodes was left alone while {} hung (accept, never answer); {} \
                 gaps in {:.0} s, p50 {:.2} s, p99 {:.2} s; {cores:.3} cores; the hanging were dead after {:.1} s, and \
                 clean again {:.1} s after they answered",
                self.count - hanging.len(),
                hanging.len(),
                gaps.count,
                started.elapsed().as_secs_f64(),
                gaps.p50_ms as f64 / 1e3,
                gaps.p99_ms as f64 / 1e3,
                given_up.as_secs_f64(),
                back.elapsed().as_secs_f64(),
            ),
        })
    }

    /// Measures the time until the leases of nodes that die together are on other nodes.
    async fn with_some_dying(&mut self) -> Result<Figure, Broken> {
        let leases = (self.count / DYING).max(1);
        let mut progress = Progress::start(&format!("{leases} nodes with leases die at once"), 1);
        let user = self.ground.user("benchmark").await?;
        let dying = self.lease(user, leases).await?;
        self.wait_until_clean("the leases stand", self.count - leases).await?;
        let started = Instant::now();
        self.fleet.set_mode(&dying, Mode::Dead).await?;
        let (first, all) = self.wait_until_moved(user, &dying, started).await?;
        let accounts = self.fleet.status().await?.accounts;
        if accounts != leases as u64 {
            return Err(Broken::new(format!(
                "{leases} moved leases have {accounts} accounts on living nodes"
            )));
        }
        progress.step(&format!("{:.2} s", all.as_secs_f64()));
        Ok(Figure {
            name: "fleet_moved_s",
            unit: "s",
            samples: one(all.as_secs_f64()),
            floor: None,
            goal: Goal::Below(10.0),
            note: format!(
                "from the death of {leases} nodes until the last of their {leases} leases was active on another one and \
                 its account there (the first after {:.2} s)",
                first.as_secs_f64()
            ),
        })
    }

    /// Gives `count` nodes an active lease each; which nodes of the simulated fleet these are.
    pub(super) async fn lease(&self, user: UserId, count: usize) -> Result<Vec<usize>, Broken> {
        let (store, mut indices) = (&self.ground.store, Vec::new());
        for placement in self.ground.place(user, count).await? {
            let claim = store.nodes().claim_placed(&placement, "benchmark", CLAIM, self.ground.now()).await;
            let claim = claim
                .context("a claim")?
                .ok_or_else(|| Broken::new("somebody works on a new lease's node"))?;
            let finish = FinishReconcile {
                applied_version: claim.desired_version,
                ready: vec![(placement.lease.id, Some(placement.lease.until))],
                report: None,
                subordinate: None,
                unfinished: None,
            };
            let finished = store.nodes().finish_reconcile(&claim, &finish, self.ground.now()).await;
            finished.context("a lease")?.done().ok_or_else(|| Broken::new("a lease lost its node"))?;
            let index = claim.node.sshd().and_then(|sshd| sshd.addr.as_str().parse().ok()).and_then(index_of);
            indices.push(index.ok_or_else(|| Broken::new("a lease on a node that is not simulated"))?);
        }
        Ok(indices)
    }

    /// Waits until `count` nodes are alive and clean.
    pub(super) async fn wait_until_clean(&self, what: &str, count: usize) -> Result<(), Broken> {
        let _progress = Progress::start(what, 0);
        let wanted = i64::try_from(count).unwrap_or(i64::MAX);
        let started = Instant::now();
        loop {
            let tallies = self.ground.store.admin().node_counts().await.context("counting nodes")?;
            let clean = tallies.iter().filter(|tally| {
                tally.health == Health::Alive.as_str()
                    && tally.admission == "admitted"
                    && !(tally.dirty || tally.quarantined || tally.leased)
            });
            let clean: i64 = clean.map(|tally| tally.count).sum();
            if clean >= wanted {
                return Ok(());
            }
            if started.elapsed() > CLEAN_TIMEOUT {
                return Err(Broken::new(format!("{clean} of {count} nodes are clean: {tallies:?}")));
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Waits until `count` nodes are given up as dead; returns the time that this took.
    async fn wait_until_dead(&self, count: usize) -> Result<Duration, Broken> {
        let wanted = i64::try_from(count).unwrap_or(i64::MAX);
        let started = Instant::now();
        loop {
            let tallies = self.ground.store.admin().node_counts().await.context("counting nodes")?;
            let dead = tallies.iter().filter(|tally| tally.health == Health::Dead.as_str());
            let dead: i64 = dead.map(|tally| tally.count).sum();
            if dead >= wanted {
                return Ok(started.elapsed());
            }
            if started.elapsed() > STATE_TIMEOUT {
                return Err(Broken::new(format!("{dead} of {count} hanging nodes are dead: {tallies:?}")));
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Waits until every lease of `user` is active away from `dying`; returns the time from `started` until
    /// the first was, and until the last was.
    async fn wait_until_moved(
        &self,
        user: UserId,
        dying: &[usize],
        started: Instant,
    ) -> Result<(Duration, Duration), Broken> {
        let dying: HashSet<usize> = dying.iter().copied().collect();
        let mut first = None;
        loop {
            let rows = self.ground.store.leases().list(Some(user), false, LeaseId(0), 10_000).await;
            let rows = rows.context("the leases")?;
            let moved = rows.iter().filter(|row| {
                let node = row
                    .node
                    .as_ref()
                    .and_then(|node| node.sshd()?.addr.as_str().parse().ok())
                    .and_then(index_of);
                row.lease.state.phase() == Phase::Active && node.is_some_and(|index| !dying.contains(&index))
            });
            let moved = moved.count();
            if moved > 0 {
                first.get_or_insert_with(|| started.elapsed());
            }
            if moved == dying.len() {
                return Ok((first.unwrap_or_default(), started.elapsed()));
            }
            if started.elapsed() > STATE_TIMEOUT {
                let states: Vec<_> = rows.iter().map(|row| row.lease.state.phase()).collect();
                return Err(Broken::new(format!("{moved} of {} leases moved: {states:?}", dying.len())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(super) fn one(value: f64) -> Samples {
    let mut samples = Samples::default();
    samples.push(value);
    samples
}
