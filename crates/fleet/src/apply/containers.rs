//! The containers of the leases on a claimed node, as a part of the work on it.
//!
//! What goes, goes first; then networks, then what is to run, in the order in which it was asked for. Nothing slow happens
//! here: a container whose image is not on the node is left for [`Fleet::provide_container`], which pulls without a claim.

mod addition;
pub(in crate::apply) mod deadlines;
mod engine;
mod moved;
mod portion;
mod ports;

use self::{deadlines::KeptLease, portion::Portion};
use super::{Outcome, Stop, agent};
use crate::{Fleet, engine_words::with_source};
use orion_containers::{ContainerPlacement, ContainerState, Engine, EngineError, EngineMeaning, GpuDevice};
use orion_domain::{
    ContainerId, LeaseId, NodeId, Timestamp,
    container::{
        ContainerAction, ContainerPhase, ContainerSpec, DesiredContainer, EngineState, FoundContainer,
        FoundOnEngine, LeaseContainers, RestartPolicy, WantedState, plan_containers,
    },
    lease::Holding,
    node::QuarantineCause,
    reconcile::Desired,
};
use orion_ssh::Target;
use orion_store::{ContainerNews, ContainerRow, NodeClaim, Wanted};
use serde_json::json;
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

/// Processes and threads that a container may have.
const PIDS_MAX: u32 = 4096;
/// Time between SIGTERM and SIGKILL when a container is stopped.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// Leases whose containers were looked at.
#[derive(Default)]
pub(super) struct LeasesLookedAt {
    /// A container of theirs waits: for its image, or for the end of the one before on another node.
    pub waiting: HashSet<LeaseId>,
    /// The node itself ends their containers at the deadline.
    pub kept: HashSet<LeaseId>,
}

/// Work on the engine of one node under a claim.
struct Work<'a> {
    fleet: &'a Fleet,
    target: &'a Target,
    claim: &'a NodeClaim,
    engine: Engine,
    rows: &'a [ContainerRow],
    desired: Vec<LeaseContainers>,
    /// ULIDs of the containers that were on the engine at the begin of the work.
    there: HashSet<String>,
    /// Leases whose network could not be made, and why.
    no_network: HashMap<LeaseId, String>,
    /// Leases none of whose containers run elsewhere any more.
    alone: HashSet<LeaseId>,
    /// A container was started, and the node's firewall looked at with it.
    has_started: bool,
}

impl Fleet {
    /// Brings the node's engine to hold what the leases want, and writes what was seen of their containers.
    pub(super) async fn apply_containers(
        &self,
        target: &Target,
        claim: &NodeClaim,
        kept: &[KeptLease],
        outcome: &mut Outcome,
    ) -> Result<LeasesLookedAt, Stop> {
        // Before anything that an engine could keep from it: the node may have to end them by itself.
        let was_told = self.keep_new_deadlines(target, claim, kept).await?;
        let rows = self.store.containers().of_node(claim.node.id).await?;
        let engine = self.engines.of(target);
        let found = match engine.inventory().await {
            Ok(found) => found,
            Err(error) => {
                self.engine_failed(claim.node.id, &error).await?;
                if !was_told {
                    self.look_at_firewall((target, claim), kept, &rows).await?;
                }
                // What the node keeps a deadline for may be there still.
                return self.without_engine(target, (claim, kept), &rows, &error, outcome).await;
            }
        };
        let (on, what) = ((target, claim), (engine, found));
        let done = Box::pin(self.bring_containers_in_order(on, what, (&rows, kept), outcome)).await;
        // The start of a container looks at it, too.
        if !was_told && !done.as_ref().is_ok_and(|(_, has_started)| *has_started) {
            self.look_at_firewall((target, claim), kept, &rows).await?;
        }
        done.map(|(leases, _)| leases)
    }

