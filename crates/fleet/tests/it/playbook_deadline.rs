//! Deadlines on a node without an agent: the process that create_user leaves behind keeps them alone.

use crate::node::{Account, BOTH, Node, playbooks};
use orion_fleet::playbook::Report;

fn short_lease(node: &Node, deadline_s: &str) -> Account {
    let mut alice = Account::new("alice", 200_017);
    alice.agent = "no".to_owned();
    alice.deadline_s = deadline_s.to_owned();
    node.done(playbooks().create_user(), &alice.create());
    alice
}

/// Creates the leases of alice and bob, of one hour each, on a node without an agent.
fn two_leases(node: &Node) -> (Account, Account) {
    let alice = short_lease(node, "3600");
    let mut bob = Account::new("bob", 200_018);
    bob.agent = "no".to_owned();
    node.done(playbooks().create_user(), &bob.create());
    (alice, bob)
}

fn list(node: &Node) -> Report {
    node.done(playbooks().list_users(), &[("uid_min", "200000"), ("uid_max", "60000000")])
}

fn deadline_processes(node: &Node) -> usize {
    let lines = node.sh("for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f 2>/dev/null; echo; done");
    lines.lines().filter(|line| line.trim_end() == "/bin/sh /run/orion/deadline.sh").count()
}

#[test]
fn the_node_itself_locks_an_account_at_its_deadline_and_ends_its_processes() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = short_lease(&node, "6");
        let hash = node.sh("grep ^alice: /etc/shadow | cut -d: -f2");
        assert!(hash.starts_with("$6$"), "{hash}");
        node.as_user(&alice, "(setsid sleep 1000 >/dev/null 2>&1 &)");
        assert!(!node.processes_of(&alice.uid).is_empty());
        node.wait_until("the file says locked", "grep -q '^locked=1$' /var/lib/orion/leases/200017");
        assert_eq!(node.processes_of(&alice.uid), "", "{userland:?}");
        // By the tools, or where they are too slow by one byte in place.
        let locked = node.sh("grep ^alice: /etc/shadow | cut -d: -f2");
        assert!([format!("!{hash}"), format!("!{}", &hash[1..])].contains(&locked), "{locked}");
        let expiry = node.sh("grep ^alice: /etc/shadow | cut -d: -f8");
        let shell = node.sh("grep ^alice: /etc/passwd | cut -d: -f7");
        // A shell that is no file is refused by sshd as well.
        assert!(
            expiry == "1" || ["/bin/false", "!bin/bash"].contains(&shell.as_str()),
            "{userland:?}: keys are shut out too: {expiry} {shell}"
        );
        assert!(node.test("test -d /home/alice"), "it locks and does not delete");
        assert!(
            node.sh("cat /var/lib/orion/leases/200017").starts_with("user=alice\nuid=200017\nlease=42\n")
        );
    }
}

#[test]
fn one_process_keeps_all_deadlines_and_ends_with_the_last_lease() {
    for userland in BOTH {
        let node = Node::start(userland);
        let (alice, bob) = two_leases(&node);
        node.done(playbooks().create_user(), &bob.create());
        assert_eq!(deadline_processes(&node), 1, "{userland:?}");
        // It holds neither the lock nor the channel of the run that started it.
        let pid = node.sh("cat /run/orion/deadline.pid");
        for number in 0..3 {
            assert_eq!(node.sh(&format!("readlink /proc/{pid}/fd/{number}")), "/dev/null");
        }
        assert!(!node.test(&format!("ls -d /proc/{pid}/fd/[3-9]")), "{userland:?}");
        assert!(!node.sh(&format!("ls -l /proc/{pid}/fd")).contains("lock"));
        assert_eq!(node.sh("cat /run/orion/deadline.sh").matches("$6$").count(), 0);

        node.done(playbooks().delete_user(), &alice.name_and_uid());
        assert_eq!(deadline_processes(&node), 1);
        node.done(playbooks().delete_user(), &bob.name_and_uid());
        node.wait_until("it has ended", "! test -e /run/orion/deadline.pid");
        node.wait_until("it is gone", &format!("! test -e /proc/{pid}"));
        node.done(playbooks().create_user(), &bob.create());
        assert_eq!(deadline_processes(&node), 1, "and starts again with the next lease");
    }
}

