//! Uids that a node has seen: a new lease never gets one of them, whatever the control plane has forgotten.

use orion_fleet::{MEMORY_COMMAND, playbook::Reply, read_memory};
use orion_store::HighWaterMarks;

use crate::node::{Account, BOTH, Node, playbooks};

fn new_lease(user: &str, uid: u32) -> Account {
    Account { is_new: "yes", ..Account::new(user, uid) }
}

fn stored(node: &Node) -> String {
    node.sh("cat /var/lib/orion/highest_uid")
}

/// Runs `create_user` for a lease that must be refused for its uid.
fn seen(node: &Node, account: &Account) -> u32 {
    let before = node.sh("cat /etc/passwd /etc/group /etc/shadow; ls /var/lib/orion/leases /home");
    let reply = node.play(playbooks().create_user(), 1, &account.create());
    let Reply::UidSeen { highest } = reply else { panic!("{:?}: {reply:?}", node.userland) };
    let after = node.sh("cat /etc/passwd /etc/group /etc/shadow; ls /var/lib/orion/leases /home");
    assert_eq!(after, before, "nothing is done");
    highest
}

#[test]
fn a_new_lease_needs_a_uid_above_all_that_the_node_has_seen() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = new_lease("alice", 200_017);
        node.done(playbooks().create_user(), &alice.create());
        assert_eq!(stored(&node), format!("200017 {}", alice.ulid));
        node.done(playbooks().delete_user(), &alice.name_and_uid());

        assert_eq!(seen(&node, &new_lease("bob", 200_016)), 200_017, "a lower one");
        let stranger = Account { ulid: "01KZZZZZZZZZZZZZZZZZZZZZZZ".to_owned(), ..alice.clone() };
        assert_eq!(seen(&node, &stranger), 200_017, "the same one for another lease");
        node.done(playbooks().create_user(), &alice.create());
        node.done(playbooks().delete_user(), &alice.name_and_uid());
        let bob = new_lease("bob", 200_018);
        node.done(playbooks().create_user(), &bob.create());
        assert_eq!(stored(&node), format!("200018 {}", bob.ulid));
    }
}

#[test]
fn a_lease_that_was_elsewhere_before_brings_its_older_uid() {
    for userland in BOTH {
        let node = Node::start(userland);
        node.done(playbooks().create_user(), &new_lease("alice", 200_030).create());
        node.done(playbooks().create_user(), &Account::new("bob", 200_020).create());
        assert!(stored(&node).starts_with("200030 "), "{userland:?}: the highest stays");
        node.done(playbooks().create_user(), &Account::new("carol", 200_040).create());
        assert!(stored(&node).starts_with("200040 "), "a moved one counts, too");
        assert_eq!(seen(&node, &new_lease("dave", 200_035)), 200_040);
    }
}

#[test]
fn a_used_uid_is_said_before_anything_else_that_is_in_the_way() {
    for userland in BOTH {
        let node = Node::start(userland);
        node.done(playbooks().create_user(), &new_lease("alice", 200_017).create());
        // The uid is alice's, and the name, too: another node would not help, another uid does.
        let bob = Account { ulid: "01KZZZZZZZZZZZZZZZZZZZZZZZ".to_owned(), ..new_lease("bob", 200_017) };
        assert_eq!(seen(&node, &bob), 200_017);
        assert_eq!(seen(&node, &new_lease("alice", 200_011)), 200_017);
    }
}

#[test]
fn the_uid_is_remembered_before_the_account_is_made_also_by_a_run_that_fails() {
    for userland in BOTH {
        let node = Node::start(userland);
        // No home can be made, which shows after the checks.
        node.sh("rm -rf /home; : >/home");
        let alice = new_lease("alice", 200_017);
        let reply = node.play(playbooks().create_user(), 1, &alice.create());
        assert!(matches!(reply, Reply::Refused { .. }), "{userland:?}: {reply:?}");
        assert_eq!(stored(&node), format!("200017 {}", alice.ulid));
        assert_eq!(node.sh("stat -c '%a %U' /var/lib/orion/highest_uid"), "644 root");
    }
}

#[test]
fn what_a_broken_disk_left_in_the_file_is_nothing_and_is_repaired() {
    for userland in BOTH {
        let node = Node::start(userland);
        node.sh("mkdir -p /var/lib/orion");
        for (number, junk) in ["", "junk", "99999999999 X", "-5 X", "2000 17 X", "*"].into_iter().enumerate()
        {
            node.sh(&format!("printf '%s' '{junk}' >/var/lib/orion/highest_uid"));
            let uid = 200_100 + u32::try_from(number).expect("few");
            let account = new_lease("alice", uid);
            node.done(playbooks().create_user(), &account.create());
            assert_eq!(stored(&node), format!("{uid} {}", account.ulid), "{userland:?} {junk:?}");
            node.done(playbooks().delete_user(), &account.name_and_uid());
        }
    }
}

#[test]
fn a_node_says_what_it_remembers_in_its_list_and_in_the_command_of_the_probes() {
    for userland in BOTH {
        let node = Node::start(userland);
        let probed = || {
            let ran = node.run(MEMORY_COMMAND, b"");
            assert_eq!(ran.status, Some(0), "{userland:?}: also where there is nothing yet");
            read_memory(&ran.stdout)
        };
        let listed = || {
            let range = [("uid_min", "200000"), ("uid_max", "299999")];
            let list = node.play(playbooks().list_users(), 99, &range);
            let Reply::Done(report) = list else { panic!("{userland:?}: {list:?}") };
            let inventory = report.node_inventory().expect("a list");
            HighWaterMarks { epoch: inventory.epoch, highest_uid: inventory.highest_uid }
        };
        assert_eq!((probed(), listed()), (HighWaterMarks::default(), HighWaterMarks::default()));
        let alice = new_lease("alice", 200_017);
        assert!(matches!(node.play(playbooks().create_user(), 77, &alice.create()), Reply::Done(_)));
        let remembered = HighWaterMarks { epoch: 77, highest_uid: 200_017 };
        assert_eq!((probed(), listed()), (remembered, remembered), "{userland:?}");
        assert!(matches!(node.play(playbooks().delete_user(), 78, &alice.name_and_uid()), Reply::Done(_)));
        assert_eq!(
            probed(),
            HighWaterMarks { epoch: 78, ..remembered },
            "a lease that is over is remembered"
        );
    }
}
