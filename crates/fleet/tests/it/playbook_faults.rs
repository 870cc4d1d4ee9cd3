//! Runs that are cut short between any two steps, and nodes that cannot do what they are asked.

use orion_fleet::playbook::Reply;

use crate::node::{Account, BOTH, Node, Userland, playbooks, with_text_before_step};

/// Kills the shell of the run itself, as a power cut of the process would.
const KILLED: &str = "read -r self rest </proc/self/stat; kill -KILL $self $$";

fn account_is_whole(node: &Node, alice: &Account) {
    assert!(node.sh("grep ^alice: /etc/shadow").starts_with(&format!("alice:{}:", alice.hash)));
    assert_eq!(node.sh("id -u alice; id -g alice; id -Gn alice"), "200017\n200017\nalice orion-lease");
    assert_eq!(node.sh("cat /home/alice/.ssh/authorized_keys"), alice.key);
    assert_eq!(
        node.sh("stat -c '%a %u %g' /home/alice /home/alice/.ssh /home/alice/.ssh/authorized_keys"),
        "700 200017 200017\n700 200017 200017\n600 200017 200017"
    );
    assert!(node.sh("cat /var/lib/orion/leases/200017").contains("\nremaining_s=3600"));
}

#[test]
fn a_creation_that_was_cut_short_before_any_step_is_finished_by_the_next() {
    for userland in BOTH {
        let mut number = 0;
        while let Some(broken) = with_text_before_step("create_user", number, KILLED) {
            let node = Node::start(userland);
            let mut alice = Account::new("alice", 200_017);
            alice.agent = "no".to_owned();
            let reply = node.play(&broken, 1, &alice.create());
            assert!(!matches!(reply, Reply::Done(_)), "{userland:?} {number}: {reply:?}");
            let open = node.test("grep -q '^alice:[^!]' /etc/shadow");
            assert!(!open, "{userland:?}: cut before step {number} the account was already open");
            node.done(playbooks().create_user(), &alice.create());
            account_is_whole(&node, &alice);
            node.done(playbooks().delete_user(), &alice.name_and_uid());
            assert!(!node.test("grep -q alice /etc/passwd /etc/group"));
            number += 1;
        }
        assert_eq!(number, 10);
    }
}

#[test]
fn a_deletion_that_was_cut_short_before_any_step_is_finished_by_the_next() {
    for userland in BOTH {
        let mut number = 0;
        while let Some(broken) = with_text_before_step("delete_user", number, KILLED) {
            let node = Node::start(userland);
            let alice = Account::new("alice", 200_017);
            node.done(playbooks().create_user(), &alice.create());
            node.as_user(&alice, "echo x >/tmp/a; (setsid sleep 1000 >/dev/null 2>&1 &)");
            let reply = node.play(&broken, 1, &alice.name_and_uid());
            assert!(!matches!(reply, Reply::Done(_)), "{userland:?} {number}: {reply:?}");
            assert!(node.test("ls /var/lib/orion/leases/200017"), "the lease file goes last");
            node.done(playbooks().delete_user(), &alice.name_and_uid());
            assert!(!node.test("grep -q alice /etc/passwd /etc/shadow /etc/group"), "{userland:?} {number}");
            node.assert_absent("/home/alice /tmp/a /var/lib/orion/leases/200017");
            assert_eq!(node.processes_of("200017"), "");
            number += 1;
        }
        assert_eq!(number, 9);
    }
}

#[test]
fn a_useradd_that_died_between_account_and_home_is_repaired() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = Account::new("alice", 200_017);
        node.sh("echo 'alice:x:200017:200017::/home/alice:/bin/sh' >>/etc/passwd; echo 'alice:!:19000:0:99999:7:::' >>/etc/shadow");
        node.done(playbooks().create_user(), &alice.create());
        account_is_whole(&node, &alice);
    }
}

#[test]
fn a_full_disk_is_refused_as_what_passes_and_repaired_when_there_is_room() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = Account::new("alice", 200_017);
        // /etc on a disk of its own, filled to the last byte.
        node.sh("cp -a /etc /tmp/etc; mount -t tmpfs -o mode=755,size=24m full /etc; cp -a /tmp/etc/. /etc; dd if=/dev/zero of=/etc/fill 2>/dev/null || :");
        let before = node.sh("cat /etc/passwd /etc/shadow /etc/group");
        let reply = node.play(playbooks().create_user(), 1, &alice.create());
        let Reply::Refused { step, status, output } = &reply else { panic!("{userland:?}: {reply:?}") };
        assert!(step.starts_with("make the ") && *status == 71, "{reply:?}");
        assert!(output.contains("failed: there is no room in /etc"), "{userland:?}: {output}");
        assert!(!node.test("grep -q '^alice:[^!]' /etc/shadow"));
        assert_eq!(node.sh("cat /etc/passwd /etc/shadow /etc/group | sed '/alice/d;/orion-lease/d'"), before);
        node.sh("rm /etc/fill");
        node.done(playbooks().create_user(), &alice.create());
        account_is_whole(&node, &alice);
    }
}

#[test]
fn a_full_disk_for_the_lease_files_is_refused_before_there_is_an_account() {
    for userland in BOTH {
        let node = Node::start(userland);
        node.sh("mkdir -p /var/lib/orion; mount -t tmpfs -o mode=755,size=64k full /var/lib/orion; dd if=/dev/zero of=/var/lib/orion/fill 2>/dev/null || :");
        let reply = node.play(playbooks().create_user(), 1, &Account::new("alice", 200_017).create());
        assert!(matches!(reply, Reply::Refused { .. }), "{userland:?}: {reply:?}");
        assert!(!node.test("grep -q alice /etc/passwd"));
        assert!(!node.test("test -e /var/lib/orion/leases/200017"), "half a lease file is none");
    }
}

#[test]
fn a_read_only_node_is_refused_with_the_step() {
    for userland in BOTH {
        let node = Node::start(userland);
        node.sh("mount -t tmpfs ro /mnt 2>/dev/null || { mkdir /mnt; mount -t tmpfs ro /mnt; }; cp -a /etc/. /mnt; mount --move /mnt /etc; mount -o remount,ro /etc");
        let reply = node.play(playbooks().create_user(), 1, &Account::new("alice", 200_017).create());
        let Reply::Refused { step, .. } = &reply else { panic!("{userland:?}: {reply:?}") };
        assert_eq!(step, "make the group");
    }
}

#[test]
fn a_home_that_cannot_be_removed_is_said_and_not_hidden() {
    let node = Node::start(Userland::Debian);
    let alice = Account::new("alice", 200_017);
    node.done(playbooks().create_user(), &alice.create());
    // A mount that the node will not let go of: /home itself is read-only.
    node.sh("mount --bind /home /home; mount -o remount,ro,bind /home");
    let reply = node.play(playbooks().delete_user(), 1, &alice.name_and_uid());
    let Reply::Refused { step, status: 70, output } = &reply else { panic!("{reply:?}") };
    assert!(step == "verify" && output.contains("could not be removed: /home/alice"), "{reply:?}");
    assert!(node.test("ls /var/lib/orion/leases/200017"));
    node.sh("umount /home");
    node.done(playbooks().delete_user(), &alice.name_and_uid());
    assert!(!node.test("ls /var/lib/orion/leases/200017") && !node.test("ls -d /home/alice"));
}
