//! What the API shows of leases.

use crate::{
    app::{containers::views::ContainerView, events::views::EventView, leases::phases::shown},
    openapi::schemas,
};
use orion_domain::{
    LeaseId, NodeId, Timestamp, UserId,
    agent::DEADLINE_GRACE_S,
    lease::{Account, Holding, Lease, LeaseState, OnNodeLoss, Phase},
    node::{Health, LinkState, Node, Sshd, login_works},
    way_in::one_line,
};
use orion_store::{ContainerRow, Event, GpuRow, LeaseNodeEntry, LeaseRow};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One rented node, as `POST /api/rent` gives it: the only reply that holds the password.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct RentalTicket {
    /// The lease.
    #[schema(value_type = i64)]
    pub rental_id: LeaseId,
    /// Name of the lease, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub name: Option<String>,
    /// Address of the node's sshd.
    pub host_ip: String,
    /// And on which port.
    pub ssh_port: u16,
    /// The login's name; `null` for a slice, which has no login.
    #[schema(required)]
    pub client_user: Option<String>,
    /// The login's password; `null` for a slice.
    #[schema(required)]
    pub client_pass: Option<String>,
    /// End of the lease.
    #[schema(value_type = String, format = DateTime)]
    pub leased_until: Timestamp,
    /// The node.
    #[schema(value_type = i64)]
    pub node_id: NodeId,
    /// And its name.
    pub node_name: String,
    /// Command that logs in from a terminal; `null` for a slice.
    #[schema(required)]
    pub ssh_command: Option<String>,
    /// Lines for a `known_hosts` file; `null` for a slice.
    #[schema(required)]
    pub known_hosts: Option<String>,
    /// State of the lease; only with a `container`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::LeaseState>, nullable = false)]
    pub state: Option<Phase>,
    /// The lease's containers, as they were when the reply was given; only with a `container`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<ContainerView>>, nullable = false)]
    pub containers: Option<Vec<serde_json::Value>>,
}

impl RentalTicket {
    /// The ticket of a lease that has its login, or its containers, on a node; `None` if it has no node any more.
    pub fn new(row: &LeaseRow, password: Option<&str>, containers: &[ContainerRow]) -> Option<Self> {
        let node = row.node.as_ref()?;
        row.lease.state.wants_account_on()?;
        let sshd = node.sshd()?;
        let account = row.lease.account.as_ref();
        let view = |container| serde_json::to_value(ContainerView::new(container, Some(node))).ok();
        let has_containers = row.lease.containers > 0;
        Some(Self {
            rental_id: row.lease.id,
            name: row.lease.name.as_ref().map(ToString::to_string),
            host_ip: sshd.addr.to_string(),
            ssh_port: sshd.port.get(),
            client_user: account.map(|account| account.user.to_string()),
            client_pass: account.and(password).map(str::to_owned),
            leased_until: row.lease.until,
            node_id: node.id,
            node_name: node.hostname.to_string(),
            ssh_command: account.map(|account| ssh_command(account, sshd)),
            known_hosts: account.map(|_| known_hosts(sshd)),
            state: has_containers.then(|| shown(row.lease.state.phase())),
            containers: has_containers.then(|| containers.iter().filter_map(view).collect()),
        })
    }
}

fn ssh_command(account: &Account, sshd: &Sshd) -> String {
    format!("ssh -p {} {}@{}", sshd.port.get(), account.user, sshd.addr)
}

/// `known_hosts` lines of a node, one a host key: `[address]:port type key` (sshd(8)).
pub fn known_hosts(sshd: &Sshd) -> String {
    let host = match sshd.port.get() {
        22 => sshd.addr.to_string(),
        port => format!("[{}]:{port}", sshd.addr),
    };
    sshd.host_keys.iter().fold(String::new(), |lines, key| lines + &host + " " + key + "\n")
}

