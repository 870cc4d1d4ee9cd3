//! What the API shows of nodes.

use super::capacity::{CapacityView, EngineView, shrunk_text};
use crate::{
    app::{discretion, events::views::EventView},
    openapi::schemas,
};
use orion_domain::{
    LeaseId, NodeId, Timestamp, UserId,
    drain::DrainState,
    node::{Health, LinkState},
    way_in::{Way, clock_off_text, one_line, told, without_details},
};
use orion_store::{Event, GpuRow, LeaseGlance, ListedNode, NodeSummary};
use serde::Serialize;
use std::borrow::Cow;
use utoipa::ToSchema;

/// A node.
#[derive(Serialize, ToSchema)]
#[schema(as = Node)]
pub struct NodeView {
    #[schema(value_type = i64)]
    pub(crate) node_id: NodeId,
    hostname: String,
    /// Address at which the node's sshd is dialled: an IP address or a DNS name.
    ip: String,
    ssh_port: u16,
    #[schema(value_type = schemas::NodeStatus)]
    status: &'static str,
    /// A sentence for people.
    status_reason: String,
    /// Time since which the node has its present health; of a quarantined node, start of the quarantine.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Whether a lease occupies it.
    allocated: bool,
    /// Whether a new lease could have it now.
    offerable: bool,
    /// Whether it does not hold yet what it should.
    dirty: bool,
    /// State of the agent's link.
    #[schema(value_type = schemas::AgentLink)]
    agent: LinkState,
    /// Whether lease accounts can log in: a probe account did, by password and by key.
    #[schema(value_type = schemas::WayIn)]
    way_in: Way,
    /// Time since which `way_in` has its present value; `null` before the first probe.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    way_in_since: Option<Timestamp>,
    /// Time at which a probe account was last seen to log in; `null` when none was. If that is more than 90
    /// seconds ago, `way_in` is `unknown`.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    way_in_at: Option<Timestamp>,
    /// Reason why lease accounts cannot log in, or time since which that was not checked; `null` when
    /// `way_in` is `open`.
    #[schema(required)]
    way_in_reason: Option<String>,
    #[schema(required)]
    cpu_cores: Option<u32>,
    /// Memory in MiB.
    #[schema(required)]
    memory_mb: Option<u64>,
    gpus: Vec<String>,
    /// What leases may have of it: all of it together, or slices.
    capacity: CapacityView,
    /// Whether leases with containers are placed on it, as far as its engine is concerned.
    containers: EngineView,
    tags: Vec<String>,
    /// First one of `leases`; `null` where there is none.
    #[schema(required)]
    lease: Option<NodeLeaseView>,
    /// Leases on the node, each for its owner and admins: one that has the whole node, or slices of it, by number.
    leases: Vec<NodeLeaseView>,
    /// Progress of the node's drain; `null` without a drain.
    #[schema(required)]
    drain: Option<DrainView>,
    /// Details for admins only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    admin: Option<NodeAdminView>,
    #[serde(skip)]
    pub(super) wants: Wants,
}

/// What of a node of a page is still to be read.
#[derive(Clone, Copy, Default)]
pub struct Wants {
    /// The progress of its drain.
    pub drain: bool,
    /// Its leases: slices do not come with a page, and a drain is held up by leases.
    pub leases: bool,
}

/// A lease on a node, for its owner and for admins.
#[derive(Clone, Copy, Serialize, ToSchema)]
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

/// Details of a node that only admins see.
#[derive(Serialize, ToSchema)]
#[schema(as = NodeForAdmins)]
struct NodeAdminView {
    /// Health of the node's SSH, as the scheduler sees it.
    #[schema(value_type = String)]
    ssh: Health,
    /// Reason for the value of `ssh`.
    ssh_reason: String,
    /// Time since which the agent's link has its present state.
    #[schema(value_type = String, format = DateTime)]
    agent_since: Timestamp,
    /// Whether the agent says that the node's own sshd answers; `null` if it does not say.
    #[schema(required)]
    agent_sees_sshd: Option<bool>,
    /// Milliseconds by which the node's clock is ahead of the control plane's (less than 0: behind); `null`
    /// when that is less than five seconds, or not known.
    #[schema(required)]
    clock_off_ms: Option<i64>,
    #[schema(required)]
    mac: Option<String>,
    #[schema(required)]
    agent_version: Option<String>,
    /// The pinned ones, `type base64` each.
    host_keys: Vec<String>,
    /// Fingerprint of the host key that a pending node showed.
    #[schema(required)]
    seen_fingerprint: Option<String>,
    /// Grows when it should hold something else.
    desired_version: i64,
    /// The version that was applied last; less than `desired_version`: the node is dirty.
    applied_version: i64,
    /// Number of failed reconciles in a row.
    reconcile_failures: u32,
    /// Report of what the last cleaning found and left.
    #[schema(value_type = Option<Object>, required)]
    last_clean_report: Option<serde_json::Value>,
    #[schema(value_type = String, format = DateTime)]
    registered_at: Timestamp,
    /// Last events of the node, oldest first, 50 at most; only where one node is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    events: Option<Vec<EventView>>,
}

