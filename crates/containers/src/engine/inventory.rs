//! What an engine is, and all that it holds.

use super::Engine;
use crate::{
    EngineError, EngineKind,
    http::{Call, escaped},
};
use orion_domain::{
    LeaseId,
    container::{
        CONTAINER_LABEL, EPOCH_LABEL, EngineState, FoundContainer, FoundNetwork, FoundOnEngine, FoundVolume,
        LEASE_LABEL, bridge_name, network_name,
    },
};
use serde::Deserialize;
use serde_json::json;
use std::{collections::HashMap, time::Duration};
use tokio::time::Instant;

/// Making a network and rewriting the firewall for it.
const NETWORK_LIMIT: Duration = Duration::from_secs(30);

/// An engine and its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Docker or Podman.
    pub kind: EngineKind,
    /// The engine's version.
    pub version: String,
    /// Newest version of the API that it speaks.
    pub api_version: String,
    /// Version of the cgroups of the machine, 1 or 2.
    pub cgroup_version: u8,
    /// Processors of the machine.
    pub cpus: u32,
    /// Memory of the machine in bytes.
    pub memory_bytes: u64,
    /// Directory of images and containers; none where the engine does not say.
    pub root_dir: Option<String>,
    /// Whether sshd forwards to the engine's socket; else each connection is a command on a session of its own.
    pub is_forwarded: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    #[serde(rename = "NCPU")]
    cpus: u32,
    mem_total: u64,
    cgroup_version: Option<String>,
    docker_root_dir: Option<String>,
}

type Labels = HashMap<String, String>;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    names: Option<Vec<String>>,
    labels: Option<Labels>,
    state: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedNetwork {
    id: String,
    name: String,
    labels: Option<Labels>,
    #[serde(rename = "IPAM")]
    ipam: Option<Ipam>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam {
    config: Option<Vec<IpamConfig>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct IpamConfig {
    subnet: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedVolumes {
    volumes: Option<Vec<ListedVolume>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedVolume {
    name: String,
    labels: Option<Labels>,
}

fn label(labels: Option<&Labels>, name: &str) -> Option<String> {
    labels.and_then(|labels| labels.get(name)).cloned()
}

/// Reads a state in the words of Docker or Podman.
pub(super) fn state_of(word: &str) -> Result<EngineState, EngineError> {
    match word {
        "created" | "configured" | "initialized" => Ok(EngineState::Created),
        "running" | "stopping" => Ok(EngineState::Running),
        "paused" => Ok(EngineState::Paused),
        "restarting" => Ok(EngineState::Restarting),
        "exited" | "stopped" => Ok(EngineState::Exited),
        "removing" => Ok(EngineState::Removing),
        "dead" => Ok(EngineState::Dead),
        other => Err(EngineError::Nonsense(format!("the state {other:?} of a container"))),
    }
}

impl Engine {
    /// Returns what the engine and its machine are.
    ///
    /// # Errors
    /// [`EngineError::NoEngine`], [`EngineError::TooOld`] and [`EngineError::Down`] say why the node holds no containers.
    pub async fn info(&self) -> Result<EngineInfo, EngineError> {
        let call = Call::get("/info", "info");
        let until = Instant::now() + call.limit;
        let info: Info = self.ask(call).await?;
        let route = self.route(until).await?;
        Ok(EngineInfo {
            kind: route.kind,
            version: route.engine_version,
            api_version: route.api_version,
            cgroup_version: if info.cgroup_version.as_deref() == Some("2") { 2 } else { 1 },
            cpus: info.cpus,
            memory_bytes: info.mem_total,
            root_dir: info.docker_root_dir,
            is_forwarded: matches!(route.endpoint, orion_ssh::Endpoint::Socket(_)),
        })
    }

    /// Lists all containers, those of others included: one of theirs may have a name that is wanted.
    ///
    /// # Errors
    /// See [`EngineError::meaning`].
    pub async fn list_containers(&self) -> Result<Vec<FoundContainer>, EngineError> {
        let listed: Vec<Listed> = self.ask(Call::get("/containers/json?all=1", "list containers")).await?;
        let found = |container: Listed| {
            let labels = container.labels.as_ref();
            // One with links has more names, with a second slash.
            let names = container.names.iter().flatten();
            let mut plain = names.map(|name| name.trim_start_matches('/')).filter(|name| !name.contains('/'));
            Ok(FoundContainer {
                name: plain.next().unwrap_or_default().to_owned(),
                lease: label(labels, LEASE_LABEL),
                container: label(labels, CONTAINER_LABEL),
                epoch: label(labels, EPOCH_LABEL).and_then(|epoch| epoch.parse().ok()),
                state: state_of(&container.state)?,
                id: container.id,
            })
        };
        listed.into_iter().map(found).collect()
    }

    /// Lists all containers and networks, and the volumes with a label of Orion's.
    ///
    /// # Errors
    /// See [`EngineError::meaning`].
    pub async fn inventory(&self) -> Result<FoundOnEngine, EngineError> {
        let containers = self.list_containers().await?;
        let networks: Vec<ListedNetwork> = self.ask(Call::get("/networks", "list networks")).await?;
        let filter = escaped(&json!({ "label": [LEASE_LABEL] }).to_string());
        let volumes: ListedVolumes =
            self.ask(Call::get(format!("/volumes?filters={filter}"), "list volumes")).await?;
        let network = |network: ListedNetwork| FoundNetwork {
            lease: label(network.labels.as_ref(), LEASE_LABEL),
            subnet: network.ipam.and_then(|ipam| ipam.config?.into_iter().next()?.subnet),
            id: network.id,
            name: network.name,
        };
        let volume = |volume: ListedVolume| FoundVolume {
            lease: label(volume.labels.as_ref(), LEASE_LABEL),
            name: volume.name,
        };
        Ok(FoundOnEngine {
            containers,
            networks: networks.into_iter().map(network).collect(),
            volumes: volumes.volumes.into_iter().flatten().map(volume).collect(),
        })
    }

    /// Makes the network of a lease with this subnet, `10.201.0.16/28`; returns the engine's id.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] where there is one of this name.
    pub async fn create_network(
        &self,
        lease: LeaseId,
        lease_ulid: &str,
        subnet: &str,
    ) -> Result<String, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Created {
            id: String,
        }
        let body = json!({
            "Name": network_name(lease),
            "CheckDuplicate": true,
            "Driver": "bridge",
            "IPAM": { "Config": [{ "Subnet": subnet }] },
            // The firewall of the node knows the networks by it.
            "Options": { "com.docker.network.bridge.name": bridge_name(lease) },
            "Labels": { LEASE_LABEL: lease_ulid },
        });
        let call = Call::post("/networks/create", "create network").json(body).within(NETWORK_LIMIT);
        Ok(self.ask::<Created>(call).await?.id)
    }

    /// Removes a network; one that is gone is fine.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] while a container is attached to it.
    pub async fn remove_network(&self, id: &str) -> Result<(), EngineError> {
        let call = Call::delete(format!("/networks/{}", escaped(id)), "remove network").within(NETWORK_LIMIT);
        gone(self.call(call).await.map(drop))
    }

    /// Removes a volume; one that is gone is fine.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] while a container uses it.
    pub async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        let path = format!("/volumes/{}?force=1", escaped(name));
        gone(self.call(Call::delete(path, "remove volume").within(NETWORK_LIMIT)).await.map(drop))
    }
}

/// What is not there need not be removed.
pub(super) fn gone(removed: Result<(), EngineError>) -> Result<(), EngineError> {
    match removed {
        Err(EngineError::NotFound(_)) => Ok(()),
        other => other,
    }
}