#[test]
fn a_killed_deadline_process_is_started_again_by_the_next_run() {
    for userland in BOTH {
        let node = Node::start(userland);
        let mut alice = short_lease(&node, "3600");
        node.sh("kill -9 $(cat /run/orion/deadline.pid)");
        node.wait_until("it is gone", "! test -e /proc/$(cat /run/orion/deadline.pid)/exe");
        alice.deadline_s = "1".to_owned();
        node.done(playbooks().set_deadline(), &alice.deadline());
        node.wait_until("it was locked", "grep -q '^locked=1$' /var/lib/orion/leases/200017");
        // The scheduler asks a node without an agent each minute whether its way in is open.
        node.sh("kill -9 $(cat /run/orion/deadline.pid)");
        node.wait_until("it is gone", "! test -e /proc/$(cat /run/orion/deadline.pid)/exe");
        // The probe itself needs an sshd.
        node.play(playbooks().probe_login(), 1, &[]);
        assert_eq!(deadline_processes(&node), 1, "{userland:?}");
        node.play(playbooks().probe_login(), 1, &[]);
        assert_eq!(deadline_processes(&node), 1, "{userland:?}: one is enough");
    }
}

#[test]
fn a_deadline_process_that_a_boot_ended_is_reported_by_the_probe_and_started_by_the_list() {
    for userland in BOTH {
        let node = Node::start(userland);
        short_lease(&node, "3600");
        node.sh("kill -9 $(cat /run/orion/deadline.pid)");
        node.wait_until("it is gone", "! test -e /proc/$(cat /run/orion/deadline.pid)/exe");
        node.sh("rm /run/orion/deadline.*");
        let probed = node.play(playbooks().probe_login(), 1, &[]);
        assert!(format!("{probed:?}").contains("(\"deadline_process\", \"missing\")"), "{probed:?}");
        assert_eq!(deadline_processes(&node), 0, "{userland:?}: the probe has not its text");
        assert_eq!(list(&node).get("deadline_process"), Some("started"));
        assert_eq!(deadline_processes(&node), 1, "{userland:?}");
        let probed = node.play(playbooks().probe_login(), 1, &[]);
        assert!(!format!("{probed:?}").contains("deadline_process"), "{probed:?}");
    }
}

#[test]
fn where_run_is_full_the_list_is_told_all_the_same_and_no_process_is_started_that_nobody_finds() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = short_lease(&node, "3600");
        let end = || {
            node.sh("kill -9 $(cat /run/orion/deadline.pid)");
            node.wait_until("it is gone", "! test -e /proc/$(cat /run/orion/deadline.pid)/exe");
        };
        let fill =
            || node.sh("mount -o remount,size=1m /run; dd if=/dev/zero of=/run/full bs=4k 2>/dev/null || :");
        end();
        fill();
        let report = list(&node);
        assert_eq!(report.get("deadline_process"), Some("started"), "{userland:?}: its text is there");
        assert_eq!(deadline_processes(&node), 1, "{userland:?}");
        end();
        node.sh("rm -f /run/full /run/orion/deadline.*");
        fill();
        for _ in 0..2 {
            let report = list(&node);
            assert_eq!(report.get("deadline_process"), Some("missing"), "{userland:?}");
            assert_eq!(report.get("leasefile"), Some(&*alice.uid));
            assert!(report.get("account").is_some_and(|account| account.starts_with("alice ")), "{report:?}");
            assert_eq!(deadline_processes(&node), 0, "{userland:?}");
        }
        node.sh("rm /run/full");
        assert_eq!(list(&node).get("deadline_process"), Some("started"), "{userland:?}");
        assert_eq!(deadline_processes(&node), 1, "{userland:?}");
    }
}

#[test]
fn an_extension_before_the_deadline_keeps_the_account_open() {
    for userland in BOTH {
        let node = Node::start(userland);
        let mut alice = short_lease(&node, "2");
        let mut bob = Account::new("bob", 200_018);
        (bob.agent, bob.deadline_s) = ("no".to_owned(), "3".to_owned());
        node.done(playbooks().create_user(), &bob.create());
        alice.deadline_s = "3600".to_owned();
        let report = node.done(playbooks().set_deadline(), &alice.deadline());
        assert_eq!(report.get("reopened"), None);
        // When the later one is locked, the earlier deadline has passed too.
        node.wait_until("bob was locked", "grep -q '^locked=1$' /var/lib/orion/leases/200018");
        assert!(node.sh("grep ^alice: /etc/shadow").starts_with(&format!("alice:{}:", alice.hash)));
        let lease = node.sh("cat /var/lib/orion/leases/200017");
        assert!(
            lease.starts_with("user=alice\nuid=200017\nlease=42\n") && !lease.contains("locked"),
            "{lease}"
        );
    }
}

