//! What a container is made of, as the engine is told.

use orion_domain::{
    LeaseId,
    container::{CONTAINER_LABEL, ContainerSpec, EPOCH_LABEL, LEASE_LABEL, RestartPolicy, container_name},
};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// Bytes of a container's log before the next file begins.
const LOG_FILE: &str = "10m";
/// Files of a container's log.
const LOG_FILES: &str = "2";

/// All that a container gets beside its specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPlacement {
    /// Number of the lease.
    pub lease: LeaseId,
    /// The lease's ULID.
    pub lease_ulid: String,
    /// The container's ULID.
    pub container_ulid: String,
    /// Number of the container in its lease.
    pub number: u32,
    /// Incarnation.
    pub epoch: u64,
    /// Processor time in thousandths of a core.
    pub cpu_milli: u32,
    /// Memory in MiB; swap is none.
    pub memory_mb: u32,
    /// Largest number of processes and threads.
    pub pids_max: u32,
    /// GPUs that it may use.
    pub gpus: Vec<GpuDevice>,
    /// Name of its network; none gives it no network at all.
    pub network: Option<String>,
    /// Ports of the node that lead to ports of the container.
    pub ports: Vec<PublishedPort>,
}

/// A GPU as an engine gives it to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuDevice {
    /// One that NVIDIA's container toolkit knows by this uuid.
    Nvidia(String),
    /// A character device at this path.
    Device(String),
}

/// A port of the node that leads to one of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedPort {
    /// Port of the container.
    pub container_port: u16,
    /// Port of the node.
    pub node_port: u16,
    /// Address of the node at which it is bound.
    pub address: IpAddr,
}

/// Returns the body of a request to make a container. It asks for no privilege, no path and no namespace of the node.
pub(super) fn body(spec: &ContainerSpec, placement: &ContainerPlacement) -> Value {
    let name = container_name(placement.lease, placement.number);
    let own_name = spec.name.as_ref().map_or(name.as_str(), |name| name.as_str());
    let exposed: Map<String, Value> =
        placement.ports.iter().map(|port| (format!("{}/tcp", port.container_port), json!({}))).collect();
    let env = spec.env.iter().map(|(name, value)| format!("{name}={}", value.expose()));
    let mut body = json!({
        "Image": spec.image.familiar(),
        "Hostname": own_name,
        "Env": env.collect::<Vec<_>>(),
        "Labels": {
            LEASE_LABEL: placement.lease_ulid,
            CONTAINER_LABEL: placement.container_ulid,
            EPOCH_LABEL: placement.epoch.to_string(),
        },
        "ExposedPorts": exposed,
        "HostConfig": host_config(spec, placement),
    });
    if let Some(map) = body.as_object_mut() {
        if !spec.command.is_empty() {
            map.insert("Entrypoint".into(), json!(spec.command));
        }
        if !spec.args.is_empty() {
            map.insert("Cmd".into(), json!(spec.args));
        }
        if let Some(network) = &placement.network {
            let endpoint = json!({ "EndpointsConfig": { network: { "Aliases": [own_name] } } });
            map.insert("NetworkingConfig".into(), endpoint);
        }
    }
    body
}

fn host_config(spec: &ContainerSpec, placement: &ContainerPlacement) -> Value {
    let memory = u64::from(placement.memory_mb) * 1024 * 1024;
    let binding = |port: &PublishedPort| {
        let place = json!([{ "HostIp": port.address.to_string(), "HostPort": port.node_port.to_string() }]);
        (format!("{}/tcp", port.container_port), place)
    };
    let bindings: Map<String, Value> = placement.ports.iter().map(binding).collect();
    json!({
        "NanoCpus": u64::from(placement.cpu_milli) * 1_000_000,
        "Memory": memory,
        // The same: no swap.
        "MemorySwap": memory,
        "PidsLimit": placement.pids_max,
        "ShmSize": u64::from(spec.shm_mb) * 1024 * 1024,
        "LogConfig": { "Type": "json-file", "Config": { "max-size": LOG_FILE, "max-file": LOG_FILES } },
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": false,
        "AutoRemove": false,
        "IpcMode": "private",
        "NetworkMode": placement.network.as_deref().unwrap_or("none"),
        "PortBindings": bindings,
        "RestartPolicy": restart_policy(spec.restart),
        "DeviceRequests": device_requests(&placement.gpus),
        "Devices": devices(&placement.gpus),
    })
}

