//! Deleting: whatever a tenant left, nothing of it stays, and nothing of anybody else goes.

use std::time::Instant;

use crate::node::{Account, BOTH, LOCK_USER, Node, Userland, parse, playbooks};

fn created(node: &Node, user: &str, uid: u32) -> Account {
    let account = Account::new(user, uid);
    node.done(playbooks().create_user(), &account.create());
    account
}

/// Fails when anything of the account is left.
fn assert_gone(node: &Node, account: &Account) {
    let Account { user, uid, .. } = account;
    assert_eq!(node.processes_of(uid), "");
    assert_eq!(
        node.sh("cat /etc/passwd /etc/shadow /etc/group; [ ! -e /etc/gshadow ] || cat /etc/gshadow")
            .matches(user.as_str())
            .count(),
        0
    );
    assert_eq!(node.files_of(uid), "");
    node.assert_absent(&format!(
        "/home/{user} /var/lib/orion/leases/{uid} /var/lib/orion/keys/{uid} /var/lib/orion/passwords/{uid}"
    ));
}

#[test]
fn nothing_is_left_of_a_tenant_who_tried_to_stay() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = created(&node, "alice", 200_017);
        let bob = created(&node, "bob", 200_018);
        node.as_user(&bob, "echo bob >/tmp/bob; (setsid sleep 999 >/dev/null 2>&1 &)");
        node.sh("mkdir -p /var/spool/cron/crontabs /var/spool/cron/atjobs /var/mail /var/lib/systemd/linger; \
             echo '* * * * * true' >/var/spool/cron/crontabs/alice; echo job >/var/spool/cron/atjobs/a00001; \
             echo mail >/var/mail/alice; chown 200017 /var/spool/cron/crontabs/alice /var/spool/cron/atjobs/a00001 /var/mail/alice; \
             touch /var/lib/systemd/linger/alice; mkdir -p /run/user/200017/systemd; chown -R 200017 /run/user/200017");
        node.as_user(
            &alice,
            "echo x >/tmp/a; mkdir -p /tmp/d/e '/tmp/odd name'; echo x >/tmp/d/e/f; echo x >'/tmp/odd name/new
line'; echo x >/var/tmp/b; echo x >/dev/shm/c; ln -s /etc/passwd /tmp/link; mkfifo /tmp/pipe; mkdir -m 0 /tmp/shut",
        );
        // Ignores every signal it can, has left its session, and comes back when its child is killed.
        node.as_user(&alice, "(trap '' HUP INT TERM; setsid sh -c 'trap \"\" HUP INT TERM; while :; do sleep 1000; done' >/dev/null 2>&1 &)");
        node.as_user(&alice, "(setsid sleep 1000 >/dev/null 2>&1 &) ; (setsid sleep 1001 >/dev/null 2>&1 &)");

        let report = node.done(playbooks().delete_user(), &alice.name_and_uid());
        assert_gone(&node, &alice);
        assert!(report.count("processes") >= 4, "{userland:?}: {report:?}");
        assert!(report.count("files") >= 12, "{userland:?}: {report:?}");
        assert_eq!(report.count("cron"), 1);
        node.assert_absent(
            "/var/spool/cron/crontabs/alice /var/mail/alice /var/lib/systemd/linger/alice /run/user/200017",
        );
        assert!(node.test("grep -q root /etc/passwd"), "the link was removed, not what it points to");
        assert_eq!(node.sh("cat /tmp/bob"), "bob");
        assert!(!node.processes_of(&bob.uid).is_empty(), "bob's process goes on");

        let again = node.done(playbooks().delete_user(), &alice.name_and_uid());
        assert_eq!((again.count("processes"), again.count("files"), again.count("cron")), (0, 0, 0));
        assert!(node.test("test -d /home/bob") && node.test("grep -q ^bob: /etc/passwd"));
    }
}

#[test]
fn a_fork_bomb_and_processes_that_hop_from_pid_to_pid_are_ended() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = created(&node, "alice", 200_017);
        // Each starts its successor and ends: a list of processes is out of date before it is read. The
        // others sit there and would be the parents of more.
        node.as_user(&alice, "echo '/bin/sh \"$0\" &' >hop; i=0; while [ $i -lt 60 ]; do setsid sleep 1000 & i=$((i + 1)); done >/dev/null 2>&1");
        node.as_user(&alice, "i=0; while [ $i -lt 12 ]; do /bin/sh hop & i=$((i + 1)); done >/dev/null 2>&1");
        node.wait_until(
            "the sleepers run",
            "test $(grep -ls '^Uid:.200017' /proc/[0-9]*/status | wc -l) -gt 60",
        );
        let start = Instant::now();
        let report = node.done(playbooks().delete_user(), &alice.name_and_uid());
        assert_gone(&node, &alice);
        assert!(report.count("processes") > 50, "{userland:?}: {report:?}");
        println!("{userland:?}: a fork bomb was ended and cleaned away in {:?}", start.elapsed());
    }
}

