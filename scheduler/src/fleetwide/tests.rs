use super::*;
use crate::members::KIND;
use orion_domain::{
    brake::Engaged,
    names::Port,
    node::{Admission, Facts, Health, Sshd, Transport},
};

const HOLD: Duration = Duration::from_secs(5);

fn at(secs: i64) -> Timestamp {
    Timestamp::from_micros(secs * 1_000_000)
}

fn answers() -> Observation {
    Observation { probed: true, silent_since: None, health: Health::Alive, both_paths: true, sick: false }
}

fn silent(since: i64, health: Health) -> Observation {
    Observation { probed: true, silent_since: Some(at(since)), health, both_paths: false, sick: false }
}

fn node(number: i64, health: Health, health_since: i64) -> Node {
    Node {
        id: NodeId(number),
        hostname: format!("node-{number}").parse().unwrap(),
        transport: Transport::Ssh(Sshd {
            addr: format!("10.0.0.{number}").parse().unwrap(),
            port: Port::try_from(22).unwrap(),
            host_keys: Vec::new(),
        }),
        seen_fingerprint: None,
        admission: Admission::Admitted,
        health,
        health_reason: String::new(),
        health_since: at(health_since),
        quarantine: None,
        quarantine_cause: None,
        lock_order: None,
        quarantine_since: None,
        drain: None,
        link: LinkState::None,
        link_since: at(0),
        link_replica: None,
        agent_sees_sshd: None,
        way_in: orion_domain::way_in::WayIn::unknown(),
        engine: None,
        engine_down_since: None,
        clock_off_ms: None,
        facts: Facts::default(),
        tags: Vec::new(),
        subordinate_uids: Vec::new(),
        desired_version: 1,
        applied_version: 1,
        whole_lease: None,
        registered_at: at(0),
        last_clean_report: None,
        claimed_until: None,
        disk_full: None,
        reconcile_failures: 0,
        capacity: orion_domain::node::Capacity::default(),
        unclean: false,
        version: 1,
    }
}

/// A scheduler called `a` whose brake was read, and is off.
fn scheduler(started: i64) -> Fleetwide {
    let limits = Limits {
        gone_after: Duration::from_secs(4),
        own_late_after: Duration::from_secs(3),
        clock_skew_max: Duration::from_secs(2),
    };
    let fleetwide = Fleetwide::new("a", limits, at(started));
    fleetwide.set_brake(Brake::default());
    fleetwide
}

/// Beats beside these other schedulers.
fn beat(fleetwide: &Fleetwide, others: &[&str]) {
    let replica = |name: &&str| Replica { name: (*name).to_owned(), kind: KIND.to_owned(), beat_at: at(0) };
    fleetwide.heartbeat(others.iter().map(replica).collect(), (Instant::now(), at(0)));
}

impl Fleetwide {
    fn holds_back(&self, node: NodeId, hold: Duration, now: Timestamp) -> Option<String> {
        self.standing(node, &BrakePolicy::default()).holds_back(hold, now)
    }

    fn many_are_sick(&self, policy: &BrakePolicy) -> Option<String> {
        self.standing(NodeId(1), policy).many_are_sick
    }
}

/// Nine nodes of its own, of which the first three are as `first` says.
fn nine(fleetwide: &Fleetwide, first: Observation) {
    for number in 0..9 {
        let observation = if number < 3 { first } else { answers() };
        fleetwide.watch(&node(number, observation.health, 0), at(0));
        fleetwide.observe(NodeId(number), observation);
    }
    fleetwide.all_read();
}

/// Evaluates the brake as [`crate::tasks::brake`] does, without a database.
fn evaluate(fleetwide: &Fleetwide, now: i64) -> Option<BrakeChange> {
    let change = fleetwide.evaluate_brake(&BrakePolicy::default(), at(now));
    match &change {
        Some(BrakeChange::Pull { reason }) => {
            let engaged = Engaged { since: at(now), reason: reason.clone(), by: "a".into() };
            fleetwide.set_brake(Brake { engaged: Some(engaged), lifted_at: None });
        }
        Some(BrakeChange::Lift { .. }) => {
            fleetwide.set_brake(Brake { engaged: None, lifted_at: Some(at(now)) });
        }
        None => {}
    }
    change
}

fn engaged_by(by: &str) -> Brake {
    let engaged = Engaged { since: at(0), reason: "many went silent".into(), by: by.into() };
    Brake { engaged: Some(engaged), lifted_at: None }
}