/// A restart policy in the engine's words.
pub(super) fn restart_policy(policy: RestartPolicy) -> Value {
    let retries = match policy {
        RestartPolicy::OnFailure { retries_max } => retries_max,
        RestartPolicy::No | RestartPolicy::Always | RestartPolicy::UnlessStopped => 0,
    };
    json!({ "Name": policy.name(), "MaximumRetryCount": retries })
}

fn device_requests(gpus: &[GpuDevice]) -> Value {
    let uuid = |gpu: &GpuDevice| match gpu {
        GpuDevice::Nvidia(uuid) => Some(uuid.clone()),
        GpuDevice::Device(_) => None,
    };
    let uuids: Vec<String> = gpus.iter().filter_map(uuid).collect();
    if uuids.is_empty() {
        return json!([]);
    }
    json!([{ "Driver": "nvidia", "DeviceIDs": uuids, "Capabilities": [["gpu"]] }])
}

fn devices(gpus: &[GpuDevice]) -> Value {
    let device = |gpu: &GpuDevice| match gpu {
        GpuDevice::Nvidia(_) => None,
        GpuDevice::Device(path) => {
            Some(json!({ "PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rw" }))
        }
    };
    gpus.iter().filter_map(device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use orion_domain::container::ContainerRequest;

    fn placement() -> ContainerPlacement {
        ContainerPlacement {
            lease: LeaseId(7),
            lease_ulid: "01K0000000000000000000000A".into(),
            container_ulid: "01K0000000000000000000000B".into(),
            number: 2,
            epoch: 3,
            cpu_milli: 500,
            memory_mb: 64,
            pids_max: 100,
            gpus: vec![GpuDevice::Nvidia("GPU-1".into()), GpuDevice::Device("/dev/gpu0".into())],
            network: Some("orion-7".into()),
            ports: vec![PublishedPort {
                container_port: 80,
                node_port: 31_000,
                address: IpAddr::from([127, 0, 0, 1]),
            }],
        }
    }

    fn spec(request: ContainerRequest) -> ContainerSpec {
        ContainerSpec::check(ContainerRequest { image: "debian:12".into(), ..request }).unwrap()
    }

    #[test]
    fn a_container_gets_its_limits_and_no_privilege() {
        let body = body(&spec(ContainerRequest::default()), &placement());
        let host = &body["HostConfig"];
        assert_eq!(body["Image"], "debian:12");
        assert_eq!(body["Labels"]["orion.epoch"], "3");
        assert_eq!(host["NanoCpus"], 500_000_000);
        assert_eq!((&host["Memory"], &host["MemorySwap"]), (&json!(67_108_864), &json!(67_108_864)));
        assert_eq!(host["PidsLimit"], 100);
        assert_eq!(host["SecurityOpt"], json!(["no-new-privileges"]));
        assert_eq!(host["Privileged"], false);
        assert_eq!(host["NetworkMode"], "orion-7");
        assert_eq!(host["PortBindings"]["80/tcp"][0]["HostPort"], "31000");
        assert_eq!(host["DeviceRequests"][0]["DeviceIDs"], json!(["GPU-1"]));
        assert_eq!(host["Devices"][0]["PathOnHost"], "/dev/gpu0");
        for absent in ["Binds", "Mounts", "CapAdd", "PidMode", "UsernsMode", "CgroupParent", "Sysctls"] {
            assert!(host.get(absent).is_none(), "{absent}");
        }
        for absent in ["Entrypoint", "Cmd", "User"] {
            assert!(body.get(absent).is_none(), "{absent}: the image's own holds");
        }
    }

    #[test]
    fn without_a_network_there_is_none_and_a_command_replaces_the_entrypoint() {
        let request = ContainerRequest {
            command: vec!["sh".into()],
            args: vec!["-c".into(), "true".into()],
            restart: Some("on-failure:3".into()),
            name: Some("web".into()),
            ..ContainerRequest::default()
        };
        let bare = ContainerPlacement { network: None, gpus: Vec::new(), ports: Vec::new(), ..placement() };
        let body = body(&spec(request), &bare);
        assert_eq!(body["HostConfig"]["NetworkMode"], "none");
        assert!(body.get("NetworkingConfig").is_none());
        assert_eq!((&body["Entrypoint"], &body["Cmd"]), (&json!(["sh"]), &json!(["-c", "true"])));
        assert_eq!(
            body["HostConfig"]["RestartPolicy"],
            json!({ "Name": "on-failure", "MaximumRetryCount": 3 })
        );
        assert_eq!(body["Hostname"], "web");
    }
}
