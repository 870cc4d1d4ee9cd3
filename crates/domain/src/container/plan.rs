//! The difference between the containers that a node's engine should hold and those that it holds.

use super::label::{container_name, is_container_name, is_network_name, network_name};
use crate::{LeaseId, reconcile::FINDINGS_MAX};

/// Containers and network of one lease that a node should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseContainers {
    /// Number of the lease.
    pub lease: LeaseId,
    /// The lease's ULID, [`super::LEASE_LABEL`].
    pub ulid: String,
    /// Subnet of the lease's network, as `10.201.0.16/28`; none where it has no network.
    pub subnet: Option<String>,
    /// Containers in the order in which they are made and started.
    pub containers: Vec<DesiredContainer>,
}

/// One container that a node should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredContainer {
    /// The container's ULID, [`super::CONTAINER_LABEL`].
    pub ulid: String,
    /// Number in its lease, part of its name.
    pub number: u32,
    /// Incarnation: what was made under a lower one is made anew.
    pub epoch: u64,
    /// The state that it should be in.
    pub wanted: WantedState,
}

/// State that a container should be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedState {
    /// Started once. What happens when it ends is the engine's business, by its restart policy.
    Started,
    /// Running: one that has ended is started again, because its tenant asked for that.
    Restarted,
    /// Stopped, and kept.
    Stopped,
}

/// State of a container, in Docker's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// Made, and never started.
    Created,
    /// With a process that runs.
    Running,
    /// Standing still by somebody's order.
    Paused,
    /// Between its end and its next start.
    Restarting,
    /// Ended.
    Exited,
    /// Being removed.
    Removing,
    /// Removed in part only.
    Dead,
}

/// A container that was found on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundContainer {
    /// The engine's id.
    pub id: String,
    /// Name, without the leading `/`.
    pub name: String,
    /// Its [`super::LEASE_LABEL`].
    pub lease: Option<String>,
    /// Its [`super::CONTAINER_LABEL`].
    pub container: Option<String>,
    /// Its [`super::EPOCH_LABEL`].
    pub epoch: Option<u64>,
    /// State as the engine tells it.
    pub state: EngineState,
}

/// A network that was found on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundNetwork {
    /// The engine's id.
    pub id: String,
    /// Name on the engine.
    pub name: String,
    /// Its [`super::LEASE_LABEL`].
    pub lease: Option<String>,
    /// Its first subnet.
    pub subnet: Option<String>,
}

/// A volume that was found on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundVolume {
    /// Name on the engine.
    pub name: String,
    /// Its [`super::LEASE_LABEL`].
    pub lease: Option<String>,
}

/// All that was found on a node's engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundOnEngine {
    /// Containers, those that do not run included.
    pub containers: Vec<FoundContainer>,
    /// Networks with a label of Orion's.
    pub networks: Vec<FoundNetwork>,
    /// Volumes with a label of Orion's.
    pub volumes: Vec<FoundVolume>,
}

impl FoundOnEngine {
    /// Leaves out what is of these leases, given by their ULIDs: it is neither wanted nor removed.
    pub fn leave_out(&mut self, leases: &[String]) {
        let stays = |lease: &Option<String>| !lease.as_ref().is_some_and(|lease| leases.contains(lease));
        self.containers.retain(|container| stays(&container.lease));
        self.networks.retain(|network| stays(&network.lease));
        self.volumes.retain(|volume| stays(&volume.lease));
    }
}

/// Actions to carry out, and findings of what is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerPlan {
    /// Actions in the order in which they are carried out: what must go goes first.
    pub actions: Vec<ContainerAction>,
    /// Sentences on what is left alone though it is in the way or looks like Orion's; at most [`FINDINGS_MAX`].
    pub findings: Vec<String>,
}