/// A lease.
#[derive(Serialize, ToSchema)]
#[schema(as = Rental)]
pub struct RentalView {
    #[schema(value_type = i64)]
    pub(crate) rental_id: LeaseId,
    #[schema(required)]
    name: Option<String>,
    #[schema(value_type = i64)]
    user_id: UserId,
    #[schema(value_type = schemas::LeaseState)]
    state: Phase,
    #[schema(value_type = String, format = DateTime)]
    state_since: Timestamp,
    /// A sentence for people.
    #[schema(required)]
    state_reason: Option<String>,
    /// Address of the login; `null` while there is none.
    #[schema(required)]
    host_ip: Option<String>,
    #[schema(required)]
    ssh_port: Option<u16>,
    /// The login's name; `null` for a slice, which has no login.
    #[schema(required)]
    client_user: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    leased_from: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    leased_until: Timestamp,
    #[schema(value_type = schemas::NodeLossPolicy)]
    on_node_loss: OnNodeLoss,
    /// The node that it occupies.
    #[schema(value_type = Option<i64>, required)]
    node_id: Option<NodeId>,
    #[schema(required)]
    node_name: Option<String>,
    /// Command that logs in from a terminal.
    #[schema(required)]
    ssh_command: Option<String>,
    /// Lines for a `known_hosts` file.
    #[schema(required)]
    known_hosts: Option<String>,
    /// Component that closes the login at the end: `node` (also when the control plane is away), or `control
    /// plane only`.
    deadline: &'static str,
    /// Whether the node knows the lease's present end.
    applied: bool,
    /// Seconds after `leased_until` at which the node itself closes the login.
    grace_s: u64,
    /// Drain of the lease's node, with its effect on the lease; `null` without a drain.
    #[schema(required)]
    drain: Option<RentalDrainView>,
    /// What a slice has of its node; `null` for a lease that has all of it.
    #[schema(required)]
    slice: Option<SliceView>,
    /// Its containers that were not removed; only where one lease is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    containers: Option<Vec<ContainerView>>,
    /// The nodes that it has been on, oldest first; only where one lease is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    nodes: Option<Vec<NodeEntryView>>,
    /// Events of the lease, oldest first, 200 at most; only where one lease is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    events: Option<Vec<EventView>>,
}

/// What a slice has of its node.
#[derive(Serialize, ToSchema)]
#[schema(as = Slice)]
pub struct SliceView {
    /// Processor cores.
    cpus: f64,
    /// Memory in MiB.
    memory_mb: u32,
    /// Number of GPUs, each for this lease alone.
    gpus: u32,
}

impl SliceView {
    fn of(holding: Holding) -> Option<Self> {
        match holding {
            Holding::WholeNode => None,
            Holding::Slice { cpu_milli, memory_mb, gpus } => {
                Some(Self { cpus: f64::from(cpu_milli) / 1000.0, memory_mb, gpus })
            }
        }
    }
}

/// Whether something on the node keeps deadlines: its agent, which has a link, sees to the process that does; without a
/// link it is there when a playbook that left it was the last that happened to the node, and no boot since.
fn keeps_deadlines(node: &Node) -> bool {
    match node.link {
        LinkState::Up => true,
        LinkState::Lost => false,
        LinkState::None => node.health == Health::Alive && node.applied_version == node.desired_version,
    }
}

/// Returns what is known of an active lease's login, as text.
fn login_text(row: &LeaseRow, now: Timestamp) -> String {
    let Some(node) = &row.node else { return "not checked: its node was forgotten".to_owned() };
    match login_works(node, row.open_at, now) {
        Ok(()) => "the login works".to_owned(),
        // What was seen before the lease was there says nothing about it.
        Err(why) => match row.open_at.filter(|at| *at >= row.lease.since) {
            Some(at) => format!("not checked since {at}: {why}"),
            None => format!("not checked since {}: {why}", row.lease.since),
        },
    }
}

/// Returns what an active lease is good for, as text.
fn use_text(row: &LeaseRow, now: Timestamp) -> String {
    if row.lease.account.is_some() {
        return login_text(row, now);
    }
    match row.node.as_ref().filter(|node| node.health != Health::Alive) {
        Some(node) => format!("not known since {}: its node is {}", node.health_since, node.health.as_str()),
        None => "its node has room for its containers".to_owned(),
    }
}