    /// Brings an engine, as it was found, to hold what the leases want; returns also whether a container was started.
    async fn bring_containers_in_order(
        &self,
        (target, claim): (&Target, &NodeClaim),
        (engine, mut found): (Engine, FoundOnEngine),
        (rows, kept): (&[ContainerRow], &[KeptLease]),
        outcome: &mut Outcome,
    ) -> Result<(LeasesLookedAt, bool), Stop> {
        if claim.node.engine_down_since.is_some() {
            self.store.containers().engine_answers(claim.node.id, self.now()).await?;
        }
        self.write_engine(claim, &engine).await?;
        found.leave_out(&claim.departing);
        let there: HashSet<String> =
            found.containers.iter().filter_map(|container| container.container.clone()).collect();
        let desired = self.desired_containers(claim, rows, &there).await?;
        for row in rows.iter().filter(|row| row.wanted == Wanted::Restarted) {
            end_run(&engine, row, &mut found).await.map_err(|error| unreached(&error))?;
        }
        let plan = plan_containers(&desired, &found);
        outcome.findings.extend(plan.findings);
        let mut work = Work {
            fleet: self,
            target,
            claim,
            engine,
            rows,
            desired,
            there,
            no_network: HashMap::new(),
            alone: HashSet::new(),
            has_started: false,
        };
        let mut leases = LeasesLookedAt::default();
        let mut portion = Portion::default();
        for action in plan.actions {
            if !portion.takes(&action) {
                continue;
            }
            match work.carry_out(&action, outcome).await? {
                Some(lease) => {
                    leases.waiting.insert(lease);
                }
                None => portion.done(&action),
            }
        }
        if !portion.left().is_empty() {
            leases.waiting.extend(portion.left());
            self.store.nodes().look_again(claim.node.id, self.now()).await?;
        }
        // What is not wanted is gone from the engine.
        if claim.departing.is_empty() {
            let wanted: Vec<ContainerId> = rows.iter().map(|row| row.id).collect();
            self.store.containers().free_ports_but(claim.node.id, &wanted).await?;
        }
        leases.kept = work.desired.iter().map(|lease| lease.lease).collect();
        let wanted: Vec<&str> = work.desired.iter().map(|lease| &*lease.ulid).collect();
        self.forget_deadlines(target, claim, (kept, &wanted)).await?;
        let looked = self.look_at_containers(&work.engine, claim.node.id, rows).await?;
        looked.map_err(|error| unreached(&error))?;
        Ok((leases, work.has_started))
    }

    async fn desired_containers(
        &self,
        claim: &NodeClaim,
        rows: &[ContainerRow],
        there: &HashSet<String>,
    ) -> Result<Vec<LeaseContainers>, Stop> {
        let mut desired = Vec::new();
        for wanted in &claim.desired {
            let of_lease: Vec<&ContainerRow> = rows.iter().filter(|row| row.lease == wanted.lease).collect();
            if of_lease.is_empty() {
                continue;
            }
            let nets = &self.config.networks.nets;
            let subnet = self.store.containers().subnet(wanted.lease, claim.node.id, nets).await?;
            if subnet.is_none() {
                for row in of_lease.iter().filter(|row| !row.phase.is_settled()) {
                    let why = "all networks for containers are in use on its node";
                    self.container_failed(row, claim, None, why).await?;
                }
                continue;
            }
            desired.push(LeaseContainers {
                lease: wanted.lease,
                ulid: wanted.ulid.clone(),
                subnet: subnet.map(|subnet| subnet.to_string()),
                containers: of_lease.into_iter().filter_map(|row| desired_container(row, there)).collect(),
            });
        }
        Ok(desired)
    }

    /// Writes that a container cannot be made or started on its node.
    pub(super) async fn container_failed(
        &self,
        row: &ContainerRow,
        claim: &NodeClaim,
        engine_id: Option<&str>,
        reason: &str,
    ) -> Result<(), Stop> {
        let news = ContainerNews {
            engine_id: engine_id.map(str::to_owned),
            phase: ContainerPhase::Failed,
            reason: Some(reason.to_owned()),
            ..nothing_seen(row, claim.node.id)
        };
        self.store.containers().observed(&news, self.now()).await?;
        // A restart that failed is over: its owner hears of it.
        self.store.containers().restart_tried(row.id).await?;
        Ok(())
    }
}

