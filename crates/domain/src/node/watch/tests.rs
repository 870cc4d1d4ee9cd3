use super::*;
use crate::{
    brake::{Brake, Engaged},
    health::{Failure, HealthPolicy},
    node::{
        LinkState, LockOrder, Transport,
        tests::{free_node, sshd},
    },
};

const UP: LinkPath = LinkPath::Up { sshd: Some(true) };
const SSHD_DOWN: LinkPath = LinkPath::Up { sshd: Some(false) };

fn wall(ms: u64) -> Timestamp {
    Timestamp::from_micros(1_000_000_000_000 + i64::try_from(ms).unwrap() * 1_000)
}

/// A watch, what surrounds it, and a clock that stands still until it is moved.
struct Rig {
    watch: NodeWatch,
    link: LinkPath,
    may_judge: bool,
    ms: u64,
}

impl Rig {
    fn new(node: Node) -> Self {
        let policy = WatchPolicy {
            keepalive_every: Duration::from_secs(3),
            dead_probe_every: Duration::from_secs(2),
            hold_after_start: Duration::from_secs(5),
            health: HealthPolicy::default(),
        };
        let now = Moment { wall: wall(0), steady: Duration::ZERO, chance: 1.0 };
        let watch = NodeWatch::new(Arc::new(policy), Arc::new(node), now);
        Self { watch, link: UP, may_judge: true, ms: 0 }
    }

    /// An alive node that answered a moment ago.
    fn answering() -> Self {
        let mut rig = Self::new(Node { health_reason: "SSH answers".into(), ..free_node() });
        rig.probes(ProbeResult::Answered);
        assert_eq!(rig.waits(), 3_000);
        rig
    }

    /// A suspect node whose link is lost and that refused the third time: it is about to be given up.
    fn dying() -> Self {
        let mut rig = Self::new(Node {
            health: Health::Suspect,
            link: LinkState::Lost,
            health_since: wall(0),
            ..free_node()
        });
        rig.link = LinkPath::Lost;
        for _ in 0..2 {
            rig.probes(failed(Failure::Refused));
            let until = rig.waits();
            rig.ms = until;
        }
        rig.probes(failed(Failure::Refused));
        assert_eq!(rig.poll(), Action::EvaluateBrake);
        rig
    }

    fn now(&self) -> Moment {
        Moment { wall: wall(self.ms), steady: Duration::from_millis(self.ms), chance: 1.0 }
    }

    fn poll(&mut self) -> Action {
        let around = Surroundings { link: self.link, may_judge: self.may_judge };
        self.watch.poll(around, self.now())
    }

    /// Asserts that the watch asks for a probe, and gives it `result`.
    fn probes(&mut self, result: ProbeResult) {
        assert_eq!(self.poll(), Action::Probe);
        self.watch.on_probe(result, self.now());
    }

    /// Asserts that the watch waits, and returns the end of the wait in milliseconds.
    fn waits(&mut self) -> u64 {
        let action = self.poll();
        let Action::Wait { until, .. } = action else { panic!("it does not wait: {action:?}") };
        u64::try_from(until.as_millis()).unwrap()
    }

    /// Asserts that the watch asks for an evaluation of the brake, and gives it `standing`.
    fn stands(&mut self, standing: &Standing) {
        assert_eq!(self.poll(), Action::EvaluateBrake);
        self.watch.on_standing(standing, self.now());
    }

    /// Asserts that the watch takes its turn and then writes a verdict, and returns that verdict.
    fn writes(&mut self) -> Verdict {
        assert_eq!(self.poll(), Action::TakeTurn);
        self.watch.on_turn(self.now());
        let action = self.poll();
        let Action::WriteHealth(verdict) = action else { panic!("it does not write: {action:?}") };
        self.watch.on_written();
        verdict
    }

    /// Asserts that the watch asks for a confirmation, and gives it the results of the probe and of the
    /// peers.
    fn confirms(&mut self, result: ProbeResult, word: PeerVerdict) {
        assert_eq!(self.poll(), Action::Confirm);
        self.watch.on_probe(result, self.now());
        assert_eq!(self.poll(), Action::Confirm, "both are waited for");
        self.watch.on_peer(word);
    }

