use super::*;

/// An sshd on port 22.
pub(crate) fn sshd(addr: &str, host_keys: Vec<String>) -> Sshd {
    Sshd { addr: addr.parse().unwrap(), port: Port::try_from(22).unwrap(), host_keys }
}

/// Ready to be offered.
pub(crate) fn free_node() -> Node {
    let at = Timestamp::from_micros(0);
    Node {
        id: NodeId(1),
        hostname: "node-1".parse().unwrap(),
        transport: Transport::Ssh(sshd("10.0.0.1", Vec::new())),
        seen_fingerprint: None,
        admission: Admission::Admitted,
        health: Health::Alive,
        health_reason: String::new(),
        health_since: at,
        quarantine: None,
        quarantine_cause: None,
        lock_order: None,
        quarantine_since: None,
        drain: None,
        link: LinkState::Up,
        link_since: at,
        link_replica: None,
        agent_sees_sshd: None,
        way_in: WayIn { way: Way::Open, ..WayIn::unknown() },
        engine: None,
        engine_down_since: None,
        clock_off_ms: None,
        facts: Facts::default(),
        tags: Vec::new(),
        subordinate_uids: Vec::new(),
        desired_version: 2,
        applied_version: 2,
        whole_lease: None,
        registered_at: at,
        last_clean_report: None,
        claimed_until: None,
        disk_full: None,
        reconcile_failures: 0,
        capacity: Capacity::default(),
        unclean: false,
        version: 1,
    }
}

fn drain(drained_at: Option<Timestamp>) -> Option<Drain> {
    Some(Drain { reason: "disk swap".into(), since: Timestamp::from_micros(0), deadline: None, drained_at })
}

/// A free node that was changed, and its status then.
fn changed(change: impl FnOnce(&mut Node)) -> (bool, &'static str) {
    let mut node = free_node();
    change(&mut node);
    (node.is_offerable(), node.status())
}

#[test]
fn only_a_node_with_nothing_in_the_way_is_offered() {
    assert_eq!(changed(|_| {}), (true, "alive"));
    let now = Timestamp::from_micros(1);
    let in_the_way = [
        (changed(|node| node.transport = Transport::Pull), "alive"),
        (changed(|node| node.admission = Admission::Pending), "pending"),
        (changed(|node| node.admission = Admission::Reported), "confirming"),
        (changed(|node| node.health = Health::Unknown), "unknown"),
        (changed(|node| node.health = Health::Suspect), "suspect"),
        (changed(|node| node.health = Health::Unreachable), "unreachable"),
        (changed(|node| node.health = Health::Dead), "dead"),
        (changed(|node| node.quarantine = Some("x".into())), "quarantined"),
        (changed(|node| node.drain = drain(None)), "draining"),
        (changed(|node| node.drain = drain(Some(now))), "drained"),
        (changed(|node| node.desired_version += 1), "cleaning"),
        (changed(|node| node.whole_lease = Some(LeaseId(1))), "alive"),
        (changed(|node| (node.whole_lease, node.desired_version) = (Some(LeaseId(1)), 9)), "alive"),
    ];
    for (found, status) in in_the_way {
        assert_eq!(found, (false, status));
    }
    for way in [Way::Unknown, Way::Shut] {
        assert!(!changed(|node| node.way_in.way = way).0, "{way:?}");
    }
}

#[test]
fn words_of_the_database_are_told_apart() {
    let admissions = [Admission::Pending, Admission::Reported, Admission::Admitted].map(Admission::as_str);
    assert_eq!(admissions, ["pending", "reported", "admitted"]);
    assert_eq!(
        [LinkState::None, LinkState::Up, LinkState::Lost].map(LinkState::as_str),
        ["none", "up", "lost"]
    );
    assert_eq!([Way::Unknown, Way::Open, Way::Shut].map(Way::as_str), ["unknown", "open", "shut"]);
    let causes = [QuarantineCause::Passing, QuarantineCause::Cleaning, QuarantineCause::Operator];
    assert_eq!(causes.map(QuarantineCause::as_str), ["passing", "cleaning", "operator"]);
    assert_eq!(causes.map(QuarantineCause::ends_by_itself), [true, true, false]);
}

#[test]
fn a_reserve_is_kept_of_what_a_machine_reports_and_never_less_than_nothing() {
    let reserved = |text: &str| text.parse::<Reserved>();
    assert_eq!(reserved("0.5,512"), Ok(Reserved { cpu_milli: 500, memory_mb: 512 }));
    for wrong in ["", "1", "1,", "-1,5", "1,-5", "a,b", "NaN,1", "1;2"] {
        assert!(reserved(wrong).is_err(), "{wrong}");
    }
    let facts = Facts { cpu_cores: Some(2), memory_mb: Some(400), ..Facts::default() };
    assert_eq!(facts.for_leases(Reserved::default()), (2000, 400));
    assert_eq!(facts.for_leases(Reserved { cpu_milli: 500, memory_mb: 512 }), (1500, 0));
}
