use super::*;
use crate::random::Random;

const A: &str = "01K0000000000000000000000A";
const B: &str = "01K0000000000000000000000B";

fn lease(number: i64, ulid: &str, containers: &[(u32, WantedState)]) -> LeaseContainers {
    let container = |(number, wanted): &(u32, WantedState)| DesiredContainer {
        ulid: format!("{ulid}-{number}"),
        number: *number,
        epoch: 2,
        wanted: *wanted,
    };
    LeaseContainers {
        lease: LeaseId(number),
        ulid: ulid.into(),
        subnet: None,
        containers: containers.iter().map(container).collect(),
    }
}

fn found(ulid: &str, name: &str, number: u32, epoch: u64, state: EngineState) -> FoundContainer {
    FoundContainer {
        id: format!("id-{name}-{epoch}"),
        name: name.into(),
        lease: Some(ulid.into()),
        container: Some(format!("{ulid}-{number}")),
        epoch: Some(epoch),
        state,
    }
}

fn containers(containers: Vec<FoundContainer>) -> FoundOnEngine {
    FoundOnEngine { containers, ..FoundOnEngine::default() }
}

fn remove(container: &FoundContainer) -> ContainerAction {
    ContainerAction::RemoveContainer { id: container.id.clone(), name: container.name.clone() }
}

fn create(number: i64, container: &str) -> ContainerAction {
    ContainerAction::Create { lease: LeaseId(number), container: container.into() }
}

#[test]
fn what_no_lease_explains_goes_before_what_is_wanted_is_made() {
    let stray = found(B, "orion-2-1", 1, 9, EngineState::Running);
    let older = found(A, "orion-1-1", 1, 1, EngineState::Running);
    let plan = plan_containers(
        &[lease(1, A, &[(1, WantedState::Started)])],
        &containers(vec![older.clone(), stray.clone()]),
    );
    assert_eq!(plan.actions, [remove(&older), remove(&stray), create(1, &format!("{A}-1"))]);
    assert_eq!(plan.findings, [] as [String; 0]);
}

#[test]
fn a_container_is_started_once_and_its_end_is_not_undone_unless_that_was_asked_for() {
    for (wanted, state, is_start) in [
        (WantedState::Started, EngineState::Created, true),
        (WantedState::Started, EngineState::Exited, false),
        (WantedState::Started, EngineState::Restarting, false),
        (WantedState::Restarted, EngineState::Created, true),
        (WantedState::Restarted, EngineState::Exited, true),
        (WantedState::Restarted, EngineState::Running, false),
        (WantedState::Stopped, EngineState::Created, false),
    ] {
        let there = found(A, "orion-1-1", 1, 2, state);
        let plan = plan_containers(&[lease(1, A, &[(1, wanted)])], &containers(vec![there.clone()]));
        let start =
            ContainerAction::Start { lease: LeaseId(1), container: format!("{A}-1"), id: there.id.clone() };
        assert_eq!(plan.actions, if is_start { vec![start] } else { vec![] }, "{wanted:?} {state:?}");
    }
}

#[test]
fn what_is_not_orions_is_left_alone_and_said_where_it_is_in_the_way() {
    let unlabelled = FoundContainer { lease: None, ..found(A, "orion-1-1", 1, 2, EngineState::Running) };
    let committed = found(A, "operators-own", 1, 2, EngineState::Running);
    let network = FoundNetwork { id: "n".into(), name: "orion-1".into(), lease: None, subnet: None };
    let volume = FoundVolume { name: "data".into(), lease: Some(B.into()) };
    let all = FoundOnEngine {
        containers: vec![unlabelled, committed],
        networks: vec![network],
        volumes: vec![volume],
    };
    let wanted =
        LeaseContainers { subnet: Some("10.201.0.0/28".into()), ..lease(1, A, &[(1, WantedState::Started)]) };
    let plan = plan_containers(&[wanted], &all);
    assert_eq!(plan.actions, []);
    let findings = plan.findings.join("; ");
    for part in ["operators-own has a label", "the network orion-1 is not", "orion-1-1 cannot be made yet"] {
        assert!(findings.contains(part), "{part}: {findings}");
    }
}

