//! How a worker becomes a node.

use super::Agents;
use crate::{
    crypto::{NODE_TOKEN, new_token, sha256_hex},
    error::ApiError,
};
use orion_domain::{
    NodeId, Secret,
    credentials::SshPublicKey,
    names::{HostAddr, Hostname, Port, Tag},
    node::{Facts, Gpu, Node},
    ssh_algorithms::no_usable_host_key,
};
use orion_store::{RegisterNode, RegisterOutcome, StoreError};
use serde::Deserialize;
use std::net::IpAddr;
use utoipa::ToSchema;

/// Most host keys, GPUs and tags that a worker may report.
const LIST_MAX: usize = 64;

/// A worker, as it describes itself.
#[derive(Debug, Deserialize, ToSchema)]
pub struct RegisterBody {
    /// Unique in the fleet.
    hostname: String,
    /// Address at which the control plane dials the worker's sshd: an IP address or a DNS name. In a private
    /// network, or where the registration comes from, or in a network that the operator named
    /// (`ORION_WORKER_NETWORKS`).
    ip: String,
    #[schema(minimum = 1, maximum = 65535)]
    ssh_port: i64,
    /// Host keys of the worker's sshd, `type base64` each, at most 64.
    #[serde(default)]
    host_keys: Vec<String>,
    /// Labels of the worker, at most 64.
    #[serde(default)]
    #[schema(value_type = Vec<crate::openapi::schemas::Tag>)]
    tags: Vec<String>,
    #[serde(flatten)]
    #[schema(value_type = crate::openapi::schemas::MachineFacts)]
    facts: Facts,
}

/// Machine that a registration comes from.
pub struct CameFrom {
    /// Address of the machine, as the control plane sees it.
    pub address: IpAddr,
    /// Boot id of the machine's kernel; none from older agents and from registrations by hand.
    pub boot_id: Option<String>,
    /// SHA-256 (hex) of its machine id; none in a container, from older agents and from registrations by hand.
    pub machine_id_sha256: Option<String>,
}

/// A registration that was taken.
pub struct Registered {
    /// Whether the node is new.
    pub created: bool,
    /// Number of the node.
    pub node: NodeId,
    /// Token of the node, for a new node only.
    pub node_token: Option<Secret>,
}

impl Agents<'_> {
    /// Registers a worker that came with `token` (a join token, or the node's own).
    ///
    /// # Errors
    /// 400 for a wrong field and an address that may not be named, 401 for a wrong token, 409 `node_known` for
    /// somebody else's key, name or
    /// address, for a machine that is a node already, and for a node whose link beats elsewhere.
    pub async fn register(
        self,
        body: RegisterBody,
        canonical_body: &str,
        token: Option<Secret>,
        key: Option<&str>,
        came: CameFrom,
    ) -> Result<Registered, ApiError> {
        let Some(token) = token else {
            return Err(ApiError::unauthorized(
                "no join token; send `Authorization: Bearer <token>` with a token from `orion token create`",
            ));
        };
        // Read only: whoever has no token at all gets no transaction.
        if !self.app.store.accounts().knows_worker_token(&sha256_hex(token.expose().as_bytes())).await? {
            return Err(if token.expose().starts_with(NODE_TOKEN) {
                ApiError::unauthorized("no node has this node token (any more); register with a join token")
                    .with("forgotten", true)
            } else {
                ApiError::unauthorized(
                    "the join token is wrong, used up or expired; an admin makes one with `orion token create`",
                )
            });
        }
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
        if let Some(why) = no_usable_host_key(&host_keys) {
            return Err(ApiError::field("host_keys", why));
        }
        let tags = body
            .tags
            .iter()
            .map(|tag| tag.parse::<Tag>().map_err(|rule| ApiError::field("tags", rule)))
            .collect::<Result<Vec<_>, _>>()?;
        let is_node_token = token.expose().starts_with(NODE_TOKEN);
        let presented = sha256_hex(token.expose().as_bytes());
        let addr = body.ip.parse::<HostAddr>().map_err(|rule| ApiError::field("ip", rule))?;
        let known =
            if is_node_token { self.app.store.nodes().by_token_sha256(&presented).await? } else { None };
        let port = Port::try_from(body.ssh_port).map_err(|rule| ApiError::field("ssh_port", rule))?;
        let is_there = |node: Node| node.sshd().is_some_and(|sshd| (&sshd.addr, sshd.port) == (&addr, port));
        if !known.is_some_and(is_there) {
            self.check_address(&addr, came.address).await?;
        }
        // Under an idempotency key the node's token follows from the key: a worker that lost the reply gets the
        // same one again, and nothing need be kept for it.
        let new_node_token = match key {
            Some(key) => {
                let salt = format!("{presented} {key}");
                self.app.config.master_key.derive_token("orion-node", "node-token", salt.as_bytes())
            }
            None => new_token("orion-node"),
        };
        let mut facts = body.facts;
        let devices = std::mem::take(&mut facts.gpu_devices);
        let request = RegisterNode {
            hostname: body.hostname.parse::<Hostname>().map_err(|rule| ApiError::field("hostname", rule))?,
            addr,
            port,
            host_keys,
            facts,
            tags,
            boot_id: came.boot_id,
            machine_id_sha256: came.machine_id_sha256,
            body_sha256: sha256_hex(canonical_body.as_bytes()),
            join_token_sha256: (!is_node_token).then(|| presented.clone()),
            node_token_sha256_presented: is_node_token.then_some(presented),
            new_node_token_sha256: sha256_hex(new_node_token.expose().as_bytes()),
            now: self.app.now(),
        };
        let outcome = self.app.store.nodes().register(&request).await?;
        if let RegisterOutcome::Created(node) | RegisterOutcome::Updated(node) = &outcome {
            self.write_gpus(node.id, &devices).await?;
        }
        self.app.fleet.nudge.all();
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
            RegisterOutcome::SecondMachine(node) => Err(ApiError::second_machine(node)),
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

    /// Writes the GPU devices that a worker reports; what no engine could name is left out.
    pub(super) async fn write_gpus(self, node: NodeId, devices: &[Gpu]) -> Result<(), StoreError> {
        let is_usable = |gpu: &&Gpu| {
            let is_graphic = gpu.uuid.bytes().all(|byte| byte.is_ascii_graphic());
            (1..=64).contains(&gpu.uuid.len()) && is_graphic && gpu.model.len() <= 255
        };
        let mut usable: Vec<Gpu> = devices.iter().filter(is_usable).take(LIST_MAX).cloned().collect();
        usable.sort_by(|one, other| one.uuid.cmp(&other.uuid));
        usable.dedup_by(|one, other| one.uuid == other.uuid);
        self.app.store.nodes().set_gpus(node, &usable).await
    }

    async fn is_token_of(self, node: NodeId, sha256: &str) -> Result<bool, ApiError> {
        Ok(self.app.store.nodes().by_token_sha256(sha256).await?.is_some_and(|known| known.id == node))
    }
}

/// Returns the advice for a conflict between a node and a machine that may be the same one.
fn set_up_anew(node: NodeId) -> String {
    format!(
        "if the machine was set up anew, let an admin forget the old node first: orion nodes forget {node}"
    )
}