/// One thing to do on an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerAction {
    /// Remove a container by force, with its anonymous volumes.
    RemoveContainer {
        /// The engine's id.
        id: String,
        /// Its name, for people.
        name: String,
    },
    /// Remove a network.
    RemoveNetwork {
        /// The engine's id.
        id: String,
        /// Its name, for people.
        name: String,
    },
    /// Remove a volume.
    RemoveVolume {
        /// Its name.
        name: String,
    },
    /// Make the network of a lease.
    CreateNetwork {
        /// Number of the lease.
        lease: LeaseId,
    },
    /// Make a container and start it if it should run.
    Create {
        /// Number of the lease.
        lease: LeaseId,
        /// ULID of the container.
        container: String,
    },
    /// Start a container that is there.
    Start {
        /// Number of the lease.
        lease: LeaseId,
        /// ULID of the container.
        container: String,
        /// The engine's id.
        id: String,
    },
    /// Stop a container that runs.
    Stop {
        /// ULID of the container.
        container: String,
        /// The engine's id.
        id: String,
    },
}

/// Place of a found container among those that are desired.
enum Standing<'found> {
    /// Nothing of it is there.
    Absent,
    /// It is there, under this incarnation or a later one.
    Present(&'found FoundContainer),
    /// Its name is taken by what is not Orion's, or it is being removed at this moment: nothing can be made yet.
    Blocked,
}

/// Returns what has to be done on an engine, in order. Only what has Orion's labels *and* a name that Orion gives is
/// removed; a tenant's container that an operator committed to an image passes its labels on.
pub fn plan_containers(desired: &[LeaseContainers], found: &FoundOnEngine) -> ContainerPlan {
    let mut plan = ContainerPlan::default();
    let misplaced = misplaced_networks(desired, found);
    let mut kept: Vec<&FoundContainer> = Vec::new();
    for container in &found.containers {
        match judge(desired, &misplaced, container, &kept) {
            Judged::Kept => kept.push(container),
            Judged::Goes if container.state == EngineState::Removing => {}
            Judged::Goes => plan.actions.push(ContainerAction::RemoveContainer {
                id: container.id.clone(),
                name: container.name.clone(),
            }),
            Judged::NotOrions(finding) => plan.findings.extend(finding),
        }
    }
    remove_networks(desired, found, &mut plan);
    remove_volumes(desired, found, &mut plan);
    create_networks(desired, found, &mut plan);
    for lease in desired {
        for container in &lease.containers {
            bring_to_state(lease, container, found, &kept, &mut plan);
        }
    }
    plan.findings.truncate(FINDINGS_MAX);
    plan
}

enum Judged {
    Kept,
    Goes,
    NotOrions(Option<String>),
}

fn judge(
    desired: &[LeaseContainers],
    misplaced: &[&FoundNetwork],
    found: &FoundContainer,
    kept: &[&FoundContainer],
) -> Judged {
    let Some(lease) = &found.lease else { return Judged::NotOrions(None) };
    if !is_container_name(&found.name) {
        let name = &found.name;
        return Judged::NotOrions(Some(format!(
            "the container {name} has a label of Orion's and is left alone: its name is none that Orion gives"
        )));
    }
    let explained = desired.iter().any(|wanted| {
        wanted.ulid == *lease
            && !misplaced.iter().any(|network| network.lease.as_ref() == Some(lease))
            && wanted.containers.iter().any(|container| explains(wanted.lease, container, found))
    });
    let is_second = kept.iter().any(|other| other.name == found.name);
    if explained && !is_second && found.state != EngineState::Dead { Judged::Kept } else { Judged::Goes }
}

fn explains(lease: LeaseId, wanted: &DesiredContainer, found: &FoundContainer) -> bool {
    found.container.as_ref() == Some(&wanted.ulid)
        && found.name == container_name(lease, wanted.number)
        && found.epoch.is_some_and(|epoch| epoch >= wanted.epoch)
}

/// Returns Orion's networks that no lease explains; a subnet that differs is no explanation.
fn misplaced_networks<'found>(
    desired: &[LeaseContainers],
    found: &'found FoundOnEngine,
) -> Vec<&'found FoundNetwork> {
    let is_misplaced = |network: &&FoundNetwork| {
        let explained = |lease: &LeaseContainers| {
            network.lease.as_ref() == Some(&lease.ulid)
                && network.name == network_name(lease.lease)
                && lease.subnet.is_some()
                && network.subnet == lease.subnet
        };
        network.lease.is_some() && is_network_name(&network.name) && !desired.iter().any(explained)
    };
    found.networks.iter().filter(is_misplaced).collect()
}

