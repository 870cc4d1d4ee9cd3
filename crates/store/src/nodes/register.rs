//! A worker registers: who may create a node, who may change one, and who is refused.
//!
//! A join token only creates. A known key, name or address needs the node's own token; with the join token
//! alone it is a conflict, or, for the same body as before, a repetition that changes nothing.

use super::Nodes;
use crate::{
    accounts::TokenVerdict,
    engine::{Cas, Fault, Result, StoreError, Tx, json, transaction, vals},
    nodes::identity::{Claimant, is_second_machine},
    nodes::machine::Machine,
    nodes::row::NodeRecord,
    nodes::{NodeChange, capacity_values, facts_values},
};
use orion_domain::{
    NodeId, Timestamp,
    credentials::SshPublicKey,
    event::NodeEvent,
    names::HostAddr,
    names::Hostname,
    names::Port,
    names::Tag,
    node::Facts,
    node::{Node, QuarantineCause, Reserved},
    ssh_algorithms::HOST_KEYS,
};

/// A worker's registration, checked and hashed.
#[derive(Clone, Debug)]
pub struct RegisterNode {
    /// Name that the worker reports.
    pub hostname: Hostname,
    /// Address at which the worker's sshd is dialled.
    pub addr: HostAddr,
    /// Port of the worker's sshd.
    pub port: Port,
    /// Host keys of the worker; empty for a registration by hand.
    pub host_keys: Vec<SshPublicKey>,
    /// Inventory of the worker.
    pub facts: Facts,
    /// Tags of the worker.
    pub tags: Vec<Tag>,
    /// The boot id of its kernel; none from older agents and by hand.
    pub boot_id: Option<String>,
    /// SHA-256 (hex) of its machine id; none in a container, from older agents and by hand.
    pub machine_id_sha256: Option<String>,
    /// SHA-256 (hex) of the request's body in a canonical form: tells a repetition from a change.
    pub body_sha256: String,
    /// SHA-256 (hex) of the join token that came with it.
    pub join_token_sha256: Option<String>,
    /// SHA-256 (hex) of the node token that came with it.
    pub node_token_sha256_presented: Option<String>,
    /// SHA-256 (hex) of the node token that a node created now will have.
    pub new_node_token_sha256: String,
    /// The time.
    pub now: Timestamp,
}

/// Outcome of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterOutcome {
    /// A new node: dirty, and `reported` if it gave host keys, else `pending`. Its token is the new one.
    Created(Node),
    /// A known node that proved itself by its node token; what it said was taken over. Keys beside the
    /// pinned main one may come and go.
    Updated(Node),
    /// A known node that proved itself by its node token but no longer reports its pinned main key: it is
    /// quarantined now, and nothing of what it said was taken over.
    KeyChanged(Node),
    /// Node whose token came with the request while its link beats and is another machine's: nothing of what
    /// was reported was taken over. A machine that moved is let in when its old link is lost.
    SecondMachine(NodeId),
    /// The same body was registered before, and only the join token came with it: nothing was written.
    Same(NodeId),
    /// Conflict with a node that has that host key, name or address, or is the same machine; no node token proved
    /// the sender to be that node.
    Conflict {
        /// `"host key"`, `"hostname"`, `"address"`, or `"machine id"` and what else is the same.
        what: &'static str,
        /// The node that has it.
        node: NodeId,
    },
    /// The join token is unknown, revoked, expired or used up (or there is none).
    BadJoinToken,
    /// Rejection of a node token that belongs to no node (without a good join token).
    BadNodeToken,
}

/// The known nodes that a registration names, by what it names them.
#[derive(Default)]
struct Known {
    by_key: Vec<NodeId>,
    by_hostname: Option<NodeId>,
    by_address: Option<NodeId>,
}

impl Known {
    /// The first one other than `own`, and what it is named by.
    fn conflict(&self, own: Option<NodeId>) -> Option<(&'static str, NodeId)> {
        let by_key = self.by_key.iter().map(|node| ("host key", *node));
        let by_name = self.by_hostname.into_iter().map(|node| ("hostname", node));
        let by_address = self.by_address.into_iter().map(|node| ("address", node));
        by_key.chain(by_name).chain(by_address).find(|(_, node)| Some(*node) != own)
    }
}

impl RegisterNode {
    /// The key that identifies the node: its ed25519 key, or else the first that a dial offers, or else its first.
    fn main_key(&self) -> Option<&SshPublicKey> {
        let of = |kind: &str| self.host_keys.iter().find(|key| key.kind() == kind);
        HOST_KEYS.iter().find_map(|kind| of(kind)).or(self.host_keys.first())
    }

