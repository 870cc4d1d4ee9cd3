//! What a tenant does against the removal itself: against the processes that end its own, and against the walk through
//! its files.

use std::time::Instant;

use crate::node::{Account, BOTH, Node, Userland, as_user_command, playbooks};

/// Succeeds when neither a password nor a key opens the account.
const IS_SHUT: &str = "grep -q '^alice:!' /etc/shadow && { grep -q '^alice:[^:]*:[^:]*:[^:]*:[^:]*:[^:]*:[^:]*:1:' /etc/shadow \
     || grep -Eq '^alice:.*:(/bin/false|![^:]*)$' /etc/passwd; } || ! grep -q ^alice: /etc/passwd";
const NOTHING_RUNS: &str = "! grep -qs '^Uid:.*200017' /proc/[0-9]*/status";

/// Ways of stopping whatever else runs with the tenant's uid, the process included that was to end the tenant's own.
fn ways_of_stopping(userland: Userland) -> Vec<&'static str> {
    let mut ways = vec![
        "i=0; while [ $i -lt 4 ]; do setsid sh -c 'while :; do kill -STOP -1; done' & i=$((i + 1)); done >/dev/null 2>&1",
        "echo 'i=0; while [ $i -lt 300 ]; do kill -STOP -1; i=$((i + 1)); done; /bin/sh \"$0\" &' >hop; setsid sh hop >/dev/null 2>&1 &",
    ];
    if userland == Userland::Debian {
        ways.push(
            "setsid perl -e '$SIG{CHLD} = \"IGNORE\"; while (1) { kill \"STOP\", -1 for 1 .. 20; exit if fork; }' >/dev/null 2>&1 &",
        );
    }
    ways
}

/// Starts `way` beside many sleepers, and waits until other processes are stopped.
fn start_stopping(node: &Node, alice: &Account, way: &str) {
    node.as_user(alice, "i=0; while [ $i -lt 9 ]; do setsid sleep 1000 & i=$((i + 1)); done >/dev/null 2>&1");
    // The shell that starts it is stopped, too, and never ends.
    node.sh(&format!("({}) >/dev/null 2>&1 &", as_user_command(node.userland, alice, way)));
    node.wait_until("others are stopped", "grep -qs '^State:.T' /proc/[0-9]*/status");
}

/// The tenant is out while a removal runs.
fn assert_leaves(node: &Node, alice: &Account) {
    let stdin = playbooks().delete_user().stdin(1, &alice.name_and_uid()).expect("good values");
    let mut run = node.spawn(playbooks().delete_user().command());
    std::io::Write::write_all(run.stdin.as_mut().expect("it is piped"), &stdin).expect("written");
    let start = Instant::now();
    node.wait_until("the door is shut", IS_SHUT);
    println!("the door was shut after {:?}", start.elapsed());
    node.wait_until("nothing runs", NOTHING_RUNS);
    println!("nothing ran after {:?}", start.elapsed());
    assert_eq!(run.wait().status, Some(0), "{:?}", node.userland);
}

#[test]
fn a_tenant_who_stops_the_process_that_ends_its_own_is_out_all_the_same() {
    for userland in BOTH {
        let node = Node::start(userland);
        let mut alice = Account::new("alice", 200_017);
        (alice.agent, alice.deadline_s) = ("no".to_owned(), "3600".to_owned());
        for way in ways_of_stopping(userland) {
            println!("{userland:?}: {way}");
            node.done(playbooks().create_user(), &alice.create());
            start_stopping(&node, &alice, way);
            assert_leaves(&node, &alice);
        }
        // One that always stops it.
        node.done(playbooks().create_user(), &alice.create());
        node.as_user(&alice, "setsid sh -c 'while :; do sleep 1000; done' >/dev/null 2>&1 &");
        node.sh("for t in setpriv su; do f=$(command -v $t) || continue; rm $f; printf '#!/bin/sh\nkill -STOP $$\n' >$f; chmod 755 $f; done");
        alice.deadline_s = "1".to_owned();
        node.done(playbooks().set_deadline(), &alice.deadline());
        node.wait_until("the deadline shut the door", IS_SHUT);
        node.wait_until("the deadline ended all", NOTHING_RUNS);
    }
}

/// A file system of this node's message queues, from outside of the places that are cleaned.
const QUEUES: &str =
    "mkdir -p /mnt/queues; mount -t mqueue x /mnt/queues 2>/dev/null; ls /mnt/queues; umount /mnt/queues";