/// What the containers of a lease that moves leave behind.
const NOT_MOVED: &str = "volumes and what its containers wrote stay there";

/// A node that a lease has been on.
#[derive(Serialize, ToSchema)]
#[schema(as = RentalNode)]
pub struct NodeEntryView {
    #[schema(value_type = i64)]
    node_id: NodeId,
    /// `null` when the node was forgotten.
    #[schema(required)]
    hostname: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    /// `null` while it is there.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    to: Option<Timestamp>,
    /// Reason for which the lease left the node.
    #[schema(required)]
    why: Option<String>,
}

impl RentalView {
    /// The short form, for lists; as it is known at `now`.
    pub fn new(row: &LeaseRow, now: Timestamp) -> Self {
        let lease = &row.lease;
        // The address is that of the login: a lease that waits for a node has none.
        let login_node = match &lease.state {
            LeaseState::Active { .. } | LeaseState::Provisioning { .. } => row.node.as_ref(),
            LeaseState::Requested
            | LeaseState::Scheduled { .. }
            | LeaseState::Queued { .. }
            | LeaseState::Migrating { .. }
            | LeaseState::Yielding { .. }
            | LeaseState::Releasing { .. }
            | LeaseState::Ended { .. } => None,
        };
        let login = login_node.filter(|_| lease.account.is_some()).and_then(Node::sshd);
        let drain = row.node.as_ref().and_then(|node| RentalDrainView::new(lease, node));
        let state_reason = match &lease.state {
            LeaseState::Requested => Some("it waits for approval".to_owned()),
            LeaseState::Scheduled { reason: None } => Some("it begins at its time".to_owned()),
            LeaseState::Scheduled { reason: Some(reason) } => Some(one_line(reason).into_owned()),
            LeaseState::Queued { reason } => Some(format!("it waits for a node: {}", one_line(reason))),
            LeaseState::Yielding { reason, .. } => {
                Some(format!("it makes room for another lease: {}", one_line(reason)))
            }
            LeaseState::Provisioning { .. } if lease.account.is_none() => {
                Some("its container is being made".to_owned())
            }
            LeaseState::Provisioning { .. } => Some("the account is being made".to_owned()),
            LeaseState::Active { .. } => Some(match (&drain, use_text(row, now)) {
                (Some(drain), text) => format!("{text}; its node is being drained: {}", drain.plan),
                (None, text) => text,
            }),
            LeaseState::Migrating { reason, .. } if lease.containers > 0 => {
                Some(format!("{}; {NOT_MOVED}", one_line(reason)))
            }
            LeaseState::Migrating { reason, .. } => Some(one_line(reason).into_owned()),
            LeaseState::Releasing { reason, .. } | LeaseState::Ended { reason } => Some(reason.to_string()),
        };
        let node_keeps_it =
            lease.deadline_applied.is_some() && row.node.as_ref().is_some_and(keeps_deadlines);
        Self {
            rental_id: lease.id,
            name: lease.name.as_ref().map(ToString::to_string),
            user_id: lease.user,
            state: shown(lease.state.phase()),
            state_since: lease.since,
            state_reason,
            host_ip: login.map(|sshd| sshd.addr.to_string()),
            ssh_port: login.map(|sshd| sshd.port.get()),
            client_user: lease.account.as_ref().map(|account| account.user.to_string()),
            leased_from: lease.from,
            leased_until: lease.until,
            on_node_loss: lease.on_node_loss,
            node_id: row.node.as_ref().map(|node| node.id),
            node_name: row.node.as_ref().map(|node| node.hostname.to_string()),
            ssh_command: lease.account.as_ref().zip(login).map(|(account, sshd)| ssh_command(account, sshd)),
            known_hosts: login.map(known_hosts),
            deadline: if node_keeps_it { "node" } else { "control plane only" },
            applied: lease.deadline_applied == Some(lease.until),
            grace_s: DEADLINE_GRACE_S,
            drain,
            slice: SliceView::of(lease.holding),
            containers: None,
            nodes: None,
            events: None,
        }
    }