    /// Returns the main key alone, the only one accepted of a node at first.
    fn main_key_lines(&self) -> Vec<String> {
        self.main_key().map(|key| key.as_str().to_owned()).into_iter().collect()
    }

    fn main_fingerprint(&self) -> Option<String> {
        self.main_key().map(SshPublicKey::fingerprint)
    }

    fn machine(&self) -> Machine<'_> {
        Machine {
            machine_id_sha256: self.machine_id_sha256.as_deref(),
            boot_id: self.boot_id.as_deref(),
            addr: self.addr.as_str(),
        }
    }

    fn fingerprints(&self) -> Vec<String> {
        self.host_keys.iter().map(|key| key.fingerprint()).collect()
    }
}

impl Nodes<'_> {
    /// Registers a node, or takes over what a known one says. Join tokens are used up by creating only.
    pub async fn register(self, request: &RegisterNode) -> Result<RegisterOutcome, StoreError> {
        let maria = self.store.db.is_maria();
        let outcome = transaction!(&self.store.db, |tx| {
            match register(tx, (maria, self.store.reserved), request).await {
                // Two registrations at once: the second run finds what the first one made.
                Err(Fault::Unique(text)) => Err(Fault::Retry(text)),
                result => result,
            }
        });
        Ok(outcome?)
    }
}

async fn register(
    tx: &mut Tx,
    (maria, reserved): (bool, Reserved),
    request: &RegisterNode,
) -> Result<RegisterOutcome> {
    let mut may_create_again = false;
    if let Some(token) = &request.node_token_sha256_presented {
        let sql = "SELECT id FROM nodes WHERE node_token_sha256 = ?";
        if let Some((id,)) = tx.one::<(i64,)>(sql, vals![token]).await? {
            return update(tx, (maria, reserved), NodeId(id), request).await;
        }
        let sql = "SELECT host_key_fp FROM forgotten_nodes WHERE node_token_sha256 = ?";
        let forgotten = tx.one::<(String,)>(sql, vals![token]).await?;
        may_create_again = forgotten.is_some_and(|(key,)| request.fingerprints().contains(&key));
    }
    let verdict = tx.judge_join_token(request.join_token_sha256.as_deref(), request.now).await?;
    let bad = if request.node_token_sha256_presented.is_some() {
        RegisterOutcome::BadNodeToken
    } else {
        RegisterOutcome::BadJoinToken
    };
    if matches!(verdict, TokenVerdict::Bad) && !may_create_again {
        return Ok(bad);
    }
    let known = find_known(tx, request).await?;
    if let Some((what, node)) = known.conflict(None) {
        let same_body = tx
            .node_record(node)
            .await?
            .is_some_and(|record| record.registration_sha256 == request.body_sha256);
        return Ok(if same_body {
            RegisterOutcome::Same(node)
        } else if matches!(verdict, TokenVerdict::UsedUp) && !may_create_again {
            bad
        } else {
            RegisterOutcome::Conflict { what, node }
        });
    }
    if let Some((what, node)) = tx.node_of_machine(&request.machine()).await? {
        return Ok(RegisterOutcome::Conflict { what, node });
    }
    let allowed = may_create_again
        || match verdict {
            TokenVerdict::Good(id) => tx.use_join_token(id).await?,
            TokenVerdict::UsedUp | TokenVerdict::Bad => false,
        };
    if !allowed {
        return Ok(bad);
    }
    if may_create_again {
        let sql = "DELETE FROM forgotten_nodes WHERE node_token_sha256 = ?";
        tx.exec(sql, vals![request.node_token_sha256_presented.as_deref()]).await?;
    }
    Ok(RegisterOutcome::Created(create(tx, reserved, request).await?))
}

async fn find_known(tx: &mut Tx, request: &RegisterNode) -> Result<Known> {
    let mut known = Known { by_key: tx.holders(&request.fingerprints()).await?, ..Known::default() };
    let sql = "SELECT id, hostname FROM nodes WHERE hostname = ? OR (addr = ? AND ssh_port = ?) ORDER BY id";
    let port = i64::from(request.port.get());
    let values = vals![request.hostname.as_str(), request.addr.as_str(), port];
    for (id, hostname) in tx.all::<(i64, String)>(sql, values).await? {
        if hostname == request.hostname.as_str() {
            // It may have the address, too; then nobody else has.
            known.by_hostname = Some(NodeId(id));
        } else {
            known.by_address = Some(NodeId(id));
        }
    }
    Ok(known)
}