#[test]
fn nodes_that_stay_silent_keep_the_brake_for_five_minutes_and_not_for_ever() {
    let fleetwide = scheduler(0);
    nine(&fleetwide, silent(10, Health::Suspect));
    assert!(matches!(evaluate(&fleetwide, 11), Some(BrakeChange::Pull { .. })));
    for second in [20, 39, 41, 45, 300] {
        assert_eq!(evaluate(&fleetwide, second), None, "{second} s");
        assert!(fleetwide.holds_back(NodeId(0), HOLD, at(second)).is_some());
    }
    assert!(matches!(evaluate(&fleetwide, 312), Some(BrakeChange::Lift { .. })));
    assert_eq!(fleetwide.holds_back(NodeId(0), HOLD, at(312)), None);
}

#[test]
fn the_brake_lets_go_when_the_silent_nodes_answer_again_however_late() {
    let fleetwide = scheduler(0);
    nine(&fleetwide, silent(10, Health::Suspect));
    assert!(evaluate(&fleetwide, 11).is_some());
    nine(&fleetwide, answers());
    assert!(matches!(evaluate(&fleetwide, 60), Some(BrakeChange::Lift { .. })));
}

#[test]
fn silence_from_before_a_lift_by_hand_does_not_pull_it_again_and_new_silence_does() {
    let fleetwide = scheduler(0);
    nine(&fleetwide, silent(10, Health::Suspect));
    assert!(evaluate(&fleetwide, 11).is_some());
    fleetwide.set_brake(Brake { engaged: None, lifted_at: Some(at(12)) });
    assert_eq!(evaluate(&fleetwide, 13), None);
    nine(&fleetwide, silent(14, Health::Suspect));
    assert!(matches!(evaluate(&fleetwide, 15), Some(BrakeChange::Pull { .. })));
}

#[test]
fn a_brake_that_was_on_before_a_restart_stays_until_every_node_was_looked_at() {
    let fleetwide = scheduler(400);
    beat(&fleetwide, &[]);
    fleetwide.set_brake(engaged_by("an earlier process"));
    assert_eq!(evaluate(&fleetwide, 400), None, "no node has been read yet");
    nine(&fleetwide, Observation::none_yet(Health::Suspect));
    assert_eq!(evaluate(&fleetwide, 401), None, "three have not been probed yet");
    nine(&fleetwide, answers());
    assert!(matches!(evaluate(&fleetwide, 402), Some(BrakeChange::Lift { .. })));
}

#[test]
fn a_brake_that_another_scheduler_engaged_is_released_here_only_when_that_one_is_gone() {
    let fleetwide = scheduler(0);
    nine(&fleetwide, answers());
    fleetwide.set_brake(engaged_by("b"));
    assert_eq!(evaluate(&fleetwide, 10), None, "it is not known yet who lives");
    beat(&fleetwide, &["b"]);
    assert_eq!(evaluate(&fleetwide, 10), None);
    assert!(fleetwide.holds_back(NodeId(0), HOLD, at(10)).is_some(), "but it is honoured");
    beat(&fleetwide, &[]);
    assert!(matches!(evaluate(&fleetwide, 11), Some(BrakeChange::Lift { .. })));
}

#[test]
fn what_the_others_see_of_their_nodes_counts_for_the_fleet() {
    let fleetwide = scheduler(0);
    for number in 0..5 {
        fleetwide.watch(&node(number, Health::Alive, 0), at(0));
        fleetwide.observe(NodeId(number), if number < 2 { silent(10, Health::Suspect) } else { answers() });
    }
    for number in 5..10 {
        fleetwide.apply_db_state(&node(number, Health::Alive, 0));
    }
    fleetwide.all_read();
    assert_eq!(evaluate(&fleetwide, 11), None, "2 of 10");
    let glance = |id| NodeHealthSummary { id: NodeId(id), health: Health::Suspect, health_since: at(10) };
    fleetwide.apply_db_silence(&[glance(7), glance(8), glance(0)]);
    let Some(BrakeChange::Pull { reason }) = evaluate(&fleetwide, 12) else { panic!("4 of 10") };
    assert!(reason.starts_with("4 of 10 nodes went silent"), "{reason}");
}