#[test]
fn a_network_with_another_subnet_is_made_anew_with_all_that_hangs_on_it() {
    let subnet = |last: u8| Some(format!("10.201.0.{last}/28"));
    let network =
        FoundNetwork { id: "n".into(), name: "orion-1".into(), lease: Some(A.into()), subnet: subnet(0) };
    let there = found(A, "orion-1-1", 1, 2, EngineState::Running);
    let volumes = vec![
        FoundVolume { name: "orion-1-data".into(), lease: Some(A.into()) },
        FoundVolume { name: "orion-2-data".into(), lease: Some(B.into()) },
    ];
    let all = FoundOnEngine { containers: vec![there.clone()], networks: vec![network], volumes };
    let wanted = |last| LeaseContainers { subnet: subnet(last), ..lease(1, A, &[(1, WantedState::Started)]) };
    let gone = ContainerAction::RemoveVolume { name: "orion-2-data".into() };
    assert_eq!(plan_containers(&[wanted(0)], &all).actions, std::slice::from_ref(&gone));
    assert_eq!(
        plan_containers(&[wanted(16)], &all).actions,
        [
            remove(&there),
            ContainerAction::RemoveNetwork { id: "n".into(), name: "orion-1".into() },
            gone,
            ContainerAction::CreateNetwork { lease: LeaseId(1) },
            create(1, &format!("{A}-1")),
        ]
    );
}

/// An engine that carries out a plan, as plainly as can be.
struct Model(FoundOnEngine);

impl Model {
    fn carry_out(&mut self, desired: &[LeaseContainers], actions: &[ContainerAction]) {
        let mut serial = self.0.containers.len();
        for action in actions {
            serial += 1;
            match action {
                ContainerAction::RemoveContainer { id, .. } => self.0.containers.retain(|c| c.id != *id),
                ContainerAction::RemoveNetwork { id, .. } => self.0.networks.retain(|n| n.id != *id),
                ContainerAction::RemoveVolume { name } => self.0.volumes.retain(|v| v.name != *name),
                ContainerAction::CreateNetwork { lease } => {
                    let wanted = desired.iter().find(|wanted| wanted.lease == *lease).unwrap();
                    let name = network_name(*lease);
                    assert!(self.0.networks.iter().all(|n| n.name != name), "{name} is there already");
                    self.0.networks.push(FoundNetwork {
                        id: format!("new-{serial}"),
                        name,
                        lease: Some(wanted.ulid.clone()),
                        subnet: wanted.subnet.clone(),
                    });
                }
                ContainerAction::Create { lease, container } => {
                    self.create(desired, *lease, container, serial)
                }
                ContainerAction::Start { id, .. } => self.set(id, EngineState::Running),
                ContainerAction::Stop { id, .. } => self.set(id, EngineState::Exited),
            }
        }
    }

    fn create(&mut self, desired: &[LeaseContainers], lease: LeaseId, container: &str, serial: usize) {
        let wanted = desired.iter().find(|wanted| wanted.lease == lease).unwrap();
        let one = wanted.containers.iter().find(|one| one.ulid == container).unwrap();
        let name = container_name(lease, one.number);
        assert!(self.0.containers.iter().all(|c| c.name != name), "the name {name} is taken");
        let starts = one.wanted != WantedState::Stopped;
        self.0.containers.push(FoundContainer {
            id: format!("new-{serial}"),
            name,
            lease: Some(wanted.ulid.clone()),
            container: Some(one.ulid.clone()),
            epoch: Some(one.epoch),
            state: if starts { EngineState::Running } else { EngineState::Created },
        });
    }

    fn set(&mut self, id: &str, state: EngineState) {
        let container = self.0.containers.iter_mut().find(|c| c.id == *id).expect("it is there");
        container.state = state;
    }
}

const STATES: [EngineState; 7] = [
    EngineState::Created,
    EngineState::Running,
    EngineState::Paused,
    EngineState::Restarting,
    EngineState::Exited,
    EngineState::Removing,
    EngineState::Dead,
];

fn pick<T: Clone>(random: &mut Random, of: &[T]) -> T {
    of[random.index(of.len())].clone()
}

fn some_leases(random: &mut Random) -> Vec<LeaseContainers> {
    let wishes = [WantedState::Started, WantedState::Restarted, WantedState::Stopped];
    let mut leases = Vec::new();
    for (number, ulid) in [(1, A), (2, B)] {
        if random.percent(30) {
            continue;
        }
        let mut wanted = Vec::new();
        for number in 1..=3 {
            if random.percent(50) {
                wanted.push((number, pick(random, &wishes)));
            }
        }
        let subnet = random.percent(60).then(|| format!("10.201.0.{}/28", number * 16));
        leases.push(LeaseContainers { subnet, ..lease(number, ulid, &wanted) });
    }
    leases
}