    /// The database has the node so.
    fn becomes(&mut self, change: impl FnOnce(&mut Node)) {
        let mut node = Node::clone(self.watch.node());
        change(&mut node);
        node.version += 1;
        self.watch.on_node(Arc::new(node), self.now());
    }
}

fn failed(failure: Failure) -> ProbeResult {
    ProbeResult::Failed { failure, detail: "x".into() }
}

fn reachable() -> PeerVerdict {
    PeerVerdict::Reachable { peer: "b".into() }
}

fn unreachable() -> PeerVerdict {
    PeerVerdict::Unreachable { peer: "b".into() }
}

/// Returns a standing in which nothing prevents giving up a node and there is no peer to ask.
fn clear() -> Standing {
    Standing {
        alone: true,
        clock_off: false,
        brake: Some(Brake::default()),
        probing_since: wall(0).minus(Duration::from_secs(60)),
        taken_over: None,
        many_are_sick: None,
    }
}

fn beside_others() -> Standing {
    Standing { alone: false, ..clear() }
}

fn engaged() -> Option<Brake> {
    let engaged = Engaged { since: wall(0), reason: "many".into(), by: "b".into() };
    Some(Brake { engaged: Some(engaged), lifted_at: None })
}

#[test]
fn a_node_is_probed_at_once_and_then_each_time_its_pause_is_over() {
    let mut rig = Rig::answering();
    rig.ms = 2_999;
    assert_eq!(rig.poll(), Action::Wait { until: Duration::from_secs(3), session: true });
    rig.ms = 3_000;
    rig.probes(ProbeResult::Answered);
    assert_eq!(rig.waits(), 6_000);
}

#[test]
fn what_was_seen_is_written_if_it_is_news() {
    let mut rig = Rig::new(Node { health: Health::Unknown, ..free_node() });
    rig.probes(ProbeResult::Answered);
    assert_eq!(rig.writes().health, Health::Alive);
    assert_eq!(rig.waits(), 3_000);
    rig.becomes(|node| (node.health, node.health_reason) = (Health::Alive, "SSH answers".into()));
    assert_eq!(rig.waits(), 3_000, "a change puts the next probe neither off nor forward");
    rig.link = LinkPath::Lost;
    rig.becomes(|node| node.link = LinkState::Lost);
    assert_eq!(rig.writes().reason, "SSH answers; the agent's link is lost");
}

#[test]
fn a_probe_that_fails_makes_the_node_suspect_and_is_repeated_soon() {
    let mut rig = Rig::answering();
    rig.ms = 3_000;
    rig.probes(failed(Failure::Silent));
    assert_eq!(rig.writes().health, Health::Suspect);
    assert_eq!(rig.waits(), 3_200);
}

#[test]
fn a_probe_that_failed_on_this_side_says_nothing() {
    let mut rig = Rig::answering();
    rig.ms = 3_000;
    rig.probes(ProbeResult::Inconclusive);
    assert_eq!(rig.waits(), 6_000);
    assert_eq!(rig.watch.path(), &SshPath::Up);
}

#[test]
fn the_end_of_the_session_of_a_node_that_answered_leads_to_a_probe_at_once() {
    let mut rig = Rig::answering();
    rig.watch.on_session_closed(rig.now());
    assert_eq!(rig.poll(), Action::Probe);
}

#[test]
fn one_scheduler_alone_gives_a_node_up_when_the_brake_does_not_object() {
    let mut rig = Rig::dying();
    rig.stands(&clear());
    let verdict = rig.writes();
    assert_eq!((verdict.health, &*verdict.reason), (Health::Dead, "SSH and the agent's link are gone: x"));
    assert_eq!(rig.waits(), rig.ms + 800);
}

#[test]
fn nothing_is_given_up_while_something_holds_it_back_and_it_stays_suspect() {
    let just_now = Some(wall(0));
    for (why, standing) in [
        ("the brake is on: many", Standing { brake: engaged(), ..clear() }),
        ("the brake has not been read yet", Standing { brake: None, ..clear() }),
        ("the scheduler has just started", Standing { probing_since: wall(0), ..clear() }),
        ("another scheduler looked after it", Standing { taken_over: just_now, ..clear() }),
        ("clock is off", Standing { clock_off: true, ..clear() }),
    ] {
        let mut rig = Rig::dying();
        rig.stands(&standing);
        assert_eq!(rig.waits(), rig.ms + 800, "{why}: it is suspect already");
        // The database says something else: the reason is told.
        rig.becomes(|node| node.health = Health::Unreachable);
        rig.stands(&standing);
        let verdict = rig.writes();
        assert_eq!(verdict.health, Health::Suspect);
        assert!(verdict.reason.contains("not given up: ") && verdict.reason.contains(why), "{verdict:?}");
    }
}