async fn create(tx: &mut Tx, reserved: Reserved, request: &RegisterNode) -> Result<Node> {
    let fingerprint = request.main_fingerprint();
    let keys = request.main_key_lines();
    let admission = if fingerprint.is_some() { "reported" } else { "pending" };
    // Nodes remember the highest epoch they have seen, also of a node row that was forgotten or of a
    // database that was lost: a new row starts above whatever those can have reached.
    let epoch = request.now.as_micros() / 1000;
    let sql = "INSERT INTO nodes (hostname, addr, ssh_port, host_keys, host_key_fp, admission, health, \
               health_reason, health_since, link, link_since, cpu_cores, memory_mb, gpus, mac, agent_version, \
               tags, subordinate_uids, node_token_sha256, registration_sha256, desired_version, \
               applied_version, epoch, registered_at, changed_at, cpu_milli, memory_capacity_mb, \
               cpu_reported, memory_reported_mb, machine_id_sha256) \
               VALUES (?, ?, ?, ?, ?, ?, 'unknown', 'not probed yet', ?, 'none', ?, ?, ?, ?, ?, ?, ?, '[]', ?, ?, \
               1, 0, ?, ?, ?, ?, ?, ?, ?, ?)";
    let now = request.now;
    let (cpu_milli, memory_mb) = request.facts.for_leases(reserved);
    let port = i64::from(request.port.get());
    let mut values = vals![
        request.hostname.as_str(),
        request.addr.as_str(),
        port,
        json(&keys)?,
        fingerprint.clone(),
        admission,
        now,
        now
    ];
    values.extend(facts_values(&request.facts)?);
    values.extend(vals![
        json(&request.tags)?,
        &request.new_node_token_sha256,
        &request.body_sha256,
        epoch,
        now,
        now,
        cpu_milli,
        memory_mb,
        cpu_milli,
        memory_mb,
        request.machine_id_sha256.clone()
    ]);
    let id = NodeId(tx.insert(sql, values).await?);
    write_tags(tx, id, request).await?;
    tx.accept_host_keys(id, &keys).await?;
    let event = NodeEvent::Registered {
        hostname: request.hostname.to_string(),
        addr: request.addr.to_string(),
        ssh_port: request.port.get(),
        fingerprint,
    };
    tx.append_node_event(event, id, now).await?;
    let record = tx.node_record(id).await?;
    let record = record.ok_or_else(|| Fault::Retry("a node vanished while it was made".into()))?;
    Ok(record.try_into()?)
}

async fn write_tags(tx: &mut Tx, id: NodeId, request: &RegisterNode) -> Result<()> {
    tx.exec("DELETE FROM node_tags WHERE node_id = ?", vals![id]).await?;
    let mut tags: Vec<&str> = request.tags.iter().map(|tag| tag.as_str()).collect();
    tags.sort_unstable();
    tags.dedup();
    for tag in tags {
        tx.exec("INSERT INTO node_tags (node_id, tag) VALUES (?, ?)", vals![id, tag]).await?;
    }
    Ok(())
}

