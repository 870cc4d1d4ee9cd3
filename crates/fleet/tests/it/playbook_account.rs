//! Creating, changing, locking and listing lease accounts, on both userlands.

use orion_fleet::playbook::Reply;

use crate::node::{Account, BOTH, LOCK_USER, Node, Userland, parse, playbooks, yaml};

/// Returns everything on the node that an account consists of, as one text.
fn state_of(node: &Node, account: &Account) -> String {
    node.sh(&format!(
        "grep -h '^{0}:' /etc/passwd /etc/shadow /etc/group; grep '^orion-lease:' /etc/group; \
         ls -lan /home/{0} | sed 1d; ls -lan /home/{0}/.ssh | sed 1d; cat /home/{0}/.ssh/authorized_keys",
        account.user
    ))
}

#[test]
fn a_created_account_has_all_that_a_login_needs() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = Account::new("alice", 200_017);
        node.done(playbooks().create_user(), &alice.create());

        let passwd = node.sh("grep ^alice: /etc/passwd");
        let shell = if userland == Userland::Debian { "/bin/bash" } else { "/bin/sh" };
        assert_eq!(passwd, format!("alice:x:200017:200017::/home/alice:{shell}"));
        assert!(node.sh("grep ^alice: /etc/group").starts_with("alice:x:200017:"));
        assert_eq!(node.sh("id -Gn alice"), "alice orion-lease");
        let shadow = node.sh("grep ^alice: /etc/shadow");
        let fields: Vec<&str> = shadow.split(':').collect();
        assert_eq!(fields[1], alice.hash);
        assert_ne!(fields[2], "0", "0 would ask for a new password at the first login");
        assert_eq!(fields[7], "", "no expiry");
        let modes = "stat -c '%a %u %g %F' /home/alice /home/alice/.ssh /home/alice/.ssh/authorized_keys";
        assert_eq!(
            node.sh(modes),
            "700 200017 200017 directory\n700 200017 200017 directory\n600 200017 200017 regular file"
        );
        assert_eq!(node.sh("cat /home/alice/.ssh/authorized_keys"), alice.key);
        assert_eq!(node.sh("grep -c alice /etc/subuid /etc/subgid 2>/dev/null | grep -v ':0$' || :"), "");

        let lease = node.sh("cat /var/lib/orion/leases/200017");
        let boot_id = node.sh("cat /proc/sys/kernel/random/boot_id");
        assert!(
            lease.starts_with(&format!(
                "user=alice\nuid=200017\nlease=42\nboot_id={boot_id}\ndeadline_boot_s="
            )),
            "{lease}"
        );
        assert!(lease.ends_with("\nremaining_s=3600"), "{lease}");
        let number = |key: &str| -> i64 {
            let line = lease.lines().find_map(|line| line.strip_prefix(key)).expect("the line is there");
            line.parse().expect("a number")
        };
        let uptime: f64 = node.sh("cut -d' ' -f1 /proc/uptime").parse().expect("seconds");
        let now: i64 = node.sh("date +%s").parse().expect("seconds");
        assert!((number("deadline_boot_s=") - 3600 - uptime as i64).abs() < 10, "{lease}");
        assert!((number("deadline_unix_s=") - 3600 - now).abs() < 10, "{lease}");
        assert!(
            node.test("test -d /proc/$(cat /run/orion/deadline.pid)"),
            "kept by the node, with an agent, too"
        );
    }
}

#[test]
fn a_second_creation_changes_nothing() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = Account::new("alice", 200_017);
        node.done(playbooks().create_user(), &alice.create());
        let before = state_of(&node, &alice);
        node.sh("touch /tmp/mark");
        node.done(playbooks().create_user(), &alice.create());
        assert_eq!(state_of(&node, &alice), before);
        assert_eq!(node.sh("find /etc /home -newer /tmp/mark"), "", "{userland:?}");
    }
}

#[test]
fn an_account_without_a_key_or_without_a_password_is_made() {
    for userland in BOTH {
        let node = Node::start(userland);
        let mut alice = Account::new("alice", 200_017);
        alice.key = String::new();
        node.done(playbooks().create_user(), &alice.create());
        assert!(!node.test("ls /home/alice/.ssh"));
        let mut bob = Account::new("bob", 200_018);
        bob.hash = "*".to_owned();
        node.done(playbooks().create_user(), &bob.create());
        assert_eq!(node.sh("grep ^bob: /etc/shadow | cut -d: -f2"), "*");
    }
}

#[test]
fn a_number_above_the_limit_of_busybox_is_made_and_removed() {
    let node = Node::start(Userland::BusyBox);
    assert!(!node.test("addgroup -g 300000 x"), "this is about a limit that this BusyBox must have");
    let alice = Account::new("alice", 300_000);
    node.done(playbooks().create_user(), &alice.create());
    assert_eq!(
        node.sh("id alice"),
        "uid=300000(alice) gid=300000(alice) groups=300000(alice),1000(orion-lease)"
            .replace("1000", &node.sh("grep ^orion-lease /etc/group | cut -d: -f3"))
    );
    assert_eq!(node.sh("stat -c %a /etc/passwd /etc/shadow /etc/group"), "644\n600\n644");
    assert!(node.sh("grep ^alice: /etc/shadow").starts_with(&format!("alice:{}:", alice.hash)));
    node.done(playbooks().delete_user(), &alice.name_and_uid());
    assert!(!node.test("grep -q alice /etc/passwd /etc/shadow /etc/group"));
}

