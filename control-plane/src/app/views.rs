//! What the API shows of leases and nodes.

use super::drain::{DrainView, RentalDrainView};
use crate::openapi::schemas;
use orion_domain::{
    LeaseId, NodeId, Timestamp, UserId,
    agent::DEADLINE_GRACE_S,
    lease::{Lease, LeaseState, OnNodeLoss, Phase},
    node::{Health, LinkState, Node},
};
use orion_store::{Event, LeaseNodeEntry, LeaseRow};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One rented node, as `POST /api/rent` gives it: the only reply that holds the password.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct RentalTicket {
    /// The lease.
    #[schema(value_type = i64)]
    pub rental_id: LeaseId,
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
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
    #[schema(value_type = String, format = DateTime)]
    pub leased_until: Timestamp,
    /// The node.
    #[schema(value_type = i64)]
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

/// A lease.
#[derive(Serialize, ToSchema)]
#[schema(as = Rental)]
pub struct RentalView {
    #[schema(value_type = i64)]
    rental_id: LeaseId,
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
    /// Where the login is; `null` while there is none.
    #[schema(required)]
    host_ip: Option<String>,
    #[schema(required)]
    ssh_port: Option<u16>,
    /// The login's name.
    client_user: String,
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
    /// For a terminal.
    #[schema(required)]
    ssh_command: Option<String>,
    /// Lines for a `known_hosts` file.
    #[schema(required)]
    known_hosts: Option<String>,
    /// Who closes the login at the end: `node` (also when the control plane is away), or `control plane only`.
    deadline: &'static str,
    /// Whether the node knows the lease's present end.
    applied: bool,
    /// Seconds after `leased_until` at which the node itself closes the login.
    grace_s: u64,
    /// What becomes of it because its node is being emptied; `null` when it is not.
    #[schema(required)]
    drain: Option<RentalDrainView>,
    /// The nodes that it has been on, oldest first; only where one lease is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    nodes: Option<Vec<NodeEntryView>>,
    /// Its events, oldest first, 200 at most; only where one lease is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    events: Option<Vec<EventView>>,
}

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
    /// Why it left.
    #[schema(required)]
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
        let drain = row.node.as_ref().and_then(|node| RentalDrainView::new(lease, node));
        let state_reason = match &lease.state {
            LeaseState::Provisioning { .. } => Some("the account is being made".to_owned()),
            LeaseState::Active { .. } => Some(match &drain {
                Some(drain) => format!("the login works, but its node is being drained: {}", drain.plan),
                None => "the login works".to_owned(),
            }),
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
            drain,
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

/// A node.
#[derive(Serialize, ToSchema)]
#[schema(as = Node)]
pub struct NodeView {
    #[schema(value_type = i64)]
    node_id: NodeId,
    hostname: String,
    /// Where its sshd is dialled: an IP address or a DNS name.
    ip: String,
    ssh_port: u16,
    #[schema(value_type = schemas::NodeStatus)]
    status: &'static str,
    /// A sentence for people.
    status_reason: String,
    /// Since when its health is what it is.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Whether a lease occupies it.
    allocated: bool,
    /// Whether a new lease could have it now.
    offerable: bool,
    /// Whether it does not hold yet what it should.
    dirty: bool,
    /// Its agent's link.
    #[schema(value_type = schemas::AgentLink)]
    agent: LinkState,
    #[schema(required)]
    cpu_cores: Option<u32>,
    /// In MiB.
    #[schema(required)]
    memory_mb: Option<u64>,
    gpus: Vec<String>,
    tags: Vec<String>,
    /// For its owner and admins; `null` for all others.
    #[schema(required)]
    lease: Option<NodeLeaseView>,
    /// How far it is emptied; `null` when it is not.
    #[schema(required)]
    drain: Option<DrainView>,
    /// For admins only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    admin: Option<NodeAdminView>,
}

/// The lease on a node, for its owner and for admins.
#[derive(Serialize, ToSchema)]
#[schema(as = NodeLease)]
struct NodeLeaseView {
    #[schema(value_type = i64)]
    rental_id: LeaseId,
    #[schema(value_type = i64)]
    user_id: UserId,
    #[schema(value_type = String, format = DateTime)]
    leased_from: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    leased_until: Timestamp,
    /// Whether its login works.
    active: bool,
}

/// What only admins see of a node.
#[derive(Serialize, ToSchema)]
#[schema(as = NodeForAdmins)]
struct NodeAdminView {
    /// Its SSH, as the scheduler sees it.
    #[schema(value_type = String)]
    ssh: Health,
    /// Why it is so.
    ssh_reason: String,
    /// Since when the agent's link is what it is.
    #[schema(value_type = String, format = DateTime)]
    agent_since: Timestamp,
    /// Whether the agent says that the node's own sshd answers; `null` if it does not say.
    #[schema(required)]
    agent_sees_sshd: Option<bool>,
    #[schema(required)]
    mac: Option<String>,
    #[schema(required)]
    agent_version: Option<String>,
    /// The pinned ones, `type base64` each.
    host_keys: Vec<String>,
    /// What a pending node showed.
    #[schema(required)]
    seen_fingerprint: Option<String>,
    /// Grows when it should hold something else.
    desired_version: i64,
    /// The version that was applied last; less than `desired_version`: the node is dirty.
    applied_version: i64,
    /// How often in a row bringing it in order failed.
    reconcile_failures: u32,
    /// What the last cleaning found and left.
    #[schema(value_type = Option<Object>, required)]
    last_clean_report: Option<serde_json::Value>,
    #[schema(value_type = String, format = DateTime)]
    registered_at: Timestamp,
    /// Its last events, oldest first, 50 at most; only where one node is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    events: Option<Vec<EventView>>,
}

impl NodeView {
    /// With its last events, for admins.
    #[must_use]
    pub fn with_events(mut self, events: Vec<Event>) -> Self {
        if let Some(admin) = &mut self.admin {
            admin.events = Some(events.into_iter().map(EventView::from).collect());
        }
        self
    }

    /// With how far its drain is.
    #[must_use]
    pub fn with_drain(self, drain: Option<DrainView>) -> Self {
        Self { drain, ..self }
    }

    /// What `viewer` may see; `None` is an admin.
    pub fn new(node: Node, lease: Option<&Lease>, viewer: Option<UserId>) -> Self {
        let (status, offerable, dirty) = (node.status(), node.is_offerable(), node.is_dirty());
        let reason = match (&node.quarantine, &node.drain, status) {
            (Some(reason), _, _) => reason.clone(),
            (None, Some(drain), "draining" | "drained") => drain.reason.clone(),
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
            drain: None,
            admin: viewer.is_none().then_some(NodeAdminView {
                ssh: node.health,
                ssh_reason: node.health_reason,
                agent_since: node.link_since,
                agent_sees_sshd: node.agent_sees_sshd,
                mac: node.facts.mac,
                agent_version: node.facts.agent_version,
                host_keys: node.host_keys,
                seen_fingerprint: node.seen_fingerprint,
                desired_version: node.desired_version,
                applied_version: node.applied_version,
                reconcile_failures: node.reconcile_failures,
                last_clean_report: node.last_clean_report,
                registered_at: node.registered_at,
                events: None,
            }),
        }
    }
}

/// An event, in the feed and in a lease's history.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventView {
    /// Its number, for `Last-Event-ID`.
    pub id: i64,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// What happened, like `lease.active` or `node.dead`.
    pub kind: String,
    #[schema(value_type = Option<i64>, required)]
    lease_id: Option<LeaseId>,
    #[schema(value_type = Option<i64>, required)]
    node_id: Option<NodeId>,
    #[schema(value_type = Option<i64>, required)]
    user_id: Option<UserId>,
    /// What more there is to say, by kind.
    #[schema(value_type = Object)]
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