#[test]
fn a_process_that_shows_the_uid_in_one_field_only_is_ended() {
    let node = Node::start(Userland::Debian);
    let alice = created(&node, "alice", 200_017);
    // Like a set-uid helper: the tenant is only the real uid, root the effective one.
    node.sh("setpriv --ruid=200017 setsid sleep 1000 >/dev/null 2>&1 &");
    node.wait_until("it runs", "grep -qs '^Uid:.200017.0.0.0' /proc/[0-9]*/status");
    let report = node.done(playbooks().delete_user(), &alice.name_and_uid());
    assert_eq!(report.count("processes"), 1);
    assert_gone(&node, &alice);
}

#[test]
fn the_way_without_a_single_fork_ends_processes_too() {
    for userland in BOTH {
        let node = Node::start(userland);
        let (alice, bob) = (created(&node, "alice", 200_017), created(&node, "bob", 200_018));
        node.as_user(&bob, "setsid sleep 999 >/dev/null 2>&1 &");
        node.as_user(
            &alice,
            "i=0; while [ $i -lt 30 ]; do setsid sleep 1000 & i=$((i + 1)); done >/dev/null 2>&1",
        );
        node.as_user(&alice, "(setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' &) >/dev/null 2>&1");
        let fallback = LOCK_USER.replace(
            "      kill_processes \"$uid\" \"$user\"\n",
            "      kill_without_forking \"$uid\"; killed=0\n",
        );
        assert!(fallback.contains("kill_without_forking"));
        node.done(&parse(&fallback), &alice.name_and_uid());
        assert_eq!(node.processes_of(&alice.uid), "", "{userland:?}");
        assert!(!node.processes_of(&bob.uid).is_empty());
    }
}

#[test]
fn shared_memory_of_the_tenant_is_removed_and_others_keep_theirs() {
    let node = Node::start(Userland::Debian);
    let (alice, bob) = (created(&node, "alice", 200_017), created(&node, "bob", 200_018));
    for account in [&alice, &bob] {
        node.as_user(account, "ipcmk -M 1000; ipcmk -S 1; ipcmk -Q");
    }
    let objects = |uid: &str| {
        node.sh(&format!("cat /proc/sysvipc/shm /proc/sysvipc/sem /proc/sysvipc/msg | grep -cw {uid} || :"))
    };
    assert_eq!(objects("200017"), "3");
    node.done(playbooks().delete_user(), &alice.name_and_uid());
    assert_eq!((objects("200017").as_str(), objects("200018").as_str()), ("0", "3"));
}

#[test]
fn an_account_that_somebody_removed_by_hand_is_still_cleaned_up_after() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = created(&node, "alice", 200_017);
        node.as_user(&alice, "echo x >/tmp/a; (setsid sleep 1000 >/dev/null 2>&1 &)");
        node.until_one_process_of(&alice.uid);
        node.sh("sed -i '/^alice:/d' /etc/passwd /etc/shadow");
        let report = node.done(playbooks().delete_user(), &alice.name_and_uid());
        assert_eq!(report.count("processes"), 1, "{userland:?}");
        assert_gone(&node, &alice);
    }
}

#[test]
fn files_that_others_keep_in_a_tenants_directory_stay() {
    for userland in BOTH {
        let node = Node::start(userland);
        let (alice, bob) = (created(&node, "alice", 200_017), created(&node, "bob", 200_018));
        node.as_user(&alice, "mkdir -m 777 /tmp/shared; chmod 777 /tmp/shared; echo x >/tmp/shared/alice");
        node.as_user(&bob, "echo mine >/tmp/shared/bob");
        node.done(playbooks().delete_user(), &alice.name_and_uid());
        assert_gone(&node, &alice);
        assert_eq!(
            node.sh("cat /tmp/shared/bob; stat -c %u /tmp/shared; ls /tmp/shared"),
            "mine\n0\nbob",
            "{userland:?}"
        );
        node.done(playbooks().delete_user(), &bob.name_and_uid());
        assert!(!node.test("ls /tmp/shared/bob"));
    }
}