#[test]
fn message_queues_of_the_tenant_are_removed_where_nothing_is_mounted_for_them() {
    for userland in BOTH {
        let node = Node::start(userland);
        assert_eq!(node.sh("grep -c ' - mqueue ' /proc/self/mountinfo || :"), "0");
        let alice = Account::new("alice", 200_017);
        node.done(playbooks().create_user(), &alice.create());
        node.sh(
            "mkdir -p /mnt/queues; mount -t mqueue x /mnt/queues; : >/mnt/queues/theirs; : >/mnt/queues/mine; \
                 chown 200017 /mnt/queues/mine; chown 1234 /mnt/queues/theirs; umount /mnt/queues",
        );
        assert_eq!(node.sh(QUEUES), "mine\ntheirs");
        let report = node.done(playbooks().delete_user(), &alice.name_and_uid());
        assert_eq!(node.sh(QUEUES), "theirs", "{userland:?}: {report:?}");
        node.assert_absent("/run/orion/mqueue/*");
        // Where it cannot be looked for, that is said.
        node.done(playbooks().create_user(), &alice.create());
        node.sh("rmdir /run/orion/mqueue; : >/run/orion/mqueue");
        let report = node.done(playbooks().delete_user(), &alice.name_and_uid());
        assert!(report.get("unsearched").is_some_and(|said| said.contains("mqueue")), "{report:?}");
    }
}

/// Script of another user of the machine, who works in a directory that the tenant left open to
/// everybody: `d` becomes a link to /srv/victim and a directory again as fast as a shell can; both hold
/// the same names.
const SWAP: &str = "cd /tmp/open; while :; do mv d d.away; ln -s /srv/victim d; rm d; mv d.away d; done";

#[test]
fn whoever_puts_links_into_a_tenants_open_directory_leads_the_removal_nowhere() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = Account::new("alice", 200_017);
        let eve = Account::new("eve", 1234);
        node.sh(
            "echo eve:x:1234:1234::/home/eve:/bin/sh >>/etc/passwd; mkdir -p /home/eve; chown 1234 /home/eve",
        );
        // The names of what the tenant has there are those of files and directories of others.
        let names = "seq 1 40";
        node.sh(&format!(
            "mkdir -p /srv/victim; chmod 755 /srv/victim; for n in $({names}); do mkdir -p /srv/victim/dir$n/1/2/3/4/5/6/7/8/9/10; \
             echo precious >/srv/victim/file$n; echo precious >/srv/victim/dir$n/file; done; chown -R 1235 /srv/victim/dir*"
        ));
        let outside = "cd /srv/victim; find . | sort | xargs stat -c '%n %u %a'";
        let before = node.sh(outside);
        for _ in 0..2 {
            node.done(playbooks().create_user(), &alice.create());
            node.as_user(&alice, "umask 0; mkdir -m 777 /tmp/open");
            node.as_user(&eve, "mkdir -m 777 /tmp/open/d; chmod 777 /tmp/open/d");
            let made = node.as_user(
                &alice,
                &format!(
                    "umask 0; cd /tmp/open/d; for n in $({names}); do echo x >file$n; mkdir -p dir$n/1/2/3/4/5/6/7/8/9/10; done"
                ),
            );
            assert_eq!(made.status, Some(0));
            node.as_user(
                &eve,
                &format!(
                    "chmod 755 /tmp/open/d; for n in $({names}); do echo eve >/tmp/open/d/dir$n/file; done"
                ),
            );
            node.sh(&format!("({}) >/dev/null 2>&1 &", as_user_command(userland, &eve, SWAP)));
            node.wait_until("links come and go", "test -L /tmp/open/d");
            let reply = node.play(playbooks().delete_user(), 1, &alice.name_and_uid());
            node.sh("kill -9 $(grep -ls '^Uid:.1234' /proc/[0-9]*/status | cut -d / -f 3) || :");
            assert_eq!(node.sh(outside), before, "{userland:?}: {reply:?}");
            node.done(playbooks().delete_user(), &alice.name_and_uid());
            assert_eq!(node.files_of("200017"), "", "{userland:?}: {reply:?}");
            // Whoever swaps was killed with the link there, or without.
            let of_eve = "for d in /tmp/open/d*; do if [ ! -L $d ]; then cat $d/dir1/file; fi; done";
            assert_eq!(node.sh(of_eve), "eve", "{userland:?}");
            assert_eq!(node.sh(outside), before, "{userland:?}: {reply:?}");
            node.sh("rm -rf /tmp/open");
        }
    }
}

#[test]
fn where_run_is_full_and_a_playbook_hangs_the_deadline_shuts_the_door_all_the_same() {
    for userland in BOTH {
        let node = Node::start(userland);
        let mut alice = Account::new("alice", 200_017);
        (alice.agent, alice.deadline_s) = ("no".to_owned(), "4".to_owned());
        node.done(playbooks().create_user(), &alice.create());
        node.as_user(&alice, "setsid sleep 1000 >/dev/null 2>&1 &");
        node.sh("flock /run/orion/lock sleep 600 >/dev/null 2>&1 &");
        // As a tenant can, below /run/screen and the like.
        node.sh("mount -o remount,nr_inodes=200 /run; i=0; while touch /run/$i; do i=$((i + 1)); done 2>/dev/null");
        node.wait_until("the deadline shut the door", IS_SHUT);
        node.wait_until("the deadline ended all", NOTHING_RUNS);
    }
}
