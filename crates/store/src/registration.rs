//! A worker registers: who may create a node, who may change one, and who is refused.
//!
//! A join token only creates. A known key, name or address needs the node's own token; with the join token
//! alone it is a conflict, or, for the same body as before, a repetition that changes nothing.

use crate::{
    Store,
    attempts::{Tx, transaction},
    db::vals,
    error::{Fault, Result, StoreError},
    model::{RegisterNode, RegisterOutcome},
    nodes::{NodeChange, facts_values},
    rows::{NodeRecord, json},
    users::TokenVerdict,
    values::in_lists,
};
use orion_domain::{NodeId, node::Node};
use serde_json::json;
use sqlx::AssertSqlSafe;

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
    /// The key that identifies the node: its ed25519 key, or else its first.
    fn main_fingerprint(&self) -> Option<String> {
        let ed25519 = self.host_keys.iter().find(|key| key.as_str().starts_with("ssh-ed25519 "));
        ed25519.or(self.host_keys.first()).map(|key| key.fingerprint())
    }

    fn key_lines(&self) -> Vec<&str> {
        self.host_keys.iter().map(|key| key.as_str()).collect()
    }

    fn fingerprints(&self) -> Vec<String> {
        self.host_keys.iter().map(|key| key.fingerprint()).collect()
    }
}

impl Store {
    /// Registers a node, or takes over what a known one says. Join tokens are used up by creating only.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn register_node(&self, request: &RegisterNode) -> Result<RegisterOutcome, StoreError> {
        let outcome = transaction!(&self.db, |tx| {
            match register(tx, request).await {
                // Two registrations at once: the second run finds what the first one made.
                Err(Fault::Unique(text)) => Err(Fault::Retry(text)),
                result => result,
            }
        });
        Ok(outcome?)
    }
}