#[test]
fn links_that_a_tenant_planted_lead_nowhere() {
    for userland in BOTH {
        let node = Node::start(userland);
        let mut alice = created(&node, "alice", 200_017);
        // A home of root's own: the host's, which lies below, changes while others work there.
        node.sh("mount -t tmpfs -o mode=700 home /root");
        node.sh("mkdir -p /root/.ssh /srv/victim; echo root-key >/root/.ssh/authorized_keys; echo precious >/srv/victim/file; \
                 chmod 777 /srv/victim; chown root /srv/victim/file");
        let outside = "ls -lanR /root /srv/victim | sed 's/^total.*//'; cat /root/.ssh/authorized_keys /srv/victim/file; stat -c '%u %a' /etc /etc/passwd";
        let before = node.sh(outside);
        // A new key would go through the first, a recursive chown or rm through the others.
        node.as_user(
            &alice,
            "rm -rf .ssh; ln -s /root/.ssh .ssh; ln -s /srv/victim home; ln -s /srv/victim /tmp/victim; \
             ln -s /etc/passwd /tmp/passwd; ln -s /srv/victim /var/tmp/v; ln -s / /dev/shm/root",
        );
        alice.key = alice.key.replace("laptop", "desk");
        let report = node.done(playbooks().create_user(), &alice.create());
        assert_eq!(report.get("key"), Some("not-written"), "{userland:?}");
        assert_eq!(node.sh(outside), before);

        // With a place where the tenant may write, the key goes there with the tenant's rights only.
        node.as_user(&alice, "rm .ssh; ln -s /srv/victim .ssh");
        node.done(playbooks().create_user(), &alice.create());
        assert_eq!(node.sh("stat -c %u /srv/victim/authorized_keys"), "200017");
        node.sh("rm -f /srv/victim/authorized_keys");
        // And a pipe instead of a file does not hold the run up.
        node.as_user(&alice, "rm .ssh; mkdir .ssh; mkfifo .ssh/authorized_keys .ssh/.orion");
        alice.key = alice.key.replace("desk", "tower");
        node.done(playbooks().create_user(), &alice.create());
        assert_eq!(node.sh("cat /home/alice/.ssh/authorized_keys"), alice.key);

        node.as_user(&alice, "rm -rf .ssh; ln -s /root/.ssh .ssh");
        node.done(playbooks().delete_user(), &alice.name_and_uid());
        assert_gone(&node, &alice);
        node.sh("touch -d @0 /srv/victim 2>/dev/null || :");
        let strip_times =
            |text: &str| text.lines().filter(|line| !line.ends_with(" .")).collect::<Vec<_>>().join("\n");
        assert_eq!(strip_times(&node.sh(outside)), strip_times(&before), "{userland:?}");
    }
}

#[test]
fn a_home_that_was_replaced_by_a_link_is_removed_and_its_target_stays() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = created(&node, "alice", 200_017);
        node.sh("set -e; mkdir -p /srv/data; echo precious >/srv/data/file; rm -rf /home/alice; ln -s /srv/data /home/alice");
        node.done(playbooks().delete_user(), &alice.name_and_uid());
        assert_gone(&node, &alice);
        assert_eq!(node.sh("cat /srv/data/file"), "precious");
    }
}

#[test]
fn ten_leases_one_after_the_other_leave_the_node_as_it_was() {
    for userland in BOTH {
        let node = Node::start(userland);
        let everything = "cat /etc/passwd /etc/shadow /etc/group | sed 's/^orion-lease:.*//'; ls /home /tmp /var/lib/orion/leases 2>/dev/null || :";
        let alice = created(&node, "alice", 200_000);
        node.done(playbooks().delete_user(), &alice.name_and_uid());
        let before = node.sh(everything);
        let runs = std::env::var("ORION_MEASURE_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(10);
        let mut times = [vec![], vec![], vec![]];
        for number in 0..runs {
            let account = Account::new("alice", 200_001 + number);
            let mut timed = |which: usize, run: &dyn Fn()| {
                let start = Instant::now();
                run();
                times[which].push(start.elapsed());
            };
            timed(0, &|| drop(node.sh("true")));
            timed(1, &|| drop(node.done(playbooks().create_user(), &account.create())));
            node.as_user(&account, "(setsid sleep 1000 >/dev/null 2>&1 &)");
            timed(2, &|| drop(node.done(playbooks().delete_user(), &account.name_and_uid())));
        }
        assert_eq!(node.sh(everything), before);
        for (what, mut list) in ["true", "create_user", "delete_user"].into_iter().zip(times) {
            list.sort();
            println!(
                "{userland:?} {what}: median {:?}, max {:?} of {runs}",
                list[list.len() / 2],
                list[list.len() - 1]
            );
        }
    }
}