#[test]
fn a_second_creation_applies_a_new_hash_and_a_new_key() {
    for userland in BOTH {
        let node = Node::start(userland);
        let mut alice = Account::new("alice", 200_017);
        node.done(playbooks().create_user(), &alice.create());
        node.as_user(&alice, "echo mine >notes");
        alice.hash = alice.hash.replace("saltsalt", "otherone");
        alice.key = alice.key.replace("alice@laptop", "alice@desk");
        node.done(playbooks().create_user(), &alice.create());
        assert!(node.sh("grep ^alice: /etc/shadow").starts_with(&format!("alice:{}:", alice.hash)));
        assert_eq!(node.sh("cat /home/alice/.ssh/authorized_keys"), alice.key, "{userland:?}");
        assert_eq!(node.sh("stat -c '%a %u' /home/alice/.ssh/authorized_keys"), "600 200017");
        assert_eq!(node.sh("cat /home/alice/notes"), "mine");
    }
}

#[test]
fn a_name_or_uid_of_somebody_else_makes_the_node_unfit() {
    for userland in BOTH {
        let node = Node::start(userland);
        node.done(playbooks().create_user(), &Account::new("alice", 200_017).create());
        let before = node.sh("cat /etc/passwd /etc/shadow /etc/group; ls /var/lib/orion/leases");
        let unfit = |account: Account, words: &str| {
            for playbook in [playbooks().create_user(), playbooks().set_deadline()] {
                let values = if playbook.name() == "create_user" {
                    account.create().to_vec()
                } else {
                    account.deadline().to_vec()
                };
                let reply = node.play(playbook, 1, &values);
                let (Reply::Unfit { reason } | Reply::NameUnusable { reason }) = &reply else {
                    panic!("{userland:?} {}: {reply:?}", playbook.name())
                };
                let renames = playbook.name() == "create_user" && words.starts_with("the name");
                assert_eq!(matches!(reply, Reply::NameUnusable { .. }), renames, "{userland:?} {reply:?}");
                assert!(reason.contains(words), "{reason}");
            }
        };
        unfit(Account::new("alice", 200_018), "the name alice belongs to uid 200017");
        unfit(Account::new("bob", 200_017), "the uid 200017 belongs to alice");
        assert_eq!(node.sh("cat /etc/passwd /etc/shadow /etc/group; ls /var/lib/orion/leases"), before);
        unfit(Account::new("root", 200_019), "the name root belongs to uid 0");
        // What the uid left is removed; what has the name stays.
        node.done(playbooks().delete_user(), &Account::new("alice", 200_018).name_and_uid());
        let reply = node.play(playbooks().delete_user(), 1, &Account::new("bob", 200_017).name_and_uid());
        assert!(matches!(reply, Reply::Unfit { .. }), "{userland:?}: {reply:?}");
        assert_eq!(node.sh("cat /etc/passwd /etc/shadow /etc/group; ls /var/lib/orion/leases"), before);
        assert!(node.test("test -e /home/alice/.ssh"));
    }
}

#[test]
fn a_name_with_a_group_or_a_home_of_somebody_else_is_not_used() {
    for userland in BOTH {
        let node = Node::start(userland);
        node.sh("echo 'carol:x:77:' >>/etc/group; mkdir -p /home/dave/work; ln -s /etc /home/erin");
        for (name, words) in [("carol", "gid 77"), ("dave", "/home/dave exists"), ("erin", "is a link")] {
            let reply = node.play(playbooks().create_user(), 1, &Account::new(name, 200_020).create());
            let Reply::NameUnusable { reason } = &reply else { panic!("{userland:?} {name}: {reply:?}") };
            assert!(reason.contains(words), "{reason}");
            assert!(!node.test(&format!("grep -q ^{name}: /etc/passwd")));
        }
        assert!(node.test("test -d /home/dave/work"));
    }
}

#[test]
fn a_uid_in_a_subordinate_range_makes_the_node_unfit() {
    for userland in BOTH {
        for file in ["/etc/subuid", "/etc/subgid"] {
            let node = Node::start(userland);
            node.sh(&format!("echo operator:165536:65536 >{file}"));
            let reply = node.play(playbooks().create_user(), 1, &Account::new("alice", 200_017).create());
            let Reply::Unfit { reason } = reply else { panic!("{userland:?}: {reply:?}") };
            assert!(reason.contains("subordinate"), "{reason}");
            assert!(!node.test("grep -q alice /etc/passwd"));
            node.done(playbooks().create_user(), &Account::new("bob", 231_072).create());
        }
    }
}