impl NodeView {
    /// Adds the node's last events, for admins.
    #[must_use]
    pub fn with_events(mut self, events: Vec<Event>) -> Self {
        if let Some(admin) = &mut self.admin {
            admin.events = Some(events.into_iter().map(EventView::from).collect());
        }
        self
    }

    /// Adds what is found of the node's machine, for admins.
    pub fn set_finding(&mut self, finding: Option<&String>) {
        if let (Some(finding), true) = (finding, self.admin.is_some()) {
            self.status_reason = format!("{}; {finding}", self.status_reason);
        }
    }

    /// Sets the node's GPU devices.
    pub fn set_gpus(&mut self, gpus: &[GpuRow]) {
        self.capacity.set_gpus(gpus);
    }

    /// Sets the progress of the node's drain.
    pub fn set_drain(&mut self, drain: Option<DrainView>) {
        self.drain = drain;
    }

    /// Sets those of the leases on the node that `viewer` may see; `None` is an admin.
    pub fn set_leases(&mut self, leases: impl Iterator<Item = LeaseGlance>, viewer: Option<UserId>) {
        let may_see = |lease: &LeaseGlance| viewer.is_none_or(|viewer| lease.user == viewer);
        self.leases = leases.filter(may_see).map(NodeLeaseView::from).collect();
        self.lease = self.leases.first().copied();
    }

    /// Creates the view of a node of a page for `viewer`; `None` is an admin.
    pub fn listed(listed: ListedNode, viewer: Option<UserId>, now: Timestamp) -> Self {
        let ListedNode { node, open_at, lease } = listed;
        let state = node.availability();
        let wants = Wants {
            drain: node.drain.is_some(),
            leases: state.is_held && (state.is_drained.is_some() || !state.has_whole_lease),
        };
        Self { wants, ..Self::new(node, lease.into_iter(), open_at, viewer, now) }
    }

    /// Whether leases are shown on it.
    pub const fn has_lease(&self) -> bool {
        self.lease.is_some()
    }

