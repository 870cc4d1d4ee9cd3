//! A machine is to be compared when its agent named another machine id or another kernel than before. Of two nodes that are one
//! machine the one that registered later is quarantined, unless the brake is on: then when it is released.
//!
//! The agent's hello compares, too, at once; two hellos that overlap do not see each other. Each scheduler does it; what one has
//! compared another does not find.

use crate::{
    context::Scheduler,
    driver::{Report, Task},
};
use orion_store::{Compared, StoreError};
use std::time::Duration;

/// Machines compared in one run.
const BATCH_MAX: u32 = 256;
/// Pause between two runs.
const PERIOD: Duration = Duration::from_secs(5);

/// The task that compares machines.
pub struct CompareMachines;

impl Task for CompareMachines {
    const NAME: &'static str = "machines";
    const NUDGED: bool = false;

    fn period(&self, _: &Scheduler) -> Duration {
        PERIOD
    }

    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        let (store, now) = (&scheduler.fleet.store, scheduler.fleet.now());
        let nodes = store.nodes().machines_to_compare(BATCH_MAX).await?;
        let mut quarantined = 0;
        for node in &nodes {
            match store.nodes().compare_machine(*node, now).await? {
                Compared::Quarantined(second) => {
                    tracing::warn!(node = %second, "a node is another one's machine; it is quarantined");
                    quarantined += 1;
                }
                Compared::Nothing | Compared::Braked => {}
            }
        }
        if quarantined > 0 {
            scheduler.fleet.nudge.all();
        }
        Ok(Report::new(nodes.len(), quarantined))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SchedulerConfig;
    use orion_domain::{NodeId, node::Facts};
    use orion_service::{
        assemble::{Settings, assemble},
        sealed::MasterKey,
    };
    use orion_store::{RegisterNode, RegisterOutcome, Store};
    use tokio_util::sync::CancellationToken;

    /// A node of the machine with the id 50, whose agent named its kernel.
    async fn joins(store: &Store, number: u16, now: orion_domain::Timestamp) -> NodeId {
        let sha = |number: u16| format!("{number:064x}");
        store.accounts().create_join_token(&sha(number), "test", None, None, None, now).await.unwrap();
        let request = RegisterNode {
            hostname: format!("node-{number}").parse().unwrap(),
            addr: format!("127.0.0.{number}").parse().unwrap(),
            port: 22.try_into().unwrap(),
            host_keys: Vec::new(),
            facts: Facts::default(),
            tags: Vec::new(),
            body_sha256: sha(100 + number),
            join_token_sha256: Some(sha(number)),
            node_token_sha256_presented: None,
            boot_id: None,
            machine_id_sha256: Some(sha(50)),
            new_node_token_sha256: sha(200 + number),
            now,
        };
        let outcome = store.nodes().register(&request).await.unwrap();
        let RegisterOutcome::Created(node) = outcome else { panic!("{outcome:?}") };
        node.id
    }

    #[tokio::test]
    async fn a_second_identity_of_a_machine_is_quarantined_when_the_brake_is_released() {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings::new(
            vec![format!("sqlite:{}", directory.path().join("orion.db").display())],
            4,
            MasterKey::generate(),
        );
        let fleet = assemble(&settings).await.unwrap().fleet;
        let scheduler = Scheduler::new(fleet.clone(), SchedulerConfig::default(), CancellationToken::new());
        let store = &fleet.store;
        let nodes = [joins(store, 1, fleet.now()).await, joins(store, 2, fleet.now()).await];
        let known = store.cluster().brake().await.unwrap();
        store.cluster().engage_brake(&known, "test", "many", fleet.now()).await.unwrap().done().unwrap();
        for node in nodes {
            store.agents().record_boot_id(node, "kernel-1", fleet.now()).await.unwrap();
        }
        let quarantine = async || store.nodes().get(nodes[1]).await.unwrap().unwrap().quarantine;
        CompareMachines.run(&scheduler).await.unwrap();
        assert_eq!(quarantine().await, None);
        store.cluster().release_brake(None, "over", None, fleet.now()).await.unwrap().done().unwrap();
        CompareMachines.run(&scheduler).await.unwrap();
        assert!(quarantine().await.unwrap().starts_with("it is the same machine as node"));
    }
}
