//! Whether the nodes hold what the database says: the nodes' part of `orion doctor`.
//!
//! Lives here: asking each node (`list_users`, which changes nothing), and comparing. What does not fit is looked at
//! twice, with the database read before and after, so that work that is going on is not taken for a broken promise.
//! Does not live here: what a finding means ([`orion_domain::doctor`]), and the database's part (`orion_store`).

mod containers;

use crate::{
    Fleet,
    fleet::target_of,
    playbook::{NodeInventory, Reply, read_reply},
};
use orion_domain::{
    NodeId, Timestamp,
    doctor::{Check, Finding},
    lease::{Lease, LeaseState, Phase},
    node::{Admission, Health, Node},
    reconcile::{FIRST_UID, LAST_UID},
    way_in::clock_off_text,
};
use orion_ssh::ExecRequest;
use orion_store::{NodeAudit, StoreError};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, task::JoinSet};

/// Time that a run may take beyond its own limit.
const TRANSFER: Duration = Duration::from_secs(10);
/// Pause before a node is looked at again.
const AGAIN_AFTER: Duration = Duration::from_millis(1_500);
/// Looks at a node on which something is going on, before it is passed over.
const LOOKS_MAX: u32 = 4;
/// Largest difference between the node's deadline and the lease's end plus grace, in seconds: allows for
/// clocks, whole seconds and the transfer.
const DEADLINE_OFF_MAX_S: i64 = 30;

/// Result of the examination of the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodesExamined {
    /// Deviations that were found.
    pub findings: Vec<Finding>,
    /// Nodes that were looked at.
    pub examined: usize,
    /// Nodes that nothing can be said about now, and why: dead, being worked on, …
    pub passed_over: Vec<(NodeId, String)>,
    /// Nodes that should answer and did not, and why.
    pub not_reached: Vec<(NodeId, String)>,
}

/// Outcome of the examination of one node.
enum Verdict {
    NodeAudit(Vec<Finding>),
    PassedOver(String),
    NotReached(String),
}

/// Outcome of one look at a node.
enum Look {
    Settled(Box<NodeAudit>, Box<NodeInventory>, Vec<Finding>),
    InMotion(String),
    NotReached(String),
    /// The node has seen this epoch, the database only the other.
    AheadOfDatabase {
        seen: u64,
        known: u64,
    },
    Gone,
}

impl Fleet {
    /// Asks every node that should answer what it holds, `side_by_side` at once.
    ///
    /// # Errors
    /// Only the database's.
    pub async fn examine_nodes(&self, side_by_side: usize) -> Result<NodesExamined, StoreError> {
        let mut result = NodesExamined::default();
        let room = Arc::new(Semaphore::new(side_by_side.max(1)));
        let mut looks = JoinSet::new();
        for node in self.store.nodes().all().await? {
            if let Some(clock) = node.clock_off_ms.and_then(clock_off_text) {
                result.findings.push(Finding::new(Check::Clock, format!("node {}: {clock}", node.id)));
            }
            if let Some(reason) = why_not_asked(&node) {
                result.passed_over.push((node.id, reason));
                continue;
            }
            let (fleet, room) = (self.clone(), Arc::clone(&room));
            looks.spawn(async move {
                let _place = room.acquire_owned().await;
                let verdict = fleet.examine_node(node.id).await;
                fleet.pool.let_go(node.id.0);
                (node.id, verdict)
            });
        }
        while let Some(looked) = looks.join_next().await {
            let Ok((id, verdict)) = looked else { continue };
            match verdict? {
                Verdict::NodeAudit(findings) => {
                    result.examined += 1;
                    result.findings.extend(findings);
                }
                Verdict::PassedOver(reason) => result.passed_over.push((id, reason)),
                Verdict::NotReached(reason) => result.not_reached.push((id, reason)),
            }
        }
        result.findings.sort();
        result.passed_over.sort();
        result.not_reached.sort();
        Ok(result)
    }