    /// Says which GPUs of the lease its node does not report any more.
    #[must_use]
    pub fn with_gpus(mut self, gpus: &[GpuRow]) -> Self {
        let vanished: Vec<&str> =
            gpus.iter().filter(|gpu| !gpu.is_present).map(|gpu| gpu.gpu.uuid.as_str()).collect();
        if !vanished.is_empty() {
            let text = format!("GPUs have vanished from its node: {}", vanished.join(", "));
            self.state_reason = Some(match self.state_reason {
                Some(reason) => format!("{reason}; {text}"),
                None => text,
            });
        }
        self
    }

    /// Adds the lease's containers.
    #[must_use]
    pub fn with_containers(mut self, containers: &[ContainerRow], node: Option<&Node>) -> Self {
        self.containers =
            Some(containers.iter().map(|container| ContainerView::new(container, node)).collect());
        self
    }

    /// The long form: with the nodes that it has been on (and their names), and its events.
    #[must_use]
    pub fn with_history(mut self, nodes: Vec<(LeaseNodeEntry, Option<String>)>, events: Vec<Event>) -> Self {
        // A lease that goes on took its containers along, and not what they wrote.
        let left_something = self.containers.as_ref().is_some_and(|containers| !containers.is_empty());
        let last = nodes.len().saturating_sub(1);
        self.nodes = Some(
            nodes
                .into_iter()
                .enumerate()
                .map(|(index, (entry, hostname))| NodeEntryView {
                    node_id: entry.node,
                    hostname,
                    from: entry.at,
                    to: entry.left_at,
                    why: match entry.why {
                        Some(why) if left_something && index < last => Some(format!("{why}; {NOT_MOVED}")),
                        why => why,
                    },
                })
                .collect(),
        );
        self.events = Some(events.into_iter().map(EventView::from).collect());
        self
    }
}

/// Drain of a lease's node, with its effect on the lease.
#[derive(Serialize, ToSchema)]
#[schema(as = RentalDrain)]
pub struct RentalDrainView {
    /// Reason for the drain of the node.
    reason: String,
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Time until which the login can work on the node; `null`: no deadline.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    deadline: Option<Timestamp>,
    /// Sentence that says what happens to the lease, by its `on_node_loss`.
    plan: &'static str,
}

impl RentalDrainView {
    /// Describes the drain for a lease that has, or will have, its login on `node`.
    pub fn new(lease: &Lease, node: &Node) -> Option<Self> {
        let drain = node.drain.as_ref()?;
        let here = match &lease.state {
            LeaseState::Provisioning { .. } | LeaseState::Active { .. } => {
                lease.state.occupies() == Some(node.id)
            }
            LeaseState::Requested
            | LeaseState::Scheduled { .. }
            | LeaseState::Queued { .. }
            | LeaseState::Migrating { .. }
            | LeaseState::Yielding { .. }
            | LeaseState::Releasing { .. }
            | LeaseState::Ended { .. } => false,
        };
        let plan = match (lease.on_node_loss, drain.deadline) {
            (OnNodeLoss::Migrate, None) => "it moves to another node as soon as one is free",
            (OnNodeLoss::Migrate, Some(_)) => {
                "it moves to another node as soon as one is free; at the deadline its login here ends all the same"
            }
            (OnNodeLoss::Wait | OnNodeLoss::End, None) => "it may stay until it ends",
            (OnNodeLoss::Wait, Some(_)) => {
                "its login works until the deadline, and again when the node is back"
            }
            (OnNodeLoss::End, Some(_)) => "it ends at the deadline, as its policy says",
        };
        here.then(|| Self {
            reason: drain.reason.clone(),
            since: drain.since,
            deadline: drain.deadline,
            plan,
        })
    }
}