#[test]
fn a_node_of_another_scheduler_went_silent_when_it_first_did_and_not_when_it_was_given_up() {
    let fleetwide = scheduler(0);
    for number in 0..6 {
        fleetwide.apply_db_state(&node(number, Health::Alive, 0));
    }
    fleetwide.all_read();
    for number in 0..4 {
        fleetwide.apply_db_state(&node(number, Health::Suspect, 10));
    }
    assert!(matches!(evaluate(&fleetwide, 11), Some(BrakeChange::Pull { .. })));
    fleetwide.set_brake(Brake { engaged: None, lifted_at: Some(at(12)) });
    for number in 0..4 {
        fleetwide.apply_db_state(&node(number, Health::Dead, 13));
    }
    assert_eq!(evaluate(&fleetwide, 14), None, "that is the silence from before the lift");
    fleetwide.apply_db_state(&node(0, Health::Alive, 15));
    for number in [0, 4, 5] {
        fleetwide.apply_db_state(&node(number, Health::Suspect, 16));
    }
    assert!(matches!(evaluate(&fleetwide, 17), Some(BrakeChange::Pull { .. })), "and this is new");
}

#[test]
fn more_than_half_of_the_own_nodes_pull_the_brake_in_a_large_fleet() {
    let fleetwide = scheduler(0);
    for number in 0..5 {
        fleetwide.watch(&node(number, Health::Alive, 0), at(0));
        fleetwide.observe(NodeId(number), if number < 3 { silent(10, Health::Suspect) } else { answers() });
    }
    for number in 5..100 {
        fleetwide.apply_db_state(&node(number, Health::Alive, 0));
    }
    fleetwide.all_read();
    let Some(BrakeChange::Pull { reason }) = evaluate(&fleetwide, 11) else { panic!("3 of its own 5") };
    assert!(reason.starts_with("3 of the 5 nodes of this scheduler"), "{reason}");
}

#[test]
fn nodes_that_were_dead_before_do_not_pull_the_brake() {
    let fleetwide = scheduler(0);
    let dead = Observation {
        probed: true,
        silent_since: None,
        health: Health::Dead,
        both_paths: false,
        sick: false,
    };
    nine(&fleetwide, dead);
    for number in 20..29 {
        fleetwide.apply_db_state(&node(number, Health::Dead, -1_000));
    }
    assert_eq!(evaluate(&fleetwide, 1), None);
    assert_eq!(fleetwide.holds_back(NodeId(0), HOLD, at(6)), None);
}

#[test]
fn nothing_is_given_up_in_the_first_seconds_after_a_start() {
    let fleetwide = scheduler(0);
    assert!(fleetwide.holds_back(NodeId(0), HOLD, at(4)).is_some());
    assert_eq!(fleetwide.holds_back(NodeId(0), HOLD, at(5)), None);
}

#[test]
fn a_lone_scheduler_that_was_suspended_starts_anew() {
    let fleetwide = scheduler(0);
    let tick = |boot: u64, wall: i64| Tick { since_boot: Duration::from_secs(boot), wall: at(wall) };
    assert!(!fleetwide.tick(tick(50, 50)), "the first one");
    assert!(!fleetwide.tick(tick(52, 52)));
    nine(&fleetwide, silent(51, Health::Suspect));
    let before = fleetwide.suspension_count();
    assert!(fleetwide.is_awake(before, tick(54, 54)));
    // A watcher may go on before the next tick.
    assert!(!fleetwide.is_awake(before, tick(55, 55)) && fleetwide.suspension_count() == before);
    assert!(fleetwide.tick(tick(112, 112)));
    assert!(!fleetwide.is_awake(before, tick(112, 112)), "what was observed before says nothing");
    assert!(fleetwide.is_awake(fleetwide.suspension_count(), tick(113, 113)));
    assert_eq!(evaluate(&fleetwide, 112), None, "nor for the brake");
    let held = fleetwide.holds_back(NodeId(0), HOLD, at(116));
    assert!(held.as_ref().is_some_and(|why| why.contains("started or resumed")), "{held:?}");
    assert_eq!(fleetwide.holds_back(NodeId(0), HOLD, at(117)), None);
    assert!(!fleetwide.tick(tick(114, 114)));
}

#[test]
fn a_brake_that_was_not_read_yet_counts_as_on() {
    let limits = Limits { gone_after: HOLD, own_late_after: HOLD, clock_skew_max: HOLD };
    let fleetwide = Fleetwide::new("a", limits, at(0));
    assert!(fleetwide.brake_engaged());
    assert!(fleetwide.holds_back(NodeId(0), HOLD, at(100)).is_some());
    fleetwide.set_brake(Brake::default());
    assert!(!fleetwide.brake_engaged());
}