    async fn examine_node(&self, id: NodeId) -> Result<Verdict, StoreError> {
        let mut suspected: Option<BTreeSet<Finding>> = None;
        let mut last = Verdict::PassedOver("it is gone".into());
        for look in 0..LOOKS_MAX {
            if look > 0 {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            let found: BTreeSet<Finding> = match self.look(id).await? {
                Look::Settled(examined, inventory, of_engine) => {
                    judge(&examined, &inventory, self.config.deadline_grace_s, self.now())
                        .into_iter()
                        .chain(of_engine)
                        .collect()
                }
                Look::AheadOfDatabase { seen, known } => {
                    let what = format!(
                        "the node has seen epoch {seen}, the database knows {known} only: an older state was restored"
                    );
                    BTreeSet::from([Finding::new(Check::Versions, what).on(id)])
                }
                Look::InMotion(reason) => {
                    last = Verdict::PassedOver(reason);
                    continue;
                }
                Look::NotReached(reason) => {
                    last = Verdict::NotReached(reason);
                    continue;
                }
                Look::Gone => return Ok(Verdict::PassedOver("it is gone".into())),
            };
            let confirmed: BTreeSet<Finding> = match &suspected {
                Some(before) => found.intersection(before).cloned().collect(),
                None if found.is_empty() => return Ok(Verdict::NodeAudit(Vec::new())),
                None => {
                    suspected = Some(found);
                    continue;
                }
            };
            return Ok(Verdict::NodeAudit(confirmed.into_iter().collect()));
        }
        Ok(last)
    }

    async fn look(&self, id: NodeId) -> Result<Look, StoreError> {
        let Some(before) = self.store.admin().audit_node(id).await? else { return Ok(Look::Gone) };
        if let Some(reason) = why_not_asked(&before.node).or_else(|| in_motion(&before.node, self.now())) {
            return Ok(Look::InMotion(reason));
        }
        let listed = self.list_for(&before).await;
        let of_engine = self.examine_engine(&before.node).await?;
        let Some(after) = self.store.admin().audit_node(id).await? else { return Ok(Look::Gone) };
        if let Some(reason) = why_not_asked(&after.node).or_else(|| in_motion(&after.node, self.now())) {
            return Ok(Look::InMotion(reason));
        }
        let state = |examined: &NodeAudit| {
            let versions = (examined.node.desired_version, examined.node.applied_version, examined.epoch);
            (versions, examined.leases.iter().map(|lease| (lease.id, lease.version)).collect::<Vec<_>>())
        };
        if state(&before) != state(&after) {
            return Ok(Look::InMotion("what it should hold changes again and again".into()));
        }
        Ok(match listed {
            Ok(Listed::Inventory(inventory)) => Look::Settled(Box::new(after), inventory, of_engine),
            Ok(Listed::AheadOfDatabase(seen)) => Look::AheadOfDatabase { seen, known: after.epoch },
            Err(reason) => Look::NotReached(reason),
        })
    }

    async fn list_for(&self, examined: &NodeAudit) -> Result<Listed, String> {
        let target = target_of(&examined.node)?;
        let playbook = self.playbooks.list_users();
        let values = [("uid_min", &*FIRST_UID.to_string()), ("uid_max", &*LAST_UID.to_string())];
        let stdin = playbook.stdin(examined.epoch, &values).map_err(|error| error.to_string())?;
        let request = ExecRequest {
            command: playbook.command().to_owned(),
            stdin,
            timeout: Duration::from_secs(u64::from(playbook.timeout_s())) + TRANSFER,
            output_max_bytes: 256 * 1024,
        };
        let output = self.pool.exec(&target, request).await.map_err(|error| error.to_string())?;
        let name = playbook.name();
        match read_reply(playbook, Some(output.status), &output.stdout, &output.stderr, &[]) {
            Reply::Done(report) => report
                .node_inventory()
                .map(|found| Listed::Inventory(Box::new(found)))
                .map_err(|error| format!("{name}: {error}")),
            Reply::StaleEpoch { seen } => Ok(Listed::AheadOfDatabase(seen)),
            other @ (Reply::Refused { .. }
            | Reply::Unfit { .. }
            | Reply::NameUnusable { .. }
            | Reply::UidSeen { .. }
            | Reply::Busy
            | Reply::InputIncomplete
            | Reply::BadValue(_)
            | Reply::TimedOut { .. }
            | Reply::Unknown { .. }) => Err(format!("{name}: {other:?}")),
        }
    }
}

/// Answer of a node.
enum Listed {
    Inventory(Box<NodeInventory>),
    AheadOfDatabase(u64),
}

/// Returns the reason why a node need not answer, if there is one.
fn why_not_asked(node: &Node) -> Option<String> {
    if node.admission != Admission::Admitted {
        return Some(format!("it is {}", node.status()));
    }
    match node.health {
        Health::Alive => None,
        Health::Unknown | Health::Suspect | Health::Unreachable | Health::Dead => {
            Some(format!("it is {}", node.health.as_str()))
        }
    }
}

/// Returns the reason why nothing can be said of a node that answers, if there is one.
fn in_motion(node: &Node, now: Timestamp) -> Option<String> {
    if node.claimed_until.is_some_and(|until| until > now) {
        return Some("it is being worked on".into());
    }
    node.is_dirty().then(|| match node.reconcile_failures {
        0 => "it is about to be worked on".into(),
        failures => format!("it is not clean, and not offered; bringing it in order failed {failures} times"),
    })
}

/// Returns the inconsistencies of a clean node on which no work is in progress.
fn judge(examined: &NodeAudit, inventory: &NodeInventory, grace_s: u64, now: Timestamp) -> Vec<Finding> {
    let node = examined.node.id;
    let mut findings = Vec::new();
    // A lease that lost this node and waits for it has no login there yet.
    let has_login = |lease: &&Lease| {
        lease.state.wants_account_on() == Some(node)
            && !matches!(lease.state, LeaseState::Migrating { to: None, .. })
    };
    let leases: Vec<&Lease> = examined.leases.iter().filter(has_login).collect();
    let accounts = || leases.iter().filter_map(|lease| lease.account.as_ref());
    let is_own = |uid: u32| accounts().any(|account| account.uid == uid);
    for account in &inventory.accounts {
        let known =
            accounts().any(|own| (own.user.as_str(), own.uid) == (account.user.as_str(), account.uid));
        if !known {
            let state = if account.locked { "locked" } else { "open" };
            let what = format!(
                "it has the {state} account {} ({}), which no lease has there",
                account.user, account.uid
            );
            findings.push(Finding::new(Check::I2, what).on(node));
        }
    }
    let has_account = |uid: u32| inventory.accounts.iter().any(|account| account.uid == uid);
    for (uids, what) in [(&inventory.lease_files, "a lease file"), (&inventory.process_uids, "processes")] {
        for uid in uids.iter().filter(|uid| !is_own(**uid) && !has_account(**uid)) {
            let what = format!("it has {what} of uid {uid}, which has no account and no lease there");
            findings.push(Finding::new(Check::I2, what).on(node));
        }
    }
    for lease in leases.into_iter().filter(|lease| lease.state.phase() == Phase::Active) {
        judge_lease(lease, node, inventory, grace_s, now, &mut findings);
    }
    findings
}

/// Returns the inconsistencies of the login of an active lease.
fn judge_lease(
    lease: &Lease,
    node: NodeId,
    inventory: &NodeInventory,
    grace_s: u64,
    now: Timestamp,
    findings: &mut Vec<Finding>,
) {
    let Some(wanted) = &lease.account else { return };
    let uid = wanted.uid;
    let mut find = |check, what: String| findings.push(Finding::new(check, what).on(node).of(lease.id));
    let own = |account: &&crate::playbook::ListedAccount| {
        (account.user.as_str(), account.uid) == (wanted.user.as_str(), uid)
    };
    let closes = lease.until.plus(Duration::from_secs(grace_s));
    match inventory.accounts.iter().find(own) {
        None => find(Check::I2, format!("its account {} ({uid}) is not on its node", wanted.user)),
        Some(account) if account.locked && now < lease.until => {
            find(Check::I3, format!("its account {} is locked before its time is up", account.user));
        }
        Some(account) if !account.locked && now > closes.plus(Duration::from_secs(60)) => {
            find(Check::I3, format!("its account {} is open though its time is up", account.user));
        }
        Some(_) => {}
    }
    if !inventory.lease_files.contains(&uid) {
        find(
            Check::I3,
            format!("there is no lease file of uid {uid}: the node does not know when to close the login"),
        );
    }
    let deadline = inventory.deadlines.iter().find(|(of, _)| *of == uid);
    // The node of a lease that was extended may not have heard of it.
    if let Some((_, left)) = deadline
        && lease.deadline_applied == Some(lease.until)
    {
        let wanted = closes.as_micros().saturating_sub(now.as_micros()) / 1_000_000;
        let off = left.saturating_sub(wanted);
        if off.abs() > DEADLINE_OFF_MAX_S {
            let way = if off > 0 { "later" } else { "earlier" };
            // In whole minutes, so that a second look says the same.
            let minutes = (off.abs() + 30) / 60;
            find(
                Check::I3,
                format!("the node closes the login about {minutes} min {way} than the lease says"),
            );
        }
    }
}
