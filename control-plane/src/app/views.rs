//! What the API shows of leases and nodes.

use orion_domain::{
    LeaseId, NodeId, Timestamp, UserId,
    agent::DEADLINE_GRACE_S,
    lease::{Lease, LeaseState, OnNodeLoss, Phase},
    node::{LinkState, Node},
};
use orion_store::{Event, LeaseNodeEntry, LeaseRow};
use serde::{Deserialize, Serialize};

/// One rented node, as `POST /api/rent` gives it: the only reply that holds the password.
#[derive(Serialize, Deserialize)]
pub struct RentalTicket {
    /// The lease.
    pub rental_id: LeaseId,
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where its sshd is.
    pub host_ip: String,
    /// And on which port.
    pub ssh_port: u16,
    /// The login's name.
    pub client_user: String,
    /// The login's password.
    pub client_pass: String,
    /// When the lease ends.
    pub leased_until: Timestamp,
    /// The node.
    pub node_id: NodeId,
    /// And its name.
    pub node_name: String,
    /// For a terminal.
    pub ssh_command: String,
    /// Lines for a `known_hosts` file.
    pub known_hosts: String,
}

impl RentalTicket {
    /// The ticket of a lease that has its login on a node; `None` if it has no node any more.
    pub fn new(row: &LeaseRow, password: &str) -> Option<Self> {
        let node = row.node.as_ref()?;
        row.lease.state.wants_account_on()?;
        Some(Self {
            rental_id: row.lease.id,
            name: row.lease.name.as_ref().map(ToString::to_string),
            host_ip: node.addr.to_string(),
            ssh_port: node.ssh_port.get(),
            client_user: row.lease.account.user.to_string(),
            client_pass: password.to_owned(),
            leased_until: row.lease.until,
            node_id: node.id,
            node_name: node.hostname.to_string(),
            ssh_command: ssh_command(&row.lease, node),
            known_hosts: known_hosts(node),
        })
    }
}

fn ssh_command(lease: &Lease, node: &Node) -> String {
    format!("ssh -p {} {}@{}", node.ssh_port.get(), lease.account.user, node.addr)
}

/// `known_hosts` lines of a node, one a host key: `[address]:port type key` (sshd(8)).
pub fn known_hosts(node: &Node) -> String {
    let host = match node.ssh_port.get() {
        22 => node.addr.to_string(),
        port => format!("[{}]:{port}", node.addr),
    };
    node.host_keys.iter().fold(String::new(), |lines, key| lines + &host + " " + key + "\n")
}

/// A lease, as `GET /api/rentals` shows it.
#[derive(Serialize)]
pub struct RentalView {
    rental_id: LeaseId,
    name: Option<String>,
    user_id: UserId,
    state: Phase,
    state_since: Timestamp,
    state_reason: Option<String>,
    host_ip: Option<String>,
    ssh_port: Option<u16>,
    client_user: String,
    leased_from: Timestamp,
    leased_until: Timestamp,
    on_node_loss: OnNodeLoss,
    node_id: Option<NodeId>,
    node_name: Option<String>,
    ssh_command: Option<String>,
    known_hosts: Option<String>,
    /// Who closes the login at the end: `node` (also when the control plane is away), or `control plane only`.
    deadline: &'static str,
    /// Whether the node knows the lease's present end.
    applied: bool,
    /// Seconds after `leased_until` at which the node itself closes the login.
    grace_s: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<Vec<NodeEntryView>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<Vec<EventView>>,
}

/// A node that a lease has been on.
#[derive(Serialize)]
pub struct NodeEntryView {
    node_id: NodeId,
    hostname: Option<String>,
    from: Timestamp,
    to: Option<Timestamp>,
    why: Option<String>,
}

impl RentalView {
    /// The short form, for lists.
    pub fn new(row: &LeaseRow) -> Self {
        let lease = &row.lease;
        // The address is that of the login: a lease that waits for a node has none.
        let login_node = match &lease.state {
            LeaseState::Active { .. } | LeaseState::Provisioning { .. } => row.node.as_ref(),
            LeaseState::Migrating { .. } | LeaseState::Releasing { .. } | LeaseState::Ended { .. } => None,
        };
        let state_reason = match &lease.state {
            LeaseState::Provisioning { .. } => Some("the account is being made".to_owned()),
            LeaseState::Active { .. } => Some("the login works".to_owned()),
            LeaseState::Migrating { reason, .. } => Some(reason.clone()),
            LeaseState::Releasing { reason, .. } | LeaseState::Ended { reason } => Some(reason.to_string()),
        };
        let node_keeps_it = lease.deadline_applied.is_some()
            && row.node.as_ref().is_some_and(|node| node.link != LinkState::Lost);
        Self {
            rental_id: lease.id,
            name: lease.name.as_ref().map(ToString::to_string),
            user_id: lease.user,
            state: lease.state.phase(),
            state_since: lease.since,
            state_reason,
            host_ip: login_node.map(|node| node.addr.to_string()),
            ssh_port: login_node.map(|node| node.ssh_port.get()),
            client_user: lease.account.user.to_string(),
            leased_from: lease.from,
            leased_until: lease.until,
            on_node_loss: lease.on_node_loss,
            node_id: row.node.as_ref().map(|node| node.id),
            node_name: row.node.as_ref().map(|node| node.hostname.to_string()),
            ssh_command: login_node.map(|node| ssh_command(lease, node)),
            known_hosts: login_node.map(known_hosts),
            deadline: if node_keeps_it { "node" } else { "control plane only" },
            applied: lease.deadline_applied == Some(lease.until),
            grace_s: DEADLINE_GRACE_S,
            nodes: None,
            events: None,
        }
    }