#[test]
fn the_hold_after_a_start_and_after_a_take_over_ends_after_five_seconds() {
    let after = |ms: u64, standing: Standing| standing.holds_back(Duration::from_secs(5), wall(ms)).is_some();
    for standing in
        [Standing { probing_since: wall(0), ..clear() }, Standing { taken_over: Some(wall(0)), ..clear() }]
    {
        assert!(after(4_999, standing.clone()) && !after(5_000, standing));
    }
}

#[test]
fn a_node_that_no_other_scheduler_reaches_is_given_up_and_the_brake_is_asked_again_before() {
    let mut rig = Rig::dying();
    rig.stands(&beside_others());
    rig.confirms(failed(Failure::Refused), unreachable());
    rig.stands(&beside_others());
    let verdict = rig.writes();
    assert_eq!(verdict.health, Health::Dead);
    assert!(verdict.reason.ends_with("; the scheduler b does not reach it either"), "{}", verdict.reason);

    let mut rig = Rig::dying();
    rig.stands(&beside_others());
    rig.confirms(failed(Failure::Refused), unreachable());
    rig.stands(&Standing { brake: engaged(), ..beside_others() });
    rig.waits();
}

#[test]
fn a_node_that_another_scheduler_reaches_is_unreachable_and_nobody_is_asked_again_for_a_round() {
    let mut rig = Rig::dying();
    rig.stands(&beside_others());
    rig.confirms(failed(Failure::Refused), reachable());
    let verdict = rig.writes();
    assert_eq!(verdict.health, Health::Unreachable);
    assert!(verdict.reason.starts_with("it answers the scheduler b and not this one"), "{}", verdict.reason);
    let said = rig.ms;
    rig.becomes(|node| node.health = Health::Unreachable);
    rig.stands(&beside_others());
    rig.ms = rig.waits();
    while rig.ms < said + 3_000 {
        rig.probes(failed(Failure::Refused));
        rig.stands(&beside_others());
        rig.ms = rig.waits();
    }
    rig.probes(failed(Failure::Refused));
    rig.stands(&beside_others());
    assert_eq!(rig.poll(), Action::Confirm);
}

#[test]
fn a_node_that_is_back_before_the_peers_have_answered_is_alive() {
    let mut rig = Rig::dying();
    rig.stands(&beside_others());
    rig.confirms(ProbeResult::Answered, unreachable());
    assert_eq!(rig.writes().health, Health::Alive);
}

#[test]
fn a_node_is_not_given_up_for_what_was_seen_long_before_the_turn_to_write() {
    let mut rig = Rig::dying();
    rig.stands(&clear());
    assert_eq!(rig.poll(), Action::TakeTurn);
    rig.ms += 3_000;
    rig.watch.on_turn(rig.now());
    assert!(rig.waits() <= rig.ms, "its turn is given back");
    assert_eq!(rig.poll(), Action::Probe, "it is probed again instead");

    let mut rig = Rig::answering();
    rig.ms = 3_000;
    rig.probes(failed(Failure::Silent));
    assert_eq!(rig.poll(), Action::TakeTurn);
    rig.ms += 60_000;
    rig.watch.on_turn(rig.now());
    assert!(matches!(rig.poll(), Action::WriteHealth(_)), "a doubt may be late");
}

#[test]
fn a_round_that_took_longer_than_the_pause_waits_before_the_next_so_that_the_row_is_read_again() {
    let mut rig = Rig::dying();
    rig.stands(&clear());
    assert_eq!(rig.writes().health, Health::Dead);
    rig.ms += 5_000;
    assert!(rig.waits() <= rig.ms, "the next probe is due already");
    // Somebody wrote the row during the round: the death was not written.
    rig.becomes(|node| node.link = LinkState::Lost);
    let version = rig.watch.node().version;
    rig.probes(failed(Failure::Refused));
    assert_eq!((rig.poll(), rig.watch.node().version), (Action::EvaluateBrake, version));
}