/// Returns what is wanted of a container; none where nothing is to be made of one that has ended, or failed, elsewhere.
fn desired_container(row: &ContainerRow, there: &HashSet<String>) -> Option<DesiredContainer> {
    let is_over = matches!(row.phase, ContainerPhase::Exited | ContainerPhase::Failed);
    if is_over && row.wanted != Wanted::Restarted && !there.contains(&row.uid) {
        return None;
    }
    let wanted = match row.wanted {
        // It could not be started, and is not tried again by itself.
        Wanted::Started if row.phase == ContainerPhase::Failed => WantedState::Stopped,
        Wanted::Started => WantedState::Started,
        Wanted::Restarted => WantedState::Restarted,
        Wanted::Stopped | Wanted::Removed => WantedState::Stopped,
    };
    Some(DesiredContainer {
        ulid: row.uid.clone(),
        number: row.number,
        epoch: row.oldest_incarnation,
        wanted,
    })
}

pub(crate) fn nothing_seen(row: &ContainerRow, node: NodeId) -> ContainerNews {
    ContainerNews {
        id: row.id,
        incarnation: row.incarnation,
        node,
        engine_id: None,
        phase: ContainerPhase::Pending,
        reason: None,
        exit: None,
        started_at: None,
        finished_at: None,
    }
}

/// Stops the work on the node because its engine cannot be asked.
fn unreached(error: &EngineError) -> Stop {
    Stop::Unreached(format!("containers: {}", with_source(error)))
}