#[test]
fn a_node_that_was_taken_over_is_held_for_a_while_and_a_new_one_is_not() {
    let fleetwide = scheduler(0);
    fleetwide.apply_db_state(&node(1, Health::Suspect, 90));
    fleetwide.watch(&node(1, Health::Suspect, 90), at(100));
    fleetwide.watch(&node(2, Health::Alive, 100), at(100));
    assert!(fleetwide.holds_back(NodeId(1), HOLD, at(104)).is_some());
    assert_eq!(fleetwide.holds_back(NodeId(1), HOLD, at(105)), None);
    assert_eq!(fleetwide.holds_back(NodeId(2), HOLD, at(101)), None);
}

#[test]
fn the_last_word_of_a_watcher_that_was_stopped_is_dropped() {
    let fleetwide = scheduler(0);
    nine(&fleetwide, answers());
    for number in 0..3 {
        fleetwide.apply_db_state(&node(number, Health::Alive, 0));
        fleetwide.observe(NodeId(number), silent(10, Health::Suspect));
    }
    assert_eq!(evaluate(&fleetwide, 11), None);
}

#[test]
fn a_scheduler_that_reaches_none_of_its_own_nodes_does_not_vouch_for_another_s() {
    let fleetwide = scheduler(0);
    beat(&fleetwide, &["b"]);
    let cannot = |now| fleetwide.cannot_vouch(HOLD, at(now));
    assert!(cannot(1).is_some(), "it has just started");
    let fleetwide = scheduler(-100);
    beat(&fleetwide, &["b"]);
    let cannot = || fleetwide.cannot_vouch(HOLD, at(1));
    assert_eq!(cannot(), None, "it has no nodes");
    nine(&fleetwide, silent(0, Health::Suspect));
    assert_eq!(cannot(), None, "six of nine answer");
    for number in 0..9 {
        fleetwide.observe(NodeId(number), silent(0, Health::Suspect));
    }
    assert!(cannot().is_some());
}

#[test]
fn a_replica_that_deregistered_ages_like_one_that_died() {
    let fleetwide = scheduler(0);
    let api = |beat: i64| Replica { name: "api-1".into(), kind: "api".into(), beat_at: at(beat) };
    let held =
        Node { link: LinkState::Up, link_replica: Some("api-1".into()), ..node(1, Health::Unreachable, 1) };
    let began = Instant::now();
    fleetwide.heartbeat(vec![api(1)], (began, at(1)));
    fleetwide.heartbeat(vec![api(2)], (began, at(2)));
    // The link stands for a day, then its replica is stopped softly: its agent needs a moment to dial another one.
    let now = at(86_400);
    assert_eq!(fleetwide.link_of(&held, now), LinkPath::Up { sshd: None });
    fleetwide.heartbeat(Vec::new(), (began, now));
    assert_eq!(fleetwide.link_of(&held, now), LinkPath::Up { sshd: None });
    let Some(long_ago) = began.checked_sub(Duration::from_secs(20)) else { panic!("a young machine") };
    let fleetwide = scheduler(0);
    fleetwide.heartbeat(vec![api(1)], (long_ago, at(1)));
    fleetwide.heartbeat(vec![api(2)], (long_ago, at(2)));
    fleetwide.heartbeat(Vec::new(), (began, now));
    let LinkPath::Unknown { since } = fleetwide.link_of(&held, now) else { panic!("20 s are enough") };
    assert!(now.since(since) < Duration::from_secs(15), "unknown since {since}, now {now}");
}

#[test]
fn many_nodes_that_let_nobody_in_are_not_given_up_and_few_are() {
    let policy = BrakePolicy::default();
    let fleetwide = |sick: i64, of: i64| {
        let fleetwide = scheduler(0);
        for id in 1..=of {
            fleetwide.watch(&node(id, Health::Unreachable, 0), at(0));
            let observation =
                Observation { probed: true, sick: id <= sick, ..Observation::none_yet(Health::Unreachable) };
            fleetwide.observe(NodeId(id), observation);
        }
        fleetwide.many_are_sick(&policy)
    };
    assert!(fleetwide(3, 4).unwrap().starts_with("3 of 4 nodes answer and do not let the control plane in"));
    assert_eq!((fleetwide(2, 2), fleetwide(3, 10)), (None, None));
}
