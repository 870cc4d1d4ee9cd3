//! How a worker becomes a node.

use crate::{
    App,
    crypto::{new_token, sha256_hex},
    error::ApiError,
};
use orion_domain::{
    NodeId, Secret,
    credentials::SshPublicKey,
    names::{HostAddr, Hostname, Port, Tag},
    node::Facts,
};
use orion_store::{Cas, RegisterNode, RegisterOutcome};
use serde::Deserialize;
use utoipa::ToSchema;

/// Most host keys, GPUs and tags that a worker may report.
const LIST_MAX: usize = 64;

/// A worker, as it describes itself.
#[derive(Debug, Deserialize, ToSchema)]
pub struct RegisterBody {
    /// Unique in the fleet.
    hostname: String,
    /// Where the control plane dials its sshd: an IP address or a DNS name.
    ip: String,
    #[schema(minimum = 1, maximum = 65535)]
    ssh_port: i64,
    /// Its sshd's host keys, `type base64` each, at most 64.
    #[serde(default)]
    host_keys: Vec<String>,
    /// At most 64.
    #[serde(default)]
    tags: Vec<String>,
    #[serde(flatten)]
    #[schema(value_type = crate::openapi::schemas::MachineFacts)]
    facts: Facts,
}

/// A registration that was taken.
pub struct Registered {
    /// Whether the node is new.
    pub created: bool,
    /// The node.
    pub node: NodeId,
    /// Its token, for a new node only.
    pub node_token: Option<Secret>,
}

impl App {
    /// Registers a worker that came with `token` (a join token, or the node's own).
    ///
    /// # Errors
    /// 400 for a wrong field, 401 for a wrong token, 409 `node_known` for somebody else's key, name or address.
    pub async fn register_worker(
        &self,
        body: RegisterBody,
        canonical_body: &str,
        token: Option<Secret>,
        key: Option<&str>,
    ) -> Result<Registered, ApiError> {
        let Some(token) = token else {
            return Err(ApiError::unauthorized(
                "no join token; send `Authorization: Bearer <token>` with a token from `orion token create`",
            ));
        };
        if body.host_keys.len() > LIST_MAX || body.tags.len() > LIST_MAX || body.facts.gpus.len() > LIST_MAX {
            return Err(ApiError::bad_request(format!(
                "host_keys, tags and gpus have at most {LIST_MAX} entries"
            )));
        }
        let host_keys = body
            .host_keys
            .iter()
            .map(|line| line.parse::<SshPublicKey>().map_err(|rule| ApiError::field("host_keys", rule)))
            .collect::<Result<Vec<_>, _>>()?;
        let tags = body
            .tags
            .iter()
            .map(|tag| tag.parse::<Tag>().map_err(|rule| ApiError::field("tags", rule)))
            .collect::<Result<Vec<_>, _>>()?;
        let is_node_token = token.expose().starts_with("orion-node_");
        let presented = sha256_hex(token.expose().as_bytes());
        // Under an idempotency key the node's token follows from the key: a worker that lost the reply gets the
        // same one again, and nothing need be kept for it.
        let new_node_token = match key {
            Some(key) => {
                let salt = format!("{presented} {key}");
                self.config.master_key.derive_token("orion-node", "node-token", salt.as_bytes())
            }
            None => new_token("orion-node"),
        };
        let request = RegisterNode {
            hostname: body.hostname.parse::<Hostname>().map_err(|rule| ApiError::field("hostname", rule))?,
            addr: body.ip.parse::<HostAddr>().map_err(|rule| ApiError::field("ip", rule))?,
            port: Port::try_from(body.ssh_port).map_err(|rule| ApiError::field("ssh_port", rule))?,
            host_keys,
            facts: body.facts,
            tags,
            body_sha256: sha256_hex(canonical_body.as_bytes()),
            join_token_sha256: (!is_node_token).then(|| presented.clone()),
            node_token_sha256_presented: is_node_token.then_some(presented),
            new_node_token_sha256: sha256_hex(new_node_token.expose().as_bytes()),
            now: self.now(),
        };
        let outcome = self.store.register_node(&request).await?;
        self.fleet.nudge.all();
        match outcome {
            RegisterOutcome::Created(node) => {
                Ok(Registered { created: true, node: node.id, node_token: Some(new_node_token) })
            }
            RegisterOutcome::KeyChanged(node) => Err(ApiError::conflict(
                "host_key_changed",
                format!("the host key of node {} is not the pinned one: the node is quarantined", node.id),
            )
            .hint(set_up_anew(node.id))),
            RegisterOutcome::Updated(node) => {
                Ok(Registered { created: false, node: node.id, node_token: None })
            }
            RegisterOutcome::Same(node) => {
                let again = self.is_token_of(node, &request.new_node_token_sha256).await?;
                Ok(Registered { created: again, node, node_token: again.then_some(new_node_token) })
            }
            RegisterOutcome::Conflict { node, .. }
                if self.is_token_of(node, &request.new_node_token_sha256).await? =>
            {
                Err(ApiError::key_reused())
            }
            RegisterOutcome::Conflict { what, node } => Err(ApiError::conflict(
                "node_known",
                format!("node {node} has this {what} already; only its own node token can change it"),
            )
            .hint(set_up_anew(node))),
            RegisterOutcome::BadJoinToken => Err(ApiError::unauthorized(
                "the join token is wrong, used up or expired; an admin makes one with `orion token create`",
            )),
            RegisterOutcome::BadNodeToken => Err(ApiError::unauthorized(
                "no node has this node token (any more); register with a join token",
            )
            .with("forgotten", true)),
        }
    }

    async fn is_token_of(&self, node: NodeId, sha256: &str) -> Result<bool, ApiError> {
        Ok(self.store.node_by_token_sha256(sha256).await?.is_some_and(|known| known.id == node))
    }

    /// Accepts the host key that was seen at a pending node.
    ///
    /// # Errors
    /// 404 for an unknown node, 409 if another fingerprint (or none yet) was seen there.
    pub async fn accept_key(&self, node: NodeId, fingerprint: &str) -> Result<(), ApiError> {
        let accepted = self.store.accept_key(node, fingerprint, self.now()).await?;
        self.fleet.nudge.all();
        match accepted {
            Cas::Done(_) => Ok(()),
            Cas::Gone => Err(ApiError::not_found(format!("there is no node {node}"))),
            Cas::Stale => {
                let seen = self.store.node(node).await?.and_then(|node| node.seen_fingerprint);
                Err(ApiError::conflict(
                    "fingerprint_differs",
                    match seen {
                        Some(seen) => format!("the key seen at node {node} is {seen}"),
                        None => {
                            format!("node {node} does not wait for a host key, or none was seen there yet")
                        }
                    },
                ))
            }
        }
    }
}

/// What to do where a node stands in the way of a machine that may be the same one.
fn set_up_anew(node: NodeId) -> String {
    format!(
        "if the machine was set up anew, let an admin forget the old node first: orion nodes forget {node}"
    )
}