fn something(random: &mut Random) -> FoundOnEngine {
    let labels =
        [None, Some(A.to_owned()), Some(B.to_owned()), Some("01K0000000000000000000000C".to_owned())];
    let mut all = FoundOnEngine::default();
    for name in
        ["orion-1-1", "orion-1-2", "orion-1-3", "orion-2-1", "orion-2-2", "orion-3-1", "web", "orion-x"]
    {
        if random.percent(50) {
            let label = pick(random, &labels);
            let number = random.between(1, 3);
            let owner = label.clone().unwrap_or_else(|| A.to_owned());
            all.containers.push(FoundContainer {
                id: format!("id-{name}"),
                name: name.into(),
                container: random.percent(90).then(|| format!("{owner}-{number}")),
                lease: label,
                epoch: pick(random, &[None, Some(1), Some(2), Some(3)]),
                state: pick(random, &STATES),
            });
        }
    }
    for name in ["orion-1", "orion-2", "orion-3", "bridge"] {
        if random.percent(40) {
            let subnet =
                pick(random, &[None, Some("10.201.0.16/28".to_owned()), Some("10.201.0.32/28".to_owned())]);
            let lease = pick(random, &labels);
            all.networks.push(FoundNetwork { id: format!("id-{name}"), name: name.into(), lease, subnet });
        }
    }
    for name in ["orion-1-data", "orion-3-data", "data"] {
        if random.percent(40) {
            all.volumes.push(FoundVolume { name: name.into(), lease: pick(random, &labels) });
        }
    }
    all
}

/// Says by the plainest of rules whether Orion may remove a thing at all.
fn is_orions(name: &str, lease: Option<&String>) -> bool {
    let shape: Vec<&str> = name.split('-').collect();
    lease.is_some() && shape[0] == "orion" && shape.len() > 1 && shape[1].parse::<u64>().is_ok()
}

#[test]
fn after_any_plan_an_engine_holds_what_it_should_and_nothing_of_others_is_touched() {
    for seed in 0..4_000 {
        let mut random = Random::new(seed);
        let (desired, before) = (some_leases(&mut random), something(&mut random));
        let plan = plan_containers(&desired, &before);
        let mut after = Model(before.clone());
        after.carry_out(&desired, &plan.actions);
        for other in before.containers.iter().filter(|c| !is_orions(&c.name, c.lease.as_ref())) {
            assert!(after.0.containers.contains(other), "seed {seed}: {other:?} was touched");
        }
        for other in before.networks.iter().filter(|n| !is_orions(&n.name, n.lease.as_ref())) {
            assert!(after.0.networks.contains(other), "seed {seed}: {other:?} was touched");
        }
        for other in before.volumes.iter().filter(|v| !is_orions(&v.name, v.lease.as_ref())) {
            assert!(after.0.volumes.contains(other), "seed {seed}: {other:?} was touched");
        }
        for left in after.0.containers.iter().filter(|c| is_orions(&c.name, c.lease.as_ref())) {
            let is_wanted = desired.iter().any(|lease| {
                left.lease.as_ref() == Some(&lease.ulid)
                    && lease.containers.iter().any(|c| Some(&c.ulid) == left.container.as_ref())
            });
            assert!(is_wanted || left.state == EngineState::Removing, "seed {seed}: {left:?} was left");
        }
        for lease in &desired {
            for wanted in &lease.containers {
                let name = container_name(lease.lease, wanted.number);
                let same: Vec<_> = after.0.containers.iter().filter(|c| c.name == name).collect();
                assert_eq!(same.len(), 1, "seed {seed}: {name}");
                let is_in_the_way = same[0].lease.is_none() || same[0].state == EngineState::Removing;
                assert!(is_in_the_way || is_right(wanted, same[0].state), "seed {seed}: {:?}", same[0]);
                assert!(is_in_the_way || same[0].epoch >= Some(wanted.epoch), "seed {seed}: {:?}", same[0]);
            }
        }
        assert_eq!(plan_containers(&desired, &after.0).actions, [], "seed {seed}: it is done after one pass");
    }
}

fn is_right(wanted: &DesiredContainer, state: EngineState) -> bool {
    match wanted.wanted {
        WantedState::Started => state != EngineState::Created && state != EngineState::Dead,
        WantedState::Restarted => {
            !matches!(state, EngineState::Created | EngineState::Exited | EngineState::Dead)
        }
        WantedState::Stopped => matches!(state, EngineState::Created | EngineState::Exited),
    }
}

#[test]
fn what_goes_goes_before_what_comes() {
    for seed in 0..500 {
        let mut random = Random::new(seed);
        let actions = plan_containers(&some_leases(&mut random), &something(&mut random)).actions;
        let goes = |action: &ContainerAction| match action {
            ContainerAction::RemoveContainer { .. }
            | ContainerAction::RemoveNetwork { .. }
            | ContainerAction::RemoveVolume { .. } => true,
            ContainerAction::CreateNetwork { .. }
            | ContainerAction::Create { .. }
            | ContainerAction::Start { .. }
            | ContainerAction::Stop { .. } => false,
        };
        assert!(actions.is_sorted_by_key(|action| !goes(action)), "seed {seed}: {actions:?}");
    }
}
