use super::*;
use crate::playbook::ListedAccount;
use orion_domain::{Secret, lease::Account};

#[test]
fn a_lease_moves_on_from_a_node_that_cannot_hold_it_and_from_no_other() {
    let reason = || "why".to_owned();
    let cause = QuarantineCause::Cleaning;
    for (applied, why) in [
        (Applied::Unfit(None, reason()), Some(MoveReason::Unfit(reason()))),
        (Applied::Refused(reason(), cause), Some(MoveReason::Refused(reason(), cause))),
        (Applied::Unreached(reason()), Some(MoveReason::Lost(reason()))),
        (Applied::Invalid(None, reason()), None),
        (Applied::Superseded, None),
        (Applied::Done(Finished::default(), None), None),
    ] {
        assert_eq!(applied.retry_elsewhere_reason(), why, "{applied:?}");
    }
}

#[test]
fn the_status_of_a_step_says_what_ends_the_quarantine() {
    let causes = [1, 69, 70, 71, 76, 77, 78, 255].map(cause_of);
    let (passing, cleaning, operator) =
        (QuarantineCause::Passing, QuarantineCause::Cleaning, QuarantineCause::Operator);
    assert_eq!(causes, [passing, passing, cleaning, passing, passing, operator, passing, passing]);
}

#[test]
fn only_an_account_that_never_worked_gets_another_name_and_only_once() {
    let desired = |phase, user: &str| Desired {
        lease: LeaseId(1),
        ulid: "u".into(),
        phase,
        account: Some(Account {
            user: user.parse().expect("a name"),
            uid: 200_017,
            password_hash: Secret::new("x"),
            public_key: None,
        }),
        until: Timestamp::from_micros(0),
    };
    let other_name = UnixName::of_uid(200_017);
    assert!(may_be_renamed(Some(&desired(Phase::Provisioning, "alice"))));
    assert!(!may_be_renamed(Some(&desired(Phase::Active, "alice"))), "its login may be known to work");
    assert!(
        !may_be_renamed(Some(&desired(Phase::Provisioning, other_name.as_str()))),
        "it has the other name already"
    );
    assert!(!may_be_renamed(None));
}

#[test]
fn the_uids_given_out_so_far_reach_from_the_first_to_the_highest_that_the_node_has_seen() {
    let inventory = NodeInventory {
        accounts: vec![ListedAccount { user: "alice".into(), uid: 200_001, locked: false }],
        members: vec![200_001],
        lease_files: vec![200_002],
        container_leases: Vec::new(),
        deadlines: Vec::new(),
        process_uids: vec![200_003],
        subordinate: vec![(300_000, 65_536)],
        boot_id: "kernel".into(),
        highest_uid: 200_009,
        epoch: 7,
        ..NodeInventory::default()
    };
    let observed = observed(&inventory, 200_000);
    assert_eq!(observed.given_out, 200_000..=200_009);
    assert_eq!(observed.accounts, [("alice".to_owned(), 200_001)]);
    assert_eq!((observed.members, observed.lease_files), (vec![200_001], vec![200_002]));
    assert_eq!((observed.process_uids, observed.subordinate), (vec![200_003], vec![(300_000, 65_536)]));
}

#[test]
fn a_deadline_process_that_was_missing_and_a_boot_without_one_are_found() {
    let kept = NodeInventory {
        lease_files: vec![200_001],
        boot_hook: Some("systemd".into()),
        ..NodeInventory::default()
    };
    assert_eq!(deadline_findings(&kept, "no"), [] as [String; 0]);
    let missing = NodeInventory { deadline_process_was_missing: true, ..kept.clone() };
    assert!(deadline_findings(&missing, "yes").concat().contains("it was started again"));
    let full = NodeInventory { deadline_process_cannot_start: true, ..missing };
    assert!(deadline_findings(&full, "yes").concat().contains("cannot be started"));
    let no_hook = NodeInventory { boot_hook: Some("none".into()), ..kept };
    assert!(deadline_findings(&no_hook, "no").concat().contains("nothing keeps the deadlines after a boot"));
    assert_eq!(deadline_findings(&no_hook, "yes"), [] as [String; 0], "the agent does");
    let free = NodeInventory { lease_files: Vec::new(), ..no_hook };
    assert_eq!(deadline_findings(&free, "no"), [] as [String; 0], "there is none to keep");
}

#[test]
fn a_removal_tells_all_that_was_found_but_the_count_of_other_leases() {
    let entries = [("others", "2"), ("processes", "3"), ("left", "/srv/x 1")];
    let entries = entries.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let told = removal("alice", 200_017, &Report { entries });
    let expected = json!({ "user": "alice", "uid": 200_017, "processes": 3, "left": "/srv/x 1" });
    assert_eq!(told, expected);
}