#[test]
fn an_extension_after_the_deadline_reopens_the_account_with_its_old_password() {
    for userland in BOTH {
        let node = Node::start(userland);
        let mut alice = short_lease(&node, "1");
        let before = node.sh("grep ^alice: /etc/passwd");
        node.wait_until("it was locked", "grep -q '^locked=1$' /var/lib/orion/leases/200017");
        alice.deadline_s = "3600".to_owned();
        let report = node.done(playbooks().set_deadline(), &alice.deadline());
        assert_eq!(report.get("reopened"), Some("yes"), "{userland:?}");
        assert!(node.sh("grep ^alice: /etc/shadow").starts_with(&format!("alice:{}:", alice.hash)));
        assert_eq!(node.sh("grep ^alice: /etc/shadow | cut -d: -f8"), "");
        assert_eq!(node.sh("grep ^alice: /etc/passwd"), before);
        assert!(!node.sh("cat /var/lib/orion/leases/200017").contains("locked"));
    }
}

#[test]
fn a_deadline_for_an_account_that_is_not_there_is_refused() {
    for userland in BOTH {
        let node = Node::start(userland);
        let reply = node.play(playbooks().set_deadline(), 1, &Account::new("alice", 200_017).deadline());
        let text = format!("{reply:?}");
        assert!(text.starts_with("Refused") && text.contains("there is no account alice"), "{text}");
        assert!(!node.test("ls /var/lib/orion/leases/200017"));
    }
}

#[test]
fn a_lease_file_of_an_earlier_boot_gets_the_time_that_was_left() {
    for userland in BOTH {
        let node = Node::start(userland);
        // As after a reboot: another boot id, deadlines of another clock. One had 1 s left, one overslept
        // its deadline while the node was off, one has an hour by both measures.
        node.sh("mkdir -p /var/lib/orion/leases");
        let leftover = |user: &str, uid: u32, remaining_s: i64, wall_s: i64| {
            let mut account = Account::new(user, uid);
            account.agent = "yes".to_owned();
            node.done(playbooks().create_user(), &account.create());
            node.sh(&format!(
                "printf 'user=%s\\nuid=%s\\nlease=9\\nboot_id=before\\ndeadline_boot_s=999999999\\ndeadline_unix_s=%s\\nremaining_s=%s\\n' \
                 {user} {uid} $(($(date +%s) + {wall_s})) {remaining_s} >/var/lib/orion/leases/{uid}"
            ));
        };
        leftover("alice", 200_017, 1, 3600);
        leftover("bob", 200_018, 3600, -5);
        leftover("carol", 200_019, 3600, 3000);
        let mut dave = Account::new("dave", 200_020);
        dave.agent = "no".to_owned();
        node.done(playbooks().create_user(), &dave.create());
        node.wait_until("alice was locked", "grep -q '^locked=1$' /var/lib/orion/leases/200017");
        node.wait_until("bob was locked", "grep -q '^locked=1$' /var/lib/orion/leases/200018");
        let carol = node.sh("cat /var/lib/orion/leases/200019");
        let boot_id = node.sh("cat /proc/sys/kernel/random/boot_id");
        assert!(carol.contains(&format!("boot_id={boot_id}")) && !carol.contains("locked"), "{carol}");
        let left: i64 = carol
            .lines()
            .find_map(|line| line.strip_prefix("remaining_s="))
            .expect("there")
            .parse()
            .expect("seconds");
        assert!((2990..=3000).contains(&left), "the smaller of the two counts: {carol}");
    }
}

#[test]
fn an_order_to_lock_all_shuts_every_account_and_is_removed_when_it_was_obeyed() {
    for userland in BOTH {
        let node = Node::start(userland);
        let (alice, _) = two_leases(&node);
        node.as_user(&alice, "(setsid sleep 1000 >/dev/null 2>&1 &)");
        // One lease's file is lost: its account is found all the same.
        node.sh("rm /var/lib/orion/leases/200018; mkdir -p /run/orion/orders; : >/run/orion/orders/lock_all");
        node.wait_until("the order was obeyed", "! test -e /run/orion/orders/lock_all");
        assert!(node.test("grep -q '^locked=1$' /var/lib/orion/leases/200017"), "{userland:?}");
        assert!(!node.test("grep -E '^(alice|bob):[^!]' /etc/shadow"), "{userland:?}");
        assert_eq!(node.processes_of("200017"), "");
    }
}