#[test]
fn a_silent_node_is_given_up_five_seconds_after_it_answered_last() {
    let mut rig = Rig::answering();
    (rig.ms, rig.link) = (3_000, LinkPath::Lost);
    rig.probes(failed(Failure::Silent));
    assert_eq!(rig.writes().health, Health::Suspect);
    rig.waits();
    rig.becomes(|node| (node.health, node.link) = (Health::Suspect, LinkState::Lost));
    rig.ms = 4_999;
    rig.probes(failed(Failure::Silent));
    rig.waits();
    rig.ms = 5_000;
    rig.becomes(|_| {});
    assert_eq!(rig.poll(), Action::EvaluateBrake);
}

#[test]
fn a_node_whose_link_is_back_before_the_turn_to_write_is_not_given_up() {
    let mut rig = Rig::dying();
    rig.stands(&clear());
    assert_eq!(rig.poll(), Action::TakeTurn);
    // The replica that held it was slow: its beats go on, and nothing of the node's row changed.
    rig.link = UP;
    rig.watch.on_turn(rig.now());
    rig.waits();
}

#[test]
fn a_scheduler_that_may_not_judge_writes_nothing() {
    let mut rig = Rig::dying();
    rig.stands(&clear());
    rig.may_judge = false;
    rig.waits();

    let mut rig = Rig::dying();
    rig.stands(&clear());
    assert_eq!(rig.poll(), Action::TakeTurn);
    rig.may_judge = false;
    rig.watch.on_turn(rig.now());
    rig.waits();

    let mut rig = Rig::answering();
    (rig.ms, rig.may_judge) = (3_000, false);
    rig.probes(failed(Failure::Silent));
    assert_eq!(rig.waits(), 3_200);
}

#[test]
fn a_scheduler_that_was_suspended_forgets_and_probes_before_it_says_anything() {
    let mut rig = Rig::dying();
    rig.watch.on_failed();
    rig.waits();
    rig.watch.on_resumed(rig.now());
    assert_eq!(rig.watch.path(), &SshPath::Untried);
    assert_eq!(rig.waits(), rig.ms + 1_500);
    rig.ms += 1_500;
    rig.probes(failed(Failure::Refused));
    rig.waits();
}

#[test]
fn a_node_that_moved_is_probed_at_once_and_what_was_seen_is_forgotten() {
    let mut rig = Rig::answering();
    rig.becomes(|node| node.transport = Transport::Ssh(sshd("10.0.0.99", Vec::new())));
    assert_eq!(rig.watch.path(), &SshPath::Untried);
    rig.probes(ProbeResult::Inconclusive);
    assert_eq!(rig.writes().health, Health::Unknown, "what was known is about another address");

    let keys =
        |keys: &[&str]| Transport::Ssh(sshd("10.0.0.1", keys.iter().map(|key| (*key).to_owned()).collect()));
    let mut rig = Rig::answering();
    rig.becomes(|node| node.transport = keys(&["a"]));
    assert_eq!(rig.poll(), Action::Probe, "it had no key before");
    let mut rig = Rig::new(Node { transport: keys(&["a"]), ..free_node() });
    rig.probes(ProbeResult::Answered);
    rig.becomes(|node| node.transport = keys(&["a", "b"]));
    assert_eq!(rig.watch.path(), &SshPath::Up, "a further key changes nothing");
    rig.becomes(|node| node.transport = keys(&["b"]));
    assert_eq!(rig.watch.path(), &SshPath::Untried);
}

#[test]
fn a_node_that_shows_another_key_for_longer_than_a_round_is_quarantined() {
    let mut rig = Rig::new(Node { health: Health::Unreachable, ..free_node() });
    let action = loop {
        rig.probes(failed(Failure::WrongKey));
        let action = rig.poll();
        let Action::Wait { until, .. } = action else { break action };
        rig.ms = u64::try_from(until.as_millis()).unwrap();
    };
    let reason = "its host key is not the pinned one: x".into();
    assert_eq!(action, Action::Quarantine { reason });
    assert!((5_000..9_000).contains(&rig.ms), "after {} ms", rig.ms);
    rig.waits();
}

