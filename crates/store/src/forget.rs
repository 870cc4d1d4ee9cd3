//! What a reset forgets: nodes that are clean and free. The others stay, so that their dirt is not lost sight of.

use crate::{Store, attempts::transaction, db::vals, error::StoreError, model::Forgotten};
use orion_domain::{
    Timestamp,
    node::{Admission, Node},
};
use serde_json::json;

impl Store {
    /// Forgets the nodes that are clean and free. Their token and host key are remembered, so that their
    /// agents may register again. The others stay, each with the reason; so do quarantined ones (their
    /// pinned key is the evidence) and those that are drained (they would be offered again).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_clean_nodes(&self, now: Timestamp) -> Result<Forgotten, StoreError> {
        let mut result = Forgotten::default();
        for node in self.nodes_all().await? {
            let why = match why_kept(&node, now) {
                Some(why) => why,
                None if self.forget(&node, now).await? => {
                    result.forgotten.push(node.id);
                    continue;
                }
                None => "it changed just now".into(),
            };
            result.kept.push((node.id, node.hostname.to_string(), why));
        }
        Ok(result)
    }

    async fn forget(&self, node: &Node, now: Timestamp) -> Result<bool, StoreError> {
        let outcome = transaction!(&self.db, |tx| {
            let Some(record) = tx.node_record(node.id).await? else { return Ok(false) };
            let sql = "DELETE FROM nodes WHERE id = ? AND version = ?";
            if tx.exec(sql, vals![node.id, node.version]).await? == 0 {
                return Ok(false);
            }
            for sql in [
                "DELETE FROM node_tags WHERE node_id = ?",
                "DELETE FROM node_seen WHERE node_id = ?",
                "DELETE FROM lease_unfit WHERE node_id = ?",
            ] {
                tx.exec(sql, vals![node.id]).await?;
            }
            if let (Some(token), Some(key)) = (record.node_token_sha256, record.host_key_fp) {
                let sql = "INSERT INTO forgotten_nodes (node_token_sha256, host_key_fp, forgotten_at) \
                           VALUES (?, ?, ?)";
                tx.exec(sql, vals![token, key, now]).await?;
            }
            let data = json!({ "hostname": node.hostname.as_str() });
            tx.tell_of_node("node.forgotten", node.id, data, now).await?;
            Ok(true)
        });
        Ok(outcome?)
    }
}

fn why_kept(node: &Node, now: Timestamp) -> Option<String> {
    if let Some(lease) = node.lease {
        return Some(format!("lease {lease} is still on it"));
    }
    if let Some(reason) = &node.quarantine {
        return Some(format!("it is quarantined: {reason}"));
    }
    if let Some(drain) = &node.drain {
        return Some(format!("it is being drained: {}", drain.reason));
    }
    if node.claimed_until.is_some_and(|until| until > now) {
        return Some("it is being worked on".into());
    }
    if node.is_dirty() {
        let admitted = node.admission == Admission::Admitted;
        let why = if admitted { node.health.as_str() } else { "not admitted yet" };
        return Some(format!("it could not be cleaned ({why})"));
    }
    None
}