#[test]
fn a_locked_account_is_shut_and_keeps_its_files() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = Account::new("alice", 200_017);
        node.done(playbooks().create_user(), &alice.create());
        node.as_user(&alice, "echo mine >notes; (setsid sleep 1000 >/dev/null 2>&1 &)");
        node.until_one_process_of(&alice.uid);
        let report = node.done(&parse(LOCK_USER), &alice.name_and_uid());
        assert_eq!(report.count("processes"), 1, "{userland:?}");
        assert_eq!(node.processes_of(&alice.uid), "");
        assert_eq!(node.sh("cat /home/alice/notes"), "mine");
        assert!(node.sh("grep ^alice: /etc/shadow").starts_with("alice:!$6$"));
        assert!(node.sh("cat /var/lib/orion/leases/200017").ends_with("locked=1"));
        assert_eq!(node.done(&parse(LOCK_USER), &alice.name_and_uid()).count("processes"), 0);
        // The wanted state is an open account again.
        node.done(playbooks().create_user(), &alice.create());
        assert!(node.sh("grep ^alice: /etc/shadow").starts_with(&format!("alice:{}:", alice.hash)));
        assert_eq!(node.sh("grep ^alice: /etc/shadow | cut -d: -f8"), "");
        assert!(!node.sh("grep ^alice: /etc/passwd").ends_with("/bin/false"));
        assert!(!node.sh("cat /var/lib/orion/leases/200017").contains("locked"));
        node.done(&parse(LOCK_USER), &Account::new("nobody-here", 200_099).name_and_uid());
    }
}

#[test]
fn the_list_says_what_the_node_holds() {
    for userland in BOTH {
        let node = Node::start(userland);
        let (alice, bob) = (Account::new("alice", 200_017), Account::new("bob", 200_018));
        let list = || {
            let range = [("uid_min", "200000"), ("uid_max", "299999")];
            node.done(playbooks().list_users(), &range).node_inventory().expect("a good list")
        };
        let empty = list();
        assert!(empty.accounts.is_empty() && empty.lease_files.is_empty() && empty.process_uids.is_empty());
        assert_eq!(empty.boot_id, node.sh("cat /proc/sys/kernel/random/boot_id"));
        assert!(!node.test("ls /var/lib/orion"), "a list changes nothing");

        node.sh("echo operator:100000:65536 >/etc/subuid; echo operator:300000:65536 >/etc/subgid");
        node.done(playbooks().create_user(), &alice.create());
        node.done(playbooks().create_user(), &bob.create());
        node.done(&parse(LOCK_USER), &bob.name_and_uid());
        node.as_user(&alice, "(setsid sleep 1000 >/dev/null 2>&1 &) ; (setsid sleep 1001 >/dev/null 2>&1 &)");
        let full = list();
        let accounts: Vec<_> =
            full.accounts.iter().map(|one| (one.user.as_str(), one.uid, one.locked)).collect();
        assert_eq!(accounts, [("alice", 200_017, false), ("bob", 200_018, true)]);
        assert_eq!(full.lease_files, [200_017, 200_018]);
        assert_eq!(full.process_uids, [200_017]);
        assert_eq!(full.subordinate, [(100_000, 65_536), (300_000, 65_536)]);
    }
}

#[test]
fn the_hash_is_in_no_argument_list_and_no_environment() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = Account::new("alice", 200_017);
        // Every tool that a creation starts is wrapped: it first keeps a copy of all arguments and environments,
        // its own included. The steps do the same before they begin.
        let look = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ >>/var/seen 2>/dev/null || :";
        node.sh(&format!(
            "for tool in useradd usermod groupadd adduser addgroup passwd chpasswd awk setpriv su mkdir mv chown flock; do \
               path=$(command -v $tool) || continue; real=$path.real; \
               if [ -L $path ] && [ $(readlink $path) = busybox ]; then rm $path; real=\"/bin/busybox $tool\"; else mv $path $real; fi; \
               printf '#!/bin/sh\\n%s\\necho ran %s >>/var/seen\\nexec %s \"$@\"\\n' '{look}' $tool \"$real\" >$path; chmod 755 $path; done"
        ));
        let watched = yaml("create_user").replace("    run: |\n", &format!("    run: |\n      {look}\n"));
        let mut changed = alice.clone();
        node.done(&parse(&watched), &alice.create());
        changed.hash = alice.hash.replace("saltsalt", "otherone");
        node.done(&parse(&watched), &changed.create());
        let seen = node.sh("tr '\\0' '\\n' </var/seen");
        let maker = if userland == Userland::Debian { "ran useradd" } else { "ran adduser" };
        assert!(
            seen.contains("ran chpasswd") && seen.contains(maker) && seen.contains("200017"),
            "{userland:?}"
        );
        assert!(seen.contains("orion-playbook 1 10"), "the script itself must have been seen");
        for secret in [&alice.hash, &changed.hash] {
            assert!(!seen.contains(&secret[3..]), "{userland:?}: the hash was visible");
        }
    }
}