    /// Creates the view of a node, on which `leases` are, for `viewer`; `None` is an admin. `open_at`: time at which a
    /// login was last seen to work there.
    pub fn new(
        node: NodeSummary,
        leases: impl Iterator<Item = LeaseGlance>,
        open_at: Option<Timestamp>,
        viewer: Option<UserId>,
        now: Timestamp,
    ) -> Self {
        let (way_in, state) = (told(node.way_in, open_at, now), node.availability());
        let way_in_reason = match (way_in, viewer) {
            (Way::Open, _) => None,
            (Way::Unknown, _) => open_at.map(|at| format!("not checked since {at}")),
            (Way::Shut, None) => node.way_in_reason.clone(),
            (Way::Shut, Some(_)) => node.way_in_reason.as_deref().map(without_details),
        };
        let mut reason = one_line(&reason_of(&node, viewer)).into_owned();
        if let (None, Way::Shut, Some(why)) = (&node.quarantine, way_in, &way_in_reason) {
            reason = format!("{reason}; not offered, because lease accounts cannot log in: {why}");
        }
        if let Some(shrunk) = shrunk_text(node.capacity) {
            reason = format!("{reason}; {shrunk}");
        }
        if let Some(clock) = node.clock_off_ms.and_then(clock_off_text) {
            reason = format!("{reason}; {clock}");
        }
        if let Some(why) = &node.disk_full {
            reason = format!("{reason}; not offered for containers: {why}");
        }
        // A node that only dials out has no address.
        let (ip, ssh_port, host_keys) = match node.sshd {
            Some(sshd) => (sshd.addr, sshd.port.get(), sshd.host_keys),
            None => (String::new(), 0, Vec::new()),
        };
        let mut view = Self {
            node_id: node.id,
            hostname: node.hostname,
            ip,
            ssh_port,
            status: state.status(),
            status_reason: reason,
            since: node.quarantine_since.unwrap_or(node.health_since),
            allocated: state.is_held,
            offerable: state.is_offerable(),
            dirty: state.is_dirty,
            agent: node.link,
            way_in,
            way_in_since: (node.way_in != Way::Unknown).then_some(node.way_in_since),
            way_in_at: open_at,
            way_in_reason,
            cpu_cores: node.facts.cpu_cores,
            memory_mb: node.facts.memory_mb,
            gpus: node.facts.gpus,
            capacity: CapacityView::of(node.capacity, state.has_whole_lease),
            containers: EngineView::of(node.engine, node.engine_down_since, node.disk_full.as_ref()),
            tags: node.tags,
            lease: None,
            leases: Vec::new(),
            drain: None,
            admin: viewer.is_none().then_some(NodeAdminView {
                ssh: node.health,
                ssh_reason: into_one_line(node.health_reason),
                agent_since: node.link_since,
                agent_sees_sshd: node.agent_sees_sshd,
                clock_off_ms: node.clock_off_ms,
                mac: node.facts.mac,
                agent_version: node.facts.agent_version,
                host_keys,
                seen_fingerprint: node.seen_fingerprint,
                desired_version: node.desired_version,
                applied_version: node.applied_version,
                reconcile_failures: node.reconcile_failures,
                last_clean_report: node.last_clean_report,
                registered_at: node.registered_at,
                events: None,
            }),
            wants: Wants::default(),
        };
        view.set_leases(leases, viewer);
        view
    }
}

impl From<LeaseGlance> for NodeLeaseView {
    fn from(lease: LeaseGlance) -> Self {
        Self {
            rental_id: lease.id,
            user_id: lease.user,
            leased_from: lease.from,
            leased_until: lease.until,
            active: lease.is_active,
        }
    }
}

/// The reason for a node's status, for `viewer`; `None` is an admin.
fn reason_of(node: &NodeSummary, viewer: Option<UserId>) -> Cow<'_, str> {
    match (&node.quarantine, &node.drain, node.availability().status()) {
        (Some(reason), _, _) if viewer.is_none() => Cow::Borrowed(reason),
        (Some(_), _, _) => Cow::Borrowed(discretion::OUT_OF_USE),
        (None, Some(drain), "draining" | "drained") => Cow::Borrowed(drain),
        (None, _, "pending") => match (&node.seen_fingerprint, viewer) {
            (Some(fingerprint), None) => {
                Cow::Owned(format!("an admin has to accept its host key {fingerprint}"))
            }
            (Some(_), Some(_)) | (None, _) => Cow::Borrowed("an admin has to accept its host key"),
        },
        (None, _, "cleaning") => Cow::Borrowed("it is being cleaned before it is offered"),
        (None, _, _) if viewer.is_none() => Cow::Borrowed(&node.health_reason),
        (None, _, _) => Cow::Borrowed(discretion::of_health(node.health)),
    }
}

/// The text on one line, without a copy of one that is so already.
fn into_one_line(text: String) -> String {
    if let Cow::Owned(line) = one_line(&text) {
        return line;
    }
    text
}

/// A node that is emptied, or was.
#[derive(Clone, Serialize, ToSchema)]
#[schema(as = Drain)]
pub struct DrainView {
    /// Why.
    pub(super) reason: String,
    #[schema(value_type = String, format = DateTime)]
    pub(super) since: Timestamp,
    /// Time at which the remaining leases lose the node by their own policy; `null`: never.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    pub(super) deadline: Option<Timestamp>,
    #[schema(value_type = schemas::DrainProgress)]
    pub(super) state: DrainState,
    /// Number of leases that are not off the node yet: their logins there work, or may work.
    pub(super) leases_left: usize,
    /// Which; for admins only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<i64>>, nullable = false)]
    pub(super) leases: Option<Vec<LeaseId>>,
    /// When it was empty and clean; `null`: not yet.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    pub(super) drained_at: Option<Timestamp>,
}
