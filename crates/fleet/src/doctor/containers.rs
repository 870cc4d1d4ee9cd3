//! Whether the engine of a node holds the containers and networks that the database says.

use crate::{Fleet, fleet::target_of};
use orion_domain::{
    NodeId,
    container::{ContainerPhase, FoundOnEngine, network_name},
    doctor::{Check, Finding},
    node::Node,
};
use orion_store::{ContainerRow, StoreError};
use std::collections::HashSet;

impl Fleet {
    /// Compares a node's engine with the database; nothing is found on a node that never had containers, or whose engine
    /// does not answer.
    pub(super) async fn examine_engine(&self, node: &Node) -> Result<Vec<Finding>, StoreError> {
        if node.engine.is_none() {
            return Ok(Vec::new());
        }
        let Ok(target) = target_of(node) else { return Ok(Vec::new()) };
        let found = match self.engines.of(&target).inventory().await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(node = %node.id, %error, "a node's containers were not looked at");
                return Ok(Vec::new());
            }
        };
        let rows = self.store.containers().of_node(node.id).await?;
        Ok(compare(node.id, &rows, &found))
    }
}

fn compare(node: NodeId, rows: &[ContainerRow], found: &FoundOnEngine) -> Vec<Finding> {
    let mut findings = Vec::new();
    let known: HashSet<&str> = rows.iter().map(|row| row.uid.as_str()).collect();
    for container in found.containers.iter().filter(|container| container.lease.is_some()) {
        if !container.container.as_deref().is_some_and(|uid| known.contains(uid)) {
            let what = format!("its engine has the container {}, which no lease has there", container.name);
            findings.push(Finding::new(Check::I2, what).on(node));
        }
    }
    let networks: HashSet<String> = rows.iter().map(|row| network_name(row.lease)).collect();
    for network in found.networks.iter().filter(|network| network.lease.is_some()) {
        if !networks.contains(&network.name) {
            let what = format!("its engine has the network {}, which no lease has there", network.name);
            findings.push(Finding::new(Check::I2, what).on(node));
        }
    }
    for row in rows.iter().filter(|row| row.phase == ContainerPhase::Running) {
        if !found.containers.iter().any(|container| container.container.as_ref() == Some(&row.uid)) {
            let what =
                format!("its container {} runs, and its node's engine has no such container", row.name);
            findings.push(Finding::new(Check::I2, what).on(node).of(row.lease));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use orion_domain::{
        ContainerId, LeaseId, Timestamp,
        container::{EngineState, FoundContainer, FoundNetwork},
    };
    use orion_store::Wanted;

    fn row(uid: &str) -> ContainerRow {
        let at = Timestamp::from_micros(0);
        ContainerRow {
            id: ContainerId(1),
            uid: uid.into(),
            lease: LeaseId(7),
            number: 1,
            name: "web".into(),
            spec: "{}".into(),
            spec_sealed: Vec::new(),
            wanted: Wanted::Started,
            phase: ContainerPhase::Running,
            since: at,
            reason: None,
            incarnation: 1,
            oldest_incarnation: 1,
            restart_of: None,
            node: Some(NodeId(3)),
            engine_id: None,
            node_ports: Vec::new(),
            exit: None,
            step: None,
            bytes_done: None,
            bytes_total: None,
            created_at: at,
            started_at: None,
            finished_at: None,
            version: 1,
        }
    }

    fn container(name: &str, lease: Option<&str>, uid: Option<&str>) -> FoundContainer {
        FoundContainer {
            id: name.into(),
            name: name.into(),
            lease: lease.map(str::to_owned),
            container: uid.map(str::to_owned),
            epoch: Some(1),
            state: EngineState::Running,
        }
    }

    #[test]
    fn what_no_lease_explains_is_found_and_what_is_missing_and_nothing_of_others() {
        let network = |name: &str, lease: Option<&str>| FoundNetwork {
            id: name.into(),
            name: name.into(),
            lease: lease.map(str::to_owned),
            subnet: None,
        };
        let mut found = FoundOnEngine {
            containers: vec![container("orion-7-1", Some("L"), Some("u")), container("mine", None, None)],
            networks: vec![network("orion-7", Some("L")), network("bridge", None)],
            volumes: Vec::new(),
        };
        assert_eq!(compare(NodeId(3), &[row("u")], &found), []);
        found.containers.push(container("orion-8-1", Some("M"), Some("v")));
        found.networks.push(network("orion-8", Some("M")));
        let said = |rows: &[ContainerRow], found: &FoundOnEngine| -> Vec<String> {
            compare(NodeId(3), rows, found).into_iter().map(|finding| finding.what).collect()
        };
        assert_eq!(
            said(&[row("u")], &found),
            [
                "its engine has the container orion-8-1, which no lease has there",
                "its engine has the network orion-8, which no lease has there",
            ]
        );
        found.containers.retain(|container| container.name == "mine");
        found.networks.clear();
        assert_eq!(
            said(&[row("u")], &found),
            ["its container web runs, and its node's engine has no such container"]
        );
    }
}