    /// The long form: with the nodes that it has been on (and their names), and its events.
    #[must_use]
    pub fn with_history(mut self, nodes: Vec<(LeaseNodeEntry, Option<String>)>, events: Vec<Event>) -> Self {
        self.nodes = Some(
            nodes
                .into_iter()
                .map(|(entry, hostname)| NodeEntryView {
                    node_id: entry.node,
                    hostname,
                    from: entry.at,
                    to: entry.left_at,
                    why: entry.why,
                })
                .collect(),
        );
        self.events = Some(events.into_iter().map(EventView::from).collect());
        self
    }
}

/// A node, as `GET /api/nodes` shows it.
#[derive(Serialize)]
pub struct NodeView {
    node_id: NodeId,
    hostname: String,
    ip: String,
    ssh_port: u16,
    status: &'static str,
    status_reason: String,
    since: Timestamp,
    allocated: bool,
    offerable: bool,
    dirty: bool,
    agent: LinkState,
    cpu_cores: Option<u32>,
    memory_mb: Option<u64>,
    gpus: Vec<String>,
    tags: Vec<String>,
    lease: Option<NodeLeaseView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin: Option<NodeAdminView>,
}

/// The lease on a node, for its owner and for admins.
#[derive(Serialize)]
struct NodeLeaseView {
    rental_id: LeaseId,
    user_id: UserId,
    leased_from: Timestamp,
    leased_until: Timestamp,
    active: bool,
}

/// What only admins see of a node.
#[derive(Serialize)]
struct NodeAdminView {
    mac: Option<String>,
    agent_version: Option<String>,
    host_keys: Vec<String>,
    seen_fingerprint: Option<String>,
    desired_version: i64,
    applied_version: i64,
    reconcile_failures: u32,
    last_clean_report: Option<serde_json::Value>,
    registered_at: Timestamp,
}

impl NodeView {
    /// What `viewer` may see; `None` is an admin.
    pub fn new(node: Node, lease: Option<&Lease>, viewer: Option<UserId>) -> Self {
        let (status, offerable, dirty) = (node.status(), node.is_offerable(), node.is_dirty());
        let reason = match (&node.quarantine, &node.cordon, status) {
            (Some(reason), _, _) => reason.clone(),
            (None, Some(reason), "draining") => reason.clone(),
            (None, _, "pending") => match (&node.seen_fingerprint, viewer) {
                (Some(fingerprint), None) => format!("an admin has to accept its host key {fingerprint}"),
                (Some(_), Some(_)) | (None, _) => "an admin has to accept its host key".to_owned(),
            },
            (None, _, "cleaning") => "it is being cleaned before it is offered".to_owned(),
            (None, _, _) => node.health_reason.clone(),
        };
        let lease = lease.filter(|lease| viewer.is_none_or(|viewer| lease.user == viewer)).map(|lease| {
            NodeLeaseView {
                rental_id: lease.id,
                user_id: lease.user,
                leased_from: lease.from,
                leased_until: lease.until,
                active: lease.state.phase() == Phase::Active,
            }
        });
        Self {
            node_id: node.id,
            hostname: node.hostname.to_string(),
            ip: node.addr.to_string(),
            ssh_port: node.ssh_port.get(),
            status,
            status_reason: reason,
            since: node.health_since,
            allocated: node.lease.is_some(),
            offerable,
            dirty,
            agent: node.link,
            cpu_cores: node.facts.cpu_cores,
            memory_mb: node.facts.memory_mb,
            gpus: node.facts.gpus,
            tags: node.tags.iter().map(ToString::to_string).collect(),
            lease,
            admin: viewer.is_none().then_some(NodeAdminView {
                mac: node.facts.mac,
                agent_version: node.facts.agent_version,
                host_keys: node.host_keys,
                seen_fingerprint: node.seen_fingerprint,
                desired_version: node.desired_version,
                applied_version: node.applied_version,
                reconcile_failures: node.reconcile_failures,
                last_clean_report: node.last_clean_report,
                registered_at: node.registered_at,
            }),
        }
    }
}

/// An event, in the feed and in a lease's history.
#[derive(Serialize)]
pub struct EventView {
    /// Its number, for `Last-Event-ID`.
    pub id: i64,
    at: Timestamp,
    /// What happened.
    pub kind: String,
    lease_id: Option<LeaseId>,
    node_id: Option<NodeId>,
    user_id: Option<UserId>,
    data: serde_json::Value,
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        Self {
            id: event.id.0,
            at: event.at,
            kind: event.kind,
            lease_id: event.lease,
            node_id: event.node,
            user_id: event.user,
            data: event.data,
        }
    }
}