async fn register(tx: &mut Tx, request: &RegisterNode) -> Result<RegisterOutcome> {
    let mut may_create_again = false;
    if let Some(token) = &request.node_token_sha256_presented {
        let sql = "SELECT id FROM nodes WHERE node_token_sha256 = ?";
        if let Some((id,)) = tx.one::<(i64,)>(sql, vals![token]).await? {
            return update(tx, NodeId(id), request).await;
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
    Ok(RegisterOutcome::Created(create(tx, request).await?))
}

async fn find_known(tx: &mut Tx, request: &RegisterNode) -> Result<Known> {
    let mut known = Known::default();
    let fingerprints = request.fingerprints();
    let fingerprints: Vec<&str> = fingerprints.iter().map(String::as_str).collect();
    for (list, values) in in_lists(&fingerprints) {
        let sql = format!("SELECT id FROM nodes WHERE host_key_fp IN ({list}) ORDER BY id");
        let rows = tx.all::<(i64,)>(AssertSqlSafe(sql), values).await?;
        known.by_key.extend(rows.into_iter().map(|(id,)| NodeId(id)));
    }
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

async fn create(tx: &mut Tx, request: &RegisterNode) -> Result<Node> {
    let fingerprint = request.main_fingerprint();
    let admission = if fingerprint.is_some() { "reported" } else { "pending" };
    // Nodes remember the highest epoch they have seen, also of a node row that was forgotten or of a
    // database that was lost: a new row starts above whatever those can have reached.
    let epoch = request.now.as_micros() / 1000;
    let sql = "INSERT INTO nodes (hostname, addr, ssh_port, host_keys, host_key_fp, admission, health, \
               health_reason, health_since, link, link_since, cpu_cores, memory_mb, gpus, mac, agent_version, \
               tags, subordinate_uids, node_token_sha256, registration_sha256, desired_version, \
               applied_version, epoch, registered_at, changed_at) VALUES (?, ?, ?, ?, ?, ?, 'unknown', \
               'not probed yet', ?, 'none', ?, ?, ?, ?, ?, ?, ?, '[]', ?, ?, 1, 0, ?, ?, ?)";
    let now = request.now;
    let port = i64::from(request.port.get());
    let mut values = vals![
        request.hostname.as_str(),
        request.addr.as_str(),
        port,
        json(&request.key_lines())?,
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
        now
    ]);
    let id = NodeId(tx.insert(sql, values).await?);
    write_tags(tx, id, request).await?;
    let data = json!({
        "hostname": request.hostname.as_str(), "addr": request.addr.as_str(), "ssh_port": port,
        "fingerprint": fingerprint,
    });
    tx.tell_of_node("node.registered", id, data, now).await?;
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
async fn update(tx: &mut Tx, id: NodeId, request: &RegisterNode) -> Result<RegisterOutcome> {
    if let Some((what, node)) = find_known(tx, request).await?.conflict(Some(id)) {
        return Ok(RegisterOutcome::Conflict { what, node });
    }
    let Some(record) = tx.node_record(id).await? else { return Ok(RegisterOutcome::BadNodeToken) };
    let before = Node::try_from(record.clone())?;
    let lost_its_key = !before.host_keys.is_empty()
        && !request.host_keys.is_empty()
        && !record.host_key_fp.as_ref().is_some_and(|pinned| request.fingerprints().contains(pinned));
    if lost_its_key {
        return quarantine(tx, &record, request).await;
    }
    if record.registration_sha256 == request.body_sha256 {
        return Ok(RegisterOutcome::Updated(before));
    }
    let moved = before.addr != request.addr || before.ssh_port != request.port;
    let first_keys = before.host_keys.is_empty() && !request.host_keys.is_empty();
    let admission = match (first_keys, moved, before.host_keys.is_empty()) {
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
    if request.host_keys.is_empty() {
        values.extend(vals![json(&before.host_keys)?, record.host_key_fp]);
    } else {
        // The pinned key stays the one that identifies it; further types may come and go.
        let pinned = if first_keys { request.main_fingerprint() } else { record.host_key_fp };
        values.extend(vals![json(&request.key_lines())?, pinned]);
    }
    values.extend(facts_values(&request.facts)?);
    write_tags(tx, id, request).await?;
    let change = NodeChange {
        sets: "hostname = ?, addr = ?, ssh_port = ?, tags = ?, registration_sha256 = ?, admission = ?, \
               host_keys = ?, host_key_fp = ?, cpu_cores = ?, memory_mb = ?, gpus = ?, mac = ?, \
               agent_version = ?",
        values,
        guard: "AND version = ?",
        guard_values: vals![record.row.version],
        event: Some((
            "node.updated",
            json!({
                "hostname": request.hostname.as_str(), "addr": request.addr.as_str(),
                "ssh_port": request.port.get(), "address_changed": moved,
            }),
        )),
    };
    match tx.change_node(id, change, request.now).await? {
        crate::Cas::Done(node) => Ok(RegisterOutcome::Updated(node)),
        crate::Cas::Stale | crate::Cas::Gone => Err(Fault::Retry("the node changed meanwhile".into())),
    }
}

/// A host key that changed is refused and shown, never accepted (I8).
async fn quarantine(tx: &mut Tx, record: &NodeRecord, request: &RegisterNode) -> Result<RegisterOutcome> {
    let reported = request.main_fingerprint().unwrap_or_default();
    let pinned = record.host_key_fp.as_deref().unwrap_or("none");
    let reason = format!("its host key changed: {pinned} is pinned, it now reports {reported}");
    if record.quarantine.as_deref() == Some(reason.as_str()) {
        return Ok(RegisterOutcome::KeyChanged(record.clone().try_into()?));
    }
    let change = NodeChange {
        sets: "quarantine = ?, seen_fingerprint = ?",
        values: vals![&reason, &reported],
        event: Some(("node.quarantined", json!({ "reason": reason }))),
        ..NodeChange::default()
    };
    match tx.change_node(NodeId(record.id), change, request.now).await? {
        crate::Cas::Done(node) => Ok(RegisterOutcome::KeyChanged(node)),
        crate::Cas::Stale | crate::Cas::Gone => Err(Fault::Retry("the node changed meanwhile".into())),
    }
}