/// The node proved by its token that it is `id`.
async fn update(
    tx: &mut Tx,
    (maria, reserved): (bool, Reserved),
    id: NodeId,
    request: &RegisterNode,
) -> Result<RegisterOutcome> {
    if let Some((what, node)) = find_known(tx, request).await?.conflict(Some(id)) {
        return Ok(RegisterOutcome::Conflict { what, node });
    }
    let Some(record) = tx.node_record(id).await? else { return Ok(RegisterOutcome::BadNodeToken) };
    let before = Node::try_from(record.clone())?;
    let (sshd, none) = (before.sshd(), Vec::new());
    let known_keys = sshd.map_or(&none, |sshd| &sshd.host_keys);
    let lost_its_key = !known_keys.is_empty()
        && !request.host_keys.is_empty()
        && !record.host_key_fp.as_ref().is_some_and(|pinned| request.fingerprints().contains(pinned));
    if lost_its_key {
        return quarantine(tx, &record, request).await;
    }
    let moved = sshd.is_none_or(|sshd| sshd.addr != request.addr || sshd.port != request.port);
    let claimant =
        Claimant { new_addr: moved.then_some(request.addr.as_str()), boot_id: request.boot_id.as_deref() };
    if is_second_machine(tx, &before, &claimant, request.now).await? {
        return Ok(RegisterOutcome::SecondMachine(id));
    }
    if record.registration_sha256 == request.body_sha256 {
        compare_machine(tx, maria, id, request).await?;
        return Ok(RegisterOutcome::Updated(before));
    }
    let first_keys = known_keys.is_empty() && !request.host_keys.is_empty();
    let admission = match (first_keys, moved, known_keys.is_empty()) {
        // No node is offered before a dial has found its key at its address.
        (true, _, _) | (false, true, false) => "reported",
        (false, true, true) => "pending",
        (false, false, _) => before.admission.as_str(),
    };
    let mut values = vals![
        request.hostname.as_str(),
        request.addr.as_str(),
        i64::from(request.port.get()),
        json(&request.tags)?,
        &request.body_sha256,
        admission
    ];
    let (keys, pinned) = if first_keys {
        (request.main_key_lines(), request.main_fingerprint())
    } else {
        (kept_keys(known_keys, &record, request, moved), record.host_key_fp)
    };
    if keys != *known_keys {
        tx.accept_host_keys(id, &keys).await?;
    }
    values.extend(vals![json(&keys)?, pinned]);
    values.extend(facts_values(&request.facts)?);
    values.extend(capacity_values(request.facts.for_leases(reserved)));
    write_tags(tx, id, request).await?;
    let change = NodeChange {
        sets: "hostname = ?, addr = ?, ssh_port = ?, tags = ?, registration_sha256 = ?, admission = ?, \
               host_keys = ?, host_key_fp = ?, cpu_cores = ?, memory_mb = ?, gpus = ?, mac = ?, \
               agent_version = ?, cpu_reported = ?, memory_reported_mb = ?, \
               cpu_milli = CASE WHEN ? > cpu_held THEN ? ELSE cpu_held END, \
               memory_capacity_mb = CASE WHEN ? > memory_held_mb THEN ? ELSE memory_held_mb END",
        values,
        guard: "AND version = ?",
        guard_values: vals![record.row.version],
        event: Some(NodeEvent::Updated {
            hostname: request.hostname.to_string(),
            addr: request.addr.to_string(),
            ssh_port: request.port.get(),
            address_changed: moved,
        }),
        ..NodeChange::default()
    };
    match tx.change_node(id, change, request.now).await? {
        Cas::Done(node) => {
            compare_machine(tx, maria, id, request).await?;
            Ok(RegisterOutcome::Updated(node))
        }
        Cas::Stale | Cas::Gone => Err(Fault::Retry("the node changed meanwhile".into())),
    }
}

/// Records the machine id of a known node; where it is news, compares it with the other nodes'.
async fn compare_machine(tx: &mut Tx, maria: bool, id: NodeId, request: &RegisterNode) -> Result<()> {
    let is_news = tx.record_machine_id(id, request.machine_id_sha256.as_deref(), request.now).await?;
    if let Some(boot_id) = request.boot_id.as_deref()
        && is_news
        && !boot_id.is_empty()
    {
        tx.quarantine_second_identity(maria, id, boot_id, request.now).await?;
    }
    Ok(())
}

/// The keys that are left of those accepted: what the node names adds none, and those that it does not name any more
/// are dropped. At another address the pinned one has to be shown.
fn kept_keys(known: &[String], record: &NodeRecord, request: &RegisterNode, moved: bool) -> Vec<String> {
    let is_kept = |line: &&String| {
        let Ok(key) = line.parse::<SshPublicKey>() else { return false };
        let is_named = !moved && (request.host_keys.is_empty() || request.host_keys.contains(&key));
        is_named || Some(key.fingerprint()) == record.host_key_fp
    };
    known.iter().filter(is_kept).cloned().collect()
}

/// A host key that changed is refused and shown, never accepted (I8).
async fn quarantine(tx: &mut Tx, record: &NodeRecord, request: &RegisterNode) -> Result<RegisterOutcome> {
    let reported = request.main_fingerprint().unwrap_or_default();
    let pinned = record.host_key_fp.as_deref().unwrap_or("none");
    let reason = format!("its host key changed: {pinned} is pinned, it now reports {reported}");
    let id = NodeId(record.id);
    tx.exec("UPDATE nodes SET seen_fingerprint = ? WHERE id = ?", vals![&reported, id]).await?;
    match tx.quarantine(id, QuarantineCause::Operator, &reason, request.now).await? {
        Cas::Done(node) => Ok(RegisterOutcome::KeyChanged(node)),
        // It is in quarantine for that already.
        Cas::Stale => Ok(RegisterOutcome::KeyChanged(record.clone().try_into()?)),
        Cas::Gone => Err(Fault::Retry("the node was forgotten meanwhile".into())),
    }
}