/// Ends the run of a container whose owner wants it restarted, if it is the run that the owner saw.
async fn end_run(engine: &Engine, row: &ContainerRow, found: &mut FoundOnEngine) -> Result<(), EngineError> {
    let runs = |state: EngineState| {
        matches!(state, EngineState::Running | EngineState::Paused | EngineState::Restarting)
    };
    let of_row = |container: &&mut FoundContainer| {
        container.container.as_ref() == Some(&row.uid) && runs(container.state)
    };
    let Some(container) = found.containers.iter_mut().find(of_row) else { return Ok(()) };
    let seen = match engine.inspect(&container.id).await {
        Ok(seen) => seen,
        Err(EngineError::NotFound(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    let started_at = seen.started_at.as_deref().and_then(|at| at.parse::<Timestamp>().ok());
    if row.restart_of.is_none() || started_at != row.restart_of {
        return Ok(());
    }
    match engine.stop(&container.id, STOP_GRACE).await {
        Ok(()) | Err(EngineError::NotFound(_)) => {
            container.state = EngineState::Exited;
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Stops the work on the node because of an engine that fails, unless the failure is about one container alone.
fn stop_for_engine(error: &EngineError) -> Option<Stop> {
    match error.meaning() {
        EngineMeaning::NodeUnreached | EngineMeaning::EngineDown | EngineMeaning::Nothing => {
            Some(unreached(error))
        }
        EngineMeaning::Unusable
        | EngineMeaning::NotFound
        | EngineMeaning::Conflict
        | EngineMeaning::Invalid
        | EngineMeaning::Denied
        | EngineMeaning::NoSpace
        | EngineMeaning::Failed => None,
    }
}

impl<'a> Work<'a> {
    /// Something cannot be removed. Leases that stay on the node do not lose it for that.
    fn not_removed(&self, what: &str, error: &EngineError) -> Stop {
        stop_for_engine(error).unwrap_or_else(|| {
            let reason = format!("{what} cannot be removed: {}", with_source(error));
            if self.claim.desired.is_empty() {
                Stop::Refused(reason, QuarantineCause::Cleaning)
            } else {
                Stop::Unreached(reason)
            }
        })
    }

    fn row(&self, uid: &str) -> Option<&'a ContainerRow> {
        self.rows.iter().find(|row| row.uid == uid)
    }

    /// Carries out one action; returns the lease of a container that waits.
    async fn carry_out(
        &mut self,
        action: &ContainerAction,
        outcome: &mut Outcome,
    ) -> Result<Option<LeaseId>, Stop> {
        match action {
            ContainerAction::RemoveContainer { id, name } => {
                self.engine
                    .remove(id)
                    .await
                    .map_err(|error| self.not_removed(&format!("the container {name}"), &error))?;
                outcome.removed.push(json!({ "container": name }));
            }
            ContainerAction::RemoveNetwork { id, name } => {
                self.engine
                    .remove_network(id)
                    .await
                    .map_err(|error| self.not_removed(&format!("the network {name}"), &error))?;
                outcome.removed.push(json!({ "network": name }));
            }
            ContainerAction::RemoveVolume { name } => {
                self.engine
                    .remove_volume(name)
                    .await
                    .map_err(|error| self.not_removed(&format!("the volume {name}"), &error))?;
                outcome.removed.push(json!({ "volume": name }));
            }
            ContainerAction::CreateNetwork { lease } => self.create_network(*lease).await?,
            ContainerAction::Create { lease, container } => {
                let Some(row) = self.row(container) else { return Ok(None) };
                return Ok((!self.create(row).await?).then_some(*lease));
            }
            ContainerAction::Start { container, id, .. } => {
                if let Some(row) = self.row(container) {
                    self.put_files_again(row, id).await?;
                    self.restart_as_asked(row, id).await?;
                    return Ok((!self.start(row, id).await?).then_some(row.lease));
                }
            }
            ContainerAction::Stop { container, id } => match self.stop(id).await {
                Ok(()) | Err(EngineError::NotFound(_)) => {}
                Err(error) => {
                    let why = with_source(&error);
                    return Err(Stop::Unreached(format!("the container {container} was not stopped: {why}")));
                }
            },
        }
        Ok(None)
    }

    /// Makes the network of a lease. Where that fails it is a matter of this lease's containers, and nobody else's.
    async fn create_network(&mut self, lease: LeaseId) -> Result<(), Stop> {
        let Some(desired) = self.desired.iter().find(|desired| desired.lease == lease) else { return Ok(()) };
        let Some(subnet) = &desired.subnet else { return Ok(()) };
        if let Err(error) = self.engine.create_network(lease, &desired.ulid, subnet).await {
            if let Some(stop) = stop_for_engine(&error) {
                return Err(stop);
            }
            let why = format!("the network of the lease could not be made: {}", with_source(&error));
            self.no_network.insert(lease, why);
        }
        Ok(())
    }

    /// Makes a container and starts it. False: it waits, for its image or for the end of the one before.
    async fn create(&mut self, row: &ContainerRow) -> Result<bool, Stop> {
        let spec = match self.fleet.spec_of(row) {
            Ok(spec) => spec,
            Err(why) => {
                self.fleet.container_failed(row, self.claim, None, &why).await?;
                return Ok(true);
            }
        };
        let Some(desired) = self.claim.desired_of(row.lease) else { return Ok(true) };
        if let Some(why) = self.no_network.get(&row.lease) {
            self.fleet.container_failed(row, self.claim, None, why).await?;
            return Ok(true);
        }
        let (images, node) = (self.fleet.store.images(), self.claim.node.id);
        if !images.may_use(node, &spec.image, row.lease, self.fleet.now()).await? {
            return self.without_image(row).await;
        }
        let Some(ports) = self.take_ports(row, &spec).await? else {
            let why = "all ports for containers are in use on its node";
            self.fleet.container_failed(row, self.claim, None, why).await?;
            return Ok(true);
        };
        let placement = ContainerPlacement { ports, ..self.placement(row, &spec, desired).await? };
        let made = match self.engine.create(&spec, &placement).await {
            Ok(made) => made,
            Err(EngineError::NotFound(_)) => return self.without_image(row).await,
            Err(error) => {
                if let Some(stop) = stop_for_engine(&error) {
                    return Err(stop);
                }
                self.fleet.container_failed(row, self.claim, None, &with_source(&error)).await?;
                return Ok(true);
            }
        };
        for warning in &made.warnings {
            tracing::warn!(container = row.uid, warning, "the engine made a container with a warning");
        }
        if !matches!(row.wanted, Wanted::Started | Wanted::Restarted) {
            return Ok(true);
        }
        self.start(row, &made.id).await
    }

    /// Writes that a container waits for its image: it is not on the node, or not for this user.
    async fn without_image(&self, row: &ContainerRow) -> Result<bool, Stop> {
        // Who pulls it writes how far that is.
        if row.phase == ContainerPhase::Pulling && row.node == Some(self.claim.node.id) {
            return Ok(false);
        }
        self.waits(row, "its image is not on the node".to_owned()).await
    }

    /// Writes what a container waits for, before it can be made or started. Always false.
    async fn waits(&self, row: &ContainerRow, reason: String) -> Result<bool, Stop> {
        let news = ContainerNews { reason: Some(reason), ..nothing_seen(row, self.claim.node.id) };
        self.fleet.store.containers().observed(&news, self.fleet.now()).await?;
        Ok(false)
    }

    /// Puts the files of a container that was made and never started into it: who made it may have gone away in between.
    async fn put_files_again(&self, row: &ContainerRow, id: &str) -> Result<(), Stop> {
        let Ok(spec) = self.fleet.spec_of(row) else { return Ok(()) };
        if spec.files.is_empty() {
            return Ok(());
        }
        let put = match self.engine.inspect(id).await {
            Ok(seen) if seen.state == EngineState::Created => self.engine.put_files(id, &spec.files).await,
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        put.map_err(|error| unreached(&error))
    }

    /// Stops a container, for longer than until its engine starts again.
    async fn stop(&self, id: &str) -> Result<(), EngineError> {
        self.engine.set_restart(id, RestartPolicy::No).await?;
        self.engine.stop(id, STOP_GRACE).await
    }

    /// Gives a container that was stopped its restart policy back.
    async fn restart_as_asked(&self, row: &ContainerRow, id: &str) -> Result<(), Stop> {
        let Ok(spec) = self.fleet.spec_of(row) else { return Ok(()) };
        if spec.restart == RestartPolicy::No {
            return Ok(());
        }
        self.engine.set_restart(id, spec.restart).await.map_err(|error| unreached(&error))
    }

    async fn placement(
        &self,
        row: &ContainerRow,
        spec: &ContainerSpec,
        desired: &Desired,
    ) -> Result<ContainerPlacement, Stop> {
        let lease = self.fleet.store.leases().get(row.lease).await?;
        let holding = lease.map_or(Holding::WholeNode, |lease| lease.holding);
        let (cpu_milli, memory_mb) = holding.share_of(self.claim.node.capacity).limits_of(spec);
        Ok(ContainerPlacement {
            lease: row.lease,
            lease_ulid: desired.ulid.clone(),
            container_ulid: row.uid.clone(),
            number: row.number,
            epoch: row.incarnation,
            cpu_milli,
            memory_mb,
            pids_max: PIDS_MAX,
            gpus: self.gpus(row, spec).await?,
            network: Some(orion_domain::container::network_name(row.lease)),
            ports: Vec::new(),
        })
    }

    /// The devices of a container: the first ones of those that its lease has. A whole-node lease has all.
    async fn gpus(&self, row: &ContainerRow, spec: &ContainerSpec) -> Result<Vec<GpuDevice>, Stop> {
        if spec.gpus == 0 {
            return Ok(Vec::new());
        }
        let known = self.fleet.store.nodes().gpus(self.claim.node.id).await?;
        let is_whole = self.claim.node.whole_lease == Some(row.lease);
        let own =
            known.into_iter().filter(|gpu| gpu.is_present && (is_whole || gpu.lease == Some(row.lease)));
        let device = |uuid: String| match uuid.starts_with("/dev/") {
            true => GpuDevice::Device(uuid),
            false => GpuDevice::Nvidia(uuid),
        };
        Ok(own.take(spec.gpus as usize).map(|gpu| device(gpu.gpu.uuid)).collect())
    }

    /// Starts a container that was made: by a playbook, which checks the epoch under the node's lock. False: it waits for
    /// the end of the one before.
    async fn start(&mut self, row: &ContainerRow, id: &str) -> Result<bool, Stop> {
        let lease = row.lease.to_string();
        let Some(desired) = self.claim.desired_of(row.lease) else { return Ok(true) };
        let overlaps = self.fleet.spec_of(row).is_ok_and(|spec| spec.overlap);
        if !overlaps && !self.is_alone(row).await? {
            return Ok(false);
        }
        let deadline_s = self.fleet.seconds_left(desired.until).to_string();
        let own = [
            ("container", id),
            ("lease", &*lease),
            ("lease_ulid", &*desired.ulid),
            ("deadline_s", &*deadline_s),
            ("agent", agent(self.claim)),
        ];
        let firewall = self.fleet.firewall(self.claim.node.id).await?;
        let values: Vec<_> = own.into_iter().chain(firewall.values()).collect();
        let playbook = self.fleet.playbooks.start_container();
        let report = self.fleet.run(self.target, playbook, (self.claim, Some(row.lease)), &values).await?;
        self.fleet.firewalls.tell(self.claim.node.id, &firewall, self.fleet.now());
        self.fleet.store.containers().restart_tried(row.id).await?;
        let is_started = report.get("started") == Some("yes");
        self.has_started |= is_started;
        self.fleet.metrics.container_started(is_started);
        if is_started {
            return Ok(true);
        }
        // What the engine says of this container says nothing of the node.
        let problem = report.get("problem").unwrap_or("it could not be started");
        if ports::is_in_use(problem) {
            return self.avoid_ports(row, id, problem).await.map(|()| true);
        }
        self.fleet.container_failed(row, self.claim, Some(id), problem).await.map(|()| true)
    }
}

/// What the engine says of a container, as it is written; none where that is nothing to write.
pub(crate) fn news_of(
    row: &ContainerRow,
    seen: &ContainerState,
    blank: ContainerNews,
) -> Option<ContainerNews> {
    let phase = match seen.state {
        EngineState::Running | EngineState::Paused | EngineState::Restarting => ContainerPhase::Running,
        EngineState::Exited => ContainerPhase::Exited,
        // Why it did not start was written when it did not.
        EngineState::Created if seen.exit.as_ref().is_some_and(|exit| !exit.error.is_empty()) => {
            ContainerPhase::Failed
        }
        // Nobody wants it to run.
        EngineState::Created if row.wanted == Wanted::Stopped => ContainerPhase::Exited,
        EngineState::Created | EngineState::Removing | EngineState::Dead => return None,
    };
    let at = |time: &Option<String>| time.as_deref().and_then(|time| time.parse::<Timestamp>().ok());
    let runs = phase == ContainerPhase::Running;
    let reason = match row.wanted {
        Wanted::Stopped => Some("stopped".to_owned()),
        Wanted::Started | Wanted::Restarted | Wanted::Removed => seen.exit.as_ref().map(ToString::to_string),
    };

    Some(ContainerNews {
        engine_id: Some(seen.id.clone()),
        phase,
        reason: reason.filter(|_| !runs),
        exit: seen.exit.clone().filter(|_| !runs),
        started_at: at(&seen.started_at),
        finished_at: at(&seen.finished_at).filter(|_| !runs),
        ..blank
    })
}