fn remove_networks(desired: &[LeaseContainers], found: &FoundOnEngine, plan: &mut ContainerPlan) {
    let misplaced = misplaced_networks(desired, found);
    plan.actions.extend(misplaced.into_iter().map(|network| ContainerAction::RemoveNetwork {
        id: network.id.clone(),
        name: network.name.clone(),
    }));
}

fn remove_volumes(desired: &[LeaseContainers], found: &FoundOnEngine, plan: &mut ContainerPlan) {
    for volume in &found.volumes {
        let is_explained = |lease: &String| desired.iter().any(|wanted| wanted.ulid == *lease);
        if volume.lease.as_ref().is_some_and(|lease| !is_explained(lease))
            && volume.name.starts_with("orion-")
        {
            plan.actions.push(ContainerAction::RemoveVolume { name: volume.name.clone() });
        }
    }
}

fn create_networks(desired: &[LeaseContainers], found: &FoundOnEngine, plan: &mut ContainerPlan) {
    for lease in desired.iter().filter(|lease| lease.subnet.is_some()) {
        let name = network_name(lease.lease);
        match found.networks.iter().find(|network| network.name == name) {
            // It stays as it is, or was removed above.
            Some(network)
                if network.lease.as_ref() == Some(&lease.ulid) && network.subnet == lease.subnet => {}
            Some(network) if network.lease.is_none() => {
                plan.findings.push(format!("the network {name} is not Orion's and is in the way"));
            }
            Some(_) | None => plan.actions.push(ContainerAction::CreateNetwork { lease: lease.lease }),
        }
    }
}

fn bring_to_state(
    lease: &LeaseContainers,
    wanted: &DesiredContainer,
    found: &FoundOnEngine,
    kept: &[&FoundContainer],
    plan: &mut ContainerPlan,
) {
    let container = wanted.ulid.clone();
    match standing(lease.lease, wanted, found, kept) {
        Standing::Absent => plan.actions.push(ContainerAction::Create { lease: lease.lease, container }),
        Standing::Blocked => {
            let name = container_name(lease.lease, wanted.number);
            plan.findings.push(format!("the container {name} cannot be made yet: its name is in use"));
        }
        Standing::Present(found) => match needed(wanted.wanted, found.state) {
            Needed::Start => {
                plan.actions.push(ContainerAction::Start {
                    lease: lease.lease,
                    container,
                    id: found.id.clone(),
                });
            }
            Needed::Stop => plan.actions.push(ContainerAction::Stop { container, id: found.id.clone() }),
            Needed::Nothing => {}
        },
    }
}

fn standing<'found>(
    lease: LeaseId,
    wanted: &DesiredContainer,
    found: &FoundOnEngine,
    kept: &[&'found FoundContainer],
) -> Standing<'found> {
    if let Some(present) = kept.iter().find(|found| explains(lease, wanted, found)) {
        return if present.state == EngineState::Removing {
            Standing::Blocked
        } else {
            Standing::Present(present)
        };
    }
    let name = container_name(lease, wanted.number);
    let stays = |other: &&FoundContainer| {
        other.name == name && (other.lease.is_none() || other.state == EngineState::Removing)
    };
    if found.containers.iter().any(|other| stays(&other)) { Standing::Blocked } else { Standing::Absent }
}

enum Needed {
    Start,
    Stop,
    Nothing,
}

fn needed(wanted: WantedState, state: EngineState) -> Needed {
    match (wanted, state) {
        (WantedState::Started | WantedState::Restarted, EngineState::Created)
        | (WantedState::Restarted, EngineState::Exited) => Needed::Start,
        (WantedState::Stopped, EngineState::Running | EngineState::Paused | EngineState::Restarting) => {
            Needed::Stop
        }
        (WantedState::Started, EngineState::Exited)
        | (WantedState::Stopped, EngineState::Created | EngineState::Exited)
        | (
            WantedState::Started | WantedState::Restarted,
            EngineState::Running | EngineState::Paused | EngineState::Restarting,
        )
        | (_, EngineState::Removing | EngineState::Dead) => Needed::Nothing,
    }
}

#[cfg(test)]
mod tests;