#[test]
fn the_accounts_of_a_node_whose_sshd_is_down_are_locked_after_the_same_doubts_as_before_its_death() {
    let locking = |standing: &Standing| {
        let mut rig =
            Rig::new(Node { health: Health::Unreachable, agent_sees_sshd: Some(false), ..free_node() });
        rig.link = SSHD_DOWN;
        // Suspect at first, which is written; the database is left as it is.
        for _ in 0..2 {
            rig.probes(failed(Failure::Refused));
            assert_eq!(rig.writes().health, Health::Suspect);
            rig.ms = rig.waits();
        }
        while rig.ms < 20_000 {
            rig.probes(failed(Failure::Refused));
            rig.ms = rig.waits();
        }
        rig.probes(failed(Failure::Refused));
        rig.stands(standing);
        rig
    };
    let mut alone = locking(&clear());
    assert!(matches!(alone.poll(), Action::OrderLock { reason } if reason.contains("its sshd is down")));
    alone.watch.on_written();
    alone.waits();
    let order = LockOrder { at: wall(alone.ms), observed_at: None };
    alone.becomes(|node| node.lock_order = Some(order));
    alone.waits();

    locking(&Standing { brake: engaged(), ..clear() }).waits();

    let mut suspended = locking(&clear());
    suspended.may_judge = false;
    suspended.waits();

    let mut vouched = locking(&beside_others());
    vouched.confirms(failed(Failure::Refused), reachable());
    vouched.waits();

    let mut back = locking(&beside_others());
    back.confirms(ProbeResult::Answered, unreachable());
    back.waits();
}

#[test]
fn a_node_is_admitted_when_it_answers_with_a_key_that_it_reported() {
    let mut rig = Rig::new(Node { admission: Admission::Reported, ..free_node() });
    rig.probes(ProbeResult::Answered);
    assert_eq!(rig.poll(), Action::TakeTurn);
    rig.watch.on_turn(rig.now());
    assert_eq!(rig.poll(), Action::Admit);
    rig.watch.on_written();
    rig.waits();
}

#[test]
fn a_dead_node_stays_dead_until_something_of_it_answers() {
    let mut rig = Rig::new(Node { health: Health::Dead, health_since: wall(0), ..free_node() });
    rig.link = LinkPath::Lost;
    rig.probes(failed(Failure::Silent));
    assert_eq!(rig.waits(), 2_000, "it is suspect, and that is no news");
    rig.ms = 2_000;
    rig.probes(ProbeResult::Answered);
    assert_eq!(rig.writes().health, Health::Alive);
}

#[test]
fn many_nodes_that_let_nobody_in_stay_unreachable() {
    let mut rig = Rig::new(Node { health: Health::Unreachable, link: LinkState::Lost, ..free_node() });
    rig.link = LinkPath::Lost;
    rig.probes(failed(Failure::Sick));
    rig.waits();
    rig.ms = 600_000;
    rig.probes(failed(Failure::Sick));
    let many = Some("3 of 4 nodes answer and do not let the control plane in".to_owned());
    rig.stands(&Standing { many_are_sick: many, ..clear() });
    rig.waits();
    rig.becomes(|_| {});
    rig.stands(&clear());
    assert_eq!(rig.writes().health, Health::Dead, "one alone is given up");
}

#[test]
fn what_comes_at_the_wrong_time_is_passed_over() {
    let mut rig = Rig::answering();
    let path = rig.watch.path().clone();
    rig.watch.on_probe(failed(Failure::Refused), rig.now());
    rig.watch.on_peer(unreachable());
    rig.watch.on_standing(&clear(), rig.now());
    rig.watch.on_turn(rig.now());
    rig.watch.on_written();
    assert_eq!(rig.waits(), 3_000);
    assert_eq!(rig.watch.path(), &path);
}

#[test]
fn an_action_that_failed_ends_the_round_and_the_next_probe_begins_another() {
    let mut rig = Rig::dying();
    rig.watch.on_failed();
    rig.ms = rig.waits();
    rig.probes(failed(Failure::Refused));
    rig.stands(&clear());
    assert_eq!(rig.writes().health, Health::Dead);
}
